"""Constant right sides of few bits: how they lie in words that hold several steps of a column.

The kernel is in `words_kernel`, the reasons are in docs/decisions/0028-weights-of-few-bits.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tfc.compiler.lower.contract import (
    Array,
    Contraction,
    Tile,
    block_depth,
    collapse_reduced,
    column_of,
    pack_constant,
    panel_of,
    stride_of,
    with_packed_right,
)
from tfc.compiler.lower.contract_sides import BYTES, Factor
from tfc.compiler.lower.narrow import grouped, grouped_steps
from tfc.ir.body import Load
from tfc.ir.core import Block, Value
from tfc.ir.dims import DimLike, evaluate, product, substitute
from tfc.ir.types import F32, U32, TensorType

# A word, whose bits are shared out among steps.
BITS = (2, 4, 8)
# More rows than so many tiles have repay that a panel is unpacked into memory.
FEW_TILES = 2
# Fewer panels are no tasks for threads, which rows are then.
LEAST_PANELS = 8


@dataclass(frozen=True)
class Words:
    """bits: of a number in a word. base: the number whose bits are 0."""

    bits: int
    base: int

    @property
    def count(self) -> int:
        """Numbers in a word: as many steps of a column, the first in the lowest bits."""
        return U32.bits // self.bits

    def pack(self, packed: Array, steps: int, block: int) -> Array:
        """Return packed bytes [...][steps][block] as words [...][words][block]."""
        rows = (packed.view(np.uint8) - np.uint8(self.base % 256)).reshape(-1, steps, block)
        missing = -steps % self.count
        if missing:
            rows = np.pad(rows, ((0, 0), (0, missing), (0, 0)))
        parts = rows.reshape(-1, 4, self.count // 4, block)
        filled = parts[:, :, 0].copy()
        for part in range(1, self.count // 4):
            filled |= parts[:, :, part] << np.uint8(part * self.bits)
        return np.ascontiguousarray(filled.swapaxes(1, 2)).view("<u4").reshape(-1)


def choose(c: Contraction, flat: Array) -> Words | None:
    """Return how the constant right side, of elements `flat`, is read in words.

    None where it is not of bytes, or of bytes that are read as such.
    """
    if c.right.load.dtype not in BYTES or c.reduce.dtype != F32 or flat.size == 0:
        return None
    low, high = int(flat.min()), int(flat.max())
    bits = next(bits for bits in BITS if high - low < 1 << bits)
    return None if bits == BITS[-1] and c.right.blocks is None else Words(bits, low)


@dataclass(frozen=True)
class WordPlan:
    """A contraction whose right side is words, which its innermost iterator counts.

    steps: of that iterator, which are `stride` apart in the left side. depth: how many reduced
    iterators there are other blocks for. panel: the same with a panel of floats in memory as its
    right side, where there may be more than `few` rows.
    """

    c: Contraction
    tile: Tile
    words: Words
    steps: int
    stride: DimLike
    depth: int
    few: int
    panel: Panel | None

    @property
    def rows(self) -> DimLike:
        return product(it.extent for it in self.c.rows)


@dataclass(frozen=True)
class Panel:
    """A contraction that reads a panel of floats which its thread has made of words.

    at: where a step's first column is, over the reduced iterators of the words.
    """

    c: Contraction
    tile: Tile
    at: DimLike
    size: int
    memory: Value


def make_plan(
    c: Contraction,
    words: Words,
    tile: Tile,
    wide: Tile,
    most: int,
    array_of: Callable[[Value], Array],
    constant: Callable[[Array, Factor], Value],
) -> WordPlan:
    """Lay out the right side and what its blocks share.

    tile, wide: of words, and of floats with as many columns. array_of: the elements of a constant.
    constant: makes one of these elements, of a side's type. most: bytes of a panel of floats.
    """
    right = c.right.load.value
    packed = pack_constant(c, tile.block, array_of(right))
    standing = Value(TensorType(U32, (packed.size,)), Block(), 0, "words")
    whole = collapse_reduced(with_packed_right(c, standing, tile.block))
    steps = evaluate(whole.reduced[-1].extent, {})
    depth = block_depth(whole)
    plan = grouped(whole, words.count, tile.block, 1)
    load = Load(standing, plan.right.load.index, U32)
    value = constant(words.pack(packed, steps, tile.block), replace(plan.right, load=load))
    blocks = whole.right.blocks

    def shared(factor: Factor) -> Factor:
        own = replace(whole, right=factor, reduced=whole.reduced[:depth])
        laid_out = pack_constant(own, tile.block, array_of(factor.load.value))
        return with_packed_right(own, constant(laid_out, factor), tile.block).right

    if blocks is not None:
        zero = shared(blocks.zero) if blocks.zero is not None else None
        blocks = replace(blocks, scale=shared(blocks.scale), zero=zero)
    factor = Factor(replace(load, value=value), plan.right.dtype, blocks)
    stride = stride_of(whole.left.address, whole.reduced[-1])
    few = FEW_TILES * tile.th * tile.tw
    panel, rows = _panel(whole, words, wide), product(it.extent for it in c.rows)
    repaid = not isinstance(rows, int) or rows > few
    fits = panel.size * F32.bytes <= most and _panels(c, tile) >= LEAST_PANELS
    used = panel if repaid and fits else None
    return WordPlan(replace(plan, right=factor), tile, words, steps, stride, depth, few, used)


def _panels(c: Contraction, tile: Tile) -> int:
    return evaluate(panel_of(c.n, tile.block).extent, {})


def _panel(whole: Contraction, words: Words, wide: Tile) -> Panel:
    """The contraction by a panel of floats, in the words' order of steps."""
    column = column_of(whole.n, wide.block)
    address: DimLike = 0
    for it in (*whole.reduced, column):
        address = address * it.extent + it.dim
    size = evaluate(product(it.extent for it in whole.reduced), {}) * wide.block
    memory = Value(TensorType(F32, (size,)), Block(), 0, "panel")
    inner = whole.reduced[-1]
    first = {inner.name: grouped_steps(inner, words.count).dim * words.count, column.name: 0}
    right = Factor(Load(memory, (address,), F32), F32)
    c = collapse_reduced(replace(whole, right=right))
    return Panel(c, wide, substitute(address, first), size, memory)
