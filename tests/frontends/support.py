"""Small ONNX models for the front end's tests, and their results by onnx's own reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tfc.compiler.frontends.onnx import load
from tfc.ir.interp import evaluate

Array = npt.NDArray[Any]


def value_info(name: str, array: Array, shape: Sequence[int | str] | None = None) -> Any:
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, code, array.shape if shape is None else shape)


def make_model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[str],
    opset: int = 21,
    constants: Mapping[str, Array] | None = None,
) -> Any:
    """Return a model; its outputs are declared without a type."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        list(inputs),
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run(model: Any, feeds: Mapping[str, Array], dims: Any = None) -> list[Array]:
    """Import the model and interpret it."""
    module = load(model, dims)
    return list(evaluate(module, feeds, module.constants).values())


def reference(model: Any, feeds: Mapping[str, Array]) -> list[Array]:
    found: list[Array] = ReferenceEvaluator(model).run(None, dict(feeds))
    return found


def one_node(
    op: str,
    arrays: Sequence[Array | None],
    attrs: Mapping[str, Any],
    opset: int,
    constant: Sequence[int] = (),
    outputs: int = 1,
) -> tuple[Any, dict[str, Array]]:
    """Return a model of one node and its inputs; operands listed in `constant` are initialisers."""
    names = ["" if array is None else f"x{i}" for i, array in enumerate(arrays)]
    given = {f"x{i}": array for i, array in enumerate(arrays) if array is not None}
    stored = {f"x{i}": given[f"x{i}"] for i in constant}
    feeds = {name: array for name, array in given.items() if name not in stored}
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, name="the_node", **attrs)
    inputs = [value_info(name, array) for name, array in feeds.items()]
    return make_model([node], inputs, results, opset, stored), feeds


def floats(*shape: int, seed: int = 0, lo: float = -2.0, hi: float = 2.0) -> Array:
    return np.random.default_rng(seed).uniform(lo, hi, shape).astype(np.float32)


def ints(*values: Any) -> Array:
    return np.array(values, np.int64)
