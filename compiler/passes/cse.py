"""Merges ops that compute the same value of the same operands, constants included."""

from __future__ import annotations

from collections.abc import Hashable

from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.core import Block, Module, Op
from tfc.ir.opdef import OpDef, Trait


def cse(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            _merge_in(block, context)


def _merge_in(block: Block, context: PassContext) -> None:
    seen: dict[Hashable, Op] = {}
    for op in block:
        defn = op.defn
        assert isinstance(defn, OpDef)
        if Trait.PURE not in defn.traits or op.regions:
            continue
        first = seen.setdefault(_key(op, defn), op)
        if first is not op and context.allows("cse"):
            first.loc = first.loc.merge(op.loc)
            op.replace_with(first.results)
            context.count("cse")


def _key(op: Op, defn: OpDef) -> Hashable:
    operands = [id(value) for value in op.operands]
    if Trait.COMMUTATIVE in defn.traits:
        operands.sort()
    # The text of the attributes, because 0.0 == -0.0 and nan != nan.
    types = tuple((value.type, value.encoding) for value in op.results)
    return op.name, tuple(operands), repr(op.attrs), types
