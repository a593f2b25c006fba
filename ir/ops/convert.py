"""Conversion between element types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir import arrays
from tfc.ir.body import Expr, ExprBuilder, Index
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import UndecidableError
from tfc.ir.opdef import Kind, NoGrad, OpDef, Reject, Sample, Trait, register, require
from tfc.ir.ops.common import (
    SPECIAL,
    Array,
    domain_samples,
    elementwise,
    floats,
    integers,
    is_narrow,
    require_kind,
)
from tfc.ir.types import (
    BF16,
    BOOL,
    C64,
    DTYPES,
    F8E5M2,
    F16,
    F32,
    F64,
    I8,
    I32,
    U8,
    U64,
    DType,
    TensorType,
)


@dataclass(frozen=True, slots=True)
class CastAttrs:
    """dtype: of the result. saturate: integers out of range become the nearest, not wrapped."""

    dtype: DType
    saturate: bool = False


def _int_range(dtype: DType) -> tuple[int, int]:
    if dtype.kind == "u":
        return 0, (1 << dtype.bits) - 1
    return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1


def _cast_infer(types: Sequence[TensorType], attrs: CastAttrs) -> Sequence[TensorType]:
    require_kind(types[0], "fiub")
    require(attrs.dtype.kind in "fiub", f"cannot make {attrs.dtype}")
    return (TensorType(attrs.dtype, types[0].shape),)


def cast_ref(x: Array, dtype: DType, saturate: bool) -> Array:
    """Return x as `dtype`: what the op `cast` computes."""
    if x.dtype.kind == "O":
        return _cast_dims(x, dtype)
    if dtype == BOOL:
        return np.asarray(x != 0)
    if dtype.is_float:
        narrow = x.astype(np.float32) if is_narrow(dtype) else x
        return narrow if dtype == BF16 else narrow.astype(arrays.numpy_dtype(dtype))
    target = arrays.numpy_dtype(dtype)
    lo, hi = _int_range(dtype)
    if x.dtype.kind == "f":
        wide = np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
        inside = (wide > float(lo)) & (wide < float(hi))
        ends = np.where(wide >= float(hi), np.array(hi, target), np.array(lo, target))
        return np.where(inside, np.where(inside, wide, 0).astype(target), ends)
    if saturate and x.dtype.kind in "iu":
        info = np.iinfo(x.dtype)
        return np.clip(x, max(lo, int(info.min)), min(hi, int(info.max))).astype(target)
    return x.astype(target)


def _cast_dims(x: Array, dtype: DType) -> Array:
    """Symbolic dims stay what they are as integers, and have no other form."""
    if not dtype.is_int:
        raise UndecidableError(f"symbolic dims as {dtype}")
    return x


def _cast(b: ExprBuilder, x: Expr, *, dtype: DType, saturate: bool) -> Expr:
    source = x.dtype
    if dtype == BOOL:
        return x if source == BOOL else b.ne(x, b.const(0, x))
    if is_narrow(dtype):
        return b.cast(b.cast(x, F32), dtype)
    if saturate and source.is_int and dtype.is_int:
        (lo, hi), (low, high) = _int_range(dtype), _int_range(source)
        if lo > low:
            x = b.max(x, b.const(lo, x))
        if hi < high:
            x = b.min(x, b.const(hi, x))
    return b.cast(x, dtype)


def _cast_grad(
    b: GraphBuilder, g: Value, y: Value, x: Value, dtype: DType, saturate: bool
) -> Value | None:
    source = tensor_type(x).dtype
    return b.cast(g, dtype=source) if source.is_float and dtype.is_float else None


def _cast_samples() -> Sequence[Sample]:
    found: list[Sample] = []
    special = np.array([*SPECIAL, 127.5, 300.0, -300.0, 3e9], np.float32)
    for dtype in DTYPES.values():
        if dtype.kind in "cs":
            continue
        attrs = {"dtype": dtype}
        found += [
            Sample((floats((3, 4), -9, 9),), attrs, grad=dtype not in (F32, F16, BF16)),
            Sample((special,), attrs, grad=False),
            Sample((integers((7,), -400, 400),), attrs),
            Sample((integers((2, 3), 0, 255, np.uint8),), attrs),
            Sample((np.array(True),), attrs),
        ]
    for dtype in (U8, I8, U64, I32):
        found += domain_samples("iu", 1, {"dtype": dtype, "saturate": True}, int_domain=(-128, 127))
        found.append(Sample((integers((9,), -400, 400),), {"dtype": dtype, "saturate": True}))
    return found


elementwise(
    "cast",
    attrs=CastAttrs,
    infer=_cast_infer,
    ref=cast_ref,
    body=_cast,
    grad=_cast_grad,
    samples=_cast_samples,
    rejects=(
        Reject((TensorType(DTYPES["c64"], (2,)),), {"dtype": F32}, "not c64"),
        Reject((TensorType(F32, (2,)),), {"dtype": DTYPES["c64"]}, "cannot make c64"),
    ),
    traits=(Trait.DIMS,),
    doc="x as another element type. Floats round half to even (to f16 and bf16 through f32); to "
    "integers they truncate and saturate, NaN to 0; to bool is x != 0. Integers wrap, unless "
    "`saturate`.",
)


# -- the same bits ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BitcastAttrs:
    """dtype: of the result, as wide as the operand's."""

    dtype: DType


def _bitcast_infer(types: Sequence[TensorType], attrs: BitcastAttrs) -> Sequence[TensorType]:
    source, dtype = types[0].dtype, attrs.dtype
    for one in (source, dtype):
        require(one.kind != "b", f"the bits of {one} cannot be taken")
    require(source.bits == dtype.bits, f"{source} and {dtype} differ in width")
    return (TensorType(dtype, types[0].shape),)


def _bitcast_ref(attrs: BitcastAttrs, x: Array) -> Array:
    # bf16 comes and goes as float32.
    raw = arrays.encode(x, BF16) if x.dtype == np.float32 and attrs.dtype.bits == 16 else x
    found = np.ascontiguousarray(raw).view(arrays.numpy_dtype(attrs.dtype)).reshape(x.shape)
    return arrays.decode(found, attrs.dtype)


def _bitcast_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    return b.bitcast(b.load(op.operands[0], index), op.attrs.dtype)


register(
    OpDef(
        name="bitcast",
        attrs=BitcastAttrs,
        kind=Kind.ELEMENTWISE,
        infer=_bitcast_infer,
        ref=_bitcast_ref,
        body=_bitcast_body,
        grad=NoGrad("reads bits"),
        samples=lambda: (
            Sample((floats((3, 4)),), {"dtype": I32}, grad=False),
            Sample((integers((5,), 0, 255, np.uint8),), {"dtype": I8}),
            Sample((integers((5,), 0, 255, np.uint8),), {"dtype": F8E5M2}),
            Sample((integers((5,), 0, 30000, np.int16),), {"dtype": BF16}),
            Sample((integers((0, 5)),), {"dtype": F64}),
            Sample((integers((3, 4), 0, 9),), {"dtype": C64}),
        ),
        rejects=lambda: (
            Reject((TensorType(F32, (2,)),), {"dtype": F64}, "differ in width"),
            Reject((TensorType(BOOL, (2,)),), {"dtype": U8}, "bits of bool"),
        ),
        doc="The same bits read as another element type of the same width.",
    )
)
