"""What commands print: results on stdout, text or JSON; progress on stderr, on terminals only."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import click


def emit_json(value: Any) -> None:
    """Print JSON; it has no NaN and no infinity, which are the strings nan, inf and -inf here."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Return rows in columns; a column of numbers stands to the right."""
    lines = [list(head), *map(list, rows)] if head else [list(row) for row in rows]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(map(_is_number, column[bool(head) :])) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(cell: str) -> bool:
    return re.match(r"-?\d|inf|nan", cell) is not None


def size_text(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def time_text(seconds: float) -> str:
    """Return a duration for people."""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e6:.1f} us"


class Progress:
    """A line on stderr that says what is being done; nothing where stderr is not a terminal."""

    def __init__(self, delay: float = 0.5) -> None:
        self._shown = ""
        self._on = sys.stderr.isatty()
        self._next = time.monotonic() + delay

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._on or now < self._next:
            return
        self._next = now + 0.05
        text = f"{stage} {done}/{total}" if total > 1 else stage
        self._write(text)

    def close(self) -> None:
        """Remove the line."""
        if self._shown:
            self._write("")

    def _write(self, text: str) -> None:
        sys.stderr.write("\r" + text.ljust(len(self._shown)) + ("" if text else "\r"))
        sys.stderr.flush()
        self._shown = text
