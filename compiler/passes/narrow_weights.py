"""Keeps constants that are bytes times scales as bytes, where floats are multiplied by them.

A matrix product widens its weights as it reads them, and multiplies its sums by the scales of
columns, or sums of blocks by theirs. A gather takes bytes and scales from the table, and
multiplies those alone.
"""

from __future__ import annotations

import numpy as np

from tfc.compiler.passes.narrow_blocks import Blocks, blocks_along
from tfc.compiler.passes.quantised import Constants, fits, levels
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Module, Op, Value
from tfc.ir.types import BF16, F32, I8, U8, DType

# Smaller weights are in the cache in any type.
LEAST_WEIGHTS = 1 << 14
# More scales, of all numbers, are no fewer bytes than floats would be, or hardly.
MOST_SCALES = 0.25


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
    """x . (w * s) is (x . w) * s where s has one number for each column; else blocks of w have."""
    x, right = op.operands
    type = tensor_type(right)
    if type.rank != 2 or tensor_type(x).dtype != F32 or constants.array(x) is not None:
        return None
    if not isinstance(type.size, int) or type.size < LEAST_WEIGHTS:
        return None
    blocks = blocks_along(right, 0, constants)
    if blocks is None:
        return None
    b = _builder(op, constants)
    if blocks.count > 1 or blocks.zero is not None:
        product: Value = b.matmul(x, blocks.value(b))
        return product
    narrow = b.cast(b.constant(blocks.whole), dtype=F32)
    scaled: Value = b.mul(b.matmul(x, narrow), b.constant(blocks.factors[0]))
    return scaled


def _lookup(op: Op, constants: Constants) -> Value | None:
    """Rows of (w * s) are rows of w by those of s."""
    table, index = op.operands
    size, taken = tensor_type(table).size, tensor_type(op.result).size
    if op.attrs.axis % max(tensor_type(table).rank, 1) != 0 or not isinstance(size, int):
        return None
    if size < LEAST_WEIGHTS or (isinstance(taken, int) and taken > size):
        return None
    if tensor_type(table).rank == 2 and tensor_type(table).dtype == F32:
        blocks = blocks_along(table, 1, constants)
        if blocks is not None and (blocks.bits == 4 or blocks.count > 1 or blocks.zero is not None):
            return _rows_in_blocks(_builder(op, constants), blocks, index)
    found = levels(table, constants)
    if found is None or not fits(found.whole, I8):
        return None
    if found.scale.size > found.whole.size * MOST_SCALES:
        return None
    b = _builder(op, constants)
    rows = b.cast(b.gather(b.constant(found.whole.astype(np.int8)), index, axis=0), dtype=F32)
    scaled: Value = b.mul(rows, _rows_of(b, found.scale, index))
    return scaled


def _rows_in_blocks(b: GraphBuilder, blocks: Blocks, index: Value) -> Value:
    """The rows of a table whose scales and zeros belong to blocks of columns."""

    def taken(array: Array, dtype: DType | None = None) -> Value:
        if bool((array == array[:1]).all()):
            rows = b.constant(array[0], dtype)
        else:
            rows = b.gather(b.constant(array, dtype), index, axis=0)
        return b.cast(rows, dtype=F32)  # type: ignore[no-any-return]

    if blocks.bits == 4:
        low = int(blocks.whole.min())
        whole = b.add(_nibbles(b, blocks.whole, low, index), b.constant(float(low), F32))
    else:
        whole = taken(blocks.whole)
    shape = tensor_type(whole).shape
    split = (*shape[:-1], blocks.count, blocks.whole.shape[1] // blocks.count)
    whole = b.reshape(whole, shape=split)
    if blocks.zero is not None:
        whole = b.sub(whole, taken(blocks.zero[:, :, None]))
    scaled = b.mul(whole, taken(blocks.scale[:, :, None], blocks.dtype))
    return b.reshape(scaled, shape=shape)  # type: ignore[no-any-return]


def _nibbles(b: GraphBuilder, whole: Array, low: int, index: Value) -> Value:
    """Rows of numbers from `low` on, less that: a byte holds two, half a row apart."""
    columns = whole.shape[1]
    codes = (whole.astype(np.int16) - low).astype(np.uint8)
    codes = np.pad(codes, ((0, 0), (0, columns % 2)))
    half = codes.shape[1] // 2
    packed = codes[:, :half] | codes[:, half:] << np.uint8(4)
    rows = b.gather(b.constant(packed), index, axis=0)
    parts = [
        b.bitwise_and(rows, b.constant(15, U8)),
        b.shr(rows, b.constant(4, U8)),
    ]
    if columns % 2:
        shape = tensor_type(parts[1]).shape
        zeros, ones = (0,) * len(shape), (1,) * len(shape)
        parts[1] = b.slice(parts[1], starts=zeros, sizes=(*shape[:-1], half - 1), steps=ones)
    whole_rows = b.concat(*(b.cast(part, dtype=F32) for part in parts), axis=-1)
    return whole_rows  # type: ignore[no-any-return]


def _rows_of(b: GraphBuilder, scale: Array, index: Value) -> Value:
    """The scales of the rows that `index` takes, laid out as these are."""
    if scale.shape[0] > 1:
        found: Value = b.gather(b.constant(scale), index, axis=0)
        return found
    shape = (1,) * tensor_type(index).rank + scale.shape[1:]
    return b.constant(scale.reshape(shape))
