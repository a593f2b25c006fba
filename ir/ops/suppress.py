"""Non-max suppression: of boxes that overlap, the one with the highest score stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, minimum
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.kernel import VECTOR_BYTES, KernelWriter
from tfc.ir.loop.sorting import Sorter, key_type, order_key
from tfc.ir.opdef import Assumption, Kind, NoGrad, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import (
    Array,
    compute_dtype,
    equal_dims,
    floats,
    require_kind,
    require_same_dtype,
    unify_dims,
)
from tfc.ir.types import BOOL, F32, F64, I64, TensorType

# Cycles that a candidate costs.
WORK = 60


@dataclass(frozen=True, slots=True)
class SuppressionAttrs:
    """max_out: how many boxes are selected of a class at most.

    iou: a box that overlaps a selected one by more is dropped. score: what a box must exceed.
    center_point_box: boxes are (x, y of the center, width, height), not two corners.
    """

    max_out: DimLike
    iou: float = 0.0
    score: float | None = None
    center_point_box: bool = False


def _most(types: Sequence[TensorType], attrs: SuppressionAttrs) -> DimLike:
    """How many boxes are selected of one class at most."""
    return minimum(types[1].shape[2], attrs.max_out)


def _pairs(types: Sequence[TensorType]) -> list[tuple[DimLike, DimLike, str]]:
    """Dims that are the same."""
    boxes, scores = (type.shape for type in types)
    return [
        (boxes[0], scores[0], "batches"),
        (boxes[1], scores[2], "numbers of boxes"),
        (boxes[2], 4, "coordinates"),
    ]


def _assumes(types: Sequence[TensorType], attrs: SuppressionAttrs) -> Sequence[Assumption]:
    return [found for pair in _pairs(types) for found in equal_dims(*pair)]


def _infer(types: Sequence[TensorType], attrs: SuppressionAttrs) -> Sequence[TensorType]:
    boxes, scores = types
    require_kind(boxes, "f")
    require_same_dtype(types)
    require(boxes.rank == 3 and scores.rank == 3, "boxes and scores have three axes each")
    fits = all(unify_dims(x, y) is not None for x, y, _ in _pairs(types))
    require(fits, f"{boxes} are not boxes for scores {scores}")
    require(not isinstance(attrs.max_out, int) or attrs.max_out >= 0, "max_out is negative")
    batches, classes, _ = scores.shape
    bound = batches * classes * _most(types, attrs)
    return (TensorType(I64, (bound, 3)), TensorType(I64, ()))


# -- reference ----------------------------------------------------------------------------------


def _corners(boxes: Array, center_point_box: bool) -> tuple[Array, Array, Array, Array]:
    """The least and the greatest first, then second coordinates of boxes."""
    a, b, c, d = np.moveaxis(boxes, -1, 0)
    if center_point_box:
        half_width, half_height = c / 2, d / 2
        return a - half_width, a + half_width, b - half_height, b + half_height
    return np.minimum(a, c), np.maximum(a, c), np.minimum(b, d), np.maximum(b, d)


def _ref(attrs: SuppressionAttrs, boxes: Array, scores: Array) -> tuple[Array, Array]:
    assert isinstance(attrs.max_out, int)
    wide = np.float64 if boxes.dtype == np.float64 else np.float32
    x1, x2, y1, y2 = _corners(boxes.astype(wide), attrs.center_point_box)
    area = (x2 - x1) * (y2 - y1)
    found: list[tuple[int, int, int]] = []
    for batch, kind in np.ndindex(*scores.shape[:2]):
        own = scores[batch, kind].astype(wide)
        left = own.size - 1 - np.argsort(own[::-1], kind="stable")[::-1]
        if attrs.score is not None:
            left = left[own[left] > wide(attrs.score)]
        for _ in range(attrs.max_out):
            if not left.size:
                break
            best, left = left[0], left[1:]
            found.append((batch, kind, int(best)))
            width = np.minimum(x2[batch, best], x2[batch, left]) - np.maximum(
                x1[batch, best], x1[batch, left]
            )
            height = np.minimum(y2[batch, best], y2[batch, left]) - np.maximum(
                y1[batch, best], y1[batch, left]
            )
            common = width * height
            union = area[batch, best] + area[batch, left] - common
            proper = (width > 0) & (height > 0) & (area[batch, left] > 0) & (union > 0)
            drop = proper & (area[batch, best] > 0) & (common / union > wide(attrs.iou))
            left = left[~drop]
    result = np.zeros((scores.shape[0] * scores.shape[1] * min(scores.shape[2], attrs.max_out), 3))
    result[: len(found)] = np.array(found).reshape(-1, 3)
    return result.astype(np.int64), np.array(len(found), np.int64)


# -- loops --------------------------------------------------------------------------------------


def _loops(k: KernelWriter) -> None:
    """Select in each class apart, then bring what was selected together."""
    types = [tensor_type(value) for value in k.op.operands]
    most = _most(types, k.op.attrs)
    (_, total) = k.results
    if most == 0:
        k.b.store(k.b.index(0), total)
        return
    batches, classes, size = types[1].shape
    search = _Search(k, most, batches, classes, size)
    search.prepare()
    with k.rows((batches, classes), size * WORK) as ((batch, kind), worker):
        search.select(batch, kind, worker)
    _gather(k, search)


class _Search:
    """Selects boxes. Of the selected ones of a class, coordinates stand side by side."""

    def __init__(
        self, k: KernelWriter, most: DimLike, batches: DimLike, classes: DimLike, size: DimLike
    ) -> None:
        self.k = k
        self.b = k.b
        self.most = most
        self.rows = (batches, classes)
        self.size = size
        dtype = tensor_type(k.op.operands[0]).dtype
        self.dtype = compute_dtype(dtype)
        self.lanes = VECTOR_BYTES // self.dtype.bytes
        self.sorter = Sorter(k, key_type(dtype), size, self.rows)
        # Least and greatest coordinates, and areas.
        self.boxes = k.scratch(self.dtype, batches, 5, size)
        self.selected = k.own(self.dtype, self.rows, 5, most + self.lanes)
        self.places = k.scratch(I64, batches, classes, most)
        self.counts = k.scratch(I64, batches, classes)

    def prepare(self) -> None:
        """Find the corners and the areas of all boxes."""
        b = self.b
        with self.k.rows((self.rows[0], self.size), 10) as ((batch, i), _):
            given = [
                b.cast(b.load(self.k.operands[0], batch, i, b.index(n)), self.dtype)
                for n in range(4)
            ]
            corners = self._corners(given)
            x1, x2, y1, y2 = corners
            area = b.mul(b.sub(x2, x1), b.sub(y2, y1))
            for number, value in enumerate((*corners, area)):
                b.store(value, self.boxes, batch, number, i)

    def _corners(self, given: Sequence[Value]) -> list[Value]:
        b = self.b
        first, second, third, fourth = given
        if self.k.op.attrs.center_point_box:
            half = b.const(0.5, self.dtype)
            found = []
            for middle, length in ((first, third), (second, fourth)):
                reach = b.mul(length, half)
                found += [b.sub(middle, reach), b.add(middle, reach)]
            return found
        return [
            b.min(first, third), b.max(first, third), b.min(second, fourth), b.max(second, fourth),
        ]  # fmt: skip

    def select(self, batch: Value, kind: Value, worker: Value) -> None:
        b, zero, one = self.b, self.b.index(0), self.b.index(1)
        candidates = self._candidates(batch, kind, worker)
        start = self.sorter.sort(worker, candidates)
        limit = b.index(self.most)
        more = b.and_(b.lt(zero, candidates), b.lt(zero, limit))
        with b.while_(more, (zero, zero)) as loop:
            i, count = loop.carried
            place = self.sorter.place(worker, b.add(start, i))
            box = [b.load(self.boxes, batch, n, place) for n in range(5)]

            def keep() -> list[Value]:
                for n, value in enumerate(box):
                    b.store(value, self.selected, worker, n, count)
                b.store(place, self.places, batch, kind, count)
                return [b.add(count, one)]

            dropped = self._overlaps(box, worker, count)
            (count,) = b.either(dropped, lambda: [loop.carried[1]], keep)
            following = b.add(i, one)
            loop.again = b.and_(b.lt(following, candidates), b.lt(count, limit))
            loop.yields = (following, count)
        b.store(loop.results[1], self.counts, batch, kind)

    def _candidates(self, batch: Value, kind: Value, worker: Value) -> Value:
        """Put the boxes whose scores are high enough to the sorter; return how many."""
        b, least = self.b, self.k.op.attrs.score
        with b.for_(0, self.size, (b.index(0),)) as loop:
            (count,) = loop.carried
            score = b.load(self.k.operands[1], batch, kind, loop.index)
            self.sorter.put(worker, count, order_key(b, score, descending=True), loop.index)
            taken = b.index(1)
            if least is not None:
                wide = b.cast(score, self.dtype)
                taken = b.cast(b.gt(wide, b.const(least, wide)), I64)
            loop.yields = (b.add(count, taken),)
        return loop.results[0]

    def _overlaps(self, box: Sequence[Value], worker: Value, count: Value) -> Value:
        """Whether a box overlaps one of the first `count` selected ones too much."""
        b = self.b
        none = b.const(False, BOOL)
        with b.while_(b.lt(b.index(0), count), (b.index(0), none)) as loop:
            first = loop.carried[0]
            others = [
                b.vload(self.selected, (worker, b.index(n), first), self.lanes) for n in range(5)
            ]
            mine = [b.splat(value, self.lanes) for value in box]
            over = self._over(mine, others)
            over = b.and_(over, b.tail_mask(first, count, self.lanes))
            hit = b.reduce("or", over)
            following = b.add(first, b.index(self.lanes))
            loop.again = b.and_(b.not_(hit), b.lt(following, count))
            loop.yields = (following, hit)
        return loop.results[1]

    def _over(self, one: Sequence[Value], other: Sequence[Value]) -> Value:
        """Whether boxes have more in common, as a part of what they cover, than is allowed."""
        b: LoopBuilder = self.b
        zero = b.const(0, one[0])
        sides = [b.sub(b.min(one[n + 1], other[n + 1]), b.max(one[n], other[n])) for n in (0, 2)]
        common = b.mul(*sides)
        union = b.sub(b.add(one[4], other[4]), common)
        over = b.gt(b.div(common, union), b.const(self.k.op.attrs.iou, one[0]))
        for value in (*sides, one[4], other[4], union):
            over = b.and_(over, b.gt(value, zero))
        return over


def _gather(k: KernelWriter, search: _Search) -> None:
    """Write what was selected, class after class, and zeros behind it."""
    b = k.b
    found, total = k.results
    batches, classes = search.rows
    zero = b.index(0)
    starts = k.scratch(I64, batches, classes)
    with b.for_(0, batches, (zero,)) as outer:
        with b.for_(0, classes, outer.carried) as inner:
            (start,) = inner.carried
            b.store(start, starts, outer.index, inner.index)
            inner.yields = (b.add(start, b.load(search.counts, outer.index, inner.index)),)
        outer.yields = inner.results
    count = outer.results[0]
    b.store(count, total)
    with k.rows(search.rows, search.most * 4) as ((batch, kind), _):
        start = b.load(starts, batch, kind)
        with b.for_(0, b.load(search.counts, batch, kind)) as loop:
            at = b.add(start, loop.index)
            place = b.load(search.places, batch, kind, loop.index)
            for n, value in enumerate((batch, kind, place)):
                b.store(value, found, at, n)
    with (
        k.tasks(batches * classes * search.most, 3) as (first, end, _),
        b.for_(b.max(first, count), end) as loop,
    ):
        for n in range(3):
            b.store(zero, found, loop.index, n)


# -- samples ------------------------------------------------------------------------------------


def _boxes(batches: int, size: int, center: bool) -> Array:
    """Boxes that overlap often, given by any two opposite corners; one has no area."""
    middles = floats((batches, size, 2), 0, 4)
    sides = floats((batches, size, 2), 0.2, 2, seed=1)
    if size > 2:
        sides[:, 2] = 0
    if center:
        return np.concatenate([middles, sides], -1)
    found = np.concatenate([middles - sides / 2, middles + sides / 2], -1)
    found[:, ::3] = found[:, ::3][..., [2, 1, 0, 3]]
    return found


def _samples() -> Sequence[Sample]:
    found = []
    for batches, classes, size, most, iou, score, center in (
        (1, 1, 6, 3, 0.5, None, False),
        (2, 3, 20, 5, 0.3, 0.4, False),
        (1, 2, 40, 40, 0.2, 0.0, True),
        (1, 1, 70, 60, 0.6, None, False),
        (1, 2, 5, 0, 0.5, None, False),
        (2, 2, 5, 3, 0.5, 9.0, False),
        (1, 2, 0, 3, 0.5, None, False),
        (0, 2, 3, 3, 0.5, None, False),
    ):
        scores = np.round(floats((batches, classes, size), 0, 1, seed=2) * 16) / 16
        attrs = {"max_out": most, "iou": iou, "score": score, "center_point_box": center}
        found.append(Sample((_boxes(batches, size, center), scores.astype(np.float32)), attrs))
    return found


def _rejects() -> Sequence[Reject]:
    boxes, scores = TensorType(F32, (1, 6, 4)), TensorType(F32, (1, 2, 6))
    return (
        Reject((boxes, TensorType(F32, (1, 2, 5))), {"max_out": 3}, "are not boxes"),
        Reject((TensorType(F32, (1, 6, 5)), scores), {"max_out": 3}, "are not boxes"),
        Reject((boxes, TensorType(F32, (2, 6))), {"max_out": 3}, "three axes"),
        Reject((boxes, TensorType(F64, (1, 2, 6))), {"max_out": 3}, "differ in element type"),
        Reject((boxes, scores), {"max_out": -1}, "negative"),
    )


register(
    OpDef(
        name="non_max_suppression",
        doc=(
            "Of boxes [batch, n, 4] and scores [batch, class, n]: in each class the box with the "
            "highest score, again and again, without those that overlap a selected one by more "
            "than `iou`. Gives rows (batch, class, box), class after class, zeros behind them, "
            "and how many there are. Of equal scores the first comes first, NaN before all; a box "
            "without area overlaps none."
        ),
        attrs=SuppressionAttrs,
        operands=(2, 2),
        kind=Kind.OPAQUE,
        infer=_infer,
        assumes=_assumes,
        ref=_ref,
        loops=_loops,
        grad=NoGrad("its results are indices and counts"),
        samples=_samples,
        rejects=_rejects,
    )
)
