"""Matmul and convolution: register-blocked kernels over a packed right side, `contract_kernel`.

Both are a sum of products of two loads whose positions are affine. The right side depends on
`n`, the iterator along which the output is contiguous; tiles of up to 28 rows x vectors of
accumulators stay in registers while the loops over the reduced iterators run. Measured choices
are in docs/decisions/0004-contraction-schedule.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.compiler.cost import contraction as cost
from tfc.compiler.cost.choice import Candidate, best_first
from tfc.compiler.cost.expression import estimate
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.lower.compose import Nest
from tfc.compiler.lower.contract_sides import Blocks, Factor, factors
from tfc.compiler.lower.normal import reductions
from tfc.compiler.target import Target
from tfc.ir.body import Expr, Guard, Iter, Load, Number, Range, Reduce
from tfc.ir.core import Value
from tfc.ir.dims import (
    DimLike,
    ceildiv,
    coefficient,
    evaluate,
    product,
    substitute,
    symbols_of,
)
from tfc.ir.loop.nodes import DOTS

Array = npt.NDArray[Any]
PAGE = 4096
MAX_VECTORS = 8
# Fewer rows by more than four vectors wait for their loads.
LEAST_WIDE_ROWS = 3
# Products of fewer multiply-adds are nests, along whose vectors sums of few columns run.
MIN_WORK, MIN_WIDE_WORK, WIDE = 512, 256, 8
# Registers that a step needs beside the accumulators: for each vector, and at all. A `dot` of
# bytes that is no instruction widens both sides.
_SPARED = (2, 4)
# Those of words: a word, what it holds of a step, and a scale for each vector; masks.
_UNPACKED_SPARED = (3, 2)
LEAST_ROWS = 4
# A tile is chosen for so many rows where only a run knows how many there are, and what is left of
# them is done by tiles of so many at most, or of one. Of few weights, which a row reads from the
# first-level cache, it is done row by row: the code for four costs more time to compile than it
# ever saves.
LIKELY_ROWS = 64
PART_ROWS = 4
FEW_WEIGHTS = 4096
# Accumulators of a tile of bytes, and how much longer one of the equal tiles may take.
LEAST_SUMS, MOST_SUMS, ABOUT = 8, 16, 1.015


@dataclass(frozen=True)
class Contraction:
    """A nest that is a sum of products, with its iterators sorted by role.

    batch: in both sides. rows: in the left only (or in neither). n: in the right only, contiguous
    in the output. reduced: summed over, by falling stride of the left side.
    """

    nest: Nest
    reduce: Reduce
    left: Factor
    right: Factor
    batch: tuple[Iter, ...]
    rows: tuple[Iter, ...]
    n: Iter
    reduced: tuple[Iter, ...]


@dataclass(frozen=True)
class Tile:
    """Register tile: th x tw rows (of the last two row iterators) x `vectors` of `lanes`.

    sets: of accumulators that take turns over the innermost reduced iterator.
    """

    th: int
    tw: int
    vectors: int
    lanes: int
    sets: int = 1

    @property
    def block(self) -> int:
        return self.vectors * self.lanes

    @property
    def sums(self) -> int:
        """Vectors of accumulators."""
        return self.th * self.tw * self.vectors

    @property
    def name(self) -> str:
        return f"{self.th}x{self.tw}x{self.vectors}"


def match(nest: Nest, hints: Mapping[str, int]) -> Contraction | None:
    """Recognise a contraction worth a register-blocked kernel."""
    if len(nest.outputs) != 1:
        return None
    sums = reductions(nest)
    if len(sums) != 1 or sums[0].kind != "sum" or not sums[0].iters:
        return None
    sides = factors(sums[0])
    if sides is None:
        return None
    for left, right in (sides, sides[::-1]):
        found = _sort(nest, sums[0], left, right, hints) if left.blocks is None else None
        if found is not None:
            return found
    return None


def _sort(
    nest: Nest, reduce: Reduce, left: Factor, right: Factor, hints: Mapping[str, int]
) -> Contraction | None:
    in_left, in_right = symbols_of(left.address), symbols_of(right.address)
    out = nest.outputs[0].address
    candidates = [
        it
        for it in nest.iters
        if it.name in in_right and it.name not in in_left and coefficient(out, it.name) == 1
    ]
    names = {it.name for it in (*nest.iters, *reduce.iters)}
    if not candidates or not _affine((left.address, right.address, out), names):
        return None
    n = max(candidates, key=lambda it: estimate(it.extent, hints))
    others = [it for it in nest.iters if it is not n]
    others.sort(key=lambda it: estimate(stride_of(out, it), hints), reverse=True)
    reduced = sorted(
        reduce.iters,
        key=lambda it: estimate(stride_of(left.address, it), hints),
        reverse=True,
    )
    work = math.prod(max(estimate(it.extent, hints), 1) for it in (*others, *reduced, n))
    columns = estimate(n.extent, hints)
    if columns < 2 or work < (MIN_WORK if columns < WIDE else MIN_WIDE_WORK):
        return None
    batch = tuple(it for it in others if it.name in in_right)
    rows = tuple(it for it in others if it.name not in in_right)
    found = Contraction(nest, reduce, left, right, batch, rows, n, tuple(reduced))
    return found if right.blocks is None or _steps_share(found, right.blocks) else None


def _steps_share(c: Contraction, blocks: Blocks) -> bool:
    """Whether blocks are whole runs of the inner reduced iterators."""
    addresses = [factor.address for factor in blocks.factors]
    names = set().union(*map(symbols_of, addresses))
    iters = (*c.nest.iters, *c.reduced)
    if not _affine(addresses, {it.name for it in iters}) or names & {it.name for it in c.rows}:
        return False
    return not any(it.name in names for it in c.reduced[block_depth(c) :])


def block_depth(c: Contraction) -> int:
    """How many of the reduced iterators, outermost first, there are other blocks for."""
    blocks = c.right.blocks
    names = set().union(*(symbols_of(f.address) for f in blocks.factors)) if blocks else set()
    return next((i for i, it in enumerate(c.reduced) if it.name not in names), len(c.reduced))


def stride_of(address: DimLike, it: Iter) -> DimLike:
    """The elements between neighbours along an iterator; 0 where the address is not affine."""
    step = coefficient(address, it.name)
    return 0 if step is None else step


def _affine(dims: Sequence[DimLike], names: set[str]) -> bool:
    return all(
        coefficient(dim, name) is not None for dim in dims for name in names & symbols_of(dim)
    )


# -- choosing ---------------------------------------------------------------------------------


def tiles(
    c: Contraction,
    target: Target,
    hints: Mapping[str, int],
    share: Callable[[Tile], float] = lambda tile: 1.0,
    *,
    unpacked: bool = False,
) -> list[Candidate[Tile]]:
    """The register tiles that fit, best first: least padding of n and rows, fewest loads.

    unpacked: the right side is made of words that hold several steps.

    Of so many vectors the model takes as many rows as there are registers for, since more of them
    use what is loaded of the right side; tuning may try fewer, which stand behind. Of bytes see
    `_compact`; share: of all steps, those that such tiles make.
    """
    accumulator = c.reduce.dtype
    lanes = max(target.vector_bits // accumulator.bits, 1)
    of_bytes = widest_group(c) > 0 and accumulator.is_int
    compact = of_bytes and target.multiplies_bytes
    if isinstance(c.n.extent, int):
        least = 128 // accumulator.bits if of_bytes else 1
        lanes = min(lanes, max(1 << max(c.n.extent - 1, 0).bit_length(), least))
    spared = _SPARED if of_bytes and not target.multiplies_bytes else (1, 1)
    if unpacked:
        spared = _UNPACKED_SPARED
    size, machine = _raised(c, product_of(c, target, lanes, hints)), machine_of(target)
    found: list[Candidate[Tile]] = []
    lower: dict[str, Candidate[Tile]] = {}
    for vectors in range(1, MAX_VECTORS + 1):
        free = target.vector_registers - spared[0] * vectors - spared[1]
        limit = min(free // vectors, _most_rows(c, target))
        if size.part and limit > size.part:
            limit -= limit % size.part
        if limit < 1:
            break
        wide = vectors > 4 and size.height * size.width > 4
        if wide and (limit < LEAST_WIDE_ROWS or not _pads_less(size.n, vectors, lanes)):
            continue
        for most in range(limit, 0, -1):
            th, tw = _fit_rows(size, most)
            tile = Tile(th, tw, vectors, lanes, cost.sets(machine, th * tw * vectors))
            cycles = cost.tile_cycles(machine, size, th, tw, vectors, lanes)
            cycles *= share(tile) if compact else 1.0
            if most == limit:
                found.append(Candidate(tile.name, cycles, tile))
            else:
                lower.setdefault(tile.name, Candidate(tile.name, cycles, tile))
    # Of equal ones, two vectors.
    found.sort(key=lambda candidate: abs(candidate.value.vectors - 2))
    known = {candidate.name for candidate in found}
    others = [candidate for name, candidate in lower.items() if name not in known]
    if compact:
        return _compact([*found, *others])
    return [*best_first(found), *best_first(others)]


def _compact(candidates: Sequence[Candidate[Tile]]) -> list[Candidate[Tile]]:
    """Tiles of bytes: few sums, and of those that are about equal one of fewest lines of rows.

    Sums of bytes end soon, and their ends take as long: those of a small tile are computed beside
    the next one's sums. What is in front of its few turns is less code, too.
    """
    few = [x for x in candidates if LEAST_SUMS <= x.value.sums <= MOST_SUMS] or list(candidates)
    order = best_first(few)
    equal = [x for x in order if x.cycles <= order[0].cycles * ABOUT]
    first = min(equal, key=lambda candidate: candidate.value.th)
    return [first, *(x for x in best_first(candidates) if x is not first)]


def _pads_less(columns: int, vectors: int, lanes: int) -> bool:
    """Whether panels of so many vectors pad the columns less than those of 2, 3 and 4 do."""
    padded = [-(-columns // (v * lanes)) * v for v in (vectors, 2, 3, 4)]
    return padded[0] < min(padded[1:])


def _raised(c: Contraction, size: cost.Product) -> cost.Product:
    """At least LIKELY_ROWS rows where a run tells how many: fewer are done by parts of a tile."""
    missing = -(-LIKELY_ROWS // (size.height * size.width))
    for it, name in zip(reversed(c.rows[-2:]), ("width", "height"), strict=False):
        if not isinstance(it.extent, int):
            part = PART_ROWS if name == "width" and _is_open(c) else 0
            return replace(size, part=part, **{name: getattr(size, name) * missing})
    return size


def _is_open(c: Contraction) -> bool:
    """Whether only a run tells how many rows there are along the last iterator, and only there."""
    return [isinstance(it.extent, int) for it in c.rows[-2:]] in ([False], [True, False])


def parts_of(c: Contraction, tile: Tile, axis: int, target: Target) -> tuple[Tile, ...]:
    """The tiles for what is left of a dynamic number of rows along one axis, longest first."""
    few = product(it.extent for it in (c.n, *c.reduced))
    size = tile.tw if axis else tile.th
    sizes = {1} if isinstance(few, int) and few <= FEW_WEIGHTS else {min(PART_ROWS, size - 1), 1}
    machine = machine_of(target)
    found = []
    for part in sorted(sizes, reverse=True):
        if 0 < part < size:
            th, tw = (tile.th, part) if axis else (part, tile.tw)
            sets = cost.sets(machine, th * tw * tile.vectors)
            found.append(replace(tile, th=th, tw=tw, sets=sets))
    return tuple(found)


def open_axis(c: Contraction, tile: Tile) -> int | None:
    """The axis of the tile whose last rows a run may lack, None where there is not just one."""
    sizes = (tile.th, tile.tw)[-len(c.rows[-2:]) :] if c.rows else ()
    found = [
        2 - len(sizes) + axis
        for axis, (it, size) in enumerate(zip(c.rows[-2:], sizes, strict=True))
        if size > 1 and not isinstance(it.extent, int) and it.extent % size != 0
    ]
    return found[0] if len(found) == 1 else None


def product_of(
    c: Contraction, target: Target, lanes: int, hints: Mapping[str, int]
) -> cost.Product:
    """The likely sizes of a contraction."""
    height, width = _row_extents(c, hints)
    group = widest_group(c) if target.has_dot(c.left.load.dtype, lanes) else 1
    return cost.Product(
        height,
        width,
        max(estimate(c.n.extent, hints), 1),
        estimate(product(it.extent for it in c.reduced), hints),
        max(estimate(product(it.extent for it in (*c.batch, *c.rows[:-2])), hints), 1),
        max(group, 1),
    )


def widest_group(c: Contraction) -> int:
    """How many steps a `dot` of such factors takes, 0 where there is none of their types."""
    left, right = c.left.load.dtype, c.right.load.dtype
    sums = DOTS.get((left, right))
    return sums.bits // left.bits if sums is not None and sums == c.reduce.dtype else 0


def overlaps(whole: bool, steps: int, group: int) -> bool:
    """Whether a last group that is not full is read from its end, together with steps before.

    Those have weights of 0, which is nothing to whole numbers.
    """
    return whole and steps >= group


def _most_rows(c: Contraction, target: Target) -> int:
    """How many rows the first-level cache holds side by side.

    Rows a multiple of 4 KiB apart fall into one set, which has as many ways as the cache has
    pages.
    """
    if not c.rows:
        return 1
    step = stride_of(c.left.address, c.rows[-1])
    if not isinstance(step, int) or step == 0 or (step * c.left.load.dtype.bytes) % PAGE:
        return target.vector_registers
    return max(target.l1 // PAGE, 1)


def _row_extents(c: Contraction, hints: Mapping[str, int]) -> tuple[int, int]:
    """Extents of the two row iterators that are tiled, 1 where there are fewer."""
    extents = [max(estimate(it.extent, hints), 1) for it in c.rows[-2:]]
    while len(extents) < 2:
        extents.insert(0, 1)
    return extents[0], extents[1]


def _fit_rows(size: cost.Product, limit: int) -> tuple[int, int]:
    """Split width evenly into tiles of at most `limit` rows; short widths take several rows.

    Where smaller tiles do what is left, it is not split evenly.
    """
    height, width = size.height, size.width
    if width > limit:
        return 1, limit if size.part else -(-width // -(-width // limit))
    th = max(limit // width, 1)
    return -(-height // -(-height // th)), width


# -- packing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packing:
    """The right side laid out as [batch][panel][reduced][block], zero behind the last column."""

    iters: tuple[Iter, ...]
    address: DimLike
    expr: Expr

    @property
    def size(self) -> DimLike:
        return product(it.extent for it in self.iters)


def panel_of(n: Iter, block: int) -> Iter:
    """The iterator over panels of `block` columns."""
    return Iter(f"{n.name}p", ceildiv(n.extent, block))


def column_of(n: Iter, block: int) -> Iter:
    """The iterator over the columns of one panel."""
    return Iter(f"{n.name}j", block)


def packing(c: Contraction, block: int) -> Packing:
    """Return how the right side is packed into panels of `block` columns."""
    panel, column = panel_of(c.n, block), column_of(c.n, block)
    iters = (*c.batch, panel, *c.reduced, column)
    address: DimLike = 0
    for it in iters:
        address = address * it.extent + it.dim
    position = panel.dim * block + column.dim
    source = substitute(c.right.address, {c.n.name: position})
    load = Load(c.right.load.value, (source,), c.right.load.dtype)
    expr: Expr = load
    if c.n.extent % block != 0:
        inside = (Range(position, 0, c.n.extent),)
        expr = Guard(inside, load, Number(0, load.dtype), load.dtype)
    return Packing(iters, address, expr)


def is_contiguous(c: Contraction) -> bool:
    """Whether the right side can be read in vectors where it lies."""
    return coefficient(c.right.address, c.n.name) == 1


def repays(c: Contraction, hints: Mapping[str, int]) -> bool:
    """Whether enough rows use a right side packed at run time to pay for the packing."""
    return estimate(product(it.extent for it in c.rows), hints) >= LEAST_ROWS


def packed_size(c: Contraction) -> DimLike:
    """Elements of the right side that the kernel reads."""
    return product(it.extent for it in (*c.batch, c.n, *c.reduced))


def constant_view(address: DimLike, iters: Sequence[Iter], flat: Array) -> Array:
    """Return a read-only view of elements `flat`, an axis for each of `iters`, all static.

    address: where an element is, affine in the iterators.
    """
    base = evaluate(substitute(address, {it.name: 0 for it in iters}), {})
    return np.lib.stride_tricks.as_strided(
        flat[base:],
        [evaluate(it.extent, {}) for it in iters],
        [evaluate(stride_of(address, it), {}) * flat.itemsize for it in iters],
        writeable=False,
    )


def pack_constant(c: Contraction, block: int, flat: Array) -> Array:
    """Return the packed right side of a constant whose elements are `flat`.

    All extents are static. One strided view and one copy, so it runs at memory speed.
    """
    panels = panel_of(c.n, block).extent
    iters = (*c.batch, c.n, *c.reduced)
    source = constant_view(c.right.address, iters, flat)
    shape = source.shape
    batch = len(c.batch)
    columns = evaluate(panels, {}) * block
    if columns != shape[batch]:
        pad = [(0, 0)] * source.ndim
        pad[batch] = (0, columns - shape[batch])
        source = np.pad(source, pad)
    split = [*shape[:batch], columns // block, block, *shape[batch + 1 :]]
    view = np.moveaxis(source.reshape(split), batch + 1, -1)
    return np.ascontiguousarray(view).reshape(-1)


def with_packed_right(c: Contraction, value: Value, block: int) -> Contraction:
    """Return the contraction reading its right side from the packed buffer `value`."""
    load = Load(value, (packing(c, block).address,), c.right.load.dtype)
    return replace(c, right=replace(c.right, load=load))


def collapse_reduced(c: Contraction) -> Contraction:
    """Merge neighbouring reduced iterators that both sides run through as one."""
    iters = list(c.reduced)
    left, right = c.left, c.right
    position = len(iters) - 2
    while position >= 0:
        outer, inner = iters[position], iters[position + 1]
        if all(_runs_on(side.address, outer, inner) for side in (left, *right.parts)):
            iters[position : position + 2] = [Iter(inner.name, outer.extent * inner.extent)]
            left, right = _without(left, outer), _without(right, outer)
        position -= 1
    return replace(c, reduced=tuple(iters), left=left, right=right)


def _runs_on(address: DimLike, outer: Iter, inner: Iter) -> bool:
    a, b = coefficient(address, outer.name), coefficient(address, inner.name)
    return a is not None and b is not None and a == b * inner.extent


def _without(side: Factor, it: Iter) -> Factor:
    address = substitute(side.address, {it.name: 0})
    load = Load(side.load.value, (address,), side.load.dtype)
    blocks = side.blocks
    if blocks is not None:
        zero = _without(blocks.zero, it) if blocks.zero is not None else None
        blocks = Blocks(_without(blocks.scale, it), zero)
    return Factor(load, side.dtype, blocks)
