"""Operators that move a window over spatial axes: convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tfc.compiler.frontends.onnx.context import Context, Results, Rule
from tfc.ir.arrays import numpy_dtype
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, floordiv, maximum, minimum
from tfc.ir.types import DType

Pads: TypeAlias = "tuple[tuple[DimLike, DimLike], ...]"


@dataclass(frozen=True)
class Window:
    """A window's geometry, as a node's attributes say it. pads is None where auto_pad decides."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...] | None
    auto_pad: str

    def reach(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def resolved(self, sizes: Sequence[DimLike]) -> Pads:
        """Return the padding of each axis: (before, behind)."""
        if self.pads is not None:
            return self.pads
        found: list[tuple[DimLike, DimLike]] = []
        for axis, size in enumerate(sizes):
            if self.auto_pad == "VALID":
                found.append((0, 0))
                continue
            stride = self.strides[axis]
            total = (ceildiv(size, stride) - 1) * stride + self.reach(axis) - size
            found.append(self.halves(maximum(total, 0)))
        return tuple(found)

    def halves(self, total: DimLike) -> tuple[DimLike, DimLike]:
        """Split the padding of an axis; SAME_UPPER puts the odd element behind."""
        half = floordiv(total, 2)
        return (half, total - half) if self.auto_pad == "SAME_UPPER" else (total - half, half)


def read_window(ctx: Context, kernel: Sequence[DimLike] | None = None) -> Window:
    """Read the attributes; `kernel` is what the weights say where the node may leave it out."""
    sizes = ctx.integers("kernel_shape")
    if kernel is not None:
        if any(not isinstance(size, int) for size in kernel):
            raise ctx.unsupported("the kernel's size is dynamic")
        have = tuple(int(size) for size in kernel if isinstance(size, int))
        if sizes is not None and sizes != have:
            raise ctx.malformed(f"kernel_shape is {list(sizes)}, the weights' is {list(have)}")
        sizes = have
    if sizes is None:
        raise ctx.malformed("attribute 'kernel_shape' is missing")
    rank = len(ctx.shape()) - 2
    if len(sizes) != rank or rank < 1:
        raise ctx.malformed(f"{len(sizes)} kernel sizes for an input of rank {rank + 2}")
    strides = ctx.integers("strides") or (1,) * rank
    dilations = ctx.integers("dilations") or (1,) * rank
    flat = ctx.integers("pads")
    auto_pad = ctx.string("auto_pad", "NOTSET") or "NOTSET"
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ctx.malformed(f"unknown auto_pad {auto_pad!r}")
    for name, values in (("strides", strides), ("dilations", dilations), ("kernel_shape", sizes)):
        if len(values) != rank or min(values) < 1:
            raise ctx.malformed(f"{name} is {list(values)} for {rank} spatial axes")
    flat = flat or (0,) * (2 * rank)
    if len(flat) != 2 * rank:
        raise ctx.malformed(f"{len(flat)} pads for {rank} spatial axes")
    pairs = tuple(zip(flat[:rank], flat[rank:], strict=True))
    return Window(sizes, strides, dilations, pairs if auto_pad == "NOTSET" else None, auto_pad)


def pad_spatial(pads: Pads, fill: Value | None, ctx: Context, x: Value) -> Value:
    """Pad the spatial axes of x by an op of its own."""
    lo = (0, 0, *(pair[0] for pair in pads))
    hi = (0, 0, *(pair[1] for pair in pads))
    if all(p == 0 for p in (*lo, *hi)):
        return x
    operands = (x,) if fill is None else (x, fill)
    found: Value = ctx.b.pad(*operands, lo=lo, hi=hi, mode="constant")
    return found


def fixed_pads(pads: Pads) -> tuple[tuple[int, int], ...] | None:
    """Return the padding as numbers, or None where it is symbolic."""
    found = tuple((a, b) for a, b in pads if isinstance(a, int) and isinstance(b, int))
    return found if len(found) == len(pads) else None


def no_pads(count: int) -> tuple[tuple[int, int], ...]:
    return ((0, 0),) * count


def _biased(ctx: Context, y: Value) -> Value:
    """Add the bias, one number for each channel."""
    bias = ctx.optional(2)
    if bias is None:
        return y
    type = tensor_type(y)
    if ctx.type(2).rank != 1:
        raise ctx.malformed(f"the bias has rank {ctx.type(2).rank}")
    shaped = ctx.reshape(bias, (1, *ctx.shape(2), *(1,) * (type.rank - 2)))
    found: Value = ctx.b.add(y, shaped)
    if tensor_type(found).shape != type.shape:
        raise ctx.malformed(f"the bias has {ctx.shape(2)[0]} elements for {type.shape[1]} channels")
    return found


def _conv(ctx: Context) -> Results:
    return _biased(ctx, convolution(ctx, ctx.x(0), ctx.x(1)))


def convolution(ctx: Context, x: Value, w: Value) -> Value:
    """The convolution that the node's attributes say, without a bias."""
    shape, weights = tensor_type(x).shape, tensor_type(w).shape
    window = read_window(ctx, weights[2:])
    pads = window.resolved(shape[2:])
    fixed = fixed_pads(pads)
    if fixed is None:
        x, fixed = pad_spatial(pads, None, ctx, x), no_pads(len(pads))
    groups = ctx.integer("group", 1)
    if len(weights) > 1 and len(shape) > 1:
        x = ctx.fit_axis(x, 1, weights[1] * groups)
    y: Value = ctx.b.conv(
        x,
        w,
        strides=window.strides,
        pads=fixed,
        dilations=window.dilations,
        groups=groups,
    )
    return y


def _conv_transpose(ctx: Context) -> Results:
    x, w = ctx.x(0), ctx.x(1)
    window = read_window(ctx, ctx.shape(1)[2:])
    rank = len(window.kernel)
    extra = ctx.integers("output_padding") or (0,) * rank
    wanted = ctx.integers("output_shape")
    sizes = ctx.shape()[2:]
    if len(extra) != rank or (wanted is not None and len(wanted) not in (rank, rank + 2)):
        raise ctx.malformed("output_padding or output_shape does not fit the spatial axes")
    pads: list[tuple[int, int]] = []
    for axis, size in enumerate(sizes):
        stride = window.strides[axis]
        full = (size - 1) * stride + window.reach(axis) + extra[axis]
        if wanted is not None:
            total = full - wanted[-rank:][axis]
        elif window.pads is not None:
            pads.append(window.pads[axis])
            continue
        else:
            total = full - size * stride if window.auto_pad.startswith("SAME") else 0
        # Negative padding would add rows that the operator leaves at the bias alone.
        lo, hi = window.halves(maximum(total, 0) if wanted is None else total)
        if not isinstance(lo, int) or not isinstance(hi, int):
            raise ctx.unsupported("a fixed output_shape of a dynamic input")
        pads.append((lo, hi))
    x = ctx.fit_axis(x, 1, ctx.shape(1)[0])
    y: Value = ctx.b.conv_transpose(
        x,
        w,
        strides=window.strides,
        pads=tuple(pads),
        dilations=window.dilations,
        groups=ctx.integer("group", 1),
        output_padding=extra,
    )
    return _biased(ctx, y)


# -- pools --------------------------------------------------------------------------------------


def ceil_pads(window: Window, sizes: Sequence[DimLike], pads: Pads) -> Pads:
    """Return the padding with what rounding the number of windows up needs more behind.

    A window that would start in the padding behind is not counted.
    """
    found: list[tuple[DimLike, DimLike]] = []
    for axis, (size, (lo, hi)) in enumerate(zip(sizes, pads, strict=True)):
        stride, reach = window.strides[axis], window.reach(axis)
        count = ceildiv(size + lo + hi - reach, stride) + 1
        count = minimum(count, ceildiv(size + lo, stride))
        found.append((lo, (count - 1) * stride + reach - size - lo))
    return tuple(found)


def lowest(dtype: DType) -> float:
    return -np.inf if dtype.is_float else int(np.iinfo(numpy_dtype(dtype)).min)


def _average_pool(ctx: Context) -> Results:
    x = ctx.x()
    window = read_window(ctx)
    sizes = ctx.shape()[2:]
    pads = window.resolved(sizes)
    extended = ceil_pads(window, sizes, pads) if ctx.flag("ceil_mode") else pads
    if ctx.flag("count_include_pad") and any(p != 0 for pair in pads for p in pair):
        # What rounding up adds behind the padding is not counted, the padding itself is.
        x = pad_spatial(pads, None, ctx, x)
        extended = tuple((0, more[1] - pair[1]) for pair, more in zip(pads, extended, strict=True))
    fixed = fixed_pads(extended)
    if fixed is not None:
        return _average(ctx, window, x, fixed)
    # With padding of unknown size: the mean with it, by how much of each window is not padding.
    ones = ctx.b.full((1, 1, *tensor_type(x).shape[2:]), 1, tensor_type(x).dtype)
    none = no_pads(len(extended))
    total, share = (
        _average(ctx, window, pad_spatial(extended, None, ctx, part), none) for part in (x, ones)
    )
    found: Value = ctx.b.div(total, share)
    return found


def _average(ctx: Context, window: Window, x: Value, pads: tuple[tuple[int, int], ...]) -> Value:
    found: Value = ctx.b.avg_pool(
        x,
        kernel=window.kernel,
        strides=window.strides,
        pads=pads,
        dilations=window.dilations,
        count_include_pad=False,
    )
    return found


def _global(name: str) -> Rule:
    def build(ctx: Context) -> Results:
        x = ctx.x()
        rank = ctx.type().rank
        if rank < 3:
            raise ctx.malformed(f"rank {rank} leaves no spatial axis")
        found: Value = getattr(ctx.b, name)(x, axes=tuple(range(2, rank)), keepdims=True)
        return found

    return Rule(build)


RULES: dict[str, tuple[Rule, ...]] = {
    "AveragePool": (Rule(_average_pool),),
    "Conv": (Rule(_conv),),
    "ConvTranspose": (Rule(_conv_transpose),),
    "GlobalAveragePool": (_global("reduce_mean"),),
    "GlobalMaxPool": (_global("reduce_max"),),
}
