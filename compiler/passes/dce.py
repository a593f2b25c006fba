"""Erases ops without effect whose results nobody uses, and binds of what nothing mentions."""

from __future__ import annotations

from tfc.compiler.passes.bound import drop_unmentioned
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of, is_dead
from tfc.ir.core import Function, Module


def dce(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        _erase_dead(function, context)
        while drop_unmentioned(function, context):
            _erase_dead(function, context)


def _erase_dead(function: Function, context: PassContext) -> None:
    for block in blocks_of(function.block):
        for op in reversed(block):
            if is_dead(op) and context.allows("dce"):
                op.erase()
                context.count("dce")
