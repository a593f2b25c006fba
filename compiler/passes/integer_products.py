"""Computes products of quantised numbers by constant weights in integers, exactly.

conv(dequantise(x), dequantise(w)) becomes an i32 convolution of the whole numbers, times the
scales. A bias, a limit and the quantisation behind it join in, with one scale for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tfc.compiler.passes.quantised import (
    BYTES,
    LIMITS,
    Activation,
    Constants,
    activation,
    fits,
    per_channel,
    sums_fit,
    weights,
)
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of, is_dead
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Module, Op, Value
from tfc.ir.ops.common import fields_of
from tfc.ir.types import F32, I8, I32, U8, DType

# A bias is added in integers where it is a whole number of the products' scale up to this, or up
# to what rounding to f32 did to it.
WHOLE, ROUNDING = 1e-3, 2.0**-22


def integer_products(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            constants = Constants(module.constants)
            for op in list(block):
                rewrite = _REWRITES.get(op.name)
                if rewrite is None or op.block is None or not context.allows("integer-products"):
                    continue
                if rewrite(op, constants):
                    context.count("integer-products")


def _before(op: Op, constants: Constants) -> GraphBuilder:
    assert op.block is not None
    return GraphBuilder(op.block, constants.store, op, op.loc)


# -- products -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tail:
    """What is done to a product before it is quantised.

    last: the result that is replaced. shift: added to each channel. lo, hi: limits, None where
    there are none. scale, zero, dtype: of the quantised result; dtype is f32 where there is none.
    """

    last: Value
    shift: Array
    lo: float | None = None
    hi: float | None = None
    scale: float = 1.0
    zero: int = 0
    dtype: DType = F32


def _conv(op: Op, constants: Constants) -> bool:
    return _product(op, 0, 1, constants)


def _matmul(op: Op, constants: Constants) -> bool:
    left, right = (tensor_type(value) for value in op.operands)
    if right.rank != 2 or left.rank < 1:
        return False
    return _product(op, 1, tensor_type(op.result).rank - 1, constants)


def _product(op: Op, axis: int, channel: int, constants: Constants) -> bool:
    """axis, channel: the output channels' axis of the weights, and of the result."""
    x = activation(op.operands[0], constants)
    if x is None:
        return False
    w = weights(op.operands[1], axis, constants)
    if w is None or not fits(w.whole, I8):
        return False
    factors = x.scale * w.scales
    tail = _tail_of(op, channel, constants)
    whole = _whole_shift(tail.shift, factors)
    if not sums_fit(w.whole, axis, x.magnitude, whole if whole is not None else np.zeros(1)):
        return False
    assert tail.last.op is not None
    at = tail.last.op
    b = _before(at, constants)
    total = b.op(op.name, _centred(b, x), b.constant(w.whole), **fields_of(op.attrs)).result
    rank = tensor_type(op.result).rank

    def laid(array: Array) -> Value:
        return b.constant(array.reshape(-1, *(1,) * (rank - 1 - channel)))

    if whole is not None and whole.any():
        total = b.add(total, laid(whole.astype(np.int32)))
    y = b.mul(b.cast(total, dtype=F32), laid((factors / tail.scale).astype(np.float32)))
    if whole is None:
        y = b.add(y, laid((tail.shift / tail.scale).astype(np.float32)))
    _replace(at, _finish(b, y, tail))
    return True


def _replace(op: Op, value: Value) -> None:
    """Replace a result, and erase what it alone needed."""
    unused = list(op.operands)
    op.replace_with([value])
    while unused:
        source = unused.pop().op
        if source is not None and source.block is not None and is_dead(source):
            unused += source.operands
            source.erase()


def _centred(b: GraphBuilder, x: Activation) -> Value:
    """The activation less its zero point, in i32."""
    whole = x.whole
    for view in reversed(x.views):
        whole = b.op(view.name, whole, **fields_of(view.attrs)).result
    wide: Value = b.cast(whole, dtype=I32)
    return b.sub(wide, b.constant(x.zero, I32)) if x.zero else wide


def _whole_shift(shift: Array, factors: Array) -> Array | None:
    """The shift in units of the products, where it is a whole number of them."""
    with np.errstate(all="ignore"):
        units = np.where(shift == 0, 0.0, shift / factors)
    if not np.isfinite(units).all() or np.abs(units).max(initial=0.0) >= 2.0**31:
        return None
    near = np.rint(units)
    close = np.abs(units - near) <= np.maximum(WHOLE, np.abs(units) * ROUNDING)
    return near.astype(np.int64) if bool(close.all()) else None


def _tail_of(op: Op, channel: int, constants: Constants) -> _Tail:
    """Follow the only user of a product as far as it can be computed with it."""
    type = tensor_type(op.result)
    count = type.shape[channel]
    assert isinstance(count, int)
    tail = _Tail(op.result, np.zeros(count))
    found = tail
    while len(tail.last.uses) == 1:
        (user,) = tail.last.users
        step = _STEPS.get(user.name)
        following = step(tail, user, channel, constants) if step is not None else None
        if following is None:
            break
        tail = following
        if (tail.lo is None and tail.hi is None) or tail.dtype != F32:
            found = tail
        if tail.dtype != F32:
            break
    return found


def _shifted(tail: _Tail, user: Op, channel: int, constants: Constants) -> _Tail | None:
    if tail.lo is not None or tail.hi is not None or user.result.type != tail.last.type:
        return None
    other = user.operands[1] if user.operands[0] is tail.last else user.operands[0]
    array = constants.array(other)
    if array is None:
        return None
    rank = tensor_type(tail.last).rank
    shift = per_channel(array, rank, channel, tail.shift.size)
    if shift is None or not np.isfinite(shift).all():
        return None
    return replace(tail, last=user.result, shift=tail.shift + shift)


def _limited(tail: _Tail, user: Op, channel: int, constants: Constants) -> _Tail | None:
    lo, hi = (0.0, None) if user.name == "relu" else (user.attrs.lo, user.attrs.hi)
    if tail.lo is not None or tail.hi is not None:
        return None
    return replace(tail, last=user.result, lo=lo, hi=hi)


def _quantised(tail: _Tail, user: Op, channel: int, constants: Constants) -> _Tail | None:
    if user.operands[0] is not tail.last or user.attrs.dtype not in BYTES:
        return None
    scale = constants.number(user.operands[1])
    zero = constants.number(user.operands[2]) if len(user.operands) > 2 else 0.0
    if scale is None or zero is None or not np.isfinite(scale) or scale <= 0:
        return None
    return replace(tail, last=user.result, scale=scale, zero=int(zero), dtype=user.attrs.dtype)


_STEPS: dict[str, Callable[[_Tail, Op, int, Constants], _Tail | None]] = {
    "add": _shifted,
    "relu": _limited,
    "clamp": _limited,
    "quantize_linear": _quantised,
}


def _finish(b: GraphBuilder, y: Value, tail: _Tail) -> Value:
    """Limit, round and saturate what is in units of the result's scale."""
    if tail.dtype == F32:
        return y
    low, high = (limit - tail.zero for limit in LIMITS[tail.dtype])
    lo = None if tail.lo is None else tail.lo / tail.scale
    hi = None if tail.hi is None else tail.hi / tail.scale
    if (lo is not None and lo >= low + 0.5) or (hi is not None and hi <= high - 0.5):
        # Other limits are those of the integer type.
        y = b.clamp(y, lo=low if lo is None else lo, hi=high if hi is None else hi)
    y = b.round(y)
    if tail.dtype == I8:
        return _as_i8(b, _to_u8(b, y, tail.zero + 128))
    return _to_u8(b, y, tail.zero)


def _to_u8(b: GraphBuilder, y: Value, zero: int) -> Value:
    if zero:
        y = b.add(y, b.constant(zero, F32))
    found: Value = b.cast(y, dtype=U8)
    return found


def _as_i8(b: GraphBuilder, x: Value) -> Value:
    """What is stored as u8, 128 too high, as i8."""
    found: Value = b.cast(b.sub(b.cast(x, dtype=I32), b.constant(128, I32)), dtype=I8)
    return found


# -- what stands between products ---------------------------------------------------------------


def _signed(op: Op, constants: Constants) -> bool:
    """A quantisation to i8 is stored as u8, which products take as their left side."""
    if op.attrs.dtype != I8 or not any(map(_is_read, op.result.users)):
        return False
    b = _before(op, constants)
    x, scale, *zero = op.operands
    if tensor_type(x).dtype != F32 or tensor_type(scale).size != 1:
        return False
    y = b.round(b.div(x, scale))
    if zero:
        y = b.add(y, b.cast(zero[0], dtype=F32))
    y = b.add(y, b.constant(128, F32))
    # NaN is 0 as an i8.
    y = b.select(b.isnan(y), b.constant(128, F32), y)
    _replace(op, _as_i8(b, b.cast(y, dtype=U8)))
    return True


def _is_read(user: Op) -> bool:
    return user.name == "dequantize_linear"


def _max_pool(op: Op, constants: Constants) -> bool:
    """The largest of some numbers is the one with the largest whole number."""
    x = activation(op.operands[0], constants)
    if x is None or x.views:
        return False
    source = op.operands[0].op
    assert source is not None
    b = _before(op, constants)
    pooled = b.max_pool(x.whole, **fields_of(op.attrs))
    whole = b.dequantize_linear(pooled, *source.operands[1:], axis=source.attrs.axis)
    _replace(op, whole)
    return True


def _again(op: Op, constants: Constants) -> bool:
    """Quantising what was dequantised alike gives the same numbers."""
    x = activation(op.operands[0], constants)
    if x is None or x.views or op.attrs.dtype != tensor_type(x.whole).dtype:
        return False
    scale = constants.number(op.operands[1])
    zero = constants.number(op.operands[2]) if len(op.operands) > 2 else 0.0
    if scale != x.scale or zero != x.zero:
        return False
    _replace(op, x.whole)
    return True


def _quantize(op: Op, constants: Constants) -> bool:
    return _again(op, constants) or _signed(op, constants)


_REWRITES: dict[str, Callable[[Op, Constants], bool]] = {
    "conv": _conv,
    "matmul": _matmul,
    "max_pool": _max_pool,
    "quantize_linear": _quantize,
}
