"""Ops without operands: constants, symbolic numbers, and ramps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir import arrays
from tfc.ir.attrs import ConstRef, Dense
from tfc.ir.body import Expr, ExprBuilder, Index
from tfc.ir.core import Op
from tfc.ir.dims import Dim, DimLike
from tfc.ir.opdef import Kind, NoGrad, OpDef, Reject, Sample, Trait, register, require
from tfc.ir.ops.common import PURE, Array, index_expr, normalize_axis
from tfc.ir.types import BOOL, F32, I64, DType, TensorType

NO_OPERANDS = NoGrad("has no operands")
STORED = PURE | {Trait.STORED}


@dataclass(frozen=True, slots=True)
class ConstantAttrs:
    """value: a reference into the constant store, or the elements. dtype, shape: its type."""

    value: ConstRef | Dense
    dtype: DType
    shape: tuple[int, ...]


def _constant_infer(types: Sequence[TensorType], attrs: ConstantAttrs) -> Sequence[TensorType]:
    require(all(isinstance(dim, int) and dim >= 0 for dim in attrs.shape), "the shape is not fixed")
    if isinstance(attrs.value, Dense):
        size = int(np.prod(attrs.shape, dtype=np.int64))
        count = len(attrs.value.values)
        require(count == size, f"has {count} elements for a shape of {size}")
    return (TensorType(attrs.dtype, attrs.shape),)


def _constant_ref(attrs: ConstantAttrs) -> Array:
    """Only inline elements: stored data is read by who has the store."""
    assert isinstance(attrs.value, Dense)
    raw = arrays.make(list(attrs.value.values), attrs.dtype).reshape(attrs.shape)
    return arrays.decode(raw, attrs.dtype)


def _constant_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    """A literal where there is one element; else the element, read from memory."""
    attrs = op.attrs
    if isinstance(attrs.value, Dense) and len(attrs.value.values) == 1:
        return b.const(attrs.value.values[0], attrs.dtype)
    return b.load(op.results[result], index)


constant = register(
    OpDef(
        name="constant",
        operands=(0, 0),
        attrs=ConstantAttrs,
        kind=Kind.CONSTANT,
        infer=_constant_infer,
        ref=_constant_ref,
        body=_constant_body,
        grad=NO_OPERANDS,
        traits=STORED,
        samples=lambda: (
            Sample((), {"value": Dense((1.5,)), "dtype": F32, "shape": ()}),
            Sample((), {"value": Dense((1, 0)), "dtype": BOOL, "shape": (2,)}),
            Sample((), {"value": Dense(()), "dtype": I64, "shape": (0, 3)}),
        ),
        rejects=lambda: (
            Reject(
                (),
                {"value": Dense((1.0,)), "dtype": F32, "shape": (2,)},
                "has 1 elements for a shape",
            ),
        ),
        doc="A fixed array: inline elements in row-major order, or a reference to stored data.",
    )
)


@dataclass(frozen=True, slots=True)
class DimsAttrs:
    """values: ints or symbolic dims. rank: 1, or 0 for the only value as a scalar."""

    values: tuple[DimLike, ...]
    rank: int = 1


def _dims_infer(types: Sequence[TensorType], attrs: DimsAttrs) -> Sequence[TensorType]:
    require(attrs.rank in (0, 1), f"rank is {attrs.rank}, not 0 or 1")
    require(attrs.rank == 1 or len(attrs.values) == 1, "a scalar has one value")
    return (TensorType(I64, (len(attrs.values),) if attrs.rank else ()),)


def _dims_ref(attrs: DimsAttrs) -> Array:
    symbolic = any(isinstance(value, Dim) for value in attrs.values)
    array = np.empty(len(attrs.values), object if symbolic else np.int64)
    for i, value in enumerate(attrs.values):
        array[i] = value
    return array if attrs.rank else array.reshape(())


def _dims_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    values = op.attrs.values
    if op.attrs.rank == 0:
        return index_expr(b, values[0])
    (i,) = index
    if isinstance(i, int):
        return index_expr(b, values[i])
    at = index_expr(b, i)
    found = index_expr(b, values[-1]) if values else b.const(0, I64)
    for k in range(len(values) - 2, -1, -1):
        found = b.select(b.eq(at, b.const(k, I64)), index_expr(b, values[k]), found)
    return found


dims = register(
    OpDef(
        name="dims",
        operands=(0, 0),
        attrs=DimsAttrs,
        kind=Kind.CONSTANT,
        infer=_dims_infer,
        ref=_dims_ref,
        body=_dims_body,
        grad=NO_OPERANDS,
        traits=STORED,
        samples=lambda: (
            Sample((), {"values": (2, 3, 5)}),
            Sample((), {"values": (7,), "rank": 0}),
            Sample((), {"values": ()}),
        ),
        rejects=lambda: (
            Reject((), {"values": (1, 2), "rank": 0}, "a scalar has one value"),
            Reject((), {"values": (1,), "rank": 2}, "not 0 or 1"),
        ),
        doc="The dims themselves as i64 numbers: what a shape holds, symbols included.",
    )
)


@dataclass(frozen=True, slots=True)
class IotaAttrs:
    """shape: of the result. axis: along which elements count up. dtype: of the result."""

    shape: tuple[DimLike, ...]
    axis: int = 0
    dtype: DType = I64


def _iota_infer(types: Sequence[TensorType], attrs: IotaAttrs) -> Sequence[TensorType]:
    normalize_axis(attrs.axis, len(attrs.shape))
    require(attrs.dtype.kind in "fiu", f"makes numbers, not {attrs.dtype}")
    return (TensorType(attrs.dtype, attrs.shape),)


def _iota_ref(attrs: IotaAttrs) -> Array:
    axis = attrs.axis % len(attrs.shape)
    ramp = np.arange(int(attrs.shape[axis]))  # type: ignore[arg-type]
    shape = [1] * len(attrs.shape)
    shape[axis] = -1
    full = np.broadcast_to(ramp.reshape(shape), attrs.shape)  # type: ignore[arg-type]
    if attrs.dtype.name == "bf16":
        return full.astype(np.float32)
    return full.astype(arrays.numpy_dtype(attrs.dtype))


def _iota_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    at = index_expr(b, index[op.attrs.axis])
    narrow = op.attrs.dtype.is_float and op.attrs.dtype.bits < 32
    return b.cast(b.cast(at, F32) if narrow else at, op.attrs.dtype)


def _iota_samples() -> Sequence[Sample]:
    cases: tuple[dict[str, Any], ...] = (
        {"shape": (5,)},
        {"shape": (2, 3), "axis": 1, "dtype": F32},
        {"shape": (2, 3), "axis": -2},
        {"shape": (0, 3)},
    )
    return [Sample((), case) for case in cases]


iota = register(
    OpDef(
        name="iota",
        operands=(0, 0),
        attrs=IotaAttrs,
        kind=Kind.CONSTANT,
        infer=_iota_infer,
        ref=_iota_ref,
        body=_iota_body,
        grad=NO_OPERANDS,
        traits=PURE,
        samples=_iota_samples,
        rejects=lambda: (
            Reject((), {"shape": (2,), "axis": 1}, "out of range"),
            Reject((), {"shape": (2,), "dtype": BOOL}, "not bool"),
        ),
        doc="y[..., i, ...] = i along `axis`, rounded to the element type.",
    )
)
