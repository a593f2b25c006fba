"""Finds the blocks of constants that are whole numbers times scales, and their narrowest form.

An op of the model says them, or else the numbers tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.compiler.passes.quantised import Constants, Levels, fits, levels
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Value
from tfc.ir.ops.quant import are_blocks
from tfc.ir.types import BF16, F16, F32, I8, DType

# Numbers whose greatest and least differ by so much at most have four bits, or eight.
FOUR_BITS, EIGHT_BITS = 15, 255
# With their scales and zeros, numbers in blocks take so much of their size in f32 at most.
MOST_OF_WIDE = 0.5


@dataclass(frozen=True)
class Blocks:
    """(whole - zero) * scale, scale and zero being one for each block along `axis`.

    bits: that the numbers need. dtype: of the scales. zero: None where it is 0 everywhere.
    """

    axis: int
    bits: int
    whole: Array
    scale: Array
    dtype: DType
    zero: Array | None

    @property
    def count(self) -> int:
        """Blocks along the axis."""
        return int(self.scale.shape[self.axis])

    @property
    def factors(self) -> Array:
        """The scales in f32."""
        return arrays.decode(self.scale, self.dtype).astype(np.float32)

    def transposed(self, perm: Sequence[int]) -> Blocks:
        whole, scale = (np.ascontiguousarray(x.transpose(perm)) for x in (self.whole, self.scale))
        zero = None if self.zero is None else np.ascontiguousarray(self.zero.transpose(perm))
        return Blocks(list(perm).index(self.axis), self.bits, whole, scale, self.dtype, zero)

    def value(self, b: GraphBuilder) -> Value:
        """The constant in f32, as an op on narrow ones."""
        operands = [b.constant(self.whole), b.constant(self.scale, self.dtype)]
        if self.zero is not None:
            operands.append(b.constant(self.zero))
        found: Value = b.dequantize_blocks(*operands, axis=self.axis)
        return found


def blocks_along(value: Value, axis: int, constants: Constants) -> Blocks | None:
    """Read a constant of f32 in blocks along `axis`; None where these are hardly smaller."""
    given = _given(value, constants)
    if given is not None and given.axis == axis:
        return given
    found = levels(value, constants)
    return None if found is None else _found(found, axis)


def _given(value: Value, constants: Constants) -> Blocks | None:
    """The blocks of an op that says them, before or behind a transposition."""
    op = value.op
    if op is not None and op.name == "transpose":
        inner = _given(op.operands[0], constants)
        return None if inner is None else inner.transposed(op.attrs.perm)
    if op is None or op.name != "dequantize_linear":
        return None
    if not are_blocks([tensor_type(operand) for operand in op.operands]):
        return None
    whole, scale, *rest = (constants.array(operand) for operand in op.operands)
    if whole is None or scale is None or any(zero is None for zero in rest):
        return None
    if whole.dtype not in (np.int8, np.uint8) or tensor_type(value).dtype != F32:
        return None
    if whole.size == 0 or not bool(np.isfinite(scale).all()):
        return None
    zero = rest[0] if rest else None
    if zero is not None and bool((zero == zero.flat[0]).all()):
        moved = whole.astype(np.int16) - np.int16(zero.flat[0])
        if fits(moved, I8):
            whole, zero = moved.astype(np.int8), None
    bits = 4 if int(whole.max()) - int(whole.min()) <= FOUR_BITS else 8
    axis = op.attrs.axis % whole.ndim
    return _if_smaller(Blocks(axis, bits, whole, *narrow_scale(scale), zero))


def _if_smaller(blocks: Blocks) -> Blocks | None:
    """The blocks where they are smaller than floats."""
    each = blocks.dtype.bits + (0 if blocks.zero is None else 8 * blocks.zero.itemsize)
    size = blocks.whole.shape[blocks.axis] / blocks.count
    return blocks if blocks.bits + each / size <= MOST_OF_WIDE * F32.bits else None


def _found(found: Levels, axis: int) -> Blocks | None:
    """The largest blocks of numbers times scales."""
    if found.whole.size == 0 or not bool(np.isfinite(found.scale).all()):
        return None
    size = _block_size(found.scale, found.whole.shape[axis], axis)
    count = found.whole.shape[axis] // size
    split = list(found.whole.shape)
    split[axis : axis + 1] = [count, size]
    numbers = _narrowest(found.whole.reshape(split), axis + 1)
    if numbers is None:
        return None
    whole, zero, bits = numbers
    steps = np.arange(0, found.scale.shape[axis], size)
    shape = [*found.whole.shape]
    shape[axis] = count
    scale, dtype = narrow_scale(np.broadcast_to(np.take(found.scale, steps, axis), shape))
    return _if_smaller(Blocks(axis, bits, whole.reshape(found.whole.shape), scale, dtype, zero))


def _block_size(scale: Array, extent: int, axis: int) -> int:
    """The size of the largest blocks in which no scale changes along the axis."""
    rows = np.moveaxis(scale, axis, 0).reshape(scale.shape[axis], -1)
    (changes,) = (rows[1:] != rows[:-1]).any(axis=1).nonzero()
    return math.gcd(extent, *(int(at) + 1 for at in changes))


def _narrowest(whole: Array, axis: int) -> tuple[Array, Array | None, int] | None:
    """Numbers of four or eight bits, with the zeros of blocks that lie along `axis` if need be."""
    low, high = whole.min(axis), whole.max(axis)
    if fits(whole, I8) and int(high.max()) - int(low.min()) <= FOUR_BITS:
        return whole.astype(np.int8), None, 4
    spread = int((high - low).max())
    if spread > FOUR_BITS and fits(whole, I8):
        return whole.astype(np.int8), None, 8
    if spread > EIGHT_BITS:
        return None
    zero = -low
    numbers = (whole + np.expand_dims(zero, axis)).astype(np.uint8)
    limits = np.iinfo(np.int16)
    if int(zero.min()) < limits.min or int(zero.max()) > limits.max:
        return None
    small = fits(zero, I8)
    bits = 4 if spread <= FOUR_BITS else 8
    return numbers, zero.astype(np.int8 if small else np.int16), bits


def narrow_scale(scale: Array) -> tuple[Array, DType]:
    """Scales in the shortest type of float that holds each of them exactly."""
    scale = np.ascontiguousarray(scale, np.float32)
    for dtype in (F16, BF16):
        with np.errstate(over="ignore"):
            short = arrays.encode(scale, dtype)
        if np.array_equal(arrays.decode(short, dtype).astype(np.float32), scale):
            return short, dtype
    return scale, F32
