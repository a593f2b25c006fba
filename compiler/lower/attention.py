"""Two matrix products with row reductions between them: what is computed, and the plan of it.

Scores are the first product; a chain of elementwise ops and of reductions along the keys makes
weights of them, the left side of the second product. Rows of scores stay in scratch memory
between the products. The kernel is in `attention_kernel`, the reasons are in
docs/decisions/0008-attention.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.compose import Access, Composer, Nest, Output
from tfc.compiler.lower.dependence import Names
from tfc.compiler.lower.normal import normalise, reductions
from tfc.compiler.target import Target
from tfc.ir.body import (
    Apply,
    Expr,
    Iter,
    Keep,
    Load,
    Reduce,
    loads,
    rewrite,
    substitute_dims,
    walk,
)
from tfc.ir.core import Block, Op, Value
from tfc.ir.dims import Dim, DimLike, ceildiv, coefficient, product, symbol
from tfc.ir.opdef import Kind, OpDef, Trait
from tfc.ir.types import DType, TensorType

# The name of the position where the current row of scores starts.
ROW = "scores.a"
VECTORS = 2
MAX_VECTORS = 8
# Fewer rows than this are multiplied by keys where they lie.
LEAST_ROWS = 6
# Tasks wanted of a kernel, and the fewest rows for which a task packs its keys again.
TASKS = 16
TASK_ROWS = 48
# Rows that are multiples of 4 KiB apart would compete for the same few lines of L1.
GAP_BYTES = 64
L1_STRIDE_BYTES = 4096


def products(ops: Sequence[Op]) -> list[Op]:
    """The matrix products among a group's ops, in order."""
    return [op for op in ops if op.defn.kind is Kind.CONTRACTION]  # type: ignore[attr-defined]


def apart(ops: Sequence[Op]) -> list[list[Op]]:
    """The ops as groups that are lowered one by one, with the numbers and views that they read."""
    free = [op for op in ops if _is_free(op.defn)]  # type: ignore[arg-type]
    return [[*free, op] for op in ops if op not in free]


def _is_free(defn: OpDef) -> bool:
    return defn.kind is Kind.CONSTANT or Trait.VIEW in defn.traits


# -- what is computed ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Attention:
    """A group in normal form, its iterators sorted by role.

    batch: loops around a head. row: queries, None for one. key, depth, column: the iterators of
    keys, of what the first product sums over, and of the result's columns; summed: of the keys in
    the second product. left, right: an element of the queries and of the keys. weight: an element
    of the weights, whose reductions are done first; reads and writes of `scratch` are rows of
    scores, which start at ROW. divisor: what the sums of the second product are divided by
    instead of the weights. values: an element of the second right side.
    """

    batch: tuple[Iter, ...]
    row: Iter | None
    key: Iter
    depth: Iter
    column: Iter
    summed: Iter
    left: Expr
    right: Expr
    weight: Expr
    divisor: Expr | None
    values: Expr
    total: Reduce
    output: Output
    scratch: Value

    @property
    def dtype(self) -> DType:
        return self.total.dtype

    @property
    def rows(self) -> DimLike:
        return 1 if self.row is None else self.row.extent

    @property
    def nest(self) -> Nest:
        """All of it as outputs over the iterators, for those who look for loads."""
        every = (self.left, self.right, self.weight, self.values, self.output.expr)
        return Nest((), tuple(Output(self.output.value, 0, expr) for expr in every))


class Composition:
    """Composes the ops of a group around rows of scores in scratch memory."""

    def __init__(
        self,
        ops: Sequence[Op],
        outer: Mapping[Value, Value],
        access: Callable[[Value], Access],
    ) -> None:
        self.ops = set(ops)
        self.outer = outer
        self.access = access
        first, second = products(ops)
        self.scores, self.weights = first.result, second.operands[0]
        self.second = second
        self.reduces = [
            op
            for op in ops
            if op.defn.kind is Kind.REDUCTION  # type: ignore[attr-defined]
        ]
        type = self.scores.type
        assert isinstance(type, TensorType)
        self.type = type
        self.scratch = Value(type, Block(), 0, "scores")
        self.start = symbol(ROW)

    def match(self, inside: Value, result: Value, hints: Mapping[str, int]) -> Attention | None:
        """The attention that computes `result`, which is `inside` in the group."""
        nest = self._nest(inside, result)
        return _sort(normalise(nest), self.scratch, nest.iters[-2:], hints) if nest else None

    def _nest(self, inside: Value, result: Value) -> Nest | None:
        composer = self._composer({})
        shape = result.type.shape if isinstance(result.type, TensorType) else ()
        *batch, row, column = (composer.iter(extent, "i") for extent in shape)
        key = composer.iter(self.type.shape[-1], "j")
        outer = tuple(it.dim for it in (*batch, row))
        place = self.start + key.dim
        weights = self._weights((*outer, key.dim))
        composer = self._composer({self.weights: self._whole()})
        element = composer.element(inside, (*outer, column.dim))
        element = rewrite(element, lambda node: self._read(node, self.weights, {}))
        access = self.access(result)
        address = access.offset
        for at, stride in zip((*outer, column.dim), access.strides, strict=True):
            address = address + at * stride
        scores = self._composer({}).element(self.scores, (*outer, key.dim))
        iters = (*batch, row, key, column)
        outputs = (
            Output(self.scratch, place, _simplified(scores, iters)),
            Output(self.scratch, place, _simplified(weights, iters)),
            Output(result, address, _simplified(element, iters)),
        )
        return Nest(iters, outputs)

    # -- the chain ------------------------------------------------------------------------------

    def _composer(self, staged: Mapping[Value, Access]) -> Composer:
        return Composer(self.ops, self.outer, self.access, staged)

    def _whole(self) -> Access:
        """Rows of scores, or of what has taken their place."""
        return Access((0,) * (self.type.rank - 1) + (1,), self.start)

    def _each(self) -> Access:
        """What a reduction makes of the row."""
        return Access((0,) * self.type.rank, self.start)

    def _weights(self, index: tuple[DimLike, ...]) -> Expr:
        """An element of the weights. Each reduction's operand takes the scores' place in memory,
        unless these are needed again."""
        known: dict[Value, Expr] = {}
        current = self.scores
        for position, op in enumerate(self.reduces):
            operand = op.operands[0]
            fits = operand is not current and operand.type == self.type
            keep = fits and not self._needed(current, operand, position, index)
            known[op.result] = self._reduced(op, current, keep, known, index)
            if keep:
                current = operand
        if self.weights is current:
            return Load(self.scratch, (self.start + index[-1],), self.type.dtype)
        composer = self._composer(self._staged(current))
        element = composer.element(self.weights, index)
        return rewrite(element, lambda node: self._read(node, current, known))

    def _staged(self, *whole: Value) -> dict[Value, Access]:
        staged = {op.result: self._each() for op in self.reduces}
        return {**staged, **{value: self._whole() for value in whole}}

    def _reduced(
        self,
        op: Op,
        current: Value,
        keep: bool,
        known: Mapping[Value, Expr],
        index: tuple[DimLike, ...],
    ) -> Expr:
        """The result of a reduction for the row; with `keep` its operand is stored."""
        operand = op.operands[0]
        composer = self._composer(self._staged(current, operand))

        def fill(node: Expr) -> Expr | None:
            if operand is current or not isinstance(node, Load) or node.value is not operand:
                return self._read(node, current, known)
            element = composer.element(operand, composer.index_of(node))
            element = rewrite(element, lambda inner: self._read(inner, current, known))
            return Keep(element, self.scratch, node.index, node.dtype) if keep else element

        return rewrite(composer.element(op.result, (*index[:-1], 0)), fill)

    def _read(self, node: Expr, current: Value, known: Mapping[Value, Expr]) -> Expr | None:
        """What a load of a staged value reads."""
        if not isinstance(node, Load):
            return None
        if node.value is current:
            return Load(self.scratch, node.index, node.dtype)
        return known.get(node.value)

    def _needed(
        self, current: Value, operand: Value, position: int, index: tuple[DimLike, ...]
    ) -> bool:
        """Whether something behind a reduction reads `current` beside the reduction's operand."""
        composer = self._composer(self._staged(current, operand))
        later = [op.operands[0] for op in self.reduces[position + 1 :]] + [self.weights]
        elements = [composer.load(value, index) for value in later]
        return any(load.value is current for expr in elements for load in loads(expr))


def _simplified(expr: Expr, iters: Sequence[Iter]) -> Expr:
    """The expression with what the iterators' bounds say of its indices, behind views of views."""
    inner = [it for node in walk(expr) if isinstance(node, Reduce) for it in node.iters]
    every = (*iters, *inner)
    env = {it.name: it.interval for it in every}
    return substitute_dims(expr, {it.name: it.dim for it in every}, env)


def _sort(
    nest: Nest, scratch: Value, last: Sequence[Iter], hints: Mapping[str, int]
) -> Attention | None:
    """Find the roles of a normalised nest's iterators; None where some are not one iterator."""
    scores, weight, output = nest.outputs
    named = {it.name: it for it in nest.iters}
    key, column = (named.get(it.name) for it in last)
    found = reductions(Nest((), (output,)))
    if key is None or column is None or len(found) != 1:
        return None
    first, second = _terms(scores.expr), _terms(found[0])
    if first is None or second is None or found[0].dtype != scratch.type.dtype:
        return None
    (left, right, depth), (_, values, summed) = first, second
    free = Names().free
    shared = free(right) | free(values)
    others = [it for it in nest.iters if it is not key and it is not column]
    rows = [it for it in others if it.name not in shared]
    row = max(rows, key=lambda it: estimate(it.extent, hints), default=None)
    batch = [it for it in others if it is not row]
    batch.sort(key=lambda it: _step(output.address, it, hints), reverse=True)
    divisor = _divisor(weight.expr, scratch, key)
    return Attention(
        tuple(batch), row, key, depth, column, summed, left, right,
        weight.expr, divisor, values, found[0], output, scratch,
    )  # fmt: skip


def _terms(expr: Expr) -> tuple[Expr, Expr, Iter] | None:
    """The factors of a sum of products, and what it is summed over."""
    if not isinstance(expr, Reduce) or expr.kind != "sum" or len(expr.iters) != 1:
        return None
    if not isinstance(expr.body, Apply) or expr.body.name != "mul":
        return None
    left, right = expr.body.args
    return left, right, expr.iters[0]


def _step(address: DimLike, it: Iter, hints: Mapping[str, int]) -> int:
    step = coefficient(address, it.name)
    return 0 if step is None else estimate(step, hints)


def _divisor(weight: Expr, scratch: Value, key: Iter) -> Expr | None:
    """The number that a row of scratch memory is only divided by to be weights."""
    if not isinstance(weight, Apply) or weight.name != "div":
        return None
    dividend, divisor = weight.args
    whole = isinstance(dividend, Load) and dividend.value is scratch
    return divisor if whole and key.name not in Names().free(divisor) else None


# -- the plan -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How an attention runs: tiles of `rows` queries, `tiles` of them in one task.

    direct: queries are read where they lie, else each tile of them is computed into memory.
    packed: keys are packed into panels of VECTORS vectors first, else multiplied where they lie.
    along: vectors of keys run along the depth, and are transposed when packed. width: lanes of
    the result's vectors; vectors, part: the register tile of the second product in columns and
    rows.
    """

    attention: Attention
    lanes: int
    rows: int
    tiles: DimLike
    direct: bool
    packed: bool
    along: bool
    width: int
    vectors: int
    part: int

    @property
    def block(self) -> int:
        """Keys of a panel."""
        return VECTORS * self.lanes

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
    def query_size(self) -> int:
        lines = -(-self.rows * self.depth * self.attention.dtype.bytes // GAP_BYTES)
        return lines * GAP_BYTES // self.attention.dtype.bytes


def _extent(it: Iter) -> int:
    assert isinstance(it.extent, int)
    return it.extent


def make_plan(a: Attention, target: Target, hints: Mapping[str, int]) -> Plan | None:
    """Choose tiles and tasks; None where depth or columns are not known."""
    if not isinstance(a.depth.extent, int) or not isinstance(a.column.extent, int):
        return None
    lanes = target.lanes(a.dtype)
    registers = target.vector_registers
    count = max(estimate(a.rows, hints), 1)
    along = _runs_along(a.right, a.depth)
    direct = isinstance(a.left, Load) and _runs_along(a.left, a.depth)
    packed = count >= LEAST_ROWS or not along
    rows = _tile_rows(count, (registers - VECTORS - 1) // VECTORS)
    width = min(lanes, 1 << (a.column.extent - 1).bit_length())
    vectors, part = _second_tile(-(-a.column.extent // width), rows, registers)
    tiles = _tiles_of_task(a, rows, count, hints)
    return Plan(a, lanes, rows, tiles, direct, packed, along, width, vectors, part)


def _runs_along(side: Expr, depth: Iter) -> bool:
    """Whether what is read of queries or keys is contiguous in the depth."""
    steps = set()
    for load in loads(side):
        fixed = load.index[0]
        if len(load.index) != 1 or not isinstance(fixed, (int, Dim)):
            return False
        steps.add(coefficient(fixed, depth.name))
    return steps in ({1}, {0, 1})


def _tile_rows(count: int, limit: int) -> int:
    """The rows of a register tile that waste the least, and reuse the most."""
    if count <= limit:
        return count

    def cost(rows: int) -> float:
        return math.ceil(count / rows) * rows * (1 + 0.5 * (1 / rows + 1 / VECTORS))

    return min(range(limit, limit // 2, -1), key=cost)


def _second_tile(total: int, rows: int, registers: int) -> tuple[int, int]:
    """Vectors and rows of the second product's register tile; the rows divide `rows`."""
    best: tuple[float, int, int] | None = None
    for vectors in range(1, min(total, MAX_VECTORS) + 1):
        limit = (registers - vectors - 1) // vectors
        fitting = [part for part in range(1, rows + 1) if rows % part == 0 and part <= limit]
        if not fitting:
            break
        part = fitting[-1]
        waste = math.ceil(total / vectors) * vectors / total
        cost = waste * (1 + 0.25 * (1 / part + 1 / vectors))
        if best is None or cost < best[0]:
            best = (cost, vectors, part)
    assert best is not None
    return best[1], best[2]


def _tiles_of_task(a: Attention, rows: int, count: int, hints: Mapping[str, int]) -> DimLike:
    """How many tiles one task takes: all of a head's, unless there are few heads."""
    heads = max(estimate(product(it.extent for it in a.batch), hints), 1)
    tiles = ceildiv(a.rows, rows)
    if heads >= TASKS:
        return tiles
    least = -(-TASK_ROWS // rows)
    wanted = -(-count * heads // (rows * TASKS))
    each = max(least, wanted)
    return tiles if isinstance(tiles, int) and tiles <= each else each
