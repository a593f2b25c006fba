"""Cases over opsets of the operators that work element by element; see `opset_cases`."""

from __future__ import annotations

from collections.abc import Callable
from math import erf
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.frontends.opset_cases import Versioned, cases, since
from tests.frontends.support import Array, floats

X = floats(3, 4)
Y = floats(4, seed=1)
POSITIVE = floats(3, 4, lo=0.1)
UNIT = floats(3, 4, lo=-0.9, hi=0.9)
WHOLE = np.array([[7, -7, 3], [-3, 5, 0]])
DIVISORS = np.array([[2, 2, -2], [-2, 3, 4]])
BYTES = np.array([[200, 3, 17], [0, 255, 128]], np.uint8)
HALVES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 1.2], np.float32)
ODD = np.array([1, np.nan, np.inf, -np.inf, 0], np.float32)
BIG = np.array([[2**60 + 1, 2**60 - 1], [-(2**60) - 1, 3]])


def _wide(function: Callable[[Array], Array], x: Array) -> Array:
    """The function in f64, rounded once."""
    return np.asarray(function(x.astype(np.float64)), x.dtype)


def _softplus(x: Array) -> Array:
    return np.log(np.exp(x) + 1)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _selu(x: Array, alpha: float, gamma: float) -> Array:
    return np.where(x > 0, gamma * x, gamma * (alpha * np.exp(x) - alpha))


_erf = np.vectorize(erf)

# Name, the opsets of its definitions, what it computes, and of what.
UNARY: list[tuple[str, tuple[int, ...], Callable[[Array], Any], Array]] = [
    ("Abs", (6, 13), np.abs, X), ("Acos", (7,), np.arccos, UNIT),
    ("Acosh", (9,), np.arccosh, POSITIVE + 1), ("Asin", (7,), np.arcsin, UNIT),
    ("Asinh", (9,), np.arcsinh, X), ("Atan", (7,), np.arctan, X),
    ("Atanh", (9,), np.arctanh, UNIT), ("Ceil", (6, 13), np.ceil, X), ("Cos", (7,), np.cos, X),
    ("Cosh", (9,), np.cosh, X), ("Erf", (9, 13), _erf, X), ("Exp", (6, 13), np.exp, X),
    ("Floor", (6, 13), np.floor, X),
    ("HardSwish", (14,), lambda x: x * np.clip(x / 6 + 0.5, 0, 1), X * 2),
    ("Identity", (1, 13, 14, 16, 19, 21), lambda x: x, X), ("Log", (6, 13), np.log, POSITIVE),
    ("Mish", (18,), lambda x: x * np.tanh(_softplus(x)), X), ("Neg", (6, 13), np.negative, X),
    ("Reciprocal", (6, 13), lambda x: 1 / x, POSITIVE),
    ("Relu", (6, 13, 14), lambda x: np.maximum(x, 0), X), ("Round", (11,), np.round, HALVES),
    ("Sigmoid", (6, 13), _sigmoid, X), ("Sign", (9, 13), np.sign, X), ("Sin", (7,), np.sin, X),
    ("Sinh", (9,), np.sinh, X), ("Softplus", (1,), _softplus, X),
    ("Softsign", (1,), lambda x: x / (1 + np.abs(x)), X), ("Sqrt", (6, 13), np.sqrt, POSITIVE),
    ("Tan", (7,), np.tan, UNIT), ("Tanh", (6, 13), np.tanh, X),
]  # fmt: skip


def _unary() -> list[Versioned]:
    def quick_gelu(x: Array) -> Array:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    found: list[Versioned] = []
    for op, versions, function, x in UNARY:
        found += cases(op, since(*versions), [x], _wide(function, x))
    # Other types than floats of 32 bits.
    for dtype in (np.float64, np.float16):
        for op, versions, function, x in UNARY[:2]:
            found += cases(
                op, since(*versions), [x.astype(dtype)], _wide(function, x.astype(dtype))
            )
    small = WHOLE.astype(np.int32)
    parametric: list[tuple[str, tuple[int, ...], dict[str, float], Callable[[Array], Array]]] = [
        ("Celu", (12,), {}, lambda x: np.maximum(x, 0) + np.minimum(0, np.exp(x) - 1)),
        ("Celu", (12,), {"alpha": 2.0},
         lambda x: np.maximum(x, 0) + np.minimum(0, 2 * (np.exp(x / 2) - 1))),
        ("Elu", (6,), {}, lambda x: np.where(x < 0, np.exp(x) - 1, x)),
        ("Elu", (6,), {"alpha": 0.5}, lambda x: np.where(x < 0, 0.5 * (np.exp(x) - 1), x)),
        ("HardSigmoid", (6,), {}, lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
        ("HardSigmoid", (6,), {"alpha": 0.6, "beta": 0.1}, lambda x: np.clip(0.6 * x + 0.1, 0, 1)),
        ("LeakyRelu", (6, 16), {}, lambda x: np.where(x < 0, 0.01 * x, x)),
        ("LeakyRelu", (6, 16), {"alpha": 0.3}, lambda x: np.where(x < 0, 0.3 * x, x)),
        ("Selu", (6,), {}, lambda x: _selu(x, 1.67326319217681885, 1.05070102214813232)),
        ("Selu", (6,), {"alpha": 1.5, "gamma": 2.0}, lambda x: _selu(x, 1.5, 2)),
        ("Shrink", (9,), {}, lambda x: np.where(x < -0.5, x, np.where(x > 0.5, x, 0))),
        ("Shrink", (9,), {"lambd": 1.0, "bias": 0.25},
         lambda x: np.where(x < -1, x + 0.25, np.where(x > 1, x - 0.25, 0))),
        ("ThresholdedRelu", (10,), {}, lambda x: np.where(x > 1, x, 0)),
        ("ThresholdedRelu", (10,), {"alpha": 0.5}, lambda x: np.where(x > 0.5, x, 0)),
    ]  # fmt: skip
    for op, versions, attrs, function in parametric:
        found += cases(op, since(*versions), [X], _wide(function, X), attrs)
    return [
        *found,
        *cases("Gelu", 20, [X], _wide(lambda x: 0.5 * x * (1 + _erf(x / np.sqrt(2))), X)),
        *cases("Gelu", 20, [X], _wide(quick_gelu, X), {"approximate": "tanh"}),
        *cases("Not", (7, 12, 21), [X > 0], X <= 0),
        *cases("BitwiseNot", 18, [BYTES], ~BYTES),
        *cases("Abs", (7, 13), [small], np.abs(small)),
        *cases("Neg", (7, 13), [small], -small),
        *cases("Sign", (9, 13), [small], np.sign(small)),
        *cases("Relu", 14, [small], np.maximum(small, 0)),
        *cases("IsInf", (10, 20), [ODD], np.isinf(ODD)),
        *cases("IsInf", (10, 20), [ODD], np.isposinf(ODD), {"detect_negative": 0}),
        *cases("IsInf", (10, 20), [ODD], np.isneginf(ODD), {"detect_positive": 0}),
        *cases("IsInf", 20, [ODD.astype(np.float16)], np.isinf(ODD)),
        *cases("IsNaN", (9, 13, 20), [ODD], np.isnan(ODD)),
    ]


def _arithmetic() -> list[Versioned]:
    truncated = np.array([[3, -3, -1], [1, 1, 0]])
    small, less = WHOLE.astype(np.int8), DIVISORS.astype(np.int8)
    found: list[Versioned] = []
    for op, function in (
        ("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide),
    ):  # fmt: skip
        found += cases(op, (7, 13, 14), [X, Y], function(X, Y))
        whole = truncated if op == "Div" else function(WHOLE, DIVISORS)
        for dtype in (np.int32, np.int64):
            operands = [WHOLE.astype(dtype), DIVISORS.astype(dtype)]
            found += cases(op, (7, 13), operands, whole.astype(dtype))
        # The narrow integers came with opset 14.
        found += cases(op, 14, [small, less], whole.astype(np.int8))
    negative = X - 0.5
    return [
        *found,
        *cases("PRelu", (7, 9, 16), [X, Y], np.where(X < 0, Y * X, X)),
        *cases("PRelu", (7, 9, 16), [X, Y[:1]], np.where(X < 0, Y[:1] * X, X)),
        *cases("PRelu", (9, 16), [WHOLE.astype(np.int32), DIVISORS.astype(np.int32)],
               np.where(WHOLE < 0, WHOLE * DIVISORS, WHOLE).astype(np.int32)),
        *cases("Pow", (7, 12, 13, 15), [POSITIVE, X],
               (POSITIVE.astype(np.float64) ** X).astype(np.float32)),
        *cases("Pow", (7, 12, 13, 15), [negative, np.float32(3)], negative**3),
        # Exponents of another type came with opset 12, those of narrow integers with 15.
        *cases("Pow", (12, 13, 15), [negative, np.int64(2)], negative**2),
        *cases("Pow", (12, 13, 15), [WHOLE, np.float32(2)], WHOLE**2),
        *cases("Pow", (12, 13, 15), [WHOLE.astype(np.int32), np.int64(3)],
               (WHOLE**3).astype(np.int32)),
        *cases("Pow", 15, [WHOLE.astype(np.int32), np.uint8(2)], (WHOLE**2).astype(np.int32)),
        *cases("Mod", (10, 13), [WHOLE, DIVISORS], np.mod(WHOLE, DIVISORS)),
        *cases("Mod", (10, 13), [WHOLE, DIVISORS], np.fmod(WHOLE, DIVISORS), {"fmod": 1}),
        *cases("Mod", (10, 13), [X, Y], np.fmod(X, Y), {"fmod": 1}),
        *cases("Mod", (10, 13), [BYTES, np.uint8(7)], BYTES % np.uint8(7)),
        *cases("BitShift", 11, [BYTES, np.array([1, 2, 3], np.uint8)],
               BYTES << np.array([1, 2, 3], np.uint8), {"direction": "LEFT"}),
        *cases("BitShift", 11, [BYTES.astype(np.uint64), np.uint64(3)],
               BYTES.astype(np.uint64) >> np.uint64(3), {"direction": "RIGHT"}),
        *cases("BitwiseAnd", 18, [WHOLE, DIVISORS], WHOLE & DIVISORS),
        *cases("BitwiseOr", 18, [WHOLE, DIVISORS], WHOLE | DIVISORS),
        *cases("BitwiseXor", 18, [WHOLE, DIVISORS], WHOLE ^ DIVISORS),
    ]  # fmt: skip


def _comparisons() -> list[Versioned]:
    mask, other = X > 0, Y > 0
    found: list[Versioned] = []
    for op, function in (
        ("And", np.logical_and), ("Or", np.logical_or), ("Xor", np.logical_xor),
    ):  # fmt: skip
        found += cases(op, 7, [mask, other], function(mask, other))
    for op, versions, compare in (
        ("Greater", (7, 9, 13), np.greater), ("Less", (7, 9, 13), np.less),
        ("GreaterOrEqual", (12, 16), np.greater_equal), ("LessOrEqual", (12, 16), np.less_equal),
    ):  # fmt: skip
        found += cases(op, versions, [X, X[:1]], compare(X, X[:1]))
        found += cases(op, versions[-2:], [BIG, BIG[:1]], compare(BIG, BIG[:1]))
        unsigned = np.array([1, 2**63, 2**64 - 1], np.uint64)
        found += cases(op, versions[-2:], [unsigned, unsigned[1:2]], compare(unsigned, unsigned[1]))
    return [
        *found,
        # Equal compares floats since opset 11.
        *cases("Equal", (7, 11, 13, 19), [BIG, BIG[:1]], np.equal(BIG, BIG[:1])),
        *cases("Equal", (7, 11, 13, 19), [mask, other], mask == other),
        *cases("Equal", (11, 13, 19), [X, X[:1]], np.equal(X, X[:1])),
        *cases("Equal", (11, 13, 19), [ODD, ODD], np.equal(ODD, ODD)),
        *cases("Where", (9, 16), [mask, X, Y], np.where(mask, X, Y)),
        *cases("Where", (9, 16), [mask, BYTES[0, 0], np.uint8(9)],
               np.where(mask, np.uint8(200), np.uint8(9))),
        *cases("Where", (9, 16), [mask, mask[:1], other], np.where(mask, mask[:1], other)),
    ]  # fmt: skip


def _variadic() -> list[Versioned]:
    same = [X, floats(3, 4, seed=2), floats(3, 4, seed=3)]
    broadcast = [X, X[:1], X[:, :1]]
    numbers = [WHOLE, DIVISORS]
    found: list[Versioned] = []
    for op, function, versions in (
        ("Max", np.maximum, (8, 12, 13)), ("Min", np.minimum, (8, 12, 13)),
        ("Sum", np.add, (8, 13)),
    ):  # fmt: skip
        for opsets, operands in (((7, *versions), same), (versions, broadcast)):
            a, b, c = operands
            found += cases(op, opsets, operands, function(function(a, b), c))
        found += cases(op, (7, *versions), [X], X)
        if op != "Sum":
            for dtype in (np.int64, np.int8, np.uint32):
                some = [np.abs(n).astype(dtype) for n in numbers]
                found += cases(op, (12, 13), some, function(*some))
    a, b, c = same
    return [
        *found,
        *cases("Mean", (7, 8, 13), same, (a + b + c) / np.float32(3)),
        *cases("Mean", (8, 13), broadcast, (X + X[:1] + X[:, :1]) / np.float32(3)),
    ]


def _clip() -> list[Versioned]:
    lo, hi = np.float32(-0.5), np.float32(0.75)
    whole = [np.int64(-2), np.int64(4)]
    lowered, inside = np.maximum(X, lo), np.clip(X, lo, hi)
    return [
        *cases("Clip", (7, 10), [X], inside, {"min": -0.5, "max": 0.75}),
        *cases("Clip", (7, 10), [X], np.minimum(X, hi), {"max": 0.75}),
        *cases("Clip", (7, 10), [X], X),
        *cases("Clip", (11, 12, 13), [X, lo, hi], inside),
        *cases("Clip", (11, 12, 13), [X, lo, hi], inside, constant=(1, 2)),
        *cases("Clip", (11, 12, 13), [X, lo], lowered),
        *cases("Clip", (11, 12, 13), [X, None, hi], np.minimum(X, hi)),
        *cases("Clip", (12, 13), [WHOLE, *whole], np.clip(WHOLE, -2, 4)),
        *cases("Clip", (12, 13), [BYTES, np.uint8(3)], np.maximum(BYTES, 3), constant=(1,)),
        # Where the bounds cross, all elements become the upper one.
        *cases("Clip", (12, 13), [X, hi, lo], np.full_like(X, lo)),
    ]


def _casts() -> list[Versioned]:
    wide = X.astype(np.float64) * 10
    found: list[Versioned] = []
    for code, dtype in (
        (TensorProto.INT32, np.int32), (TensorProto.INT8, np.int8), (TensorProto.INT64, np.int64),
        (TensorProto.FLOAT16, np.float16), (TensorProto.DOUBLE, np.float64),
        (TensorProto.BOOL, np.bool_),
    ):  # fmt: skip
        whole = X * 10
        found += cases("Cast", (7, 9, 13, 19, 21), [whole], whole.astype(dtype), {"to": code})
        found += cases(
            "CastLike", (15, 19, 21), [whole, np.zeros((2,), dtype)], whole.astype(dtype)
        )  # fmt: skip
    return [
        *found,
        *cases("Cast", (7, 9, 13), [WHOLE], WHOLE.astype(np.uint8), {"to": TensorProto.UINT8}),
        *cases("Cast", (7, 9, 13), [X > 0], (X > 0).astype(np.float32), {"to": TensorProto.FLOAT}),
        *cases("Cast", (7, 9, 13), [wide], wide.astype(np.float32), {"to": TensorProto.FLOAT}),
        # What is no number of the target's own: truth of tiny ones and NaN, f16 overflow.
        *cases("Cast", (7, 9, 13), [ODD * np.float32(1e-30)], [ODD != 0], {"to": TensorProto.BOOL}),
        *cases("Cast", (7, 9, 13), [np.array([65519, 65520, -1e9], np.float32)],
               np.array([65504, np.inf, -np.inf], np.float16), {"to": TensorProto.FLOAT16}),
    ]  # fmt: skip


def _dropout() -> list[Versioned]:
    """In inference all elements are kept; the mask is of the data's type before opset 10."""
    ratio, training = np.float32(0.3), np.array(False)
    everything = np.ones_like(X, bool)
    return [
        *cases("Dropout", (7, 10), [X], X, {"ratio": 0.3}),
        *cases("Dropout", 7, [X], [X, np.ones_like(X)], {"ratio": 0.3},
               runtime="gives no mask in this opset"),
        *cases("Dropout", 10, [X], [X, everything], {"ratio": 0.3},
               runtime="gives a mask of False in this opset"),
        *cases("Dropout", (12, 13), [X], X),
        *cases("Dropout", (12, 13), [X, ratio], [X, everything], constant=(1,)),
        *cases("Dropout", (12, 13), [X, ratio, training], [X, everything], constant=(1, 2)),
        *cases("Dropout", (12, 13), [X.astype(np.float64), np.float32(0)], X.astype(np.float64),
               constant=(1,)),
    ]  # fmt: skip


CASES = [
    *_unary(),
    *_arithmetic(),
    *_comparisons(),
    *_variadic(),
    *_clip(),
    *_casts(),
    *_dropout(),
]
