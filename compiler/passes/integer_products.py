"""Computes products of quantised numbers by constant weights in integers, exactly.

conv(dequantise(x), dequantise(w)) becomes an i32 convolution of the whole numbers, times the
scales. A bias, a limit and the quantisation behind it join in, with one scale for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tfc.compiler.passes.quantised import (
    Constants,
    Steps,
    activation,
    fits,
    per_channel,
    steps_of,
    sums_fit,
    weights,
)
from tfc.compiler.passes.requantise import (
    REQUANTISE,
    Limits,
    before,
    centred,
    limits_of,
    rounded,
    substitute,
)
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.arrays import Array
from tfc.ir.build import tensor_type
from tfc.ir.core import Module, Op, Value
from tfc.ir.ops.common import fields_of
from tfc.ir.types import F32, I8

# A bias is added in integers where it is a whole number of the products' scale up to this, or up
# to what rounding to f32 did to it.
WHOLE, ROUNDING = 1e-3, 2.0**-22


@dataclass(frozen=True)
class _Tail:
    """What is done to a product before it is quantised.

    last: the result that is replaced. shift: added to each channel. steps: of the quantised
    result, None where it is not quantised.
    """

    last: Value
    shift: Array
    limits: Limits | None = None
    steps: Steps | None = None


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
    factors = x.steps.scale * w.scales
    tail = _tail_of(op, channel, constants)
    whole = _whole_shift(tail.shift, factors)
    magnitude = max(x.steps.high, -x.steps.low)
    if not sums_fit(w.whole, axis, magnitude, whole if whole is not None else np.zeros(1)):
        return False
    assert tail.last.op is not None
    at = tail.last.op
    b = before(at, constants)
    total = b.op(op.name, centred(b, x), b.constant(w.whole), **fields_of(op.attrs)).result
    rank = tensor_type(op.result).rank

    def laid(array: Array) -> Value:
        return b.constant(array.reshape(-1, *(1,) * (rank - 1 - channel)))

    if whole is not None and whole.any():
        total = b.add(total, laid(whole.astype(np.int32)))
    scale = tail.steps.scale if tail.steps is not None else 1.0
    y = b.mul(b.cast(total, dtype=F32), laid((factors / scale).astype(np.float32)))
    if whole is None:
        y = b.add(y, laid((tail.shift / scale).astype(np.float32)))
    substitute(at, rounded(b, y, tail.limits, tail.steps) if tail.steps is not None else y)
    return True


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
        if tail.limits is None or tail.steps is not None:
            found = tail
        if tail.steps is not None:
            break
    return found


def _shifted(tail: _Tail, user: Op, channel: int, constants: Constants) -> _Tail | None:
    if tail.limits is not None or user.result.type != tail.last.type:
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
    return None if tail.limits else replace(tail, last=user.result, limits=limits_of(user))


def _quantised(tail: _Tail, user: Op, channel: int, constants: Constants) -> _Tail | None:
    steps = steps_of(user, constants)
    if user.operands[0] is not tail.last or steps is None:
        return None
    return replace(tail, last=user.result, steps=steps)


_STEPS: dict[str, Callable[[_Tail, Op, int, Constants], _Tail | None]] = {
    "add": _shifted,
    "relu": _limited,
    "clamp": _limited,
    "quantize_linear": _quantised,
}


_REWRITES: dict[str, Callable[[Op, Constants], bool]] = {
    "conv": _conv,
    "matmul": _matmul,
    **REQUANTISE,
}


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
