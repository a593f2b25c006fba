"""What one kernel is to compute, and the call of it that comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tfc.compiler.evaluate import is_stored
from tfc.compiler.lower.storage import (
    Place,
)
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike


@dataclass(frozen=True)
class Group:
    """The ops of one kernel: their outer operands and the value they compute.

    diagonal: see `ir.ops.control.FusedAttrs`.
    """

    name: str
    ops: tuple[Op, ...]
    outer: Mapping[Value, Value]
    results: tuple[tuple[Value, Value], ...]
    diagonal: DimLike | None = None

    @staticmethod
    def of(op: Op) -> Group:
        """The group of a `fused` op, or of a single op. results: (value inside, value outside)."""
        if op.name != "fused":
            pairs = tuple((result, result) for result in op.results)
            return Group(op.name, (op,), {}, pairs)
        (region,) = op.regions
        outer = dict(zip(region.args, op.operands, strict=True))
        inner = tuple(o for o in region if not o.defn.terminator)  # type: ignore[attr-defined]
        pairs = tuple(zip(region.terminator.operands, op.results, strict=True))
        kinds = [o.name for o in inner if not is_stored(o)]
        name = "_".join(dict.fromkeys(kinds)) or "copy"
        return Group(name, inner, outer, pairs, op.attrs.diagonal)


# From where to where along an axis.
Span: TypeAlias = tuple[DimLike, DimLike]


@dataclass(frozen=True)
class Band:
    """What a kernel reads of a value, for each axis."""

    value: Value
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Step:
    """A call to make: kernel name, the places of its arguments, how many of them it writes.

    band: if the kernel is known to read a part of a value only.
    """

    kernel: str
    places: list[Place]
    writes: int = 1
    band: Band | None = None
