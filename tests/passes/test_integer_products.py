"""Quantised models: what is computed in integers, and how far from the reference it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import can_run, graph
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.core import Module, ops_of
from tfc.ir.types import F32, I8, I32, U8, DType, TensorType

Array = Any
TARGETS = [
    name for name in ("native", "avx512", "avx2", "x86-64") if name == "native" or can_run(name)
]
Make = Callable[..., Any]


def read(b: Any, x: Any, scale: float, zero: int, axis: int = 1) -> Any:
    dtype = x.type.dtype
    return b.dequantize_linear(x, b.constant(scale, F32), b.constant(zero, dtype), axis=axis)


def written(b: Any, y: Any, scale: float, zero: int, dtype: DType = U8) -> Any:
    return b.quantize_linear(y, b.constant(scale, F32), b.constant(zero, dtype), dtype=dtype)


def weights(b: Any, shape: tuple[int, ...], axis: int = 0, seed: int = 0) -> Any:
    """Weights of i8 with one scale for each index of an axis."""
    generator = np.random.default_rng(seed)
    whole = generator.integers(-127, 128, shape).astype(np.int8)
    scale = generator.uniform(0.001, 0.01, shape[axis]).astype(np.float32)
    return b.dequantize_linear(b.constant(whole), b.constant(scale), axis=axis)


def conv(b: Any, x: Any, w: Any, pad: int = 1, groups: int = 1, stride: int = 1) -> Any:
    return b.conv(
        x, w, strides=(stride,) * 2, pads=((pad, pad),) * 2, dilations=(1, 1), groups=groups
    )


def noise(b: Any, count: int, scale: float) -> Any:
    values = np.random.default_rng(count).standard_normal((count, 1, 1)) * scale
    return b.constant(values.astype(np.float32))


def activated(b: Any, x: Any) -> Any:
    """A bias in floats, relu, a requantisation."""
    y = b.add(conv(b, read(b, x, 0.02, 120), weights(b, (48, 24, 3, 3))), noise(b, 48, 0.3))
    return written(b, b.relu(y), 0.03, 0)


def whole_bias(b: Any, x: Any) -> Any:
    """A bias in i32 by the scales of the product, six as the limit, another zero point."""
    scale = np.float32(0.02) * np.float32(0.004)
    generator = np.random.default_rng(0)
    whole = b.constant(generator.integers(-127, 128, (32, 24, 3, 3)).astype(np.int8))
    w = b.dequantize_linear(whole, b.constant(0.004, F32))
    shift = generator.integers(-5000, 5000, (32, 1, 1)).astype(np.int32)
    bias = b.dequantize_linear(b.constant(shift), b.constant(scale))
    y = b.add(conv(b, read(b, x, 0.02, 120), w), bias)
    return written(b, b.clamp(y, lo=0.0, hi=6.0), 0.04, 17)


def residual(b: Any, x: Any) -> Any:
    """Two products, the input added to one of them, all read twice."""
    entry = read(b, x, 0.02, 120)
    one = written(b, conv(b, entry, weights(b, (24, 24, 3, 3))), 0.05, 130)
    total = b.relu(b.add(read(b, one, 0.05, 130), read(b, x, 0.02, 120)))
    both = written(b, total, 0.06, 0)
    again = conv(b, read(b, both, 0.06, 0), weights(b, (40, 24, 1, 1), seed=1), 0)
    return [written(b, again, 0.1, 99), written(b, read(b, both, 0.06, 0), 0.07, 3)]


def branches(b: Any, x: Any) -> Any:
    """Two products added up, their sum gated by channels that a mean of it decides."""
    entry = read(b, x, 0.02, 120)
    one = read(b, written(b, conv(b, entry, weights(b, (24, 24, 3, 3))), 0.05, 130), 0.05, 130)
    other = conv(b, entry, weights(b, (24, 24, 1, 1), seed=1), 0)
    total = b.relu(b.add(one, read(b, written(b, other, 0.04, 120), 0.04, 120)))
    total = read(b, written(b, total, 0.06, 0), 0.06, 0)
    mean = b.reduce_mean(total, axes=(2, 3), keepdims=True)
    mean = read(b, written(b, mean, 0.05, 0), 0.05, 0)
    gate = written(b, conv(b, mean, weights(b, (24, 24, 1, 1), seed=2), 0), 0.03, 128)
    gate = written(b, b.hard_sigmoid(read(b, gate, 0.03, 128), alpha=0.2, beta=0.5), 1 / 255, 0)
    return written(b, b.mul(total, read(b, gate, 1 / 255, 0)), 0.05, 3)


def pooled(b: Any, x: Any) -> Any:
    y = written(b, conv(b, read(b, x, 0.02, 120), weights(b, (16, 24, 1, 1)), 0), 0.04, 128)
    window = {"kernel": (3, 3), "strides": (2, 2), "pads": ((1, 1),) * 2, "dilations": (1, 1)}
    y = written(b, b.max_pool(read(b, y, 0.04, 128), **window), 0.04, 128)
    return written(b, conv(b, read(b, y, 0.04, 128), weights(b, (8, 16, 3, 3), seed=2)), 0.1, 128)


def depthwise(b: Any, x: Any) -> Any:
    y = conv(b, read(b, x, 0.02, 120), weights(b, (24, 1, 3, 3)), groups=24, stride=2)
    return written(b, b.relu(y), 0.01, 0)


def gated(b: Any, x: Any) -> Any:
    """The result is read by two ops, and multiplied by a function of itself."""
    y = written(b, conv(b, read(b, x, 0.02, 120), weights(b, (20, 24, 3, 3))), 0.05, 140)
    gate = written(b, b.sigmoid(read(b, y, 0.05, 140)), 1 / 256, 0)
    return written(b, b.mul(read(b, y, 0.05, 140), read(b, gate, 1 / 256, 0)), 0.05, 14)


def signed(b: Any, x: Any) -> Any:
    """i8 between the products."""
    y = written(b, conv(b, read(b, x, 0.02, 120), weights(b, (32, 24, 3, 3))), 0.05, -7, I8)
    again = conv(b, read(b, y, 0.05, -7), weights(b, (16, 32, 3, 3), seed=3))
    return written(b, again, 0.2, 5, I8)


def turned(b: Any, x: Any) -> Any:
    """Quantised anew behind a transpose and a reshape, as signed bytes."""
    y = written(b, conv(b, read(b, x, 0.02, 120), weights(b, (16, 24, 3, 3))), 0.05, -128, I8)
    y = b.transpose(read(b, y, 0.05, -128), perm=(0, 2, 3, 1))
    y = b.reshape(read(b, written(b, y, 0.05, -128, I8), 0.05, -128), shape=(2, 9 * 9 * 16))
    y = read(b, written(b, y, 0.05, -128, I8), 0.05, -128)
    return written(b, b.matmul(y, weights(b, (9 * 9 * 16, 12), axis=1, seed=4)), 0.5, 0, I8)


def dense(b: Any, x: Any) -> Any:
    """A flattened picture by transposed weights."""
    flat = b.reshape(read(b, x, 0.02, 120), shape=(2, 24 * 81))
    w = b.transpose(weights(b, (10, 24 * 81)), perm=(1, 0))
    return b.add(b.matmul(flat, w), b.constant(np.linspace(-1, 1, 10, dtype=np.float32)))


CASES: dict[str, Make] = {
    make.__name__: make
    for make in (
        activated, whole_bias, residual, branches, pooled, depthwise, gated, signed, turned, dense,
    )
}  # fmt: skip
PRODUCTS = dict.fromkeys(CASES, 1) | {
    "residual": 2,
    "branches": 3,
    "pooled": 2,
    "signed": 2,
    "turned": 2,
}


def model(name: str) -> Graph:
    return Graph(graph([TensorType(U8, (2, 24, 9, 9))], CASES[name]))


def feed() -> dict[str, Array]:
    return {"x0": np.random.default_rng(5).integers(0, 256, (2, 24, 9, 9)).astype(np.uint8)}


def optimised(module: Module, target: str = "avx512,+avx512vnni") -> Module:
    run(module, PassContext(target=parse_target(target)))
    return module


def contractions(module: Module) -> list[Any]:
    return [op for op in ops_of(module.functions.values()) if op.name in ("conv", "matmul")]


@pytest.mark.parametrize("name", CASES)
def test_all_products_of_quantised_numbers_are_in_integers(name: str) -> None:
    found = contractions(optimised(model(name).copy()))
    assert len(found) == PRODUCTS[name]
    for op in found:
        assert op.result.type.dtype == I32
        assert [value.op.operands[0].type.dtype for value in op.operands] == [U8, I8]


@pytest.mark.parametrize("name", CASES)
def test_what_kernels_leave_is_bytes(name: str) -> None:
    module = optimised(model(name).copy())
    stored = [
        op.result.type.dtype for op in module.main.block if op.name not in ("constant", "return")
    ]
    inner = stored if name != "dense" else stored[:-1]
    assert set(inner) <= {U8, I8}


@pytest.mark.parametrize("name", CASES)
def test_results_are_a_step_from_the_reference_and_nearly_always_on_it(name: str) -> None:
    program = model(name)
    wanted = program.eval(feed())
    first: dict[str, Array] = {}
    for target in TARGETS:
        found = tfc.compile(program, target=target)(feed())
        first = first or found
        for key, want in wanted.items():
            np.testing.assert_array_equal(found[key], first[key], err_msg=target)
            if want.dtype.kind == "f":
                np.testing.assert_allclose(found[key], want, rtol=2e-6, atol=2e-6)
                continue
            steps = np.abs(found[key].astype(int) - want.astype(int))
            assert steps.max() <= 1
            assert (steps == 0).mean() > 0.998


def test_a_scale_of_a_power_of_two_rounds_ties_as_the_reference() -> None:
    """Half of all sums end in a half step."""

    def make(b: Any, x: Any) -> Any:
        whole = b.constant(np.random.default_rng(0).integers(-5, 6, (16, 24, 1, 1)).astype(np.int8))
        w = b.dequantize_linear(whole, b.constant(0.25, F32))
        return written(b, conv(b, read(b, x, 0.5, 120), w, 0), 0.25, 128)

    program = Graph(graph([TensorType(U8, (2, 24, 9, 9))], make))
    inputs = {"x0": np.random.default_rng(1).integers(118, 123, (2, 24, 9, 9)).astype(np.uint8)}
    found = tfc.compile(program)(inputs)["y0"]
    np.testing.assert_array_equal(found, program.eval(inputs)["y0"])
    assert np.unique(found).size > 20


def float_weights(b: Any, x: Any) -> Any:
    return conv(b, read(b, x, 0.02, 1), b.constant(np.ones((8, 24, 1, 1), np.float32)), 0)


def two_computed_sides(b: Any, x: Any) -> Any:
    return b.matmul(read(b, x, 0.02, 1), read(b, x, 0.02, 1))


def scales_along_the_sum(b: Any, x: Any) -> Any:
    return conv(b, read(b, x, 0.02, 1), weights(b, (8, 24, 1, 1), axis=1), 0)


def infinite_scale(b: Any, x: Any) -> Any:
    return conv(b, read(b, x, float("inf"), 1), weights(b, (8, 24, 1, 1)), 0)


@pytest.mark.parametrize(
    "make", [float_weights, two_computed_sides, scales_along_the_sum, infinite_scale]
)
def test_other_products_stay_floats(make: Make) -> None:
    (found,) = contractions(optimised(graph([TensorType(U8, (2, 24, 9, 9))], make)))
    assert found.result.type.dtype == F32


def test_nan_is_zero_as_a_signed_byte_too() -> None:
    def make(b: Any, x: Any) -> Any:
        y = written(b, x, 0.5, -3, I8)
        return [y, conv(b, read(b, y, 0.5, -3), weights(b, (8, 4, 1, 1)), 0)]

    program = Graph(graph([TensorType(F32, (1, 4, 2, 2))], make))
    x = np.array([np.nan, np.inf, -np.inf, 0.25] * 4, np.float32).reshape(1, 4, 2, 2)
    found, want = (f({"x0": x}) for f in (tfc.compile(program), program.eval))
    np.testing.assert_array_equal(found["y0"], want["y0"])
    np.testing.assert_allclose(found["y1"], want["y1"], rtol=1e-6)
