"""One row times a matrix that is computed and read once: it streams through in the order it lies.

Some rows of the matrix are added to a chunk of the result's columns at a time, which stays in the
first-level cache. Register tiles (`contract_kernel`) would go down narrow panels instead, with a
jump to another page at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.contract import Contraction, is_contiguous
from tfc.compiler.lower.emitter import Emitter, Lane
from tfc.compiler.lower.nest import WORKER, parallel_loops
from tfc.compiler.target import Target
from tfc.ir.body import Iter
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, floordiv, minimum, substitute, symbol
from tfc.ir.types import F32, VectorType

# Columns of a chunk at most, and rows that are added at once.
MOST_COLUMNS, ROWS = 1024, 8
# Fewer columns are a panel or two.
LEAST_COLUMNS = 256


def matches(c: Contraction, target: Target) -> bool:
    """Whether a contraction is one row times a matrix that is contiguous along many columns."""
    if c.rows or len(c.reduced) != 1 or not is_contiguous(c) or c.reduce.dtype != F32:
        return False
    if c.left.load.dtype != F32 or c.right.load.dtype != F32 or c.right.blocks is not None:
        return False
    if not isinstance(c.n.extent, int):
        return False
    whole = c.n.extent % target.lanes(F32) == 0
    return c.n.extent >= LEAST_COLUMNS and (target.has_masks or whole)


def chunk_of(c: Contraction, lanes: int) -> int:
    """Columns of a chunk, in whole vectors."""
    assert isinstance(c.n.extent, int)
    parts = math.ceil(c.n.extent / MOST_COLUMNS)
    return math.ceil(c.n.extent / parts / lanes) * lanes


class StreamSchedule:
    """Emits such a product. sums: scratch memory, a chunk for each worker."""

    def __init__(
        self,
        emitter: Emitter,
        c: Contraction,
        sums: Value,
        target: Target,
        hints: Mapping[str, int],
    ) -> None:
        self.e = emitter
        self.b = emitter.b
        self.c = c
        self.lanes = target.lanes(F32)
        self.chunk = chunk_of(c, self.lanes)
        self.sums = emitter.buffers[sums]
        self.hints = hints
        self.steps = c.reduced[0]

    def emit(self) -> None:
        part = Iter("chunk", ceildiv(self.c.n.extent, self.chunk))
        cycles = estimate(self.steps.extent, self.hints) * self.chunk / self.lanes
        loops = [it for it in (*self.c.batch, part) if it.extent != 1]
        units = {it.name: self.e.index(0) for it in (*self.c.batch, part) if it.extent == 1}
        with parallel_loops(self.e, loops, cycles, self.hints), self.e.scope(units):
            first = part.dim * self.chunk
            end = minimum(first + self.chunk, self.c.n.extent)
            known = any(WORKER in scope.iters for scope in self.e.scopes)
            self.base = (symbol(WORKER) if known else 0) * self.chunk - first
            self._columns(first, end, self._clear)
            whole = floordiv(self.steps.extent, ROWS) * ROWS
            for lo, hi, count in ((0, whole, ROWS), (whole, self.steps.extent, 1)):
                if lo != hi:
                    with self.e.loop(self.steps, lo, hi, count):
                        self._rows(first, end, count)
            self._columns(first, end, self._finish)

    def _columns(self, first: DimLike, end: DimLike, body: Callable[[], None]) -> None:
        n = self.c.n
        whole = n.extent % self.lanes == 0
        with self.e.loop(n, first, end, self.lanes):
            mask = None
            if not whole:
                at = self.e.index(n.dim)
                mask = self.b.tail_mask(at, self.e.index(n.extent), self.lanes)
            with self.e.vectorised(Lane(n.name, self.lanes, mask)):
                body()

    def _at(self) -> list[Value]:
        return [self.e.index(self.base + self.c.n.dim)]

    def _clear(self) -> None:
        self.b.vstore(self.b.const(0, VectorType(F32, self.lanes)), self.sums, self._at())

    def _finish(self) -> None:
        (output,) = self.c.nest.outputs
        self.e.remember(self.c.reduce, self.b.vload(self.sums, self._at(), self.lanes))
        self.e.store(output.value, (output.address,), self.e.eval_wide(output.expr))

    def _rows(self, first: DimLike, end: DimLike, count: int) -> None:
        """Add so many rows of the matrix to the chunk."""
        c, name = self.c, self.steps.name
        left, right = (self.e.buffers[side.load.value] for side in (c.left, c.right))
        numbers = []
        for i in range(count):
            at = substitute(c.left.address, {name: self.steps.dim + i})
            number = self.b.load(left, self.e.index(at))
            numbers.append(self.b.splat(number, self.lanes))

        def add() -> None:
            lane = self.e.lane
            assert lane is not None
            total = self.b.vload(self.sums, self._at(), self.lanes)
            for i, number in enumerate(numbers):
                at = substitute(c.right.address, {name: self.steps.dim + i})
                row = self.b.vload(right, [self.e.index(at)], self.lanes, mask=lane.mask)
                total = self.b.fma(number, row, total)
            self.b.vstore(total, self.sums, self._at())

        self._columns(first, end, add)
