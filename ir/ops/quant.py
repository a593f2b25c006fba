"""Linear quantisation: composites between floats and 8- or 16-bit integers with a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir import arrays
from tfc.ir.body import Expr, ExprBuilder, Index
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import Dim, floordiv, maximum
from tfc.ir.opdef import Kind, NoAttrs, NoGrad, OpDef, Reject, Sample, Trait, register, require
from tfc.ir.ops.common import (
    THROUGH,
    Array,
    compute_dtype,
    floats,
    integers,
    like,
    normalize_axis,
    require_kind,
)
from tfc.ir.types import BOOL, F32, I8, I16, I32, I64, U8, U16, DType, TensorType

QUANTIZED = (U8, I8, U16, I16)
_FLAT = NoGrad("rounds to integers")


@dataclass(frozen=True, slots=True)
class QuantizeAttrs:
    """axis: along which scale and zero vary, where they have one. dtype: of the result."""

    axis: int = 1
    dtype: DType = U8


@dataclass(frozen=True, slots=True)
class DequantizeAttrs:
    """axis: along which scale and zero vary, where they have one, or blocks lie."""

    axis: int = 1


def _check_scale(types: Sequence[TensorType], axis: int) -> None:
    """Scale and zero are one number, or one for each index of `axis`."""
    x, scale = types[0], types[1]
    require_kind(scale, "f")
    for name, type in zip(("scale", "zero"), types[1:], strict=False):
        if type.rank == 0:
            continue
        dim = x.shape[normalize_axis(axis, x.rank)]
        fits = type.shape == (dim,)
        require(fits, f"{name} is {list(type.shape)}, not one number for each of {dim} on the axis")


def _along(v: Array, rank: int, axis: int) -> Array:
    """Lay [n] along `axis` of a tensor of `rank`; a 0-d array stays."""
    if v.ndim in (0, rank):
        return v
    shape = [1] * rank
    shape[axis % rank] = -1
    return v.reshape(shape)


def _lay_along(b: GraphBuilder, v: Value, rank: int, axis: int) -> Value:
    type = tensor_type(v)
    if type.rank == 0:
        return v
    shape: list[Any] = [1] * rank
    shape[axis % rank] = type.shape[0]
    return b.reshape(v, shape=tuple(shape))  # type: ignore[no-any-return]


def _compute(b: GraphBuilder, x: Value) -> Value:
    """Return a float in the element type that it is computed in."""
    dtype = tensor_type(x).dtype
    wide = compute_dtype(dtype)
    return x if wide == dtype else b.cast(x, dtype=wide)


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype == np.float16 else x


# -- quantize -----------------------------------------------------------------------------------


def _quantize_infer(types: Sequence[TensorType], attrs: QuantizeAttrs) -> Sequence[TensorType]:
    require_kind(types[0], "f")
    require(attrs.dtype in QUANTIZED, f"does not quantise to {attrs.dtype}")
    same = types[0].dtype == types[1].dtype
    require(same, f"x is {types[0].dtype} and the scale {types[1].dtype}")
    if len(types) > 2:
        zero = types[2].dtype
        require(zero == attrs.dtype, f"zero is {zero}, the result {attrs.dtype}")
    _check_scale(types, attrs.axis)
    return (TensorType(attrs.dtype, types[0].shape),)


def _saturated(x: Array, dtype: DType) -> Array:
    target = arrays.numpy_dtype(dtype)
    info = np.iinfo(target)
    with np.errstate(all="ignore"):
        inside = np.clip(np.nan_to_num(x), int(info.min), int(info.max))
        return np.asarray(inside.astype(target))


def _quantize_ref(attrs: QuantizeAttrs, x: Array, scale: Array, *rest: Array) -> Array:
    wide = _wide(x)
    with np.errstate(all="ignore"):
        out = np.rint(wide / _along(_wide(scale), x.ndim, attrs.axis))
    if rest:
        out = out + _along(rest[0], x.ndim, attrs.axis).astype(wide.dtype)
    return _saturated(np.asarray(out), attrs.dtype)


def _quantize(b: GraphBuilder, op: Op) -> Sequence[Value]:
    """Zero is added in floats, where it is exact, and the cast saturates."""
    x, scale = (_compute(b, value) for value in op.operands[:2])
    rank, axis = tensor_type(x).rank, op.attrs.axis
    y = b.round(b.div(x, _lay_along(b, scale, rank, axis)))
    if len(op.operands) > 2:
        zero = b.cast(op.operands[2], dtype=tensor_type(x).dtype)
        y = b.add(y, _lay_along(b, zero, rank, axis))
    return [b.cast(y, dtype=op.attrs.dtype)]


def _quantize_samples() -> Sequence[Sample]:
    x = floats((2, 3, 4), -40, 40)
    per_axis = np.array([0.5, 0.25, 1.0], np.float32)
    scale = np.array(0.25, np.float32)
    special = np.array([np.inf, -np.inf, np.nan, 0.125, -0.125, 0.375], np.float32)
    return (
        Sample((x, scale), grad=False),
        Sample((x, scale, np.array(128, np.uint8)), grad=False),
        Sample((x, scale, np.array(-3, np.int8)), {"dtype": I8}, grad=False),
        Sample((x, per_axis, np.array([1, 2, 3], np.uint8)), grad=False),
        Sample((x[..., :3], per_axis), {"axis": -1, "dtype": I16}, grad=False),
        Sample((special, scale, np.array(7, np.uint16)), {"dtype": U16}, grad=False),
        Sample((x[:0], scale), grad=False),
    )


quantize_linear = register(
    OpDef(
        name="quantize_linear",
        operands=(2, 3),
        attrs=QuantizeAttrs,
        kind=Kind.COMPOSITE,
        infer=_quantize_infer,
        ref=_quantize_ref,
        decompose=_quantize,
        grad=_FLAT,
        samples=_quantize_samples,
        rejects=lambda: (
            Reject((TensorType(F32, (2,)), TensorType(F32, ())), {"dtype": I64}, "to i64"),
            Reject((TensorType(F32, (2, 3)), TensorType(F32, (2,))), {}, "for each of 3"),
            Reject(
                (TensorType(F32, (2,)), TensorType(F32, ()), TensorType(I8, ())), {}, "zero is i8"
            ),
            Reject((TensorType(BOOL, (2,)), TensorType(F32, ())), {}, "not bool"),
        ),
        doc="round(x / scale) + zero, half to even, saturated to the integer type; NaN gives 0. "
        "Scale and zero are one number, or one for each index of `axis`.",
    )
)

# -- dequantize ---------------------------------------------------------------------------------


def _dequantize_infer(types: Sequence[TensorType], attrs: DequantizeAttrs) -> Sequence[TensorType]:
    dtype = types[0].dtype
    require(dtype in (*QUANTIZED, I32), f"does not dequantise {dtype}")
    if len(types) > 2:
        require(types[2].dtype == dtype, f"zero is {types[2].dtype}, x {dtype}")
    if are_blocks(types):
        _check_blocks(types, attrs.axis)
    else:
        _check_scale(types, attrs.axis)
    return (TensorType(types[1].dtype, types[0].shape),)


def are_blocks(types: Sequence[TensorType]) -> bool:
    """Whether scales lie as their numbers do, one for each block."""
    x, scale = types[:2]
    return scale.rank == x.rank > 0 and scale.shape != x.shape


def _check_blocks(types: Sequence[TensorType], axis: int) -> None:
    """Scale and zero have one number for each block along the axis."""
    x, scale, *rest = types
    require_kind(scale, "f")
    for type in rest:
        require(type.shape == scale.shape, "scale and zero differ in shape")
    axis = normalize_axis(axis, x.rank)
    others = [n for n in range(x.rank) if n != axis]
    fits = scale.rank == x.rank and all(scale.shape[n] == x.shape[n] for n in others)
    require(fits, f"scale {list(scale.shape)} is not one number for each block of {list(x.shape)}")
    size, count = x.shape[axis], scale.shape[axis]
    known = isinstance(size, int) and isinstance(count, int)
    require(known and size % max(count, 1) == 0 and count <= size, f"{size} are not {count} blocks")


def spread(v: Array, like: Array, axis: int) -> Array:
    """Lay what numbers share so that it broadcasts against them."""
    if v.ndim == like.ndim > 0 and v.shape != like.shape:
        return np.repeat(v, like.shape[axis] // max(v.shape[axis], 1), axis)
    return _along(v, like.ndim, axis)


def _dequantize_ref(attrs: DequantizeAttrs, x: Array, scale: Array, *rest: Array) -> Array:
    whole = x.astype(np.int32)
    if rest:
        whole = whole - spread(rest[0], x, attrs.axis).astype(np.int32)
    out = whole.astype(_wide(scale).dtype) * spread(_wide(scale), x, attrs.axis)
    return np.asarray(out).astype(scale.dtype)


def _dequantize(b: GraphBuilder, op: Op) -> Sequence[Value]:
    x, scale = op.operands[:2]
    type, axis = tensor_type(x), op.attrs.axis
    wide, cut = _compute(b, scale), are_blocks([tensor_type(v) for v in op.operands])

    def laid(v: Value) -> Value:
        return _cut(b, v, v, axis) if cut else _lay_along(b, v, type.rank, axis)

    y = b.cast(_cut(b, x, scale, axis) if cut else x, dtype=I32)
    if len(op.operands) > 2:
        y = b.sub(y, laid(b.cast(op.operands[2], dtype=I32)))
    y = b.mul(b.cast(y, dtype=tensor_type(wide).dtype), laid(wide))
    y = y if wide is scale else b.cast(y, dtype=tensor_type(scale).dtype)
    return [b.reshape(y, shape=type.shape) if cut else y]


def _cut(b: GraphBuilder, x: Value, scale: Value, axis: int) -> Value:
    """The tensor with two axes for the one that blocks lie along."""
    shape = tensor_type(x).shape
    axis = normalize_axis(axis, len(shape))
    size, count = shape[axis], tensor_type(scale).shape[axis]
    each = floordiv(size, maximum(count, 1))
    found: Value = b.reshape(x, shape=(*shape[:axis], count, each, *shape[axis + 1 :]))
    return found


def _dequantize_samples() -> Sequence[Sample]:
    x = integers((2, 3, 4), 0, 255, np.uint8)
    per_axis = np.array([0.5, 0.25, 1.0], np.float32)
    scale = np.array(0.1, np.float32)
    return (
        Sample((x, scale)),
        Sample((x, scale, np.array(128, np.uint8))),
        Sample((x, per_axis, np.array([1, 2, 3], np.uint8))),
        Sample((integers((4, 3), -128, 127, np.int8), per_axis), {"axis": -1}),
        Sample((integers((5,), -(2**20), 2**20, np.int32), scale)),
        Sample((x[:0], scale)),
        *_block_samples(),
    )


def _block_samples() -> Sequence[Sample]:
    x = integers((6, 4), 0, 255, np.uint8)
    scale = np.linspace(0.5, 2, 8, dtype=np.float32).reshape(2, 4)
    return (
        Sample((x, scale), {"axis": 0}),
        Sample((x, scale, integers((2, 4), 0, 255, np.uint8)), {"axis": 0}),
        Sample((x.T.copy(), scale.T.copy()), {"axis": -1}),
        Sample((x[:, 0].copy(), scale[:, 0].copy()), {"axis": 0}),
    )


dequantize_linear = register(
    OpDef(
        name="dequantize_linear",
        operands=(2, 3),
        attrs=DequantizeAttrs,
        kind=Kind.COMPOSITE,
        infer=_dequantize_infer,
        ref=_dequantize_ref,
        decompose=_dequantize,
        grad=THROUGH,
        samples=_dequantize_samples,
        rejects=lambda: (
            Reject((TensorType(I64, (2,)), TensorType(F32, ())), {}, "does not dequantise i64"),
            Reject((TensorType(U8, (2,)), TensorType(I32, ())), {}, "takes floats, not i32"),
            Reject(
                (TensorType(U8, (2,)), TensorType(F32, ()), TensorType(I8, ())), {}, "zero is i8"
            ),
            Reject((TensorType(U8, (2, 3)), TensorType(F32, (3,))), {"axis": 2}, "out of range"),
            Reject((TensorType(U8, (4, 3)), TensorType(F32, (3, 3))), {"axis": 0}, "3 blocks"),
        ),
        doc="(x - zero) * scale, the difference taken in i32. Scale and zero are one number, or "
        "one for each index of `axis`, or of the rank of x, one for each block along `axis`.",
    )
)

# -- in blocks ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockAttrs:
    """axis: along which blocks are cut."""

    axis: int = 0


def _blocks_infer(types: Sequence[TensorType], attrs: BlockAttrs) -> Sequence[TensorType]:
    x, scale, *rest = types
    require(x.dtype in (U8, I8), f"does not widen {x.dtype}")
    require_kind(scale, "f")
    for type in rest:
        require(type.dtype in (*QUANTIZED, I32), f"zero is {type.dtype}")
    _check_blocks(types, attrs.axis)
    return (TensorType(compute_dtype(scale.dtype), x.shape),)


def _blocks_ref(attrs: BlockAttrs, x: Array, scale: Array, *rest: Array) -> Array:
    factor = scale if scale.dtype == np.float64 else scale.astype(np.float32)
    wide = x.astype(factor.dtype)
    if rest:
        wide = wide - spread(rest[0].astype(factor.dtype), x, attrs.axis)
    return np.asarray(wide * spread(factor, x, attrs.axis))


def _blocks_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    x, scale, *rest = op.operands
    axis = normalize_axis(op.attrs.axis, len(index))
    size, count = tensor_type(x).shape[axis], tensor_type(scale).shape[axis]
    assert isinstance(size, int)
    assert isinstance(count, int)
    at = index[axis]
    assert isinstance(at, (int, Dim))
    block = (*index[:axis], floordiv(at, max(size // max(count, 1), 1)), *index[axis + 1 :])
    kind = compute_dtype(tensor_type(scale).dtype)
    wide = b.cast(b.load(x, index), kind)
    for zero in rest:
        wide = b.sub(wide, b.cast(b.load(zero, block), kind))
    return b.mul(wide, b.cast(b.load(scale, block), kind))


def _blocks_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    x, scale, *rest = op.operands
    axis = normalize_axis(op.attrs.axis, tensor_type(x).rank)
    kind = tensor_type(op.result).dtype
    wide = b.cast(_cut(b, x, scale, axis), dtype=kind)
    for zero in rest:
        wide = b.sub(wide, b.cast(_cut(b, zero, zero, axis), dtype=kind))
    each = b.mul(wide, _cut(b, gs[0], scale, axis))
    total = b.reduce_sum(each, axes=(axis + 1,), keepdims=False)
    return [None, b.cast(total, dtype=tensor_type(scale).dtype), *(None for _ in rest)]


def _blocks_samples() -> Sequence[Sample]:
    x = integers((6, 4), 0, 255, np.uint8)
    scale = np.linspace(0.5, 2, 8, dtype=np.float32).reshape(2, 4)
    zero = integers((2, 4), -300, 300, np.int16)
    return (
        *_block_samples(),
        Sample((x, scale, zero)),
        Sample((x.astype(np.int8), scale, zero.astype(np.int8))),
        Sample((integers((3, 6, 2), -128, 127, np.int8), np.full((3, 3, 2), 0.5, np.float32)),
               {"axis": 1}),
        Sample((x[:0], scale[:0])),
    )  # fmt: skip


dequantize_blocks = register(
    OpDef(
        name="dequantize_blocks",
        operands=(2, 3),
        attrs=BlockAttrs,
        kind=Kind.INJECTIVE,
        traits=frozenset({Trait.PURE, Trait.WIDENS}),
        infer=_blocks_infer,
        ref=_blocks_ref,
        body=_blocks_body,
        grad=_blocks_grad,
        samples=_blocks_samples,
        rejects=lambda: (
            Reject((TensorType(I32, (4,)), TensorType(F32, (2,))), {}, "does not widen i32"),
            Reject((TensorType(I8, (4,)), TensorType(I32, (2,))), {}, "takes floats, not i32"),
            Reject(
                (TensorType(I8, (4,)), TensorType(F32, (2,)), TensorType(F32, (2,))),
                {},
                "zero is f32",
            ),
            Reject(
                (TensorType(I8, (4,)), TensorType(F32, (2,)), TensorType(I8, (4,))),
                {},
                "differ in shape",
            ),
            Reject((TensorType(I8, (4, 3)), TensorType(F32, (2,))), {}, "for each block"),
            Reject((TensorType(I8, (4,)), TensorType(F32, (3,))), {}, "4 are not 3 blocks"),
        ),
        doc="(x - zero) * scale in f32, or in f64 as scales are, of bytes whose blocks along "
        "`axis` have a scale each, and a zero of any integer type. Matrix products read the bytes.",
    )
)

# -- dynamic ------------------------------------------------------------------------------------


def _dynamic_infer(types: Sequence[TensorType], attrs: NoAttrs) -> Sequence[TensorType]:
    require(types[0].dtype == F32, f"takes f32, not {types[0].dtype}")
    return (TensorType(U8, types[0].shape), TensorType(F32, ()), TensorType(U8, ()))


def _dynamic_ref(attrs: NoAttrs, x: Array) -> tuple[Array, Array, Array]:
    lo, hi = x.min(initial=0), x.max(initial=0)
    span = np.float32(hi - lo)
    scale = np.float32(1) if span == 0 else np.float32(span / np.float32(255))
    zero = _saturated(np.rint(np.float32(-lo / scale)), U8)
    y = _saturated(np.rint(x / scale) + zero.astype(np.float32), U8)
    return y, np.asarray(scale), np.asarray(zero)


def _dynamic(b: GraphBuilder, op: Op) -> Sequence[Value]:
    (x,) = op.operands
    axes = tuple(range(tensor_type(x).rank))
    zero, one = like(b, 0, x), like(b, 1, x)
    lo = b.min(b.reduce_min(x, axes=axes, keepdims=False), zero)
    hi = b.max(b.reduce_max(x, axes=axes, keepdims=False), zero)
    span = b.sub(hi, lo)
    scale = b.select(b.eq(span, zero), one, b.div(span, like(b, 255, x)))
    point = b.cast(b.round(b.div(b.neg(lo), scale)), dtype=U8)
    return [b.quantize_linear(x, scale, point, dtype=U8), scale, point]


dynamic_quantize_linear = register(
    OpDef(
        name="dynamic_quantize_linear",
        operands=(1, 1),
        kind=Kind.COMPOSITE,
        infer=_dynamic_infer,
        ref=_dynamic_ref,
        decompose=_dynamic,
        grad=NoGrad("rounds to integers; scale and zero say what these mean"),
        samples=lambda: (
            Sample((floats((3, 4), -3, 9),), grad=False),
            Sample((floats((5,), 1, 2),), grad=False),
            Sample((np.zeros((2, 2), np.float32),), grad=False),
            Sample((floats((0, 3)),), grad=False),
            Sample((np.array([1, np.nan, 3], np.float32),), grad=False),
        ),
        rejects=lambda: (Reject((TensorType(I32, (2,)),), {}, "takes f32, not i32"),),
        doc="x as u8 with the scale and zero that span its range and 0: scale = (max - min) / 255, "
        "or 1 where that is 0; zero = round(-min / scale). Results: y, scale, zero.",
    )
)
