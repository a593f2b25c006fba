"""Elementwise logic: truth values, bits, comparisons, and the choice between values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir.body import Expr, ExprBuilder
from tfc.ir.dims import equal
from tfc.ir.opdef import NoGrad, Reject, Sample, Trait, require
from tfc.ir.ops.common import (
    Array,
    broadcast_shapes,
    elementwise,
    floats,
    integers,
    like,
    require_same_dtype,
    scalar_op,
)
from tfc.ir.types import BOOL, F32, F64, TensorType

INTEGERS = NoGrad("works on integers")
LOGIC = NoGrad("works on truth values")
COMPARES = NoGrad("its result is a truth value")
COMMUTATIVE = (Trait.COMMUTATIVE,)

elementwise(
    "not",
    kinds="b",
    ref=np.logical_not,
    body=scalar_op("not"),
    grad=LOGIC,
    doc="Logical negation.",
)
elementwise(
    "bitwise_not",
    kinds="iu",
    ref=np.bitwise_not,
    body=scalar_op("not"),
    grad=INTEGERS,
    doc="Every bit flipped.",
)
elementwise(
    "isnan",
    ref=np.isnan,
    body=scalar_op("isnan"),
    grad=COMPARES,
    result=BOOL,
    doc="Whether x is NaN.",
)


@dataclass(frozen=True, slots=True)
class IsInfAttrs:
    """positive, negative: which infinities count."""

    positive: bool = True
    negative: bool = True


def _isinf_ref(x: Array, positive: bool, negative: bool) -> Array:
    return np.asarray((np.isposinf(x) & positive) | (np.isneginf(x) & negative))


def _isinf(b: ExprBuilder, x: Expr, *, positive: bool, negative: bool) -> Expr:
    inf = b.const(math.inf, x)
    if positive and negative:
        return b.eq(b.abs(x), inf)
    if positive or negative:
        return b.eq(x, inf if positive else b.const(-math.inf, x))
    return b.const(False, BOOL)


elementwise(
    "isinf",
    attrs=IsInfAttrs,
    sample_attrs=({}, {"positive": False}, {"negative": False}),
    ref=_isinf_ref,
    body=_isinf,
    grad=COMPARES,
    result=BOOL,
    doc="Whether x is an infinity of a sign that counts.",
)


_LOGICAL: dict[str, Callable[..., Any]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}
_BITWISE: dict[str, Callable[..., Any]] = {
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
for _name, _ref in _LOGICAL.items():
    elementwise(
        _name,
        arity=2,
        kinds="b",
        ref=_ref,
        body=scalar_op(_name),
        grad=LOGIC,
        traits=COMMUTATIVE,
        doc=f"Logical {_name}.",
    )
for _name, _ref in _BITWISE.items():
    elementwise(
        f"bitwise_{_name}",
        arity=2,
        kinds="iu",
        ref=_ref,
        body=scalar_op(_name),
        grad=INTEGERS,
        traits=COMMUTATIVE,
        doc=f"Bitwise {_name}.",
    )


def _shift_ref(shift: Callable[..., Any], keeps_sign: bool) -> Callable[..., Array]:
    def ref(x: Array, y: Array) -> Array:
        fits = (y >= 0) & (y < x.dtype.itemsize * 8)
        beyond = np.where(x < 0, -1, 0).astype(x.dtype) if keeps_sign else np.zeros_like(x)
        return np.where(fits, shift(x, np.where(fits, y, np.zeros_like(y))), beyond)

    return ref


elementwise(
    "shl",
    arity=2,
    kinds="iu",
    ref=_shift_ref(np.left_shift, keeps_sign=False),
    body=scalar_op("shl"),
    grad=INTEGERS,
    doc="x shifted left by y bits. 0 where y is negative or not less than the width.",
)
elementwise(
    "shr",
    arity=2,
    kinds="iu",
    ref=_shift_ref(np.right_shift, keeps_sign=True),
    body=scalar_op("shr"),
    grad=INTEGERS,
    doc="x shifted right by y bits, signed numbers with their sign. Where y is negative or not "
    "less than the width: 0, or -1 for a negative x.",
)


def _on_dims(fn: Callable[..., Any], compare: Callable[[Any, Any], bool]) -> Callable[..., Any]:
    """Make a numpy comparison that compares symbolic dims, where bounds settle them."""
    of_dims = np.frompyfunc(compare, 2, 1)

    def ref(x: Any, y: Any) -> Any:
        symbolic = x.dtype.kind == "O" or y.dtype.kind == "O"
        return np.asarray(of_dims(x, y), np.bool_) if symbolic else fn(x, y)

    return ref


_ON_DIMS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": equal,
    "ne": lambda x, y: not equal(x, y),
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_COMPARISONS: tuple[tuple[str, str, Callable[..., Any], str], ...] = (
    ("eq", "fiub", np.equal, "x == y; NaN equals nothing."),
    ("ne", "fiub", np.not_equal, "x != y; NaN differs from everything."),
    ("lt", "fiu", np.less, "x < y; false where either is NaN."),
    ("le", "fiu", np.less_equal, "x <= y; false where either is NaN."),
    ("gt", "fiu", np.greater, "x > y; false where either is NaN."),
    ("ge", "fiu", np.greater_equal, "x >= y; false where either is NaN."),
)
for _name, _kinds, _ref, _meaning in _COMPARISONS:
    elementwise(
        _name,
        arity=2,
        kinds=_kinds,
        ref=_on_dims(_ref, _ON_DIMS[_name]),
        body=scalar_op(_name),
        grad=COMPARES,
        result=BOOL,
        traits=(*(COMMUTATIVE if _name in ("eq", "ne") else ()), Trait.DIMS),
        doc=_meaning,
    )

# -- three operands -----------------------------------------------------------------------------


def _select_infer(types: Sequence[TensorType], attrs: Any) -> Sequence[TensorType]:
    require(types[0].dtype == BOOL, f"the condition is {types[0].dtype}, not bool")
    dtype = require_same_dtype(types[1:])
    return (TensorType(dtype, broadcast_shapes(*(type.shape for type in types))),)


def _select_samples() -> Sequence[Sample]:
    c = integers((3, 4), 0, 1, np.bool_)
    x, y = floats((3, 4)), floats((3, 4), seed=1)
    return (
        Sample((c, x, y)),
        Sample((c, x[0], y[:, :1])),
        Sample((c[:, :1], x[0], np.float32(0.0).reshape(()))),
        Sample((np.array(True), x, y)),
        Sample((c[:, 0], integers((3,)), integers((2, 3), seed=1))),
        Sample((c, ~c, c)),
        Sample((c, (x + 1j * y).astype(np.complex64), np.array(2 - 1j, np.complex64))),
        Sample((c[:0], x[:0], y[0])),
    )


elementwise(
    "select",
    arity=3,
    infer=_select_infer,
    ref=np.where,
    traits=(Trait.DIMS,),
    body=lambda b, c, x, y: b.select(c, x, y),
    grad=lambda b, g, out, c, x, y: (
        None,
        b.select(c, g, like(b, 0, g)),
        b.select(c, like(b, 0, g), g),
    ),
    samples=_select_samples,
    rejects=(
        Reject((TensorType(F32, (2,)),) * 3, {}, "the condition is f32"),
        Reject(
            (TensorType(BOOL, (2,)), TensorType(F32, (2,)), TensorType(F64, (2,))),
            {},
            "differ in element type",
        ),
        Reject(
            (TensorType(BOOL, (2,)), TensorType(F32, (3,)), TensorType(F32, (3,))),
            {},
            "do not broadcast",
        ),
    ),
    doc="x where the condition holds, else y.",
)
