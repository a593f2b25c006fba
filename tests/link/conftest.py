"""Fixtures for the linker's tests: LLVM text to object bytes, and the system's ELF tools."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest

Tool = Callable[..., str]

X86 = "x86_64-unknown-linux-gnu"
ARM = "aarch64-unknown-linux-gnu"


@pytest.fixture(scope="session")
def emit() -> Callable[..., bytes]:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()

    def emit_object(text: str, triple: str = X86, **options: Any) -> bytes:
        module = llvm.parse_assembly(f'target triple = "{triple}"\n{text}')
        module.verify()
        settings: dict[str, Any] = {"opt": 2, "reloc": "pic", "codemodel": "small", **options}
        machine = llvm.Target.from_triple(triple).create_target_machine(**settings)
        data = machine.emit_object(module)
        assert isinstance(data, bytes)
        return data

    return emit_object


@pytest.fixture
def loadable() -> None:
    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        pytest.skip("needs x86-64 Linux to load what was linked")


@pytest.fixture
def tool() -> Tool:
    """Run a program of the system; any word on stderr fails the test."""

    def run(*command: str | Path) -> str:
        name = str(command[0])
        if Path(name).name == name and shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run
