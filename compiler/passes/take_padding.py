"""Takes padding into the group whose windows slide along stored rows, see `lower.window_rows`.

Such windows copy the rows that they read, and make the padding there; a padded value in memory
would be one copy more.
"""

from __future__ import annotations

from tfc.compiler.cost.nest import LEAST_COLUMNS
from tfc.compiler.passes.fuse import HEAVY
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.body import ExprBuilder, Guard, Load, Reduce, walk
from tfc.ir.build import tensor_type
from tfc.ir.core import Block, Module, Op
from tfc.ir.dims import Dim, symbol, symbols_of
from tfc.ir.opdef import OPS
from tfc.ir.types import F32

# Axes of a window that slides along rows, at most.
MOST_AXES = 2


def take_padding(module: Module, context: PassContext) -> None:
    if context.target is None or not context.target.has_masks:
        return
    for function in module.functions.values():
        for block in blocks_of(function.block):
            for op in block:
                if op.defn is OPS["fused"] and context.allows("take-padding") and _take(op):
                    context.count("take-padding")


def _take(op: Op) -> bool:
    """Move the padding of a group's windows into it; return whether there was any."""
    (region,) = op.regions
    heavy = [member for member in region if member.defn.kind in HEAVY]  # type: ignore[attr-defined]
    if len(heavy) != 1 or not _slides_along_rows(heavy[0], region):
        return False
    for position, (value, arg) in enumerate(zip(op.operands, region.args, strict=True)):
        pad = value.op
        if heavy[0].operands[0] is not arg or pad is None or not _is_plain(pad):
            continue
        op.set_operand(position, pad.operands[0])
        inside = Op(pad.defn, [arg], pad.attrs, [arg.type], (), pad.loc)
        first = next(iter(region))
        region.insert(inside, first)
        arg.replace_all_uses(inside.result)
        inside.set_operand(0, arg)
        arg.type = pad.operands[0].type
        pad.erase()
        return True
    return False


def _is_plain(op: Op) -> bool:
    """Whether the op pads along the last axes alone, for one user, a value that lies row by row."""
    if op.defn is not OPS["pad"] or len(op.operands) != 1 or len(op.result.uses) != 1:
        return False
    attrs, rank = op.attrs, tensor_type(op.result).rank
    sides = (*attrs.lo, *attrs.hi)
    if attrs.mode != "constant" or any(not isinstance(n, int) or n < 0 for n in sides):
        return False
    leading = rank - MOST_AXES
    if any(attrs.lo[:leading]) or any(attrs.hi[:leading]):
        return False
    return op.result.encoding is None and op.operands[0].encoding is None


def _slides_along_rows(op: Op, region: Block) -> bool:
    """Whether the op folds windows of f32 along its last axes alone, channel by channel."""
    result = tensor_type(op.result)
    fused = region.parent
    assert isinstance(fused, Op)
    if fused.result.encoding is not None or tensor_type(fused.result).shape != result.shape:
        return False
    if not op.operands or op.defn.body is None or result.dtype != F32:  # type: ignore[attr-defined]
        return False
    columns = result.shape[-1] if result.shape else 0
    if not isinstance(columns, int) or columns < LEAST_COLUMNS:
        return False
    index = tuple(symbol(f"i{axis}") for axis in range(result.rank))
    body = op.defn.body(ExprBuilder(), op, 0, index)  # type: ignore[attr-defined]
    nodes = list(walk(body))
    folds = [node for node in nodes if isinstance(node, Reduce)]
    loads = [n for n in nodes if isinstance(n, Load) and n.value is op.operands[0]]
    if len(folds) != 1 or len(loads) != 1 or any(isinstance(node, Guard) for node in nodes):
        return False
    names = [symbols_of(i) if isinstance(i, Dim) else frozenset() for i in loads[0].index]
    last = names[-MOST_AXES:]
    sliding = set().union(*last)
    return (
        all(it.name in sliding and isinstance(it.extent, int) for it in folds[0].iters)
        and str(index[-1]) in names[-1]
        and all(f"i{axis}" not in sliding for axis in range(result.rank - MOST_AXES))
        and all(f"i{axis}" in names[axis] for axis in range(result.rank))
    )
