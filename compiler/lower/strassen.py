"""Strassen's product of matrices by constant weights: where it pays, its sums of weights.

Both sides are cut in half along both axes; seven products of sums of quarters make the four
quarters of the result (Strassen, 1969). Rows and columns are first scaled by powers of two, so
that each is as exact as its own size allows (outside scaling of Ballard, Benson, Druinsky,
Lipshitz and Schwartz, 2016). The kernel is in `strassen_kernel`, the reasons are in
docs/decisions/0015-strassen.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tfc.compiler.cost.contraction import STRASSEN_BLOCK, TASK_BLOCKS
from tfc.compiler.lower.contract import Contraction, collapse_reduced, constant_view, stride_of
from tfc.compiler.lower.planes import TRIAL_LIMIT, PlanePlan
from tfc.compiler.lower.trial import Arrays
from tfc.compiler.target import Target
from tfc.ir.body import Iter
from tfc.ir.dims import DimLike, product, symbol
from tfc.ir.loop.scalar import ScalarBuilder
from tfc.ir.loop.verify import THREADS
from tfc.ir.types import F32

Array = npt.NDArray[Any]
T = TypeVar("T")

# Inputs that are added one to another; sums of so many are added in memory. The sums of two
# quarters of so many weights stay in the first-level cache.
CHUNK = 128
# Of columns, powers of two beyond these are not divided out: a sum times one of them is in range.
LEAST_POWER, MOST_POWER = -60, 60


# -- transforms ---------------------------------------------------------------------------------


# The right factors. The first are sums of two quarters, the second of which may be subtracted; the
# last are quarters.
PAIRS = ((0, 3, 1), (1, 3, -1), (2, 0, -1), (0, 1, 1), (2, 3, 1))
SINGLES = (0, 3)


def left_sums(b: ScalarBuilder[T], a: Sequence[T]) -> list[T]:
    """The left factors of the products; a: the quarters, row-major."""
    return [
        b.add(a[0], a[3]), a[0], a[3], b.sub(a[2], a[0]), b.sub(a[1], a[3]),
        b.add(a[2], a[3]), b.add(a[0], a[1]),
    ]  # fmt: skip


def quarters(b: ScalarBuilder[T], m: Sequence[T]) -> list[T]:
    """The quarters of the result, row-major."""
    return [
        b.add(b.add(m[0], m[2]), b.sub(m[4], m[6])),
        b.add(m[1], m[6]),
        b.add(m[2], m[5]),
        b.add(b.sub(m[0], m[5]), b.add(m[1], m[3])),
    ]


# -- the plan -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan(PlanePlan):
    """How a product runs: a tile is a pair of rows, one in each half.

    Of an odd number of rows the last tile's second row is its first one again.
    """

    contraction: Contraction
    height: int

    @property
    def reduced(self) -> Iter:
        return self.contraction.reduced[0]

    @property
    def left_size(self) -> int:
        """With the powers of two of both rows of each tile behind the planes."""
        return super().left_size + 2 * self.block

    @property
    def powers_at(self) -> int:
        return super().left_size

    @property
    def parts(self) -> int:
        """Chunks of the inputs."""
        return -(-self.inputs // self.chunk)

    @property
    def group(self) -> int:
        """Elements of the four quarters' weights of one panel and chunk."""
        return 4 * self.chunk * self.columns

    @property
    def weight_size(self) -> int:
        return self.panels * self.parts * self.group

    @property
    def scratch(self) -> dict[str, DimLike]:
        return super().scratch | {"right": self.right_size * symbol(THREADS)}

    @property
    def right_size(self) -> int:
        """Elements of one sum of two quarters' weights of a panel and chunk."""
        return self.chunk * self.columns


def match(c: Contraction) -> Contraction | None:
    """Recognise a product of a matrix, its rows contiguous, with a matrix: both cut in halves."""
    sides = (c.left, c.right)
    if c.batch or c.reduce.dtype != F32 or any(s.load.dtype != F32 for s in sides):
        return None
    c = collapse_reduced(c)
    if len(c.reduced) != 1 or stride_of(c.left.address, c.reduced[0]) != 1:
        return None
    extents = [it.extent for it in (*c.rows, c.n, c.reduced[0])]
    return c if all(isinstance(extent, int) for extent in extents) else None


def make_plan(c: Contraction, target: Target) -> Plan | None:
    """Choose blocks and panels; None where there is no half of the sizes."""
    height, inputs, outputs = (
        _int(product(it.extent for it in c.rows)),
        _int(c.reduced[0].extent),
        _int(c.n.extent),
    )
    lanes = target.lanes(F32)
    if height < 2 or inputs % 2 or inputs < 2 * lanes or outputs % 2:
        return None
    tiles = -(-height // 2)
    shape = _register_tile(tiles, outputs // 2, lanes, target)
    if shape is None:
        return None
    vectors, block, rows = shape
    return Plan(
        lanes=lanes,
        vectors=vectors,
        planes=len(PAIRS) + len(SINGLES),
        inputs=inputs // 2,
        outputs=outputs // 2,
        tiles=tiles,
        block=block,
        rows=rows,
        chunk=-(-inputs // 2 // -(-inputs // (2 * CHUNK))),
        shared=-(-tiles // block) < TASK_BLOCKS,
        contraction=c,
        height=height,
    )


def _register_tile(
    tiles: int, outputs: int, lanes: int, target: Target
) -> tuple[int, int, int] | None:
    """Vectors of the register tile, the block, and rows: those with which least is computed twice.

    A block is whole register tiles, since those add to what is in memory, and may be more than
    there is. None where there are fewer outputs than the narrowest tile has.
    """
    found: list[tuple[int, int, int, int, int]] = []
    blocks = -(-tiles // STRASSEN_BLOCK)
    for vectors in (2, 3) if target.vector_registers >= 32 else (2,):
        if vectors * lanes > outputs:
            break
        most = (target.vector_registers - vectors - 1) // vectors
        panels = -(-outputs // (vectors * lanes))
        for count in (blocks, blocks + 1):
            block = -(-tiles // count)
            turns = -(-block // most)
            rows = -(-block // turns)
            work = count * turns * rows * panels * vectors
            found.append((work, count, vectors, turns * rows, rows))
    if not found:
        return None
    _, _, vectors, block, rows = min(found)
    return vectors, block, rows


def _int(extent: object) -> int:
    assert isinstance(extent, int)
    return extent


# -- weights ------------------------------------------------------------------------------------


def weights_of(plan: Plan, flat: Array) -> Array:
    """Return the constant right side as a view [input, output] of its elements `flat`."""
    iters = (plan.reduced, plan.contraction.n)
    return constant_view(plan.contraction.right.address, iters, flat)


def powers_of(weights: Array) -> Array:
    """Return the power of two at or below the largest number of each column; 0 for zeros."""
    largest = np.abs(weights).max(axis=0)
    _, exponents = np.frexp(np.where(np.isfinite(largest), largest, 1))
    powers = np.ldexp(np.float32(1), np.clip(exponents - 1, LEAST_POWER, MOST_POWER))
    return np.where(largest == 0, np.float32(0), powers.astype(np.float32))


def _scaled(weights: Array, powers: Array) -> Array:
    return weights * (1 / np.where(powers == 0, np.float32(1), powers))


def pack_weights(plan: Plan, weights: Array) -> Array:
    """Return the scaled weights as [panel][chunk][quarter][input][column], and their powers."""
    powers = powers_of(weights)
    packed = np.zeros(plan.weight_size + len(powers), np.float32)
    packed[plan.weight_size :] = powers
    shape = (plan.panels, plan.parts, 4, plan.chunk, plan.columns)
    groups = packed[: plan.weight_size].reshape(shape)
    for i, quarter in enumerate(_quarters_of(_scaled(weights, powers))):
        for part in range(plan.parts):
            chunk = quarter[part * plan.chunk : (part + 1) * plan.chunk]
            _fill_panels(groups[:, part, i, : len(chunk)], chunk)
    return packed


def _quarters_of(matrix: Array) -> list[Array]:
    inputs, outputs = (extent // 2 for extent in matrix.shape)
    rows, columns = (slice(inputs), slice(inputs, None)), (slice(outputs), slice(outputs, None))
    return [matrix[row, column] for row in rows for column in columns]


def _fill_panels(panels: Array, chunk: Array) -> None:
    """Write columns to panels [panel, input, column], the last of which overlaps its neighbour."""
    size = panels.shape[2]
    whole = chunk.shape[1] // size
    columns = chunk[:, : whole * size].reshape(len(chunk), whole, size)
    panels[:whole] = columns.transpose(1, 0, 2)
    panels[whole:] = chunk[:, -size:]


# -- accuracy -----------------------------------------------------------------------------------

_TRIAL_OUTPUTS = 16
_TRIAL_TILES = 4


def is_exact_enough(plan: Plan, weights: Array) -> bool:
    """Whether a trial of a few outputs has errors below the limit, each of its column's largest.

    False where the weights are not finite.
    """
    step = max(plan.outputs // _TRIAL_OUTPUTS, 1)
    chosen = np.arange(0, plan.outputs, step)[:_TRIAL_OUTPUTS]
    weights = weights[:, np.concatenate([chosen, chosen + plan.outputs])]
    rows = np.random.default_rng(0).standard_normal((2 * _TRIAL_TILES, 2 * plan.inputs))
    rows[::2] = np.abs(rows[::2])
    left = rows.astype(np.float32)
    with np.errstate(all="ignore"):
        # A product so small is not worth the threads that BLAS would wake.
        wanted = np.einsum("ij,jk->ik", left.astype(np.float64), weights.astype(np.float64))
        error = np.abs(_computed(plan, left, weights) - wanted).max(axis=0)
        return bool((error <= TRIAL_LIMIT * np.abs(wanted).max(axis=0)).all())


def _computed(plan: Plan, left: Array, weights: Array) -> Array:
    """The product of a few rows and columns as the kernel adds it up, its rows unscaled."""
    b = Arrays()
    powers = powers_of(weights)
    count = weights.shape[1] // 2
    inputs, tiles = plan.inputs, _TRIAL_TILES
    lefts = left_sums(b, [
        left[row : row + tiles, column : column + inputs]
        for row in (0, tiles) for column in (0, inputs)
    ])  # fmt: skip
    parts = _quarters_of(_scaled(weights, powers))
    rights = [parts[one] + sign * parts[other] for one, other, sign in PAIRS]
    rights += [parts[one] for one in SINGLES]
    x = np.stack(lefts).transpose(2, 0, 1)[..., None]
    y = np.stack(rights).transpose(1, 0, 2)[:, :, None]
    totals = np.zeros((len(rights), tiles, count), np.float32)
    for first in range(0, inputs, plan.chunk):
        part = slice(first, first + plan.chunk)
        # Along the first axis numpy adds one to another.
        totals += (x[part] * y[part]).sum(axis=0)
    upper_left, upper_right, lower_left, lower_right = quarters(b, list(totals))
    whole = np.block([[upper_left, upper_right], [lower_left, lower_right]])
    return whole.astype(np.float64) * powers
