"""Sums of products in fewer multiplications: what kernels by Winograd and by Strassen share.

Both transform the left side into planes, multiply each by a plane of transformed weights, and
transform the products into outputs. How they transform is in `winograd_kernel` and
`strassen_kernel`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from tfc.compiler.cost import contraction as cost
from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.contract_kernel import PREFETCH_STEPS, multiply_add
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.nest import parallel_loops, worker_of
from tfc.ir.body import Iter
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, minimum, symbol
from tfc.ir.loop.verify import THREADS
from tfc.ir.types import F32, VectorType

# The algorithms, by the names that `--disable-pass` takes.
FAST = frozenset({"winograd", "strassen"})
# Of the largest value, against float64.
ERROR_LIMIT = 2e-5
# A trial of a few hundred outputs is compared with a part of it: the largest error of a million
# outputs was up to 1.8 times the trial's.
TRIAL_LIMIT = ERROR_LIMIT / 2
# Planes that are multiples of 4 KiB apart would compete for the same few lines of L1.
PLANE_GAP = 16
L1_STRIDE = 512


@dataclass(frozen=True)
class PlanePlan:
    """How the planes are multiplied: blocks of tiles, panels of outputs, and scratch memory.

    A tile has one row in each of `planes`: `inputs` numbers, which make as many products for each
    of `outputs`. block: tiles of a block; rows: of them in one register tile, which is `vectors`
    wide. The last block, register tile and panel overlap their neighbours, and compute the same
    bits again. chunk: inputs that are added one to another in registers.
    shared: there are few blocks, so the left side of all is transformed first, and then every pair
    of a panel and a block is a task; else a block is a task, from its left side to its outputs.
    """

    lanes: int
    vectors: int
    planes: int
    inputs: int
    outputs: int
    tiles: DimLike
    block: int
    rows: int
    chunk: int
    shared: bool

    @property
    def columns(self) -> int:
        """Outputs of a panel."""
        return self.vectors * self.lanes

    @property
    def turns(self) -> int:
        """Register tiles of a block."""
        return -(-self.block // self.rows)

    @property
    def panels(self) -> int:
        return -(-self.outputs // self.columns)

    @property
    def blocks(self) -> DimLike:
        return ceildiv(self.tiles, self.block)

    @property
    def pitch(self) -> int:
        """Elements between the transformed rows of neighbouring tiles."""
        return self.inputs if self.inputs % L1_STRIDE else self.inputs + PLANE_GAP

    @property
    def left_plane(self) -> int:
        return self.block * self.pitch + PLANE_GAP

    @property
    def product_plane(self) -> int:
        return self.block * self.columns + PLANE_GAP

    @property
    def left_size(self) -> int:
        """Elements of one block's transformed left side."""
        return self.planes * self.left_plane

    @property
    def product_size(self) -> int:
        """Elements of the products of one block and panel."""
        return self.planes * self.product_plane

    @property
    def scratch(self) -> dict[str, DimLike]:
        """Elements of the scratch memory by name; most of it has a part for each worker."""
        workers = symbol(THREADS)
        parts = self.blocks if self.shared else workers
        return {"left": self.left_size * parts, "products": self.product_size * workers}

    @property
    def weight_size(self) -> int:
        return self.panels * self.planes * self.inputs * self.columns

    def sizes(self, hints: Mapping[str, int]) -> cost.Planes:
        """What the cost model asks for."""
        tiles, blocks = (max(estimate(dim, hints), 1) for dim in (self.tiles, self.blocks))
        return cost.Planes(
            self.planes, self.inputs, tiles, blocks, self.turns, self.rows, self.panels,
            self.vectors,
        )  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """The buffers beside the left side and the output, as graph values; scratch: by the plan."""

    weights: Value
    scratch: Mapping[str, Value]


P = TypeVar("P", bound=PlanePlan)


class PlaneSchedule(ABC, Generic[P]):
    """Emits such a kernel. streamed: the weights come from beyond the second-level cache."""

    def __init__(
        self,
        emitter: Emitter,
        plan: P,
        memory: Memory,
        hints: Mapping[str, int],
        streamed: bool,
    ) -> None:
        self.e = emitter
        self.b = emitter.b
        self.plan = plan
        self.hints = hints
        self.streamed = streamed
        self.weights = emitter.buffers[memory.weights]
        self.left = emitter.buffers[memory.scratch["left"]]
        self.products = emitter.buffers[memory.scratch["products"]]
        self.block = Iter("block.w", plan.blocks)
        self.tile = Iter("tile.w", plan.block)
        self.panel = Iter("panel.w", plan.panels)
        self.plane = Iter("plane.w", plan.planes)
        self.vector = Iter("vector.w", plan.columns)
        self.turn = Iter("rows.w", plan.turns)

    @abstractmethod
    def transform_left(self) -> None:
        """Write the rows of the current tile into the planes."""

    @abstractmethod
    def transform_products(self) -> None:
        """Make outputs of the current tile's products in the current panel."""

    @abstractmethod
    def left_cycles(self) -> float:
        """Cycles that `transform_left` takes for one tile."""

    @abstractmethod
    def product_cycles(self) -> float:
        """Cycles that `transform_products` takes for one tile."""

    def emit(self) -> None:
        plan = self.plan
        transform, panel = self.left_cycles(), self._panel_cycles()
        if plan.shared:
            with self._tasks([self.block, self.tile], transform):
                self.transform_left()
            with self._tasks([self.panel, self.block], panel):
                self._panel()
            return
        with self._tasks([self.block], plan.block * transform + plan.panels * panel):
            with self.e.loop(self.tile):
                self.transform_left()
            with self.e.loop(self.panel):
                self._panel()

    def _panel_cycles(self) -> float:
        plan = self.plan
        sums = plan.planes * plan.block * plan.inputs * plan.vectors / 2
        return sums + plan.block * self.product_cycles()

    @contextmanager
    def _tasks(self, iters: Sequence[Iter], cycles: float) -> Iterator[None]:
        loops = [it for it in iters if it.extent != 1]
        units = [it for it in iters if it.extent == 1]
        with (
            parallel_loops(self.e, loops, cycles, self.hints),
            self.e.scope({it.name: self.e.index(0) for it in units}),
        ):
            yield

    # -- where things are -----------------------------------------------------------------------

    @property
    def worker(self) -> DimLike:
        return worker_of(self.e)

    @property
    def left_base(self) -> DimLike:
        part = self.block.dim if self.plan.shared else self.worker
        return part * self.plan.left_size

    @property
    def product_base(self) -> DimLike:
        return self.worker * self.plan.product_size

    @property
    def first_column(self) -> DimLike:
        """The output where the current panel begins."""
        plan = self.plan
        column = self.panel.dim * plan.columns
        return (
            minimum(column, plan.outputs - plan.columns) if plan.outputs % plan.columns else column
        )

    def flat_tile(self) -> DimLike:
        """The current tile among all; past the end is the last one again."""
        plan = self.plan
        start = self.block.dim * plan.block
        if not isinstance(plan.tiles, int) or plan.tiles < plan.block:
            return minimum(start + self.tile.dim, plan.tiles - 1)
        if plan.tiles % plan.block:
            return minimum(start, plan.tiles - plan.block) + self.tile.dim
        return start + self.tile.dim

    # -- products -------------------------------------------------------------------------------

    def _panel(self) -> None:
        self.multiply()
        with self.e.loop(self.tile):
            self.transform_products()

    def multiply(self) -> None:
        """Multiply the block's left side by one panel of weights, plane by plane."""
        with self.e.loop(self.plane), self.e.loop(self.turn):
            self._by_chunks()

    def _by_chunks(self) -> None:
        """One register tile of a plane: sums of chunks in registers, and their sum in memory."""
        plan = self.plan
        count = -(-plan.inputs // plan.chunk)
        if count == 1:
            self.store(self._sum(0, plan.inputs))
            return
        self.store(self.zeros)
        with self.e.loop(Iter("part.w", count)):
            first = symbol("part.w") * plan.chunk
            self.accumulate(self._sum(first, minimum(first + plan.chunk, plan.inputs)))

    def _sum(self, lo: DimLike, hi: DimLike) -> list[Value]:
        """The sums over inputs lo to hi, whose weights may come from memory."""
        plan = self.plan
        panel = (self.panel.dim * plan.planes + self.plane.dim) * plan.inputs * plan.columns

        def right(step: DimLike) -> list[Value]:
            at = panel + step * plan.columns
            if self.streamed:
                for first in range(0, plan.columns, plan.lanes):
                    ahead = at + PREFETCH_STEPS * plan.columns + first
                    self.b.prefetch(self.weights, self.e.index(ahead))
            return self.panel_of(self.weights, at)

        return self.tile_sum(lo, hi, right)

    # -- a register tile ------------------------------------------------------------------------

    @property
    def zeros(self) -> list[Value]:
        zero = self.b.const(0, VectorType(F32, self.plan.lanes))
        return [zero] * (self.plan.rows * self.plan.vectors)

    @property
    def _first_row(self) -> DimLike:
        """The first tile of the block in the current turn."""
        plan = self.plan
        start = self.turn.dim * plan.rows
        return minimum(start, plan.block - plan.rows) if plan.block % plan.rows else start

    def _product_places(self) -> list[DimLike]:
        """Where the products of the current turn's register tile are."""
        plan = self.plan
        base = self.product_base + self.plane.dim * plan.product_plane
        return [
            base + (self._first_row + row) * plan.columns + vector * plan.lanes
            for row in range(plan.rows)
            for vector in range(plan.vectors)
        ]

    def store(self, values: Sequence[Value]) -> None:
        """Write the register tile to the products."""
        for value, at in zip(values, self._product_places(), strict=True):
            self.b.vstore(value, self.products, [self.e.index(at)])

    def accumulate(self, values: Sequence[Value]) -> None:
        """Add the register tile to the products."""
        lanes = self.plan.lanes
        before = [
            self.b.vload(self.products, [self.e.index(at)], lanes) for at in self._product_places()
        ]
        self.store([self.b.add(x, y) for x, y in zip(before, values, strict=True)])

    def panel_of(self, buffer: Value, at: DimLike) -> list[Value]:
        """The vectors of a panel's columns at position `at`."""
        plan = self.plan
        return [
            self.b.vload(buffer, [self.e.index(at + first)], plan.lanes)
            for first in range(0, plan.columns, plan.lanes)
        ]

    def tile_sum(
        self, lo: DimLike, hi: DimLike, right: Callable[[DimLike], list[Value]]
    ) -> list[Value]:
        """The sums over inputs lo to hi for a register tile; right: the weights at an input."""
        plan = self.plan
        rows = [self._row(self._first_row + i) for i in range(plan.rows)]
        step = Iter("step.w", plan.inputs)
        with self.e.loop(step, lo, hi, carried=self.zeros) as (totals, following):
            panel = right(step.dim)
            column = [self.b.load(row, self.e.index(step.dim)) for row in rows]
            following.extend(multiply_add(self.b, column, panel, list(totals)))
        return totals

    def _row(self, tile: DimLike) -> Value:
        """A view of the left side that starts with one tile's row in the current plane."""
        plan = self.plan
        at = self.left_base + self.plane.dim * plan.left_plane + tile * plan.pitch
        return self.b.view(self.left, self.e.index(at), self.left.type)  # type: ignore[arg-type]

    def products_at(self) -> list[Value]:
        """The current tile's products, at the current vector of the panel."""
        plan = self.plan
        row = self.product_base + self.tile.dim * plan.columns + self.vector.dim
        places = (row + i * plan.product_plane for i in range(plan.planes))
        return [self.b.vload(self.products, [self.e.index(at)], plan.lanes) for at in places]
