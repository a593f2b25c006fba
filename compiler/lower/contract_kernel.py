"""The kernel of a contraction: its tile of accumulators, and the loops around it.

What is computed, the tile and the packing are `contract`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from tfc.compiler.cost.choice import Candidate
from tfc.compiler.cost.expression import estimate, work
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.lower import narrow
from tfc.compiler.lower.contract import (
    Contraction,
    Tile,
    column_of,
    open_axis,
    panel_of,
    parts_of,
)
from tfc.compiler.lower.emitter import Emitter, Lane
from tfc.compiler.lower.epilogue import Narrowing, batches, narrowing, part
from tfc.compiler.lower.margins import Taps
from tfc.compiler.lower.nest import parallel_loops
from tfc.compiler.target import Target
from tfc.ir.body import Apply, Expr, Iter, Load, children, walk
from tfc.ir.core import Value
from tfc.ir.dims import (
    Dim,
    DimLike,
    ceildiv,
    floordiv,
    minimum,
    mod,
    product,
    substitute,
    symbol,
    symbols_of,
)
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.types import VectorType, buffer

PREFETCH_STEPS = 64
# Operations of an epilogue, over all accumulators, from which on a loop goes over their rows: as
# straight-line code they would take longer to compile than all else, and to fetch.
_LONG_EPILOGUE = 256


def multiply_add(
    b: LoopBuilder, column: Sequence[Value], row: Sequence[Value], totals: Sequence[Value]
) -> list[Value]:
    """Add the outer product of scalars and vectors to the accumulators, which are row-major."""
    following: list[Value] = []
    for i, scalar in enumerate(column):
        for j, vector in enumerate(row):
            assert isinstance(vector.type, VectorType)
            wide, total = b.splat(scalar, vector.type.lanes), totals[i * len(row) + j]
            if vector.type.dtype.is_float:
                following.append(b.fma(wide, vector, total))
            else:
                following.append(b.add(b.mul(wide, vector), total))
    return following


def _starting(c: Contraction) -> tuple[Apply, Load] | None:
    """The addition of a number of each column to a sum of integers, which may begin with it."""
    (output,) = c.nest.outputs
    above = [node for node in walk(output.expr) if any(x is c.reduce for x in children(node))]
    if len(above) != 1 or not c.reduce.dtype.is_int:
        return None
    (node,) = above
    if not isinstance(node, Apply) or node.name != "add":
        return None
    others = [x for x in node.args if x is not c.reduce]
    if len(others) != 1:
        return None
    (other,) = others
    if not isinstance(other, Load) or len(other.index) != 1 or other.dtype != c.reduce.dtype:
        return None
    (address,) = other.index
    names = {it.name for it in (*c.nest.iters, *c.reduced)}
    if not isinstance(address, (int, Dim)) or symbols_of(address) & names != {c.n.name}:
        return None
    return node, other


def _first_of(name: str) -> str:
    """The symbol that stands for a tile's first step of a reduced iterator."""
    return f"{name}.first"


def _end_of(name: str) -> str:
    """The symbol that stands for the step behind a tile's last."""
    return f"{name}.end"


class ContractionSchedule:
    """Emits the register-blocked kernel of a contraction.

    packed: the right side is in panels; otherwise it is read where it lies, contiguous in n.
    dots: where the innermost iterator counts groups of steps, each of them one `dot`.
    taps: reduced iterators of which tiles leave out the steps that read zeros alone.
    """

    def __init__(
        self,
        emitter: Emitter,
        c: Contraction,
        tile: Tile,
        hints: Mapping[str, int],
        packed: bool,
        streamed: bool,
        target: Target,
        dots: narrow.Dots | None = None,
        taps: Sequence[Taps] = (),
    ) -> None:
        self.e = emitter
        self.b = emitter.b
        self.c = c
        self.tile = tile
        self.hints = hints
        self.packed = packed
        self.streamed = streamed
        self.target = target
        self.dots = dots
        # Of the innermost reduced iterator, for each of its turns.
        self.steps_at_once = 1
        self.taps = {tap.it.name: tap for tap in taps}
        self.panel = panel_of(c.n, tile.block)
        padding = [Iter(f"unit{i}", 1) for i in range(2)]
        tiled = [*padding, *c.rows][-2:]
        self.tiled = tuple(tiled)
        alone = any(self._is_alone(v) for v in range(tile.vectors))
        self.start = None if alone else _starting(c)
        self.tiles = (
            Iter(f"{tiled[0].name}t", ceildiv(tiled[0].extent, tile.th)),
            Iter(f"{tiled[1].name}t", ceildiv(tiled[1].extent, tile.tw)),
        )
        self.open = open_axis(c, tile)
        self.parts = () if self.open is None else parts_of(c, tile, self.open, target)

    def emit(self) -> None:
        rows, panel = [*self.c.rows[:-2], *self.tiles], [self.panel]
        orders = [
            Candidate("panels", 0.0, [*panel, *rows]),
            Candidate("rows", 0.0, [*rows, *panel]),
        ]
        loops = [*self.c.batch, *self.e.chooser.choose("order", orders)]
        with parallel_loops(self.e, [it for it in loops if it.extent != 1], self._cycles(),
                            self.hints), self.e.scope({}):  # fmt: skip
            units = {it.name: self.e.index(0) for it in loops if it.extent == 1}
            with self.e.scope(units):
                self._tile_or_parts()

    def emit_rows(self) -> None:
        """Compute all rows of the current panel, one tile after the other."""
        with ExitStack() as opened:
            for it in (*self.c.rows[:-2], *self.tiles):
                if it.extent == 1:
                    opened.enter_context(self.e.scope({it.name: self.e.index(0)}))
                else:
                    opened.enter_context(self.e.loop(it))
            self._tile_or_parts()

    def _cycles(self) -> float:
        """Cycles of one tile at two multiply-adds a cycle, or of reading what is not near."""
        turns = estimate(product(it.extent for it in self.c.reduced), self.hints)
        rows = self.tile.th * self.tile.tw
        if self.open is not None:
            likely = estimate(product(it.extent for it in self.tiled), self.hints)
            rows = min(rows, max(likely, 1))
        each = max(rows * self.tile.vectors / 2, self.tile.vectors) * self.steps_at_once
        cycles = turns * each + 4 * rows
        if not self.streamed:
            return cycles
        size = turns * self.tile.block * self.c.right.load.dtype.bytes
        return max(cycles, size / machine_of(self.target).rates.last)

    def _tile_or_parts(self) -> None:
        """A tile; where the run has fewer rows, tiles of as many as there are.

        Where few are missing and there are rows before, the tile begins earlier.
        """
        firsts = [
            tiles.dim * size
            for tiles, size in zip(self.tiles, (self.tile.th, self.tile.tw), strict=True)
        ]
        if self.open is None or not self.parts:
            self._tile(self.tile, firsts)
            return
        axis = self.open
        extent, size = self.tiled[axis].extent, self._size(axis)
        left = self.e.index(extent - firsts[axis])
        full, starts = self.b.ge(left, self.e.index(size)), list(firsts)
        # Of memory that is read and written no row is computed twice.
        if not self.e.aliased:
            part = (self.parts[0].th, self.parts[0].tw)[axis]
            nearly = self.b.gt(left, self.e.index(max(size - part, part)))
            full = self.b.and_(nearly, self.b.ge(self.e.index(extent), self.e.index(size)))
            starts[axis] = minimum(firsts[axis], extent - size)
        self._either(
            full,
            lambda: self._tile(self.tile, starts),
            lambda: self._parts(firsts, axis, minimum(extent - firsts[axis], size)),
        )

    def _parts(self, firsts: Sequence[DimLike], axis: int, left: DimLike) -> None:
        """Tiles of the first of the parts for the `left` rows; a last single row has its own."""
        part, *single = self.parts
        size = (part.th, part.tw)[axis]
        turns = floordiv(left + size - 2, size) if single else ceildiv(left, size)
        turn = Iter(f"{self.tiled[axis].name}u", turns)

        def begins(at: DimLike) -> list[DimLike]:
            return [first + at * (n == axis) for n, first in enumerate(firsts)]

        with self.e.loop(turn):
            self._tile(part, begins(turn.dim * size))
        if single:
            self._either(
                self.b.gt(self.e.index(left), self.e.index(turns * size)),
                lambda: self._tile(single[0], begins(turns * size)),
                lambda: None,
            )

    def _size(self, axis: int) -> int:
        return (self.tile.th, self.tile.tw)[axis]

    def _either(
        self, condition: Value, then: Callable[[], None], otherwise: Callable[[], None]
    ) -> None:
        def side(emit: Callable[[], None]) -> Sequence[Value]:
            with self.e.scope({}, conditional=True):
                emit()
            return ()

        self.b.either(condition, lambda: side(then), lambda: side(otherwise))

    def _tile(self, tile: Tile, firsts: Sequence[DimLike]) -> None:
        """Compute the tile whose rows start at `firsts` along the two axes."""
        rows = self._rows(tile, firsts)
        lefts = [self._left(row) for row in rows]
        like = VectorType(self.c.reduce.dtype, self.tile.lanes)
        zero = self.b.const(0, like)
        size = len(rows) * self.tile.vectors
        sets = self._sets(tile)
        first = self._starting_values() * len(rows) if self.start is not None else [zero] * size
        with self.e.scope(self._ends(rows)):
            carried = [*first, *[zero] * (size * (sets - 1))]
            totals = self._sum(list(self.c.reduced), lefts, carried)
        for extra in range(size, len(totals), size):
            for i in range(size):
                totals[i] = self.b.add(totals[i], totals[extra + i])
        self._finish(tile, firsts, totals[:size])

    def _ends(self, rows: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
        """Which steps the tile of `rows` makes of iterators that may leave out some."""
        ends: dict[str, Value] = {}
        with self.e.scope(rows[-1]):
            for name, tap in self.taps.items():
                ends[_first_of(name)] = self.e.index(tap.start)
        with self.e.scope(rows[0]):
            for name, tap in self.taps.items():
                ends[_end_of(name)] = self.e.index(tap.stop)
        return ends

    def _range(self, it: Iter, steps: DimLike) -> tuple[DimLike, DimLike]:
        """The steps of a reduced iterator that the tile makes, of so many."""
        if it.name in self.taps:
            return symbol(_first_of(it.name)), symbol(_end_of(it.name))
        return 0, steps

    def _starting_values(self) -> list[Value]:
        """For each vector of columns, what their sums start with."""
        assert self.start is not None
        found = []
        for v in range(self.tile.vectors):
            lane = Lane(self.c.n.name, self.tile.lanes, self._mask(v))
            columns = self.e.scope({self.c.n.name: self.e.index(self._column(v))})
            with columns, self.e.vectorised(lane):
                found.append(self.e.eval_wide(self.start[1]))
        return found

    def _sets(self, tile: Tile) -> int:
        """How many sets of accumulators take turns over the innermost reduced iterator."""
        sets, extent = tile.sets, self._full_steps()
        return sets if not isinstance(extent, int) or extent >= 2 * sets else 1

    def _full_steps(self) -> DimLike:
        """Iterations of the innermost iterator that are not a group left unfilled."""
        if self.dots is not None:
            return self.dots.steps // self.dots.group
        return self.c.reduced[-1].extent

    def _start(self, axis: int, size: int, start: DimLike, number: DimLike) -> DimLike:
        """The iterator of a row of a tile along one axis. The last tile overlaps its neighbour."""
        it = self.tiled[axis]
        whole = axis == self.open and bool(self.parts) and size == self._size(axis)
        # Parts of a tile start where tiles do, so their starts need not be multiples of theirs.
        divides = it.extent % size == 0 and self._size(axis) % size == 0
        if divides or whole or size == 1:
            return start + number
        if isinstance(it.extent, int) and it.extent >= size:
            return minimum(start, it.extent - size) + number
        return minimum(start + number, it.extent - 1)

    def _rows(self, tile: Tile, firsts: Sequence[DimLike]) -> list[dict[str, Value]]:
        """For each row of the tile, the values of the two tiled iterators."""
        high, low = self.tiled
        return [
            {high.name: y, low.name: x}
            for y in self._starts(0, tile.th, firsts[0])
            for x in self._starts(1, tile.tw, firsts[1])
        ]

    def _starts(self, axis: int, size: int, start: DimLike) -> list[Value]:
        return [self.e.index(self._start(axis, size, start, i)) for i in range(size)]

    def _left(self, row: Mapping[str, Value]) -> Value:
        """A view of the left buffer that starts at the row's first element."""
        origin = substitute(self.c.left.address, {it.name: 0 for it in self.c.reduced})
        buf = self.e.buffers[self.c.left.load.value]
        with self.e.scope(row):
            return self.b.view(buf, self.e.index(origin), buf.type)  # type: ignore[arg-type]

    def _sum(self, iters: list[Iter], lefts: list[Value], carried: list[Value]) -> list[Value]:
        if len(iters) == 1:
            return self._innermost(iters[0], lefts, carried)
        ends = self._range(iters[0], iters[0].extent)
        with self.e.loop(iters[0], *ends, carried=carried) as (values, following):
            following.extend(self._sum(iters[1:], lefts, list(values)))
        return values

    def _innermost(self, it: Iter, lefts: list[Value], carried: list[Value]) -> list[Value]:
        """Steps of the innermost iterator, in turns where there are several sets."""
        size = len(lefts) * self.tile.vectors
        sets = len(carried) // size
        start, steps = self._range(it, self._full_steps())
        full = start + floordiv(steps - start, sets) * sets
        with self.e.loop(it, start, full, sets, carried) as (values, following):
            base = self.e.index(it.dim)
            for turn in range(sets):
                at = self.b.add(base, self.e.index(turn)) if turn else base
                with self.e.scope({it.name: at}):
                    own = values[turn * size : (turn + 1) * size]
                    following.extend(self._step(lefts, own))
        if full != steps:
            with self.e.loop(it, full, steps, 1, values[:size]) as (rest, following):
                following.extend(self._step(lefts, rest))
            values = [*rest, *values[size:]]
        if self.dots is not None and self.dots.steps % self.dots.group:
            with self.e.scope({it.name: self.e.index(steps)}):
                rest = self._dot(lefts, values[:size], self.dots.steps % self.dots.group)
            values = [*rest, *values[size:]]
        return values

    def _dot(self, lefts: list[Value], carried: list[Value], count: int) -> list[Value]:
        """One `dot` of every accumulator with groups of which the first `count` steps are there."""
        assert self.dots is not None
        rights = [self._right(v) for v in range(self.tile.vectors)]
        offset = self._left_offset()
        following: list[Value] = []
        for i, left in enumerate(lefts):
            found = narrow.left_group(self.e, self.dots, self.c, left, offset, count)
            wide = self.b.shuffle(found, found, tuple(range(self.dots.group)) * self.tile.lanes)
            for j, right in enumerate(rights):
                following.append(self.b.dot(wide, right, carried[i * len(rights) + j]))
        return following

    def _left_offset(self, further: DimLike = 0) -> Value:
        """Where a step of a row is, from the row's beginning, or an element so much further on."""
        origin = substitute(self.c.left.address, {it.name: 0 for it in self.c.reduced})
        return self.e.index(self.c.left.address - origin + further)

    def _step(self, lefts: list[Value], carried: list[Value]) -> list[Value]:
        """One multiply-add of every accumulator."""
        if self.dots is not None:
            return self._dot(lefts, carried, self.dots.group)
        rights = [self._right(v) for v in range(self.tile.vectors)]
        offset = self._left_offset()
        column = [self.b.cast(self.b.load(left, offset), self.c.left.dtype) for left in lefts]
        return multiply_add(self.b, column, rights, carried)

    def _right(self, vector: int) -> Value:
        buf = self.e.buffers[self.c.right.load.value]
        first = vector * self.tile.lanes
        if self.packed:
            column = column_of(self.c.n, self.tile.block)
            address = substitute(self.c.right.address, {column.name: first})
            group = self.dots.group if self.dots is not None else 1
            if self.streamed:
                ahead = address + PREFETCH_STEPS * self.tile.block * group
                self.b.prefetch(buf, self.e.index(ahead))
            value = self.b.vload(buf, [self.e.index(address)], self.tile.lanes * group)
            if self.dots is not None:
                return value
        else:
            address = substitute(self.c.right.address, {self.c.n.name: self._column(vector)})
            mask = self._mask(vector)
            value = self.b.vload(buf, [self.e.index(address)], self.tile.lanes, mask=mask)
        return self.b.cast(value, self.c.right.dtype)

    def _column(self, vector: int) -> DimLike:
        return self.panel.dim * self.tile.block + vector * self.tile.lanes

    def _mask(self, vector: int) -> Value | None:
        """The mask of a vector's columns that exist, None where all do in every panel."""
        if self.c.n.extent % self.tile.block == 0:
            return None
        start = self.e.index(self._column(vector))
        end = self.e.index(self.c.n.extent)
        return self.e.cached_mask(self._column(vector), start, end, self.tile.lanes)

    def _is_alone(self, vector: int) -> bool:
        """Whether the vector has one column, stored without a mask, as in `nest.masks_tail`."""
        return self.panel.extent == 1 and self.c.n.extent - vector * self.tile.lanes == 1

    def _finish(self, tile: Tile, firsts: Sequence[DimLike], totals: list[Value]) -> None:
        """Evaluate the epilogue on the accumulators and store."""
        (output,) = self.c.nest.outputs
        rows = self._rows(tile, firsts)
        split = narrowing(output.expr)
        most = self.target.narrowed_at_once // self.tile.lanes
        alone = any(self._is_alone(v) for v in range(self.tile.vectors))
        if split is not None and most > 1 and not alone:
            self._narrow(rows, self._evaluated(rows, totals, split.base), split, most)
            return
        if len(rows) > 1 and len(totals) * self._epilogue_work() >= _LONG_EPILOGUE:
            self._finish_in_turn(tile, firsts, totals)
            return
        for v in range(self.tile.vectors):
            with self._columns(v):
                for row, values in enumerate(rows):
                    self._store_element(values, totals[row * self.tile.vectors + v])

    def _epilogue_work(self) -> float:
        (output,) = self.c.nest.outputs
        return work(output.expr, self.hints, self.start[0] if self.start else self.c.reduce)

    def _finish_in_turn(
        self, tile: Tile, firsts: Sequence[DimLike], totals: Sequence[Value]
    ) -> None:
        """Do so in a loop over the rows, to which the accumulators go by way of memory."""
        lanes, vectors = self.tile.lanes, self.tile.vectors
        kept = self.b.alloca(buffer(self.c.reduce.dtype, len(totals) * lanes))
        for i, total in enumerate(totals):
            self.b.vstore(total, kept, [self.e.index(i * lanes)])
        it = Iter("row.e", tile.th * tile.tw)
        with self.e.loop(it):
            flat = tile.th == 1
            numbers = (0, it.dim) if flat else (floordiv(it.dim, tile.tw), mod(it.dim, tile.tw))
            row = {
                axis.name: self.e.index(self._start(i, size, firsts[i], numbers[i]))
                for i, (axis, size) in enumerate(zip(self.tiled, (tile.th, tile.tw), strict=True))
            }
            for v in range(vectors):
                at = self.e.index((it.dim * vectors + v) * lanes)
                with self._columns(v):
                    self._store_element(row, self.b.vload(kept, [at], lanes))

    def _store_element(self, row: Mapping[str, Value], total: Value) -> None:
        (output,) = self.c.nest.outputs
        element = self._element(row, total, output.expr)
        with self.e.scope(row):
            self.e.store(output.value, (output.address,), element)

    @contextmanager
    def _columns(self, vector: int, count: int = 1) -> Iterator[None]:
        """Evaluate for the columns of a vector, or of some neighbouring ones that are full."""
        n, lanes = self.c.n.name, self.tile.lanes
        lane = None
        if not self._is_alone(vector):
            lane = Lane(n, lanes * count, self._mask(vector) if count == 1 else None)
        with self.e.scope({n: self.e.index(self._column(vector))}), self.e.vectorised(lane):
            yield

    def _element(self, row: Mapping[str, Value], total: Value, expr: Expr) -> Value:
        """Evaluate a part of the epilogue on an accumulator, in a row."""
        whole = self.start[0] if self.start is not None else self.c.reduce
        with self.e.scope(row):
            self.e.remember(whole, total if self.e.lane else self.b.extract(total, 0))
            return self.e.eval_wide(expr)

    def _evaluated(
        self, rows: Sequence[Mapping[str, Value]], totals: Sequence[Value], expr: Expr
    ) -> list[Value]:
        found = list(totals)
        for v in range(self.tile.vectors):
            with self._columns(v):
                for row, values in enumerate(rows):
                    at = row * self.tile.vectors + v
                    found[at] = self._element(values, totals[at], expr)
        return found

    def _narrow(
        self,
        rows: Sequence[Mapping[str, Value]],
        bases: Sequence[Value],
        split: Narrowing,
        most: int,
    ) -> None:
        """Make bytes of several vectors at once, and store them."""
        (output,) = self.c.nest.outputs
        vectors, lanes = self.tile.vectors, self.tile.lanes
        full = self.c.n.extent % self.tile.block == 0
        for batch in batches(len(bases), most):
            whole = split.of(self.b, [bases[at] for at in batch])
            at = batch.start
            while at < batch.stop:
                row, v = divmod(at, vectors)
                count = min(batch.stop - at, vectors - v) if full else 1
                element = part(self.b, whole, (at - batch.start) * lanes, count * lanes)
                with self._columns(v, count), self.e.scope(rows[row]):
                    self.e.store(output.value, (output.address,), element)
                at += count
