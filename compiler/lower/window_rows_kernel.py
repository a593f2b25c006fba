"""The kernel of windows of rows: what `window_rows.RowPlan` says, emitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tfc.compiler.lower.emitter import Emitter, Lane
from tfc.compiler.lower.nest import WORKER, parallel_loops
from tfc.compiler.lower.window_rows import CELL, TOTAL, RowPlan
from tfc.ir.body import COMBINE, Iter, Reduce, substitute_dims
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, floordiv, minimum, mod, symbol
from tfc.ir.types import I64, VectorType

# So many vectors of a row are copied without a loop.
MOST_UNROLLED = 4
# The first row of outputs of a band, and of a part of a tile in its band.
BAND, FIRST = symbol("band.first"), "tile.first"


class RowSchedule:
    """Emits a plan. scratch: memory of `plan.size` elements for each worker."""

    def __init__(
        self, emitter: Emitter, plan: RowPlan, scratch: Value, hints: Mapping[str, int]
    ) -> None:
        self.e = emitter
        self.b = emitter.b
        self.plan = plan
        self.w = plan.window
        self.scratch = emitter.buffers[scratch]
        self.source = emitter.buffers[self.w.load.value]
        self.hints = hints

    def emit(self) -> None:
        w, plan = self.w, self.plan
        loops = [*w.outer, plan.bands]
        units = {it.name: self.e.index(0) for it in loops if it.extent == 1}
        rest = [it for it in loops if it.extent != 1]
        with parallel_loops(self.e, rest, plan.cycles, self.hints), self.e.scope(units):
            first = minimum(plan.bands.dim * plan.band, w.rows.outputs - plan.band)
            with self.e.scope({str(BAND): self.e.index(first)}):
                self._copy()
                with self._loops(w.shared):
                    self._tiles()

    @contextmanager
    def _loops(self, iters: Sequence[Iter]) -> Iterator[None]:
        if not iters:
            yield
            return
        with self.e.loop(iters[0]), self._loops(iters[1:]):
            yield

    @property
    def _base(self) -> DimLike:
        """Where the current worker's copy begins."""
        known = any(WORKER in scope.iters for scope in self.e.scopes)
        return (symbol(WORKER) if known else 0) * self.plan.size

    # -- the copy -------------------------------------------------------------------------------

    def _copy(self) -> None:
        """Copy the rows that the band reads, and fill in those that are padding."""
        b, rows, count = self.b, self.w.rows, self.plan.copied
        parts = self._parts()
        row = Iter("row.w", count)
        if not rows.is_padded:
            with self.e.loop(row):
                self._copy_row(row.dim, parts)
            return
        lo, hi = (
            b.max(b.index(0), b.min(b.index(count), self.e.index(end - BAND * rows.stride)))
            for end in (rows.start, rows.start + rows.size)
        )
        for start, stop, inside in ((b.index(0), lo, False), (lo, hi, True),
                                    (hi, b.index(count), False)):  # fmt: skip
            with (
                b.for_(start, stop, name="row") as loop,
                self.e.scope({row.name: loop.index}, conditional=True),
            ):
                if inside:
                    self._copy_row(row.dim, parts)
                else:
                    self._fill_row(row.dim)

    def _parts(self) -> list[list[tuple[Value | None, bool]]]:
        """For each group of vectors that is copied at once, the masks of what is no padding.

        A vector without a mask is all there, or not at all.
        """
        plan, columns = self.plan, self.w.columns
        end = min(columns.start + columns.size, columns.positions(columns.outputs))
        groups = []
        for first in range(0, plan.phase * columns.stride, plan.lanes * columns.stride):
            group: list[tuple[Value | None, bool]] = []
            for at in range(first, first + plan.lanes * columns.stride, plan.lanes):
                lo, hi = columns.start - at, end - at
                if lo <= 0 and hi >= plan.lanes:
                    group.append((None, True))
                elif lo >= plan.lanes or hi <= 0:
                    group.append((None, False))
                else:
                    group.append((self._mask(lo, hi), True))
            groups.append(group)
        return groups

    def _mask(self, lo: int, hi: int) -> Value:
        """The lanes from lo to hi."""
        b, lanes = self.b, self.plan.lanes
        like = VectorType(I64, lanes)
        mask = b.lt(b.iota(lanes), b.const(hi, like))
        return b.and_(b.ge(b.iota(lanes), b.const(lo, like)), mask) if lo > 0 else mask

    def _copy_row(self, row: Dim, parts: list[list[tuple[Value | None, bool]]]) -> None:
        whole = [all(mask is None and there for mask, there in part) for part in parts]
        first = whole.index(True) if any(whole) else len(parts)
        last = len(parts) - whole[::-1].index(True) if any(whole) else len(parts)
        if last - first <= MOST_UNROLLED:
            first = last = len(parts)
        for i in (*range(first), *range(last, len(parts))):
            self._copy_group(row, i, parts[i])
        if first < last:
            with self.e.loop(Iter("group.w", last), first, last):
                self._copy_group(row, symbol("group.w"), parts[first])

    def _copy_group(
        self, row: Dim, group: DimLike, part: Sequence[tuple[Value | None, bool]]
    ) -> None:
        """Copy neighbouring vectors, so that columns a stride apart come together."""
        plan, columns, lanes = self.plan, self.w.columns, self.plan.lanes
        source = self.w.origin + (BAND * self.w.rows.stride + row) * self.w.rows.step
        source = source + group * (lanes * columns.stride)
        vectors = []
        for i, (mask, there) in enumerate(part):
            vector = fill = self._filling()
            if there:
                at = self.e.index(source + i * lanes)
                vector = self.b.vload(self.source, [at], lanes, mask=mask)
                if mask is not None and self.w.padding != 0:
                    vector = self.b.select(mask, vector, fill)
            vectors.append(vector)
        to = self._base + row * plan.pitch + group * lanes
        for phase in range(columns.stride):
            picked = self._picked(vectors, phase)
            self.b.vstore(picked, self.scratch, [self.e.index(to + phase * plan.phase)])

    def _picked(self, vectors: Sequence[Value], phase: int) -> Value:
        """Every so manieth lane of neighbouring vectors, as many as they are, from `phase` on."""
        lanes = self.plan.lanes
        wanted = [phase + lane * len(vectors) for lane in range(lanes)]
        found = vectors[0]
        for i, vector in enumerate(vectors[1:], 1):
            before = range(lanes) if i > 1 else [min(at, lanes - 1) for at in wanted]
            picks = [
                old if at < i * lanes else min(at - i * lanes, lanes - 1) + lanes
                for old, at in zip(before, wanted, strict=True)
            ]
            found = self.b.shuffle(found, vector, picks)
        return found

    def _filling(self) -> Value:
        return self.b.const(self.w.padding, VectorType(self.w.load.dtype, self.plan.lanes))

    def _fill_row(self, row: Dim) -> None:
        to = self._base + row * self.plan.pitch
        fill = self._filling()
        for at in range(0, self.plan.phase * self.w.columns.stride, self.plan.lanes):
            self.b.vstore(fill, self.scratch, [self.e.index(to + at)])

    # -- the windows ----------------------------------------------------------------------------

    def _tiles(self) -> None:
        plan, columns = self.plan, self.w.columns
        wide, high = plan.vectors * plan.width, plan.high * plan.parts
        down = Iter("down.w", -(-plan.band // high))
        across = Iter("across.w", -(-columns.outputs // wide))
        with self._loops([it for it in (down, across) if it.extent != 1]):
            units = {it.name: self.e.index(0) for it in (down, across) if it.extent == 1}
            with self.e.scope(units):
                rows = {}
                for part, name in enumerate(self._firsts):
                    first = down.dim * high + part * plan.high
                    rows[str(name)] = self.e.index(minimum(first, plan.band - plan.high))
                with self.e.scope(rows):
                    self._tile([across.dim * wide + v * plan.width for v in range(plan.vectors)])

    @property
    def _firsts(self) -> list[Dim]:
        """The first row of each part of a tile."""
        return [symbol(f"{FIRST}{part}") for part in range(self.plan.parts)]

    def _tile(self, starts: Sequence[DimLike]) -> None:
        """All outputs of a tile, whose vectors begin at the columns `starts`.

        The last vector overlaps its neighbour, or it is masked where there is only one.
        """
        plan, outputs = self.plan, self.w.columns.outputs
        last = max(outputs - plan.width, 0)
        firsts = [self.e.index(minimum(start, last)) for start in starts]
        assert self.w.columns.it is not None
        name = self.w.columns.it.name
        with self.e.vectorised(Lane(name, plan.width * plan.parts)):
            start = self.e.initial(self.w.reduce)
            totals = self._fold(firsts, start * (plan.high * len(firsts)))
        mask = None
        if outputs < plan.width:
            mask = self.b.tail_mask(self.b.index(0), self.b.index(outputs), plan.width)
        with self.e.vectorised(Lane(name, plan.width, mask)):
            for part, row in enumerate(self._firsts):
                for i in range(plan.high):
                    for v, first in enumerate(firsts):
                        total = totals[i * len(firsts) + v]
                        if plan.parts > 1:
                            lanes = range(part * plan.width, (part + 1) * plan.width)
                            total = self.b.shuffle(total, total, lanes)
                        self._finish(row + i, first, total)

    def _fold(self, firsts: Sequence[Value], totals: list[Value]) -> list[Value]:
        """Fold all taps into the totals of a tile, column by column."""
        columns = self.w.columns
        if columns.tap is None:
            return self._column(0, firsts, totals)
        if self.plan.is_loop:
            return self._fold_in_order(firsts, totals)
        sets = self.plan.turns
        first = self.e.initial(self.w.reduce) * len(totals)
        turns = [totals, *(list(first) for _ in range(sets - 1))]
        for tap in range(columns.taps):
            turns[tap % sets] = self._column(tap, firsts, turns[tap % sets])
        combine = COMBINE[self.w.reduce.kind]
        for others in turns[1:]:
            pairs = zip(turns[0], others, strict=True)
            turns[0] = [self.b.apply(combine, total, other) for total, other in pairs]
        return turns[0]

    def _fold_in_order(self, firsts: Sequence[Value], totals: Sequence[Value]) -> list[Value]:
        """A loop over columns of taps, of which so many are a step that each has its phase."""
        step = self.w.columns.stride
        count, rest = divmod(self.w.columns.taps, step)
        group = Iter("taps.w", count)
        with self.e.loop(group, carried=totals) as (values, following):
            found = list(values)
            for phase in range(step):
                found = self._column(group.dim * step + phase, firsts, found)
            following.extend(found)
        for behind in range(rest):
            values = self._column(count * step + behind, firsts, values)
        return values

    def _column(
        self, tap: DimLike, firsts: Sequence[Value], totals: Sequence[Value]
    ) -> list[Value]:
        """Fold one column of taps."""
        rows, columns, plan = self.w.rows, self.w.columns, self.plan
        wide, totals = len(firsts), list(totals)
        steps = [self._step(row_tap, tap) for row_tap in range(rows.taps)]
        reach = tap * columns.dilation
        distance = floordiv(reach, columns.stride) + mod(reach, columns.stride) * plan.phase
        reached = {
            (i * rows.stride + k * rows.dilation): None
            for i in range(plan.high)
            for k in range(rows.taps)
        }
        for row in sorted(reached):
            for v, first in enumerate(firsts):
                cell = self._cells(row, distance, first)
                with self.e.scope({CELL: cell}):
                    self.e.remember(self.w.cell, cell)
                    for k, step in enumerate(steps):
                        i, missing = divmod(row - k * rows.dilation, rows.stride)
                        if missing == 0 and 0 <= i < plan.high:
                            own = i * wide + v
                            (totals[own],) = self.e.combine_copies(step, [{}], [totals[own]])
        return totals

    def _cells(self, row: int, distance: DimLike, first: Value) -> Value:
        """What a tap reads for a vector of outputs: `row` behind their first rows."""
        plan = self.plan
        found = []
        for start in self._firsts:
            at = self._base + (start * self.w.rows.stride + row) * plan.pitch + distance
            place = self.b.add(self.e.index(at), first)
            found.append(self.b.vload(self.scratch, [place], plan.width))
        while len(found) > 1:
            pairs = zip(found[::2], found[1::2], strict=True)
            found = [self.b.shuffle(x, y, range(2 * x.type.lanes)) for x, y in pairs]  # type: ignore[union-attr]
        return found[0]

    def _step(self, row_tap: int, tap: DimLike) -> Reduce:
        """The fold of one element into a total."""
        w = self.w
        at: dict[str, DimLike] = {}
        if w.rows.tap is not None:
            at[w.rows.tap.name] = row_tap
        if w.columns.tap is not None:
            at[w.columns.tap.name] = tap
        body = substitute_dims(w.body, at, {})
        return Reduce(w.reduce.kind, (), body, w.reduce.dtype, w.reduce.last)

    def _finish(self, row: DimLike, first: Value, total: Value) -> None:
        """Evaluate the epilogue on a vector of totals, and store it."""
        (output,) = self.w.nest.outputs
        assert self.w.columns.it is not None
        names = {self.w.columns.it.name: first, TOTAL: total}
        if self.w.rows.it is not None:
            names[self.w.rows.it.name] = self.e.index(BAND + row)
        with self.e.scope(names):
            self.e.remember(self.w.total, total)
            self.e.store(output.value, (output.address,), self.e.eval_wide(self.w.epilogue))
