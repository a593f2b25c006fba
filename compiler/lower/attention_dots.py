"""The kernel of an attention whose products are of bf16: two steps of a sum in one `dot`.

Scores, and what is made of a row of them, are f32. Keys are packed by pairs of depths, values by
pairs of keys; the weights of a row are rounded into memory of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tfc.compiler.lower.attention import narrow_side
from tfc.compiler.lower.attention_kernel import AttentionSchedule
from tfc.compiler.lower.attention_plan import PAIR
from tfc.compiler.lower.compose import Output
from tfc.compiler.lower.emitter import Lane
from tfc.compiler.lower.squares import transposed
from tfc.ir.body import Iter
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, minimum, symbol
from tfc.ir.types import BF16

# The name of the position where the current row of weights starts.
ROW_OF_WEIGHTS = "weights.a"


class DotAttentionSchedule(AttentionSchedule):
    """Emits the kernel."""

    # -- keys and values ------------------------------------------------------------------------

    def _pack_all(self) -> None:
        super()._pack_all()
        pair = Iter("pair.a", ceildiv(self.plan.seen, PAIR))
        vector = Iter("vector.a", -(-self.plan.columns // self.plan.lanes))
        with self.e.loop(pair), self.e.loop(vector):
            self._pack_values(pair.dim, vector.dim)

    def _pack_values(self, pair: DimLike, vector: DimLike) -> None:
        """Pack some columns of two keys' values; behind the last key there are zeros."""
        column = minimum(vector * self.plan.lanes, self.plan.columns - self.plan.lanes)
        extent = self.a.key.extent
        first, second = pair * PAIR, pair * PAIR + 1
        rows = [self._values_of(key, column) for key in (first, minimum(second, extent - 1))]
        if extent % PAIR != 0:
            there = self.b.lt(self.e.index(second), self.e.index(extent))
            rows[1] = self.b.select(
                self.b.splat(there, self.plan.lanes), rows[1], self.b.const(0, rows[1])
            )
        assert self.memory.values is not None
        at = self.e.index(self._value_at(pair, column))
        self.b.vstore(self._paired(*rows), self.e.buffers[self.memory.values], [at])

    def _values_of(self, key: DimLike, column: DimLike) -> Value:
        names = {
            self.a.summed.name: self.e.index(key),
            self.a.column.name: self.e.index(column),
        }
        lane = Lane(self.a.column.name, self.plan.lanes)
        with self.e.scope(names), self.e.vectorised(lane):
            return self.e.eval_wide(self.a.values)

    def _pack_transposed(self, first: DimLike, column: int) -> None:
        """Transpose squares of pairs; the last one overlaps its neighbour."""
        plan, lanes = self.plan, self.plan.lanes
        width = PAIR * lanes
        square = Iter("square.a", -(-plan.depth // width))
        with self.e.loop(square):
            start: DimLike = square.dim * width
            if plan.depth % width:
                start = minimum(start, plan.depth - width) if plan.depth > width else 0
            rows = self._key_rows(first, lanes, start, width)
            assert self.memory.keys is not None
            columns = transposed(self.b, rows, PAIR)
            for i, pairs in enumerate(columns[: plan.depth // PAIR]):
                at = self._key_at(start + i * PAIR) + column * PAIR
                self.b.vstore(pairs, self.e.buffers[self.memory.keys], [self.e.index(at)])

    def _pack_lanes(self, first: DimLike, column: int) -> None:
        """Copy keys that lie as the panel does, or gather them, and pair them."""
        key, depth = self.a.key, self.a.depth
        assert self.memory.keys is not None
        mask = self._key_mask(first)
        step = Iter("step.a", self.plan.depth // PAIR)
        with self.e.loop(step), self.e.scope({key.name: self.e.index(first)}):
            rows = []
            for i in range(PAIR):
                names = {depth.name: self.e.index(step.dim * PAIR + i)}
                with self.e.scope(names), self.e.vectorised(Lane(key.name, self.plan.lanes, mask)):
                    rows.append(self.e.eval_wide(self.a.right))
            at = self._key_at(step.dim * PAIR) + column * PAIR
            pairs = self._paired(*rows)
            self.b.vstore(pairs, self.e.buffers[self.memory.keys], [self.e.index(at)])

    def _paired(self, x: Value, y: Value) -> Value:
        """The lanes of x and y in turn, all of them."""
        lanes = self.plan.lanes
        return self.b.shuffle(x, y, [lane for i in range(lanes) for lane in (i, lanes + i)])

    def _value_at(self, pair: DimLike, column: DimLike) -> DimLike:
        at = (pair * self.plan.columns + column) * PAIR
        return self._worker * self.plan.value_size + at

    # -- products -------------------------------------------------------------------------------

    def _step_of(self, row: Value, at: DimLike) -> Value:
        pair = self.b.vload(row, [self.e.index(at)], PAIR)
        return self.b.shuffle(pair, pair, tuple(range(PAIR)) * self.plan.lanes)

    def _added(
        self, column: Sequence[Value], row: Sequence[Value], totals: Sequence[Value]
    ) -> list[Value]:
        return [
            self.b.dot(left, right, totals[i * len(row) + j])
            for i, left in enumerate(column)
            for j, right in enumerate(row)
        ]

    def _values(self, column: Value) -> Value:
        assert self.memory.values is not None
        start = self._value_at(self.a.summed.dim, 0)
        at = self.b.add(self.e.index(start), self.b.mul(column, self.e.index(PAIR)))
        return self.b.vload(self.e.buffers[self.memory.values], [at], PAIR * self.plan.width)

    # -- weights --------------------------------------------------------------------------------

    def _weights_at(self, line: DimLike) -> DimLike:
        return (self._worker * self.plan.rows + line) * self.plan.weight_pitch

    def _shares(self, line: DimLike) -> Value:
        assert self.memory.weights is not None
        return self._view(self.memory.weights, self._weights_at(line))

    @contextmanager
    def _at_row(self, line: DimLike) -> Iterator[None]:
        at = self.e.index(self._weights_at(line))
        with super()._at_row(line), self.e.scope({ROW_OF_WEIGHTS: at}):
            yield

    def _share(self) -> Output:
        assert self.memory.weights is not None
        share = narrow_side(self.a.share)
        assert share is not None
        return Output(self.memory.weights, symbol(ROW_OF_WEIGHTS) + self.a.key.dim, share)

    def _weigh(self) -> None:
        super()._weigh()
        if self.plan.seen % PAIR != 0:
            assert self.memory.weights is not None
            buf = self.e.buffers[self.memory.weights]
            at = self.e.index(symbol(ROW_OF_WEIGHTS) + self.plan.seen)
            self.b.store(self.b.const(0, BF16), buf, at)
