"""Sums and products of two dequantised numbers: fewer steps, and not a bit of them changes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import graph
from tfc.compiler.lower.bounds import without_nan_tests
from tfc.compiler.lower.compose import Nest, Output
from tfc.compiler.lower.pairs import Problem, Scaled, Sum, solve, with_fewer_steps
from tfc.compiler.lower.program import lower
from tfc.compiler.lower.quotients import without_division
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.body import Apply, Expr, Load, Number, walk
from tfc.ir.core import Block, Value
from tfc.ir.types import BOOL, F32, I8, U8, TensorType

Array = Any
SCALES = [
    (0.053, 0.018, 0.042), (0.1, 0.1, 0.1), (0.5, 0.25, 0.125), (1.0, 3e-3, 0.7), (7e-3, 2.0, 3.0),
]  # fmt: skip
ZEROS = [(0, 0), (110, 0), (128, 37), (255, 255)]


def as_f32(x: Fraction) -> np.float32:
    """The nearest f32, half to even: 53 bits first may round it twice, which these do not."""
    number = np.float32(float(x))
    assert Fraction(float(x)) == x or abs(Fraction(float(number)) - x) * 2 < Fraction(
        float(np.spacing(abs(number)))
    )
    return number


@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_every_pair_is_rounded_as_by_the_scales(op: str) -> None:
    found = 0
    rng = np.random.default_rng(0)
    for a, b, c in SCALES:
        a, b, c = (float(np.float32(x)) for x in (a, b, c * (40 if op == "mul" else 1)))
        for x_zero, y_zero in ZEROS:
            x, y = (-x_zero, 255 - x_zero), (-y_zero, 255 - y_zero)
            problem = Problem(op, a, b, c, False, x, y, (x_zero, y_zero))
            answer = solve(problem)
            if answer is None:
                continue
            found += 1
            for u, v in rng.integers(0, 256, (200, 2)):
                left, right = np.float32(u - x_zero), np.float32(v - y_zero)
                p, q = left * np.float32(a), right * np.float32(b)
                both = p + q if op == "add" else p - q if op == "sub" else p * q
                wanted = np.rint(both / np.float32(c))
                if isinstance(answer, Scaled):
                    total = left * right if op == "mul" else both
                    assert np.rint(total * np.float32(answer.factor)) == wanted
                    continue
                first, second, rest = map(Fraction, (answer.first, answer.second, answer.rest))
                one, other = (int(v), int(u)) if answer.turned else (int(u), int(v))
                inner = as_f32(other * second + rest)
                assert np.rint(as_f32(one * first + Fraction(float(inner)))) == wanted
    assert found > 2 * len(SCALES)


def test_too_many_pairs_and_too_large_results_stay() -> None:
    bytes = (0, 255)
    assert isinstance(solve(Problem("add", 0.1, 0.2, 0.3, False, bytes, bytes, (0, 0))), Sum)
    assert solve(Problem("add", 0.1, 0.2, 0.3, False, bytes, (0, 1 << 12), (0, 0))) is None
    assert solve(Problem("add", 100.0, 0.2, 0.3, False, bytes, bytes, (0, 0))) is None
    assert solve(Problem("add", 0.1, 0.2, 0.3, False, bytes, bytes, (0, 300))) is None


def byte(position: int) -> Load:
    block = Block([TensorType(U8, (4,))] * 2)
    return Load(block.args[position], (0,), U8)


def dequantised(x: Expr, scale: float) -> Expr:
    return Apply("mul", (Apply("cast", (x,), F32), Number(scale, F32)), F32)


def nest(expr: Expr) -> Nest:
    value = Value(TensorType(F32, (4,)), Block(), 0, "y")
    return Nest((), (Output(value, 0, expr),))


def quotient(x: Expr, scale: float = 0.3) -> Expr:
    return Apply("round", (Apply("div", (x, Number(scale, F32)), F32),), F32)


def steps(expr: Expr) -> list[str]:
    return sorted(node.name for node in walk(expr) if isinstance(node, Apply))


def test_what_is_no_whole_number_within_limits_stays() -> None:
    x, y = (dequantised(byte(at), scale) for at, scale in ((0, 0.1), (1, 0.2)))
    made = with_fewer_steps(nest(quotient(Apply("add", (x, y), F32)))).outputs[0].expr
    assert steps(made) == ["cast", "cast", "fma", "mul", "round"]
    number = Load(Block([TensorType(F32, (4,))]).args[0], (0,), F32)
    for other in (number, Apply("mul", (number, Number(0.2, F32)), F32), Number(3.0, F32)):
        kept = nest(quotient(Apply("add", (x, other), F32)))
        assert with_fewer_steps(kept) is kept
    kept = nest(quotient(x))
    assert with_fewer_steps(kept) is kept
    kept = nest(Apply("floor", quotient(Apply("add", (x, y), F32)).args, F32))  # type: ignore[union-attr]
    assert with_fewer_steps(kept) is kept


def test_tests_for_nan_go_where_there_is_none() -> None:
    def guarded(x: Expr) -> Expr:
        return Apply("select", (Apply("isnan", (x,), BOOL), Number(128.0, F32), x), F32)

    number = Load(Block([TensorType(F32, (4,))]).args[0], (0,), F32)
    x = dequantised(byte(0), 0.1)
    plain = nest(guarded(quotient(number)))
    assert without_nan_tests(plain) is plain
    large = x
    for _ in range(6):
        large = Apply("mul", (large, large), F32)
    assert "isnan" in steps(without_nan_tests(nest(guarded(large))).outputs[0].expr)
    sum = quotient(Apply("add", (x, dequantised(byte(1), 0.2)), F32))
    for made in (nest(guarded(sum)), without_division(with_fewer_steps(nest(guarded(sum))))):
        assert "isnan" not in steps(without_nan_tests(made).outputs[0].expr)


@pytest.mark.parametrize("scales", SCALES[:3])
@pytest.mark.parametrize("op", ["add", "sub", "mul"])
@pytest.mark.parametrize("dtype", [U8, I8])
def test_a_program_gives_what_the_reference_gives(
    op: str, dtype: Any, scales: tuple[float, float, float]
) -> None:
    low = 0 if dtype is U8 else -128
    zeros = [int(z) for z in np.random.default_rng(3).integers(low, low + 256, 3)]
    scale = scales[2] * (40 if op == "mul" else 1)

    def make(g: Any, x: Any, y: Any) -> Any:
        sides = [
            g.dequantize_linear(v, g.constant(s, F32), g.constant(z, dtype))
            for v, s, z in zip((x, y), scales, zeros, strict=False)
        ]
        both = g.op(op, *sides).result
        return g.quantize_linear(both, g.constant(scale, F32), g.constant(zeros[2], dtype),
                                 dtype=dtype)  # fmt: skip

    module = graph([TensorType(dtype, (256, 256))] * 2, make)
    x, y = np.meshgrid(np.arange(low, low + 256), np.arange(low, low + 256))
    feeds = [v.astype(np.uint8 if dtype is U8 else np.int8) for v in (x, y)]
    wanted = Graph(module).eval(*feeds)
    got = tfc.compile(Graph(module), threads=1)(*feeds)
    np.testing.assert_array_equal(got, wanted)


def test_without_multiply_adds_nothing_is_searched() -> None:
    def make(g: Any, x: Any, y: Any) -> Any:
        sides = [g.dequantize_linear(v, g.constant(0.1, F32)) for v in (x, y)]
        return g.quantize_linear(g.add(*sides), g.constant(0.17, F32), dtype=U8)

    module = graph([TensorType(U8, (3, 100))] * 2, make)
    for target, names in (("avx2", {"fma"}), ("x86-64-v2", {"div"})):
        copy, machine = Graph(module).copy(), parse_target(target)
        run(copy, PassContext(target=machine))
        kernels = lower(copy, machine, {}).functions.values()
        found = {op.name for f in kernels for op in f.block.walk()}
        assert found & {"fma", "div", "isnan"} == names
