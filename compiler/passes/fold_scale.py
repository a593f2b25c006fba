"""Folds constant scales and shifts into the weights of convolutions and matrix products.

`fold_statistics` comes before decomposition: for the normalisations that are no more than that, and
for transposed convolutions, whose results are shuffled once they are decomposed.
"""

from __future__ import annotations

from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import RewriteSet, apply_greedily
from tfc.compiler.rules.scale import SCALE, STATISTICS
from tfc.ir.core import Module

STATISTICS_REWRITES = RewriteSet(functions=(*STATISTICS, *SCALE))
SCALE_REWRITES = RewriteSet(functions=SCALE)


def fold_statistics(module: Module, context: PassContext) -> None:
    apply_greedily(module, STATISTICS_REWRITES, context)


def fold_scale(module: Module, context: PassContext) -> None:
    apply_greedily(module, SCALE_REWRITES, context)
