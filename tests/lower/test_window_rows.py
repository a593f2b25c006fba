"""Sliding windows along stored rows: convolutions of single channels, and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import Code, can_run, graph, lowered
from tests.lower.nests import FREE, N, fused, nest_of, tensors
from tfc.compiler.cost.choice import Chooser
from tfc.compiler.lower.normal import normalise
from tfc.compiler.lower.window_rows import RowWindow, make_plan, match
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.core import Module
from tfc.ir.dims import DimLike
from tfc.ir.interp import evaluate

LEVELS = [level for level in ("avx2", "avx512") if can_run(level)]


@dataclass(frozen=True)
class Case:
    """A depthwise convolution: what it reads, its kernel, and how windows move.

    times: outputs of each channel.
    """

    shape: tuple[DimLike, ...]
    kernel: tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    pads: tuple[int, int] = (0, 0)
    times: int = 1

    def build(self, b: Any, x: Any) -> Any:
        channels, rank = self.shape[1], len(self.kernel)
        assert isinstance(channels, int)
        count = channels * self.times
        rng = np.random.default_rng(count)
        w = rng.uniform(-1, 1, (count, 1, *self.kernel)).astype(np.float32)
        bias = rng.uniform(-1, 1, (count, *(1,) * rank)).astype(np.float32)
        y = b.conv(x, b.constant(w), strides=(self.stride,) * rank, pads=(self.pads,) * rank,
                   dilations=(self.dilation,) * rank, groups=channels)  # fmt: skip
        return b.relu(b.add(y, b.constant(bias)))


@dataclass(frozen=True)
class Pool(Case):
    """The largest or the mean of windows."""

    mean: bool = False

    def build(self, b: Any, x: Any) -> Any:
        rank = len(self.kernel)
        options = {"kernel": self.kernel, "strides": (self.stride,) * rank,
                   "pads": (self.pads,) * rank, "dilations": (self.dilation,) * rank}  # fmt: skip
        return (
            b.avg_pool(x, count_include_pad=False, **options)
            if self.mean
            else b.max_pool(x, **options)
        )


CASES = {
    "columns of a vector": Case((1, 3, 9, 16), (3, 3), pads=(1, 1)),
    "columns of several": Case((1, 3, 12, 70), (3, 3), pads=(1, 1)),
    "short rows": Case((2, 3, 7, 7), (3, 3), pads=(1, 1)),
    "shortest rows": Case((1, 5, 3, 4), (3, 3), pads=(1, 1)),
    "rows of a multiple": Case((1, 2, 11, 8), (5, 5), pads=(2, 2)),
    "one row": Case((1, 4, 1, 30), (1, 3), pads=(0, 2)),
    "no padding": Case((1, 3, 14, 33), (3, 5)),
    "padding before": Case((1, 3, 13, 13), (3, 3), pads=(2, 0)),
    "padding behind": Case((1, 3, 13, 13), (3, 3), pads=(0, 2)),
    "more padding than kernel": Case((1, 2, 5, 6), (3, 3), pads=(4, 4)),
    "stride 2": Case((1, 3, 28, 28), (3, 3), 2, pads=(1, 1)),
    "stride 2, odd": Case((1, 3, 15, 37), (5, 5), 2, pads=(2, 2)),
    "stride 3": Case((1, 3, 20, 50), (3, 3), 3, pads=(1, 1)),
    "stride 4": Case((1, 2, 9, 41), (7, 7), 4, pads=(3, 3)),
    "dilation": Case((1, 3, 20, 22), (3, 3), 1, 2, pads=(2, 2)),
    "stride and dilation": Case((1, 3, 21, 23), (3, 3), 2, 3, pads=(3, 3)),
    "several bands": Case((1, 2, 200, 60), (3, 3), pads=(1, 1)),
    "several bands of a stride": Case((1, 1, 150, 130), (5, 5), 2, pads=(2, 2)),
    "pages": Case((1, 1, 12, 1022), (3, 3), pads=(1, 1)),
    "no batch": Case((0, 3, 9, 20), (3, 3), pads=(1, 1)),
    "one axis": Case((2, 5, 90), (31,), pads=(15, 15)),
    "many taps": Case((1, 2, 20, 80), (21, 21), pads=(10, 10)),
    "many taps, a stride": Case((1, 2, 331), (67,), 2, pads=(33, 33)),
    "many taps, a stride and dilation": Case((1, 2, 400), (35,), 3, 2, pads=(34, 34)),
    "taps of one column": Case((1, 3, 12, 12), (5, 1)),
    "taps of one row": Case((1, 3, 12, 12), (1, 5)),
    "several outputs of a channel": Case((1, 3, 9, 20), (3, 3), pads=(1, 1), times=2),
    "batch": Case((N, 3, 9, 20), (3, 3), pads=(1, 1)),
    "max": Pool((2, 3, 12, 25), (3, 3), 2, pads=(1, 1)),
    "max of halves": Pool((1, 3, 12, 26), (2, 2), 2),
    "max of overlaps": Pool((1, 3, 7, 7), (3, 3), 1, pads=(1, 1)),
    "mean": Pool((1, 3, 12, 25), (3, 3), 1, mean=True),
    "mean, padded": Pool((1, 3, 12, 25), (3, 3), 1, pads=(1, 1), mean=True),
}


def _values(case: Case) -> np.ndarray[Any, Any]:
    shape = [3 if isinstance(n, str) or not isinstance(n, int) else n for n in case.shape]
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def _module(case: Case) -> Module:
    return graph(tensors(case.shape), case.build, FREE if N in case.shape else None)


# The others are for slow runs.
FEW = (
    "columns of several", "short rows", "no padding", "stride 2, odd", "stride and dilation",
    "several bands", "no batch", "many taps, a stride", "several outputs of a channel", "batch",
    "max of overlaps", "mean, padded",
)  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "names",
    [FEW, pytest.param(tuple(name for name in CASES if name not in FEW), marks=pytest.mark.slow)],
)
def test_windows_of_rows_are_what_the_definition_says(names: Sequence[str], level: str) -> None:
    target = parse_target(level)
    programs = []
    for name in names:
        module = _module(CASES[name])
        run(module, PassContext(target=target))
        programs.append(lowered(module, target))
    code = Code(programs, target)
    for name, program in zip(names, programs, strict=True):
        case = CASES[name]
        inputs = {"x0": _values(case)}
        plain = _module(case)
        wanted = evaluate(plain, inputs, plain.constants)["y0"]
        found = code.run(program, inputs, {"N": 3})["y0"]
        bound = 2e-6 * float(np.abs(wanted).max(initial=0))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("name", ["short rows", "several bands"])
def test_threads_change_no_bit(name: str) -> None:
    case = CASES[name]
    x = np.concatenate([_values(case)] * 40, axis=1)
    wide = replace(case, shape=x.shape)
    found = [
        tfc.compile(Graph(_module(wide)), threads=threads)(x)  # type: ignore[operator]
        for threads in (1, 2, 3)
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def _kernels(case: Case, level: str = "avx512") -> list[str]:
    module, target = _module(case), parse_target(level)
    run(module, PassContext(target=target))
    program = lowered(module, target)
    return [name for name, f in program.functions.items() if f.kind == "kernel"]


def test_padding_is_made_where_rows_are_copied() -> None:
    assert len(_kernels(CASES["columns of a vector"])) == 1
    assert len(_kernels(CASES["stride 2"])) == 1
    # Three columns are too few.
    assert len(_kernels(Case((1, 3, 9, 3), (3, 3), pads=(1, 1)))) > 1


def test_padding_of_several_users_stays_a_value() -> None:
    def make(b: Any, x: Any) -> Any:
        case = CASES["columns of a vector"]
        padded = b.pad(x, lo=(0, 0, 1, 1), hi=(0, 0, 1, 1), mode="constant")
        plain = Case(case.shape, case.kernel)
        return plain.build(b, padded), padded

    module = graph(tensors((1, 3, 9, 16)), make, FREE)
    run(module, PassContext(target=parse_target("avx512")))
    assert [op.name for op in module.main.block].count("pad") == 1


def test_what_padding_is_for_may_be_disabled() -> None:
    case = CASES["short rows"]
    module = _module(case)
    context = PassContext(target=parse_target("avx512"), disabled=frozenset({"take-padding"}))
    run(module, context)
    assert any(op.name == "pad" for op in module.main.block)


def test_sums_over_channels_are_no_windows_of_rows() -> None:
    def make(b: Any, x: Any, kernel: Sequence[int] = (3, 3)) -> Any:
        w = np.ones((4, 3, *kernel), np.float32)
        rank = len(kernel)
        return b.conv(x, b.constant(w), strides=(1,) * rank, pads=((0, 0),) * rank,
                      dilations=(1,) * rank, groups=1)  # fmt: skip

    def product(b: Any, x: Any) -> Any:
        return b.matmul(x, b.constant(np.ones((20, 40), np.float32)))

    assert not _found(graph(tensors((1, 3, 9, 20)), make))
    assert not _found(graph(tensors((1, 3, 40)), lambda b, x: make(b, x, (3,))))
    assert not _found(graph(tensors((30, 20)), product))


def test_products_whose_columns_are_stored_apart_are_no_windows_of_rows() -> None:
    """A head's weights lie beside the next one's: a step of the sum passes all of them."""

    def heads(b: Any, x: Any, w: Any) -> Any:
        rows = b.reshape(b.matmul(x, w), shape=(2, 30, 6, 8))
        return b.exp(b.transpose(rows, perm=(0, 2, 1, 3)))

    types = tensors((2, 30, 20), (20, 48))
    nest = normalise(nest_of(types, lambda b, x, w: fused(b, heads, x, w)))
    assert [it.extent for it in nest.iters] == [2, 6, 30, 8]
    assert match(nest, parse_target("avx512")) is None


def _found(module: Module) -> list[RowWindow]:
    from tfc.compiler.lower import nests

    target, found = parse_target("avx512"), []
    run(module, PassContext(target=target))

    class Watching(nests.Nests):
        def rows(self, name: str, nest: Any) -> Any:
            window = match(nest, target)
            if window is not None:
                found.append(window)
            return super().rows(name, nest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfc.compiler.lower.kernels.Nests", Watching)
        lowered(module, target)
    return found


def test_short_rows_share_a_vector_and_tiles_fit_registers() -> None:
    (window,) = _found(_module(CASES["short rows"]))
    plan = make_plan(window, parse_target("avx512"), Chooser())
    assert (plan.width, plan.parts, plan.high) == (8, 2, 4)
    (window,) = _found(_module(CASES["several bands"]))
    plan = make_plan(window, parse_target("avx512"), Chooser())
    assert plan.high * plan.vectors <= 16
    assert plan.size * 4 <= parse_target("avx512").l1
    assert plan.bands.extent in range(2, 6)
