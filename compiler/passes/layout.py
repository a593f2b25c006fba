"""Assigns encodings: how kernel results lie in memory. Types and ops stay as they are.

A contraction's result is stored with the axis that only its right side has innermost, so that
convolutions run channels-last; what follows keeps its operand's order. A result that is only
transposed is stored in the transposed order, which makes the transpose a view.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfc.compiler.cost.machine import Machine, machine_of
from tfc.compiler.passes.product_order import contracted, contraction_of, reads_channels_last
from tfc.compiler.passman import PassContext
from tfc.ir.build import tensor_type
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.dims import DimLike
from tfc.ir.opdef import Kind, Trait
from tfc.ir.ops import flow
from tfc.ir.types import I32, U8, Encoding

# From so many channels on, a group of bytes is channels rather than neighbouring pixels.
LEAST_CHANNELS = 4


def layout(module: Module, context: PassContext) -> None:
    """Set `Value.encoding` on the results of kernels, in order."""
    machine = machine_of(context.target) if context.target is not None else None
    for function in module.functions.values():
        _assign(function.block, machine)


def _assign(block: Block, machine: Machine | None) -> None:
    for op in block:
        if op.defn.infer_regions is not None:  # type: ignore[attr-defined]
            # What goes into control flow and comes out of it is row-major.
            for region in op.regions:
                _assign(region, machine)
            continue
        if op.defn.kind is Kind.CONSTANT or op.defn.terminator:  # type: ignore[attr-defined]
            continue
        if op.defn is flow.check:
            op.result.encoding = op.operands[1].encoding
            continue
        if Trait.VIEW in op.defn.traits or len(op.results) != 1:  # type: ignore[attr-defined]
            continue
        perm = _computed(op, machine)
        if perm is not None and perm != tuple(range(len(perm))):
            op.result.encoding = Encoding(perm)


def _computed(op: Op, machine: Machine | None) -> tuple[int, ...] | None:
    """The order of a kernel's result.

    A contraction whose columns are not innermost would pack what it slides over, and fill vectors
    with few pixels: that its result is transposed later is no reason.
    """
    wanted, own = _transposed_by_users(op), contracted(op, machine)
    if wanted is not None and (own is None or own[-1] == wanted[-1]):
        return wanted
    return _grouped(op) or own or _inherited(op) or _copied(op, machine)


def _grouped(op: Op) -> tuple[int, ...] | None:
    """Channels last, for convolutions of bytes, which take neighbouring channels in groups."""
    rank = tensor_type(op.result).rank
    product = contraction_of(op)
    own = product is not None and tensor_type(product.result).shape == tensor_type(op.result).shape
    if (own and _is_byte_convolution(product)) or _feeds_groups(op.result):
        return (0, *range(2, rank), 1)
    return None


def _copied(op: Op, machine: Machine | None) -> tuple[int, ...] | None:
    """Channels last, for the padded copy of what no kernel wrote, where all users like it so."""
    if op.name != "pad" or op.operands[0].op is not None or not op.result.users:
        return None
    if all(reads_channels_last(user, machine) for user in op.result.users):
        return (0, *range(2, tensor_type(op.result).rank), 1)
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
