"""Resize and Upsample: sizes and scales of every opset in the form of the graph op `resize`."""

from __future__ import annotations

import numpy as np

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, floordiv

_MODES = ("nearest", "linear", "cubic")


def _resize(ctx: Context) -> Results:
    mode = ctx.string("mode", "nearest")
    if mode not in _MODES:
        raise ctx.malformed(f"unknown mode {mode!r}")
    if ctx.opset < 11:
        return _resize_10(ctx, mode, _scales(ctx, 1))
    coordinate = ctx.string("coordinate_transformation_mode", "half_pixel")
    if coordinate == "tf_crop_and_resize":
        raise ctx.unsupported("coordinate_transformation_mode tf_crop_and_resize")
    nearest = ctx.string("nearest_mode", "round_prefer_floor")
    if ctx.has(3):
        return _to_sizes(ctx, mode, coordinate, nearest)
    return _resample(ctx, mode, coordinate, nearest, _scales(ctx, 2))


def _resize_10(ctx: Context, mode: str, scales: tuple[float, ...]) -> Value:
    """Opset 10 leaves open which pixel is nearest: in its tests it is the next one on axes that
    shrink, the one before on those that grow.
    """
    smaller = [min(scale, 1.0) for scale in scales]
    if mode != "nearest" or max(smaller) == min(smaller) == 1:
        return _resample(ctx, mode, "asymmetric", "floor", scales)
    shrunk = _resample(ctx, mode, "asymmetric", "ceil", tuple(smaller))
    larger = tuple(max(scale, 1.0) for scale in scales)
    return _resample(ctx, mode, "asymmetric", "floor", larger, shrunk)


def _upsample(ctx: Context) -> Results:
    mode = ctx.string("mode", "nearest")
    if mode == "bilinear":
        mode = "linear"
    scales = ctx.reals("scales") if ctx.opset < 9 else _scales(ctx, 1)
    if scales is None or mode not in _MODES:
        raise ctx.malformed(f"mode {mode!r}, scales {scales}")
    return _resample(ctx, mode, "asymmetric", "floor", scales)


def _scales(ctx: Context, position: int) -> tuple[float, ...]:
    found = ctx.const(position)
    if found is None:
        raise ctx.unsupported("scales that are not constant")
    return tuple(float(v) for v in found.reshape(-1))


def _axes(ctx: Context) -> tuple[int, ...]:
    rank = ctx.type().rank
    axes = ctx.integers("axes")
    return tuple(range(rank)) if axes is None else ctx.axes(axes, rank)


def _to_sizes(ctx: Context, mode: str, coordinate: str, nearest: str) -> Value:
    axes, given = _axes(ctx), ctx.dims(3, "sizes")
    if len(given) != len(axes):
        raise ctx.malformed(f"{len(given)} sizes for {len(axes)} axes")
    if ctx.string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ctx.unsupported("a keep_aspect_ratio_policy other than stretch")
    sizes = list(ctx.shape())
    for axis, size in zip(axes, given, strict=True):
        sizes[axis] = size
    return _emit(ctx, ctx.x(), mode, coordinate, nearest, tuple(sizes), (0.0,) * len(sizes))


def _resample(
    ctx: Context,
    mode: str,
    coordinate: str,
    nearest: str,
    given: tuple[float, ...],
    x: Value | None = None,
) -> Value:
    """Resize by scales: each size is rounded down. x: what is resized if not operand 0."""
    x = ctx.x() if x is None else x
    axes = _axes(ctx)
    ctx.string("keep_aspect_ratio_policy", "stretch")
    if len(given) != len(axes) or not all(0 < scale < 2**31 for scale in given):
        raise ctx.malformed(f"scales {list(given)} for {len(axes)} axes")
    sizes = list(tensor_type(x).shape)
    scales = [1.0] * len(sizes)
    for axis, scale in zip(axes, given, strict=True):
        scales[axis] = scale
        sizes[axis] = _scaled(ctx, sizes[axis], scale)
    return _emit(ctx, x, mode, coordinate, nearest, tuple(sizes), tuple(scales))


def _scaled(ctx: Context, dim: DimLike, scale: float) -> DimLike:
    if isinstance(dim, Dim):
        if scale >= 1 and scale == int(scale):
            return dim * int(scale)
        if scale < 1 and 1 / scale == int(1 / scale):
            return floordiv(dim, int(1 / scale))
        raise ctx.unsupported(f"dynamic dim {dim} scaled by {scale}")
    return int(np.float32(dim) * np.float32(scale))


def _emit(
    ctx: Context,
    x: Value,
    mode: str,
    coordinate: str,
    nearest: str,
    sizes: Shape,
    scales: tuple[float, ...],
) -> Value:
    antialias = ctx.flag("antialias")
    a, exclude = ctx.real("cubic_coeff_a", -0.75), ctx.flag("exclude_outside")
    if antialias and mode != "nearest":
        raise ctx.unsupported("antialias")
    if sizes == tensor_type(x).shape and all(scale in (0, 1) for scale in scales):
        return x
    found: Value = ctx.b.resize(
        x,
        sizes=sizes,
        scales=scales,
        mode=mode,
        coordinate=coordinate,
        nearest=nearest,
        cubic_a=a,
        exclude_outside=exclude,
    )
    return found


RULES: dict[str, tuple[Rule, ...]] = {
    "Resize": (Rule(_resize, since=10, ignores=("extrapolation_value",)),),
    "Upsample": (Rule(_upsample),),
}
