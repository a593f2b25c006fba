"""What becomes a byte and a float again inside of one kernel: it stays a float, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import graph
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.core import Module
from tfc.ir.types import F32, I8, U8, DType, TensorType

X = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 0.25, 0.75, 1.25, -0.25, 31.7, 63.9, 64.1, -63, 1e9, -1e9],
    np.float32,
)


def quantised(b: Any, x: Any, zero: int, dtype: DType) -> Any:
    scale, point = b.constant(0.5, F32), b.constant(zero, dtype)
    y = b.quantize_linear(x, scale, point, dtype=dtype)
    return b.exp(b.neg(b.dequantize_linear(y, scale, point)))


def program(zero: int, dtype: DType) -> Module:
    return graph([TensorType(F32, X.shape)], lambda b, x: quantised(b, x, zero, dtype))


def casts_to(module: Module, dtype: DType) -> int:
    copy = Graph(module).copy()
    run(copy, PassContext(target=parse_target("avx512")))
    lowered = lower(copy, parse_target("avx512"), {})
    ops = [op for f in lowered.functions.values() for op in f.block.walk()]
    return sum(op.name == "cast" and op.result.type.dtype == dtype for op in ops)  # type: ignore[union-attr]


CASES = [(0, U8), (3, U8), (255, U8), (-128, I8), (5, I8)]


@pytest.mark.parametrize(("zero", "dtype"), CASES)
def test_no_byte_is_made(zero: int, dtype: DType) -> None:
    assert casts_to(program(zero, dtype), dtype) == 0


@pytest.mark.parametrize(("zero", "dtype"), CASES)
def test_numbers_are_those_of_the_bytes(zero: int, dtype: DType) -> None:
    module = program(zero, dtype)
    want = Graph(module).eval({"x0": X})["y0"]
    found = tfc.compile(Graph(module))({"x0": X})["y0"]
    np.testing.assert_allclose(found, want, rtol=3e-7)


def test_a_byte_of_a_fraction_is_made() -> None:
    module = graph([TensorType(F32, X.shape)], lambda b, x: b.cast(b.cast(x, dtype=U8), dtype=F32))
    assert casts_to(module, U8) > 0
    found = tfc.compile(Graph(module))({"x0": X})["y0"]
    np.testing.assert_array_equal(found, Graph(module).eval({"x0": X})["y0"])
