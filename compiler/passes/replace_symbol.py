"""Puts a dim in the place of a symbol, in a whole function, where every type stays as inferred."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfc.ir.build import tensor_type
from tfc.ir.core import Function, Op
from tfc.ir.dims import DimLike
from tfc.ir.opdef import OpDef, TypeRefusal
from tfc.ir.symbols import substitute_in


def replace_symbol(function: Function, name: str, value: DimLike) -> bool:
    """Put `value` in the place of the symbol, unless some result's type would then be another."""
    types = [(value, value.type) for value in _values(function)]
    attrs: list[tuple[Op, Any]] = [(inner, inner.attrs) for inner in function.block.walk()]
    own, symbols = function.attrs, function.symbols
    substitute_in(function, {name: value})
    touched = {value for value, type in types if value.type is not type}
    speaking = [inner for inner, old in attrs if inner.attrs is not old or _uses(inner, touched)]
    if not all(_is_inferred(inner) for inner in speaking):
        for changed, type in types:
            changed.type = type
        for inner, old in attrs:
            inner.set_attrs(old)
        function.attrs, function.symbols = own, symbols
        return False
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
