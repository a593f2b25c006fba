"""Lays packed weights of narrow types out in the groups that one `dot` takes. Loops: `contract`."""

from __future__ import annotations

from dataclasses import replace

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
from tfc.compiler.target import Target
from tfc.ir.body import Iter, Load
from tfc.ir.dims import DimLike, ceildiv, substitute


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
