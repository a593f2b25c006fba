"""The flat table of graph passes, in the order they run, with the reasons for the order.

From a front end's module to one whose `fused` ops are the kernels to be; at -O0 single ops are.
"""

from __future__ import annotations

import tfc.ir.ops  # noqa: F401  registers the ops that passes look up
from tfc.compiler.passes.cse import cse
from tfc.compiler.passes.dce import dce
from tfc.compiler.passes.decompose import decompose
from tfc.compiler.passes.fold import fold, fold_dims
from tfc.compiler.passes.fuse import fuse
from tfc.compiler.passman import Pass, PassContext, make_table, run_passes
from tfc.ir.core import Module

PASSES = make_table(
    [
        Pass("decompose", decompose, required=True, min_opt=0),
        Pass(
            "fold-dims",
            fold_dims,
            required=True,
            min_opt=0,
            after={"decompose": "decompositions compute on dims"},
        ),
        Pass("fold", fold, after={"fold-dims": "dims that are numbers fold with constants"}),
        Pass("cse", cse, after={"fold": "equal constants get equal hashes"}),
        Pass("dce", dce, min_opt=0, after={"fold-dims": "arithmetic on shapes is left unused"}),
        Pass(
            "fuse",
            fuse,
            after={
                "decompose": "groups are made of ops with bodies",
                "dce": "an unused user keeps a producer out of a group",
            },
        ),
    ]
)


def run(module: Module, context: PassContext) -> None:
    """Run the passes of the context's level on a graph module, in place."""
    run_passes(PASSES, module, context)
