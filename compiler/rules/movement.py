"""Rewrite functions for what rules cannot say: shapes, axes, element types, attributes.

Data movement that undoes itself goes; lookups at known places become slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import tfc.ir.ops  # noqa: F401  registers the ops that are looked up by trait and kind
from tfc.compiler.evaluate import is_constant
from tfc.compiler.rewrite import Rewrite, Rewriter, rewrite
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, UndecidableError
from tfc.ir.opdef import OPS, Kind, OpDef, Trait, TypeRefusal
from tfc.ir.types import BOOL, DType

ELEMENTWISE = tuple(name for name, defn in OPS.items() if defn.kind is Kind.ELEMENTWISE)
EXACT_BITS = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}
"""Bits of the significand: integers up to 2**bits are exact."""
EXPONENT_BITS = {"f64": 11, "f32": 8, "f16": 5, "bf16": 8}

CHAIN = 8
"""How many elementwise ops a transpose may be carried through."""

Shape = tuple[DimLike, ...]


def _source(value: Value, name: str) -> Op | None:
    """The op that defines the value, if it is one of this name."""
    return value.op if value.op is not None and value.op.name == name else None


def _shape(value: Value) -> Shape:
    return tensor_type(value).shape


def _same_type(op: Op) -> bool:
    return op.result.type == op.operands[0].type


# -- order and repetition -----------------------------------------------------------------------


@rewrite(trait=Trait.COMMUTATIVE)
def constant_to_the_right(op: Op, rw: Rewriter) -> bool:
    x, y = op.operands
    if not is_constant(x) or is_constant(y):
        return False
    rw.set_operands(op, (y, x))
    return True


@rewrite(trait=Trait.IDEMPOTENT)
def twice_is_once(op: Op, rw: Rewriter) -> bool:
    inner = op.operands[0].op
    if inner is None or inner.defn is not op.defn or inner.attrs != op.attrs:
        return False
    rw.replace(op, inner.result)
    return True


@rewrite("clamp")
def clamp_of_clamp(op: Op, rw: Rewriter) -> bool:
    inner = _source(op.operands[0], "clamp")
    if inner is None:
        return False
    lo, hi = (
        _clamped(bound, op.attrs.lo, op.attrs.hi) for bound in (inner.attrs.lo, inner.attrs.hi)
    )
    lo, hi = (op.attrs.lo if lo is None else lo), (op.attrs.hi if hi is None else hi)
    b = rw.builder(op, inner)
    rw.replace(op, b.clamp(inner.operands[0], lo=lo, hi=hi))
    return True


def _clamped(bound: float | None, lo: float | None, hi: float | None) -> float | None:
    if bound is None:
        return None
    bound = bound if lo is None else max(bound, lo)
    return bound if hi is None else min(bound, hi)


# -- element types ------------------------------------------------------------------------------


def holds(wide: DType, dtype: DType) -> bool:
    """Whether `wide` has every value of `dtype`."""
    if wide == dtype or dtype == BOOL:
        return True
    if wide.is_float and dtype.is_float:
        precise = EXACT_BITS[wide.name] >= EXACT_BITS[dtype.name]
        return precise and EXPONENT_BITS[wide.name] >= EXPONENT_BITS[dtype.name]
    if wide.is_float and dtype.is_int:
        return EXACT_BITS[wide.name] >= dtype.bits - (dtype.kind == "i")
    if wide.is_int and dtype.is_int:
        return wide.bits > dtype.bits and (wide.kind == "i" or dtype.kind == "u")
    return False


@rewrite("cast")
def cast_to_own_type(op: Op, rw: Rewriter) -> bool:
    if not _same_type(op):
        return False
    rw.replace(op, op.operands[0])
    return True


@rewrite("cast")
def cast_of_widening_cast(op: Op, rw: Rewriter) -> bool:
    inner = _source(op.operands[0], "cast")
    if inner is None:
        return False
    source, middle = tensor_type(inner.operands[0]).dtype, inner.attrs.dtype
    # Floats saturate where integers wrap: a way through a float is not left out.
    saturates = source.is_int and middle.is_float and op.attrs.dtype.is_int
    if saturates or not holds(middle, source):
        return False
    b = rw.builder(op, inner)
    rw.replace(op, b.cast(inner.operands[0], dtype=op.attrs.dtype, saturate=op.attrs.saturate))
    return True


# -- views --------------------------------------------------------------------------------------


@rewrite("reshape", "broadcast")
def view_of_own_shape(op: Op, rw: Rewriter) -> bool:
    if not _same_type(op):
        return False
    rw.replace(op, op.operands[0])
    return True


@rewrite("reshape", "broadcast")
def view_of_same_view(op: Op, rw: Rewriter) -> bool:
    """A reshape of a reshape, a broadcast of a broadcast."""
    inner = op.operands[0].op
    if inner is None or inner.defn is not op.defn or not _accepts(op, inner.operands):
        return False
    b = rw.builder(op, inner)
    rw.replace(op, b.op(op.name, inner.operands[0], shape=op.attrs.shape).result)
    return True


def _accepts(op: Op, operands: Sequence[Value]) -> bool:
    """Whether the op with other operands has results of the same types."""
    defn = op.defn
    assert isinstance(defn, OpDef)
    try:
        types = defn.check([tensor_type(value) for value in operands], op.attrs)
    except TypeRefusal:
        return False
    return types == tuple(result.type for result in op.results)


@rewrite("transpose")
def transpose_of_transpose(op: Op, rw: Rewriter) -> bool:
    inner = _source(op.operands[0], "transpose")
    if inner is None:
        return False
    perm = tuple(inner.attrs.perm[axis] for axis in op.attrs.perm)
    b = rw.builder(op, inner)
    rw.replace(op, b.transpose(inner.operands[0], perm=perm))
    return True


@rewrite("transpose")
def transpose_of_unit_axes(op: Op, rw: Rewriter) -> bool:
    """One that keeps the order of all axes with more than one element is a reshape, or nothing."""
    shape = _shape(op.operands[0])
    moved = [axis for axis in op.attrs.perm if shape[axis] != 1]
    if moved != sorted(moved):
        return False
    if _same_type(op):
        rw.replace(op, op.operands[0])
    else:
        rw.replace(op, rw.builder(op).reshape(op.operands[0], shape=_shape(op.result)))
    return True


@rewrite("transpose")
def transpose_through_elementwise(op: Op, rw: Rewriter) -> bool:
    """A transpose of arithmetic on values that are transposed the other way cancels with them."""
    inner = op.operands[0].op
    if inner is None or inner.name not in ELEMENTWISE:
        return False
    if not _cancelled(op.operands[0], op.attrs.perm, CHAIN):
        return False
    rw.replace(op, _reordered(rw.builder(op, inner), op.operands[0], op.attrs.perm))
    return True


def _cancelled(value: Value, perm: tuple[int, ...], depth: int) -> int | None:
    """How many transposes go when `value` is computed in the order of `perm` instead.

    None where that takes a transpose of something else than a constant, or work done twice.
    """
    inner = value.op
    if tensor_type(value).rank == 0 or is_constant(value):
        return 0
    if inner is None or len(tensor_type(value).shape) != len(perm):
        return None
    if inner.name == "transpose":
        return 1 if _undoes(inner, perm) else None
    if inner.name not in ELEMENTWISE or len(value.uses) > 1 or depth == 0:
        return None
    counts = [_cancelled(operand, perm, depth - 1) for operand in inner.operands]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _undoes(transpose: Op, perm: tuple[int, ...]) -> bool:
    return all(transpose.attrs.perm[axis] == i for i, axis in enumerate(perm))


def _reordered(b: GraphBuilder, value: Value, perm: tuple[int, ...]) -> Value:
    """What `_cancelled` has found to be possible."""
    inner = value.op
    if tensor_type(value).rank == 0:
        return value
    if inner is None or is_constant(value):
        return _transposed(b, value, perm)
    if inner.name == "transpose":
        return inner.operands[0]
    operands = [_reordered(b, operand, perm) for operand in inner.operands]
    b.loc = inner.loc
    return b.emit(OPS[inner.name], operands, inner.attrs).result


def _transposed(b: GraphBuilder, value: Value, perm: tuple[int, ...]) -> Value:
    """A constant that broadcasts, in the order of `perm`."""
    shape = _shape(value)
    if len(shape) < len(perm):
        value = b.reshape(value, shape=(1,) * (len(perm) - len(shape)) + shape)
    result: Value = b.transpose(value, perm=perm)
    return result


@rewrite(*ELEMENTWISE)
def broadcast_before_elementwise(op: Op, rw: Rewriter) -> bool:
    """Operands broadcast by themselves, where others still give the result its shape."""
    for position, value in enumerate(op.operands):
        inner = _source(value, "broadcast")
        if inner is None:
            continue
        operands = list(op.operands)
        operands[position] = inner.operands[0]
        if _accepts(op, operands):
            rw.set_operands(op, operands)
            return True
    return False


def _computed_for(value: Value) -> Op | None:
    """The op that computes the value for a single user; None for views, lookups and inputs."""
    op = value.op
    if op is None or len(value.uses) > 1 or tensor_type(value).rank == 0:
        return None
    defn = op.defn
    assert isinstance(defn, OpDef)
    return op if defn.kind in (Kind.ELEMENTWISE, Kind.CONTRACTION, Kind.WINDOW) else None


def _behind_unit_axes(value: Value) -> Value | None:
    """The value computed for this reshape, if that changes axes of extent 1 only."""
    inner = _source(value, "reshape")
    if inner is None or len(value.uses) > 1 or _computed_for(inner.operands[0]) is None:
        return None
    kept = [[dim for dim in _shape(v) if dim != 1] for v in (inner.operands[0], value)]
    return inner.operands[0] if kept[0] == kept[1] else None


@rewrite(*ELEMENTWISE)
def reshape_past_elementwise(op: Op, rw: Rewriter) -> bool:
    """f(reshape(x), z) is reshape(f(x, reshape(z))): f can then be computed with x.

    Not where z is computed for f alone: it would be the one behind a reshape.
    """
    sources = [_behind_unit_axes(value) for value in op.operands]
    x = next((source for source in sources if source is not None), None)
    if x is None:
        return False
    rest = [v for v, source in zip(op.operands, sources, strict=True) if source is None]
    reshaped = op.operands[sources.index(x)]
    if any(map(_computed_for, rest)) or _shape(reshaped) != _shape(op.result):
        return False
    b = rw.builder(op)
    operands = [
        x if value is reshaped else _like_source(b, value, _shape(reshaped), _shape(x))
        for value in op.operands
    ]
    defn = OPS[op.name]
    rw.replace(op, b.reshape(b.emit(defn, operands, op.attrs).result, shape=_shape(op.result)))
    return True


def _like_source(b: GraphBuilder, value: Value, reshaped: Shape, source: Shape) -> Value:
    """Reshape what broadcasts to `reshaped` into what broadcasts to `source` in the same way."""
    have = _shape(value)
    if not have:
        return value
    dims = iter(
        dim
        for dim, full in zip((1,) * (len(reshaped) - len(have)) + have, reshaped, strict=True)
        if full != 1
    )
    shape = tuple(1 if full == 1 else next(dims) for full in source)
    result: Value = value if shape == have else b.reshape(value, shape=shape)
    return result


# -- parts --------------------------------------------------------------------------------------


@rewrite("slice")
def slice_of_everything(op: Op, rw: Rewriter) -> bool:
    shape = _shape(op.operands[0])
    steps = zip(op.attrs.steps, shape, strict=True)
    if not _same_type(op) or not all(step == 1 or dim == 1 for step, dim in steps):
        return False
    rw.replace(op, op.operands[0])
    return True


@rewrite("slice")
def slice_of_slice(op: Op, rw: Rewriter) -> bool:
    inner = _source(op.operands[0], "slice")
    if inner is None:
        return False
    first, then = inner.attrs, op.attrs
    starts = tuple(
        a + s * step for a, s, step in zip(first.starts, then.starts, first.steps, strict=True)
    )
    steps = tuple(a * b for a, b in zip(first.steps, then.steps, strict=True))
    b = rw.builder(op, inner)
    rw.replace(op, b.slice(inner.operands[0], starts=starts, sizes=then.sizes, steps=steps))
    return True


@rewrite("slice")
def slice_of_concat(op: Op, rw: Rewriter) -> bool:
    """One that takes from a single operand is a slice of that operand."""
    inner = _source(op.operands[0], "concat")
    if inner is None:
        return False
    axis = inner.attrs.axis % tensor_type(op.result).rank
    start, size, step = (getattr(op.attrs, n)[axis] for n in ("starts", "sizes", "steps"))
    if not all(isinstance(n, int) for n in (start, size)) or size == 0:
        return False
    first, last = sorted((start, start + (size - 1) * step))
    for value in inner.operands:
        extent = _shape(value)[axis]
        if not isinstance(extent, int):
            return False
        if first >= 0 and last < extent:
            starts = list(op.attrs.starts)
            starts[axis] = start
            rw.replace(op, rw.builder(op).slice(
                value, starts=starts, sizes=op.attrs.sizes, steps=op.attrs.steps))  # fmt: skip
            return True
        start, first, last = start - extent, first - extent, last - extent
    return False


@rewrite("pad")
def pad_by_nothing(op: Op, rw: Rewriter) -> bool:
    if any(amount != 0 for amount in (*op.attrs.lo, *op.attrs.hi)):
        return False
    rw.replace(op, op.operands[0])
    return True


@rewrite("pad")
def pad_of_pad(op: Op, rw: Rewriter) -> bool:
    """Two that add the same value are one."""
    inner = _source(op.operands[0], "pad")
    if inner is None or len(inner.result.uses) > 1 or inner.operands[1:] != op.operands[1:]:
        return False
    if {inner.attrs.mode, op.attrs.mode} != {"constant"}:
        return False
    amounts = (*inner.attrs.lo, *inner.attrs.hi, *op.attrs.lo, *op.attrs.hi)
    if not all(isinstance(amount, int) and amount >= 0 for amount in amounts):
        return False
    attrs = replace(
        op.attrs,
        lo=tuple(a + b for a, b in zip(inner.attrs.lo, op.attrs.lo, strict=True)),
        hi=tuple(a + b for a, b in zip(inner.attrs.hi, op.attrs.hi, strict=True)),
    )
    b = rw.builder(op, inner)
    rw.replace(op, b.emit(OPS[op.name], inner.operands, attrs).result)
    return True


@rewrite("concat")
def concat_of_one(op: Op, rw: Rewriter) -> bool:
    if len(op.operands) > 1:
        return False
    rw.replace(op, op.operands[0])
    return True


@rewrite("concat")
def concat_of_concat(op: Op, rw: Rewriter) -> bool:
    """Along one axis they are one, unless the inner one has a use of its own."""
    axis = op.attrs.axis % tensor_type(op.result).rank
    flat: list[Value] = []
    merged: list[Op] = []
    for value in op.operands:
        inner = _source(value, "concat")
        if (
            inner is not None
            and len(value.uses) == 1
            and inner.attrs.axis % len(_shape(value)) == axis
        ):
            flat += inner.operands
            merged.append(inner)
        else:
            flat.append(value)
    if not merged:
        return False
    rw.replace(op, rw.builder(op, *merged).concat(*flat, axis=axis))
    return True


# -- lookups ------------------------------------------------------------------------------------


@rewrite("gather")
def gather_of_range(op: Op, rw: Rewriter) -> bool:
    """A lookup at one known place, or at places with equal distances, is a slice."""
    x, indices = op.operands
    axis = op.attrs.axis % tensor_type(x).rank
    found = _range_of(indices, _shape(x)[axis])
    if found is None:
        return False
    start, count, step = found
    starts: list[DimLike] = [0] * tensor_type(x).rank
    sizes, steps = list(_shape(x)), [1] * tensor_type(x).rank
    starts[axis], sizes[axis], steps[axis] = start, count, step
    b = rw.builder(op)
    taken = b.slice(x, starts=starts, sizes=sizes, steps=steps)
    single = tensor_type(indices).rank == 0
    rw.replace(op, b.reshape(taken, shape=_shape(op.result)) if single else taken)
    return True


def _range_of(indices: Value, dim: DimLike) -> tuple[DimLike, int, int] | None:
    """(start, count, step) of constant indices that are such a range within `dim`, or None."""
    if not is_constant(indices) or tensor_type(indices).rank > 1:
        return None
    assert indices.op is not None
    values = getattr(indices.op.attrs.value, "values", ())
    steps = {b - a for a, b in pairwise(values)} or {1}
    if not values or len(steps) > 1 or 0 in steps or len({i < 0 for i in values}) > 1:
        return None
    if not all(_is_within(i, dim) for i in values):
        return None
    return (values[0] + dim if values[0] < 0 else values[0]), len(values), steps.pop()


def _is_within(i: int, dim: DimLike) -> bool:
    """Whether index i, counted from the end where it is negative, is on an axis for sure."""
    try:
        return -dim <= i and i < dim
    except UndecidableError:
        # The first and the last element are there if the axis is not empty, which lookups need.
        return i in (0, -1)


MOVEMENT: tuple[Rewrite, ...] = (
    constant_to_the_right,
    twice_is_once,
    clamp_of_clamp,
    cast_to_own_type,
    cast_of_widening_cast,
    view_of_own_shape,
    view_of_same_view,
    transpose_of_transpose,
    transpose_of_unit_axes,
    transpose_through_elementwise,
    broadcast_before_elementwise,
    reshape_past_elementwise,
    slice_of_everything,
    slice_of_slice,
    slice_of_concat,
    pad_by_nothing,
    pad_of_pad,
    concat_of_one,
    concat_of_concat,
    gather_of_range,
)
