"""Transposed convolutions: the adjoints of convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, ceildiv, floordiv
from tfc.ir.opdef import Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, floats
from tfc.ir.ops.conv import (
    float_types,
    require_conv,
    require_groups,
    weight_grad,
    window_attrs,
)
from tfc.ir.ops.movement import Shape, fixed, refuted
from tfc.ir.ops.parts import dilate, reverse
from tfc.ir.ops.reduce import SUM_TOL
from tfc.ir.ops.windows import Pads, padded, tap_slices
from tfc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class ConvTransposeAttrs:
    """pads: cut off the result; output_padding: elements added behind it, less than a stride
    (or a dilation, where that is larger).
    """

    strides: tuple[int, ...]
    pads: Pads
    dilations: tuple[int, ...]
    groups: int
    output_padding: Shape


def _infer_transpose(
    types: Sequence[TensorType], attrs: ConvTransposeAttrs
) -> Sequence[TensorType]:
    require_conv(types, attrs)
    x, w = types
    require(
        x.shape[1] == w.shape[0],
        f"the input has {x.shape[1]} channels, the weights take {w.shape[0]}",
    )
    require_groups(w.shape[0], attrs.groups, "input channels")
    count = len(attrs.output_padding)
    require(count == x.rank - 2, f"{count} output_padding for {x.rank - 2} spatial axes")
    sizes: list[DimLike] = []
    for axis, (size, kernel) in enumerate(zip(x.shape[2:], w.shape[2:], strict=True)):
        require(isinstance(kernel, int), f"the kernel size {kernel} is not a number")
        require(not refuted(1, kernel), f"the kernel is empty along spatial axis {axis}")
        extra = attrs.output_padding[axis]
        limit = max(attrs.strides[axis], attrs.dilations[axis])
        require(
            not refuted(0, extra) and not refuted(extra, limit - 1),
            f"output_padding {extra} of spatial axis {axis} is not between 0 and {limit - 1}",
        )
        before, behind = attrs.pads[axis]
        reach = (kernel - 1) * attrs.dilations[axis] + 1
        total = (size - 1) * attrs.strides[axis] + reach - before - behind + extra
        require(not refuted(1, size), f"spatial axis {axis} is empty")
        require(not refuted(0, total), f"nothing is left of spatial axis {axis} after pads")
        sizes.append(total)
    return (TensorType(x.dtype, (x.shape[0], w.shape[1] * attrs.groups, *sizes)),)


def _transpose_ref(attrs: ConvTransposeAttrs, x: Array, w: Array) -> Array:
    """Add x times each tap of the kernel to where the tap falls, then cut the pads off."""
    dtype = x.dtype
    if dtype.kind == "f":
        x, w = x.astype(np.float64), w.astype(np.float64)
    batch, groups, inner = x.shape[0], attrs.groups, x.shape[1] // attrs.groups
    outer = w.shape[1]
    sizes = x.shape[2:]
    full = [
        (n - 1) * s + (k - 1) * d + 1 + extra
        for n, s, k, d, extra in zip(
            sizes,
            attrs.strides,
            w.shape[2:],
            attrs.dilations,
            fixed(attrs.output_padding),
            strict=True,
        )
    ]
    x = x.reshape(batch, groups, inner, *sizes)
    w = w.reshape(groups, inner, outer, *w.shape[2:])
    y = np.zeros((batch, groups, outer, *full), x.dtype)
    for tap in np.ndindex(*w.shape[3:]):
        with np.errstate(all="ignore"):
            part = np.einsum("ngi...,gio->ngo...", x, w[(..., *tap)])
        y[tap_slices(attrs, tap, sizes)] += part
    y = y.reshape(batch, groups * outer, *full)
    return padded(y, tuple((-lo, -hi) for lo, hi in attrs.pads), 0).astype(dtype)


def _decompose_transpose(b: GraphBuilder, op: Op) -> Sequence[Value]:
    """A convolution of stride 1 whose channels are the phases of the result, then interleaving.

    Along one axis, with t = p + pad = q * stride + r, the result is the sum over j of
    x[q - j] * w[j * stride + r]: for each phase r a convolution over q with every stride-th tap.
    """
    x, w = op.operands
    attrs = op.attrs
    held = fixed(tensor_type(w).shape[2:])
    # A single element is multiplied by every tap: each of them is a phase.
    strides = tuple(
        max(s, (n - 1) * d + 1) if size == 1 else s
        for s, n, d, size in zip(
            attrs.strides, held, attrs.dilations, tensor_type(x).shape[2:], strict=True
        )
    )
    # Holes between the taps become zeros where there are phases too; else conv has dilations.
    holes = [d if s > 1 else 1 for d, s in zip(attrs.dilations, strides, strict=True)]
    dilations = [1 if s > 1 else d for d, s in zip(attrs.dilations, strides, strict=True)]
    kernel = [(n - 1) * hole + 1 for n, hole in zip(held, holes, strict=True)]
    w = dilate(b, w, (1, 1, *holes))
    weights = _phase_weights(b, w, kernel, strides, attrs.groups)
    pads: list[tuple[int, int]] = []
    skipped: list[int] = []
    for axis, (lo, hi) in enumerate(attrs.pads):
        taps = ceildiv(kernel[axis], strides[axis])
        assert isinstance(taps, int)
        extra = attrs.output_padding[axis]
        if not isinstance(extra, int):
            extra = max(strides[axis], attrs.dilations[axis]) - 1
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        behind = ceildiv(reach - hi + extra, strides[axis]) - 1
        assert isinstance(behind, int)
        pads.append(((taps - 1) * dilations[axis] - lo // strides[axis], behind))
        skipped.append(lo % strides[axis])
    y = b.conv(
        x,
        weights,
        strides=(1,) * len(strides),
        pads=tuple(pads),
        dilations=tuple(dilations),
        groups=attrs.groups,
    )
    y = _interleave(b, y, strides, attrs.groups)
    shape = tensor_type(op.result).shape
    if tensor_type(y).shape != shape:
        y = b.slice(y, starts=(0, 0, *skipped), sizes=shape, steps=(1,) * len(shape))
    return [y]


def _phase_weights(
    b: GraphBuilder, w: Value, kernel: Sequence[int], strides: Sequence[int], groups: int
) -> Value:
    """Weights [in, out/g, k] as those of a stride-1 convolution with out * phases channels."""
    rank = len(kernel)
    inputs, outer = tensor_type(w).shape[:2]
    inner = floordiv(inputs, groups)
    taps = [-(-n // s) for n, s in zip(kernel, strides, strict=True)]
    held = fixed(tensor_type(w).shape[2:])
    behind = [t * s - n for t, s, n in zip(taps, strides, held, strict=True)]
    if any(behind):
        w = b.pad(w, lo=(0,) * (rank + 2), hi=(0, 0, *behind), mode="constant")
    split = [n for pair in zip(taps, strides, strict=True) for n in pair]
    w = b.reshape(w, shape=(groups, inner, outer, *split))
    tap_axes = range(3, 3 + 2 * rank, 2)
    w = b.transpose(w, perm=(0, *(axis + 1 for axis in tap_axes), 2, 1, *tap_axes))
    w = b.reshape(w, shape=(groups * math.prod(strides) * outer, inner, *taps))
    return reverse(b, w, range(2, 2 + rank))


def _interleave(b: GraphBuilder, y: Value, strides: Sequence[int], groups: int) -> Value:
    """Move the phases, the outermost part of a group's channels, between the spatial elements."""
    if all(s == 1 for s in strides):
        return y
    rank = len(strides)
    batch, channels, *sizes = tensor_type(y).shape
    outer = floordiv(channels, groups * math.prod(strides))
    y = b.reshape(y, shape=(batch, groups, *strides, outer, *sizes))
    order = [axis for i in range(rank) for axis in (3 + rank + i, 2 + i)]
    y = b.transpose(y, perm=(0, 1, 2 + rank, *order))
    merged = tuple(n * s for n, s in zip(sizes, strides, strict=True))
    found: Value = b.reshape(y, shape=(batch, groups * outer, *merged))
    return found


def _transpose_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    x, w = op.operands
    attrs = op.attrs
    to_x = b.conv(
        gs[0],
        w,
        strides=attrs.strides,
        pads=attrs.pads,
        dilations=attrs.dilations,
        groups=attrs.groups,
    )
    shape = tensor_type(x).shape
    if tensor_type(to_x).shape != shape:
        to_x = b.slice(to_x, starts=(0,) * len(shape), sizes=shape, steps=(1,) * len(shape))
    return [to_x, weight_grad(b, attrs, gs[0], x, w)]


def _transpose_samples() -> Sequence[Sample]:
    cases: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, object]], ...] = (
        ((1, 3, 5), (3, 4, 3), window_attrs(1, output_padding=(0,))),
        ((2, 3, 4, 5), (3, 2, 3, 3), window_attrs(2, 2, 1, output_padding=(1, 0))),
        ((1, 4, 3, 3), (4, 3, 2, 2), window_attrs(2, 2, groups=2, output_padding=(0, 0))),
        (
            (1, 2, 4, 3),
            (2, 1, 4, 3),
            window_attrs(2, (3, 2), ((4, 0), (0, 3)), output_padding=(2, 1)),
        ),
        ((1, 2, 4), (2, 2, 3), window_attrs(1, 1, 1, 2, output_padding=(1,))),
        ((1, 2, 4), (2, 2, 3), window_attrs(1, 2, 1, 3, output_padding=(2,))),
        ((1, 2, 5), (2, 1, 2), window_attrs(1, 4, groups=2, output_padding=(3,))),
        ((1, 1, 3), (1, 1, 3), window_attrs(1, 2, ((-1, -3),), output_padding=(0,))),
        ((1, 2, 2, 3, 2), (2, 2, 2, 3, 1), window_attrs(3, (1, 2, 3), 0, output_padding=(0, 1, 0))),
        ((0, 2, 3), (2, 2, 3), window_attrs(1, 2, output_padding=(0,))),
        ((2, 3, 1), (3, 2, 4), window_attrs(1, 2, ((1, 2),), 3, output_padding=(1,))),
        (
            (1, 4, 1, 3),
            (4, 1, 3, 2),
            window_attrs(2, 1, ((2, 0), (1, 0)), 2, groups=2, output_padding=(0, 0)),
        ),
    )
    return [Sample((floats(x), floats(w, seed=1)), attrs, grad=0 not in x) for x, w, attrs in cases]


register(
    OpDef(
        name="conv_transpose",
        doc=(
            "The adjoint of conv: x[n, i, p] * w[i, o, k] is added to "
            "y[n, o, p * strides + k * dilations - pads]. f16 and bf16 add in f32."
        ),
        operands=(2, 2),
        attrs=ConvTransposeAttrs,
        kind=Kind.COMPOSITE,
        infer=_infer_transpose,
        ref=_transpose_ref,
        decompose=_decompose_transpose,
        grad=_transpose_grad,
        samples=_transpose_samples,
        rejects=lambda: [
            Reject(
                float_types((1, 3, 5), (4, 2, 3)),
                window_attrs(1, output_padding=(0,)),
                "3 channels",
            ),
            Reject(
                float_types((1, 3, 5), (3, 2, 3)),
                window_attrs(1, 2, output_padding=(2,)),
                "is not between 0 and 1",
            ),
            Reject(
                float_types((1, 3, 5), (3, 2, 3)),
                window_attrs(1, groups=2, output_padding=(0,)),
                "do not split into 2",
            ),
            Reject(
                float_types((1, 3, 1), (3, 2, 3)),
                window_attrs(1, pads=2, output_padding=(0,)),
                "nothing is left",
            ),
            Reject(
                float_types((1, 3, 5), (3, 2, 3)),
                window_attrs(1, output_padding=()),
                "0 output_padding",
            ),
        ],
        tol=SUM_TOL,
    )
)
