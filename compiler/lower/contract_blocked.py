"""Contractions whose operands exceed the caches: the same register tiles, in blocks.

A task is a block of rows by a group of panels. It goes through the reduction in chunks, so that
the left side of a block and chunk stays in the second-level cache while all panels use it, and
one panel's chunk in the first while all tiles of the block use it. Sums of chunks are added in
memory. The reasons are in docs/decisions/0025-blocked-contractions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tfc.compiler.cost.contraction import chains
from tfc.compiler.cost.machine import Machine
from tfc.compiler.lower.contract import PAGE, Contraction, Tile, column_of, stride_of
from tfc.compiler.lower.contract_kernel import ContractionSchedule, multiply_add
from tfc.compiler.lower.contract_sides import Factor
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.nest import parallel_loops, worker_of
from tfc.compiler.target import Target
from tfc.ir.body import Iter
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, minimum, substitute, symbol
from tfc.ir.loop.verify import THREADS
from tfc.ir.types import VectorType

Loop = AbstractContextManager[tuple[list[Value], list[Value]]]

# So many steps are one chunk; of more, a chunk has at most CHUNK.
WHOLE = 1024
CHUNK = 512
# Panels of a group, at most: a block's sums of a group stay near.
GROUP = 32
# Both where the columns of a group and chunk are copied: together they fill a part of the
# second-level cache.
COPIED_CHUNK, COPIED_GROUP = 128, 16
# Fewer multiply-adds are no task for the caches.
LEAST_WORK = 1 << 21
# Fewer tiles do not repay copies of columns, fewer panels none of rows.
LEAST_TILES, LEAST_PANELS = 4, 8
LEAST_TASKS = 8
# Steps that copies of columns ask for in advance.
STEPS_AHEAD = 8
LINE = 64
# Elements between steps of copied rows, so that they do not share lines of the first-level cache.
GAP = 16


@dataclass(frozen=True)
class Blocking:
    """tiles: register tiles of a block of rows. panels: of a group. chunk: steps of the reduction.

    copies_left, copies_right: whether what a chunk reads of a side is copied to memory where it
    is contiguous; of the left side rows are, step by step.
    """

    tile: Tile
    tiles: int
    panels: int
    chunk: int
    steps: int
    copies_left: bool
    copies_right: bool

    @property
    def chunks(self) -> int:
        return -(-self.steps // self.chunk)

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.tiles * self.tile.tw

    @property
    def pitch(self) -> int:
        """Elements between steps of a copied block."""
        return self.rows + GAP

    @property
    def scratch(self) -> dict[str, DimLike]:
        """Elements of the scratch memory by name, a part for each worker."""
        workers = symbol(THREADS)
        found: dict[str, DimLike] = {}
        if self.chunks > 1:
            found["sums"] = self.sums * workers
        if self.copies_left:
            found["left"] = self.pitch * self.chunk * workers
        if self.copies_right:
            found["right"] = self.right_size * workers
        return found

    @property
    def right_size(self) -> int:
        """Elements of the copied columns of a group and chunk."""
        return self.panels * self.chunk * self.tile.block

    @property
    def sums(self) -> int:
        """Elements of the sums of a block and group."""
        return self.rows * self.panels * self.tile.block


def even(count: int, most: int) -> int:
    """Return the size of equal parts of at most `most`."""
    return -(-count // -(-count // most))


def make_plan(c: Contraction, tile: Tile, packed: bool, machine: Machine) -> Blocking | None:
    """Choose blocks; None where the plain loops are as fast.

    c: with its reduced iterators merged; of rows that only a run counts there may be few. packed:
    its right side is in panels.
    """
    sides = (c.left, c.right)
    dtype = c.reduce.dtype
    if not dtype.is_float or any(side.load.dtype != dtype for side in sides):
        return None
    if len(c.reduced) != 1 or not c.rows or tile.th != 1:
        return None
    steps, columns, rows = c.reduced[0].extent, c.n.extent, c.rows[-1].extent
    if not isinstance(steps, int) or not isinstance(columns, int) or not isinstance(rows, int):
        return None
    if tile.tw * tile.vectors < chains(machine) or steps < 2 * tile.lanes:
        return None
    tiles = -(-rows // tile.tw)
    panels = -(-columns // tile.block)
    if tiles < 2 or rows * columns * steps < LEAST_WORK:
        return None
    along_rows = rows >= tile.lanes and stride_of(c.left.address, c.rows[-1]) == 1
    left, right = rows * steps * dtype.bytes, columns * steps * dtype.bytes
    half = machine.target.l2 // 2
    copies_right = not packed and tiles >= LEAST_TILES and _collide(c.right, c.reduced[0], half)
    copies_left = along_rows and panels >= LEAST_PANELS and _collide(c.left, c.reduced[0])
    needed = copies_left or copies_right
    if not needed and (left <= half or panels < 2) and right <= half:
        return None
    if copies_right:
        chunk, group = even(steps, COPIED_CHUNK), COPIED_GROUP
    else:
        chunk, group = steps if steps <= WHOLE else even(steps, CHUNK), GROUP
    most = max(half // (chunk * dtype.bytes * tile.tw), 1)
    height, width = _shared_out(tiles, panels, even(tiles, most), even(panels, group))
    if height < 2:
        # Blocks of one tile share nothing.
        return None
    return Blocking(tile, height, width, chunk, steps, copies_left, copies_right)


def _shared_out(tiles: int, panels: int, height: int, width: int) -> tuple[int, int]:
    """Blocks of height tiles by width panels, halved until they are enough tasks for threads."""
    while -(-tiles // height) * -(-panels // width) < LEAST_TASKS and height * width > 1:
        if width > 1:
            width = -(-width // 2)
        else:
            height = -(-height // 2)
    return height, width


def _collide(side: Factor, it: Iter, most: int | None = None) -> bool:
    """Whether neighbours along an iterator fall into one set of the first-level cache.

    Or, with `most`, whether all of them are spread over more bytes than that.
    """
    step = stride_of(side.address, it)
    if not isinstance(step, int) or not isinstance(it.extent, int):
        return False
    step *= side.load.dtype.bytes
    return step % PAGE == 0 or (most is not None and step * it.extent > most)


class BlockedSchedule(ContractionSchedule):
    """Emits a contraction in blocks. memory: the scratch buffers by name."""

    def __init__(
        self,
        emitter: Emitter,
        c: Contraction,
        plan: Blocking,
        memory: Mapping[str, Value],
        hints: Mapping[str, int],
        packed: bool,
        streamed: bool,
        target: Target,
    ) -> None:
        super().__init__(emitter, c, plan.tile, hints, packed, False, target)
        self.plan = plan
        self.memory = {name: emitter.buffers[value] for name, value in memory.items()}
        self.ahead = streamed
        (self.step,) = c.reduced
        self.lane_type = VectorType(c.reduce.dtype, plan.tile.lanes)
        self.row_tile = self.tiles[1]
        self.group = Iter("group.b", ceildiv(self.panel.extent, plan.panels))
        self.block = Iter("block.b", ceildiv(self.row_tile.extent, plan.tiles))
        self.part = Iter("chunk.b", plan.chunks)

    def emit(self) -> None:
        outer = [*self.c.batch, *self.c.rows[:-2], self.tiles[0], self.group, self.block]
        loops = [it for it in outer if it.extent != 1]
        units = {it.name: self.e.index(0) for it in outer if it.extent == 1}
        cycles = self._cycles() * self.plan.panels * self.plan.tiles
        with parallel_loops(self.e, loops, cycles, self.hints), self.e.scope(units):
            self._block()

    def _block(self) -> None:
        several = self.plan.chunks > 1
        if several:
            self._clear()
        with self.e.loop(self.part):
            if self.plan.copies_left:
                self._copy_left()
            if self.plan.copies_right:
                self._copy_right()
            with self._panels(), self._tiles():
                self._add_chunk() if several else self._finish_tile(self._chunk_sums())
        if several:
            with self._panels(), self._tiles():
                places = self._places()
                self._finish_tile([self._load("sums", at) for at in places])

    # -- loops ----------------------------------------------------------------------------------

    def _panels(self) -> Loop:
        return self._inside(self.panel, self.group, self.plan.panels)

    def _tiles(self) -> Loop:
        return self._inside(self.row_tile, self.block, self.plan.tiles)

    def _inside(self, it: Iter, outer: Iter, size: int) -> Loop:
        """A loop over the part of an iterator that the current iteration of `outer` has."""
        start = outer.dim * size
        whole = it.extent % size == 0
        return self.e.loop(it, start, start + size if whole else minimum(start + size, it.extent))

    @property
    def _first(self) -> DimLike:
        """The first step of the chunk."""
        return self.part.dim * self.plan.chunk

    @property
    def _last(self) -> DimLike:
        """The step behind the chunk."""
        plan = self.plan
        end = self._first + plan.chunk
        return end if plan.steps % plan.chunk == 0 else minimum(end, plan.steps)

    # -- memory ---------------------------------------------------------------------------------

    def _base(self, size: int) -> DimLike:
        """Where the current worker's part of a scratch buffer begins."""
        return worker_of(self.e) * size

    def _load(self, name: str, at: DimLike) -> Value:
        return self.b.vload(self.memory[name], [self.e.index(at)], self.tile.lanes)

    def _store(self, value: Value, name: str, at: DimLike) -> None:
        self.b.vstore(value, self.memory[name], [self.e.index(at)])

    def _places(self) -> list[DimLike]:
        """Where the sums of the current tile are."""
        plan, tile = self.plan, self.tile
        panel = self.panel.dim - self.group.dim * plan.panels
        number = panel * plan.tiles + self.row_tile.dim - self.block.dim * plan.tiles
        first = self._base(plan.sums) + number * (tile.tw * tile.block)
        return [first + i * tile.lanes for i in range(tile.tw * tile.vectors)]

    def _clear(self) -> None:
        plan, unit = self.plan, self.tile.tw * self.tile.block
        zero = self.b.const(0, self.lane_type)
        with self.e.loop(Iter("clear.b", plan.sums), step=unit):
            for i in range(0, unit, self.tile.lanes):
                self._store(zero, "sums", self._base(plan.sums) + symbol("clear.b") + i)

    # -- copies ---------------------------------------------------------------------------------

    @property
    def _block_row(self) -> DimLike:
        """The first row of the block, or an earlier one that its last tile or a vector reads."""
        first = self.block.dim * self.plan.rows
        extent, least = self.tiled[1].extent, max(self.tile.tw, self.tile.lanes)
        assert isinstance(extent, int)
        return minimum(first, max(extent - least, 0)) if extent % self.plan.rows else first

    @property
    def _left_base(self) -> DimLike:
        """Where the worker's copy of a block's rows begins."""
        return self._base(self.plan.pitch * self.plan.chunk)

    def _copy_left(self) -> None:
        """Copy what the chunk reads of the block's rows, step by step."""
        lanes, row = self.tile.lanes, self.tiled[1]
        end = minimum(self._block_row + self.plan.rows, row.extent)
        buffer = self.e.buffers[self.c.left.load.value]
        with self.e.loop(self.step, self._first, self._last):
            target = self._left_base + self._left_at - self._block_row
            with self.e.loop(Iter("row.b", 0), self._block_row, end, lanes):
                at = minimum(symbol("row.b"), row.extent - lanes)
                source = substitute(self.c.left.address, {row.name: at})
                value = self.b.vload(buffer, [self.e.index(source)], lanes)
                self._store(value, "left", target + at)

    def _copy_right(self) -> None:
        """Copy what the chunk reads of the group's columns, step by step."""
        ahead = {self.step.name: self.step.dim + STEPS_AHEAD}
        buffer = self.e.buffers[self.c.right.load.value]
        with self.e.loop(self.step, self._first, self._last), self._panels():
            for vector in range(self.tile.vectors):
                column = {self.c.n.name: self._column(vector)}
                later = substitute(self.c.right.address, ahead | column)
                self.b.prefetch(buffer, self.e.index(later))
                self._store(super()._right(vector), "right", self._right_at(vector))

    def _right_at(self, vector: int) -> DimLike:
        plan, block = self.plan, self.tile.block
        panel = self.panel.dim - self.group.dim * plan.panels
        step = panel * plan.chunk + self.step.dim - self._first
        return self._base(plan.right_size) + step * block + vector * self.tile.lanes

    # -- sums -----------------------------------------------------------------------------------

    @property
    def _firsts(self) -> list[DimLike]:
        return [self.tiles[0].dim, self.row_tile.dim * self.tile.tw]

    def _finish_tile(self, totals: list[Value]) -> None:
        self._finish(self.tile, self._firsts, totals)

    def _add_chunk(self) -> None:
        places = self._places()
        before = [self._load("sums", at) for at in places]
        for value, at in zip(self._chunk_sums(before), places, strict=True):
            self._store(value, "sums", at)

    def _chunk_sums(self, before: list[Value] | None = None) -> list[Value]:
        """The sums of the current tile with the chunk's steps added."""
        lefts = [self._source(row) for row in self._rows(self.tile, self._firsts)]
        if before is None:
            zero = self.b.const(0, self.lane_type)
            before = [zero] * (len(lefts) * self.tile.vectors)
        with self.e.loop(self.step, self._first, self._last, 1, before) as (totals, following):
            self._prefetch()
            rights = [self._right(v) for v in range(self.tile.vectors)]
            at = self.e.index(self._left_at)
            column = [self.b.load(left, at) for left in lefts]
            following.extend(multiply_add(self.b, column, rights, list(totals)))
        return totals

    @property
    def _left_at(self) -> DimLike:
        """Where a step of a row is, from the row's beginning."""
        if self.plan.copies_left:
            return (self.step.dim - self._first) * self.plan.pitch
        address = self.c.left.address
        return address - substitute(address, {self.step.name: 0})

    def _source(self, row: Mapping[str, Value]) -> Value:
        """A view of a row of the left side."""
        if not self.plan.copies_left:
            return self._left(row)
        buffer = self.memory["left"]
        inside = self.b.sub(row[self.tiled[1].name], self.e.index(self._block_row))
        at = self.b.add(self.e.index(self._left_base), inside)
        return self.b.view(buffer, at, buffer.type)  # type: ignore[arg-type]

    def _right(self, vector: int) -> Value:
        if self.plan.copies_right:
            return self._load("right", self._right_at(vector))
        return super()._right(vector)

    def _prefetch(self) -> None:
        """Ask for a share of the next panel, which the tiles of a block bring in together."""
        if not self.ahead or not self.packed:
            return
        inside = self.row_tile.dim - self.block.dim * self.plan.tiles
        plan, block = self.plan, self.tile.block
        share = -(-block // plan.tiles)
        start = substitute(
            self.c.right.address,
            {
                column_of(self.c.n, block).name: 0,
                self.panel.name: self.panel.dim + 1,
                self.step.name: self._first,
            },
        )
        at = start + (inside * plan.chunk + self.step.dim - self._first) * share
        buffer = self.e.buffers[self.c.right.load.value]
        for first in range(0, share, LINE // self.c.right.load.dtype.bytes):
            self.b.prefetch(buffer, self.e.index(at + first))
