"""Symbolic integers: dimensions and index expressions in one normal form.

A dim is a Python `int` or a `Dim`: a polynomial over atoms, an atom being a named symbol or an
uninterpreted `floordiv`, `mod`, `min`, `max`. Equal normal forms are equal values. Start at `Dim`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple, TypeAlias, Union

DimLike: TypeAlias = Union[int, "Dim"]
Monomial: TypeAlias = tuple["Atom", ...]
Interval: TypeAlias = tuple[int | None, int | None]


_NO_SYMBOLS: frozenset[str] = frozenset()


class UndecidableError(ArithmeticError):
    """A comparison of symbolic dims that their normal forms do not settle."""


# Atoms are tuples, which hash and compare without a call into Python.
class Symbol(NamedTuple):
    """A named unknown. Shape symbols are non-negative unless bounds say otherwise."""

    name: str

    def __str__(self) -> str:
        return self.name


class Call(NamedTuple):
    """An atom `fn(args)`; fn is one of floordiv, mod, min, max."""

    fn: str
    args: tuple[DimLike, ...]

    def __str__(self) -> str:
        return f"{self.fn}({', '.join(str(arg) for arg in self.args)})"


Atom: TypeAlias = Symbol | Call


class Dim:
    """A polynomial that is not a plain integer. Immutable; arithmetic returns `int | Dim`."""

    __slots__ = ("_hash", "_symbols", "terms")

    terms: tuple[tuple[Monomial, int], ...]

    def __init__(self, terms: Iterable[tuple[Monomial, int]]) -> None:
        self.terms = tuple(terms)
        self._hash = hash(self.terms)
        self._symbols: frozenset[str] | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Dim):
            return self is other or (self._hash == other._hash and self.terms == other.terms)
        if isinstance(other, int):
            return False
        return NotImplemented

    def __repr__(self) -> str:
        return f"Dim({self})"

    def __str__(self) -> str:
        text = ""
        for mono, coeff in self.terms:
            factors = "*".join(str(atom) for atom in mono)
            size = abs(coeff)
            body = str(size) if not mono else factors if size == 1 else f"{size}*{factors}"
            if text:
                text += f" - {body}" if coeff < 0 else f" + {body}"
            else:
                text = f"-{body}" if coeff < 0 else body
        return text

    def __add__(self, other: DimLike) -> DimLike:
        if isinstance(other, int):
            return self._plus(other)
        if not isinstance(other, Dim):
            return NotImplemented
        sums = dict(self.terms)
        for mono, coeff in other.terms:
            sums[mono] = sums.get(mono, 0) + coeff
        return from_terms(sums)

    __radd__ = __add__

    def _plus(self, number: int) -> Dim:
        """Add to the constant, which stands last; a symbol is left, so the sum is no integer."""
        terms = self.terms
        if terms[-1][0] == ():
            number += terms[-1][1]
            terms = terms[:-1]
        return Dim((*terms, ((), number)) if number else terms)

    def __neg__(self) -> DimLike:
        return Dim([(mono, -coeff) for mono, coeff in self.terms])

    def __sub__(self, other: DimLike) -> DimLike:
        return self + (-other)

    def __rsub__(self, other: DimLike) -> DimLike:
        return -self + other

    def __mul__(self, other: DimLike) -> DimLike:
        if isinstance(other, int):
            if other in (0, 1):
                return self if other else 0
            return Dim([(mono, coeff * other) for mono, coeff in self.terms])
        if not isinstance(other, Dim):
            return NotImplemented
        sums: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                mono = tuple(sorted(left + right, key=_text)) if left and right else left + right
                sums[mono] = sums.get(mono, 0) + a * b
        return from_terms(sums)

    __rmul__ = __mul__

    def __floordiv__(self, other: DimLike) -> DimLike:
        return floordiv(self, other)

    def __rfloordiv__(self, other: DimLike) -> DimLike:
        return floordiv(other, self)

    def __mod__(self, other: DimLike) -> DimLike:
        return mod(self, other)

    def __rmod__(self, other: DimLike) -> DimLike:
        return mod(other, self)

    def __lt__(self, other: DimLike) -> bool:
        return _decide(self - other + 1)

    def __le__(self, other: DimLike) -> bool:
        return _decide(self - other)

    def __gt__(self, other: DimLike) -> bool:
        return _decide(other - self + 1)

    def __ge__(self, other: DimLike) -> bool:
        return _decide(other - self)

    def __bool__(self) -> bool:
        if _decide_sign(self) > 0:
            return True
        raise UndecidableError(f"whether {self} is zero depends on its symbols")


def symbol(name: str) -> Dim:
    """Return the dim that is the symbol `name`."""
    return Dim((((Symbol(name),), 1),))


def symbol_name(dim: DimLike) -> str | None:
    """Return the name of the symbol that `dim` is, or None where it is anything else."""
    names = symbols_of(dim)
    if len(names) == 1:
        (name,) = names
        if dim == symbol(name):
            return name
    return None


def terms_of(dim: DimLike) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, Dim):
        return dim.terms
    return (((), int(dim)),) if dim else ()


@lru_cache(maxsize=1 << 14)
def _text(atom: Atom) -> str:
    return str(atom)


@lru_cache(maxsize=1 << 14)
def _order_of(mono: Monomial) -> tuple[int, tuple[str, ...]]:
    return (-len(mono), tuple(_text(atom) for atom in mono))


def _order(term: tuple[Monomial, int]) -> tuple[int, tuple[str, ...]]:
    return _order_of(term[0])


def from_terms(sums: Mapping[Monomial, int]) -> DimLike:
    """Return the normal form of a sum of monomials: an int where no symbol is left."""
    kept = [(mono, coeff) for mono, coeff in sums.items() if coeff]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    if len(kept) > 1:
        kept.sort(key=_order)
    return Dim(kept)


def _atom(fn: str, *args: DimLike) -> Dim:
    return Dim((((Call(fn, args),), 1),))


def _decide(difference: DimLike) -> bool:
    """Return whether `difference <= 0`, raising UndecidableError where symbols decide it."""
    lo, hi = bounds(difference, {})
    if hi is not None and hi <= 0:
        return True
    if lo is not None and lo > 0:
        return False
    raise UndecidableError(f"whether {difference} <= 0 depends on its symbols")


def _decide_sign(dim: DimLike) -> int:
    lo, _ = bounds(dim, {})
    return 1 if lo is not None and lo > 0 else 0


def _divide_exactly(dividend: DimLike, divisor: DimLike) -> DimLike | None:
    """Return the polynomial q with q * divisor == dividend, or None where there is none."""
    lead_mono, lead_coeff = terms_of(divisor)[0]
    quotient: DimLike = 0
    for _ in range(64):
        if isinstance(dividend, int) and dividend == 0:
            return quotient
        mono, coeff = terms_of(dividend)[0]
        left = list(mono)
        for atom in lead_mono:
            if atom not in left:
                return None
            left.remove(atom)
        if coeff % lead_coeff:
            return None
        part = from_terms({tuple(left): coeff // lead_coeff})
        quotient = quotient + part
        dividend = dividend - part * divisor
    return None


def _split_by(dim: DimLike, divisor: int) -> tuple[DimLike, DimLike]:
    """Return (q, r) with dim == q * divisor + r, q taking every term that divides evenly."""
    quotient: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for mono, coeff in terms_of(dim):
        if not mono or coeff % divisor == 0:
            quotient[mono] = coeff // divisor
            if coeff % divisor:
                rest[mono] = coeff % divisor
        else:
            rest[mono] = coeff
    return from_terms(quotient), from_terms(rest)


def floordiv(a: DimLike, b: DimLike, env: Mapping[str, Interval] | None = None) -> DimLike:
    """Return floor(a / b); `env` bounds symbols, which lets remainders vanish. b must be > 0."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return _floordiv(a, b, env) if env else _floordiv_alone(a, b)


@lru_cache(maxsize=1 << 14)
def _floordiv_alone(a: DimLike, b: DimLike) -> DimLike:
    return _floordiv(a, b, {})


def _floordiv(a: DimLike, b: DimLike, env: Mapping[str, Interval]) -> DimLike:
    if isinstance(b, int):
        if b == 1:
            return a
        quotient, rest = _split_by(a, b)
        lo, hi = bounds(rest, env)
        if lo is not None and hi is not None and lo // b == hi // b:
            return quotient + lo // b
        return quotient + _atom("floordiv", rest, b)
    exact = _divide_exactly(a, b)
    return exact if exact is not None else _atom("floordiv", a, b)


def mod(a: DimLike, b: DimLike, env: Mapping[str, Interval] | None = None) -> DimLike:
    """Return a - b * floor(a / b), as an atom where it does not simplify. b must be > 0."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if isinstance(b, int):
        _, rest = _split_by(a, b)
        lo, hi = bounds(rest, env or {})
        if lo is not None and hi is not None and lo // b == hi // b:
            return rest - (lo // b) * b
        return _atom("mod", rest, b)
    if _divide_exactly(a, b) is not None:
        return 0
    return _atom("mod", a, b)


def ceildiv(a: DimLike, b: DimLike) -> DimLike:
    """Return ceil(a / b) for b > 0."""
    return floordiv(a + b - 1, b)


def _extreme(fn: str, args: tuple[DimLike, ...]) -> DimLike:
    kept: list[DimLike] = []
    for arg in args:
        for other in tuple(kept):
            small, large = (arg, other) if fn == "max" else (other, arg)
            if _known_at_most(small, large):
                break
            if _known_at_most(large, small):
                kept.remove(other)
        else:
            kept.append(arg)
            continue
    return kept[0] if len(kept) == 1 else _atom(fn, *sorted(kept, key=str))


def _known_at_most(a: DimLike, b: DimLike) -> bool:
    """Whether a <= b for all values of the symbols, by bounds or because one is min or max."""
    _, hi = bounds(a - b, {})
    if hi is not None and hi <= 0:
        return True
    if (call := only_call(a, "min")) is not None:
        return any(_known_at_most(arg, b) for arg in call.args)
    if (call := only_call(b, "max")) is not None:
        return any(_known_at_most(a, arg) for arg in call.args)
    return False


def only_call(dim: DimLike, fn: str) -> Call | None:
    """Return the call of `fn` that `dim` is, or None."""
    if isinstance(dim, Dim) and len(dim.terms) == 1:
        ((mono, coeff),) = dim.terms
        if coeff == 1 and len(mono) == 1 and isinstance(mono[0], Call) and mono[0].fn == fn:
            return mono[0]
    return None


def maximum(*args: DimLike) -> DimLike:
    return _extreme("max", args)


def minimum(*args: DimLike) -> DimLike:
    return _extreme("min", args)


def equal(a: DimLike, b: DimLike) -> bool:
    """Return whether a == b for all values of the symbols; False where for none.

    Raises UndecidableError where symbols decide it.
    """
    lo, hi = bounds(a - b, {})
    if lo == hi == 0:
        return True
    if (lo is not None and lo > 0) or (hi is not None and hi < 0):
        return False
    raise UndecidableError(f"whether {a} == {b} depends on its symbols")


def product(dims: Iterable[DimLike]) -> DimLike:
    total: DimLike = 1
    for dim in dims:
        total = total * dim
    return total


def bounds(dim: DimLike, env: Mapping[str, Interval]) -> Interval:
    """Return (lo, hi) that contain `dim`; None is unbounded. Symbols not in `env` are >= 0."""
    if isinstance(dim, int):
        return dim, dim
    return _bounds(dim, env) if env else _bounds_alone(dim)


@lru_cache(maxsize=1 << 14)
def _bounds_alone(dim: Dim) -> Interval:
    return _bounds(dim, {})


def _bounds(dim: Dim, env: Mapping[str, Interval]) -> Interval:
    low: int | None = 0
    high: int | None = 0
    for mono, coeff in dim.terms:
        lo, hi = _scaled(_product_bounds(mono, env), coeff)
        low = None if low is None or lo is None else low + lo
        high = None if high is None or hi is None else high + hi
    return low, high


def _scaled(interval: Interval, factor: int) -> Interval:
    lo, hi = interval
    if factor < 0:
        lo, hi = hi, lo
    return (None if lo is None else lo * factor, None if hi is None else hi * factor)


def _product_bounds(mono: Monomial, env: Mapping[str, Interval]) -> Interval:
    low: int | None = 1
    high: int | None = 1
    for atom in mono:
        lo, hi = _atom_bounds(atom, env)
        if low is None or lo is None or low < 0 or lo < 0:
            if None in (low, high, lo, hi):
                return None, None
            corners = [x * y for x in (low, high) for y in (lo, hi)]  # type: ignore[operator]
            low, high = min(corners), max(corners)
            continue
        low = low * lo
        high = None if high is None or hi is None else high * hi
    return low, high


def _atom_bounds(atom: Atom, env: Mapping[str, Interval]) -> Interval:
    if isinstance(atom, Symbol):
        return env.get(atom.name, (0, None))
    ranges = [bounds(arg, env) for arg in atom.args]
    if atom.fn in ("min", "max"):
        pick = min if atom.fn == "min" else max
        lows, highs = [r[0] for r in ranges], [r[1] for r in ranges]
        return _pick(pick, lows, atom.fn == "max"), _pick(pick, highs, atom.fn == "min")
    (alo, ahi), (blo, bhi) = ranges
    if atom.fn == "mod":
        return 0, (None if bhi is None else bhi - 1)
    if alo is None or alo < 0 or blo is None or blo < 1:
        if isinstance(atom.args[1], int):
            divisor = atom.args[1]
            return (
                None if alo is None else alo // divisor,
                None if ahi is None else ahi // divisor,
            )
        return (0 if alo is not None and alo >= 0 else None), ahi
    return (0 if bhi is None else alo // bhi), (None if ahi is None else ahi // blo)


def _pick(pick: object, values: list[int | None], skip_unknown: bool) -> int | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values) and not (skip_unknown and known):
        return None
    return pick(known)  # type: ignore[operator, no-any-return]


def merge_divmod(dim: DimLike) -> DimLike:
    """Use c * floordiv(a, c) + mod(a, c) == a wherever both parts stand in the sum."""
    for call in walk_calls(dim):
        if call.fn != "mod":
            continue
        a, c = call.args
        factor = coefficient_of_atom(dim, call)
        quotient = Call("floordiv", call.args)
        if factor == 0 or coefficient_of_atom(dim, quotient) != factor * c:
            continue
        rest = dim - factor * Dim((((call,), 1),)) - factor * c * Dim((((quotient,), 1),))
        return merge_divmod(rest + factor * a)
    return dim


def coefficient_of_atom(dim: DimLike, atom: Atom) -> DimLike:
    """Return the factor of `atom` in the terms that contain it exactly once."""
    total: DimLike = 0
    for mono, coeff in terms_of(dim):
        if mono.count(atom) == 1:
            total = total + from_terms({tuple(a for a in mono if a != atom): coeff})
    return total


def symbols_of(dim: DimLike) -> frozenset[str]:
    """Return the names of all symbols in `dim`, inside calls too."""
    if isinstance(dim, int):
        return _NO_SYMBOLS
    found = dim._symbols
    if found is None:
        found = dim._symbols = frozenset().union(
            *(symbols_of_atom(atom) for mono, _ in dim.terms for atom in mono)
        )
    return found


@lru_cache(maxsize=1 << 14)
def symbols_of_atom(atom: Atom) -> frozenset[str]:
    """Return the names of all symbols in an atom."""
    if isinstance(atom, Symbol):
        return frozenset((atom.name,))
    return _NO_SYMBOLS.union(*(symbols_of(arg) for arg in atom.args))


def substitute(
    dim: DimLike, values: Mapping[str, DimLike], env: Mapping[str, Interval] | None = None
) -> DimLike:
    """Replace symbols by dims and normalise again, with `env` bounding the new symbols."""
    if isinstance(dim, int) or not values:
        return dim
    if env is None and symbols_of(dim).isdisjoint(values):
        return dim
    sums: dict[Monomial, int] = {}
    for mono, coeff in dim.terms:
        part: DimLike = coeff
        for atom in mono:
            part = part * _substitute_atom(atom, values, env)
        for left, factor in terms_of(part):
            sums[left] = sums.get(left, 0) + factor
    return from_terms(sums)


def _substitute_atom(
    atom: Atom, values: Mapping[str, DimLike], env: Mapping[str, Interval] | None
) -> DimLike:
    if isinstance(atom, Symbol):
        return values.get(atom.name, Dim((((atom,), 1),)))
    names = symbols_of_atom(atom)
    if names.isdisjoint(values) and (env is None or names.isdisjoint(env)):
        return Dim((((atom,), 1),))
    args = [substitute(arg, values, env) for arg in atom.args]
    return apply_call(atom.fn, args, env)


def apply_call(fn: str, args: list[DimLike], env: Mapping[str, Interval] | None = None) -> DimLike:
    """Return `fn(args)` simplified; fn is floordiv, mod, min, max or ceildiv."""
    match fn:
        case "floordiv":
            return floordiv(args[0], args[1], env)
        case "mod":
            return mod(args[0], args[1], env)
        case "ceildiv":
            return ceildiv(args[0], args[1])
        case "min":
            return minimum(*args)
        case "max":
            return maximum(*args)
    raise ValueError(f"unknown dim function {fn!r}")


def evaluate(dim: DimLike, values: Mapping[str, int]) -> int:
    """Return the integer that `dim` is when its symbols have `values`.

    Raises KeyError for a symbol without a value.
    """
    if isinstance(dim, int):
        return dim
    total = 0
    for mono, coeff in dim.terms:
        part = coeff
        for atom in mono:
            if isinstance(atom, Symbol):
                part *= values[atom.name]
            else:
                args: list[DimLike] = [evaluate(arg, values) for arg in atom.args]
                if args[1] == 0 and atom.fn in ("floordiv", "mod"):
                    # As in compiled code: a divisor is positive where the result matters.
                    args[1] = 1
                result = apply_call(atom.fn, args)
                assert isinstance(result, int)
                part *= result
        total += part
    return total


def coefficient(dim: DimLike, name: str) -> DimLike | None:
    """Return c where dim == c * name + rest and rest is free of `name`; None if not affine."""
    if name not in symbols_of(dim):
        return 0
    wanted = Symbol(name)
    found: dict[Monomial, int] = {}
    for mono, coeff in terms_of(dim):
        others = tuple([atom for atom in mono if atom != wanted])
        if any(name in symbols_of_atom(atom) for atom in others) or len(mono) > len(others) + 1:
            return None
        if len(others) < len(mono):
            found[others] = coeff
    return from_terms(found)


def walk_calls(dim: DimLike) -> Iterator[Call]:
    """Yield every call atom in `dim`, outermost first."""
    for mono, _ in terms_of(dim):
        for atom in mono:
            if isinstance(atom, Call):
                yield atom
                for arg in atom.args:
                    yield from walk_calls(arg)
