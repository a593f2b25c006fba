"""Resize and Upsample: sizes and scales of every opset in the form of the graph op `resize`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.compiler.frontends.onnx.resample import Axis, Filter, resample
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, floordiv
from tfc.ir.ops.resize import COORDINATES, ROUNDINGS, ratio
from tfc.ir.types import F64

_MODES = ("nearest", "linear", "cubic")
_POLICIES = ("stretch", "not_larger", "not_smaller")
# Of a fraction with a greater denominator a product in f32 may round to a whole number.
_MAX_DENOMINATOR = 64


@dataclass(frozen=True)
class _Target:
    """What an operand is resized to. scales: 0 for the ratio of dims."""

    sizes: Shape
    scales: tuple[float, ...]


def _resize(ctx: Context) -> Results:
    mode = ctx.string("mode", "nearest")
    if mode not in _MODES:
        raise ctx.malformed(f"unknown mode {mode!r}")
    if ctx.opset < 11:
        return _resize_10(ctx, mode, _scales(ctx, 1))
    coordinate = ctx.string("coordinate_transformation_mode", "half_pixel")
    nearest = ctx.string("nearest_mode", "round_prefer_floor")
    policy = ctx.string("keep_aspect_ratio_policy", "stretch")
    if policy not in _POLICIES:
        raise ctx.malformed(f"unknown keep_aspect_ratio_policy {policy!r}")
    cropped = coordinate == "tf_crop_and_resize"
    if (not cropped and coordinate not in COORDINATES) or nearest not in ROUNDINGS:
        raise ctx.malformed(f"unknown {coordinate!r} or {nearest!r}")
    target = _of_sizes(ctx, policy) if ctx.has(3) else _of_scales(ctx, cropped)
    how = Filter(
        mode,
        nearest,
        ctx.real("cubic_coeff_a", -0.75),
        ctx.flag("exclude_outside"),
        ctx.flag("antialias") and mode != "nearest",
    )
    if any(isinstance(size, int) and size == 0 for size in target.sizes):
        return ctx.b.full(target.sizes, 0, ctx.type().dtype)
    if cropped or how.widened:
        return _resampled(ctx, target, coordinate, how)
    return _emit(ctx, ctx.x(), target, coordinate, how)


def _resize_10(ctx: Context, mode: str, scales: tuple[float, ...]) -> Value:
    """Opset 10 leaves open which pixel is nearest: in its tests it is the next one on axes that
    shrink, the one before on those that grow.
    """
    smaller = tuple(min(scale, 1.0) for scale in scales)
    if mode != "nearest" or all(scale == 1 for scale in smaller):
        return _by_scales(ctx, ctx.x(), mode, "floor", scales)
    shrunk = _by_scales(ctx, ctx.x(), mode, "ceil", smaller)
    larger = tuple(max(scale, 1.0) for scale in scales)
    return _by_scales(ctx, shrunk, mode, "floor", larger)


def _upsample(ctx: Context) -> Results:
    mode = ctx.string("mode", "nearest")
    if mode == "bilinear":
        mode = "linear"
    scales = ctx.reals("scales") if ctx.opset < 9 else _scales(ctx, 1)
    if scales is None or mode not in _MODES:
        raise ctx.malformed(f"mode {mode!r}, scales {scales}")
    return _by_scales(ctx, ctx.x(), mode, "floor", scales)


def _by_scales(ctx: Context, x: Value, mode: str, nearest: str, scales: tuple[float, ...]) -> Value:
    target = _scaled(ctx, x, tuple(range(tensor_type(x).rank)), scales)
    return _emit(ctx, x, target, "asymmetric", Filter(mode, nearest, -0.75, False, False))


# -- sizes ----------------------------------------------------------------------------------------


def _scales(ctx: Context, position: int) -> tuple[float, ...]:
    found = ctx.const(position)
    if found is None:
        raise ctx.unsupported("scales that are not constant")
    return tuple(float(v) for v in found.reshape(-1))


def _axes(ctx: Context) -> tuple[int, ...]:
    rank = ctx.type().rank
    axes = ctx.integers("axes")
    return tuple(range(rank)) if axes is None else ctx.axes(axes, rank)


def _of_sizes(ctx: Context, policy: str) -> _Target:
    axes = _axes(ctx)
    given = ctx.sizes(3, "sizes") if policy == "stretch" else ctx.dims(3, "sizes")
    if len(given) != len(axes):
        raise ctx.malformed(f"{len(given)} sizes for {len(axes)} axes")
    sizes = list(ctx.shape())
    scales = [0.0] * len(sizes)
    if policy == "stretch":
        for axis, size in zip(axes, given, strict=True):
            sizes[axis] = size
        return _Target(tuple(sizes), tuple(scales))
    ratios: list[Fraction] = []
    for axis, size in zip(axes, given, strict=True):
        old = sizes[axis]
        if isinstance(size, Dim) or isinstance(old, Dim):
            raise ctx.unsupported(
                f"keep_aspect_ratio_policy {policy!r} for {old} to {size} elements; fix the dims "
                "with dims"
            )
        if old == 0:
            raise ctx.malformed("resizes an empty tensor")
        ratios.append(Fraction(size, old))
    if ratios:
        scale = min(ratios) if policy == "not_larger" else max(ratios)
        for axis in axes:
            sizes[axis] = floor(scale * sizes[axis] + Fraction(1, 2))  # type: ignore[operator]
            scales[axis] = float(scale)
    return _Target(tuple(sizes), tuple(scales))


def _of_scales(ctx: Context, cropped: bool) -> _Target:
    """Each size is rounded down. cropped: of the part that a region of interest leaves."""
    axes, scales = _axes(ctx), _scales(ctx, 2)
    if not cropped:
        return _scaled(ctx, ctx.x(), axes, scales)
    roi = ctx.const(1)
    if roi is None:
        raise ctx.unsupported("scales of a region of interest that is not constant; sizes are")
    if roi.size != 2 * len(axes):
        raise ctx.malformed(f"{roi.size} numbers for regions of {len(axes)} axes")
    starts, ends = roi.reshape(2, -1).astype(np.float64)
    return _scaled(ctx, ctx.x(), axes, scales, tuple(map(float, ends - starts)))


def _scaled(
    ctx: Context,
    x: Value,
    axes: tuple[int, ...],
    given: tuple[float, ...],
    parts: tuple[float, ...] | None = None,
) -> _Target:
    if len(given) != len(axes) or not all(0 < scale < 2**31 for scale in given):
        raise ctx.malformed(f"scales {list(given)} for {len(axes)} axes")
    sizes = list(tensor_type(x).shape)
    scales = [1.0] * len(sizes)
    for i, (axis, scale) in enumerate(zip(axes, given, strict=True)):
        scales[axis] = scale
        part = 1.0 if parts is None else parts[i]
        sizes[axis] = _scaled_dim(ctx, sizes[axis], scale * part)
    return _Target(tuple(sizes), tuple(scales))


def _scaled_dim(ctx: Context, dim: DimLike, scale: float) -> DimLike:
    if scale < 0:
        raise ctx.malformed(f"{dim} elements scaled by {scale}")
    if isinstance(dim, Dim):
        p, q = ratio(scale).as_integer_ratio()
        if q > _MAX_DENOMINATOR:
            raise ctx.unsupported(f"dynamic dim {dim} scaled by {scale}")
        return floordiv(dim * p, q)
    return int(np.float32(dim) * np.float32(scale))


# -- building -------------------------------------------------------------------------------------


def _emit(ctx: Context, x: Value, target: _Target, coordinate: str, how: Filter) -> Value:
    if target.sizes == tensor_type(x).shape and all(scale in (0, 1) for scale in target.scales):
        return x
    found: Value = ctx.b.resize(
        x,
        sizes=target.sizes,
        scales=target.scales,
        mode=how.mode,
        coordinate=coordinate,
        nearest=how.nearest,
        cubic_a=how.cubic_a,
        exclude_outside=how.exclude_outside,
    )
    return found


def _resampled(ctx: Context, target: _Target, coordinate: str, how: Filter) -> Value:
    cropped = coordinate == "tf_crop_and_resize"
    extrapolated = ctx.real("extrapolation_value", 0.0)
    named = _axes(ctx)
    roi = _regions(ctx, len(named)) if cropped else []
    axes = []
    for position, (old, new) in enumerate(zip(ctx.shape(), target.sizes, strict=True)):
        own = roi[named.index(position)] if cropped and position in named else None
        same = own is None and old == new and target.scales[position] in (0, 1)
        if old == 0:
            raise ctx.malformed("resizes an empty tensor")
        if not same:
            scale = target.scales[position]
            axes.append(Axis(position, old, new, scale, coordinate, own, extrapolated))
    return resample(ctx, ctx.x(), axes, how)


def _regions(ctx: Context, count: int) -> list[tuple[Value, Value]]:
    """Start and end on each axis, in parts of its length."""
    if not ctx.has(1) or ctx.shape(1) != (2 * count,):
        raise ctx.malformed(f"there is no region of interest for {count} axes")
    roi = ctx.cast(ctx.x(1), F64)
    found = [
        ctx.as_scalar(ctx.b.slice(roi, starts=(i,), sizes=(1,), steps=(1,)))
        for i in range(2 * count)
    ]
    return list(zip(found[:count], found[count:], strict=True))


RULES: dict[str, tuple[Rule, ...]] = {
    "Resize": (Rule(_resize, since=10, ignores=("extrapolation_value",)),),
    "Upsample": (Rule(_upsample),),
}
