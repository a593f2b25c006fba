"""Erases ops without effect whose results nobody uses."""

from __future__ import annotations

from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of, is_dead
from tfc.ir.core import Module


def dce(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            for op in reversed(block):
                if is_dead(op) and context.allows("dce"):
                    op.erase()
                    context.count("dce")
