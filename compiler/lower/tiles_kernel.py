"""The kernel of a contraction on tile registers that reads rows where they lie.

What is computed, the blocks and the layout of the weights are those of `tiles`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tfc.compiler.cost.tiles import block_cycles
from tfc.compiler.lower.contract import stride_of
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.nest import parallel_loops
from tfc.compiler.lower.tiles import TilePlan
from tfc.compiler.lower.tiles_base import LANES, TileKernel
from tfc.ir.body import Iter
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, floordiv, maximum, minimum, mod, substitute
from tfc.ir.loop.verify import TILE_BYTES, TILE_ROWS


class TileSchedule(TileKernel):
    """Emits the kernel of a plan. packed: the weights in the plan's layout.

    Sums go through memory to the epilogue, which works on vectors.
    """

    def __init__(
        self, emitter: Emitter, plan: TilePlan, packed: Value, hints: Mapping[str, int]
    ) -> None:
        line = TILE_BYTES // plan.c.left.load.dtype.bytes
        copied = plan.high * TILE_ROWS * line if plan.tail else 0
        super().__init__(emitter, plan, packed, plan.shared if plan.is_split else 1, copied)
        self.plan = plan
        self.line_size = line
        self.hints = hints
        self.group = Iter("group", ceildiv(plan.blocks, plan.shared))
        self.slot = Iter("slot", plan.shared)

    def emit(self) -> None:
        loops = [*self.c.batch, *self.plan.others, self.group, self.panel]
        with (
            parallel_loops(
                self.e,
                [it for it in loops if it.extent != 1],
                block_cycles(self.plan.sizes(self.hints)) * self.plan.shared,
                self.hints,
                self.registers,
            ),
            self.e.scope({it.name: self.e.index(0) for it in loops if it.extent == 1}),
        ):
            self._blocks()

    # -- blocks ---------------------------------------------------------------------------------

    def _blocks(self) -> None:
        """The blocks of a group, by turns where their sums are made in parts."""
        if not self.plan.is_split:
            with self._slots(), self._block():
                self._add_up(None)
                self._finish()
            return
        outer = [*self.plan.outer, *([self.plan.cut] if self.plan.cut is not None else [])]
        with self.loops(outer), self._slots(), self._block():
            first = self.e.index(0)
            for it in outer:
                first = self.b.add(first, self.e.index(it.dim))
            self._add_up(self.b.gt(first, self.e.index(0)))
        with self._slots(), self._block():
            self._finish()

    @contextmanager
    def _slots(self) -> Iterator[None]:
        shared = self.plan.shared
        count = minimum(shared, self.plan.blocks - self.group.dim * shared)
        if shared == 1 or self.plan.blocks % shared == 0:
            count = shared
        with self.e.loop(self.slot, 0, count):
            yield

    @contextmanager
    def _block(self) -> Iterator[None]:
        """Find where the tiles of a block begin: `starts` are (row of `other`, row of the axis)."""
        plan = self.plan
        number = self.group.dim * plan.shared + self.slot.dim
        far = plan.axis_blocks
        one, two = floordiv(number, far), mod(number, far)
        if far == 1:
            one, two = number, 0
        elif ceildiv(plan.other.extent, plan.across) == 1:
            one, two = 0, number
        self.starts = [
            (
                self._start(plan.other.extent, one * plan.across + i, 1),
                self._start(plan.axis.extent, (two * plan.along + j) * plan.step, plan.height),
            )
            for i in range(plan.across)
            for j in range(plan.along)
        ]
        yield

    def _start(self, extent: DimLike, start: DimLike, size: DimLike) -> Value:
        """A tile that would reach behind the last row overlaps its neighbour."""
        return self.e.index(minimum(start, maximum(extent - size, 0)))

    # -- sums -----------------------------------------------------------------------------------

    def _add_up(self, further: Value | None) -> None:
        """Make the sums of a block, or add to those that are in memory where `further` is true."""
        self.zero_sums()
        if further is not None:
            with self.b.if_(further):
                for i, tile in enumerate(self.sums):
                    self.b.tile_load(tile, self.lines, self._sum_at(i), self.plan.block)
        rows = [self._row(*start) for start in self.starts]
        with self.loops(self.plan.inner):
            self._chunks(rows)
        for i, tile in enumerate(self.sums):
            self.b.tile_store(tile, self.lines, self._sum_at(i), self.plan.block)

    def _sum_at(self, number: int) -> Value:
        high, wide = divmod(number, self.plan.wide)
        at = high * TILE_ROWS * self.plan.block + wide * LANES
        slot = self.slot.dim if self.plan.is_split else 0
        return self.e.index(slot * self.slot_size + at)

    def _row(self, other: Value, row: Value) -> Value:
        """A view of the left side from the first step of a tile's first row on."""
        origin = substitute(self.c.left.address, {it.name: 0 for it in self.c.reduced})
        buf = self.e.buffers[self.c.left.load.value]
        values = {self.plan.other.name: other, self.plan.axis.name: row}
        if self.plan.flat is not None:
            # Lines are `pitch` of the inner iterator's steps apart.
            y, x = self.plan.flat
            values = {y.name: self.e.index(0), x.name: row}
        with self.e.scope(values):
            return self.b.view(buf, self.e.index(origin), buf.type)  # type: ignore[arg-type]

    def _row_step(self) -> Value:
        """Elements between two rows of a tile."""
        axis = self.plan.flat[1] if self.plan.flat is not None else self.plan.axis
        return self.e.index(stride_of(self.c.left.address, axis))

    def _chunks(self, rows: Sequence[Value]) -> None:
        plan = self.plan
        chunk = Iter("chunk", plan.full)
        lo: DimLike = 0
        hi: DimLike = plan.full
        if plan.cut is not None:
            lo = plan.cut.dim * plan.part
            hi = minimum(lo + plan.part, plan.full)
        with self.e.loop(chunk, lo, hi):
            self._multiply(rows, chunk.dim)
        if plan.tail and plan.cut is not None:
            last = self.e.index(plan.cut.extent - 1)
            with self.b.if_(self.b.eq(self.e.index(plan.cut.dim), last)), self._inside():
                self._multiply_tail(rows)
        elif plan.tail:
            self._multiply_tail(rows)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """The scope of a block that the builder has opened."""
        with self.e.scope({}, conditional=True):
            yield

    def _multiply(self, rows: Sequence[Value], chunk: DimLike) -> None:
        """One product of every tile of sums, of rows that lie in memory."""
        offset = self.e.index(self.plan.left_at(chunk))
        step = self._row_step()
        self.load_weights(chunk)
        for i, row in enumerate(rows):
            self.b.tile_load(self.left[i], row, offset, step)
            self.multiply(i)

    def _multiply_tail(self, rows: Sequence[Value]) -> None:
        """The same of steps that do not fill a tile, whose rows are copied and filled with 0."""
        plan, lanes = self.plan, self.line_size
        offset = self.e.index(plan.left_at(plan.full))
        step = self._row_step()
        mask = self.b.tail_mask(self.e.index(0), self.e.index(plan.tail), lanes)
        places = [self.e.index(i * TILE_ROWS * lanes) for i in range(len(rows))]
        for row, place in zip(rows, places, strict=True):
            with self.b.for_(self.e.index(0), self.height, name="line") as loop:
                source = self.b.add(offset, self.b.mul(loop.index, step))
                line = self.b.vload(row, [source], lanes, mask=mask)
                to = self.b.add(place, self.b.mul(loop.index, self.b.index(lanes)))
                self.b.vstore(line, self.copied, [to])
        self.load_weights(plan.full)
        for i, (tile, place) in enumerate(zip(self.left, places, strict=True)):
            self.b.tile_load(tile, self.copied, place, lanes)
            self.multiply(i)

    # -- results --------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Evaluate the epilogue on the sums of a block, row by row, and store."""
        for v in range(self.plan.wide):
            with self.column(v):
                for i, (other, row) in enumerate(self.starts):
                    with self.e.scope({self.plan.other.name: other}):
                        self._lines(i, v, row)

    def _lines(self, tile: int, vector: int, row: Value) -> None:
        line = Iter("line", self.plan.height)
        with self.e.loop(line):
            at = self._sum_at(tile * self.plan.wide + vector)
            here = self.b.add(at, self.e.index(line.dim * self.plan.block))
            number = self.b.add(row, self.e.index(line.dim))
            if self.plan.flat is None:
                with self.e.scope({self.plan.axis.name: number}):
                    self.result(here)
                return
            y, x = self.plan.flat
            pitch = self.e.index(self.plan.pitch)
            column = self.b.rem(number, pitch)
            with self.b.if_(self.b.lt(column, self.e.index(x.extent))):
                values = {y.name: self.b.div(number, pitch), x.name: column}
                with self.e.scope(values, conditional=True):
                    self.result(here)
