"""Ops that put elements in order along an axis: sort, top_k."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, maximum, minimum
from tfc.ir.loop.kernel import VECTOR_BYTES, KernelWriter, lanes_along
from tfc.ir.loop.sorting import Sorter, key_type, order_key
from tfc.ir.opdef import Assumption, Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, floats, integers, normalize_axis, require_kind
from tfc.ir.types import BOOL, F32, I32, I64, TensorType

# Up to how many elements are kept in order all the time, while the others are looked at; and how
# many are collected at least before some are dropped.
KEPT, ROOM = 8, 8192
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
    count = k.op.attrs.k
    if count == 0:
        return
    b = k.b
    (x,), (values, indices) = k.operands, k.results
    rows = _Rows(k, k.op.attrs.axis)
    search: _Search
    if isinstance(count, int) and count <= KEPT:
        search = _InOrder(k, rows, count)
    else:
        search = _InTurns(k, rows, count)
    with k.rows(rows.outer, rows.size * LOOK + count * SORT) as (outer, worker):
        start = search.run(outer, worker)
        with b.for_(0, count) as loop:
            place = search.sorter.place(worker, b.add(start, loop.index))
            at = rows.at(outer, loop.index)
            b.store(b.load(x, *rows.at(outer, place)), values, *at)
            b.store(place, indices, *at)


class _Search(ABC):
    """Finds the first `count` pairs of a row, and has them sorted."""

    def __init__(self, k: KernelWriter, rows: _Rows, count: DimLike) -> None:
        self.k = k
        self.b = k.b
        self.rows = rows
        self.count = count
        (self.x,) = k.operands
        self.largest = k.op.attrs.largest
        self.dtype = key_type(tensor_type(k.op.operands[0]).dtype)
        self.lanes = lanes_along(rows.axis, self.x)
        self.sorter = Sorter(k, self.dtype, count, rows.outer)

    @abstractmethod
    def run(self, outer: Sequence[Value], worker: Value) -> Value:
        """Return where the pairs begin in the sorter's memory."""

    def key(self, outer: Sequence[Value], i: Value, lanes: int = 0) -> Value:
        """The key of element `i`, or of as many as there are lanes from there on."""
        at = self.rows.at(outer, i)
        element = (
            self.b.vload(self.x, at, lanes, self.rows.axis) if lanes else self.b.load(self.x, *at)
        )
        return order_key(self.b, element, descending=self.largest)


class _InOrder(_Search):
    """The pairs kept are always sorted; a new one drives out the last.

    An element as great as the last comes too late: `count` others are in front of it.
    """

    def run(self, outer: Sequence[Value], worker: Value) -> Value:
        b, sorter = self.b, self.sorter
        count, size = b.index(self.count), b.index(self.rows.size)
        with b.for_(0, count) as loop:
            sorter.put(worker, loop.index, self.key(outer, loop.index), loop.index)
        start = sorter.sort(worker, self.count)
        bound = sorter.key(worker, count)
        if not self.lanes:
            self._take(outer, worker, count, size, bound)
            return start
        step = b.index(self.lanes)
        whole = b.sub(size, b.rem(b.sub(size, count), step))
        with b.for_(count, whole, (bound,), step=self.lanes) as loop:
            (bound,) = loop.carried
            here = loop.index
            keys = self.key(outer, here, self.lanes)
            some = b.reduce("or", b.lt(keys, b.splat(bound, self.lanes)))
            loop.yields = b.either(
                some,
                lambda: [self._take(outer, worker, here, b.add(here, step), bound)],
                lambda: [bound],
            )
        self._take(outer, worker, whole, size, loop.results[0])
        return start

    def _take(
        self, outer: Sequence[Value], worker: Value, lo: Value, hi: Value, bound: Value
    ) -> Value:
        """Insert elements that are in front of the last key; return the new last key."""
        b, sorter = self.b, self.sorter
        last = b.index(self.count)
        with b.for_(lo, hi, (bound,)) as loop:
            key = self.key(outer, loop.index)

            def insert() -> list[Value]:
                sorter.insert(worker, b.sub(last, b.index(1)), key, loop.index)
                return [sorter.key(worker, last)]

            loop.yields = b.either(b.lt(key, loop.carried[0]), insert, lambda: [loop.carried[0]])
        return loop.results[0]


class _InTurns(_Search):
    """Collects pairs, at first all, until there is no room, and then drops all but `count`.

    After that only pairs in front of the last one that stayed are collected.
    """

    def __init__(self, k: KernelWriter, rows: _Rows, count: DimLike) -> None:
        super().__init__(k, rows, count)
        self.width = VECTOR_BYTES // self.dtype.bytes
        self.room = minimum(rows.size, maximum(4 * count, ROOM))
        # A vector may come when there is almost no room, then the last elements and the end mark.
        self.keys = k.own(self.dtype, rows.outer, self.room + 3 * self.width)
        self.places = k.own(I64, rows.outer, self.room + 3 * self.width)

    def run(self, outer: Sequence[Value], worker: Value) -> Value:
        b = self.b
        count, room = b.index(self.count), b.index(self.room)
        self._collect_all(outer, worker)
        with b.while_(b.const(True, BOOL), (room, room)) as loop:
            place, filled = loop.carried
            bound = self._drop(worker, filled)
            place, filled = self._collect(outer, worker, place, bound)
            loop.again = b.or_(b.lt(place, b.index(self.rows.size)), b.gt(filled, count))
            loop.yields = (place, filled)
        with b.for_(0, count) as copy:
            key = b.load(self.keys, worker, copy.index)
            self.sorter.put(worker, copy.index, key, b.load(self.places, worker, copy.index))
        return self.sorter.sort(worker, self.count)

    # -- collecting -----------------------------------------------------------------------------

    def _collect_all(self, outer: Sequence[Value], worker: Value) -> None:
        """Fill the room with the first pairs."""
        b = self.b

        def store(i: Value, lanes: int) -> None:
            key = self.key(outer, i, lanes)
            if lanes:
                b.vstore(key, self.keys, (worker, i))
                b.vstore(b.add(b.splat(i, lanes), b.iota(lanes)), self.places, (worker, i))
            else:
                self._store(worker, i, key, i)

        self.k.each(b.index(0), b.index(self.room), self.lanes, store)

    def _collect(
        self, outer: Sequence[Value], worker: Value, place: Value, bound: Value
    ) -> tuple[Value, Value]:
        """Collect pairs in front of the bound from `place` on, behind the `count` that stayed.

        Returns how far it looked, and how many pairs there are.
        """
        b = self.b
        size, room, filled = b.index(self.rows.size), b.index(self.room), b.index(self.count)
        end = size
        if self.lanes:
            step = b.index(self.lanes)

            def goes_on(place: Value, filled: Value) -> Value:
                return b.and_(b.le(b.add(place, step), size), b.lt(filled, room))

            limit = b.splat(bound, self.lanes)
            with b.while_(goes_on(place, filled), (place, filled)) as loop:
                here, at = loop.carried
                following = b.add(here, step)
                some = b.reduce("or", b.lt(self.key(outer, here, self.lanes), limit))
                (at,) = b.either(
                    some,
                    lambda: [self._append(outer, worker, here, following, at, bound)],
                    lambda: [loop.carried[1]],
                )
                loop.again = goes_on(following, at)
                loop.yields = (following, at)
            place, filled = loop.results
            end = b.select(b.gt(b.add(place, step), size), size, place)
        else:
            end = b.min(size, b.add(place, b.sub(room, filled)))
        return end, self._append(outer, worker, place, end, filled, bound)

    def _append(
        self,
        outer: Sequence[Value],
        worker: Value,
        lo: Value,
        hi: Value,
        filled: Value,
        bound: Value,
    ) -> Value:
        b = self.b
        with b.for_(lo, hi, (filled,)) as loop:
            (at,) = loop.carried
            key = self.key(outer, loop.index)
            self._store(worker, at, key, loop.index)
            loop.yields = (b.add(at, b.cast(b.lt(key, bound), I64)),)
        return loop.results[0]

    def _store(self, worker: Value, at: Value, key: Value, place: Value) -> None:
        self.b.store(key, self.keys, worker, at)
        self.b.store(place, self.places, worker, at)

    # -- dropping -------------------------------------------------------------------------------

    def _drop(self, worker: Value, filled: Value) -> Value:
        """Keep the first `count` pairs of those collected, and return the last key of them."""
        b, zero = self.b, self.b.index(0)
        most = b.const((1 << self.dtype.bits) - 1, self.dtype)
        b.vstore(b.splat(most, self.width), self.keys, (worker, filled))
        last = self._last(worker, filled)
        spare = b.sub(b.index(self.count), self._how_many(worker, filled, last, "lt"))
        limit = b.splat(last, self.width)
        with b.for_(0, filled, (zero, spare), step=self.width) as outer:
            first = outer.index
            keys = b.vload(self.keys, (worker, first), self.width)

            def keep() -> Sequence[Value]:
                end = b.min(b.add(first, b.index(self.width)), filled)
                with b.for_(first, end, outer.carried) as loop:
                    at, spare = loop.carried
                    key = b.load(self.keys, worker, loop.index)
                    same = b.and_(b.eq(key, last), b.gt(spare, zero))
                    kept = b.or_(b.lt(key, last), same)
                    with b.if_(kept):
                        self._store(worker, at, key, b.load(self.places, worker, loop.index))
                    at = b.add(at, b.cast(kept, I64))
                    loop.yields = (at, b.sub(spare, b.cast(same, I64)))
                return loop.results

            some = b.reduce("or", b.le(keys, limit))
            outer.yields = b.either(some, keep, lambda: outer.carried)
        return last

    def _last(self, worker: Value, filled: Value) -> Value:
        """A key that `count` keys are not behind, but for others that equal it.

        It is found bit by bit, by how many keys are not behind a guess.
        """
        b = self.b
        wanted, zero = b.index(self.count), b.const(0, self.dtype)
        one = b.const(1, self.dtype)
        bit = b.const(1 << (self.dtype.bits - 1), self.dtype)
        with b.while_(b.const(True, BOOL), (zero, bit)) as loop:
            known, bit = loop.carried
            # All that begins like this, with a 0 in the place of the bit.
            guess = b.or_(known, b.sub(bit, one))
            found = self._how_many(worker, filled, guess, "le")
            exact = b.eq(found, wanted)
            above = b.select(b.lt(found, wanted), b.or_(known, bit), known)
            bit = b.shr(bit, one)
            loop.again = b.and_(b.not_(exact), b.ne(bit, zero))
            loop.yields = (b.select(exact, guess, above), bit)
        return loop.results[0]

    def _how_many(self, worker: Value, filled: Value, guess: Value, compare: str) -> Value:
        b = self.b
        limit = b.splat(guess, self.width)
        sums = I64 if self.dtype.bits == 64 else I32
        none = b.splat(b.const(0, sums), self.width)
        with b.for_(0, filled, (none,), step=self.width) as loop:
            keys = b.vload(self.keys, (worker, loop.index), self.width)
            hits = b.apply(compare, keys, limit)
            loop.yields = (b.add(loop.carried[0], b.cast(hits, sums)),)
        return b.cast(b.reduce("add", loop.results[0]), I64)


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
