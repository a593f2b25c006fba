"""Products and convolutions of quantised numbers: exact in 32-bit integers, then scaled once."""

from __future__ import annotations

from tfc.compiler.frontends.onnx.context import Context, Results, Rule
from tfc.compiler.frontends.onnx.storage import unpacked
from tfc.compiler.frontends.onnx.window import convolution
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.types import F32, I32


def _wide(ctx: Context, x: Value) -> Value:
    """Integers as i32, eight-bit floats as f32: both are exact."""
    if tensor_type(x).dtype.kind == "s":
        x = unpacked(ctx.b, x)
    return x if tensor_type(x).dtype.is_float else ctx.cast(x, I32)


def _shifted(ctx: Context, position: int, zero: int, axis: int) -> Value:
    """An operand less its zero point, of which there is one, or one for each index of `axis`."""
    x = _wide(ctx, ctx.x(position))
    if not ctx.has(zero):
        return x
    found: Value = ctx.b.sub(x, _along(ctx, _wide(ctx, ctx.x(zero)), tensor_type(x).rank, axis))
    return found


def _along(ctx: Context, v: Value, rank: int, axis: int) -> Value:
    """Lay one number, or a list of them along `axis`, so that it broadcasts."""
    type = tensor_type(v)
    if type.shape == (1,):
        return ctx.as_scalar(v)
    if type.rank != 1 or rank < 2:
        return v
    shape = [1] * rank
    return ctx.reshape(v, (*shape[:axis], type.shape[0], *shape[axis % rank + 1 :]))


def _product(ctx: Context, x: Value, y: Value) -> Value:
    if F32 in (tensor_type(x).dtype, tensor_type(y).dtype):
        x, y = ctx.cast(x, F32), ctx.cast(y, F32)
    left, right = tensor_type(x).shape, tensor_type(y).shape
    if left and right:
        ctx.equate(left[-1], right[-1 if len(right) == 1 else -2])
    found: Value = ctx.b.matmul(x, y)
    return found


def _matmul(ctx: Context) -> Results:
    rank = ctx.type().rank
    x = _shifted(ctx, 0, 2, max(rank - 2, 0))
    return _product(ctx, x, _shifted(ctx, 1, 3, ctx.type(1).rank - 1))


def _scaled(ctx: Context, y: Value, scale: Value, zero: int) -> Value:
    """y * scale as the type of the zero point: rounded half to even, and saturated."""
    target = ctx.type(zero).dtype
    y = ctx.b.mul(ctx.cast(y, F32), scale)
    if target.is_int:
        y = ctx.b.round(y)
    y = ctx.b.add(y, _along(ctx, ctx.cast(ctx.x(zero), F32), tensor_type(y).rank, 1))
    return ctx.cast(y, target)


def _qlinear_matmul(ctx: Context) -> Results:
    """Operands: a, its scale and zero, b, its scale and zero, scale and zero of the result."""
    ranks = ctx.type(0).rank, ctx.type(3).rank
    rows, columns = max(ranks[0] - 2, 0), max(ranks[1] - 1, 0)
    y = _product(ctx, _shifted(ctx, 0, 2, rows), _shifted(ctx, 3, 5, columns))
    scales = [ctx.cast(ctx.x(i), F32) for i in (1, 4, 6)]
    a, b = _along(ctx, scales[0], ranks[0], rows), _along(ctx, scales[1], ranks[1], columns)
    scale = ctx.b.div(ctx.b.mul(a, b), _along(ctx, scales[2], 1, 0))
    return _scaled(ctx, y, scale, 7)


def _conv(ctx: Context) -> Results:
    """What lies outside of the image is at the zero point, and so 0 once that is taken away."""
    return convolution(ctx, _shifted(ctx, 0, 2, 1), _shifted(ctx, 1, 3, 0))


def _qlinear_conv(ctx: Context) -> Results:
    """Operands: x, its scale and zero, w, its scale and zero, those of the result, and a bias."""
    y = convolution(ctx, _shifted(ctx, 0, 2, 1), _shifted(ctx, 3, 5, 0))
    rank = tensor_type(y).rank
    if ctx.has(8):
        y = ctx.b.add(y, _along(ctx, ctx.x(8), rank, 1))
    scales = [_along(ctx, ctx.cast(ctx.x(i), F32), rank, 1) for i in (1, 4, 6)]
    return _scaled(ctx, y, ctx.b.div(ctx.b.mul(scales[0], scales[1]), scales[2]), 7)


RULES: dict[str, tuple[Rule, ...]] = {
    "ConvInteger": (Rule(_conv),),
    "MatMulInteger": (Rule(_matmul),),
    "QLinearConv": (Rule(_qlinear_conv),),
    "QLinearMatMul": (Rule(_qlinear_matmul),),
}
