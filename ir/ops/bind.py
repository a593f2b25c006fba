"""`bind`: a number that the data gives becomes a symbol, which later dims may speak of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfc.ir.dims import Dim, DimLike, bounds
from tfc.ir.errors import UsageError
from tfc.ir.opdef import Kind, NoGrad, OpDef, register, require
from tfc.ir.ops.common import Array
from tfc.ir.symbols import BIND
from tfc.ir.types import I64, TensorType


@dataclass(frozen=True, slots=True)
class BindAttrs:
    """symbol: what the number is called from here on. hi: its bound, over symbols known here."""

    symbol: str
    hi: DimLike


def _infer(types: Sequence[TensorType], attrs: BindAttrs) -> Sequence[TensorType]:
    require(types[0] == TensorType(I64, ()), f"the number is {types[0]}, not i64[]")
    require(isinstance(attrs.hi, (int, Dim)), f"the bound is {attrs.hi!r}")
    _, most = bounds(attrs.hi, {})
    require(most is None or most >= 0, f"the bound {attrs.hi} is negative")
    return ()


def _ref(attrs: BindAttrs, count: Array) -> tuple[Array, ...]:
    assert isinstance(attrs.hi, int)
    if not 0 <= int(count) <= attrs.hi:
        raise UsageError(f"{attrs.symbol} is {int(count)}, outside of 0..{attrs.hi}")
    return ()


bind = register(
    OpDef(
        name=BIND,
        operands=(1, 1),
        kind=Kind.CONTROL,
        attrs=BindAttrs,
        infer=_infer,
        ref=_ref,
        grad=NoGrad("has no results"),
        traits=frozenset(),
        doc="Gives an i64 scalar the name of a symbol of the function, from here to the end of "
        "the block. A run in which it is not between 0 and `hi` fails.",
    )
)
