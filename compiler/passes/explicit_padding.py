"""Takes the padding out of convolutions, which then read a padded value.

`trim_taps` comes before: it takes out the taps that read padding alone.
"""

from __future__ import annotations

from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import RewriteSet, apply_greedily
from tfc.compiler.rules.padding import PADDING, TAPS
from tfc.ir.core import Module

TAP_REWRITES = RewriteSet(functions=TAPS)
PADDING_REWRITES = RewriteSet(functions=PADDING)


def trim_taps(module: Module, context: PassContext) -> None:
    apply_greedily(module, TAP_REWRITES, context)


def explicit_padding(module: Module, context: PassContext) -> None:
    apply_greedily(module, PADDING_REWRITES, context, required=True)
