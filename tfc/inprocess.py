"""Compiles a module and loads the result into this process, by way of a file without a name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

from tfc.compiler import collector
from tfc.compiler.build import Build, Options
from tfc.compiler.driver import compile_module, print_stage
from tfc.compiler.heap import give_back
from tfc.ir.core import Module
from tfc.runtime.executable import Executable
from tfc.runtime.loader import executable_of

# Bytes of constants from which on the memory of their making is worth giving back.
_LARGE = 1 << 23


def compile_in_process(
    open_module: Callable[[], Module],
    options: Options,
    threads: int | None,
    keep: Callable[[Build], int | None] | None = None,
) -> Executable:
    """Return the executable of the module that `open_module` gives, anew at each call.

    It is called again for the texts of `Executable.ir`. keep: writes the file where it stays and
    opens it, or returns None where it cannot.
    """
    # The collector comes back when no object of the compilation is left.
    with collector.paused():
        executable = loaded(compile_module(open_module(), options), threads, keep)
    if executable.memory.constants >= _LARGE:
        give_back()
    executable.set_stages(lambda stage: print_stage(open_module(), stage, options))
    return executable


def loaded(
    build: Build, threads: int | None, keep: Callable[[Build], int | None] | None = None
) -> Executable:
    """Return the executable of a compiled program."""
    name = build.options.name
    descriptor = keep(build) if keep is not None else None
    if descriptor is None:
        descriptor = _anonymous_file(name)
        with open(descriptor, "wb", buffering=1 << 20, closefd=False) as out:
            build.write_shared(out)
    return executable_of(descriptor, name, build.manifest, threads)


def _anonymous_file(name: str) -> int:
    """Open a file that vanishes with its last user: in memory, or else in the temporary folder."""
    try:
        return os.memfd_create(name[:200], os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        with tempfile.TemporaryFile(prefix="tfc-") as file:
            return os.dup(file.fileno())
