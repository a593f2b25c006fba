"""Constants whose blocks have scales: what stays narrow, and that the numbers are the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tfc
from tests.lower.native import graph
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.core import Module, ops_of
from tfc.ir.types import BF16, F16, F32, I8, I64, U8, TensorType

Array = Any
K, N, BLOCK = 128, 160, 32
GENERATOR = np.random.default_rng(5)
FOUR = GENERATOR.integers(-8, 8, (K, N)).astype(np.int8)
EIGHT = GENERATOR.integers(0, 256, (K, N)).astype(np.uint8)
# Scales that two bytes do not hold.
SCALE = GENERATOR.uniform(0.01, 0.02, (K // BLOCK, N)).astype(np.float32)
ZERO = GENERATOR.integers(100, 140, SCALE.shape).astype(np.uint8)
X = GENERATOR.standard_normal((3, K)).astype(np.float32)


def spread(shared: Array) -> Array:
    return np.repeat(shared, BLOCK, 0)


def by_op(b: Any) -> Any:
    return b.dequantize_linear(b.constant(FOUR), b.constant(SCALE), axis=0)


def by_numbers(b: Any) -> Any:
    """Whole numbers times scales that happen to be the same in blocks."""
    return b.mul(b.cast(b.constant(FOUR), dtype=F32), b.constant(spread(SCALE)))


def with_zeros(b: Any) -> Any:
    return b.dequantize_linear(b.constant(EIGHT), b.constant(SCALE), b.constant(ZERO), axis=0)


def zeros_taken_off(b: Any) -> Any:
    less = b.sub(b.cast(b.constant(EIGHT), dtype=F32), b.constant(spread(ZERO).astype(np.float32)))
    return b.mul(less, b.constant(spread(SCALE)))


def turned(b: Any) -> Any:
    stored = b.dequantize_linear(b.constant(FOUR.T.copy()), b.constant(SCALE.T.copy()), axis=1)
    return b.transpose(stored, perm=(1, 0))


MAKERS = (by_op, by_numbers, with_zeros, zeros_taken_off, turned)


def model(make: Any) -> Module:
    return graph([TensorType(F32, X.shape)], lambda b, x: b.matmul(x, make(b)))


def optimised(module: Module, **options: Any) -> Module:
    module = Graph(module).copy()
    run(module, PassContext(target=parse_target("avx512"), **options))
    return module


def wide_constants(module: Module) -> list[Any]:
    """Element types of constants of as many elements as the weights have."""
    ops = [op for op in ops_of(module.functions.values()) if op.name == "constant"]
    return [op.result.type.dtype for op in ops if op.result.type.size >= K * N // 2]


@pytest.mark.parametrize("make", MAKERS)
def test_products_read_narrow_blocks(make: Any) -> None:
    whole = optimised(model(make))
    (dtype,) = wide_constants(whole)
    assert dtype in (I8, U8)
    want = Graph(model(make)).eval({"x0": X})["y0"]
    found = tfc.compile(Graph(model(make)))({"x0": X})["y0"]
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_products_of_bf16_have_weights_of_bf16() -> None:
    assert wide_constants(optimised(model(by_op), dtype=BF16)) == [BF16]


def test_scales_are_as_short_as_they_can_be() -> None:
    for scale, dtype in ((SCALE, F32), (SCALE.astype(np.float16), F16)):
        wide = scale.astype(np.float32)

        def make(b: Any, wide: Array = wide) -> Any:
            return b.dequantize_linear(b.constant(FOUR), b.constant(wide), axis=0)

        ops = ops_of(optimised(model(make)).functions.values())
        found = [op.result.type for op in ops if op.name == "constant"]
        assert dtype in [type.dtype for type in found if type.shape == SCALE.shape]


def test_two_products_by_one_table_both_read_it() -> None:
    def make(b: Any, x: Any) -> Any:
        w = by_op(b)
        return b.sub(b.matmul(x, w), b.matmul(b.exp(x), w))

    module = optimised(graph([TensorType(F32, X.shape)], make))
    names = Counter(op.name for op in ops_of(module.functions.values()))
    assert names["dequantize_blocks"] == names["matmul"] == 2
    assert wide_constants(module) == [I8]


def test_blocks_hardly_smaller_than_floats_are_folded() -> None:
    def make(b: Any) -> Any:
        scale = GENERATOR.uniform(1, 2, (K // 2, N)).astype(np.float32)
        return b.dequantize_linear(b.constant(EIGHT), b.constant(scale), axis=0)

    assert wide_constants(optimised(model(make))) == [F32]


@pytest.mark.parametrize("columns", [64, 63])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
def test_rows_of_a_table_in_blocks_are_those_of_floats(
    columns: int, bits: int, zeros: bool
) -> None:
    count = columns // (16 if columns % 16 == 0 else 21)
    whole = GENERATOR.integers(0, 1 << bits, (500, columns)).astype(np.uint8)
    scale = GENERATOR.uniform(1, 2, (500, count)).astype(np.float32)
    rest = [GENERATOR.integers(0, 1 << bits, scale.shape).astype(np.uint8)] if zeros else []

    def make(b: Any, index: Any) -> Any:
        table = b.dequantize_linear(*map(b.constant, (whole, scale, *rest)), axis=1)
        return b.gather(table, index, axis=0)

    module = graph([TensorType(I64, (2, 5))], make)
    index = GENERATOR.integers(-500, 500, (2, 5))
    want = Graph(module).eval({"x0": index})["y0"]
    executable = tfc.compile(Graph(module))
    np.testing.assert_array_equal(executable({"x0": index})["y0"], want)
    assert executable.memory.constants < whole.size * bits / 8 + 6 * scale.size + 1024


def quantised_model(kind: int, zeros: bool, axis: int) -> tuple[Any, Array]:
    """An ONNX product by weights of four bits, and the weights."""
    shape = [K, N] if axis == 0 else [N, K]
    shared = [n // BLOCK if at == axis else n for at, n in enumerate(shape)]
    signed = kind == TensorProto.INT4
    whole = GENERATOR.integers(-8 if signed else 0, 8 if signed else 16, shape)
    scale = GENERATOR.uniform(0.01, 0.02, shared).astype(np.float32)
    zero = GENERATOR.integers(0, 4, shared)

    def four_bits(name: str, numbers: Array) -> Any:
        low = numbers.reshape(-1).astype(np.uint8) & 15
        return helper.make_tensor(
            name, kind, numbers.shape, (low[::2] | low[1::2] << 4).tobytes(), raw=True
        )

    tensors = [four_bits("q", whole), numpy_helper.from_array(scale, "s")]
    tensors += [four_bits("z", zero)] if zeros else []
    nodes = [
        helper.make_node(
            "DequantizeLinear", [t.name for t in tensors], ["w"], axis=axis, block_size=BLOCK
        ),
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=axis),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
        for name, size in (("x", K), ("y", N))
    ]
    body = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    opset = [helper.make_opsetid("", 21)]
    wide = whole - (np.repeat(zero, BLOCK, axis) if zeros else 0)
    wide = wide * np.repeat(scale, BLOCK, axis).astype(np.float64)
    return helper.make_model(body, opset_imports=opset, ir_version=10), wide.T if axis else wide


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_onnx_weights_of_four_bits_stay_so(kind: int, zeros: bool, axis: int) -> None:
    source, wide = quantised_model(kind, zeros, axis)
    onnx.checker.check_model(source)
    executable = tfc.compile(source)
    assert executable.memory.constants < 0.5 * K * N + 6 * SCALE.size + 1024
    want = X.astype(np.float64) @ wide
    found = executable({"x": X})["y"]
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_dims_of_scales_may_have_names_of_their_own() -> None:
    """A run says that numbers and scales are of as many rows."""
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=1, block_size=2)
    ports = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 6]),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, ["M", 3]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    body = helper.make_graph([node], "g", ports[:2], ports[2:])
    opset = [helper.make_opsetid("", 21)]
    executable = tfc.compile(helper.make_model(body, opset_imports=opset, ir_version=10))
    x, s = np.arange(24, dtype=np.uint8).reshape(4, 6), SCALE[:, :3]
    np.testing.assert_array_equal(executable({"x": x, "s": s})["y"], x * np.repeat(s, 2, 1))
