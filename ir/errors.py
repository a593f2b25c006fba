"""Every error that tfc raises on purpose, on one page.

TfcError
 |- UsageError         a call or a flag that makes no sense                      exit 2
 |- ModelError         the user's model or text is unreadable or malformed       exit 3
 |- UnsupportedError   valid, but tfc has no rule for it (says what would be)    exit 4
 |- VerifyError        the IR breaks an invariant                                exit 5
 |- MismatchError      numbers differ from the reference                         exit 6
 |- LinkerError        the requested output needs a linker that is not there     exit 7
 |- TargetError        the target cannot run on this machine                     exit 8
 `- CompileError       tfc's own bug                                             exit 1
"""

from __future__ import annotations


class TfcError(Exception):
    """Base of all errors; `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None) -> None:
        self.message = message
        self.where = where
        super().__init__(f"{where}: {message}" if where else message)


class UsageError(TfcError):
    exit_code = 2


class ModelError(TfcError):
    exit_code = 3


class UnsupportedError(TfcError):
    exit_code = 4


class VerifyError(TfcError):
    exit_code = 5


class MismatchError(TfcError):
    exit_code = 6


class LinkerError(TfcError):
    exit_code = 7


class TargetError(TfcError):
    exit_code = 8


class CompileError(TfcError):
    """A broken promise inside tfc: please report it."""
