"""Ops that say which elements there are: positions of true ones, and the different ones (unique).

How many that is depends on data. `positions` is told; `unique` fills the front of its results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, product
from tfc.ir.loop.kernel import KernelWriter
from tfc.ir.loop.sorting import Sorter, key_type, order_key
from tfc.ir.opdef import Kind, NoGrad, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, floats, integers, normalize_axis, require_kind
from tfc.ir.types import BOOL, F32, I32, I64, U8, BufferType, TensorType

INDICES = NoGrad("its results are indices and counts")


# -- positions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PositionsAttrs:
    """count: how many positions."""

    count: DimLike


def _positions_infer(types: Sequence[TensorType], attrs: PositionsAttrs) -> Sequence[TensorType]:
    (mask,) = types
    require_kind(mask, "b")
    require(mask.rank == 1, f"takes one axis, not {mask.rank}")
    require(not isinstance(attrs.count, int) or attrs.count >= 0, f"count is {attrs.count}")
    return (TensorType(I64, (attrs.count,)),)


def _positions_ref(attrs: PositionsAttrs, mask: Array) -> Array:
    assert isinstance(attrs.count, int)
    found = np.flatnonzero(mask)[: attrs.count]
    return np.pad(found, (0, attrs.count - found.size)).astype(np.int64)


# How much of a mask is a task, and how many elements are counted at once.
BLOCK, LANES = 32_768, 16


def _positions_loops(k: KernelWriter) -> None:
    """Count each block's true elements, and so know where the positions in it go."""
    b = k.b
    (mask,), (found,) = k.operands, k.results
    size, count = tensor_type(k.op.operands[0]).shape[0], k.op.attrs.count
    blocks = ceildiv(size, BLOCK)
    starts = k.scratch(I64, blocks + 1)
    with k.tasks(blocks, BLOCK // LANES) as (first, end, _), b.for_(first, end) as loop:
        lo = b.mul(loop.index, b.index(BLOCK))
        hi = b.min(b.add(lo, b.index(BLOCK)), b.index(size))
        b.store(_count(k, mask, lo, hi), starts, b.add(loop.index, b.index(1)))
    zero, one, wanted = b.index(0), b.index(1), b.index(count)
    b.store(zero, starts, 0)
    with b.for_(0, blocks, (zero,)) as loop:
        at = b.add(loop.index, one)
        total = b.add(loop.carried[0], b.load(starts, at))
        b.store(total, starts, at)
        loop.yields = (total,)
    with k.tasks(blocks, BLOCK) as (first, end, _), b.for_(first, end) as loop:
        at = b.load(starts, loop.index)
        last = b.min(b.load(starts, b.add(loop.index, one)), wanted)
        # Every element's place is stored; those of false ones are overwritten by the next.
        i = b.mul(loop.index, b.index(BLOCK))
        with b.while_(b.lt(at, last), (i, at)) as inner:
            i, at = inner.carried
            b.store(i, found, at)
            at = b.add(at, b.cast(b.load(mask, i), I64))
            inner.again = b.lt(at, last)
            inner.yields = (b.add(i, one), at)
    with b.for_(b.min(b.load(starts, b.index(blocks)), wanted), wanted) as loop:
        b.store(zero, found, loop.index)


def _count(k: KernelWriter, mask: Value, lo: Value, hi: Value) -> Value:
    """How many elements from `lo` to `hi` are true."""
    b = k.b
    assert isinstance(mask.type, BufferType)
    zero = b.index(0)
    total = zero
    if mask.type.strides == (1,):
        raw = b.view(mask, 0, BufferType(U8, mask.type.shape, (1,)))
        whole = b.sub(hi, b.rem(b.sub(hi, lo), b.index(LANES)))
        with b.for_(lo, whole, (b.splat(b.const(0, I32), LANES),), step=LANES) as loop:
            more = b.cast(b.vload(raw, (loop.index,), LANES), I32)
            loop.yields = (b.add(loop.carried[0], more),)
        total = b.cast(b.reduce("add", loop.results[0]), I64)
        lo = whole
    with b.for_(lo, hi, (total,)) as loop:
        one = b.cast(b.load(mask, loop.index), I64)
        loop.yields = (b.add(loop.carried[0], one),)
    return loop.results[0]


def _masks() -> list[Array]:
    return [integers((size,), 0, 1, np.bool_) for size in (1, 9, 40, 70)]


register(
    OpDef(
        name="positions",
        doc="The indices of the true elements, in order. Only the first `count`, and where there "
        "are fewer the rest is 0.",
        attrs=PositionsAttrs,
        kind=Kind.OPAQUE,
        infer=_positions_infer,
        ref=_positions_ref,
        loops=_positions_loops,
        grad=INDICES,
        samples=lambda: [
            *(Sample((mask,), {"count": int(mask.sum())}) for mask in _masks()),
            Sample((_masks()[2],), {"count": 3}),
            Sample((_masks()[2],), {"count": 50}),
            Sample((np.zeros(5, np.bool_),), {"count": 2}),
            Sample((np.zeros(5, np.bool_),), {"count": 0}),
            Sample((np.ones(5, np.bool_),), {"count": 0}),
            Sample((np.ones(17, np.bool_),), {"count": 17}),
            Sample((np.zeros(0, np.bool_),), {"count": 0}),
            Sample((np.zeros(0, np.bool_),), {"count": 3}),
        ],
        rejects=lambda: (
            Reject((TensorType(F32, (2,)),), {"count": 1}, "takes bool"),
            Reject((TensorType(BOOL, (2, 2)),), {"count": 1}, "one axis"),
            Reject((TensorType(BOOL, (2,)),), {"count": -1}, "count is -1"),
        ),
    )
)


# -- unique -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UniqueAttrs:
    """axis: whose slices are compared. ordered: the least first, else the first to come."""

    axis: int
    ordered: bool


def _unique_infer(types: Sequence[TensorType], attrs: UniqueAttrs) -> Sequence[TensorType]:
    (x,) = types
    require_kind(x, "fiub")
    size = x.shape[normalize_axis(attrs.axis, x.rank)]
    each = TensorType(I64, (size,))
    return (each, each, each, TensorType(I64, ()))


def _unique_ref(attrs: UniqueAttrs, x: Array) -> tuple[Array, Array, Array, Array]:
    """Number the elements by numpy, and then compare rows of numbers, in which NaN is NaN."""
    axis = attrs.axis % x.ndim
    size = x.shape[axis]
    _, numbers = np.unique(x, return_inverse=True)
    moved = np.moveaxis(numbers.reshape(x.shape), axis, 0)
    rows = [tuple(moved[i].reshape(-1).tolist()) for i in range(size)]
    firsts: dict[tuple[int, ...], int] = {}
    for i, row in enumerate(rows):
        firsts.setdefault(row, i)
    kinds = sorted(firsts) if attrs.ordered else list(firsts)
    number = {kind: i for i, kind in enumerate(kinds)}
    inverse = np.array([number[row] for row in rows], np.int64)
    indices, counts = np.zeros(size, np.int64), np.zeros(size, np.int64)
    indices[: len(kinds)] = [firsts[kind] for kind in kinds]
    counts[: len(kinds)] = np.bincount(inverse, minlength=len(kinds))
    return indices, inverse, counts, np.array(len(kinds), np.int64)


def _unique_loops(k: KernelWriter) -> None:
    """Sort the slices; equal ones then stand together, and the first of them first."""
    b, attrs = k.b, k.op.attrs
    (x,), (indices, inverse, counts, total) = k.operands, k.results
    shape = tensor_type(k.op.operands[0]).shape
    slices = _Slices(k, x, normalize_axis(attrs.axis, len(shape)))
    size = slices.size
    sorter = Sorter(k, key_type(tensor_type(k.op.operands[0]).dtype), size, ())
    # By place: the first of its kind, whose number is then known.
    firsts, numbers = k.scratch(I64, size), k.scratch(I64, size)
    zero, one = b.index(0), b.index(1)
    start = slices.sort(sorter)

    def place(i: Value) -> Value:
        return sorter.place(zero, b.add(start, i))

    with b.for_(0, size) as loop:
        b.store(zero, counts, loop.index)
        b.store(zero, indices, loop.index)
        b.store(b.const(-1, I64), numbers, loop.index)
    with b.for_(0, size, (zero, zero)) as loop:
        before, kinds = loop.carried
        here = place(loop.index)
        new = b.or_(b.eq(loop.index, zero), slices.differ(before, here))
        first = b.select(new, here, before)
        b.store(first, firsts, here)
        if attrs.ordered:
            b.store(b.select(new, kinds, b.load(numbers, first)), numbers, first)
        loop.yields = (first, b.add(kinds, b.cast(new, I64)))
    with b.for_(0, size, (zero,)) as loop:
        (kinds,) = loop.carried
        first = b.load(firsts, loop.index)
        own = b.load(numbers, first)
        if not attrs.ordered:
            # The first of a kind comes before the others.
            new = b.eq(first, loop.index)
            own = b.select(new, kinds, own)
            b.store(own, numbers, first)
            kinds = b.add(kinds, b.cast(new, I64))
        b.store(first, indices, own)
        b.store(own, inverse, loop.index)
        b.store(b.add(b.load(counts, own), one), counts, own)
        loop.yields = (b.max(kinds, b.add(own, one)),)
    b.store(loop.results[0], total)


class _Slices:
    """The slices of a tensor along an axis, compared by the keys of their elements."""

    def __init__(self, k: KernelWriter, x: Value, axis: int) -> None:
        self.k = k
        self.x = x
        self.axis = axis
        shape = tensor_type(k.op.operands[0]).shape
        self.size = shape[axis]
        self.rest = (*shape[:axis], *shape[axis + 1 :])

    def key(self, place: Value, element: Value) -> Value:
        index = self.k.unflatten(element, self.rest)
        at = (*index[: self.axis], place, *index[self.axis :])
        return order_key(self.k.b, self.k.b.load(self.x, *at))

    def sort(self, sorter: Sorter) -> Value:
        """Sort places by their slices: by the last elements, by those before, and so on."""
        b = self.k.b
        length, zero = product(self.rest), b.index(0)
        last = b.index(length - 1)
        with b.for_(0, self.size) as loop:
            sorter.put(zero, loop.index, b.const(0, sorter.dtype), loop.index)
        with b.for_(0, length, (b.index(1),)) as outer:
            (start,) = outer.carried
            element = b.sub(last, outer.index)
            with b.for_(0, self.size) as loop:
                here = sorter.place(zero, b.add(start, loop.index))
                sorter.put(zero, loop.index, self.key(here, element), here)
            outer.yields = (sorter.sort(zero, self.size),)
        return outer.results[0]

    def differ(self, one: Value, other: Value) -> Value:
        """Whether two slices are not the same."""
        b = self.k.b
        length = product(self.rest)
        if length == 1:
            return b.ne(self.key(one, b.index(0)), self.key(other, b.index(0)))
        none = b.const(False, BOOL)
        more = b.lt(b.index(0), b.index(length))
        with b.while_(more, (b.index(0), none)) as loop:
            element = loop.carried[0]
            differs = b.ne(self.key(one, element), self.key(other, element))
            following = b.add(element, b.index(1))
            loop.again = b.and_(b.not_(differs), b.lt(following, b.index(length)))
            loop.yields = (following, differs)
        return loop.results[1]


def _unique_samples() -> Sequence[Sample]:
    special = np.array([1, np.nan, -np.inf, np.inf, 1, np.nan, -0.0, 0.0, 3], np.float32)
    operands = (
        (integers((12,), 0, 4), 0),
        (integers((90,), 0, 20, np.uint8), 0),
        (integers((3, 8), 0, 1), 1),
        (integers((8, 2, 2), 0, 1, np.int32), -3),
        (integers((6,), 0, 1, np.bool_), 0),
        (special, 0),
        (np.stack([special, special[::-1]]), 1),
        (np.repeat(floats((4, 3)), 2, axis=0), 0),
        (floats((1,)), 0),
        (floats((0,)), 0),
        (floats((3, 0)), 0),
        (floats((3, 0)), 1),
    )
    return [
        Sample((x,), {"axis": axis, "ordered": ordered})
        for x, axis in operands
        for ordered in (True, False)
    ]


register(
    OpDef(
        name="unique",
        doc=(
            "The different slices along `axis`: the index of the first of each kind, the number of "
            "each slice's kind, how many slices a kind has, and how many kinds there are. The "
            "first and third have a slice's length, of which the rest is 0. Slices are ordered by "
            "their first element that differs; NaNs are equal and the greatest."
        ),
        attrs=UniqueAttrs,
        kind=Kind.OPAQUE,
        infer=_unique_infer,
        ref=_unique_ref,
        loops=_unique_loops,
        grad=INDICES,
        samples=_unique_samples,
        rejects=lambda: (
            Reject((TensorType(F32, (2,)),), {"axis": 1, "ordered": True}, "out of range"),
            Reject((TensorType(F32, ()),), {"axis": 0, "ordered": True}, "out of range"),
        ),
    )
)
