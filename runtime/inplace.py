"""Inputs in whose memory a run makes outputs: what arrays they take, and the arrays that come back.

An input that grows is a view of the first elements of an array with room for more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from sys import intern
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.runtime.arrays import address
from tfc.runtime.errors import InputError
from tfc.runtime.pycall import PortState
from tfc.runtime.signature import Port, Signature, numpy_dtype

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
_MAX_LAYOUTS = 256


class Shared:
    """One input and the output in its memory, by their positions.

    axis, room: the array has room for so many elements along this axis; None and 0 where input
    and output have the same dims.
    """

    def __init__(
        self, signature: Signature, entry: Mapping[str, Any], dtypes: Sequence[np.dtype[Any]]
    ) -> None:
        """entry: of the manifest. dtypes: of the inputs. Raises KeyError or ValueError."""
        self.input = [port.name for port in signature.inputs].index(entry["input"])
        self.output = [port.name for port in signature.outputs].index(entry["output"])
        self.axis: int | None = entry.get("axis")
        self.room: int = entry.get("room", 0)
        self.port: Port = signature.inputs[self.input]
        self.dtype = dtypes[self.input]
        self._layouts: dict[Shape, tuple[Shape, int]] = {}

    def bytes(self, shape: Shape) -> int:
        """How much memory an input of this shape lies in."""
        return self._layout(shape)[1]

    def checked(self, x: Any) -> Array:
        """Return the array itself if a run may write to its memory.

        Raises InputError for another element type, memory that may not be written or is not
        aligned, and an array that is not dense, or no view with room around it.
        """
        if not isinstance(x, np.ndarray) or x.dtype != self.dtype:
            raise self._error(f"an array of {self.dtype}, which it changes")
        flags = x.flags
        if not (flags.writeable and flags.aligned):
            raise self._error("an array that it may write to, and that is aligned")
        if x.ndim != len(self.port.shape) or not self._is_laid_out(x):
            raise self._error(self._wanted())
        return x

    def result(self, x: Array, shape: Shape) -> Array:
        """Return the output: `x` itself, or a view of the array that `x` is one of."""
        if shape == x.shape:
            return x
        whole = x if x.base is None else x.base
        offset = address(x) - address(whole)
        return np.ndarray(shape, self.dtype, whole, offset, self._layout(shape)[0])

    def copied(self, array: Array) -> Array:
        """Return a copy of an array as the input takes it."""
        whole = np.zeros(self._around(array.shape), self.dtype)
        part = whole[tuple(slice(size) for size in array.shape)]
        part[...] = array
        return part

    def _around(self, shape: Shape) -> Shape:
        return tuple(self.room if axis == self.axis else dim for axis, dim in enumerate(shape))

    def _layout(self, shape: Shape) -> tuple[Shape, int]:
        """The strides in bytes and the size of the memory that a tensor of this shape lies in."""
        known = self._layouts.get(shape)
        if known is None:
            around = self._around(shape)
            item = self.dtype.itemsize
            sizes = [math.prod(around[axis:]) * item for axis in range(len(around) + 1)]
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            known = self._layouts[shape] = tuple(sizes[1:]), sizes[0]
        return known

    def _is_laid_out(self, x: Array) -> bool:
        """Whether an array has the strides, and the memory around it, that the run reckons with."""
        if self.axis is None:
            return x.flags.c_contiguous
        if x.shape[self.axis] > self.room:
            return False
        strides, size = self._layout(x.shape)
        if x.strides != strides:
            laid = zip(x.shape, x.strides, strides, strict=True)
            if any(given != wanted for dim, given, wanted in laid if dim > 1):
                return False
        whole = x if x.base is None else x.base
        if not isinstance(whole, np.ndarray) or not whole.flags.c_contiguous:
            return False
        offset = address(x) - address(whole)
        return offset >= 0 and offset + size <= whole.nbytes

    def _wanted(self) -> str:
        if self.axis is None:
            return "a dense array, which it changes"
        dims = ", ".join(str(dim) for dim in self._around(self.port.shape))  # type: ignore[arg-type]
        part = ", ".join([":"] * self.axis + [":n"])
        return (
            f"a view with room for {self.room} along axis {self.axis}, such as "
            f"numpy.zeros(({dims}), numpy.{self.dtype.name})[{part}], of an array in one piece"
        )

    def _error(self, wanted: str) -> InputError:
        return InputError(f"input {self.port.name} is written in place: the model takes {wanted}")


def port_states(
    signature: Signature, shared: Mapping[int, Shared]
) -> tuple[list[PortState], list[PortState]]:
    """Return what the native method knows of inputs and outputs. shared: by inputs."""
    made_in = {one.output: one for one in shared.values()}
    inputs = [_state(port, shared.get(i), 1) for i, port in enumerate(signature.inputs)]
    outputs = []
    for i, port in enumerate(signature.outputs):
        one = made_in.get(i)
        outputs.append(_state(port, one, 0 if one is None else 1 + one.input))
    return inputs, outputs


def _state(port: Port, one: Shared | None, mark: int) -> PortState:
    plain = PortState(intern(port.name), numpy_dtype(port.dtype), len(port.shape), told=port.told)
    if one is None:
        return plain
    return replace(plain, shared=mark, axis=-1 if one.axis is None else one.axis, room=one.room)


def check_apart(
    arrays: Sequence[Array], shared: Mapping[int, Shared], names: Sequence[str]
) -> None:
    """Refuse, with InputError, memory that a run writes and that another input lies in, too."""
    spans = []
    for position, x in enumerate(arrays):
        own = shared.get(position)
        size = x.nbytes if own is None else own.bytes(x.shape)
        if size:
            start = address(x)
            spans.append((start, start + size, position))
    spans.sort()
    end, last = 0, -1
    written_end, writer = 0, -1
    for start, stop, position in spans:
        if start < written_end or (position in shared and start < end):
            other = names[writer if start < written_end else last]
            raise InputError(f"inputs {other} and {names[position]} share memory that a run writes")
        if stop > end:
            end, last = stop, position
        if position in shared and stop > written_end:
            written_end, writer = stop, position
