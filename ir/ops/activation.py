"""Activation functions: elementwise, one scalar body each, so that they fuse anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir.body import Expr, ExprBuilder
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Value
from tfc.ir.opdef import Reject, Sample, Trait, require
from tfc.ir.ops.common import (
    CLOSE,
    Array,
    elementwise,
    elementwise_infer,
    floats,
    in_f64,
    like,
    special_values,
)
from tfc.ir.types import BOOL, F32, TensorType

_X = (TensorType(F32, (2,)),)
_erf = np.frompyfunc(math.erf, 1, 1)


def _times(b: GraphBuilder, x: Value, factor: float) -> Value:
    return b.mul(x, like(b, factor, x))  # type: ignore[no-any-return]


def _plus(b: GraphBuilder, x: Value, term: float) -> Value:
    return b.add(x, like(b, term, x))  # type: ignore[no-any-return]


def _at_least(b: ExprBuilder, x: Expr, lo: float) -> Expr:
    """max(x, lo) with NaN kept: the operand order of x86's maxps."""
    low = b.const(lo, x)
    return b.select(b.lt(x, low), low, x)


def _at_most(b: ExprBuilder, x: Expr, hi: float) -> Expr:
    high = b.const(hi, x)
    return b.select(b.gt(x, high), high, x)


# -- piecewise linear ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AlphaAttrs:
    """alpha: the parameter of the formula."""

    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class LeakyAttrs:
    """alpha: slope below 0."""

    alpha: float = 0.01


elementwise(
    "relu",
    kinds="fi",
    ref=lambda x: np.maximum(x, x.dtype.type(0)),
    body=lambda b, x: _at_least(b, x, 0),
    grad=lambda b, g, y, x: b.select(b.gt(x, like(b, 0, x)), g, like(b, 0, g)),
    traits=(Trait.IDEMPOTENT,),
    doc="max(x, 0). NaN stays NaN. The slope at 0 is 0.",
)
elementwise(
    "leaky_relu",
    attrs=LeakyAttrs,
    sample_attrs=({}, {"alpha": 0.25}),
    ref=in_f64(lambda x, alpha: np.where(x < 0, alpha * x, x)),
    body=lambda b, x, *, alpha: b.select(b.lt(x, b.const(0, x)), b.mul(x, b.const(alpha, x)), x),
    grad=lambda b, g, y, x, alpha: b.select(b.lt(x, like(b, 0, x)), _times(b, g, alpha), g),
    tol=CLOSE,
    doc="x, but alpha * x below 0.",
)
elementwise(
    "prelu",
    arity=2,
    ref=in_f64(lambda x, slope: np.where(x < 0, x * slope, x)),
    body=lambda b, x, slope: b.select(b.lt(x, b.const(0, x)), b.mul(x, slope), x),
    grad=lambda b, g, y, x, slope: (
        b.select(b.lt(x, like(b, 0, x)), b.mul(g, slope), g),
        b.select(b.lt(x, like(b, 0, x)), b.mul(g, x), like(b, 0, g)),
    ),
    doc="x, but slope * x below 0; the slope is an operand and broadcasts.",
)
elementwise(
    "thresholded_relu",
    attrs=AlphaAttrs,
    sample_attrs=({}, {"alpha": -0.5}),
    ref=lambda x, alpha: np.where(x <= x.dtype.type(alpha), x.dtype.type(0), x),
    body=lambda b, x, *, alpha: b.select(b.le(x, b.const(alpha, x)), b.const(0, x), x),
    grad=lambda b, g, y, x, alpha: b.select(b.le(x, like(b, alpha, x)), like(b, 0, g), g),
    doc="x above alpha, else 0. NaN stays NaN.",
)


@dataclass(frozen=True, slots=True)
class HardSigmoidAttrs:
    """alpha: slope. beta: value at 0."""

    alpha: float = 0.2
    beta: float = 0.5


def _hard_sigmoid(b: ExprBuilder, x: Expr, *, alpha: float, beta: float) -> Expr:
    line = b.add(b.mul(x, b.const(alpha, x)), b.const(beta, x))
    return _at_most(b, _at_least(b, line, 0), 1)


def _hard_sigmoid_grad(
    b: GraphBuilder, g: Value, y: Value, x: Value, alpha: float, beta: float
) -> Value:
    zero = like(b, 0, g)
    g = b.select(b.gt(y, like(b, 0, y)), _times(b, g, alpha), zero)
    return b.select(b.lt(y, like(b, 1, y)), g, zero)  # type: ignore[no-any-return]


elementwise(
    "hard_sigmoid",
    attrs=HardSigmoidAttrs,
    sample_attrs=({}, {"alpha": 0.7, "beta": 0.3}),
    ref=in_f64(lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1)),
    body=_hard_sigmoid,
    grad=_hard_sigmoid_grad,
    tol=CLOSE,
    doc="min(max(alpha * x + beta, 0), 1). NaN stays NaN.",
)


def _hard_swish_grad(b: GraphBuilder, g: Value, y: Value, x: Value) -> Value:
    inner = b.mul(g, _plus(b, _times(b, x, 1 / 3), 0.5))
    inner = b.select(b.gt(x, like(b, 3, x)), g, inner)
    return b.select(b.lt(x, like(b, -3, x)), like(b, 0, g), inner)  # type: ignore[no-any-return]


elementwise(
    "hard_swish",
    ref=in_f64(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    body=lambda b, x: b.mul(x, _hard_sigmoid(b, x, alpha=1 / 6, beta=0.5)),
    grad=_hard_swish_grad,
    domain=(-5.0, 5.0),
    tol=CLOSE,
    doc="x * min(max(x / 6 + 1/2, 0), 1). NaN at minus infinity.",
)
elementwise(
    "softsign",
    ref=in_f64(lambda x: x / (1 + np.abs(x))),
    body=lambda b, x: b.div(x, b.add(b.abs(x), b.const(1, x))),
    grad=lambda b, g, y, x: b.div(g, b.mul(_plus(b, b.abs(x), 1.0), _plus(b, b.abs(x), 1.0))),
    tol=CLOSE,
    doc="x / (1 + |x|). NaN at the infinities.",
)

# -- of the exponential function ----------------------------------------------------------------


def _sigmoid_of(b: ExprBuilder, numerator: Expr, x: Expr) -> Expr:
    """numerator / (1 + e**-x): for x * sigmoid(x) the same work as for sigmoid."""
    return b.div(numerator, b.add(b.exp(b.neg(x)), b.const(1, x)))


def _sigmoid_ref(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _swish_grad(b: GraphBuilder, g: Value, y: Value, x: Value, alpha: float = 1.0) -> Value:
    """s * (1 + alpha * x * (1 - s)) where s = sigmoid(alpha * x)."""
    inner = _times(b, x, alpha)
    s = b.sigmoid(inner)
    slope = b.mul(s, _plus(b, b.mul(inner, b.sub(like(b, 1, s), s)), 1.0))
    return b.mul(g, slope)  # type: ignore[no-any-return]


elementwise(
    "sigmoid",
    ref=in_f64(_sigmoid_ref),
    body=lambda b, x: _sigmoid_of(b, b.const(1, x), x),
    grad=lambda b, g, y, x: b.mul(g, b.mul(y, b.sub(like(b, 1, y), y))),
    domain=(-6.0, 6.0),
    tol=CLOSE,
    doc="1 / (1 + e**-x).",
)
elementwise(
    "silu",
    ref=in_f64(lambda x: x * _sigmoid_ref(x)),
    body=lambda b, x: _sigmoid_of(b, x, x),
    grad=_swish_grad,
    domain=(-6.0, 6.0),
    tol=CLOSE,
    doc="x * sigmoid(x). NaN at minus infinity.",
)
elementwise(
    "swish",
    attrs=AlphaAttrs,
    sample_attrs=({}, {"alpha": 1.702}),
    ref=in_f64(lambda x, alpha: x * _sigmoid_ref(alpha * x)),
    body=lambda b, x, *, alpha: _sigmoid_of(b, x, b.mul(x, b.const(alpha, x))),
    grad=_swish_grad,
    domain=(-6.0, 6.0),
    tol=CLOSE,
    doc="x * sigmoid(alpha * x). NaN at minus infinity.",
)


def _elu(b: ExprBuilder, x: Expr, *, alpha: float, gamma: float = 1.0) -> Expr:
    above = x if gamma == 1 else b.mul(x, b.const(gamma, x))
    below = b.mul(b.apply("expm1", x), b.const(alpha * gamma, x))
    return b.select(b.gt(x, b.const(0, x)), above, below)


def _elu_grad(
    b: GraphBuilder, g: Value, y: Value, x: Value, alpha: float, gamma: float = 1.0
) -> Value:
    """Below 0: y + alpha * gamma, which is alpha * gamma * e**x."""
    below = b.mul(g, _plus(b, y, alpha * gamma))
    return b.select(b.gt(x, like(b, 0, x)), _times(b, g, gamma), below)  # type: ignore[no-any-return]


def _elu_ref(x: Array, alpha: float, gamma: float = 1.0) -> Array:
    return np.asarray(gamma * np.where(x > 0, x, alpha * np.expm1(x)))


elementwise(
    "elu",
    attrs=AlphaAttrs,
    sample_attrs=({}, {"alpha": 0.5}),
    ref=in_f64(_elu_ref),
    body=_elu,
    grad=_elu_grad,
    tol=CLOSE,
    doc="x above 0, else alpha * (e**x - 1).",
)


@dataclass(frozen=True, slots=True)
class SeluAttrs:
    """alpha, gamma: of the formula; the defaults keep mean 0 and variance 1."""

    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875


elementwise(
    "selu",
    attrs=SeluAttrs,
    sample_attrs=({}, {"alpha": 2.0, "gamma": 3.0}),
    ref=in_f64(_elu_ref),
    body=_elu,
    grad=_elu_grad,
    tol=CLOSE,
    doc="gamma * x above 0, else gamma * alpha * (e**x - 1).",
)


def _celu_infer(types: Sequence[TensorType], attrs: AlphaAttrs) -> Sequence[TensorType]:
    require(attrs.alpha > 0, f"alpha {attrs.alpha} is not positive")
    return elementwise_infer("f")(types, attrs)


def _celu(b: ExprBuilder, x: Expr, *, alpha: float) -> Expr:
    below = b.mul(b.apply("expm1", b.div(x, b.const(alpha, x))), b.const(alpha, x))
    return b.select(b.gt(x, b.const(0, x)), x, below)


def _celu_grad(b: GraphBuilder, g: Value, y: Value, x: Value, alpha: float) -> Value:
    below = b.mul(g, _plus(b, _times(b, y, 1 / alpha), 1.0))
    return b.select(b.gt(x, like(b, 0, x)), g, below)  # type: ignore[no-any-return]


elementwise(
    "celu",
    attrs=AlphaAttrs,
    sample_attrs=({}, {"alpha": 2.0}),
    infer=_celu_infer,
    ref=in_f64(lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x / alpha))),
    body=_celu,
    grad=_celu_grad,
    rejects=(
        Reject(_X, {"alpha": 0.0}, "alpha 0.0 is not positive"),
        Reject((TensorType(BOOL, (2,)),), {}, "not bool"),
    ),
    tol=CLOSE,
    doc="x above 0, else alpha * (e**(x / alpha) - 1), for alpha > 0.",
)
elementwise(
    "softplus",
    ref=in_f64(lambda x: np.logaddexp(0, x)),
    body=lambda b, x: b.add(_at_least(b, x, 0), b.apply("log1p", b.exp(b.neg(b.abs(x))))),
    grad=lambda b, g, y, x: b.mul(g, b.sigmoid(x)),
    domain=(-6.0, 6.0),
    tol=CLOSE,
    doc="log(1 + e**x), without overflow.",
)


def _mish(b: ExprBuilder, x: Expr) -> Expr:
    """With e = e**x: tanh(log(1 + e)) = n / (n + 2), n = e * (e + 2); 1 beyond x = 20."""
    two = b.const(2, x)
    capped = _at_most(b, x, 20.0)
    e = b.exp(capped)
    n = b.mul(e, b.add(e, two))
    return b.mul(x, b.div(n, b.add(n, two)))


def _mish_grad(b: GraphBuilder, g: Value, y: Value, x: Value) -> Value:
    """t + x * (1 - t*t) * sigmoid(x), where t = tanh(softplus(x))."""
    t = b.tanh(b.softplus(x))
    rest = b.mul(b.mul(x, b.sub(like(b, 1, t), b.mul(t, t))), b.sigmoid(x))
    return b.mul(g, b.add(t, rest))  # type: ignore[no-any-return]


elementwise(
    "mish",
    ref=in_f64(lambda x: x * np.tanh(np.logaddexp(0, x))),
    body=_mish,
    grad=_mish_grad,
    domain=(-6.0, 6.0),
    tol=CLOSE,
    doc="x * tanh(log(1 + e**x)). NaN at minus infinity.",
)


@dataclass(frozen=True, slots=True)
class GeluAttrs:
    """approximate: "none" is exact, through erf; "tanh" is the usual approximation."""

    approximate: str = "none"


_SLOPE = math.sqrt(2 / math.pi)
_CUBE = 0.044715


def _gelu_infer(types: Sequence[TensorType], attrs: GeluAttrs) -> Sequence[TensorType]:
    known = attrs.approximate in ("none", "tanh")
    require(known, f'approximate is "{attrs.approximate}", not "none" or "tanh"')
    return elementwise_infer("f")(types, attrs)


def _gelu_ref(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(_SLOPE * (x + _CUBE * x**3))))
    return 0.5 * x * (1 + np.asarray(_erf(x / math.sqrt(2)), np.float64))


def _gelu(b: ExprBuilder, x: Expr, *, approximate: str) -> Expr:
    """(1 + tanh(u)) / 2 is sigmoid(2 * u), which needs no tanh."""
    if approximate == "tanh":
        square = b.mul(x, x)
        inner = b.fma(square, b.const(2 * _SLOPE * _CUBE, x), b.const(2 * _SLOPE, x))
        return _sigmoid_of(b, x, b.mul(x, inner))
    area = b.add(b.erf(b.mul(x, b.const(math.sqrt(0.5), x))), b.const(1, x))
    return b.mul(b.mul(x, b.const(0.5, x)), area)


def _gelu_grad(b: GraphBuilder, g: Value, y: Value, x: Value, approximate: str) -> Value:
    square = b.mul(x, x)
    if approximate == "tanh":
        inner = b.mul(x, _plus(b, _times(b, square, 2 * _SLOPE * _CUBE), 2 * _SLOPE))
        s = b.sigmoid(inner)
        steep = _plus(b, _times(b, square, 6 * _SLOPE * _CUBE), 2 * _SLOPE)
        rest = b.mul(b.mul(x, b.mul(s, b.sub(like(b, 1, s), s))), steep)
        return b.mul(g, b.add(s, rest))  # type: ignore[no-any-return]
    area = _plus(b, _times(b, b.erf(_times(b, x, math.sqrt(0.5))), 0.5), 0.5)
    density = _times(b, b.exp(_times(b, square, -0.5)), 1 / math.sqrt(2 * math.pi))
    return b.mul(g, b.add(area, b.mul(x, density)))  # type: ignore[no-any-return]


def _gelu_samples() -> Sequence[Sample]:
    shapes: Sequence[tuple[int, ...]] = ((3, 4), (), (0, 5))
    attrs: Sequence[dict[str, Any]] = ({}, {"approximate": "tanh"})
    special = special_values(1)
    return [
        *(Sample((floats(shape, -6, 6),), a) for a in attrs for shape in shapes),
        *(Sample(special.operands, a, grad=False) for a in attrs),
    ]


elementwise(
    "gelu",
    attrs=GeluAttrs,
    infer=_gelu_infer,
    ref=in_f64(_gelu_ref),
    body=_gelu,
    grad=_gelu_grad,
    samples=_gelu_samples,
    rejects=(
        Reject(_X, {"approximate": "erf"}, 'approximate is "erf"'),
        Reject((TensorType(BOOL, (2,)),), {}, "not bool"),
    ),
    tol=CLOSE,
    doc="x times the area of the normal distribution below x: x * (1 + erf(x / sqrt(2))) / 2, or "
    "with tanh: x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3))) / 2. NaN at minus infinity.",
)
