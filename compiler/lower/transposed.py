"""Copies that turn data around: what is contiguous where it is read is not where it is stored.

Squares of elements are loaded in vectors one way, transposed in registers, and stored in vectors
the other way, with whatever elementwise work there is between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfc.compiler.lower.compose import Nest
from tfc.compiler.lower.emitter import Emitter, Lane
from tfc.compiler.lower.nest import parallel_loops
from tfc.compiler.lower.plan import compute_bits
from tfc.compiler.target import Target
from tfc.ir.body import Apply, Expr, Iter, Load, Number, walk
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, ceildiv, coefficient, floordiv, minimum, symbols_of
from tfc.ir.loop.build import LoopBuilder

# Vectors of a square, at most: as many are in registers at once.
MOST_LANES = 16
LEAST_LANES = 4
# Cycles of one vector of a square: its share of the shuffles, a load and a store.
VECTOR_CYCLES = 8.0


@dataclass(frozen=True)
class Transposed:
    """A nest that stores along `along` and loads `turned` along `across`, lanes at a time.

    Both are static; the last square of each overlaps the one before it. Where `along` is short, it
    runs on into `beyond`.
    """

    nest: Nest
    turned: Load
    across: Iter
    along: Iter
    lanes: int
    beyond: Iter | None = None

    @property
    def run(self) -> Iter:
        """What is contiguous where it is stored."""
        if self.beyond is None:
            return self.along
        return Iter(f"{self.along.name}r", self.beyond.extent * self.along.extent)


def match(nest: Nest, target: Target) -> Transposed | None:
    """Recognise an elementwise nest with one load that would be a gather.

    The nest must not read what it writes.
    """
    if len(nest.outputs) != 1 or 0 in (it.extent for it in nest.iters):
        return None
    (output,) = nest.outputs
    loads = _loads(output.expr)
    along = next((it for it in nest.iters if coefficient(output.address, it.name) == 1), None)
    if loads is None or along is None:
        return None
    steps = {load: coefficient(load.index[0], along.name) for load in loads}  # type: ignore[arg-type]
    turned = [load for load, step in steps.items() if step not in (0, 1)]
    if len(turned) != 1 or steps[turned[0]] is None:
        return None
    address = turned[0].index[0]
    across = next((it for it in nest.iters if coefficient(address, it.name) == 1), None)  # type: ignore[arg-type]
    if across is None or coefficient(output.address, across.name) is None:
        return None
    bits = max(compute_bits(node.dtype) for node in walk(output.expr))
    lanes = min(target.vector_bits // bits, MOST_LANES)
    beyond = _beyond(nest, loads, along, across, lanes)
    found = Transposed(nest, turned[0], across, along, lanes, beyond)
    sizes = (across.extent, found.run.extent)
    if lanes < LEAST_LANES or any(not isinstance(n, int) or n < lanes for n in sizes):
        return None
    return found


def _beyond(
    nest: Nest, loads: Sequence[Load], along: Iter, across: Iter, lanes: int
) -> Iter | None:
    """What a short iterator runs on into where elements are stored, as phases into columns do.

    No other load may move with either, since what is loaded once is no vector along both.
    """
    short = along.extent
    if not isinstance(short, int) or short >= lanes or lanes % short or len(loads) != 1:
        return None
    address = nest.outputs[0].address
    following = [it for it in nest.iters if coefficient(address, it.name) == short]
    found = [it for it in following if it not in (along, across) and isinstance(it.extent, int)]
    return found[0] if len(found) == 1 else None


def _loads(expr: Expr) -> list[Load] | None:
    """The loads of an elementwise expression, None where it is not one over affine positions."""
    found: dict[Load, None] = {}
    for node in walk(expr):
        if isinstance(node, Load):
            if len(node.index) != 1 or not isinstance(node.index[0], (int, Dim)):
                return None
            if any(coefficient(node.index[0], name) is None for name in symbols_of(node.index[0])):
                return None
            found[node] = None
        elif not isinstance(node, (Apply, Number)):
            return None
    return list(found)


def transpose(b: LoopBuilder, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square of as many vectors as lanes."""
    lanes, values = len(rows), list(rows)
    step = 1
    while step < lanes:
        low = [k if k & step == 0 else lanes + k - step for k in range(lanes)]
        high = [k + step if k & step == 0 else lanes + k for k in range(lanes)]
        for i in range(lanes):
            if i & step == 0:
                x, y = values[i], values[i + step]
                values[i], values[i + step] = b.shuffle(x, y, low), b.shuffle(x, y, high)
        step *= 2
    return values


class TransposedSchedule:
    """Emits such a nest."""

    def __init__(self, emitter: Emitter, found: Transposed, hints: Mapping[str, int]) -> None:
        self.e = emitter
        self.found = found
        self.hints = hints

    def emit(self) -> None:
        found = self.found
        across, along = (
            Iter(f"{it.name}t", ceildiv(it.extent, found.lanes)) for it in (found.across, found.run)
        )
        inside = (found.across, found.along, found.beyond)
        others = [it for it in found.nest.iters if it not in inside]
        cycles = found.lanes * VECTOR_CYCLES
        loops = [it for it in (*others, across, along) if it.extent != 1]
        units = {it.name: self.e.index(0) for it in (*others, across, along) if it.extent == 1}
        with parallel_loops(self.e, loops, cycles, self.hints), self.e.scope(units):
            self._square(self._start(found.across, across), self._start(found.run, along))

    def _start(self, it: Iter, tiles: Iter) -> DimLike:
        start = tiles.dim * self.found.lanes
        if it.extent % self.found.lanes == 0:
            return start
        return minimum(start, it.extent - self.found.lanes)

    def _at(self, column: DimLike, step: int) -> dict[str, Value]:
        """The iterators of a place along the run."""
        e, found = self.e, self.found
        if found.beyond is None:
            return {found.along.name: e.index(column + step)}
        # A square begins with a whole one of what runs on.
        size = found.along.extent
        assert isinstance(size, int)
        later, within = divmod(step, size)
        whole = floordiv(column, size)
        return {found.beyond.name: e.index(whole + later), found.along.name: e.index(within)}

    def _square(self, first: DimLike, column: DimLike) -> None:
        e, found = self.e, self.found
        across, lanes = found.across.name, found.lanes
        rows = []
        with e.vectorised(Lane(across, lanes)):
            for i in range(lanes):
                with e.scope({across: e.index(first), **self._at(column, i)}):
                    rows.append(e.eval_wide(found.turned))
        (output,) = found.nest.outputs
        with e.vectorised(Lane(found.along.name, lanes)):
            for i, value in enumerate(transpose(e.b, rows)):
                with e.scope({across: e.index(first + i), **self._at(column, 0)}):
                    e.remember(found.turned, value)
                    e.store(output.value, (output.address,), e.eval_wide(output.expr))
