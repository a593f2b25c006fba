"""Assigns encodings: how kernel results lie in memory. Types and ops stay as they are.

A contraction's result is stored with the axis that only its right side has innermost, so that
convolutions run channels-last; what follows keeps its operand's order. A result that is only
transposed is stored in the transposed order, which makes the transpose a view.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfc.compiler.passman import PassContext
from tfc.ir.body import Expr, ExprBuilder, Index, loads
from tfc.ir.build import tensor_type
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.dims import Dim, DimLike, coefficient, product, symbols_of
from tfc.ir.opdef import Kind, Trait
from tfc.ir.ops import flow
from tfc.ir.types import F32, I32, U8, Encoding

# From so many channels on, a group of bytes is channels rather than neighbouring pixels.
LEAST_CHANNELS = 4


def layout(module: Module, context: PassContext) -> None:
    """Set `Value.encoding` on the results of kernels, in order."""
    lanes = context.target.lanes(F32) if context.target is not None else 1
    for function in module.functions.values():
        _assign(function.block, lanes)


def _assign(block: Block, lanes: int) -> None:
    for op in block:
        if op.defn.infer_regions is not None:  # type: ignore[attr-defined]
            # What goes into control flow and comes out of it is row-major.
            for region in op.regions:
                _assign(region, lanes)
            continue
        if op.defn.kind is Kind.CONSTANT or op.defn.terminator:  # type: ignore[attr-defined]
            continue
        if op.defn is flow.check:
            op.result.encoding = op.operands[1].encoding
            continue
        if Trait.VIEW in op.defn.traits or len(op.results) != 1:  # type: ignore[attr-defined]
            continue
        perm = _computed(op, lanes)
        if perm is not None and perm != tuple(range(len(perm))):
            op.result.encoding = Encoding(perm)


def _computed(op: Op, lanes: int) -> tuple[int, ...] | None:
    """The order of a kernel's result.

    A contraction whose columns are not innermost would pack what it slides over, and fill vectors
    with few pixels: that its result is transposed later is no reason.
    """
    wanted, own = _transposed_by_users(op), _contracted(op, lanes)
    if wanted is not None and (own is None or own[-1] == wanted[-1]):
        return wanted
    return _grouped(op) or own or _inherited(op)


def _members(op: Op) -> list[Op]:
    return [op, *(inner for region in op.regions for inner in region)]


def _contraction(op: Op) -> Op | None:
    """The contraction in `op`, if there is one."""
    found = [m for m in _members(op) if m.defn.kind is Kind.CONTRACTION]  # type: ignore[attr-defined]
    return found[0] if len(found) == 1 else None


class _Inliner(ExprBuilder):
    """Loads of values that the ops `inside` compute become their bodies."""

    def __init__(self, inside: Sequence[Op]) -> None:
        self.inside = {member.results[0]: member for member in inside if member.results}

    def load(self, value: Value, index: tuple[Index, ...]) -> Expr:
        op = self.inside.get(value)
        body = op.defn.body if op is not None else None  # type: ignore[attr-defined]
        if body is None or not all(isinstance(i, (int, Dim)) for i in index):
            return super().load(value, index)
        return body(self, op, 0, index)  # type: ignore[no-any-return]


def _element(op: Op, index: tuple[Dim, ...]) -> Expr:
    """One element of an op's result, from what its group reads."""
    members = [m for m in _members(op) if m.defn.body is not None]  # type: ignore[attr-defined]
    last = op.regions[0].terminator.operands[0] if op.regions else op.result
    return _Inliner(members).load(last, index)


def _contracted(op: Op, lanes: int) -> tuple[int, ...] | None:
    """The order in which the axes that only the right side indexes come last.

    A row-major left side that moves with the last axis is read in vectors as it is; then the
    order stays where the right side's axes are too short to fill them.
    """
    contraction = _contraction(op)
    if contraction is None or contraction.defn.body is None:  # type: ignore[attr-defined]
        return None
    shape = tensor_type(op.result).shape
    if not shape:
        return None
    iters = [ExprBuilder().iter(extent, "i") for extent in shape]
    expr = _element(op, tuple(it.dim for it in iters))
    used: dict[Value, set[str]] = {}
    last_steps: dict[Value, DimLike | None] = {}
    for load in loads(expr):
        names = used.setdefault(load.value, set())
        for entry in load.index:
            if isinstance(entry, (int, Dim)):
                names |= symbols_of(entry)
                last_steps[load.value] = coefficient(entry, iters[-1].name)
    x, w = (_source(operand, op) for operand in contraction.operands[:2])
    own = [
        a
        for a, it in enumerate(iters)
        if it.name in used.get(w, ()) and it.name not in used.get(x, ())
    ]
    others = [a for a in range(len(iters)) if a not in own]
    order = (*others, *own)
    if not own or order == tuple(range(len(iters))):
        return order if own else None
    outer = _outer_value(op, x)
    if outer.encoding is None and last_steps.get(x) == 1:
        columns = product(shape[a] for a in own)
        short = isinstance(columns, int) and columns < lanes
        if short and isinstance(shape[-1], int) and shape[-1] >= lanes:
            return None
    return order


def _grouped(op: Op) -> tuple[int, ...] | None:
    """Channels last, for convolutions of bytes, which take neighbouring channels in groups."""
    rank = tensor_type(op.result).rank
    product = _contraction(op)
    own = product is not None and tensor_type(product.result).shape == tensor_type(op.result).shape
    if (own and _is_byte_convolution(product)) or _feeds_groups(op.result):
        return (0, *range(2, rank), 1)
    return None


def _is_byte_convolution(op: Op | None) -> bool:
    if op is None or op.name != "conv" or tensor_type(op.result).dtype != I32:
        return False
    source = op.operands[0].op
    return source is not None and source.name == "cast" and _is_bytes(source.operands[0])


def _is_bytes(value: Value) -> bool:
    return tensor_type(value).dtype == U8


def _feeds_groups(value: Value) -> bool:
    """Whether a convolution reads the bytes, of more channels than the columns of a kernel."""
    type = tensor_type(value)
    if not _is_bytes(value) or type.rank < 3 or type.shape[1] in range(LEAST_CHANNELS):
        return False
    for user in value.users:
        if user.name == "pad" and _feeds_groups(user.result):
            return True
        for region in user.regions:
            read = {arg for arg, v in zip(region.args, user.operands, strict=True) if v is value}
            found = [op for op in region if _is_byte_convolution(op)]
            if any(op.operands[0].op.operands[0] in read for op in found):  # type: ignore[union-attr]
                return True
    return False


def _source(value: Value, op: Op) -> Value:
    """What a value is cast from inside the group of `op`, or the value itself."""
    while value.op is not None and value.op.name == "cast" and value.op.block in op.regions:
        value = value.op.operands[0]
    return value


def _outer_value(op: Op, value: Value) -> Value:
    """The operand of `op` that a region's argument stands for."""
    for region in op.regions:
        if value in region.args:
            return op.operands[region.args.index(value)]
    return value


def _inherited(op: Op) -> tuple[int, ...] | None:
    """The order of the largest operand of the result's rank that a kernel wrote."""
    rank = tensor_type(op.result).rank
    best: tuple[Value, tuple[int, ...]] | None = None
    for operand in op.operands:
        if tensor_type(operand).rank != rank:
            continue
        perm = _order_of(operand)
        if perm is not None and (best is None or _larger(operand, best[0])):
            best = operand, perm
    return best[1] if best is not None else None


def _order_of(value: Value) -> tuple[int, ...] | None:
    """The order in which the axes of a value lie in memory, None where it is their own."""
    if value.encoding is not None:
        return value.encoding.perm
    op = value.op
    if op is None or op.name != "reshape":
        return None
    order = _order_of(op.operands[0])
    return (
        _reshaped(order, *(tensor_type(v).shape for v in (*op.operands, value))) if order else None
    )


def _reshaped(
    order: Sequence[int], before: Sequence[DimLike], after: Sequence[DimLike]
) -> tuple[int, ...] | None:
    """The order of axes when some are split, or merged where they are neighbours in memory.

    Axes of extent 1 come first: where they lie says nothing.
    """
    parts = _same_elements(before, after)
    if parts is None:
        return None
    found = [axis for axis, dim in enumerate(after) if dim == 1]
    made = {axis: part for part, _ in parts for axis in part}
    goals = dict(parts)
    rest = [axis for axis in order if axis in made]
    while rest:
        part = made[rest[0]]
        if tuple(rest[: len(part)]) != part:
            return None
        found += goals[part]
        rest = rest[len(part) :]
    return tuple(found)


def _same_elements(
    before: Sequence[DimLike], after: Sequence[DimLike]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """Which axes became which others, those of extent 1 aside; None where that is not known."""
    left, right = (
        [(axis, dim) for axis, dim in enumerate(shape) if dim != 1] for shape in (before, after)
    )
    if 0 in before:
        return None
    parts: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    while left and right:
        own: tuple[int, ...]
        others: tuple[int, ...]
        (axis, size), (other, goal) = left.pop(0), right.pop(0)
        own, others = (axis,), (other,)
        while size != goal:
            if left and goal % size == 0:
                axis, dim = left.pop(0)
                own, size = (*own, axis), size * dim
            elif right and size % goal == 0:
                axis, dim = right.pop(0)
                others, goal = (*others, axis), goal * dim
            else:
                return None
        parts.append((own, others))
    return None if left or right else parts


def _larger(a: Value, b: Value) -> bool:
    x, y = tensor_type(a).size, tensor_type(b).size
    return isinstance(x, int) and isinstance(y, int) and x > y


def _transposed_by_users(op: Op) -> tuple[int, ...] | None:
    """The order that makes every user, all equal transposes, a row-major view."""
    users = op.result.users
    perms: set[tuple[int, ...]] = {_perm_of(user) for user in users}
    if len(perms) != 1:
        return None
    (perm,) = perms
    keeps_last = bool(perm) and perm[-1] == len(perm) - 1
    return perm if keeps_last and any(_wants_order(user) for user in users) else None


def _perm_of(op: Op) -> tuple[int, ...]:
    """The permutation of a transpose, () for other ops."""
    perm: tuple[int, ...] = op.attrs.perm if hasattr(op.attrs, "perm") else ()
    return perm


def _wants_order(op: Op) -> bool:
    """Whether some user of the transposed value reads it in row-major order."""
    return any(
        user.defn.terminator or Trait.VIEW in user.defn.traits  # type: ignore[attr-defined]
        for user in op.result.users
    )
