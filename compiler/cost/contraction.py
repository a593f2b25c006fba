"""How long sums of products take: register tiles, and fewer multiplications.

Measured in docs/decisions/0004, 0007 and 0015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tfc.compiler.cost.machine import Machine
from tfc.ir.types import F32

# Sets of accumulators that a small tile may use, so that there are chains enough.
MAX_SETS = 4
# Of a multiply-add, what a load beside it costs although there are units for both.
LOAD_SHARE = 0.25
# What Strassen's product, which rounds more, must save of the time.
LEAST_GAIN = 0.05
# Starting and ending a register tile of a plane.
TURN_CYCLES = 8.0


@dataclass(frozen=True)
class Product:
    """Sizes of a sum of products: height x width rows, n columns, `steps` summed, all of it
    `batch` times. group: steps that one multiplication takes. part: rows of the tiles for what is
    left of the width, 0 where that takes a whole tile.
    """

    height: int
    width: int
    n: int
    steps: int
    batch: int = 1
    group: int = 1
    part: int = 0

    def tiles(self, th: int, tw: int) -> float:
        """Register tiles of all rows."""
        parts = math.ceil(self.width / self.part) * self.part if self.part else 0
        across = parts / tw if 0 < self.part < tw else math.ceil(self.width / tw)
        return math.ceil(self.height / th) * across


def chains(machine: Machine) -> int:
    """Independent multiply-adds that keep all units busy."""
    return int(machine.rates.latency * machine.rates.units)


def sets(machine: Machine, accumulators: int) -> int:
    """Sets of accumulators by turns, so that no unit waits."""
    return max(1, min(MAX_SETS, chains(machine) // accumulators))


def waiting(machine: Machine, accumulators: int) -> float:
    """How much longer a step takes since there are too few accumulators."""
    enough = chains(machine)
    return enough / min(accumulators, enough)


def step_cycles(machine: Machine, rows: int, vectors: int) -> float:
    """One step of a register tile: its multiply-adds, and what its loads add to that."""
    sums = rows * vectors / machine.rates.units
    return sums * (1 + LOAD_SHARE * (1 / rows + 1 / vectors))


def tile_cycles(
    machine: Machine, product: Product, th: int, tw: int, vectors: int, lanes: int
) -> float:
    """All of a product by register tiles of th x tw rows and so many vectors of columns."""
    panels = math.ceil(product.n / (vectors * lanes))
    tiles = product.tiles(th, tw)
    step = step_cycles(machine, th * tw, vectors)
    late = waiting(machine, th * tw * vectors * MAX_SETS)
    return product.batch * panels * tiles * (product.steps / product.group) * step * late


def streamed(machine: Machine, cycles: float, size: float) -> float:
    """Cycles where `size` bytes of constants are read meanwhile.

    What fills half of the second-level cache comes from memory in every run of a model.
    """
    if size <= machine.target.l2 // 2:
        return cycles
    return max(cycles, size / machine.rates.memory)


@dataclass(frozen=True)
class Planes:
    """Sizes of a product by planes: see `lower.planes.PlanePlan`. tiles: how many there are;
    blocks: of `block` tiles in `turns` register tiles of `rows`.
    """

    planes: int
    inputs: int
    tiles: int
    blocks: int
    turns: int
    rows: int
    panels: int
    vectors: int


def plane_cycles(machine: Machine, p: Planes) -> float:
    """The multiplications of all planes."""
    step = step_cycles(machine, p.rows, p.vectors) * waiting(machine, p.rows * p.vectors)
    return p.blocks * p.turns * p.panels * p.planes * (p.inputs * step + TURN_CYCLES)


def winograd_left(planes: int, inputs: int, lanes: int) -> float:
    """Transforming the pixels of one tile."""
    return 4 * planes * inputs / lanes


def winograd_right(planes: int, vectors: int) -> float:
    """Transforming the products of one tile and panel."""
    return 4.0 * planes * vectors


# Of a vector of one tile: finding the largest number of two rows and transforming both, and making
# four outputs of seven products.
STRASSEN_LEFT, STRASSEN_RIGHT = 12, 20
# Fewer rows do not repay the sums of weights, which are made in every call.
STRASSEN_ROWS = 96
# Fewer tiles do not repay the weights of Winograd's forms, which are more.
WINOGRAD_TILES = 16
# Tiles of a block whose transformed left side and products stay in the second-level cache; of
# Strassen's one panel of one plane of the weights stays in the first for all of them.
WINOGRAD_BLOCK, STRASSEN_BLOCK = 28, 112
# From this many blocks on, each is a task; fewer share the transformed left side. Below the other
# number blocks are halved, so that threads have equal shares.
TASK_BLOCKS, FEW_TASKS = 4, 16


def winograd_blocks(tiles: int, most: int) -> list[int]:
    """Into how many blocks tiles are cut, in whole register tiles of `most`, the model's first."""
    blocks = _equal_blocks(tiles, WINOGRAD_BLOCK, most)
    if TASK_BLOCKS <= blocks < FEW_TASKS:
        blocks = _equal_blocks(tiles, WINOGRAD_BLOCK // 2, most)
    others = [_equal_blocks(tiles, size * WINOGRAD_BLOCK // 2, most) for size in (1, 2, 4)]
    return list(dict.fromkeys([blocks, *others]))


def _equal_blocks(count: int, size: int, most: int) -> int:
    return math.ceil(count / (most * max(size // most, 1)))


def strassen_left(inputs: int, lanes: int) -> float:
    """Transforming one pair of rows; inputs: of a half."""
    return STRASSEN_LEFT * inputs / lanes


def strassen_right(vectors: int) -> float:
    """Making outputs of the products of one tile and panel."""
    return float(STRASSEN_RIGHT * vectors)


def strassen_cycles(machine: Machine, product: Product, direct: float) -> float:
    """A product of halves, by what it saves of `direct` and what it adds; endless of few rows.

    It rounds more, so it must save a part of the time, and counts as that much longer.
    """
    rows, lanes = product.height * product.width * product.batch, machine.target.lanes(F32)
    if rows < STRASSEN_ROWS:
        return math.inf
    peak = rows * product.steps * product.n / (machine.rates.units * lanes)
    sums = strassen_left(product.steps, lanes) + strassen_right(1) * product.n / lanes
    part = 7 / 8 + rows / 2 * sums / machine.rates.units / peak
    return direct * part / (1 - LEAST_GAIN)


def winograd_cycles(machine: Machine, p: Planes, lanes: int) -> float:
    """A convolution by planes, whose weights are read meanwhile; endless of few tiles."""
    if p.tiles < WINOGRAD_TILES:
        return math.inf
    left, right = winograd_left(p.planes, p.inputs, lanes), winograd_right(p.planes, p.vectors)
    cycles = plane_cycles(machine, p) + p.tiles * (left + p.panels * right)
    weights = p.planes * p.inputs * p.panels * p.vectors * lanes
    return streamed(machine, cycles, weights * F32.bytes)


@dataclass(frozen=True)
class Picture:
    """A convolution's result: `pixels` of `channels`, in rows of `columns`, each a sum of `steps`.

    winograd: whether fewer multiplications may do, with channels last.
    """

    pixels: int
    columns: int
    channels: int
    steps: int
    winograd: bool = False


# What computing with channels first must save: its right side is no packed constant.
FIRST_GAIN = 0.1
# What Winograd's form of 4 x 4 outputs takes of the time, as measured for docs/decisions/0007.
WINOGRAD_PART = 1 / 3


def first_cycles(machine: Machine, p: Picture) -> float:
    """A picture with channels first, whose rows are cut into vectors."""
    lanes = machine.target.lanes(F32)
    vectors = p.pixels / p.columns * math.ceil(p.columns / lanes) * p.channels
    return vectors * p.steps / machine.rates.units / (1 - FIRST_GAIN)


def last_cycles(machine: Machine, p: Picture) -> float:
    """A picture with channels last that is then turned around."""
    lanes = machine.target.lanes(F32)
    cycles = p.pixels * math.ceil(p.channels / lanes) * p.steps / machine.rates.units
    enough = p.winograd and p.pixels >= WINOGRAD_TILES * 16 and p.channels >= 2 * lanes
    moved = 2 * p.pixels * p.channels * F32.bytes
    return cycles * (WINOGRAD_PART if enough else 1) + moved / machine.rates.last
