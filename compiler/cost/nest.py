"""What loops over elements cost: which iterator is vectorised, tiles of windows, what to keep.

Measured in docs/decisions/0010. Costs are counted in accesses of memory, which limit such loops.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

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
# From so many rows on, rows alone make tasks; below, the vectorised loop is cut, too.
MANY_ROWS = 64
# Reading back a kept value costs about a load and a store; computing less than this is cheaper.
KEPT_WORK = 8.0
# Taps of a window that the model has in mind along each axis.
_TAPS = 3


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


def window_tiles(machine: Machine, height: int, width: int) -> list[Candidate[tuple[int, int]]]:
    """Output rows x columns of a window that stay in registers, of height x width in all.

    A quarter of the registers holds them, since the taps are unrolled; behind those stand larger
    ones, which tuning may try.
    """
    registers = machine.target.vector_registers
    sizes = (1, 2, 4, 8, 16)
    shapes = [(high, wide) for high in sizes if height > 1 or high == 1 for wide in sizes]
    shapes.sort(key=lambda shape: abs(shape[0] - 2 * shape[1]))
    found: dict[tuple[int, int], Candidate[tuple[int, int]]] = {}
    for high, wide in shapes:
        shape = min(high, height), min(wide, width)
        cycles = (
            _window_cycles(machine, *shape) * _covered(height, shape[0]) * _covered(width, shape[1])
        )
        found.setdefault(shape, Candidate(f"{high}x{wide}", cycles, (high, wide)))

    def within(least: int, most: int) -> list[Candidate[tuple[int, int]]]:
        return best_first([c for shape, c in found.items() if least < math.prod(shape) <= most])

    return [*within(0, registers // 4), *within(registers // 4, registers // 2)]


def _covered(extent: int, size: int) -> int:
    """Elements that tiles compute, the last of which overlaps its neighbour."""
    return math.ceil(extent / size) * size


def _window_cycles(machine: Machine, high: int, wide: int) -> float:
    """An output's loads of inputs, which neighbours share, and of taps, which all share, and its
    multiply-adds.
    """
    taps = _TAPS * _TAPS
    inputs = (high + _TAPS - 1) * (wide + _TAPS - 1)
    loads = (inputs + taps) / (high * wide * machine.rates.loads)
    return loads + taps / machine.rates.units
