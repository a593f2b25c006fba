"""What the ONNX front end makes of operators has gradients, which are finite differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tfc.compiler.frontends.onnx import load
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Module
from tfc.ir.interp import evaluate
from tfc.ir.ops.movement import fixed
from tfc.ir.reverse import gradients, zeros
from tfc.ir.verify import verify

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def r(*shape: int, lo: float = -1.0, hi: float = 1.0) -> Array:
    return np.random.default_rng(sum(shape) + 7).uniform(lo, hi, shape)


def i(*values: Any) -> Array:
    return np.array(values, np.int64)


POINTS = r(1, 3, 3, 2, lo=-0.9, hi=0.9)
BOXES = np.array([[0.3, 0.4, 2.6, 2.7], [0.2, 1.1, 3.4, 2.9]])
CASES: dict[str, tuple[str, Sequence[Any], dict[str, Any]]] = {
    "Einsum": ("Einsum", [r(2, 3), r(3, 4), r(2, 4)], {"equation": "ij,jk,ik->i"}),
    "Gemm": ("Gemm", [r(3, 2), r(3, 4), r(4)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    "Det": ("Det", [r(2, 3, 3)], {}),
    "GridSample": ("GridSample", [r(1, 2, 4, 4), POINTS], {"mode": "linear"}),
    "GridSample, cubic": (
        "GridSample", [r(1, 1, 5, 5), POINTS], {"mode": "cubic", "padding_mode": "border"}),
    "AffineGrid": ("AffineGrid", [r(1, 2, 3), i(1, 1, 3, 4)], {}),
    "RoiAlign": (
        "RoiAlign", [r(1, 2, 5, 5), BOXES, i(0, 0)],
        {"output_height": 2, "output_width": 2, "sampling_ratio": 2}),
    "DeformConv": (
        "DeformConv", [r(1, 2, 4, 4), r(2, 2, 2, 2), r(1, 8, 3, 3, lo=0.1, hi=0.4)], {}),
    "MaxUnpool": (
        "MaxUnpool", [r(1, 1, 2, 2), i([[[5, 7], [13, 15]]])],
        {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "MaxPool": ("MaxPool", [r(1, 2, 5, 5)], {"kernel_shape": [2, 2], "ceil_mode": 1}),
    "AveragePool": (
        "AveragePool", [r(1, 2, 5, 5)],
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]}),
    "LpPool": ("LpPool", [r(1, 1, 6)], {"kernel_shape": [2], "p": 3}),
    "GlobalLpPool": ("GlobalLpPool", [r(1, 2, 3, 3)], {"p": 2}),
    "Resize": ("Resize", [r(1, 1, 3, 3), None, np.array([1, 1, 2, 1.5], np.float32)], {
        "mode": "cubic"}),
    "Pad, reflect": ("Pad", [r(3, 4), i(1, 0, 1, 2)], {"mode": "reflect"}),
    "Pad, wrap": ("Pad", [r(3, 4), i(1, 0, 1, 2)], {"mode": "wrap"}),
    "LSTM": ("LSTM", [r(3, 2, 2), r(2, 12, 2), r(2, 12, 3), r(2, 24)], {
        "hidden_size": 3, "direction": "bidirectional"}),
    "GRU": ("GRU", [r(3, 2, 2), r(1, 9, 2), r(1, 9, 3), r(1, 18)], {
        "hidden_size": 3, "linear_before_reset": 1}),
    "RNN": ("RNN", [r(3, 2, 2), r(1, 3, 2), r(1, 3, 3)], {"hidden_size": 3}),
    "DFT": ("DFT", [r(1, 5, 1)], {"onesided": 1}),
    "STFT": ("STFT", [r(1, 12, 1), i(3)[0], r(4)], {}),
    "Attention": ("Attention", [r(1, 2, 3, 4), r(1, 2, 5, 4), r(1, 2, 5, 2)], {"is_causal": 1}),
    "RotaryEmbedding": ("RotaryEmbedding", [r(1, 2, 3, 4), r(1, 3, 2), r(1, 3, 2)], {}),
    "LayerNormalization": ("LayerNormalization", [r(2, 4), r(4), r(4)], {}),
    "GroupNormalization": ("GroupNormalization", [r(1, 4, 3), r(4), r(4)], {"num_groups": 2}),
    "RMSNormalization": ("RMSNormalization", [r(2, 4), r(4)], {}),
    "MeanVarianceNormalization": ("MeanVarianceNormalization", [r(2, 2, 2, 2)], {}),
    "LpNormalization": ("LpNormalization", [r(2, 4)], {"p": 2}),
    "LRN": ("LRN", [r(1, 4, 2)], {"size": 3}),
    "SoftmaxCrossEntropyLoss": (
        "SoftmaxCrossEntropyLoss", [r(3, 4), i(1, 0, 3), r(4, lo=0.5)], {"reduction": "mean"}),
    "NegativeLogLikelihoodLoss": ("NegativeLogLikelihoodLoss", [r(3, 4), i(1, 0, 3)], {}),
    "GatherND": ("GatherND", [r(2, 3, 2), i([[0, 1], [1, 2]])], {}),
    "ScatterND": ("ScatterND", [r(4, 2), i([1], [3]), r(2, 2)], {"reduction": "mul"}),
    "ScatterElements": ("ScatterElements", [r(3, 2), i([1, 0]), r(1, 2)], {"reduction": "max"}),
    "CumSum": ("CumSum", [r(3, 2), i(0)[0]], {"exclusive": 1}),
    "ReduceProd": ("ReduceProd", [r(3, 2), i(0)], {}),
    "ReduceLogSumExp": ("ReduceLogSumExp", [r(3, 2), i(1)], {}),
    "TopK": ("TopK", [r(2, 5), i(2)], {}),
    "CenterCropPad": ("CenterCropPad", [r(3, 4), i(5, 2)], {}),
    "Col2Im": ("Col2Im", [r(1, 4, 4), i(3, 3), i(2, 2)], {}),
    "Trilu": ("Trilu", [r(3, 3)], {}),
    "PRelu": ("PRelu", [r(3, 4), r(4)], {}),
}  # fmt: skip


def _model(op_type: str, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """One node; integers and what is f32 are constants, f64 arrays are inputs."""
    names, inputs, constants = [], [], []
    for k, x in enumerate(operands):
        if x is None:
            names.append("")
            continue
        array = np.asarray(x)
        names.append(f"x{k}")
        if array.dtype == np.float64:
            inputs.append(
                helper.make_tensor_value_info(f"x{k}", onnx.TensorProto.DOUBLE, array.shape)
            )
        else:
            constants.append(onnx.numpy_helper.from_array(array, f"x{k}"))
    node = helper.make_node(op_type, names, ["y"], **attrs)
    out = helper.make_tensor_value_info("y", onnx.TensorProto.UNDEFINED, None)
    graph = helper.make_graph([node], "one", inputs, [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def _weights(shape: Sequence[int]) -> Array:
    return np.random.default_rng(5).uniform(0.5, 1.5, shape)


def _differentiate(module: Module) -> int:
    """Append gradients of the weighted sum of the first output; return how many outputs it had."""
    block = module.main.block
    end = block.terminator
    assert module.constants is not None
    b = GraphBuilder(block, module.constants, end)  # type: ignore[arg-type]
    outputs = list(end.operands)
    weights = b.constant(_weights(fixed(tensor_type(outputs[0]).shape)))
    found = gradients(b, outputs[:1], [weights], block.args)
    slopes = [zeros(b, x) if g is None else g for g, x in zip(found, block.args, strict=True)]
    end.set_operands([*outputs, *slopes])
    names = [f"d_{x.name}" for x in block.args]
    module.main.output_names = (*module.main.output_names, *names)
    verify(module)
    return len(outputs)


@pytest.mark.parametrize("case", CASES)
def test_operators_have_the_slopes_that_differences_give(case: str) -> None:
    op_type, operands, attrs = CASES[case]
    module = load(_model(op_type, operands, attrs))
    count = _differentiate(module)
    inputs = {f"x{k}": x for k, x in enumerate(operands) if x is not None and x.dtype == np.float64}

    def run(moved: dict[str, Array]) -> list[Array]:
        assert module.constants is not None
        return list(evaluate(module, moved, module.constants).values())  # type: ignore[arg-type]

    slopes = dict(zip(inputs, run(inputs)[count:], strict=True))
    assert any(np.any(s) for s in slopes.values())
    for name, x in inputs.items():
        for flat in np.random.default_rng(0).choice(x.size, min(x.size, 6), replace=False):
            at = np.unravel_index(flat, x.shape)
            ends = []
            for step in (1e-6, -1e-6):
                moved = x.copy()
                moved[at] += step
                y = run({**inputs, name: moved})[0]
                ends.append(float((y * _weights(y.shape)).sum()))
            slope = (ends[0] - ends[1]) / 2e-6
            got = slopes[name][at]
            assert abs(slope - got) <= 1e-6 * (10 + abs(slope)), f"{name}{list(at)}: {got}, {slope}"
