"""A way to run the command line in this process, and small models for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfc
from tfc.cli.main import run
from tfc.graph import Graph

SCALE = np.array([1.0, -1.0, 2.0], np.float32)


@dataclass(frozen=True)
class Result:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return what runs `tfc ARGUMENTS...`."""

    def command(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return command


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = relu(x * SCALE + 1) for x of [N, 3], as text."""
    x = tfc.placeholder(("N", 3), name="x")
    path = tmp_path / "small.tfc"
    path.write_text(Graph.of({"y": tfc.relu(x * SCALE + 1)}).text())
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """x and the right y, in the two spellings that --input and --expect know."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y = np.maximum(x * SCALE + 1, 0)
    path = tmp_path / "values.npz"
    np.savez(path, **{"x": x, "out.y": y})
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    return path
