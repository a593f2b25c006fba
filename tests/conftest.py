"""Fixtures and options of the whole suite: the model files, the caches, and --bless."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import MODELS_MISSING, find_models

if TYPE_CHECKING:
    from tests.codegen.amx import Trap


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="rewrite the golden files")


@pytest.fixture
def bless(request: pytest.FixtureRequest) -> bool:
    """Whether a golden test shall write what it got instead of comparing."""
    return bool(request.config.getoption("--bless"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep compiled kernels between tests, and neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("TFC_CACHE", raising=False)
        yield


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Return the folder of test models, or skip."""
    folder = find_models()
    if folder is None:
        pytest.skip(MODELS_MISSING)
    return folder


@pytest.fixture(scope="session")
def filled_model(models_dir: Path) -> Callable[[str], Path]:
    """Return a function from the name of a stripped model to the file with its weights filled.

    Filling takes seconds, so files are kept between runs, by a hash of what they are made of.
    """

    def fill(name: str) -> Path:
        stripped = models_dir / f"{name}.stripped.onnx"
        if not stripped.is_file():
            pytest.skip(MODELS_MISSING)
        script = models_dir / "fill.py"
        digest = hashlib.blake2b(digest_size=8)
        for source in (stripped, stripped.with_suffix(".npz"), script):
            digest.update(source.read_bytes())
        cache = Path(tempfile.gettempdir()) / "tfc-filled-models"
        cache.mkdir(exist_ok=True)
        filled = cache / f"{name}-{digest.hexdigest()}.onnx"
        if not filled.is_file():
            # Written under another name, so that a broken-off run leaves no half model.
            part = filled.with_suffix(f".{os.getpid()}.part")
            subprocess.run([sys.executable, str(script), str(stripped), str(part)], check=True)
            part.replace(filled)
        return filled

    return fill


@pytest.fixture(scope="session")
def amx_trap(tmp_path_factory: pytest.TempPathFactory) -> Trap:
    """What executes AMX instructions where they are illegal."""
    from tests.codegen.amx import CAN_RUN, Trap, build_trap

    if not CAN_RUN:
        pytest.skip("AMX is executed on x86-64 with AVX-512 and a C compiler")
    return Trap(build_trap(tmp_path_factory.mktemp("amx")))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    missing = sum(MODELS_MISSING in str(report.longrepr) for report in skipped)
    if missing:
        terminalreporter.write_line(f"{missing} tests skipped, {MODELS_MISSING}")
