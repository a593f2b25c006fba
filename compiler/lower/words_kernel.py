"""The kernel of a contraction by words. How these lie and when they are used: `words`.

Each number becomes the float that it is, exactly, less a zero and times a scale of its block where
it has these: in registers, or of many rows in memory, a panel at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tfc.compiler.cost.contraction import MAX_SETS
from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.contract import Tile, column_of
from tfc.compiler.lower.contract_kernel import ContractionSchedule, multiply_add
from tfc.compiler.lower.contract_sides import Factor
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.nest import parallel_loops, worker_of
from tfc.compiler.lower.words import Panel, WordPlan
from tfc.compiler.target import Target
from tfc.ir.body import Iter, Load
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, product, substitute
from tfc.ir.types import F32, U32, VectorType

# A float whose last bits are a whole number, which taking it off again leaves.
WHOLES = 1 << 23
WHOLES_BITS = 0x4B000000
# Sums of blocks are multiplied by their scales where registers hold them beside the totals.
BLOCK_SUMS = 8
# How many words of a column are asked for in advance.
WORDS_AHEAD = 32


class WordSchedule(ContractionSchedule):
    """Emits a contraction by words."""

    def __init__(
        self,
        emitter: Emitter,
        plan: WordPlan,
        hints: Mapping[str, int],
        streamed: bool,
        target: Target,
    ) -> None:
        super().__init__(emitter, plan.c, plan.tile, hints, True, streamed, target)
        self.plan = plan
        self.words = plan.words
        self.steps_at_once = plan.words.count
        self.blocks = plan.c.right.blocks
        self.lanes = VectorType(U32, plan.tile.lanes)
        # Of the current block, for each vector of columns.
        self._offsets: list[Value] = []
        self._scales: list[Value] = []

    def emit(self) -> None:
        panel, rows = self.plan.panel, self.plan.rows
        if panel is None:
            super().emit()
            return
        outer = [*self.c.batch, self.panel]
        units = {it.name: self.e.index(0) for it in outer if it.extent == 1}
        tiles = estimate(product(it.extent for it in (*self.c.rows[:-2], *self.tiles)), self.hints)
        loops = [it for it in outer if it.extent != 1]
        cycles = self._cycles() * max(tiles, 1)
        with parallel_loops(self.e, loops, cycles, self.hints), self.e.scope(units):
            if isinstance(rows, int):
                self._by_floats(panel)
                return
            many = self.b.gt(self.e.index(rows), self.e.index(self.plan.few))
            self._either(many, lambda: self._by_floats(panel), self.emit_rows)

    def _by_floats(self, panel: Panel) -> None:
        """Unpack the current panel, and multiply all rows by it."""
        base = worker_of(self.e) * panel.size
        self._unpack(list(self.c.reduced), panel, base)
        load = panel.c.right.load
        load = Load(load.value, (panel.c.right.address + base,), load.dtype)
        c = replace(panel.c, right=replace(panel.c.right, load=load))
        ContractionSchedule(self.e, c, panel.tile, self.hints, True, False, self.target).emit_rows()

    def _unpack(self, iters: list[Iter], panel: Panel, base: DimLike) -> None:
        if len(self.c.reduced) - len(iters) == self.plan.depth:
            self._enter_block()
        if len(iters) > 1:
            with self.e.loop(iters[0]):
                self._unpack(iters[1:], panel, base)
            return
        full, rest = divmod(self.plan.steps, self.words.count)
        with self.e.loop(iters[0], 0, full):
            self._unpack_word(panel.at + base, panel.memory, self.words.count)
        if rest:
            with self.e.scope({iters[0].name: self.e.index(full)}):
                self._unpack_word(panel.at + base, panel.memory, rest)

    def _unpack_word(self, at: DimLike, memory: Value, count: int) -> None:
        """Store the first `count` steps of a word of each column."""
        for v in range(self.tile.vectors):
            word = self._load_word(v)
            for step in range(count):
                number = self._number(word, step, v, bool(self._scales))
                place = at + step * self.tile.block + v * self.tile.lanes
                self.b.vstore(number, self.e.buffers[memory], [self.e.index(place)])

    def _sums_blocks(self, rows: int) -> bool:
        return self.blocks is not None and rows * self.tile.vectors <= BLOCK_SUMS

    def _sets(self, tile: Tile) -> int:
        return 1 if self._sums_blocks(tile.th * tile.tw) else min(tile.sets, self.words.count)

    def _sum(self, iters: list[Iter], lefts: list[Value], carried: list[Value]) -> list[Value]:
        if len(self.c.reduced) - len(iters) != self.plan.depth:
            return super()._sum(iters, lefts, carried)
        self._enter_block()
        if not self._sums_blocks(len(lefts)):
            return super()._sum(iters, lefts, carried)
        size, vectors = len(carried), self.tile.vectors
        sets = max(min(MAX_SETS, BLOCK_SUMS // size, self.words.count), 1)
        zero = self.b.const(0, VectorType(F32, self.tile.lanes))
        sums = super()._sum(iters, lefts, [zero] * (size * sets))
        for at in range(size, len(sums)):
            sums[at % size] = self.b.add(sums[at % size], sums[at])
        return [
            self.b.fma(sums[at], self._scales[at % vectors], total)
            for at, total in enumerate(carried)
        ]

    def _enter_block(self) -> None:
        """Load what the steps of a block share."""
        vectors = range(self.tile.vectors)
        base = self.b.const(WHOLES - self.words.base, VectorType(F32, self.tile.lanes))
        self._offsets, self._scales = [base for _ in vectors], []
        if self.blocks is None:
            return
        self._scales = [self._shared(self.blocks.scale, v) for v in vectors]
        zero = self.blocks.zero
        if zero is not None:
            self._offsets = [self.b.add(self._shared(zero, v), base) for v in vectors]

    def _address(self, factor: Factor, vector: int) -> Value:
        column = column_of(self.c.n, self.tile.block).name
        return self.e.index(substitute(factor.address, {column: vector * self.tile.lanes}))

    def _shared(self, factor: Factor, vector: int) -> Value:
        buffer = self.e.buffers[factor.load.value]
        found = self.b.vload(buffer, [self._address(factor, vector)], self.tile.lanes)
        return self.b.cast(found, F32)

    def _innermost(self, it: Iter, lefts: list[Value], carried: list[Value]) -> list[Value]:
        full, rest = divmod(self.plan.steps, self.words.count)
        values = carried
        if full:
            with self.e.loop(it, 0, full, 1, carried) as (values, following):
                following.extend(self._word(lefts, values, self.words.count))
        if rest:
            with self.e.scope({it.name: self.e.index(full)}):
                values = self._word(lefts, values, rest)
        return values

    def _word(self, lefts: list[Value], carried: Sequence[Value], count: int) -> list[Value]:
        """Multiply and add the first `count` steps of a word of each column."""
        words = [self._load_word(v) for v in range(self.tile.vectors)]
        size = len(lefts) * self.tile.vectors
        sets = len(carried) // size
        following = list(carried)
        scaled = bool(self._scales) and not self._sums_blocks(len(lefts))
        for step in range(count):
            row = [self._number(word, step, v, scaled) for v, word in enumerate(words)]
            at = self._left_offset(step * self.plan.stride)
            column = [self.b.cast(self.b.load(left, at), self.c.left.dtype) for left in lefts]
            first = step % sets * size
            following[first : first + size] = multiply_add(
                self.b, column, row, following[first : first + size]
            )
        return following

    def _load_word(self, vector: int) -> Value:
        factor = self.c.right
        buffer = self.e.buffers[factor.load.value]
        at = self._address(factor, vector)
        if self.streamed:
            ahead = self.b.add(at, self.e.index(WORDS_AHEAD * self.tile.block))
            self.b.prefetch(buffer, ahead)
        return self.b.vload(buffer, [at], self.tile.lanes)

    def _number(self, word: Value, step: int, vector: int, scaled: bool) -> Value:
        """What a word holds of a step, as floats."""
        shift = step * self.words.bits
        if shift:
            word = self.b.shr(word, self.b.const(shift, self.lanes))
        if shift + self.words.bits < U32.bits:
            mask = self.b.const((1 << self.words.bits) - 1, self.lanes)
            word = self.b.and_(word, mask)
        word = self.b.or_(word, self.b.const(WHOLES_BITS, self.lanes))
        number = self.b.sub(self.b.bitcast(word, F32), self._offsets[vector])
        return self.b.mul(number, self._scales[vector]) if scaled else number
