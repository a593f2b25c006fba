"""Buffers of the loop interpreter: strided windows into flat numpy arrays, every access checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tfc.ir import arrays
from tfc.ir.dims import evaluate
from tfc.ir.loop.numeric import register_dtype
from tfc.ir.types import BF16, BOOL, BufferType, DType

Array: TypeAlias = npt.NDArray[Any]
# What fresh memory holds: NaN, or -1, so that a read before the first write shows.
GARBAGE = 0xFF


class AccessError(IndexError):
    """An access outside a buffer; the message says where."""


def memory_dtype(dtype: DType) -> np.dtype[Any]:
    """Return how an element lies in memory: bool is a byte, 0 or 1."""
    return np.dtype(np.uint8) if dtype == BOOL else arrays.numpy_dtype(dtype)


def from_memory(raw: Array, dtype: DType) -> Array:
    if dtype == BOOL:
        return np.asarray(raw != 0)
    return arrays.decode(raw, dtype)


def to_memory(value: Array, dtype: DType) -> Array:
    if dtype == BF16:
        return arrays.encode(np.asarray(value), dtype)
    return np.asarray(value, memory_dtype(dtype))


@dataclass(frozen=True, slots=True)
class Buffer:
    """Element `index` is data[base + sum(index * strides)], for index inside shape."""

    data: Array
    base: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType

    def read(self, index: Sequence[Any], active: Array | None = None) -> Array:
        """Return the elements at `index`: ints, or arrays of one length. Inactive lanes give 0."""
        at = self._at(index, active)
        if active is None:
            return from_memory(self.data[at], self.dtype)
        out = np.zeros(active.shape, register_dtype(self.dtype))
        out[active] = from_memory(self.data[at[active]], self.dtype)
        return out

    def write(self, value: Array, index: Sequence[Any], active: Array | None = None) -> None:
        if not self.data.flags.writeable:
            raise AccessError("writes to constant memory")
        at = self._at(index, active)
        raw = to_memory(value, self.dtype)
        if active is None:
            self.data[at] = raw
        else:
            self.data[at[active]] = raw[active]

    def _at(self, index: Sequence[Any], active: Array | None) -> Any:
        """Return the checked positions in `data` of the active lanes; others are not looked at."""
        at: Any = self.base
        outside: Any = False
        for i, extent, stride in zip(index, self.shape, self.strides, strict=True):
            outside = outside | (i < 0) | (i >= extent)
            at = at + i * stride
        outside = outside | (at < 0) | (at >= self.data.size)
        if active is not None:
            outside, at = outside & active, np.broadcast_to(at, active.shape)
        if np.any(outside):
            shown = ", ".join(map(str, index))
            raise AccessError(f"[{shown}] is outside {self.dtype}{list(self.shape)}")
        return at

    def view(self, offset: int, type: BufferType, symbols: Mapping[str, int]) -> Buffer:
        """Return the memory from element `offset` on as a buffer of another type."""
        start = (self.base + offset) * self.data.itemsize
        size = memory_dtype(type.dtype).itemsize
        if self.data.dtype == memory_dtype(type.dtype):
            return make_buffer(self.data, self.base + offset, type, symbols)
        raw = self.data.view(np.uint8)[start % size :]
        whole = raw[: raw.size // size * size].view(memory_dtype(type.dtype))
        return make_buffer(whole, start // size, type, symbols)


def make_buffer(data: Array, base: int, type: BufferType, symbols: Mapping[str, int]) -> Buffer:
    shape = tuple(evaluate(dim, symbols) for dim in type.shape)
    strides = tuple(evaluate(dim, symbols) for dim in type.strides)
    return Buffer(data, base, shape, strides, type.dtype)


def fresh(count: int, dtype: DType) -> Array:
    """Return memory for `count` elements, full of garbage."""
    size = memory_dtype(dtype).itemsize
    return np.full(count * size, GARBAGE, np.uint8).view(memory_dtype(dtype))


def flat(array: Array, dtype: DType) -> Array:
    """Return a contiguous array as flat memory that shares its data. Raises ValueError."""
    if array.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    wanted = memory_dtype(dtype)
    if dtype == BOOL and array.dtype in (np.bool_, np.int8):
        array = array.view(wanted)
    if array.dtype != wanted:
        raise ValueError(f"is {array.dtype}, not {dtype}")
    if not array.flags.c_contiguous:
        raise ValueError("is not contiguous")
    return array.reshape(-1)
