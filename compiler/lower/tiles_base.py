"""What kernels on tile registers have in common: their tiles, products, and the epilogue.

Which rows are multiplied when, is said by `tiles_kernel` and `tiles_copied`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.contract import (
    LIKELY_ROWS,
    Array,
    Contraction,
    pack_constant,
    panel_of,
    widest_group,
)
from tfc.compiler.lower.emitter import Emitter, Lane
from tfc.compiler.target import Target
from tfc.ir.body import Iter
from tfc.ir.core import Block, Value
from tfc.ir.dims import DimLike, product, symbol, symbols_of
from tfc.ir.loop.nodes import TILE
from tfc.ir.loop.verify import TILE_ROWS
from tfc.ir.types import TensorType, buffer

# Results of a tile along n: a row of 64 bytes, all sums being of four.
LANES = 16


# Tasks that a kernel has at least, before one of them reuses weights or copied rows.
FEW_TASKS = 16


class Plan(Protocol):
    """What all plans say: the packed contraction, tiles of sums along rows and n, rows of a tile,
    steps of one, and how many of them an element of sums takes.
    """

    @property
    def c(self) -> Contraction: ...
    @property
    def high(self) -> int: ...
    @property
    def wide(self) -> int: ...
    @property
    def height(self) -> DimLike: ...
    @property
    def chunk(self) -> int: ...
    @property
    def group(self) -> int: ...
    @property
    def block(self) -> int:
        """Columns of a panel."""

    def weights_at(self, chunk: DimLike) -> DimLike:
        """Where the first tile of weights of a chunk lies."""


def steps_of(c: Contraction, target: Target) -> int:
    """How many steps an element of sums takes at once, 0 where tiles cannot compute it."""
    empty = any(it.extent == 0 for it in (*c.batch, *c.rows))
    if empty or not c.rows or not target.has_tiles(c.left.load.dtype):
        return 0
    return widest_group(c)


def raised(c: Contraction, hints: Mapping[str, int]) -> Mapping[str, int]:
    """Hints of LIKELY_ROWS rows at least where a run tells how many, as of other kernels."""
    missing = -(-LIKELY_ROWS // max(estimate(product(it.extent for it in c.rows[-2:]), hints), 1))
    for it in reversed(c.rows[-2:]):
        if not isinstance(it.extent, int):
            names = symbols_of(it.extent)
            return {**hints, **{name: missing * estimate(symbol(name), hints) for name in names}}
    return hints


def standing_weights(c: Contraction) -> Value:
    """What stands in a plan for the packed weights of a contraction."""
    return Value(TensorType(c.right.load.dtype, (0,)), Block(), 0, "packed")


def pack_weights(plan: Plan, original: Contraction, flat: Array, steps: int) -> Array:
    """Return weights as [...][chunk][wide][chunk / group][LANES][group], each tile in a row.

    steps: of the innermost sum, filled up to whole chunks with zeros.
    """
    rows = pack_constant(original, plan.block, flat).reshape(-1, steps, plan.block)
    padded = np.pad(rows, ((0, 0), (0, -steps % plan.chunk), (0, 0)))
    split = padded.reshape(-1, plan.chunk // plan.group, plan.group, plan.wide, LANES)
    return np.ascontiguousarray(split.transpose(0, 3, 1, 4, 2)).reshape(-1)


class TileKernel:
    """Emits parts of a kernel. packed: the weights in the plan's layout; slots: blocks whose sums
    are in memory at a time; copied: elements of memory for copied rows.
    """

    def __init__(
        self, emitter: Emitter, plan: Plan, packed: Value, slots: int = 1, copied: int = 0
    ) -> None:
        self.e = emitter
        self.b = emitter.b
        self.c = plan.c
        self.tiled = plan
        self.weights = emitter.buffers[packed]
        self.slots = slots
        self.copied_size = copied
        self.panel = panel_of(plan.c.n, plan.block)

    @contextmanager
    def registers(self) -> Iterator[None]:
        """Memory for sums and copied rows, and the tiles: sums by rows, then both sides."""
        plan, c = self.tiled, self.c
        self.lines = self.b.alloca(buffer(c.reduce.dtype, self.slots * self.slot_size))
        if self.copied_size:
            self.copied = self.b.alloca(buffer(c.left.load.dtype, self.copied_size))
        size = TILE_ROWS if not isinstance(plan.height, int) else plan.height
        sums = buffer(c.reduce.dtype, size, LANES, space=TILE)
        left = buffer(c.left.load.dtype, size, plan.chunk, space=TILE)
        right = buffer(c.right.load.dtype, plan.chunk // plan.group, LANES * plan.group, space=TILE)
        count = plan.high * plan.wide
        self.height = self.e.index(plan.height)
        types = [*[sums] * count, *[left] * plan.high, *[right] * plan.wide]
        rows = [*[self.height] * (count + plan.high), *[right.shape[0]] * plan.wide]
        with self.b.tiles(types, rows) as tiles, self.e.scope({}):
            self.sums = tiles[:count]
            self.left, self.right = tiles[count : count + plan.high], tiles[count + plan.high :]
            yield

    @property
    def slot_size(self) -> int:
        """Elements of a block's sums in memory, each of its tiles having all rows."""
        return self.tiled.high * TILE_ROWS * self.tiled.block

    @contextmanager
    def loops(self, iters: Sequence[Iter]) -> Iterator[None]:
        if not iters:
            yield
            return
        with self.e.loop(iters[0]), self.loops(iters[1:]):
            yield

    # -- products -------------------------------------------------------------------------------

    def zero_sums(self) -> None:
        for tile in self.sums:
            self.b.tile_zero(tile)

    def load_weights(self, chunk: DimLike) -> None:
        plan = self.tiled
        at = plan.weights_at(chunk)
        for j, tile in enumerate(self.right):
            first = self.e.index(at + j * plan.chunk * LANES)
            self.b.tile_load(tile, self.weights, first, LANES * plan.group)

    def multiply(self, row: int) -> None:
        """Add the products of a tile of rows and all tiles of weights to their sums."""
        for j, right in enumerate(self.right):
            self.b.tile_dot(self.left[row], right, self.sums[row * self.tiled.wide + j])

    # -- results --------------------------------------------------------------------------------

    @contextmanager
    def column(self, vector: int) -> Iterator[None]:
        """Evaluate for a vector of the panel's columns."""
        column = self.panel.dim * self.tiled.block + vector * LANES
        self.alone = self._is_alone(vector)
        lane = None if self.alone else Lane(self.c.n.name, LANES, self._mask(column))
        with self.e.scope({self.c.n.name: self.e.index(column)}), self.e.vectorised(lane):
            yield

    def result(self, at: Value) -> None:
        """Evaluate and store what becomes of the sums at a place in memory."""
        (output,) = self.c.nest.outputs
        total = self.b.load(self.lines, at) if self.alone else self.b.vload(self.lines, [at], LANES)
        self.e.remember(self.c.reduce, total)
        element = self.e.eval_wide(output.expr)
        self.e.store(output.value, (output.address,), element)

    def _mask(self, column: DimLike) -> Value | None:
        """The mask of a vector's columns that exist, None where all do in every panel."""
        if self.c.n.extent % self.tiled.block == 0:
            return None
        start, end = self.e.index(column), self.e.index(self.c.n.extent)
        return self.e.cached_mask(column, start, end, LANES)

    def _is_alone(self, vector: int) -> bool:
        """Whether the vector has one column, stored without a mask, as in `nest.masks_tail`."""
        return self.panel.extent == 1 and self.c.n.extent - vector * LANES == 1
