"""Resampling along one axis by gathers and weights: regions of interest, and filters that widen.

What needs neither is the graph op `resize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfc.compiler.frontends.onnx.context import Context
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv, maximum
from tfc.ir.ops.common import compute_dtype
from tfc.ir.ops.resize import coordinate_line, ratio
from tfc.ir.types import F64, I64

# How far a filter reaches on both sides, in elements of the operand or wider ones.
REACH = {"linear": 1, "cubic": 2}


@dataclass(frozen=True)
class Filter:
    """How elements are combined. nearest: a rounding. widened: over more elements to shrink."""

    mode: str
    nearest: str
    cubic_a: float
    exclude_outside: bool
    widened: bool


@dataclass(frozen=True)
class Axis:
    """One axis from `old` to `new` elements. scale: 0 for their ratio.

    roi: the f64 scalars between which the elements lie, in parts of the axis; outside of the
    axis the result is `extrapolated`.
    """

    position: int
    old: DimLike
    new: DimLike
    scale: float
    coordinate: str
    roi: tuple[Value, Value] | None = None
    extrapolated: float = 0.0


def resample(ctx: Context, x: Value, axes: Sequence[Axis], how: Filter) -> Value:
    """Resize along each axis in turn. Integers are computed in f64 and truncated."""
    dtype = tensor_type(x).dtype
    wide = compute_dtype(dtype) if dtype.is_float else F64
    y = x if how.mode == "nearest" else ctx.cast(x, wide)
    for axis in axes:
        y = _along(ctx, y, axis, how)
    return ctx.cast(y, dtype)


def _along(ctx: Context, x: Value, axis: Axis, how: Filter) -> Value:
    b, rank = ctx.b, tensor_type(x).rank
    first, part, outside = _places(ctx, axis)
    if how.mode == "nearest":
        y = b.gather(x, _clipped(ctx, _rounded(ctx, first, part, how.nearest), axis.old),
                     axis=axis.position)  # fmt: skip
    else:
        shape = (axis.new, *(1,) * (rank - axis.position))
        taps = _taps(axis, how)
        offsets = b.add(b.iota(shape=(1, taps), axis=1, dtype=I64), _number(ctx, 1 - taps // 2))
        places = b.add(ctx.reshape(first, (axis.new, 1)), offsets)
        weights = _weights(ctx, axis, how, ctx.reshape(part, (axis.new, 1)), offsets, places)
        weights = ctx.cast(weights, tensor_type(x).dtype)
        taken = b.gather(x, _clipped(ctx, places, axis.old), axis=axis.position)
        lined_up = ctx.reshape(weights, (axis.new, taps, *shape[2:]))
        y = b.reduce_sum(b.mul(taken, lined_up), axes=(axis.position + 1,), keepdims=False)
    if outside is None:
        same: Value = y
        return same
    lined_up = ctx.reshape(outside, (axis.new, *(1,) * (rank - 1 - axis.position)))
    found: Value = b.select(lined_up, ctx.scalar(axis.extrapolated, y), y)
    return found


def _number(ctx: Context, dim: DimLike) -> Value:
    return ctx.numbers((dim,), rank=0)


def _places(ctx: Context, axis: Axis) -> tuple[Value, Value, Value | None]:
    """The element at or before each place, how far behind it the place is in f64, and whether
    that is outside of the axis.
    """
    b = ctx.b
    i = b.iota(shape=(axis.new,), axis=0, dtype=I64)
    if axis.roi is None:
        line = coordinate_line(axis.coordinate, axis.old, axis.new, axis.scale)
        a, offset, step = (_number(ctx, dim) for dim in (line.a, line.b, line.c))
        total = b.add(b.mul(i, a), offset)
        rest = b.mod(total, step)
        part = b.div(ctx.cast(rest, F64), ctx.cast(step, F64))
        return b.div(b.sub(total, rest), step), part, None
    start, end = axis.roi
    last = ctx.cast(_number(ctx, axis.old - 1), F64)
    length = b.mul(b.sub(end, start), last)
    steps = ctx.cast(_number(ctx, maximum(axis.new - 1, 1)), F64)
    several = b.add(b.mul(start, last), b.div(b.mul(ctx.cast(i, F64), length), steps))
    # A single element lies in the middle.
    single = b.mul(b.mul(b.add(start, end), last), b.constant(0.5, F64))
    one = b.eq(_number(ctx, axis.new), b.constant(1, I64))
    x = b.select(one, single, several)
    outside = b.op("or", b.lt(x, b.constant(0.0, F64)), b.gt(x, last)).result
    floor = b.floor(x)
    return ctx.cast(floor, I64), b.sub(x, floor), outside


def _rounded(ctx: Context, first: Value, part: Value, how: str) -> Value:
    b, half = ctx.b, ctx.b.constant(0.5, F64)
    match how:
        case "floor":
            return first
        case "ceil":
            up = b.gt(part, b.constant(0.0, F64))
        case "round_prefer_floor":
            up = b.gt(part, half)
        case _:
            up = b.ge(part, half)
    found: Value = b.add(first, ctx.cast(up, I64))
    return found


def _clipped(ctx: Context, places: Value, old: DimLike) -> Value:
    low = ctx.b.max(places, ctx.b.constant(0, I64))
    found: Value = ctx.b.min(low, _number(ctx, old - 1))
    return found


def _taps(axis: Axis, how: Filter) -> DimLike:
    """How many elements are combined: an even number."""
    reach = REACH[how.mode]
    if not how.widened:
        return 2 * reach
    if axis.scale:
        p, q = ratio(axis.scale).as_integer_ratio()
        return 2 * max(reach, ceildiv(reach * q, p))
    return 2 * maximum(reach, ceildiv(reach * axis.old, maximum(axis.new, 1)))


def _weights(
    ctx: Context, axis: Axis, how: Filter, part: Value, offsets: Value, places: Value
) -> Value:
    b, one = ctx.b, ctx.b.constant(1.0, F64)
    distance = b.abs(b.sub(ctx.cast(offsets, F64), part))
    if how.widened:
        scale = b.constant(axis.scale, F64)
        if not axis.scale:
            new, old = (ctx.cast(_number(ctx, dim), F64) for dim in (axis.new, axis.old))
            scale = b.div(new, old)
        distance = b.mul(distance, b.min(scale, one))
    if how.mode == "linear":
        weights = b.max(b.sub(one, distance), b.constant(0.0, F64))
    else:
        weights = _cubic(ctx, distance, how.cubic_a)
    if how.exclude_outside:
        inside = b.op(
            "and", b.ge(places, b.constant(0, I64)), b.lt(places, _number(ctx, axis.old))
        ).result
        weights = b.select(inside, weights, b.constant(0.0, F64))
    if how.widened or how.exclude_outside:
        weights = b.div(weights, b.reduce_sum(weights, axes=(1,), keepdims=True))
    found: Value = weights
    return found


def _cubic(ctx: Context, distance: Value, a: float) -> Value:
    """Keys' convolution kernel."""
    b = ctx.b

    def polynomial(*coefficients: float) -> Value:
        total = b.constant(coefficients[0], F64)
        for coefficient in coefficients[1:]:
            total = b.add(b.mul(total, distance), b.constant(coefficient, F64))
        return total

    near = polynomial(a + 2, -(a + 3), 0.0, 1.0)
    far = polynomial(a, -5 * a, 8 * a, -4 * a)
    beyond = b.select(b.lt(distance, b.constant(2.0, F64)), far, b.constant(0.0, F64))
    found: Value = b.select(b.le(distance, b.constant(1.0, F64)), near, beyond)
    return found
