"""Corner cases of elementwise ops on floats and integers, as `docs/numerics.md` states them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.numerics.probes import (
    FLOAT_TYPES,
    INF,
    LIMITS,
    NAN,
    SIZES,
    Limits,
    Probe,
    check,
    check_sizes,
    each,
    probe,
)
from tfc.ir import arrays
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Value
from tfc.ir.types import BOOL, F32, INTS, DType

Fact = tuple[Callable[..., Any], Sequence[Sequence[Any]], Sequence[Any]]


def op(name: str, **attrs: Any) -> Callable[..., Any]:
    return lambda b, *xs: b.op(name, *xs, **attrs).result


def scalar(b: GraphBuilder, value: float, x: Value) -> Value:
    return b.constant(value, tensor_type(x).dtype)


def unary_floats(t: Limits) -> dict[str, Fact]:
    """One operand, and what comes of it."""
    rows: dict[tuple[str, str], tuple[dict[str, Any], list[float], list[float]]] = {
        ("relu", "NaN and infinities"): (
            {}, [NAN, INF, -INF, t.tiny, -t.tiny, t.max], [NAN, INF, 0.0, t.tiny, 0.0, t.max]),
        ("clamp", "NaN and infinities"): (
            {"lo": -1.0, "hi": 2.0}, [NAN, INF, -INF, t.tiny, -t.tiny],
            [NAN, 2, -1, t.tiny, -t.tiny]),
        ("clamp", "one bound"): ({"lo": 0.5}, [NAN, INF, -INF, 0], [NAN, INF, 0.5, 0.5]),
        ("leaky_relu", "infinities"): (
            {"alpha": 0.5}, [NAN, INF, -INF, -0.0], [NAN, INF, -INF, -0.0]),
        ("thresholded_relu", "NaN"): ({"alpha": 1.0}, [NAN, INF, -INF, 1], [NAN, INF, 0, 0]),
        ("selu", "zeros"): ({}, [NAN, INF, 0.0, -0.0], [NAN, INF, 0.0, -0.0]),
        ("elu", "the far end"): ({"alpha": 2.0}, [NAN, INF, -INF, -0.0], [NAN, INF, -2.0, -0.0]),
        ("celu", "the far end"): ({"alpha": 2.0}, [NAN, INF, -INF, -0.0], [NAN, INF, -2.0, -0.0]),
        ("hard_sigmoid", "infinities"): (
            {"alpha": 0.25, "beta": 0.5}, [NAN, INF, -INF, 0], [NAN, 1, 0, 0.5]),
        ("sigmoid", "infinities"): ({}, [NAN, INF, -INF, 0, -0.0], [NAN, 1, 0, 0.5, 0.5]),
        ("silu", "minus infinity is NaN, zeros"): (
            {}, [NAN, INF, 0.0, -0.0], [NAN, INF, 0.0, -0.0]),
        ("gelu", "zeros"): ({"approximate": "none"}, [NAN, INF, 0.0, -0.0], [NAN, INF, 0.0, -0.0]),
        ("gelu", "zeros by tanh"): (
            {"approximate": "tanh"}, [NAN, INF, 0.0, -0.0], [NAN, INF, 0.0, -0.0]),
        ("softplus", "infinities"): ({}, [NAN, INF, -INF], [NAN, INF, 0.0]),
        ("tanh", "infinities"): (
            {}, [NAN, INF, -INF, 0.0, -0.0, t.tiny], [NAN, 1, -1, 0.0, -0.0, t.tiny]),
        ("erf", "infinities"): ({}, [NAN, INF, -INF, 0.0, -0.0], [NAN, 1, -1, 0.0, -0.0]),
        ("exp", "the ends"): (
            {}, [NAN, INF, -INF, 0.0, -0.0, 2e4, -2e4], [NAN, INF, 0, 1, 1, INF, 0]),
        ("expm1", "the ends"): ({}, [NAN, INF, -INF, 0.0, -0.0], [NAN, INF, -1, 0.0, -0.0]),
        ("log", "the domain"): (
            {}, [NAN, INF, -INF, 0.0, -0.0, -1, 1], [NAN, INF, NAN, -INF, -INF, NAN, 0]),
        ("log1p", "the domain"): (
            {}, [NAN, INF, -1, -2, 0.0, -0.0], [NAN, INF, -INF, NAN, 0.0, -0.0]),
        ("sqrt", "the domain"): (
            {}, [NAN, INF, -INF, -1, 0.0, -0.0, 4], [NAN, INF, NAN, NAN, 0.0, -0.0, 2]),
        ("sin", "no angle at infinity"): (
            {}, [NAN, INF, -INF, 0.0, -0.0], [NAN, NAN, NAN, 0.0, -0.0]),
        ("cos", "no angle at infinity"): ({}, [NAN, INF, -INF, 0.0, -0.0], [NAN, NAN, NAN, 1, 1]),
        ("asin", "the domain"): ({}, [NAN, 1.5, -INF, 0.0, -0.0], [NAN, NAN, NAN, 0.0, -0.0]),
        ("acosh", "the domain"): ({}, [NAN, INF, 0.5, 1], [NAN, INF, NAN, 0]),
        ("atanh", "the domain"): ({}, [NAN, 1, -1, 2, 0.0, -0.0], [NAN, INF, -INF, NAN, 0.0, -0.0]),
        ("sinh", "the ends"): ({}, [NAN, INF, -INF, 0.0, -0.0], [NAN, INF, -INF, 0.0, -0.0]),
        ("cosh", "the ends"): ({}, [NAN, INF, -INF, 0.0, -0.0], [NAN, INF, INF, 1, 1]),
        ("abs", "signs"): ({}, [NAN, -INF, -0.0, -t.tiny, -t.max], [NAN, INF, 0.0, t.tiny, t.max]),
        ("neg", "signs"): ({}, [NAN, -INF, -0.0, 0.0, t.tiny], [NAN, INF, 0.0, -0.0, -t.tiny]),
        ("sign", "zeros and NaN"): (
            {}, [NAN, INF, -INF, 0.0, -0.0, t.tiny, -t.tiny], [NAN, 1, -1, 0.0, -0.0, 1, -1]),
        ("round", "half to even"): (
            {}, [NAN, INF, -INF, 0.5, -0.5, 1.5, 2.5, -2.5, -0.0, -0.25, t.tiny],
            [NAN, INF, -INF, 0.0, -0.0, 2, 2, -2, -0.0, -0.0, 0.0]),
        ("floor", "zeros"): (
            {}, [NAN, -INF, -0.0, 0.5, -0.5, -t.tiny], [NAN, -INF, -0.0, 0.0, -1, -1]),
        ("ceil", "zeros"): ({}, [NAN, INF, -0.0, 0.5, -0.5, t.tiny], [NAN, INF, -0.0, 1, -0.0, 1]),
        ("isnan", "of all"): ({}, [NAN, INF, -INF, 0, t.tiny], [1, 0, 0, 0, 0]),
        ("isinf", "of all"): ({}, [NAN, INF, -INF, t.max], [0, 1, 1, 0]),
    }  # fmt: skip
    return {
        f"{name}, {what}": (op(name, **attrs), [x], want)
        for (name, what), (attrs, x, want) in rows.items()
    }


def binary_floats(t: Limits) -> dict[str, Fact]:
    """Two operands."""
    above = 1 + t.eps
    rows: dict[tuple[str, str], tuple[list[float], list[float], list[float]]] = {
        ("min", "NaN wins"): (
            [NAN, 1, INF, -INF, t.tiny], [1, NAN, 2, 2, 0], [NAN, NAN, 2, -INF, 0]),
        ("max", "NaN wins"): (
            [NAN, 1, INF, -INF, t.tiny], [1, NAN, 2, 2, 0], [NAN, NAN, INF, 2, t.tiny]),
        ("add", "zeros, infinities, overflow, denormals"): (
            [0.0, -0.0, -0.0, INF, t.max, t.tiny, t.normal],
            [-0.0, 0.0, -0.0, -INF, t.max, t.tiny, -t.tiny],
            [0.0, 0.0, -0.0, NAN, INF, 2 * t.tiny, t.normal - t.tiny]),
        ("add", "ties go to even"): ([1, above], [t.eps / 2, t.eps / 2], [1, 1 + 2 * t.eps]),
        ("sub", "zeros, infinities, overflow"): (
            [0.0, -0.0, 1, INF, -t.max, 2 * t.normal],
            [0.0, 0.0, 1, INF, t.max, 2 * t.normal - t.tiny * 4],
            [0.0, -0.0, 0.0, NAN, -INF, 4 * t.tiny]),
        ("mul", "zeros, infinities, underflow"): (
            [0.0, -0.0, 0.0, INF, t.max, t.tiny, t.normal, -t.tiny],
            [-1, 5, INF, -0.0, 2, 0.5, 0.5, 0.5],
            [-0.0, -0.0, NAN, NAN, INF, 0.0, t.normal / 2, -0.0]),
        ("div", "zeros, infinities"): (
            [0.0, 1, -1, 1, 0.0, INF, 1, t.tiny, t.max],
            [0.0, 0.0, 0.0, -0.0, -5, INF, -INF, 2, 0.5],
            [NAN, INF, -INF, -INF, -0.0, NAN, -0.0, 0.0, INF]),
        ("pow", "as in C"): (
            [NAN, 1, 0.0, -0.0, 0.0, -0.0, -0.0, -INF, -INF, -1, -1, -2, 2, 0.5, -8, INF],
            [0, NAN, -1, -1, -2, 3, 0.5, 3, -3, INF, 0.5, 3, -INF, INF, 1 / 3, -1],
            [1, 1, INF, -INF, INF, -0.0, 0.0, -INF, -0.0, 1, NAN, -8, 0, 0, NAN, 0]),
        ("rem", "the sign of x"): (
            [7, -7, 7, -6, 5, INF, 1, -0.0, t.tiny], [3, 3, -3, 3, INF, 2, 0, 3, 1],
            [1, -1, 1, -0.0, 5, NAN, NAN, -0.0, t.tiny]),
        ("mod", "the sign of y"): (
            [7, -7, 7, -6, 6, INF, 1, 0.0, 5], [3, 3, -3, 3, -3, 2, 0, -3, INF],
            [1, 2, -2, 0.0, -0.0, NAN, NAN, -0.0, 5]),
        ("eq", "NaN and zeros"): (
            [NAN, NAN, 0.0, INF, t.tiny], [NAN, 1, -0.0, INF, 0], [0, 0, 1, 1, 0]),
        ("ne", "NaN and zeros"): (
            [NAN, NAN, 0.0, INF, t.tiny], [NAN, 1, -0.0, INF, 0], [1, 1, 0, 0, 1]),
        ("lt", "NaN"): ([NAN, 1, -INF, 0.0, -t.tiny], [1, NAN, INF, -0.0, 0], [0, 0, 1, 0, 1]),
        ("le", "NaN"): ([NAN, 1, -INF, 0.0, INF], [1, NAN, INF, -0.0, INF], [0, 0, 1, 1, 1]),
        ("gt", "NaN"): ([NAN, 1, INF, 0.0, t.tiny], [1, NAN, -INF, -0.0, 0], [0, 0, 1, 0, 1]),
        ("ge", "NaN"): ([NAN, 1, INF, 0.0, -INF], [1, NAN, -INF, -0.0, -INF], [0, 0, 1, 1, 1]),
        ("prelu", "slopes"): ([NAN, -INF, -0.0, INF], [2, 2, 2, 0.5], [NAN, -INF, -0.0, INF]),
    }  # fmt: skip
    return {f"{n}, {what}": (op(n), [x, y], want) for (n, what), (x, y, want) in rows.items()}


def composed_floats(t: Limits) -> dict[str, Fact]:
    """What rewrites and fusion must leave alone."""

    def clipped(b: GraphBuilder, x: Value) -> Value:
        return b.relu(b.clamp(x, lo=-1.0, hi=6.0))  # type: ignore[no-any-return]

    def narrowed(b: GraphBuilder, x: Value) -> Value:
        low, high = scalar(b, -1.0, x), scalar(b, 1.0, x)
        return b.min(b.max(x, low), high)  # type: ignore[no-any-return]

    def guarded(b: GraphBuilder, x: Value) -> Value:
        """The side not taken divides by 0."""
        some = b.ne(x, scalar(b, 0.0, x))
        return b.select(some, b.div(scalar(b, 1.0, x), x), scalar(b, 0.0, x))  # type: ignore[no-any-return]

    def without_nan(b: GraphBuilder, x: Value) -> Value:
        return b.select(b.isnan(x), scalar(b, 0.0, x), x)  # type: ignore[no-any-return]

    def masked(b: GraphBuilder, x: Value) -> Value:
        mask = b.cast(b.gt(x, scalar(b, 0.0, x)), dtype=tensor_type(x).dtype)
        return b.mul(x, mask)  # type: ignore[no-any-return]

    def not_less(b: GraphBuilder, x: Value) -> Value:
        return b.op("not", b.lt(x, scalar(b, 0.0, x))).result  # type: ignore[no-any-return]

    def rounded(b: GraphBuilder, x: Value) -> Value:
        """A sum so large that fractions do not fit, and back: a way to round."""
        large = scalar(b, 1.5 / t.eps, x)
        return b.sub(b.add(x, large), large)  # type: ignore[no-any-return]

    def scaled(first: float, second: float) -> Callable[[GraphBuilder, Value], Value]:
        return lambda b, x: b.mul(b.mul(x, scalar(b, first, x)), scalar(b, second, x))

    def divided(b: GraphBuilder, x: Value) -> Value:
        return b.mul(b.div(x, scalar(b, 2.0**-10, x)), scalar(b, 2.0**-10, x))  # type: ignore[no-any-return]

    def power(exponent: float) -> Callable[[GraphBuilder, Value], Value]:
        return lambda b, x: b.pow(x, scalar(b, exponent, x))

    return {
        "relu of clamp": (clipped, [[NAN, INF, -INF, 3, -0.5]], [NAN, 6, 0, 3, 0]),
        "min of max": (narrowed, [[NAN, INF, -INF, 0.5]], [NAN, 1, -1, 0.5]),
        "x * 0": (
            lambda b, x: b.mul(x, scalar(b, 0.0, x)),
            [[NAN, INF, -INF, 1, -1]], [NAN, NAN, NAN, 0.0, -0.0]),
        "x - x": (lambda b, x: b.sub(x, x), [[NAN, INF, -INF, 1, -0.0]], [NAN, NAN, NAN, 0.0, 0.0]),
        "x / x": (lambda b, x: b.div(x, x), [[NAN, INF, 0, -2, t.tiny]], [NAN, NAN, NAN, 1, 1]),
        "0 - x": (
            lambda b, x: b.sub(scalar(b, 0.0, x), x), [[0.0, -0.0, 1, INF]], [0.0, 0.0, -1, -INF]),
        "x - 0": (lambda b, x: b.sub(x, scalar(b, 0.0, x)), [[0.0, -0.0, INF]], [0.0, -0.0, INF]),
        "x + -0": (lambda b, x: b.add(x, scalar(b, -0.0, x)), [[0.0, -0.0, INF]], [0.0, -0.0, INF]),
        "x = x": (lambda b, x: b.eq(x, x), [[NAN, INF, 0.0]], [0, 1, 1]),
        "not x < 0": (not_less, [[NAN, -1, 0.0, -0.0]], [1, 0, 1, 1]),
        "1 / x or 0": (guarded, [[0.0, -0.0, 2, INF, NAN]], [0.0, 0.0, 0.5, 0.0, NAN]),
        "0 for NaN": (without_nan, [[NAN, INF, -0.0, 1]], [0.0, INF, -0.0, 1]),
        "a mask is no choice": (masked, [[-INF, NAN, INF, -1, 2]], [NAN, NAN, INF, -0.0, 2]),
        "max with -inf": (
            lambda b, x: b.max(x, scalar(b, -INF, x)), [[NAN, -INF, 1]], [NAN, -INF, 1]),
        "max with NaN": (
            lambda b, x: b.max(x, scalar(b, NAN, x)), [[NAN, -INF, 1]], [NAN, NAN, NAN]),
        "x + inf - inf": (
            lambda b, x: b.sub(b.add(x, scalar(b, INF, x)), scalar(b, INF, x)), [[0, INF]],
            [NAN, NAN]),
        "rounding by a large sum": (rounded, [[0.5, 1.5, 2.5, -0.25, 3]], [0.0, 2, 2, 0.0, 3]),
        "0 times large constants": (scaled(1000.0, 1000.0), [[0.0, -0.0, NAN]], [0.0, -0.0, NAN]),
        "1 times small constants": (
            scaled(2.0**-8, 2.0**-8), [[1, 256, INF]], [2.0**-16, 2.0**-8, INF]),
        "divided and multiplied": (divided, [[0.0, 3, NAN, INF]], [0.0, 3, NAN, INF]),
        "power 0": (power(0.0), [[NAN, INF, 0.0]], [1, 1, 1]),
        "power 2": (power(2.0), [[NAN, -INF, -0.0, -3]], [NAN, INF, 0.0, 9]),
        "power 3": (power(3.0), [[NAN, -INF, -0.0, -3]], [NAN, -INF, -0.0, -27]),
        "power 1/2": (power(0.5), [[NAN, INF, -INF, -0.0, -4, 4]], [NAN, INF, INF, 0.0, NAN, 2]),
        "power -1": (power(-1.0), [[NAN, INF, 0.0, -0.0, 4]], [NAN, 0.0, INF, -INF, 0.25]),
        "inf * 0 by silu": (
            lambda b, x: b.mul(x, b.sigmoid(x)), [[NAN, INF, -0.0]], [NAN, INF, -0.0]),
        "log of exp": (lambda b, x: b.log(b.exp(x)), [[NAN, INF, -INF, 0]], [NAN, INF, -INF, 0]),
        "sqrt of square": (lambda b, x: b.sqrt(b.mul(x, x)), [[t.max, -3, -0.0]], [INF, 3, 0.0]),
    }  # fmt: skip


def integer_facts(dtype: DType) -> dict[str, Fact]:
    """Wrapping, truncating, dividing by 0, shifting too far."""
    info = np.iinfo(arrays.numpy_dtype(dtype))
    top, low, bits = int(info.max), int(info.min), dtype.bits
    facts: dict[str, Fact] = {
        "add wraps": (op("add"), [[top, 1], [1, 2]], [low, 3]),
        "sub wraps": (op("sub"), [[low, 5], [1, 2]], [top, 3]),
        "mul wraps": (op("mul"), [[top, 3], [2, 4]], [-2 if low else top - 1, 12]),
        "div by 0 is 0": (op("div"), [[top, low, 0, 7], [0, 0, 0, 2]], [0, 0, 0, 3]),
        "rem by 0 is x": (op("rem"), [[top, low, 0, 7], [0, 0, 0, 2]], [top, low, 0, 1]),
        "mod by 0 is 0": (op("mod"), [[top, low, 0, 7], [0, 0, 0, 2]], [0, 0, 0, 1]),
        "pow wraps": (op("pow"), [[2, 3, 0, top], [bits, 2, 0, 1]], [0, 9, 1, top]),
        "min": (op("min"), [[low, top], [top, low]], [low, low]),
        "max": (op("max"), [[low, top], [top, low]], [top, top]),
        "lt": (op("lt"), [[low, top, 1], [top, low, 1]], [1, 0, 0]),
        "ge": (op("ge"), [[low, top, 1], [top, low, 1]], [0, 1, 1]),
        "shl by the width is 0": (op("shl"), [[1, 1, top], [bits - 1, bits, bits + 1]], [
            low or 1 << (bits - 1), 0, 0]),
        "shr by the width is 0": (op("shr"), [[top, top, top], [bits - 2, bits, bits + 1]], [
            top >> (bits - 2), 0, 0]),
        "x - x": (lambda b, x: b.sub(x, x), [[low, top, 3]], [0, 0, 0]),
        "x / x": (lambda b, x: b.div(x, x), [[low, top, 0]], [1 if low else 0, 1, 0]),
        "x * 2 * 2": (
            lambda b, x: b.mul(b.mul(x, scalar(b, 2, x)), scalar(b, 2, x)),
            [[top, low, 3]], [-4 if low else top - 3, 0, 12]),
        "x + top - top": (
            lambda b, x: b.sub(b.add(x, scalar(b, top, x)), scalar(b, top, x)),
            [[low, top, 5]], [low, top, 5]),
        "as f32 and back": (
            lambda b, x: b.cast(b.cast(x, dtype=F32), dtype=dtype), [[low, 0, 100]], [low, 0, 100]),
    }  # fmt: skip
    if low:
        facts |= {
            "neg of the least wraps": (op("neg"), [[low, top]], [low, -top]),
            "abs of the least wraps": (op("abs"), [[low, -5]], [low, 5]),
            "the least over -1 wraps": (op("div"), [[low, -7, 7], [-1, 2, -2]], [low, -3, -3]),
            "rem of the least by -1": (op("rem"), [[low, -7, 7], [-1, 2, -2]], [0, -1, 1]),
            "mod of the least by -1": (op("mod"), [[low, -7, 7], [-1, 2, -2]], [0, 1, -1]),
            "shr of negatives": (op("shr"), [[low, -1, low], [bits - 1, bits, bits + 1]], [-1] * 3),
            "shifts by negatives": (op("shl"), [[1, 3], [-1, low]], [0, 0]),
            "pow to negatives": (op("pow"), [[2, 1, -1, -1], [-1, -1, -1, -2]], [0, 1, -1, 1]),
            "sign": (op("sign"), [[low, top, 0]], [-1, 1, 0]),
            "relu": (op("relu"), [[low, top, 0]], [0, top, 0]),
        }
    else:
        facts["neg wraps"] = (lambda b, x: b.sub(scalar(b, 0, x), x), [[1, 0]], [top, 0])
    return facts


def _probes(facts: dict[str, Fact], dtype: DType, size: int) -> list[Probe]:
    found = []
    for label, (make, operands, want) in facts.items():
        # Each size starts somewhere else, so that every number comes to stand in a tail.
        lanes = (np.arange(size) + 3 * size) % len(want)
        inputs = [[x[i] for i in lanes] for x in operands]
        wanted = [want[i] for i in lanes]
        any_zero = label.startswith(("relu", "clamp", "min", "max", "prelu", "hard"))
        found.append(
            probe(f"{label} of {size}", make, inputs, wanted, dtype=dtype, any_zero=any_zero)
        )
    return found


def _hold(facts: dict[str, Fact], dtype: DType) -> None:
    check_sizes([_probes(facts, dtype, size) for size in SIZES])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [*FLOAT_TYPES, *INTS], ids=str)
def test_facts_hold_in_programs_for_fixed_sizes(dtype: DType) -> None:
    if dtype.is_int:
        facts = integer_facts(dtype)
    else:
        t = LIMITS[dtype]
        facts = unary_floats(t) | binary_floats(t) | composed_floats(t)
    check([p for size in SIZES for p in _probes(facts, dtype, size)])


@each(*FLOAT_TYPES)
def test_float_facts_hold_interpreted_and_compiled(dtype: DType) -> None:
    t = LIMITS[dtype]
    _hold(unary_floats(t) | binary_floats(t), dtype)


@each(*FLOAT_TYPES)
def test_rewrites_and_fusion_change_no_special_number(dtype: DType) -> None:
    _hold(composed_floats(LIMITS[dtype]), dtype)


@each(*INTS)
def test_integer_facts_hold_interpreted_and_compiled(dtype: DType) -> None:
    _hold(integer_facts(dtype), dtype)


def test_bools_count_as_bits() -> None:
    both = [[0, 0, 1, 1], [0, 1, 0, 1]]
    facts: dict[str, Fact] = {
        "and": (op("and"), both, [0, 0, 0, 1]),
        "or": (op("or"), both, [0, 1, 1, 1]),
        "xor": (op("xor"), both, [0, 1, 1, 0]),
        "eq": (op("eq"), both, [1, 0, 0, 1]),
        "not": (op("not"), [[0, 1]], [1, 0]),
    }
    _hold(facts, BOOL)
