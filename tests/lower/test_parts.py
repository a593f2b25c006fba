"""Products of a dynamic number of rows: a tile of many, and tiles of fewer for what is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.lower.native import Code, can_run, graph
from tfc.compiler.codegen.host import host_target
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import Target, parse_target
from tfc.ir import arrays
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.dims import DimLike, symbol
from tfc.ir.loop.interp import run_program
from tfc.ir.types import F32, I8, I32, DType, TensorType

N = symbol("n")
HINT = 1
LEVELS = [level for level in ("x86-64", "avx2", "avx512") if can_run(level)]
COUNTS = (*range(20), 27, 28, 29, 64)


def _constant(b: Any, array: arrays.Array) -> Any:
    return b.op("constant", **arrays.constant_attrs(array, b.constants)).result


def _numbers(*shape: int, dtype: DType = F32, seed: int = 0) -> arrays.Array:
    rng = np.random.default_rng(seed)
    if dtype != F32:
        return rng.integers(-9, 10, shape).astype(np.int8)
    return rng.standard_normal(shape).astype(np.float32)


def _layer(shape: tuple[DimLike, ...], columns: int, dtype: DType = F32) -> Module:
    """relu(x w + bias) for x of the shape."""
    weights = _numbers(int(shape[-1]), columns, dtype=dtype, seed=1)
    bias = np.arange(columns).astype(np.float32 if dtype == F32 else np.int32)

    def make(b: Any, x: Any) -> Any:
        w = _constant(b, weights)
        if dtype != F32:
            x, w = b.cast(x, dtype=I32), b.cast(w, dtype=I32)
        return b.relu(b.add(b.matmul(x, w), _constant(b, bias)))

    return graph([TensorType(dtype, shape)], make, {"n": SymbolInfo(0, None, HINT)})


def _expected(x: arrays.Array, columns: int) -> arrays.Array:
    dtype = F32 if x.dtype == np.float32 else I8
    weights = _numbers(x.shape[-1], columns, dtype=dtype, seed=1)
    found: arrays.Array = np.maximum(
        x.astype(float) @ weights.astype(float) + np.arange(columns), 0
    )
    return found


def _program(module: Module, target: Target) -> Module:
    run(module, PassContext(target=target))
    return lower(module, target, {"n": HINT})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [F32, I8], ids=str)
@pytest.mark.parametrize(("shape", "columns"), [((N, 54), 70), ((N, 3, 20), 33), ((N, 64), 1)])
def test_every_number_of_rows_is_right(
    level: str, dtype: DType, shape: tuple[DimLike, ...], columns: int
) -> None:
    target = parse_target(level)
    program = _program(_layer(shape, columns, dtype), target)
    code = Code([program], target)
    for count in COUNTS:
        x = _numbers(*(count if dim is N else int(dim) for dim in shape), dtype=dtype)
        found = code.run(program, {"x0": x})["y0"]
        np.testing.assert_allclose(found, _expected(x, columns), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 3, 5, 13, 30])
def test_no_element_outside_is_read_or_written(count: int) -> None:
    program = _program(_layer((N, 6), 40), host_target())
    x = _numbers(count, 6)
    found = run_program(program, {"x0": x})["y0"]
    np.testing.assert_allclose(found, _expected(x, 40), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS)
def test_parts_begin_where_tiles_do(level: str) -> None:
    """Four divides the rows, but not the tiles before them."""
    target = parse_target(level)
    program = _program(_layer((N, 196, 24), 48), target)
    code = Code([program], target)
    for count in (1, 2, 5):
        x = _numbers(count, 196, 24)
        found = code.run(program, {"x0": x})["y0"]
        np.testing.assert_allclose(found, _expected(x, 48), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("columns", "shared"), [(64, False), (1200, True)])
def test_threads_share_a_row_by_weights_from_beyond_the_cache(columns: int, shared: bool) -> None:
    program = _program(_layer((1, 256), columns), parse_target("avx512"))
    kernels = [f for f in program.functions.values() if f.kind == "kernel"]
    found = any(op.name == "parallel" for f in kernels for op in f.block.walk())
    assert found == shared
