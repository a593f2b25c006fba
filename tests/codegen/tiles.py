"""A kernel of one product of tiles, by every way to run it. Not test cases."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfc.ir import arrays
from tfc.ir.core import Block, Function
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.nodes import TILE, TILE_DOTS
from tfc.ir.types import BF16, I64, DType, ScalarType, buffer

Array = Any
PAIRS = tuple(TILE_DOTS)


def product(
    x: DType, y: DType, columns: int = 16, width: int = 64, twice: bool = False
) -> Function:
    """total += x y by tiles whose rows, of x and total and then of y, are arguments.

    Rows of the buffers lie 80, 72 and 24 elements apart. twice: in two steps of the same factors.
    """
    sums = TILE_DOTS[x, y]
    group = sums.bits // x.bits
    steps = width // x.bytes
    types = [buffer(x, 16 * 80), buffer(y, 16 * 72), buffer(sums, 16 * 24)]
    block = Block([*types, ScalarType(I64), ScalarType(I64)], ["x", "y", "total", "m", "k"])
    b = LoopBuilder(block)
    source, right, to, m, k = block.args
    tiles = [
        buffer(x, 16, steps, space=TILE),
        buffer(y, steps // group, columns * group, space=TILE),
        buffer(sums, 16, columns, space=TILE),
    ]
    with b.tiles(tiles, [m, k, m]) as (left, factor, total):
        b.tile_load(left, source, 3, 80)
        b.tile_load(factor, right, 0, 72)
        b.tile_load(total, to, 5, 24)
        for _ in range(1 + twice):
            b.tile_dot(left, factor, total)
        b.tile_store(total, to, 5, 24)
    b.emit("return")
    return Function("kernel", block, "kernel")


def numbers(dtype: DType, size: int, seed: int, *, special: bool = False) -> Array:
    generator = np.random.default_rng(seed)
    if dtype == BF16:
        values = generator.standard_normal(size) * 2.0 ** generator.integers(-30, 30, size)
        if special:
            # Products and sums around the least normal number, and what is no number.
            values = generator.standard_normal(size) * 2.0 ** generator.integers(-70, -55, size)
            values[generator.random(size) < 0.2] *= 2.0**-60
            values[generator.random(size) < 0.01] = np.inf
            values[generator.random(size) < 0.01] = np.nan
        return arrays.encode(values.astype(np.float32), BF16)
    if dtype.is_float:
        scale = -120 if special else 0
        return (generator.standard_normal(size) * 2.0**scale).astype(np.float32)
    if dtype.bits == 32:
        return generator.integers(-(2**31), 2**31, size).astype(np.int32)
    lo, hi = (-128, 128) if dtype.kind == "i" else (0, 256)
    return generator.integers(lo, hi, size).astype(arrays.numpy_dtype(dtype))


def arguments(x: DType, y: DType, *, special: bool = False) -> list[Array]:
    sums = TILE_DOTS[x, y]
    return [
        numbers(x, 16 * 80, 1, special=special),
        numbers(y, 16 * 72, 2, special=special),
        numbers(sums, 16 * 24, 3, special=special),
    ]


def bits(array: Array) -> Array:
    """The bits of an array, every NaN the same."""
    if array.dtype.kind != "f":
        return array
    return np.where(np.isnan(array), np.uint32(0x7FC00000), array.view(np.uint32))
