"""Tools of the system, without which a test is skipped."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def c_compiler() -> str:
    found = shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler")
    return found


@pytest.fixture
def undefined() -> Callable[[Path], set[str]]:
    """Return what lists the names that a shared object leaves to others."""
    if shutil.which("nm") is None:
        pytest.skip("no nm")

    def names(path: Path) -> set[str]:
        command = ["nm", "-D", "-u", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}

    return names
