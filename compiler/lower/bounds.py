"""What values of expressions cannot exceed, and tests for NaN that such a value never passes."""

from __future__ import annotations

import math

from tfc.compiler.lower.compose import Nest, rewritten
from tfc.ir.body import Apply, Expr, Guard, Load, Lookup, Number, Reduce
from tfc.ir.dims import product
from tfc.ir.types import F32, DType

MOST = 2.0**120


def without_nan_tests(nest: Nest) -> Nest:
    """Return a nest that computes the same numbers, with fewer tests for NaN."""
    bounds = Bounds()

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Apply) or node.name != "select":
            return None
        test, _, otherwise = node.args
        if not isinstance(test, Apply) or test.name != "isnan":
            return None
        return otherwise if bounds.of(test.args[0]) is not None else None

    return rewritten(nest, change)


class Bounds:
    """What values cannot exceed in magnitude, where that is known.

    They are no NaN and not infinite then.
    """

    def __init__(self) -> None:
        self._known: dict[int, float | None] = {}
        self._alive: list[Expr] = []

    def of(self, expr: Expr) -> float | None:
        if id(expr) not in self._known:
            bound = self._of(expr)
            # Beyond that, what is made of floats may become infinite.
            self._known[id(expr)] = bound if bound is not None and bound < MOST else None
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
            case "fma":
                return known[0] * known[1] + known[2]
            case "div":
                divisor = expr.args[1]
                by_number = isinstance(divisor, Number) and known[1] > 1 / MOST
                return known[0] / known[1] if by_number else None
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
