"""Expansions of log, log1p, the inverse hyperbolic functions and pow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tfc.compiler.lower.math_base import Calc
from tfc.compiler.lower.math_exp import exp_clamped, power
from tfc.ir.core import Value
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.types import F32, F64

# (log(1 + f) - f + f*f/2) / f**3 on sqrt(1/2) <= 1 + f <= sqrt(2).
LOG_SINGLE = (0.33333316, -0.25000796, 0.20002282, -0.1662497, 0.14181432, -0.13125299,
              0.12879132, -0.078653716)  # fmt: skip
# (log((1 + s) / (1 - s)) / s - 2) / z in z = s*s, s = f / (2 + f), f as above.
LOG_DOUBLE = (0.6666666666666731, 0.39999999999436897, 0.2857142873816719, 0.222221989571861,
              0.1818354620724129, 0.1531447830712657, 0.1479195358319555)  # fmt: skip
# That minus 2/3, over z; and 2/3 in two parts.
LOG_REST = (0.399999999999977, 0.2857142857156974, 0.22222222365470287, 0.18181790078626328,
            0.1538678913875869, 0.13250443137733095, 0.13298495181998904)  # fmt: skip
TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)
HALF_ROOT_BITS = {F32: 0x3F3504F3, F64: 0x3FE6A09E667F3BCD}


@dataclass(frozen=True)
class Split:
    """A positive number as (1 + f) * 2**k, with sqrt(1/2) <= 1 + f < sqrt(2)."""

    k: Value
    f: Value


def split(c: Calc, x: Value) -> Split:
    """Take x apart. What it gives for 0, negative numbers, infinity and NaN means nothing."""
    b, fmt = c.b, c.format
    lift = fmt.digits + 2
    small = c.is_less(x, fmt.least_normal)
    x = b.select(small, c.scaled(x, 2.0**lift), x)
    half_root = c.word(HALF_ROOT_BITS[fmt.dtype])
    offset = b.sub(c.bits(x), half_root)
    exponent = b.shr(offset, c.word(fmt.digits))
    if c.is_single:
        k = b.cast(exponent, fmt.dtype)
    else:
        # Few vector units convert 64-bit integers; this one is small enough to be added in.
        raw = b.add(exponent, c.bits(c.number(fmt.round_bias)))
        k = c.plus(c.from_bits(raw), -fmt.round_bias)
    k = b.sub(k, b.select(small, c.number(float(lift)), c.number(0.0)))
    mantissa = b.and_(offset, c.word((1 << fmt.digits) - 1))
    return Split(k, c.plus(c.from_bits(b.add(mantissa, half_root)), -1.0))


def _log(c: Calc, x: Value, correction: Value | None = None) -> Value:
    """log(x) + correction, for finite positive x and a correction that is small beside it."""
    b, fmt = c.b, c.format
    parts = split(c, x)
    k, f = parts.k, parts.f
    square = b.mul(f, f)
    low = b.mul(k, c.number(fmt.ln2[1]))
    if correction is not None:
        low = b.add(low, correction)
    if c.is_single:
        y = b.fma(b.mul(square, f), c.horner(f, LOG_SINGLE), low)
        y = b.fma(square, c.number(-0.5), y)
        return b.fma(k, c.number(fmt.ln2[0]), b.add(f, y))
    s = b.div(f, c.plus(f, 2.0))
    z = b.mul(s, s)
    half = c.scaled(square, 0.5)
    y = b.fma(s, b.add(half, b.mul(z, c.horner(z, LOG_DOUBLE))), low)
    return b.fma(k, c.number(fmt.ln2[0]), b.sub(f, b.sub(half, y)))


def _log_ends(c: Calc, x: Value, y: Value) -> Value:
    """Put in what log is outside of the finite positive numbers: x is its argument, y the rest."""
    b = c.b
    y = b.select(c.is_less(x, math.inf), y, x)
    at_zero = b.select(c.equals(x, 0.0), c.number(-math.inf), c.number(math.nan))
    return b.select(c.is_greater(x, 0.0), y, at_zero)


def log(b: LoopBuilder, x: Value) -> Value:
    c = Calc(b, x)
    return _log_ends(c, x, _log(c, x))


def log1p(b: LoopBuilder, x: Value) -> Value:
    c = Calc(b, x)
    limit = 2.0**-25 if c.is_single else 2.0**-54
    return b.select(c.is_less(b.abs(x), limit), x, _log1p(c, x))


def _log1p(c: Calc, x: Value) -> Value:
    """log(u) + (1 + x - u) / u, where u is 1 + x rounded and the difference is exact."""
    b = c.b
    u = c.plus(x, 1.0)
    part = c.plus(u, -1.0)
    lost = b.add(b.sub(x, part), b.sub(c.number(1.0), b.sub(u, part)))
    return _log_ends(c, u, _log(c, u, b.div(lost, u)))


def asinh(b: LoopBuilder, x: Value) -> Value:
    """log1p(|x| + x*x / (1 + sqrt(x*x + 1))); log(2 * |x|) where squares would overflow."""
    c = Calc(b, x)
    size = b.abs(x)
    huge = c.is_greater(size, 1e9 if c.is_single else 1e17)
    square = b.mul(size, size)
    rest = b.div(square, c.plus(b.sqrt(c.plus(square, 1.0)), 1.0))
    y = _log1p(c, b.select(huge, size, b.add(size, rest)))
    y = b.add(y, b.select(huge, c.number(math.log(2)), c.number(0.0)))
    return c.keep_tiny(x, size, c.signed(y, x))


def acosh(b: LoopBuilder, x: Value) -> Value:
    """With t = x - 1: log1p(t + sqrt(2 * t + t*t)); log(2 * x) where squares would overflow."""
    c = Calc(b, x)
    huge = c.is_greater(x, 1e9 if c.is_single else 1e17)
    t = c.plus(x, -1.0)
    root = b.sqrt(b.fma(t, t, b.add(t, t)))
    y = log1p(b, b.select(huge, x, b.add(t, root)))
    y = b.add(y, b.select(huge, c.number(math.log(2)), c.number(0.0)))
    return b.select(c.is_less(x, 1.0), c.number(math.nan), y)


def atanh(b: LoopBuilder, x: Value) -> Value:
    """log1p(2 * |x| / (1 - |x|)) / 2."""
    c = Calc(b, x)
    size = b.abs(x)
    ratio = b.div(b.add(size, size), b.sub(c.number(1.0), size))
    y = c.scaled(_log1p(c, ratio), 0.5)
    return c.keep_tiny(x, size, c.signed(y, x))


# -- pow ----------------------------------------------------------------------------------------


def pow(b: LoopBuilder, x: Value, y: Value) -> Value:
    dtype = b.dtype_of(x)
    if not dtype.is_float:
        return _pow_of_ints(b, x, y)
    size = _pow_single(b, x, y) if dtype == F32 else _pow_double(b, x, y)
    return _pow_ends(Calc(b, x), x, y, size)


def _pow_single(b: LoopBuilder, x: Value, y: Value) -> Value:
    """e**(y * log(|x|)) in f64; the last cast rounds, overflows and makes denormals."""
    wide = b.cast(b.abs(x), F64)
    c = Calc(b, wide)
    log_x = b.select(c.is_less(wide, math.inf), _log(c, wide), wide)
    log_x = b.select(c.is_greater(wide, 0.0), log_x, c.number(-math.inf))
    exponent = c.at_least(c.at_most(b.mul(b.cast(y, F64), log_x), 200.0), -200.0)
    p = power(c, exponent)
    return b.cast(b.mul(c.plus(p.tail, 1.0), p.scale(c, 0)), F32)


def _pow_double(b: LoopBuilder, x: Value, y: Value) -> Value:
    """e**(y * log(|x|)) with the logarithm in two parts, good to 2**-65."""
    c = Calc(b, x)
    size = b.abs(x)
    high, low = _long_log(c, size)
    # Beyond 2**65 every power but that of 1 has left the range, in either direction.
    bounded = c.at_least(c.at_most(y, 2.0**65), -(2.0**65))
    exponent, error = c.two_product(bounded, high)
    error = b.fma(bounded, low, error)
    error = b.select(c.is_less(b.abs(exponent), 800.0), error, c.number(0.0))
    result = exp_clamped(c, exponent, error)
    falling = c.is_less(y, 0.0)
    infinity, zero = c.number(math.inf), c.number(0.0)
    result = b.select(c.equals(size, 0.0), b.select(falling, infinity, zero), result)
    return b.select(c.equals(size, math.inf), b.select(falling, zero, infinity), result)


def _long_log(c: Calc, x: Value) -> tuple[Value, Value]:
    """log(x) as an unevaluated sum, for finite positive x.

    log(1 + f) = 2 * s + s * z * (2/3 + z * ...), where s = f / (2 + f) and z = s*s; the terms up to
    2/3 are kept in two parts.
    """
    b, fmt = c.b, c.format
    parts = split(c, x)
    f = parts.f
    below = c.plus(f, 2.0)
    below_low = b.sub(f, c.plus(below, -2.0))
    s = b.div(f, below)
    product, error = c.two_product(s, below)
    rest = b.sub(b.sub(b.sub(f, product), error), b.mul(s, below_low))
    s_low = b.div(rest, below)

    z, z_low = c.two_product(s, s)
    z_low = b.fma(b.add(s, s), s_low, z_low)
    tail = b.fma(z, c.horner(z, LOG_REST), c.number(TWO_THIRDS[1]))
    slope, slope_low = c.fast_two_sum(c.number(TWO_THIRDS[0]), tail)
    u, u_low = c.two_product(z, slope)
    u_low = b.add(u_low, b.fma(z, slope_low, b.mul(z_low, slope)))
    v, v_low = c.two_product(s, u)
    v_low = b.add(v_low, b.fma(s, u_low, b.mul(s_low, u)))

    high, low = c.fast_two_sum(b.add(s, s), v)
    low = b.add(low, b.add(b.add(s_low, s_low), v_low))
    high, error = c.fast_two_sum(b.mul(parts.k, c.number(fmt.ln2[0])), high)
    low = b.add(error, b.fma(parts.k, c.number(fmt.ln2[1]), low))
    return c.fast_two_sum(high, low)


def _pow_ends(c: Calc, x: Value, y: Value, size: Value) -> Value:
    """|x| ** y with its sign, and the cases that C names (C17, F.10.4.4)."""
    b, fmt = c.b, c.format
    whole = b.eq(b.floor(y), y)
    half = c.scaled(y, 0.5)
    odd = b.and_(whole, b.ne(b.floor(half), half))
    sign = b.and_(c.bits(x), c.word(fmt.sign_bit))
    flip = b.select(odd, sign, c.word(0))
    result = c.from_bits(b.xor(c.bits(size), flip))
    undefined = b.and_(c.is_less(x, 0.0), b.not_(whole))
    undefined = b.and_(undefined, c.is_greater(x, -math.inf))
    result = b.select(undefined, c.number(math.nan), result)
    result = b.select(b.or_(b.isnan(x), b.isnan(y)), b.add(x, y), result)
    unit = b.and_(c.equals(b.abs(x), 1.0), c.equals(b.abs(y), math.inf))
    one = b.or_(b.or_(c.equals(y, 0.0), c.equals(x, 1.0)), unit)
    return b.select(one, c.number(1.0), result)


def _pow_of_ints(b: LoopBuilder, x: Value, y: Value) -> Value:
    """Square and multiply over the bits of y; a negative y leaves a number only for 1 and -1."""
    dtype = b.dtype_of(x)
    zero, one = b.const(0, x), b.const(1, x)
    with b.for_(0, dtype.bits, (one, x, y)) as loop:
        result, square, left = loop.carried
        odd = b.ne(b.and_(left, one), zero)
        result = b.select(odd, b.mul(result, square), result)
        loop.yields = (result, b.mul(square, square), b.shr(left, one))
    result = loop.results[0]
    if dtype.kind == "u":
        return result
    minus_one = b.const(-1, x)
    odd = b.ne(b.and_(y, one), zero)
    unit = b.select(b.eq(x, minus_one), b.select(odd, minus_one, one), zero)
    unit = b.select(b.eq(x, one), one, unit)
    return b.select(b.lt(y, zero), unit, result)
