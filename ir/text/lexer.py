"""Splits IR text into tokens, and knows which names may stand unquoted. Not a parser.

A whole tensor, buffer or vector type is one token, so that equal types are parsed only once.
"""

from __future__ import annotations

import re

from tfc.ir.types import DTYPES

_DTYPE = "|".join(DTYPES)
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
# The skipped part cannot backtrack into a token: where nothing follows it, the empty alternative
# (the end of the text) matches.
_TOKEN = re.compile(
    rf"""(?:[ \t\r\n]|\#[^\n]*)*
    (
        [%@](?:[A-Za-z0-9_.]+|{_STRING})
      | (?:{_DTYPE})\[[^\[\]"\#]*\]
      | (?:buf|vec)<[^<>"\#]*>
      | {_NAME}
      | [0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?
      | {_STRING}
      | -> | \.\. | [^ \t\r\n]
      | \Z
    )""",
    re.VERBOSE,
)
_WORD = re.compile(_NAME)
_VALUE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{8}|.)")
DIM_FUNCTIONS = ("floordiv", "mod", "ceildiv", "min", "max")
RESERVED = frozenset(
    (*DTYPES, *DIM_FUNCTIONS, "none", "true", "false", "nan", "inf", "dense", "complex")
)


def tokens_of(text: str) -> list[str]:
    """Return the tokens of `text`; the last one is empty."""
    found = _TOKEN.findall(text)
    if not found or found[-1]:
        found.append("")
    return found


def position_of(text: str, index: int) -> tuple[int, int]:
    """Return the line and column, from 1, of the token at `index` in `tokens_of(text)`."""
    start = len(text)
    for i, match in enumerate(_TOKEN.finditer(text)):
        if i == index:
            start = match.start(1)
            break
    return text.count("\n", 0, start) + 1, start - (text.rfind("\n", 0, start) + 1) + 1


def is_word(text: str) -> bool:
    """Whether a name may stand unquoted where no sigil marks it."""
    return _WORD.fullmatch(text) is not None


def is_symbol(text: str) -> bool:
    """Whether a shape symbol may be called so."""
    return is_word(text) and text not in RESERVED


def is_value_name(text: str) -> bool:
    """Whether a name may stand unquoted behind `%` or `@`. Those of digits alone are numbers."""
    return _VALUE_NAME.fullmatch(text) is not None


def unquote(token: str) -> str:
    """Return what a string literal says. Raises ValueError for an escape that means nothing."""
    return _ESCAPE.sub(_unescape, token[1:-1]) if "\\" in token else token[1:-1]


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    if code in '\\"':
        return code
    if code == "n":
        return "\n"
    raise ValueError(f"unknown escape \\{code}")
