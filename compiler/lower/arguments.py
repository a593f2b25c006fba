"""The buffers that a kernel takes: which, of what sizes, and whether they are the same memory."""

from __future__ import annotations

from collections.abc import Sequence

from tfc.compiler.lower.compose import Nest
from tfc.compiler.lower.storage import (
    Place,
    Root,
    RootKind,
)
from tfc.ir.body import Expr, Load, Number, rewrite, walk
from tfc.ir.core import Block, Function, Value
from tfc.ir.dims import DimLike, symbols_of
from tfc.ir.symbols import dims_in
from tfc.ir.types import F32, BufferType, DType, TensorType


def reads_of(nest: Nest, skip: Value | None = None, *, without: Expr | None = None) -> list[Value]:
    """The values that a nest loads but for `skip`, and for what only `without` in it loads."""
    found: dict[Value, None] = {}
    for output in nest.outputs:
        expr = output.expr
        if without is not None:
            given: dict[int, Expr] = {id(without): Number(0, without.dtype)}
            expr = rewrite(expr, lambda node: None, given)
        for node in walk(expr):
            if isinstance(node, Load) and node.value is not skip:
                found[node.value] = None
    return list(found)


def scratch_buffer(name: str, size: DimLike, dtype: DType = F32) -> tuple[Value, Place]:
    """Memory that lives during one call."""
    value = Value(TensorType(dtype, (size,)), Block(), 0, name)
    return value, Place(Root(RootKind.TEMP, value, size), 0, (1,))


def overlap(read: Sequence[Place], written: Sequence[Place]) -> bool:
    """Whether a kernel reads memory that it writes."""
    roots = [place.root for place in read]
    return any(place.root in roots for place in written)


def view_type(value: Value, place: Place) -> BufferType:
    """The flat buffer that a kernel sees of a place: from its offset to the root's end.

    What moves with a loop's rounds is seen as far as it reaches, the same in each.
    """
    assert isinstance(value.type, TensorType)
    if place.moves:
        return BufferType(value.type.dtype, (_span(value.type.shape, place.strides),), (1,))
    return BufferType(value.type.dtype, (place.root.size - place.offset,), (1,))


def _span(shape: Sequence[DimLike], strides: Sequence[DimLike]) -> DimLike:
    """How many elements lie between the lowest and the highest of a tensor, both included."""
    if 0 in shape:
        return 0
    span: DimLike = 1
    for dim, stride in zip(shape, strides, strict=True):
        span = span + (dim - 1) * (abs(stride) if isinstance(stride, int) else stride)
    return span


def symbols_in(function: Function) -> set[str]:
    found: set[str] = set()
    for arg in function.args:
        assert isinstance(arg.type, BufferType)
        for dim in arg.type.shape:
            found |= symbols_of(dim)
    for op in function.block.walk():
        if op.name in ("dim", "view"):
            for dim in dims_in(op.attrs):
                found |= symbols_of(dim)
    return found


def known(dim: DimLike) -> int:
    assert isinstance(dim, int), "constants have static places"
    return dim
