"""LLVM text of types and constants. f16 and bf16 are their bits (i16) in registers and memory.

Bool is i1 in registers and i8 (0 or 1) in memory.
"""

from __future__ import annotations

import struct

from tfc.ir.types import BF16, BOOL, F16, DType, ScalarType, Type, VectorType

_FLOATS = {"f64": "double", "f32": "float", "f16": "i16", "bf16": "i16"}
_SUFFIX = {"double": "f64", "float": "f32", "half": "f16", "bfloat": "bf16"}


def element(dtype: DType) -> str:
    """Return the register type of one element."""
    if dtype.kind == "f":
        return _FLOATS[dtype.name]
    return "i1" if dtype == BOOL else f"i{dtype.bits}"


def memory_element(dtype: DType) -> str:
    """Return the type of one element in memory."""
    return "i8" if dtype == BOOL else element(dtype)


def vector(of: str, lanes: int) -> str:
    """Return a vector type, or the element type itself where lanes is 0."""
    return f"<{lanes} x {of}>" if lanes else of


def register(type: Type) -> str:
    """Return the register type of a scalar or vector; buffers are pointers."""
    if isinstance(type, VectorType):
        return f"<{type.lanes} x {element(type.dtype)}>"
    if isinstance(type, ScalarType):
        return element(type.dtype)
    return "ptr"


def lanes_of(llvm_type: str) -> int:
    """Return the lanes of a vector type in LLVM text, 0 for a scalar."""
    return int(llvm_type[1 : llvm_type.index(" ")]) if llvm_type[0] == "<" else 0


def element_of(llvm_type: str) -> str:
    return llvm_type[llvm_type.index("x") + 2 : -1] if llvm_type[0] == "<" else llvm_type


def suffix(llvm_type: str) -> str:
    """Return how an intrinsic's name spells a type: `v16f32`, `i64`."""
    lanes, of = lanes_of(llvm_type), element_of(llvm_type)
    return f"v{lanes}{_SUFFIX.get(of, of)}" if lanes else _SUFFIX.get(of, of)


def float_bits(value: float, dtype: DType) -> int:
    """Return the bits of `value` rounded half to even to a float type."""
    if dtype == F16:
        return _half_bits(value)
    if dtype == BF16:
        bits = _single_bits(value)
        if bits & 0x7FFFFFFF > 0x7F800000:
            return (bits >> 16) | 0x40
        return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    if dtype.bits == 32:
        return _single_bits(value)
    return int.from_bytes(struct.pack("<d", value), "little")


def _single_bits(value: float) -> int:
    try:
        return int.from_bytes(struct.pack("<f", value), "little")
    except OverflowError:
        return 0x7F800000 if value > 0 else 0xFF800000


def _half_bits(value: float) -> int:
    try:
        return int.from_bytes(struct.pack("<e", value), "little")
    except OverflowError:
        return 0x7C00 if value > 0 else 0xFC00


def literal(value: float, dtype: DType) -> str:
    """Return the text of one element in a register."""
    if dtype == BOOL:
        return "true" if value else "false"
    if dtype.kind != "f":
        return str(wrap(int(value), dtype.bits))
    bits = float_bits(float(value), dtype)
    if dtype.bits == 16:
        return str(wrap(bits, 16))
    if dtype.bits == 32:
        # LLVM writes a float as the hexadecimal double of the same value; a signalling NaN
        # keeps its payload only when the bits are moved by hand.
        bits = _widen_single(bits)
    return f"0x{bits:016X}"


def _widen_single(bits: int) -> int:
    sign, exponent, fraction = bits >> 31, (bits >> 23) & 0xFF, bits & 0x7FFFFF
    if exponent == 0xFF:
        return sign << 63 | 0x7FF << 52 | fraction << 29
    value = struct.unpack("<f", bits.to_bytes(4, "little"))[0]
    return int.from_bytes(struct.pack("<d", value), "little")


def wrap(value: int, bits: int) -> int:
    """Return the signed number with the same lowest `bits` bits."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def splat(text: str, llvm_type: str) -> str:
    """Return a scalar constant's text as a constant of `llvm_type`."""
    lanes = lanes_of(llvm_type)
    return f"splat ({element_of(llvm_type)} {text})" if lanes else text
