"""Ops that put elements in order along an axis: sort, top_k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, maximum
from tfc.ir.loop.kernel import KernelWriter
from tfc.ir.loop.sorting import FEW, Sorter, key_type, order_key
from tfc.ir.opdef import Assumption, Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, floats, integers, normalize_axis, require_kind
from tfc.ir.types import BOOL, F32, I64, TensorType

# Up to how many elements are kept in order all the time, while the others are looked at.
KEPT = 24
# Cycles that an element costs: looked at, and sorted.
LOOK, SORT = 3, 40


def _order(x: Array, axis: int, descending: bool) -> Array:
    """A stable order; numpy takes NaN for the greatest, and its order is turned by sorting last."""
    if not descending:
        order: Array = np.argsort(x, axis, kind="stable").astype(np.int64)
        return order
    turned = np.argsort(np.flip(x, axis), axis, kind="stable")
    order = (x.shape[axis] - 1 - np.flip(turned, axis)).astype(np.int64)
    return order


def _scattered(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """Each element's gradient where it came from."""
    type = tensor_type(op.operands[0])
    zeros = b.full(type.shape, 0, type.dtype)
    axis = normalize_axis(op.attrs.axis, type.rank)
    return [b.scatter_elements(zeros, op.results[1], gs[0], axis=axis, reduction="none")]


class _Rows:
    """The rows along an axis: where element `i` of the one at `outer` is."""

    def __init__(self, k: KernelWriter, axis: int) -> None:
        type = tensor_type(k.op.operands[0])
        self.axis = normalize_axis(axis, type.rank)
        self.size = type.shape[self.axis]
        self.outer = (*type.shape[: self.axis], *type.shape[self.axis + 1 :])

    def at(self, outer: Sequence[Value], i: Value) -> tuple[Value, ...]:
        return (*outer[: self.axis], i, *outer[self.axis :])


# -- sort ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SortAttrs:
    """axis: along which. descending: from the greatest on."""

    axis: int
    descending: bool = False


def _sort_infer(types: Sequence[TensorType], attrs: SortAttrs) -> Sequence[TensorType]:
    (x,) = types
    require_kind(x, "fiub")
    normalize_axis(attrs.axis, x.rank)
    return (x, TensorType(I64, x.shape))


def _sort_ref(attrs: SortAttrs, x: Array) -> tuple[Array, Array]:
    order = _order(x, attrs.axis, attrs.descending)
    return np.take_along_axis(x, order, attrs.axis), order


def _sort_loops(k: KernelWriter) -> None:
    b, attrs = k.b, k.op.attrs
    (x,), (values, indices) = k.operands, k.results
    rows = _Rows(k, attrs.axis)
    sorter = Sorter(k, key_type(tensor_type(k.op.operands[0]).dtype), rows.size, rows.outer)
    with k.rows(rows.outer, rows.size * SORT) as (outer, worker):
        with b.for_(0, rows.size) as loop:
            key = order_key(b, b.load(x, *rows.at(outer, loop.index)), attrs.descending)
            sorter.put(worker, loop.index, key, loop.index)
        start = sorter.sort(worker, rows.size)
        with b.for_(0, rows.size) as loop:
            place = sorter.place(worker, b.add(start, loop.index))
            at = rows.at(outer, loop.index)
            b.store(b.load(x, *rows.at(outer, place)), values, *at)
            b.store(place, indices, *at)


def _special() -> Array:
    return np.array([1, np.nan, -np.inf, np.inf, 1, np.nan, -0.0, 0.0, -1, -2], np.float32)


def _sort_samples() -> Sequence[Sample]:
    found = []
    for descending in (False, True):
        attrs = {"axis": 0, "descending": descending}
        found += [
            Sample((floats((3, 7)),), {**attrs, "axis": 1}),
            Sample((floats((4, 2, 3)),), {**attrs, "axis": -3}),
            Sample((floats((70,)),), attrs),
            Sample((_special(),), attrs, grad=False),
            Sample((np.resize(_special(), 66),), attrs, grad=False),
            Sample((integers((9,), 0, 3),), attrs),
            Sample((integers((2, 70), -300, 300),), {**attrs, "axis": 1}),
            Sample((integers((70,), 0, 255, np.uint8),), attrs),
            Sample((integers((70,), -128, 127, np.int8),), attrs),
            Sample((integers((2, 70), 0, 1, np.bool_),), {**attrs, "axis": 1}),
            Sample((floats((0, 2)),), {**attrs, "axis": 1}),
            Sample((floats((2, 0)),), {**attrs, "axis": 1}),
        ]
    return found


sort = register(
    OpDef(
        name="sort",
        attrs=SortAttrs,
        kind=Kind.OPAQUE,
        infer=_sort_infer,
        ref=_sort_ref,
        loops=_sort_loops,
        grad=_scattered,
        samples=_sort_samples,
        rejects=lambda: (
            Reject((TensorType(F32, (2,)),), {"axis": 1}, "out of range"),
            Reject((TensorType(F32, ()),), {"axis": 0}, "out of range"),
        ),
        doc="The elements along an axis in order, and their indices. Equal elements keep their "
        "order, either way; NaN is greater than any number, and zeros of either sign are equal.",
    )
)


# -- top_k --------------------------------------------------------------------------------------


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


def _assumes(types: Sequence[TensorType], attrs: TopKAttrs) -> Sequence[Assumption]:
    size = types[0].shape[normalize_axis(attrs.axis, types[0].rank)]
    over = maximum(attrs.k - size, 0)
    known = isinstance(over, int)
    return () if known else (Assumption(over, f"{attrs.k} of {size} elements are taken"),)


def _ref(attrs: TopKAttrs, x: Array) -> tuple[Array, Array]:
    assert isinstance(attrs.k, int)
    order = np.take(_order(x, attrs.axis, attrs.largest), range(attrs.k), attrs.axis)
    return np.take_along_axis(x, order, attrs.axis), order


def _loops(k: KernelWriter) -> None:
    """Look at the elements in turn, and keep those that may be among the first `count`."""
    b, count = k.b, k.op.attrs.k
    if count == 0:
        return
    (x,), (values, indices) = k.operands, k.results
    rows = _Rows(k, k.op.attrs.axis)
    kept = isinstance(count, int) and count <= KEPT
    room = count if kept else maximum(2 * count, FEW)
    sorter = Sorter(k, key_type(tensor_type(k.op.operands[0]).dtype), room, rows.outer)
    search = _Search(k, sorter, rows, count)
    with k.rows(rows.outer, rows.size * LOOK + room * SORT) as (outer, worker):
        if kept:
            search.in_order(x, outer, worker)
        else:
            search.in_turns(x, outer, worker, room)
        with b.for_(0, count) as loop:
            place = sorter.place(worker, b.add(loop.index, b.index(1)))
            at = rows.at(outer, loop.index)
            b.store(b.load(x, *rows.at(outer, place)), values, *at)
            b.store(place, indices, *at)


class _Search:
    """Finds the first `count` pairs of a row, which are then in the sorter's first area."""

    def __init__(self, k: KernelWriter, sorter: Sorter, rows: _Rows, count: DimLike) -> None:
        self.b = k.b
        self.sorter = sorter
        self.rows = rows
        self.count = count
        self.largest = k.op.attrs.largest

    def _key(self, x: Value, outer: Sequence[Value], i: Value) -> Value:
        element = self.b.load(x, *self.rows.at(outer, i))
        return order_key(self.b, element, descending=self.largest)

    def in_order(self, x: Value, outer: Sequence[Value], worker: Value) -> None:
        """The pairs kept are always sorted; a new one drives out the last."""
        b, sorter = self.b, self.sorter
        last = b.index(self.count)
        with b.for_(0, self.count) as loop:
            sorter.put(worker, loop.index, self._key(x, outer, loop.index), loop.index)
        start = sorter.sort(worker, self.count)
        assert start.op is not None, "few pairs are sorted in place"
        with b.for_(self.count, self.rows.size, (sorter.key(worker, last),)) as loop:
            (bound,) = loop.carried
            key = self._key(x, outer, loop.index)

            def take() -> list[Value]:
                sorter.insert(worker, b.sub(last, b.index(1)), key, loop.index)
                return [sorter.key(worker, last)]

            loop.yields = b.either(b.lt(key, bound), take, lambda: [bound])

    def in_turns(self, x: Value, outer: Sequence[Value], worker: Value, room: DimLike) -> None:
        """Collect pairs that are in front of the last known bound; when the room is full, sort.

        An element as great as the bound comes too late: `count` others are in front of it.
        """
        b, sorter = self.b, self.sorter
        size, full, one = b.index(self.rows.size), b.index(room), b.index(1)
        zero = b.index(0)
        bound = b.const(0, sorter.dtype)
        first = b.const(True, BOOL)
        more = b.lt(zero, size)
        with b.while_(more, (zero, zero, bound, first)) as turn:
            place, filled, bound, first = turn.carried
            with b.while_(more, (place, filled)) as loop:
                i, at = loop.carried
                key = self._key(x, outer, i)
                sorter.put(worker, at, key, i)
                taken = b.cast(b.or_(first, b.lt(key, bound)), I64)
                following, end = b.add(i, one), b.add(at, taken)
                loop.again = b.and_(b.lt(following, size), b.lt(end, full))
                loop.yields = (following, end)
            place, filled = loop.results
            start = sorter.sort(worker, filled)
            left = b.min(filled, b.index(self.count))
            sorter.back(worker, start, left)
            turn.again = b.lt(place, size)
            bound = sorter.key(worker, left)
            turn.yields = (place, left, bound, b.const(False, BOOL))


def _samples() -> Sequence[Sample]:
    found = []
    for largest in (True, False):
        found += [
            Sample((floats((3, 7)),), {"axis": 1, "k": 3, "largest": largest}),
            Sample((floats((4, 2, 3)),), {"axis": -3, "k": 4, "largest": largest}),
            Sample((integers((9,), 0, 3),), {"axis": 0, "k": 9, "largest": largest}),
            Sample((_special(),), {"axis": 0, "k": 10, "largest": largest}, grad=False),
            Sample((np.resize(_special(), 90),), {"axis": 0, "k": 33, "largest": largest},
                   grad=False),
            Sample((floats((2, 120)),), {"axis": 1, "k": 30, "largest": largest}),
            Sample((integers((150,), 0, 40),), {"axis": 0, "k": 50, "largest": largest}),
            Sample((np.arange(90, dtype=np.int16),), {"axis": 0, "k": 25, "largest": largest}),
            Sample((floats((0, 2)),), {"axis": 1, "k": 1, "largest": largest}),
            Sample((floats((2, 3)),), {"axis": 1, "k": 0, "largest": largest}, grad=False),
        ]  # fmt: skip
    return found


top_k = register(
    OpDef(
        name="top_k",
        attrs=TopKAttrs,
        kind=Kind.OPAQUE,
        infer=_infer,
        assumes=_assumes,
        ref=_ref,
        loops=_loops,
        grad=_scattered,
        samples=_samples,
        rejects=lambda: (
            Reject((TensorType(F32, (2,)),), {"axis": 1, "k": 1}, "out of range"),
            Reject((TensorType(F32, (2,)),), {"axis": 0, "k": 3}, "k is 3 for 2"),
            Reject((TensorType(BOOL, (2,)),), {"axis": 0, "k": 1}, "not bool"),
        ),
        doc="The k greatest (or least) elements along an axis in order, and their indices. Of "
        "equal elements the first comes first; NaN is greater than any number.",
    )
)
