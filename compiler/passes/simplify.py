"""The passes that apply tables of rewrites greedily."""

from __future__ import annotations

from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import RewriteSet, apply_greedily
from tfc.compiler.rules.algebra import RULES
from tfc.compiler.rules.movement import MOVEMENT
from tfc.ir.core import Module

SIMPLIFICATIONS = RewriteSet(RULES, MOVEMENT)


def simplify(module: Module, context: PassContext) -> None:
    apply_greedily(module, SIMPLIFICATIONS, context)
