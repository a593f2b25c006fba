"""What an engine is to the benchmarks: something with a name and a version that loads models."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from benchmarks.models import Arrays

Run = Callable[[Arrays], Arrays]


class Engine(Protocol):
    """Something that runs ONNX models on the CPU."""

    @property
    def name(self) -> str:
        """What the engine is called in tables and on the command line."""
        ...

    def version(self) -> str | None:
        """Return its version, or None where it is not installed."""
        ...

    def load(self, path: Path, threads: int) -> Run:
        """Compile a model for that many threads."""
        ...


def installed(package: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
