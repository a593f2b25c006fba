"""Compares the interpreter with ONNX Runtime, node by node. Not test cases.

Every node runs alone on what the interpreter gives its operands, so that an operator or a type that
ONNX Runtime lacks hides no other node; those that hand each other sequences run together. Where it
strays from the standard, or what is asked has no
defined answer, the node is left out; every reason is in `onnx_deviations`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.onnx_deviations import DEVIATIONS, ROUGH, Deviation
from tests.fuzz.onnx_graphs import IR_VERSION, Sample, code
from tests.fuzz.onnx_oracle import EPSILON, NORMAL, Freedom, Oracle
from tests.fuzz.onnx_values import FOREIGN, Array, is_float
from tfc.compiler.frontends.onnx import load
from tfc.ir import arrays
from tfc.ir.core import Module, Value
from tfc.ir.errors import TfcError
from tfc.ir.interp import evaluate
from tfc.ir.types import TensorType
from tfc.runtime.signature import numpy_dtype

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
    found = evaluate(module, given, module.constants).values()
    values |= _readable(module, list(found))
    for nodes in _pieces(sample):
        piece = _Piece(nodes, sample.graph.whole, whole.opset_import, values)
        problem = piece.difference(compared)
        if problem:
            return f"ONNX Runtime, {'/'.join(node.op_type for node in nodes)}: {problem}"
    return None


def _pieces(sample: Sample) -> list[list[Any]]:
    """The nodes one by one, but those together that hand each other what is no tensor."""
    nodes = sample.graph.nodes
    last = {name: at for at, node in enumerate(nodes) for name in node.input}
    pieces: list[list[Any]] = []
    end = -1
    for at, node in enumerate(nodes):
        if at > end:
            pieces.append([])
        pieces[-1].append(node)
        handed = [last.get(name, at) for name in node.output if name in sample.graph.whole]
        end = max(end, at, *handed)
    return pieces


def _readable(module: Module, found: Sequence[Array]) -> dict[str, Array]:
    """The outputs as arrays of their own types, by `ml_dtypes` what numpy lacks."""
    outputs = zip(module.main.output_names, module.main.outputs, found, strict=True)
    return {name: array.view(numpy_dtype(_name(value))) for name, value, array in outputs}


def deviation(node: Any, values: Mapping[str, Array], version: int) -> Deviation | None:
    """Why the node is not compared, None where it is. version: of the operators' standard."""
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs = [values.get(name) for name in node.input]
    outputs = [values[name] for name in node.output if name in values]
    known = (*DEVIATIONS.get("", ()), *DEVIATIONS.get(node.op_type, ()))
    known = tuple(found for found in known if found.before is None or version < found.before)
    return next((found for found in known if found.applies(attrs, inputs, outputs)), None)


def _read(nodes: Sequence[Any]) -> Iterator[str]:
    """What nodes and the graphs in them read from around."""
    made: set[str] = set()
    for node in nodes:
        yield from (name for name in node.input if name and name not in made)
        for attr in node.attribute:
            if attr.HasField("g"):
                own = {x.name for x in (*attr.g.input, *attr.g.initializer)} | made
                yield from (name for name in _read(attr.g.node) if name not in own)
                yield from (x.name for x in attr.g.output if x.name not in own | _made(attr.g.node))
        made |= set(node.output)


def _made(nodes: Sequence[Any]) -> set[str]:
    return {name for node in nodes for name in node.output}


def _inside(nodes: Sequence[Any]) -> Iterator[Any]:
    """The nodes and those of graphs in them."""
    for node in nodes:
        yield node
        for attr in node.attribute:
            yield from _inside(attr.g.node)


@dataclass
class _Piece:
    """Nodes that run alone, on values of the whole graph."""

    nodes: Sequence[Any]
    whole: set[str]
    opset: Any
    values: Mapping[str, Array]

    def __post_init__(self) -> None:
        self.names = list(dict.fromkeys(_read(self.nodes)))
        made = [name for node in self.nodes for name in node.output if name]
        self.outputs = [name for name in made if name not in self.whole]

    def difference(self, compared: Counter[str]) -> str | None:
        """Say where ONNX Runtime's results are others."""
        (version,) = (given.version for given in self.opset if not given.domain)
        if any(deviation(node, self.values, version) for node in self.nodes):
            return None
        if any(DEVIATIONS.get(node.op_type) for node in _inside(self.nodes)
               if node not in self.nodes):  # fmt: skip
            return None
        found = self._by_peer()
        if found is None:
            return None
        compared.update(node.op_type for node in self.nodes)
        wanted = [self.values[name] for name in self.outputs]
        # Operands that sizes depend on have to be constant for us; those of floats are no such.
        stored = [name for name in self.names if self.values[name].dtype.kind in "iu"]
        for kept in ((), stored, self.names):
            try:
                module = load(self.model(kept))
            except TfcError:
                continue
            given = {x.name: self.values[x.name] for x in module.main.args}
            dtype = str(arrays.dtype_of(wanted[0]))
            rough = max(ROUGH.get(node.op_type, 0.0) for node in self.nodes)
            rough *= max([1.0, *(_largest(array) for array in wanted)])
            floor = max(rough * EPSILON.get(dtype, 0.0), NORMAL.get(dtype, 0.0))
            return Oracle(module, given, wanted).difference(found, PEER, floor)
        return None

    def _by_peer(self) -> list[Array] | None:
        """What ONNX Runtime gives, None where it does not.

        It takes and gives no arrays of types that numpy lacks: those are constants for it, and
        casts of theirs results.
        """
        foreign = {name for name in (*self.names, *self.outputs)
                   if self.values[name].dtype in FOREIGN}  # fmt: skip
        given = [name for name in self.names if name not in foreign]
        model = self.model([name for name in self.names if name in foreign])
        for output in model.graph.output:
            if output.name in foreign:
                wide = f"{output.name}_wide"
                cast = helper.make_node("Cast", [output.name], [wide], to=TensorProto.FLOAT)
                model.graph.node.append(cast)
                output.CopyFrom(helper.make_tensor_value_info(wide, TensorProto.FLOAT, None))
        peer = session(model)
        if peer is None:
            return None
        try:
            found = peer.run(None, {name: self.values[name] for name in given})
        except Exception:
            return None
        with np.errstate(all="ignore"):
            return [
                array.astype(self.values[name].dtype) if name in foreign else array
                for name, array in zip(self.outputs, found, strict=True)
            ]

    def model(self, stored: Sequence[str]) -> Any:
        """A model of the nodes; their operands are inputs, those of `stored` are initialisers."""

        def info(name: str, shape: Sequence[int] | None = None) -> Any:
            return helper.make_tensor_value_info(name, code(self.values[name].dtype), shape)

        graph = helper.make_graph(
            self.nodes,
            "g",
            [info(name, self.values[name].shape) for name in self.names if name not in stored],
            [info(name) for name in self.outputs],
            [numpy_helper.from_array(self.values[name], name) for name in stored],
        )
        return helper.make_model(graph, opset_imports=self.opset, ir_version=IR_VERSION)


def _largest(array: Array) -> float:
    """The largest finite number of floats."""
    if not is_float(array.dtype):
        return 0.0
    wide = np.abs(array.astype(np.float64))
    return float(wide[np.isfinite(wide)].max(initial=0.0))


def _name(value: Value) -> str:
    assert isinstance(value.type, TensorType)
    return value.type.dtype.name
