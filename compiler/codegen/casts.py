"""Conversions between element types, as `CORE`'s cast says. 16-bit floats come as their bits.

Without an instruction for f16, and always for bf16, integer arithmetic converts.
"""

from __future__ import annotations

from tfc.compiler.codegen.builder import Builder
from tfc.compiler.codegen.llvm_types import element, literal, splat, vector
from tfc.ir.types import BF16, BOOL, F16, F32, F64, DType

_I32 = "i32"


def cast(b: Builder, value: str, source: DType, to: DType, lanes: int) -> str:
    """Return `value` converted; a float saturates to an integer and NaN gives 0."""
    if source == to:
        return value
    if source in (F16, BF16):
        if to == BOOL:
            size = _bits(b, "and", value, 0x7FFF, lanes, "i16")
            return b.compare("icmp ne", vector("i16", lanes), size, _number(0, "i16", lanes))
        return cast(b, widen(b, value, source, lanes), F32, to, lanes)
    if to in (F16, BF16):
        if source == F64:
            single = _round_to_odd(b, value, lanes)
        else:
            single = cast(b, value, source, F32, lanes)
        return narrow(b, single, to, lanes)
    type, result = vector(element(source), lanes), vector(element(to), lanes)
    if to == BOOL:
        zero = splat(literal(0, source), type)
        return b.compare("fcmp une" if source.is_float else "icmp ne", type, value, zero)
    if source.is_float and to.is_float:
        return b.convert("fpext" if to == F64 else "fptrunc", type, value, result)
    if source.is_float:
        return _float_to_int(b, value, source, to, lanes)
    if to.is_float:
        return b.convert("sitofp" if source.kind == "i" else "uitofp", type, value, result)
    if source == BOOL or to.bits > source.bits:
        return b.convert("sext" if source.kind == "i" else "zext", type, value, result)
    return value if to.bits == source.bits else b.convert("trunc", type, value, result)


def from_bool(b: Builder, value: str, byte: str) -> str:
    """Return i1 values as bytes 0 or 1; `byte` is i8 or a vector of it."""
    return b.convert("zext", byte.replace("i8", "i1"), value, byte)


def to_bool(b: Builder, value: str, byte: str) -> str:
    return b.compare("icmp ne", byte, value, splat("0", byte))


def _float_to_int(b: Builder, value: str, source: DType, to: DType, lanes: int) -> str:
    """Clamp in the float, convert, then put in what the clamp could not say."""
    type, result = vector(element(source), lanes), vector(element(to), lanes)
    signed = to.kind == "i"
    low = -(2 ** (to.bits - 1)) if signed else 0
    high = 2 ** (to.bits - 1) - 1 if signed else 2**to.bits - 1
    digits = 53 if source == F64 else 24
    exact = to.bits - signed <= digits
    # The largest float that is not above the largest integer.
    top = high if exact else high + 1 - 2 ** (to.bits - signed - digits)
    lowest, highest = (splat(literal(float(n), source), type) for n in (low, top))
    above = b.compare("fcmp ogt", type, value, lowest)
    clamped = b.select(above, type, value, lowest)
    below = b.compare("fcmp olt", type, clamped, highest)
    clamped = b.select(below, type, clamped, highest)
    if to.bits < 32:
        wide = vector(_I32, lanes)
        number = b.convert("trunc", wide, b.convert("fptosi", type, clamped, wide), result)
    else:
        number = b.convert("fptosi" if signed else "fptoui", type, clamped, result)
    if not exact:
        over = b.compare("fcmp ogt", type, value, highest)
        number = b.select(over, result, splat(literal(high, to), result), number)
    if not signed:
        return number  # NaN went to the lower limit, which is 0
    is_nan = b.compare("fcmp uno", type, value, value)
    return b.select(is_nan, result, splat("0", result), number)


def widen(b: Builder, value: str, source: DType, lanes: int) -> str:
    """Return 16-bit floats as f32, exactly."""
    short, word, single = (vector(of, lanes) for of in ("i16", _I32, "float"))
    if source == BF16:
        bits = b.convert("zext", short, value, word)
        return b.convert("bitcast", word, _bits(b, "shl", bits, 16, lanes), single)
    if b.target.has_half_conversion:
        half = vector("half", lanes)
        return b.convert("fpext", half, b.convert("bitcast", short, value, half), single)
    # Move exponent and fraction into place; a multiplication by 2^112 moves the exponent's bias
    # and makes subnormal numbers normal.
    bits = b.convert("zext", short, value, word)
    size = _bits(b, "and", bits, 0x7FFF, lanes)
    sign = _bits(b, "shl", b.op("sub", word, bits, size), 16, lanes)
    moved = b.convert("bitcast", word, _bits(b, "shl", size, 13, lanes), single)
    scaled = b.op("fmul", single, moved, splat(literal(2.0**112, F32), single))
    number = b.convert("bitcast", single, scaled, word)
    special = b.compare("icmp ugt", word, size, _number(0x7BFF, _I32, lanes))
    number = b.select(special, word, _bits(b, "or", number, 0x7F800000, lanes), number)
    return b.convert("bitcast", word, b.op("or", word, number, sign), single)


def narrow(b: Builder, value: str, to: DType, lanes: int) -> str:
    """Return f32 values rounded half to even to a 16-bit float."""
    short, word, single = (vector(of, lanes) for of in ("i16", _I32, "float"))
    if to == F16 and b.target.has_half_conversion:
        half = vector("half", lanes)
        return b.convert("bitcast", half, b.convert("fptrunc", single, value, half), short)
    if to == BF16 and b.target.rounds_bf16(lanes):
        return _narrow_by_instruction(b, value, lanes)
    bits = b.convert("bitcast", single, value, word)
    if to == BF16:
        odd = _bits(b, "and", _bits(b, "lshr", bits, 16, lanes), 1, lanes)
        rounded = _bits(b, "add", b.op("add", word, bits, odd), 0x7FFF, lanes)
        is_nan = b.compare("fcmp uno", single, value, value)
        quiet = _bits(b, "or", bits, 0x400000, lanes)
        result = b.select(is_nan, word, quiet, rounded)
        return b.convert("trunc", word, _bits(b, "lshr", result, 16, lanes), short)
    return _narrow_half(b, bits, lanes)


def _narrow_by_instruction(b: Builder, value: str, lanes: int) -> str:
    short, single, brain = (vector(of, lanes) for of in ("i16", "float", "bfloat"))
    name, width = "x86.avx512bf16.cvtneps2bf16", str(32 * lanes)
    rounded = b.intrinsic(name, brain, (single, value), mangle=width)
    return b.convert("bitcast", brain, rounded, short)


def _narrow_half(b: Builder, bits: str, lanes: int) -> str:
    short, word, single = (vector(of, lanes) for of in ("i16", _I32, "float"))
    size = _bits(b, "and", bits, 0x7FFFFFFF, lanes)
    sign = _bits(b, "lshr", b.op("xor", word, bits, size), 16, lanes)
    # Normal results: move the bias and add half of the last place, to even by the odd bit.
    odd = _bits(b, "and", _bits(b, "lshr", size, 13, lanes), 1, lanes)
    moved = _bits(b, "add", b.op("add", word, size, odd), 0xFFF - (112 << 23), lanes)
    normal = _bits(b, "lshr", moved, 13, lanes)
    # Subnormal results: adding 0.5 puts the fraction, rounded, into the lowest bits.
    half = splat(literal(0.5, F32), single)
    sum = b.op("fadd", single, b.convert("bitcast", word, size, single), half)
    tiny = _bits(b, "sub", b.convert("bitcast", single, sum, word), 0x3F000000, lanes)
    is_tiny = b.compare("icmp ult", word, size, _number(113 << 23, _I32, lanes))
    result = b.select(is_tiny, word, tiny, normal)
    # 65520 and above round to infinity; NaN stays quiet.
    is_big = b.compare("icmp ugt", word, size, _number(0x477FEFFF, _I32, lanes))
    result = b.select(is_big, word, _number(0x7C00, _I32, lanes), result)
    is_nan = b.compare("icmp ugt", word, size, _number(0x7F800000, _I32, lanes))
    payload = _bits(b, "and", _bits(b, "lshr", size, 13, lanes), 0x3FF, lanes)
    quiet = _bits(b, "or", payload, 0x7E00, lanes)
    result = b.select(is_nan, word, quiet, result)
    return b.convert("trunc", word, b.op("or", word, result, sign), short)


def _round_to_odd(b: Builder, value: str, lanes: int) -> str:
    """Return f64 as f32 so that rounding the result again rounds the f64 correctly.

    Inexact results get an odd last bit (Boldo and Melquiond, 2008).
    """
    double, single, word = (vector(of, lanes) for of in ("double", "float", _I32))
    nearest = b.convert("fptrunc", double, value, single)
    back = b.convert("fpext", single, nearest, double)
    bits = b.convert("bitcast", single, nearest, word)
    sizes = [b.intrinsic("fabs", double, (double, x)) for x in (back, value)]
    away = b.compare("fcmp ogt", double, *sizes)
    towards_zero = b.select(away, word, _bits(b, "sub", bits, 1, lanes), bits)
    exact = b.compare("fcmp ueq", double, back, value)
    odd = _bits(b, "or", towards_zero, 1, lanes)
    return b.convert("bitcast", word, b.select(exact, word, bits, odd), single)


def _number(value: int, of: str, lanes: int) -> str:
    return splat(str(value), vector(of, lanes))


def _bits(b: Builder, opcode: str, x: str, y: int, lanes: int, of: str = _I32) -> str:
    return b.op(opcode, vector(of, lanes), x, _number(y, of, lanes))
