"""Names and bounds of symbolic dims: what a model's inputs call them, and what the user fixes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from tfc.ir.core import Element, SymbolInfo
from tfc.ir.dims import Dim, DimLike, substitute, symbol, symbols_of
from tfc.ir.errors import ModelError, UsageError

Given: TypeAlias = "int | tuple[int, int | None] | None"

# What the text of dims and the loop level use by these names.
_RESERVED = {"threads", "floordiv", "mod", "min", "max", "ceildiv", "inf", "nan", "true", "false"}
_RESERVED |= {"none"}
_BATCH_HINT = 1
_OTHER_HINT = 64


def identifier(text: str) -> str:
    """Return `text` with everything but letters, digits and _ replaced, as a symbol's name."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", text)
    if not name or name[0].isdigit():
        name = f"_{name}"
    return f"{name}_" if name in _RESERVED else name


class Symbols:
    """The symbols of one model. `given` fixes or bounds them, by the model's name or ours."""

    def __init__(self, given: Mapping[str, Given] | None) -> None:
        self._given = dict(given or {})
        self._unused = set(self._given)
        self._originals: dict[str, str] = {}
        self._equal: dict[str, DimLike] = {}
        self.known: dict[str, SymbolInfo] = {}
        self._late: list[str] = []
        # The symbols that come from inputs' contents or are expressions: those in use, and all.
        self.sources: dict[str, SymbolInfo] = {}
        self._offered: dict[str, SymbolInfo] = {}
        for name, value in self._given.items():
            _check(name, value)

    def dim(self, proto: Any, input_name: str, axis: int) -> DimLike:
        """Return one dim of an input's shape."""
        if proto.HasField("dim_value") and proto.dim_value != -1:
            if proto.dim_value < 0:
                raise ModelError(f"axis {axis} has the negative dim {proto.dim_value}")
            return int(proto.dim_value)
        label = proto.dim_param if proto.HasField("dim_param") else ""
        if label in ("", "?", "-1"):
            label = f"{input_name}_d{axis}"
        return self._symbol(label, axis)

    def given(self, dim: Any, input_name: str, axis: int) -> DimLike:
        """Return one dim of a shape from the caller: a size, a name, or None for one of its own."""
        if dim is None or isinstance(dim, str):
            return self._symbol(dim or f"{input_name}_d{axis}", axis)
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 0:
            raise UsageError(f"{input_name}: {dim!r} is neither a size nor the name of a dim")
        return dim

    def element(self, source: Element, label: str, hi: int | None) -> Dim:
        """Return the symbol that an element of an input is, or a part of one.

        It is a symbol of the model once `use` has seen it.
        """
        for name, info in self._offered.items():
            if info.source == source:
                return symbol(name)
        name = self._new(label)
        self._offered[name] = SymbolInfo(0, hi, None, source)
        return symbol(name)

    def use(self, dims: Iterable[DimLike]) -> None:
        """Make symbols of the model of those that `element` has given and dims speak of."""
        for dim in dims:
            for name in sorted(symbols_of(dim) & self._offered.keys()):
                self.sources.setdefault(name, self._offered[name])

    def is_used(self, source: Element) -> bool:
        return any(info.source == source for info in self.sources.values())

    def define(self, dim: DimLike, label: str) -> DimLike:
        """Return a symbol for an expression over what a run starts with; others as they are."""
        if isinstance(dim, int) or not symbols_of(dim) <= self.known.keys() | self.sources.keys():
            return dim
        if any(dim == symbol(name) for name in symbols_of(dim)):
            return dim
        for name, info in self.sources.items():
            if info.source == dim:
                return symbol(name)
        name = self._new(label)
        self.sources[name] = SymbolInfo(0, None, None, dim)
        return symbol(name)

    def late(self, label: str) -> str:
        """Return the name of a new symbol that a run binds."""
        name = self._new(label)
        self._late.append(name)
        return name

    def _new(self, label: str) -> str:
        """Return a name that is no symbol's."""
        plain = name = identifier(label)
        taken = {*self._late, *self._originals.values(), *self._offered, *self.sources}
        count = 1
        while name in taken:
            count += 1
            name = f"{plain}_{count}"
        return name

    def count_late(self) -> int:
        """Return how many symbols have been made that a run binds."""
        return len(self._late)

    def late_from(self, count: int) -> set[str]:
        """Return the symbols that a run binds, without the first `count`."""
        return set(self._late[count:])

    def equate(self, name: str, dim: DimLike) -> None:
        """Have `dim` stand for the symbol `name` from now on."""
        info = self.known[name]
        if isinstance(dim, int) and not info.lo <= dim <= (dim if info.hi is None else info.hi):
            raise UsageError(f"dim {name!r}: the model wants {dim}, outside of the given bounds")
        self._equal = {key: substitute(old, {name: dim}) for key, old in self._equal.items()}
        self._equal[name] = dim
        self.known = {}
        self._late = []
        self.sources, self._offered = {}, {}

    def finish(self) -> dict[str, SymbolInfo]:
        """Return the symbols found. Raises UsageError for given names that none has."""
        if self._unused:
            known = ", ".join(self._originals.values()) or "none"
            name = sorted(self._unused)[0]
            raise UsageError(f"no dim of the model is called {name!r} (dynamic dims: {known})")
        return self.known | self.sources

    def _symbol(self, label: str, axis: int) -> DimLike:
        name = self._originals.get(label)
        if name is None:
            name = identifier(label)
            while name in self._originals.values():
                name += "_"
            self._originals[label] = name
        given: Given = None
        for key in (label, name):
            if key in self._given:
                self._unused.discard(key)
                given = self._given[key]
        if isinstance(given, int):
            return given
        dim = self._equal.get(name, symbol(name))
        if isinstance(dim, Dim):
            (name,) = symbols_of(dim)
            self._note(name, given or (0, None), axis)
        return dim

    def _note(self, name: str, given: tuple[int, int | None], axis: int) -> None:
        """Record what is known of a symbol; of several bounds all hold."""
        lo, hi = given
        hint = _BATCH_HINT if axis == 0 else _OTHER_HINT
        known = self.known.get(name)
        if known is not None:
            lo, hint = max(lo, known.lo), known.hint or hint
            hi = min((n for n in (hi, known.hi) if n is not None), default=None)
        hint = max(hint, lo) if hi is None else min(max(hint, lo), hi)
        if hi is not None and hi < lo:
            raise UsageError(f"dim {name!r}: the bounds leave no size")
        self.known[name] = SymbolInfo(lo, hi, hint)


def _check(name: str, value: Given) -> None:
    if value is None:
        return
    numbers = (value,) if isinstance(value, int) else tuple(value)
    ends = [n for n in numbers if n is not None]
    valid = all(isinstance(n, int) and n >= 0 for n in ends) and ends == sorted(ends)
    if not valid or (isinstance(value, tuple) and (len(value) != 2 or value[0] is None)):
        raise UsageError(f"dim {name!r}: {value!r} is neither a size nor bounds (lo, hi)")
