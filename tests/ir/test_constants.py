"""The constant store: what was read of mapped files does not stay in memory."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from tfc.compiler.heap import give_back
from tfc.ir.constants import ConstantStore
from tfc.ir.types import U8

SIZE = 96 << 20


def resident(kind: str) -> int:
    text = Path("/proc/self/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_of_mapped_files_are_given_back(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    with path.open("wb") as out:
        out.truncate(SIZE)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    store = ConstantStore()
    store.mapped = [data]
    parts = [np.frombuffer(data, np.uint8, SIZE // 24, i * (SIZE // 24)) for i in range(24)]
    before = resident("RssFile")
    refs = [store.add(part, U8) for part in parts]
    assert resident("RssFile") - before < SIZE // 4
    assert all(not store.get(ref).any() for ref in refs)
    assert resident("RssFile") - before < SIZE // 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_large_arrays_leave_behind_is_given_back() -> None:
    # Each is below the size from which the C library maps memory for it alone.
    arrays = [np.ones(100_000, np.uint8) for _ in range(1000)]
    full = resident("RssAnon")
    del arrays[:-1]
    give_back()
    assert resident("RssAnon") < full - 50_000_000
