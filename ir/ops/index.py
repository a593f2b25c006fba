"""Ops that look elements up by index: gather and its kin, and triangles of matrices.

A negative index counts from the end. Indices outside of the axis are clamped to it here, which
keeps every access in bounds; refusing them at run time is the business of checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.body import Expr, ExprBuilder, Index, Range
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import Dim, DimLike, maximum, product
from tfc.ir.opdef import Assumption, Kind, OpDef, Reject, Sample, Trait, register, require
from tfc.ir.ops.common import PURE, Array, floats, index_expr, integers, normalize_axis
from tfc.ir.ops.movement import Shape, dims_of
from tfc.ir.ops.parts import AxisAttrs, sum_by_index
from tfc.ir.types import F32, I32, I64, TensorType, shape_text

_EMPTY = "looks up elements of an empty axis"


def require_indices(type: TensorType) -> None:
    require(type.dtype.is_int, f"indices are integers, not {type.dtype}")


def _require_nonempty(dims: Sequence[DimLike], result: Shape) -> None:
    """Refuse a lookup that reads from an axis without elements."""
    empty = any(isinstance(dim, int) and dim == 0 for dim in result)
    require(empty or all(dim != 0 for dim in dims), _EMPTY)


def assume_nonempty(dims: Shape, result: Shape) -> list[Assumption]:
    """The same of symbolic dims: each is at least 1 or the result has no elements."""
    found = [maximum(1 - dim, 0) * product(result) for dim in dims]
    return [Assumption(zero, f"a lookup in {shape_text(dims)}: it {_EMPTY}") for zero in found
            if isinstance(zero, Dim)]  # fmt: skip


def require_within(dims: Shape, counts: Shape, axis: int) -> None:
    """Refuse indices of elements that reach beyond a tensor along other axes than their own."""
    for i, (dim, count) in enumerate(zip(dims, counts, strict=True)):
        known = isinstance(dim, int) and isinstance(count, int)
        fits = i == axis or not known or count <= dim
        require(fits, f"indices {shape_text(counts)} reach beyond {shape_text(dims)}")


def assume_within(dims: Shape, counts: Shape, axis: int) -> list[Assumption]:
    """The same of symbolic dims, and that there is something along the axis of the indices."""
    text = f"indices {shape_text(counts)} stay within {shape_text(dims)}"
    beyond = [
        maximum(count - dim, 0)
        for i, (dim, count) in enumerate(zip(dims, counts, strict=True))
        if i != axis
    ]
    found = [Assumption(zero, text) for zero in beyond if isinstance(zero, Dim)]
    return [*found, *assume_nonempty(dims[axis : axis + 1], counts)]


def in_range(b: ExprBuilder, i: Expr, dim: DimLike) -> Expr:
    """Return index `i`, read from data, as one of 0 .. dim - 1."""
    i = b.cast(i, I64)
    zero = b.const(0, I64)
    wrapped = b.select(b.lt(i, zero), b.add(i, index_expr(b, dim)), i)
    return b.max(b.min(wrapped, index_expr(b, dim - 1)), zero)


def wrapped(indices: Array, dim: int) -> Array:
    i = indices.astype(np.int64)
    return np.clip(np.where(i < 0, i + dim, i), 0, max(dim - 1, 0))


def _in_range_value(b: GraphBuilder, indices: Value, dim: DimLike) -> Value:
    """Indices as a tensor of i64 numbers from 0 to dim - 1."""
    i = b.cast(indices, dtype=I64, saturate=True)
    zero = b.constant(0, I64)
    count, last = b.dims(values=(dim,), rank=0), b.dims(values=(dim - 1,), rank=0)
    wrapped = b.select(b.lt(i, zero), b.add(i, count), i)
    found: Value = b.max(b.min(wrapped, last), zero)
    return found


# -- gather -------------------------------------------------------------------------------------


def _infer_gather(types: Sequence[TensorType], attrs: AxisAttrs) -> Sequence[TensorType]:
    x, indices = types
    require_indices(indices)
    axis = normalize_axis(attrs.axis, x.rank)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    _require_nonempty(x.shape[axis : axis + 1], shape)
    return (TensorType(x.dtype, shape),)


def _assume_gather(types: Sequence[TensorType], attrs: AxisAttrs) -> Sequence[Assumption]:
    axis = normalize_axis(attrs.axis, types[0].rank)
    (result,) = _infer_gather(types, attrs)
    return assume_nonempty(types[0].shape[axis : axis + 1], result.shape)


def _gather_ref(attrs: AxisAttrs, x: Array, indices: Array) -> Array:
    return np.asarray(np.take(x, wrapped(indices, x.shape[attrs.axis]), attrs.axis))


def _gather_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    x, indices = op.operands
    shape = tensor_type(x).shape
    axis = normalize_axis(op.attrs.axis, len(shape))
    behind = axis + tensor_type(indices).rank
    i = in_range(b, b.load(indices, index[axis:behind]), shape[axis])
    return b.load(x, (*index[:axis], i, *index[behind:]))


def _gather_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    x, indices = op.operands
    shape, count = tensor_type(x).shape, tensor_type(indices).size
    axis = normalize_axis(op.attrs.axis, len(shape))
    g = b.reshape(gs[0], shape=(*shape[:axis], count, *shape[axis + 1 :]))
    flat = b.reshape(_in_range_value(b, indices, shape[axis]), shape=(count,))
    return [sum_by_index(b, g, flat, axis, shape[axis]), None]


register(
    OpDef(
        name="gather",
        doc="Slices of x along `axis`, by the second operand, whose axes take the axis' place.",
        attrs=AxisAttrs,
        operands=(2, 2),
        kind=Kind.INJECTIVE,
        traits=PURE | {Trait.DIMS},
        infer=_infer_gather,
        assumes=_assume_gather,
        ref=_gather_ref,
        body=_gather_body,
        grad=_gather_grad,
        samples=lambda: (
            [
                Sample((floats(shape), indices), {"axis": axis}, grad=0 not in shape)
                for shape, indices, axis in (
                    ((5, 3), np.array([4, 0, -1, -5], np.int64), 0),
                    ((2, 7, 3), np.array([[6, 1, 1], [-7, 0, 3]], np.int32), 1),
                    ((3, 5), np.array(-2, np.int64), -1),
                    ((3,), np.array([9, -9, 1], np.int64), 0),
                    ((1, 4), np.array([0, 0, 0], np.uint8), 0),
                    ((3, 2), np.zeros((0, 2), np.int64), 0),
                    ((0, 3), np.array([2, 1], np.int64), 1),
                )
            ]
            + [Sample((integers((4,), 1, 9), np.array([3, 1], np.int64)), {"axis": 0})]
        ),
        rejects=lambda: [
            Reject((TensorType(F32, (2,)), TensorType(F32, (1,))), {"axis": 0}, "are integers"),
            Reject((TensorType(F32, ()), TensorType(I64, (1,))), {"axis": 0}, "out of range"),
            Reject((TensorType(F32, (0,)), TensorType(I64, (1,))), {"axis": 0}, "empty axis"),
        ],
    )
)


# -- gather_elements ----------------------------------------------------------------------------


def _infer_elements(types: Sequence[TensorType], attrs: AxisAttrs) -> Sequence[TensorType]:
    x, indices = types
    require_indices(indices)
    axis = normalize_axis(attrs.axis, x.rank)
    require(x.rank == indices.rank, f"x has rank {x.rank}, indices have {indices.rank}")
    require_within(x.shape, indices.shape, axis)
    _require_nonempty(x.shape[axis : axis + 1], indices.shape)
    return (TensorType(x.dtype, indices.shape),)


def _assume_elements(types: Sequence[TensorType], attrs: AxisAttrs) -> Sequence[Assumption]:
    return assume_within(types[0].shape, types[1].shape, normalize_axis(attrs.axis, types[0].rank))


def _elements_ref(attrs: AxisAttrs, x: Array, indices: Array) -> Array:
    axis = attrs.axis % x.ndim
    part = x[tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(indices.shape))]
    return np.take_along_axis(part, wrapped(indices, x.shape[axis]), axis)


def _elements_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    x, indices = op.operands
    axis = normalize_axis(op.attrs.axis, len(index))
    i = in_range(b, b.load(indices, index), tensor_type(x).shape[axis])
    return b.load(x, (*index[:axis], i, *index[axis + 1 :]))


def _elements_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """Compare every index with every place on the axis, and sum what hits."""
    x, indices = op.operands
    shape, counts = tensor_type(x).shape, tensor_type(indices).shape
    rank = len(shape)
    axis = normalize_axis(op.attrs.axis, rank)
    # The places are a new axis in front of the axis of indices, which is summed.
    spread = (*counts[:axis], 1, *counts[axis:])
    numbers = b.iota(
        shape=tuple(shape[axis] if i == axis else 1 for i in range(rank + 1)), axis=axis, dtype=I64
    )
    hit = b.eq(numbers, b.reshape(_in_range_value(b, indices, shape[axis]), shape=spread))
    zero = b.constant(0, tensor_type(x).dtype)
    parts = b.select(hit, b.reshape(gs[0], shape=spread), zero)
    total = b.reduce_sum(parts, axes=(axis + 1,), keepdims=False)
    rest = tuple(
        0 if i == axis else dim - count
        for i, (dim, count) in enumerate(zip(shape, counts, strict=True))
    )
    return [b.pad(total, lo=(0,) * rank, hi=rest, mode="constant"), None]


register(
    OpDef(
        name="gather_elements",
        doc="The element of x at the same place, but for `axis`, where `indices` says which.",
        attrs=AxisAttrs,
        operands=(2, 2),
        kind=Kind.INJECTIVE,
        infer=_infer_elements,
        assumes=_assume_elements,
        ref=_elements_ref,
        body=_elements_body,
        grad=_elements_grad,
        samples=lambda: [
            Sample((floats(shape), integers(count, lo, hi, dtype)), {"axis": axis})
            for shape, count, axis, lo, hi, dtype in (
                ((4, 3), (2, 3), 0, -4, 3, np.int64),
                ((4, 5), (3, 7), 1, -5, 4, np.int32),
                ((2, 3, 5), (2, 3, 5), -1, -9, 9, np.int64),
                ((3,), (0,), 0, 0, 1, np.int64),
                ((1,), (1,), 0, 0, 0, np.int64),
            )
        ],
        rejects=lambda: [
            Reject((TensorType(F32, (2,)), TensorType(F32, (2,))), {"axis": 0}, "are integers"),
            Reject((TensorType(F32, (2,)), TensorType(I64, (1, 2))), {"axis": 0}, "rank"),
            Reject((TensorType(F32, (2, 2)), TensorType(I64, (2, 3))), {"axis": 0}, "beyond"),
        ],
    )
)


# -- gather_nd ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GatherNdAttrs:
    """batch_dims: leading axes that both operands share."""

    batch_dims: int


def _depth(x: TensorType, indices: TensorType, batch: int) -> int:
    """How many axes of x, behind the batch, one index tuple covers."""
    require(indices.rank > 0, "indices are a scalar")
    depth = indices.shape[-1]
    require(isinstance(depth, int), f"the length {depth} of an index tuple is not a number")
    assert isinstance(depth, int)
    require(
        0 <= batch < indices.rank and batch + depth <= x.rank,
        f"{batch} batch axes and {depth} indices for ranks {x.rank} and {indices.rank}",
    )
    return depth


def _infer_nd(types: Sequence[TensorType], attrs: GatherNdAttrs) -> Sequence[TensorType]:
    x, indices = types
    require_indices(indices)
    batch = attrs.batch_dims
    depth = _depth(x, indices, batch)
    require(
        x.shape[:batch] == indices.shape[:batch],
        f"batches {shape_text(x.shape[:batch])} and {shape_text(indices.shape[:batch])} differ",
    )
    shape = (*indices.shape[:-1], *x.shape[batch + depth :])
    _require_nonempty(x.shape[batch : batch + depth], shape)
    return (TensorType(x.dtype, shape),)


def _assume_nd(types: Sequence[TensorType], attrs: GatherNdAttrs) -> Sequence[Assumption]:
    x, indices = types
    end = attrs.batch_dims + _depth(x, indices, attrs.batch_dims)
    return assume_nonempty(x.shape[attrs.batch_dims : end], _infer_nd(types, attrs)[0].shape)


def _nd_ref(attrs: GatherNdAttrs, x: Array, indices: Array) -> Array:
    batch = attrs.batch_dims
    depth = indices.shape[-1]
    found = np.zeros((*indices.shape[:-1], *x.shape[batch + depth :]), x.dtype)
    for place in np.ndindex(*indices.shape[:-1]):
        at = [
            int(wrapped(i, dim))
            for i, dim in zip(indices[place], x.shape[batch : batch + depth], strict=True)
        ]
        found[place] = x[(*place[:batch], *at)]
    return found


def _nd_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    x, indices = op.operands
    shape = tensor_type(x).shape
    batch = op.attrs.batch_dims
    places = tensor_type(indices).rank - 1
    depth = _depth(tensor_type(x), tensor_type(indices), batch)
    at = tuple(
        in_range(b, b.load(indices, (*index[:places], i)), shape[batch + i]) for i in range(depth)
    )
    return b.load(x, (*index[:batch], *at, *index[places:]))


def _nd_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """The tuples become one number each; a product with a matrix of zeros and ones adds up."""
    x, indices = op.operands
    x_type, index_type = tensor_type(x), tensor_type(indices)
    batch = op.attrs.batch_dims
    depth = _depth(x_type, index_type, batch)
    groups = product(x_type.shape[:batch])
    count = product(index_type.shape[batch:-1])
    looked_up = x_type.shape[batch : batch + depth]
    places, rest = product(looked_up), product(x_type.shape[batch + depth :])
    place = b.full((groups, 1, count), 0, I64)
    for i, dim in enumerate(looked_up):
        part = b.slice(
            indices,
            starts=(0,) * (index_type.rank - 1) + (i,),
            sizes=(*index_type.shape[:-1], 1),
            steps=(1,) * index_type.rank,
        )
        part = b.reshape(_in_range_value(b, part, dim), shape=(groups, 1, count))
        place = b.add(b.mul(place, b.dims(values=(dim,), rank=0)), part)
    numbers = b.iota(shape=(1, places, 1), axis=1, dtype=I64)
    hit = b.cast(b.eq(numbers, place), dtype=x_type.dtype, saturate=True)
    g = b.reshape(gs[0], shape=(groups, count, rest))
    return [b.reshape(b.matmul(hit, g), shape=x_type.shape), None]


register(
    OpDef(
        name="gather_nd",
        doc="Parts of x: the last axis of `indices` holds tuples, for the axes behind the batch.",
        attrs=GatherNdAttrs,
        operands=(2, 2),
        kind=Kind.INJECTIVE,
        infer=_infer_nd,
        assumes=_assume_nd,
        ref=_nd_ref,
        body=_nd_body,
        grad=_nd_grad,
        samples=lambda: [
            Sample((floats(shape), integers(count, -3, 2, dtype)), {"batch_dims": batch})
            for shape, count, batch, dtype in (
                ((3, 4), (5, 2), 0, np.int64),
                ((3, 4), (2, 3, 1), 0, np.int32),
                ((2, 3, 4), (2, 1), 1, np.int64),
                ((2, 3, 4, 5), (2, 3, 3, 1), 2, np.int64),
                ((2, 3), (0, 2), 0, np.int64),
                ((2, 3), (4, 0), 0, np.int64),
                ((3,), (1,), 0, np.int64),
            )
        ],
        rejects=lambda: [
            Reject(
                (TensorType(F32, (2, 3)), TensorType(I64, (4, 3))), {"batch_dims": 0}, "3 indices"
            ),
            Reject((TensorType(F32, (2, 3)), TensorType(I64, (3, 1))), {"batch_dims": 1}, "differ"),
            Reject((TensorType(F32, (2,)), TensorType(I64, ())), {"batch_dims": 0}, "scalar"),
            Reject(
                (TensorType(F32, (2,)), TensorType(F32, (1,))), {"batch_dims": 0}, "are integers"
            ),
        ],
    )
)


# -- trilu --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TriluAttrs:
    """upper: keep what is on and above diagonal k, else on and below; k > 0 lies to the right."""

    upper: bool
    k: int


def _infer_trilu(types: Sequence[TensorType], attrs: TriluAttrs) -> Sequence[TensorType]:
    (x,) = types
    require(x.rank >= 2, f"rank {x.rank} is no matrix")
    return (x,)


def _trilu_ref(attrs: TriluAttrs, x: Array) -> Array:
    return np.asarray((np.triu if attrs.upper else np.tril)(x, attrs.k))


def _trilu_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    (x,) = op.operands
    rows, columns = tensor_type(x).shape[-2:]
    i, j = dims_of(index[-2:])
    kept = (op.attrs.k, columns) if op.attrs.upper else (1 - rows, op.attrs.k + 1)
    element = b.load(x, index)
    return b.guard((Range(j - i, *kept),), element, b.const(0, element.dtype))


def _trilu_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    return [b.trilu(gs[0], upper=op.attrs.upper, k=op.attrs.k)]


register(
    OpDef(
        name="trilu",
        doc="The upper or lower triangle of the matrices in the last two axes, zeros elsewhere.",
        attrs=TriluAttrs,
        kind=Kind.INJECTIVE,
        infer=_infer_trilu,
        ref=_trilu_ref,
        body=_trilu_body,
        grad=_trilu_grad,
        samples=lambda: [
            Sample((x,), {"upper": upper, "k": k})
            for x in (floats((3, 5)), floats((2, 4, 3)), integers((1, 1)), floats((0, 2)))
            for upper, k in ((True, 0), (False, 0), (True, -1), (False, 1), (True, 7), (False, -7))
        ],
        rejects=lambda: [
            Reject((TensorType(I32, (3,)),), {"upper": True, "k": 0}, "is no matrix"),
        ],
    )
)
