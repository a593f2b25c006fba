"""The kernel of an attention: what `attention.Plan` says, emitted.

A task packs the keys of its head; then, tile by tile of queries, it computes rows of scores into
scratch memory, makes weights of each row, and sums the values by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tfc.compiler.cost import attention as attention_cost
from tfc.compiler.cost import contraction as cost
from tfc.compiler.cost.attention import VECTORS
from tfc.compiler.cost.expression import estimate
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.lower.attention import ROW
from tfc.compiler.lower.attention_plan import SEEN, Plan, runs_along
from tfc.compiler.lower.compose import Nest, Output
from tfc.compiler.lower.contract_kernel import multiply_add
from tfc.compiler.lower.emitter import Emitter, Lane
from tfc.compiler.lower.nest import WORKER, NestSchedule, parallel_loops
from tfc.compiler.lower.plan import Plan as NestPlan
from tfc.compiler.lower.squares import summed, transposed
from tfc.compiler.target import Target
from tfc.ir.body import Apply, Expr, Iter, Load, Reduce, substitute_dims
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, bounds, ceildiv, floordiv, minimum, substitute, symbol
from tfc.ir.ops.control import MODERATE
from tfc.ir.types import BOOL, BufferType, VectorType


@dataclass(frozen=True)
class Memory:
    """Scratch memory as graph values, a part for each worker.

    keys: None where they are not packed; queries: None where they are not copied. weights,
    values: of bf16, for a second product of `dot`.
    """

    keys: Value | None
    scores: Value
    queries: Value | None
    weights: Value | None = None
    values: Value | None = None

    @property
    def every(self) -> list[Value]:
        parts = (self.keys, self.scores, self.queries, self.weights, self.values)
        return [value for value in parts if value is not None]


class AttentionSchedule:
    """Emits the kernel."""

    def __init__(
        self,
        emitter: Emitter,
        plan: Plan,
        memory: Memory,
        target: Target,
        hints: Mapping[str, int],
    ) -> None:
        self.e = emitter
        self.b = emitter.b
        self.plan = plan
        self.a = plan.attention
        self.memory = memory
        self.target = target
        self.hints = hints
        self.group = Iter("group.a", plan.groups)
        self.tile = Iter("tile.a", plan.all_tiles)
        self.line = Iter("line.a", plan.rows)
        self.panel = Iter("panel.a", plan.panels)

    def emit(self) -> None:
        loops = [*self.a.batch, self.group]
        with (
            parallel_loops(
                self.e, [it for it in loops if it.extent != 1], self._cycles(), self.hints
            ),
            self.e.scope({it.name: self.e.index(0) for it in loops if it.extent == 1}),
        ):
            first = self.group.dim * self.plan.tiles
            last = self.plan.all_tiles
            if self.plan.groups != 1:
                last = minimum(first + self.plan.tiles, last)
            if self.plan.unit:
                self._look(first, last)
            if self.plan.packed:
                with self._seen(last - 1):
                    self._pack_all()
            with self.e.loop(self.tile, first, last), self._seen(self.tile.dim):
                self._tile()

    def _cycles(self) -> float:
        """Cycles of one task."""
        plan = self.plan
        rows = estimate(plan.tiles, self.hints) * plan.rows
        task = replace(plan.head, rows=rows)
        tile = plan.vectors, plan.part
        return attention_cost.head_cycles(machine_of(self.target), task, plan.rows, tile)

    # -- which keys are needed ------------------------------------------------------------------

    def _look(self, first: DimLike, last: DimLike) -> None:
        """Find out whether all numbers of a task are moderate, where it may then leave out keys."""
        start = first * self.plan.rows
        some = self.b.lt(self.e.index(self.plan.needed(start)), self.e.index(self.a.key.extent))

        def check() -> list[Value]:
            with self.e.scope({}, conditional=True):
                return [self._is_moderate(start, last * self.plan.rows)]

        (self.moderate,) = self.b.either(some, check, lambda: [self.b.const(0, BOOL)])

    def _is_moderate(self, start: DimLike, end: DimLike) -> Value:
        """Whether no score of the rows can be larger than MODERATE, and all values are finite."""
        a, key = self.a, self.a.key
        assert a.row is not None
        near = Iter("near.a", minimum(end, a.row.extent) - start)
        left = substitute_dims(a.left, {a.row.name: start + near.dim}, {near.name: near.interval})
        product = self.b.mul(
            self._largest(left, near, a.depth), self._largest(a.right, key, a.depth)
        )
        product = self.b.mul(product, self.b.const(self.plan.depth, product))
        small = self.b.le(product, self.b.const(MODERATE, product))
        largest = self._largest(a.values, a.summed, a.column)
        return self.b.and_(small, self.b.lt(largest, self.b.const(math.inf, largest)))

    def _largest(self, element: Expr, outer: Iter, inner: Iter) -> Value:
        """The greatest absolute value of some elements, or NaN."""
        iters = (outer, inner) if runs_along(element, inner) else (inner, outer)
        dtype = self.a.dtype
        if element.dtype != dtype:
            element = Apply("cast", (element,), dtype)
        reduce = Reduce("max", iters, Apply("abs", (element,), dtype), dtype)
        self._nest(Nest((), ()), NestPlan((), (), None, 1)).reduce_along(reduce)
        return self.e.eval(reduce)

    @contextmanager
    def _seen(self, tile: DimLike) -> Iterator[None]:
        """Define how many keys the rows up to the end of a tile need."""
        if not self.plan.unit:
            yield
            return
        needed = self.plan.needed(minimum((tile + 1) * self.plan.rows, self.a.rows) - 1)
        some, every = (
            self.e.index(ceildiv(count, self.plan.unit)) for count in (needed, self.a.key.extent)
        )
        with self.e.scope({SEEN: self.b.select(self.moderate, some, every)}):
            yield

    @property
    def seen_panels(self) -> DimLike:
        return ceildiv(self.plan.seen, self.plan.block)

    # -- where things are -----------------------------------------------------------------------

    @property
    def _worker(self) -> DimLike:
        known = any(WORKER in scope.iters for scope in self.e.scopes)
        return symbol(WORKER) if known else 0

    def _key_at(self, depth: DimLike) -> DimLike:
        """Where the numbers at `depth` of the current panel's keys are."""
        row = self.panel.dim * self.plan.depth + depth
        return self._worker * self.plan.key_size + row * self.plan.block

    def _score_at(self, line: DimLike) -> DimLike:
        return self._worker * self.plan.score_size + line * self.plan.pitch

    def _query_at(self, line: DimLike) -> DimLike:
        return self._worker * self.plan.query_size + line * self.plan.depth

    def _view(self, value: Value, at: DimLike) -> Value:
        buf = self.e.buffers[value]
        assert isinstance(buf.type, BufferType)
        return self.b.view(buf, self.e.index(at), buf.type)

    @contextmanager
    def _at_row(self, line: DimLike) -> Iterator[None]:
        """Define the query of a line of the tile. The last tile has some rows once more."""
        row = self.a.row
        names = {ROW: self.e.index(self._score_at(line))}
        if row is not None:
            start = self.tile.dim * self.plan.rows
            at: DimLike = start + line
            whole = isinstance(row.extent, int) and row.extent >= self.plan.rows
            # A row that two tasks compute from different numbers of keys may differ in last bits.
            if whole and not self.plan.unit:
                if row.extent % self.plan.rows != 0:
                    at = minimum(start, row.extent - self.plan.rows) + line
            else:
                at = minimum(at, row.extent - 1)
            names[row.name] = self.e.index(at)
        with self.e.scope(names):
            yield

    # -- keys -----------------------------------------------------------------------------------

    def _pack_all(self) -> None:
        """Pack what the tiles of a task read."""
        with self.e.loop(self.panel, 0, self.seen_panels):
            self._pack()

    def _pack(self) -> None:
        """Pack one panel of keys; those past the end are the last one again, or zero."""
        for vector in range(VECTORS):
            first = self.panel.dim * self.plan.block + vector * self.plan.lanes
            if self.plan.along:
                self._pack_transposed(first, vector * self.plan.lanes)
            else:
                self._pack_lanes(first, vector * self.plan.lanes)

    def _pack_transposed(self, first: DimLike, column: int) -> None:
        """Transpose squares of keys; the last one overlaps its neighbour."""
        plan, lanes = self.plan, self.plan.lanes
        square = Iter("square.a", -(-plan.depth // lanes))
        with self.e.loop(square):
            start: DimLike = square.dim * lanes
            if plan.depth % lanes:
                start = minimum(start, plan.depth - lanes) if plan.depth > lanes else 0
            rows = self._key_rows(first, lanes, start, lanes)
            assert self.memory.keys is not None
            for i, row in enumerate(transposed(self.b, rows)[: plan.depth]):
                at = self._key_at(start + i) + column
                self.b.vstore(row, self.e.buffers[self.memory.keys], [self.e.index(at)])

    def _pack_lanes(self, first: DimLike, column: int) -> None:
        """Copy keys that lie as the panel does, or gather them."""
        key, depth = self.a.key, self.a.depth
        assert self.memory.keys is not None
        mask = self._key_mask(first)
        with self.e.loop(depth), self.e.scope({key.name: self.e.index(first)}):
            with self.e.vectorised(Lane(key.name, self.plan.lanes, mask)):
                element = self.e.eval_wide(self.a.right)
            at = self._key_at(depth.dim) + column
            self.b.vstore(element, self.e.buffers[self.memory.keys], [self.e.index(at)])

    def _key_rows(self, first: DimLike, count: int, start: DimLike, width: int) -> list[Value]:
        """Of so many keys a vector each, from `start` on along their depth."""
        rows = []
        lane = self._lane(self.a.depth, width, self.plan.depth)
        with self.e.scope({self.a.depth.name: self.e.index(start)}), self.e.vectorised(lane):
            for i in range(count):
                with self._at_key(first + i):
                    rows.append(self.e.eval_wide(self.a.right))
        return rows

    def _key_mask(self, first: DimLike) -> Value | None:
        """Which lanes from key `first` on are keys, where the last block is not whole."""
        key = self.a.key
        if key.extent % self.plan.block == 0:
            return None
        start, end = self.e.index(first), self.e.index(key.extent)
        return self.e.cached_mask(first, start, end, self.plan.lanes)

    @contextmanager
    def _at_key(self, key: DimLike) -> Iterator[None]:
        """Define the key. Past the end it is the last one again."""
        if self.a.key.extent % self.plan.block != 0:
            key = minimum(key, self.a.key.extent - 1)
        with self.e.scope({self.a.key.name: self.e.index(key)}):
            yield

    def _lane(self, it: Iter, width: int, extent: int) -> Lane:
        """Lanes from the current place on; masked only where all there is is less."""
        mask = None
        if extent < width:
            mask = self.e.cached_mask(extent, self.e.index(0), self.e.index(extent), width)
        return Lane(it.name, width, mask)

    # -- one tile -------------------------------------------------------------------------------

    def _tile(self) -> None:
        if not self.plan.direct:
            with self.e.loop(self.line), self._at_row(self.line.dim):
                self._copy_query()
        if self.plan.packed:
            with self.e.loop(self.panel, 0, self.seen_panels):
                self._multiply()
        else:
            turn = Iter("turn.a", ceildiv(self.a.key.extent, self.plan.narrow))
            with self.e.loop(turn), self.e.loop(self.line):
                self._multiply_in_place(turn)
        with self.e.loop(self.line), self._at_row(self.line.dim):
            self._weigh()
        part = Iter("part.a", self.plan.rows // self.plan.part)
        total = -(-self.plan.columns // self.plan.width)
        strip = Iter("strip.a", -(-total // self.plan.vectors))
        with self.e.loop(part), self.e.loop(strip):
            self._sum_values(part, strip)

    def _nest(self, nest: Nest, plan: NestPlan) -> NestSchedule:
        return NestSchedule(self.e, nest, plan, self.target, self.hints)

    def _query(self, line: DimLike) -> Value:
        """A view that starts with a line's query."""
        if self.memory.queries is not None:
            return self._view(self.memory.queries, self._query_at(line))
        left, depth = self.a.left, self.a.depth
        assert isinstance(left, Load)
        first = left.index[0]
        assert isinstance(first, (int, Dim))
        with self._at_row(line):
            return self._view(left.value, substitute(first, {depth.name: 0}))

    def _copy_query(self) -> None:
        """Compute one query, scaled or whatever is done to it, next to the others of its tile."""
        depth = self.a.depth
        assert self.memory.queries is not None
        address = self._query_at(self.line.dim) + depth.dim
        nest = Nest((depth,), (Output(self.memory.queries, address, self.a.left),))
        self._nest(nest, NestPlan((), (depth,), depth, self.plan.narrow)).row()

    def _multiply(self) -> None:
        """The scores of the tile and one panel of keys."""
        plan, lanes = self.plan, self.plan.lanes
        assert self.memory.keys is not None
        keys = self.e.buffers[self.memory.keys]
        queries = [self._query(line) for line in range(plan.rows)]
        zero = self.b.const(0, VectorType(self.a.dtype, lanes))
        step = Iter("depth.a", plan.depth)
        start = [zero] * (plan.rows * VECTORS)
        with self.e.loop(step, 0, plan.depth, plan.step, start) as (totals, following):
            row = [
                self.b.vload(keys, [self.e.index(self._key_at(step.dim) + at)], lanes * plan.step)
                for at in range(0, plan.block * plan.step, lanes * plan.step)
            ]
            column = [self._step_of(query, step.dim) for query in queries]
            following.extend(self._added(column, row, list(totals)))
        for i, total in enumerate(totals):
            line, vector = divmod(i, VECTORS)
            at = self._score_at(line) + self.panel.dim * plan.block + vector * lanes
            self.b.vstore(total, self.e.buffers[self.memory.scores], [self.e.index(at)])

    def _step_of(self, row: Value, at: DimLike) -> Value:
        """What one step of a product takes of a row."""
        return self.b.load(row, self.e.index(at))

    def _added(
        self, column: Sequence[Value], row: Sequence[Value], totals: Sequence[Value]
    ) -> list[Value]:
        """One step of a product: its terms added to the totals."""
        return multiply_add(self.b, column, row, totals)

    def _multiply_in_place(self, turn: Iter) -> None:
        """The scores of one query and as many keys as lanes: products along the depth."""
        plan, depth, width = self.plan, self.a.depth, self.plan.narrow
        query = self._query(self.line.dim)
        starts = range(0, plan.depth, width)
        lanes = [self._lane(depth, width, plan.depth - start) for start in starts]
        parts = [
            self.b.vload(query, [self.e.index(start)], width, mask=lane.mask)
            for start, lane in zip(starts, lanes, strict=True)
        ]
        totals = [self._dot(turn.dim * width + i, parts, starts, lanes) for i in range(width)]
        at = self._score_at(self.line.dim) + turn.dim * width
        total = summed(self.b, totals)
        self.b.vstore(total, self.e.buffers[self.memory.scores], [self.e.index(at)])

    def _dot(
        self, key: DimLike, parts: Sequence[Value], starts: Sequence[int], lanes: Sequence[Lane]
    ) -> Value:
        """The product of the query and a key, not yet summed over the lanes."""
        total: Value | None = None
        with self._at_key(key):
            for part, start, lane in zip(parts, starts, lanes, strict=True):
                here = {self.a.depth.name: self.e.index(start)}
                with self.e.scope(here), self.e.vectorised(lane):
                    element = self.e.eval_wide(self.a.right)
                total = (
                    self.b.mul(part, element) if total is None else self.b.fma(part, element, total)
                )
        assert total is not None
        return total

    def _weigh(self) -> None:
        """Make weights of a row of scores; or all but the quotient, whose divisor is kept."""
        key, scratch = Iter(self.a.key.name, self.plan.seen), self.a.scratch
        if self.a.divisor is not None:
            output = Output(scratch, symbol(ROW) + self.plan.divisor_at, self.a.divisor)
            self._nest(Nest((), (output,)), NestPlan((), (), None, 1)).row()
        share = self._share()
        if not isinstance(share.expr, Load):
            plan = NestPlan((), (key,), key, self.plan.lanes)
            self._nest(Nest((key,), (share,)), plan).row()

    def _share(self) -> Output:
        """Where weights of a row, without the quotient, are put for the second product."""
        return Output(self.a.scratch, symbol(ROW) + self.a.key.dim, self.a.share)

    # -- values ---------------------------------------------------------------------------------

    def _sum_values(self, part: Iter, strip: Iter) -> None:
        """The sums of values by the weights of some rows, for some vectors of columns."""
        plan = self.plan
        lines = [part.dim * plan.part + i for i in range(plan.part)]
        rows = [self._view(self.memory.scores, self._score_at(line)) for line in lines]
        shares = [self._shares(line) for line in lines]
        columns = [self._column(strip, vector) for vector in range(plan.vectors)]
        zero = self.b.const(0, VectorType(self.a.dtype, plan.width))
        size = plan.part * plan.vectors
        sets = cost.sets(machine_of(self.target), size)
        totals = self._steps(shares, columns, [zero] * (size * sets), sets)
        while len(totals) > size:
            half = len(totals) // 2
            totals = [self.b.add(totals[i], totals[half + i]) for i in range(half)]
        divisors: list[Value] = []
        if self.a.divisor is not None:
            divisors = [self._divisor(row) for row in rows]
        for i, line in enumerate(lines):
            with self._at_row(line):
                for vector, column in enumerate(columns):
                    total = totals[i * plan.vectors + vector]
                    if divisors:
                        total = self.b.div(total, self.b.splat(divisors[i], plan.width))
                    self._finish(column, total)

    def _shares(self, line: DimLike) -> Value:
        """A view that starts with a line's weights."""
        return self._view(self.memory.scores, self._score_at(line))

    def _divisor(self, row: Value) -> Value:
        """What the sums are divided by; without keys they are zero, and there is no weight."""
        found = self.b.load(row, self.e.index(self.plan.divisor_at))
        lowest, _ = bounds(self.a.key.extent, {})
        if lowest is not None and lowest > 0:
            return found
        some = self.b.gt(self.e.index(self.a.key.extent), self.e.index(0))
        return self.b.select(some, found, self.b.const(1, found))

    def _column(self, strip: Iter, vector: int) -> Value:
        """The first column of a vector; the last vectors of the row overlap."""
        plan = self.plan
        at = strip.dim * (plan.vectors * plan.width) + vector * plan.width
        if plan.columns % (plan.vectors * plan.width):
            at = minimum(at, max(plan.columns - plan.width, 0))
        return self.e.index(at)

    def _steps(
        self, rows: Sequence[Value], columns: Sequence[Value], zeros: list[Value], sets: int
    ) -> list[Value]:
        """Sum over the keys, with `sets` of accumulators in turns."""
        it = Iter(self.a.summed.name, ceildiv(self.plan.seen, self.plan.step))
        size = len(zeros) // sets
        full = floordiv(it.extent, sets) * sets
        with self.e.loop(it, 0, full, sets, zeros) as (values, following):
            base = self.e.index(it.dim)
            for turn in range(sets):
                at = self.b.add(base, self.e.index(turn)) if turn else base
                with self.e.scope({it.name: at}):
                    own = values[turn * size : (turn + 1) * size]
                    following.extend(self._step(rows, columns, own))
        if full == it.extent:
            return values
        with self.e.loop(it, full, it.extent, 1, values[:size]) as (rest, following):
            following.extend(self._step(rows, columns, rest))
        return [*rest, *values[size:]]

    def _step(
        self, rows: Sequence[Value], columns: Sequence[Value], totals: Sequence[Value]
    ) -> list[Value]:
        weights = [self._step_of(row, self.a.summed.dim * self.plan.step) for row in rows]
        return self._added(weights, [self._values(column) for column in columns], totals)

    def _values(self, column: Value) -> Value:
        """What one step of the second product takes of the values, from a column on."""
        with self._at_column(column):
            return self.e.eval_wide(self.a.values)

    @contextmanager
    def _at_column(self, column: Value) -> Iterator[None]:
        lane = self._lane(self.a.column, self.plan.width, self.plan.columns)
        with self.e.scope({self.a.column.name: column}), self.e.vectorised(lane):
            yield

    def _finish(self, column: Value, total: Value) -> None:
        """Evaluate what follows the second product on one vector, and store it."""
        output = self.a.output
        with self._at_column(column):
            self.e.remember(self.a.total, total)
            self.e.store(output.value, (output.address,), self.e.eval_wide(output.expr))
