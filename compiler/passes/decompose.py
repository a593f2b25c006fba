"""Replaces composite ops by what they are made of, until none is left."""

from __future__ import annotations

from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.build import GraphBuilder
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Module, Op
from tfc.ir.errors import CompileError
from tfc.ir.opdef import OpDef


def decompose(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            _decompose_block(block, module.constants)


def _decompose_block(block: Block, constants: ConstantStore) -> None:
    op = block.first
    while op is not None:
        op = _decompose_op(op, block, constants)


def _decompose_op(op: Op, block: Block, constants: ConstantStore) -> Op | None:
    """Replace `op` if it is composite. Return the op to look at next: the first of its parts."""
    defn = op.defn
    assert isinstance(defn, OpDef)
    if defn.decompose is None or defn.body is not None:
        return op.next
    before = op.prev
    values = defn.decompose(GraphBuilder(block, constants, op, op.loc), op)
    for old, new in zip(op.results, values, strict=True):
        if old.type != new.type:
            where = str(op.loc) or None
            raise CompileError(f"{op.name}: {old.type} decomposes to {new.type}", where=where)
    op.replace_with(values)
    return block.first if before is None else before.next
