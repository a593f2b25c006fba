"""Puts dims in the place of symbols, in a whole function, where every type stays as inferred."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tfc.ir.build import tensor_type
from tfc.ir.core import Function, Op
from tfc.ir.dims import DimLike
from tfc.ir.opdef import OpDef, TypeRefusal
from tfc.ir.symbols import substitute_in


def replace_symbols(function: Function, values: Mapping[str, DimLike]) -> set[str]:
    """Put dims in the place of symbols, except where some result's type would then be another.

    values: they speak of none of these symbols. Returns the names of those replaced.
    """
    names = list(values)
    if not names or _replace(function, values):
        return set(names)
    if len(names) == 1:
        return set()
    half = len(names) // 2
    parts = ({name: values[name] for name in part} for part in (names[:half], names[half:]))
    return {name for part in parts for name in replace_symbols(function, part)}


def _replace(function: Function, values: Mapping[str, DimLike]) -> bool:
    """Replace all of the symbols, or none."""
    types = [(value, value.type) for value in _values(function)]
    attrs: list[tuple[Op, Any]] = [(inner, inner.attrs) for inner in function.block.walk()]
    own, symbols = function.attrs, function.symbols
    substitute_in(function, values)
    touched = {value for value, type in types if value.type is not type}
    speaking = [inner for inner, old in attrs if inner.attrs is not old or _uses(inner, touched)]
    if not all(_is_inferred(inner) for inner in speaking):
        for changed, type in types:
            changed.type = type
        for inner, old in attrs:
            inner.set_attrs(old)
        function.attrs, function.symbols = own, symbols
        return False
    for name in values:
        del function.symbols[name]
    return True


def _values(function: Function) -> Iterator[Any]:
    yield from function.args
    for op in function.block.walk():
        yield from op.results
        for region in op.regions:
            yield from region.args


def _uses(op: Op, values: set[Any]) -> bool:
    return bool(op.regions) or any(value in values for value in (*op.operands, *op.results))


def _is_inferred(op: Op) -> bool:
    defn = op.defn
    assert isinstance(defn, OpDef)
    if op.regions and defn.infer_regions is None:
        return True
    try:
        found = defn.check([tensor_type(value) for value in op.operands], op.attrs, op.regions)
    except TypeRefusal:
        return False
    return found == tuple(value.type for value in op.results)
