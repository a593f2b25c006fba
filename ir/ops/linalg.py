"""Ops of linear algebra that factorise. Matrix products are in `contract`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike
from tfc.ir.errors import UnsupportedError
from tfc.ir.loop.kernel import KernelWriter, lanes_along
from tfc.ir.opdef import Assumption, Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import (
    CLOSE,
    PURE,
    Array,
    equal_dims,
    floats,
    in_f64,
    require_kind,
    unify_dims,
    zeros_like,
)
from tfc.ir.types import F32, F64, I64, TensorType, shape_text


def _det_infer(types: Sequence[TensorType], attrs: Any) -> Sequence[TensorType]:
    (x,) = types
    require_kind(x, "f")
    require(x.rank >= 2, f"takes matrices, not rank {x.rank}")
    square = unify_dims(x.shape[-2], x.shape[-1]) is not None
    require(square, f"the matrices of {shape_text(x.shape)} are not square")
    return (TensorType(x.dtype, x.shape[:-2]),)


def _det_assumes(types: Sequence[TensorType], attrs: Any) -> list[Assumption]:
    (x,) = types
    return equal_dims(x.shape[-2], x.shape[-1], "rows and columns")


def _det_loops(k: KernelWriter) -> None:
    """Gauss' elimination of each matrix by rows, with the largest pivot of a column, in f64."""
    b = k.b
    (x,), (y,) = k.operands, k.results
    type = k.op.operands[0].type
    assert isinstance(type, TensorType)
    *batch, size, _ = type.shape
    work = k.own(F64, batch, size, size)
    with k.rows(batch, size * size * size + 1) as (index, worker):
        with b.for_(0, size) as row, b.for_(0, size) as column:
            element = b.load(x, *index, row.index, column.index)
            b.store(b.cast(element, F64), work, worker, row.index, column.index)
        with b.for_(0, size, (b.const(1, F64),)) as loop:
            pivot, turned = _pivot(k, work, worker, loop.index, size)
            _eliminate(k, work, worker, loop.index, pivot, size)
            factor = b.select(turned, b.neg(pivot), pivot)
            loop.yields = (b.mul(loop.carried[0], factor),)
        b.store(b.cast(loop.results[0], type.dtype), y, *index)


def _pivot(
    k: KernelWriter, work: Value, worker: Value, at: Value, size: DimLike
) -> tuple[Value, Value]:
    """Bring the row with the largest element of column `at` to `at`.

    Returns the element, and whether rows changed places.
    """
    b = k.b
    with b.for_(at, size, (at, b.const(-1, F64))) as search:
        best, most = search.carried
        found = b.abs(b.load(work, worker, search.index, at))
        more = b.gt(found, most)
        search.yields = (b.select(more, search.index, best), b.select(more, found, most))
    best = search.results[0]
    turned = b.ne(best, at)
    with b.if_(turned), b.for_(at, size) as column:
        here = b.load(work, worker, at, column.index)
        there = b.load(work, worker, best, column.index)
        b.store(there, work, worker, at, column.index)
        b.store(here, work, worker, best, column.index)
    return b.load(work, worker, at, at), turned


def _eliminate(
    k: KernelWriter, work: Value, worker: Value, at: Value, pivot: Value, size: DimLike
) -> None:
    """Subtract row `at` from those below; where the pivot is 0, so is all of its column there."""
    b = k.b
    divisor = b.select(b.eq(pivot, b.const(0, F64)), b.const(1, F64), pivot)
    after = b.add(at, b.index(1))
    with b.for_(after, size) as row:
        below = row.index
        factor = b.div(b.load(work, worker, below, at), divisor)

        def subtract(i: Value, lanes: int) -> None:
            if lanes:
                first = b.mul(b.splat(factor, lanes), b.vload(work, (worker, at, i), lanes))
                left = b.sub(b.vload(work, (worker, below, i), lanes), first)
                b.vstore(left, work, (worker, below, i))
            else:
                first = b.mul(factor, b.load(work, worker, at, i))
                left = b.sub(b.load(work, worker, below, i), first)
                b.store(left, work, worker, below, i)

        k.each(after, b.index(size), lanes_along(-1, work), subtract)


def _det_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """g times the cofactors, which singular matrices have too: determinants without one row and
    one column, with a sign."""
    (x,) = op.operands
    *batch, size, _ = tensor_type(x).shape
    if not isinstance(size, int):
        raise UnsupportedError(f"gradient of determinants of {size} by {size} matrices")
    if size == 0:
        return [zeros_like(b, x)]
    others = [[j + (j >= i) for j in range(size - 1)] for i in range(size)]
    kept = b.constant(np.array(others, np.int64).reshape(size, size - 1))
    rank = len(batch)
    minors = b.gather(b.gather(x, kept, axis=rank), kept, axis=rank + 2)
    minors = b.transpose(minors, perm=(*range(rank + 1), rank + 2, rank + 1, rank + 3))
    turns = (-1.0) ** np.add.outer(np.arange(size), np.arange(size))
    cofactors = b.mul(b.det(minors), b.constant(turns, tensor_type(x).dtype))
    return [b.mul(b.reshape(gs[0], shape=(*batch, 1, 1)), cofactors)]


def _det_samples() -> Sequence[Sample]:
    permutation = np.eye(5, dtype=np.float32)[[3, 0, 4, 1, 2]]
    zero_column = floats((4, 4))
    zero_column[:, 1] = 0
    operands: tuple[Array, ...] = (
        floats((2, 3, 4, 4)),
        floats((3, 3)),
        floats((2, 1, 1)),
        floats((2, 21, 21), -1, 1),
        np.array([[0, 1], [2, 3]], np.float32),
        permutation,
        zero_column,
        np.zeros((3, 3), np.float32),
        floats((0, 3, 3)),
        floats((2, 0, 0)),
    )
    return [Sample((x,)) for x in operands]


register(
    OpDef(
        name="det",
        doc="The determinants of the matrices of the last two axes, computed in f64.",
        kind=Kind.OPAQUE,
        infer=_det_infer,
        ref=lambda attrs, x: in_f64(np.linalg.det)(x),
        loops=_det_loops,
        assumes=_det_assumes,
        grad=_det_grad,
        traits=PURE,
        samples=_det_samples,
        rejects=lambda: (
            Reject((TensorType(F32, (3,)),), {}, "not rank 1"),
            Reject((TensorType(F32, (2, 3)),), {}, "not square"),
            Reject((TensorType(I64, (2, 2)),), {}, "not i64"),
        ),
        tol=CLOSE | {"f64": 1e-12},
    )
)
