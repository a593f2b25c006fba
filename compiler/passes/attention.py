"""Groups two matrix products with row reductions between them, as in attention, into one kernel.

What happens between the products is any chain of elementwise ops and of reductions over whole
rows, not a list of names. Grouping everything else is left to `fuse`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from tfc.compiler.passes.causal import diagonal
from tfc.compiler.passes.fuse import (
    MAX_OPERANDS,
    MAX_OPS,
    is_cheap,
    is_immediate,
    reduced_axes,
    wrap,
)
from tfc.compiler.passes.triangle import Constants
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.body import Apply, Expr, ExprBuilder, Index, Load, Reduce, loads
from tfc.ir.build import tensor_type
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.dims import Call, Dim, DimLike, merge_divmod, substitute, symbols_of, walk_calls
from tfc.ir.opdef import OPS, Kind, OpDef, Trait
from tfc.ir.ops.const import constant, dims
from tfc.ir.types import F32, F64

# The kernel keeps a row of these many numbers in registers.
MOST_DEPTH = 256
MOST_PROLOGUE = 4


def attention(module: Module, context: PassContext) -> None:
    constants = Constants(module.constants)
    for function in module.functions.values():
        for block in blocks_of(function.block):
            if not (isinstance(block.parent, Op) and block.parent.defn is OPS["fused"]):
                _group_block(block, constants, context)


def _group_block(block: Block, constants: Constants, context: PassContext) -> None:
    order = {op: position for position, op in enumerate(block)}
    for op in order:
        if op.block is not block or _product(op) is None or not context.allows("attention"):
            continue
        found = _match(op)
        if found is not None:
            members = sorted(found.members, key=order.__getitem__)
            wrap(members, found.root, _diagonal(op, members, constants))
            context.count("attention")


@dataclass(frozen=True)
class _Found:
    """The ops of a group; root is the one whose result leaves it."""

    members: set[Op]
    root: Op


def _diagonal(scores: Op, members: list[Op], constants: Constants) -> DimLike | None:
    """Behind which diagonal of the scores no key has a weight."""
    (second,) = (op for op in members if op is not scores and _product(op) is not None)
    reduces = [op for op in members if _defn(op).kind is Kind.REDUCTION]
    return diagonal(scores.result, second.operands[0], reduces, constants)


def _defn(op: Op) -> OpDef:
    assert isinstance(op.defn, OpDef)
    return op.defn


def _shape(value: Value) -> tuple[DimLike, ...]:
    return tensor_type(value).shape


def _match(scores: Op) -> _Found | None:
    """The group that starts with the product `scores`."""
    chain = _chain(scores)
    if chain is None:
        return None
    members, second = chain
    product = _product(second)
    assert product is not None
    left, right = product
    if _shape(left)[:-1] != _shape(second.result)[:-1] or _shape(left) != _shape(scores.result):
        return None
    if tensor_type(left).dtype != tensor_type(scores.result).dtype or right.op in members:
        return None
    _take_sides(members, scores)
    members.add(second)
    for side in scores.operands:
        if not _follows_product(side):
            members |= _prologue(side, scores.block)
    for member in list(members):
        for value in member.operands:
            if member in (scores, second) or value.op not in members:
                members |= _views(value, scores.block)
    root = _epilogue(second, members)
    if len(members) > MAX_OPS or _operand_count(members) > MAX_OPERANDS:
        return None
    return _Found(members, root)


def _product(op: Op) -> tuple[Value, Value] | None:
    """The sides of a product of rows and columns that a head's kernel can hold."""
    if _defn(op).kind is not Kind.CONTRACTION or len(op.operands) != 2:
        return None
    type = tensor_type(op.result)
    body = _defn(op).body
    if type.rank < 2 or type.dtype not in (F32, F64) or body is None:
        return None
    builder = ExprBuilder()
    iters = [builder.iter(extent, "i") for extent in type.shape]
    expr = body(builder, op, 0, tuple(it.dim for it in iters))
    if not isinstance(expr, Reduce) or len(expr.iters) != 1 or not isinstance(expr.body, Apply):
        return None
    sides = expr.body.args
    loads = [side for side in sides if isinstance(side, Load)]
    if len(loads) != 2 or loads[0].value is loads[1].value:
        return None
    names = [_names(load) for load in loads]
    row, column = iters[-2].name, iters[-1].name
    if column in names[0] or (row in names[1]) or column not in names[1]:
        return None
    return loads[0].value, loads[1].value


def _names(load: Load) -> set[str]:
    return {n for i in load.index if isinstance(i, (int, Dim)) for n in symbols_of(i)}


def _is_constant(value: Value) -> bool:
    """Whether the value is a constant under some view."""
    while _is_view(value.op):
        value = value.op.operands[0]
    return value.op is not None and value.op.defn is constant


def _is_narrow(dim: DimLike) -> bool:
    return isinstance(dim, int) and 2 <= dim <= MOST_DEPTH


def _chain(scores: Op) -> tuple[set[Op], Op] | None:
    """All that is computed of the first product, up to the second, which is returned beside it."""
    if _is_constant(scores.operands[1]) or not _is_narrow(_shape(scores.operands[0])[-1]):
        return None
    members = {scores}
    queue = [scores]
    second: Op | None = None
    reduces = False
    while queue:
        value = queue.pop().result
        for user in value.users:
            if user in members or user is second:
                continue
            if user.block is not scores.block or len(user.results) != 1:
                return None
            if _product(user) is not None:
                if second is not None or not _ends(user, value):
                    return None
                second = user
            elif _computes_rows(user, scores.result):
                reduces = reduces or _defn(user).kind is Kind.REDUCTION
                members.add(user)
                queue.append(user)
            else:
                return None
    return (members, second) if second is not None and reduces else None


def _ends(user: Op, value: Value) -> bool:
    """Whether `value` is only the left side of the product `user`."""
    left, right = user.operands
    fits = _is_narrow(_shape(user.result)[-1]) and not _is_constant(right)
    return left is value and right is not value and fits


def _computes_rows(op: Op, scores: Value) -> bool:
    """Whether the op computes elements of rows, or of whole rows one number each."""
    whole = _shape(scores)
    each = (*whole[:-1], 1)
    if _defn(op).kind is Kind.ELEMENTWISE:
        return _shape(op.result) in (whole, each)
    operand = op.operands[0] if op.operands else None
    if operand is None or reduced_axes(op) != (len(whole) - 1,) or _shape(operand) != whole:
        return False
    return _shape(op.result) == each


def _prologue(value: Value, block: Block | None) -> set[Op]:
    """Cheap ops that scale or shift a side of the product on its way from memory."""
    found: set[Op] = set()
    ready = _collect(value, found) and len(found) <= MOST_PROLOGUE
    return found if ready and all(op.block is block for op in found) else set()


def _follows_product(value: Value) -> bool:
    """Whether a contraction's kernel can do what is done to its elements up to `value`."""
    while value.op is not None and len(value.uses) == 1:
        defn = _defn(value.op)
        if defn.kind is Kind.CONTRACTION:
            return True
        whole = [v for v in value.op.operands if tensor_type(v).size == tensor_type(value).size]
        moves = _is_view(value.op) or defn.kind is Kind.ELEMENTWISE
        if not moves or len(whole) != 1:
            return False
        value = whole[0]
    return False


def _collect(value: Value, found: set[Op]) -> bool:
    """Collect the elementwise ops that compute `value` of memory; False for what is not memory."""
    op = value.op
    if op is None or is_immediate(value) or op.defn in (constant, dims):
        return True
    if _is_view(op):
        return True
    if _defn(op).kind is not Kind.ELEMENTWISE or len(value.uses) != 1 or not is_cheap(op):
        return False
    if any(_shape(operand) != _shape(value) and not is_immediate(operand)
           for operand in op.operands):  # fmt: skip
        return False
    found.add(op)
    return all(_collect(operand, found) for operand in op.operands)


class _Through(ExprBuilder):
    """Loads of what `views` compute become loads of what they look at."""

    def __init__(self, views: set[Op]) -> None:
        self.views = views

    def load(self, value: Value, index: tuple[Index, ...]) -> Expr:
        op = value.op
        if op is None or op not in self.views:
            return super().load(value, index)
        body = _defn(op).body
        assert body is not None
        return body(self, op, value.index, index)


def _views(value: Value, block: Block | None) -> set[Op]:
    """The views that `value` is of something, where one alone might need a copy.

    Heads that share their keys, and reshapes that undo each other around a transpose: together
    they are a place of each element, at most the quotient or the rest of an index.
    """
    found: set[Op] = set()
    at = value
    while _is_view(at.op) and len(at.uses) == 1 and at.op.block is block:
        found.add(at.op)
        at = at.op.operands[0]
    mixing = any(_source(op.result, {op}) for op in found)
    return found if mixing and all(map(_is_split, _source(value, found))) else set()


def _is_view(op: Op | None) -> TypeGuard[Op]:
    return op is not None and Trait.VIEW in _defn(op).traits


def _source(value: Value, views: set[Op]) -> list[Call]:
    """The calls in the index of an element behind the views."""
    builder = _Through(views)
    iters = [builder.iter(extent, "i") for extent in _shape(value)]
    expr = builder.load(value, tuple(it.dim for it in iters))
    env = {it.name: it.interval for it in iters}
    own: dict[str, DimLike] = {it.name: 0 if it.extent == 1 else it.dim for it in iters}
    index = [i for load in loads(expr) for i in load.index if isinstance(i, (int, Dim))]
    index = [merge_divmod(substitute(entry, own, env)) for entry in index]
    return [call for entry in index for call in walk_calls(entry)]


def _is_split(call: Call) -> bool:
    """Whether the call is a quotient or rest of one iterator by a number."""
    dividend, *rest = call.args
    plain = isinstance(dividend, Dim) and len(symbols_of(dividend)) == 1 == len(dividend.terms)
    return call.fn in ("floordiv", "mod") and plain and all(isinstance(n, int) for n in rest)


def _take_sides(members: set[Op], scores: Op) -> None:
    """Take in what only the chain reads, element by element: a mask as large as the scores."""
    whole = _shape(scores.result)
    grown = True
    while grown:
        grown = False
        for member in list(members):
            for value in member.operands:
                op = value.op
                if op is None or op in members or op.block is not scores.block:
                    continue
                defn = _defn(op)
                ramp = defn.kind is Kind.CONSTANT and Trait.STORED not in defn.traits
                fits = defn.kind is Kind.ELEMENTWISE or ramp
                if fits and _shape(value) == whole and set(value.users) <= members:
                    members.add(op)
                    grown = True


def _epilogue(second: Op, members: set[Op]) -> Op:
    """Take in what is computed of each element of the result; return the last op."""
    root = second
    while len(root.result.uses) == 1:
        (user,) = root.result.users
        same = _defn(user).kind is Kind.ELEMENTWISE and user.block is root.block
        if not same or _shape(user.result) != _shape(second.result):
            break
        members.add(user)
        root = user
    return root


def _operand_count(members: set[Op]) -> int:
    outer = {v for member in members for v in member.operands if v.op not in members}
    return sum(not is_immediate(value) for value in outer)
