"""f32 to u8 on AVX-512, which rounds on the way where asked.

One vector is converted to u32, which saturates. Several are converted to i32 and packed together,
which saturates to i16 and then to u8; whole numbers that were added are added in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfc.compiler.codegen.llvm_types import literal, splat, vector
from tfc.compiler.codegen.values import ValueBuilder
from tfc.ir.core import Op, Value
from tfc.ir.types import F32, U8, VectorType

_LANES = 16
_CURRENT_MODE = 4
# Beyond any i16, and far from those that a conversion to i32 has none for.
_LARGE = 65535.0
# What can be added to an i16 at its limits that stays out of u8.
_MOST_ADDED = 1 << 14


def saturates(e: ValueBuilder, op: Op) -> bool:
    """Whether the cast is one of those."""
    source, result = op.operands[0].type, op.result.type
    if not isinstance(source, VectorType) or not isinstance(result, VectorType):
        return False
    wide = e.target.arch == "x86_64" and e.target.vector_bits == 512
    return wide and source.dtype == F32 and result.dtype == U8 and source.lanes in (16, 32, 64)


def to_bytes(e: ValueBuilder, op: Op) -> None:
    source = op.operands[0]
    assert isinstance(source.type, VectorType)
    if source.type.lanes == _LANES:
        number = _Number(source) if not _is_rounded(source) else _Number(_argument(source), True)
        e.values[op.result] = _convert(e, e.value(number.source), number.rounds)
    else:
        e.values[op.result] = _packed(e, _number_of(e, source), source.type.lanes)


@dataclass(frozen=True)
class _Number:
    """`source`, rounded half to even or towards 0, and a whole number added to it."""

    source: Value
    rounds: bool = False
    added: int = 0


def _number_of(e: ValueBuilder, value: Value) -> _Number:
    """How a value that is a rounded one and a literal was made; else the value itself."""
    op = value.op
    if op is not None and op.name == "add" and _is_rounded(op.operands[0]):
        added = e.number_of(op.operands[1])
        if added is not None and float(added).is_integer() and abs(added) < _MOST_ADDED:
            return _Number(_argument(op.operands[0]), True, int(added))
    return _Number(_argument(value), True) if _is_rounded(value) else _Number(value)


def _is_rounded(value: Value) -> bool:
    return value.op is not None and value.op.name == "round"


def _argument(value: Value) -> Value:
    assert value.op is not None
    return value.op.operands[0]


def _convert(e: ValueBuilder, value: str, rounds: bool) -> str:
    """NaN and what is below 0 become 0; above u32 all bits are set, and u8's limit ends it."""
    floats, words = vector("float", _LANES), vector("i32", _LANES)
    zero = splat(literal(0.0, F32), floats)
    positive = e.select(e.compare("fcmp ogt", floats, value, zero), floats, value, zero)
    number = _converted(e, positive, "cvtps2udq" if rounds else "cvttps2udq")
    least = e.intrinsic("umin", words, (words, number), (words, splat("255", words)))
    return e.convert("trunc", words, least, vector("i8", _LANES))


def _converted(e: ValueBuilder, value: str, name: str) -> str:
    floats, words = vector("float", _LANES), vector("i32", _LANES)
    full = f"@llvm.x86.avx512.mask.{name}.512"
    e.declare(words, full, [floats, words, "i16", "i32"])
    args = f"{floats} {value}, {words} zeroinitializer, i16 -1, i32 {_CURRENT_MODE}"
    return e.let(words, f"call {words} {full}({args})", value)


def _packed(e: ValueBuilder, number: _Number, lanes: int) -> str:
    """Convert 32 or 64 floats. What no i32 holds is the least one, as NaN is, and so 0."""
    floats, words, halves = vector("float", _LANES), vector("i32", _LANES), vector("i16", 32)
    value, parts = e.value(number.source), []
    for first in range(0, lanes, _LANES):
        picks = range(first, first + _LANES)
        own = _shuffled(e, vector("float", lanes), value, picks, floats)
        large = splat(literal(_LARGE, F32), floats)
        own = e.select(e.compare("fcmp olt", floats, large, own), floats, large, own)
        parts.append(_converted(e, own, "cvtps2dq" if number.rounds else "cvttps2dq"))
    pairs = []
    for pair in zip(parts[::2], parts[1::2], strict=True):
        packed = _pack(e, "packssdw", words, halves, *pair)
        if number.added:
            added = splat(str(number.added), halves)
            packed = e.intrinsic("sadd.sat", halves, (halves, packed), (halves, added))
        pairs.append(packed)
    bytes = _pack(e, "packuswb", halves, vector("i8", 64), pairs[0], pairs[-1])
    # Instructions pack the 128-bit lanes of their operands one by one.
    together = e.convert("bitcast", vector("i8", 64), bytes, words)
    order = [4 * lane + part for part in range(lanes // _LANES) for lane in range(4)]
    ordered = _shuffled(e, words, together, order, vector("i32", len(order)))
    return e.convert("bitcast", vector("i32", len(order)), ordered, vector("i8", lanes))


def _pack(e: ValueBuilder, name: str, source: str, result: str, x: str, y: str) -> str:
    full = f"@llvm.x86.avx512.{name}.512"
    e.declare(result, full, [source, source])
    return e.let(result, f"call {result} {full}({source} {x}, {source} {y})", x, y)


def _shuffled(e: ValueBuilder, type: str, x: str, mask: range | list[int], result: str) -> str:
    lanes = ", ".join(f"i32 {lane}" for lane in mask)
    return e.let(
        result, f"shufflevector {type} {x}, {type} poison, <{len(mask)} x i32> <{lanes}>", x
    )
