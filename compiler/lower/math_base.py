"""What the expansions of elementary functions share: the float format, and small idioms.

Polynomials here and in the `math_*` modules are our own: minimax fits by Remez exchange in 50
digits, weighted for the relative error of the whole function
on the interval named beside them. Coefficients stand in order of rising powers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfc.ir.core import Value
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.nodes import with_dtype
from tfc.ir.types import F32, F64, I32, I64, DType, ScalarType, VectorType

Coefficients = Sequence[float]
LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Format:
    """A float type as the expansions see it.

    ln2: split so that a quotient times the first part is exact (Cody and Waite).
    digits: of the fraction. bias: of the exponent. word: the integer type of the same width.
    """

    dtype: DType
    word: DType
    digits: int
    bias: int
    ln2: tuple[float, float]
    half_pi_pair: tuple[float, float]

    @property
    def round_bias(self) -> float:
        """Adding this rounds to an integer that stands in the low bits of the sum."""
        return float(3 << (self.digits - 1))

    @property
    def sign_bit(self) -> int:
        return -(1 << (self.dtype.bits - 1))

    @property
    def least_normal(self) -> float:
        return float(2.0 ** (1 - self.bias))

    def one_scaled(self, exponent: int) -> int:
        """The bits of 2**exponent, for exponents whose bits are added to."""
        return (self.bias + exponent) << self.digits


SINGLE = Format(
    F32, I32, 23, 127,
    ln2=(0.693359375, -0.00021219444005469057),
    half_pi_pair=(1.5707963705062866, -4.371138828673793e-08),
)  # fmt: skip
DOUBLE = Format(
    F64, I64, 52, 1023,
    ln2=(0.6931471803691238, 1.9082149292705877e-10),
    half_pi_pair=(1.5707963267948966, 6.123233995736766e-17),
)  # fmt: skip
FORMATS = {F32: SINGLE, F64: DOUBLE}


class Calc:
    """Emits arithmetic on values shaped as `like`: a scalar or vector of f32 or f64."""

    def __init__(self, b: LoopBuilder, like: Value) -> None:
        assert isinstance(like.type, (ScalarType, VectorType))
        self.b = b
        self.format = FORMATS[like.type.dtype]
        self.float_type = like.type
        self.word_type = with_dtype(like.type, self.format.word)

    @property
    def is_single(self) -> bool:
        return self.format is SINGLE

    def number(self, value: float) -> Value:
        return self.b.const(value, self.float_type)

    def word(self, value: int) -> Value:
        return self.b.const(value, self.word_type)

    def bits(self, x: Value) -> Value:
        return self.b.bitcast(x, self.format.word)

    def from_bits(self, bits: Value) -> Value:
        return self.b.bitcast(bits, self.format.dtype)

    def scaled(self, x: Value, factor: float) -> Value:
        return self.b.mul(x, self.number(factor))

    def plus(self, x: Value, term: float) -> Value:
        return self.b.add(x, self.number(term))

    def horner(self, x: Value, coefficients: Coefficients) -> Value:
        *rest, last = coefficients
        total = self.number(last)
        for coefficient in reversed(rest):
            total = self.b.fma(total, x, self.number(coefficient))
        return total

    def at_most(self, x: Value, hi: float) -> Value:
        """min(x, hi), which keeps NaN: one instruction on x86."""
        limit = self.number(hi)
        return self.b.select(self.b.gt(x, limit), limit, x)

    def at_least(self, x: Value, lo: float) -> Value:
        limit = self.number(lo)
        return self.b.select(self.b.lt(x, limit), limit, x)

    def is_less(self, x: Value, limit: float) -> Value:
        return self.b.lt(x, self.number(limit))

    def is_greater(self, x: Value, limit: float) -> Value:
        return self.b.gt(x, self.number(limit))

    def equals(self, x: Value, value: float) -> Value:
        return self.b.eq(x, self.number(value))

    def signed(self, size: Value, x: Value) -> Value:
        """`size`, which has no sign, with the sign of x."""
        sign = self.b.and_(self.bits(x), self.word(self.format.sign_bit))
        return self.from_bits(self.b.xor(self.bits(size), sign))

    def keep_tiny(self, x: Value, size: Value, result: Value) -> Value:
        """x itself where its size is so small that f(x) rounds to x, -0 and denormals included."""
        limit = 2.0**-13 if self.is_single else 2.0**-27
        return self.b.select(self.is_less(size, limit), x, result)

    def two_product(self, x: Value, y: Value) -> tuple[Value, Value]:
        """x * y as a rounded product and its error, without relying on a fused operation."""
        b = self.b
        product = b.mul(x, y)
        (xh, xl), (yh, yl) = self._halves(x), self._halves(y)
        error = b.sub(b.mul(xh, yh), product)
        error = b.add(b.add(error, b.mul(xh, yl)), b.mul(xl, yh))
        return product, b.add(error, b.mul(xl, yl))

    def _halves(self, x: Value) -> tuple[Value, Value]:
        low_digits = (self.format.digits + 2) // 2
        high = self.from_bits(self.b.and_(self.bits(x), self.word(-(1 << low_digits))))
        return high, self.b.sub(x, high)

    def fast_two_sum(self, x: Value, y: Value) -> tuple[Value, Value]:
        """x + y as a rounded sum and its error, for |x| >= |y| or x == 0."""
        total = self.b.add(x, y)
        return total, self.b.sub(y, self.b.sub(total, x))
