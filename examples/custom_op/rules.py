"""Rules for the operators of `model.py`: how nodes of domain com.acme become graph ops."""

import tfc


@tfc.onnx_rule("com.acme", "ScaledTanh")
def scaled_tanh(ctx: tfc.OnnxContext):
    """gain * tanh(x / width); the attribute `width` is 1 where it is left out."""
    x, gain = ctx.x(0), ctx.x(1)
    width = ctx.real("width", 1.0)
    if width <= 0:
        raise ctx.malformed(f"width is {width}")
    return ctx.b.mul(gain, ctx.b.tanh(ctx.b.div(x, ctx.scalar(width, x))))


@tfc.onnx_rule("com.acme", "MinMax")
def min_max(ctx: tfc.OnnxContext):
    """The least and the greatest element along an axis, which stays with one element."""
    x = ctx.x(0)
    axis = ctx.axis(ctx.integer("axis", -1), ctx.type(0).rank)
    least = ctx.b.reduce_min(x, axes=(axis,), keepdims=True)
    greatest = ctx.b.reduce_max(x, axes=(axis,), keepdims=True)
    return [least, greatest]
