"""One-node models, at least one for every operator that the ONNX front end has a rule for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.frontends.support import Array, floats, ints, one_node, reference

NEWEST = 21


@dataclass(frozen=True)
class Case:
    op: str
    arrays: Sequence[Array | None]
    attrs: dict[str, Any] = field(default_factory=dict)
    opset: int = NEWEST
    constant: Sequence[int] = ()
    outputs: int = 1
    # What ONNX says where its reference evaluator fails or strays from its specification.
    expected: Sequence[Array] | None = None

    def __str__(self) -> str:
        attrs = "-".join(f"{name}={value}" for name, value in self.attrs.items())
        return f"{self.op}-{self.opset}-{attrs}".replace(" ", "")[:80]


X = floats(3, 4)
POSITIVE = floats(3, 4, lo=0.1)
UNIT = floats(3, 4, lo=-0.9, hi=0.9)
IMAGE = floats(2, 3, 7, 6)
BOOLS = X > 0
INTS = np.array([[7, -7, 3], [-3, 5, 0]], np.int64)
DIVISORS = np.array([[2, 2, -2], [-2, 3, 4]], np.int64)

DOMAINS = {"Acosh": POSITIVE + 1, "Log": POSITIVE, "Sqrt": POSITIVE}
DOMAINS |= dict.fromkeys(("Acos", "Asin", "Atanh"), UNIT)
UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Hardmax", "Identity",
    "LeakyRelu", "Log", "LogSoftmax", "LpNormalization", "Mish", "Neg", "Reciprocal", "Relu",
    "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus",
    "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
WEIGHTS = floats(4, 3, 3, 2, seed=1)
DEPTHWISE = floats(6, 1, 3, 3, seed=2)
CHANNELS = [floats(3, seed=s, lo=0.2) for s in range(4)]
QUANTISED = np.array([[0, 127, 200], [255, 3, 128]], np.uint8)
MATRIX = floats(4, 5, seed=3)
F16 = X.astype(np.float16)


def _elementwise() -> list[Case]:
    pairs = ("Add", "Sub", "Mul", "Div", "PRelu")
    compare = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
    return [
        *(Case(op, [DOMAINS.get(op, X)]) for op in UNARY),
        *(Case(op, [X, floats(4, seed=1)]) for op in pairs),
        *(Case(op, [INTS, DIVISORS]) for op in ("Add", "Sub", "Mul", *compare)),
        Case("Div", [INTS, DIVISORS], expected=[np.array([[3, -3, -1], [1, 1, 0]])]),
        *(Case(op, [BOOLS, floats(4) > 0]) for op in ("And", "Or", "Xor", "Equal")),
        *(Case(op, [INTS, DIVISORS]) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
        *(Case(op, [X, X[:1], X[:, :1]]) for op in ("Max", "Min", "Mean", "Sum")),
        *(Case(op, [X]) for op in ("Max", "Sum", "Mean")),
        Case("BitwiseNot", [INTS]),
        Case("Erf", [ints(-7, 0, 1, 7)], expected=[ints(-1, 0, 0, 1)]),
        Case("BitShift", [np.array([1, 5, 8], np.uint8)] * 2, {"direction": "LEFT"}),
        Case("BitShift", [np.array([9, 5, 80], np.uint8), np.array([1, 2, 3], np.uint8)],
             {"direction": "RIGHT"}),
        Case("Not", [BOOLS]),
        Case("IsNaN", [np.array([1, np.nan, np.inf], np.float32)]),
        Case("IsInf", [np.array([1, np.nan, np.inf, -np.inf], np.float32)]),
        Case("IsInf", [np.array([1, np.inf, -np.inf], np.float32)], {"detect_positive": 0}),
        Case("Where", [BOOLS, X, floats(4)]),
        Case("Pow", [POSITIVE, X]),
        Case("Pow", [X, ints(2)]),
        Case("Pow", [INTS, np.array([2.0], np.float32)]),
        Case("Pow", [INTS, np.array([2], np.int32)]),
        Case("Mod", [INTS, DIVISORS]),
        Case("Mod", [INTS, DIVISORS], {"fmod": 1}),
        Case("Mod", [X, floats(4, lo=0.5)], {"fmod": 1}),
        Case("Clip", [X, np.float32(-1), np.float32(0.5)], constant=[1, 2]),
        Case("Clip", [X, np.float32(-1), np.float32(0.5)]),
        Case("Clip", [X, None, np.float32(0.5)], constant=[2]),
        Case("Clip", [X, np.float32(1), np.float32(0.5)], constant=[1, 2]),
        Case("Clip", [X], {"min": -0.5}, opset=7),
        Case("Clip", [X], {"min": -0.5, "max": 1.0}, opset=10),
        Case("Clip", [X], {"min": 1.0, "max": 0.5}, opset=10, expected=[np.full_like(X, 0.5)]),
        Case("Clip", [INTS, np.array(-2), np.array(4)], constant=[1, 2]),
        Case("Cast", [X], {"to": TensorProto.INT32}),
        Case("Cast", [X], {"to": TensorProto.FLOAT16}),
        Case("Cast", [X], {"to": TensorProto.DOUBLE}),
        Case("Cast", [BOOLS], {"to": TensorProto.FLOAT}),
        Case("Cast", [INTS], {"to": TensorProto.BOOL}),
        Case("CastLike", [X, INTS]),
        Case("Celu", [X], {"alpha": 0.5}),
        Case("Elu", [X], {"alpha": 0.5}),
        Case("Gelu", [X], {"approximate": "tanh"}),
        Case("HardSigmoid", [X], {"alpha": 0.4, "beta": 0.3}),
        Case("LeakyRelu", [X], {"alpha": 0.3}),
        Case("Relu", [INTS]),
        Case("Selu", [X], {"alpha": 1.5, "gamma": 2.0}),
        Case("Shrink", [X], {"lambd": 1.0, "bias": 0.5}),
        Case("Swish", [X], opset=24, expected=[X / (1 + np.exp(-X))]),
        Case("Swish", [X], {"alpha": 2.0}, opset=24, expected=[X / (1 + np.exp(-2 * X))]),
        Case("ThresholdedRelu", [X], {"alpha": 0.5}),
        Case("Dropout", [X], opset=7),
        Case("Dropout", [X], opset=12, outputs=2),
        Case("Add", [F16, F16[:1]]),
    ]  # fmt: skip


def _movement() -> list[Case]:
    blocks = floats(2, 12, 2, 3)
    return [
        Case("Reshape", [IMAGE, ints(0, -1, 2)], constant=[1]),
        Case("Reshape", [floats(0, 3), ints(3, 0)], {"allowzero": 1}, constant=[1]),
        Case("Flatten", [IMAGE]),
        Case("Flatten", [IMAGE], {"axis": 0}),
        Case("Flatten", [IMAGE], {"axis": -1}),
        Case("Squeeze", [floats(1, 3, 1), ints(-1)], constant=[1]),
        Case("Squeeze", [floats(1, 3, 1)]),
        Case("Squeeze", [floats(1, 3, 1)], {"axes": [0]}, opset=11),
        Case("Unsqueeze", [X, ints(0, -1)], constant=[1]),
        Case("Unsqueeze", [X], {"axes": [0, 3]}, opset=11),
        Case("Transpose", [IMAGE]),
        Case("Transpose", [IMAGE], {"perm": [0, 2, 3, 1]}),
        Case("Expand", [floats(3, 1), ints(2, 1, 4)], constant=[1]),
        Case("Expand", [floats(3, 4), ints(1)], constant=[1]),
        Case("Tile", [X, ints(2, 3)], constant=[1]),
        Case("Concat", [X, X[:, :1], X], {"axis": -1}),
        Case("Split", [floats(6, 2)], {"num_outputs": 3}, outputs=3),
        Case("Split", [floats(7, 2)], {"num_outputs": 3}, outputs=3),
        Case("Split", [floats(6, 2), ints(1, 5)], constant=[1], outputs=2),
        Case("Split", [floats(6, 2)], {"split": [1, 5]}, opset=11, outputs=2),
        Case("Split", [floats(2, 6)], {"axis": 1}, opset=11, outputs=2),
        Case("Slice", [IMAGE, ints(1, -5), ints(1 << 62, -1), ints(1, 2)], constant=[1, 2, 3]),
        Case("Slice", [IMAGE, ints(5, -1), ints(0, -(1 << 62)), ints(2, 3), ints(-2, -1)],
             constant=[1, 2, 3, 4]),
        Case("Slice", [X, ints(2), ints(1)], constant=[1, 2]),
        Case("Slice", [X[:0], ints(-2), ints(-3), ints(0), ints(-3)], constant=[1, 2, 3, 4]),
        Case("Slice", [X], {"starts": [0, 1], "ends": [2, -1]}, opset=9),
        Case("Slice", [X], {"starts": [1], "ends": [1000], "axes": [1]}, opset=9),
        Case("Pad", [X, ints(1, 0, 2, 3)], constant=[1]),
        Case("Pad", [X, ints(1, 2), np.float32(7), ints(-1)], constant=[1, 3]),
        Case("Pad", [X, ints(1, 1, 1, 1)], {"mode": "reflect"}, constant=[1]),
        Case("Pad", [X, ints(1, 2, 1, 0)], {"mode": "edge"}, constant=[1]),
        Case("Pad", [X, ints(1, 2, 1, 0)], {"mode": "wrap"}, constant=[1]),
        Case("Pad", [X, ints(0, -1, 1, -1)], constant=[1],
             expected=[np.pad(X[:, 1:-1], ((0, 1), (0, 0)))]),
        Case("Pad", [X], {"pads": [0, 1, 2, 0], "value": 3.0}, opset=10,
             expected=[np.pad(X, ((0, 2), (1, 0)), constant_values=3)]),
        Case("CenterCropPad", [IMAGE, ints(2, 5, 4, 9)], constant=[1]),
        Case("CenterCropPad", [IMAGE, ints(8, 3)], {"axes": [-1, 2]}, constant=[1]),
        Case("DepthToSpace", [blocks], {"blocksize": 2}),
        Case("DepthToSpace", [blocks], {"blocksize": 2, "mode": "CRD"}),
        Case("SpaceToDepth", [floats(2, 3, 4, 6)], {"blocksize": 2}),
        Case("Shape", [IMAGE]),
        Case("Shape", [IMAGE], {"start": 1, "end": -1}),
        Case("Size", [IMAGE]),
        Case("Gather", [IMAGE, ints([0, -1], [2, 1])], {"axis": 1}),
        Case("GatherElements", [X, ints([0, -1], [2, 1], [1, 1])], {"axis": 1}),
        Case("GatherND", [IMAGE, ints([0, 1], [1, 2])]),
        Case("GatherND", [IMAGE, ints([0], [2])], {"batch_dims": 1}),
        Case("Trilu", [IMAGE]),
        Case("Trilu", [IMAGE, np.array(-2)], {"upper": 0}, constant=[1]),
        Case("OneHot", [ints(0, 3, -1), np.array(4), np.array([-1, 5], np.float32)], constant=[1]),
        Case("OneHot", [ints(0, 2), np.array([4]), np.array([0, 1], np.float32)], {"axis": 0},
             constant=[1, 2], expected=[np.eye(4)[:, [0, 2]]]),
    ]  # fmt: skip


def _creation() -> list[Case]:
    tensor = TensorProto(data_type=TensorProto.INT32, dims=[1], int32_data=[7])
    full = TensorProto(data_type=TensorProto.FLOAT, dims=[2, 2], float_data=[1, 2, 3, 4])
    half = TensorProto(data_type=TensorProto.FLOAT16, dims=[2], int32_data=[0x3C00, 0xC000])
    return [
        Case("Constant", [], {"value": full}),
        Case("Constant", [], {"value": half}),
        Case("Constant", [], {"value_float": 2.5}),
        Case("Constant", [], {"value_int": 3}),
        Case("Constant", [], {"value_ints": [3, 4]}),
        Case("Constant", [], {"value_floats": [3.0, 4.5]}),
        Case("ConstantOfShape", [ints(2, 3)], {"value": tensor}, constant=[0]),
        Case("ConstantOfShape", [ints(2, 3)], constant=[0]),
        Case("Range", [np.array(1), np.array(10), np.array(3)], constant=[0, 1, 2]),
        Case("Range", [np.array(100), np.array(0), np.array(-1)], constant=[0, 1, 2]),
        Case("Range", [np.float32(0.5), np.float32(3), np.float32(0.5)], constant=[0, 1, 2]),
        Case("EyeLike", [X], {"k": 1}),
        Case("EyeLike", [X], {"dtype": TensorProto.INT64}),
    ]


def _reductions() -> list[Case]:
    names = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    return [
        *(Case(f"Reduce{n}", [IMAGE, ints(1, -1)], constant=[1]) for n in names),
        *(Case(f"Reduce{n}", [IMAGE], {"axes": [1], "keepdims": 0}, opset=11) for n in names),
        *(Case(f"Reduce{n}", [IMAGE], opset=13) for n in names),
        Case("ReduceLogSum", [POSITIVE, ints(1)], constant=[1]),
        Case("ReduceSum", [X], {"noop_with_empty_axes": 1}),
        Case("ReduceSum", [X, ints(0)], opset=13, constant=[1]),
        Case("ArgMax", [X]),
        Case("ArgMax", [X], {"axis": -1, "keepdims": 0}),
        Case("ArgMin", [ints([1, 0, 0])], {"axis": 1, "select_last_index": 1}),
        Case("CumSum", [X, np.array(1)], {"exclusive": 1}, constant=[1]),
        Case("CumSum", [X, np.array(0)], {"reverse": 1}, constant=[1]),
    ]


def _full_transpose(weights: Array) -> tuple[Any, dict[str, Array]]:
    return one_node("ConvTranspose", [IMAGE, weights], {"strides": [2, 2]}, NEWEST)


def _windows() -> list[Case]:
    weights = floats(3, 2, 3, 3, seed=4)
    k3 = {"kernel_shape": [3, 3]}
    return [
        Case("Conv", [IMAGE, WEIGHTS, floats(4)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        Case("Conv", [floats(1, 6, 8, 8), DEPTHWISE], {"group": 6, "dilations": [2, 2]}),
        Case("Conv", [IMAGE, WEIGHTS], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        Case("Conv", [IMAGE, WEIGHTS], {"auto_pad": "SAME_LOWER"}),
        Case("Conv", [IMAGE, WEIGHTS], {"auto_pad": "VALID", "kernel_shape": [3, 2]}),
        Case("Conv", [floats(2, 3, 9), floats(5, 3, 3)], {"strides": [2]}),
        Case("Conv", [floats(1, 2, 4, 5, 6), floats(3, 2, 2, 2, 2)]),
        Case("ConvTranspose", [IMAGE, weights, floats(2)], {"strides": [2, 2], "pads": [1] * 4}),
        Case("ConvTranspose", [IMAGE, weights], {"strides": [2, 3], "output_padding": [1, 2]}),
        Case("ConvTranspose", [IMAGE, weights], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        Case("ConvTranspose", [IMAGE, weights], {"strides": [2, 2], "output_shape": [14, 12]},
             expected=[reference(*_full_transpose(weights))[0][:, :, 1:, 1:]]),
        Case("MaxPool", [IMAGE], {**k3, "strides": [2, 2]}),
        Case("MaxPool", [IMAGE], {**k3, "strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4}),
        Case("MaxPool", [IMAGE], {**k3, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        Case("MaxPool", [IMAGE], {**k3, "dilations": [2, 2]}),
        Case("AveragePool", [IMAGE], {**k3, "pads": [1] * 4}),
        Case("AveragePool", [IMAGE], {**k3, "pads": [1] * 4, "count_include_pad": 1}),
        Case("AveragePool", [IMAGE], {**k3, "strides": [2, 2], "ceil_mode": 1}),
        Case("AveragePool", [IMAGE], {**k3, "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        Case("GlobalAveragePool", [IMAGE]),
        Case("GlobalMaxPool", [IMAGE]),
        Case("Resize", [IMAGE, None, np.array([1, 1, 2, 2], np.float32)], constant=[2]),
        Case("Resize", [IMAGE, None, None, ints(2, 3, 10, 4)], {"mode": "linear"}, constant=[3]),
        Case("Resize", [IMAGE, None, None, ints(9, 4)], {"axes": [2, 3], "mode": "cubic"},
             constant=[3]),
        Case("Resize", [IMAGE, None, np.array([1, 1, 3, 2], np.float32)],
             {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, constant=[2]),
        Case("Resize", [IMAGE, np.array([1, 1, 2, 2], np.float32)], opset=10, constant=[1],
             expected=[IMAGE.repeat(2, 2).repeat(2, 3)]),
        Case("Upsample", [IMAGE, np.array([1, 1, 2, 3], np.float32)], opset=9, constant=[1],
             expected=[IMAGE.repeat(2, 2).repeat(3, 3)]),
        Case("Upsample", [IMAGE], {"scales": [1.0, 1.0, 2.0, 3.0]}, opset=7,
             expected=[IMAGE.repeat(2, 2).repeat(3, 3)]),
    ]  # fmt: skip


def _softmax(x: Array, axes: tuple[int, ...]) -> Array:
    e = np.exp(x - x.max(axes, keepdims=True))
    return np.asarray(e / e.sum(axes, keepdims=True))


def _batch_norm(x: Array) -> Array:
    scale, bias, mean, variance = (channel.reshape(-1, 1, 1) for channel in CHANNELS)
    return np.asarray(scale * (x - mean) / np.sqrt(variance + 1e-5) + bias)


def _lrn(x: Array) -> Array:
    """Of three channels, windows of three, alpha 0.1."""
    squares = np.pad(x * x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    total = squares[:, :3] + squares[:, 1:4] + squares[:, 2:]
    return np.asarray(x / (1 + 0.1 / 3 * total) ** 0.75)


def _normalising() -> list[Case]:
    scale, bias = CHANNELS[:2]
    group = [floats(2, 6, 4, seed=5), floats(6, lo=0.5), floats(6)]
    x = floats(2, 3, 4)
    return [
        Case("Softmax", [x], {"axis": 1}),
        Case("Softmax", [x], opset=12, expected=[_softmax(x, (1, 2))]),
        Case("Softmax", [x], {"axis": 2}, opset=11, expected=[_softmax(x, (2,))]),
        Case("LogSoftmax", [x], {"axis": 0}, opset=9, expected=[np.log(_softmax(x, (0, 1, 2)))]),
        Case("Hardmax", [x], {"axis": 1}),
        Case("Hardmax", [floats(0, 3)], {"axis": 0}, expected=[floats(0, 3)]),
        Case("BatchNormalization", [IMAGE, *CHANNELS], {"epsilon": 1e-3}),
        Case("BatchNormalization", [IMAGE, *CHANNELS], opset=9, expected=[_batch_norm(IMAGE)]),
        Case("InstanceNormalization", [IMAGE, scale, bias]),
        Case("LayerNormalization", [X, floats(4), floats(4, seed=1)]),
        Case("LayerNormalization", [IMAGE, floats(7, 6)], {"axis": 2, "epsilon": 1e-3}),
        Case("GroupNormalization", group, {"num_groups": 2}),
        Case("GroupNormalization", [group[0], floats(2, lo=0.5), floats(2)], {"num_groups": 2},
             opset=18),
        Case("RMSNormalization", [X, floats(4)], opset=23),
        Case("LRN", [IMAGE], {"size": 3, "alpha": 0.1}, expected=[_lrn(IMAGE)]),
        Case("LpNormalization", [x], {"axis": 1, "p": 1},
             expected=[x / np.abs(x).sum(1, keepdims=True)]),
        Case("MeanVarianceNormalization", [IMAGE]),
    ]  # fmt: skip


def _products() -> list[Case]:
    batch = floats(2, 3, 4)
    scales, zeros = np.array([0.5, 0.25, 2], np.float32), np.array([0, 3, 128], np.uint8)
    einsums: list[tuple[str, list[Array]]] = [
        ("ij,jk->ik", [X, MATRIX]), ("bij,bjk->bik", [batch, floats(2, 4, 5)]),
        ("bij,kj->bik", [batch, floats(5, 4)]), ("ij->ji", [X]), ("ij->", [X]),
        ("i,j->ij", [X[0], X[1]]),
        ("bhid,bhjd->bhij", [floats(2, 3, 4, 5), floats(2, 3, 6, 5)]),
        ("...ij,...jk->...ik", [batch, floats(2, 4, 5)]), ("ij,jk", [X, MATRIX]),
        ("ij,jk,kl->il", [X, MATRIX, floats(5, 2)]), ("ij,ik->jk", [X, floats(3, 2)]),
        ("i,i->", [X[0], X[1]]), ("ij,ij->i", [X, X]),
    ]  # fmt: skip
    return [
        Case("MatMul", [batch, MATRIX]),
        Case("MatMul", [X[0], MATRIX]),
        Case("Gemm", [X, MATRIX, floats(5)]),
        Case("Gemm", [X.T.copy(), MATRIX.T.copy(), floats(3, 1)],
             {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
        Case("Gemm", [X, MATRIX], opset=11),
        *(Case("Einsum", arrays, {"equation": text}) for text, arrays in einsums),
        Case("Det", [floats(2, 1, 4, 4)], opset=11),
        Case("MatMulInteger", [QUANTISED, QUANTISED.T.copy(), np.uint8(3), np.uint8(128)]),
        Case("QuantizeLinear", [floats(2, 3, hi=90.0), np.float32(0.5), np.uint8(10)]),
        Case("QuantizeLinear", [floats(2, 3), scales, zeros]),
        Case("QuantizeLinear", [floats(2, 3), np.float32(0.02)], {"output_dtype": TensorProto.INT8},
             expected=[np.round(floats(2, 3) / np.float32(0.02)).astype(np.int8)]),
        Case("DequantizeLinear", [QUANTISED, np.float32(0.5), np.uint8(10)]),
        Case("DequantizeLinear", [QUANTISED, scales, zeros], {"axis": -1}),
        Case("DequantizeLinear", [QUANTISED, scales[:2]], {"axis": 0}),
        Case("DynamicQuantizeLinear", [X], outputs=3),
    ]  # fmt: skip


CASES = [
    *_elementwise(),
    *_movement(),
    *_creation(),
    *_reductions(),
    *_windows(),
    *_normalising(),
    *_products(),
]
