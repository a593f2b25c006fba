"""Keeps what stands between quantised products in bytes, where that gives the same numbers.

Beside that, how a product is rounded: in units of its result's scale, half to even.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tfc.compiler.passes.quantised import (
    HALF,
    Activation,
    Constants,
    Steps,
    activation,
    lowered,
    steps_of,
)
from tfc.compiler.rewrite import is_dead
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Op, Value
from tfc.ir.ops.common import fields_of
from tfc.ir.types import F32, I8, I32, U8


class Limits(NamedTuple):
    """Inclusive bounds; None is none."""

    lo: float | None
    hi: float | None


def limits_of(op: Op) -> Limits:
    """The limits that `relu` or `clamp` keeps."""
    return Limits(0.0, None) if op.name == "relu" else Limits(op.attrs.lo, op.attrs.hi)


def before(op: Op, constants: Constants) -> GraphBuilder:
    assert op.block is not None
    return GraphBuilder(op.block, constants.store, op, op.loc)


def substitute(op: Op, value: Value) -> None:
    """Replace a result, and erase what it alone needed."""
    unused = list(op.operands)
    op.replace_with([value])
    while unused:
        source = unused.pop().op
        if source is not None and source.block is not None and is_dead(source):
            unused += source.operands
            source.erase()


def _viewed(b: GraphBuilder, x: Activation) -> Value:
    """The activation's bytes as its views show them."""
    whole = x.whole
    for view in reversed(x.views):
        whole = b.op(view.name, whole, **fields_of(view.attrs)).result
    return whole


def centred(b: GraphBuilder, x: Activation) -> Value:
    """The activation's bytes less their zero point, in i32."""
    wide: Value = b.cast(_viewed(b, x), dtype=I32)
    return b.sub(wide, b.constant(x.steps.zero, I32)) if x.steps.zero else wide


def rounded(b: GraphBuilder, y: Value, limits: Limits | None, steps: Steps) -> Value:
    """The bytes of y, which is in units of the scale; limits are not."""
    lo, hi = (None if n is None else n / steps.scale for n in limits or Limits(None, None))
    if (lo is not None and lo >= steps.low + 0.5) or (hi is not None and hi <= steps.high - 0.5):
        # Other limits are those of the integer type.
        lo = steps.low if lo is None else lo
        y = b.clamp(y, lo=lo, hi=steps.high if hi is None else hi)
    y = b.round(y)
    if steps.dtype == I8:
        return _as_i8(b, _to_u8(b, y, steps.zero + HALF))
    return _to_u8(b, y, steps.zero)


def _to_u8(b: GraphBuilder, y: Value, zero: int) -> Value:
    if zero:
        y = b.add(y, b.constant(zero, F32))
    found: Value = b.cast(y, dtype=U8)
    return found


def _as_i8(b: GraphBuilder, x: Value) -> Value:
    """What is stored as u8, 128 too high, as i8."""
    found: Value = b.cast(b.sub(b.cast(x, dtype=I32), b.constant(HALF, I32)), dtype=I8)
    return found


# -- rewrites -----------------------------------------------------------------------------------


def _quantize(op: Op, constants: Constants) -> bool:
    steps = steps_of(op, constants)
    if steps is None:
        return False
    value = _again(op, steps, constants) or _each(op, constants) or _signed(op, steps, constants)
    if value is None:
        return False
    substitute(op, value)
    return True


def _again(op: Op, steps: Steps, constants: Constants) -> Value | None:
    """Quantising what was dequantised alike gives the same numbers."""
    x = activation(op.operands[0], constants)
    if x is None:
        return None
    b = before(op, constants)
    if x.steps == steps:
        return _viewed(b, x)
    raised = Steps(steps.scale, steps.zero + HALF, U8)
    return _as_i8(b, _viewed(b, x)) if steps.dtype == I8 and x.steps == raised else None


def _each(op: Op, constants: Constants) -> Value | None:
    """What is joined is quantised part by part."""
    joined = op.operands[0].op
    if joined is None or joined.name != "concat" or len(op.operands[0].uses) > 1:
        return None
    if any(activation(part, constants) is None for part in joined.operands):
        return None
    b = before(op, constants)
    parts = [
        b.op("quantize_linear", part, *op.operands[1:], **fields_of(op.attrs)).result
        for part in joined.operands
    ]
    whole: Value = b.op("concat", *parts, **fields_of(joined.attrs)).result
    for part in parts:
        assert part.op is not None
        _quantize(part.op, constants)
    return whole


def _signed(op: Op, steps: Steps, constants: Constants) -> Value | None:
    """A quantisation to i8 is stored as u8, which products take as their left side."""
    if steps.dtype != I8 or not any(user.name == "dequantize_linear" for user in op.result.users):
        return None
    b = before(op, constants)
    y = b.round(b.div(op.operands[0], op.operands[1]))
    y = b.add(y, b.constant(steps.zero + HALF, F32))
    # NaN is 0 as an i8.
    y = b.select(b.isnan(y), b.constant(HALF, F32), y)
    return _as_i8(b, b.cast(y, dtype=U8))


def _dequantize(op: Op, constants: Constants) -> bool:
    """What is stored as u8 is read as it is, by a zero point as much higher."""
    source = lowered(op.operands[0])
    steps = steps_of(op, constants)
    if source is None or steps is None:
        return False
    b = before(op, constants)
    zero = b.constant(steps.zero + HALF, U8)
    substitute(op, b.dequantize_linear(source, op.operands[1], zero, axis=op.attrs.axis))
    return True


def _max_pool(op: Op, constants: Constants) -> bool:
    """The largest of some numbers is the one with the largest whole number."""
    x = activation(op.operands[0], constants)
    if x is None or x.views:
        return False
    source = op.operands[0].op
    assert source is not None
    b = before(op, constants)
    pooled = b.max_pool(x.whole, **fields_of(op.attrs))
    substitute(op, b.dequantize_linear(pooled, *source.operands[1:], axis=source.attrs.axis))
    return True


REQUANTISE: dict[str, Callable[[Op, Constants], bool]] = {
    "dequantize_linear": _dequantize,
    "max_pool": _max_pool,
    "quantize_linear": _quantize,
}
