"""Ops that write their own loops, among others: operands and results that lie in all ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.lower.native import Code, graph, lowered
from tfc.compiler.codegen.host import host_target
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.ir.arrays import dtype_of
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.dims import symbol
from tfc.ir.loop.interp import run_program
from tfc.ir.types import I64, TensorType

N = symbol("N")
X = np.random.default_rng(1).uniform(-2, 2, (6, 40)).astype(np.float32)


def _sorted(b: Any, x: Any, axis: int) -> Any:
    return b.op("sort", x, axis=axis).results[0]


def _cumsum(b: Any, x: Any, axis: int = 0) -> Any:
    return b.cumsum(x, axis=axis, exclusive=False, reverse=False)


CASES: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "a transposed operand": (
        lambda b, x: _sorted(b, b.transpose(x, perm=(1, 0)), 1),
        lambda x: np.sort(x.T, axis=1),
    ),
    "an operand read backwards": (
        lambda b, x: _sorted(b, b.slice(x, starts=(5, 39), sizes=(3, 20), steps=(-2, -2)), 1),
        lambda x: np.sort(x[5::-2, 39::-2], axis=1),
    ),
    "rows read backwards": (
        lambda b, x: _sorted(b, b.slice(x, starts=(5, 3), sizes=(6, 30), steps=(-1, 1)), 0),
        lambda x: np.sort(x[::-1, 3:33], axis=0),
    ),
    "a broadcast operand": (
        lambda b, x: _cumsum(b, b.broadcast(b.slice(
            x, starts=(0, 0), sizes=(6, 1), steps=(1, 1)), shape=(6, 5)), 1),
        lambda x: np.cumsum(np.repeat(x[:, :1], 5, axis=1), axis=1),
    ),
    "a result inside a concatenation": (
        lambda b, x: b.concat(x, _cumsum(b, x), b.neg(x), axis=1),
        lambda x: np.concatenate([x, np.cumsum(x, axis=0), -x], axis=1),
    ),
    "a result that is used twice": (
        lambda b, x: (lambda y: b.add(b.abs(y), _sorted(b, y, 0)))(_cumsum(b, x, 1)),
        lambda x: np.abs(np.cumsum(x, 1)) + np.sort(np.cumsum(x, 1), axis=0),
    ),
    "the same operand twice": (
        lambda b, x: b.scatter_elements(
            x, b.constant(np.array([[1] * 40, [1] * 40, [0] * 40, [2] * 40, [5] * 40, [3] * 40])),
            x, axis=0, reduction="add"),
        lambda x: x + np.stack([x[2], x[0] + x[1], x[3], x[5], 0 * x[0], x[4]]),
    ),
    "one of several results inside a concatenation": (
        lambda b, x: b.concat(x, _sorted(b, x, 1), axis=0),
        lambda x: np.concatenate([x, np.sort(x, axis=1)]),
    ),
    "results that are not used": (
        lambda b, x: b.op("top_k", x, axis=0, k=2).results[1],
        lambda x: np.argsort(-x, axis=0, kind="stable")[:2],
    ),
}  # fmt: skip


def _program(module: Module, level: int) -> Module:
    run(module, PassContext(target=host_target(), level=level))
    return lowered(module, host_target())


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_operands_and_results_may_lie_anywhere(name: str, level: int) -> None:
    make, want = CASES[name]
    program = _program(graph([TensorType(dtype_of(X), X.shape)], make), level)
    for found in (
        Code([program], host_target()).run(program, {"x0": X}),
        run_program(program, {"x0": X}, {"threads": 2}),
    ):
        np.testing.assert_allclose(found["y0"], want(X), rtol=1e-5, atol=1e-6)


def test_an_operand_may_be_symbols() -> None:
    def make(b: Any, x: Any) -> Any:
        numbers = b.dims(values=(N, 2 * N, N + 1), rank=1)
        return _cumsum(b, numbers), b.op("sort", numbers, axis=0).results[1]

    symbols = {"N": SymbolInfo()}
    program = _program(graph([TensorType(I64, (N,))], make, symbols), 2)
    found = Code([program], host_target()).run(program, {"x0": np.zeros(5, np.int64)})
    assert found["y0"].tolist() == [5, 15, 21]
    assert found["y1"].tolist() == [0, 2, 1]


def test_such_an_op_is_a_kernel_of_its_own() -> None:
    module = graph([TensorType(dtype_of(X), X.shape)], lambda b, x: b.neg(_cumsum(b, b.relu(x))))
    program = _program(module, 2)
    kernels = [name for name, f in program.functions.items() if f.kind == "kernel"]
    assert kernels == ["k0_relu", "k1_cumsum", "k2_neg"]


def test_columns_are_copied_to_rows_first() -> None:
    module = graph(
        [TensorType(dtype_of(X), X.shape)],
        lambda b, x: _sorted(b, b.transpose(x, perm=(1, 0)), 1),
    )
    program = _program(module, 2)
    kernels = [name for name, f in program.functions.items() if f.kind == "kernel"]
    assert kernels == ["k0_copy", "k1_sort"]


def test_equal_ops_share_a_kernel() -> None:
    def make(b: Any, x: Any) -> Any:
        return _sorted(b, _sorted(b, x, 1), 0), _sorted(b, b.neg(x), 1)

    program = _program(graph([TensorType(dtype_of(X), X.shape)], make), 2)
    kernels = [name for name, f in program.functions.items() if f.kind == "kernel"]
    assert sum("sort" in name for name in kernels) == 2
