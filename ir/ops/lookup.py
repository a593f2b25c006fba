"""Functions of a byte, as the table of all their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir import arrays
from tfc.ir.attrs import Dense
from tfc.ir.body import Expr, ExprBuilder, Index
from tfc.ir.core import Op
from tfc.ir.opdef import Kind, NoGrad, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, integers
from tfc.ir.types import I8, U8, DType, TensorType

ENTRIES = 256


@dataclass(frozen=True, slots=True)
class LookupAttrs:
    """values: one for each byte. dtype: theirs."""

    values: Dense
    dtype: DType = U8


def _infer(types: Sequence[TensorType], attrs: LookupAttrs) -> Sequence[TensorType]:
    require(types[0].dtype == U8, f"looks up u8, not {types[0].dtype}")
    require(attrs.dtype in (U8, I8), f"the values are u8 or i8, not {attrs.dtype}")
    count = len(attrs.values.values)
    require(count == ENTRIES, f"there are {count} values, not {ENTRIES}")
    return (TensorType(attrs.dtype, types[0].shape),)


def _ref(attrs: LookupAttrs, x: Array) -> Array:
    return np.asarray(arrays.make(list(attrs.values.values), attrs.dtype)[x])


def _body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    return b.lookup(op.attrs.values, b.load(op.operands[0], index), op.attrs.dtype)


def _sample(shape: tuple[int, ...], dtype: DType) -> Sample:
    low, high = (0, 255) if dtype == U8 else (-128, 127)
    values = integers((ENTRIES,), low, high, arrays.numpy_dtype(dtype))
    attrs = {"values": Dense(tuple(values.tolist())), "dtype": dtype}
    return Sample((integers(shape, 0, 255, np.uint8),), attrs, grad=False)


register(
    OpDef(
        name="lookup",
        attrs=LookupAttrs,
        kind=Kind.ELEMENTWISE,
        infer=_infer,
        ref=_ref,
        body=_body,
        grad=NoGrad("a function of integers"),
        samples=lambda: (
            _sample((2, 3, 4), U8),
            _sample((300,), I8),
            _sample((), U8),
            _sample((0, 3), I8),
        ),
        rejects=lambda: (
            Reject((TensorType(I8, (2,)),), {"values": Dense((0,) * ENTRIES)}, "not i8"),
            Reject((TensorType(U8, (2,)),), {"values": Dense((0,))}, "1 values"),
        ),
        doc="The element of `values` that each byte of x counts to.",
    )
)
