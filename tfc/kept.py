"""Compiled models on disk, found by the hash of the model's bytes. Imports the runtime alone.

An entry is an artifact and a record: which files the model was read from, and what the system
says of the artifact as it was written. An artifact that was touched since is no entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import mmap
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tfc.cachedir import TUNING, default_directory
from tfc.runtime.artifact import read_manifest
from tfc.runtime.cores import usable_cores
from tfc.runtime.errors import ArtifactError
from tfc.runtime.executable import Executable
from tfc.runtime.loader import executable_of

LIMIT = 4 << 30
"""Bytes of artifacts beyond which the ones not used for longest go. One has at most half."""

_PACKAGE = Path(__file__).resolve().parent
_SOURCES = ("compiler", "ir", "runtime")
_LIBRARIES = ("llvmlite", "onnx")
_CACHES = "/sys/devices/system/cpu/cpu0/cache"
_CHUNK = 8 << 20
# A file that changed so shortly before it was hashed might have changed again since, unseen.
_SETTLED_SECONDS = 1.0


class Kept:
    """The entry of one model with one set of options, which may not be there yet."""

    def __init__(self, folder: Path, model: Path, key: str) -> None:
        self._folder = folder
        self._model = model
        self._artifact = folder / f"{key}.so"
        self._record = folder / f"{key}.json"

    def load(self, threads: int | None) -> Executable | None:
        """Return the executable, or None where the entry is missing, damaged or out of date."""
        record = _read(self._record)
        try:
            if record is None or record["artifact"] != _stamp(self._artifact):
                return None
            for name, digest in record["files"]:
                if content_hash(self._model.parent / name, self._folder) != digest:
                    return None
            manifest = read_manifest(self._artifact)
            descriptor = os.open(self._artifact, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, KeyError, TypeError, ValueError, ArtifactError):
            return None
        with contextlib.suppress(OSError):
            os.utime(self._record)
        return executable_of(descriptor, self._model.stem, manifest, threads)

    def store(
        self, size: int, write: Callable[[BinaryIO], None], files: Iterable[Path]
    ) -> int | None:
        """Write the artifact, and return it opened; None where it cannot be kept.

        size: about how many bytes it has. files: what was read beside the model itself.
        """
        if size > LIMIT // 2:
            return None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = [str(path.relative_to(self._model.parent)) for path in files]
            hashes = [[name, content_hash(self._model.parent / name, self._folder)]
                      for name in names]  # fmt: skip
            _write(self._artifact, write)
            descriptor = os.open(self._artifact, os.O_RDONLY | os.O_CLOEXEC)
            record = {"artifact": _stamp(self._artifact), "files": hashes}
            _write_json(self._record, record)
        except (OSError, ValueError):
            return None
        _trim(self._folder)
        return descriptor


def kept_model(
    model: str | os.PathLike[str],
    settings: Mapping[str, Any],
    tuning: str | os.PathLike[str] | None = None,
) -> Kept | None:
    """Return the entry of a model file, or None where nothing is kept or the file is unreadable.

    settings: all options of the compilation that say what the artifact is, as JSON has them.
    tuning: the file with tuned choices, by default the cache's.
    """
    directory = default_directory()
    if directory is None:
        return None
    folder, path = directory / "models", Path(model).absolute()
    try:
        tuned = _tuned(directory / TUNING) if tuning is None else Path(tuning).read_bytes().hex()
        parts = [content_hash(path, folder), settings, tuned, _machine(), _versions()]
        text = json.dumps(parts, sort_keys=True)
    except (OSError, TypeError, ValueError):
        return None
    return Kept(folder, path, hashlib.blake2b(text.encode(), digest_size=16).hexdigest())


def _tuned(file: Path) -> str:
    """Return the hash of what was tuned, the same for nothing and for no file."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        data = b""
    return _chunk_hash(data).hex()


def content_hash(path: Path, memos: Path) -> str:
    """Return the hash of a file's bytes; what it was is remembered in the folder `memos`.

    It is looked up by the path, and holds as long as the file's size, times and inode do.
    """
    memo = memos / f"{hashlib.blake2b(os.fsencode(path), digest_size=16).hexdigest()}.hash"
    stamp = _stamp(path)
    known = _read(memo)
    if known is not None and known.get("stamp") == stamp and isinstance(known.get("digest"), str):
        return str(known["digest"])
    digest = _hash(path)
    changed = max(stamp[1:3]) / 1e9
    if stamp == _stamp(path) and time.time() - changed > _SETTLED_SECONDS:
        with contextlib.suppress(OSError):
            memos.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_json(memo, {"stamp": stamp, "digest": digest})
    return digest


def _hash(path: Path) -> str:
    """Hash a file in chunks, several at a time: blake2b of the chunks' hashes."""
    whole = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _CHUNK:
            whole.update(_chunk_hash(file.read()))
            return whole.hexdigest()
        with (
            mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data,
            memoryview(data) as view,
            ThreadPoolExecutor(min(usable_cores(), 8)) as threads,
        ):
            starts = range(0, size, _CHUNK)
            for digest in threads.map(lambda at: _chunk_hash(view[at : at + _CHUNK]), starts):
                whole.update(digest)
    return whole.hexdigest()


def _chunk_hash(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _stamp(path: Path) -> list[int]:
    """What changes when a file does."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev]


@cache
def _versions() -> list[Any]:
    """What tells one compiler from another: the files of tfc, and of what it compiles with."""
    found: list[Any] = [np.__version__, platform.python_version()]
    for name in _SOURCES:
        for folder, _, files in sorted(os.walk(_PACKAGE / name, followlinks=True)):
            for file in sorted(files):
                if file.endswith(".py"):
                    facts = os.stat(os.path.join(folder, file))
                    found.append([file, facts.st_size, facts.st_mtime_ns])
    for name in _LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            folder = os.path.dirname(spec.origin)
            found.append([folder, os.stat(spec.origin).st_mtime_ns, os.stat(folder).st_mtime_ns])
    return found


@cache
def _machine() -> list[Any]:
    """What a target of this machine depends on: its CPU, its caches and how many cores are ours."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        text = file.read().partition("\n\n")[0]
    kept = ("vendor", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
    facts = [line for line in text.splitlines() if line.startswith(kept)]
    sizes = [_line(entry / name) for entry in sorted(Path(_CACHES).glob("index*"))
             for name in ("level", "type", "size")]  # fmt: skip
    return [platform.machine(), facts, sizes, usable_cores(), sorted(os.sched_getaffinity(0))]


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content).encode()

    def write(out: BinaryIO) -> None:
        out.write(text)

    _write(path, write)


def _write(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file that nobody sees before it is whole."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with part.open("xb", buffering=1 << 20) as out:
            write(out)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _trim(folder: Path) -> None:
    """Remove the entries not used for longest until three quarters of the limit are left."""
    entries = []
    for artifact in folder.glob("*.so"):
        record = artifact.with_suffix(".json")
        with contextlib.suppress(OSError):
            size = artifact.stat().st_size
            used = record.stat().st_mtime if record.exists() else 0.0
            entries.append((used, size, (record, artifact)))
    total = sum(size for _, size, _ in entries)
    if total > LIMIT:
        _remove(sorted(entries), total - LIMIT * 3 // 4)


def _remove(entries: Sequence[tuple[float, int, tuple[Path, ...]]], excess: int) -> None:
    for _, size, files in entries:
        if excess <= 0:
            return
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink()
        excess -= size
