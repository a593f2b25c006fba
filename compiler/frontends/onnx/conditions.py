"""Conditions on dims as dims: what is 0 where a condition holds, so that a run can check it."""

from __future__ import annotations

from collections.abc import Callable

from tfc.ir.constants import ConstantStore
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, maximum, minimum
from tfc.ir.graph import dims_content

_PASSED_ON = ("cast", "reshape")


def falsity(condition: Value, constants: ConstantStore) -> DimLike | None:
    """Return a dim that is 0 where a scalar condition holds, else positive.

    None where it is not made of comparisons of dims.
    """
    content = dims_content(condition, constants)
    if content is not None and content.size == 1:
        (item,) = content.reshape(-1).tolist()
        return _nonzero(item)
    op = condition.op
    if op is None:
        return None
    if op.name in _PASSED_ON:
        return falsity(op.operands[0], constants)
    if op.name in _COMPARED:
        dims = [_scalar(value, constants) for value in op.operands]
        a, b = dims
        return None if a is None or b is None else _COMPARED[op.name](a, b)
    if op.name in _COMBINED:
        parts = [falsity(value, constants) for value in op.operands]
        known = [part for part in parts if part is not None]
        return _COMBINED[op.name](*known) if len(known) == len(parts) else None
    return None


def _scalar(value: Value, constants: ConstantStore) -> DimLike | None:
    content = dims_content(value, constants)
    if content is None or content.size != 1:
        return None
    (dim,) = content.reshape(-1).tolist()
    return None if isinstance(dim, bool) else dim


def _nonzero(dim: DimLike) -> DimLike:
    return maximum(1 - dim * dim, 0)


def _negated(zero: DimLike) -> DimLike:
    return maximum(1 - zero, 0)


_COMPARED: dict[str, Callable[[DimLike, DimLike], DimLike]] = {
    "eq": lambda a, b: (a - b) * (a - b),
    "ne": lambda a, b: _nonzero(a - b),
    "le": lambda a, b: maximum(a - b, 0),
    "lt": lambda a, b: maximum(a - b + 1, 0),
    "ge": lambda a, b: maximum(b - a, 0),
    "gt": lambda a, b: maximum(b - a + 1, 0),
}
_COMBINED: dict[str, Callable[..., DimLike]] = {
    "and": lambda a, b: a + b,
    "or": minimum,
    "not": _negated,
}


def negated(zero: DimLike) -> DimLike:
    """Return the falsity of the opposite condition."""
    return _negated(zero)
