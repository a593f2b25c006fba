"""Ensembles of decision trees, against ONNX Runtime and onnx's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tfc
from tests.frontends.support import Array, run, value_info
from tfc.compiler.frontends.onnx import load
from tfc.ir.errors import ModelError, UnsupportedError

MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
FEATURES = 3


def model_of(op: str, x: Array, attrs: dict[str, Any], version: int = 3, code: int = 1) -> Any:
    node = helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml", name="trees", **attrs)
    output = helper.make_tensor_value_info("y", code, None)
    graph = helper.make_graph([node], "g", [value_info("x", x)], [output])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def forest(seed: int, trees: int, targets: int, modes: list[str], depth: int = 3) -> dict[str, Any]:
    """Attributes of a TreeEnsembleRegressor with random trees."""
    rng = np.random.default_rng(seed)
    nodes: dict[str, list[Any]] = {
        name: []
        for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids",
                     "falsenodeids", "missing_value_tracks_true")
    }  # fmt: skip
    votes: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for tree in range(trees):
        waiting, count = [(0, 0)], 1
        while waiting:
            node, level = waiting.pop(0)
            leaf = level == depth or (level and rng.random() < 0.3)
            entry = [tree, node, 0, 0.0, "LEAF", 0, 0, 0]
            if not leaf:
                value = float(np.float32(rng.integers(-2, 3) / 2))
                entry = [tree, node, int(rng.integers(FEATURES)), value, str(rng.choice(modes)),
                         count, count + 1, int(rng.integers(2))]  # fmt: skip
                waiting += [(count, level + 1), (count + 1, level + 1)]
                count += 2
            for name, item in zip(nodes, entry, strict=True):
                nodes[name].append(item)
            for target in range(targets) if leaf else ():
                for name, item in zip(
                    votes, (tree, node, target, float(rng.normal())), strict=True
                ):
                    votes[name].append(item)
    found: dict[str, Any] = {f"nodes_{name}": column for name, column in nodes.items()}
    found |= {f"target_{name}": column for name, column in votes.items()}
    return found | {"n_targets": targets}


def rows(count: int, nan: bool, seed: int = 0) -> Array:
    x = np.random.default_rng(seed).integers(-4, 5, (count, FEATURES)) / 2
    x[::5, 0] = np.nan if nan else 0
    return x.astype(np.float32)


def regressor(x: Array) -> Any:
    return model_of("TreeEnsembleRegressor", x, forest(1, 2, 2, MODES))


def by_runtime(model: Any, x: Array) -> Array:
    found: Array = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([MODES[:1], MODES[1:2], MODES[:4], MODES[4:5], MODES]),
    st.sampled_from(["SUM", "AVERAGE", "MIN", "MAX"]),
    st.booleans(),
)
def test_regressor_computes_what_onnx_runtime_does(
    seed: int, trees: int, targets: int, modes: list[str], how: str, base: bool
) -> None:
    if how in ("MIN", "MAX"):
        targets = 1
    attrs = forest(seed, trees, targets, modes) | {"aggregate_function": how}
    if base:
        attrs["base_values"] = [0.5 * (i + 1) for i in range(targets)]
    # ONNX Runtime takes NaN for equal to nothing, but not for different from everything.
    x = rows(17, nan="BRANCH_NEQ" not in modes)
    model = model_of("TreeEnsembleRegressor", x, attrs)
    np.testing.assert_allclose(run(model, {"x": x})[0], by_runtime(model, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX"])
def test_transforms_are_those_of_onnx_runtime(transform: str) -> None:
    attrs = forest(1, 5, 3, MODES[:1]) | {"post_transform": transform}
    x = rows(9, nan=False)
    model = model_of("TreeEnsembleRegressor", x, attrs)
    np.testing.assert_allclose(run(model, {"x": x})[0], by_runtime(model, x), rtol=1e-5)


def test_compiled_forest_is_the_same_for_any_threads() -> None:
    attrs = forest(3, 60, 1, MODES[:4], depth=6)
    x = rows(700, nan=True)
    model = model_of("TreeEnsembleRegressor", x, attrs)
    expected = run(model, {"x": x})[0]
    for threads in (1, 2):
        found = tfc.compile(model, threads=threads)(x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def ensemble(x: Array, **changed: Any) -> Any:
    """Of opset 5: one tree with a set, and one with both its ways to one leaf."""
    kind = x.dtype
    tensors: dict[str, Any] = {
        "leaf_weights": np.array([1, 10, 100, 1000], kind),
        "nodes_modes": np.array([6, 2, 0], np.uint8),
        "nodes_splits": np.array([0, 0.5, 0], kind),
        "membership_values": np.array([-1, 0.5, 2, np.nan], kind),
    }
    attrs: dict[str, Any] = {
        "n_targets": 2,
        "leaf_targetids": [0, 1, 0, 1],
        "nodes_featureids": [0, 1, 2],
        "nodes_truenodeids": [1, 0, 2],
        "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [3, 1, 2],
        "nodes_falseleafs": [1, 1, 1],
        "tree_roots": [0, 2],
    }
    given = {name: numpy_helper.from_array(array) for name, array in tensors.items()}
    code = helper.np_dtype_to_tensor_dtype(kind)
    return model_of("TreeEnsemble", x, given | attrs | changed, 5, code)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", [0, 1])
def test_ensemble_computes_what_the_reference_does(how: int, dtype: Any) -> None:
    x = rows(30, nan=True).astype(dtype)
    model = ensemble(x, aggregate_function=how)
    (found,) = run(model, {"x": x})
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"nodes_truenodeids": [0, 0, 2]}, ModelError, "node 0 leads back to node 0"),
        ({"nodes_trueleafs": [0, 0, 1]}, ModelError, "node 1 leads back to node 0"),
        ({"nodes_truenodeids": [9, 0, 2]}, ModelError, "node 9 is none of"),
        ({"nodes_truenodeids": [1, 7, 2]}, ModelError, "leaf 7"),
        ({"nodes_featureids": [0, 1, 3]}, ModelError, "compares feature 3 of 3"),
        ({"nodes_featureids": [0, 1]}, ModelError, "tables of 3, 3, 2"),
        ({"leaf_targetids": [0, 1, 0, 2]}, ModelError, "targets of 2"),
        ({"aggregate_function": 3}, UnsupportedError, "MAX of several targets"),
        ({"post_transform": 4}, UnsupportedError, "PROBIT"),
        ({"n_targets": 1 << 40}, UnsupportedError, "4 leaves for 1099511627776 targets"),
    ],
)
def test_what_is_no_forest_is_refused(changed: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"node 'trees'.*{message}"):
        load(ensemble(rows(3, nan=False), **changed))


def test_doubles_are_compared_as_doubles() -> None:
    """1 + 2^-40 is above 1, but not in f32."""
    attrs = forest(0, 1, 1, MODES[:1], depth=1)
    attrs["nodes_featureids"][0] = 0
    del attrs["nodes_values"]
    values = np.array([1.0, 0, 0])
    attrs["nodes_values_as_tensor"] = numpy_helper.from_array(values)
    x = np.array([[1, 0, 0], [1 + 2.0**-40, 0, 0]])
    model = model_of("TreeEnsembleRegressor", x, attrs, code=TensorProto.FLOAT)
    found = run(model, {"x": x})[0]
    assert found[0] != found[1]
