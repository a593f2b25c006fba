"""Compares the interpreter with ONNX Runtime, node by node. Not test cases.

Every node runs alone on what the interpreter gives its operands, so that an operator or a type that
ONNX Runtime lacks hides no other node. Where it strays from the standard, or what is asked has no
defined answer, the node is left out; every reason is in `onnx_deviations`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from onnx import helper, numpy_helper

from tests.fuzz.onnx_deviations import DEVIATIONS, ROUGH, Deviation
from tests.fuzz.onnx_graphs import IR_VERSION, Sample, code
from tests.fuzz.onnx_oracle import EPSILON, NORMAL, Freedom, Oracle
from tests.fuzz.onnx_values import BFLOAT16, Array
from tfc.compiler.frontends.onnx import load
from tfc.ir import arrays
from tfc.ir.core import Module
from tfc.ir.errors import TfcError
from tfc.ir.interp import evaluate
from tfc.ir.types import BF16

try:
    import onnxruntime
except ModuleNotFoundError:
    onnxruntime = None

PEER = Freedom(rearranged=True, others=4.0)


def session(model: Any) -> Any | None:
    """A session for the model as it is, or None where ONNX Runtime does not have it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:
        return None


def compare_with_peer(
    sample: Sample, dims: Mapping[str, int], compared: Counter[str]
) -> str | None:
    """Say which node's results differ. `compared` counts the operators compared."""
    if onnxruntime is None:
        return None
    names = sample.all_outputs
    whole = sample.model(names)
    try:
        module = load(whole, dims)
    except TfcError:
        return None
    values = {**sample.graph.stored, **sample.feeds()}
    given = {x.name: values[x.name] for x in module.main.args}
    values |= _readable(module, list(evaluate(module, given, module.constants).values()))
    for node in whole.graph.node:
        problem = _compare(node, whole.opset_import, values, compared)
        if problem:
            return f"ONNX Runtime, {node.op_type}: {problem}"
    return None


def _readable(module: Module, found: Sequence[Array]) -> dict[str, Array]:
    """The outputs as arrays of their own types; bf16 by `ml_dtypes`."""
    outputs = zip(module.main.output_names, module.main.outputs, found, strict=True)
    return {
        name: array.view(BFLOAT16) if value.type.dtype == BF16 else array
        for name, value, array in outputs
    }


def deviation(node: Any, values: Mapping[str, Array]) -> Deviation | None:
    """Why the node is not compared, None where it is."""
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs = [values[name] if name else None for name in node.input]
    outputs = [values[name] for name in node.output if name]
    known = (*DEVIATIONS.get("", ()), *DEVIATIONS.get(node.op_type, ()))
    return next((found for found in known if found.applies(attrs, inputs, outputs)), None)


def _compare(
    node: Any, opset: Any, values: Mapping[str, Array], compared: Counter[str]
) -> str | None:
    if deviation(node, values) is not None:
        return None
    names = [name for name in dict.fromkeys(node.input) if name]
    peer = session(_alone(node, opset, values, names, ()))
    if peer is None:
        return None
    try:
        found = peer.run(None, {name: values[name] for name in names})
    except Exception:
        return None
    compared[node.op_type] += 1
    wanted = [values[name] for name in node.output if name]
    # Operands that sizes depend on have to be constant for us; those of floats are no such.
    stored = [name for name in names if values[name].dtype.kind in "iu"]
    for kept in ((), stored, names):
        try:
            module = load(_alone(node, opset, values, names, kept))
        except TfcError:
            continue
        given = {x.name: values[x.name] for x in module.main.args}
        dtype = str(arrays.dtype_of(wanted[0]))
        rough = ROUGH.get(node.op_type, 0.0) * EPSILON.get(dtype, 0.0)
        floor = max(rough, NORMAL.get(dtype, 0.0))
        return Oracle(module, given, wanted).difference(found, PEER, floor)
    return None


def _alone(
    node: Any,
    opset: Any,
    values: Mapping[str, Array],
    names: Sequence[str],
    stored: Sequence[str],
) -> Any:
    """A model of one node; its operands are inputs, those of `stored` are initialisers."""

    def info(name: str) -> Any:
        array = values[name]
        return helper.make_tensor_value_info(name, code(array.dtype), array.shape)

    graph = helper.make_graph(
        [node],
        "g",
        [info(name) for name in names if name not in stored],
        [helper.make_tensor_value_info(n, code(values[n].dtype), None) for n in node.output if n],
        [numpy_helper.from_array(values[name], name) for name in stored],
    )
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
