"""Raises the likely sizes of dynamic dims until what is computed of them has likely sizes too.

A model that takes one step of 320 samples has no result for 64 of them, so 64 is no likely number.
Schedules are chosen for likely sizes; nothing depends on them but speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tfc.compiler.passman import PassContext
from tfc.ir.build import tensor_type
from tfc.ir.core import Function, Module
from tfc.ir.dims import Dim, DimLike, evaluate, substitute, symbols_of
from tfc.ir.symbols import start_symbols

# Dims that follow from a dynamic one are likely so long, and no dynamic one is likely longer.
LEAST, MOST = 8, 1 << 14


def likely(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        free = [name for name, info in function.symbols.items() if info.hint and info.hint > 1]
        dims = _dims(function) if free else ()
        for name in free:
            if context.allows("likely") and _raise(function, name, dims):
                context.count("likely")


def _dims(function: Function) -> Sequence[Dim]:
    """The dims of results, as expressions over symbols with likely values."""
    sources: dict[str, DimLike] = {}
    for name, info in start_symbols(function).items():
        if isinstance(info.source, (int, Dim)):
            sources[name] = substitute(info.source, sources)
    values = (value for op in function.block.walk() for value in op.results)
    every = {substitute(dim, sources) for value in values for dim in tensor_type(value).shape}
    known = {name for name, info in function.symbols.items() if info.hint is not None}
    return [dim for dim in every if isinstance(dim, Dim) and symbols_of(dim) <= known]


def _raise(function: Function, name: str, dims: Sequence[Dim]) -> bool:
    """Double a symbol's likely value as far as it makes dims long enough."""
    info = function.symbols[name]
    about = [dim for dim in dims if name in symbols_of(dim)]
    hints = {n: own.hint for n, own in function.symbols.items() if own.hint is not None}

    def short(size: int) -> int:
        return sum(evaluate(dim, hints | {name: size}) < LEAST for dim in about)

    best = size = hints[name]
    most = MOST if info.hi is None else min(info.hi, MOST)
    while short(best) and 2 * size <= most:
        size *= 2
        if short(size) < short(best):
            best = size
    function.symbols[name] = replace(info, hint=best)
    return best != info.hint
