"""Operators that read images between pixels: grid sampling, regions, deformable convolution."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from tfc.compiler.frontends.onnx.context import Context, Results, Rule
from tfc.compiler.frontends.onnx.movement import part
from tfc.compiler.frontends.onnx.window import read_window
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, maximum, product
from tfc.ir.types import F32, F64, I64, DType

# One axis of the places to read: (index as a whole number in floats, its weight).
Tap = tuple[Value, "Value | None"]
_CUBIC = -0.75


def _dim(ctx: Context, dim: DimLike, like: Value) -> Value:
    """A dim as a number of the element type of `like`."""
    return ctx.cast(ctx.numbers((dim,), rank=0), tensor_type(like).dtype)


def _coordinates(ctx: Context, x: Value) -> Value:
    """Coordinates of narrow types as f32."""
    return x if tensor_type(x).dtype == F64 else ctx.cast(x, F32)


def _read(
    ctx: Context,
    x: Value,
    taps: Sequence[Sequence[Tap]],
    inside: Callable[[int, Value], tuple[Value, Value | None]],
) -> Value:
    """Sum over all pairings of taps: x [n, c, ...] at places [n, p], giving [n, c, p].

    inside: for an axis and an index, the index to read and, if wanted, where it counts: elsewhere
    what is read is 0, whatever stands at the index.
    """
    n, c, *spatial = tensor_type(x).shape
    flat = ctx.reshape(x, (n, c, product(spatial)))
    total: Value | None = None
    for pairing in itertools.product(*taps):
        at: Value | None = None
        weight: Value | None = None
        valid: Value | None = None
        for axis, (index, share) in enumerate(pairing):
            place, counts = inside(axis, index)
            place = ctx.cast(place, I64)
            at = place if at is None else _next(ctx, at, spatial[axis], place)
            weight = share if weight is None or share is None else ctx.b.mul(weight, share)
            valid = _both(ctx, valid, counts)
        assert at is not None
        part = _picked(ctx, flat, at, c)
        across = (n, 1, tensor_type(at).shape[1])
        if weight is not None:
            part = ctx.b.mul(part, ctx.reshape(weight, across))
        if valid is not None:
            part = ctx.b.select(ctx.reshape(valid, across), part, ctx.scalar(0, part))
        total = part if total is None else ctx.b.add(total, part)
    assert total is not None
    return total


def _both(ctx: Context, a: Value | None, b: Value | None) -> Value | None:
    if a is None or b is None:
        return b if a is None else a
    return ctx.b.op("and", a, b).result


def _next(ctx: Context, at: Value, dim: DimLike, place: Value) -> Value:
    found: Value = ctx.b.add(ctx.b.mul(at, ctx.numbers((dim,), rank=0)), place)
    return found


def _picked(ctx: Context, flat: Value, at: Value, channels: DimLike) -> Value:
    n, count = tensor_type(at).shape
    spread = ctx.b.broadcast(ctx.reshape(at, (n, 1, count)), shape=(n, channels, count))
    found: Value = ctx.b.gather_elements(flat, spread, axis=2)
    return found


def _taps(ctx: Context, x: Value, mode: str) -> list[Tap]:
    """The pixels along one axis that a coordinate reads, and by how much."""
    if mode == "nearest":
        return [(ctx.b.round(x), None)]
    low = ctx.b.floor(x)
    t = ctx.b.sub(x, low)
    one = ctx.scalar(1, x)
    if mode == "linear":
        return [(low, ctx.b.sub(one, t)), (ctx.b.add(low, one), t)]
    away = [ctx.b.add(t, one), t, ctx.b.sub(one, t), ctx.b.sub(ctx.scalar(2, x), t)]
    far = [True, False, False, True]
    return [
        (ctx.b.add(low, ctx.scalar(offset, x)), _cubic_weight(ctx, distance, is_far))
        for offset, distance, is_far in zip((-1, 0, 1, 2), away, far, strict=True)
    ]


def _weighted(ctx: Context, taps: Sequence[Tap], dtype: DType) -> list[Tap]:
    """Taps with weights of the image's element type; coordinates may be wider."""
    return [(index, None if w is None else ctx.cast(w, dtype)) for index, w in taps]


def _cubic_weight(ctx: Context, x: Value, far: bool) -> Value:
    """Keys' cubic convolution (IEEE ASSP 29, 1981) at distance x: below 1, or from 1 to 2."""
    a = _CUBIC
    terms = (a, -5 * a, 8 * a, -4 * a) if far else (a + 2, -(a + 3), 0.0, 1.0)
    total = ctx.scalar(terms[0], x)
    for term in terms[1:]:
        total = ctx.b.add(ctx.b.mul(total, x), ctx.scalar(term, x))
    return total


# -- grid sample ----------------------------------------------------------------------------------

_MODES = {"bilinear": "linear", "bicubic": "cubic"}


def _grid_sample(ctx: Context) -> Results:
    x, grid = ctx.x(0), ctx.x(1)
    mode = ctx.string("mode", "linear")
    mode = _MODES.get(mode, mode)
    padding = ctx.string("padding_mode", "zeros")
    align = ctx.flag("align_corners")
    n, c, *spatial = ctx.shape(0)
    if mode not in ("nearest", "linear", "cubic") or padding not in _PADDINGS:
        raise ctx.malformed(f"mode {mode!r}, padding_mode {padding!r}")
    places = ctx.shape(1)[1:-1]
    ctx.equate(ctx.shape(1)[0], n)
    ctx.equate(ctx.shape(1)[-1], len(spatial))
    if ctx.shape(1)[-1] != len(spatial):
        raise ctx.malformed(f"{ctx.shape(1)[-1]} coordinates for {len(spatial)} axes")
    rows = ctx.reshape(_coordinates(ctx, grid), (n, product(places), len(spatial)))
    dtype = ctx.type(0).dtype
    taps = []
    for axis, dim in enumerate(spatial):
        # The last axis comes first.
        own = ctx.b.slice(
            rows,
            starts=(0, 0, len(spatial) - 1 - axis),
            sizes=(n, product(places), 1),
            steps=(1, 1, 1),
        )
        at = _denormalised(ctx, ctx.reshape(own, (n, product(places))), dim, align)
        if mode == "nearest":
            at = ctx.b.round(at)
        at = _PADDINGS[padding](ctx, at, dim, align)[0] if padding != "zeros" else at
        taps.append(_weighted(ctx, _taps(ctx, at, mode), dtype))

    def inside(axis: int, index: Value) -> tuple[Value, Value | None]:
        found, counts = _PADDINGS[padding](ctx, index, spatial[axis], align)
        return _clamped(ctx, found, spatial[axis]), counts

    return ctx.reshape(_read(ctx, x, taps, inside), (n, c, *places))


def _denormalised(ctx: Context, x: Value, dim: DimLike, align: bool) -> Value:
    """From -1 .. 1 to pixels: the centres of the corner pixels, or their outer edges."""
    one, half = ctx.scalar(1, x), ctx.scalar(0.5, x)
    moved = ctx.b.add(x, one)
    if align:
        return ctx.b.mul(ctx.b.mul(moved, half), _dim(ctx, dim - 1, x))  # type: ignore[no-any-return]
    spread = ctx.b.mul(moved, _dim(ctx, dim, x))
    return ctx.b.mul(ctx.b.sub(spread, one), half)  # type: ignore[no-any-return]


def _clamped(ctx: Context, x: Value, dim: DimLike) -> Value:
    found: Value = ctx.b.max(ctx.b.min(x, _dim(ctx, dim - 1, x)), ctx.scalar(0, x))
    return found


def _zeros(ctx: Context, x: Value, dim: DimLike, align: bool) -> tuple[Value, Value | None]:
    low, high = ctx.b.ge(x, ctx.scalar(0, x)), ctx.b.lt(x, _dim(ctx, dim, x))
    return x, ctx.b.op("and", low, high).result


def _edges(ctx: Context, x: Value, dim: DimLike, align: bool) -> tuple[Value, Value, Value]:
    """Where an axis begins and how long it is, at the corner pixels' centres or outer edges; and
    whether x is between."""
    first = ctx.scalar(0.0 if align else -0.5, x)
    span = _dim(ctx, dim - 1 if align else dim, x)
    low, high = ctx.b.ge(x, first), ctx.b.le(x, ctx.b.add(first, span))
    return first, span, ctx.b.op("and", low, high).result


def _border(ctx: Context, x: Value, dim: DimLike, align: bool) -> tuple[Value, Value | None]:
    _, _, within = _edges(ctx, x, dim, align)
    return ctx.b.select(within, x, _clamped(ctx, x, dim)), None


def _reflection(ctx: Context, x: Value, dim: DimLike, align: bool) -> tuple[Value, Value | None]:
    first, span, within = _edges(ctx, x, dim, align)
    # One pixel alone reflects to itself.
    period = ctx.b.max(ctx.b.add(span, span), ctx.scalar(1, x))
    left = ctx.b.mod(ctx.b.sub(x, first), period)
    folded = ctx.b.add(ctx.b.min(left, ctx.b.sub(period, left)), first)
    return ctx.b.select(within, x, folded), None


_PADDINGS = {"zeros": _zeros, "border": _border, "reflection": _reflection}


def _affine_grid(ctx: Context) -> Results:
    """The coordinates of each pixel, last axis first and a 1 behind, through an affine map."""
    theta, size = ctx.x(0), ctx.dims(1, "size")
    align = ctx.flag("align_corners")
    n, spatial = ctx.shape(0)[0], size[2:]
    count, dtype = len(spatial), ctx.type(0).dtype
    for dim, wanted in zip(ctx.shape(0)[1:], (count, count + 1), strict=False):
        ctx.equate(dim, wanted)
    if ctx.shape(0)[1:] != (count, count + 1):
        raise ctx.malformed(f"{ctx.type(0)} is no map of {count} axes")
    whole = (*spatial, 1)
    columns = []
    for axis in reversed(range(count)):
        shape = tuple(dim if i == axis else 1 for i, dim in enumerate(whole))
        at = ctx.b.iota(shape=shape, axis=axis, dtype=dtype)
        columns.append(ctx.b.broadcast(_normalised(ctx, at, spatial[axis], align), shape=whole))
    points = ctx.b.concat(*columns, ctx.b.full(whole, 1, dtype), axis=count)
    rows = ctx.reshape(points, (product(spatial), count + 1))
    mapped = ctx.b.matmul(rows, ctx.b.transpose(theta, perm=(0, 2, 1)))
    return ctx.reshape(mapped, (n, *spatial, count))


def _normalised(ctx: Context, x: Value, dim: DimLike, align: bool) -> Value:
    """From pixels to -1 .. 1: the centres of the corner pixels, or their outer edges."""
    one, two = ctx.scalar(1, x), ctx.scalar(2, x)
    if align:
        spread = ctx.b.div(ctx.b.mul(x, two), _dim(ctx, maximum(dim - 1, 1), x))
    else:
        doubled = ctx.b.add(ctx.b.mul(x, two), one)
        spread = ctx.b.div(doubled, _dim(ctx, dim, x))
    return ctx.b.sub(spread, one)  # type: ignore[no-any-return]


# -- regions --------------------------------------------------------------------------------------


def _roi_align(ctx: Context) -> Results:
    x, rois = ctx.x(0), _coordinates(ctx, ctx.x(1))
    mode = ctx.string("mode", "avg")
    half = ctx.string("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    half = half and ctx.opset >= 16
    height, width = ctx.integer("output_height", 1), ctx.integer("output_width", 1)
    samples, scale = ctx.integer("sampling_ratio", 0), ctx.real("spatial_scale", 1.0)
    if mode not in ("avg", "max"):
        raise ctx.malformed(f"unknown mode {mode!r}")
    if samples < 1:
        raise ctx.unsupported("sampling_ratio 0, where regions decide how many samples they have")
    n, c = ctx.shape(1)[0], ctx.shape(0)[1]
    columns = []
    for k in range(4):
        column = ctx.b.slice(rois, starts=(0, k), sizes=(n, 1), steps=(1, 1))
        moved = ctx.b.mul(column, ctx.scalar(scale, column))
        columns.append(ctx.b.sub(moved, ctx.scalar(0.5 if half else 0.0, column)))
    coordinates = [
        _bins(ctx, columns[first], columns[first + 2], count, samples, half)
        for first, count in ((1, height), (0, width))
    ]
    grid = (n, height * samples, width * samples)
    flat = (n, grid[1] * grid[2])
    rows = ctx.b.broadcast(ctx.reshape(coordinates[0], (n, grid[1], 1)), shape=grid)
    cells = ctx.b.broadcast(ctx.reshape(coordinates[1], (n, 1, grid[2])), shape=grid)
    images = ctx.b.gather(x, ctx.x(2), axis=0)
    parts = _region_parts(ctx, images, [ctx.reshape(v, flat) for v in (rows, cells)])
    shape = (n, c, height, samples, width, samples)
    if mode == "avg":
        total = parts[0]
        for part in parts[1:]:
            total = ctx.b.add(total, part)
        pooled: Value = ctx.b.reduce_mean(ctx.reshape(total, shape), axes=(3, 5), keepdims=False)
        return pooled
    best = parts[0]
    for part in parts[1:]:
        best = ctx.b.max(best, part)
    pooled = ctx.b.reduce_max(ctx.reshape(best, shape), axes=(3, 5), keepdims=False)
    return pooled


def _bins(ctx: Context, start: Value, end: Value, count: int, samples: int, half: bool) -> Value:
    """The coordinates [n, count * samples] of the samples along one axis of each region."""
    extent = ctx.b.sub(end, start)
    if not half:
        extent = ctx.b.max(extent, ctx.scalar(1, extent))
    steps = ctx.b.constant(
        [[(k + 0.5) / samples for k in range(count * samples)]], tensor_type(start).dtype
    )
    size = ctx.b.div(extent, ctx.scalar(count, extent))
    found: Value = ctx.b.add(start, ctx.b.mul(steps, size))
    return found


def _region_parts(ctx: Context, x: Value, at: Sequence[Value]) -> list[Value]:
    """The weighted pixels around each place; places more than one pixel outside count nothing."""
    spatial = tensor_type(x).shape[2:]
    dtype = tensor_type(x).dtype
    counts: Value | None = None
    taps = []
    for v, dim in zip(at, spatial, strict=True):
        own = ctx.b.op("and", ctx.b.ge(v, ctx.scalar(-1, v)), ctx.b.le(v, _dim(ctx, dim, v))).result
        counts = own if counts is None else ctx.b.op("and", counts, own).result
        taps.append(_taps(ctx, _clamped(ctx, v, dim), "linear"))
    parts = []
    for pairing in itertools.product(*taps):
        chosen = []
        for index, weight in pairing:
            assert weight is not None
            chosen.append([(index, ctx.cast(weight, dtype))])
        parts.append(
            _read(ctx, x, chosen, lambda axis, i: (_clamped(ctx, i, spatial[axis]), counts))
        )
    return parts


def _max_roi_pool(ctx: Context) -> Results:
    """Regions are of whole pixels, ends included; a bin takes in all pixels that it touches."""
    x, rois = ctx.x(0), _coordinates(ctx, ctx.x(1))
    counts, scale = ctx.integers("pooled_shape"), ctx.real("spatial_scale", 1.0)
    if counts is None or len(counts) != 2 or min(counts) < 1:
        raise ctx.malformed("attribute 'pooled_shape' is no two sizes")
    shaped = (ctx.type(0).rank, ctx.type(1).rank) == (4, 2)
    if shaped and isinstance(ctx.shape(1)[1], int):
        shaped = ctx.shape(1)[1] == 5
    if not shaped or not ctx.type(0).dtype.is_float:
        raise ctx.malformed(f"takes images and rows of 5, not {ctx.type(0)} and {ctx.type(1)}")
    ctx.equate(ctx.shape(1)[1], 5)
    rois = ctx.fit_axis(rois, 1, 5)
    n, shape = ctx.shape(1)[0], ctx.shape(0)
    columns = [ctx.reshape(part(ctx, rois, {1: (k, 1, 1)}), (n,)) for k in range(5)]
    ends = [_rounded(ctx, ctx.b.mul(v, ctx.scalar(scale, v))) for v in columns[1:]]
    across = _pixels_of_bins(ctx, ends[0], ends[2], counts[1], shape[3])
    down = _pixels_of_bins(ctx, ends[1], ends[3], counts[0], shape[2])
    images = ctx.b.gather(x, ctx.cast(columns[0], I64), axis=0)
    lowest = ctx.b.constant(-np.inf, tensor_type(x).dtype)
    # [n, c, h, w] becomes [n, c, h, bins], and that [n, c, bins, bins].
    spread = ctx.reshape(images, (n, shape[1], shape[2], 1, shape[3]))
    mask = ctx.reshape(across, (n, 1, 1, counts[1], shape[3]))
    rows = ctx.b.reduce_max(ctx.b.select(mask, spread, lowest), axes=(4,), keepdims=False)
    spread = ctx.reshape(rows, (n, shape[1], 1, shape[2], counts[1]))
    mask = ctx.reshape(down, (n, 1, counts[0], shape[2], 1))
    pooled = ctx.b.reduce_max(ctx.b.select(mask, spread, lowest), axes=(3,), keepdims=False)
    filled = ctx.b.op(
        "and",
        ctx.reshape(ctx.b.reduce_any(across, axes=(2,), keepdims=False), (n, 1, 1, counts[1])),
        ctx.reshape(ctx.b.reduce_any(down, axes=(2,), keepdims=False), (n, 1, counts[0], 1)),
    ).result
    found: Value = ctx.b.select(filled, pooled, ctx.scalar(0, pooled))
    return found


def _rounded(ctx: Context, x: Value) -> Value:
    """Half away from zero."""
    whole = ctx.b.floor(ctx.b.add(ctx.b.abs(x), ctx.scalar(0.5, x)))
    found: Value = ctx.b.mul(ctx.b.sign(x), whole)
    return found


def _pixels_of_bins(ctx: Context, start: Value, end: Value, count: int, dim: DimLike) -> Value:
    """Which pixels of an axis lie in which bins of each region: [regions, bins, pixels]."""
    b, dtype = ctx.b, tensor_type(start).dtype
    extent = b.max(b.add(b.sub(end, start), ctx.scalar(1, end)), ctx.scalar(1, end))
    size = ctx.reshape(b.div(extent, ctx.scalar(count, extent)), (*tensor_type(end).shape, 1))
    number = b.iota(shape=(1, count), axis=1, dtype=dtype)
    origin = ctx.reshape(start, (*tensor_type(start).shape, 1))
    low = b.add(b.floor(b.mul(number, size)), origin)
    high = b.add(b.ceil(b.mul(b.add(number, ctx.scalar(1, number)), size)), origin)
    pixels = b.iota(shape=(1, 1, dim), axis=2, dtype=dtype)
    low, high = (ctx.reshape(v, (*tensor_type(v).shape, 1)) for v in (low, high))
    found: Value = b.op("and", b.ge(pixels, low), b.lt(pixels, high)).result
    return found


# -- deformable convolution -----------------------------------------------------------------------


def _deform_conv(ctx: Context) -> Results:
    """Read each tap of each window where its offset says, then one product with the weights."""
    x, w, offset = ctx.x(0), ctx.x(1), _coordinates(ctx, ctx.x(2))
    window = read_window(ctx, ctx.shape(1)[2:])
    groups, parts = ctx.integer("group", 1), ctx.integer("offset_group", 1)
    n, c, *spatial = ctx.shape(0)
    out, rank = ctx.shape(2)[2:], len(spatial)
    taps = 1
    for size in window.kernel:
        taps *= size
    if not isinstance(c, int) or window.pads is None or c % parts or c % groups:
        raise ctx.malformed(f"{c} channels in {parts} offset groups and {groups} groups")
    offsets = ctx.reshape(offset, (n * parts, taps, rank, product(out)))
    at = [
        _moved(ctx, offsets, axis, window.kernel, out, window.strides[axis],
               window.dilations[axis], window.pads[axis][0])
        for axis in range(rank)
    ]  # fmt: skip
    images = ctx.reshape(x, (n * parts, c // parts, *spatial))
    read = _read(
        ctx,
        images,
        [_weighted(ctx, _taps(ctx, v, "linear"), ctx.type(0).dtype) for v in at],
        lambda axis, i: (_clamped(ctx, i, spatial[axis]), _zeros(ctx, i, spatial[axis], True)[1]),
    )
    columns = ctx.reshape(read, (n * parts, c // parts, taps, product(out)))
    if ctx.has(4):
        columns = ctx.b.mul(columns, ctx.reshape(ctx.x(4), (n * parts, 1, taps, product(out))))
    results = ctx.shape(1)[0]
    if not isinstance(results, int) or results % groups:
        raise ctx.malformed(f"{results} results in {groups} groups")
    laid = ctx.reshape(columns, (n, groups, c // groups * taps, product(out)))
    weights = ctx.reshape(w, (1, groups, results // groups, c // groups * taps))
    y = ctx.reshape(ctx.b.matmul(weights, laid), (n, results, *out))
    if ctx.has(3):
        y = ctx.b.add(y, ctx.reshape(ctx.x(3), (1, results, *(1,) * rank)))
    return y


def _moved(
    ctx: Context,
    offsets: Value,
    axis: int,
    kernel: Sequence[int],
    out: Sequence[DimLike],
    stride: int,
    dilation: int,
    pad: int,
) -> Value:
    """The coordinates along one axis of every tap of every window: [n, taps * windows]."""
    n, taps, _, windows = tensor_type(offsets).shape
    own = ctx.b.slice(
        offsets, starts=(0, 0, axis, 0), sizes=(n, taps, 1, windows), steps=(1, 1, 1, 1)
    )
    dtype = tensor_type(offsets).dtype
    positions = list(itertools.product(*map(range, kernel)))
    inner = ctx.b.constant([[[t[axis] * dilation - pad] for t in positions]], dtype)
    shape = tuple(dim if i == axis else 1 for i, dim in enumerate(out))
    ramp = ctx.b.mul(ctx.b.iota(shape=shape, axis=axis, dtype=I64), ctx.b.constant(stride, I64))
    outer = ctx.reshape(ctx.b.broadcast(ramp, shape=tuple(out)), (1, 1, windows))
    base = ctx.b.add(inner, ctx.cast(outer, dtype))
    found = ctx.b.add(ctx.reshape(own, (n, taps, windows)), base)
    return ctx.reshape(found, (n, taps * windows))


RULES: dict[str, tuple[Rule, ...]] = {
    "AffineGrid": (Rule(_affine_grid),),
    "DeformConv": (Rule(_deform_conv),),
    "GridSample": (Rule(_grid_sample),),
    "MaxRoiPool": (Rule(_max_roi_pool),),
    "RoiAlign": (Rule(_roi_align),),
}
