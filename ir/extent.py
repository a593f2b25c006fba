"""The most that a symbolic integer can be while some of its symbols are known by bounds alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from tfc.ir.core import Function
from tfc.ir.dims import (
    Atom,
    Call,
    DimLike,
    Symbol,
    bounds,
    floordiv,
    from_terms,
    maximum,
    minimum,
    product,
    symbols_of,
    symbols_of_atom,
    terms_of,
)
from tfc.ir.symbols import run_time_symbols

Ends: TypeAlias = tuple[DimLike, DimLike]


def highest(function: Function) -> dict[str, DimLike]:
    """Return the bounds of the symbols that a run binds, over the symbols known at its start."""
    found: dict[str, DimLike] = {}
    for name, op in run_time_symbols(function).items():
        found[name] = most(op.attrs.hi, found)
    return found


def most(dim: DimLike, limits: Mapping[str, DimLike]) -> DimLike:
    """Return a bound of `dim` without the symbols in `limits`, which are between 0 and theirs.

    It is reached where every symbol in `limits` stands in one place. All symbols are >= 0.
    """
    return _ends(dim, limits)[1] if symbols_of(dim) & limits.keys() else dim


def room(shape: Sequence[DimLike], limits: Mapping[str, DimLike]) -> DimLike:
    """Return the most elements that a tensor can have."""
    return product(most(dim, limits) for dim in shape)


def _ends(dim: DimLike, limits: Mapping[str, DimLike]) -> Ends:
    low: DimLike = 0
    high: DimLike = 0
    for mono, coeff in terms_of(dim):
        ends: Ends = (1, 1)
        for atom in mono:
            ends = _product(ends, _atom_ends(atom, limits))
        lo, hi = ends if coeff > 0 else reversed(ends)
        low, high = low + lo * coeff, high + hi * coeff
    return low, high


def _product(a: Ends, b: Ends) -> Ends:
    if _never_negative(a[0]) and _never_negative(b[0]):
        return a[0] * b[0], a[1] * b[1]
    corners = [x * y for x in a for y in b]
    return minimum(*corners), maximum(*corners)


def _never_negative(dim: DimLike) -> bool:
    lo, _ = bounds(dim, {})
    return lo is not None and lo >= 0


def _atom_ends(atom: Atom, limits: Mapping[str, DimLike]) -> Ends:
    same = from_terms({(atom,): 1})
    if not set(symbols_of_atom(atom)) & limits.keys():
        return same, same
    if isinstance(atom, Symbol):
        return 0, limits[atom.name]
    return _call_ends(atom, [_ends(arg, limits) for arg in atom.args])


def _call_ends(call: Call, args: list[Ends]) -> Ends:
    lows, highs = [lo for lo, _ in args], [hi for _, hi in args]
    match call.fn:
        case "min":
            return minimum(*lows), minimum(*highs)
        case "max":
            return maximum(*lows), maximum(*highs)
        case "mod":
            # The divisor is positive where it is divided by.
            return 0, maximum(highs[1] - 1, 0)
    (low, high), (least, greatest) = args
    if not isinstance(call.args[1], int):
        # Of a divisor that is known by bounds alone only the sign is: the dividend's size bounds.
        return minimum(low, 0), maximum(high, 0)
    return floordiv(low, least), floordiv(high, greatest)
