"""However many threads a call uses, every bit of the result is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import graph
from tests.lower.nests import FREE, Make, N, tensors
from tfc.graph import Graph
from tfc.ir.dims import evaluate
from tfc.ir.types import F32, TensorType

ROWS = 300
THREADS = (1, 2, 3, 4)


def _convolution(b: Any, x: Any) -> Any:
    w = b.constant(np.linspace(-1, 1, 32 * 8 * 9, dtype=np.float32).reshape(32, 8, 3, 3))
    y = b.conv(x, w, strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1)
    pool = {"kernel": (2, 2), "strides": (2, 2), "pads": ((0, 0), (0, 0)), "dilations": (1, 1)}
    return b.max_pool(b.relu(y), **pool)


def _mlp(b: Any, x: Any) -> Any:
    w = b.constant(np.sin(np.arange(200 * 90, dtype=np.float32)).reshape(200, 90))
    return b.softmax(b.relu(b.matmul(x, w)), axis=1)


def _attention(b: Any, x: Any) -> Any:
    weights = b.softmax(b.matmul(x, b.transpose(x, perm=(0, 2, 1))), axis=-1)
    return b.matmul(weights, x)


CASES: dict[str, tuple[list[TensorType], Make]] = {
    "elementwise": (tensors((3, 100_003)), lambda b, x: b.tanh(x)),
    "sums of rows": (tensors((ROWS, 3999)), lambda b, x: b.reduce_sum(x, axes=(1,), keepdims=True)),
    "sums of columns": (
        tensors((ROWS, 9999)),
        lambda b, x: b.reduce_sum(x, axes=(0,), keepdims=False),
    ),
    "softmax of columns": (tensors((64, 5000)), lambda b, x: b.softmax(x, axis=0)),
    "layer norm": (tensors((ROWS, 500)), lambda b, x: b.layer_norm(x, axis=-1, eps=1e-5)),
    "matmul": (tensors((150, 210), (210, 330)), lambda b, x, y: b.matmul(x, y)),
    "transpose": (tensors((400, 700)), lambda b, x: b.neg(b.transpose(x, perm=(1, 0)))),
    "symbolic rows": (tensors((N, 200)), _mlp),
    "convolution": (tensors((2, 8, 40, 36)), _convolution),
    "attention": (tensors((4, 96, 64)), _attention),
}


@pytest.mark.parametrize("name", CASES)
def test_results_are_the_same_on_any_number_of_threads(name: str) -> None:
    types, make = CASES[name]
    generator = np.random.default_rng(7)
    inputs = {
        f"x{i}": generator.standard_normal(
            [evaluate(dim, {"N": ROWS}) for dim in type.shape], dtype=np.float32
        )
        for i, type in enumerate(types)
    }
    found = []
    for threads in THREADS:
        module = graph(types, make, FREE if "N" in str(types) else None)
        call = tfc.compile(Graph(module), threads=threads)
        assert call.threads == threads
        found.append(call(*inputs.values()))
    assert "parallel(" in call.ir("loops"), "nothing here runs on several threads"
    for other in found[1:]:
        np.testing.assert_array_equal(_bits(other), _bits(found[0]))


def _boxes(scores: Any) -> Any:
    """Boxes of half the size of the plane, and scores for three classes."""
    sides = np.abs(scores[:, :900].reshape(2, 450, 2))
    return np.concatenate([sides, sides + 0.5], -1).astype(np.float32)


INDICES = np.random.default_rng(3).integers(-ROWS, ROWS, (ROWS, 700))
OWN_LOOPS: dict[str, Make] = {
    "sort": lambda b, x: b.op("sort", x, axis=1).results,
    "sort of columns": lambda b, x: b.op("sort", x, axis=0, descending=True).results,
    "few of top_k": lambda b, x: b.op("top_k", x, axis=1, k=7).results,
    "many of top_k": lambda b, x: b.op("top_k", x, axis=0, k=60).results,
    "cumsum": lambda b, x: b.cumsum(x, axis=1, exclusive=False, reverse=False),
    "cumprod of columns": lambda b, x: b.cumprod(x, axis=0, exclusive=True, reverse=False),
    "positions": lambda b, x: b.positions(
        b.reshape(b.gt(x, b.constant(0.0, F32)), shape=(ROWS * 999,)), count=120_000
    ),
    "scatter_elements": lambda b, x: b.scatter_elements(
        x, b.constant(INDICES), b.slice(x, starts=(0, 9), sizes=(ROWS, 700), steps=(1, 1)),
        axis=0, reduction="add",
    ),
    "scatter_nd": lambda b, x: b.scatter_nd(
        x, b.constant(INDICES[:, :1]), b.neg(x), reduction="add"
    ),
    "non_max_suppression": lambda b, x: b.op(
        "non_max_suppression",
        b.constant(_boxes(np.random.default_rng(5).uniform(-2, 2, (2, 900)))),
        b.slice(b.reshape(x, shape=(2, ROWS // 2, 999)), starts=(0, 0, 0), sizes=(2, 3, 450),
                steps=(1, 1, 1)),
        max_out=99, iou=0.4,
    ).results,
}  # fmt: skip


@pytest.mark.parametrize("name", OWN_LOOPS)
def test_ops_with_their_own_loops_give_the_same_on_any_number_of_threads(name: str) -> None:
    x = np.random.default_rng(7).uniform(-2, 2, (ROWS, 999)).astype(np.float32)
    found = []
    for threads in THREADS:
        module = graph(tensors((ROWS, 999)), OWN_LOOPS[name])
        call = tfc.compile(Graph(module), threads=threads)
        result = call(x)
        found.append(result if isinstance(result, tuple) else (result,))
    assert "parallel(" in call.ir("loops"), "nothing here runs on several threads"
    for other in found[1:]:
        assert [y.tobytes() for y in other] == [y.tobytes() for y in found[0]]


def _bits(result: Any) -> Any:
    (array,) = result.values() if isinstance(result, dict) else (result,)
    return array.view(np.uint32)
