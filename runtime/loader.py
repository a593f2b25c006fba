"""`load`: a compiled file to an `Executable`, after checking that it can run here."""

from __future__ import annotations

import os
from typing import Any

from tfc.runtime.artifact import read_manifest
from tfc.runtime.cores import usable_cores
from tfc.runtime.cpu import reason_not_to_run
from tfc.runtime.errors import ArtifactError, CpuError, InputError
from tfc.runtime.executable import Executable
from tfc.runtime.library import Library


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> Executable:
    """Load a shared object that `tfc compile` or `Executable.save` wrote.

    threads: how many threads a call may use, by default all cores that this process may use.
    Raises ArtifactError, CpuError, or InputError where the file was compiled for one thread.
    """
    manifest = read_manifest(path)
    threads = _checked(os.fspath(path), manifest, threads)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactError(path, error.strerror or str(error)) from error
    return _executable(descriptor, os.fspath(path), manifest, threads)


def executable_of(
    descriptor: int, name: str, manifest: dict[str, Any], threads: int | None
) -> Executable:
    """Load an open artifact, whose descriptor goes to the executable; `name` is for messages."""
    try:
        threads = _checked(name, manifest, threads)
    except BaseException:
        os.close(descriptor)
        raise
    return _executable(descriptor, name, manifest, threads)


def _checked(name: str, manifest: dict[str, Any], threads: int | None) -> int:
    """Return the number of threads; refuse what cannot run here."""
    reason = reason_not_to_run(manifest.get("isa", {}))
    if reason is not None:
        raise CpuError(f"{name}: {reason}")
    has_pool = bool(manifest.get("threads"))
    if threads is None:
        threads = usable_cores() if has_pool else 1
    if threads < 1:
        raise InputError(f"{threads} threads: must be at least 1")
    if threads > 1 and not has_pool:
        raise InputError(f"{name}: compiled for one thread, so it cannot use {threads}")
    return threads


def _executable(descriptor: int, name: str, manifest: dict[str, Any], threads: int) -> Executable:
    library = Library(name, descriptor, manifest["prefix"], bool(manifest.get("threads")))
    try:
        return Executable(library, manifest, threads)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(name, f"the manifest is damaged: {error!r}") from error
