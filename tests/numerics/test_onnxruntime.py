"""ONNX Runtime gives the same at special numbers, but for deviations listed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import tfc
from tests.numerics.probes import INF, LIMITS, NAN, agree
from tfc.ir.arrays import Array
from tfc.ir.types import F32

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
helper = onnx.helper

TOL = 4e-6
T = LIMITS[F32]
SPECIAL = (
    NAN, INF, -INF, 0.0, -0.0, 1, -1, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 3, -7, 20, -20, 88, -88,
    100, -100, T.max, -T.max, T.tiny, -T.tiny, T.normal, -T.normal, 0.49999997,
    8388607.5, -8388609, 1e30,
)  # fmt: skip
UNARY = (
    "Abs", "Neg", "Sqrt", "Exp", "Log", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh",
    "Cosh", "Tanh", "Asinh", "Acosh", "Atanh", "Erf", "Floor", "Ceil", "Round", "Sign", "Relu",
    "Sigmoid", "Elu", "LeakyRelu", "Selu", "Celu", "Softplus", "Softsign", "HardSigmoid",
    "HardSwish", "Gelu", "Mish", "ThresholdedRelu", "IsNaN", "IsInf", "Reciprocal",
)  # fmt: skip
BINARY = (
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "Equal", "Less", "LessOrEqual",
    "Greater", "GreaterOrEqual", "PRelu",
)  # fmt: skip
FOLDS = (
    "ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceL1", "ReduceL2",
    "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin", "Softmax", "LogSoftmax",
)  # fmt: skip
ROWS = (
    [1, 2, 3, 4], [INF, 1, 2, 3], [-INF, -INF, -INF, -INF], [-INF, 1, 2, 3], [1e30, -1e30, 1, 0],
    [0.0, -0.0, 0.0, 0.0], [INF, -INF, 1, 1], [80, 81, 82, 83], [3, 3, 3, 3],
)  # fmt: skip

Allowed = Callable[[Sequence[Array]], Any]


def _nan(inputs: Sequence[Array]) -> Any:
    return np.isnan(inputs[0])


def _far(inputs: Sequence[Array]) -> Any:
    return np.abs(inputs[0]) > 1e8


# Where results may differ, and do.
DEVIATIONS: Mapping[str, Allowed] = {
    "ThresholdedRelu": _nan,
    "Sin": _far,
    "Cos": _far,
    "Tan": _far,
}
ATTRS: Mapping[str, dict[str, Any]] = {"Mod": {"fmod": 1}}


def _model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    constants: Sequence[Any] = (),
) -> Any:
    graph = helper.make_graph(
        nodes,
        "special",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in inputs.items()
        ],
        [helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in outputs],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def _both(model: Any, inputs: Mapping[str, Array]) -> tuple[list[Array], list[Array]]:
    """What ONNX Runtime gives, and what tfc gives."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = tfc.compile(model, threads=1)(dict(inputs))
    return session.run(None, dict(inputs)), list(found.values())


def _compare(names: Sequence[str], inputs: Mapping[str, Array], operands: Sequence[str]) -> None:
    nodes = [helper.make_node(n, operands, [f"y_{n}"], **ATTRS.get(n, {})) for n in names]
    theirs, ours = _both(_model(nodes, inputs, [f"y_{n}" for n in names]), inputs)
    for name, want, got in zip(names, theirs, ours, strict=True):
        assert got.dtype == want.dtype, name
        with np.errstate(all="ignore"):
            near = np.abs(got.astype(float) - want.astype(float)) <= TOL
        same = agree(got, want, TOL, any_zero=True) | near
        bad = np.argwhere(~same)
        if name not in DEVIATIONS:
            assert not len(bad), (
                f"{name}: {got[tuple(bad[0])]}, not {want[tuple(bad[0])]} at {bad[0]}"
            )
            continue
        allowed = DEVIATIONS[name]([inputs[n] for n in operands])
        assert len(bad), f"{name} deviates no more"
        assert allowed[~same].all(), f"{name}: {got[~same]}, not {want[~same]}"


def test_unary_operators() -> None:
    _compare(UNARY, {"x": np.array(SPECIAL, np.float32)}, ["x"])


def test_binary_operators() -> None:
    x, y = np.meshgrid(np.array(SPECIAL, np.float32), np.array(SPECIAL, np.float32))
    _compare(BINARY, {"x": x.reshape(-1), "y": y.reshape(-1)}, ["x", "y"])


def test_folds() -> None:
    _compare(FOLDS, {"x": np.array(ROWS, np.float32)[:, None, :].reshape(9, 4)}, ["x"])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integer_operators(dtype: str) -> None:
    """Division by 0 and of the least by -1 trap there, and large powers go through floats."""
    info = np.iinfo(dtype)
    numbers = np.array([0, 1, 2, 3, 7, -1, -2, -7, info.max, info.min, info.min + 1], dtype)
    x, y = (v.reshape(-1) for v in np.meshgrid(numbers, numbers))
    fine = (y != 0) & ~((y == -1) & (x == info.min))
    names = ["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Equal", "Less", "GreaterOrEqual"]
    _compare(names[:5], {"x": x[fine], "y": y[fine]}, ["x", "y"])
    _compare(names[5:], {"x": x, "y": y}, ["x", "y"])


# -- quantisation -------------------------------------------------------------------------------

TYPES = ("INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16", "FLOAT8E4M3FN", "FLOAT8E5M2")
NUMBERS = (
    0, -0.0, 0.125, -0.125, 0.375, 0.625, 1, 3.1, -3.1, 15.875, 31.875, 31.9, 32.125, -32.125, 64,
    8191, -8192, 1e9, -1e9, INF, -INF, 112, 114, 116, 120, 0.0625, -0.0625, 2.5, 3.5, 5.5,
)  # fmt: skip


@pytest.mark.parametrize("scale_type", ["float32", "float16"])
def test_quantising_and_back(scale_type: str) -> None:
    """Ties, saturation, zero points at both ends, negative scales and scales of 0.

    To floats of eight bits ONNX Runtime divides f16 now in f16 and now in f32, by the opset.
    """
    nodes, initial = [], []
    outputs = []
    scales = {"a": 0.25, "b": 0.1, "c": -0.25, "d": 0.0}
    for name in TYPES if scale_type == "float32" else TYPES[:-2]:
        code = getattr(onnx.TensorProto, name)
        zeros = [0]
        if name in ("INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16"):
            bits = int(name.removeprefix("U").removeprefix("INT"))
            low = 0 if name[0] == "U" else -(2 ** (bits - 1))
            zeros = [0, low, low + 2**bits - 1]
        for i, zero in enumerate(zeros):
            initial.append(helper.make_tensor(f"{name}{i}", code, [], [zero]))
            for scale in scales:
                q, y = f"q_{name}{i}{scale}", f"y_{name}{i}{scale}"
                nodes.append(helper.make_node("QuantizeLinear", ["x", scale, f"{name}{i}"], [q]))
                nodes.append(helper.make_node("DequantizeLinear", [q, scale, f"{name}{i}"], [y]))
                outputs.append(y)
    with np.errstate(over="ignore"):
        inputs = {"x": np.array(NUMBERS, np.float32).astype(scale_type)}
    inputs |= {n: np.array(v, scale_type) for n, v in scales.items()}
    theirs, ours = _both(_model(nodes, inputs, outputs, initial), inputs)
    for name, want, got in zip(outputs, theirs, ours, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=name)
