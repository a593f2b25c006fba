"""Contractions of short sums by tile registers: rows are copied once, for all panels of weights.

A copied row holds all its steps side by side, so that a first layer of three channels or a row of
odd length fills whole tiles. Where rows are read in place: `tiles`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

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
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.nest import decoded, parallel_loops
from tfc.compiler.lower.tiles_base import (
    FEW_TASKS,
    LANES,
    TileKernel,
    pack_weights,
    raised,
    standing_weights,
    steps_of,
)
from tfc.compiler.target import Target
from tfc.ir.body import Iter
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, minimum, product, substitute
from tfc.ir.loop.verify import TILE_BYTES, TILE_ROWS
from tfc.ir.types import VectorType

# Bytes of the rows of a block, which lie in the first-level cache beside a part of the weights.
MOST_BYTES = 20 << 10
_SHAPES = ((2, 2), (3, 1), (2, 1), (1, 1))


@dataclass(frozen=True)
class CopyPlan:
    """How a contraction runs on tiles of copied rows; c is packed and collapsed.

    Rows are numbered through all their iterators; a block is `high` tiles of them. chunk: steps of
    a tile; chunks: tiles along a sum, the last one filled with zeros. panels: how many a task
    computes of the same rows.
    """

    c: Contraction
    high: int
    wide: int
    chunk: int
    chunks: int
    group: int
    panels: int = 1

    @property
    def height(self) -> int:
        return TILE_ROWS

    @property
    def block(self) -> int:
        """Columns of a panel."""
        return self.wide * LANES

    @property
    def lines(self) -> int:
        """Rows of a block."""
        return self.high * TILE_ROWS

    @property
    def rows(self) -> DimLike:
        return product(it.extent for it in self.c.rows)

    @property
    def steps(self) -> int:
        return estimate(product(it.extent for it in self.c.reduced), {})

    @property
    def pitch(self) -> int:
        """Elements from one copied row to the next."""
        return self.chunks * self.chunk

    def weights_at(self, chunk: DimLike) -> DimLike:
        at: DimLike = 0
        for it in (*self.c.batch, panel_of(self.c.n, self.block)):
            at = at * it.extent + it.dim
        return (at * self.chunks + chunk) * (self.chunk * self.block)

    def pack(self, original: Contraction, flat: Array) -> Array:
        """Return weights as [batch][panel][chunk][wide][chunk / group][LANES][group]."""
        return pack_weights(self, original, flat, self.steps)

    def sizes(self, hints: Mapping[str, int]) -> cost.Blocks:
        """What the cost model asks."""
        *outer, inner = self.c.reduced
        vectors = -(-estimate(inner.extent, hints) // self.chunk)
        copies = self.lines * (estimate(product(it.extent for it in outer), hints) * vectors + 1)
        panels = estimate(panel_of(self.c.n, self.block).extent, hints)
        blocks = estimate(product(it.extent for it in self.c.batch), hints)
        blocks *= estimate(ceildiv(self.rows, self.lines), hints)
        own = -(-panels // self.panels)
        return cost.Blocks(
            self.high, self.wide, self.lines, self.chunks, copies * own / panels, blocks * panels
        )


def plans(c: Contraction, target: Target, hints: Mapping[str, int]) -> list[Candidate[CopyPlan]]:
    """How tiles of copied rows can compute a contraction by constants."""
    group = steps_of(c, target)
    if not group:
        return []
    hints = raised(c, hints)
    size = c.left.load.dtype.bytes
    chunk = TILE_BYTES // size
    found = []
    for high, wide in _SHAPES:
        whole = collapse_reduced(with_packed_right(c, standing_weights(c), wide * LANES))
        plan = CopyPlan(whole, high, wide, chunk, 1, group)
        plan = CopyPlan(whole, high, wide, chunk, -(-plan.steps // chunk), group)
        if plan.lines * plan.pitch * size > MOST_BYTES:
            continue
        if stride_of(whole.left.address, whole.reduced[-1]) != 1:
            return []
        panels = estimate(panel_of(c.n, plan.block).extent, hints)
        blocks = max(estimate(ceildiv(plan.rows, plan.lines), hints), 1)
        tasks = min(panels, -(-FEW_TASKS // blocks))
        plan = CopyPlan(whole, high, wide, chunk, plan.chunks, group, -(-panels // tasks))
        cycles = cost.tile_cycles(plan.sizes(hints))
        found.append(Candidate(f"copied-tiles-{high}x{wide}", cycles, plan))
    return found


class CopySchedule(TileKernel):
    """Emits the kernel of a plan. packed: the weights in the plan's layout."""

    def __init__(
        self, emitter: Emitter, plan: CopyPlan, packed: Value, hints: Mapping[str, int]
    ) -> None:
        # The last vector of a row may reach behind it.
        copied = plan.lines * plan.pitch + 2 * plan.chunk
        super().__init__(emitter, plan, packed, copied=copied)
        self.plan = plan
        self.hints = hints
        self.part = Iter("part", ceildiv(self.panel.extent, plan.panels))
        self.number = Iter("block", ceildiv(plan.rows, plan.lines))

    def emit(self) -> None:
        loops = [*self.c.batch, self.number, self.part]
        work = cost.block_cycles(self.plan.sizes(self.hints)) * self.plan.panels
        used = [it for it in loops if it.extent != 1]
        with (
            parallel_loops(self.e, used, work, self.hints, self.registers),
            self.e.scope({it.name: self.e.index(0) for it in loops if it.extent == 1}),
        ):
            self._copy()
            first = self.part.dim * self.plan.panels
            end = minimum(first + self.plan.panels, self.panel.extent)
            with self.e.loop(self.panel, first, end):
                self._add_up()
                for vector in range(self.plan.wide):
                    with self.column(vector), self._lines() as line:
                        at = line * self.plan.block + vector * LANES
                        self.result(self.e.index(at))

    @contextmanager
    def _lines(self) -> Iterator[DimLike]:
        """Run over the rows of a block that exist; gives the number in the block."""
        plan = self.plan
        line, flat = Iter("line", plan.lines), Iter("row", plan.rows)
        first = self.number.dim * plan.lines
        whole = plan.rows % plan.lines == 0
        end = plan.lines if whole else minimum(plan.lines, plan.rows - first)
        with self.e.loop(line, 0, end):
            row = self.e.index(first + line.dim)
            with self.e.scope({flat.name: row}), decoded(self.e, flat, self.c.rows):
                yield line.dim

    def _copy(self) -> None:
        """Copy the rows of a block, each with zeros behind."""
        plan, lanes = self.plan, self.plan.chunk
        *outer, inner = self.c.reduced
        buf = self.e.buffers[self.c.left.load.value]
        assert isinstance(inner.extent, int)
        taps: DimLike = 0
        for it in outer:
            taps = taps * it.extent + it.dim
        zero = self.b.const(0, VectorType(self.c.left.load.dtype, lanes))
        with self._lines() as line:
            start = line * plan.pitch
            with self.loops(outer):
                for step in range(0, inner.extent, lanes):
                    rest = min(inner.extent - step, lanes)
                    address = substitute(self.c.left.address, {inner.name: step})
                    mask = None
                    if rest < lanes:
                        mask = self.b.tail_mask(self.e.index(0), self.e.index(rest), lanes)
                    value = self.b.vload(buf, [self.e.index(address)], lanes, mask=mask)
                    to = start + taps * inner.extent + step
                    self.b.vstore(value, self.copied, [self.e.index(to)])
            self.b.vstore(zero, self.copied, [self.e.index(start + plan.steps)])

    def _add_up(self) -> None:
        """The sums of a block and a panel, in memory."""
        plan = self.plan
        self.zero_sums()
        chunk = Iter("chunk", plan.chunks)
        with self.e.loop(chunk):
            self.load_weights(chunk.dim)
            for i, tile in enumerate(self.left):
                at = i * TILE_ROWS * plan.pitch + chunk.dim * plan.chunk
                self.b.tile_load(tile, self.copied, self.e.index(at), plan.pitch)
                self.multiply(i)
        for i, tile in enumerate(self.sums):
            high, wide = divmod(i, plan.wide)
            at = high * TILE_ROWS * plan.block + wide * LANES
            self.b.tile_store(tile, self.lines, at, plan.block)
