"""Shuffles of as many vectors as each has lanes: transposed, or each summed to one lane."""

from __future__ import annotations

from collections.abc import Sequence

from tfc.ir.core import Value
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.types import VectorType


def transposed(b: LoopBuilder, rows: Sequence[Value], size: int = 1) -> list[Value]:
    """The columns of a square of as many vectors as each has groups of `size` lanes.

    They are a power of two.
    """
    half = len(rows) // 2
    found = list(rows)
    for _ in range(len(rows).bit_length() - 1):
        pairs = [(found[i], found[half + i]) for i in range(half)]
        found = [vector for x, y in pairs for vector in _zipped(b, x, y, size)]
    return found


def summed(b: LoopBuilder, rows: Sequence[Value]) -> Value:
    """The vector of the sums over each of as many vectors as each has lanes, a power of two."""
    found = list(rows)
    while len(found) > 1:
        half = len(found) // 2
        found = [b.add(*_zipped(b, found[i], found[half + i])) for i in range(half)]
    return found[0]


def _zipped(b: LoopBuilder, x: Value, y: Value, size: int = 1) -> tuple[Value, Value]:
    """The groups of lanes of x and y in turn: of their lower halves, and of their upper ones."""
    assert isinstance(x.type, VectorType)
    lanes = x.type.lanes
    order = [
        side + at + i for at in range(0, lanes, size) for side in (0, lanes) for i in range(size)
    ]
    return b.shuffle(x, y, order[:lanes]), b.shuffle(x, y, order[lanes:])
