"""Numbers of less than a byte and eight-bit floats, as arithmetic on their bits."""

from __future__ import annotations

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Value
from tfc.ir.types import F8E8M0, F32, I2, I4, I8, I32, U2, U4, U8, DType

# Narrow integers: their bits, and whether they are signed.
INTEGERS = {I4: (4, True), U4: (4, False), I2: (2, True), U2: (2, False)}


def limits(dtype: DType) -> tuple[int, int]:
    """Return the least and the greatest number of a narrow integer type."""
    bits, signed = INTEGERS[dtype]
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def unpacked(b: GraphBuilder, x: Value) -> Value:
    """Return the numbers of a storage type as i8, u8 or f32, exactly."""
    dtype = tensor_type(x).dtype
    bits = b.bitcast(x, dtype=U8)
    if dtype not in INTEGERS:
        return b.unpack(bits, format=dtype)  # type: ignore[no-any-return]
    width, signed = INTEGERS[dtype]
    low = b.bitwise_and(bits, b.constant((1 << width) - 1, U8))
    if not signed:
        return low  # type: ignore[no-any-return]
    half = 1 << (width - 1)
    flipped = b.bitcast(b.bitwise_xor(low, b.constant(half, U8)), dtype=I8)
    return b.sub(flipped, b.constant(half, I8))  # type: ignore[no-any-return]


def packed(b: GraphBuilder, x: Value, dtype: DType, saturate: bool, rounding: str) -> Value:
    """Return numbers as a storage type: integers wrap, floats round (f64 through f32).

    Floats to narrow integers truncate, and what is out of range wraps, as in onnx's cases.
    """
    source = tensor_type(x).dtype
    if dtype in INTEGERS:
        if source.is_float:
            x, source = b.cast(x, dtype=I32), I32
        if source != U8:
            x = b.bitcast(b.cast(x, dtype=I8), dtype=U8) if source != I8 else b.bitcast(x, dtype=U8)
        low = b.bitwise_and(x, b.constant((1 << INTEGERS[dtype][0]) - 1, U8))
        return b.bitcast(low, dtype=dtype)  # type: ignore[no-any-return]
    if source != F32:
        x = b.cast(x, dtype=F32)
    mode = rounding if dtype == F8E8M0 else "nearest"
    bits = b.pack(x, format=dtype, saturate=saturate, rounding=mode)
    return b.bitcast(bits, dtype=dtype)  # type: ignore[no-any-return]
