"""Attribute values: what may stand in an op's frozen attribute dataclass, and how it prints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from tfc.ir.dims import Dim
from tfc.ir.types import DType, Type


@dataclass(frozen=True, slots=True)
class ConstRef:
    """A constant by content: the sha256 of its dtype, shape and bytes. The store has the data."""

    hash: str


@dataclass(frozen=True, slots=True)
class Dense:
    """A small constant inline: its elements in row-major order (bools as 0 and 1)."""

    values: tuple[int | float | complex, ...]


AttrValue: TypeAlias = (
    "bool | int | float | str | DType | Type | Dim | ConstRef | Dense"
    " | tuple[AttrValue, ...] | None"
)


def quote(text: str) -> str:
    """Return `text` as a string literal of the IR text."""
    out = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):08x}" for c in out) + '"'


def number_text(value: float | complex) -> str:
    """Return a number that parses back to the same value, NaN and infinity included."""
    if isinstance(value, complex):
        return f"complex({number_text(value.real)}, {number_text(value.imag)})"
    if isinstance(value, float):
        if math.isnan(value):
            return "nan"
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
    return repr(value)


def attr_text(value: AttrValue) -> str:
    """Return the text of one attribute value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return number_text(value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, ConstRef):
        return f"@{value.hash}"
    if isinstance(value, Dense):
        return f"dense({', '.join(number_text(v) for v in value.values)})"
    if isinstance(value, tuple):
        return f"[{', '.join(attr_text(v) for v in value)}]"
    return str(value)
