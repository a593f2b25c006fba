"""Runs AMX instructions, where they are illegal by the handler of `amx_trap.c`. Not test cases."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfc.compiler.codegen.host import host_target
from tfc.compiler.target import make_target

NAMES = ("ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored", "dots")
HOST = host_target()
TARGET = make_target(HOST.arch, HOST.features | {"amx-tile", "amx-bf16", "amx-int8"})
CAN_RUN = HOST.arch == "x86_64" and HOST.vector_bits == 512 and shutil.which("cc") is not None


class Trap:
    """The handler as a library."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.amx_error.restype = ctypes.c_char_p

    @contextmanager
    def installed(self) -> Iterator[None]:
        self.library.amx_install()
        try:
            yield
        finally:
            self.library.amx_uninstall()

    @property
    def error(self) -> str:
        """The first fault that a CPU would have raised, since the last time."""
        found: bytes = self.library.amx_error()
        text = found.decode()
        self.library.amx_forget()
        return text

    def counts(self) -> dict[str, int]:
        """How many of each instruction there were, since the last time; none on a CPU with AMX."""
        numbers = (ctypes.c_int64 * len(NAMES))()
        self.library.amx_counts(numbers)
        return dict(zip(NAMES, numbers, strict=True))


def build_trap(folder: Path) -> Path:
    source, path = Path(__file__).with_name("amx_trap.c"), folder / "amx_trap.so"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-mfma", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, str(source), "-o", str(path), "-lm"], check=True)
    return path
