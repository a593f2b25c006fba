"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tfc.ir.body import Expr, ExprBuilder, Index
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, floordiv
from tfc.ir.opdef import Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, compute_dtype, floats, require_kind, require_same_dtype
from tfc.ir.ops.movement import Shape, dims_of, fixed
from tfc.ir.ops.reduce import SUM_TOL, fold, iterate
from tfc.ir.ops.windows import (
    Pads,
    Windowed,
    padded,
    require_window,
    tap_slices,
    taps_of,
    unread,
    window_assumptions,
    window_index,
    window_sizes,
)
from tfc.ir.types import F32, I64, TensorType, shape_text


class Grouped(Windowed, Protocol):
    """The attributes that a convolution and its adjoint share."""

    @property
    def groups(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ConvAttrs:
    """pads: (before, behind) for each spatial axis, zeros; negative ones cut elements off."""

    strides: tuple[int, ...]
    pads: Pads
    dilations: tuple[int, ...]
    groups: int


def require_conv(types: Sequence[TensorType], attrs: Grouped) -> None:
    """Refuse operands and attributes that are of no convolution, in either direction."""
    x, w = types
    require_kind(x, "fiu")
    require_same_dtype(types)
    require(x.rank == w.rank, f"the input has rank {x.rank}, the weights have {w.rank}")
    require_window(attrs, x.rank - 2)
    require(attrs.groups > 0, "groups are not positive")


def require_groups(channels: DimLike, groups: int, what: str) -> DimLike:
    """Return how many channels each group has."""
    each = floordiv(channels, groups)
    require(each * groups == channels, f"{channels} {what} do not split into {groups} groups")
    return each


def _infer_conv(types: Sequence[TensorType], attrs: ConvAttrs) -> Sequence[TensorType]:
    require_conv(types, attrs)
    x, w = types
    require_groups(w.shape[0], attrs.groups, "output channels")
    require(
        x.shape[1] == w.shape[1] * attrs.groups,
        f"the input has {x.shape[1]} channels, the weights {shape_text(w.shape)} take "
        f"{w.shape[1] * attrs.groups}",
    )
    sizes = window_sizes(attrs, x.shape[2:], w.shape[2:])
    return (TensorType(x.dtype, (x.shape[0], w.shape[0], *sizes)),)


def _conv_ref(attrs: ConvAttrs, x: Array, w: Array) -> Array:
    dtype = x.dtype
    if dtype.kind == "f":
        x, w = x.astype(np.float64), w.astype(np.float64)
    groups = attrs.groups
    out_channels = w.shape[0]
    sizes = fixed(window_sizes(attrs, x.shape[2:], w.shape[2:]))
    x = padded(x, attrs.pads, 0)
    x = x.reshape(x.shape[0], groups, w.shape[1], *x.shape[2:])
    w = w.reshape(groups, out_channels // groups, *w.shape[1:])
    y = np.zeros((x.shape[0], groups, out_channels // groups, *sizes), x.dtype)
    for tap in np.ndindex(*w.shape[3:]):
        part = x[tap_slices(attrs, tap, sizes)]
        with np.errstate(all="ignore"):
            y += np.einsum("ngi...,goi->ngo...", part, w[(..., *tap)])
    return y.reshape(x.shape[0], out_channels, *sizes).astype(dtype)


def _conv_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    """Sum over the kernel's axes, then the group's channels; extents of 1 have no iterator."""
    x, w = op.operands
    x_type, w_type = tensor_type(x), tensor_type(w)
    kernel = w_type.shape[2:]
    (out_channel,) = dims_of(index[1:2])
    taps, tap = taps_of(b, kernel)
    channels, own = iterate(b, w_type.shape[1], "c")
    channel: DimLike = own
    if op.attrs.groups > 1:
        per_group = floordiv(w_type.shape[0], op.attrs.groups)
        channel = floordiv(out_channel, per_group) * w_type.shape[1] + own
    places, ranges = window_index(op.attrs, x_type.shape[2:], kernel, dims_of(index[2:]), tap)
    dtype = compute_dtype(x_type.dtype)
    element = b.cast(b.load(x, (index[0], channel, *places)), dtype)
    element = b.guard(ranges, element, b.const(0, dtype))
    weight = b.cast(b.load(w, (out_channel, own, *tap)), dtype)
    total = fold(b, "sum", taps + channels, b.mul(element, weight), dtype)
    return b.cast(total, x_type.dtype)


def weight_grad(b: GraphBuilder, attrs: Grouped, x: Value, g: Value, w: Value) -> Value:
    """The gradient of a convolution of x with weights like w, whose result has the gradient g.

    It is a convolution of x with g: batch and channels change places, strides and dilations too.
    """
    x_shape, g_shape, w_shape = tensor_type(x).shape, tensor_type(g).shape, tensor_type(w).shape
    rank = len(x_shape) - 2
    groups = attrs.groups
    inner, outer = w_shape[1], floordiv(w_shape[0], groups)
    spatial = tuple(range(3, 3 + rank))
    x = b.reshape(x, shape=(x_shape[0], groups, inner, *x_shape[2:]))
    x = b.transpose(x, perm=(2, 1, 0, *spatial))
    x = b.reshape(x, shape=(inner, groups * x_shape[0], *x_shape[2:]))
    g = b.reshape(g, shape=(g_shape[0], groups, outer, *g_shape[2:]))
    g = b.transpose(g, perm=(1, 2, 0, *spatial))
    g = b.reshape(g, shape=(w_shape[0], g_shape[0], *g_shape[2:]))
    full = b.conv(
        x, g, strides=attrs.dilations, pads=attrs.pads, dilations=attrs.strides, groups=groups
    )
    # Elements that no window reached make the result larger than the kernel.
    part = b.slice(
        full,
        starts=(0,) * (rank + 2),
        sizes=(inner, w_shape[0], *w_shape[2:]),
        steps=(1,) * (rank + 2),
    )
    found: Value = b.transpose(part, perm=(1, 0, *range(2, rank + 2)))
    return found


def _conv_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    x, w = op.operands
    attrs = op.attrs
    missing = unread(attrs, tensor_type(x).shape[2:], tensor_type(w).shape[2:])
    to_x = b.conv_transpose(
        gs[0],
        w,
        strides=attrs.strides,
        pads=attrs.pads,
        dilations=attrs.dilations,
        groups=attrs.groups,
        output_padding=missing,
    )
    return [to_x, weight_grad(b, attrs, x, gs[0], w)]


def window_attrs(
    rank: int,
    strides: int | tuple[int, ...] = 1,
    pads: int | Pads = 0,
    dilations: int | tuple[int, ...] = 1,
    groups: int = 1,
    **more: object,
) -> dict[str, object]:
    """Return the attributes of a sample; single numbers hold for every axis."""
    return {
        "strides": (strides,) * rank if isinstance(strides, int) else strides,
        "pads": ((pads, pads),) * rank if isinstance(pads, int) else pads,
        "dilations": (dilations,) * rank if isinstance(dilations, int) else dilations,
        "groups": groups,
        **more,
    }


def float_types(*shapes: Shape) -> tuple[TensorType, ...]:
    return tuple(TensorType(F32, shape) for shape in shapes)


def _conv_samples() -> Sequence[Sample]:
    cases: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, object]], ...] = (
        ((1, 3, 7), (4, 3, 3), window_attrs(1, pads=1)),
        ((2, 3, 7, 6), (5, 3, 3, 3), window_attrs(2)),
        ((2, 3, 7, 6), (5, 3, 3, 2), window_attrs(2, 2, ((1, 1), (0, 1)))),
        ((1, 4, 8, 8), (6, 2, 3, 3), window_attrs(2, (1, 2), 1, groups=2)),
        ((1, 3, 6, 7), (3, 1, 3, 3), window_attrs(2, 2, 1, groups=3)),
        ((1, 3, 5, 5), (6, 1, 3, 3), window_attrs(2, 1, ((2, 0), (0, 2)), groups=3)),
        ((2, 5, 4, 3), (7, 5, 1, 1), window_attrs(2)),
        ((1, 2, 9, 8), (3, 2, 3, 2), window_attrs(2, (1, 2), 2, (2, 3))),
        ((1, 2, 3, 4, 5), (3, 2, 2, 3, 2), window_attrs(3, (1, 2, 1), 1)),
        ((1, 1, 1), (1, 1, 1), window_attrs(1)),
        ((1, 2, 6), (3, 2, 3), window_attrs(1, pads=((-1, 2),))),
        ((0, 2, 5), (3, 2, 3), window_attrs(1)),
    )
    return [Sample((floats(x), floats(w, seed=1)), attrs, grad=0 not in x) for x, w, attrs in cases]


register(
    OpDef(
        name="conv",
        doc=(
            "y[n, o, p] = sum over kernel positions k and channels i of the group of "
            "x[n, i, p * strides + k * dilations - pads] * w[o, i, k], with zeros outside of x. "
            "f16 and bf16 add in f32."
        ),
        operands=(2, 2),
        attrs=ConvAttrs,
        kind=Kind.CONTRACTION,
        infer=_infer_conv,
        assumes=lambda types, attrs: window_assumptions(
            attrs, types[0].shape[2:], types[1].shape[2:]
        ),
        ref=_conv_ref,
        body=_conv_body,
        grad=_conv_grad,
        samples=_conv_samples,
        rejects=lambda: [
            Reject(float_types((1, 3, 5), (4, 2, 3)), window_attrs(1), "the input has 3 channels"),
            Reject(
                float_types((1, 4, 5), (3, 2, 3)), window_attrs(1, groups=2), "do not split into 2"
            ),
            Reject(float_types((1, 3, 2), (4, 3, 3)), window_attrs(1), "reaches over 3 elements"),
            Reject(float_types((1, 3, 5), (4, 3, 3)), window_attrs(2), "2 strides for 1"),
            Reject(
                float_types((1, 3, 5), (4, 3, 3)), window_attrs(1, 0), "strides are not positive"
            ),
            Reject(float_types((1, 3, 5), (4, 3, 0)), window_attrs(1), "kernel is empty"),
            Reject(float_types((1, 3, 5, 5), (4, 3, 3)), window_attrs(2), "rank"),
            Reject(
                (TensorType(F32, (1, 3, 5)), TensorType(I64, (4, 3, 3))),
                window_attrs(1),
                "element type",
            ),
        ],
        tol=SUM_TOL,
    )
)
