"""Ops with regions and the terminators that end blocks. Not arithmetic: they have no body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfc.ir.dims import Dim
from tfc.ir.opdef import Kind, NoGrad, OpDef, register
from tfc.ir.ops.common import Array
from tfc.ir.types import TensorType


def _nothing(types: Sequence[TensorType], attrs: Any) -> Sequence[TensorType]:
    return ()


def _hand_out(attrs: Any, *arrays: Array) -> tuple[Array, ...]:
    return arrays


return_ = register(
    OpDef(
        name="return",
        operands=(0, None),
        kind=Kind.CONTROL,
        infer=_nothing,
        ref=_hand_out,
        grad=NoGrad("ends a function"),
        traits=frozenset(),
        terminator=True,
        doc="Ends a function; its operands are the outputs, in order.",
    )
)

yield_ = register(
    OpDef(
        name="yield",
        operands=(0, None),
        kind=Kind.CONTROL,
        infer=_nothing,
        ref=_hand_out,
        grad=NoGrad("ends a region"),
        traits=frozenset(),
        terminator=True,
        doc="Ends a region; its operands are the results of the op that holds the region.",
    )
)

# Sums of products that are smaller than this are moderate numbers.
MODERATE = 1e30


@dataclass(frozen=True, slots=True)
class FusedAttrs:
    """diagonal: in a group of two products with a softmax between them, no key behind query +
    diagonal has a weight where the first product's results are MODERATE. None: nothing is known.
    """

    diagonal: int | Dim | None = None


fused = register(
    OpDef(
        name="fused",
        operands=(0, None),
        attrs=FusedAttrs,
        kind=Kind.CONTROL,
        infer=_nothing,
        ref=_hand_out,
        regions=1,
        grad=NoGrad("gradients are taken before ops are fused"),
        doc="One kernel to be: the region's arguments are the operands, its yield the results. "
        "The types of the results come from the yield, so `infer` says nothing of them.",
    )
)
