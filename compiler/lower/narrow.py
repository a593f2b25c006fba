"""The groups of steps that one `dot` takes: packed weights laid out in them, and reading them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tfc.compiler.lower.contract import (
    Array,
    Contraction,
    Tile,
    column_of,
    overlaps,
    panel_of,
    stride_of,
    widest_group,
)
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.target import Target
from tfc.ir.body import Iter, Load
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, substitute
from tfc.ir.types import VectorType


@dataclass(frozen=True)
class Dots:
    """group: steps of a `dot`. steps: how many there are, of which the last may not fill one.

    masked: the target reads a part of a group by one instruction. spare: behind the last element
    of the left side there are others to be read.
    """

    group: int
    steps: int
    masked: bool
    spare: bool = False


def left_group(
    e: Emitter, dots: Dots, c: Contraction, left: Value, offset: Value, count: int
) -> Value:
    """A group of the left side, of which the first `count` steps are there.

    What stands for the others is finite: their weights are 0.
    """
    b, group, whole = e.b, dots.group, c.reduce.dtype.is_int
    if count == group or (dots.spare and whole and not overlaps(whole, dots.steps, group)):
        return b.vload(left, [offset], group)
    if overlaps(whole, dots.steps, group):
        return b.vload(left, [b.sub(offset, e.index(group - count))], group)
    if dots.masked:
        mask = b.tail_mask(e.index(0), e.index(count), group)
        return b.vload(left, [offset], group, mask=mask)
    found = b.const(0, VectorType(c.left.load.dtype, group))
    for k in range(count):
        found = b.insert(b.load(left, b.add(offset, e.index(k))), found, k)
    return found


def grouped_steps(it: Iter, group: int) -> Iter:
    """The iterator that counts groups of steps."""
    return Iter(f"{it.name}g", ceildiv(it.extent, group))


def grouped(c: Contraction, group: int, block: int, size: int) -> Contraction:
    """Return the packed contraction whose innermost iterator counts groups of `group` steps.

    The right side then lies as [batch][panel][outer reduced][groups][block][size]: a group of a
    column has `size` elements. One that the last steps do not fill is filled with zeros.
    """
    *outer, inner = c.reduced
    steps = grouped_steps(inner, group)
    address: DimLike = 0
    for it in (*c.batch, panel_of(c.n, block), *outer, steps, column_of(c.n, block)):
        address = address * it.extent + it.dim
    left = substitute(c.left.address, {inner.name: steps.dim * group})
    return replace(
        c,
        reduced=(*outer, steps),
        left=replace(c.left, load=Load(c.left.load.value, (left,), c.left.load.dtype)),
        right=replace(
            c.right, load=Load(c.right.load.value, (address * size,), c.right.load.dtype)
        ),
    )


def group_constant(packed: Array, steps: int, group: int, block: int) -> Array:
    """Return packed weights [...][steps][block] as [...][steps / group][block][group].

    A last group that is not full ends with the last step where it `overlaps` the one before.
    """
    rows = packed.reshape(-1, steps, block)
    rest = steps % group
    if rest and overlaps(packed.dtype.kind == "i", steps, group):
        gap = np.zeros((rows.shape[0], group - rest, block), packed.dtype)
        rows = np.concatenate([rows[:, : steps - rest], gap, rows[:, steps - rest :]], axis=1)
    elif rest:
        rows = np.pad(rows, ((0, 0), (0, group - rest), (0, 0)))
    split = rows.reshape(rows.shape[0], -1, group, block)
    return np.ascontiguousarray(split.swapaxes(2, 3)).reshape(-1)


def dot_group(c: Contraction, tile: Tile, target: Target) -> int:
    """How many steps of the innermost iterator one `dot` takes; 0 where none fits.

    c is collapsed: its left side must run through these steps without a gap.
    """
    group = widest_group(c)
    if not group or not target.has_dot(c.left.load.dtype, tile.lanes):
        return 0
    inner = c.reduced[-1]
    if not isinstance(inner.extent, int) or stride_of(c.left.address, inner) != 1:
        return 0
    return group if inner.extent >= group or c.reduce.dtype.is_int else 0
