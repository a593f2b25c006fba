"""Expansions of sin, cos, tan and their inverses.

Arguments are reduced by a split pi/2 in f64, which is exact up to 1e8; beyond that results stay
within their range but mean less and less.
"""

from __future__ import annotations

import math

from tfc.compiler.lower.math_base import Calc, Coefficients
from tfc.ir.core import Value
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.types import F64

# pi/2 in parts: a quotient below 2**27 times one of the first two is exact (Cody and Waite).
HALF_PI = (1.5707963109016418, 1.5893254712295857e-08, 6.123233995736766e-17,
           -1.4973849048591698e-33)  # fmt: skip
# (sin(r) / r - 1) / z and (cos(r) - 1 + z/2) / z**2 in z = r*r, |r| <= pi/4.
SIN_SINGLE = (-0.16666655, 0.008332173, -0.00019516684)
SIN_DOUBLE = (-0.16666666666666632, 0.008333333333322328, -0.00019841269829734223,
              2.7557313664731964e-06, -2.505075363329858e-08, 1.5896524159420965e-10)  # fmt: skip
COS_SINGLE = (0.041666646, -0.0013887363, 2.4437832e-05)
COS_DOUBLE = (0.0416666666666666, -0.001388888888887411, 2.480158728945942e-05,
              -2.755731434255751e-07, 2.087572158668031e-09, -1.1359544729145495e-11)  # fmt: skip
# (asin(s) / s - 1) / z in z = s*s, s <= 0.5625.
ASIN_SINGLE = (0.1666663, 0.07502145, 0.044225503, 0.03405211, 0.0066256975, 0.047607377)
ASIN_DOUBLE = (
    0.1666666666666632, 0.07500000000098356, 0.04464285704574393, 0.030381949276806226,
    0.02237201692851467, 0.017355462166338435, 0.013930074385974064, 0.011865436657361074,
    0.007752722300910568, 0.017531424210599, -0.02178740301297973, 0.06880123040603763,
    -0.07694235482631648, 0.059905620351843526,
)  # fmt: skip
# (atan(t) / t - 1) / z in z = t*t, |t| <= tan(pi/8).
ATAN_SINGLE = (-0.33333316, 0.19998488, -0.14243808, 0.10595588, -0.06082165)
ATAN_DOUBLE = (
    -0.33333333333333204, 0.19999999999954465, -0.14285714280270018, 0.11111110786625787,
    -0.09090897837943629, 0.07692061488888836, -0.06663117079881353, 0.058479749969821616,
    -0.05039654520836911, 0.03807262276953565, -0.017915219697154525,
)  # fmt: skip


def _quadrant(c: Calc, x: Value) -> tuple[Value, Value]:
    """Return r and the word n, with x = n * pi/2 + r and |r| about pi/4 at most.

    f32 is reduced in f64 too: that is not slower than sums of short parts, and reaches further.
    """
    b = c.b
    wide = Calc(b, b.cast(x, F64)) if c.is_single else c
    x = b.cast(x, F64)
    shifted = b.fma(x, wide.number(2 / math.pi), wide.number(wide.format.round_bias))
    n = wide.plus(shifted, -wide.format.round_bias)
    first, second, third, last = HALF_PI
    r = b.fma(n, wide.number(-first), x)
    if c.is_single:
        r = b.fma(n, wide.number(-third), b.fma(n, wide.number(-second), r))
    else:
        # What a part loses goes with the part after it, and what that loses with the last.
        moved, low = _subtracted(c, r, n, second)
        low, lost = _subtracted(c, low, n, third)
        r = b.add(b.add(moved, low), b.fma(n, c.number(-last), lost))
    # Only where x is out of range of the reduction is r far beyond pi/4.
    r = c.at_least(c.at_most(b.cast(r, c.format.dtype), 0.8), -0.8)
    return r, b.cast(wide.bits(shifted), c.format.word)


def _subtracted(c: Calc, r: Value, n: Value, part: float) -> tuple[Value, Value]:
    """r - n * part, rounded, and its error."""
    b = c.b
    moved = b.fma(n, c.number(-part), r)
    return moved, b.fma(n, c.number(-part), b.sub(r, moved))


def _odd_series(c: Calc, r: Value, z: Value, coefficients: Coefficients) -> Value:
    """r + r * z * P(z)."""
    return c.b.fma(c.b.mul(r, z), c.horner(z, coefficients), r)


def _sin_cos(c: Calc, r: Value) -> tuple[Value, Value]:
    """Both functions of a reduced argument."""
    b = c.b
    z = b.mul(r, r)
    sine = _odd_series(c, r, z, SIN_SINGLE if c.is_single else SIN_DOUBLE)
    half = c.scaled(z, 0.5)
    top = b.sub(c.number(1.0), half)
    lost = b.sub(b.sub(c.number(1.0), top), half)
    rest = b.fma(b.mul(z, z), c.horner(z, COS_SINGLE if c.is_single else COS_DOUBLE), lost)
    return sine, b.add(top, rest)


def _is_odd(c: Calc, n: Value) -> Value:
    return c.b.ne(c.b.and_(n, c.word(1)), c.word(0))


def _negated_if(c: Calc, y: Value, n: Value, bit: int) -> Value:
    """y with its sign flipped where that bit of n is set."""
    b = c.b
    moved = b.shl(n, c.word(c.format.dtype.bits - 1 - bit))
    return c.from_bits(b.xor(c.bits(y), b.and_(moved, c.word(c.format.sign_bit))))


def sin(b: LoopBuilder, x: Value) -> Value:
    c = Calc(b, x)
    r, n = _quadrant(c, b.abs(x))
    sine, cosine = _sin_cos(c, r)
    y = b.select(_is_odd(c, n), cosine, sine)
    return c.signed(_negated_if(c, y, n, 1), x)


def cos(b: LoopBuilder, x: Value) -> Value:
    c = Calc(b, x)
    r, n = _quadrant(c, b.abs(x))
    n = b.add(n, c.word(1))
    sine, cosine = _sin_cos(c, r)
    return _negated_if(c, b.select(_is_odd(c, n), cosine, sine), n, 1)


def tan(b: LoopBuilder, x: Value) -> Value:
    c = Calc(b, x)
    r, n = _quadrant(c, b.abs(x))
    sine, cosine = _sin_cos(c, r)
    odd = _is_odd(c, n)
    y = b.div(b.select(odd, cosine, sine), b.select(odd, sine, cosine))
    return c.signed(_negated_if(c, y, n, 0), x)


def _asin_core(c: Calc, x: Value, size: Value) -> tuple[Value, Value]:
    """Return asin(s), where s is |x|, but sqrt((1 - |x|) / 2) where it is far; and whether it is.

    Beyond 0.5625 twice asin(s) is below 1, which keeps its error small in pi/2 minus that.
    """
    b = c.b
    far = c.is_greater(size, 0.5625)
    z = b.select(far, c.scaled(b.sub(c.number(1.0), size), 0.5), b.mul(x, x))
    s = b.select(far, b.sqrt(z), size)
    return _odd_series(c, s, z, ASIN_SINGLE if c.is_single else ASIN_DOUBLE), far


def asin(b: LoopBuilder, x: Value) -> Value:
    """asin(s), or pi/2 - 2 * asin(s) where x is far from 0."""
    c = Calc(b, x)
    high, low = c.format.half_pi_pair
    size = b.abs(x)
    p, far = _asin_core(c, x, size)
    y = b.sub(c.number(high), b.sub(b.add(p, p), c.number(low)))
    return c.keep_tiny(x, size, c.signed(b.select(far, y, p), x))


def acos(b: LoopBuilder, x: Value) -> Value:
    """pi/2 - asin(x); far from 0 twice asin(s), or pi minus that."""
    c = Calc(b, x)
    high, low = c.format.half_pi_pair
    p, far = _asin_core(c, x, b.abs(x))
    negative = c.is_less(x, 0.0)
    near = b.sub(c.number(high), b.sub(c.signed(p, x), c.number(low)))
    below = b.sub(c.number(high), b.sub(p, c.number(low)))
    beyond = b.select(negative, below, p)
    return b.select(far, b.add(beyond, beyond), near)


def atan(b: LoopBuilder, x: Value) -> Value:
    """atan(a / c) + base, where the quotient is |x|, (|x| - 1) / (|x| + 1) or -1 / |x|."""
    c = Calc(b, x)
    high, low = c.format.half_pi_pair
    size = b.abs(x)
    middle = c.is_greater(size, math.sqrt(2) - 1)
    far = c.is_greater(size, math.sqrt(2) + 1)
    one = c.number(1.0)
    above = b.select(far, c.number(-1.0), b.select(middle, b.sub(size, one), size))
    below = b.select(far, size, b.select(middle, b.add(size, one), one))
    t = b.div(above, below)
    p = _odd_series(c, t, b.mul(t, t), ATAN_SINGLE if c.is_single else ATAN_DOUBLE)
    none = c.number(0.0)
    base = b.select(far, c.number(high), b.select(middle, c.number(high / 2), none))
    rest = b.select(far, c.number(low), b.select(middle, c.number(low / 2), none))
    y = b.add(base, b.add(p, rest))
    return c.keep_tiny(x, size, c.signed(y, x))
