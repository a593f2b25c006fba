"""f32 to u8 on AVX-512, whose conversion to u32 saturates, and rounds on the way where asked."""

from __future__ import annotations

from tfc.compiler.codegen.llvm_types import literal, splat, vector
from tfc.compiler.codegen.values import ValueBuilder
from tfc.ir.core import Op, Value
from tfc.ir.types import F32, U8, VectorType

_LANES = 16
_CURRENT_MODE = 4


def saturates(e: ValueBuilder, op: Op) -> bool:
    """Whether the cast is one of those."""
    source, result = op.operands[0].type, op.result.type
    if not isinstance(source, VectorType) or not isinstance(result, VectorType):
        return False
    wide = e.target.arch == "x86_64" and e.target.vector_bits == 512
    return wide and source.dtype == F32 and result.dtype == U8 and source.lanes in (16, 32, 64)


def to_bytes(e: ValueBuilder, op: Op) -> None:
    source = op.operands[0]
    made = source.op
    if made is not None and made.name == "round":
        e.values[op.result] = _in_parts(e, made.operands[0], "cvtps2udq")
    else:
        e.values[op.result] = _in_parts(e, source, "cvttps2udq")


def _in_parts(e: ValueBuilder, source: Value, name: str) -> str:
    assert isinstance(source.type, VectorType)
    lanes, value = source.type.lanes, e.value(source)
    whole, part = vector("float", lanes), vector("float", _LANES)
    bytes: list[str] = []
    for first in range(0, lanes, _LANES):
        own = value
        if lanes > _LANES:
            own = _shuffled(e, whole, value, "poison", range(first, first + _LANES), part)
        bytes.append(_convert(e, own, name))
    width = _LANES
    while len(bytes) > 1:
        type, double = vector("i8", width), vector("i8", 2 * width)
        pairs = zip(bytes[::2], bytes[1::2], strict=True)
        bytes = [_shuffled(e, type, x, y, range(2 * width), double) for x, y in pairs]
        width *= 2
    return bytes[0]


def _convert(e: ValueBuilder, value: str, name: str) -> str:
    """NaN and what is below 0 become 0; above u32 all bits are set, and u8's limit ends it."""
    floats, words = vector("float", _LANES), vector("i32", _LANES)
    zero = splat(literal(0.0, F32), floats)
    positive = e.select(e.compare("fcmp ogt", floats, value, zero), floats, value, zero)
    full = f"@llvm.x86.avx512.mask.{name}.512"
    e.declare(words, full, [floats, words, "i16", "i32"])
    args = f"{floats} {positive}, {words} zeroinitializer, i16 -1, i32 {_CURRENT_MODE}"
    number = e.let(words, f"call {words} {full}({args})", positive)
    least = e.intrinsic("umin", words, (words, number), (words, splat("255", words)))
    return e.convert("trunc", words, least, vector("i8", _LANES))


def _shuffled(e: ValueBuilder, type: str, x: str, y: str, mask: range, result: str) -> str:
    lanes = ", ".join(f"i32 {lane}" for lane in mask)
    rhs = f"shufflevector {type} {x}, {type} {y}, <{len(mask)} x i32> <{lanes}>"
    return e.let(result, rhs, x, y)
