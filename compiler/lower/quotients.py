"""Quotients by a literal that are rounded to whole numbers take no division: three multiply-adds.

With y the reciprocal of c, q = x * y is off by two steps at most, and q + (x - q * c) * y is x / c
before its last rounding, but for 2**-22 of a step. Both round to the same whole number unless x / c
lies as close to what halves two neighbouring floats, one of which is a whole number and a half.
For a given c no x may do so, which is tried here; else the division stays.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np

from tfc.compiler.lower.compose import Nest
from tfc.ir.body import Apply, Expr, Guard, Load, Lookup, Number, Reduce, rewrite
from tfc.ir.dims import product
from tfc.ir.types import F32, DType

# Quotients up to this are tried; the scales for which nothing leaves the range of normal floats.
MOST_QUOTIENT, LEAST_SCALE, MOST_SCALE = 1 << 12, 2.0**-60, 2.0**60
# Of a step: closer than this a quotient may be rounded otherwise; in truth it is 2**-22.
CLOSE = 2.0**-20


def without_division(nest: Nest) -> Nest:
    """Return a nest that computes the same numbers, with fewer divisions."""
    bounds = _Bounds()

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Apply) or node.name != "round" or node.dtype != F32:
            return None
        (quotient,) = node.args
        if not isinstance(quotient, Apply) or quotient.name != "div":
            return None
        x, scale = quotient.args
        if not isinstance(scale, Number) or isinstance(scale.value, complex):
            return None
        most, c = bounds.of(x), float(np.float32(scale.value))
        if most is None or not LEAST_SCALE <= abs(c) <= MOST_SCALE:
            return None
        if most > MOST_QUOTIENT * abs(c) or not rounds_alike(abs(c)):
            return None
        return Apply("round", (_corrected(x, c),), F32)

    outputs = tuple(replace(o, expr=rewrite(o.expr, change)) for o in nest.outputs)
    same = all(a.expr is b.expr for a, b in zip(outputs, nest.outputs, strict=True))
    return nest if same else replace(nest, outputs=outputs)


def _corrected(x: Expr, c: float) -> Expr:
    inverse = Number(float(np.float32(1) / np.float32(c)), F32)
    q = Apply("mul", (x, inverse), F32)
    rest = Apply("fma", (q, Number(-c, F32), x), F32)
    return Apply("fma", (rest, inverse, q), F32)


@functools.lru_cache(maxsize=1024)
def rounds_alike(c: float) -> bool:
    """Whether no quotient by c is too close to where its rounding changes, next to a half."""
    halves = np.arange(MOST_QUOTIENT + 1, dtype=np.float32) + np.float32(0.5)
    for towards in (np.inf, 0):
        steps = np.abs(np.nextafter(halves, np.float32(towards)) - halves).astype(np.float64)
        between = halves + np.copysign(steps / 2, towards - halves)
        # 25 bits by 24: exact.
        exact = between * c
        nearest = exact.astype(np.float32).astype(np.float64)
        if bool((np.abs(nearest - exact) < CLOSE * steps * c).any()):
            return False
    return True


class _Bounds:
    """What values cannot exceed in magnitude, where that is known; they are no NaN then."""

    def __init__(self) -> None:
        self._known: dict[int, float | None] = {}
        self._alive: list[Expr] = []

    def of(self, expr: Expr) -> float | None:
        if id(expr) not in self._known:
            self._known[id(expr)] = self._of(expr)
            self._alive.append(expr)
        return self._known[id(expr)]

    def _of(self, expr: Expr) -> float | None:
        match expr:
            case Number():
                value = expr.value
                known = not isinstance(value, complex) and math.isfinite(value)
                return abs(value) if known else None
            case Load() | Lookup():
                return _limit(expr.dtype)
            case Apply():
                return self._applied(expr)
            case Guard():
                return self._largest(expr.inside, expr.outside)
            case Reduce():
                return self._summed(expr)
            case _:
                return None

    def _largest(self, *exprs: Expr) -> float | None:
        found = [self.of(expr) for expr in exprs]
        known = [bound for bound in found if bound is not None]
        return max(known) if len(known) == len(found) else None

    def _applied(self, expr: Apply) -> float | None:
        if expr.dtype.is_int:
            return _limit(expr.dtype)
        if expr.name == "select":
            return _clamped(expr) or self._largest(*expr.args[1:])
        found = [self.of(arg) for arg in expr.args]
        known = [bound for bound in found if bound is not None]
        if expr.dtype != F32 or len(known) < len(found):
            return None
        match expr.name:
            case "add" | "sub":
                return sum(known)
            case "mul":
                return math.prod(known)
            case "max" | "min":
                return max(known)
            case "cast" | "neg" | "abs":
                return known[0]
            case "round" | "floor" | "ceil" | "trunc":
                return known[0] + 1
            case _:
                return None

    def _summed(self, expr: Reduce) -> float | None:
        if expr.dtype.is_int:
            return _limit(expr.dtype)
        count, each = product(it.extent for it in expr.iters), self.of(expr.body)
        if expr.kind != "sum" or each is None or not isinstance(count, int):
            return None
        # Twice, since partial sums are rounded.
        return 2 * count * each


def _limit(dtype: DType) -> float | None:
    return 2.0**dtype.bits if dtype.is_int else None


def _clamped(expr: Apply) -> float | None:
    """The bound of x limited from both sides by selects of x > low and x < high."""
    bounds = []
    inner: Expr = expr
    for name in ("lt", "gt"):
        if not isinstance(inner, Apply) or inner.name != "select":
            return None
        test, x, number = inner.args
        same = isinstance(test, Apply) and test.name == name and test.args == (x, number)
        if not same or not isinstance(number, Number) or isinstance(number.value, complex):
            return None
        bounds.append(abs(number.value))
        inner = x
    return max(bounds) if all(map(math.isfinite, bounds)) else None
