"""Reads quantised operands in a graph: what they are in integers, by which scale, and constants.

Knows ops by what they mean for numbers of a few levels; rewrites nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.compiler.evaluate import constant_array, evaluate, is_constant
from tfc.ir.arrays import Array
from tfc.ir.build import tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Op, Value
from tfc.ir.opdef import Kind, OpDef, Trait
from tfc.ir.symbols import dims_in
from tfc.ir.types import F32, I8, U8, DType

BYTES = (U8, I8)
LIMITS = {U8: (0, 255), I8: (-128, 127)}
I32_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Activation:
    """A value that is `scale * (whole - zero)`. views: what is done to `whole`, last first."""

    whole: Value
    scale: float
    zero: int
    views: tuple[Op, ...]

    @property
    def magnitude(self) -> int:
        """The largest distance of a number from the zero point."""
        low, high = LIMITS[tensor_type(self.whole).dtype]
        return max(high - self.zero, self.zero - low)


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
        if value not in self._known:
            self._known[value] = self._evaluate(value)
        return self._known[value]

    def number(self, value: Value) -> float | None:
        """The only element of a constant."""
        if tensor_type(value).size != 1:
            return None
        array = self.array(value)
        return None if array is None else float(array.reshape(-1)[0])

    def _evaluate(self, value: Value) -> Array | None:
        op = value.op
        if op is None or len(op.results) != 1 or not tensor_type(value).is_static:
            return None
        if is_constant(value):
            return constant_array(value, self.store)
        defn = op.defn
        assert isinstance(defn, OpDef)
        if Trait.PURE not in defn.traits or defn.kind is Kind.CONTROL or op.regions:
            return None
        if not op.operands or dims_in(op.attrs):
            return None
        operands = [self.array(operand) for operand in op.operands]
        known = [array for array in operands if array is not None]
        if len(known) < len(operands):
            return None
        return evaluate(defn, op.attrs, [tensor_type(value)], known)[0]


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
    whole, scale = op.operands[0], constants.number(op.operands[1])
    zero = constants.number(op.operands[2]) if len(op.operands) > 2 else 0.0
    if tensor_type(whole).dtype not in BYTES or constants.array(whole) is not None:
        return None
    if scale is None or zero is None or not math.isfinite(scale) or scale <= 0:
        return None
    return Activation(whole, scale, int(zero), tuple(views))


def weights(value: Value, channel: int, constants: Constants) -> Weights | None:
    """Read constant weights whose scale varies along axis `channel` alone."""
    views: list[Op] = []
    while is_view(value.op):
        assert value.op is not None
        views.append(value.op)
        (value,) = value.op.operands
    op = value.op
    if op is None or op.name != "dequantize_linear" or tensor_type(value).dtype != F32:
        return None
    operands = [constants.array(operand) for operand in op.operands]
    if tensor_type(op.operands[0]).dtype not in BYTES or any(a is None for a in operands):
        return None
    given: list[Array] = [a for a in operands if a is not None]
    whole = given[0].astype(np.int32)
    if len(given) > 2:
        whole = whole - _along(given[2], whole.ndim, op.attrs.axis).astype(np.int32)
    scales = np.broadcast_to(_along(given[1], whole.ndim, op.attrs.axis), whole.shape)
    for view in reversed(views):
        assert isinstance(view.defn, OpDef)
        if dims_in(view.attrs):
            return None
        whole, scales = (np.asarray(view.defn.ref(view.attrs, a)) for a in (whole, scales))
    rows = np.moveaxis(scales, channel, 0).reshape(scales.shape[channel], -1)
    if rows.shape[1] == 0 or not (rows == rows[:, :1]).all() or not np.isfinite(rows).all():
        return None
    return Weights(np.ascontiguousarray(whole), rows[:, 0].astype(np.float64))


def _along(array: Array, rank: int, axis: int) -> Array:
    if array.ndim == 0:
        return array
    shape: list[Any] = [1] * rank
    shape[axis % rank] = -1
    return array.reshape(shape)


def per_channel(array: Array, rank: int, channel: int, count: int) -> Array | None:
    """A constant's elements by channel where it varies along that axis alone, else None."""
    if array.ndim > rank:
        return None
    padded = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if any(n != 1 and axis != channel for axis, n in enumerate(padded.shape)):
        return None
    return np.broadcast_to(padded.reshape(-1), (count,)).astype(np.float64)


def fits(whole: Array, dtype: DType) -> bool:
    """Whether every number is one of an 8-bit type."""
    low, high = LIMITS[dtype]
    return whole.size == 0 or (int(whole.min()) >= low and int(whole.max()) <= high)


def sums_fit(whole: Array, channel: int, magnitude: int, shift: Array) -> bool:
    """Whether no sum of products leaves 32 bits; that parts of it may wrap does no harm."""
    rows = np.moveaxis(whole, channel, 0).reshape(whole.shape[channel], -1).astype(np.int64)
    reach = magnitude * np.abs(rows).sum(axis=1) + np.abs(shift)
    return bool((reach <= I32_LIMIT).all())
