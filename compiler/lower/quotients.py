"""Quotients by a literal that are rounded to whole numbers take no division: three multiply-adds.

With y the reciprocal of c, q = x * y is off by two steps at most, and q + (x - q * c) * y is x / c
before its last rounding, but for 2**-22 of a step. Both round to the same whole number unless x / c
lies as close to what halves two neighbouring floats, one of which is a whole number and a half.
For a given c no x may do so, which is tried here; else the division stays.
"""

from __future__ import annotations

import functools

import numpy as np

from tfc.compiler.lower.bounds import Bounds
from tfc.compiler.lower.compose import Nest, rewritten
from tfc.ir.body import Apply, Expr, Number
from tfc.ir.types import F32

# Quotients up to this are tried; the scales for which nothing leaves the range of normal floats.
MOST_QUOTIENT, LEAST_SCALE, MOST_SCALE = 1 << 12, 2.0**-60, 2.0**60
# Of a step: closer than this a quotient may be rounded otherwise; in truth it is 2**-22.
CLOSE = 2.0**-20


def without_division(nest: Nest) -> Nest:
    """Return a nest that computes the same numbers, with fewer divisions."""
    bounds = Bounds()

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

    return rewritten(nest, change)


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
