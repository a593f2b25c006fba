"""An artifact as loaded native code: its functions, found by the manifest's prefix.

Knows nothing of numpy; what the functions take is in the header that `tfc compile` writes.
"""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import os
import weakref
from collections.abc import Callable
from typing import Any

from tfc.runtime.errors import ArtifactError

TENSOR_WORDS = 10
"""A PREFIX_tensor in 64-bit words: data, capacity in bytes, eight dims."""

MAX_RANK = TENSOR_WORDS - 2


class Context(ctypes.Structure):
    """PREFIX_ctx of the header."""

    _fields_ = (
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("threads", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("parallel_for", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("alloc", ctypes.c_void_p),
        ("constants", ctypes.c_void_p),
    )


_serial = itertools.count(1)


def _unique_name(descriptor: int) -> str:
    """Return a name for an open file that was never used before.

    The loader takes a library for loaded already when it knows the name, even where the file
    behind it is a new one. `//` and `/.` in a path mean nothing; here they are a number's bits.
    """
    bits = ("/." if bit == "1" else "//" for bit in f"{next(_serial):b}")
    return f"/proc/self/fd{''.join(bits)}/{descriptor}"


class Library:
    """The functions of a loaded artifact; unloaded when the last reference goes."""

    def __init__(self, path: str, descriptor: int, prefix: str, threads: bool) -> None:
        """Load the open file `descriptor`, which is closed at the end; `path` is for messages."""
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor).atexit = False
        name = _unique_name(descriptor)
        try:
            self._code = ctypes.CDLL(name if os.path.exists(name) else path)
        except OSError as error:
            reason = str(error).replace(name, path)
            raise ArtifactError(path, f"cannot be loaded: {reason}") from error
        weakref.finalize(self, _ctypes.dlclose, self._code._handle).atexit = False
        pointer, i32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
        self._prefix = prefix
        try:
            self.run = self._function(f"{prefix}_run", i32, pointer, pointer, pointer)
            self.shapes = self._function(f"{prefix}_shapes", i32, pointer, pointer, pointer)
            self.workspace_size = self._function(f"{prefix}_workspace_size", i64, pointer, i32)
            self.python_exchange = self._python_exchange(prefix)
            if threads:
                self.pool_create = self._function(f"{prefix}_pool_create", pointer, i32)
                self.parallel_for_address = self.address("parallel_for")
        except AttributeError as error:
            raise ArtifactError(path, f"damaged: {error}") from error

    def profile_table(self, prefix: str, words: int) -> tuple[Callable[[], int], Any]:
        """Return the cycle counter of a profiled artifact, and its table."""
        table = (ctypes.c_int64 * words).in_dll(self._code, f"{prefix}_profile")
        return self._function(f"{prefix}_cycles", ctypes.c_int64), table

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._code, name)
        function.restype = result
        function.argtypes = arguments
        return function

    def _python_exchange(self, prefix: str) -> Any:
        """Return what `runtime.pycall` needs beside `call`; None where the file has neither."""
        pointer = ctypes.c_void_p
        try:
            return self._function(f"{prefix}_exchange", pointer, pointer, pointer)
        except AttributeError:
            return None

    def address(self, entry: str) -> int:
        """Return where a function is; `entry` is its name without the prefix."""
        return address_of(getattr(self._code, f"{self._prefix}_{entry}"))


def address_of(function: Any) -> int:
    """Return the address of a foreign function."""
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address
