"""How long sums of products take on tile registers.

Figures are those of Intel's manuals: tfc was not measured on a machine that has them.
"""

from __future__ import annotations

from dataclasses import dataclass

# Cycles between two products of tiles, whatever their rows, and until one may be added to.
DOT, LATENCY = 16, 52
# Of what loads of tiles take, 8 cycles each, the part that products do not hide.
LOAD = 8 * 0.25
# Of a row of sums through memory to the epilogue, of a copied vector, of a block's begin and end,
# and of a task's, which configures the tiles.
LINE, COPY, BLOCK, TASK = 2, 2, 60, 100


@dataclass(frozen=True)
class Blocks:
    """Sizes of a product by blocks of high x wide tiles of sums. lines: rows of a block; chunks:
    tiles along a sum; copies: vectors of rows copied for a block; count: how many blocks there are.
    """

    high: int
    wide: int
    lines: int
    chunks: int
    copies: float
    count: int


def block_cycles(b: Blocks) -> float:
    """One block: its products and loads, and its sums through memory."""
    step = max(DOT * b.high * b.wide, LATENCY) + LOAD * (b.high + b.wide)
    return b.chunks * step + COPY * b.copies + LINE * b.lines * b.wide + BLOCK


def tile_cycles(b: Blocks) -> float:
    """All blocks, as one task."""
    return b.count * block_cycles(b) + TASK
