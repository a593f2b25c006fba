"""The kernel of Strassen's product: what `strassen.Plan` says, emitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tfc.compiler.cost import contraction as cost
from tfc.compiler.lower.emitter import Emitter, Lane
from tfc.compiler.lower.nest import decoded
from tfc.compiler.lower.planes import Memory, PlaneSchedule
from tfc.compiler.lower.strassen import (
    PAIRS,
    SINGLES,
    Plan,
    left_sums,
    quarters,
)
from tfc.ir.body import Iter
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, floordiv, minimum, substitute, symbol
from tfc.ir.types import F32, I32, I64, VectorType

# The bits of floats: infinity, and the least and the most that rows are divided by.
_INFINITY = 255 << 23
_LEAST, _MOST = 1 << 23, 253 << 23
_SIGN = -(1 << 31)


class StrassenSchedule(PlaneSchedule[Plan]):
    """Emits the kernel of a plan."""

    def __init__(
        self,
        emitter: Emitter,
        plan: Plan,
        memory: Memory,
        hints: Mapping[str, int],
        streamed: bool,
    ) -> None:
        super().__init__(emitter, plan, memory, hints, streamed)
        self.right = emitter.buffers[memory.scratch["right"]]
        self.input = Iter("input.w", plan.inputs)
        self.part = Iter("part.w", plan.parts)
        self.wide = VectorType(F32, plan.lanes)

    def left_cycles(self) -> float:
        return cost.strassen_left(self.plan.inputs, self.plan.lanes)

    def product_cycles(self) -> float:
        return cost.strassen_right(self.plan.vectors)

    def _rows(self) -> list[dict[str, Value]]:
        """The row iterators at both rows of the current tile."""
        tiles, height = self.plan.tiles, self.plan.height
        first = self.flat_tile()
        second = first + tiles
        if height % 2:
            second = first + floordiv(height - 1 - first, tiles) * tiles
        return [self._row_at(row) for row in (first, second)]

    def _row_at(self, row: DimLike) -> dict[str, Value]:
        rows = self.plan.contraction.rows
        flat = Iter("flat.w", self.plan.height)
        with self.e.scope({flat.name: self.e.index(row)}), decoded(self.e, flat, rows):
            return {it.name: self.e.index(it.dim) for it in rows}

    # -- the left side --------------------------------------------------------------------------

    def transform_left(self) -> None:
        """Scale two rows, so that their largest number is from 1 to 2, and write their sums."""
        plan = self.plan
        views = [self._source(row) for row in self._rows()]
        scales = [self._scale(view, i) for i, view in enumerate(views)]
        zero = self.b.const(0, self.wide)
        at = self.left_base + self.tile.dim * plan.pitch
        with self.e.loop(self.input, step=plan.lanes):
            halves: list[Value] = []
            for view, (finite, scale) in zip(views, scales, strict=True):
                for value in self._halves(view):
                    halves.append(self.b.select(finite, self.b.mul(value, scale), zero))
            for i, value in enumerate(left_sums(self.b, halves)):
                place = self.e.index(at + self._first_input + i * plan.left_plane)
                self.b.vstore(value, self.left, [place])

    @property
    def _first_input(self) -> DimLike:
        plan = self.plan
        inside = plan.inputs % plan.lanes == 0
        return self.input.dim if inside else minimum(self.input.dim, plan.inputs - plan.lanes)

    def _source(self, row: Mapping[str, Value]) -> Value:
        """A view of the left side that starts with a row."""
        left = self.plan.contraction.left
        buffer = self.e.buffers[left.load.value]
        origin = substitute(left.address, {self.plan.reduced.name: 0})
        with self.e.scope(row):
            return self.b.view(buffer, self.e.index(origin), buffer.type)  # type: ignore[arg-type]

    def _halves(self, view: Value) -> list[Value]:
        """A vector of each half of a row."""
        starts = (self._first_input, self._first_input + self.plan.inputs)
        return [self.b.vload(view, [self.e.index(at)], self.plan.lanes) for at in starts]

    def _scale(self, view: Value, which: int) -> tuple[Value, Value]:
        """Whether a row is finite, and what to multiply it by; keeps what that divides out.

        A row that is not finite stays out of the sums, and its outputs will be NaN.
        """
        b, plan = self.b, self.plan
        zero = b.const(0, self.wide)
        with self.e.loop(self.input, step=plan.lanes, carried=[zero]) as (largest, following):
            one, other = (b.abs(value) for value in self._halves(view))
            following.append(b.max(largest[0], b.max(one, other)))
        bits = b.bitcast(b.reduce("max", largest[0]), I32)
        exponent = b.and_(bits, b.const(_INFINITY, I32))
        finite = b.lt(exponent, b.const(_INFINITY, I32))
        # What they are powers of is normal, and so are their reciprocals.
        kept = b.min(b.max(exponent, b.const(_LEAST, I32)), b.const(_MOST, I32))
        power = b.select(finite, b.bitcast(kept, F32), b.const(float("nan"), F32))
        power = b.select(b.eq(bits, b.const(0, I32)), b.const(0, F32), power)
        at = self.left_base + plan.powers_at + 2 * self.tile.dim + which
        b.store(power, self.left, self.e.index(at))
        scale = b.bitcast(b.sub(b.const(_LEAST + _MOST, I32), kept), F32)
        return b.splat(finite, plan.lanes), b.splat(scale, plan.lanes)

    # -- products -------------------------------------------------------------------------------

    def multiply(self) -> None:
        """Multiply by chunks of inputs, whose four quarters stay in the second-level cache.

        The first register tile of a plane adds quarters of weights while it uses them, and keeps
        the sums for the others.
        """
        plan, part = self.plan, self.part
        first = part.dim * plan.chunk
        past = minimum(first + plan.chunk, plan.inputs)
        pairs, singles = Iter("plane.w", len(PAIRS)), Iter("single.w", len(SINGLES))
        table = self.b.table([float(x) for pair in PAIRS for x in pair], F32)
        with self.e.loop(part):
            with self.e.loop(pairs):
                one, other, sign = (
                    self.b.load(table, self.e.index(pairs.dim * 3 + i)) for i in range(3)
                )
                offsets = [self._quarter(self.b.cast(x, I64)) for x in (one, other)]
                flip = self.b.and_(self.b.bitcast(sign, I32), self.b.const(_SIGN, I32))
                with self.e.scope({self.turn.name: self.e.index(0)}):
                    self._add(self.tile_sum(first, past, self._summed(offsets, flip)))
                with self.e.loop(self.turn, 1):
                    self._add(self.tile_sum(first, past, self._kept))
            with self.e.loop(singles):
                plane = singles.dim + len(PAIRS)
                at = {
                    self.plane.name: self.e.index(plane),
                    "quarter.w": self.e.index(singles.dim * 3),
                }
                with self.e.scope(at), self.e.loop(self.turn):
                    self._add(self.tile_sum(first, past, self._plain))

    def _quarter(self, which: Value) -> Value:
        """A view of a quarter's weights in the current panel and chunk."""
        size = self.e.index(self.plan.right_size)
        at = self.b.add(self.e.index(self._group), self.b.mul(which, size))
        return self.b.view(self.weights, at, self.weights.type)  # type: ignore[arg-type]

    @property
    def _group(self) -> DimLike:
        return (self.panel.dim * self.plan.parts + self.part.dim) * self.plan.group

    def _at(self, step: DimLike) -> DimLike:
        """The position of an input's weights in its chunk."""
        return (step - self.part.dim * self.plan.chunk) * self.plan.columns

    @property
    def _right_base(self) -> DimLike:
        return self.worker * self.plan.right_size

    def _summed(self, quarters: Sequence[Value], flip: Value) -> Callable[[DimLike], list[Value]]:
        """The sums of two quarters; flip: the sign bit where the second one is subtracted."""
        b, plan = self.b, self.plan
        mask = b.splat(flip, plan.lanes)

        def right(step: DimLike) -> list[Value]:
            at = self._at(step)
            ones, others = (self.panel_of(quarter, at) for quarter in quarters)
            sums = []
            for i, (one, other) in enumerate(zip(ones, others, strict=True)):
                signed = b.bitcast(b.xor(b.bitcast(other, I32), mask), F32)
                sums.append(b.add(one, signed))
                place = self.e.index(self._right_base + at + i * plan.lanes)
                b.vstore(sums[-1], self.right, [place])
            return sums

        return right

    def _kept(self, step: DimLike) -> list[Value]:
        """The sums that the first register tile kept; also fetches a share of the next chunk."""
        plan = self.plan
        at = self._at(step)
        if self.streamed:
            share = -(-4 * plan.columns // (len(PAIRS) * (plan.turns - 1)))
            turn = self.plane.dim * (plan.turns - 1) + self.turn.dim - 1
            position = (turn * plan.chunk + step - self.part.dim * plan.chunk) * share
            for first in range(0, share, plan.lanes):
                ahead = self._group + plan.group + position + first
                self.b.prefetch(self.weights, self.e.index(ahead))
        return self.panel_of(self.right, self._right_base + at)

    def _plain(self, step: DimLike) -> list[Value]:
        """A quarter of the weights."""
        quarter = self._group + symbol("quarter.w") * self.plan.right_size
        return self.panel_of(self.weights, quarter + self._at(step))

    def _add(self, sums: Sequence[Value]) -> None:
        """Store a chunk's products, or add them to those of the chunks before."""
        if self.plan.parts == 1:
            self.store(sums)
            return
        first = self.b.eq(self.e.index(self.part.dim), self.e.index(0))
        with self.b.if_(first), self.e.scope({}):
            self.store(sums)
        with self.b.if_(self.b.not_(first)), self.e.scope({}):
            self.accumulate(sums)

    # -- outputs --------------------------------------------------------------------------------

    def transform_products(self) -> None:
        """Make a vector of outputs in each quarter of the result, and finish them.

        The second row is stored first, since it may stand where the first one belongs.
        """
        plan = self.plan
        n = plan.contraction.n
        rows = self._rows()
        powers_at = self.left_base + plan.powers_at + 2 * self.tile.dim
        rows_by = [
            self.b.splat(self.b.load(self.left, self.e.index(powers_at + i)), plan.lanes)
            for i in range(2)
        ]
        with self.e.loop(self.vector, step=plan.lanes):
            found = quarters(self.b, self.products_at())
            for half in range(2):
                column = self.first_column + self.vector.dim + half * plan.outputs
                by = self.b.vload(
                    self.weights, [self.e.index(plan.weight_size + column)], plan.lanes
                )
                at = {n.name: self.e.index(column)}
                with self.e.scope(at), self.e.vectorised(Lane(n.name, plan.lanes)):
                    for row in (1, 0):
                        total = self.b.mul(self.b.mul(found[2 * row + half], by), rows_by[row])
                        self._finish(rows[row], total)

    def _finish(self, row: Mapping[str, Value], total: Value) -> None:
        """Evaluate the epilogue on one vector of outputs and store it."""
        c = self.plan.contraction
        (output,) = c.nest.outputs
        with self.e.scope(row):
            self.e.remember(c.reduce, total)
            element = self.e.eval_wide(output.expr)
            self.e.store(output.value, (output.address,), element)
