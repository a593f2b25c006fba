"""Normalisations: composites that stay whole until `decompose`, in the form a row kernel wants.

f16 and bf16 are normalised in f32. Start at `softmax`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.opdef import (
    Grad,
    Kind,
    NoGrad,
    OpDef,
    Reject,
    Sample,
    register,
    require,
)
from tfc.ir.ops.common import (
    CLOSE,
    PURE,
    THROUGH,
    Array,
    broadcast_shapes,
    compute_dtype,
    fields_of,
    floats,
    in_f64,
    like,
    normalize_axis,
    require_kind,
    require_same_dtype,
)
from tfc.ir.types import BOOL, F32, TensorType

TOL = CLOSE | {"f32": 4e-6, "f64": 1e-14}
_X = TensorType(F32, (2, 3))


def wide(b: GraphBuilder, x: Value) -> Value:
    """Return `x` in the element type that it is normalised in."""
    dtype = tensor_type(x).dtype
    return b.cast(x, dtype=compute_dtype(dtype)) if compute_dtype(dtype) != dtype else x


def narrowed(b: GraphBuilder, y: Value, x: Value) -> Value:
    """Return `y` in the element type of `x`."""
    dtype = tensor_type(x).dtype
    return y if tensor_type(y).dtype == dtype else b.cast(y, dtype=dtype)


def _composite(
    name: str,
    *,
    operands: tuple[int, int],
    attrs: type,
    infer: Callable[[Sequence[TensorType], Any], Sequence[TensorType]],
    ref: Callable[..., Array],
    decompose: Callable[..., Value],
    samples: Callable[[], Sequence[Sample]],
    rejects: Sequence[Reject],
    doc: str,
    grad: Grad | NoGrad = THROUGH,
) -> OpDef:
    """Register a composite: ref(*f64 arrays, **attrs), decompose(b, *wide operands, **attrs)."""

    def expand(b: GraphBuilder, op: Op) -> Sequence[Value]:
        operands = [wide(b, x) for x in op.operands]
        return [narrowed(b, decompose(b, *operands, **fields_of(op.attrs)), op.operands[0])]

    in_numpy = in_f64(ref)
    return register(
        OpDef(
            name=name,
            operands=operands,
            attrs=attrs,
            kind=Kind.COMPOSITE,
            infer=infer,
            ref=lambda values, *arrays: in_numpy(*arrays, **fields_of(values)),
            decompose=expand,
            grad=grad,
            traits=PURE,
            samples=samples,
            rejects=lambda: rejects,
            tol=TOL,
            doc=doc,
        )
    )


# -- softmax ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AxisAttrs:
    """axis: along which elements are normalised."""

    axis: int = -1


def _axis_infer(types: Sequence[TensorType], attrs: AxisAttrs) -> Sequence[TensorType]:
    require_kind(types[0], "f")
    normalize_axis(attrs.axis, types[0].rank)
    return types


def _below_max(x: Array, axis: int) -> Array:
    top = np.max(x, axis, keepdims=True, initial=-np.inf)
    return np.asarray(x - np.where(x.shape[axis], top, 0))


def _softmax_ref(x: Array, axis: int) -> Array:
    e = np.exp(_below_max(x, axis))
    return np.asarray(e / np.sum(e, axis, keepdims=True))


def _log_softmax_ref(x: Array, axis: int) -> Array:
    z = _below_max(x, axis)
    return np.asarray(z - np.log(np.sum(np.exp(z), axis, keepdims=True)))


def _softmax(b: GraphBuilder, x: Value, *, axis: int) -> Value:
    axis %= tensor_type(x).rank
    e = b.exp(b.sub(x, b.reduce_max(x, axes=(axis,), keepdims=True)))
    return b.div(e, b.reduce_sum(e, axes=(axis,), keepdims=True))  # type: ignore[no-any-return]


def _log_softmax(b: GraphBuilder, x: Value, *, axis: int) -> Value:
    axis %= tensor_type(x).rank
    z = b.sub(x, b.reduce_max(x, axes=(axis,), keepdims=True))
    total = b.reduce_sum(b.exp(z), axes=(axis,), keepdims=True)
    return b.sub(z, b.log(total))  # type: ignore[no-any-return]


def _softmax_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """y * (g - sum(g * y))."""
    axis = op.attrs.axis % tensor_type(op.result).rank
    weighted = b.reduce_sum(b.mul(gs[0], op.result), axes=(axis,), keepdims=True)
    return [b.mul(op.result, b.sub(gs[0], weighted))]


def _log_softmax_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """g - e**y * sum(g)."""
    axis = op.attrs.axis % tensor_type(op.result).rank
    total = b.reduce_sum(gs[0], axes=(axis,), keepdims=True)
    return [b.sub(gs[0], b.mul(b.exp(op.result), total))]


def _axis_samples() -> Sequence[Sample]:
    extreme = np.array([[1e30, -1e30, 1.0], [-np.inf, 0.0, 1.0], [np.nan, 0.0, 1.0]], np.float32)
    return (
        Sample((floats((3, 5), -6, 6),)),
        Sample((floats((2, 3, 4), -6, 6),), {"axis": 1}),
        Sample((floats((4,), -6, 6),), {"axis": 0}),
        Sample((floats((0, 3)),)),
        Sample((floats((3, 0)),)),
        Sample((extreme,), grad=False),
    )


_AXIS_REJECTS = (
    Reject((_X,), {"axis": 2}, "axis 2 is out of range for rank 2"),
    Reject((TensorType(BOOL, (2,)),), {}, "not bool"),
)

softmax = _composite(
    "softmax",
    operands=(1, 1),
    attrs=AxisAttrs,
    infer=_axis_infer,
    ref=_softmax_ref,
    decompose=_softmax,
    grad=_softmax_grad,
    samples=_axis_samples,
    rejects=_AXIS_REJECTS,
    doc="e**(x - m) / sum(e**(x - m)) along `axis`, m being the greatest element. NaN where a row "
    "has NaN or +inf, or nothing but -inf.",
)
log_softmax = _composite(
    "log_softmax",
    operands=(1, 1),
    attrs=AxisAttrs,
    infer=_axis_infer,
    ref=_log_softmax_ref,
    decompose=_log_softmax,
    grad=_log_softmax_grad,
    samples=_axis_samples,
    rejects=_AXIS_REJECTS,
    doc="log(softmax(x)) along `axis`, as x - m - log(sum(e**(x - m))).",
)

# -- over the last axes -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayerAttrs:
    """axis: the first of the axes that are normalised together. eps: added to the variance."""

    axis: int = -1
    eps: float = 1e-5


def _layer_infer(types: Sequence[TensorType], attrs: LayerAttrs) -> Sequence[TensorType]:
    x = types[0]
    require_kind(x, "f")
    require_same_dtype(types)
    normalize_axis(attrs.axis, x.rank)
    for name, type in zip(("scale", "bias"), types[1:], strict=False):
        fits = broadcast_shapes(x.shape, type.shape) == x.shape
        require(fits, f"{name} of shape {list(type.shape)} widens x")
    return (x,)


def _affine(b: GraphBuilder, y: Value, rest: tuple[Value, ...]) -> Value:
    """y * scale + bias, as far as they are given."""
    if rest:
        y = b.mul(y, rest[0])
    return b.add(y, rest[1]) if len(rest) > 1 else y


def _layer_ref(x: Array, scale: Any = 1.0, bias: Any = 0.0, *, axis: int, eps: float) -> Array:
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = np.mean(x, axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(np.var(x, axes, keepdims=True) + eps) * scale + bias)


def _layer_norm(b: GraphBuilder, x: Value, *rest: Value, axis: int, eps: float) -> Value:
    rank = tensor_type(x).rank
    return _affine(b, _normalized(b, x, tuple(range(axis % rank, rank)), eps), rest)


def _normalized(b: GraphBuilder, x: Value, axes: tuple[int, ...], eps: float) -> Value:
    """(x - mean) / sqrt(variance + eps), the variance taken from the centred values."""
    centred = b.sub(x, b.reduce_mean(x, axes=axes, keepdims=True))
    variance = b.reduce_mean(b.mul(centred, centred), axes=axes, keepdims=True)
    return b.div(centred, b.sqrt(b.add(variance, like(b, eps, x))))  # type: ignore[no-any-return]


def _rms_ref(x: Array, scale: Any = 1.0, *, axis: int, eps: float) -> Array:
    axes = tuple(range(axis % x.ndim, x.ndim))
    return np.asarray(x / np.sqrt(np.mean(x * x, axes, keepdims=True) + eps) * scale)


def _rms_norm(b: GraphBuilder, x: Value, *rest: Value, axis: int, eps: float) -> Value:
    rank = tensor_type(x).rank
    square = b.reduce_mean(b.mul(x, x), axes=tuple(range(axis % rank, rank)), keepdims=True)
    return _affine(b, b.div(x, b.sqrt(b.add(square, like(b, eps, x)))), rest)


def _layer_samples(operands: int) -> Callable[[], Sequence[Sample]]:
    def samples() -> Sequence[Sample]:
        x = floats((2, 3, 4))
        rest = (floats((4,), 0.5, 2), floats((4,), seed=1))[: operands - 1]
        planes = (floats((3, 4), 0.5, 2), floats((3, 1), seed=1))[: operands - 1]
        return (
            Sample((x,)),
            Sample((x, *rest)),
            Sample((x, *planes), {"axis": 1, "eps": 1e-3}),
            Sample((floats((0, 4)), *rest)),
        )

    return samples


_LAYER_REJECTS = (
    Reject((_X, TensorType(F32, (2, 2, 3))), {}, "widens x"),
    Reject((_X, TensorType(F32, (4,))), {}, "do not broadcast"),
    Reject((_X,), {"axis": -3}, "out of range"),
)

layer_norm = _composite(
    "layer_norm",
    operands=(1, 3),
    attrs=LayerAttrs,
    infer=_layer_infer,
    ref=_layer_ref,
    decompose=_layer_norm,
    samples=_layer_samples(3),
    rejects=_LAYER_REJECTS,
    doc="(x - mean) / sqrt(variance + eps) * scale + bias, over the axes from `axis` on. Operands: "
    "x, scale, bias; the last two may be left out.",
)
rms_norm = _composite(
    "rms_norm",
    operands=(1, 2),
    attrs=LayerAttrs,
    infer=_layer_infer,
    ref=_rms_ref,
    decompose=_rms_norm,
    samples=_layer_samples(2),
    rejects=_LAYER_REJECTS,
    doc="x / sqrt(mean(x * x) + eps) * scale, over the axes from `axis` on.",
)

# -- over channels ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EpsAttrs:
    """eps: added to the variance."""

    eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class GroupAttrs:
    """groups: of channels that are normalised together. eps: added to the variance."""

    groups: int = 1
    eps: float = 1e-5


def _channel_infer(types: Sequence[TensorType], attrs: Any) -> Sequence[TensorType]:
    x = types[0]
    require_kind(x, "f")
    require_same_dtype(types)
    require(x.rank >= 2, f"x has rank {x.rank}, and no channels")
    for type in types[1:]:
        fits = type.shape == (x.shape[1],)
        require(fits, f"{list(type.shape)} is not one number for each of {x.shape[1]} channels")
    return (x,)


def _group_infer(types: Sequence[TensorType], attrs: GroupAttrs) -> Sequence[TensorType]:
    found = _channel_infer(types, attrs)
    channels = found[0].shape[1]
    require(isinstance(channels, int), f"the number of channels, {channels}, is not fixed")
    even = attrs.groups > 0 and channels % attrs.groups == 0
    require(even, f"{channels} channels do not make {attrs.groups} groups")
    return found


def _per_channel(b: GraphBuilder, v: Value, rank: int) -> Value:
    """Reshape [C] to [C, 1, ...], which lies along axis 1 of a tensor of `rank`."""
    shape = tensor_type(v).shape + (1,) * (rank - 2)
    return v if rank == 2 else b.reshape(v, shape=shape)


def _columns(v: Array, rank: int) -> Array:
    return v.reshape(v.shape + (1,) * (rank - 2))


def _batch_ref(x: Array, scale: Array, bias: Array, mean: Array, var: Array, eps: float) -> Array:
    scale, bias, mean, var = (_columns(v, x.ndim) for v in (scale, bias, mean, var))
    return np.asarray((x - mean) / np.sqrt(var + eps) * scale + bias)


def _batch_norm(
    b: GraphBuilder, x: Value, scale: Value, bias: Value, mean: Value, var: Value, *, eps: float
) -> Value:
    """x * s + t, where s and t are constants as soon as the statistics are."""
    rank = tensor_type(x).rank
    s = b.div(scale, b.sqrt(b.add(var, like(b, eps, var))))
    t = b.sub(bias, b.mul(mean, s))
    return b.add(  # type: ignore[no-any-return]
        b.mul(x, _per_channel(b, s, rank)), _per_channel(b, t, rank)
    )


def _group_ref(x: Array, scale: Array, bias: Array, groups: int, eps: float) -> Array:
    grouped = x.reshape(x.shape[0], groups, int(np.prod(x.shape[1:])) // groups)
    mean, var = np.mean(grouped, 2, keepdims=True), np.var(grouped, 2, keepdims=True)
    y = ((grouped - mean) / np.sqrt(var + eps)).reshape(x.shape)
    return np.asarray(y * _columns(scale, x.ndim) + _columns(bias, x.ndim))


def _group_norm(
    b: GraphBuilder, x: Value, scale: Value, bias: Value, *, groups: int, eps: float
) -> Value:
    """Axes are split and none merged, so that the elements may lie in any order."""
    shape = tensor_type(x).shape
    channels = shape[1]
    assert isinstance(channels, int)
    split = (groups, channels // groups)
    grouped = b.reshape(x, shape=(shape[0], *split, *shape[2:]))
    y = _normalized(b, grouped, tuple(range(2, len(shape) + 1)), eps)
    rest = (b.reshape(v, shape=(*split, *(1,) * (len(shape) - 2))) for v in (scale, bias))
    return b.reshape(_affine(b, y, tuple(rest)), shape=shape)  # type: ignore[no-any-return]


def _instance_ref(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    return _group_ref(x, scale, bias, x.shape[1], eps)


def _instance_norm(b: GraphBuilder, x: Value, scale: Value, bias: Value, *, eps: float) -> Value:
    rank = tensor_type(x).rank
    y = _normalized(b, x, tuple(range(2, rank)), eps)
    return _affine(b, y, (_per_channel(b, scale, rank), _per_channel(b, bias, rank)))


def _spatial_infer(types: Sequence[TensorType], attrs: Any) -> Sequence[TensorType]:
    found = _channel_infer(types, attrs)
    require(found[0].rank >= 3, "x has no axes behind the channels")
    return found


def _channel_samples(statistics: int, *attrs: dict[str, Any]) -> Callable[[], Sequence[Sample]]:
    def samples() -> Sequence[Sample]:
        found = []
        for shape in ((2, 4, 3, 5), (1, 4, 6), (0, 4, 2)):
            rest = [floats((4,), 0.5, 2, seed=seed) for seed in range(statistics)]
            found += [Sample((floats(shape), *rest), a) for a in attrs]
        return found

    return samples


def _channel_rejects(operands: int, attrs: dict[str, Any]) -> tuple[Reject, ...]:
    per_channel = (TensorType(F32, (3,)),) * (operands - 2)
    return (
        Reject((TensorType(F32, (3,)),) * operands, attrs, "no channels"),
        Reject((_X, *per_channel, TensorType(F32, (2,))), attrs, "not one number for each of 3"),
        Reject((TensorType(BOOL, (2, 3)),) * operands, attrs, "not bool"),
    )


batch_norm = _composite(
    "batch_norm",
    operands=(5, 5),
    attrs=EpsAttrs,
    infer=_channel_infer,
    ref=_batch_ref,
    decompose=_batch_norm,
    samples=_channel_samples(4, {}, {"eps": 0.1}),
    rejects=_channel_rejects(5, {}),
    doc="(x - mean) / sqrt(var + eps) * scale + bias, one of each per channel, which is axis 1. "
    "Operands: x, scale, bias, mean, var.",
)
group_norm = _composite(
    "group_norm",
    operands=(3, 3),
    attrs=GroupAttrs,
    infer=_group_infer,
    ref=_group_ref,
    decompose=_group_norm,
    samples=_channel_samples(2, {}, {"groups": 2, "eps": 1e-3}),
    rejects=(
        *_channel_rejects(3, {}),
        Reject((_X, *(TensorType(F32, (3,)),) * 2), {"groups": 2}, "3 channels do not make 2"),
    ),
    doc="(x - mean) / sqrt(variance + eps) within each group of channels of each item, then one "
    "scale and bias per channel.",
)
instance_norm = _composite(
    "instance_norm",
    operands=(3, 3),
    attrs=EpsAttrs,
    infer=_spatial_infer,
    ref=_instance_ref,
    decompose=_instance_norm,
    samples=_channel_samples(2, {}, {"eps": 0.1}),
    rejects=(
        *_channel_rejects(3, {}),
        Reject((_X, *(TensorType(F32, (3,)),) * 2), {}, "no axes behind the channels"),
    ),
    doc="(x - mean) / sqrt(variance + eps) over the spatial axes of each channel of each item, "
    "then one scale and bias per channel.",
)

# -- across channels ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LrnAttrs:
    """size: channels in the window. alpha, beta, bias: of the formula."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0


def _lrn_infer(types: Sequence[TensorType], attrs: LrnAttrs) -> Sequence[TensorType]:
    require_kind(types[0], "f")
    require(types[0].rank >= 2, f"x has rank {types[0].rank}, and no channels")
    require(attrs.size > 0, f"size is {attrs.size}")
    return types


def _lrn_ref(x: Array, size: int, alpha: float, beta: float, bias: float) -> Array:
    total = np.zeros_like(x)
    channels = x.shape[1]
    for c in range(channels):
        lo, hi = max(0, c - (size - 1) // 2), min(channels, c + size // 2 + 1)
        total[:, c] = np.sum(x[:, lo:hi] ** 2, 1)
    return np.asarray(x / (bias + alpha / size * total) ** beta)


def _lrn(b: GraphBuilder, x: Value, *, size: int, alpha: float, beta: float, bias: float) -> Value:
    """The window is a sum of shifted slices, so that it fuses with what is around it."""
    shape = tensor_type(x).shape
    rank = len(shape)
    edges = [[0] * rank, [0] * rank]
    edges[0][1], edges[1][1] = (size - 1) // 2, size // 2
    padded = b.pad(b.mul(x, x), lo=tuple(edges[0]), hi=tuple(edges[1]), mode="constant")
    total = None
    for k in range(size):
        starts = (0, k, *(0,) * (rank - 2))
        part = b.slice(padded, starts=starts, sizes=shape, steps=(1,) * rank)
        total = part if total is None else b.add(total, part)
    scaled = b.add(b.mul(total, like(b, alpha / size, x)), like(b, bias, x))
    if beta == 0.75:
        root = b.sqrt(scaled)
        return b.div(x, b.mul(root, b.sqrt(root)))  # type: ignore[no-any-return]
    return b.div(x, b.pow(scaled, like(b, beta, x)))  # type: ignore[no-any-return]


lrn = _composite(
    "lrn",
    operands=(1, 1),
    attrs=LrnAttrs,
    infer=_lrn_infer,
    ref=_lrn_ref,
    decompose=_lrn,
    samples=lambda: (
        Sample((floats((2, 5, 3, 2)),), {"size": 3, "alpha": 0.1}),
        Sample((floats((1, 4, 3)),), {"size": 4, "alpha": 0.5, "beta": 0.5, "bias": 2.0}),
        Sample((floats((0, 4)),), {"size": 5}),
    ),
    rejects=(
        Reject((TensorType(F32, (2,)),), {"size": 3}, "no channels"),
        Reject((_X,), {"size": 0}, "size is 0"),
        Reject((TensorType(BOOL, (2, 2)),), {"size": 1}, "not bool"),
    ),
    doc="x / (bias + alpha / size * s) ** beta, s being the sum of squares over the channels from "
    "c - (size - 1) // 2 to c + size // 2.",
)
