"""Windows of bytes by constant bytes, as depthwise convolutions: four taps of a row in one `dot`.

Neighbouring pixels are interleaved, channel by channel, once for all outputs of a tile. Of four
pixels an output may need some; the others have weights of 0, so an output takes the groups that
its taps lie in, by weights moved to where it begins.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfc.compiler.cost.choice import Chooser
from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.compose import Nest
from tfc.compiler.lower.contract import Array, constant_view, stride_of
from tfc.compiler.lower.contract_sides import Factor, factors
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.epilogue import joined
from tfc.compiler.lower.nest import masks_tail
from tfc.compiler.lower.plan import Plan
from tfc.compiler.lower.window import Axis, Window, WindowSchedule, match
from tfc.compiler.target import Target
from tfc.ir.body import Iter, Reduce, rewrite
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, coefficient, product, substitute, symbols_of
from tfc.ir.loop.nodes import DOTS
from tfc.ir.types import U8

GROUP = 4
MOST_TAPS = 64
# Instructions that interleave a group, and how many dots a tile may be unrolled to.
INTERLEAVE, MOST_DOTS = 5, 256
# Instructions from a sum to the byte that is stored, and how many are issued a cycle.
END, ISSUED = 10, 2.5
# Registers beside the accumulators, and the most outputs along an axis of a tile.
SPARED, MOST_SIZE = 8, 8


@dataclass(frozen=True)
class DotWindow:
    """A window whose sum is `left` by constant weights.

    tap: the reduced iterator that moves as the last tiled axis does, whose neighbours are `step`
    taps apart. rest: the other reduced iterators. The window's own reduction is of `left` alone.
    """

    window: Window
    left: Factor
    right: Factor
    tap: Iter
    step: int
    rest: tuple[Iter, ...]

    @property
    def taps(self) -> int:
        assert isinstance(self.tap.extent, int)
        return self.tap.extent

    @property
    def lane(self) -> Iter:
        assert self.window.plan.lane is not None
        return self.window.plan.lane

    @property
    def columns(self) -> int:
        """The outputs of a tile along the axis."""
        return self.window.axes[-1].size

    def groups(self, column: int) -> range:
        """The groups of pixels that an output of the tile takes."""
        first = column * self.step
        return range(first // GROUP, (first + self.taps - 1) // GROUP + 1)

    @property
    def variants(self) -> list[tuple[int, int]]:
        """Each column with each of its groups: what weights are laid out for."""
        return [(j, group) for j in range(self.columns) for group in self.groups(j)]

    def with_nest(self, nest: Nest) -> DotWindow:
        return replace(self, window=replace(self.window, nest=nest))

    def of_size(self, high: int, wide: int) -> DotWindow:
        """The same with tiles of `high` by `wide` outputs."""
        sizes = (high, wide)[-len(self.window.axes) :]
        axes = tuple(Axis(a.it, n) for a, n in zip(self.window.axes, sizes, strict=True))
        return replace(self, window=replace(self.window, axes=axes))

    def rows(self, high: int) -> dict[DimLike, list[tuple[int, int]]]:
        """Where the rows of pixels lie that `high` outputs read, from the first one on.

        With each, the outputs that it is for, and by which of the other taps.
        """
        apart = stride_of(self.left.address, self.window.axes[0].it)
        found: dict[DimLike, list[tuple[int, int]]] = {}
        for number, tap in enumerate(
            itertools.product(*(range(_int(it.extent)) for it in self.rest))
        ):
            steps = zip(self.rest, tap, strict=True)
            offset: DimLike = sum(stride_of(self.left.address, it) * i for it, i in steps)
            for i in range(high):
                found.setdefault(offset + apart * i, []).append((i, number))
        return found

    def counts(self, rows: Mapping[DimLike, Sequence[tuple[int, int]]]) -> tuple[int, int]:
        """How many groups of pixels a tile of such `rows` reads, and how many dots it takes."""
        groups = len(rows) * len({group for _, group in self.variants})
        return groups, sum(map(len, rows.values())) * len(self.variants)

    @property
    def padded(self) -> int:
        """How many lanes the weights are laid out for."""
        assert isinstance(self.lane.extent, int)
        width = self.window.plan.width
        return math.ceil(self.lane.extent / width) * width


def find(nest: Nest, plan: Plan, target: Target) -> DotWindow | None:
    """Recognise a window of bytes by bytes where `dot` is an instruction."""
    if not target.multiplies_bytes or not target.has_dot(U8, plan.width):
        return None
    window = match(nest, plan, target, {}, Chooser())
    if window is None or product(it.extent for it in window.reduce.iters) > MOST_TAPS:
        return None
    sides = factors(window.reduce)
    if sides is None:
        return None
    sides = sides if sides[0].load.dtype == U8 else (sides[1], sides[0])
    left, right = sides
    sums = DOTS.get((left.load.dtype, right.load.dtype))
    lane = window.plan.lane
    assert lane is not None
    if (
        window.reduce.kind != "sum"
        or sums != window.reduce.dtype
        or not isinstance(lane.extent, int)
    ):
        return None
    rest = lane.extent % plan.width
    if rest and not masks_tail(target, rest):
        return None
    own = {lane.name, *(it.name for it in window.reduce.iters)}
    fixed = symbols_of(right.address) <= own
    if not fixed or coefficient(left.address, lane.name) != 1:
        return None
    axis = window.axes[-1]
    for tap in window.reduce.iters:
        step = _step(left, axis.it, tap)
        if step:
            others = tuple(it for it in window.reduce.iters if it is not tap)
            found = DotWindow(_of_left(window, left), left, right, tap, step, others)
            return _tiled(found, target)
    return None


def _step(left: Factor, along: Iter, tap: Iter) -> int:
    """How many taps apart neighbours along an axis are; 0 where it is no whole number."""
    apart, own = coefficient(left.address, along.name), coefficient(left.address, tap.name)
    if not isinstance(apart, int) or not isinstance(own, int) or own <= 0 or apart % own:
        return 0
    return apart // own


def _of_left(window: Window, left: Factor) -> Window:
    """The window with a reduction that reads the left side alone."""
    old = window.reduce
    new = Reduce(old.kind, old.iters, left.load, old.dtype, old.last)
    (output,) = window.nest.outputs
    expr = rewrite(output.expr, lambda node: None, {id(old): new})
    nest = replace(window.nest, outputs=(replace(output, expr=expr),))
    return replace(window, nest=nest, reduce=new)


def _tiled(found: DotWindow, target: Target) -> DotWindow:
    """Choose the sizes of the tile that take the fewest instructions for each output."""
    axes = found.window.axes
    most = [a.it.extent if isinstance(a.it.extent, int) else MOST_SIZE for a in axes]
    best: tuple[float, DotWindow] | None = None
    for high in range(1, min(most[0], MOST_SIZE) + 1) if len(axes) > 1 else [1]:
        rows = found.rows(high)
        for wide in range(1, min(most[-1], MOST_SIZE) + 1):
            if high * wide > target.vector_registers - SPARED:
                break
            tiled = found.of_size(high, wide)
            groups, dots = tiled.counts(rows)
            used = [n / (math.ceil(n / axis.size) * axis.size)
                    for n, axis in zip(most, tiled.window.axes, strict=True)]  # fmt: skip
            cost = (INTERLEAVE * groups + dots) / (high * wide * math.prod(used))
            if dots <= MOST_DOTS and (best is None or cost < best[0]):
                best = cost, tiled
    return best[1] if best is not None else found.of_size(1, 1)


def pack(found: DotWindow, flat: Array) -> Array:
    """The weights as [other taps][column and group][lane][tap in the group]."""
    lane, taps = found.lane, found.taps
    source = constant_view(found.right.address, (lane, *found.rest, found.tap), flat)
    source = source.reshape(source.shape[0], -1, taps)
    packed = np.zeros((source.shape[1], len(found.variants), found.padded, GROUP), flat.dtype)
    for variant, (column, group) in enumerate(found.variants):
        for i in range(GROUP):
            tap = group * GROUP + i - column * found.step
            if 0 <= tap < taps:
                packed[:, variant, : source.shape[0], i] = source[:, :, tap].T
    return packed.reshape(-1)


class DotWindowSchedule(WindowSchedule):
    """Emits such a window. weights: the buffer of what `pack` made."""

    def __init__(
        self,
        emitter: Emitter,
        found: DotWindow,
        weights: Value,
        target: Target,
        hints: Mapping[str, int],
    ) -> None:
        super().__init__(emitter, found.window, target, hints)
        self.found = found
        self.weights = weights

    def _cycles(self) -> float:
        axes = self.w.axes
        groups, dots = self.found.counts(self.found.rows(axes[0].size if len(axes) > 1 else 1))
        outputs = math.prod(axis.size for axis in axes)
        vectors = self.found.padded // self.w.plan.width
        cycles = (INTERLEAVE * groups + dots + END * outputs) / ISSUED * vectors
        for axis in axes:
            if not axis.is_static:
                cycles *= estimate(axis.it.extent, self.hints) / axis.size
        return cycles

    def _totals(self, places: Sequence[Mapping[str, DimLike]], axes: Sequence[Axis]) -> list[Value]:
        found = self.found.of_size(axes[0].size, axes[-1].size)
        laid_out = {variant: number for number, variant in enumerate(self.found.variants)}
        columns = axes[-1].size
        totals = [self.e.initial(self.w.reduce)[0] for _ in places]
        for offset, uses in found.rows(axes[0].size if len(axes) > 1 else 1).items():
            for group in dict.fromkeys(group for _, group in found.variants):
                pixels = self._pixels(offset, group, axes)
                for row, tap in uses:
                    for column in range(columns):
                        variant = laid_out.get((column, group))
                        if variant is not None:
                            at = row * columns + column
                            weights = self._weights(tap * len(laid_out) + variant)
                            totals[at] = self.e.b.dot(pixels, weights, totals[at])
        return totals

    def _pixels(self, offset: DimLike, group: int, axes: Sequence[Axis]) -> Value:
        """A group of neighbouring pixels, side by side for each channel."""
        b, lane, left = self.e.b, self.e.lane, self.found.left
        assert lane is not None
        start: dict[str, DimLike] = {it.name: 0 for it in (self.found.tap, *self.found.rest)}
        start |= {axis.it.name: axis.start for axis in axes}
        base = substitute(left.address, start) + offset
        apart = stride_of(left.address, self.found.tap)
        # What lies behind the last pixel that is needed has weights of 0, as any pixel may have.
        last = (axes[-1].size - 1) * self.found.step + self.found.taps - 1
        buf, parts = self.e.buffers[left.load.value], []
        for i in range(group * GROUP, (group + 1) * GROUP):
            at = self.e.index(base + apart * min(i, last))
            parts.append(b.vload(buf, [at], lane.width, mask=lane.mask))
        low, high = (joined(b, pair) for pair in (parts[:2], parts[2:]))
        order = [i * lane.width + c for c in range(lane.width) for i in range(GROUP)]
        return b.shuffle(low, high, order)

    def _weights(self, number: int) -> Value:
        lane = self.e.lane
        assert lane is not None
        at = (self.found.lane.dim + number * self.found.padded) * GROUP
        buf = self.e.buffers[self.weights]
        return self.e.b.vload(buf, [self.e.index(at)], lane.width * GROUP)


def _int(dim: DimLike) -> int:
    assert isinstance(dim, int), "taps are static"
    return dim
