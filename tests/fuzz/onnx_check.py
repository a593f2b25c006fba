"""Runs a random ONNX graph in every way there is, and says where two of them differ. No tests."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

import tfc
from tests.fuzz.onnx_graphs import Sample
from tests.fuzz.onnx_oracle import Freedom, Oracle
from tests.fuzz.onnx_peer import compare_with_peer
from tests.fuzz.onnx_values import Array
from tfc.compiler.build import Options
from tfc.compiler.codegen.host import host_target
from tfc.compiler.driver import compile_module
from tfc.compiler.frontends.onnx import load
from tfc.ir.core import Module
from tfc.ir.errors import TfcError, UnsupportedError
from tfc.ir.interp import evaluate
from tfc.runtime.errors import RuntimeFault

THREADS = (1, 2)
LEVELS = {0: Freedom(), 2: Freedom(rearranged=True)}


@dataclass
class Tally:
    """What has been done: graphs, operators, refusals by their reason."""

    counts: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: Tally) -> Tally:
        self.counts += other.counts
        self.operators += other.operators
        self.compared += other.compared
        self.refusals += other.refusals
        return self


class Difference(AssertionError):
    """Two ways of running a graph do not agree, or one of them fails."""


def check(
    sample: Sample, tally: Tally, peer: bool = True, levels: Sequence[int] = tuple(LEVELS)
) -> None:
    """Raise Difference unless all ways agree. peer: compare with ONNX Runtime, where it can."""
    tally.counts["graphs"] += 1
    tally.operators.update(node.op_type for node in sample.graph.nodes)
    model = sample.model()
    sizes = [sample.graph.sizes, {"N": 6, "M": 1}]
    dims = _dims(sample, model, tally)
    if isinstance(dims, UnsupportedError):
        tally.counts["refused"] += 1
        tally.refusals[str(dims)] += 1
        return
    if dims or not sample.symbols:
        sizes.pop()
    module = load(model, dims)
    runs = []
    for size in sizes:
        feeds = {name: x for name, x in sample.feeds(size).items() if name in _names(module)}
        runs.append(_Run(module, feeds, first=size is sample.graph.sizes))
    for level in levels:
        _check_compiled(load(model, dims), level, LEVELS[level], runs, tally)
    if peer:
        problem = compare_with_peer(sample, dims, tally.compared)
        if problem:
            raise Difference(problem)


def _names(module: Module) -> set[str]:
    return {arg.name for arg in module.main.args}


def _dims(sample: Sample, model: Any, tally: Tally) -> Mapping[str, int] | UnsupportedError:
    """The dims to fix: none, or all where the graph needs them; or why it is refused anyway."""
    symbols = sample.symbols
    try:
        load(model)
        return {}
    except UnsupportedError as error:
        if not symbols:
            return error
    except TfcError as error:
        # A node that fits these sizes alone.
        if not symbols:
            raise Difference(f"load: {type(error).__name__}: {error}") from error
    dims = {name: sample.graph.sizes[name] for name in symbols}
    try:
        load(model, dims)
    except UnsupportedError as error:
        return error
    except TfcError as error:
        raise Difference(f"load at {dims}: {type(error).__name__}: {error}") from error
    tally.counts["dims fixed"] += 1
    return dims


class _Run:
    """The inputs and the interpreter's outputs; none where the sizes do not fit the model."""

    def __init__(self, module: Module, feeds: Mapping[str, Array], first: bool) -> None:
        self.feeds = feeds
        self.first = first
        self.oracle: Oracle | None = None
        self.module = module
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = evaluate(module, feeds, module.constants)
        except Exception as error:
            if first:
                raise Difference(f"interpreter: {type(error).__name__}: {error}") from error
            return
        self.oracle = Oracle(module, feeds, list(found.values()))


def _check_compiled(
    module: Module, level: int, freedom: Freedom, runs: Sequence[_Run], tally: Tally
) -> None:
    options = Options(host_target(), opt=level, threads=True)
    try:
        built = compile_module(module, options)
    except TfcError as error:
        raise Difference(f"-O{level}: {type(error).__name__}: {error}") from error
    with tempfile.TemporaryDirectory(prefix="tfc-fuzz-") as folder:
        path = Path(folder) / "model.so"
        built.write(path)
        executables = [tfc.load(path, threads=threads) for threads in THREADS]
    for run in runs:
        results = []
        for threads, executable in zip(THREADS, executables, strict=True):
            what = f"-O{level}, {threads} threads"
            try:
                found = executable(dict(run.feeds))
            except RuntimeFault as error:
                if run.first:
                    raise Difference(f"{what}: {error}") from error
                tally.counts["other sizes refused"] += 1
                continue
            if run.oracle is None:
                raise Difference(f"{what}: runs where the interpreter refuses the sizes")
            results.append(list(found.values()))
        if run.oracle is None or len(results) < len(THREADS):
            continue
        tally.counts[f"runs at -O{level}"] += len(results)
        for one, other in zip(*results, strict=True):
            if one.tobytes() != other.tobytes():
                raise Difference(f"-O{level}: one thread and two give different bits")
        problem = run.oracle.difference(results[0], freedom)
        if problem:
            raise Difference(f"-O{level}: {problem}")


def text(sample: Sample) -> str:
    """The model as ONNX text, and its small initialisers."""
    lines = [re.sub(r"\{[^{}\n]{80,}\}", "{...}", onnx.printer.to_text(sample.model()))]
    for name, array in sample.graph.stored.items():
        if array.size <= 16:
            lines.append(f"{name} = {array.tolist()}")
    lines += [
        f"{x.name}: {x.flavour or x.fixed} {[*x.shape]} at {sample.graph.sizes}"
        for x in sample.graph.leaves
    ]
    return "\n".join(lines)
