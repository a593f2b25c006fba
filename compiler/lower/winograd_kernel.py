"""The kernel of a convolution by Winograd's minimal filtering: what `winograd.Plan` says, emitted.

For each block of tiles: pixels are transformed into one plane for each of the products of a tile;
then, for each panel of output channels, every plane is multiplied by its transformed weights, and
the products are transformed into outputs, on which the epilogue is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from tfc.compiler.cost import contraction as cost
from tfc.compiler.lower.contract import stride_of
from tfc.compiler.lower.emitter import Emitter, Lane
from tfc.compiler.lower.nest import decoded
from tfc.compiler.lower.planes import Memory, PlaneSchedule
from tfc.compiler.lower.winograd import Plan, both_axes
from tfc.ir.body import Iter
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, minimum, substitute
from tfc.ir.types import F32


class WinogradSchedule(PlaneSchedule[Plan]):
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
        conv, m = plan.conv, plan.form.m
        self.down = Iter("down.w", ceildiv(conv.y.extent, m))
        self.across = Iter("across.w", ceildiv(conv.x.extent, m))

    def left_cycles(self) -> float:
        return cost.winograd_left(self.plan.planes, self.plan.inputs, self.plan.lanes)

    def product_cycles(self) -> float:
        return cost.winograd_right(self.plan.planes, self.plan.vectors)

    @contextmanager
    def _at_tile(self) -> Iterator[None]:
        """Define the image and the tile's place in it."""
        plan = self.plan
        flat = Iter("flat.w", plan.tiles)
        outer = [*plan.conv.images, self.down, self.across]
        with (
            self.e.scope({flat.name: self.e.index(self.flat_tile())}),
            decoded(self.e, flat, outer),
        ):
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

    def transform_left(self) -> None:
        """Transform one tile's pixels, vectors of channels at a time.

        Rows and columns that only clipped outputs read may lie outside of the input: the last
        ones stand for them.
        """
        plan, lanes, conv = self.plan, self.plan.lanes, self.plan.conv
        source = self.e.buffers[conv.contraction.left.load.value]
        channels = conv.channels.extent
        channel = Iter("channel.w", channels)
        first = channel.dim if channels % lanes == 0 else minimum(channel.dim, channels - lanes)
        with self._at_tile(), ExitStack() as loops:
            row, pixel = self.left_base + self.tile.dim * plan.pitch, conv.pixel
            deep: DimLike = 0
            for it in conv.depth:
                loops.enter_context(self.e.loop(it))
                pixel = pixel + it.dim * stride_of(conv.contraction.left.address, it)
                deep = deep * it.extent + it.dim
            row = row + deep * channels
            origins = [substitute(pixel, place) for place in self._places(plan.form.side, 2)]
            with self.e.loop(channel, step=lanes):
                loaded = [
                    self.b.cast(self.b.vload(source, [self.e.index(origin + first)], lanes), F32)
                    for origin in origins
                ]
                for i, value in enumerate(both_axes(self.b, plan.form.inputs, loaded)):
                    at = self.e.index(row + first + i * plan.left_plane)
                    self.b.vstore(value, self.left, [at])

    # -- outputs --------------------------------------------------------------------------------

    def transform_products(self) -> None:
        """Transform one tile's products, a vector of the panel at a time, and finish outputs.

        An output that is clipped goes where the last one of its row or column goes, before that
        one does: stores run backwards, so no branch is needed.
        """
        plan = self.plan
        n = plan.conv.contraction.n
        with self._at_tile(), self.e.loop(self.vector, step=plan.lanes):
            loaded = self.products_at()
            outputs = both_axes(self.b, plan.form.outputs, loaded)
            lane = Lane(n.name, plan.lanes)
            at = {n.name: self.e.index(self.first_column + self.vector.dim)}
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
