"""Pooling: the largest or the mean element of a moving window, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir.arrays import numpy_dtype
from tfc.ir.body import Expr, ExprBuilder, Index
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, ceildiv, maximum, minimum
from tfc.ir.opdef import Assumption, Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, compute_dtype, floats, integers, like, require_kind
from tfc.ir.ops.movement import Shape, dims_of, fixed
from tfc.ir.ops.reduce import SUM_TOL
from tfc.ir.ops.windows import (
    Pads,
    padded,
    require_window,
    tap_slices,
    unread,
    window_assumptions,
    window_fold,
    window_sizes,
)
from tfc.ir.types import BOOL, F32, I64, DType, TensorType


@dataclass(frozen=True, slots=True)
class PoolAttrs:
    """pads: (before, behind) for each spatial axis; they never are the largest element."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: Pads
    dilations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AvgPoolAttrs:
    """count_include_pad: whether padding counts, as zeros, in the mean."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: Pads
    dilations: tuple[int, ...]
    count_include_pad: bool


def _assumes(types: Sequence[TensorType], attrs: PoolAttrs | AvgPoolAttrs) -> list[Assumption]:
    return window_assumptions(attrs, types[0].shape[2:], attrs.kernel)


def _infer_shape(x: TensorType, attrs: PoolAttrs | AvgPoolAttrs) -> Shape:
    require(x.rank > 2, f"rank {x.rank} leaves no spatial axis")
    count = len(attrs.kernel)
    require(count == x.rank - 2, f"{count} kernel sizes for {x.rank - 2} spatial axes")
    require_window(attrs, count)
    sizes = window_sizes(attrs, x.shape[2:], attrs.kernel)
    for axis, (size, pair, d) in enumerate(
        zip(attrs.kernel, attrs.pads, attrs.dilations, strict=True)
    ):
        reach = (size - 1) * d + 1
        require(max(pair) < reach, f"windows may lie in the padding of spatial axis {axis} alone")
    return (*x.shape[:2], *sizes)


def _windows(attrs: PoolAttrs | AvgPoolAttrs, x: Array, fill: Any) -> list[Array]:
    """For each position in the kernel, what it reads in every window."""
    sizes = fixed(window_sizes(attrs, x.shape[2:], attrs.kernel))
    x = padded(x, attrs.pads, fill)
    return [x[tap_slices(attrs, tap, sizes)] for tap in np.ndindex(*attrs.kernel)]


def _one_hot_kernel(b: GraphBuilder, kernel: Sequence[int], dtype: DType) -> Value:
    """Weights that put channel k to position k of the kernel."""
    count = int(np.prod(kernel))
    return b.constant(np.eye(count).reshape(count, 1, *kernel), dtype)


def _spread_windows(b: GraphBuilder, op: Op, parts: Value, weights: Value) -> Value:
    """Add windows [batch * channels, k, ...] up to where their elements lie in the operand."""
    x = tensor_type(op.operands[0])
    attrs = op.attrs
    g = b.conv_transpose(
        parts,
        weights,
        strides=attrs.strides,
        pads=attrs.pads,
        dilations=attrs.dilations,
        groups=1,
        output_padding=unread(attrs, x.shape[2:], attrs.kernel),
    )
    found: Value = b.reshape(g, shape=x.shape)
    return found


# -- max_pool -----------------------------------------------------------------------------------


def _infer_max(types: Sequence[TensorType], attrs: PoolAttrs) -> Sequence[TensorType]:
    (x,) = types
    require_kind(x, "fiu")
    return (TensorType(x.dtype, _infer_shape(x, attrs)),)


def _lowest(dtype: DType) -> float:
    return -np.inf if dtype.is_float else int(np.iinfo(numpy_dtype(dtype)).min)


def _max_ref(attrs: PoolAttrs, x: Array) -> Array:
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    return np.asarray(np.max(np.stack(_windows(attrs, x, lowest)), axis=0))


def _max_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    dtype = tensor_type(op.operands[0]).dtype
    return window_fold(b, op, op.attrs.kernel, index, "max", b.const(_lowest(dtype), dtype))


def _max_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """Only the first of equally large elements of a window gets the window's gradient."""
    (x,) = op.operands
    attrs = op.attrs
    dtype = tensor_type(x).dtype
    shape = tensor_type(op.result).shape
    lo, hi = zip((0, 0), (0, 0), *attrs.pads, strict=True)
    wide = b.pad(x, like(b, _lowest(dtype), x), lo=lo, hi=hi, mode="constant")
    parts = [
        b.reshape(
            b.slice(
                wide,
                starts=(0, 0, *(i * d for i, d in zip(tap, attrs.dilations, strict=True))),
                sizes=shape,
                steps=(1, 1, *attrs.strides),
            ),
            shape=(1, *shape),
        )
        for tap in np.ndindex(*attrs.kernel)
    ]
    winner = b.argmax(b.concat(*parts, axis=0), axis=0, keepdims=True, last=False)
    numbers = b.iota(shape=(len(parts), *(1 for _ in shape)), axis=0, dtype=I64)
    chosen = b.select(b.eq(numbers, winner), gs[0], like(b, 0, x))
    chosen = b.transpose(chosen, perm=(1, 2, 0, *range(3, len(shape) + 1)))
    chosen = b.reshape(chosen, shape=(shape[0] * shape[1], len(parts), *shape[2:]))
    return [_spread_windows(b, op, chosen, _one_hot_kernel(b, attrs.kernel, dtype))]


def _attrs(
    kernel: tuple[int, ...],
    strides: int | tuple[int, ...] = 1,
    pads: int | Pads = 0,
    dilations: int | tuple[int, ...] = 1,
) -> dict[str, Any]:
    """Attributes of a sample; single numbers hold for every axis."""
    rank = len(kernel)
    return {
        "kernel": kernel,
        "strides": (strides,) * rank if isinstance(strides, int) else strides,
        "pads": ((pads, pads),) * rank if isinstance(pads, int) else pads,
        "dilations": (dilations,) * rank if isinstance(dilations, int) else dilations,
    }


_CASES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((1, 2, 7), _attrs((3,))),
    ((2, 3, 7, 6), _attrs((2, 3), 2)),
    ((1, 3, 7, 8), _attrs((3, 3), 2, 1)),
    ((1, 2, 5, 6), _attrs((3, 2), (1, 2), ((2, 0), (0, 1)))),
    ((1, 2, 9, 8), _attrs((3, 2), (2, 1), ((1, 2), (0, 1)), (2, 3))),
    ((1, 1, 3, 4, 5), _attrs((2, 3, 2), (1, 2, 2), 1)),
    ((2, 3, 4, 4), _attrs((4, 4))),
    ((1, 1, 1), _attrs((1,))),
    ((1, 2, 6), _attrs((2,), 2, ((-1, 1),))),
    ((0, 2, 5), _attrs((3,))),
)


def _rejects(more: dict[str, Any]) -> list[Reject]:
    x = TensorType(F32, (1, 2, 5))
    return [
        Reject((TensorType(F32, (2, 5)),), {**_attrs((3,)), **more}, "no spatial axis"),
        Reject((x,), {**_attrs((3, 3)), **more}, "2 kernel sizes"),
        Reject((x,), {**_attrs((6,)), **more}, "reaches over 6 elements"),
        Reject((x,), {**_attrs((3,), 0), **more}, "strides are not positive"),
        Reject((x,), {**_attrs((2,), 1, 2), **more}, "in the padding"),
        Reject((TensorType(BOOL, (1, 2, 5)),), {**_attrs((3,)), **more}, "not bool"),
    ]


register(
    OpDef(
        name="max_pool",
        doc="The largest element of each window; NaN if one is. Padding is never the largest.",
        attrs=PoolAttrs,
        kind=Kind.WINDOW,
        infer=_infer_max,
        assumes=_assumes,
        ref=_max_ref,
        body=_max_body,
        grad=_max_grad,
        samples=lambda: [
            *(Sample((floats(shape),), attrs, grad=0 not in shape) for shape, attrs in _CASES),
            Sample((integers((1, 2, 5), -9, -3, np.int8),), _attrs((3,), 2, 1)),
            Sample((integers((1, 2, 5), 0, 9, np.uint8),), _attrs((2,), 2, 1)),
        ],
        rejects=lambda: _rejects({}),
    )
)


# -- avg_pool -----------------------------------------------------------------------------------


def _infer_avg(types: Sequence[TensorType], attrs: AvgPoolAttrs) -> Sequence[TensorType]:
    (x,) = types
    require_kind(x, "f")
    return (TensorType(x.dtype, _infer_shape(x, attrs)),)


def _avg_ref(attrs: AvgPoolAttrs, x: Array) -> Array:
    total = np.sum(np.stack(_windows(attrs, x.astype(np.float64), 0)), axis=0)
    inside = np.sum(np.stack(_windows(attrs, np.ones(x.shape), 0)), axis=0)
    count = int(np.prod(attrs.kernel)) if attrs.count_include_pad else inside
    with np.errstate(all="ignore"):
        return np.asarray(total / count).astype(x.dtype)


def _elements_inside(attrs: AvgPoolAttrs, axis: int, size: DimLike, at: DimLike) -> DimLike:
    """Return how many elements of window `at` along one spatial axis are no padding."""
    count, (lo, hi), d = attrs.kernel[axis], attrs.pads[axis], attrs.dilations[axis]
    if lo <= 0 and hi <= 0:
        return count
    start = at * attrs.strides[axis] - lo
    first = maximum(ceildiv(-start, d), 0) if lo > 0 else 0
    end = minimum(ceildiv(size - start, d), count) if hi > 0 else count
    return end - first


def _avg_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    (x,) = op.operands
    attrs = op.attrs
    type = tensor_type(x)
    dtype = compute_dtype(type.dtype)
    total = window_fold(b, op, attrs.kernel, index, "sum", b.const(0, dtype))
    fixed_count = 1
    count: Expr | None = None
    for axis, at in enumerate(dims_of(index[2:])):
        inside: DimLike = attrs.kernel[axis]
        if not attrs.count_include_pad:
            inside = _elements_inside(attrs, axis, type.shape[2 + axis], at)
        if isinstance(inside, int):
            fixed_count *= inside
            continue
        factor = b.position(inside, dtype)
        count = factor if count is None else b.mul(count, factor)
    if count is None:
        count = b.const(fixed_count, dtype)
    elif fixed_count != 1:
        count = b.mul(count, b.const(fixed_count, dtype))
    return b.cast(b.div(total, count), type.dtype)


def _avg_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    (x,) = op.operands
    attrs = op.attrs
    type, shape = tensor_type(x), tensor_type(op.result).shape
    count = like(b, int(np.prod(attrs.kernel)), x)
    if not attrs.count_include_pad:
        share = b.avg_pool(
            b.full((1, 1, *type.shape[2:]), 1, type.dtype),
            kernel=attrs.kernel,
            strides=attrs.strides,
            pads=attrs.pads,
            dilations=attrs.dilations,
            count_include_pad=True,
        )
        count = b.mul(share, count)
    g = b.reshape(b.div(gs[0], count), shape=(shape[0] * shape[1], 1, *shape[2:]))
    ones = b.full((1, 1, *attrs.kernel), 1, type.dtype)
    return [_spread_windows(b, op, g, ones)]


register(
    OpDef(
        name="avg_pool",
        doc="The mean of each window, over its elements in the operand or over all positions.",
        attrs=AvgPoolAttrs,
        kind=Kind.WINDOW,
        infer=_infer_avg,
        assumes=_assumes,
        ref=_avg_ref,
        body=_avg_body,
        grad=_avg_grad,
        samples=lambda: [
            Sample(
                (floats(shape),),
                {**attrs, "count_include_pad": include},
                grad=0 not in shape,
            )
            for shape, attrs in _CASES
            for include in (False, True)
        ],
        rejects=lambda: _rejects({"count_include_pad": False}),
        tol=SUM_TOL,
    )
)
