"""How an attention runs: its tiles, its tasks, and which keys a tile needs. See `attention`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tfc.compiler.cost import attention as cost
from tfc.compiler.cost.choice import Chooser
from tfc.compiler.cost.expression import estimate
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.lower.attention import Attention, divisor_of, narrow_side
from tfc.compiler.lower.decay import with_decays
from tfc.compiler.target import Target
from tfc.ir.body import Expr, Iter, Load, Reduce, loads, rewrite, walk
from tfc.ir.dims import (
    Dim,
    DimLike,
    ceildiv,
    coefficient,
    maximum,
    minimum,
    product,
    substitute,
    symbol,
)
from tfc.ir.types import BF16

# Steps of a `dot` of bf16.
PAIR = 2
# In a tile, how many keys its rows need, in units of them.
SEEN = "seen.a"
# Rows that are multiples of 4 KiB apart would compete for the same few lines of L1.
GAP_BYTES = 64
L1_STRIDE_BYTES = 4096


@dataclass(frozen=True)
class Plan:
    """How an attention runs: tiles of `rows` queries, `tiles` of them in one task. head: of likely
    sizes.

    direct: queries are read where they lie, else each tile of them is computed into memory.
    packed: keys are packed into panels of VECTORS vectors first, else multiplied where they lie.
    along: vectors of keys run along the depth, and are transposed when packed. width: lanes of
    the result's vectors; vectors, part: the register tile of the second product in columns and
    rows. dots: both products are of bf16, two steps at a time. unit: by how many keys the number
    of those that a tile needs is rounded up, 0 where it needs all.
    """

    attention: Attention
    head: cost.Head
    rows: int
    tiles: DimLike
    direct: bool
    packed: bool
    along: bool
    width: int
    vectors: int
    part: int
    dots: bool
    unit: int

    @property
    def lanes(self) -> int:
        return self.head.lanes

    @property
    def seen(self) -> DimLike:
        """How many keys the present tile needs."""
        return symbol(SEEN) * self.unit if self.unit else self.attention.key.extent

    def needed(self, row: DimLike) -> DimLike:
        """How many keys a row and those before it need if numbers are moderate: at least one."""
        a = self.attention
        assert a.limit is not None
        assert a.row is not None
        limit = substitute(a.limit, {a.row.name: row})
        return minimum(maximum(limit, 1), a.key.extent)

    @property
    def block(self) -> int:
        """Keys of a panel."""
        return cost.VECTORS * self.lanes

    @property
    def step(self) -> int:
        """Terms of a sum that one multiplication takes."""
        return PAIR if self.dots else 1

    @property
    def depth(self) -> int:
        return _extent(self.attention.depth)

    @property
    def narrow(self) -> int:
        """Lanes of vectors along the depth, where none need be more than it is."""
        return min(self.lanes, 1 << (self.depth - 1).bit_length())

    @property
    def columns(self) -> int:
        return _extent(self.attention.column)

    @property
    def all_tiles(self) -> DimLike:
        return ceildiv(self.attention.rows, self.rows)

    @property
    def groups(self) -> DimLike:
        """How many tasks share a head."""
        return ceildiv(self.all_tiles, self.tiles)

    @property
    def panels(self) -> DimLike:
        return ceildiv(self.attention.key.extent, self.block)

    @property
    def pitch(self) -> DimLike:
        """Elements between rows of scores."""
        size = self.attention.dtype.bytes
        gap = GAP_BYTES // size
        row = self.panels * self.block + gap
        return row + gap if row % (L1_STRIDE_BYTES // size) == 0 else row

    @property
    def divisor_at(self) -> DimLike:
        """Where in its row the divisor is kept."""
        return self.panels * self.block

    @property
    def key_size(self) -> DimLike:
        return self.panels * self.block * self.depth

    @property
    def score_size(self) -> DimLike:
        return self.pitch * self.rows

    @property
    def pairs(self) -> DimLike:
        """Pairs of keys."""
        return ceildiv(self.attention.key.extent, PAIR)

    @property
    def weight_pitch(self) -> DimLike:
        """Elements between rows of weights of bf16, behind which there may be one more."""
        return self.pairs * PAIR + GAP_BYTES // BF16.bytes

    @property
    def value_size(self) -> DimLike:
        """Elements of packed values."""
        return self.pairs * PAIR * self.columns

    @property
    def query_size(self) -> int:
        lines = -(-self.rows * self.depth * self.attention.dtype.bytes // GAP_BYTES)
        return lines * GAP_BYTES // self.attention.dtype.bytes


def _extent(it: Iter) -> int:
    assert isinstance(it.extent, int)
    return it.extent


def make_plan(
    a: Attention, target: Target, hints: Mapping[str, int], chooser: Chooser
) -> Plan | None:
    """Choose tiles and tasks; None where depth or columns are not known."""
    if not isinstance(a.depth.extent, int) or not isinstance(a.column.extent, int):
        return None
    lanes = target.lanes(a.dtype)
    count = max(estimate(a.rows, hints), 1)
    a, dots = _with_dots(a, target, count)
    along = runs_along(a.right, a.depth)
    direct = isinstance(a.left, Load) and runs_along(a.left, a.depth)
    packed = count >= cost.LEAST_ROWS or not along
    machine, head = machine_of(target), _head(a, lanes, dots, hints)
    rows = chooser.choose("tile", cost.score_tiles(machine, head))
    width = min(lanes, 1 << (head.columns - 1).bit_length())
    tile = chooser.choose("tile", cost.value_tiles(machine, head, rows, width))
    tiles = _tiles_of_task(a, rows, count, hints)
    weight = with_decays(a.weight, a.scratch)
    if weight is not a.weight:
        a = with_weight(a, weight)
    unit = 0
    if a.limit is not None and packed and _reduces_keys(a):
        unit = lanes if a.key.extent % lanes == 0 else 1
    plan = Plan(a, head, rows, tiles, direct, packed, along, width, *tile, dots, unit)
    return replace(plan, attention=_up_to(a, plan.seen)) if unit else plan


def _with_dots(a: Attention, target: Target, count: int) -> tuple[Attention, bool]:
    """The attention with sides of bf16 where both products can be of `dot`, else as it is."""
    narrow = [narrow_side(side) for side in (a.left, a.right, a.share, a.values)]
    left, right, share, values = narrow
    if left is None or right is None or share is None or values is None or count < cost.LEAST_ROWS:
        return a, False
    lanes = target.lanes(a.dtype)
    fits = _extent(a.depth) % PAIR == 0 and _extent(a.column) >= lanes
    if not fits or not target.has_dot(BF16, lanes):
        return a, False
    return replace(a, left=left, right=right, values=values), True


def _reduces_keys(a: Attention) -> bool:
    """Whether the chain's reductions are over all keys and nothing else."""
    reduces = [node for node in walk(a.weight) if isinstance(node, Reduce)]
    return all([it.extent for it in node.iters] == [a.key.extent] for node in reduces)


def _up_to(a: Attention, seen: DimLike) -> Attention:
    """The attention with reductions over the first `seen` keys."""

    def shorten(node: Expr) -> Expr | None:
        if not isinstance(node, Reduce):
            return None
        (it,) = node.iters
        return Reduce(node.kind, (Iter(it.name, seen),), node.body, node.dtype, node.last)

    return with_weight(a, rewrite(a.weight, shorten))


def with_weight(a: Attention, weight: Expr) -> Attention:
    """The attention with another expression of its weights, which has the same parts."""
    divisor = None if a.divisor is None else divisor_of(weight, a.scratch, a.key)
    return replace(a, weight=weight, divisor=divisor)


def runs_along(side: Expr, depth: Iter) -> bool:
    """Whether what is read of queries or keys is contiguous in the depth."""
    steps = set()
    for load in loads(side):
        fixed = load.index[0]
        if len(load.index) != 1 or not isinstance(fixed, (int, Dim)):
            return False
        steps.add(coefficient(fixed, depth.name))
    return steps in ({1}, {0, 1})


def _head(a: Attention, lanes: int, dots: bool, hints: Mapping[str, int]) -> cost.Head:
    """The likely sizes of a head."""
    rows, keys = (max(estimate(dim, hints), 1) for dim in (a.rows, a.key.extent))
    if a.limit is not None and a.row is not None:
        middle = substitute(a.limit, {a.row.name: rows // 2})
        keys = min(max(estimate(middle, hints), 1), keys)
    group = PAIR if dots else 1
    return cost.Head(rows, keys, _extent(a.depth), _extent(a.column), lanes, group)


def _tiles_of_task(a: Attention, rows: int, count: int, hints: Mapping[str, int]) -> DimLike:
    """How many tiles one task takes: all of a head's, unless there are few heads."""
    heads = max(estimate(product(it.extent for it in a.batch), hints), 1)
    tiles = ceildiv(a.rows, rows)
    each = cost.tiles_in_task(rows, heads, count)
    return tiles if each is None or (isinstance(tiles, int) and tiles <= each) else each
