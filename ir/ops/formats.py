"""Eight-, six- and four-bit floats as bits: packing f32 into them and unpacking, exactly.

The formats are storage types: nothing else computes with them. `bitcast` gives and takes the bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.body import Expr, ExprBuilder
from tfc.ir.opdef import NoGrad, Reject, Sample, require
from tfc.ir.ops.common import SPECIAL, Array, elementwise, floats, integers
from tfc.ir.types import (
    F4E2M1,
    F6E2M3,
    F6E3M2,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F8E8M0,
    F32,
    F64,
    U8,
    U32,
    DType,
    TensorType,
)

ROUNDINGS = ("nearest", "up", "down")
_SIGN, _SIZE, _INFINITE = 0x80000000, 0x7FFFFFFF, 0x7F800000
_NAN = 0x7FC00000


@dataclass(frozen=True, slots=True)
class Format:
    """A float of 1 + exponent + mantissa bits.

    top: the greatest finite number's code. infinity, nan: their codes without sign, None where
    there is none. unsigned_zero: there is no -0, its code is NaN.
    """

    exponent: int
    mantissa: int
    bias: int
    top: int
    infinity: int | None
    nan: int | None
    unsigned_zero: bool = False

    @property
    def sign(self) -> int:
        return 1 << (self.exponent + self.mantissa)


FORMATS = {
    F8E4M3FN: Format(4, 3, 7, 0x7E, None, 0x7F),
    F8E4M3FNUZ: Format(4, 3, 8, 0x7F, None, 0x80, unsigned_zero=True),
    F8E5M2: Format(5, 2, 15, 0x7B, 0x7C, 0x7E),
    F8E5M2FNUZ: Format(5, 2, 16, 0x7F, None, 0x80, unsigned_zero=True),
    F6E2M3: Format(2, 3, 1, 0x1F, None, None),
    F6E3M2: Format(3, 2, 3, 0x1F, None, None),
    F4E2M1: Format(2, 1, 1, 0x7, None, None),
}
KNOWN = (*FORMATS, F8E8M0)


@dataclass(frozen=True, slots=True)
class UnpackAttrs:
    """format: what the bits are."""

    format: DType


@dataclass(frozen=True, slots=True)
class PackAttrs:
    """format: what to make. saturate: too large numbers become the greatest, not infinity or NaN.

    rounding: nearest (half to even), or up or down, which f8e8m0 has.
    """

    format: DType
    saturate: bool = True
    rounding: str = "nearest"


# -- unpack -------------------------------------------------------------------------------------


def _unpack_infer(types: Sequence[TensorType], attrs: UnpackAttrs) -> Sequence[TensorType]:
    require(types[0].dtype == U8, f"takes the bits as u8, not {types[0].dtype}")
    require(attrs.format in KNOWN, f"{attrs.format} is no format of floats")
    return (TensorType(F32, types[0].shape),)


def _values(format: DType) -> Array:
    """The numbers of all codes from 0 on."""
    if format == F8E8M0:
        powers = np.ldexp(1.0, np.arange(-127, 129))
        powers[255] = np.nan
        return powers
    f = FORMATS[format]
    found = []
    for code in range(2 * f.sign):
        size, sign = code % f.sign, -1.0 if code >= f.sign else 1.0
        exponent, fraction = size >> f.mantissa, size % (1 << f.mantissa)
        if (f.unsigned_zero and code == f.nan) or size > f.top:
            number = np.inf if size == f.infinity else np.nan
        elif exponent:
            number = np.ldexp(1 + fraction / (1 << f.mantissa), exponent - f.bias)
        else:
            number = np.ldexp(fraction / (1 << f.mantissa), 1 - f.bias)
        found.append(sign * number)
    return np.array(found)


def _unpack_ref(x: Array, *, format: DType) -> Array:
    values = _values(format)
    return values[x.astype(np.int64) % values.size].astype(np.float32)


def _unpack(b: ExprBuilder, x: Expr, *, format: DType) -> Expr:
    """Put exponent and fraction in f32's places; a multiplication moves the exponent's bias."""
    code = b.cast(x, U32)

    def number(n: int) -> Expr:
        return b.const(n, U32)

    if format == F8E8M0:
        bits = b.shl(code, number(23))
        bits = b.select(b.eq(code, number(0)), number(1 << 22), bits)
        return b.bitcast(b.select(b.eq(code, number(255)), number(_NAN), bits), F32)
    f = FORMATS[format]
    size = b.and_(code, number(f.sign - 1))
    moved = b.bitcast(b.shl(size, number(23 - f.mantissa)), F32)
    bits = b.bitcast(b.mul(moved, b.const(2.0 ** (127 - f.bias), F32)), U32)
    if f.infinity is not None:
        bits = b.select(b.eq(size, number(f.infinity)), number(_INFINITE), bits)
    if f.top < f.sign - 1:
        first = f.top + 1 if f.infinity is None else f.infinity + 1
        bits = b.select(b.ge(size, number(first)), number(_NAN), bits)
    bits = b.or_(bits, b.shl(b.and_(code, number(f.sign)), number(31 - f.exponent - f.mantissa)))
    if f.unsigned_zero and f.nan is not None:
        bits = b.select(b.eq(code, number(f.nan)), number(_NAN), bits)
    return b.bitcast(bits, F32)


_BYTES = np.arange(256, dtype=np.uint8)

elementwise(
    "unpack",
    attrs=UnpackAttrs,
    infer=_unpack_infer,
    ref=_unpack_ref,
    body=_unpack,
    grad=NoGrad("reads bits"),
    samples=lambda: [
        *(Sample((_BYTES,), {"format": format}) for format in KNOWN),
        Sample((integers((3, 5), 0, 255, np.uint8),), {"format": F8E5M2}),
        Sample((integers((0, 5), 0, 255, np.uint8),), {"format": F8E5M2}),
    ],
    rejects=(
        Reject((TensorType(F32, (2,)),), {"format": F8E5M2}, "the bits as u8"),
        Reject((TensorType(U8, (2,)),), {"format": F64}, "no format of floats"),
    ),
    doc="The number whose code in `format` the bits are, as f32, exactly. Bits above those of a "
    "narrow format do not count.",
)

# -- pack ---------------------------------------------------------------------------------------


def _pack_infer(types: Sequence[TensorType], attrs: PackAttrs) -> Sequence[TensorType]:
    require(types[0].dtype == F32, f"takes f32, not {types[0].dtype}")
    require(attrs.format in KNOWN, f"{attrs.format} is no format of floats")
    rounding = attrs.rounding
    require(rounding in ROUNDINGS, f"unknown rounding {rounding!r}")
    alone = rounding == "nearest" or attrs.format == F8E8M0
    require(alone, f"{attrs.format} rounds to nearest")
    return (TensorType(U8, types[0].shape),)


def _pack_ref(x: Array, *, format: DType, saturate: bool, rounding: str) -> Array:
    """Look up the nearest number, the one of the even code where two are."""
    if format == F8E8M0:
        return _pack_exponent_ref(x, saturate, rounding)
    f = FORMATS[format]
    codes = _values(format)[: f.top + 1]
    size = np.abs(x.astype(np.float64))
    upper = np.clip(np.searchsorted(codes, size), 1, f.top)
    lower = upper - 1
    middle = (codes[lower] + codes[upper]) / 2
    up = (size > middle) | ((size == middle) & (upper % 2 == 0))
    found = np.where(up, upper, lower)
    # Where the next number would be, if there were more.
    limit = codes[f.top] + (codes[f.top] - codes[f.top - 1]) / 2
    tie_stays = f.top % 2 == 0
    over = (size > limit) | ((size == limit) & (not tie_stays))
    if not saturate and (f.infinity is not None or f.nan is not None):
        code = f.infinity if f.infinity is not None else f.nan
        assert code is not None
        found = np.where(over, code, found)
    signed = np.where(np.signbit(x) & ~(f.unsigned_zero & (found == 0)), found | f.sign, found)
    nan = f.sign if f.nan is None else f.nan
    return np.where(np.isnan(x), _nan_code(f, nan, x), signed).astype(np.uint8)


def _nan_code(f: Format, nan: int, x: Array) -> Array:
    """NaN keeps its sign where there are two."""
    signed = np.signbit(x) & (f.nan is not None) & (not f.unsigned_zero)
    return np.where(signed, nan | f.sign, nan)


def _pack_exponent_ref(x: Array, saturate: bool, rounding: str) -> Array:
    bits = np.ascontiguousarray(x).view(np.uint32).astype(np.int64)
    code, fraction = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    half = 1 << 22
    if rounding == "nearest":
        up = (fraction > half) | ((fraction == half) & (code > 0))
    else:
        up = (fraction > 0) & (rounding == "up")
    above = code + up
    if saturate:
        above = np.minimum(above, 0xFE)
    return np.where(code == 0xFF, 0xFF, above).astype(np.uint8).reshape(x.shape)


def _pack(b: ExprBuilder, x: Expr, *, format: DType, saturate: bool, rounding: str) -> Expr:
    bits = b.bitcast(x, U32)

    def number(n: int) -> Expr:
        return b.const(n, U32)

    size = b.and_(bits, number(_SIZE))
    if format == F8E8M0:
        return _pack_exponent(b, size, saturate, rounding)
    f = FORMATS[format]
    shift = 23 - f.mantissa
    odd = b.and_(b.shr(size, number(shift)), number(1))
    rounded = b.add(b.add(size, odd), number((1 << (shift - 1)) - 1))
    # The first normal number's code is 1 << mantissa; what is below rounds as an integer.
    normal = b.sub(b.shr(rounded, number(shift)), number((127 - f.bias) << f.mantissa))
    scaled = b.mul(b.bitcast(size, F32), b.const(2.0 ** (f.bias - 1 + f.mantissa), F32))
    small = b.lt(size, number((128 - f.bias) << 23))
    steps = b.round(b.select(small, scaled, b.const(0.0, F32)))
    code = b.select(small, b.cast(steps, U32), normal)
    top = b.const(f.top, U32)
    over = f.top if saturate else f.infinity or f.nan or f.top
    code = b.select(b.gt(code, top), number(over), code)
    sign = b.and_(b.shr(bits, number(31 - f.exponent - f.mantissa)), number(f.sign))
    if f.unsigned_zero:
        sign = b.select(b.eq(code, number(0)), number(0), sign)
    code = b.or_(code, sign)
    nan = number(f.sign if f.nan is None else f.nan)
    if f.nan is not None and not f.unsigned_zero:
        nan = b.or_(nan, sign)
    return b.cast(b.select(b.gt(size, number(_INFINITE)), nan, code), U8)


def _pack_exponent(b: ExprBuilder, size: Expr, saturate: bool, rounding: str) -> Expr:
    """The exponent's bits, one more where the fraction rounds up. The sign is dropped."""

    def number(n: int) -> Expr:
        return b.const(n, U32)

    if rounding == "nearest":
        # Half goes up, but from the numbers without a leading bit.
        added = b.select(b.lt(size, number(1 << 23)), number((1 << 22) - 1), number(1 << 22))
    else:
        added = number((1 << 23) - 1 if rounding == "up" else 0)
    code = b.shr(b.add(size, added), number(23))
    if saturate:
        code = b.min(code, number(0xFE))
    return b.cast(b.select(b.ge(size, number(_INFINITE)), number(0xFF), code), U8)


def _pack_samples() -> Sequence[Sample]:
    found = []
    for format in KNOWN:
        codes = _values(format)
        codes = codes[np.isfinite(codes)].astype(np.float32)
        middles = (codes[1:] + codes[:-1]) / np.float32(2)
        near = np.nextafter(middles, np.float32(0))
        tiny = floats((40,), -1e-4, 1e-4)
        values = np.concatenate([np.array(SPECIAL, np.float32), codes, middles, near, tiny])
        for saturate in (True, False):
            found.append(Sample((values,), {"format": format, "saturate": saturate}))
    for rounding in ("up", "down"):
        attrs = {"format": F8E8M0, "rounding": rounding}
        found.append(Sample((np.array([0, 1, 1.01, 1.99, 3e38, np.inf], np.float32),), attrs))
    found.append(Sample((floats((2, 0)),), {"format": F8E4M3FN}))
    return found


elementwise(
    "pack",
    attrs=PackAttrs,
    infer=_pack_infer,
    ref=_pack_ref,
    body=_pack,
    grad=NoGrad("makes bits"),
    samples=_pack_samples,
    rejects=(
        Reject((TensorType(F64, (2,)),), {"format": F8E5M2}, "takes f32"),
        Reject((TensorType(F32, (2,)),), {"format": F64}, "no format of floats"),
        Reject((TensorType(F32, (2,)),), {"format": F8E5M2, "rounding": "up"}, "to nearest"),
        Reject((TensorType(F32, (2,)),), {"format": F8E8M0, "rounding": "off"}, "unknown rounding"),
    ),
    doc="The code of x in `format`, rounded half to even: the bits as u8. Without `saturate`, "
    "what is beyond the greatest number is infinite, or NaN where the format has no infinity. "
    "f8e8m0 has no sign: only the exponent counts.",
)
