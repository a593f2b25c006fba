"""Sliding windows: depthwise convolution and pooling.

A tile of neighbouring rows x columns of the output stays in registers while all taps are applied,
a few unrolled, so that what the windows of neighbours share is loaded once. Lanes are channels.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfc.compiler.cost.choice import Chooser
from tfc.compiler.cost.expression import estimate, work
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.cost.nest import Slide, window_tiles
from tfc.compiler.lower.compose import Nest
from tfc.compiler.lower.dependence import POSITIONS
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.epilogue import batches, narrowing, part
from tfc.compiler.lower.nest import NestSchedule, parallel_loops
from tfc.compiler.lower.normal import reductions
from tfc.compiler.lower.plan import Plan
from tfc.compiler.target import Target
from tfc.ir.body import Expr, Guard, Iter, Load, Position, Reduce, rewrite, substitute_dims, walk
from tfc.ir.core import Value
from tfc.ir.dims import (
    Dim,
    DimLike,
    ceildiv,
    coefficient,
    floordiv,
    minimum,
    product,
    substitute,
    symbol,
    symbols_of,
)

# So many steps of a tile are unrolled; of more, those of the outer iterators are loops.
MOST_STEPS = 256
# Stands for the finished reduction in an epilogue.
TOTAL = "total"


@dataclass(frozen=True)
class Axis:
    """A tiled output iterator: tiles of `size` starting at the symbol `start`.

    Tiles of a static extent overlap where it does not divide, and are shared out to threads. A
    symbolic extent is run through in one task: whole tiles, then what is left one by one.
    """

    it: Iter
    size: int

    @property
    def start(self) -> Dim:
        return symbol(f"{self.it.name}.start")

    @property
    def is_static(self) -> bool:
        return isinstance(self.it.extent, int)

    @property
    def tiles(self) -> Iter:
        return Iter(f"{self.it.name}t", ceildiv(self.it.extent, self.size))


@dataclass(frozen=True)
class Window:
    """A nest that folds static taps around each element."""

    nest: Nest
    plan: Plan
    reduce: Reduce
    outer: tuple[Iter, ...]
    axes: tuple[Axis, ...]


def match(
    nest: Nest, plan: Plan, target: Target, hints: Mapping[str, int], chooser: Chooser
) -> Window | None:
    """Recognise a window whose lanes are an output iterator and whose tile has overlap."""
    found = reductions(nest)
    if len(found) != 1 or len(nest.outputs) != 1 or plan.inner or plan.lane is None:
        return None
    (reduce,) = found
    taps = product(it.extent for it in reduce.iters)
    if not isinstance(taps, int) or taps < 2 or reduce.kind in POSITIONS:
        return None
    if any(it.extent == 0 for it in plan.rows):
        return None
    if any(isinstance(node, Guard) for node in walk(nest.outputs[0].expr) if node is not reduce):
        return None
    sliding = _sliding(plan.rows, reduce)[-2:]
    if not sliding:
        return None
    static = [slide for it, slide in sliding[:-1] if isinstance(it.extent, int)]
    high = static[0] if static else Slide(1)
    wide = sliding[-1][1]
    wide = wide._replace(extent=max(estimate(sliding[-1][0].extent, hints), 1))
    axes = _axes(
        [it for it, _ in sliding],
        *chooser.choose("tile", window_tiles(machine_of(target), high, wide)),
    )
    names = {axis.it.name for axis in axes}
    outer = tuple(it for it in plan.rows if it.name not in names)
    return Window(nest, plan, reduce, outer, tuple(axes))


def _axes(tiled: list[Iter], high: int, wide: int) -> list[Axis]:
    """Choose tiles: two static axes share the registers, a symbolic one only stands last."""
    static = [it for it in tiled[:-1] if isinstance(it.extent, int)]
    axes = [Axis(it, min(high, it.extent)) for it in static if isinstance(it.extent, int)]
    for it in tiled[-1:]:
        size = wide if axes else high * wide
        axes.append(Axis(it, min(size, it.extent) if isinstance(it.extent, int) else size))
    return axes


def _sliding(rows: tuple[Iter, ...], reduce: Reduce) -> list[tuple[Iter, Slide]]:
    """The iterators whose neighbours' windows overlap: a tap moves what the iterator moves."""
    found = []
    for it in rows:
        for node in walk(reduce.body):
            if not isinstance(node, Load) or len(node.index) != 1:
                continue
            address = node.index[0]
            if not isinstance(address, Dim) or it.name not in symbols_of(address):
                continue
            step = coefficient(address, it.name)
            steps = [(tap, coefficient(address, tap.name)) for tap in reduce.iters]
            if step is None:
                continue
            slides = [_slide(it, step, tap, moved) for tap, moved in steps if _divides(moved, step)]
            if slides:
                found.append((it, slides[0]))
                break
    return found


def _slide(it: Iter, step: DimLike, tap: Iter, moved: DimLike | None) -> Slide:
    """The axis of an iterator that moves by `step` where the tap moves by `moved`."""
    assert moved is not None
    assert isinstance(tap.extent, int)
    stride = floordiv(step, moved)
    extent = it.extent if isinstance(it.extent, int) else 1
    return Slide(extent, tap.extent, stride if isinstance(stride, int) else 1)


def _divides(tap: DimLike | None, step: DimLike) -> bool:
    return tap is not None and tap != 0 and step % tap == 0


def _unrolled(iters: Sequence[Iter], outputs: int) -> tuple[Sequence[Iter], Sequence[Iter]]:
    """Split the taps' iterators into those that are loops and those that are unrolled."""
    position = len(iters)
    while position and product(it.extent for it in iters[position - 1 :]) * outputs <= MOST_STEPS:
        position -= 1
    return iters[:position], iters[position:]


@dataclass(frozen=True)
class _End:
    """What is stored of one output, and where. hole: stands for its total."""

    hole: Expr
    expr: Expr
    address: DimLike


class WindowSchedule:
    """Emits a window nest."""

    def __init__(
        self, emitter: Emitter, window: Window, target: Target, hints: Mapping[str, int]
    ) -> None:
        self.e = emitter
        self.w = window
        self.target = target
        self.hints = hints

    def emit(self) -> None:
        w = self.w
        lane = w.plan.lane
        assert lane is not None
        static = [axis for axis in w.axes if axis.is_static]
        loops = [*w.outer, *(axis.tiles for axis in static)]
        with parallel_loops(self.e, loops, self._cycles(), self.hints):
            starts = {}
            for axis in static:
                first = axis.tiles.dim * axis.size
                starts[str(axis.start)] = self.e.index(minimum(first, axis.it.extent - axis.size))
            with self.e.scope(starts):
                self._run_through([axis for axis in w.axes if not axis.is_static], lane)

    def _run_through(self, symbolic: list[Axis], lane: Iter) -> None:
        """Run the tiles along an axis of symbolic extent, if there is one."""
        general = NestSchedule(self.e, self.w.nest, self.w.plan, self.target, self.hints)
        if not symbolic:
            general.lanes(lane, self.w.plan.width, lambda: self._tile(self.w.axes))
            return
        (axis,) = symbolic
        it = Iter(str(axis.start), axis.it.extent)
        whole = floordiv(it.extent, axis.size) * axis.size
        for lo, hi, size in ((0, whole, axis.size), (whole, it.extent, 1)):
            axes = [Axis(a.it, size) if a is axis else a for a in self.w.axes]
            with self.e.loop(it, lo, hi, size):
                general.lanes(lane, self.w.plan.width, functools.partial(self._tile, axes))

    def _cycles(self) -> float:
        cycles = work(self.w.nest.outputs[0].expr, self.hints)
        for axis in self.w.axes:
            cycles *= axis.size if axis.is_static else estimate(axis.it.extent, self.hints)
        lane = self.w.plan.lane
        extent = lane.extent if lane is not None and isinstance(lane.extent, int) else 64
        return cycles * extent / self.w.plan.width

    def _tile(self, axes: Sequence[Axis]) -> None:
        """All outputs of a tile for one vector of channels."""
        places: list[dict[str, DimLike]] = [
            {axis.it.name: axis.start + i for axis, i in zip(axes, offsets, strict=True)}
            for offsets in itertools.product(*(range(axis.size) for axis in axes))
        ]
        totals = self._totals(places, axes)
        ends = [self._end(place) for place in places]
        split = narrowing(ends[0].expr)
        most = self.target.narrowed_at_once // self.w.plan.width
        if split is None or self.e.lane is None or most < 2:
            for end, total in zip(ends, totals, strict=True):
                self._store(end, self._evaluated(end, total, end.expr))
            return
        for batch in batches(len(ends), most):
            bases = []
            for i in batch:
                own = narrowing(ends[i].expr)
                assert own is not None
                bases.append(self._evaluated(ends[i], totals[i], own.base))
            whole = split.of(self.e.b, bases)
            width = self.e.lane.width
            for position, i in enumerate(batch):
                self._store(ends[i], part(self.e.b, whole, position * width, width))

    def _totals(self, places: Sequence[Mapping[str, DimLike]], axes: Sequence[Axis]) -> list[Value]:
        """The sums of a tile's outputs."""
        start = [value for _ in places for value in self.e.initial(self.w.reduce)]
        return self._fold(*_unrolled(self.w.reduce.iters, len(places)), places, start)

    def _fold(
        self,
        outer: Sequence[Iter],
        inner: Sequence[Iter],
        places: Sequence[Mapping[str, DimLike]],
        totals: list[Value],
    ) -> list[Value]:
        """Fold the taps of the iterators `outer`, in loops, and `inner`, unrolled, into totals."""
        if outer:
            with self.e.loop(outer[0], carried=totals) as (values, following):
                following.extend(self._fold(outer[1:], inner, places, list(values)))
            return values
        reduce = self.w.reduce
        for tap in itertools.product(*(range(int(it.extent)) for it in inner)):  # type: ignore[arg-type]
            at = {it.name: i for it, i in zip(inner, tap, strict=True)}
            following = []
            for place, total in zip(places, totals, strict=True):
                body = substitute_dims(reduce.body, {**at, **place}, {})
                step = Reduce(reduce.kind, (), body, reduce.dtype, reduce.last)
                following += self.e.combine_copies(step, [{}], [total])
            totals = following
        return totals

    def _end(self, place: Mapping[str, DimLike]) -> _End:
        """The epilogue of one output."""
        (output,) = self.w.nest.outputs
        lane = self.w.plan.lane
        assert lane is not None
        # Never evaluated; it says what the total depends on, for epilogues that index with it.
        hole: Expr = Position(symbol(TOTAL) + lane.dim, self.w.reduce.dtype)
        opened = rewrite(output.expr, lambda node: None, {id(self.w.reduce): hole})
        return _End(hole, substitute_dims(opened, place, {}), substitute(output.address, place))

    def _evaluated(self, end: _End, total: Value, expr: Expr) -> Value:
        """Evaluate a part of an epilogue on a total, in a scope of its own."""
        with self.e.scope({TOTAL: total}):
            self.e.remember(end.hole, total)
            return self.e.eval_wide(expr)

    def _store(self, end: _End, element: Value) -> None:
        (output,) = self.w.nest.outputs
        self.e.store(output.value, (end.address,), element)
