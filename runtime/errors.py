"""Errors that the runtime raises on purpose; it imports nothing of the compiler.

RuntimeFault         a call that failed                                           exit 1
 |- InputError       arguments that do not fit the model                          exit 2
 |- ArtifactError    a compiled file is damaged, or is not one                    exit 3
 `- CpuError         the compiled code needs another CPU                          exit 8
"""

from __future__ import annotations

import os


class RuntimeFault(Exception):
    """Base of all errors of the runtime; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(RuntimeFault):
    exit_code = 2


class ArtifactError(RuntimeFault):
    """The file at `path` cannot be used, for `reason`."""

    exit_code = 3

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason}")


class CpuError(RuntimeFault):
    exit_code = 8
