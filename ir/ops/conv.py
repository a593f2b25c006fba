"""Convolutions and transposed convolutions, and the window arithmetic that pooling shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tfc.ir.body import Expr, ExprBuilder, Index, Iter, Range
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, ceildiv, floordiv, maximum
from tfc.ir.opdef import Assumption, Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, compute_dtype, floats, require_kind, require_same_dtype
from tfc.ir.ops.movement import Shape, dims_of, fixed, refuted
from tfc.ir.ops.parts import dilate, reverse
from tfc.ir.ops.reduce import SUM_TOL, fold, iterate
from tfc.ir.types import F32, I64, TensorType, shape_text

Pads = tuple[tuple[int, int], ...]


# -- windows ------------------------------------------------------------------------------------


class Windowed(Protocol):
    """The attributes of an op that moves a window over the spatial axes."""

    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def pads(self) -> Pads: ...
    @property
    def dilations(self) -> tuple[int, ...]: ...


def require_window(attrs: Windowed, rank: int) -> None:
    """Refuse window attributes that do not fit `rank` spatial axes."""
    require(rank > 0, "there is no spatial axis")
    for name in ("strides", "pads", "dilations"):
        count = len(getattr(attrs, name))
        require(count == rank, f"{count} {name} for {rank} spatial axes")
    require(all(len(pair) == 2 for pair in attrs.pads), "pads are not pairs")
    require(min(attrs.strides) > 0, "strides are not positive")
    require(min(attrs.dilations) > 0, "dilations are not positive")


def window_assumptions(
    attrs: Windowed, sizes: Sequence[DimLike], kernel: Sequence[DimLike]
) -> list[Assumption]:
    """At least one window fits on each spatial axis."""
    found: list[Assumption] = []
    for axis, (size, count) in enumerate(zip(sizes, kernel, strict=True)):
        padded = size + sum(attrs.pads[axis])
        reach = (count - 1) * attrs.dilations[axis] + 1
        missing = maximum(reach - padded, 0)
        if missing != 0:
            text = f"a kernel of {reach} fits on {padded} elements of spatial axis {axis}"
            found.append(Assumption(missing, text))
    return found


def window_sizes(attrs: Windowed, sizes: Sequence[DimLike], kernel: Sequence[DimLike]) -> Shape:
    """Return how many windows fit on each spatial axis. Refuses where none does."""
    found: list[DimLike] = []
    for axis, (size, count) in enumerate(zip(sizes, kernel, strict=True)):
        require(not refuted(1, count), f"the kernel is empty along spatial axis {axis}")
        lo, hi = attrs.pads[axis]
        padded = size + lo + hi
        reach = (count - 1) * attrs.dilations[axis] + 1
        require(
            not refuted(reach, padded),
            f"the kernel reaches over {reach} elements, spatial axis {axis} has {padded}",
        )
        found.append(floordiv(padded - reach, attrs.strides[axis]) + 1)
    return tuple(found)


def window_index(
    attrs: Windowed,
    sizes: Sequence[DimLike],
    kernel: Sequence[DimLike],
    at: Sequence[DimLike],
    tap: Sequence[DimLike],
) -> tuple[Shape, tuple[Range, ...]]:
    """Return what tap `tap` of window `at` reads, and the ranges it must be in to be no padding.

    Axes on which no window reaches the padding have no range.
    """
    index: list[DimLike] = []
    ranges: list[Range] = []
    for axis, (size, count) in enumerate(zip(sizes, kernel, strict=True)):
        stride, dilation = attrs.strides[axis], attrs.dilations[axis]
        lo, hi = attrs.pads[axis]
        i = at[axis] * stride + tap[axis] * dilation - lo
        index.append(i)
        slack = size + lo + hi - (count - 1) * dilation - 1
        unused = slack % stride if isinstance(slack, int) else 0
        if lo > 0 or hi > unused:
            ranges.append(Range(i, 0, size))
    return tuple(index), tuple(ranges)


def taps_of(b: ExprBuilder, kernel: Sequence[DimLike]) -> tuple[tuple[Iter, ...], Shape]:
    pairs = [iterate(b, count, "k") for count in kernel]
    return tuple(it for own, _ in pairs for it in own), tuple(i for _, i in pairs)


def window_fold(
    b: ExprBuilder,
    op: Op,
    kernel: Sequence[DimLike],
    index: tuple[Index, ...],
    kind: str,
    padding: Expr,
) -> Expr:
    """Fold the windows of the first operand, channel by channel; padding counts as `padding`."""
    (x,) = op.operands
    iters, tap = taps_of(b, kernel)
    at = dims_of(index[2:])
    places, ranges = window_index(op.attrs, tensor_type(x).shape[2:], kernel, at, tap)
    element = b.cast(b.load(x, (*index[:2], *places)), padding.dtype)
    return fold(b, kind, iters, b.guard(ranges, element, padding), padding.dtype)


def padded(x: Array, pads: Pads, fill: float) -> Array:
    """Return x, its last axes padded with `fill`; negative pads take elements away."""
    pads = ((0, 0),) * (x.ndim - len(pads)) + pads
    out: Array = np.pad(x, [(max(lo, 0), max(hi, 0)) for lo, hi in pads], constant_values=fill)
    for axis, (lo, hi) in enumerate(pads):
        if min(lo, hi) < 0:
            out = np.take(out, range(max(-lo, 0), out.shape[axis] - max(-hi, 0)), axis)
    return out


def tap_slices(attrs: Windowed, tap: Sequence[int], counts: Sequence[int]) -> Any:
    """Return numpy's index of what one tap of all windows reads of the padded input."""
    steps = zip(tap, attrs.dilations, counts, attrs.strides, strict=True)
    return (..., *(slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, n, s in steps))


# -- conv ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConvAttrs:
    """pads: (before, behind) for each spatial axis, zeros; negative ones cut elements off."""

    strides: tuple[int, ...]
    pads: Pads
    dilations: tuple[int, ...]
    groups: int


def _require_conv(types: Sequence[TensorType], attrs: ConvAttrs | ConvTransposeAttrs) -> None:
    x, w = types
    require_kind(x, "fiu")
    require_same_dtype(types)
    require(x.rank == w.rank, f"the input has rank {x.rank}, the weights have {w.rank}")
    require_window(attrs, x.rank - 2)
    require(attrs.groups > 0, "groups are not positive")


def _require_groups(channels: DimLike, groups: int, what: str) -> DimLike:
    each = floordiv(channels, groups)
    require(each * groups == channels, f"{channels} {what} do not split into {groups} groups")
    return each


def _infer_conv(types: Sequence[TensorType], attrs: ConvAttrs) -> Sequence[TensorType]:
    _require_conv(types, attrs)
    x, w = types
    _require_groups(w.shape[0], attrs.groups, "output channels")
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


def unread(attrs: Windowed, sizes: Sequence[DimLike], kernel: Sequence[DimLike]) -> Shape:
    """Return how many elements at the end of each padded axis no window reaches."""
    counts = window_sizes(attrs, sizes, kernel)
    return tuple(
        size + lo + hi - ((count - 1) * d + 1) - (windows - 1) * s
        for size, (lo, hi), count, d, windows, s in zip(
            sizes, attrs.pads, kernel, attrs.dilations, counts, attrs.strides, strict=True
        )
    )


def _weight_grad(
    b: GraphBuilder, attrs: ConvAttrs | ConvTransposeAttrs, x: Value, g: Value, w: Value
) -> Value:
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
    return [to_x, _weight_grad(b, attrs, x, gs[0], w)]


def _attrs(
    rank: int,
    strides: int | tuple[int, ...] = 1,
    pads: int | Pads = 0,
    dilations: int | tuple[int, ...] = 1,
    groups: int = 1,
    **more: object,
) -> dict[str, object]:
    """Attributes of a sample; single numbers hold for every axis."""
    return {
        "strides": (strides,) * rank if isinstance(strides, int) else strides,
        "pads": ((pads, pads),) * rank if isinstance(pads, int) else pads,
        "dilations": (dilations,) * rank if isinstance(dilations, int) else dilations,
        "groups": groups,
        **more,
    }


def _conv_samples() -> Sequence[Sample]:
    cases: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, object]], ...] = (
        ((1, 3, 7), (4, 3, 3), _attrs(1, pads=1)),
        ((2, 3, 7, 6), (5, 3, 3, 3), _attrs(2)),
        ((2, 3, 7, 6), (5, 3, 3, 2), _attrs(2, 2, ((1, 1), (0, 1)))),
        ((1, 4, 8, 8), (6, 2, 3, 3), _attrs(2, (1, 2), 1, groups=2)),
        ((1, 3, 6, 7), (3, 1, 3, 3), _attrs(2, 2, 1, groups=3)),
        ((1, 3, 5, 5), (6, 1, 3, 3), _attrs(2, 1, ((2, 0), (0, 2)), groups=3)),
        ((2, 5, 4, 3), (7, 5, 1, 1), _attrs(2)),
        ((1, 2, 9, 8), (3, 2, 3, 2), _attrs(2, (1, 2), 2, (2, 3))),
        ((1, 2, 3, 4, 5), (3, 2, 2, 3, 2), _attrs(3, (1, 2, 1), 1)),
        ((1, 1, 1), (1, 1, 1), _attrs(1)),
        ((1, 2, 6), (3, 2, 3), _attrs(1, pads=((-1, 2),))),
        ((0, 2, 5), (3, 2, 3), _attrs(1)),
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
            Reject(_types((1, 3, 5), (4, 2, 3)), _attrs(1), "the input has 3 channels"),
            Reject(_types((1, 4, 5), (3, 2, 3)), _attrs(1, groups=2), "do not split into 2"),
            Reject(_types((1, 3, 2), (4, 3, 3)), _attrs(1), "reaches over 3 elements"),
            Reject(_types((1, 3, 5), (4, 3, 3)), _attrs(2), "2 strides for 1"),
            Reject(_types((1, 3, 5), (4, 3, 3)), _attrs(1, 0), "strides are not positive"),
            Reject(_types((1, 3, 5), (4, 3, 0)), _attrs(1), "kernel is empty"),
            Reject(_types((1, 3, 5, 5), (4, 3, 3)), _attrs(2), "rank"),
            Reject(
                (TensorType(F32, (1, 3, 5)), TensorType(I64, (4, 3, 3))), _attrs(1), "element type"
            ),
        ],
        tol=SUM_TOL,
    )
)


def _types(*shapes: Shape) -> tuple[TensorType, ...]:
    return tuple(TensorType(F32, shape) for shape in shapes)


# -- conv_transpose -----------------------------------------------------------------------------


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
    _require_conv(types, attrs)
    x, w = types
    require(
        x.shape[1] == w.shape[0],
        f"the input has {x.shape[1]} channels, the weights take {w.shape[0]}",
    )
    _require_groups(w.shape[0], attrs.groups, "input channels")
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
    y = _interleave(b, y, strides)
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
    w = b.transpose(w, perm=(0, 2, *(axis + 1 for axis in tap_axes), 1, *tap_axes))
    phases = 1
    for s in strides:
        phases *= s
    w = b.reshape(w, shape=(groups * outer * phases, inner, *taps))
    return reverse(b, w, range(2, 2 + rank))


def _interleave(b: GraphBuilder, y: Value, strides: Sequence[int]) -> Value:
    """Move the phases, the innermost part of the channels, between the spatial elements."""
    if all(s == 1 for s in strides):
        return y
    rank = len(strides)
    batch, channels, *sizes = tensor_type(y).shape
    phases = 1
    for s in strides:
        phases *= s
    outer = floordiv(channels, phases)
    y = b.reshape(y, shape=(batch, outer, *strides, *sizes))
    order = [axis for i in range(rank) for axis in (2 + rank + i, 2 + i)]
    y = b.transpose(y, perm=(0, 1, *order))
    merged = tuple(n * s for n, s in zip(sizes, strides, strict=True))
    found: Value = b.reshape(y, shape=(batch, outer, *merged))
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
    return [to_x, _weight_grad(b, attrs, gs[0], x, w)]


def _transpose_samples() -> Sequence[Sample]:
    cases: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, object]], ...] = (
        ((1, 3, 5), (3, 4, 3), _attrs(1, output_padding=(0,))),
        ((2, 3, 4, 5), (3, 2, 3, 3), _attrs(2, 2, 1, output_padding=(1, 0))),
        ((1, 4, 3, 3), (4, 3, 2, 2), _attrs(2, 2, groups=2, output_padding=(0, 0))),
        ((1, 2, 4, 3), (2, 1, 4, 3), _attrs(2, (3, 2), ((4, 0), (0, 3)), output_padding=(2, 1))),
        ((1, 2, 4), (2, 2, 3), _attrs(1, 1, 1, 2, output_padding=(1,))),
        ((1, 2, 4), (2, 2, 3), _attrs(1, 2, 1, 3, output_padding=(2,))),
        ((1, 2, 5), (2, 1, 2), _attrs(1, 4, groups=2, output_padding=(3,))),
        ((1, 1, 3), (1, 1, 3), _attrs(1, 2, ((-1, -3),), output_padding=(0,))),
        ((1, 2, 2, 3, 2), (2, 2, 2, 3, 1), _attrs(3, (1, 2, 3), 0, output_padding=(0, 1, 0))),
        ((0, 2, 3), (2, 2, 3), _attrs(1, 2, output_padding=(0,))),
        ((2, 3, 1), (3, 2, 4), _attrs(1, 2, ((1, 2),), 3, output_padding=(1,))),
        (
            (1, 4, 1, 3),
            (4, 1, 3, 2),
            _attrs(2, 1, ((2, 0), (1, 0)), 2, groups=2, output_padding=(0, 0)),
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
            Reject(_types((1, 3, 5), (4, 2, 3)), _attrs(1, output_padding=(0,)), "3 channels"),
            Reject(
                _types((1, 3, 5), (3, 2, 3)),
                _attrs(1, 2, output_padding=(2,)),
                "is not between 0 and 1",
            ),
            Reject(
                _types((1, 3, 5), (3, 2, 3)),
                _attrs(1, groups=2, output_padding=(0,)),
                "do not split into 2",
            ),
            Reject(
                _types((1, 3, 1), (3, 2, 3)),
                _attrs(1, pads=2, output_padding=(0,)),
                "nothing is left",
            ),
            Reject(_types((1, 3, 5), (3, 2, 3)), _attrs(1, output_padding=()), "0 output_padding"),
        ],
        tol=SUM_TOL,
    )
)
