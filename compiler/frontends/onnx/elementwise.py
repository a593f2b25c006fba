"""Operators that work element by element: arithmetic, comparison, logic, activations, Cast."""

from __future__ import annotations

from typing import Any

from tfc.compiler.frontends.onnx.context import Context, Results, Rule
from tfc.compiler.frontends.onnx.storage import unpacked
from tfc.compiler.frontends.onnx.tensors import dtype_from
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.types import BOOL, F64, DType


def unary(name: str, **defaults: float) -> Rule:
    """The graph op `name` of one operand, with float attributes of the same names."""

    def build(ctx: Context) -> Results:
        attrs = {key: ctx.real(key, value) for key, value in defaults.items()}
        return _op(ctx, name, ctx.x(), **attrs)

    return Rule(build, ignores=("consumed_inputs",))


def binary(name: str) -> Rule:
    return Rule(lambda ctx: _op(ctx, name, ctx.x(0), _second(ctx)))


def _second(ctx: Context) -> Value:
    """The right operand. Before opset 7 its axes stood against those of the left from `axis` on."""
    y = ctx.x(1)
    if ctx.opset >= 7:
        return y
    broadcast, rank = ctx.flag("broadcast"), tensor_type(y).rank
    axis = ctx.integer("axis", ctx.type().rank - rank)
    axis = axis + ctx.type().rank if axis < 0 else axis
    behind = ctx.type().rank - axis - rank
    if behind < 0 or (not broadcast and ctx.shape(0) != ctx.shape(1)):
        raise ctx.malformed("the operands differ in shape, and are not told to broadcast")
    return ctx.reshape(y, (*tensor_type(y).shape, *(1,) * behind))


def variadic(name: str) -> Rule:
    """A binary graph op over any number of operands, from the left."""

    def build(ctx: Context) -> Results:
        first, *rest = ctx.operands()
        for x in rest:
            first = _op(ctx, name, first, x)
        return first

    return Rule(build)


def _op(ctx: Context, name: str, *operands: Value, **attrs: Any) -> Value:
    found: Value = getattr(ctx.b, name)(*operands, **attrs)
    return found


def _reciprocal(ctx: Context) -> Results:
    x = ctx.x()
    return _op(ctx, "div", ctx.scalar(1, x), x)


def _mean(ctx: Context) -> Results:
    values = ctx.operands()
    total = values[0]
    for x in values[1:]:
        total = _op(ctx, "add", total, x)
    return _op(ctx, "div", total, ctx.scalar(len(values), total)) if len(values) > 1 else total


def _pow(ctx: Context) -> Results:
    """The result has the base's type; a float exponent of an integer base computes in f64."""
    x, y = ctx.x(0), _second(ctx)
    base, exponent = ctx.type(0).dtype, ctx.type(1).dtype
    if base == exponent:
        return _op(ctx, "pow", x, y)
    if base.is_float and not (exponent.is_float and exponent.bits > base.bits):
        return _op(ctx, "pow", x, ctx.cast(y, base))
    if not exponent.is_float:
        return _op(ctx, "pow", x, ctx.cast(y, base))
    return ctx.cast(_op(ctx, "pow", ctx.cast(x, F64), ctx.cast(y, F64)), base)


def _mod(ctx: Context) -> Results:
    return _op(ctx, "rem" if ctx.flag("fmod") else "mod", ctx.x(0), ctx.x(1))


def _bit_shift(ctx: Context) -> Results:
    direction = ctx.string("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise ctx.malformed(f"direction {direction!r} is neither LEFT nor RIGHT")
    return _op(ctx, "shl" if direction == "LEFT" else "shr", ctx.x(0), ctx.x(1))


def _clip_attrs(ctx: Context) -> Results:
    """Where the bounds cross, the upper one counts."""
    x = ctx.x()
    lo = ctx.real("min") if ctx.has_attr("min") else None
    hi = ctx.real("max") if ctx.has_attr("max") else None
    if lo is not None and hi is not None and lo > hi:
        return _op(ctx, "min", _op(ctx, "max", x, ctx.scalar(lo, x)), ctx.scalar(hi, x))
    return _op(ctx, "clamp", x, lo=lo, hi=hi)


def _clip(ctx: Context) -> Results:
    """With both bounds constant a clamp; else the bounds are operands like any other."""
    x = ctx.x()
    bounds: list[float | int | None] = []
    for position in (1, 2):
        if not ctx.has(position):
            bounds.append(None)
            continue
        value = ctx.const(position)
        if value is None or value.size != 1:
            return _clip_by_values(ctx, x)
        bounds.append(value.reshape(()).item())
    lo, hi = bounds
    # Where they cross, the upper one counts.
    if lo is not None and hi is not None and lo > hi:
        return _clip_by_values(ctx, x)
    return _op(ctx, "clamp", x, lo=lo, hi=hi)


def _clip_by_values(ctx: Context, x: Value) -> Value:
    lo, hi = ctx.optional(1), ctx.optional(2)
    if lo is not None:
        x = _op(ctx, "max", x, ctx.as_scalar(lo))
    return x if hi is None else _op(ctx, "min", x, ctx.as_scalar(hi))


def _target(ctx: Context) -> DType:
    return dtype_from(ctx.integer("to"))


def _cast(ctx: Context) -> Results:
    return _converted(ctx, _target(ctx))


def _converted(ctx: Context, dtype: DType) -> Value:
    saturate, rounding = ctx.flag("saturate", True), ctx.string("round_mode", "up")
    return ctx.cast(ctx.x(), dtype, saturate, rounding)


def _bit_cast(ctx: Context) -> Results:
    """Bools are bytes of 0 and 1."""
    x, dtype = ctx.x(), _target(ctx)
    if BOOL in (tensor_type(x).dtype, dtype):
        return ctx.cast(x, dtype)
    return x if tensor_type(x).dtype == dtype else _op(ctx, "bitcast", x, dtype=dtype)


def _cast_like(ctx: Context) -> Results:
    return _converted(ctx, ctx.type(1).dtype)


def _where(ctx: Context) -> Results:
    return _op(ctx, "select", ctx.x(0), ctx.x(1), ctx.x(2))


def _erf(ctx: Context) -> Results:
    """Of integers the result is cut off, as casts are."""
    x, dtype = ctx.x(), ctx.type().dtype
    return (
        _op(ctx, "erf", x) if dtype.is_float else ctx.cast(_op(ctx, "erf", ctx.cast(x, F64)), dtype)
    )


def _identity(ctx: Context) -> Results:
    return ctx.item()


def _gelu(ctx: Context) -> Results:
    return _op(ctx, "gelu", ctx.x(), approximate=ctx.string("approximate", "none"))


def _is_inf(ctx: Context) -> Results:
    positive, negative = ctx.flag("detect_positive", True), ctx.flag("detect_negative", True)
    return _op(ctx, "isinf", _numbers(ctx), positive=positive, negative=negative)


def _is_nan(ctx: Context) -> Results:
    return _op(ctx, "isnan", _numbers(ctx))


def _numbers(ctx: Context) -> Value:
    """The operand; eight-bit floats as f32."""
    x = ctx.x()
    return unpacked(ctx.b, x) if tensor_type(x).dtype.kind == "s" else x


def _prelu(ctx: Context) -> Results:
    """Before opset 7 the slope holds one number for each channel, or one in all."""
    x, slope = ctx.x(0), ctx.x(1)
    if ctx.opset < 7 and tensor_type(slope).rank == 1 and ctx.type().rank > 1:
        slope = ctx.reshape(slope, (*ctx.shape(1), *(1,) * (ctx.type().rank - 2)))
    if ctx.type().dtype.is_float:
        return _op(ctx, "prelu", x, slope)
    below = _op(ctx, "lt", x, ctx.scalar(0, x))
    return _op(ctx, "select", below, _op(ctx, "mul", x, slope), x)


def _shrink(ctx: Context) -> Results:
    """Integers are computed as f64, and become integers as by Cast."""
    x, dtype = ctx.x(), ctx.type().dtype
    lambd, bias = ctx.real("lambd", 0.5), ctx.real("bias", 0.0)
    wide = x if dtype.is_float else ctx.cast(x, F64)
    above = _op(ctx, "gt", wide, ctx.scalar(lambd, wide))
    below = _op(ctx, "lt", wide, ctx.scalar(-lambd, wide))
    raised, lowered = x, x
    if bias:
        raised = ctx.cast(_op(ctx, "add", wide, ctx.scalar(bias, wide)), dtype)
        lowered = ctx.cast(_op(ctx, "sub", wide, ctx.scalar(bias, wide)), dtype)
    inner = _op(ctx, "select", below, raised, ctx.scalar(0, x))
    return _op(ctx, "select", above, lowered, inner)


def _relu(ctx: Context) -> Results:
    x = ctx.x()
    if tensor_type(x).dtype.is_float:
        return _op(ctx, "relu", x)
    return _op(ctx, "max", x, ctx.scalar(0, x))


def _swish(ctx: Context) -> Results:
    alpha = ctx.real("alpha", 1.0)
    return _op(ctx, "silu", ctx.x()) if alpha == 1 else _op(ctx, "swish", ctx.x(), alpha=alpha)


SAME = {
    "Abs": "abs", "Neg": "neg", "Sqrt": "sqrt", "Exp": "exp", "Log": "log", "Sin": "sin",
    "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh",
    "Cosh": "cosh", "Tanh": "tanh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh",
    "Floor": "floor", "Ceil": "ceil", "Round": "round", "Sign": "sign",
    "Not": "not", "BitwiseNot": "bitwise_not", "Sigmoid": "sigmoid",
    "Softplus": "softplus", "Softsign": "softsign", "HardSwish": "hard_swish", "Mish": "mish",
}  # fmt: skip

PAIRS = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "and", "Or": "or",
    "Xor": "xor", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor", "Equal": "eq", "Less": "lt", "LessOrEqual": "le",
    "Greater": "gt", "GreaterOrEqual": "ge",
}  # fmt: skip

RULES: dict[str, tuple[Rule, ...]] = {
    **{name: (unary(op),) for name, op in SAME.items()},
    **{name: (binary(op),) for name, op in PAIRS.items()},
    "BitShift": (Rule(_bit_shift),),
    "BitCast": (Rule(_bit_cast),),
    "Cast": (Rule(_cast),),
    "CastLike": (Rule(_cast_like),),
    "Celu": (unary("celu", alpha=1.0),),
    "Clip": (Rule(_clip_attrs), Rule(_clip, since=11)),
    "Erf": (Rule(_erf),),
    "Elu": (unary("elu", alpha=1.0),),
    "Gelu": (Rule(_gelu),),
    "HardSigmoid": (unary("hard_sigmoid", alpha=0.2, beta=0.5),),
    "Identity": (Rule(_identity),),
    "IsInf": (Rule(_is_inf),),
    "IsNaN": (Rule(_is_nan),),
    "LeakyRelu": (unary("leaky_relu", alpha=0.01),),
    "Max": (variadic("max"),),
    "Mean": (Rule(_mean),),
    "Min": (variadic("min"),),
    "Mod": (Rule(_mod),),
    "PRelu": (Rule(_prelu),),
    "Pow": (Rule(_pow),),
    "Reciprocal": (Rule(_reciprocal),),
    "Relu": (Rule(_relu),),
    "Selu": (unary("selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),),
    "Shrink": (Rule(_shrink),),
    "Sum": (variadic("add"),),
    "Swish": (Rule(_swish),),
    "ThresholdedRelu": (unary("thresholded_relu", alpha=1.0),),
    "Where": (Rule(_where),),
}
