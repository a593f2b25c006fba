"""What is rounded of a sum or product of two dequantised numbers takes two multiply-adds.

There are as many such numbers as pairs of bytes. Which factors round each pair as the scales do is
tried here, so that not a bit of the result changes; where none do, all stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tfc.compiler.lower.compose import Nest, rewritten
from tfc.compiler.lower.roundtrip import limits_of, whole_number
from tfc.ir.body import Apply, Expr, Number
from tfc.ir.types import F32, I8, I32, U8

Floats: TypeAlias = npt.NDArray[np.float32]

# A pair is one of this many at most, and a result no larger than that.
MOST_PAIRS, MOST_RESULT = 1 << 17, 1 << 16
# Factors are tried up to so many steps away from the quotient of the scales.
AWAY = 12
# The scales for which nothing leaves the range of normal floats; how far apart they may be for
# a sum of two products to be exact in f64.
LEAST_SCALE, MOST_SCALE, APART = 2.0**-60, 2.0**60, 2.0**16


@dataclass(frozen=True)
class Whole:
    """Whole numbers in f32 from lo to hi: `source` less `zero`."""

    source: Expr
    zero: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Term:
    """`number`, which is the expression `whole`, times `scale`."""

    number: Whole
    whole: Expr
    scale: float


@dataclass(frozen=True)
class Problem:
    """round((a * x op b * y) / c) for all x and y, which are whole numbers within limits.

    times: 1 / c is a factor c instead. zeros: what is taken from a byte for x and y.
    """

    op: str
    a: float
    b: float
    c: float
    times: bool
    x: tuple[int, int]
    y: tuple[int, int]
    zeros: tuple[int, int]


@dataclass(frozen=True)
class Sum:
    """first * x + (second * y + rest) of the bytes; of y and x where they are `turned`."""

    first: float
    second: float
    rest: float
    turned: bool


@dataclass(frozen=True)
class Scaled:
    """What is rounded as one product, by `factor`: of the sum as it was, or of x * y."""

    factor: float


def with_fewer_steps(nest: Nest) -> Nest:
    """Return a nest that computes the same numbers."""

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Apply) or node.name != "round" or node.dtype != F32:
            return None
        inner = _shorter(node.args[0])
        return None if inner is None else Apply("round", (inner,), F32)

    return rewritten(nest, change)


def _shorter(expr: Expr) -> Expr | None:
    if not isinstance(expr, Apply) or expr.name not in ("div", "mul"):
        return None
    both, last = expr.args
    c = _number(last)
    if c is None or not isinstance(both, Apply) or both.name not in ("add", "sub", "mul"):
        return None
    x, y = (_term(arg) for arg in both.args)
    if x is None or y is None:
        return None
    problem = Problem(
        both.name, x.scale, y.scale, c, expr.name == "mul",
        (x.number.lo, x.number.hi), (y.number.lo, y.number.hi),
        (x.number.zero, y.number.zero),
    )  # fmt: skip
    found = solve(problem)
    if found is None:
        return None
    if isinstance(found, Scaled):
        whole = both if both.name != "mul" else Apply("mul", (x.whole, y.whole), F32)
        return Apply("mul", (whole, Number(found.factor, F32)), F32)
    outer, inner = (y, x) if found.turned else (x, y)
    product = inner.number.source, Number(found.second, F32)
    rest = Apply("fma", (*product, Number(found.rest, F32)), F32)
    if found.rest == 0:
        rest = Apply("mul", product, F32)
    return Apply("fma", (outer.number.source, Number(found.first, F32), rest), F32)


def _number(expr: Expr) -> float | None:
    if not isinstance(expr, Number) or isinstance(expr.value, complex):
        return None
    value = float(np.float32(expr.value))
    return value if LEAST_SCALE <= abs(value) <= MOST_SCALE else None


def _term(expr: Expr) -> Term | None:
    if isinstance(expr, Apply) and expr.name == "mul":
        for whole, scale in (expr.args, expr.args[::-1]):
            number, factor = _whole(whole), _number(scale)
            if number is not None and factor is not None:
                return Term(number, whole, factor)
        return None
    number = _whole(expr)
    return None if number is None else Term(number, expr, 1.0)


def _whole(expr: Expr) -> Whole | None:
    """A byte as a float, less a whole number; or a whole number within limits."""
    if not isinstance(expr, Apply) or expr.dtype != F32:
        return None
    limits = limits_of(expr)
    if limits is not None:
        source, lo, hi = limits
        rounded = isinstance(source, Apply) and source.name == "round"
        return Whole(expr, 0, lo, hi) if rounded else None
    if expr.name != "cast":
        return None
    (source,) = expr.args
    zero = 0
    if isinstance(source, Apply) and source.name == "sub" and source.dtype == I32:
        source, number = source.args
        value = whole_number(number)
        if value is None:
            return None
        zero = value
    if isinstance(source, Apply) and source.name == "cast" and source.dtype == I32:
        (source,) = source.args
    if source.dtype not in (U8, I8):
        return None
    low = 0 if source.dtype == U8 else -128
    return Whole(Apply("cast", (source,), F32), zero, low - zero, low + 255 - zero)


# -- which factors ------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def solve(problem: Problem) -> Sum | Scaled | None:
    """Return factors by which every pair is rounded as it would be by the scales."""
    (x_lo, x_hi), (y_lo, y_hi) = problem.x, problem.y
    if (x_hi - x_lo + 1) * (y_hi - y_lo + 1) > MOST_PAIRS or max(map(abs, problem.zeros)) > 255:
        return None
    x, y = (
        grid.ravel()
        for grid in np.meshgrid(
            np.arange(x_lo, x_hi + 1, dtype=np.float32), np.arange(y_lo, y_hi + 1, dtype=np.float32)
        )
    )
    wanted, exact = _rounded(problem, x, y), _exact(problem, x, y)
    if np.abs(exact).max() > MOST_RESULT:
        return None
    # Only where a half is near can factors matter.
    to_half = np.abs(np.abs(exact - np.trunc(exact)) - 0.5)
    size = np.abs(_exact(problem, x, 0 * y)) + np.abs(_exact(problem, 0 * x, y)) + np.abs(exact)
    near = to_half < 2.0**-24 * (16 + 4 * AWAY) * (size + 1)
    for found in _candidates(problem, x[near], y[near], wanted[near]):
        if (_by(problem, found, x, y) == wanted).all():
            return found
    return None


def _rounded(problem: Problem, x: Floats, y: Floats) -> Floats:
    """What the scales give, step by step."""
    left, right = x * np.float32(problem.a), y * np.float32(problem.b)
    both = _combined(problem.op, left, right)
    c = np.float32(problem.c)
    found: Floats = np.rint(both * c if problem.times else both / c)
    return found


def _exact(problem: Problem, x: Floats, y: Floats) -> npt.NDArray[np.float64]:
    both = _combined(problem.op, x.astype(np.float64) * problem.a, y.astype(np.float64) * problem.b)
    found: npt.NDArray[np.float64] = both * problem.c if problem.times else both / problem.c
    return found


def _combined(op: str, left: Any, right: Any) -> Any:
    match op:
        case "add":
            return left + right
        case "sub":
            return left - right
        case _:
            return left * right


def _candidates(problem: Problem, x: Floats, y: Floats, wanted: Floats) -> Iterator[Sum | Scaled]:
    """Factors that round the given pairs as wanted, those that take the fewest steps first."""
    inverse = problem.c if problem.times else 1 / problem.c
    if problem.op == "mul":
        for factor in _around(problem.a * problem.b * inverse):
            if (np.rint((x * y) * factor) == wanted).all():
                yield Scaled(float(factor))
        return
    a, b = problem.a * inverse, problem.b * inverse * (-1 if problem.op == "sub" else 1)
    if max(abs(a), abs(b)) <= APART * min(abs(a), abs(b)):
        for turned in (False, True):
            first, second = (b, a) if turned else (a, b)
            pair = (y, x) if turned else (x, y)
            zeros = problem.zeros[::-1] if turned else problem.zeros
            yield from _sums(first, second, zeros, pair, wanted, turned)
    both = _combined(problem.op, x * np.float32(problem.a), y * np.float32(problem.b))
    for factor in _around(inverse):
        if (np.rint(both * factor) == wanted).all():
            yield Scaled(float(factor))


def _sums(
    first: float,
    second: float,
    zeros: tuple[int, int],
    pair: tuple[Floats, Floats],
    wanted: Floats,
    turned: bool,
) -> Iterator[Sum]:
    rest = _multiple(-first * zeros[0] - second * zeros[1], min(abs(first), abs(second)))
    outer, inner = (number + np.float32(zero) for number, zero in zip(pair, zeros, strict=True))
    firsts, seconds = _around(first), _around(second)
    product = _fused(inner[None], seconds[:, None], rest)
    for each in firsts:
        good = (np.rint(_fused(outer[None], each, product)) == wanted).all(axis=1)
        for at in np.flatnonzero(good):
            yield Sum(float(each), float(seconds[at]), float(rest), turned)


def _multiple(number: float, unit: float) -> np.float32:
    """About `number`, with no bits below those of an f32 like `unit`."""
    step = float(np.spacing(np.float32(unit)))
    close = np.float32(number)
    return np.float32(round(number / step) * step) if np.spacing(abs(close)) < step else close


def _around(number: float) -> Floats:
    """The floats next to a number, the nearest first."""
    middle = np.float32(number)
    steps = sorted(range(-AWAY, AWAY + 1), key=abs)
    found: Floats = (middle + np.array(steps) * float(np.spacing(middle))).astype(np.float32)
    return found


def _fused(x: Any, y: Any, z: Any) -> Floats:
    """x * y + z, rounded once: in f64 it is exact, of bytes and of factors that are not `APART`."""
    found: Floats = (np.multiply(x, y, dtype=np.float64) + z).astype(np.float32)
    return found


def _by(problem: Problem, found: Sum | Scaled, x: Floats, y: Floats) -> Floats:
    """What is computed by the factors."""
    if isinstance(found, Scaled):
        scales = (1.0, 1.0) if problem.op == "mul" else (problem.a, problem.b)
        both = _combined(problem.op, x * np.float32(scales[0]), y * np.float32(scales[1]))
        scaled: Floats = np.rint(both * np.float32(found.factor))
        return scaled
    pairs = (y, problem.zeros[1]), (x, problem.zeros[0])
    outer, inner = (
        number + np.float32(zero) for number, zero in (pairs if found.turned else pairs[::-1])
    )
    rest = _fused(inner, np.float32(found.second), np.float32(found.rest))
    return np.rint(_fused(outer, np.float32(found.first), rest))
