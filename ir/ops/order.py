"""Ops that put elements in order: top_k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike
from tfc.ir.opdef import Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, floats, integers, normalize_axis, require_kind
from tfc.ir.types import BOOL, F32, I64, TensorType


@dataclass(frozen=True, slots=True)
class TopKAttrs:
    """axis: along which. k: how many. largest: the greatest elements, else the least."""

    axis: int
    k: DimLike
    largest: bool = True


def _infer(types: Sequence[TensorType], attrs: TopKAttrs) -> Sequence[TensorType]:
    (x,) = types
    require_kind(x, "fiu")
    axis = normalize_axis(attrs.axis, x.rank)
    dim, k = x.shape[axis], attrs.k
    require(not isinstance(k, int) or k >= 0, f"k is {k}")
    fits = not (isinstance(k, int) and isinstance(dim, int)) or k <= dim
    require(fits, f"k is {k} for {dim} elements")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return (TensorType(x.dtype, shape), TensorType(I64, shape))


def _ref(attrs: TopKAttrs, x: Array) -> tuple[Array, Array]:
    """A stable sort; numpy takes NaN for the greatest, and its order is turned by sorting last."""
    assert isinstance(attrs.k, int)
    if attrs.largest:
        n = x.shape[attrs.axis]
        order = (
            n
            - 1
            - np.flip(np.argsort(np.flip(x, attrs.axis), attrs.axis, kind="stable"), attrs.axis)
        )
    else:
        order = np.argsort(x, attrs.axis, kind="stable")
    order = np.take(order, range(attrs.k), attrs.axis).astype(np.int64)
    return np.take_along_axis(x, order, attrs.axis), order


def _decompose(b: GraphBuilder, op: Op) -> Sequence[Value]:
    """An element's place is how many are in front of it; each place then looks for its element."""
    (x,), attrs = op.operands, op.attrs
    shape = tensor_type(x).shape
    axis = normalize_axis(attrs.axis, len(shape))
    size = shape[axis]

    def single(position: int, dim: DimLike) -> tuple[DimLike, ...]:
        return tuple(dim if i == position else 1 for i in range(len(shape) + 1))

    one = b.reshape(x, shape=(*shape[:axis], size, 1, *shape[axis + 1 :]))
    other = b.reshape(x, shape=(*shape[:axis], 1, size, *shape[axis + 1 :]))
    front, same = _in_front(b, one, other, attrs.largest)
    earlier = b.lt(
        b.iota(shape=single(axis + 1, size), axis=axis + 1, dtype=I64),
        b.iota(shape=single(axis, size), axis=axis, dtype=I64),
    )
    counted = b.op("or", front, b.op("and", same, earlier).result).result
    place = b.reduce_sum(b.cast(counted, dtype=I64), axes=(axis + 1,), keepdims=False)
    places = b.reshape(place, shape=(*shape[:axis], 1, size, *shape[axis + 1 :]))
    wanted = b.iota(shape=single(axis, attrs.k), axis=axis, dtype=I64)
    hits = b.cast(b.eq(places, wanted), dtype=I64)
    indices = b.argmax(hits, axis=axis + 1, keepdims=False, last=False)
    return [b.gather_elements(x, indices, axis=axis), indices]


def _in_front(b: GraphBuilder, one: Value, other: Value, largest: bool) -> tuple[Value, Value]:
    """Whether `other` stands before `one`, and whether they are the same; NaN is the greatest."""
    front = b.gt(other, one) if largest else b.lt(other, one)
    same = b.eq(other, one)
    if tensor_type(one).dtype.is_float:
        nan, others = b.isnan(one), b.isnan(other)
        great, small = (others, nan) if largest else (nan, others)
        only = b.op("and", great, b.op("not", small).result).result
        front = b.op("or", front, only).result
        same = b.op("or", same, b.op("and", nan, others).result).result
    return front, same


def _grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    type = tensor_type(op.operands[0])
    zeros = b.full(type.shape, 0, type.dtype)
    axis = normalize_axis(op.attrs.axis, type.rank)
    return [b.scatter_elements(zeros, op.results[1], gs[0], axis=axis, reduction="none")]


def _samples() -> Sequence[Sample]:
    special = np.array([1, np.nan, -np.inf, np.inf, 1, np.nan, -0.0, 0.0], np.float32)
    found = []
    for largest in (True, False):
        found += [
            Sample((floats((3, 7)),), {"axis": 1, "k": 3, "largest": largest}),
            Sample((floats((4, 2, 3)),), {"axis": -3, "k": 4, "largest": largest}),
            Sample((integers((9,), 0, 3),), {"axis": 0, "k": 9, "largest": largest}),
            Sample((special,), {"axis": 0, "k": 8, "largest": largest}, grad=False),
            Sample((floats((0, 2)),), {"axis": 1, "k": 1, "largest": largest}),
            Sample((floats((2, 3)),), {"axis": 1, "k": 0, "largest": largest}, grad=False),
        ]
    return found


top_k = register(
    OpDef(
        name="top_k",
        attrs=TopKAttrs,
        kind=Kind.COMPOSITE,
        infer=_infer,
        ref=_ref,
        decompose=_decompose,
        grad=_grad,
        samples=_samples,
        rejects=lambda: (
            Reject((TensorType(F32, (2,)),), {"axis": 1, "k": 1}, "out of range"),
            Reject((TensorType(F32, (2,)),), {"axis": 0, "k": 3}, "k is 3 for 2"),
            Reject((TensorType(BOOL, (2,)),), {"axis": 0, "k": 1}, "not bool"),
        ),
        doc="The k greatest (or least) elements along an axis in order, and their indices. Of "
        "equal elements the first comes first; NaN is greater than any number. Compares all pairs.",
    )
)
