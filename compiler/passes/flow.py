"""Simplifies control flow: branches that are known, loops of one round, what no round changes.

Ops whose operands are the same in every round move out of loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tfc.compiler.evaluate import constant_array, is_constant
from tfc.compiler.passes.assume import add_assumed
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.dims import symbols_of
from tfc.ir.opdef import OPS, Kind, OpDef, Trait
from tfc.ir.ops.flow import LoopAttrs, split_operands, split_yields
from tfc.ir.symbols import BIND, dims_in, type_symbols

IF, LOOP, CHECK = OPS["if"], OPS["loop"], OPS["check"]


def flow(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            for op in block:
                b = GraphBuilder(block, module.constants, op, op.loc)
                if op.defn is IF and is_constant(op.operands[0]) and context.allows("flow"):
                    _take_branch(op, b)
                    context.count("flow")
                elif op.defn is CHECK and _holds(op, module.constants) and context.allows("flow"):
                    op.replace_with([op.operands[1]])
                    context.count("flow")
                elif op.defn is LOOP and context.allows("flow"):
                    _simplify_loop(op, b, context)


def _holds(op: Op, constants: ConstantStore) -> bool:
    condition = op.operands[0]
    return is_constant(condition) and bool(constant_array(condition, constants).all())


def _take_branch(op: Op, b: GraphBuilder) -> None:
    condition = constant_array(op.operands[0], b.constants)
    taken = 0 if condition.all() else 1
    region = op.regions[taken]
    values = region.terminator.operands
    add_assumed(b.block, op.attrs.assumes[taken])
    _empty_into(region, op)
    op.replace_with(values)


def _empty_into(region: Block, before: Op) -> None:
    """Move all of a region but its terminator out of it."""
    assert before.block is not None
    for inner in region:
        if inner is not region.last:
            before.block.move(inner, before)


def _simplify_loop(op: Op, b: GraphBuilder, context: PassContext) -> None:
    attrs: LoopAttrs = op.attrs
    if attrs.trips == 1 and not attrs.limited and not attrs.conditional:
        _run_once(op, b)
        context.count("flow")
        return
    for inner in op.regions[0]:
        if _is_same_each_round(inner, op.regions[0]) and context.allows("flow"):
            b.block.move(inner, op)
            context.count("flow")
    if _drop_unused(op, b):
        context.count("flow")


# -- loops of one round -------------------------------------------------------------------------


def _run_once(op: Op, b: GraphBuilder) -> None:
    """Put what the only round does in the loop's place."""
    (region,) = op.regions
    parts = split_operands(op.attrs, op.operands)
    slices = [b.reshape(x, shape=tensor_type(x).shape[1:]) for x in parts.scanned]
    values = [b.constant(0, tensor_type(region.args[0]).dtype), *parts.carried, *slices]
    for arg, value in zip(region.args, values, strict=True):
        arg.replace_all_uses(value)
    found = split_yields(op.attrs, region.terminator.operands)
    _empty_into(region, op)
    stacks = [b.reshape(x, shape=(1, *tensor_type(x).shape)) for x in found.stacked]
    op.replace_with([*found.carried, *stacks])


# -- what no round changes ----------------------------------------------------------------------


def _is_same_each_round(op: Op, region: Block) -> bool:
    """Whether an op of a loop's region can come before the loop."""
    defn = op.defn
    assert isinstance(defn, OpDef)
    if op.regions or defn.kind is Kind.CONTROL or Trait.PURE not in defn.traits:
        return False
    if defn.kind is Kind.CONSTANT and Trait.STORED not in defn.traits:
        # A ramp takes memory outside, and none where it is fused.
        return False
    if any(_is_of(value, region) for value in op.operands):
        return False
    return not _bound_in(region) & _mentioned(op)


def _bound_in(region: Block) -> set[str]:
    """The symbols that a round gives values."""
    return {inner.attrs.symbol for inner in region if inner.name == BIND}


def _mentioned(op: Op) -> set[str]:
    named = {name for dim in dims_in(op.attrs) for name in symbols_of(dim)}
    return named.union(*(type_symbols(value.type) for value in op.results))


def _is_of(value: Value, region: Block) -> bool:
    return value.owner is region if value.op is None else value.op.block is region


def _drop_unused(op: Op, b: GraphBuilder) -> bool:
    """Drop carried values that stay what they are, and stacks and slices that nobody uses."""
    (region,) = op.regions
    attrs: LoopAttrs = op.attrs
    parts = split_operands(attrs, op.operands)
    found = split_yields(attrs, region.terminator.operands)
    count = len(parts.carried)
    args = region.args[1:]
    for k, (operand, value) in enumerate(zip(parts.carried, found.carried, strict=True)):
        if value is args[k]:
            op.results[k].replace_all_uses(operand)
            for user, position in list(value.uses):
                if (user, position) != (region.last, attrs.conditional + k):
                    user.set_operand(position, operand)
    yielding = region.terminator
    carried = [
        k
        for k in range(count)
        if op.results[k].uses or any(user is not yielding for user in args[k].users)
        or _is_yielded_elsewhere(args[k], yielding, attrs.conditional + k)
    ]  # fmt: skip
    scanned = [j for j in range(len(parts.scanned)) if args[count + j].uses]
    stacked = [j for j in range(len(found.stacked)) if op.results[count + j].uses]
    kept = (len(carried), len(scanned), len(stacked))
    if kept == (count, len(parts.scanned), len(found.stacked)):
        return False
    _rebuild(op, b, carried, scanned, stacked)
    return True


def _is_yielded_elsewhere(arg: Value, yielding: Op, position: int) -> bool:
    """Whether a carried value is handed out as more than its own next value."""
    return any(user is yielding and at != position for user, at in arg.uses)


def _rebuild(
    op: Op, b: GraphBuilder, carried: Sequence[int], scanned: Sequence[int], stacked: Sequence[int]
) -> None:
    """Make a loop of some of the parts of another, and put it in its place."""
    (region,) = op.regions
    attrs: LoopAttrs = op.attrs
    parts = split_operands(attrs, op.operands)
    found = split_yields(attrs, region.terminator.operands)
    count = len(parts.carried)
    args = [0, *(1 + k for k in carried), *(1 + count + j for j in scanned)]
    old = [region.args[i] for i in args]
    block = Block([arg.type for arg in old], [arg.name for arg in old])
    again = () if found.again is None else (found.again,)
    values = [
        *again,
        *(found.carried[k] for k in carried),
        *(found.stacked[j] for j in stacked),
    ]
    region.terminator.erase()
    for arg, new in zip(old, block.args, strict=True):
        arg.replace_all_uses(new)
    values = [block.args[old.index(v)] if v in old else v for v in values]
    for inner in region:
        block.move(inner, None)
    block.append(Op(OPS["yield"], values, OPS["yield"].attrs(), ()))
    heads = op.operands[: attrs.limited + attrs.conditional]
    operands = [
        *heads,
        *(parts.carried[k] for k in carried),
        *(parts.scanned[j] for j in scanned),
    ]
    kept = replace(
        attrs,
        scanned=tuple(attrs.scanned[j] for j in scanned),
        stacked=tuple(attrs.stacked[j] for j in stacked),
    )
    made = b.emit(LOOP, operands, kept, [block])
    places = [*carried, *(count + j for j in stacked)]
    for place, result in zip(places, made.results, strict=True):
        result.name = result.name or op.results[place].name
        op.results[place].replace_all_uses(result)
    op.erase()
