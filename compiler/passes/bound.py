"""Symbols that a run binds: those of known numbers become numbers, those of equal ones one symbol.

Binds of symbols that nothing speaks of are erased by `dce`, which calls `drop_unmentioned`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from tfc.compiler.evaluate import constant_array, is_constant
from tfc.compiler.passes.replace_symbol import replace_symbols
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function, Module, Op
from tfc.ir.dims import DimLike, bounds, symbol, symbols_of
from tfc.ir.symbols import BIND, dims_in, run_time_symbols, type_symbols


def bound(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        # A bound that speaks of a symbol may be another's where that is replaced.
        while run_time_symbols(function) and _replace_known(function, module.constants, context):
            pass


def _replace_known(function: Function, constants: ConstantStore, context: PassContext) -> bool:
    """Replace what is known now; whether anything was."""
    found = {
        op.attrs.symbol: (op, value)
        for block in blocks_of(function.block)
        for op, value in _known_in(block, constants)
        if context.allows("bound")
    }
    done = replace_symbols(function, {name: value for name, (_, value) in found.items()})
    for name in done:
        found[name][0].erase()
        context.count("bound")
    return bool(done)


def _known_in(block: Block, constants: ConstantStore) -> Iterator[tuple[Op, DimLike]]:
    """The binds of a block whose number is known, or bound by one before, with that."""
    seen: dict[Hashable, Op] = {}
    for op in block:
        if op.name != BIND:
            continue
        known = _number(op, constants)
        if known is not None:
            yield op, known
            continue
        first = seen.setdefault((op.operands[0], op.attrs.hi), op)
        if first is not op:
            yield op, symbol(first.attrs.symbol)


def _number(op: Op, constants: ConstantStore) -> int | None:
    """The number that a `bind` is known to bind, if it is within the bound."""
    if not is_constant(op.operands[0]):
        return None
    number = int(constant_array(op.operands[0], constants).item())
    least, _ = bounds(op.attrs.hi, {})
    return number if least is not None and 0 <= number <= least else None


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
