"""Lays packed weights of narrow types out in the groups that one `dot` takes. Loops: `contract`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tfc.compiler.lower.contract import (
    Array,
    Contraction,
    Tile,
    column_of,
    panel_of,
    stride_of,
)
from tfc.compiler.target import Target
from tfc.ir.body import Iter, Load
from tfc.ir.dims import DimLike, ceildiv, substitute
from tfc.ir.loop.nodes import DOTS


def grouped(c: Contraction, group: int, block: int) -> Contraction:
    """Return the packed contraction whose innermost iterator counts groups of `group` steps.

    The right side then lies as [batch][panel][outer reduced][groups][block][group]; a group that
    the last steps do not fill is filled with zeros.
    """
    *outer, inner = c.reduced
    steps = Iter(f"{inner.name}g", ceildiv(inner.extent, group))
    address: DimLike = 0
    for it in (*c.batch, panel_of(c.n, block), *outer, steps, column_of(c.n, block)):
        address = address * it.extent + it.dim
    left = substitute(c.left.address, {inner.name: steps.dim * group})
    return replace(
        c,
        reduced=(*outer, steps),
        left=replace(c.left, load=Load(c.left.load.value, (left,), c.left.load.dtype)),
        right=replace(
            c.right, load=Load(c.right.load.value, (address * group,), c.right.load.dtype)
        ),
    )


def group_constant(packed: Array, steps: int, group: int, block: int) -> Array:
    """Return packed weights [...][steps][block] as [...][steps / group][block][group]."""
    rows = packed.reshape(-1, steps, block)
    if steps % group:
        rows = np.pad(rows, ((0, 0), (0, -steps % group), (0, 0)))
    split = rows.reshape(rows.shape[0], -1, group, block)
    return np.ascontiguousarray(split.swapaxes(2, 3)).reshape(-1)


def dot_group(c: Contraction, tile: Tile, target: Target) -> int:
    """How many steps of the innermost iterator one `dot` takes; 0 where none fits.

    c is collapsed: its left side must run through these steps without a gap.
    """
    left, right = c.left.load.dtype, c.right.load.dtype
    sums = DOTS.get((left, right))
    inner = c.reduced[-1]
    if sums != c.reduce.dtype or target.dot_lanes(left) != tile.lanes:
        return 0
    group = sums.bits // left.bits
    steps = inner.extent
    if not isinstance(steps, int) or steps < group or stride_of(c.left.address, inner) != 1:
        return 0
    return group
