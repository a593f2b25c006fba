"""Resampling: `resize` with nearest, linear and cubic interpolation.

Coordinates are exact: with ratios of integers every one is a quotient (a * i + b) / c, so bodies
need no float for them, and where the scale is an integer the index is floordiv(i, scale).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor, gcd

import numpy as np

from tfc.ir.body import Expr, ExprBuilder, Index, Range
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, UndecidableError, floordiv, maximum, minimum
from tfc.ir.errors import UnsupportedError
from tfc.ir.opdef import Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, compute_dtype, fields_of, floats, integers, require_kind
from tfc.ir.ops.movement import Shape, dims_of, fixed, require_sizes
from tfc.ir.types import F32, F64, I64, DType, TensorType

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
MODES = ("nearest", "linear", "cubic")


@dataclass(frozen=True, slots=True)
class ResizeAttrs:
    """sizes: the result's dims. scales: result to operand along each axis, 0: the ratio of dims.

    mode: nearest, linear or cubic. coordinate: where a result's element lies in the operand.
    nearest: how nearest rounds. cubic_a: the cubic's coefficient. exclude_outside: cubic leaves
    out what lies outside, instead of repeating the edge.
    """

    sizes: Shape
    scales: tuple[float, ...]
    mode: str
    coordinate: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False


def _infer(types: Sequence[TensorType], attrs: ResizeAttrs) -> Sequence[TensorType]:
    (x,) = types
    require_kind(x, "fiub" if attrs.mode == "nearest" else "fiu")
    require(attrs.mode in MODES, f"unknown mode {attrs.mode!r}")
    require(attrs.coordinate in COORDINATES, f"unknown coordinate {attrs.coordinate!r}")
    require(attrs.nearest in ROUNDINGS, f"unknown nearest {attrs.nearest!r}")
    for name in ("sizes", "scales"):
        count = len(getattr(attrs, name))
        require(count == x.rank, f"{count} {name} for rank {x.rank}")
    require_sizes(attrs.sizes, "sizes")
    require(all(scale >= 0 for scale in attrs.scales), "a scale is negative")
    if not any(isinstance(size, int) and size == 0 for size in attrs.sizes):
        require(all(dim != 0 for dim in x.shape), "resizes an empty tensor")
    return (TensorType(x.dtype, attrs.sizes),)


def ratio(scale: float) -> Fraction:
    """The simplest fraction that is `scale` in f32, which is how models state it."""
    wanted = np.float32(scale)
    for limit in (1, 64, 4096):
        if scale < 1:
            inverse = Fraction(1 / scale).limit_denominator(limit)
            near = 1 / inverse
        else:
            near = Fraction(scale).limit_denominator(limit)
        if np.float32(float(near)) == wanted:
            return near
    return Fraction(float(wanted))


def _keeps(attrs: ResizeAttrs, shape: Shape, axis: int) -> bool:
    """Whether an axis stays as it is."""
    same = shape[axis] == attrs.sizes[axis] and attrs.scales[axis] in (0, 1)
    return same and attrs.coordinate != "tf_half_pixel_for_nn"


# -- reference ----------------------------------------------------------------------------------


def _coordinate(attrs: ResizeAttrs, i: int, old: int, new: int, scale: float) -> Fraction:
    """Where element i of `new` lies among the `old` elements of an axis; ONNX, Resize."""
    s = ratio(scale) if scale else Fraction(new, old)
    match attrs.coordinate:
        case "align_corners":
            # By the size that the scale gives, which is rounded down to `new`.
            width = s * old if scale else Fraction(new)
            return i * (old - 1) / (width - 1) if i else Fraction(0)
        case "asymmetric":
            return i / s
        case "tf_half_pixel_for_nn":
            return (i + Fraction(1, 2)) / s
        case "pytorch_half_pixel" if new == 1:
            return Fraction(0)
        case "half_pixel_symmetric":
            adjustment = new / (s * old)
            offset = Fraction(old, 2) * (1 - adjustment)
            return offset + (i + Fraction(1, 2)) / s - Fraction(1, 2)
        case _:
            return (i + Fraction(1, 2)) / s - Fraction(1, 2)


def _rounded(x: Fraction, how: str) -> int:
    match how:
        case "floor":
            return floor(x)
        case "ceil":
            return ceil(x)
        case "round_prefer_floor":
            return ceil(x - Fraction(1, 2))
        case _:
            return floor(x + Fraction(1, 2))


def _cubic_weight(a: float, distance: float) -> float:
    """Keys' convolution kernel."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def _axis_weights(attrs: ResizeAttrs, old: int, new: int, scale: float) -> tuple[Array, Array]:
    """For each element of the resized axis, what it reads and the weights of that."""
    places: list[list[int]] = []
    weights: list[list[float]] = []
    for i in range(new):
        x = _coordinate(attrs, i, old, new, scale)
        if attrs.mode == "nearest":
            places.append([_rounded(x, attrs.nearest)])
            weights.append([1.0])
            continue
        first = floor(x)
        reach = (0, 1) if attrs.mode == "linear" else (-1, 0, 1, 2)
        at = [first + r for r in reach]
        if attrs.mode == "linear":
            own = [1 - float(x - first), float(x - first)]
        else:
            own = [_cubic_weight(attrs.cubic_a, float(x - place)) for place in at]
            if attrs.exclude_outside:
                own = [w if 0 <= place < old else 0.0 for w, place in zip(own, at, strict=True)]
                own = [w / sum(own) for w in own]
        places.append(at)
        weights.append(own)
    taps = len(places[0]) if places else 1
    found = np.asarray(places, np.int64).reshape(new, taps)
    return np.clip(found, 0, max(old - 1, 0)), np.asarray(weights, np.float64).reshape(new, taps)


def _ref(attrs: ResizeAttrs, x: Array) -> Array:
    sizes = fixed(attrs.sizes)
    y = x if attrs.mode == "nearest" else x.astype(np.float64)
    if 0 in sizes:
        return np.zeros(sizes, x.dtype)
    for axis, (new, scale) in enumerate(zip(sizes, attrs.scales, strict=True)):
        if _keeps(attrs, x.shape, axis):
            continue
        places, weights = _axis_weights(attrs, x.shape[axis], new, scale)
        if attrs.mode == "nearest":
            y = np.take(y, places[:, 0], axis)
            continue
        lined_up = (new,) + (1,) * (y.ndim - axis - 1)
        terms = [
            np.take(y, places[:, tap], axis) * weights[:, tap].reshape(lined_up)
            for tap in range(places.shape[1])
        ]
        y = np.sum(terms, axis=0)
    if x.dtype.kind in "iu" and attrs.mode != "nearest":
        limits = np.iinfo(x.dtype)
        y = np.clip(np.trunc(y), limits.min, limits.max)
    return y.astype(x.dtype)


# -- body ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """The coordinate (a * i + b) / c of element i of an axis; c > 0."""

    a: DimLike
    b: DimLike
    c: DimLike

    def floor(self, i: DimLike) -> DimLike:
        return floordiv(self.a * i + self.b, self.c)


def _ratio_of_dims(old: DimLike, new: DimLike) -> tuple[DimLike, DimLike]:
    """new / old as a fraction, with one side 1 where the other is a multiple of it."""
    if isinstance(old, int) and isinstance(new, int):
        # Nothing is read for a result without elements.
        return (Fraction(new, old) if old and new else Fraction(1)).as_integer_ratio()
    if new == 0:
        return 1, 1
    times = floordiv(new, old)
    if times * old == new:
        return times, 1
    times = floordiv(old, new)
    return (1, times) if times * new == old else (new, old)


def coordinate_line(coordinate: str, old: DimLike, new: DimLike, scale: float) -> Line:
    """Where the elements of a resized axis lie in the operand. scale: 0 for the ratio of dims."""
    p, q = _ratio_of_dims(old, new) if scale == 0 else ratio(scale).as_integer_ratio()
    match coordinate:
        case "align_corners" if scale == 0:
            return Line(old - 1, 0, maximum(new - 1, 1))
        case "align_corners":
            return Line(q * (old - 1), 0, maximum(p * old - q, 1))
        case "asymmetric":
            return Line(q, 0, p)
        case "tf_half_pixel_for_nn":
            return Line(2 * q, q, 2 * p)
        case "half_pixel_symmetric":
            return Line(2 * q, q - p + p * old - q * new, 2 * p)
        case "pytorch_half_pixel":
            several = minimum(new - 1, 1)
            return Line(2 * q * several, (q - p) * several, 2 * p)
        case _:
            return Line(2 * q, q - p, 2 * p)


def _reduced(line: Line) -> Line:
    """The line with the same floors and the smallest numbers."""
    if not (isinstance(line.a, int) and isinstance(line.c, int)):
        return line
    common = gcd(line.a, line.c)
    return Line(line.a // common, floordiv(line.b, common), line.c // common)


def _nearest_line(line: Line, how: str) -> Line:
    """The line whose floor is `line` rounded."""
    a, b, c = line.a, line.b, line.c
    match how:
        case "floor":
            return _reduced(line)
        case "ceil":
            return _reduced(Line(a, b + c - 1, c))
        case "round_prefer_floor":
            return _reduced(Line(2 * a, 2 * b + c - 1, 2 * c))
        case _:
            return _reduced(Line(2 * a, 2 * b + c, 2 * c))


def _known(a: DimLike, b: DimLike) -> bool:
    """Whether a <= b for all values of the symbols."""
    try:
        return a <= b
    except UndecidableError:
        return False


def _clipped(i: DimLike, first: DimLike, last: DimLike, old: DimLike) -> DimLike:
    """The index i, which runs from `first` to `last`, moved to the axis' ends where beyond."""
    if not _known(0, first):
        i = maximum(i, 0)
    return i if _known(last, old - 1) else minimum(i, old - 1)


def _nearest_index(attrs: ResizeAttrs, shape: Shape, axis: int, i: DimLike) -> DimLike:
    old, new = shape[axis], attrs.sizes[axis]
    line = _nearest_line(
        coordinate_line(attrs.coordinate, old, new, attrs.scales[axis]), attrs.nearest
    )
    return _clipped(line.floor(i), line.floor(0), line.floor(new - 1), old)


def _taps(
    b: ExprBuilder, attrs: ResizeAttrs, shape: Shape, axis: int, i: DimLike, like: Expr
) -> list[tuple[DimLike, Expr, Range | None]]:
    """What element i of a resized axis reads of the operand, with the weights.

    Where a run finds that the axis stays as it is, which the range says, other elements than the
    one itself do not count: 0 times an infinity would be no number.
    """
    old, new = shape[axis], attrs.sizes[axis]
    line = coordinate_line(attrs.coordinate, old, new, attrs.scales[axis])
    whole = _reduced(line)
    first = whole.floor(i)
    # The reduced line has the same floors, but the distance to them is the full line's.
    rest = b.position(line.a * i + line.b - line.c * first, I64)
    one = b.const(1, like)
    t = b.div(b.cast(rest, like.dtype), b.position(line.c, like.dtype))
    if attrs.mode == "linear":
        reach, weights = (0, 1), [b.sub(one, t), t]
    else:
        reach = (-1, 0, 1, 2)  # type: ignore[assignment]
        weights = _cubic_weights(b, attrs.cubic_a, t, one)
        if attrs.exclude_outside:
            zero = b.const(0, like)
            weights = [
                b.guard((Range(first + r, 0, old),), w, zero)
                for r, w in zip(reach, weights, strict=True)
            ]
            total = weights[0]
            for w in weights[1:]:
                total = b.add(total, w)
            weights = [b.div(w, total) for w in weights]
    low, high = whole.floor(0), whole.floor(new - 1)
    may_keep = attrs.scales[axis] == 0 and attrs.coordinate != "tf_half_pixel_for_nn"
    open_size = not (isinstance(old, int) and isinstance(new, int))
    kept = Range(old - new, 0, 1) if may_keep and open_size else None
    return [
        (_clipped(first + r, low + r, high + r, old), w, kept if r else None)
        for r, w in zip(reach, weights, strict=True)
    ]


def _cubic_weights(b: ExprBuilder, a: float, t: Expr, one: Expr) -> list[Expr]:
    def polynomial(x: Expr, *coefficients: float) -> Expr:
        total = b.const(coefficients[0], x)
        for coefficient in coefficients[1:]:
            total = b.add(b.mul(total, x), b.const(coefficient, x))
        return total

    near = (a + 2, -(a + 3), 0, 1)
    far = (a, -5 * a, 8 * a, -4 * a)
    u = b.sub(one, t)
    return [
        polynomial(b.add(t, one), *far),
        polynomial(t, *near),
        polynomial(u, *near),
        polynomial(b.add(u, one), *far),
    ]


def _body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    (x,) = op.operands
    attrs = op.attrs
    type = tensor_type(x)
    shape = type.shape
    moved = [axis for axis in range(type.rank) if not _keeps(attrs, shape, axis)]
    at = dims_of([index[axis] for axis in moved])
    place = list(index)
    if attrs.mode == "nearest":
        for axis, i in zip(moved, at, strict=True):
            place[axis] = _nearest_index(attrs, shape, axis, i)
        return b.load(x, tuple(place))
    dtype = compute_dtype(type.dtype) if type.dtype.is_float else F64
    one = b.const(1, dtype)
    total: Expr | None = None
    axes = [_taps(b, attrs, shape, axis, i, one) for axis, i in zip(moved, at, strict=True)]
    for taps in itertools.product(*axes):
        weight: Expr | None = None
        for axis, (i, own, _) in zip(moved, taps, strict=True):
            place[axis] = i
            weight = own if weight is None else b.mul(weight, own)
        element = b.cast(b.load(x, tuple(place)), dtype)
        term = element if weight is None else b.mul(element, weight)
        for _, _, kept in taps:
            if kept is not None:
                term = b.guard((kept,), b.const(0, term), term)
        total = term if total is None else b.add(total, term)
    assert total is not None
    return b.cast(total, type.dtype)


# -- gradient -----------------------------------------------------------------------------------


def _matrix(
    b: GraphBuilder, attrs: ResizeAttrs, axis: int, old: DimLike, new: DimLike, dtype: DType
) -> Value:
    """The weights of the `old` elements of an axis in the `new` ones, as [new, old]."""
    found: Value
    if isinstance(old, int) and isinstance(new, int):
        matrix = np.zeros((old, new))
        places, weights = _axis_weights(attrs, old, new, attrs.scales[axis])
        np.add.at(matrix, (places, np.arange(new)[:, None]), weights)
        found = b.constant(matrix.T, dtype)
        return found
    if attrs.coordinate == "tf_half_pixel_for_nn":
        raise UnsupportedError(f"gradient of a tf_half_pixel_for_nn resize from {old} to {new}")
    row = b.iota(shape=(old, 1), axis=0, dtype=I64)
    column = b.iota(shape=(1, old), axis=1, dtype=I64)
    identity = b.cast(b.eq(row, column), dtype=dtype)
    one = replace(attrs, sizes=(new, old), scales=(attrs.scales[axis], 1.0))
    found = b.resize(identity, **fields_of(one))
    return found


def _grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """The operation is linear along each axis: multiply by the transposed matrices."""
    (x,) = op.operands
    attrs = op.attrs
    type = tensor_type(x)
    (g,) = gs
    for axis, (old, new) in enumerate(zip(type.shape, attrs.sizes, strict=True)):
        if _keeps(attrs, type.shape, axis):
            continue
        last = type.rank - 1
        perm = tuple(last if i == axis else axis if i == last else i for i in range(type.rank))
        # Rows of the other axes times the matrix, with the axis swapped to the end and back.
        g = b.matmul(b.transpose(g, perm=perm), _matrix(b, attrs, axis, old, new, type.dtype))
        g = b.transpose(g, perm=perm)
    return [g]


# -- samples ------------------------------------------------------------------------------------


def _samples() -> Sequence[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]] = [
        ((1, 2, 3, 4), (1, 2, 6, 8), (1, 1, 2, 2)),
        ((1, 1, 4, 5), (1, 1, 2, 15), (1, 1, 0.6, 3)),
        ((6, 4), (3, 7), (0, 0)),
        ((5,), (1,), (0,)),
        ((1,), (4,), (4,)),
        ((7,), (4,), (0.61803,)),
        ((2, 0), (0, 0), (0, 0)),
    ]
    found = []
    for mode, coordinate in itertools.product(MODES, COORDINATES):
        for i, (old, new, scales) in enumerate(cases):
            attrs = {
                "sizes": new,
                "scales": tuple(map(float, scales)),
                "mode": mode,
                "coordinate": coordinate,
                "nearest": ROUNDINGS[i % 4],
                "cubic_a": (-0.75, -0.5)[i % 2],
                "exclude_outside": i % 3 == 1,
            }
            found.append(Sample((floats(old),), attrs, grad=0 not in new))
    up = {"sizes": (6,), "scales": (2.0,)}
    found.append(Sample((integers((3,), 0, 200, np.uint8),), {**up, "mode": "linear"}))
    found.append(Sample((integers((3,), 0, 1, np.bool_),), {**up, "mode": "nearest"}))
    return found


register(
    OpDef(
        name="resize",
        doc=(
            "Resample along each axis whose extent or scale says so. Beyond the ends the edge is "
            "repeated. Integers are interpolated in f64 and truncated."
        ),
        attrs=ResizeAttrs,
        kind=Kind.INJECTIVE,
        infer=_infer,
        ref=_ref,
        body=_body,
        grad=_grad,
        samples=_samples,
        rejects=lambda: [
            Reject(
                (TensorType(F32, (2,)),),
                {"sizes": (4,), "scales": (2.0,), "mode": "area"},
                "unknown mode",
            ),
            Reject(
                (TensorType(F32, (2,)),),
                {"sizes": (4, 4), "scales": (2.0,), "mode": "linear"},
                "2 sizes",
            ),
            Reject(
                (TensorType(F32, (0,)),),
                {"sizes": (4,), "scales": (0.0,), "mode": "linear"},
                "empty tensor",
            ),
            Reject(
                (TensorType(F32, (2,)),),
                {"sizes": (4,), "scales": (2.0,), "mode": "nearest", "coordinate": "tf_crop"},
                "unknown coordinate",
            ),
        ],
        tol={"f64": 1e-13, "f32": 1e-5, "f16": 2e-3, "bf16": 1.6e-2},
    )
)
