"""Resize and Upsample: sizes and scales of every opset in the form of the graph op `resize`."""

from __future__ import annotations

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, floordiv

_MODES = ("nearest", "linear", "cubic")


def _resize(ctx: Context) -> Results:
    mode = ctx.string("mode", "nearest")
    if mode not in _MODES:
        raise ctx.malformed(f"unknown mode {mode!r}")
    if ctx.opset < 11:
        return _resample(ctx, mode, "asymmetric", "floor", _scales(ctx, 1))
    coordinate = ctx.string("coordinate_transformation_mode", "half_pixel")
    if coordinate == "tf_crop_and_resize":
        raise ctx.unsupported("coordinate_transformation_mode tf_crop_and_resize")
    nearest = ctx.string("nearest_mode", "round_prefer_floor")
    if ctx.has(3):
        return _to_sizes(ctx, mode, coordinate, nearest)
    return _resample(ctx, mode, coordinate, nearest, _scales(ctx, 2))


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
    return _emit(ctx, mode, coordinate, nearest, tuple(sizes), (0.0,) * len(sizes))


def _resample(
    ctx: Context, mode: str, coordinate: str, nearest: str, given: tuple[float, ...]
) -> Value:
    """Resize by scales: each size is rounded down."""
    axes = _axes(ctx)
    ctx.string("keep_aspect_ratio_policy", "stretch")
    if len(given) != len(axes) or not all(0 < scale < 2**31 for scale in given):
        raise ctx.malformed(f"scales {list(given)} for {len(axes)} axes")
    sizes = list(ctx.shape())
    scales = [1.0] * len(sizes)
    for axis, scale in zip(axes, given, strict=True):
        scales[axis] = scale
        sizes[axis] = _scaled(ctx, sizes[axis], scale)
    return _emit(ctx, mode, coordinate, nearest, tuple(sizes), tuple(scales))


def _scaled(ctx: Context, dim: DimLike, scale: float) -> DimLike:
    if isinstance(dim, Dim):
        if scale >= 1 and scale == int(scale):
            return dim * int(scale)
        if scale < 1 and 1 / scale == int(1 / scale):
            return floordiv(dim, int(1 / scale))
        raise ctx.unsupported(f"dynamic dim {dim} scaled by {scale}")
    return int(dim * scale)


def _emit(
    ctx: Context,
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
    if sizes == ctx.shape() and all(scale in (0, 1) for scale in scales):
        return ctx.x()
    found: Value = ctx.b.resize(
        ctx.x(),
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
