"""How long attention takes: register tiles of its two products, and what is between them.

Measured in docs/decisions/0008.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tfc.compiler.cost.choice import Candidate, best_first
from tfc.compiler.cost.contraction import step_cycles
from tfc.compiler.cost.machine import Machine

# Vectors of keys in a register tile of scores, and the most vectors of columns in one of sums.
VECTORS, MAX_VECTORS = 2, 8
# Fewer rows than this are multiplied by keys where they lie.
LEAST_ROWS = 6
# Of a vector of scores between the products: the greatest, exponentials, and their sum.
CHAIN = 11.0
# Tasks wanted of a kernel, and the fewest rows for which a task packs its keys again.
TASKS, TASK_ROWS = 16, 48


@dataclass(frozen=True)
class Head:
    """Sizes of one head: rows of queries, keys that one of them needs. lanes: of a vector of sums.
    group: terms of a sum that one multiplication takes.
    """

    rows: int
    keys: int
    depth: int
    columns: int
    lanes: int
    group: int = 1


def score_tiles(machine: Machine, head: Head) -> list[Candidate[int]]:
    """Rows of a register tile of the first product, those first that waste the least."""
    most = (machine.target.vector_registers - VECTORS - 1) // VECTORS
    sizes = [head.rows] if head.rows <= most else range(most, most // 2, -1)
    return best_first(
        [Candidate(f"{rows}x{VECTORS}", score_cycles(machine, head, rows), rows) for rows in sizes]
    )


def score_cycles(machine: Machine, head: Head, rows: int) -> float:
    """The first product of a head by tiles of `rows`."""
    tiles = math.ceil(head.rows / rows)
    panels = max(head.keys, 1) / (VECTORS * head.lanes)
    return tiles * panels * head.depth / head.group * step_cycles(machine, rows, VECTORS)


def value_tiles(
    machine: Machine, head: Head, rows: int, width: int
) -> list[Candidate[tuple[int, int]]]:
    """Vectors of `width` columns and rows of a register tile of the second product, best first.

    The rows divide `rows`, those of a tile of scores.
    """
    total = math.ceil(head.columns / width)
    found: list[Candidate[tuple[int, int]]] = []
    for vectors in range(1, min(total, MAX_VECTORS) + 1):
        limit = (machine.target.vector_registers - vectors - 1) // vectors
        fitting = [part for part in range(1, rows + 1) if rows % part == 0 and part <= limit]
        if fitting:
            tile = vectors, fitting[-1]
            cycles = value_cycles(machine, head, rows, tile, width)
            found.append(Candidate(f"{tile[1]}x{vectors}", cycles, tile))
    return best_first(found)


def value_cycles(
    machine: Machine, head: Head, rows: int, tile: tuple[int, int], width: int
) -> float:
    """The second product of a head: of `rows` of scores some rows and vectors at a time."""
    vectors, part = tile
    step = step_cycles(machine, part, vectors)
    turns = math.ceil(head.rows / rows) * rows / part * math.ceil(head.columns / width / vectors)
    return turns * max(head.keys, 1) / head.group * step


def head_cycles(machine: Machine, head: Head, rows: int, tile: tuple[int, int]) -> float:
    """All rows of a head, without the packing of its keys."""
    width = min(head.lanes, 1 << (head.columns - 1).bit_length())
    products = score_cycles(machine, head, rows) + value_cycles(machine, head, rows, tile, width)
    return products + CHAIN * head.rows * max(head.keys, 1) / head.lanes


def tiles_in_task(rows: int, heads: int, count: int) -> int | None:
    """Tiles of so many rows, of `count`, that a task takes; None for all of a head's."""
    if heads >= TASKS:
        return None
    return max(math.ceil(TASK_ROWS / rows), math.ceil(count * heads / (rows * TASKS)))
