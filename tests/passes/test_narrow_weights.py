"""Constants of bytes times scales: what stays bytes, and that it computes what floats would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import can_run, graph
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.core import Module, SymbolInfo, ops_of
from tfc.ir.dims import symbol
from tfc.ir.types import BF16, F32, I8, I64, TensorType

Array = Any
N = symbol("N")
TARGETS = [name for name in ("native", "avx2", "x86-64") if name == "native" or can_run(name)]
GENERATOR = np.random.default_rng(3)
WHOLE = GENERATOR.integers(-127, 128, (200, 150)).astype(np.int8)
COLUMNS = GENERATOR.uniform(0.01, 0.02, 150).astype(np.float32)
ROWS = GENERATOR.uniform(0.01, 0.02, (200, 1)).astype(np.float32)


def linear(b: Any, x: Any) -> Any:
    """A cast, a zero point and a product of its own: no op of quantisation."""
    w = b.sub(b.cast(b.constant(WHOLE), dtype=F32), b.constant(0.0, F32))
    y = b.matmul(x, b.mul(w, b.constant(COLUMNS)))
    return b.relu(b.add(y, b.constant(1.0, F32)))


def transposed(b: Any, x: Any) -> Any:
    w = b.dequantize_linear(b.constant(WHOLE.T.copy()), b.constant(COLUMNS), axis=0)
    return b.matmul(x, b.transpose(w, perm=(1, 0)))


def shared(b: Any, x: Any) -> Any:
    """One table of weights for two products."""
    w = b.dequantize_linear(b.constant(WHOLE), b.constant(COLUMNS), axis=1)
    return b.sub(b.matmul(x, w), b.matmul(b.exp(x), w))


def rows(b: Any, x: Any) -> Any:
    """The scales vary along what is summed, and stay where they are."""
    w = b.mul(b.cast(b.constant(WHOLE), dtype=F32), b.constant(ROWS))
    return b.matmul(x, w)


MODELS = {make.__name__: make for make in (linear, transposed, shared, rows)}


def model(name: str) -> Module:
    return graph([TensorType(F32, (N, 200))], MODELS[name], {"N": SymbolInfo(0, 64)})


def optimised(module: Module, **options: Any) -> Module:
    module = Graph(module).copy()
    run(module, PassContext(target=parse_target("avx512"), **options))
    return module


def constants(module: Module) -> list[Any]:
    """Element types of the large constants."""
    found = [op.result.type for op in ops_of(module.functions.values()) if op.name == "constant"]
    return [type.dtype for type in found if type.size >= WHOLE.size]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", TARGETS)
def test_products_by_narrow_weights_are_those_by_wide_ones(name: str, target: str) -> None:
    program = Graph(model(name))
    executable = tfc.compile(program, target=target)
    for count in (1, 5, 33):
        x = np.random.default_rng(count).standard_normal((count, 200)).astype(np.float32)
        want = program.eval({"x0": x})["y0"]
        found = executable({"x0": x})["y0"]
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("name", MODELS)
def test_weights_with_scales_of_columns_stay_bytes(name: str) -> None:
    assert constants(optimised(model(name))) == [F32 if name == "rows" else I8]


def test_bf16_products_have_weights_of_bf16() -> None:
    assert constants(optimised(model("linear"), dtype=BF16)) == [BF16]


def lookup(b: Any, index: Any) -> Any:
    table = b.mul(b.cast(b.constant(WHOLE), dtype=F32), b.constant(ROWS))
    return b.gather(table, index, axis=0)


def test_rows_of_a_narrow_table_are_scaled_one_by_one() -> None:
    module = graph([TensorType(I64, (2, 7))], lookup)
    index = np.random.default_rng(0).integers(-200, 200, (2, 7))
    found = tfc.compile(Graph(module))({"x0": index})["y0"]
    np.testing.assert_array_equal(found, (WHOLE * ROWS)[index])
    assert constants(optimised(module)) == [I8]


def test_a_product_of_constants_is_computed_once() -> None:
    def make(b: Any, x: Any) -> Any:
        w = b.dequantize_linear(b.constant(WHOLE), b.constant(COLUMNS), axis=1)
        return b.add(x, b.matmul(b.constant(np.ones((1, 200), np.float32)), w))

    module = optimised(graph([TensorType(F32, (1, 150))], make))
    assert not [op for op in ops_of(module.functions.values()) if op.name == "matmul"]
