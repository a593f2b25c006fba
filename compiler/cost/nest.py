"""What loops over elements cost: which iterator is vectorised, tiles of windows, what to keep.

Measured in docs/decisions/0010. Costs are counted in accesses of memory, which limit such loops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

from tfc.compiler.cost.choice import Candidate, best_first
from tfc.compiler.cost.machine import Machine
from tfc.ir.dims import DimLike

# Lanes further apart than this are gathered one by one.
MOST_STEP = 4
# Operations that bring the lanes of accumulators together at the end of a vector reduction.
HORIZONTAL = 20.0
# What an element costs beside its accesses, and what makes an access lane by lane to be stored.
BESIDE, SCATTERED = 0.2, 1.5
# Accesses of an element from which on vectors are no gain.
MOST_ACCESSES = 1.5
# Sums that run side by side, so that none waits for its own last addition.
ACCUMULATORS = 4
# Additions that are under way at once: two units of latency four.
CHAINS = 8
# Fewer columns leave most lanes of a vector empty where windows slide along rows.
LEAST_COLUMNS = 4
# Along an axis of a window; pictures are halved from 224 again and again.
_SIZES = (1, 2, 4, 7, 8, 14, 16)
# From so many rows on, rows alone make tasks; below, the vectorised loop is cut, too.
MANY_ROWS = 64
# Reading back a kept value costs about a load and a store; computing less than this is cheaper.
KEPT_WORK = 8.0


def lane_cost(
    steps: Iterable[tuple[DimLike | None, bool]], extent: int, lanes: int, folded: int = 1
) -> float:
    """Accesses of memory an element when an iterator of `extent` runs along `lanes`.

    steps: of each access that moves with it the stride, and whether it is a store. folded: how
    many elements are read for one that is stored.
    """
    used = extent / (-(-extent // lanes) * lanes)
    total = BESIDE
    for step, store in steps:
        cost = 1.0
        if step != 1:
            few = isinstance(step, int) and 1 < step <= MOST_STEP and not store
            one_by_one = lanes * (SCATTERED if store else 1.0)
            cost = step + 0.5 if few else one_by_one  # type: ignore[operator]
        total += cost / folded if store else cost
    return total / (lanes * used)


def unrollings() -> list[Candidate[int]]:
    """How many sums run side by side: a power of two."""
    return [Candidate(f"{count}", 0.0, count) for count in (ACCUMULATORS, 2, 8)]


class Slide(NamedTuple):
    """An axis of a window's results: how many, taps along it, and taps between neighbours."""

    extent: int
    taps: int = 1
    stride: int = 1

    def inputs(self, size: int) -> int:
        """Elements under the windows of `size` neighbours."""
        return (size - 1) * self.stride + self.taps


def window_tiles(machine: Machine, high: Slide, wide: Slide) -> list[Candidate[tuple[int, int]]]:
    """Output rows x columns of a window that stay in registers: half of these hold them."""
    most = machine.target.vector_registers // 2
    found: dict[tuple[int, int], Candidate[tuple[int, int]]] = {}
    for rows, columns in itertools.product(_SIZES if high.extent > 1 else (1,), _SIZES):
        shape = min(rows, high.extent), min(columns, wide.extent)
        if math.prod(shape) <= most:
            covered = _covered(high.extent, shape[0]) * _covered(wide.extent, shape[1])
            cycles = _window_cycles(machine, high, wide, *shape) * covered
            found.setdefault(shape, Candidate(f"{rows}x{columns}", cycles, (rows, columns)))
    return best_first([*found.values()])


def _covered(extent: int, size: int) -> int:
    """Elements that tiles compute, the last of which overlaps its neighbour."""
    return math.ceil(extent / size) * size


def _window_cycles(machine: Machine, high: Slide, wide: Slide, rows: int, columns: int) -> float:
    """An output's loads of inputs, which neighbours share, and of taps, which all share, and its
    multiply-adds, of which fewer than the units have under way wait for each other.
    """
    outputs = rows * columns
    taps = high.taps * wide.taps
    loads = (high.inputs(rows) * wide.inputs(columns) + taps) / (outputs * machine.rates.loads)
    return loads + taps / machine.rates.units * max(CHAINS / outputs, 1)


class RowTile(NamedTuple):
    """A tile of windows along rows: rows x vectors of outputs, taps, rows that it reads, and sets
    of totals that columns of taps take turns in."""

    high: int
    wide: int
    row_taps: int
    column_taps: int
    rows: int
    turns: int


# Of a vector that is copied: a load, a shuffle where columns are sorted, and a store.
COPY_CYCLES = 2.0


def row_window_cycles(machine: Machine, tile: RowTile, tiles: int, copied: float) -> float:
    """So many tiles, and the vectors that are copied for them."""
    rates, outputs = machine.rates, tile.high * tile.wide
    steps = tile.row_taps * tile.column_taps * outputs
    under_way = outputs * tile.turns
    loads = tile.column_taps * (tile.rows * tile.wide + tile.row_taps)
    each = loads / rates.loads + steps / rates.units * max(CHAINS / under_way, 1)
    return tiles * (each + outputs / rates.stores) + copied * COPY_CYCLES
