"""Errors that the runtime raises on purpose; it imports nothing of the compiler.

RuntimeFault
 `- ArtifactError   a compiled file is damaged, or is not one
"""

from __future__ import annotations

import os


class RuntimeFault(Exception):
    """Base of all errors of the runtime."""


class ArtifactError(RuntimeFault):
    """The file at `path` cannot be used, for `reason`."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason}")
