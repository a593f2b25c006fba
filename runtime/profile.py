"""Reads the times of kernels that an artifact notes when it was compiled to be profiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from tfc.runtime.errors import InputError
from tfc.runtime.executable import Executable


class Entry(NamedTuple):
    """One call site of `main`: which kernel, for which nodes of the model, and its time in all."""

    kernel: str
    nodes: tuple[str, ...]
    calls: int
    seconds: float


def profile(executable: Executable, run: Callable[[], object]) -> list[Entry]:
    """Call `run`, which calls the executable, and return what its kernels took meanwhile.

    Raises InputError where the executable was not compiled to be profiled.
    """
    sites = executable.manifest.get("profile")
    if sites is None:
        raise InputError(f"{executable.name}: not compiled to be profiled")
    cycles, table = executable.profile_table(2 * len(sites))
    before = list(table)
    start, first = time.perf_counter(), cycles()
    run()
    end, last = time.perf_counter(), cycles()
    rate = (end - start) / max(last - first, 1)
    changes = [new - old for new, old in zip(table, before, strict=True)]
    return [
        Entry(site["kernel"], tuple(site["nodes"]), changes[2 * i], changes[2 * i + 1] * rate)
        for i, site in enumerate(sites)
    ]
