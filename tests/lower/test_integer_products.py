"""Products of bytes: exact on every target, for every shape, and alike on any threads."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import can_run, graph
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.dims import symbol
from tfc.ir.types import I8, I32, U8, TensorType

Array = Any
TARGETS = [
    name for name in ("native", "avx512", "avx2", "x86-64") if name == "native" or can_run(name)
]
VNNI = "avx512,+avx512vnni"


@dataclass(frozen=True)
class Conv:
    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: int = 1
    pad: tuple[int, int] = (0, 0)
    dilation: int = 1
    groups: int = 1
    zero: int = 0

    def attrs(self) -> dict[str, Any]:
        rank = len(self.x) - 2
        return {
            "strides": (self.stride,) * rank, "pads": (self.pad,) * rank,
            "dilations": (self.dilation,) * rank, "groups": self.groups,
        }  # fmt: skip

    def exact(self, x: Array, w: Array) -> Array:
        """In 64 bits, one tap at a time."""
        rank = len(self.x) - 2
        x = np.pad(x.astype(np.int64) - self.zero, [(0, 0), (0, 0), *[self.pad] * rank])
        w = w.astype(np.int64)
        reach = [(k - 1) * self.dilation + 1 for k in w.shape[2:]]
        sizes = [(n - r) // self.stride + 1 for n, r in zip(x.shape[2:], reach, strict=True)]
        y = np.zeros((x.shape[0], self.groups, w.shape[0] // self.groups, *sizes), np.int64)
        x = x.reshape(x.shape[0], self.groups, w.shape[1], *x.shape[2:])
        own = w.reshape(self.groups, -1, *w.shape[1:])
        for tap in np.ndindex(*w.shape[2:]):
            window = tuple(
                slice(i * self.dilation, i * self.dilation + (n - 1) * self.stride + 1, self.stride)
                for i, n in zip(tap, sizes, strict=True)
            )
            y += np.einsum("ngi...,goi->ngo...", x[(..., *window)], own[(..., *tap)])
        return y.reshape(x.shape[0], w.shape[0], *sizes)


CONVS = {
    "1x1": Conv((2, 64, 7, 9), (40, 64, 1, 1), zero=3),
    "3x3": Conv((1, 32, 9, 11), (48, 32, 3, 3), pad=(1, 1), zero=128),
    "odd channels": Conv((1, 7, 10, 10), (33, 7, 3, 3), pad=(1, 1), zero=255),
    "few channels": Conv((1, 3, 17, 19), (24, 3, 3, 3), stride=2, pad=(0, 1), zero=100),
    "7x7": Conv((1, 3, 22, 22), (20, 3, 7, 7), stride=2, pad=(3, 3), zero=7),
    "narrow output": Conv((1, 16, 12, 12), (5, 16, 3, 3), dilation=2),
    "groups": Conv((1, 24, 8, 8), (36, 6, 3, 3), groups=4, pad=(1, 1), zero=9),
    # A group's step and a tap's are as long.
    "half groups": Conv((1, 4, 7, 7), (32, 2, 1, 2), groups=2, pad=(0, 1)),
    "short rows": Conv((1, 2, 5, 4), (20, 2, 3, 3), zero=4),
    "depthwise": Conv((1, 40, 11, 11), (40, 1, 3, 3), groups=40, pad=(1, 1), zero=77),
    "depthwise 5x5": Conv((2, 20, 13, 9), (20, 1, 5, 5), 2, (2, 2), groups=20, zero=13),
    "depthwise 7x7": Conv((1, 16, 9, 10), (16, 1, 7, 7), pad=(3, 3), groups=16, zero=128),
    "depthwise rows": Conv((2, 34, 40), (34, 1, 4), 3, (1, 0), groups=34, zero=9),
    "depthwise apart": Conv((1, 8, 9, 9), (8, 1, 3, 3), pad=(2, 1), dilation=2, groups=8, zero=5),
    "depthwise one left": Conv((1, 17, 6, 6), (17, 1, 3, 3), pad=(1, 1), groups=17),
    "depthwise short": Conv((1, 6, 3, 2), (6, 1, 2, 2), pad=(0, 1), groups=6, zero=250),
    "one channel": Conv((2, 1, 8, 8), (16, 1, 3, 3), pad=(1, 1)),
    "one channel, no border": Conv((1, 1, 9, 7), (20, 1, 2, 3), zero=6),
    "one axis": Conv((2, 12, 50), (17, 12, 5), stride=3, pad=(2, 2), zero=1),
    "rows of one group": Conv((1, 8, 8, 4), (5, 8, 3, 2), zero=3),
    "empty": Conv((0, 8, 6, 6), (8, 8, 3, 3), zero=5),
}


def bytes_of(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    """Random bytes, the extreme ones often."""
    info = np.iinfo(dtype)
    generator = np.random.default_rng(seed)
    found = generator.integers(info.min, info.max + 1, shape)
    ends = generator.random(shape)
    return np.where(ends < 0.1, info.min, np.where(ends > 0.9, info.max, found)).astype(dtype)


def centred(b: Any, x: Any, zero: int) -> Any:
    wide = b.cast(x, dtype=I32)
    return b.sub(wide, b.constant(zero, I32)) if zero else wide


SLOW = pytest.mark.slow
DEFAULT = (("native", I8), ("native", U8), ("avx2", U8))
"""What is tried of convolutions in default runs."""


def convolutions(dtype: Any, offset: int) -> tuple[Graph, list[Array], list[Array]]:
    """All of CONVS in one program; offset: what zero points are moved by."""
    inputs, wanted, weights = [], [], []
    for i, case in enumerate(CONVS.values()):
        case = Conv(**{**case.__dict__, "zero": case.zero + offset})
        x = bytes_of(case.x, np.uint8 if dtype == U8 else np.int8, i)
        w = bytes_of(case.w, np.int8, 100 + i)
        inputs.append(x)
        weights.append((case, w))
        wanted.append(case.exact(x, w))

    def make(b: Any, *xs: Any) -> list[Any]:
        return [
            b.conv(centred(b, x, case.zero), b.constant(w.astype(np.int32)), **case.attrs())
            for x, (case, w) in zip(xs, weights, strict=True)
        ]

    return Graph(graph([TensorType(dtype, x.shape) for x in inputs], make)), inputs, wanted


@pytest.mark.parametrize(
    ("target", "dtype", "offset"),
    [
        pytest.param(target, dtype, offset, marks=[] if (target, dtype) in DEFAULT else SLOW)
        for target in TARGETS
        for dtype, offset in ((U8, 0), (I8, -128))
    ],
)
def test_convolutions_of_bytes_are_exact(target: str, dtype: Any, offset: int) -> None:
    program, inputs, wanted = convolutions(dtype, offset)
    feeds = {f"x{i}": x for i, x in enumerate(inputs)}
    for threads in (1, 3):
        found = tfc.compile(program, target=target, threads=threads)(feeds)
        for i, (name, want) in enumerate(zip(CONVS, wanted, strict=True)):
            np.testing.assert_array_equal(found[f"y{i}"], want, err_msg=name)


def random_case(rnd: random.Random) -> Conv:
    rank, groups, dilation = rnd.choice([1, 2, 2, 3]), rnd.choice([1, 1, 2, 3]), rnd.choice([1, 2])
    inner, outer = rnd.choice([1, 2, 3, 4, 5, 8, 13, 32]), rnd.choice([1, 2, 3, 5, 8, 16, 17, 33])
    if rnd.random() < 0.2:
        groups, inner = groups * inner, 1
    kernel = tuple(rnd.choice([1, 1, 2, 3, 5]) for _ in range(rank))
    sizes = tuple(rnd.randint((k - 1) * dilation + 1, 14) for k in kernel)
    return Conv(
        (rnd.randint(1, 3), inner * groups, *sizes), (outer * groups, inner, *kernel),
        rnd.randint(1, 3), (rnd.randint(0, 2), rnd.randint(0, 2)), dilation, groups,
        rnd.randint(0, 255),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_convolutions_of_any_batch_are_exact(seed: int) -> None:
    rnd = random.Random(seed)
    cases = [random_case(rnd) for _ in range(6)]
    xs = [bytes_of(case.x, np.uint8, seed) for case in cases]
    ws = [bytes_of(case.w, np.int8, seed) for case in cases]

    def make(b: Any, *values: Any) -> list[Any]:
        return [
            b.relu(b.conv(centred(b, x, case.zero), b.constant(w.astype(np.int32)), **case.attrs()))
            for x, w, case in zip(values, ws, cases, strict=True)
        ]

    types = [TensorType(U8, (symbol(f"N{i}"), *case.x[1:])) for i, case in enumerate(cases)]
    program = Graph(graph(types, make, {f"N{i}": SymbolInfo(0, 8) for i in range(len(cases))}))
    for target in TARGETS:
        executable = tfc.compile(program, target=target, threads=rnd.choice([1, 2]))
        found = executable({f"x{i}": x for i, x in enumerate(xs)})
        for i, (case, x, w) in enumerate(zip(cases, xs, ws, strict=True)):
            np.testing.assert_array_equal(found[f"y{i}"], np.maximum(case.exact(x, w), 0))


PRODUCTS = [(1, 3, 5), (7, 64, 33), (28, 129, 16), (3, 2, 40), (50, 300, 9), (0, 8, 4), (2, 700, 1)]


@pytest.mark.parametrize("target", TARGETS)
def test_matrix_products_of_bytes_are_exact(target: str) -> None:
    xs = [bytes_of((m, k), np.uint8, k) for m, k, _ in PRODUCTS]
    ws = [bytes_of((k, n), np.int8, n) for _, k, n in PRODUCTS]

    def make(b: Any, *values: Any) -> list[Any]:
        return [
            b.matmul(centred(b, x, 11), b.constant(w.astype(np.int32)))
            for x, w in zip(values, ws, strict=True)
        ]

    program = Graph(graph([TensorType(U8, x.shape) for x in xs], make))
    found = tfc.compile(program, target=target)({f"x{i}": x for i, x in enumerate(xs)})
    for i, (x, w) in enumerate(zip(xs, ws, strict=True)):
        want = (x.astype(np.int64) - 11) @ w.astype(np.int64)
        np.testing.assert_array_equal(found[f"y{i}"], want)


def test_a_zero_point_known_at_run_time_alone_is_taken_away() -> None:
    x = bytes_of((1, 16, 8, 8), np.uint8)
    w = bytes_of((24, 16, 3, 3), np.int8, 1)
    case = Conv(x.shape, w.shape, pad=(1, 1), zero=201)

    def make(b: Any, x: Any, zero: Any) -> Any:
        wide = b.sub(b.cast(x, dtype=I32), b.cast(zero, dtype=I32))
        return b.conv(wide, b.constant(w.astype(np.int32)), **case.attrs())

    module = graph([TensorType(U8, x.shape), TensorType(U8, ())], make)
    assert "dot" in loop_ops(module, VNNI)
    found = tfc.compile(Graph(module))({"x0": x, "x1": np.array(201, np.uint8)})["y0"]
    np.testing.assert_array_equal(found, case.exact(x, w))


def loop_ops(module: Module, target: str) -> set[str]:
    copy = Graph(module).copy()
    machine = parse_target(target)
    run(copy, PassContext(target=machine))
    program = lower(copy, machine, {})
    return {op.name for f in program.functions.values() for op in f.block.walk()}


@pytest.mark.parametrize("target", [VNNI, "avx512", "avx2", "x86-64", "aarch64"])
@pytest.mark.parametrize("case", ["1x1", "few channels", "narrow output", "groups"])
def test_every_target_takes_bytes_in_groups(target: str, case: str) -> None:
    conv = CONVS[case]
    w = bytes_of(conv.w, np.int8)

    def make(b: Any, x: Any) -> Any:
        wide = centred(b, x, conv.zero - 128)
        return b.conv(wide, b.constant(w.astype(np.int32)), **conv.attrs())

    assert "dot" in loop_ops(graph([TensorType(I8, conv.x)], make), target)


@pytest.mark.parametrize(("pad", "masked"), [((1, 1), False), ((0, 0), True)])
def test_fewer_bytes_than_a_group_are_read_whole_where_others_follow(
    pad: tuple[int, int], masked: bool
) -> None:
    """A border is memory of the program's own; a model's input ends where it ends."""
    conv = Conv((2, 1, 8, 8), (16, 1, 3, 3), pad=pad)

    def make(b: Any, x: Any) -> Any:
        w = b.constant(bytes_of(conv.w, np.int8))
        return b.conv(centred(b, x, 0), b.cast(w, dtype=I32), **conv.attrs())

    module = graph([TensorType(U8, conv.x)], make)
    machine = parse_target(VNNI)
    run(module, PassContext(target=machine))
    kernels = [f for f in lower(module, machine, {}).functions.values() if f.kind == "kernel"]
    dots = [f for f in kernels if any(op.name == "dot" for op in f.block.walk())]
    loads = [op for f in dots for op in f.block.walk() if op.name == "vload"]
    assert any(op.attrs.masked for op in loads) == masked


def depthwise(case: str) -> Module:
    """On pictures of any size."""
    conv = CONVS[case]
    w = bytes_of(conv.w, np.int8)
    shape = (symbol("N"), conv.x[1], *(symbol(f"S{i}") for i in range(len(conv.x) - 2)))

    def make(b: Any, x: Any) -> Any:
        wide = b.sub(b.cast(x, dtype=I32), b.constant(conv.zero, I32))
        return b.conv(wide, b.constant(w.astype(np.int32)), **conv.attrs())

    symbols = {str(dim): SymbolInfo(1, 64) for dim in shape if not isinstance(dim, int)}
    return graph([TensorType(U8, shape)], make, symbols)


# Taps that are no neighbours, and a vector of one channel.
PLAIN = ("depthwise apart", "depthwise one left")
DEPTHWISE = [case for case in CONVS if case.startswith("depthwise")]


@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_windows_take_taps_in_groups_where_that_is_one_instruction(case: str) -> None:
    assert ("dot" in loop_ops(depthwise(case), VNNI)) == (case not in PLAIN)
    assert "dot" not in loop_ops(depthwise(case), "avx512")


@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_windows_of_any_size_are_exact(case: str) -> None:
    conv = CONVS[case]
    executable = tfc.compile(Graph(depthwise(case)), threads=2)
    for extra in (0, 1, 6):
        shape = (2, conv.x[1], *(n + extra for n in conv.x[2:]))
        x = bytes_of(shape, np.uint8, extra)
        want = Conv(**{**conv.__dict__, "x": shape}).exact(x, bytes_of(conv.w, np.int8))
        np.testing.assert_array_equal(executable({"x0": x})["y0"], want)
