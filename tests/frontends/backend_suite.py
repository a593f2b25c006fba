"""The cases of onnx.backend.test, run with artifacts in a process that has only the runtime."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import unittest
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import ROOT
from tfc.onnx_backend import TfcBackend

RUNNER = Path(__file__).with_name("artifact_runner.py")


class ArtifactProcess:
    """A process that runs artifacts; one that dies is started again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, path: Path, inputs: Sequence[Any]) -> list[Any]:
        """Run an artifact. Fails where the process has imported any of the compiler."""
        outputs, error = self._ask((str(path), list(inputs)))
        assert not error, error
        found: list[Any] = outputs
        return found

    def loaded(self) -> set[str]:
        """Return the names of the modules that the process has imported."""
        return set(self._ask(("", []))[0])

    def _ask(self, question: tuple[str, list[Any]]) -> Any:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(question, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, BrokenPipeError):
            code = process.wait()
            self._process = None
            raise AssertionError(f"the artifact ended its process with code {code}") from None

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(RUNNER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
        return self._process


PROCESS = ArtifactProcess()


class ApartBackend(TfcBackend):
    """The backend as it is, but that artifacts run in `PROCESS`."""

    loader = staticmethod(lambda path: partial(PROCESS.run, path))


@dataclass(frozen=True)
class Case:
    """One case of the suite; `run` raises where it does not pass."""

    name: str
    run: Callable[[], None]


@cache
def all_cases() -> tuple[Case, ...]:
    """Return the suite's cases for the CPU, by name."""
    # Making the suite's own data overflows and divides by zero.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test import BackendTest

        class Suite(BackendTest):  # type: ignore[misc]
            """Compares what sequences hold, scalars too, as the suite compares outputs."""

            @classmethod
            def assert_similar_outputs(
                cls, ref_outputs: Any, outputs: Any, *rest: Any, **more: Any
            ) -> None:
                super().assert_similar_outputs(*_flat(ref_outputs, outputs), *rest, **more)

        groups = Suite(ApartBackend, __name__).test_cases.values()
    found = [
        Case(name.removesuffix("_cpu"), partial(function, None))
        for group in groups
        for name, function in vars(group).items()
        if name.startswith("test_") and name.endswith("_cpu")
    ]
    return tuple(sorted(found, key=lambda case: case.name))


def _flat(expected: Any, found: Any) -> tuple[list[Any], list[Any]]:
    """Return two lists of outputs with the elements of sequences as outputs, which are as many."""
    one: list[Any] = []
    other: list[Any] = []
    assert len(expected) == len(found)
    for wanted, have in zip(expected, found, strict=True):
        if not isinstance(wanted, (list, tuple)):
            one.append(wanted)
            other.append(have)
            continue
        assert isinstance(have, list), f"{type(have)} is no list"
        for part in zip(*_flat(wanted, have), strict=True):
            one.append(part[0])
            other.append(part[1])
    return one, other


def outcome(case: Case) -> str | None:
    """Run a case; return None where it passes, else what went wrong."""
    with tempfile.TemporaryDirectory() as folder, np.errstate(all="ignore"):
        os.environ["ONNX_MODELS"] = folder
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                case.run()
        except unittest.SkipTest as error:
            return f"skipped: {error}"
        except Exception as error:
            text = " ".join(str(error).split())
            return f"{type(error).__name__}: {text}"
        finally:
            del os.environ["ONNX_MODELS"]
    return None
