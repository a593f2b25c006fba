"""Symbols for expressions that can only have one value become that value.

A model that cuts its table of positions to `min(512, seq)` and adds it to `seq` rows runs only
where both are equal. With `seq` in the place of the other, later passes see equal shapes. That it
was so is checked as all assumptions are: see docs/decisions/0011-symbolic-assumptions.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tfc.compiler.passes.assume import NOT_SO, add_assumed
from tfc.compiler.passes.replace_symbol import replace_symbols
from tfc.compiler.passman import PassContext
from tfc.ir.build import tensor_type
from tfc.ir.core import Function, Module, Value
from tfc.ir.dims import Dim, DimLike, Interval, bounds, only_call, symbol_name, symbols_of
from tfc.ir.symbols import ASSUMES, start_symbols


def settle(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        settled = False
        while _settle_some(function, context):
            settled = True
        if settled and ASSUMES in function.attrs:
            function.attrs[ASSUMES] = tuple(e for e in function.attrs[ASSUMES] if e[0] != 0)


def _settle_some(function: Function, context: PassContext) -> bool:
    """Replace symbols; False where there are none."""
    sources = {
        name: info.source
        for name, info in start_symbols(function).items()
        if isinstance(info.source, (int, Dim))
    }
    if not sources:
        return False
    if _replaced(function, _known(function, sources), context):
        return True
    for name, value, place in _wanted(function):
        source = sources.get(name, 0)
        if _is_cut(source, value) and _replaced(function, {name: value}, context):
            message = f"{place}{NOT_SO} dims {source} and {value} broadcast"
            add_assumed(function.block, [(source - value, message)])
            return True
    return False


def _replaced(function: Function, values: Mapping[str, DimLike], context: PassContext) -> bool:
    """Replace the symbols, as far as may be; whether any was."""
    allowed = {name: value for name, value in values.items() if context.allows("settle")}
    done = replace_symbols(function, allowed)
    for _ in done:
        context.count("settle")
    return bool(done)


def _known(function: Function, sources: Mapping[str, DimLike]) -> dict[str, DimLike]:
    """Symbols with what stands for them elsewhere: other symbols, numbers, dims of some value."""
    env = {name: (info.lo, info.hi) for name, info in function.symbols.items()}
    shapes = {tensor_type(value).shape for value in _values(function)}
    spoken = {part for shape in shapes for dim in shape for part in _parts(dim)}
    found: dict[str, DimLike] = {}
    for name, source in sources.items():
        value = _plain(source, env)
        if value is None and source in spoken:
            value = source
        # What speaks of another one that is replaced comes after that.
        if value is not None and not symbols_of(value) & found.keys():
            found[name] = value
    return found


def _values(function: Function) -> Iterator[Value]:
    yield from function.args
    for op in function.block.walk():
        yield from op.results


def _plain(source: DimLike, env: Mapping[str, Interval]) -> DimLike | None:
    """The number or symbol that an expression is within the bounds of its symbols."""
    if isinstance(source, int) or symbol_name(source) is not None:
        return source
    for fn in ("min", "max"):
        call = only_call(source, fn)
        args = () if call is None else call.args
        for arg in args:
            gaps = [bounds(other - arg if fn == "min" else arg - other, env) for other in args]
            if all(least is not None and least >= 0 for least, _ in gaps):
                return _plain(arg, env)
    return None


def _wanted(function: Function) -> Iterator[tuple[str, DimLike, str]]:
    """Symbols with the dims that they broadcast with wherever the function runs, and the places."""
    for op in function.block:
        rule = op.defn.assumes  # type: ignore[attr-defined]
        if rule is None:
            continue
        place = f"{op.loc}: " if str(op.loc) else ""
        for assumption in rule([tensor_type(value) for value in op.operands], op.attrs):
            one, other = assumption.broadcast or (0, 0)
            for dim, wanted in ((one, other), (other, one)):
                name = symbol_name(dim)
                if name is not None:
                    yield from ((name, value, place) for value in _parts(wanted))


def _parts(dim: DimLike) -> tuple[DimLike, ...]:
    """A dim, or the dims whose maximum it is, as that of a result is where two broadcast."""
    call = only_call(dim, "max")
    return (dim,) if call is None else call.args


def _is_cut(source: DimLike, dim: DimLike) -> bool:
    """Whether `source` is `dim` cut to a length above 1: it is 1 only where `dim` is."""
    call = only_call(source, "min")
    if call is None or dim not in call.args:
        return False
    others = [bounds(arg, {}) for arg in call.args if arg != dim]
    return all(least is not None and least > 1 for least, _ in others)
