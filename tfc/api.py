"""The functions of `import tfc`: compile, load, parse. Graphs made in Python are in `tfc.graph`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tfc.compiler.build import Options, precision
from tfc.compiler.codegen.host import missing_features, resolve_target
from tfc.compiler.source import Dims, open_module, parse_text, specialise
from tfc.compiler.target import Target
from tfc.graph import Graph, Tensor
from tfc.inprocess import compile_in_process
from tfc.ir.core import Module
from tfc.ir.errors import TargetError, UsageError
from tfc.runtime.cores import usable_cores
from tfc.runtime.executable import Executable
from tfc.runtime.loader import load

if TYPE_CHECKING:
    from onnx import ModelProto

    Model: TypeAlias = "str | os.PathLike[str] | ModelProto | Graph"

__all__ = ["compile", "load", "parse"]


def compile(
    model: Model | None = None,
    *,
    inputs: Sequence[Tensor] | None = None,
    outputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None = None,
    target: str | Target = "native",
    threads: int | None = None,
    opt: int = 2,
    dtype: str = "f32",
    dims: Dims = None,
    name: str | None = None,
    constants: str | os.PathLike[str] | None = None,
) -> Executable:
    """Compile a model and load it into this process.

    model: a path (ONNX, or IR text), an ONNX ModelProto, or a Graph. Instead of it, `outputs`
    and `inputs` are tensors of `tfc.placeholder` and what was computed from them.
    target: native, or a level such as avx2. threads: how many a call may use; by default all
    cores of this process; 1 leaves the thread pool out of the artifact. opt: 0 to 3.
    dtype: bf16 rounds the operands of matrix products and convolutions by constants to bf16;
    sums and all else stay f32.
    dims: for a dynamic dim by name, a size, or bounds (lo, hi), hi may be None.
    name: what the artifact is called. constants: where the data of IR text is.
    """
    source = _source(model, inputs, outputs, dims, constants)
    options = Options(
        native(target),
        name=name or _name_of(model),
        opt=_checked_level(opt),
        dtype=precision(dtype),
        threads=threads != 1,
        jobs=usable_cores(),
    )
    return compile_in_process(source, options, threads)


def parse(text: str, *, constants: str | os.PathLike[str] | None = None) -> Graph:
    """Return the graph (or loop-level program) that IR text says, verified.

    constants: the directory with the data of large constants.
    """
    return Graph(parse_text(text, None, Path(constants) if constants else None))


def native(target: str | Target) -> Target:
    """Return the target, which must be one that this machine can run."""
    if isinstance(target, str):
        target = resolve_target(target.replace("native", "host", 1))
    missing = missing_features(target)
    if missing:
        raise TargetError(f"this machine lacks {', '.join(sorted(missing))} of the target")
    return target


def _source(
    model: Model | None,
    inputs: Sequence[Tensor] | None,
    outputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None,
    dims: Dims,
    constants: str | os.PathLike[str] | None,
) -> Callable[[], Module]:
    """Return what opens the module; each call gives one of its own."""
    if (model is None) == (outputs is None):
        raise UsageError("compile takes a model, or outputs (and inputs) made of tensors")
    if outputs is not None:
        model = Graph.of(outputs, inputs)
    elif inputs is not None:
        raise UsageError("inputs go with outputs; those of a model are known")
    if isinstance(model, Graph):
        return lambda: _copied(model, dims)
    path = os.fspath(model) if isinstance(model, (str, os.PathLike)) else model
    folder = Path(constants) if constants else None
    return lambda: open_module(path, dims, folder)


def _copied(graph: Graph, dims: Dims) -> Module:
    module = graph.copy()
    if dims:
        specialise(module, dims)
    return module


def _name_of(model: Any) -> str:
    return Path(model).stem if isinstance(model, (str, os.PathLike)) else "model"


def _checked_level(opt: int) -> int:
    if opt not in range(4):
        raise UsageError(f"opt is {opt!r}: it must be 0, 1, 2 or 3")
    return opt
