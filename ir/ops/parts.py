"""Ops that take tensors apart and put them together: slice, concat, pad.

Lookups by index operands are not here (`index`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir.body import Expr, ExprBuilder, Index, Range
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, UndecidableError, bounds, maximum, minimum, mod, product
from tfc.ir.opdef import Assumption, Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import (
    Array,
    equal_dims,
    floats,
    integers,
    like,
    normalize_axis,
    require_same_dtype,
    unify_dims,
)
from tfc.ir.ops.movement import MOVES, VIEWS, Shape, dims_of, fixed, refuted, require_sizes
from tfc.ir.types import F32, I64, TensorType, shape_text

# -- slice --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SliceAttrs:
    """starts: the first index taken on each axis; sizes: how many; steps: below 0 goes back."""

    starts: Shape
    sizes: Shape
    steps: tuple[int, ...]


def _infer_slice(types: Sequence[TensorType], attrs: SliceAttrs) -> Sequence[TensorType]:
    (x,) = types
    for name in ("starts", "sizes", "steps"):
        count = len(getattr(attrs, name))
        require(count == x.rank, f"{count} {name} for rank {x.rank}")
    require_sizes(attrs.sizes, "sizes")
    for axis, (start, size, step) in enumerate(
        zip(attrs.starts, attrs.sizes, attrs.steps, strict=True)
    ):
        require(step != 0, f"step of axis {axis} is 0")
        if isinstance(size, int) and size == 0:
            continue
        # Where nothing is taken the first index may be the one behind the last element.
        least, _ = bounds(size, {})
        spare = 0 if least is not None and least > 0 else 1
        for i in (start, start + (size - 1) * step):
            require(
                not refuted(-spare, i) and not refuted(i, x.shape[axis] - 1 + spare),
                f"index {i} is outside of dim {x.shape[axis]} of axis {axis}",
            )
    return (TensorType(x.dtype, attrs.sizes),)


def _slice_ref(attrs: SliceAttrs, x: Array) -> Array:
    starts, sizes = fixed(attrs.starts), fixed(attrs.sizes)
    for axis, (start, size, step) in enumerate(zip(starts, sizes, attrs.steps, strict=True)):
        x = np.take(x, start + step * np.arange(size), axis)
    return x


def _slice_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    attrs = op.attrs
    moved = tuple(
        start + i * step
        for start, step, i in zip(attrs.starts, attrs.steps, dims_of(index), strict=True)
    )
    return b.load(op.operands[0], moved)


def _slice_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    (g,) = gs
    attrs = op.attrs
    lo: list[DimLike] = []
    hi: list[DimLike] = []
    g = reverse(b, g, [axis for axis, step in enumerate(attrs.steps) if step < 0])
    for axis, (start, size, step) in enumerate(
        zip(attrs.starts, attrs.sizes, attrs.steps, strict=True)
    ):
        first = start if step > 0 else start + (size - 1) * step
        lo.append(first)
        hi.append(tensor_type(op.operands[0]).shape[axis] - first - size * abs(step))
    g = dilate(b, g, [abs(step) for step in attrs.steps])
    return [b.pad(g, lo=tuple(lo), hi=tuple(hi), mode="constant")]


def reverse(b: GraphBuilder, x: Value, axes: Sequence[int]) -> Value:
    """Reverse the order of the elements along `axes`."""
    if not axes:
        return x
    shape = tensor_type(x).shape
    # Along an empty axis no index is taken, but a first index of -1 would be refused.
    ends = [maximum(dim - 1, 0) for dim in shape]
    found: Value = b.slice(
        x,
        starts=tuple(ends[axis] if axis in axes else 0 for axis in range(len(shape))),
        sizes=shape,
        steps=tuple(-1 if axis in axes else 1 for axis in range(len(shape))),
    )
    return found


def dilate(b: GraphBuilder, x: Value, steps: Sequence[int]) -> Value:
    """Put steps[axis] - 1 zeros behind each element along each axis."""
    if all(step == 1 for step in steps):
        return x
    shape = tensor_type(x).shape
    split: list[DimLike] = []
    hi: list[int] = []
    for dim, step in zip(shape, steps, strict=True):
        split += [dim, 1]
        hi += [0, step - 1]
    padded = b.pad(
        b.reshape(x, shape=tuple(split)), lo=(0,) * len(hi), hi=tuple(hi), mode="constant"
    )
    merged = tuple(dim * step for dim, step in zip(shape, steps, strict=True))
    found: Value = b.reshape(padded, shape=merged)
    return found


def take_range(b: GraphBuilder, x: Value, axis: int, start: DimLike, size: DimLike) -> Value:
    """The elements start <= i < start + size along one axis."""
    shape = list(tensor_type(x).shape)
    starts: list[DimLike] = [0] * len(shape)
    if start == 0 and size == shape[axis]:
        return x
    starts[axis], shape[axis] = start, size
    found: Value = b.slice(x, starts=tuple(starts), sizes=tuple(shape), steps=(1,) * len(shape))
    return found


register(
    OpDef(
        name="slice",
        doc="Element i along each axis is element starts + i * steps of the operand, in bounds.",
        attrs=SliceAttrs,
        kind=Kind.INJECTIVE,
        traits=VIEWS,
        infer=_infer_slice,
        ref=_slice_ref,
        body=_slice_body,
        grad=_slice_grad,
        samples=lambda: (
            [
                Sample((floats(shape),), {"starts": starts, "sizes": sizes, "steps": steps})
                for shape, starts, sizes, steps in (
                    ((7,), (2,), (3,), (1,)),
                    ((7,), (6,), (7,), (-1,)),
                    ((5, 8), (0, 1), (5, 3), (1, 3)),
                    ((5, 8), (4, 7), (2, 3), (-3, -2)),
                    ((3, 4), (1, 4), (2, 0), (1, 1)),
                    ((), (), (), ()),
                )
            ]
            + [Sample((integers((4,), 1, 9),), {"starts": (3,), "sizes": (2,), "steps": (-2,)})]
        ),
        rejects=lambda: [
            Reject(
                (TensorType(F32, (4,)),),
                {"starts": (0,), "sizes": (2,), "steps": (0,)},
                "step of axis 0 is 0",
            ),
            Reject(
                (TensorType(F32, (4,)),),
                {"starts": (2,), "sizes": (3,), "steps": (1,)},
                "index 4 is outside of dim 4",
            ),
            Reject(
                (TensorType(F32, (4,)),), {"starts": (), "sizes": (3,), "steps": (1,)}, "0 starts"
            ),
        ],
    )
)


# -- concat -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AxisAttrs:
    """axis: may count from the back."""

    axis: int


def _infer_concat(types: Sequence[TensorType], attrs: AxisAttrs) -> Sequence[TensorType]:
    dtype = require_same_dtype(types)
    first = types[0]
    axis = normalize_axis(attrs.axis, first.rank)
    shape = list(first.shape)
    shape[axis] = 0
    for type in types:
        require(type.rank == first.rank, f"ranks {first.rank} and {type.rank} differ")
        for at, dim in enumerate(type.shape):
            found = shape[at] + dim if at == axis else unify_dims(shape[at], dim)
            require(
                found is not None,
                f"shapes {shape_text(first.shape)} and {shape_text(type.shape)} differ beside "
                f"axis {axis}",
            )
            assert found is not None
            shape[at] = found
    return (TensorType(dtype, tuple(shape)),)


def _assume_concat(types: Sequence[TensorType], attrs: AxisAttrs) -> Sequence[Assumption]:
    (whole,) = _infer_concat(types, attrs)
    axis = normalize_axis(attrs.axis, whole.rank)
    return [
        assumption
        for type in types
        for at, dim in enumerate(type.shape)
        if at != axis
        for assumption in equal_dims(dim, whole.shape[at], "dims")
    ]


def _concat_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    axis = op.attrs.axis % len(index)
    (i,) = dims_of(index[axis : axis + 1])
    starts: list[DimLike] = [0]
    for x in op.operands:
        starts.append(starts[-1] + tensor_type(x).shape[axis])
    # The last operand is guarded too: what stands outside a guard may run for any index.
    found: Expr = b.const(0, tensor_type(op.result).dtype)
    for x, start, end in reversed(list(zip(op.operands, starts, starts[1:], strict=False))):
        element = b.load(x, (*index[:axis], i - start, *index[axis + 1 :]))
        found = b.guard((Range(i, start, end),), element, found)
    return found


def _concat_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    axis = op.attrs.axis % tensor_type(op.result).rank
    found: list[Value | None] = []
    start: DimLike = 0
    for x in op.operands:
        size = tensor_type(x).shape[axis]
        found.append(take_range(b, gs[0], axis, start, size))
        start = start + size
    return found


register(
    OpDef(
        name="concat",
        doc="The operands one behind the other along `axis`.",
        attrs=AxisAttrs,
        operands=(1, None),
        kind=Kind.INJECTIVE,
        traits=MOVES,
        infer=_infer_concat,
        assumes=_assume_concat,
        ref=lambda attrs, *xs: np.concatenate(xs, attrs.axis),
        body=_concat_body,
        grad=_concat_grad,
        samples=lambda: (
            [
                Sample(
                    tuple(floats(shape, seed=i) for i, shape in enumerate(shapes)), {"axis": axis}
                )
                for axis, shapes in (
                    (0, ((3,), (1,), (4,))),
                    (1, ((2, 3), (2, 0), (2, 5))),
                    (-1, ((2, 1, 3), (2, 1, 3))),
                    (0, ((2, 3),)),
                    (0, ((0, 3), (2, 3))),
                )
            ]
            + [Sample((integers((2,), 1, 9), integers((3,), 1, 9)), {"axis": 0})]
        ),
        rejects=lambda: [
            Reject(
                (TensorType(F32, (2, 3)), TensorType(F32, (3, 3))), {"axis": 1}, "differ beside"
            ),
            Reject((TensorType(F32, (2,)), TensorType(I64, (3,))), {"axis": 0}, "element type"),
            Reject((TensorType(F32, ()),), {"axis": 0}, "out of range"),
        ],
    )
)


# -- pad ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PadAttrs:
    """lo, hi: elements added before and behind each axis, negative ones removed.

    mode: constant (the second operand, or 0), edge, reflect (about the edge element) or wrap.
    """

    lo: Shape
    hi: Shape
    mode: str


_PAD_MODES = {"constant": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}


def _infer_pad(types: Sequence[TensorType], attrs: PadAttrs) -> Sequence[TensorType]:
    x = types[0]
    dtype = require_same_dtype(types)
    require(attrs.mode in _PAD_MODES, f"unknown mode {attrs.mode!r}")
    require(len(types) == 1 or types[1].rank == 0, "the value is no scalar")
    require(len(types) == 1 or attrs.mode == "constant", f"mode {attrs.mode} takes no value")
    for name, pads in (("lo", attrs.lo), ("hi", attrs.hi)):
        require(len(pads) == x.rank, f"{len(pads)} {name} for rank {x.rank}")
    shape = tuple(lo + dim + hi for lo, dim, hi in zip(attrs.lo, x.shape, attrs.hi, strict=True))
    require_sizes(shape, "the padded shape")
    if attrs.mode != "constant" and not any(isinstance(d, int) and d == 0 for d in shape):
        empty = any(isinstance(d, int) and d == 0 for d in x.shape)
        require(not empty, f"mode {attrs.mode} has nothing to repeat in {shape_text(x.shape)}")
    return (TensorType(dtype, shape),)


def _pad_ref(attrs: PadAttrs, x: Array, value: Array | None = None) -> Array:
    pads = list(zip(fixed(attrs.lo), fixed(attrs.hi), strict=True))
    widths = [(max(lo, 0), max(hi, 0)) for lo, hi in pads]
    if attrs.mode == "constant":
        fill: Any = 0 if value is None else value[()]
        out = np.pad(x, widths, constant_values=fill) if x.ndim else x
    elif x.ndim and x.size:
        out = np.pad(x, widths, mode=_PAD_MODES[attrs.mode])  # type: ignore[call-overload]
    else:
        out = np.zeros([a + n + b for (a, b), n in zip(widths, x.shape, strict=True)], x.dtype)
    crop = tuple(
        slice(max(-lo, 0), size - max(-hi, 0))
        for (lo, hi), size in zip(pads, out.shape, strict=True)
    )
    cropped: Array = out[crop]
    return cropped


def _reflected(i: DimLike, dim: DimLike, lo: DimLike, hi: DimLike) -> DimLike:
    """Return which element of an axis of `dim` stands at i, counted from the axis' first."""
    if isinstance(dim, int) and isinstance(lo, int) and isinstance(hi, int):
        if dim == 1:
            return 0
        if max(lo, hi) < dim:
            distance = maximum(i, -i) if lo > 0 else i
            return minimum(distance, 2 * (dim - 1) - distance) if hi > 0 else distance
    period = maximum(2 * (dim - 1), 1)
    turn = mod(i, period)
    return minimum(turn, period - turn)


def _pad_index(mode: str, i: DimLike, dim: DimLike, lo: DimLike, hi: DimLike) -> DimLike:
    if lo == 0 and hi == 0:
        return i
    if mode == "edge":
        return minimum(maximum(i, 0), dim - 1)
    if mode == "reflect":
        return _reflected(i, dim, lo, hi)
    return mod(i, dim)


def _pad_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    x = op.operands[0]
    attrs = op.attrs
    shape = tensor_type(x).shape
    moved = [i - lo for i, lo in zip(dims_of(index), attrs.lo, strict=True)]
    axes = list(zip(moved, shape, attrs.lo, attrs.hi, strict=True))
    if attrs.mode != "constant":
        return b.load(x, tuple(_pad_index(attrs.mode, *axis) for axis in axes))
    dtype = tensor_type(x).dtype
    value = b.load(op.operands[1], ()) if len(op.operands) > 1 else b.const(0, dtype)
    ranges = tuple(
        Range(i, 0, dim)
        for i, dim, lo, hi in axes
        if not (_never_positive(lo) and _never_positive(hi))
    )
    return b.guard(ranges, b.load(x, tuple(moved)), value)


def _never_positive(dim: DimLike) -> bool:
    try:
        return dim <= 0
    except UndecidableError:
        return False


def _pad_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    (g,) = gs
    x = op.operands[0]
    attrs = op.attrs
    if attrs.mode != "constant":
        return [_repeating_pad_grad(b, op, g)]
    back = {"lo": tuple(-n for n in attrs.lo), "hi": tuple(-n for n in attrs.hi)}
    found: list[Value | None] = [b.pad(g, mode="constant", **back)]
    if len(op.operands) > 1:
        zeros = b.full(tensor_type(x).shape, 0, tensor_type(x).dtype)
        added = b.pad(zeros, like(b, 1, x), lo=attrs.lo, hi=attrs.hi, mode="constant")
        axes = tuple(range(tensor_type(g).rank))
        found.append(b.reduce_sum(b.mul(g, added), axes=axes, keepdims=False))
    return found


def _repeating_pad_grad(b: GraphBuilder, op: Op, g: Value) -> Value:
    """Sum g over the places that show the same element, one axis after the other."""
    attrs = op.attrs
    for axis, dim in enumerate(tensor_type(op.operands[0]).shape):
        if attrs.lo[axis] == 0 and attrs.hi[axis] == 0:
            continue
        source = b.sub(
            b.iota(shape=(tensor_type(g).shape[axis],), axis=0, dtype=I64),
            b.dims(values=(attrs.lo[axis],), rank=0),
        )
        last = b.dims(values=(dim - 1,), rank=0)
        zero = b.constant(0, I64)
        if attrs.mode == "edge":
            source = b.min(b.max(source, zero), last)
        elif attrs.mode == "wrap":
            source = b.mod(source, b.dims(values=(dim,), rank=0))
        else:
            period = b.dims(values=(maximum(2 * (dim - 1), 1),), rank=0)
            turn = b.mod(source, period)
            source = b.min(turn, b.sub(period, turn))
        g = sum_by_index(b, g, source, axis, dim)
    return g


def sum_by_index(b: GraphBuilder, g: Value, indices: Value, axis: int, dim: DimLike) -> Value:
    """Add up the slices of `g` along `axis` by their entry in the vector `indices`.

    Entry i of the result's axis, of extent `dim`, is the sum of the slices j with indices[j] == i.
    It is a product with a matrix of zeros and ones: no scatter, and the same sum on every run.
    """
    type = tensor_type(g)
    count = type.shape[axis]
    before, after = product(type.shape[:axis]), product(type.shape[axis + 1 :])
    column = b.reshape(b.cast(indices, dtype=I64, saturate=True), shape=(1, count))
    numbers = b.iota(shape=(dim, 1), axis=0, dtype=I64)
    one_hot = b.cast(b.eq(numbers, column), dtype=type.dtype, saturate=True)
    summed = b.matmul(one_hot, b.reshape(g, shape=(before, count, after)))
    found: Value = b.reshape(summed, shape=(*type.shape[:axis], dim, *type.shape[axis + 1 :]))
    return found


register(
    OpDef(
        name="pad",
        doc="Elements added around the operand; negative amounts take elements away.",
        attrs=PadAttrs,
        operands=(1, 2),
        kind=Kind.INJECTIVE,
        infer=_infer_pad,
        ref=_pad_ref,
        body=_pad_body,
        grad=_pad_grad,
        samples=lambda: [
            *(
                Sample((floats(shape),), {"lo": lo, "hi": hi, "mode": mode})
                for shape, lo, hi, mode in (
                    ((5,), (2,), (1,), "constant"),
                    ((3, 4), (0, 2), (1, 0), "constant"),
                    ((3, 4), (-1, 2), (0, -3), "constant"),
                    ((0, 2), (1, 0), (2, 0), "constant"),
                    ((), (), (), "constant"),
                    ((3, 4), (1, 5), (2, 0), "edge"),
                    ((3, 4), (-1, 1), (1, -2), "edge"),
                    ((3, 5), (2, 0), (1, 4), "reflect"),
                    ((1, 3), (2, 5), (1, 6), "reflect"),
                    ((4,), (3,), (-1,), "reflect"),
                    ((3, 5), (4, 0), (1, 7), "wrap"),
                )
            ),
            Sample(
                (floats((2, 3)), np.float32(7)), {"lo": (1, 0), "hi": (0, 2), "mode": "constant"}
            ),
            Sample((integers((2, 3)),), {"lo": (1, 0), "hi": (0, 2), "mode": "constant"}),
        ],
        rejects=lambda: [
            Reject(
                (TensorType(F32, (2,)),), {"lo": (1,), "hi": (0,), "mode": "mirror"}, "unknown mode"
            ),
            Reject(
                (TensorType(F32, (2,)),), {"lo": (-3,), "hi": (0,), "mode": "constant"}, "negative"
            ),
            Reject(
                (TensorType(F32, (0,)),), {"lo": (1,), "hi": (0,), "mode": "edge"}, "nothing to"
            ),
            Reject(
                (TensorType(F32, (2,)), TensorType(F32, (1,))),
                {"lo": (1,), "hi": (0,), "mode": "constant"},
                "no scalar",
            ),
        ],
    )
)
