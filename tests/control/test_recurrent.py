"""LSTM, GRU and RNN compute what ONNX Runtime does, in every combination of their options."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402

from tests.control.support import Array, artifact  # noqa: E402
from tests.frontends.support import run  # noqa: E402
from tfc.compiler.frontends.onnx import load  # noqa: E402
from tfc.ir.errors import ModelError  # noqa: E402
from tfc.runtime.errors import InputError  # noqa: E402

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6


def arrays(op: str, directions: int, layout: int = 0) -> dict[str, Array]:
    """All operands an operator takes."""
    random = np.random.default_rng(0)
    gates = GATES[op] * HIDDEN
    shapes: dict[str, tuple[int, ...]] = {
        "X": (STEPS, BATCH, SIZE),
        "W": (directions, gates, SIZE),
        "R": (directions, gates, HIDDEN),
        "B": (directions, 2 * gates),
        "H": (directions, BATCH, HIDDEN),
        "C": (directions, BATCH, HIDDEN),
        "P": (directions, 3 * HIDDEN),
    }
    found = {
        name: random.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()
    }
    if layout:
        for name in ("X", "H", "C"):
            found[name] = np.ascontiguousarray(found[name].transpose(1, 0, 2))
    found["L"] = np.array([5, 2, 1], np.int32)
    return found


def make(op: str, given: dict[str, Array], stored: str = "WRBP", **attrs: Any) -> Any:
    """A model of one node; operands are those in `given`, of which some are initialisers."""
    order = "XWRBLHCP" if op == "LSTM" else "XWRBLH"
    operands = [name if name in given else "" for name in order]
    results = ["Y", "Y_h", "Y_c"] if op == "LSTM" else ["Y", "Y_h"]
    node = helper.make_node(op, operands, results, hidden_size=HIDDEN, **attrs)
    inputs, constants = [], []
    for name, array in given.items():
        if name not in operands:
            continue
        if name in stored:
            constants.append(numpy_helper.from_array(array, name))
        else:
            code = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, code, array.shape))
    outputs = [helper.make_tensor_value_info(name, 1, None) for name in results]
    graph = helper.make_graph([node], "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def agrees(op: str, given: dict[str, Array], *, native: bool = True, **attrs: Any) -> None:
    proto = make(op, given, **attrs)
    feeds = {proto.name: given[proto.name] for proto in proto.graph.input}
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    want = session.run(None, feeds)
    results = [run(proto, feeds)]
    if native:
        results.append(list(artifact(load(proto), 2)(feeds).values()))
    for found in results:
        for got, array in zip(found, want, strict=True):
            np.testing.assert_allclose(got, array, rtol=1e-4, atol=1e-5)


def only(given: dict[str, Array], names: str) -> dict[str, Array]:
    return {name: array for name, array in given.items() if name in names}


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("names", ["XWR", "XWRB", "XWRBHC", "XWRBLHC"])
def test_every_direction_with_and_without_its_operands(op: str, direction: str, names: str) -> None:
    given = only(arrays(op, 2 if direction == "bidirectional" else 1), names)
    agrees(op, given, direction=direction, native=names != "XWR")


@pytest.mark.parametrize("names", ["XWRP", "XWRBLHCP"])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_peepholes_and_clipping(names: str, clip: float) -> None:
    attrs = {"clip": clip} if clip else {}
    agrees("LSTM", only(arrays("LSTM", 2), names), direction="bidirectional", **attrs)


@pytest.mark.parametrize(("op", "attrs"), [
    ("LSTM", {"input_forget": 1}),
    ("GRU", {"linear_before_reset": 1}),
    ("GRU", {"clip": 0.4}),
    ("RNN", {"clip": 0.2}),
])  # fmt: skip
def test_other_forms_of_the_cells(op: str, attrs: dict[str, Any]) -> None:
    agrees(op, only(arrays(op, 1), "XWRBH"), **attrs)
    agrees(op, only(arrays(op, 1), "XWR"), **attrs)


ACTIVATIONS = [
    ("Affine", 0.5, 0.1), ("Elu", 0.7, 0.0), ("HardSigmoid", 0.3, 0.4), ("LeakyRelu", 0.2, 0.0),
    ("Relu", 0.0, 0.0), ("ScaledTanh", 0.8, 1.2), ("Sigmoid", 0.0, 0.0), ("Softplus", 0.0, 0.0),
    ("Softsign", 0.0, 0.0), ("Tanh", 0.0, 0.0), ("ThresholdedRelu", 0.3, 0.0),
]  # fmt: skip
NEED_ALPHA = ("Affine", "Elu", "HardSigmoid", "LeakyRelu", "ScaledTanh", "ThresholdedRelu")
NEED_BETA = ("Affine", "HardSigmoid", "ScaledTanh")


@pytest.mark.parametrize(("name", "alpha", "beta"), ACTIVATIONS)
def test_every_activation_with_its_parameters(name: str, alpha: float, beta: float) -> None:
    attrs: dict[str, Any] = {"activations": [name]}
    if name in NEED_ALPHA:
        attrs["activation_alpha"] = [alpha]
    if name in NEED_BETA:
        attrs["activation_beta"] = [beta]
    agrees("RNN", only(arrays("RNN", 1), "XWRBH"), native=False, **attrs)


def test_parameters_of_activations_are_handed_out_in_order() -> None:
    attrs = {
        "activations": ["HardSigmoid", "Tanh", "LeakyRelu", "Sigmoid", "Elu", "Tanh"],
        "activation_alpha": [0.3, 0.2, 0.5],
        "activation_beta": [0.4],
    }
    from tfc.ir.build import tensor_type

    module = load(make("LSTM", only(arrays("LSTM", 2), "XWRB"), direction="bidirectional", **attrs))
    found = {
        op.name: op.attrs
        for op in module.main.block.walk()
        if op.name in ("hard_sigmoid", "leaky_relu", "elu")
    }
    assert (found["hard_sigmoid"].alpha, found["hard_sigmoid"].beta) == (0.3, 0.4)
    assert (found["leaky_relu"].alpha, found["elu"].alpha) == (0.2, 0.5)
    assert tensor_type(module.main.outputs[0]).shape == (STEPS, 2, BATCH, HIDDEN)


@pytest.mark.parametrize("op", GATES)
def test_batch_first_is_the_same_transposed(op: str) -> None:
    plain = only(arrays(op, 2), "XWRBHC")
    turned = only(arrays(op, 2, layout=1), "XWRBHC")
    one = run(*_model_and_feeds(op, plain, direction="bidirectional"))
    other = run(*_model_and_feeds(op, turned, direction="bidirectional", layout=1))
    np.testing.assert_allclose(other[0], one[0].transpose(2, 0, 1, 3), rtol=1e-5)
    for x, y in zip(other[1:], one[1:], strict=True):
        np.testing.assert_allclose(x, y.transpose(1, 0, 2), rtol=1e-5)


def _model_and_feeds(op: str, given: dict[str, Array], **attrs: Any) -> tuple[Any, Any]:
    proto = make(op, given, **attrs)
    return proto, {proto.name: given[proto.name] for proto in proto.graph.input}


@pytest.mark.parametrize("op", GATES)
def test_weights_may_be_data(op: str) -> None:
    agrees(op, only(arrays(op, 1), "XWRBH"), stored="")


@pytest.mark.parametrize("op", GATES)
def test_steps_and_batch_may_be_dynamic(op: str) -> None:
    given = only(arrays(op, 1), "XWRB")
    proto = make(op, given)
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param, dims[1].dim_param = "T", "N"
    program = artifact(load(proto), 2)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for steps, batch in itertools.product((1, 4), (1, 7)):
        x = np.random.default_rng(1).uniform(-1, 1, (steps, batch, SIZE)).astype(np.float32)
        for got, want in zip(program({"X": x}).values(), session.run(None, {"X": x}), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_weights_that_do_not_fit_are_refused() -> None:
    given = only(arrays("GRU", 1), "XWR")
    given["W"] = given["W"][:, :, :2]
    with pytest.raises(ModelError, match="do not fit"):
        load(make("GRU", given))
    with pytest.raises(ModelError, match="4 gates"):
        load(make("LSTM", only(arrays("GRU", 1), "XWR")))
    with pytest.raises(ModelError, match="unknown activation"):
        load(make("RNN", only(arrays("RNN", 1), "XWR"), activations=["Sine"]))


@pytest.mark.parametrize("name", ["B", "H"])
def test_an_operand_of_fewer_directions_is_refused(name: str) -> None:
    given = only(arrays("GRU", 2), f"XWR{name}")
    few = {**given, name: given[name][:1]}
    with pytest.raises(ModelError):
        load(make("GRU", few, direction="bidirectional"))
    proto = make("GRU", given, stored="WR", direction="bidirectional")
    (info,) = (info for info in proto.graph.input if info.name == name)
    info.type.tensor_type.shape.dim[0].dim_param = "M"
    compiled = artifact(load(proto), 2)
    compiled({"X": given["X"], name: given[name]})
    with pytest.raises(InputError):
        compiled({"X": given["X"], name: few[name]})
