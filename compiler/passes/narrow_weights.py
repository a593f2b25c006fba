"""Keeps constants that are bytes times scales as bytes, where floats are multiplied by them.

A matrix product widens its weights as it reads them, and multiplies its sums by the scales. A
gather takes bytes and scales from the table, and multiplies those alone.
"""

from __future__ import annotations

import numpy as np

from tfc.compiler.passes.quantised import Constants, fits, levels, weights
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Module, Op, Value
from tfc.ir.types import BF16, F32, I8

# Smaller weights are in the cache in any type.
LEAST_WEIGHTS = 1 << 14


def narrow_weights(module: Module, context: PassContext) -> None:
    if context.dtype == BF16:
        # Products of bf16 are faster than those of widened bytes.
        return
    for function in module.functions.values():
        for block in blocks_of(function.block):
            constants = Constants(module.constants)
            for op in list(block):
                if op.name not in ("matmul", "gather") or op.block is None:
                    continue
                if not context.allows("narrow-weights"):
                    return
                rewrite = _product if op.name == "matmul" else _lookup
                value = rewrite(op, constants)
                if value is not None:
                    op.replace_with([value])
                    context.count("narrow-weights")


def _builder(op: Op, constants: Constants) -> GraphBuilder:
    assert op.block is not None
    return GraphBuilder(op.block, constants.store, op, op.loc)


def _product(op: Op, constants: Constants) -> Value | None:
    """x . (w * s) is (x . w) * s where s has one number for each column."""
    x, right = op.operands
    type = tensor_type(right)
    if type.rank != 2 or tensor_type(x).dtype != F32 or constants.array(x) is not None:
        return None
    if not isinstance(type.size, int) or type.size < LEAST_WEIGHTS:
        return None
    found = weights(right, 1, constants)
    if found is None or not fits(found.whole, I8):
        return None
    b = _builder(op, constants)
    narrow = b.cast(b.constant(found.whole.astype(np.int8)), dtype=F32)
    scaled: Value = b.mul(b.matmul(x, narrow), b.constant(found.scales.astype(np.float32)))
    return scaled


def _lookup(op: Op, constants: Constants) -> Value | None:
    """Rows of (w * s) are rows of w by those of s."""
    table, index = op.operands
    size, taken = tensor_type(table).size, tensor_type(op.result).size
    if op.attrs.axis % max(tensor_type(table).rank, 1) != 0 or not isinstance(size, int):
        return None
    if size < LEAST_WEIGHTS or (isinstance(taken, int) and taken > size):
        return None
    found = levels(table, constants)
    if found is None or not fits(found.whole, I8):
        return None
    b = _builder(op, constants)
    rows = b.cast(b.gather(b.constant(found.whole.astype(np.int8)), index, axis=0), dtype=F32)
    scaled: Value = b.mul(rows, _rows_of(b, found.scale, index))
    return scaled


def _rows_of(b: GraphBuilder, scale: Array, index: Value) -> Value:
    """The scales of the rows that `index` takes, laid out as these are."""
    if scale.shape[0] > 1:
        found: Value = b.gather(b.constant(scale), index, axis=0)
        return found
    shape = (1,) * tensor_type(index).rank + scale.shape[1:]
    return b.constant(scale.reshape(shape))
