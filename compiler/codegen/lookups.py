"""The loop op `lookup` as LLVM text: permutations of registers on AVX-512, else loads.

VBMI permutes all of a register, twice for the whole table. Without it 16 entries are looked up at a
time, which is worth it for as many bytes as a register holds.
"""

from __future__ import annotations

from tfc.compiler.codegen.llvm_types import literal, splat, vector
from tfc.compiler.codegen.memory import table_of
from tfc.compiler.codegen.values import ValueBuilder
from tfc.ir.core import Op
from tfc.ir.types import I8, VectorType

# Bytes of a register, and of the pair of registers that one permutation chooses from.
_REGISTER, _PAIR = 64, 128
# Entries that one shuffle within 128 bits chooses from.
_PART = 16
_SHUFFLE = "@llvm.x86.avx512.pshuf.b.512"
_PERMUTE = "@llvm.x86.avx512.vpermi2var.qi.512"


def lookup(e: ValueBuilder, op: Op) -> None:
    (x,) = op.operands
    value = e.value(x)
    if not isinstance(x.type, VectorType):
        e.values[op.result] = _loaded(e, op, value)
    elif e.target.permutes_bytes and x.type.lanes <= _REGISTER:
        e.values[op.result] = _permuted(e, op, value, x.type.lanes)
    elif e.target.arch == "x86_64" and 8 * x.type.lanes == e.target.vector_bits == 8 * _REGISTER:
        e.values[op.result] = _in_parts(e, op, value)
    else:
        e.values[op.result] = _one_by_one(e, op, value, x.type.lanes)


def _loaded(e: ValueBuilder, op: Op, value: str) -> str:
    table = table_of(e, op.attrs.values.values, op.attrs.dtype)
    index = e.convert("zext", "i8", value, "i64")
    at = e.let("ptr", f"getelementptr inbounds i8, ptr {table}, i64 {index}", index)
    return e.let("i8", f"load i8, ptr {at}, align 1, !invariant.load !0", at)


def _one_by_one(e: ValueBuilder, op: Op, value: str, lanes: int) -> str:
    type, found = vector("i8", lanes), "poison"
    for lane in range(lanes):
        byte = e.let("i8", f"extractelement {type} {value}, i64 {lane}", value)
        entry = _loaded(e, op, byte)
        rhs = f"insertelement {type} {found}, i8 {entry}, i64 {lane}"
        found = e.let(type, rhs, found, entry)
    return found


def _in_parts(e: ValueBuilder, op: Op, value: str) -> str:
    """Try every byte in each part of the table; out of it an index has bit 7, and gives 0."""
    type, values = vector("i8", _REGISTER), op.attrs.values.values
    e.declare(type, _SHUFFLE, [type] * 2)
    found = ""
    for first in range(0, len(values), _PART):
        part = [literal(v, op.attrs.dtype) for v in values[first : first + _PART]]
        table = ", ".join(f"i8 {entry}" for entry in part * (_REGISTER // _PART))
        moved = e.op("sub", type, value, splat(literal(first, I8), type)) if first else value
        index = e.intrinsic("uadd.sat", type, (type, moved), (type, splat("112", type)))
        call = f"call {type} {_SHUFFLE}({type} <{table}>, {type} {index})"
        entries = e.let(type, call, index)
        found = e.op("or", type, found, entries) if found else entries
    return found


def _permuted(e: ValueBuilder, op: Op, value: str, lanes: int) -> str:
    """Bit 7 of a byte says which half of the table holds its entry."""
    type, whole = vector("i8", lanes), vector("i8", _REGISTER)
    wide = value
    if lanes < _REGISTER:
        picks = ", ".join(f"i32 {min(lane, lanes)}" for lane in range(_REGISTER))
        rhs = f"shufflevector {type} {value}, {type} poison, <{_REGISTER} x i32> <{picks}>"
        wide = e.let(whole, rhs, value)
    e.declare(whole, _PERMUTE, [whole] * 3)
    low, high = (_narrowed(e, _half(e, op, first, wide), lanes) for first in (0, _PAIR))
    upper = e.compare("icmp slt", type, value, "zeroinitializer")
    return e.select(upper, type, high, low)


def _half(e: ValueBuilder, op: Op, first: int, index: str) -> str:
    """The entries that the low seven bits count to in a half of the table."""
    whole = vector("i8", _REGISTER)
    values, dtype = op.attrs.values.values, op.attrs.dtype
    low, high = (
        ", ".join(f"i8 {literal(value, dtype)}" for value in values[at : at + _REGISTER])
        for at in (first, first + _REGISTER)
    )
    args = f"{whole} <{low}>, {whole} {index}, {whole} <{high}>"
    return e.let(whole, f"call {whole} {_PERMUTE}({args})", index)


def _narrowed(e: ValueBuilder, value: str, lanes: int) -> str:
    if lanes == _REGISTER:
        return value
    type, whole = vector("i8", lanes), vector("i8", _REGISTER)
    picks = ", ".join(f"i32 {lane}" for lane in range(lanes))
    rhs = f"shufflevector {whole} {value}, {whole} poison, <{lanes} x i32> <{picks}>"
    return e.let(type, rhs, value)
