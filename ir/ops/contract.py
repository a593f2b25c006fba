"""Matrix products. Convolutions are in `conv`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tfc.ir.body import Expr, ExprBuilder, Index
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, product
from tfc.ir.opdef import Assumption, Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import (
    Array,
    broadcast_assumptions,
    broadcast_index,
    broadcast_shapes,
    compute_dtype,
    equal_dims,
    floats,
    integers,
    require_kind,
    require_same_dtype,
    unbroadcast,
    unify_dims,
)
from tfc.ir.ops.reduce import SUM_TOL
from tfc.ir.types import BOOL, F32, I64, TensorType, shape_text


def _infer(types: Sequence[TensorType], attrs: Any) -> Sequence[TensorType]:
    x, y = types
    require_kind(x, "fiu")
    dtype = require_same_dtype(types)
    require(x.rank > 0 and y.rank > 0, "takes no scalars")
    inner = y.shape[max(y.rank - 2, 0)]
    require(
        unify_dims(x.shape[-1], inner) is not None,
        f"inner dims {x.shape[-1]} and {inner} of {shape_text(x.shape)} and "
        f"{shape_text(y.shape)} are not known to be equal",
    )
    batch = broadcast_shapes(x.shape[:-2], y.shape[:-2])
    rows = x.shape[-2:-1]
    columns = y.shape[-1:] if y.rank > 1 else ()
    return (TensorType(dtype, (*batch, *rows, *columns)),)


def _assumes(types: Sequence[TensorType], attrs: Any) -> Sequence[Assumption]:
    x, y = types
    batches = [replace(type, shape=type.shape[:-2]) for type in types]
    inner = equal_dims(x.shape[-1], y.shape[max(y.rank - 2, 0)], "inner dims")
    return [*inner, *broadcast_assumptions(batches, attrs)]


def _ref(attrs: Any, x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        with np.errstate(all="ignore"):
            wide = np.matmul(x.astype(np.float64), y.astype(np.float64))
            return np.asarray(wide).astype(x.dtype)
    return np.asarray(np.matmul(x, y))


def _body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    x, y = op.operands
    x_shape, y_shape = tensor_type(x).shape, tensor_type(y).shape
    rows = 1 if len(x_shape) > 1 else 0
    columns = 1 if len(y_shape) > 1 else 0
    batch = len(index) - rows - columns
    batch_shape = tensor_type(op.result).shape[:batch]
    inner = unify_dims(x_shape[-1], y_shape[max(len(y_shape) - 2, 0)])
    assert inner is not None
    k = b.iter(inner, "k")
    x_batch = broadcast_index(b, x_shape[:-2], batch_shape, index[:batch])
    y_batch = broadcast_index(b, y_shape[:-2], batch_shape, index[:batch])
    left = b.load(x, (*x_batch, *index[batch : batch + rows], k.dim))
    right = b.load(y, (*y_batch, k.dim, *index[batch + rows :]))
    dtype = compute_dtype(left.dtype)
    term = b.mul(b.cast(left, dtype), b.cast(right, dtype))
    return b.cast(b.reduce("sum", (k,), term, dtype), left.dtype)


def _shaped(b: GraphBuilder, x: Value, shape: tuple[DimLike, ...]) -> Value:
    return x if tensor_type(x).shape == shape else b.reshape(x, shape=shape)


def _swapped(b: GraphBuilder, x: Value) -> Value:
    rank = tensor_type(x).rank
    found: Value = b.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))
    return found


def _grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    x, y = op.operands
    x_shape, y_shape = tensor_type(x).shape, tensor_type(y).shape
    full = tensor_type(gs[0]).shape
    # Vectors are a row at the left and a column at the right.
    left = x_shape if len(x_shape) > 1 else (1, *x_shape)
    right = y_shape if len(y_shape) > 1 else (*y_shape, 1)
    batch = broadcast_shapes(left[:-2], right[:-2])
    assert len(full) >= len(batch)
    lhs, rhs = _shaped(b, x, left), _shaped(b, y, right)
    g = _shaped(b, gs[0], (*batch, left[-2], right[-1]))
    to_x = unbroadcast(b, b.matmul(g, _swapped(b, rhs)), lhs)
    if len(right) == 2:
        # One matrix for the whole batch: its gradient is one product over all rows.
        rows = product((*batch, left[-2]))
        lhs = _shaped(b, lhs, (rows, left[-1]))
        g = _shaped(b, g, (rows, right[-1]))
    to_y = unbroadcast(b, b.matmul(_swapped(b, lhs), g), rhs)
    return [_shaped(b, to_x, x_shape), _shaped(b, to_y, y_shape)]


register(
    OpDef(
        name="matmul",
        doc=(
            "The matrix product over the last axis of x and the last but one of y, as numpy's: "
            "leading axes broadcast, vectors lose their axis. f16 and bf16 add in f32; integers "
            "wrap."
        ),
        operands=(2, 2),
        kind=Kind.CONTRACTION,
        infer=_infer,
        assumes=_assumes,
        ref=_ref,
        body=_body,
        grad=_grad,
        samples=lambda: [
            *(
                Sample((floats(x), floats(y, seed=1)))
                for x, y in (
                    ((3, 5), (5, 4)),
                    ((1, 1), (1, 1)),
                    ((2, 3, 5), (5, 7)),
                    ((2, 1, 3, 4), (3, 4, 2)),
                    ((4,), (4, 3)),
                    ((2, 3, 4), (4,)),
                    ((5,), (5,)),
                    ((17, 33), (33, 19)),
                )
            ),
            *(
                Sample((floats(x), floats(y, seed=1)), grad=False)
                for x, y in (((3, 0), (0, 4)), ((0, 3), (3, 2)), ((0, 2, 3), (3, 2)))
            ),
            Sample((integers((3, 5)), integers((5, 2), seed=1))),
            Sample((integers((3, 5), dtype=np.int8), integers((5, 2), dtype=np.int8, seed=1))),
        ],
        rejects=lambda: [
            Reject((TensorType(F32, (2, 3)), TensorType(F32, (4, 2))), {}, "inner dims 3 and 4"),
            Reject((TensorType(F32, ()), TensorType(F32, (4, 2))), {}, "scalars"),
            Reject((TensorType(F32, (2,)), TensorType(I64, (2,))), {}, "element type"),
            Reject((TensorType(BOOL, (2,)), TensorType(BOOL, (2,))), {}, "not bool"),
            Reject(
                (TensorType(F32, (2, 1, 3)), TensorType(F32, (5, 3, 1))), {}, "do not broadcast"
            ),
        ],
        tol=SUM_TOL,
    )
)
