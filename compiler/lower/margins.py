"""Steps of a contraction that multiply zeros of padding alone, which a tile need not make.

A padded operand is stored with its border. Along a padded axis, a tile of rows and a step of a
reduced iterator read places that the address tells; where all of them are in the border, the step
adds nothing. Bounds of the loop over such an iterator leave these steps out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tfc.compiler.lower.arguments import known
from tfc.compiler.lower.contract import Contraction, Tile, stride_of
from tfc.compiler.lower.group import Band, Span
from tfc.compiler.lower.storage import Storage, parts_of_zeros, shape_of
from tfc.ir.body import Iter
from tfc.ir.core import Value
from tfc.ir.dims import (
    DimLike,
    bounds,
    ceildiv,
    coefficient,
    maximum,
    minimum,
    substitute,
)

# Along more rows than that the margins matter little.
NEAR = 64


@dataclass(frozen=True)
class Margin:
    """An axis of a padded value: places outside of lo <= place < hi hold zeros.

    stride: between neighbours, in elements. size: how many places there are.
    """

    axis: int
    stride: DimLike
    size: DimLike
    lo: DimLike
    hi: DimLike


@dataclass(frozen=True)
class Taps:
    """Which steps of the reduced iterator `it` read something else than zeros.

    In a row whose place along the axis is `first` at tap 0, taps are `step` places apart, each of
    them `unit` steps of the iterator. rows: the iterators that `first` depends on.
    """

    it: Iter
    margin: Margin
    first: DimLike
    step: int
    unit: int
    rows: tuple[Iter, ...]

    @property
    def start(self) -> DimLike:
        """The first step that the last row of a tile needs."""
        tap = ceildiv(maximum(self.margin.lo - self.first, 0), self.step)
        return minimum(tap * self.unit, self.it.extent)

    @property
    def stop(self) -> DimLike:
        """The step behind the last that the first row of a tile needs."""
        tap = ceildiv(maximum(self.margin.hi - self.first, 0), self.step)
        return minimum(tap * self.unit, self.it.extent)


@dataclass(frozen=True)
class Move:
    """How an iterator runs along an axis: `unit` steps of it go `step` places.

    One of them is 1: where an iterator runs through axes inside of this one as well, several steps
    stay in one place.
    """

    it: Iter
    axis: int
    step: int
    unit: int


def margins(value: Value, storage: Storage) -> list[Margin]:
    """The axes of a value, where it is stored with zeros around it, else none."""
    if value.op is None:
        return []
    parts = parts_of_zeros(value.op)
    place = storage.place(value)
    if not parts or place.lead != 0:
        return []
    inner = shape_of(value.op.operands[0])
    return [
        Margin(axis, stride, size, start, start + own)
        for axis, (stride, size, start, own) in enumerate(
            zip(place.strides, shape_of(value), parts[0].starts, inner, strict=True)
        )
        if size != 1
    ]


def taps(c: Contraction, tile: Tile, found: Sequence[Margin]) -> list[Taps]:
    """The reduced iterators along padded axes of which some tile may leave out steps."""
    sizes = _sizes(c, tile)
    return [tap for tap in _along(c, found) if _leaves_out(tap, sizes)]


def _along(c: Contraction, found: Sequence[Margin]) -> list[Taps]:
    """The reduced iterators along padded axes."""
    address = c.left.address
    iters = [*c.batch, *c.rows, *c.reduced]
    if not found or substitute(address, {it.name: 0 for it in iters}) != 0:
        return []
    moves: list[Move] = []
    for it in iters:
        move = _move(it, stride_of(address, it), found)
        if move is None:
            return []
        moves.append(move)
    if not _stay(moves, found):
        return []
    taps = [
        _taps(c, margin, [move for move in moves if move.axis == axis])
        for axis, margin in enumerate(found)
    ]
    return [tap for tap in taps if tap is not None]


def share(c: Contraction, found: Sequence[Margin]) -> Callable[[Tile], float]:
    """Of all steps those that tiles make, by the tile."""
    parts = [part for part in map(_Share.of, _along(c, found)) if part is not None]
    return lambda tile: math.prod(part.of_rows(_sizes(c, tile)) for part in parts)


@dataclass(frozen=True)
class _Share:
    """One axis: its taps, of which each row of `rows`, by name, moves the first by so much."""

    lo: int
    hi: int
    step: int
    count: int
    rows: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, tap: Taps) -> _Share | None:
        """None where a run tells sizes, or most tiles are far from the margins."""
        count, lo, hi = tap.it.extent // tap.unit, tap.margin.lo, tap.margin.hi
        rows = tuple((it.name, it.extent, coefficient(tap.first, it.name)) for it in tap.rows)
        numbers = [count, lo, hi, *(number for row in rows for number in row[1:])]
        few = all(isinstance(number, int) for number in numbers) and math.prod(
            known(it.extent) for it in tap.rows
        ) <= NEAR  # fmt: skip
        return cls(lo, hi, tap.step, count, rows) if few else None  # type: ignore[arg-type]

    def of_rows(self, sizes: Mapping[str, int]) -> float:
        made, tiles = 0, [(0, 0)]
        for name, extent, step in self.rows:
            size = min(sizes.get(name, 1), extent)
            starts = [min(start, extent - size) for start in range(0, extent, size)]
            tiles = [
                (first + step * start, last + step * (start + size - 1))
                for first, last in tiles
                for start in starts
            ]
        for first, last in tiles:
            start = -(-max(self.lo - last, 0) // self.step)
            stop = min(-(-max(self.hi - first, 0) // self.step), self.count)
            made += max(stop - start, 0)
        return made / (len(tiles) * self.count)


def band(c: Contraction, tile: Tile, value: Value, taps: Sequence[Taps]) -> Band:
    """What tiles that leave out `taps` read of a padded value.

    A step that is made reads a place inside for one row of the tile at least, so that none is
    further outside than rows of a tile are apart.
    """
    sizes = _sizes(c, tile)
    spans: list[Span] = [(0, size) for size in shape_of(value)]
    for tap in taps:
        margin = tap.margin
        reach = 0
        for name, size in sizes.items():
            step = coefficient(tap.first, name)
            assert isinstance(step, int)
            reach += step * (size - 1)
        lo = maximum(margin.lo - reach, 0)
        spans[margin.axis] = lo, minimum(margin.hi + reach, margin.size)
    return Band(value, tuple(spans))


def _sizes(c: Contraction, tile: Tile) -> dict[str, int]:
    """How many values the iterators of a tile's rows have in it."""
    return {it.name: n for it, n in zip(c.rows[::-1], (tile.tw, tile.th), strict=False)}


def _move(it: Iter, stride: DimLike, found: Sequence[Margin]) -> Move | None:
    """The axis that an iterator runs along, and how."""
    options: list[Move] = []
    if isinstance(stride, int) and stride <= 0:
        return None
    for axis, margin in enumerate(found):
        if stride % margin.stride == 0:
            step = stride // margin.stride
            if isinstance(step, int) and step > 0:
                options.append(Move(it, axis, step, 1))
        elif margin.stride % stride == 0:
            unit = margin.stride // stride
            if isinstance(unit, int) and isinstance(it.extent, int) and 0 < unit < it.extent:
                options.append(Move(it, axis, 1, unit))
    # Along the longest stride: one that leaves an axis runs along another.
    return min(options, key=lambda move: (-move.unit, move.step)) if options else None


def _stay(moves: Sequence[Move], found: Sequence[Margin]) -> bool:
    """Whether the place along each axis is what its own iterators add up to.

    So they do not leave the axis, all of them at their ends, and nothing else runs through axes
    inside of that along which an iterator makes several steps in one place.
    """
    for axis, margin in enumerate(found):
        along = [move for move in moves if move.axis == axis]
        reach = sum((m.step * (ceildiv(m.it.extent, m.unit) - 1) for m in along), start=0)
        least, _ = bounds(margin.size - 1 - reach, {})
        if least is None or least < 0:
            return False
        inside = {k for k, m in enumerate(found) if margin.stride % m.stride == 0} - {axis}
        if any(m.unit != 1 for m in along) and any(m.axis in inside for m in moves):
            return False
    return True


def _taps(c: Contraction, margin: Margin, along: Sequence[Move]) -> Taps | None:
    """The reduced iterator along a padded axis, if there is one."""
    reduced = [move for move in along if move.it in c.reduced]
    if len(reduced) != 1 or (margin.lo == 0 and margin.hi == margin.size):
        return None
    (tap,) = reduced
    if tap.it.extent % tap.unit != 0 or any(m.unit != 1 for m in along if m is not tap):
        return None
    others = [m for m in along if m is not tap]
    first = sum((m.step * m.it.dim for m in others), start=0)
    return Taps(tap.it, margin, first, tap.step, tap.unit, tuple(m.it for m in others))


def _leaves_out(tap: Taps, sizes: Mapping[str, int]) -> bool:
    """Whether there may be a tile that leaves out a step. sizes: rows of a tile, by iterator."""
    least = most = 0
    for it in tap.rows:
        step = coefficient(tap.first, it.name)
        if not isinstance(it.extent, int):
            return True
        assert isinstance(step, int)
        size = min(sizes.get(it.name, 1), it.extent)
        least += step * (size - 1)
        most += step * (it.extent - size)
    first, last = (replace(tap, first=place) for place in (least, most))
    return first.start != 0 or last.stop != tap.it.extent
