"""Contractions of narrow elements by tile registers: their blocks and their weights.

The kernel is in `tiles_kernel`, the reasons are in docs/decisions/0026-tiles.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tfc.compiler.cost import tiles as cost
from tfc.compiler.cost.choice import Candidate
from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.contract import (
    Array,
    Contraction,
    collapse_reduced,
    panel_of,
    stride_of,
    with_packed_right,
)
from tfc.compiler.lower.tiles_base import (
    FEW_TASKS,
    LANES,
    pack_weights,
    raised,
    standing_weights,
    steps_of,
)
from tfc.compiler.target import Target
from tfc.ir.body import Iter
from tfc.ir.dims import (
    DimLike,
    ceildiv,
    maximum,
    minimum,
    product,
    substitute,
)
from tfc.ir.loop.verify import TILE_BYTES, TILE_ROWS

# Tiles of sums along the rows and along n. With the tiles of both sides they are eight at most.
_SHAPES = ((2, 2), (3, 1), (1, 3), (2, 1), (1, 2), (1, 1))
_UNIT = Iter("unit", 1)
# So many tiles are summed up at once where further rows use the same weights: both sides of them
# lie in the first-level cache. Up to LONG_SUM they are not split.
SUM, LONG_SUM = 8, 12
# Blocks of rows that share weights, as many as there is memory for their sums.
MOST_BLOCKS = 8


@dataclass(frozen=True)
class TilePlan:
    """How a contraction runs on tiles; c is packed and collapsed.

    A block of results has `high` tiles of rows, `across` of them along iterator `other` and the
    rest along `axis`, and `wide` tiles of columns. chunk: steps of one tile, of which `full` times
    as many are read where they lie and `tail` more are copied. group: steps in an element of sums.
    outer: iterators around a sum that is kept in memory meanwhile; the last one may be `cut`,
    which counts parts of `part` chunks. shared: blocks of rows that use a panel of weights one
    after the other, by turns where sums are kept.
    flat: where the axis runs through lines of rows, one behind the other, these two iterators;
    a line is then `pitch` rows, those that follow its last one being computed for nothing.
    """

    c: Contraction
    axis: Iter
    other: Iter
    high: int
    across: int
    wide: int
    chunk: int
    full: int
    tail: int
    group: int
    outer: tuple[Iter, ...] = ()
    cut: Iter | None = None
    part: int = 0
    shared: int = 1
    flat: tuple[Iter, Iter] | None = None
    pitch: int = 0

    @property
    def height(self) -> DimLike:
        """Rows of a tile; the last one of an axis overlaps its neighbour."""
        extent = self.axis.extent
        if isinstance(extent, int):
            return -(-extent // -(-extent // TILE_ROWS)) if extent else 1
        return maximum(1, minimum(extent, TILE_ROWS))

    @property
    def along(self) -> int:
        """Tiles of rows along the axis."""
        return self.high // self.across

    @property
    def step(self) -> DimLike:
        """Rows between two tiles along the axis."""
        return self.height if isinstance(self.axis.extent, int) else TILE_ROWS

    @property
    def axis_blocks(self) -> DimLike:
        return ceildiv(self.axis.extent, self.step * self.along)

    @property
    def blocks(self) -> DimLike:
        """Blocks of rows, those along `other` outside."""
        return ceildiv(self.other.extent, self.across) * self.axis_blocks

    @property
    def block(self) -> int:
        """Columns of a panel."""
        return self.wide * LANES

    @property
    def chunks(self) -> int:
        return self.full + (self.tail > 0)

    @property
    def is_split(self) -> bool:
        """Whether sums are made in parts."""
        return bool(self.outer) or self.cut is not None

    @property
    def inner(self) -> tuple[Iter, ...]:
        """Iterators inside a sum, but for the innermost one."""
        whole = self.c.reduced[:-1]
        return () if self.cut is not None else whole[len(self.outer) :]

    @property
    def others(self) -> tuple[Iter, ...]:
        """Iterators of rows that are not tiled."""
        tiled = (self.axis, self.other, *(self.flat or ()))
        return tuple(it for it in self.c.rows if it not in tiled)

    def sizes(self, hints: Mapping[str, int]) -> cost.Blocks:
        """What the cost model asks."""
        outer = (*self.c.batch, panel_of(self.c.n, self.block), *self.others)
        sums = estimate(product(it.extent for it in self.c.reduced[:-1]), hints)
        lines = self.high * estimate(self.height, hints)
        count = estimate(product(it.extent for it in outer) * self.blocks, hints)
        copies = lines * sums if self.tail else 0
        return cost.Blocks(self.high, self.wide, lines, sums * self.chunks, copies, count)

    def weights_at(self, chunk: DimLike) -> DimLike:
        """Where the first tile of weights of a chunk lies."""
        at: DimLike = 0
        for it in (*self.c.batch, panel_of(self.c.n, self.block), *self.c.reduced[:-1]):
            at = at * it.extent + it.dim
        return (at * self.chunks + chunk) * (self.chunk * self.block)

    def left_at(self, chunk: DimLike) -> DimLike:
        """Where a row's steps of a chunk begin, from the row's first step on."""
        address, inner = self.c.left.address, self.c.reduced[-1]
        origin = substitute(address, {it.name: 0 for it in self.c.reduced})
        return substitute(address, {inner.name: chunk * self.chunk}) - origin

    def pack(self, original: Contraction, flat: Array) -> Array:
        """Return weights as [batch][panel][outer][chunk][wide][chunk / group][LANES][group]."""
        return pack_weights(self, original, flat, self.full * self.chunk + self.tail)


def plans(c: Contraction, target: Target, hints: Mapping[str, int]) -> list[Candidate[TilePlan]]:
    """How tiles can compute a contraction by constants, for each shape of blocks the best way."""
    group = steps_of(c, target)
    if not group:
        return []
    hints = raised(c, hints)
    found = []
    for high, wide in _SHAPES:
        whole = collapse_reduced(with_packed_right(c, standing_weights(c), wide * LANES))
        inner = whole.reduced[-1]
        if not isinstance(inner.extent, int) or stride_of(whole.left.address, inner) != 1:
            return []
        chunks = _chunks(c, inner.extent, group)
        first = TilePlan(whole, *_axes(whole)[0], high, 1, wide, *chunks, group)
        plan = min(_with_rows(first), key=lambda plan: cost.tile_cycles(plan.sizes(hints)))
        cycles = cost.tile_cycles(plan.sizes(hints))
        found.append(Candidate(f"tiles-{high}x{wide}", cycles, _shared(plan, target, hints)))
    return found


def _with_rows(plan: TilePlan) -> Iterator[TilePlan]:
    """The plan with every way to lay tiles over rows."""
    for axis, other in _axes(plan.c):
        for across in (n for n in range(1, plan.high + 1) if plan.high % n == 0):
            yield replace(plan, axis=axis, other=other, across=across)
    if len(plan.c.rows) > 1:
        y, x = plan.c.rows[-2:]
        far, near = (stride_of(plan.c.left.address, it) for it in (y, x))
        sizes = (y.extent, x.extent, far, near)
        if any(not isinstance(size, int) or size <= 0 for size in sizes):
            return
        pitch = far // near
        if isinstance(pitch, int) and far == pitch * near and pitch - x.extent >= 0:
            axis = Iter(f"{x.name}f", (y.extent - 1) * pitch + x.extent)
            yield replace(plan, axis=axis, other=_UNIT, flat=(y, x), pitch=pitch)


def _axes(c: Contraction) -> list[tuple[Iter, Iter]]:
    """The iterator along which rows of a tile lie, and another one of which blocks have several."""
    if len(c.rows) == 1:
        return [(c.rows[0], _UNIT)]
    other, axis = c.rows[-2:]
    return [(axis, other), (other, axis)]


def _chunks(c: Contraction, steps: int, group: int) -> tuple[int, int, int]:
    """Steps of a tile, how many tiles of as many steps there are, and how many steps are left.

    Tiles are of equal size where that leaves nothing.
    """
    most = TILE_BYTES // c.left.load.dtype.bytes
    count = -(-steps // most)
    if steps % (count * group) == 0:
        return steps // count, count, 0
    chunk = min(most, -(-steps // group) * group)
    return chunk, steps // chunk, steps % chunk


def _shared(plan: TilePlan, target: Target, hints: Mapping[str, int]) -> TilePlan:
    """Let several blocks of rows use a panel of weights, and a part of it before the next part.

    Their rows shall stay in the second-level cache from one panel to the next. Both sides of a
    long sum do not stay in the first level, and tiles are used up faster than the second gives
    them.
    """
    c = plan.c
    blocks = estimate(plan.blocks, hints)
    outer = (*c.batch, *plan.others, panel_of(c.n, plan.block))
    most = blocks * estimate(product(it.extent for it in outer), hints) // FEW_TASKS
    inner = c.reduced[-1].extent
    rows = plan.high * TILE_ROWS * estimate(inner, hints) * c.left.load.dtype.bytes
    shared = max(1, min(MOST_BLOCKS, blocks, most, target.l2 // 2 // rows))
    plan = replace(plan, shared=shared)
    return _split(plan, hints) if shared > 1 else plan


def _split(plan: TilePlan, hints: Mapping[str, int]) -> TilePlan:
    """Make long sums in parts."""
    outer = plan.c.reduced[:-1]
    counts = [plan.chunks]
    for it in reversed(outer):
        counts.append(counts[-1] * estimate(it.extent, hints))
    if counts[-1] <= LONG_SUM:
        return plan
    if plan.chunks > LONG_SUM:
        parts = -(-plan.chunks // SUM)
        part = -(-plan.chunks // parts)
        cut = Iter("part", -(-plan.chunks // part))
        return replace(plan, outer=outer, cut=cut, part=part)
    inside = sum(count <= LONG_SUM for count in counts) - 1
    return replace(plan, outer=outer[: len(outer) - inside])
