"""Moves scales and shifts per output channel into the constant weights of contractions.

Reassociating: the products are made in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfc.compiler.evaluate import constant_array, is_constant
from tfc.compiler.rewrite import Fp, Rewriter, rewrite
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.ops.common import fields_of

SHARED_LIMIT = 1 << 16
"""Elements of weights that may be copied because another op uses them unscaled."""


class Weights(NamedTuple):
    """The constant weights of a contraction, and which axes its output channels are."""

    op: Op
    position: int
    axis: int
    channel: int

    @property
    def value(self) -> Value:
        return self.op.operands[self.position]


def weights_of(value: Value) -> Weights | None:
    """The weights by which `value` may be scaled: floats, constant, and nobody else's result."""
    op = value.op
    if op is None or op.name not in CHANNELS or len(value.uses) != 1:
        return None
    found = CHANNELS[op.name](op)
    if found is None or not is_constant(found.value):
        return None
    type = tensor_type(found.value)
    assert isinstance(type.size, int)
    shared = len(found.value.uses) > 1 and type.size > SHARED_LIMIT
    return found if type.dtype.is_float and not shared else None


def _conv_weights(op: Op) -> Weights:
    return Weights(op, 1, 0, 1)


def _matmul_weights(op: Op) -> Weights | None:
    rank = tensor_type(op.operands[1]).rank
    return None if rank < 2 else Weights(op, 1, rank - 1, tensor_type(op.result).rank - 1)


def _conv_transpose_weights(op: Op) -> Weights | None:
    return Weights(op, 1, 1, 1) if op.attrs.groups == 1 else None


CHANNELS: dict[str, Callable[[Op], Weights | None]] = {
    "conv": _conv_weights,
    "conv_transpose": _conv_transpose_weights,
    "matmul": _matmul_weights,
}


def per_channel(factor: Value, result: Value, channel: int) -> bool:
    """Whether `factor` is a constant that varies along no axis of `result` but the channels'."""
    if not is_constant(factor):
        return False
    have, want = tensor_type(factor).shape, tensor_type(result).shape
    if len(have) > len(want):
        return False
    padded = (1,) * (len(want) - len(have)) + have
    return all(
        dim == 1 or (axis == channel and dim == want[axis]) for axis, dim in enumerate(padded)
    )


def _wide(value: Value, rw: Rewriter) -> Array:
    return np.asarray(constant_array(value, rw.constants), np.float64)


def _rounded(b: GraphBuilder, array: Array, like: Value) -> Value:
    dtype = tensor_type(like).dtype
    rounded = arrays.encode(array.astype(np.float32) if dtype.name == "bf16" else array, dtype)
    result: Value = b.op("constant", **arrays.constant_attrs(rounded, b.constants, dtype)).result
    return result


def _scaled(weights: Weights, factor: Array, rw: Rewriter) -> Array:
    """The weights times one factor per channel, or one for all."""
    shape = [1] * tensor_type(weights.value).rank
    shape[weights.axis] = -1
    with np.errstate(all="ignore"):
        return np.asarray(_wide(weights.value, rw) * factor.reshape(shape))


# By element type: the greatest number, the least that keeps all its digits, and half the digits.
_RANGE = {
    "f16": (65504.0, 2.0**-14, 5),
    "bf16": (3.38e38, 2.0**-126, 4),
    "f32": (3.4e38, 2.0**-126, 12),
    "f64": (1.79e308, 2.0**-1022, 26),
}


def _fits(array: Array, like: Value) -> bool:
    """Whether all numbers are finite and none overflows the element type of `like`."""
    limit, _, _ = _RANGE[tensor_type(like).dtype.name]
    return bool(np.all(np.isfinite(array)) and np.all(np.abs(array) <= limit))


def _keeps_digits(array: Array, weights: Weights) -> bool:
    """Whether the greatest weight of every output channel is 0 or far from denormal."""
    _, normal, digits = _RANGE[tensor_type(weights.value).dtype.name]
    others = tuple(axis for axis in range(array.ndim) if axis != weights.axis)
    greatest = np.max(np.abs(array), others, initial=0)
    return bool(np.all((greatest == 0) | (greatest >= normal * 2.0**digits)))


def _cancels(sum: Array, term: Array, like: Value) -> bool:
    """Whether the sum of a large number and another is small: the rounding may be what is meant."""
    _, _, digits = _RANGE[tensor_type(like).dtype.name]
    size = np.abs(term)
    return bool(np.any((size > 2.0**digits) & (np.abs(sum) < size / 2)))


@rewrite("mul", "div", fp=Fp.REASSOCIATING)
def scale_into_weights(op: Op, rw: Rewriter) -> bool:
    """(x . w) * c is x . (w * c), and (x . w) / c is x . (w / c)."""
    y, c = op.operands
    weights = weights_of(y)
    if weights is None or not per_channel(c, y, weights.channel) or op.result.type != y.type:
        return False
    factor = _wide(c, rw)
    with np.errstate(all="ignore"):
        array = _scaled(weights, 1 / factor if op.name == "div" else factor, rw)
    if not (_fits(array, weights.value) and _keeps_digits(array, weights)):
        return False
    contraction = weights.op
    b = rw.builder(op, contraction)
    operands = list(contraction.operands)
    operands[weights.position] = _rounded(b, array, weights.value)
    attrs = fields_of(contraction.attrs)
    rw.replace(op, b.op(contraction.name, *operands, **attrs).result)
    return True


@rewrite("mul", "div", fp=Fp.REASSOCIATING)
def scale_past_shift(op: Op, rw: Rewriter) -> bool:
    """((x . w) + b) * c is (x . w) * c + b * c; the product then goes into the weights."""
    shifted, c = op.operands
    inner = shifted.op
    if inner is None or inner.name not in ("add", "sub") or len(shifted.uses) != 1:
        return False
    y, shift = inner.operands
    weights = weights_of(y)
    if weights is None or not op.result.type == shifted.type == y.type:
        return False
    if not all(per_channel(value, y, weights.channel) for value in (c, shift)):
        return False
    array = _apply(op, _wide(shift, rw), _wide(c, rw))
    if not _fits(array, y):
        return False
    b = rw.builder(op, inner)
    moved = _rounded(b, array, y)
    rw.replace(op, b.op(inner.name, b.op(op.name, y, c).result, moved).result)
    return True


@rewrite("add", "sub", fp=Fp.REASSOCIATING)
def shift_of_shift(op: Op, rw: Rewriter) -> bool:
    """((x . w) + a) + b is (x . w) + (a + b), with any signs."""
    shifted, b = op.operands
    inner = shifted.op
    if inner is None or inner.name not in ("add", "sub") or len(shifted.uses) != 1:
        return False
    y, a = inner.operands
    weights = weights_of(y)
    if weights is None or not op.result.type == shifted.type == y.type:
        return False
    if not all(per_channel(value, y, weights.channel) for value in (a, b)):
        return False
    first = _wide(a, rw) if inner.name == "add" else -_wide(a, rw)
    array = _apply(op, first, _wide(b, rw))
    if not _fits(array, y) or _cancels(array, first, y):
        return False
    builder = rw.builder(op, inner)
    rw.replace(op, builder.add(y, _rounded(builder, array, y)))
    return True


def _apply(op: Op, x: Array, y: Array) -> Array:
    """The op on float64 arrays."""
    with np.errstate(all="ignore"):
        result: Any = op.defn.ref(op.attrs, x, y)  # type: ignore[attr-defined]
    return np.asarray(result)


@rewrite("batch_norm", fp=Fp.REASSOCIATING)
def batch_norm_of_constants(op: Op, rw: Rewriter) -> bool:
    """x * a + b with a and b made in float64, where the statistics are constants."""
    x, *statistics = op.operands
    if not all(map(is_constant, statistics)):
        return False
    scale, bias, mean, var = (_wide(value, rw) for value in statistics)
    with np.errstate(all="ignore"):
        a = scale / np.sqrt(var + op.attrs.eps)
        shift = bias - mean * a
    if not (_fits(a, x) and _fits(shift, x)):
        return False
    b = rw.builder(op)
    shape = (-1, *(1,) * (tensor_type(x).rank - 2))
    scaled = b.mul(x, _rounded(b, a.reshape(shape), x))
    rw.replace(op, b.add(scaled, _rounded(b, shift.reshape(shape), x)))
    return True


@rewrite("reshape", fp=Fp.REASSOCIATING)
def instances_of_groups(op: Op, rw: Rewriter) -> bool:
    """Channels that a reshape merges with what is behind them, until they are normalised."""
    norm = op.operands[0].op
    if norm is None or norm.name != "instance_norm" or len(norm.result.uses) != 1:
        return False
    merge = norm.operands[0].op
    if merge is None or merge.name != "reshape":
        return False
    x = merge.operands[0]
    if x.type != op.result.type or not all(map(is_constant, norm.operands[1:])):
        return False
    shape, merged = tensor_type(x).shape, tensor_type(norm.result).shape
    channels, groups = shape[1] if len(shape) > 1 else 0, merged[1]
    if not isinstance(channels, int) or not isinstance(groups, int) or shape[0] != merged[0]:
        return False
    if not groups or channels % groups or 0 in merged:
        return False
    b = rw.builder(op, norm, merge)
    rest = (
        _rounded(b, np.repeat(_wide(value, rw), channels // groups), value)
        for value in norm.operands[1:]
    )
    rw.replace(op, b.group_norm(x, *rest, groups=groups, eps=norm.attrs.eps))
    return True


@rewrite("mul", "add", fp=Fp.REASSOCIATING)
def affine_into_norm(op: Op, rw: Rewriter) -> bool:
    """(x * a + b) * c + d is x * (a * c) + (b * c + d), for normalised x."""
    y, c = op.operands
    norm = y.op
    if norm is None or norm.name not in ("group_norm", "instance_norm") or len(y.uses) != 1:
        return False
    x, *rest = norm.operands
    if op.result.type != y.type or not all(map(is_constant, rest)) or not per_channel(c, y, 1):
        return False
    number = _wide(c, rw).reshape(-1)
    scale, shift = (_wide(value, rw) for value in rest)
    number = np.broadcast_to(number, scale.shape)
    made = (_apply(op, scale, number) if op.name == "mul" else scale, _apply(op, shift, number))
    if not all(_fits(array, y) for array in made) or _cancels(made[1], shift, y):
        return False
    b = rw.builder(op, norm)
    operands = [_rounded(b, array, like) for array, like in zip(made, rest, strict=True)]
    rw.replace(op, b.op(norm.name, x, *operands, **fields_of(norm.attrs)).result)
    return True


STATISTICS = (batch_norm_of_constants, instances_of_groups, affine_into_norm)
SCALE = (scale_into_weights, scale_past_shift, shift_of_shift)
