"""Normalising operators, products of matrices, and quantisation."""

from __future__ import annotations

from collections.abc import Sequence

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.compiler.frontends.onnx.storage import INTEGERS, limits, unpacked
from tfc.compiler.frontends.onnx.tensors import dtype_from
from tfc.compiler.frontends.onnx.window import lowest
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import Dim, ceildiv, product
from tfc.ir.ops.common import compute_dtype
from tfc.ir.types import F32, F64, I8, I32, U8, DType, TensorType, shape_text


def _softmax(name: str) -> tuple[Rule, ...]:
    """Before opset 13 all axes from `axis` on are normalised together."""

    def build(ctx: Context) -> Results:
        return _apply(ctx, ctx.x(), ctx.axis(ctx.integer("axis", -1), ctx.type().rank))

    def flattened(ctx: Context) -> Results:
        x, type = ctx.x(), ctx.type()
        axis = ctx.axis(ctx.integer("axis", 1), type.rank)
        rows = ctx.reshape(x, (*type.shape[:axis], product(type.shape[axis:])))
        return ctx.reshape(_apply(ctx, rows, axis), type.shape)

    def _apply(ctx: Context, x: Value, axis: int) -> Value:
        found: Value = getattr(ctx.b, name)(x, axis=axis)
        return found

    return (Rule(flattened), Rule(build, since=13))


def _hardmax(ctx: Context) -> Results:
    """1 at the first largest element, 0 elsewhere."""
    x, type = ctx.x(), ctx.type()
    axis = ctx.axis(ctx.integer("axis", -1 if ctx.opset >= 13 else 1), type.rank)
    shape = type.shape if ctx.opset >= 13 else (*type.shape[:axis], product(type.shape[axis:]))
    if shape[axis] == 0:
        return x
    rows = ctx.reshape(x, shape)
    searched = rows
    if not isinstance(shape[axis], int):
        # Where a run finds no element along the axis, it still has one to find.
        none = (0,) * len(shape)
        more = (*none[:axis], 1, *none[axis + 1 :])
        least = ctx.scalar(lowest(type.dtype), x)
        searched = ctx.b.pad(rows, least, lo=none, hi=more, mode="constant")
    first = ctx.b.argmax(searched, axis=axis, keepdims=True, last=False)
    hit = ctx.b.eq(ctx.b.iota(shape=shape, axis=axis), first)
    return ctx.reshape(ctx.cast(hit, type.dtype), type.shape)


def _with_channels(ctx: Context) -> Value:
    """The first operand, with a channel for each of the numbers that the others hold."""
    if ctx.type().rank < 2:
        return ctx.x()
    counts = [ctx.shape(i)[0] for i in range(1, ctx.count) if ctx.type(i).rank == 1]
    for count in counts:
        ctx.equate(ctx.shape()[1], count)
    return ctx.fit_axis(ctx.x(), 1, counts[0]) if counts else ctx.x()


def _batch_norm(ctx: Context) -> Results:
    training = ctx.flag("training_mode", ctx.opset < 7 and not ctx.flag("is_test"))
    momentum = ctx.real("momentum", 0.9)
    spatial = ctx.flag("spatial", True)
    if training and ctx.opset >= 14:
        return _trained_norm(ctx, momentum)
    ctx.refuse_outputs_from(1)
    if training:
        raise ctx.unsupported(f"training in opset {ctx.opset}")
    operands, dtype = [ctx.x(i) for i in range(5)], ctx.type().dtype
    wide = max((tensor_type(x).dtype for x in operands), key=lambda dtype: dtype.bits)
    if spatial:
        operands[0] = _with_channels(ctx)
    operands = [ctx.cast(x, wide) for x in operands]
    eps = ctx.real("epsilon", 1e-5)
    if spatial:
        return ctx.cast(ctx.b.batch_norm(*operands, eps=eps), dtype)
    # One number for each place of an item, instead of each channel.
    x, scale, bias, mean, variance = operands
    deviation = ctx.b.sqrt(ctx.b.add(variance, ctx.scalar(eps, variance)))
    y = ctx.b.mul(scale, ctx.b.div(ctx.b.sub(x, mean), deviation))
    return ctx.cast(ctx.b.add(y, bias), dtype)


def _trained_norm(ctx: Context, momentum: float) -> Results:
    """Normalise by the batch's own statistics; the running ones move towards them."""
    x = _with_channels(ctx)
    dtype, rank = ctx.type().dtype, ctx.type().rank
    axes = tuple(axis for axis in range(rank) if axis != 1)
    mean = ctx.b.reduce_mean(x, axes=axes, keepdims=True)
    centred = ctx.b.sub(x, mean)
    variance = ctx.b.reduce_mean(ctx.b.mul(centred, centred), axes=axes, keepdims=True)
    channels = ctx.shape(1)
    found = [ctx.reshape(mean, channels), ctx.reshape(variance, channels)]
    scale, bias = (ctx.cast(ctx.x(i), dtype) for i in (1, 2))
    y = ctx.b.batch_norm(x, scale, bias, *found, eps=ctx.real("epsilon", 1e-5))
    moved = []
    for position, new in zip((3, 4), found, strict=True):
        old = ctx.x(position)
        kept = ctx.b.mul(old, ctx.scalar(momentum, old))
        share = ctx.b.mul(ctx.cast(new, tensor_type(old).dtype), ctx.scalar(1 - momentum, old))
        moved.append(ctx.b.add(kept, share))
    return [y, *moved]


def _instance_norm(ctx: Context) -> Results:
    x, eps = _with_channels(ctx), ctx.real("epsilon", 1e-5)
    found: Value = ctx.b.instance_norm(x, ctx.x(1), ctx.x(2), eps=eps)
    return found


def _group_norm(ctx: Context) -> Results:
    """Before opset 21 scale and bias hold one number for each group, not channel."""
    x, scale, bias = ctx.x(0), ctx.x(1), ctx.x(2)
    groups = ctx.integer("num_groups")
    ctx.integer("stash_type", 1)
    channels = ctx.type().shape[1] if ctx.type().rank > 1 else None
    if isinstance(channels, Dim):
        raise ctx.unsupported(f"groups of {channels} channels; fix the dim with dims")
    if channels is None or groups < 1 or channels % groups:
        raise ctx.malformed(f"{channels} channels do not make {groups} groups")
    if ctx.opset < 21 and ctx.shape(1) == (groups,):
        scale, bias = (_per_channel(ctx, v, groups, channels) for v in (scale, bias))
    found: Value = ctx.b.group_norm(x, scale, bias, groups=groups, eps=ctx.real("epsilon", 1e-5))
    return found


def _per_channel(ctx: Context, x: Value, groups: int, channels: int) -> Value:
    spread = ctx.b.broadcast(ctx.reshape(x, (groups, 1)), shape=(groups, channels // groups))
    return ctx.reshape(spread, (channels,))


def _not_widened(ctx: Context) -> Value:
    """The first operand, as wide as scale and bias wherever they are wider than 1."""
    wanted = list(ctx.shape())
    for position in range(1, ctx.count):
        shape = ctx.shape(position) if ctx.has(position) else ()
        for axis, dim in zip(range(-1, -1 - len(wanted), -1), reversed(shape), strict=False):
            if dim != 1:
                ctx.equate(ctx.shape()[axis], dim)
                wanted[axis] = dim
    return ctx.fit(ctx.x(), wanted)


def _layer_norm(ctx: Context) -> Results:
    if ctx.uses(1) or ctx.uses(2):
        return ctx.expand()
    operands = [x for x in (_not_widened(ctx), ctx.x(1), ctx.optional(2)) if x is not None]
    axis = ctx.axis(ctx.integer("axis", -1), ctx.type().rank)
    found: Value = ctx.b.layer_norm(*operands, axis=axis, eps=ctx.real("epsilon", 1e-5))
    return found


def _rms_norm(ctx: Context) -> Results:
    axis = ctx.axis(ctx.integer("axis", -1), ctx.type().rank)
    x, scale = _not_widened(ctx), ctx.x(1)
    own, result = tensor_type(x).dtype, tensor_type(scale).dtype
    wide = own if own == result else F64 if F64 in (own, result) else F32
    x, scale = ctx.cast(x, wide), ctx.cast(scale, wide)
    found: Value = ctx.b.rms_norm(x, scale, axis=axis, eps=ctx.real("epsilon", 1e-5))
    return ctx.cast(found, result)


def _lp_norm(ctx: Context) -> Results:
    """x / |x|, and 0 where all of x is."""
    x, rank = ctx.x(), ctx.type().rank
    order = ctx.integer("p", 2)
    if order not in (1, 2):
        raise ctx.malformed(f"p is {order}, not 1 or 2")
    axis = ctx.axis(ctx.integer("axis", -1), rank)
    reduce = ctx.b.reduce_l1 if order == 1 else ctx.b.reduce_l2
    norm = reduce(x, axes=(axis,), keepdims=True)
    zero = ctx.scalar(0, x)
    found: Value = ctx.b.select(ctx.b.eq(norm, zero), zero, ctx.b.div(x, norm))
    return found


def _lrn(ctx: Context) -> Results:
    found: Value = ctx.b.lrn(
        ctx.x(),
        size=ctx.integer("size"),
        alpha=ctx.real("alpha", 1e-4),
        beta=ctx.real("beta", 0.75),
        bias=ctx.real("bias", 1.0),
    )
    return found


def _mean_variance(ctx: Context) -> Results:
    x = ctx.x()
    axes = ctx.axes(ctx.integers("axes") or (0, 2, 3), ctx.type().rank)
    centred = ctx.b.sub(x, ctx.b.reduce_mean(x, axes=axes, keepdims=True))
    square = ctx.b.mul(centred, centred)
    deviation = ctx.b.sqrt(ctx.b.reduce_mean(square, axes=axes, keepdims=True))
    found: Value = ctx.b.div(centred, ctx.b.add(deviation, ctx.scalar(1e-9, x)))
    return found


# -- products -----------------------------------------------------------------------------------


def _matmul(ctx: Context) -> Results:
    return _product(ctx, ctx.x(0), ctx.x(1))


def _product(ctx: Context, x: Value, y: Value) -> Value:
    left, right = tensor_type(x).shape, tensor_type(y).shape
    if left and right:
        ctx.equate(left[-1], right[-1 if len(right) == 1 else -2])
    found: Value = ctx.b.matmul(x, y)
    return found


def _transposed(ctx: Context, position: int, name: str) -> Value:
    x = ctx.x(position)
    if ctx.type(position).rank != 2:
        raise ctx.malformed(f"operand {position} has rank {ctx.type(position).rank}, not 2")
    if not ctx.flag(name):
        return x
    found: Value = ctx.b.transpose(x, perm=(1, 0))
    return found


def _scaled(ctx: Context, x: Value, factor: float) -> Value:
    if factor == 1:
        return x
    found: Value = ctx.b.mul(x, ctx.scalar(factor, x))
    return found


def _gemm(ctx: Context) -> Results:
    x, y = _transposed(ctx, 0, "transA"), _transposed(ctx, 1, "transB")
    y = _scaled(ctx, _product(ctx, x, y), ctx.real("alpha", 1.0))
    beta = ctx.real("beta", 1.0)
    ctx.flag("broadcast")
    if not ctx.has(2):
        return y
    found: Value = ctx.b.add(y, _scaled(ctx, ctx.x(2), beta))
    if tensor_type(found).rank != 2:
        raise ctx.malformed("operand 2 has too many axes")
    return found


# -- quantisation -------------------------------------------------------------------------------


def _one_number(ctx: Context, x: Value) -> Value:
    """A scale or zero point of one element as a scalar."""
    return ctx.as_scalar(x) if tensor_type(x).shape == (1,) else x


def _quantised_operands(ctx: Context) -> list[Value]:
    operands = [ctx.x(0), _one_number(ctx, ctx.x(1))]
    if ctx.has(2):
        operands.append(_one_number(ctx, ctx.x(2)))
    size = ctx.integer("block_size", 0)
    if size:
        axis = _block_axis(ctx, size, operands[1:])
        operands[1:] = [_in_blocks(ctx, v, axis, size) for v in operands[1:]]
    return operands


def _block_axis(ctx: Context, size: int, shared: Sequence[Value]) -> int:
    """The axis that is cut into blocks, for each of which `shared` have an element."""
    shape = ctx.shape()
    axis = ctx.axis(ctx.integer("axis", 1), len(shape))
    if isinstance(shape[axis], Dim):
        raise ctx.unsupported(f"blocks along an axis of {shape[axis]}; fix the dim with dims")
    for v in shared:
        have = tensor_type(v).shape
        if len(have) != len(shape) or have[axis] != ceildiv(shape[axis], size):
            raise ctx.malformed(f"scales {shape_text(have)} for blocks of {size} along axis {axis}")
    return axis


def _in_blocks(ctx: Context, v: Value, axis: int, size: int) -> Value:
    """Repeat each scale for its block of elements; the last block may be shorter."""
    shape, have = ctx.shape(), tensor_type(v).shape
    wide = (*have[: axis + 1], size, *have[axis + 1 :])
    spread = ctx.b.broadcast(ctx.reshape(v, (*have[: axis + 1], 1, *have[axis + 1 :])), shape=wide)
    merged = ctx.reshape(spread, (*have[:axis], have[axis] * size, *have[axis + 1 :]))
    if tensor_type(merged).shape == shape:
        return merged
    zeros, ones = (0,) * len(shape), (1,) * len(shape)
    found: Value = ctx.b.slice(merged, starts=zeros, sizes=shape, steps=ones)
    return found


def _laid(ctx: Context, v: Value, axis: int) -> Value:
    """A scale or zero so that it broadcasts against x."""
    type, rank = tensor_type(v), ctx.type().rank
    if type.rank != 1:
        return v
    shape = [1] * rank
    return ctx.reshape(v, (*shape[:axis], type.shape[0], *shape[axis + 1 :]))


def _quantize(ctx: Context) -> Results:
    operands = _quantised_operands(ctx)
    code = ctx.integer("output_dtype", 0)
    precision = ctx.integer("precision", 0)
    saturate = ctx.flag("saturate", True)
    dtype: DType = U8 if not code else dtype_from(code)
    if len(operands) == 3:
        dtype = tensor_type(operands[2]).dtype
    axis = _quantised_axis(ctx, operands)
    x, scale = operands[:2]
    divided = dtype_from(precision) if precision else tensor_type(scale).dtype
    divided = divided if divided.is_float else F32
    wide = compute_dtype(divided)
    same = tensor_type(x).dtype == tensor_type(scale).dtype == divided == wide
    if dtype.kind != "s" and tensor_type(scale).rank < 2 and same:
        found: Value = ctx.b.quantize_linear(*operands, axis=axis, dtype=dtype)
        return found
    y = ctx.b.div(ctx.cast(x, divided), _laid(ctx, ctx.cast(scale, divided), axis))
    y = ctx.cast(y, wide)
    whole = dtype.is_int or dtype in INTEGERS
    y = ctx.b.round(y) if whole else y
    if len(operands) == 3:
        y = ctx.b.add(y, _laid(ctx, ctx.cast(operands[2], wide), axis))
    if dtype in INTEGERS:
        lo, hi = limits(dtype)
        y = ctx.b.clamp(y, lo=lo, hi=hi)
    return ctx.cast(y, dtype, saturate)


def _whole_blocks(ctx: Context) -> Value | None:
    """Bytes, or what a byte holds, in blocks of one size, by an op that says so."""
    size = ctx.integer("block_size", 0)
    operands = [ctx.x(), ctx.x(1), *([ctx.x(2)] if ctx.has(2) else [])]
    given = tensor_type(operands[1]).dtype
    if size < 2 or not given.is_float or given == F64:
        return None
    axis = _block_axis(ctx, size, operands[1:])
    numbers = [unpacked(ctx.b, v) if tensor_type(v).dtype.kind == "s" else v for v in operands]
    if tensor_type(numbers[0]).dtype not in (U8, I8) or ctx.shape()[axis] % size != 0:
        return None
    around = _without(ctx.shape(), axis)
    if any(_without(tensor_type(v).shape, axis) != around for v in operands[1:]):
        return None
    code = ctx.integer("output_dtype", 0)
    scale = ctx.cast(operands[1], F32)
    found = ctx.b.dequantize_linear(numbers[0], scale, *numbers[2:], axis=axis)
    return ctx.cast(found, dtype_from(code) if code else given)


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _dequantize(ctx: Context) -> Results:
    in_blocks = _whole_blocks(ctx)
    if in_blocks is not None:
        return in_blocks
    operands = _quantised_operands(ctx)
    code = ctx.integer("output_dtype", 0)
    axis, scale = _quantised_axis(ctx, operands), operands[1]
    numbers = [unpacked(ctx.b, v) if tensor_type(v).dtype.kind == "s" else v for v in operands]
    x = numbers[0]
    result = dtype_from(code) if code else tensor_type(scale).dtype
    if not result.is_float:
        raise ctx.malformed(f"a scale of {result} needs output_dtype")
    if tensor_type(x).dtype.is_int and tensor_type(scale).rank < 2 and scale is numbers[1]:
        found: Value = ctx.b.dequantize_linear(*numbers, axis=axis)
        return ctx.cast(found, result)
    wide = F32 if not tensor_type(x).dtype.is_int else I32
    y = ctx.cast(x, wide)
    if len(numbers) == 3:
        y = ctx.b.sub(y, _laid(ctx, ctx.cast(numbers[2], wide), axis))
    y = ctx.b.mul(ctx.cast(y, F32), _laid(ctx, ctx.cast(numbers[1], F32), axis))
    return ctx.cast(y, result)


def _quantised_axis(ctx: Context, operands: list[Value]) -> int:
    """The axis, which counts only where there are scales for each of its indices.

    The first of the operands is made to have as many.
    """
    axis, rank = ctx.integer("axis", 1), ctx.type().rank
    scale: TensorType = ctx.type(1)
    if scale.rank == 0 or scale.shape == (1,):
        return 0
    axis = ctx.axis(axis, rank)
    for position in (1, 2):
        if ctx.has(position) and ctx.type(position).rank == 1:
            operands[0] = ctx.fit_axis(operands[0], axis, ctx.shape(position)[0])
    return axis


def _dynamic_quantize(ctx: Context) -> Results:
    found: Results = ctx.b.dynamic_quantize_linear(ctx.x())
    return found


RULES: dict[str, tuple[Rule, ...]] = {
    "BatchNormalization": (Rule(_batch_norm),),
    "DequantizeLinear": (Rule(_dequantize),),
    "DynamicQuantizeLinear": (Rule(_dynamic_quantize),),
    "Gemm": (Rule(_gemm),),
    "GroupNormalization": (Rule(_group_norm, since=18),),
    "Hardmax": (Rule(_hardmax),),
    "InstanceNormalization": (Rule(_instance_norm),),
    "LRN": (Rule(_lrn),),
    "LayerNormalization": (Rule(_layer_norm, since=17, ignores=("stash_type",)),),
    "LogSoftmax": _softmax("log_softmax"),
    "LpNormalization": (Rule(_lp_norm),),
    "MatMul": (Rule(_matmul),),
    "MeanVarianceNormalization": (Rule(_mean_variance),),
    "QuantizeLinear": (Rule(_quantize),),
    "RMSNormalization": (Rule(_rms_norm, since=23, ignores=("stash_type",)),),
    "Softmax": _softmax("softmax"),
}
