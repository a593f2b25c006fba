"""Products by constants of few bits: what lies in memory, and that it computes what is meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import Code, can_run, graph, lowered
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.dims import DimLike, symbol
from tfc.ir.loop.interp import run_program
from tfc.ir.types import F32, TensorType

Array = Any
M = symbol("M")
LEVELS = [level for level in ("avx512", "avx2", "x86-64") if can_run(level)]
# Bits, whether blocks have zeros, rows of the weights, their blocks, columns.
CASES = [
    (4, False, 128, 4, 300),
    (4, True, 128, 4, 300),
    (8, True, 96, 3, 140),
    (8, False, 60, 4, 280),
    (4, True, 130, 13, 33),
    (2, False, 160, 5, 130),
    (4, True, 150, 1, 120),
]
ROWS = (1, 2, 3, 7, 40)


def drawn(bits: int, zeros: bool, k: int, count: int, n: int, seed: int = 0) -> list[Array]:
    """Numbers in blocks, scales, and zeros if there are any."""
    generator = np.random.default_rng(seed)
    whole = generator.integers(0, 1 << bits, (k, n)).astype(np.uint8)
    scale = generator.uniform(0.01, 0.02, (count, n)).astype(np.float32)
    if not zeros:
        return [(whole.astype(np.int16) - (1 << (bits - 1))).astype(np.int8), scale]
    return [whole, scale, generator.integers(0, 1 << bits, (count, n)).astype(np.uint8)]


def meant(whole: Array, scale: Array, zero: Array | None = None) -> Array:
    """What such weights stand for, in f64."""
    size = whole.shape[0] // scale.shape[0]
    wide = whole.astype(np.float64)
    if zero is not None:
        wide -= np.repeat(zero, size, 0)
    return wide * np.repeat(scale.astype(np.float64), size, 0)


def product(weights: list[Array], rows: DimLike = M) -> Module:
    def make(b: Any, x: Any) -> Any:
        y = b.matmul(x, b.dequantize_blocks(*map(b.constant, weights)))
        return b.relu(b.add(y, b.constant(0.5, F32)))

    symbols = {"M": SymbolInfo(0)} if rows is M else {}
    module = graph([TensorType(F32, (rows, weights[0].shape[0]))], make, symbols)
    run(module, PassContext(target=parse_target("avx512")))
    return module


def numbers(*shape: int) -> Array:
    return np.random.default_rng(shape[0]).standard_normal(shape).astype(np.float32)


def assert_near(found: Array, x: Array, weights: list[Array]) -> None:
    want = np.maximum(x.astype(np.float64) @ meant(*weights) + 0.5, 0)
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize(
    "level", [LEVELS[0], *(pytest.param(level, marks=pytest.mark.slow) for level in LEVELS[1:])]
)
def test_rows_of_any_number_are_exact(level: str) -> None:
    target = parse_target(level)
    weights = [drawn(*case) for case in CASES]
    programs = [lowered(product(each), target) for each in weights]
    code = Code(programs, target)
    for program, each in zip(programs, weights, strict=True):
        for rows in ROWS:
            x = numbers(rows, each[0].shape[0])
            assert_near(code.run(program, {"x0": x})["y0"], x, each)


def test_a_known_number_of_rows_is_exact() -> None:
    target = parse_target(LEVELS[0])
    weights = drawn(4, True, 128, 4, 300)
    programs = [lowered(product(weights, rows), target) for rows in ROWS]
    code = Code(programs, target)
    for program, rows in zip(programs, ROWS, strict=True):
        x = numbers(rows, 128)
        assert_near(code.run(program, {"x0": x})["y0"], x, weights)


@pytest.mark.parametrize("rows", [1, 40])
def test_no_access_is_out_of_bounds(rows: int) -> None:
    """The interpreter checks each one, and scratch memory of three threads."""
    weights = drawn(4, True, 26, 2, 130)
    program = lowered(product(weights), parse_target("avx2"))
    x = numbers(rows, 26)
    assert_near(run_program(program, {"x0": x}, {"threads": 3})["y0"], x, weights)


@pytest.mark.parametrize(("case", "most"), [(CASES[0], 0.8), (CASES[2], 1.4)])
def test_constants_are_as_many_bytes_as_they_need(case: Any, most: float) -> None:
    """most: bytes for each weight, scales and the padding of columns included."""
    weights = drawn(*case)
    executable = tfc.compile(Graph(product(weights)))
    assert executable.memory.constants < most * weights[0].size + 512


def test_scales_of_16_bits_are_read_as_such() -> None:
    whole, scale = drawn(4, False, 256, 16, 64)
    for level in LEVELS:
        x, target = numbers(5, 256), parse_target(level)
        weights = [whole, scale.astype(np.float16)]
        program = lowered(product(weights), target)
        found = Code([program], target).run(program, {"x0": x})["y0"]
        assert_near(found, x, weights)


def test_results_have_the_same_bits_on_any_number_of_threads() -> None:
    weights = drawn(4, True, 1024, 32, 1100)
    executables = [tfc.compile(Graph(product(weights)), threads=n) for n in (1, 2, 3)]
    for rows in (1, 5, 70):
        x = numbers(rows, 1024)
        first, *others = [executable({"x0": x})["y0"] for executable in executables]
        assert_near(first, x, weights)
        for other in others:
            assert other.tobytes() == first.tobytes()
