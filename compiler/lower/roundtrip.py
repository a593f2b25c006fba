"""Whole numbers that a kernel makes a byte of, and reads as a float again, stay floats.

What is stored elsewhere is not known here; bit for bit the element is the same.
"""

from __future__ import annotations

from tfc.compiler.lower.compose import Nest, rewritten
from tfc.ir.body import Apply, Expr, Number
from tfc.ir.types import BOOL, F32, I8, I32, U8

_SMALL = 1 << 16


def keep_floats(nest: Nest) -> Nest:
    """Return an equal nest without casts to bytes and back."""
    return rewritten(nest, _reread) if len(nest.outputs) == 1 else nest


def _reread(node: Expr) -> Expr | None:
    if isinstance(node, Apply) and node.name == "cast" and node.dtype == F32:
        (source,) = node.args
        return _as_float(source) if source.dtype.is_int else None
    return None


def _as_float(expr: Expr) -> Expr | None:
    """An expression in f32 of the same whole number, where a float was its source."""
    if not isinstance(expr, Apply):
        return None
    if expr.name == "cast":
        (source,) = expr.args
        if source.dtype == F32:
            # A cast of NaN to i8 is no limit of i8.
            return _clamp(source, 0, 255) if expr.dtype == U8 and _is_whole(source) else None
        widened = source.dtype.is_int and source.dtype.bits < expr.dtype.bits
        lowered = expr.dtype == I8 and _is_lowered(source)
        return _as_float(source) if widened or lowered else None
    if expr.name in ("add", "sub") and expr.dtype == I32:
        left, right = expr.args
        number = whole_number(right)
        inner = _as_float(left) if number is not None else None
        return None if inner is None or number is None else _moved(expr.name, inner, number)
    return None


def _is_lowered(expr: Expr) -> bool:
    """Whether the number is one of u8 less 128, which no cast to i8 changes."""
    if not isinstance(expr, Apply) or expr.name != "sub":
        return False
    wide, number = expr.args
    byte = isinstance(wide, Apply) and wide.name == "cast" and wide.args[0].dtype == U8
    return byte and isinstance(number, Number) and number.value == 128


def _moved(name: str, inner: Expr, number: int) -> Expr:
    """inner + number or inner - number; what undoes the addition inside of a limit goes into it."""
    step = number if name == "add" else -number
    limits = limits_of(inner)
    if limits is not None:
        source, low, high = limits
        plain = _less(source, -step)
        if plain is not None:
            return _clamp(plain, low + step, high + step)
    return Apply("add", (inner, Number(float(step), F32)), F32)


def whole_number(expr: Expr) -> int | None:
    """A literal that is a whole number, and small enough to be exact in sums with bytes."""
    if not isinstance(expr, Number) or isinstance(expr.value, complex):
        return None
    return int(expr.value) if float(expr.value).is_integer() and abs(expr.value) < _SMALL else None


def _clamp(x: Expr, low: int, high: int) -> Expr:
    """x within limits; NaN becomes the lower one, as it does in a cast to u8."""
    for name, limit in (("gt", low), ("lt", high)):
        number = Number(float(limit), F32)
        x = Apply("select", (Apply(name, (x, number), BOOL), x, number), F32)
    return x


def limits_of(expr: Expr) -> tuple[Expr, int, int] | None:
    """The operand and the limits of what `_clamp` made."""
    found: list[int] = []
    for name in ("lt", "gt"):
        if not isinstance(expr, Apply) or expr.name != "select":
            return None
        test, x, number = expr.args
        same = isinstance(test, Apply) and test.name == name and test.args == (x, number)
        limit = whole_number(number)
        if not same or limit is None:
            return None
        found.append(limit)
        expr = x
    high, low = found
    return expr, low, high


def _less(expr: Expr, number: int) -> Expr | None:
    """What `number` was added to, or the expression itself where it is 0."""
    if number == 0:
        return expr
    if isinstance(expr, Apply) and expr.name == "add":
        left, right = expr.args
        if isinstance(right, Number) and right.value == number:
            return left
    return None


def _is_whole(expr: Expr) -> bool:
    """Whether the float is an integer, NaN or infinite."""
    if not isinstance(expr, Apply):
        return whole_number(expr) is not None
    if expr.name in ("round", "floor", "ceil", "trunc"):
        return True
    if expr.name in ("add", "sub", "min", "max"):
        return all(map(_is_whole, expr.args))
    return expr.name == "select" and all(map(_is_whole, expr.args[1:]))
