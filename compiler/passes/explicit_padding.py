"""Takes the padding out of convolutions, which then read a padded value."""

from __future__ import annotations

from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import RewriteSet, apply_greedily
from tfc.compiler.rules.padding import PADDING
from tfc.ir.core import Module

PADDING_REWRITES = RewriteSet(functions=PADDING)


def explicit_padding(module: Module, context: PassContext) -> None:
    apply_greedily(module, PADDING_REWRITES, context, required=True)
