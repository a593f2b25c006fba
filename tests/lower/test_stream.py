"""One row times a computed matrix: the matrix streams through in the order it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import Code, can_run, graph
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import DimLike, symbol, symbols_of
from tfc.ir.types import F32, TensorType
from tfc.ir.verify import verify

LEVELS = [level for level in ("avx2", "avx512") if can_run(level)]
K = symbol("K")
# Columns, steps and how often.
CASES: dict[str, tuple[int, DimLike, tuple[int, ...]]] = {
    "one chunk": (256, 40, ()),
    "a tail": (257, 19, ()),
    "chunks": (2100, 8, ()),
    "chunks with a tail": (2051, 3, ()),
    "one step": (300, 1, ()),
    "batch": (300, 21, (3,)),
    "steps of a run": (520, K, ()),
}


def product(columns: int, steps: DimLike, batch: tuple[int, ...]) -> Module:
    """relu(x @ w + bias)"""
    bias = np.random.default_rng(0).uniform(-1, 1, columns).astype(np.float32)

    def make(b: GraphBuilder, x: Value, w: Value) -> Value:
        return b.relu(b.add(b.matmul(x, w), b.constant(bias)))  # type: ignore[no-any-return]

    types = [TensorType(F32, (*batch, 1, steps)), TensorType(F32, (*batch, steps, columns))]
    return graph(types, make, {"K": SymbolInfo(0, 64)} if steps is K else None)


def operands(columns: int, steps: DimLike, batch: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    count = steps if isinstance(steps, int) else 29
    rng = np.random.default_rng(1)
    shapes = (*batch, 1, count), (*batch, count, columns)
    return [rng.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]


def wanted(columns: int, x: np.ndarray[Any, Any], w: np.ndarray[Any, Any]) -> Any:
    bias = np.random.default_rng(0).uniform(-1, 1, columns).astype(np.float32)
    return np.maximum(x.astype(np.float64) @ w + bias, 0)


@pytest.mark.parametrize("level", LEVELS)
def test_products_of_one_row_are_right_at_any_size(level: str) -> None:
    target, programs = parse_target(level), []
    for case in CASES.values():
        module = product(*case)
        run(module, PassContext(target=target))
        program = lower(module, target, {})
        verify(program)
        # Chunks of sums are memory of each thread.
        streams = "threads" in symbols_of(program.main.attrs["workspace"])
        whole = target.has_masks or case[0] % target.lanes(F32) == 0
        assert streams == (whole and case[1] != 1)
        programs.append(program)
    code = Code(programs, target)
    for (name, case), program in zip(CASES.items(), programs, strict=True):
        x, w = operands(*case)
        found = code.run(program, {"x0": x, "x1": w}, {"K": x.shape[-1]} if case[1] is K else None)
        np.testing.assert_allclose(found["y0"], wanted(case[0], x, w), atol=2e-5, err_msg=name)


def test_no_steps_leave_the_bias() -> None:
    executable: Any = tfc.compile(Graph(product(520, K, ())))
    x, w = np.zeros((1, 0), np.float32), np.zeros((0, 520), np.float32)
    np.testing.assert_allclose(executable(x, w), wanted(520, x, w), atol=1e-7)


def test_threads_change_no_bit_of_a_row() -> None:
    x, w = operands(4100, 300, ())
    found = []
    for threads in (1, 2, 3):
        executable: Any = tfc.compile(Graph(product(4100, 300, ())), threads=threads)
        found.append(executable(x, w))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
