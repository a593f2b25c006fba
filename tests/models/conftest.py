"""The real models compiled once for the whole run, with what they computed in this process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tfc
from tests.models.catalogue import (
    ENTRIES,
    NO_REFERENCE,
    Arrays,
    Reference,
    stored_references,
)
from tfc.cli.main import run
from tfc.compiler.source import open_module
from tfc.graph import Graph


@pytest.fixture(scope="session")
def model_path(models_dir: Path, filled_model: Callable[[str], Path]) -> Callable[[str], Path]:
    """Return a function from a model's name to its file."""

    def path(name: str) -> Path:
        file = ENTRIES[name].file
        return filled_model(name) if file is None else models_dir / file

    return path


@pytest.fixture(scope="session")
def big_files() -> Iterator[Path]:
    """A folder that goes with the run: pytest would keep the gigabytes of three runs."""
    with tempfile.TemporaryDirectory(prefix="tfc-models-") as folder:
        yield Path(folder)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """The same for one test."""
    with tempfile.TemporaryDirectory(prefix="tfc-models-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def references(
    models_dir: Path, model_path: Callable[[str], Path]
) -> Callable[[str], list[Reference]]:
    """Return a function from a model's name to inputs and right outputs.

    They are those of ONNX Runtime; where none are stored, those of ONNX Runtime here if it is
    installed, else those of the reference interpreter.
    """
    made: dict[str, list[Reference]] = {}

    def found(name: str) -> list[Reference]:
        if name not in made:
            made[name] = stored_references(models_dir, name)
            if name in NO_REFERENCE:
                tokens = np.random.default_rng(0).integers(0, 50257, (1, 128))
                inputs = {"input_ids": tokens}
                made[name].append(Reference(inputs, peer_outputs(model_path(name), inputs)))
            assert made[name], f"no reference for {name}"
        return made[name]

    return found


def peer_outputs(path: Path, inputs: Arrays) -> Arrays:
    """Return what ONNX Runtime computes, or the interpreter where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        outputs: Arrays = Graph(open_module(path)).eval(inputs)
        return outputs
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@dataclass(frozen=True)
class Compiled:
    """A saved artifact, and what it computed before it was saved, for each reference."""

    path: Path
    results: list[Arrays]


@pytest.fixture(scope="session")
def compiled(
    big_files: Path,
    model_path: Callable[[str], Path],
    references: Callable[[str], list[Reference]],
) -> Callable[[str], Compiled]:
    """Return a function from a model's name to what `tfc.compile` makes of it by default."""
    made: dict[str, Compiled] = {}

    def get(name: str) -> Compiled:
        if name not in made:
            executable = tfc.compile(model_path(name), threads=2)
            results = [executable(inputs) for inputs, _ in references(name)]
            path = big_files / f"{name}.so"
            executable.save(path)
            made[name] = Compiled(path, results)
        return made[name]

    return get


@pytest.fixture
def tfc_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what runs one `tfc` command in this process, which must succeed, for its output."""

    def command(*arguments: object) -> str:
        code = run([os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return command
