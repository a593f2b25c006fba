"""Compiled objects on disk, by key: a damaged or foreign entry is no entry.

`TFC_CACHE_DIR` names the directory, `TFC_CACHE=off` means none; the default is the user's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from tfc.compiler.link.files import write_atomically

LIMIT = 512 << 20
"""Bytes of entries beyond which the ones not used for longest go."""

_MAGIC = b"tfc object 1\n"
_DIGEST = 16
_PUTS_PER_SCAN = 32


class Cache:
    """Entries are files named by their key; every access may race with other processes."""

    def __init__(self, directory: Path | None, limit: int = LIMIT) -> None:
        self.directory = directory
        self.limit = limit
        self._puts = 0

    def get(self, key: str) -> bytes | None:
        """Return the entry, or None where there is none or where it is damaged."""
        if self.directory is None:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        start = len(_MAGIC) + _DIGEST
        body = data[start:]
        if data[:start] != _MAGIC + _digest(key, body):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return body

    def put(self, key: str, body: bytes) -> None:
        """Store an entry. A directory that cannot be written to stores nothing."""
        if self.directory is None:
            return
        entry = _MAGIC + _digest(key, body) + body
        with contextlib.suppress(OSError):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path(key), lambda out: out.write(entry))
        # Keys are hashes: about every sixteenth process that stores one entry looks too.
        self._puts += 1
        if self._puts % _PUTS_PER_SCAN == 0 or key.startswith("0"):
            self.trim()

    def trim(self) -> None:
        """Remove the entries not used for longest until three quarters of the limit are left."""
        if self.directory is None:
            return
        entries: list[tuple[float, int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self.directory) as files:
            for file in files:
                with contextlib.suppress(OSError):
                    facts = file.stat()
                    entries.append((facts.st_mtime, facts.st_size, file.path))
        total = sum(size for _, size, _ in entries)
        if total <= self.limit:
            return
        for _, size, path in sorted(entries):
            if total <= self.limit * 3 // 4:
                break
            with contextlib.suppress(OSError):
                Path(path).unlink()
                total -= size

    def _path(self, key: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{key}.o"


def _digest(key: str, body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST, salt=key.encode()[:16]).digest()
