"""ONNX's integer operators reach products of bytes, and are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import tfc
from tfc.compiler.frontends.onnx import load
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.ir.core import ops_of
from tfc.ir.types import I8, U8

runtime = pytest.importorskip("onnxruntime")

Array = Any
GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (1, 12, 9, 9)).astype(np.uint8)
KERNEL = GENERATOR.integers(-128, 128, (20, 12, 3, 3)).astype(np.int8)
ROWS = GENERATOR.integers(0, 256, (7, 40)).astype(np.uint8)
SIGNED = GENERATOR.integers(-128, 128, (7, 40)).astype(np.int8)
MATRIX = GENERATOR.integers(-128, 128, (40, 24)).astype(np.int8)
FLOATS = GENERATOR.standard_normal((7, 40)).astype(np.float32)
BIAS = GENERATOR.integers(-900, 900, 20).astype(np.int32)


def byte(value: int) -> Array:
    return np.array(value, np.uint8)


def real(value: float) -> Array:
    return np.array(value, np.float32)


def model(nodes: list[Any], x: Array, output: int, **constants: Array) -> Any:
    types = {np.uint8: 2, np.int8: 3, np.float32: 1}
    graph = helper.make_graph(
        nodes,
        "integers",
        [helper.make_tensor_value_info("x", types[x.dtype.type], list(x.shape))],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(kind: str, inputs: str, output: str = "y", **attrs: Any) -> Any:
    return helper.make_node(kind, inputs.split(), output.split(), **attrs)


SCALES = {"sx": real(0.02), "zx": byte(120), "sy": real(0.3), "zy": byte(99), "sw": real(0.01)}
ZERO = np.array(0, np.int8)
CASES: dict[str, tuple[Any, Array]] = {
    "ConvInteger": (
        model([node("ConvInteger", "x w zx", pads=[1, 1, 1, 1])], IMAGE, 6,
              w=KERNEL, zx=byte(31)), IMAGE),
    "MatMulInteger": (
        model([node("MatMulInteger", "x w zx")], ROWS, 6, w=MATRIX, zx=byte(200)), ROWS),
    "MatMulInteger of signed bytes": (
        model([node("MatMulInteger", "x w")], SIGNED, 6, w=MATRIX), SIGNED),
    "QLinearConv": (
        model([node("QLinearConv", "x sx zx w sw zw sy zy b", pads=[1, 1, 1, 1])], IMAGE, 2,
              w=KERNEL, zw=ZERO, b=BIAS, **SCALES), IMAGE),
    "QLinearMatMul": (
        model([node("QLinearMatMul", "x sx zx w sw zw sy zy")], ROWS, 2,
              w=MATRIX, zw=ZERO, **SCALES), ROWS),
    "dynamic": (
        model([node("DynamicQuantizeLinear", "x", "q s z"), node("MatMulInteger", "q w z", "t"),
               node("Cast", "t", "f", to=1), node("Mul", "f s")], FLOATS, 1, w=MATRIX), FLOATS),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_integer_operators_are_products_of_bytes(name: str) -> None:
    module = load(CASES[name][0])
    run(module, PassContext(target=parse_target("avx512,+avx512vnni")))
    (found,) = (op for op in ops_of(module.functions.values()) if op.name in ("conv", "matmul"))
    sources = [value.op.operands[0].type.dtype for value in found.operands]  # type: ignore[union-attr]
    assert sources == [U8, I8]


@pytest.mark.parametrize("name", CASES)
def test_integer_operators_compute_what_onnx_runtime_does(name: str) -> None:
    source, x = CASES[name]
    (want,) = runtime.InferenceSession(
        source.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, {"x": x})
    found = tfc.compile(source)({"x": x})["y"]
    assert found.dtype == want.dtype
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)


def test_a_product_of_bytes_may_be_added_to_itself() -> None:
    nodes = [node("MatMulInteger", "x w", "t"), node("Add", "t t")]
    found = tfc.compile(model(nodes, SIGNED, 6, w=MATRIX))({"x": SIGNED})["y"]
    np.testing.assert_array_equal(found, 2 * (SIGNED.astype(np.int32) @ MATRIX.astype(np.int32)))
