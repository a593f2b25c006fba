"""`load`: a compiled file to an `Executable`, after checking that it can run here."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

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
    try:
        file = open(path, "rb")  # noqa: SIM115 - the executable keeps it
    except OSError as error:
        raise ArtifactError(path, error.strerror or str(error)) from error
    return executable_of(file, os.fspath(path), manifest, threads)


def executable_of(
    file: BinaryIO, name: str, manifest: dict[str, Any], threads: int | None
) -> Executable:
    """Load an open artifact; `name` is for messages."""
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
    library = Library(name, file.fileno(), manifest["prefix"], has_pool)
    try:
        return Executable(library, manifest, file, threads)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(name, f"the manifest is damaged: {error!r}") from error
