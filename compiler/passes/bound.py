"""Symbols that a run binds: those of known numbers become numbers, those of equal ones one symbol.

Binds of symbols that nothing speaks of are erased by `dce`, which calls `drop_unmentioned`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from tfc.compiler.evaluate import constant_array, is_constant
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.build import tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function, Module, Op
from tfc.ir.dims import DimLike, bounds, symbol, symbols_of
from tfc.ir.opdef import OpDef, TypeRefusal
from tfc.ir.symbols import BIND, dims_in, run_time_symbols, substitute_in, type_symbols


def bound(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        if not run_time_symbols(function):
            continue
        for block in blocks_of(function.block):
            _simplify_in(function, block, module.constants, context)


def _simplify_in(
    function: Function, block: Block, constants: ConstantStore, context: PassContext
) -> None:
    seen: dict[Hashable, Op] = {}
    for op in block:
        if op.name != BIND:
            continue
        known = _number(op, constants)
        first = seen.setdefault((op.operands[0], op.attrs.hi), op)
        if known is None and first is op:
            continue
        value: DimLike = symbol(first.attrs.symbol) if known is None else known
        if context.allows("bound") and _replaced(function, op, value):
            context.count("bound")


def _number(op: Op, constants: ConstantStore) -> int | None:
    """The number that a `bind` is known to bind, if it is within the bound."""
    if not is_constant(op.operands[0]):
        return None
    number = int(constant_array(op.operands[0], constants).item())
    least, _ = bounds(op.attrs.hi, {})
    return number if least is not None and 0 <= number <= least else None


def _replaced(function: Function, op: Op, value: DimLike) -> bool:
    """Put `value` in the place of a symbol, unless some result's type would then be another."""
    types = [(value, value.type) for value in _values(function)]
    attrs: list[tuple[Op, Any]] = [(inner, inner.attrs) for inner in function.block.walk()]
    own, symbols = function.attrs, function.symbols
    name = op.attrs.symbol
    substitute_in(function, {name: value})
    if not all(_is_inferred(inner) for inner in function.block.walk()):
        for changed, type in types:
            changed.type = type
        for inner, old in attrs:
            inner.set_attrs(old)
        function.attrs, function.symbols = own, symbols
        return False
    op.erase()
    del function.symbols[name]
    return True


def _values(function: Function) -> Iterator[Any]:
    yield from function.args
    for op in function.block.walk():
        yield from op.results
        for region in op.regions:
            yield from region.args


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


def drop_unmentioned(function: Function, context: PassContext) -> bool:
    """Erase the binds of symbols that no type, attribute or later bound speaks of."""
    late = run_time_symbols(function)
    if not late:
        return False
    mentioned = {
        name for dim in dims_in(tuple(function.attrs.values())) for name in symbols_of(dim)
    }
    for op in function.block.walk():
        mentioned |= {name for dim in dims_in(op.attrs) for name in symbols_of(dim)}
        for value in (*op.results, *(arg for region in op.regions for arg in region.args)):
            mentioned |= type_symbols(value.type)
    dropped = False
    for name, op in late.items():
        if name not in mentioned and context.allows("dce"):
            op.erase()
            del function.symbols[name]
            context.count("dce")
            dropped = True
    return dropped
