"""Lets each reader of a byte widen it for itself, so that what is stored between kernels is bytes.

A dequantised value with several readers would be a kernel's result in f32, four times as large.
"""

from __future__ import annotations

from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.opdef import OPS, Trait
from tfc.ir.ops.common import fields_of
from tfc.ir.types import I8, U8

# What dequantising is made of.
STEPS = frozenset({"cast", "sub", "mul"})
MOST_STEPS = 4


def read_narrow(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            if not (isinstance(block.parent, Op) and block.parent.defn is OPS["fused"]):
                _repeat(block, module, context)


def _repeat(block: Block, module: Module, context: PassContext) -> None:
    for op in reversed(list(block)):
        if not _may_widen(op) or len(op.result.uses) < 2 or not _widens(op.result):
            continue
        if any(user.defn.terminator or user.block is not block for user in op.result.users):  # type: ignore[attr-defined]
            continue
        if not context.allows("read-narrow"):
            return
        for user in op.result.users[1:]:
            b = GraphBuilder(block, module.constants, user, op.loc)
            copy = b.op(op.name, *op.operands, **fields_of(op.attrs)).result
            for position, operand in enumerate(user.operands):
                if operand is op.result:
                    user.set_operand(position, copy)
        context.count("read-narrow")


def _may_widen(op: Op) -> bool:
    return op.name in STEPS or Trait.WIDENS in op.defn.traits  # type: ignore[attr-defined]


def _widens(value: Value) -> bool:
    """Whether few steps make the value of a byte and of single numbers, or one op of its kind."""
    for step in range(MOST_STEPS):
        op = value.op
        if op is None or not _may_widen(op):
            return False
        if op.name not in STEPS:
            return step == 0
        if any(tensor_type(other).size != 1 for other in op.operands[1:]):
            return False
        (value, *_rest) = op.operands
        if op.name == "cast" and tensor_type(value).dtype in (U8, I8):
            return True
    return False
