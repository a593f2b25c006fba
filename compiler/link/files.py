"""Write a file so that other processes see the old one or the whole new one, never a part."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

Result = TypeVar("Result")

_BUFFER = 1 << 20


def write_atomically(path: str | Path, writer: Callable[[BinaryIO], Result]) -> Result:
    """Call `writer` on a temporary file beside `path`, then rename; on failure leave no file."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb", buffering=_BUFFER) as out:
            result = writer(out)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return result
