"""Ends of sums: bytes of several vectors at once; long ones in a loop over the rows of a tile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import can_run, graph
from tfc.compiler.codegen.host import host_target
from tfc.compiler.lower.epilogue import batches, narrowing
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.attrs import Dense
from tfc.ir.body import Apply, Lookup, Number, Position
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.dims import symbol
from tfc.ir.loop.interp import run_program
from tfc.ir.types import F32, I8, I32, U8, TensorType, VectorType

TARGETS = [name for name in ("native", "avx512", "avx2") if name == "native" or can_run(name)]
LEVELS = [name for name in TARGETS if name != "avx512"]
N = symbol("N")


def test_steps_of_one_operand_are_split_from_what_they_narrow() -> None:
    base = Apply("mul", (Position(0, F32), Position(1, F32)), F32)
    moved = Apply("add", (Apply("round", (base,), F32), Number(3.0, F32)), F32)
    byte = Apply("cast", (moved,), U8)
    found = narrowing(Lookup(Dense((0,) * 256), byte, U8))
    assert found is not None
    assert found.base is base
    assert [getattr(step, "name", "lookup") for step in found.steps] == [
        "round", "add", "cast", "lookup",
    ]  # fmt: skip
    assert narrowing(moved) is None
    assert narrowing(Apply("cast", (Position(0, I32),), U8)) is None


@pytest.mark.parametrize("count", range(1, 30))
def test_batches_are_powers_of_two_that_cover_all(count: int) -> None:
    found = batches(count, 4)
    assert [i for batch in found for i in batch] == list(range(count))
    assert all(len(batch) in (1, 2, 4) for batch in found)


def channels(count: int, groups: int = 1) -> Module:
    """A convolution of bytes with a scale and a shift for each channel, to signed bytes."""
    generator = np.random.default_rng(count)
    inner = 1 if groups > 1 else 8
    whole = generator.integers(-127, 128, (count, inner, 3, 3))
    scale = generator.uniform(0.001, 0.02, (count, 1, 1)).astype(np.float32)

    def make(b: Any, x: Any) -> Any:
        y = b.conv(
            b.cast(x, dtype=I32), b.constant(whole.astype(np.int32)), strides=(1, 1),
            pads=((1, 1), (1, 1)), dilations=(1, 1), groups=groups,
        )  # fmt: skip
        y = b.add(b.round(b.mul(b.cast(y, dtype=F32), b.constant(scale))), b.constant(117.0, F32))
        wide = b.sub(b.cast(b.cast(y, dtype=U8), dtype=I32), b.constant(128, I32))
        return b.cast(wide, dtype=I8)

    shape = (N, count if groups > 1 else 8, symbol("S"), 7)
    symbols = {"N": SymbolInfo(0, 8), "S": SymbolInfo(1, 16)}
    return graph([TensorType(U8, shape)], make, symbols)


CASES = {f"{n}": (n, 1) for n in (1, 16, 17, 24, 33, 48, 64, 200)} | {
    f"depthwise {n}": (n, n) for n in (7, 16, 40)
}


@pytest.mark.parametrize("target", TARGETS)
def test_signed_bytes_of_channels_are_exact(target: str) -> None:
    for count, groups in CASES.values():
        program = Graph(channels(count, groups))
        executable = tfc.compile(program, target=target)
        for n, size in ((1, 1), (2, 6)):
            shape = (n, count if groups > 1 else 8, size, 7)
            x = {"x0": np.random.default_rng(size).integers(0, 256, shape).astype(np.uint8)}
            np.testing.assert_array_equal(executable(x)["y0"], program.eval(x)["y0"])


@pytest.mark.parametrize("case", ["64", "24", "depthwise 16"])
def test_four_vectors_of_floats_become_bytes_together(case: str) -> None:
    copy = Graph(channels(*CASES[case])).copy()
    machine = parse_target("avx512,+avx512vnni")
    run(copy, PassContext(target=machine))
    program = lower(copy, machine, {})
    lanes = {
        op.result.type.lanes
        for function in program.functions.values()
        for op in function.block.walk()
        if op.name == "cast" and op.attrs.dtype == U8 and isinstance(op.result.type, VectorType)
        and op.operands[0].type.dtype == F32
    }  # fmt: skip
    assert 64 in lanes


def swish(y: Any, b: Any) -> Any:
    return b.div(y, b.add(b.exp(b.neg(y)), b.constant(1.0, F32)))


def layer(columns: int) -> Module:
    """A product of any number of rows, and a function of its elements."""
    weights = np.random.default_rng(columns).standard_normal((24, columns)).astype(np.float32)
    return graph(
        [TensorType(F32, (N, 24))],
        lambda b, x: swish(b.matmul(x, b.constant(weights)), b),
        {"N": SymbolInfo(0, 64)},
    )


def windows(high: int, wide: int) -> Module:
    """A convolution to an image of this size, of which a tile has several lines if it is narrow."""
    weights = np.random.default_rng(wide).standard_normal((40, 8, 2, 2)).astype(np.float32)

    def make(b: Any, x: Any) -> Any:
        y = b.conv(
            x, b.constant(weights), strides=(2, 2), pads=((0, 0), (0, 0)), dilations=(1, 1),
            groups=1,
        )  # fmt: skip
        return swish(y, b)

    return graph([TensorType(F32, (2, 8, 2 * high, 2 * wide))], make)


def check_everywhere(program: Graph, target: str, x: np.ndarray[Any, Any]) -> None:
    machine = parse_target(target) if target != "native" else host_target()
    copy = program.copy()
    run(copy, PassContext(target=machine))
    wanted = program.eval({"x0": x})["y0"]
    found = run_program(lower(copy, machine, {}), {"x0": x})["y0"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    found = tfc.compile(program, target=target)({"x0": x})["y0"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", LEVELS)
def test_functions_of_products_are_right_for_every_number_of_rows(target: str) -> None:
    program = Graph(layer(33))
    for count in (0, 1, 13, 31):
        x = np.random.default_rng(count).standard_normal((count, 24)).astype(np.float32)
        check_everywhere(program, target, x)


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize("size", [(3, 5), (9, 3), (1, 17)])
def test_functions_of_convolutions_are_right_in_tiles_of_lines(
    size: tuple[int, int], target: str
) -> None:
    high, wide = size
    x = np.random.default_rng(wide).standard_normal((2, 8, 2 * high, 2 * wide))
    check_everywhere(Graph(windows(high, wide)), target, x.astype(np.float32))


def test_a_long_function_is_not_repeated_for_every_row() -> None:
    copy = Graph(layer(64)).copy()
    machine = parse_target("avx512")
    run(copy, PassContext(target=machine))
    (kernel,) = (f for f in lower(copy, machine, {}).functions.values() if f.kind == "kernel")
    names = [op.name for op in kernel.block.walk()]
    # Four vectors of a tile of rows, and of each of its parts, which are at most two.
    assert 4 < names.count("div") <= 12
