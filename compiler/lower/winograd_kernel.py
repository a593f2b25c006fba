"""The kernel of a convolution by Winograd's minimal filtering: what `winograd.Plan` says, emitted.

For each block of tiles: pixels are transformed into one plane for each of the products of a tile;
then, for each panel of output channels, every plane is multiplied by its transformed weights, and
the products are transformed into outputs, on which the epilogue is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tfc.compiler.lower.contract_kernel import PREFETCH_STEPS, multiply_add
from tfc.compiler.lower.emitter import Emitter, Lane
from tfc.compiler.lower.nest import WORKER, decoded, parallel_loops
from tfc.compiler.lower.winograd import VECTORS, Plan, both_axes, chunks_of
from tfc.ir.body import Iter
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, minimum, substitute, symbol
from tfc.ir.types import F32, VectorType


@dataclass(frozen=True)
class Memory:
    """The buffers beside the input and the output, as graph values.

    pixels, products: scratch; products, and pixels unless they are shared, have a part for each
    worker.
    """

    weights: Value
    pixels: Value
    products: Value


class WinogradSchedule:
    """Emits the kernel. streamed: the weights come from beyond the second-level cache."""

    def __init__(
        self,
        emitter: Emitter,
        plan: Plan,
        memory: Memory,
        hints: Mapping[str, int],
        streamed: bool,
    ) -> None:
        self.e = emitter
        self.b = emitter.b
        self.plan = plan
        self.hints = hints
        self.streamed = streamed
        conv, m = plan.conv, plan.form.m
        self.weights = emitter.buffers[memory.weights]
        self.pixels = emitter.buffers[memory.pixels]
        self.products = emitter.buffers[memory.products]
        self.block = Iter("block.w", plan.blocks)
        self.tile = Iter("tile.w", plan.block)
        self.panel = Iter("panel.w", plan.panels)
        self.plane = Iter("plane.w", plan.form.products)
        self.down = Iter("down.w", ceildiv(conv.y.extent, m))
        self.across = Iter("across.w", ceildiv(conv.x.extent, m))
        self.vector = Iter("vector.w", plan.columns)

    def emit(self) -> None:
        transform, panel = self._cycles()
        if self.plan.shared:
            with self._tasks([self.block, self.tile], transform):
                self._transform_pixels()
            with self._tasks([self.panel, self.block], panel):
                self._panel()
            return
        whole = self.plan.block * transform + self.plan.panels * panel
        with self._tasks([self.block], whole):
            with self.e.loop(self.tile):
                self._transform_pixels()
            with self.e.loop(self.panel):
                self._panel()

    def _cycles(self) -> tuple[float, float]:
        """Cycles of transforming one tile's pixels, and of one panel of a block."""
        plan, planes = self.plan, self.plan.form.products
        sums = planes * plan.block * plan.inputs * VECTORS / 2
        outputs = 4 * planes * plan.block * VECTORS
        return 4 * planes * plan.inputs / plan.lanes, sums + outputs

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
    def _worker(self) -> DimLike:
        known = any(WORKER in scope.iters for scope in self.e.scopes)
        return symbol(WORKER) if known else 0

    @property
    def _pixel_base(self) -> DimLike:
        part = self.block.dim if self.plan.shared else self._worker
        return part * self.plan.pixel_size

    @property
    def _product_base(self) -> DimLike:
        return self._worker * self.plan.product_size

    @contextmanager
    def _at_tile(self) -> Iterator[None]:
        """Define the image and the tile's place in it; past the end is the last tile again."""
        plan = self.plan
        start = self.block.dim * plan.block
        if not isinstance(plan.tiles, int):
            at = minimum(start + self.tile.dim, plan.tiles - 1)
        elif plan.tiles % plan.block:
            at = minimum(start, plan.tiles - plan.block) + self.tile.dim
        else:
            at = start + self.tile.dim
        flat = Iter("flat.w", plan.tiles)
        outer = [*plan.conv.images, self.down, self.across]
        with self.e.scope({flat.name: self.e.index(at)}), decoded(self.e, flat, outer):
            yield

    def _steps(self, it: Iter, tiles: Iter, count: int, last: DimLike) -> list[DimLike]:
        """`count` values of `it` from the tile on. What is past `last` stands for it once more."""
        m = self.plan.form.m
        start = tiles.dim * m
        inside = it.extent % m == 0
        return [start + i if inside else minimum(start + i, last) for i in range(count)]

    def _places(self, count: int, beyond: int) -> list[dict[str, DimLike]]:
        """The y and x of count x count places from the tile on, up to `beyond` the last output."""
        y, x = self.plan.conv.y, self.plan.conv.x
        return [
            {y.name: row, x.name: column}
            for row in self._steps(y, self.down, count, y.extent - 1 + beyond)
            for column in self._steps(x, self.across, count, x.extent - 1 + beyond)
        ]

    # -- pixels ---------------------------------------------------------------------------------

    def _transform_pixels(self) -> None:
        """Transform one tile's pixels, vectors of channels at a time.

        Rows and columns that only clipped outputs read may lie outside of the input: the last
        ones stand for them.
        """
        plan, lanes = self.plan, self.plan.lanes
        source = self.e.buffers[plan.conv.contraction.left.load.value]
        channel = Iter("channel.w", plan.inputs)
        first = channel.dim if plan.inputs % lanes == 0 else minimum(
            channel.dim, plan.inputs - lanes)  # fmt: skip
        with self._at_tile():
            origins = [substitute(plan.conv.pixel, place)
                       for place in self._places(plan.form.side, 2)]  # fmt: skip
            row = self._pixel_base + self.tile.dim * plan.pitch
            with self.e.loop(channel, step=lanes):
                loaded = [
                    self.b.cast(self.b.vload(source, [self.e.index(origin + first)], lanes), F32)
                    for origin in origins
                ]
                for i, value in enumerate(both_axes(self.b, plan.form.inputs, loaded)):
                    at = self.e.index(row + first + i * plan.pixel_plane)
                    self.b.vstore(value, self.pixels, [at])

    # -- products -------------------------------------------------------------------------------

    def _panel(self) -> None:
        with self.e.loop(self.plane):
            self._multiply()
        with self.e.loop(self.tile):
            self._transform_products()

    def _multiply(self) -> None:
        """One plane of the block's pixels times one panel of weights.

        Chunks of channels are added up in registers, their sums in memory.
        """
        plan = self.plan
        turn = Iter("rows.w", -(-plan.block // plan.rows))
        start = turn.dim * plan.rows
        if plan.block % plan.rows:
            start = minimum(start, plan.block - plan.rows)
        with self.e.loop(turn):
            rows = [self._row(start + i) for i in range(plan.rows)]
            zero = self.b.const(0, VectorType(F32, plan.lanes))
            zeros = [zero] * (plan.rows * VECTORS)
            base = self._product_base + self.plane.dim * plan.product_plane
            places = [
                base + (start + row) * plan.columns + vector * plan.lanes
                for row in range(plan.rows)
                for vector in range(VECTORS)
            ]
            chunk, count = chunks_of(plan.inputs)
            if count == 1:
                self._store(self._sum(rows, zeros, 0, plan.inputs), places)
                return
            self._store(zeros, places)
            part = Iter("part.w", count)
            with self.e.loop(part):
                first = part.dim * chunk
                totals = self._sum(rows, zeros, first, minimum(first + chunk, plan.inputs))
                before = [
                    self.b.vload(self.products, [self.e.index(at)], plan.lanes) for at in places
                ]
                sums = [self.b.add(x, y) for x, y in zip(before, totals, strict=True)]
                self._store(sums, places)

    def _store(self, values: Sequence[Value], places: Sequence[DimLike]) -> None:
        for value, at in zip(values, places, strict=True):
            self.b.vstore(value, self.products, [self.e.index(at)])

    def _row(self, tile: DimLike) -> Value:
        """A view of the pixels that starts with one tile's channels in the current plane."""
        plan = self.plan
        at = self._pixel_base + self.plane.dim * plan.pixel_plane + tile * plan.pitch
        return self.b.view(self.pixels, self.e.index(at), self.pixels.type)  # type: ignore[arg-type]

    def _sum(
        self, rows: Sequence[Value], zeros: Sequence[Value], lo: DimLike, hi: DimLike
    ) -> list[Value]:
        """The sums over channels lo to hi for a tile of accumulators."""
        plan = self.plan
        step = Iter("step.w", plan.inputs)
        plane = self.panel.dim * plan.form.products + self.plane.dim
        at = (plane * plan.inputs + step.dim) * plan.columns
        with self.e.loop(step, lo, hi, carried=zeros) as (totals, following):
            panel: list[Value] = []
            for first in range(0, plan.columns, plan.lanes):
                if self.streamed:
                    ahead = at + PREFETCH_STEPS * plan.columns + first
                    self.b.prefetch(self.weights, self.e.index(ahead))
                where = self.e.index(at + first)
                panel.append(self.b.vload(self.weights, [where], plan.lanes))
            column = [self.b.load(row, self.e.index(step.dim)) for row in rows]
            following.extend(multiply_add(self.b, column, panel, list(totals)))
        return totals

    # -- outputs --------------------------------------------------------------------------------

    def _transform_products(self) -> None:
        """Transform one tile's products, a vector of the panel at a time, and finish outputs.

        An output that is clipped goes where the last one of its row or column goes, before that
        one does: stores run backwards, so no branch is needed.
        """
        plan = self.plan
        n = plan.conv.contraction.n
        column = self.panel.dim * plan.columns
        if plan.outputs % plan.columns:
            column = minimum(column, plan.outputs - plan.columns)
        row = self._product_base + self.tile.dim * plan.columns + self.vector.dim
        with self._at_tile(), self.e.loop(self.vector, step=plan.lanes):
            loaded = [
                self.b.vload(
                    self.products, [self.e.index(row + i * plan.product_plane)], plan.lanes
                )
                for i in range(plan.form.products)
            ]
            outputs = both_axes(self.b, plan.form.outputs, loaded)
            lane = Lane(n.name, plan.lanes)
            at = {n.name: self.e.index(column + self.vector.dim)}
            with self.e.scope(at), self.e.vectorised(lane):
                places = self._places(plan.form.m, 0)
                for place, total in reversed(list(zip(places, outputs, strict=True))):
                    self._finish(place, total)

    def _finish(self, place: Mapping[str, DimLike], total: Value) -> None:
        """Evaluate the epilogue on one vector of outputs and store it."""
        c = self.plan.conv.contraction
        (output,) = c.nest.outputs
        with self.e.scope({name: self.e.index(at) for name, at in place.items()}):
            self.e.remember(c.reduce, total)
            element = self.e.eval_wide(output.expr)
            self.e.store(output.value, (output.address,), element)
