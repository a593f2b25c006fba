"""Two matrix products with row reductions between them: what is computed.

Scores are the first product; a chain of elementwise ops and of reductions along the keys makes
weights of them, the left side of the second product. Rows of scores stay in scratch memory
between the products. How is in `attention_plan` and `attention_kernel`, the reasons are in
docs/decisions/0008-attention.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.compose import Access, Composer, Nest, Output
from tfc.compiler.lower.dependence import Names
from tfc.compiler.lower.group import Group
from tfc.compiler.lower.normal import normalise, reductions
from tfc.ir.body import (
    Apply,
    Expr,
    Iter,
    Keep,
    Load,
    Position,
    Reduce,
    loads,
    rewrite,
    substitute_dims,
    walk,
)
from tfc.ir.core import Block, Op, Value
from tfc.ir.dims import DimLike, coefficient, symbol
from tfc.ir.opdef import Kind, OpDef, Trait
from tfc.ir.types import BF16, F32, I64, DType, TensorType

# The name of the position where the current row of scores starts.
ROW = "scores.a"


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
    instead of the weights. values: an element of the second right side. limit: how many of the
    keys any row up to the present one needs, where numbers are moderate; None where it is all.
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
    limit: DimLike | None

    @property
    def dtype(self) -> DType:
        return self.total.dtype

    @property
    def share(self) -> Expr:
        """An element of the second product's left side, not yet divided by the divisor."""
        if self.divisor is None:
            return self.weight
        assert isinstance(self.weight, Apply)
        return self.weight.args[0]

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

    def __init__(self, group: Group, access: Callable[[Value], Access]) -> None:
        self.ops = set(group.ops)
        self.outer = group.outer
        self.access = access
        self.diagonal = group.diagonal
        # Equal groups get equal names, and so equal fingerprints.
        self.names = itertools.count()
        first, second = products(group.ops)
        self.scores, self.weights = first.result, second.operands[0]
        self.second = second
        self.reduces = [
            op
            for op in group.ops
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
        seen = key.extent if self.diagonal is None else row.dim + self.diagonal + 1
        outputs = (
            Output(self.scratch, place, _simplified(scores, iters)),
            Output(self.scratch, place, _simplified(weights, iters)),
            Output(result, address, _simplified(element, iters)),
            Output(self.scratch, place, Position(seen, I64)),
        )
        return Nest(iters, outputs)

    # -- the chain ------------------------------------------------------------------------------

    def _composer(self, staged: Mapping[Value, Access]) -> Composer:
        return Composer(self.ops, self.outer, self.access, staged, self.names)

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
    scores, weight, output, seen = nest.outputs
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
    divisor = divisor_of(weight.expr, scratch, key)
    return Attention(
        tuple(batch), row, key, depth, column, summed, left, right,
        weight.expr, divisor, values, found[0], output, scratch, _limit(seen.expr, row),
    )  # fmt: skip


def _limit(seen: Expr, row: Iter | None) -> DimLike | None:
    """How many keys a row may need, where it is one more for each row."""
    assert isinstance(seen, Position)
    grows = row is not None and coefficient(seen.dim, row.name) == 1
    return seen.dim if grows else None


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


def divisor_of(weight: Expr, scratch: Value, key: Iter) -> Expr | None:
    """The number that a row of scratch memory, rounded or not, is only divided by to be weights."""
    match weight:
        case Apply("div", (dividend, divisor)) if key.name not in Names().free(divisor):
            rounded = narrow_side(dividend)
            if isinstance(rounded, Apply) and rounded.name == "cast":
                (dividend,) = rounded.args
            return divisor if isinstance(dividend, Load) and dividend.value is scratch else None
    return None


def narrow_side(side: Expr) -> Expr | None:
    """What a side of a product is before it is widened from bf16, None where it is not."""
    match side:
        case Apply("cast", (narrow,)) if side.dtype == F32 and narrow.dtype == BF16:
            return narrow
    return None
