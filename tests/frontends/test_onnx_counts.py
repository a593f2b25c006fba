"""Operators whose number of results depends on data: the model declares it, a run checks it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.frontends.support import Array, reference, run, value_info
from tfc.compiler.frontends.onnx import load
from tfc.ir.errors import UnsupportedError, UsageError

X = np.array([[3, 0, 1], [0, 3, 1]], np.float32)
ROWS = np.array([[1, 2], [0, 5], [1, 2], [0, 4]], np.float32)


def declared(
    op: str, arrays: list[Array], shapes: list[tuple[int, ...]], codes: list[int], **attrs: Any
) -> tuple[Any, dict[str, Array]]:
    """Return a model of one node, with results of the given shapes, and its inputs."""
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    outputs = [f"y{i}" for i in range(len(shapes))]
    graph = helper.make_graph(
        [helper.make_node(op, list(feeds), outputs, **attrs)],
        "g",
        [value_info(name, array) for name, array in feeds.items()],
        [
            helper.make_tensor_value_info(name, code, shape)
            for name, code, shape in zip(outputs, codes, shapes, strict=True)
        ],
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feeds


FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
CASES: list[tuple[str, list[Array], list[tuple[int, ...]], list[int], dict[str, Any]]] = [
    ("NonZero", [X], [(2, 4)], [INT], {}),
    ("NonZero", [X[0]], [(1, 2)], [INT], {}),
    ("NonZero", [np.zeros((2, 2), np.float32)], [(2, 0)], [INT], {}),
    ("Compress", [X, np.array([False, True])], [(1, 3)], [FLOAT], {"axis": 0}),
    ("Compress", [X, np.array([True, False, True])], [(2, 2)], [FLOAT], {"axis": -1}),
    ("Compress", [X, np.array([False, True, True, False])], [(2,)], [FLOAT], {}),
    ("Unique", [X], [(3,), (3,), (6,), (3,)], [FLOAT, INT, INT, INT], {}),
    ("Unique", [ROWS], [(3, 2), (3,), (4,), (3,)], [FLOAT, INT, INT, INT], {"axis": 0}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_results_are_those_of_onnx(case: Any) -> None:
    op, arrays, shapes, codes, attrs = case
    model, feeds = declared(op, arrays, shapes, codes, **attrs)
    for have, wanted in zip(run(model, feeds), reference(model, feeds), strict=True):
        np.testing.assert_array_equal(have, np.asarray(wanted))


def test_unsorted_unique_keeps_the_order_of_first_occurrences() -> None:
    shapes: list[tuple[int, ...]] = [(3,), (3,), (6,), (3,)]
    model, feeds = declared("Unique", [X], shapes, [FLOAT, INT, INT, INT], sorted=0)
    wanted = ([3, 0, 1], [0, 1, 2], [0, 1, 2, 1, 0, 2], [2, 2, 2])
    for have, expected in zip(run(model, feeds), wanted, strict=True):
        np.testing.assert_array_equal(have, expected)


def test_data_of_another_count_fails_the_run() -> None:
    model, _ = declared("NonZero", [X], [(2, 4)], [INT])
    with pytest.raises(UsageError, match="the data selects 4 elements, as the model declares"):
        run(model, {"x0": np.ones_like(X)})


def test_undeclared_count_is_unsupported() -> None:
    model, _ = declared("NonZero", [X], [(2, 4)], [INT])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedError, match="how many elements there are depends on the data"):
        load(model)
