"""The ops of the loop level: one `LoopOp` each, with the rule that gives its result types.

Scalar ops (`ir.loop.scalar`) stand here too, applied to scalars or, lane by lane, to vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tfc.ir.attrs import Dense
from tfc.ir.dims import DimLike
from tfc.ir.loop.scalar import SCALARS, ScalarOp
from tfc.ir.types import (
    BF16,
    BOOL,
    F32,
    I8,
    I32,
    I64,
    INDEX,
    PREDICATE,
    U8,
    BufferType,
    DType,
    ScalarType,
    Type,
    VectorType,
    scalar_of,
    vector_of,
)

ALIASED = "aliased"
"""The attribute of a kernel some of whose buffers may be the same memory."""


class LoopTypeError(ValueError):
    """Operand types or attributes that an op does not take; the message says why."""


@dataclass(frozen=True, slots=True)
class NoAttrs:
    """No attributes."""


@dataclass(frozen=True, slots=True)
class ScalarAttrs:
    """dtype: the result's element type (cast and bitcast only)."""

    dtype: DType | None = None


@dataclass(frozen=True, slots=True)
class ConstAttrs:
    """value: the number, splat over all lanes; the bits of a complex one.

    type: the result's element type and lanes.
    """

    value: float | int | bool
    dtype: DType
    lanes: int = 0


@dataclass(frozen=True, slots=True)
class DimAttrs:
    """expr: an integer expression over the function's symbols."""

    expr: DimLike


@dataclass(frozen=True, slots=True)
class LanesAttrs:
    """lanes: width of the result. dtype: its element type where operands do not give it."""

    lanes: int
    dtype: DType = I64


@dataclass(frozen=True, slots=True)
class AccessAttrs:
    """A vector access: `lanes` elements along `axis` of the buffer. masked: last operand is a mask.

    Lanes that are masked off are not read (they give 0) or written.
    """

    lanes: int
    axis: int = -1
    masked: bool = False


@dataclass(frozen=True, slots=True)
class GatherAttrs:
    """masked: the last operand is a mask of as many lanes."""

    masked: bool = False


@dataclass(frozen=True, slots=True)
class ReduceAttrs:
    """kind: add, mul, min, max, and, or."""

    kind: str


@dataclass(frozen=True, slots=True)
class LaneAttrs:
    """lane: the lane to read or write."""

    lane: int


@dataclass(frozen=True, slots=True)
class ShuffleAttrs:
    """mask: for each result lane, an index into the lanes of both operands, concatenated."""

    mask: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BufferAttrs:
    """type: the buffer that the op makes."""

    type: BufferType


@dataclass(frozen=True, slots=True)
class ConstantAttrs:
    """name: an entry of the program's constant table. type: how it is read."""

    name: str
    type: BufferType


@dataclass(frozen=True, slots=True)
class TableAttrs:
    """values: the elements of a small read-only table that lies beside the code."""

    values: Dense
    dtype: DType


@dataclass(frozen=True, slots=True)
class ForAttrs:
    """step: distance between iterations, > 0."""

    step: int = 1


@dataclass(frozen=True, slots=True)
class CallAttrs:
    """callee: name of the kernel."""

    callee: str


@dataclass(frozen=True, slots=True)
class CheckAttrs:
    """code: what `run` returns when the condition is false. message: what it means."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class BindAttrs:
    """symbol: what the operand is called from here on, a symbol of main. hi: the most it can be."""

    symbol: str
    hi: DimLike


Infer = Callable[[tuple[Type, ...], Any], tuple[Type, ...]]


@dataclass(frozen=True, slots=True)
class LoopOp:
    """A loop-level op. regions: how many it has; terminator: it ends a block."""

    name: str
    infer: Infer
    attrs: type = NoAttrs
    regions: int = 0
    terminator: bool = False
    pure: bool = True


# Frozen, so that all ops may share them.
NO_ATTRS = NoAttrs()
PLAIN = ScalarAttrs()
LOOP_OPS: dict[str, LoopOp] = {}


def _register(op: LoopOp) -> LoopOp:
    LOOP_OPS[op.name] = op
    return op


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise LoopTypeError(message)


def with_dtype(like: Type, dtype: DType) -> Type:
    """Return the scalar or vector type shaped as `like` with another element type."""
    return vector_of(dtype, like.lanes) if isinstance(like, VectorType) else scalar_of(dtype)


def _scalar_infer(op: ScalarOp) -> Infer:
    first = 1 if op.name == "select" else 0

    def infer(types: tuple[Type, ...], attrs: ScalarAttrs) -> tuple[Type, ...]:
        last = types[-1] if types else None
        if len(types) != op.arity:
            raise LoopTypeError(f"takes {op.arity} operands, not {len(types)}")
        if not isinstance(last, (ScalarType, VectorType)):
            raise LoopTypeError(f"operand is {last}, not a register")
        if last.dtype.kind not in op.kinds:
            raise LoopTypeError(f"does not apply to {last.dtype}")
        for type in types[first:]:
            if type is not last and type != last:
                raise LoopTypeError("operands differ in type")
        if first and types[0] not in (with_dtype(last, BOOL), PREDICATE):
            raise LoopTypeError("the condition is not bool of the operands' shape")
        if op.result == "same":
            return (last,)
        return (with_dtype(last, BOOL if op.result == "bool" else _target(op, last, attrs)),)

    return infer


def _target(op: ScalarOp, last: ScalarType | VectorType, attrs: ScalarAttrs) -> DType:
    """The element type that a cast is to."""
    if attrs.dtype is None:
        raise LoopTypeError("has no dtype")
    if op.name == "bitcast" and attrs.dtype.bits != last.dtype.bits:
        raise LoopTypeError(f"bitcast of {last.dtype} to {attrs.dtype}")
    return attrs.dtype


for _op in SCALARS.values():
    _register(LoopOp(_op.name, _scalar_infer(_op), ScalarAttrs))


def _as_buffer(type: Type) -> BufferType:
    if not isinstance(type, BufferType):
        raise LoopTypeError(f"{type} is not a buffer")
    if type.space == TILE:
        raise LoopTypeError(f"{type} is reached by tile ops only")
    return type


def _indexed(types: tuple[Type, ...], extra: int = 0) -> BufferType:
    """Check `buffer, index...` with `extra` operands behind, and return the buffer's type."""
    buf = _as_buffer(types[0])
    indices = types[1 : len(types) - extra]
    if len(indices) != len(buf.shape):
        raise LoopTypeError(f"{len(indices)} indices into {buf}")
    return buf


def _all_index(types: tuple[Type, ...]) -> None:
    for t in types:
        if t is not INDEX and t != INDEX:
            raise LoopTypeError("an index is not i64")


def _const(types: tuple[Type, ...], attrs: ConstAttrs) -> tuple[Type, ...]:
    _need(not types, "takes no operands")
    return (vector_of(attrs.dtype, attrs.lanes) if attrs.lanes else scalar_of(attrs.dtype),)


def _splat(types: tuple[Type, ...], attrs: LanesAttrs) -> tuple[Type, ...]:
    _need(isinstance(types[0], ScalarType), "splats a scalar")
    assert isinstance(types[0], ScalarType)
    return (vector_of(types[0].dtype, attrs.lanes),)


def _vector(type: Type) -> VectorType:
    if not isinstance(type, VectorType):
        raise LoopTypeError(f"{type} is not a vector")
    return type


def _shuffle(types: tuple[Type, ...], attrs: ShuffleAttrs) -> tuple[Type, ...]:
    _need(types[0] == types[1], "operands differ in type")
    lanes = _vector(types[0]).lanes
    _need(all(0 <= lane < 2 * lanes for lane in attrs.mask), "a mask entry is out of range")
    return (vector_of(_vector(types[0]).dtype, len(attrs.mask)),)


# What `dot` multiplies and adds up: element types of both factors, and of the sums.
DOTS: dict[tuple[DType, DType], DType] = {(BF16, BF16): F32, (U8, I8): I32}


def _dot(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    """Neighbouring lanes of the factors, as many as fill a sum's width, go to one sum."""
    x, y, total = (_vector(type) for type in types)
    _need(x.lanes == y.lanes, "the factors differ in lanes")
    found = DOTS.get((x.dtype, y.dtype))
    if found is None:
        raise LoopTypeError(f"does not multiply {x.dtype} by {y.dtype}")
    sums = vector_of(found, x.lanes * x.dtype.bits // found.bits)
    if total != sums:
        raise LoopTypeError(f"adds products of {x} to {total}, not to {sums}")
    return (total,)


# The memory space of tile registers, and what `tile_dot` multiplies and adds up.
TILE = "tile"
TILE_DOTS: dict[tuple[DType, DType], DType] = {
    **DOTS,
    (I8, I8): I32,
    (I8, U8): I32,
    (U8, U8): I32,
}


def _tile(type: Type) -> BufferType:
    if not isinstance(type, BufferType) or type.space != TILE:
        raise LoopTypeError(f"{type} is not a tile")
    return type


def _tile_zero(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    (type,) = types
    _tile(type)
    return ()


def _tile_access(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    tile, buf = _tile(types[0]), _as_buffer(types[1])
    _need(len(types) == 4, "takes a tile, a buffer, an offset and a distance of rows")
    _all_index(types[2:])
    _need(len(buf.shape) == 1 and buf.strides == (1,), f"{buf} is not flat")
    _need(buf.dtype == tile.dtype, f"{tile} does not hold elements of {buf}")
    return ()


def _tile_dot(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    x, y, total = (_tile(type) for type in types)
    found = TILE_DOTS.get((x.dtype, y.dtype))
    if found is None:
        raise LoopTypeError(f"does not multiply {x.dtype} by {y.dtype}")
    _need(total.dtype == found, f"adds products of {x.dtype} to {total.dtype}, not to {found}")
    group = found.bits // x.dtype.bits
    fits = x.shape[1] == y.shape[0] * group and y.shape[1] == total.shape[1] * group
    _need(fits and x.shape[0] == total.shape[0], f"{x} by {y} is no {total}")
    return ()


def _lookup(types: tuple[Type, ...], attrs: TableAttrs) -> tuple[Type, ...]:
    (x,) = types
    if not isinstance(x, (ScalarType, VectorType)) or x.dtype != U8:
        raise LoopTypeError(f"looks up u8, not {x}")
    _need(len(attrs.values.values) == 1 << U8.bits, "the table has not one value for each byte")
    _need(attrs.dtype.bits == U8.bits, f"the values are {attrs.dtype}, not bytes")
    return (with_dtype(x, attrs.dtype),)


def _load(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    buf = _indexed(types)
    _all_index(types[1:])
    return (scalar_of(buf.dtype),)


def _store(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    buf = _indexed(types[1:])
    _all_index(types[2:])
    _check_stored(types[0], scalar_of(buf.dtype), buf)
    return ()


def _check_stored(type: Type, wanted: Type, buf: BufferType) -> None:
    if type is not wanted and type != wanted:
        raise LoopTypeError(f"stores {type} into {buf}")


def _check_mask(types: tuple[Type, ...], lanes: int, masked: bool) -> int:
    if masked:
        _need(types[-1] == vector_of(BOOL, lanes), "the mask is not bool of as many lanes")
    return int(masked)


def _vload(types: tuple[Type, ...], attrs: AccessAttrs) -> tuple[Type, ...]:
    extra = _check_mask(types, attrs.lanes, attrs.masked)
    buf = _indexed(types, extra)
    _all_index(types[1 : len(types) - extra])
    return (vector_of(buf.dtype, attrs.lanes),)


def _vstore(types: tuple[Type, ...], attrs: AccessAttrs) -> tuple[Type, ...]:
    extra = _check_mask(types, attrs.lanes, attrs.masked)
    buf = _indexed(types[1:], extra)
    _all_index(types[2 : len(types) - extra])
    _check_stored(types[0], vector_of(buf.dtype, attrs.lanes), buf)
    return ()


def _lanes(types: tuple[Type, ...]) -> int:
    """Return the lanes of the vector indices among `types`; the others are scalar i64."""
    lanes = {t.lanes for t in types if isinstance(t, VectorType)}
    _need(len(lanes) == 1, "the vector indices differ in lanes")
    for t in types:
        if t != INDEX and not (isinstance(t, VectorType) and t.dtype is I64):
            raise LoopTypeError(f"{t} is not an index")
    return lanes.pop()


def _gather(types: tuple[Type, ...], attrs: GatherAttrs) -> tuple[Type, ...]:
    extra = int(attrs.masked)
    buf = _indexed(types, extra)
    lanes = _lanes(types[1 : len(types) - extra])
    _check_mask(types, lanes, attrs.masked)
    return (vector_of(buf.dtype, lanes),)


def _scatter(types: tuple[Type, ...], attrs: GatherAttrs) -> tuple[Type, ...]:
    extra = int(attrs.masked)
    buf = _indexed(types[1:], extra)
    lanes = _lanes(types[2 : len(types) - extra])
    _check_mask(types, lanes, attrs.masked)
    _check_stored(types[0], vector_of(buf.dtype, lanes), buf)
    return ()


def _prefetch(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    _indexed(types)
    return ()


def _view(types: tuple[Type, ...], attrs: BufferAttrs) -> tuple[Type, ...]:
    _as_buffer(types[0])
    _need(types[1:] == (INDEX,), "takes a buffer and an offset in elements")
    return (attrs.type,)


def _for(types: tuple[Type, ...], attrs: ForAttrs) -> tuple[Type, ...]:
    _need(len(types) >= 2 and types[0] == INDEX and types[1] == INDEX, "bounds are not i64")
    _need(attrs.step > 0, "the step is not positive")
    return types[2:]


def _while(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    _need(types[:1] == (PREDICATE,), "the condition is not a bool scalar")
    return types[1:]


def _if(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    """Results are the types yielded by the regions; the verifier compares both."""
    _need(types == (PREDICATE,), "the condition is not a bool scalar")
    return ()


def _nothing(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    return ()


def _parallel(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    _need(types in ((INDEX,), (INDEX, PREDICATE)), "takes a count and, if wanted, a bool")
    return ()


def _tiles(types: tuple[Type, ...], attrs: Any) -> tuple[Type, ...]:
    _all_index(types)
    return ()


def _bind(types: tuple[Type, ...], attrs: BindAttrs) -> tuple[Type, ...]:
    _need(types == (INDEX,), "the value is not an i64")
    return ()


def _check(types: tuple[Type, ...], attrs: CheckAttrs) -> tuple[Type, ...]:
    _need(types == (PREDICATE,), "the condition is not a bool scalar")
    return ()


# Values
_register(LoopOp("const", _const, ConstAttrs))
_register(LoopOp("dim", lambda types, attrs: (INDEX,), DimAttrs))
_register(LoopOp("splat", _splat, LanesAttrs))
_register(LoopOp("iota", lambda types, attrs: (vector_of(attrs.dtype, attrs.lanes),), LanesAttrs))
_register(LoopOp("extract", lambda types, attrs: (scalar_of(_vector(types[0]).dtype),), LaneAttrs))
_register(LoopOp("insert", lambda types, attrs: (_vector(types[1]),), LaneAttrs))
_register(LoopOp("shuffle", _shuffle, ShuffleAttrs))
_register(LoopOp("reduce", lambda types, attrs: (scalar_of(_vector(types[0]).dtype),), ReduceAttrs))
# total + the products of each lane's pair (bf16) or four (u8 by i8); only for targets with an
# instruction for it. Sums of bf16 are rounded in the target's order, which may flush denormals;
# those of integers wrap.
_register(LoopOp("dot", _dot))
_register(LoopOp("lookup", _lookup, TableAttrs))
# Memory
_register(LoopOp("load", _load, pure=False))
_register(LoopOp("store", _store, pure=False))
_register(LoopOp("vload", _vload, AccessAttrs, pure=False))
_register(LoopOp("vstore", _vstore, AccessAttrs, pure=False))
_register(LoopOp("gather", _gather, GatherAttrs, pure=False))
_register(LoopOp("scatter", _scatter, GatherAttrs, pure=False))
_register(LoopOp("prefetch", _prefetch, pure=False))
_register(LoopOp("alloca", lambda types, attrs: (attrs.type,), BufferAttrs, pure=False))
_register(LoopOp("view", _view, BufferAttrs))
_register(LoopOp("table", lambda types, attrs: (_table_type(attrs),), TableAttrs))
# Control. `parallel` runs its region (index, worker) for 0 <= index < count in any order, on
# several threads where the optional second operand is true. Workers are numbered from 0.
# `while` runs its region on carried values as long as the condition, at first an operand and then
# the region's first yield, is true.
_register(LoopOp("for", _for, ForAttrs, regions=1, pure=False))
_register(LoopOp("while", _while, regions=1, pure=False))
_register(LoopOp("parallel", _parallel, regions=1, pure=False))
_register(LoopOp("if", _if, regions=2, pure=False))
_register(LoopOp("yield", _nothing, terminator=True, pure=False))
_register(LoopOp("return", _nothing, terminator=True, pure=False))
# Tiles: registers of up to 16 rows of up to 64 bytes, buffers in the space `tile`. `tiles` takes
# how many rows each has, and runs its region on them; their contents are not defined at first.
# `tile_load` and `tile_store` move all rows, of which neighbours lie a distance apart.
# `tile_dot(x, y, total)` adds to every total[m, n] the products of x[m, g * k + i] and
# y[k, g * n + i], g being 2 for bf16 and 4 for bytes: rows of y are groups of steps. Its rounding
# is that of `ir.loop.tiles`.
_register(LoopOp("tiles", _tiles, regions=1, pure=False))
_register(LoopOp("tile_zero", _tile_zero, pure=False))
_register(LoopOp("tile_load", _tile_access, pure=False))
_register(LoopOp("tile_store", _tile_access, pure=False))
_register(LoopOp("tile_dot", _tile_dot, pure=False))
# Programs: `main` only
_register(LoopOp("call", _nothing, CallAttrs, pure=False))
_register(LoopOp("check", _check, CheckAttrs, pure=False))
_register(LoopOp("bind", _bind, BindAttrs, pure=False))
_register(LoopOp("workspace", lambda types, attrs: (attrs.type,), BufferAttrs))
_register(LoopOp("constant", lambda types, attrs: (attrs.type,), ConstantAttrs))


def _table_type(attrs: TableAttrs) -> BufferType:
    return BufferType(attrs.dtype, (len(attrs.values.values),), (1,))
