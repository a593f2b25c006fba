"""Operators that make random numbers: functions of a seed, the same ones in every run.

A node without a seed has one by its place among such nodes. Rounds of a loop differ.
"""

from __future__ import annotations

import numpy as np

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.compiler.frontends.onnx.tensors import checked_shape, dtype_from
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.types import BOOL, F32, F64, I32, U64, DType

# The upper half of a key tells how its lower half came about.
_BY_PLACE, _BY_SEED = 0, 1


def _key(ctx: Context, integer: bool = False) -> Value:
    """The key of a node: by its attribute `seed`, or its place among the nodes without one."""
    if ctx.has_attr("seed"):
        bits = ctx.integer("seed") if integer else np.float32(ctx.real("seed")).view(np.uint32)
        number = _BY_SEED << 32 | int(bits) & 0xFFFFFFFF
    else:
        number = _BY_PLACE << 32 | ctx.importer.count_random()
    key: Value = ctx.b.constant(number, U64)
    for round in ctx.importer.rounds:
        key = ctx.b.threefry(key, ctx.cast(round, U64))
    return key


def _dtype(ctx: Context, default: DType = F32) -> DType:
    code = ctx.integer("dtype", 0)
    return dtype_from(code) if code else default


def _made_in(ctx: Context, dtype: DType) -> DType:
    """The element type that numbers of `dtype` are made in."""
    if not dtype.is_float:
        raise ctx.unsupported(f"random numbers of element type {dtype}")
    return F64 if dtype == F64 else F32


def _uniform(ctx: Context, shape: Shape, dtype: DType) -> Value:
    low, high = ctx.real("low", 0.0), ctx.real("high", 1.0)
    made = _made_in(ctx, dtype)
    x = ctx.b.random_uniform(_key(ctx), shape=shape, dtype=made)
    return _scaled(ctx, x, high - low, low, dtype)


def _normal(ctx: Context, shape: Shape, dtype: DType) -> Value:
    scale, mean = ctx.real("scale", 1.0), ctx.real("mean", 0.0)
    made = _made_in(ctx, dtype)
    x = ctx.b.random_normal(_key(ctx), shape=shape, dtype=made)
    return _scaled(ctx, x, scale, mean, dtype)


def _scaled(ctx: Context, x: Value, scale: float, offset: float, dtype: DType) -> Value:
    if scale != 1:
        x = ctx.b.mul(x, ctx.scalar(scale, x))
    if offset != 0:
        x = ctx.b.add(x, ctx.scalar(offset, x))
    return ctx.cast(x, dtype)


def _shape(ctx: Context) -> Shape:
    shape = ctx.integers("shape")
    if shape is None:
        raise ctx.malformed("attribute 'shape' is missing")
    return checked_shape(shape, 32)


def _random_uniform(ctx: Context) -> Results:
    return _uniform(ctx, _shape(ctx), _dtype(ctx))


def _random_normal(ctx: Context) -> Results:
    return _normal(ctx, _shape(ctx), _dtype(ctx))


def _like(ctx: Context) -> tuple[Shape, DType]:
    """Without an attribute the element type is the operand's, or f32 where that is no float."""
    type = ctx.type()
    return type.shape, _dtype(ctx, type.dtype if type.dtype.is_float else F32)


def _uniform_like(ctx: Context) -> Results:
    return _uniform(ctx, *_like(ctx))


def _normal_like(ctx: Context) -> Results:
    return _normal(ctx, *_like(ctx))


def _bernoulli(ctx: Context) -> Results:
    x, dtype = ctx.x(), ctx.type().dtype
    drawn: Value = ctx.b.bernoulli(_key(ctx), x)
    return ctx.cast(drawn, _dtype(ctx, dtype))


def _multinomial(ctx: Context) -> Results:
    logits, count = ctx.x(), ctx.integer("sample_size", 1)
    if ctx.type().rank != 2:
        raise ctx.malformed(f"takes rows of classes, not rank {ctx.type().rank}")
    if count < 0:
        raise ctx.malformed(f"draws {count} classes")
    drawn: Value = ctx.b.multinomial(_key(ctx), logits, count=count)
    return ctx.cast(drawn, _dtype(ctx, I32))


# -- dropout --------------------------------------------------------------------------------------


def _dropout(ctx: Context) -> Results:
    """Before opset 12 a node of inference alone: it keeps every element."""
    # The mask is bool since opset 10.
    kind = BOOL if ctx.opset >= 10 else ctx.type().dtype
    mask = ctx.b.full(ctx.shape(), 1, kind) if ctx.uses(1) else None
    return ctx.x(), mask


def _training_dropout(ctx: Context) -> Results:
    """What is kept is scaled so that the mean stays; in inference all is kept."""
    training = ctx.const(2) if ctx.has(2) else np.array(False)
    ratio = ctx.const(1) if ctx.has(1) else np.array(0.5)
    for value in (training, ratio):
        if value is not None and value.size != 1:
            raise ctx.malformed(f"the ratio or the mode has {value.size} elements")
    if ratio is not None and not 0 <= float(ratio.reshape(())) < 1:
        raise ctx.malformed(f"ratio {ratio.reshape(())} is not in [0, 1)")
    if (training is not None and not training.any()) or (ratio is not None and not ratio.any()):
        ctx.has_attr("seed")
        return _dropout(ctx)
    dtype = ctx.type().dtype
    x = ctx.x() if dtype.is_float else ctx.cast(ctx.x(), F32)
    chance = ctx.as_scalar(ctx.x(1)) if ctx.has(1) else ctx.b.constant(0.5, F32)
    chance = ctx.cast(chance, F64 if tensor_type(chance).dtype == F64 else F32)
    kept = ctx.b.sub(ctx.scalar(1, chance), chance)
    made = tensor_type(chance).dtype
    mask = ctx.b.lt(ctx.b.random_uniform(_key(ctx, True), shape=ctx.shape(), dtype=made), kept)
    scale = ctx.b.div(ctx.scalar(1, kept), kept)
    if training is None:
        mode = ctx.as_scalar(ctx.x(2))
        mask = getattr(ctx.b, "or")(mask, getattr(ctx.b, "not")(mode))
        scale = ctx.b.select(mode, scale, ctx.scalar(1, scale))
    scaled = ctx.b.mul(x, ctx.cast(scale, tensor_type(x).dtype))
    return ctx.cast(ctx.b.select(mask, scaled, ctx.scalar(0, x)), dtype), mask


RULES: dict[str, tuple[Rule, ...]] = {
    "Bernoulli": (Rule(_bernoulli),),
    "Dropout": (
        Rule(_dropout, ignores=("ratio", "is_test")),
        Rule(_training_dropout, since=12),
    ),
    "Multinomial": (Rule(_multinomial),),
    "RandomNormal": (Rule(_random_normal),),
    "RandomNormalLike": (Rule(_normal_like),),
    "RandomUniform": (Rule(_random_uniform),),
    "RandomUniformLike": (Rule(_uniform_like),),
}
