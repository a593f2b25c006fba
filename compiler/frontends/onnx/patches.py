"""Operators on windows beyond the plain pools: norms, positions of maxima, columns to images."""

from __future__ import annotations

import itertools

import numpy as np

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.compiler.frontends.onnx.window import (
    Pads,
    Window,
    ceil_pads,
    fixed_pads,
    lowest,
    no_pads,
    pad_spatial,
    read_window,
)
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import Dim, ceildiv, product
from tfc.ir.types import I64, U8

# -- norms ----------------------------------------------------------------------------------------


def _power(ctx: Context, x: Value, exponent: float) -> Value:
    if exponent == 1:
        return x
    found: Value = ctx.b.pow(x, ctx.scalar(exponent, x))
    return found


def _order(ctx: Context) -> int:
    order = ctx.integer("p", 2)
    if order < 1:
        raise ctx.malformed(f"p is {order}")
    return order


def _lp_pool(ctx: Context) -> Results:
    """The sum of a window is its mean by its size."""
    x, order = ctx.x(), _order(ctx)
    window = read_window(ctx)
    sizes = ctx.shape()[2:]
    pads = window.resolved(sizes)
    if ctx.flag("ceil_mode"):
        pads = ceil_pads(window, sizes, pads)
    powers = pad_spatial(pads, None, ctx, _power(ctx, ctx.b.abs(x), order))
    mean = ctx.b.avg_pool(
        powers,
        kernel=window.kernel,
        strides=window.strides,
        pads=no_pads(len(pads)),
        dilations=window.dilations,
        count_include_pad=True,
    )
    total = ctx.b.mul(mean, ctx.scalar(int(np.prod(window.kernel)), mean))
    return _power(ctx, total, 1 / order)


def _global_lp_pool(ctx: Context) -> Results:
    x, order = ctx.x(), _order(ctx)
    axes = tuple(range(2, ctx.type().rank))
    total = ctx.b.reduce_sum(_power(ctx, ctx.b.abs(x), order), axes=axes, keepdims=True)
    return _power(ctx, total, 1 / order)


# -- maxima ---------------------------------------------------------------------------------------


def _max_pool(ctx: Context) -> Results:
    x = ctx.x()
    if ctx.type().dtype.kind not in "fiu":
        raise ctx.malformed(f"a pool of {ctx.type().dtype}")
    window = read_window(ctx)
    sizes = ctx.shape()[2:]
    pads = window.resolved(sizes)
    if ctx.flag("ceil_mode"):
        pads = ceil_pads(window, sizes, pads)
    ctx.flag("storage_order")
    fixed = fixed_pads(pads)
    if fixed is None:
        x = pad_spatial(pads, ctx.scalar(lowest(ctx.type().dtype), x), ctx, x)
        fixed = no_pads(len(pads))
    y: Value = ctx.b.max_pool(
        x, kernel=window.kernel, strides=window.strides, pads=fixed, dilations=window.dilations
    )
    return (y, _max_positions(ctx, window, pads)) if ctx.uses(1) else y


def _max_positions(ctx: Context, window: Window, pads: Pads) -> Value:
    """Where in the tensor, laid out flat, each window's first maximum is."""
    x, shape = ctx.x(), ctx.shape()
    spatial = shape[2:]
    column_major = ctx.flag("storage_order")
    padded = pad_spatial(pads, ctx.scalar(lowest(ctx.type().dtype), x), ctx, x)
    counts = [
        ceildiv(size - window.reach(axis) + 1, window.strides[axis])
        for axis, size in enumerate(tensor_type(padded).shape[2:])
    ]
    numbered = _numbered(ctx, spatial, column_major)
    places = pad_spatial(pads, ctx.scalar(-1, numbered), ctx, numbered)
    values: list[Value] = []
    numbers: list[Value] = []
    for tap in itertools.product(*map(range, window.kernel)):
        starts = (0, 0, *(t * d for t, d in zip(tap, window.dilations, strict=True)))
        steps = (1, 1, *window.strides)
        for parts, source in ((values, padded), (numbers, places)):
            sizes = (*tensor_type(source).shape[:2], *counts)
            part = ctx.b.slice(source, starts=starts, sizes=sizes, steps=steps)
            parts.append(ctx.reshape(part, (1, *sizes)))
    whole = (len(values), *shape[:2], *counts)
    laid = ctx.b.broadcast(_joined(ctx, numbers), shape=whole)
    best = _first_best(ctx, _joined(ctx, values), laid)
    inside = ctx.reshape(ctx.b.gather_elements(laid, best, axis=0), whole[1:])
    size = ctx.numbers((product(spatial),), rank=0)
    image = ctx.b.iota(shape=(product(shape[:2]),), axis=0, dtype=I64)
    first = ctx.reshape(ctx.b.mul(image, size), (*shape[:2], *(1,) * len(spatial)))
    found: Value = ctx.b.add(inside, first)
    return found


def _first_best(ctx: Context, values: Value, places: Value) -> Value:
    """The first tap [1, ...] with the largest value; padding, at place -1, may be as large."""
    top = ctx.b.reduce_max(values, axes=(0,), keepdims=True)
    hit = ctx.b.eq(values, top)
    if tensor_type(values).dtype.is_float:
        hit = ctx.b.op("or", hit, ctx.b.isnan(values)).result
    inside = ctx.b.ge(places, ctx.scalar(0, places))
    chosen = ctx.b.cast(ctx.b.op("and", hit, inside).result, dtype=U8)
    found: Value = ctx.b.argmax(chosen, axis=0, keepdims=True, last=False)
    return found


def _numbered(ctx: Context, spatial: Shape, column_major: bool) -> Value:
    """The pixels [1, 1, ...] numbered by rows, or by columns."""
    shape = tuple(reversed(spatial)) if column_major else spatial
    numbers = ctx.b.iota(shape=(product(spatial),), axis=0, dtype=I64)
    laid = ctx.reshape(numbers, (1, 1, *shape))
    if not column_major:
        return laid
    found: Value = ctx.b.transpose(laid, perm=(0, 1, *reversed(range(2, 2 + len(spatial)))))
    return found


def _joined(ctx: Context, parts: list[Value]) -> Value:
    if len(parts) == 1:
        return parts[0]
    found: Value = ctx.b.concat(*parts, axis=0)
    return found


def _max_unpool(ctx: Context) -> Results:
    """Put each element where its index says, and what `output_shape` adds behind."""
    x, shape = ctx.x(0), ctx.shape(0)
    window = read_window(ctx)
    pads = window.pads or no_pads(len(window.kernel))
    sizes = tuple(
        (size - 1) * window.strides[axis] + window.kernel[axis] - sum(pads[axis])
        for axis, size in enumerate(shape[2:])
    )
    whole = (*shape[:2], *sizes)
    count = product(shape)
    y = ctx.b.scatter_elements(
        ctx.b.full((product(whole),), 0, ctx.type().dtype),
        ctx.reshape(ctx.x(1), (count,)),
        ctx.reshape(x, (count,)),
        axis=0,
        reduction="none",
    )
    y = ctx.reshape(y, whole)
    if not ctx.has(2):
        return y
    wanted = ctx.dims(2, "output_shape")
    if len(wanted) != len(whole):
        raise ctx.malformed(f"output_shape has {len(wanted)} dims for {len(whole)}")
    more = tuple(b - a for a, b in zip(whole, wanted, strict=True))
    found: Value = ctx.b.pad(y, lo=(0,) * len(whole), hi=more, mode="constant")
    return found


# -- columns to images ----------------------------------------------------------------------------


def _col2im(ctx: Context) -> Results:
    """Add blocks up where they overlap: a transposed convolution with ones in the right places."""
    x = ctx.x(0)
    image, block = ctx.ints_of(1, "image_shape"), ctx.ints_of(2, "block_shape")
    rank = len(image)
    strides = ctx.integers("strides") or (1,) * rank
    dilations = ctx.integers("dilations") or (1,) * rank
    flat = ctx.integers("pads") or (0,) * (2 * rank)
    if not len(block) == len(strides) == len(dilations) == len(flat) // 2 == rank:
        raise ctx.malformed("image_shape, block_shape and the attributes differ in length")
    taps = int(np.prod(block))
    n, rows, _ = ctx.shape(0)
    if isinstance(rows, Dim):
        raise ctx.unsupported(f"blocks of {rows} rows; fix the dim with dims")
    if taps < 1 or rows % taps:
        raise ctx.malformed(f"{rows} rows are no blocks of {taps}")
    pads = tuple(zip(flat[:rank], flat[rank:], strict=True))
    reach = [(k - 1) * d + 1 for k, d in zip(block, dilations, strict=True)]
    counts = [
        (size + sum(pad) - r) // stride + 1
        for size, pad, r, stride in zip(image, pads, reach, strides, strict=True)
    ]
    left = tuple(
        (size + sum(pad) - r) % stride
        for size, pad, r, stride in zip(image, pads, reach, strides, strict=True)
    )
    channels = rows // taps
    columns = ctx.reshape(x, (n * channels, taps, *counts))
    ones = np.eye(taps).reshape(taps, 1, *block)
    y = ctx.b.conv_transpose(
        columns,
        ctx.b.constant(ones, ctx.type(0).dtype),
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=1,
        output_padding=left,
    )
    return ctx.reshape(y, (n, channels, *image))


RULES: dict[str, tuple[Rule, ...]] = {
    "Col2Im": (Rule(_col2im),),
    "GlobalLpPool": (Rule(_global_lp_pool),),
    "LpPool": (Rule(_lp_pool),),
    "MaxPool": (Rule(_max_pool),),
    "MaxUnpool": (Rule(_max_unpool),),
}
