"""Builds ops with regions: `branch` and `loop`, from functions that build what the regions do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Block, Value
from tfc.ir.dims import DimLike
from tfc.ir.opdef import OPS
from tfc.ir.types import I64, TensorType


class Scanned(NamedTuple):
    """A tensor that a loop takes apart along axis 0, from the end where `backward`."""

    value: Value
    backward: bool = False


class Round(NamedTuple):
    """What the body of a loop sees: the round's number, carried values, slices."""

    number: Value
    carried: Sequence[Value]
    slices: Sequence[Value]


class Next(NamedTuple):
    """What the body of a loop hands out. again: None where the condition plays no part."""

    carried: Sequence[Value]
    stacked: Sequence[Value] = ()
    again: Value | None = None


class Looped(NamedTuple):
    """The results of a loop."""

    carried: tuple[Value, ...]
    stacked: tuple[Value, ...]


def branch(
    b: GraphBuilder,
    condition: Value,
    then: Callable[[], Sequence[Value]],
    otherwise: Callable[[], Sequence[Value]],
) -> tuple[Value, ...]:
    """Build an `if`. Both functions are called once and use `b`."""
    blocks = []
    for side in (then, otherwise):
        block = Block()
        with b.at(block):
            b.op("yield", *side())
        blocks.append(block)
    return b.emit(OPS["if"], (condition,), OPS["if"].attrs(), blocks).results


def loop(
    b: GraphBuilder,
    body: Callable[[Round], Next],
    carried: Sequence[Value] = (),
    scanned: Sequence[Scanned] = (),
    *,
    backward: Sequence[bool] = (),
    trips: DimLike | None = None,
    limit: Value | None = None,
    start: Value | None = None,
) -> Looped:
    """Build a `loop`. backward: for each stacked result, whether it is filled from the end.

    limit, start: the most rounds, and whether to begin; with `start` the body says whether to go
    on. The body is called once and uses `b`.
    """
    types = [tensor_type(value) for value in carried]
    for entry in scanned:
        whole = tensor_type(entry.value)
        types.append(TensorType(whole.dtype, whole.shape[1:]))
    block = Block([TensorType(I64, ()), *types])
    args = block.args[1:]
    with b.at(block):
        after = body(Round(block.args[0], args[: len(carried)], args[len(carried) :]))
        again = () if start is None or after.again is None else (after.again,)
        b.op("yield", *again, *after.carried, *after.stacked)
    heads = [value for value in (limit, start) if value is not None]
    attrs = OPS["loop"].attrs(
        trips=trips,
        limited=limit is not None,
        conditional=start is not None,
        scanned=tuple(entry.backward for entry in scanned),
        stacked=tuple(backward),
    )
    operands = (*heads, *carried, *(entry.value for entry in scanned))
    results = b.emit(OPS["loop"], operands, attrs, [block]).results
    return Looped(results[: len(carried)], results[len(carried) :])
