"""Plans a nest: which iterators run outside and inside a row, and which one is vectorised."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tfc.compiler.cost import nest as cost
from tfc.compiler.cost.choice import Candidate, Chooser, best_first
from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.compose import Nest
from tfc.compiler.lower.dependence import POSITIONS, Names
from tfc.compiler.lower.normal import reductions
from tfc.compiler.target import Target
from tfc.ir.body import Expr, Iter, Keep, Load, walk
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, coefficient, product, symbols_of
from tfc.ir.types import DType

MAX_LANES = 64


@dataclass(frozen=True)
class Plan:
    """How a nest runs: loops outside a row, loops inside it, and what is vectorised."""

    rows: tuple[Iter, ...]
    inner: tuple[Iter, ...]
    lane: Iter | None
    width: int


class Planner:
    """Plans one nest. free_layout: constants, which can be laid out as the plan likes."""

    def __init__(
        self,
        nest: Nest,
        target: Target,
        hints: Mapping[str, int],
        free_layout: Collection[Value] = (),
        chooser: Chooser | None = None,
    ) -> None:
        self.nest = nest
        self.chooser = chooser or Chooser()
        self.target = target
        self.hints = hints
        self.free_layout = free_layout
        self.reduces = reductions(nest)
        self.free = Names().free

    def plan(self) -> Plan:
        order = self._storage_order()
        names: set[str] = set()
        for reduce in self.reduces:
            names |= self.free(reduce)
        rows = [it for it in order if it.name in names]
        inner = [it for it in order if it.name not in names]
        width = self._max_width()
        if not self.reduces:
            rows, inner = order[:-1], order[-1:]
            lane = self._best_lane(order)
            if lane is not None and lane not in inner:
                rows, inner = [it for it in order if it is not lane], [lane]
            return self._make(rows, inner, lane, width)
        lane = self._row_lane(rows, width)
        if lane is not None:
            rows.remove(lane)
        return self._make(rows, inner, lane, width)

    def _make(
        self, rows: Sequence[Iter], inner: Sequence[Iter], lane: Iter | None, width: int
    ) -> Plan:
        if lane is not None and isinstance(lane.extent, int):
            width = min(width, power_above(lane.extent))
        return Plan(tuple(rows), tuple(inner), lane if width > 1 else None, width)

    def _storage_order(self) -> list[Iter]:
        address = self.nest.outputs[0].address

        def stride(it: Iter) -> int:
            step = coefficient(address, it.name)
            return estimate(step, self.hints) if step is not None else 0

        return sorted(self.nest.iters, key=stride, reverse=True)

    def _max_width(self) -> int:
        """Lanes of a vector of the widest element type that is computed with."""
        bits = max(compute_bits(output.expr.dtype) for output in self.nest.outputs)
        for reduce in self.reduces:
            bits = max(bits, compute_bits(reduce.dtype if reduce.kind not in POSITIONS
                                           else reduce.body.dtype))  # fmt: skip
        return min(self.target.vector_bits // bits, MAX_LANES)

    def _steps(self, name: str) -> Iterator[tuple[DimLike | None, bool]]:
        """For every access that moves with `name`: its stride, and whether it is a store."""
        seen: set[int] = set()
        for output in self.nest.outputs:
            if name in symbols_of(output.address):
                yield coefficient(output.address, name), True
            for node in walk(output.expr):
                if id(node) in seen or not isinstance(node, (Load, Keep)):
                    continue
                seen.add(id(node))
                if name in self.free(node):
                    yield self._step(node, name), False

    def _step(self, node: Load | Keep, name: str) -> DimLike | None:
        """The stride of a load along `name`; 1 where the constant will be laid out for it."""
        dynamic = dynamic_entries(node)
        if any(name in self.free(entry) for entry in dynamic):
            return None
        fixed = node.index[0]
        assert isinstance(fixed, (int, Dim))
        step = coefficient(fixed, name)
        free = node.value in self.free_layout and not dynamic and step is not None
        return 1 if free else step

    def _lane_cost(self, it: Iter, width: int, folded: int = 1) -> float:
        """Accesses of memory an element when `it` is vectorised, see `cost.nest.lane_cost`."""
        extent = max(estimate(it.extent, self.hints), 1)
        lanes = min(width, power_above(extent))
        return cost.lane_cost(self._steps(it.name), extent, lanes, folded)

    def _best_lane(self, order: Sequence[Iter]) -> Iter | None:
        width = self._max_width()
        # Of equal ones the innermost.
        lanes: list[tuple[str, float, Iter | None]] = [("none", cost.MOST_ACCESSES, None)]
        for i, it in enumerate(order):
            lanes.insert(0, (f"{i}", self._lane_cost(it, width), it))
        return self._chosen(lanes)

    def _row_lane(self, rows: Sequence[Iter], width: int) -> Iter | None:
        """The row iterator whose lanes beat vectorising along the rows, if there is one."""
        if width < 2:
            return None
        along = 0.0
        folded = 1
        for reduce in self.reduces:
            size = estimate(product(it.extent for it in reduce.iters), self.hints)
            folded = max(folded, size)
            each = 1.0
            if reduce.iters and reduce.kind not in POSITIONS:
                each = self._lane_cost(reduce.iters[-1], width) + cost.HORIZONTAL / max(size, 1)
            along = max(along, each)
        lanes: list[tuple[str, float, Iter | None]] = [
            (f"{i}", self._lane_cost(it, width, folded), it)
            for i, it in enumerate(rows)
            if it.extent != 0
        ]
        return self._chosen([("along", along, None), *lanes])

    def _chosen(self, lanes: Sequence[tuple[str, float, Iter | None]]) -> Iter | None:
        """The iterator that is vectorised, of those with a name and accesses an element."""
        elements = estimate(product(it.extent for it in self.nest.iters), self.hints)
        candidates = [
            Candidate(name, accesses * max(elements, 1), it) for name, accesses, it in lanes
        ]
        return self.chooser.choose("lane", best_first(candidates))


def dynamic_entries(node: Load | Keep) -> list[Expr]:
    """The entries of an access that are read from data."""
    return [i for i in node.index if not isinstance(i, (int, Dim))]


def compute_bits(dtype: DType) -> int:
    """The width that elements of `dtype` are computed in."""
    return 32 if dtype.name in ("f16", "bf16") else dtype.bits


def power_above(extent: int) -> int:
    """The least power of two that is at least `extent`."""
    return 1 << max(extent - 1, 0).bit_length()


def extent_width(it: Iter) -> int:
    """The most lanes that an iterator can use."""
    return power_above(it.extent) if isinstance(it.extent, int) else MAX_LANES
