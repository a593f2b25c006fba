"""Contractions in blocks: sums of chunks, copies of either side, edges, threads, targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import Code, can_run, graph
from tfc.compiler.lower import contract_blocked
from tfc.compiler.lower.contract_blocked import even
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import Target, parse_target, with_caches
from tfc.graph import Graph
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import DimLike, symbol, symbols_of
from tfc.ir.loop.interp import run_program
from tfc.ir.types import F32, F64, DType, TensorType
from tfc.ir.verify import verify

LEVELS = [level for level in ("x86-64", "avx2", "avx512") if can_run(level)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that small matrices fill several of."""
    changes = {"WHOLE": 40, "CHUNK": 24, "GROUP": 2, "COPIED_CHUNK": 20, "COPIED_GROUP": 2}
    for name, value in {
        **changes,
        "LEAST_WORK": 1,
        "LEAST_PANELS": 2,
        "LEAST_TASKS": 1,
        "PAGE": 64,
    }.items():
        monkeypatch.setattr(contract_blocked, name, value)


def target_of(level: str) -> Target:
    return with_caches(parse_target(level), 32 << 10, 16 << 10, 1 << 20)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def product_graph(
    x: tuple[DimLike, ...], w: Array, dtype: DType, turned: bool, fixed: bool
) -> Module:
    """relu(x @ w + bias), x stored transposed where `turned`, w an input unless `fixed`."""
    bias = numbers(w.shape[-1], seed=2).astype(np.float64 if dtype == F64 else np.float32)
    symbols = {name: SymbolInfo(hint=70) for dim in x for name in symbols_of(dim)}

    def make(b: GraphBuilder, value: Value, right: Value | None = None) -> Value:
        left = b.transpose(value, perm=(*range(len(x) - 2), len(x) - 1, len(x) - 2))
        right = b.constant(w) if right is None else right
        return b.relu(b.add(b.matmul(left if turned else value, right), b.constant(bias)))  # type: ignore[no-any-return]

    types = [TensorType(dtype, x), *([] if fixed else [TensorType(dtype, w.shape)])]
    return graph(types, make, symbols)


def program_of(module: Module, target: Target) -> Module:
    run(module, PassContext(target=target, level=2))
    program = lower(module, target, {"M": 70}, fast=frozenset())
    verify(program)
    return program


def is_blocked(program: Module) -> bool:
    """Whether a kernel has memory for each thread, which other products have not."""
    return "threads" in symbols_of(program.main.attrs["workspace"])


def wanted(x: Array, w: Array, bias: Array, turned: bool) -> Any:
    left = np.swapaxes(x, -1, -2) if turned else x
    return np.maximum(left.astype(np.float64) @ w.astype(np.float64) + bias, 0)


CASES = [
    # rows, columns, steps, turned, constant right side
    (70, 80, 90, False, True),
    (61, 96, 64, False, True),
    (50, 33, 70, False, False),
    (50, 48, 111, False, False),
    (67, 50, 130, False, False),
    (64, 96, 50, True, True),
    (80, 75, 61, True, True),
    (48, 112, 80, True, False),
]


@pytest.mark.parametrize("level", LEVELS)
def test_products_in_blocks_are_exact(level: str) -> None:
    target = target_of(level)
    made = []
    for m, n, k, turned, fixed in CASES:
        for dtype in (F32, F64):
            kind = np.float32 if dtype == F32 else np.float64
            x, w = numbers(*((k, m) if turned else (m, k))), numbers(k, n, seed=1)
            x, w = x.astype(kind), w.astype(kind)
            program = program_of(product_graph(x.shape, w, dtype, turned, fixed), target)
            made.append((program, {"x0": x} if fixed else {"x0": x, "x1": w}, x, w, turned))
    assert all(is_blocked(program) for program, *_ in made)
    code = Code([program for program, *_ in made], target)
    for program, feeds, x, w, turned in made:
        bias = numbers(w.shape[-1], seed=2).astype(x.dtype)
        got = code.run(program, feeds)["y0"]
        tolerance = 1e-5 if x.dtype == np.float32 else 1e-13
        np.testing.assert_allclose(got, wanted(x, w, bias, turned), rtol=0, atol=30 * tolerance)


def test_the_interpreter_agrees() -> None:
    x, w = numbers(50, 70).astype(np.float32), numbers(70, 33, seed=1).astype(np.float32)
    program = program_of(product_graph(x.shape, w, F32, False, False), target_of("avx512"))
    got = run_program(program, {"x0": x, "x1": w})["y0"]
    bias = numbers(33, seed=2).astype(np.float32)
    np.testing.assert_allclose(got, wanted(x, w, bias, False), rtol=0, atol=1e-4)


def test_rows_that_only_a_run_counts_are_not_blocked() -> None:
    """There may be few, for which the plain kernel has smaller tiles."""
    w = numbers(90, 80, seed=1).astype(np.float32)
    module = product_graph((symbol("M"), 90), w, F32, False, True)
    assert not is_blocked(program_of(module, target_of("avx512")))


def test_batches_are_blocked_one_by_one() -> None:
    target = target_of("avx512") if can_run("avx512") else target_of("x86-64")
    x, w = numbers(3, 70, 64).astype(np.float32), numbers(3, 64, 80, seed=1).astype(np.float32)
    program = program_of(product_graph(x.shape, w, F32, False, False), target)
    assert is_blocked(program)
    got = Code([program], target).run(program, {"x0": x, "x1": w})["y0"]
    bias = numbers(80, seed=2).astype(np.float32)
    np.testing.assert_allclose(got, wanted(x, w, bias, False), rtol=0, atol=1e-4)


def test_results_do_not_depend_on_threads() -> None:
    x, w = tfc.placeholder((300, 2048), name="x"), tfc.placeholder((2048, 1024), name="w")
    whole = Graph.of({"y": x @ w}, inputs=[x, w])
    a, b = numbers(300, 2048).astype(np.float32), numbers(2048, 1024, seed=1).astype(np.float32)
    results = [tfc.compile(whole, threads=threads)(a, b) for threads in (1, 2, 3)]
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
    np.testing.assert_allclose(results[0], a.astype(np.float64) @ b, rtol=0, atol=1e-3)


def test_what_the_caches_hold_is_not_blocked() -> None:
    target = with_caches(parse_target("avx512"), 32 << 10, 1 << 20, 16 << 20)
    w = numbers(90, 80, seed=1).astype(np.float32)
    assert not is_blocked(program_of(product_graph((70, 90), w, F32, False, True), target))


@pytest.mark.parametrize(("count", "most", "size"), [(1, 5, 1), (10, 5, 5), (11, 5, 4), (9, 4, 3)])
def test_parts_are_even(count: int, most: int, size: int) -> None:
    assert even(count, most) == size


@pytest.mark.parametrize(("tiles", "panels"), [(6, 2), (1, 40), (40, 1), (3, 3), (2, 2)])
def test_blocks_are_enough_for_threads(tiles: int, panels: int) -> None:
    least = contract_blocked.LEAST_TASKS
    height, width = contract_blocked._shared_out(tiles, panels, tiles, panels)
    tasks = -(-tiles // height) * -(-panels // width)
    assert tasks >= least or height * width == 1
