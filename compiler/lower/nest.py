"""The general CPU schedule: elementwise work, data movement, pooling, reductions, row kernels.

Parallel iterators run in storage order. Those that some reduction depends on are the row
iterators; the others run inside a row, after its reductions. One iterator is vectorised: a row
iterator (lanes are rows), or the innermost one of each inner loop (lanes run along the row).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property

from tfc.compiler.cost import tasks
from tfc.compiler.cost.expression import estimate, work
from tfc.compiler.cost.nest import ACCUMULATORS, MANY_ROWS, unrollings
from tfc.compiler.lower.compose import Nest
from tfc.compiler.lower.dependence import POSITIONS
from tfc.compiler.lower.emitter import Emitter, Lane
from tfc.compiler.lower.normal import reductions
from tfc.compiler.lower.plan import (
    MAX_LANES,
    Plan,
    compute_bits,
    dynamic_entries,
    extent_width,
    power_above,
)
from tfc.compiler.target import Target
from tfc.ir.body import COMBINE, Guard, Iter, Keep, Load, Reduce, children, walk
from tfc.ir.core import Value
from tfc.ir.dims import (
    Dim,
    DimLike,
    ceildiv,
    coefficient,
    floordiv,
    minimum,
    mod,
    product,
    symbol,
    symbols_of,
)

# How far ahead of its use what streams from memory is asked for, and the bytes of a cache line.
PREFETCH_AHEAD, PREFETCH_LINE = 8192, 64
# Inside tasks, the iterator that is the number of the thread: what scratch memory is divided by.
WORKER = "worker"


class NestSchedule:
    """Emits one nest through an emitter."""

    def __init__(
        self, emitter: Emitter, nest: Nest, plan: Plan, target: Target, hints: Mapping[str, int]
    ) -> None:
        self.e = emitter
        self.nest = nest
        self.plan = plan
        self.target = target
        self.hints = hints
        self.reduces = reductions(nest)
        bound = {it.name for reduce in self.reduces for it in reduce.iters}
        self.staged = [
            r
            for r in self.reduces
            if id(r) in _unguarded(nest) and self.e.free(r).isdisjoint(bound)
        ]

    @cached_property
    def accumulators(self) -> int:
        """Sums that run side by side."""
        return self.e.chooser.choose("unroll", unrollings())

    # -- emission -------------------------------------------------------------------------------

    def emit(self) -> None:
        if any(it.extent == 0 for it in self.nest.iters):
            return
        chunk = self._chunk()
        if chunk:
            self._in_chunks(chunk)
            return
        lane = self.plan.lane
        with parallel_loops(self.e, self.plan.rows, self._row_work(), self.hints):
            if lane is not None and lane not in self.plan.inner:
                self._rowwise(lane, 0, lane.extent)
            else:
                self.row()

    def _rowwise(self, lane: Iter, start: DimLike, end: DimLike) -> None:
        """The rows from `start` to `end`, a vector of rows at a time."""
        first = self._jammed_rows(lane, self.plan.width, start, end)
        self.lanes(lane, self.plan.width, self.row, first, end)

    def _chunk(self) -> int:
        """How much of a long vectorised loop is a task, where other rows are too few; 0 for all."""
        lane, rows = self.plan.lane, self.plan.rows
        if lane is None or (lane in self.plan.inner and (self.reduces or len(self.plan.inner) > 1)):
            return 0
        if estimate(product(it.extent for it in rows), self.hints) >= MANY_ROWS:
            return 0
        each = self._row_work() / max(estimate(lane.extent, self.hints), 1)
        if each == 0:
            # The likely size is 0.
            return 0
        chunk = tasks.chunk(each, self.plan.width * ACCUMULATORS)
        return 0 if isinstance(lane.extent, int) and lane.extent < 2 * chunk else chunk

    def _in_chunks(self, chunk: int) -> None:
        lane = self.plan.lane
        assert lane is not None
        part = Iter("part", ceildiv(lane.extent, chunk))
        with parallel_loops(self.e, [*self.plan.rows, part], tasks.TASK_WORK, self.hints):
            start = part.dim * chunk
            whole = lane.extent % chunk == 0
            end = start + chunk if whole else minimum(start + chunk, lane.extent)
            if lane in self.plan.inner:
                self.lanes(lane, self.plan.width, lambda: self._elements([]), start, end)
            else:
                self._rowwise(lane, start, end)

    def _jammed_rows(self, lane: Iter, width: int, start: DimLike, end: DimLike) -> DimLike:
        """Fold several vectors of rows side by side; returns the first row that is not done.

        One accumulator alone waits for its own last addition.
        """
        block = width * self.accumulators
        done = start + floordiv(end - start, block) * block
        if len(self.reduces) != 1 or not self.staged or self.plan.inner or done == start:
            return start
        (reduce,) = self.reduces
        with self.e.loop(lane, start, done, block), self.e.vectorised(Lane(lane.name, width)):
            base = self.e.index(lane.dim)
            copies = [{lane.name: base}]
            for i in range(1, self.accumulators):
                copies.append({lane.name: self.e.b.add(base, self.e.index(i * width))})
            totals = self.e.reduce(reduce, copies)
            for copy, total in zip(copies, totals, strict=True):
                with self.e.scope(copy):
                    self.e.remember(reduce, total)
                    self._elements([])
        return done

    def _row_work(self) -> float:
        """Cycles of one iteration of the row loops."""
        total = sum(work(output.expr, self.hints) + 2 for output in self.nest.outputs)
        for it in self.plan.inner:
            total *= estimate(it.extent, self.hints)
        if self.plan.lane is not None and self.plan.lane not in self.plan.inner:
            total *= estimate(self.plan.lane.extent, self.hints)
        return total / self.plan.width

    def row(self) -> None:
        """One row: its reductions in order, then its elements."""
        rowwise = self.plan.lane is not None and self.plan.lane not in self.plan.inner
        for reduce in self.staged:
            if not rowwise:
                self.reduce_along(reduce)
            else:
                self.e.eval(reduce)
        self._elements(list(self.plan.inner))

    def _elements(self, inner: list[Iter]) -> None:
        if not inner:
            for output in self.nest.outputs:
                element = self.e.eval_wide(output.expr)
                self.e.store(output.value, (output.address,), element)
        elif len(inner) == 1 and self.e.lane is None and self.plan.width > 1:
            lane = self.plan.lane or (inner[0] if self.reduces else None)
            if lane is inner[0]:
                width = min(self.plan.width, extent_width(lane))
                self.lanes(lane, width, lambda: self._elements([]))
            else:
                with self.e.loop(inner[0]):
                    self._elements([])
        else:
            with self.e.loop(inner[0]):
                self._elements(inner[1:])

    def lanes(
        self,
        it: Iter,
        width: int,
        body: Callable[[], None],
        first: DimLike = 0,
        end: DimLike | None = None,
    ) -> None:
        """Run `body` for the vectors of `it` from `first` to `end`, then for the rest.

        The rest runs masked, or one by one.
        """
        end = it.extent if end is None else end
        full = first + floordiv(end - first, width) * width
        if full != first:
            with self.e.loop(it, first, full, width), self.e.vectorised(Lane(it.name, width)):
                body()
        if full == end:
            return
        if not masks_tail(self.target, end - full):
            with self.e.loop(it, full, end):
                body()
            return
        with self.e.loop(it, full, end, width):
            mask = self.e.b.tail_mask(self.e.index(it.dim), self.e.index(end), width)
            with self.e.vectorised(Lane(it.name, width, mask)):
                body()

    def reduce_along(self, reduce: Reduce) -> None:
        """Emit a reduction at the current row with its innermost iterator vectorised."""
        width = min(self.target.vector_bits // compute_bits(reduce.dtype), MAX_LANES)
        if not self._vectorises(reduce) or width < 2:
            self.e.eval(reduce)
            return
        with self.e.hoisted(reduce):
            self.e.remember(reduce, VectorReduction(self, reduce, width).emit())

    def streams(self, reduce: Reduce) -> list[Load]:
        """The loads of a reduction that read more than the second-level cache holds, once."""
        found = []
        iters = (*self.nest.iters, *reduce.iters)
        for node in walk(reduce.body):
            if isinstance(node, Load) and isinstance(node.index[0], Dim) and len(node.index) == 1:
                moved = [it.extent for it in iters if it.name in symbols_of(node.index[0])]
                if estimate(product(moved), self.hints) * node.dtype.bytes > self.target.l2:
                    found.append(node)
        return found

    def _vectorises(self, reduce: Reduce) -> bool:
        if reduce.kind in POSITIONS or not reduce.iters:
            return False
        last = reduce.iters[-1]
        extent = last.extent
        if isinstance(extent, int) and extent < 4:
            return False
        for node in walk(reduce.body):
            if isinstance(node, Guard) and any(
                last.name in symbols_of(d) for r in node.ranges for d in (r.dim, r.lo, r.hi)
            ):
                return False
            if isinstance(node, (Load, Keep)) and last.name in self.e.free(node):
                fixed = node.index[0]
                if dynamic_entries(node) or coefficient(fixed, last.name) != 1:  # type: ignore[arg-type]
                    return False
        return True


class VectorReduction:
    """A reduction whose innermost iterator runs along the lanes, with several accumulators."""

    def __init__(self, schedule: NestSchedule, reduce: Reduce, width: int) -> None:
        self.e = schedule.e
        self.target = schedule.target
        self.reduce = reduce
        extent = reduce.iters[-1].extent
        self.width = min(width, power_above(extent)) if isinstance(extent, int) else width
        unrolled = floordiv(extent, self.width * schedule.accumulators)
        self.accumulators = 1 if unrolled == 0 else schedule.accumulators
        self.streams = schedule.streams(reduce)

    def emit(self) -> Value:
        e, reduce = self.e, self.reduce
        last = reduce.iters[-1]
        with e.vectorised(Lane(last.name, self.width)):
            start = e.initial(reduce) * self.accumulators
        outer = list(reduce.iters[:-1])
        totals = self._outer(outer, start)
        while len(totals) > 1:
            half = len(totals) // 2
            totals = [
                e.b.apply(COMBINE[reduce.kind], totals[i], totals[i + half]) for i in range(half)
            ]
        return e.b.reduce(COMBINE[reduce.kind], totals[0])

    def _outer(self, outer: list[Iter], carried: list[Value]) -> list[Value]:
        if not outer:
            return self._vectors(carried)
        with self.e.loop(outer[0], carried=carried) as (values, following):
            following.extend(self._outer(outer[1:], list(values)))
        return values

    def _vectors(self, carried: list[Value]) -> list[Value]:
        """Unrolled vectors, then single vectors, then the tail."""
        e, last = self.e, self.reduce.iters[-1]
        block = self.width * self.accumulators
        unrolled = floordiv(last.extent, block) * block
        full = floordiv(last.extent, self.width) * self.width
        if self.accumulators == 1:
            unrolled = 0
        if unrolled != 0:
            whole = Lane(last.name, self.width)
            with (
                e.loop(last, 0, unrolled, block, carried) as (values, following),
                e.vectorised(whole),
            ):
                self._prefetch(block)
                following.extend(e.combine_copies(self.reduce, self._copies(last), values))
            carried = values
        if full != unrolled:
            carried = self._single(last, unrolled, full, carried, None)
        if full != last.extent:
            carried = self._tail(last, full, carried)
        return carried

    def _prefetch(self, block: int) -> None:
        """Read ahead what streams from beyond the caches: in the end the next row's first part."""
        for load in self.streams:
            address = load.index[0]
            assert isinstance(address, Dim)
            line = PREFETCH_LINE // load.dtype.bytes
            for at in range(0, block, line):
                ahead = address + PREFETCH_AHEAD // load.dtype.bytes + at
                self.e.b.prefetch(self.e.buffers[load.value], self.e.index(ahead))

    def _copies(self, last: Iter) -> list[dict[str, Value]]:
        base = self.e.index(last.dim)
        copies = [{last.name: base}]
        for i in range(1, self.accumulators):
            offset = self.e.index(i * self.width)
            copies.append({last.name: self.e.b.add(base, offset)})
        return copies

    def _single(
        self, last: Iter, lo: DimLike, hi: DimLike, carried: list[Value], mask: Value | None
    ) -> list[Value]:
        e = self.e
        lane = Lane(last.name, self.width, mask)
        with (
            e.loop(last, lo, hi, self.width, carried[:1]) as (values, following),
            e.vectorised(lane),
        ):
            following.extend(e.combine_copies(self.reduce, [{}], values))
        return [*values, *carried[1:]]

    def _tail(self, last: Iter, full: DimLike, carried: list[Value]) -> list[Value]:
        """The rest of the row: one masked vector whose dead lanes keep the accumulator."""
        e, reduce = self.e, self.reduce
        if not masks_tail(self.target, last.extent - full):
            return self._scalar_tail(last, full, carried)
        with e.loop(last, full, last.extent, self.width, carried[:1]) as (values, following):
            mask = e.b.tail_mask(e.index(last.dim), e.index(last.extent), self.width)
            with e.vectorised(Lane(last.name, self.width, mask)):
                (new,) = e.combine_copies(reduce, [{}], values)
            following.append(e.b.select(mask, new, values[0]))
        return [*values, *carried[1:]]

    def _scalar_tail(self, last: Iter, full: DimLike, carried: list[Value]) -> list[Value]:
        e, reduce = self.e, self.reduce
        first = e.b.extract(carried[0], 0)
        with e.loop(last, full, last.extent, 1, [first]) as (values, following):
            following.extend(e.combine_copies(reduce, [{}], values))
        return [e.b.insert(values[0], carried[0], 0), *carried[1:]]


@contextmanager
def parallel_loops(
    e: Emitter,
    rows: Sequence[Iter],
    row_work: float,
    hints: Mapping[str, int],
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[None]:
    """Open the loops `rows`, the outer ones as tasks for several threads where work pays.

    The split into tasks depends on shapes alone, so results do not depend on the threads.
    around: what stands once in each task, with the loops inside.
    """
    outer: list[Iter] = []
    rest = list(rows)
    while rest and estimate(product(it.extent for it in outer), hints) < tasks.ENOUGH:
        outer.append(rest.pop(0))
    inner_work = row_work * max(estimate(product(it.extent for it in rest), hints), 1)
    count = product(it.extent for it in outer)
    likely, static = max(estimate(count, hints), 1), isinstance(count, int)
    grain = tasks.SERIAL
    if outer and count != 1:
        grain = e.chooser.choose(tasks.TASKS, tasks.grains(likely, inner_work, static))
    if grain == tasks.SERIAL:
        with around(), _loops(e, [*outer, *rest]):
            yield
        return
    parts = ceildiv(count, grain)
    when = None
    if not static:
        when = e.b.ge(e.index(count), e.index(tasks.least_count(inner_work)))
    with e.b.parallel(e.index(parts), when, "task") as (task, worker):
        names = {"task": task, WORKER: worker}
        with e.scope(names, conditional=not static), around():
            start = Iter("task", parts).dim * grain
            flat = Iter("flat", count)
            stop = minimum(start + grain, count)
            if grain == 1:
                with e.scope({"flat": task}), decoded(e, flat, outer), _loops(e, rest):
                    yield
            else:
                with e.loop(flat, start, stop), decoded(e, flat, outer), _loops(e, rest):
                    yield


def worker_of(e: Emitter) -> DimLike:
    """The number of the current worker, 0 outside of tasks."""
    return symbol(WORKER) if any(WORKER in scope.iters for scope in e.scopes) else 0


@contextmanager
def decoded(e: Emitter, flat: Iter, outer: Sequence[Iter]) -> Iterator[None]:
    """Define the iterators `outer` from the flat index over all of them."""
    values: dict[str, Value] = {}
    left: DimLike = flat.dim
    for it in reversed(outer[1:]):
        values[it.name] = e.index(mod(left, it.extent))
        left = floordiv(left, it.extent)
    values[outer[0].name] = e.index(left)
    with e.scope(values):
        yield


@contextmanager
def _loops(e: Emitter, iters: Sequence[Iter]) -> Iterator[None]:
    if not iters:
        yield
        return
    with e.loop(iters[0]), _loops(e, iters[1:]):
        yield


def masks_tail(target: Target, count: DimLike) -> bool:
    """Whether the last `count` elements are done as a masked vector.

    Not where it is one for sure: of a single lane behind a constant mask, LLVM 22 stores the
    number that was narrowed on AVX-512, not the narrow one, and so writes behind it.
    """
    return target.has_masks and count != 1


def _unguarded(nest: Nest) -> set[int]:
    """The ids of the nodes that every element needs: those not below a guard."""
    found: set[int] = set()
    stack = [output.expr for output in nest.outputs]
    while stack:
        node = stack.pop()
        if id(node) not in found:
            found.add(id(node))
            stack.extend(() if isinstance(node, Guard) else children(node))
    return found
