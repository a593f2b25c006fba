"""Quotients that are rounded to whole numbers: the same ones without a division."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.lower.native import graph
from tfc.compiler.lower.compose import Nest, Output
from tfc.compiler.lower.program import lower
from tfc.compiler.lower.quotients import rounds_alike, without_division
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.body import Apply, Expr, Load, Number
from tfc.ir.core import Block, Value
from tfc.ir.types import F32, U8, TensorType

Array = Any
SCALES = [0.1, 0.0235, 0.00392156862745098, 1.0, 0.7071068, 0.5, 3.0, 1e-3]


def as_f32(x: Fraction) -> Fraction:
    """The nearest f32, half to even, of a number in the normal range."""
    if x == 0:
        return x
    step = Fraction(2) ** (math.frexp(float(x))[1] - 24)
    return Fraction(round(x / step)) * step


def corrected(x: float, c: float) -> Fraction:
    """What is computed for x / c, in exact arithmetic rounded step by step."""
    y = as_f32(1 / Fraction(c))
    q = as_f32(Fraction(x) * y)
    rest = as_f32(Fraction(x) - q * Fraction(c))
    return as_f32(q + rest * y)


@pytest.mark.parametrize("scale", SCALES)
def test_quotients_near_halves_round_alike(scale: float) -> None:
    """The floats next to every half times the scale, which are the only ones in doubt."""
    c = np.float32(scale)
    assert rounds_alike(float(c))
    halves = np.arange(0, 100, dtype=np.float64) + 0.5
    for away in range(-2, 3):
        x = (halves * float(c)).astype(np.float32)
        for _ in range(abs(away)):
            x = np.nextafter(x, np.float32(np.copysign(np.inf, away)))
        wanted = np.rint(x / c)
        found = [round(corrected(float(v), float(c))) for v in x]
        np.testing.assert_array_equal(found, wanted)


def test_a_scale_whose_quotients_come_too_close_keeps_its_division() -> None:
    assert not rounds_alike(float(np.nextafter(np.float32(2), np.float32(0))))
    some = np.random.default_rng(0).uniform(1, 2, 500).astype(np.float32)
    assert np.mean([rounds_alike(float(c)) for c in some]) > 0.9


def nest(x: Expr, scale: Expr) -> Nest:
    value = Value(TensorType(F32, (4,)), Block(), 0, "y")
    return Nest((), (Output(value, 0, Apply("round", (Apply("div", (x, scale), F32),), F32)),))


def divides(x: Expr, scale: Expr) -> bool:
    made = without_division(nest(x, scale)).outputs[0].expr
    assert isinstance(made, Apply)
    return isinstance(made.args[0], Apply) and made.args[0].name == "div"


def test_what_may_be_infinite_is_divided() -> None:
    block = Block([TensorType(F32, (4,)), TensorType(U8, (4,))])
    number, byte = (Load(arg, (0,), arg.type.dtype) for arg in block.args)  # type: ignore[union-attr]
    scale = Number(0.1, F32)
    known = Apply("mul", (Apply("cast", (byte,), F32), Number(0.5, F32)), F32)
    assert not divides(known, scale)
    assert not divides(Apply("add", (known, known), F32), scale)
    assert divides(number, scale)
    assert divides(Apply("add", (known, number), F32), scale)
    assert divides(known, number)
    assert divides(known, Number(1e-30, F32))
    assert divides(known, Number(1e-4, F32))
    high = Apply("select", (Apply("gt", (number, scale), F32), number, scale), F32)
    limit = Number(9.0, F32)
    assert divides(high, scale)
    assert not divides(Apply("select", (Apply("lt", (high, limit), F32), high, limit), F32), scale)


def test_a_sum_of_two_quantised_numbers_is_not_divided() -> None:
    def make(b: Any, x: Any, y: Any) -> Any:
        total = b.add(b.dequantize_linear(x, b.constant(0.1, F32)),
                      b.dequantize_linear(y, b.constant(0.03, F32)))  # fmt: skip
        return b.quantize_linear(total, b.constant(0.11, F32), dtype=U8)

    module = graph([TensorType(U8, (3, 100))] * 2, make)
    for target, divided in (("avx2", False), ("x86-64-v2", True)):
        copy, machine = Graph(module).copy(), parse_target(target)
        run(copy, PassContext(target=machine))
        kernels = lower(copy, machine, {}).functions.values()
        names = {op.name for f in kernels for op in f.block.walk() if op.results and
                 getattr(op.results[0].type, "dtype", None) == F32}  # fmt: skip
        assert ("div" in names) == divided
