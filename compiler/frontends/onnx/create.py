"""Operators that make values from nothing but numbers: constants, ramps; and If at import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.compiler.frontends.onnx.tensors import MAX_BYTES, dtype_from
from tfc.ir import arrays
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, ceildiv, maximum, minimum
from tfc.ir.types import F32, I64, DType, TensorType

_SMALL = arrays.INLINE_ELEMENTS


def _constant(ctx: Context) -> Results:
    given = ctx.tensor("value")
    if given is not None:
        return _emit(ctx, *given)
    readers: dict[str, tuple[Callable[[str], Any], DType]] = {
        "value_float": (ctx.real, F32),
        "value_int": (ctx.integer, I64),
        "value_floats": (ctx.reals, F32),
        "value_ints": (ctx.integers, I64),
    }
    for name, (read, dtype) in readers.items():
        if ctx.has_attr(name):
            found: Value = ctx.b.constant(read(name), dtype)
            return found
    raise ctx.unsupported("a constant that is no tensor of numbers")


def _emit(ctx: Context, array: arrays.Array, dtype: DType) -> Value:
    return ctx.b.op("constant", **arrays.constant_attrs(array, ctx.b.constants, dtype)).result


def _filled(ctx: Context) -> Results:
    shape = ctx.sizes(0, "the shape")
    given = ctx.tensor("value")
    array, dtype = given if given is not None else (np.zeros(1, np.float32), F32)
    if array.size != 1:
        raise ctx.malformed(f"the value has {array.size} elements")
    value = _emit(ctx, array.reshape(()), dtype)
    found: Value = ctx.b.broadcast(value, shape=shape)
    return found


def _range(ctx: Context) -> Results:
    dtype = ctx.type().dtype
    if dtype.is_float:
        return _float_range(ctx, dtype)
    start, limit, step = (_numbers(ctx, i) for i in range(3))
    if not len(start) == len(limit) == len(step) == 1:
        raise ctx.malformed("a bound of the range is no scalar")
    (first,), (end,), (delta,) = start, limit, step
    if delta == 0:
        raise ctx.malformed("the step is 0")
    count = _rounds(end - first, delta)
    if isinstance(count, int) and isinstance(first, int) and count <= _SMALL:
        found: Value = ctx.b.constant([first + i * delta for i in range(count)], dtype)
        return found
    count = ctx.define(count, "size")
    found = ctx.b.iota(shape=(count,), axis=0, dtype=I64)
    if isinstance(delta, Dim):
        ctx.assume(1 - minimum(delta * delta, 1), "the step of a range is not 0")
        found = ctx.b.mul(found, ctx.numbers((delta,), rank=0))
    elif delta != 1:
        found = ctx.b.mul(found, ctx.scalar(delta, found))
    if first != 0:
        found = ctx.b.add(found, ctx.numbers((first,), rank=0))
    return ctx.cast(found, dtype)


def _numbers(ctx: Context, position: int) -> Shape:
    found = ctx.dims_or_none(position)
    if found is None:
        found = ctx.held(position, signed=True)
    return ctx.dims(position, "a bound of the range") if found is None else found


def _rounds(distance: DimLike, step: DimLike) -> DimLike:
    """How many steps there are in a distance, at least 0."""
    forward = maximum(ceildiv(distance, maximum(step, 1)), 0)
    backward = maximum(ceildiv(-distance, maximum(-step, 1)), 0)
    if isinstance(step, int):
        return forward if step > 0 else backward
    is_forward, is_backward = (minimum(maximum(n, 0), 1) for n in (step, -step))
    return is_forward * forward + is_backward * backward


def _float_range(ctx: Context, dtype: DType) -> Value:
    bounds = [ctx.const(i) for i in range(3)]
    values = [float(v.reshape(())) for v in bounds if v is not None and v.size == 1]
    if len(values) < 3:
        raise ctx.unsupported("a float range whose bounds are not constant scalars")
    first, end, step = values
    if not np.isfinite(values).all() or step == 0:
        raise ctx.malformed(f"a range from {first} to {end} by {step}")
    count = max(int(np.ceil((end - first) / step)), 0)
    if count * dtype.bytes > MAX_BYTES:
        raise ctx.malformed(f"a range of {count} elements")
    ramp = ctx.b.iota(shape=(count,), axis=0, dtype=dtype)
    scaled = ctx.b.mul(ramp, ctx.b.constant(step, dtype))
    found: Value = ctx.b.add(scaled, ctx.b.constant(first, dtype))
    return found


def _eye_like(ctx: Context) -> Results:
    type: TensorType = ctx.type()
    if type.rank != 2:
        raise ctx.malformed(f"rank {type.rank} is no matrix")
    code = ctx.integer("dtype", 0)
    dtype = dtype_from(code) if code else type.dtype
    k = ctx.integer("k", 0)
    rows = ctx.b.iota(shape=(type.shape[0], 1), axis=0)
    columns = ctx.b.iota(shape=(1, type.shape[1]), axis=1)
    hit = ctx.b.eq(ctx.b.add(rows, ctx.b.constant(k, I64)), columns)
    return ctx.cast(hit, dtype)


RULES: dict[str, tuple[Rule, ...]] = {
    "Constant": (Rule(_constant),),
    "ConstantOfShape": (Rule(_filled),),
    "EyeLike": (Rule(_eye_like),),
    "Range": (Rule(_range),),
}
