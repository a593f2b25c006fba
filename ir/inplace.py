"""Outputs that a run makes in the memory of inputs: how a function says so, and what has to hold.

The attribute says nothing of values: a graph means the same with and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from tfc.ir.core import Function
from tfc.ir.dims import DimLike
from tfc.ir.types import TensorType

IN_PLACE = "in_place"
"""The attribute of a function that lists them, each as the tuple of a `Shared`."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The output at position `output` lies where the input at position `input` does.

    axis, room: memory has room for so many elements along this axis, of which input and output
    fill the first ones each; -1 and 0 where both have one shape, which fills the memory.
    """

    input: int
    output: int
    axis: int = -1
    room: int = 0

    def shape(self, shape: Sequence[DimLike]) -> tuple[DimLike, ...]:
        """Return the shape of the memory in which a tensor of `shape` lies."""
        return tuple(self.room if axis == self.axis else dim for axis, dim in enumerate(shape))


def shared_memory(function: Function) -> list[Shared]:
    """Return what a function of either level says of outputs in the memory of inputs."""
    return [Shared(*entry) for entry in function.attrs.get(IN_PLACE, ())]


def share(function: Function, shared: Sequence[Shared]) -> None:
    """Set the attribute of a function; what holds of its value `faults` tells the verifier."""
    function.attrs[IN_PLACE] = tuple(astuple(one) for one in shared)


def faults(entries: object, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> str:
    """Return what is wrong with the attribute's value, nothing if it is right."""
    if not isinstance(entries, tuple):
        return f"{IN_PLACE} is no list"
    inputs_used: set[int] = set()
    outputs_used: set[int] = set()
    for entry in entries:
        if not (isinstance(entry, tuple) and len(entry) == 4 and all(map(_is_int, entry))):
            return f"{entry!r} in {IN_PLACE} is not input, output, axis and room"
        one = Shared(*entry)
        if not (0 <= one.input < len(inputs) and 0 <= one.output < len(outputs)):
            return f"{entry!r} in {IN_PLACE} names no input and output"
        if one.input in inputs_used or one.output in outputs_used:
            return f"{entry!r} in {IN_PLACE} names what another entry does"
        inputs_used.add(one.input)
        outputs_used.add(one.output)
        fault = mismatch(one, inputs[one.input], outputs[one.output])
        if fault:
            return fault
    return ""


def mismatch(one: Shared, input: TensorType, output: TensorType) -> str:
    """Return why an output of this type cannot lie where the input does, nothing if it can."""
    if input.dtype != output.dtype or input.rank != output.rank:
        return f"{output} cannot lie in the memory of {input}"
    if not -1 <= one.axis < input.rank:
        return f"{input} has no axis {one.axis}"
    if one.shape(input.shape) != one.shape(output.shape):
        return f"{output} cannot lie in the memory of {input}: more than one dim differs"
    sizes = (type.shape[one.axis] for type in (input, output) if one.axis >= 0)
    if any(isinstance(size, int) and size > one.room for size in sizes):
        return f"room for {one.room} along axis {one.axis} is too little for {input} and {output}"
    return ""


def _is_int(value: object) -> bool:
    return type(value) is int
