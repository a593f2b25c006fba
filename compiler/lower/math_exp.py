"""Expansions of exp, expm1, the hyperbolic functions and erf."""

from __future__ import annotations

from dataclasses import dataclass

from tfc.compiler.lower.math_base import LOG2_E, Calc
from tfc.ir.core import Value
from tfc.ir.loop.build import LoopBuilder

# (e**r - 1 - r) / r**2 on |r| <= ln(2) / 2.
EXP_SINGLE = (0.5, 0.16666542, 0.04166628, 0.008366698, 0.0013946639)
EXP_DOUBLE = (
    0.5000000000000006, 0.16666666666666685, 0.04166666666657267, 0.00833333333331444,
    0.0013888888932755935, 0.00019841269903430684, 2.4801503935539638e-05,
    2.7557227539442367e-06, 2.762654751936701e-07, 2.5114620771288116e-08,
)  # fmt: skip
# erf(x) / x - 1 in x*x and log(erfc(x)) in x, for x up to and from 0.925.
ERF_SMALL_SINGLE = (0.1283791, -0.3761248, 0.112816826, -0.02676172, 0.00498594, -0.0005953739)
ERF_LARGE_SINGLE = (-0.0002070214, -1.1276274, -0.63726586, -0.103856236, 0.0221897, -0.00303367,
                    0.00019494409)  # fmt: skip
# erf(x) / x in x*x on [0, 1].
ERF_SMALL = (
    1.1283791670955126, -0.3761263890318375, 0.11283791670954857, -0.026866170645072896,
    0.005223977624780886, -0.0008548326978743121, 0.00012055331036925339,
    -1.4925593507339654e-05, 1.6460972821806085e-06, -1.6350025250467193e-07,
    1.465787989343651e-08, -1.136566569764587e-09, 5.945260615689164e-11,
)  # fmt: skip
# e**(x*x) * erfc(x) in (x - 2) / (x + 2) for x in [1, 6].
ERF_LARGE = (
    0.25539567631050575, -0.42718584741395826, 0.2416581942424582, -0.07897858101587539,
    0.0037328924051635163, 0.006997461763519412, -0.0008471431957920716,
    -0.0009819781249477788, 4.3549364923552645e-05, 0.0001743694012874205,
    2.7666195337320116e-05, -2.7312767679266373e-05, -1.4599432800896562e-05,
    -1.621328623131294e-06,
)  # fmt: skip


@dataclass(frozen=True)
class Power:
    """e**x as (1 + tail) * 2**n: `exponent` holds n in the place of a float's exponent."""

    tail: Value
    exponent: Value

    def scale(self, c: Calc, shift: int) -> Value:
        """2**(n + shift), which must be a normal number."""
        return c.from_bits(c.b.add(self.exponent, c.word(c.format.one_scaled(shift))))


def power(c: Calc, x: Value, low: Value | None = None) -> Power:
    """Reduce x + low: n = round(x / ln 2), tail = e**r - 1 for the rest r."""
    b, fmt = c.b, c.format
    shifted = b.fma(x, c.number(LOG2_E), c.number(fmt.round_bias))
    n = c.plus(shifted, -fmt.round_bias)
    r = b.fma(n, c.number(-fmt.ln2[0]), x)
    r = b.fma(n, c.number(-fmt.ln2[1]), r)
    if low is not None:
        r = b.add(r, low)
    q = c.horner(r, EXP_SINGLE if c.is_single else EXP_DOUBLE)
    return Power(b.fma(b.mul(r, r), q, r), b.shl(c.bits(shifted), c.word(fmt.digits)))


def exp_clamped(c: Calc, x: Value, low: Value | None = None) -> Value:
    """e**(x + low) with denormal results rounded once: scaled in two steps, the last exact or last.

    n lies between -1075 and 1024, which one exponent does not span: negative x are computed
    2**64 (f64: 2**512) too large, others by half. What is less than all denormals is multiplied by
    zero instead: rounding to it takes Zen 5 forty cycles more, and masked scores are full of it.
    """
    b, fmt = c.b, c.format
    lo, hi = (-104.0, 88.8) if c.is_single else (-745.2, 709.8)
    vanishes = c.is_less(x, lo)
    x = c.at_least(c.at_most(x, hi), lo)
    p = power(c, x, low)
    lift = (fmt.bias + 1) // 2
    negative = c.is_less(x, 0.0)
    bias = b.select(negative, c.word(fmt.one_scaled(lift)), c.word(fmt.one_scaled(-1)))
    y = b.mul(c.plus(p.tail, 1.0), c.from_bits(b.add(p.exponent, bias)))
    scale = b.select(negative, c.number(2.0**-lift), c.number(2.0))
    return b.mul(y, b.select(vanishes, c.number(0.0), scale))


def exp(b: LoopBuilder, x: Value) -> Value:
    return exp_clamped(Calc(b, x), x)


def expm1(b: LoopBuilder, x: Value) -> Value:
    """2**n * tail + (2**n - 1), at half the size so that n = 1024 fits."""
    c = Calc(b, x)
    lo, hi = (-18.0, 88.8) if c.is_single else (-38.0, 709.8)
    p = power(c, c.at_least(c.at_most(x, hi), lo))
    half = p.scale(c, -1)
    y = c.scaled(b.fma(half, p.tail, c.plus(half, -0.5)), 2.0)
    limit = 2.0**-25 if c.is_single else 2.0**-54
    return b.select(c.is_less(b.abs(x), limit), x, y)


def sinh(b: LoopBuilder, x: Value) -> Value:
    """With t = (e**|x| - 1) / 4: 2 * (t + t / (4 * t + 1)), which neither cancels nor overflows."""
    c = Calc(b, x)
    size = b.abs(x)
    p = power(c, c.at_most(size, 89.7 if c.is_single else 710.7))
    quarter = p.scale(c, -2)
    t = b.fma(quarter, p.tail, c.plus(quarter, -0.25))
    y = b.add(t, b.div(t, c.plus(c.scaled(t, 4.0), 1.0)))
    return c.keep_tiny(x, size, c.signed(c.scaled(y, 2.0), x))


def cosh(b: LoopBuilder, x: Value) -> Value:
    """With h = e**|x| / 4: 2 * (h + 1 / (16 * h))."""
    c = Calc(b, x)
    p = power(c, c.at_most(b.abs(x), 89.7 if c.is_single else 710.7))
    h = b.mul(c.plus(p.tail, 1.0), p.scale(c, -2))
    return c.scaled(b.add(h, b.div(c.number(0.0625), h)), 2.0)


def tanh(b: LoopBuilder, x: Value) -> Value:
    """t / (t + 2) with t = e**(2 * |x|) - 1."""
    c = Calc(b, x)
    size = c.at_most(b.abs(x), 10.0 if c.is_single else 20.0)
    p = power(c, b.add(size, size))
    scale = p.scale(c, 0)
    t = b.fma(scale, p.tail, c.plus(scale, -1.0))
    return c.signed(b.div(t, c.plus(t, 2.0)), x)


def erf(b: LoopBuilder, x: Value) -> Value:
    c = Calc(b, x)
    size = c.at_most(b.abs(x), 4.0 if c.is_single else 6.0)
    y = _erf_single(c, size) if c.is_single else _erf_double(c, size)
    return c.signed(y, x)


def _erf_single(c: Calc, x: Value) -> Value:
    """A polynomial below 0.925, else 1 - e**P: no division, and 1 from 3.92 on."""
    b = c.b
    small = b.fma(x, c.horner(b.mul(x, x), ERF_SMALL_SINGLE), x)
    p = power(c, c.horner(x, ERF_LARGE_SINGLE))
    scale = p.scale(c, 0)
    large = b.sub(c.number(1.0), b.fma(scale, p.tail, scale))
    return b.select(c.is_less(x, 0.925), small, large)


def _erf_double(c: Calc, x: Value) -> Value:
    """A polynomial below 1, else 1 - e**(-x*x) * P((x - 2) / (x + 2))."""
    b = c.b
    z = b.mul(x, x)
    small = b.mul(x, c.horner(z, ERF_SMALL))
    p = power(c, b.neg(z))
    scale = p.scale(c, 0)
    t = b.div(c.plus(x, -2.0), c.plus(x, 2.0))
    decay = b.fma(scale, p.tail, scale)
    large = b.sub(c.number(1.0), b.mul(decay, c.horner(t, ERF_LARGE)))
    return b.select(c.is_less(x, 1.0), small, large)
