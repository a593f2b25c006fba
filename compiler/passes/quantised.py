"""Reads quantised operands in a graph: what they are in integers, by which scale, and constants.

Knows ops by what they mean for numbers of a few levels; rewrites nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.compiler.evaluate import constant_array, evaluate, is_constant
from tfc.ir.arrays import Array
from tfc.ir.build import tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Op, Value
from tfc.ir.opdef import Kind, OpDef, Trait
from tfc.ir.ops.quant import spread
from tfc.ir.symbols import dims_in
from tfc.ir.types import F32, I8, U8, DType

BYTES = (U8, I8)
LIMITS = {U8: (0, 255), I8: (-128, 127)}
# Between i8 and u8.
HALF = 128
I32_LIMIT = 2**31 - 1
# Of whole numbers that i32 holds, and f32 in the products of most models.
MOST_BITS = 32


@dataclass(frozen=True)
class Steps:
    """How bytes say floats: `scale * (whole - zero)`, one scale for all."""

    scale: float
    zero: int
    dtype: DType

    @property
    def low(self) -> int:
        """The least number less the zero point."""
        return LIMITS[self.dtype][0] - self.zero

    @property
    def high(self) -> int:
        return LIMITS[self.dtype][1] - self.zero


@dataclass(frozen=True)
class Activation:
    """A value that was dequantised. views: what is done to `whole` then, last first."""

    whole: Value
    steps: Steps
    views: tuple[Op, ...] = ()


@dataclass(frozen=True)
class Weights:
    """Constant numbers less their zero points, and one scale for each output channel."""

    whole: Array
    scales: Array


class Constants:
    """The arrays of values that depend on constants alone, folded or not."""

    def __init__(self, store: ConstantStore) -> None:
        self.store = store
        self._known: dict[Value, Array | None] = {}

    def array(self, value: Value) -> Array | None:
        known = self._known
        pending = [value]
        while pending:
            last = pending[-1]
            if last in known:
                pending.pop()
                continue
            operands = self._operands(last)
            if operands is None or any(x in known and known[x] is None for x in operands):
                known[last] = None
                continue
            missing = next((x for x in operands if x not in known), None)
            if missing is None:
                known[last] = self._evaluate(last, [known[x] for x in operands])
            else:
                pending.append(missing)
        return known[value]

    def number(self, value: Value) -> float | None:
        """The only element of a constant."""
        if tensor_type(value).size != 1:
            return None
        array = self.array(value)
        return None if array is None else float(array.reshape(-1)[0])

    def _operands(self, value: Value) -> Sequence[Value] | None:
        """What has to be constant for the value to be; None where it is not in any case."""
        op = value.op
        if op is None or len(op.results) != 1 or not tensor_type(value).is_static:
            return None
        if is_constant(value):
            return ()
        defn = op.defn
        assert isinstance(defn, OpDef)
        if Trait.PURE not in defn.traits or defn.kind is Kind.CONTROL or op.regions:
            return None
        return op.operands if op.operands and not dims_in(op.attrs) else None

    def _evaluate(self, value: Value, operands: Sequence[Any]) -> Array:
        if is_constant(value):
            return constant_array(value, self.store)
        op = value.op
        assert op is not None
        assert isinstance(op.defn, OpDef)
        return evaluate(op.defn, op.attrs, [tensor_type(value)], operands)[0]


def steps_of(op: Op, constants: Constants) -> Steps | None:
    """The steps of a `quantize_linear` or `dequantize_linear` that has one scale, for bytes."""
    dtype = tensor_type(op.result if op.name == "quantize_linear" else op.operands[0]).dtype
    scale = constants.number(op.operands[1])
    zero = constants.number(op.operands[2]) if len(op.operands) > 2 else 0.0
    if dtype not in BYTES or scale is None or zero is None:
        return None
    if not math.isfinite(scale) or scale <= 0 or tensor_type(op.operands[1]).dtype != F32:
        return None
    return Steps(scale, int(zero), dtype)


def widens(op: Op) -> bool:
    """Whether the op makes wide numbers of narrow ones, as contractions do when they load them."""
    if op.name == "cast":
        return tensor_type(op.operands[0]).dtype.bits < tensor_type(op.result).dtype.bits
    return Trait.WIDENS in op.defn.traits  # type: ignore[attr-defined]


def is_view(op: Op | None) -> bool:
    """Whether the op moves elements of one operand, and makes none."""
    return op is not None and Trait.VIEW in op.defn.traits and len(op.operands) == 1  # type: ignore[attr-defined]


def activation(value: Value, constants: Constants) -> Activation | None:
    """Read a value whose elements are bytes with one scale for all, behind views."""
    views: list[Op] = []
    while is_view(value.op):
        assert value.op is not None
        views.append(value.op)
        (value,) = value.op.operands
    op = value.op
    if op is None or op.name != "dequantize_linear" or tensor_type(value).dtype != F32:
        return None
    whole, steps = op.operands[0], steps_of(op, constants)
    if tensor_type(whole).dtype not in BYTES or steps is None:
        return None
    if constants.array(whole) is not None:
        return None
    return Activation(whole, steps, tuple(views))


@dataclass(frozen=True)
class Levels:
    """Constants that are whole numbers times scales, which broadcast and have as many axes."""

    whole: Array
    scale: Array


def levels(value: Value, constants: Constants) -> Levels | None:
    """Read a constant of f32 that was made of integers, by whatever ops."""
    op = value.op
    if op is None or tensor_type(value).dtype != F32 or not tensor_type(value).is_static:
        return None
    read = _LEVELS.get(op.name, _moved_levels if is_view(op) else None)
    return read(op, constants) if read is not None else None


def _dequantised(op: Op, constants: Constants) -> Levels | None:
    operands = [constants.array(operand) for operand in op.operands]
    given: list[Array] = [a for a in operands if a is not None]
    if tensor_type(op.operands[0]).dtype not in BYTES or len(given) < len(operands):
        return None
    whole = given[0].astype(np.int32)
    if len(given) > 2:
        whole = whole - spread(given[2], whole, op.attrs.axis).astype(np.int32)
    return Levels(whole, spread(given[1], whole, op.attrs.axis))


def _widened(op: Op, constants: Constants) -> Levels | None:
    (source,) = op.operands
    dtype = tensor_type(source).dtype
    whole = constants.array(source) if dtype.is_int and dtype.bits <= MOST_BITS else None
    if whole is None:
        return None
    return Levels(whole.astype(np.int32, copy=False), np.ones((1,) * whole.ndim, np.float32))


def _shifted(op: Op, constants: Constants) -> Levels | None:
    found = levels(op.operands[0], constants)
    shift = constants.array(op.operands[1]) if found is not None else None
    if found is None or shift is None or not bool((found.scale == 1).all()):
        return None
    if not bool((shift == np.rint(shift)).all()) or np.abs(shift).max(initial=0) > 2**16:
        return None
    whole = found.whole - shift.astype(np.int32)
    return Levels(whole, found.scale) if whole.shape == found.whole.shape else None


def _scaled(op: Op, constants: Constants) -> Levels | None:
    found = levels(op.operands[0], constants)
    factor = constants.array(op.operands[1]) if found is not None else None
    if found is None or factor is None or factor.ndim > found.whole.ndim:
        return None
    scale = found.scale * factor
    fits_axes = all(n in (1, m) for n, m in zip(scale.shape, found.whole.shape, strict=True))
    return Levels(found.whole, scale) if fits_axes else None


def _moved_levels(op: Op, constants: Constants) -> Levels | None:
    found = levels(op.operands[0], constants)
    if found is None or dims_in(op.attrs):
        return None
    assert isinstance(op.defn, OpDef)
    scale = np.broadcast_to(found.scale, found.whole.shape)
    moved = (np.asarray(op.defn.ref(op.attrs, array)) for array in (found.whole, scale))
    return Levels(*moved)


_LEVELS: dict[str, Callable[[Op, Constants], Levels | None]] = {
    "dequantize_linear": _dequantised,
    "cast": _widened,
    "sub": _shifted,
    "mul": _scaled,
}


def weights(value: Value, channel: int, constants: Constants) -> Weights | None:
    """Read constant weights whose scale varies along axis `channel` alone."""
    found = levels(value, constants)
    if found is None or found.whole.size == 0:
        return None
    rows = np.moveaxis(np.broadcast_to(found.scale, found.whole.shape), channel, 0)
    first = rows[(slice(None), *(slice(1),) * (rows.ndim - 1))]
    if not bool((rows == first).all()) or not bool(np.isfinite(first).all()):
        return None
    return Weights(np.ascontiguousarray(found.whole), first.reshape(-1).astype(np.float64))


def per_channel(array: Array, rank: int, channel: int, count: int) -> Array | None:
    """A constant's elements by channel where it varies along that axis alone, else None."""
    if array.ndim > rank:
        return None
    padded = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if any(n != 1 and axis != channel for axis, n in enumerate(padded.shape)):
        return None
    return np.broadcast_to(padded.reshape(-1), (count,)).astype(np.float64)


def lowered(x: Value) -> Value | None:
    """The u8 value of which x is cast{i8}(cast{i32}(u8) - 128)."""
    steps: list[Op] = []
    value = x
    for name in ("cast", "sub", "cast"):
        if value.op is None or value.op.name != name:
            return None
        steps.append(value.op)
        value = value.op.operands[0]
    taken = steps[1].operands[1]
    elements = getattr(taken.op.attrs.value, "values", ()) if is_constant(taken) else ()  # type: ignore[union-attr]
    known = tuple(elements) == (HALF,) and tensor_type(value).dtype == U8
    return value if known and tensor_type(x).shape == tensor_type(value).shape else None


def fits(whole: Array, dtype: DType) -> bool:
    """Whether every number is one of an 8-bit type."""
    low, high = LIMITS[dtype]
    return whole.size == 0 or (int(whole.min()) >= low and int(whole.max()) <= high)


def sums_fit(whole: Array, channel: int, magnitude: int, shift: Array) -> bool:
    """Whether no sum of products leaves 32 bits; that parts of it may wrap does no harm."""
    rows = np.moveaxis(whole, channel, 0).reshape(whole.shape[channel], -1).astype(np.int64)
    reach = magnitude * np.abs(rows).sum(axis=1) + np.abs(shift)
    return bool((reach <= I32_LIMIT).all())
