"""Arithmetic on shapes folds into dims, where symbols settle it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import tfc.ir.ops  # noqa: F401
from tfc.ir.build import GraphBuilder
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Value
from tfc.ir.dims import DimLike, floordiv, maximum, minimum, mod, symbol
from tfc.ir.graph import dims_content, fold_dims
from tfc.ir.types import F32, I32, I64, TensorType

M, N, S = symbol("M"), symbol("N"), symbol("S")
Make = Callable[[GraphBuilder, Value], Value]

FOLDS: list[tuple[str, Make, Any]] = [
    ("gather", lambda b, d: b.gather(d, b.constant([2, 0]), axis=0), (2 * N, N)),
    ("gather-scalar", lambda b, d: b.gather(d, b.constant(-1), axis=0), 2 * N),
    ("slice", lambda b, d: b.slice(d, starts=(1,), sizes=(2,), steps=(1,)), (3, 2 * N)),
    ("concat", lambda b, d: b.concat(d, b.constant([-1]), axis=0), (N, 3, 2 * N, -1)),
    ("add", lambda b, d: b.add(d, b.constant(1)), (N + 1, 4, 2 * N + 1)),
    ("mul", lambda b, d: b.mul(d, d), (N * N, 9, 4 * N * N)),
    ("div", lambda b, d: b.div(d, b.constant(2)), (floordiv(N, 2), 1, N)),
    ("div-dims", lambda b, d: b.div(d, b.dims(values=(M, 2, N + 1))),
     (floordiv(N, maximum(M, 1)) * minimum(M, 1), 1, floordiv(2 * N, N + 1))),
    ("mod-dims", lambda b, d: b.mod(d, b.dims(values=(M, 2, N + 1))),
     (mod(N, maximum(M, 1)) * minimum(M, 1), 1, mod(2 * N, N + 1))),
    ("div-negative", lambda b, d: b.div(b.sub(d, b.constant(3)), b.constant(4)),
     (floordiv(maximum(N - 3, 0), 4), 0, floordiv(maximum(2 * N - 3, 0), 4))),
    ("max", lambda b, d: b.max(d, b.constant(0)), (N, 3, 2 * N)),
    ("prod", lambda b, d: b.reduce_prod(d, axes=(0,), keepdims=False), 6 * N * N),
    ("reshape", lambda b, d: b.reshape(b.reshape(d, shape=(3, 1)), shape=(3,)), (N, 3, 2 * N)),
    ("select", lambda b, d: b.select(b.constant([True, False, True]), d, b.constant(7)),
     (N, 7, 2 * N)),
    ("cast", lambda b, d: b.cast(b.cast(d, dtype=I32), dtype=I64), (N, 3, 2 * N)),
]  # fmt: skip


def builder() -> GraphBuilder:
    return GraphBuilder(Block(), ConstantStore())


@pytest.mark.parametrize(("make", "expected"), [c[1:] for c in FOLDS], ids=[c[0] for c in FOLDS])
def test_op_on_dims_becomes_dims(make: Make, expected: DimLike | Sequence[DimLike]) -> None:
    b = builder()
    value = make(b, b.dims(values=(N, 3, 2 * N)))
    assert value.op is not None
    folded = fold_dims(value.op, b)
    assert folded is not None
    assert folded.op is not None
    assert folded.op.name == "dims"
    assert folded.type == value.type
    wanted = expected if isinstance(expected, tuple) else (expected,)
    assert folded.op.attrs.values == wanted


def test_result_without_symbols_becomes_a_constant() -> None:
    b = builder()
    value = b.gather(b.dims(values=(N, 3)), b.constant([1]), axis=0)
    folded = fold_dims(value.op, b)
    assert folded is not None
    assert folded.op is not None
    assert folded.op.name == "constant"
    assert folded.op.attrs.value.values == (3,)


@pytest.mark.parametrize(
    "make",
    [
        lambda b, d: b.div(d, b.sub(d, b.constant(1))),  # may divide by zero
        lambda b, d: b.cast(d, dtype=F32),
        lambda b, d: b.cast(d, dtype=I32),  # dims ops are i64
        lambda b, d: b.reshape(d, shape=(1, 2)),  # of rank 1 at most
        lambda b, d: b.relu(b.cast(d, dtype=F32)),
        lambda b, d: b.broadcast(b.gather(d, b.constant(0), axis=0), shape=(65,)),
        lambda b, d: b.broadcast(d, shape=(S, 2)),
        lambda b, d: b.add(b.constant([1, 2]), b.constant([3, 4])),  # no symbol: another pass
    ],
)
def test_what_symbols_leave_open_stays(make: Make) -> None:
    b = builder()
    value = make(b, b.dims(values=(N, S)))
    before = len(b.block)
    assert value.op is not None
    assert fold_dims(value.op, b) is None
    assert len(b.block) == before


def test_content_of_constants_small_and_stored() -> None:
    b = builder()
    small, stored = b.constant(np.arange(4)), b.constant(np.arange(40))
    assert dims_content(small).tolist() == [0, 1, 2, 3]  # type: ignore[union-attr]
    assert dims_content(stored) is None
    assert dims_content(stored, b.constants).tolist() == list(range(40))  # type: ignore[union-attr]
    assert dims_content(b.constant(np.arange(65)), b.constants) is None
    assert dims_content(b.constant(1.5)) is None
    assert dims_content(Block([TensorType(I64, (2,))]).args[0]) is None


def test_number_that_does_not_fit_its_type_is_not_folded() -> None:
    b = builder()
    value = b.mul(b.dims(values=(N, 2**40)), b.constant([1, 2**40]))
    assert fold_dims(value.op, b) is None
