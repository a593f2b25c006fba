"""Elementwise arithmetic, transcendental functions, bounds and conversion.

Comparisons and logic are in `logic`, activations in `activation`. Operands broadcast; f16 and bf16
are computed in f32. Start at `common.elementwise`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir.body import Expr, ExprBuilder
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, UndecidableError, floordiv, maximum, minimum, mod
from tfc.ir.opdef import Reject, Trait, require
from tfc.ir.ops.common import (
    CLOSE,
    Array,
    elementwise,
    in_f64,
    like,
    require_kind,
    scalar_op,
)
from tfc.ir.types import (
    BOOL,
    F32,
    TensorType,
)

DIMS = (Trait.DIMS,)
COMMUTATIVE = (Trait.COMMUTATIVE,)
IDEMPOTENT = (Trait.IDEMPOTENT,)


def _zero_grad(b: GraphBuilder, g: Value, y: Value, x: Value) -> None:
    return None


# -- one operand --------------------------------------------------------------------------------

elementwise(
    "neg",
    kinds="fiu",
    ref=np.negative,
    body=scalar_op("neg"),
    grad=lambda b, g, y, x: b.neg(g),
    traits=DIMS,
    doc="-x. Integers wrap.",
)
elementwise(
    "abs",
    kinds="fiu",
    ref=np.abs,
    body=scalar_op("abs"),
    grad=lambda b, g, y, x: b.mul(g, b.sign(x)),
    traits=IDEMPOTENT,
    doc="|x|. The least signed integer stays what it is.",
)
elementwise(
    "sqrt",
    ref=in_f64(np.sqrt),
    body=scalar_op("sqrt"),
    grad=lambda b, g, y, x: b.div(b.mul(g, like(b, 0.5, x)), y),
    domain=(0.1, 4.0),
    doc="The square root, correctly rounded. NaN below 0; -0 stays -0.",
)


def _math(
    name: str,
    ref: Callable[..., Any],
    grad: Callable[..., Any],
    doc: str,
    domain: tuple[float, float] = (-2.0, 2.0),
) -> None:
    """Register a transcendental function of one operand."""
    elementwise(
        name,
        ref=in_f64(ref),
        body=scalar_op(name),
        grad=grad,
        domain=domain,
        tol=CLOSE,
        doc=doc,
    )


def _one_minus_square(b: GraphBuilder, x: Value) -> Value:
    """(1 - x) * (1 + x), which does not cancel near 1."""
    one = like(b, 1, x)
    return b.mul(b.sub(one, x), b.add(one, x))  # type: ignore[no-any-return]


def _one_plus_square(b: GraphBuilder, x: Value) -> Value:
    return b.add(b.mul(x, x), like(b, 1, x))  # type: ignore[no-any-return]


def _erf_grad(b: GraphBuilder, g: Value, y: Value, x: Value) -> Value:
    density = b.mul(b.exp(b.neg(b.mul(x, x))), like(b, 2 / math.sqrt(math.pi), x))
    return b.mul(g, density)  # type: ignore[no-any-return]


def _acosh_grad(b: GraphBuilder, g: Value, y: Value, x: Value) -> Value:
    one = like(b, 1, x)
    return b.div(g, b.sqrt(b.mul(b.sub(x, one), b.add(x, one))))  # type: ignore[no-any-return]


_erf = np.frompyfunc(math.erf, 1, 1)

_math("exp", np.exp, lambda b, g, y, x: b.mul(g, y), "e**x. exp(-inf) is 0.")
_math(
    "expm1",
    np.expm1,
    lambda b, g, y, x: b.mul(g, b.add(y, like(b, 1, x))),
    "e**x - 1, accurate near 0.",
)
_math(
    "log",
    np.log,
    lambda b, g, y, x: b.div(g, x),
    "The natural logarithm. -inf at 0, NaN below.",
    domain=(0.1, 4.0),
)
_math(
    "log1p",
    np.log1p,
    lambda b, g, y, x: b.div(g, b.add(x, like(b, 1, x))),
    "log(1 + x), accurate near 0. -inf at -1, NaN below.",
    domain=(-0.5, 3.0),
)
_math(
    "sin",
    np.sin,
    lambda b, g, y, x: b.mul(g, b.cos(x)),
    "The sine of radians. NaN at infinity. Arguments up to 1e8 are reduced exactly.",
    domain=(-9.0, 9.0),
)
_math(
    "cos",
    np.cos,
    lambda b, g, y, x: b.neg(b.mul(g, b.sin(x))),
    "The cosine of radians; see sin.",
    domain=(-9.0, 9.0),
)
_math(
    "tan",
    np.tan,
    lambda b, g, y, x: b.mul(g, _one_plus_square(b, y)),
    "The tangent of radians; see sin.",
    domain=(-1.3, 1.3),
)
_math(
    "asin",
    np.arcsin,
    lambda b, g, y, x: b.div(g, b.sqrt(_one_minus_square(b, x))),
    "The inverse sine, in [-pi/2, pi/2]. NaN outside [-1, 1].",
    domain=(-0.9, 0.9),
)
_math(
    "acos",
    np.arccos,
    lambda b, g, y, x: b.neg(b.div(g, b.sqrt(_one_minus_square(b, x)))),
    "The inverse cosine, in [0, pi]. NaN outside [-1, 1].",
    domain=(-0.9, 0.9),
)
_math(
    "atan",
    np.arctan,
    lambda b, g, y, x: b.div(g, _one_plus_square(b, x)),
    "The inverse tangent, in [-pi/2, pi/2].",
)
_math("sinh", np.sinh, lambda b, g, y, x: b.mul(g, b.cosh(x)), "(e**x - e**-x) / 2.")
_math("cosh", np.cosh, lambda b, g, y, x: b.mul(g, b.sinh(x)), "(e**x + e**-x) / 2.")
_math(
    "tanh",
    np.tanh,
    lambda b, g, y, x: b.mul(g, _one_minus_square(b, y)),
    "sinh(x) / cosh(x): -1 to 1.",
)
_math(
    "asinh",
    np.arcsinh,
    lambda b, g, y, x: b.div(g, b.sqrt(_one_plus_square(b, x))),
    "log(x + sqrt(x*x + 1)), odd.",
)
_math(
    "acosh",
    np.arccosh,
    _acosh_grad,
    "log(x + sqrt(x*x - 1)). NaN below 1.",
    domain=(1.1, 4.0),
)
_math(
    "atanh",
    np.arctanh,
    lambda b, g, y, x: b.div(g, _one_minus_square(b, x)),
    "log((1 + x) / (1 - x)) / 2. Infinite at -1 and 1, NaN outside.",
    domain=(-0.9, 0.9),
)
_math(
    "erf",
    lambda x: np.asarray(_erf(x), np.float64),
    _erf_grad,
    "The error function: 2/sqrt(pi) * integral of exp(-t*t) from 0 to x.",
)

elementwise(
    "floor",
    ref=np.floor,
    body=scalar_op("floor"),
    grad=_zero_grad,
    traits=IDEMPOTENT,
    doc="The greatest integer <= x.",
)
elementwise(
    "ceil",
    ref=np.ceil,
    body=scalar_op("ceil"),
    grad=_zero_grad,
    traits=IDEMPOTENT,
    doc="The least integer >= x.",
)
elementwise(
    "round",
    ref=np.rint,
    body=scalar_op("round"),
    grad=_zero_grad,
    traits=IDEMPOTENT,
    doc="The nearest integer, half to even.",
)


def _sign_ref(x: Array) -> Array:
    return np.asarray(np.where(x == 0, x, np.sign(x)))


def _sign(b: ExprBuilder, x: Expr) -> Expr:
    zero = b.const(0, x)
    positive = b.select(b.gt(x, zero), b.const(1, x), x)
    if x.dtype.kind == "u":
        return positive
    return b.select(b.lt(x, zero), b.const(-1, x), positive)


elementwise(
    "sign",
    kinds="fiu",
    ref=_sign_ref,
    body=_sign,
    grad=_zero_grad,
    traits=IDEMPOTENT,
    doc="-1, 0 or 1 as x is below, at or above 0. NaN stays NaN, and -0 stays -0.",
)


@dataclass(frozen=True, slots=True)
class ClampAttrs:
    """lo, hi: inclusive bounds; none is no bound."""

    lo: float | int | None = None
    hi: float | int | None = None


def _clamp_infer(types: Sequence[TensorType], attrs: ClampAttrs) -> Sequence[TensorType]:
    require_kind(types[0], "fiu")
    for bound in (attrs.lo, attrs.hi):
        require(bound is None or not math.isnan(bound), "a bound is NaN")
    if attrs.lo is not None and attrs.hi is not None:
        require(attrs.lo <= attrs.hi, f"lo {attrs.lo} is greater than hi {attrs.hi}")
    return types


def _clamp_ref(x: Array, lo: float | None, hi: float | None) -> Array:
    low = None if lo is None else np.asarray(lo).astype(x.dtype)
    high = None if hi is None else np.asarray(hi).astype(x.dtype)
    return x if low is None and high is None else np.clip(x, low, high)


def _clamp(b: ExprBuilder, x: Expr, *, lo: float | None, hi: float | None) -> Expr:
    """Selects with x last: each is one instruction on x86, and NaN falls through."""
    if lo is not None:
        low = b.const(lo, x)
        x = b.select(b.lt(x, low), low, x)
    if hi is not None:
        high = b.const(hi, x)
        x = b.select(b.gt(x, high), high, x)
    return x


def _clamp_grad(
    b: GraphBuilder, g: Value, y: Value, x: Value, lo: float | None, hi: float | None
) -> Value:
    zero = like(b, 0, x)
    if lo is not None:
        g = b.select(b.lt(x, like(b, lo, x)), zero, g)
    if hi is not None:
        g = b.select(b.gt(x, like(b, hi, x)), zero, g)
    return g


elementwise(
    "clamp",
    kinds="fiu",
    attrs=ClampAttrs,
    sample_attrs=({"lo": 0, "hi": 1}, {"lo": 1}, {"hi": 1}, {}),
    infer=_clamp_infer,
    ref=_clamp_ref,
    body=_clamp,
    grad=_clamp_grad,
    traits=IDEMPOTENT,
    rejects=(
        Reject((TensorType(F32, (2,)),), {"lo": 1.0, "hi": 0.0}, "lo 1.0 is greater than hi 0.0"),
        Reject((TensorType(F32, (2,)),), {"lo": math.nan}, "a bound is NaN"),
        Reject((TensorType(BOOL, (2,)),), {}, "not bool"),
    ),
    doc="min(max(x, lo), hi), bounds inclusive. NaN stays NaN.",
)


# -- two operands -------------------------------------------------------------------------------

elementwise(
    "add",
    arity=2,
    kinds="fiu",
    ref=np.add,
    body=scalar_op("add"),
    grad=lambda b, g, out, x, y: (g, g),
    traits=(*COMMUTATIVE, *DIMS),
    doc="x + y. Integers wrap.",
)
elementwise(
    "sub",
    arity=2,
    kinds="fiu",
    ref=np.subtract,
    body=scalar_op("sub"),
    grad=lambda b, g, out, x, y: (g, b.neg(g)),
    traits=DIMS,
    doc="x - y. Integers wrap.",
)
elementwise(
    "mul",
    arity=2,
    kinds="fiu",
    ref=np.multiply,
    body=scalar_op("mul"),
    grad=lambda b, g, out, x, y: (b.mul(g, y), b.mul(g, x)),
    traits=(*COMMUTATIVE, *DIMS),
    doc="x * y. Integers wrap.",
)


def _truncated(x: Array, y: Array) -> tuple[Array, Array]:
    """Quotient towards zero (0 where y is) and its remainder (x where y is 0), of integers."""
    divisor = np.where(y == 0, np.ones_like(y), y)
    quotient = np.floor_divide(x, divisor)
    inexact = quotient * divisor != x
    quotient = quotient + (inexact & ((x < 0) != (divisor < 0))).astype(quotient.dtype)
    quotient = np.where(y == 0, np.zeros_like(quotient), quotient)
    return quotient, x - quotient * y


def _divided_dims(x: Array, y: Array, one: Callable[[DimLike, DimLike], DimLike]) -> Array:
    """`one(x, y)` of dims by dims that are 0 or more, with a divisor of at least 1; 0 where y is 0.

    Refuses divisors that may be below 0.
    """
    dividends, divisors = np.broadcast_arrays(x.astype(object), y.astype(object))
    found = []
    for dividend, divisor in zip(dividends.flat, divisors.flat, strict=True):
        if divisor < 0:
            raise UndecidableError("division of dims by what is negative")
        found.append(one(dividend, maximum(divisor, 1)) * minimum(divisor, 1))
    return np.array(found, object).reshape(dividends.shape)


def _may_be_negative(dim: DimLike) -> bool:
    try:
        return dim < 0
    except UndecidableError:
        return True


def _truncated_dim(x: DimLike, y: DimLike) -> DimLike:
    if not _may_be_negative(x):
        return floordiv(x, y)
    return floordiv(maximum(x, 0), y) - floordiv(maximum(-x, 0), y)


def _modulo_dim(x: DimLike, y: DimLike) -> DimLike:
    if _may_be_negative(x):
        raise UndecidableError("remainder of a dim that may be negative")
    return mod(x, y)


def _div_ref(x: Array, y: Array) -> Array:
    if "O" in (x.dtype.kind, y.dtype.kind):
        return _divided_dims(x, y, _truncated_dim)
    return np.divide(x, y) if x.dtype.kind == "f" else _truncated(x, y)[0]


def _rem_ref(x: Array, y: Array) -> Array:
    return np.fmod(x, y) if x.dtype.kind == "f" else _truncated(x, y)[1]


def _mod_ref(x: Array, y: Array) -> Array:
    if "O" in (x.dtype.kind, y.dtype.kind):
        return _divided_dims(x, y, _modulo_dim)
    return np.asarray(np.mod(x, y))


def _mod(b: ExprBuilder, x: Expr, y: Expr) -> Expr:
    rem = b.rem(x, y)
    zero = b.const(0, x)
    if x.dtype.kind != "u":
        wrong = b.and_(b.ne(rem, zero), b.xor(b.lt(rem, zero), b.lt(y, zero)))
        rem = b.select(wrong, b.add(rem, y), rem)
    if not x.dtype.is_float:
        return b.select(b.eq(y, zero), zero, rem)
    none = b.select(b.lt(y, zero), b.const(-0.0, x), zero)
    return b.select(b.eq(rem, zero), none, rem)


def _remainder_grad(
    b: GraphBuilder, g: Value, out: Value, x: Value, y: Value
) -> tuple[Value, Value]:
    """d/dy is minus the quotient, which is (x - out) / y."""
    return g, b.neg(b.mul(g, b.round(b.div(b.sub(x, out), y))))


elementwise(
    "div",
    arity=2,
    kinds="fiu",
    ref=_div_ref,
    body=scalar_op("div"),
    grad=lambda b, g, out, x, y: (b.div(g, y), b.neg(b.div(b.mul(g, out), y))),
    traits=DIMS,
    doc="x / y. Integers truncate towards zero; by zero gives 0.",
)
elementwise(
    "mod",
    arity=2,
    kinds="fiu",
    ref=_mod_ref,
    body=_mod,
    grad=_remainder_grad,
    tol=CLOSE,
    traits=DIMS,
    doc="x - y * floor(x / y): the sign of y, of a 0 too. An integer by zero gives 0; floats as "
    "numpy.mod.",
)
elementwise(
    "rem",
    arity=2,
    kinds="fiu",
    ref=_rem_ref,
    body=scalar_op("rem"),
    grad=_remainder_grad,
    doc="x - y * trunc(x / y): the sign of x, exact for floats. An integer by zero gives x.",
)


def _c_pow(x: Array, y: Array) -> Array:
    """C's pow. numpy (2.4) takes square roots for a single exponent of 0.5, also of -inf and -0."""
    root = y == 0.5
    out = np.where(root & (x == 0), 0.0, np.power(x, y))
    return np.where(root & (x == -np.inf), np.inf, out)


def _pow_ref(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return in_f64(_c_pow)(x, y)
    out = np.power(x, np.maximum(y, 0))
    if x.dtype.kind == "u":
        return out
    odd = (y & 1) == 1
    unit = np.where(x == 1, 1, np.where(x == -1, np.where(odd, -1, 1), 0)).astype(x.dtype)
    return np.where(y < 0, unit, out)


def _pow_grad(b: GraphBuilder, g: Value, out: Value, x: Value, y: Value) -> tuple[Value, Value]:
    """y * x**(y-1), but 0 at y == 0; out * log(x), but 0 at x == 0."""
    zero = like(b, 0, x)
    slope = b.mul(y, b.pow(x, b.sub(y, like(b, 1, y))))
    by_x = b.select(b.eq(y, zero), zero, slope)
    by_y = b.select(b.eq(x, zero), zero, b.mul(out, b.log(x)))
    return b.mul(g, by_x), b.mul(g, by_y)


elementwise(
    "pow",
    arity=2,
    kinds="fiu",
    ref=_pow_ref,
    body=scalar_op("pow"),
    grad=_pow_grad,
    domain=(0.2, 2.0),
    tol={"f64": 1e-14, "f32": 2e-6, "f16": 2e-3, "bf16": 1.6e-2},
    doc="x ** y as C's pow for floats. Integers wrap; a negative exponent gives 1 / x ** -y "
    "truncated, and 0 where x is 0.",
)


def _extreme_ref(ufunc: Callable[..., Any], of_dims: Callable[..., Any]) -> Callable[..., Array]:
    symbolic = np.frompyfunc(of_dims, 2, 1)

    def ref(x: Array, y: Array) -> Array:
        dims = "O" in (x.dtype.kind, y.dtype.kind)
        return np.asarray(symbolic(x, y), object) if dims else ufunc(x, y)

    return ref


elementwise(
    "min",
    arity=2,
    kinds="fiu",
    ref=_extreme_ref(np.minimum, minimum),
    body=scalar_op("min"),
    grad=lambda b, g, out, x, y: (
        b.select(b.le(x, y), g, like(b, 0, g)),
        b.select(b.le(x, y), like(b, 0, g), g),
    ),
    traits=(*COMMUTATIVE, *DIMS),
    doc="The lesser of x and y; NaN where either is. On a tie the gradient goes to x.",
)
elementwise(
    "max",
    arity=2,
    kinds="fiu",
    ref=_extreme_ref(np.maximum, maximum),
    body=scalar_op("max"),
    grad=lambda b, g, out, x, y: (
        b.select(b.ge(x, y), g, like(b, 0, g)),
        b.select(b.ge(x, y), like(b, 0, g), g),
    ),
    traits=(*COMMUTATIVE, *DIMS),
    doc="The greater of x and y; NaN where either is. On a tie the gradient goes to x.",
)
