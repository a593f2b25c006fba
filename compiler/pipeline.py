"""The flat table of graph passes, in the order they run, with the reasons for the order.

From a front end's module to one whose `fused` ops are the kernels to be; at -O0 single ops are.
"""

from __future__ import annotations

from tfc.compiler.passes.assume import assume
from tfc.compiler.passes.attention import attention
from tfc.compiler.passes.bound import bound
from tfc.compiler.passes.byte_tables import byte_tables
from tfc.compiler.passes.cse import cse
from tfc.compiler.passes.dce import dce
from tfc.compiler.passes.decompose import decompose
from tfc.compiler.passes.explicit_padding import TAP_REWRITES, explicit_padding, trim_taps
from tfc.compiler.passes.flow import flow
from tfc.compiler.passes.fold import fold, fold_dims
from tfc.compiler.passes.fold_scale import (
    SCALE_REWRITES,
    STATISTICS_REWRITES,
    fold_scale,
    fold_statistics,
)
from tfc.compiler.passes.fuse import fuse
from tfc.compiler.passes.integer_products import integer_products
from tfc.compiler.passes.layout import layout
from tfc.compiler.passes.likely import likely
from tfc.compiler.passes.lower_precision import lower_precision
from tfc.compiler.passes.narrow_products import narrow_products
from tfc.compiler.passes.narrow_weights import narrow_weights
from tfc.compiler.passes.read_narrow import read_narrow
from tfc.compiler.passes.settle import settle
from tfc.compiler.passes.simplify import SIMPLIFICATIONS, simplify
from tfc.compiler.passes.take_padding import take_padding
from tfc.compiler.passman import Pass, PassContext, make_table, run_passes
from tfc.ir.core import Module

PASSES = make_table(
    [
        Pass("assume", assume, required=True, min_opt=0),
        Pass("settle", settle, after={"assume": "ops whose assumptions settle a symbol may go"}),
        Pass("likely", likely, after={"settle": "sizes are expressions over fewer symbols"}),
        Pass("fold-statistics", fold_statistics, rules=STATISTICS_REWRITES.names),
        Pass("integer-products", integer_products),
        Pass(
            "narrow-weights",
            narrow_weights,
            after={"integer-products": "where both sides are bytes, sums are integers"},
        ),
        Pass(
            "decompose",
            decompose,
            required=True,
            min_opt=0,
            after={
                "integer-products": "decomposed, quantised numbers are not known by their ops",
                "fold-statistics": "decomposed, a batch norm of constants is rounded four times",
            },
        ),
        Pass(
            "trim-taps",
            trim_taps,
            after={"decompose": "some decompositions are convolutions"},
            rules=TAP_REWRITES.names,
        ),
        Pass(
            "explicit-padding",
            explicit_padding,
            required=True,
            min_opt=0,
            after={
                "decompose": "transposed convolutions decompose to convolutions",
                "trim-taps": "it looks at the padding of convolutions",
            },
        ),
        Pass(
            "fold-dims",
            fold_dims,
            required=True,
            min_opt=0,
            after={"decompose": "decompositions compute on dims"},
        ),
        Pass("flow", flow, after={"decompose": "ops are moved out of loops, not parts of them"}),
        Pass(
            "fold",
            fold,
            after={
                "narrow-weights": "widened weights are f32 for good",
                "fold-dims": "dims that are numbers fold with constants",
                "flow": "what comes out of a loop may be constant",
            },
        ),
        Pass(
            "simplify",
            simplify,
            after={
                "fold": "rules look for constants",
                "explicit-padding": "paddings by op and by attribute become one",
            },
            rules=SIMPLIFICATIONS.names,
        ),
        Pass("cse", cse, after={"simplify": "more ops are equal in simplest form"}),
        Pass(
            "fold-scale",
            fold_scale,
            after={
                "fold": "reshaped statistics are constants",
                "simplify": "broadcasts that hide a constant's axes are gone",
            },
            rules=SCALE_REWRITES.names,
        ),
        Pass("fold-again", fold, after={"simplify": "it brings constants together"}),
        Pass(
            "simplify-again",
            simplify,
            after={"fold-scale": "scales of one are left", "cse": "operands have become the same"},
        ),
        Pass(
            "cse-again",
            cse,
            after={"fold-again": "folded constants may be equal", "simplify-again": "so may ops"},
        ),
        Pass(
            "bound",
            bound,
            after={
                "fold-again": "a count may be constant by now",
                "cse-again": "equal counts are one value",
            },
        ),
        Pass("dce", dce, min_opt=0, after={"fold-dims": "arithmetic on shapes is left unused"}),
        Pass(
            "attention",
            attention,
            after={
                "decompose": "a softmax has become its reductions",
                "dce": "an unused user keeps a chain out of a group",
            },
        ),
        Pass(
            "lower-precision",
            lower_precision,
            min_opt=0,
            after={
                "dce": "an unused user would keep a value in f32",
                "attention": "it groups products of f32 and keeps their scores in it",
            },
        ),
        Pass(
            "dce-again",
            dce,
            min_opt=0,
            after={"lower-precision": "views of what is rounded now would keep it in f32"},
        ),
        Pass(
            "narrow-products",
            narrow_products,
            after={
                "explicit-padding": "padding is a number of the operand, not 0",
                "fold-again": "the weights less their zero points are constants",
                "cse-again": "it would make one widening of all that read a value",
            },
        ),
        Pass(
            "byte-tables",
            byte_tables,
            after={
                "simplify-again": "what would not be computed anyway needs no table",
                "narrow-products": "it looks for how i8 was made of u8",
            },
        ),
        Pass(
            "read-narrow",
            read_narrow,
            after={
                "cse-again": "it would undo it",
                "narrow-products": "what products read as bytes needs no widening",
                "byte-tables": "what a table says needs no widening",
            },
        ),
        Pass(
            "fuse",
            fuse,
            after={
                "decompose": "groups are made of ops with bodies",
                "dce-again": "an unused user keeps a producer out of a group",
                "attention": "rows between two products would become groups of their own",
                "read-narrow": "a shared widening keeps out of groups",
            },
        ),
        Pass("layout", layout, after={"fuse": "kernels are known, and only their results lie"}),
        Pass(
            "take-padding",
            take_padding,
            after={"layout": "it is for windows of which rows lie in memory as they are"},
        ),
    ]
)


def run(module: Module, context: PassContext) -> None:
    """Run the passes of the context's level on a graph module, in place."""
    run_passes(PASSES, module, context)
