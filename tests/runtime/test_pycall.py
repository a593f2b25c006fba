"""The native method behind `Executable.__call__`: what it takes, leaves to Python and keeps."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import tfc
from tests.runtime import handmade
from tests.support import ROOT
from tfc.runtime.errors import InputError, RuntimeFault
from tfc.runtime.executable import Executable
from tfc.runtime.loader import load
from tfc.runtime.pycall import layout_is_known

pytestmark = pytest.mark.skipif(not layout_is_known(), reason="this Python is called by ctypes")

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def twice(tmp_path: Path) -> Executable:
    return load(handmade.write(tmp_path / "twice.so"))


@pytest.fixture
def slow_calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What calls were left to Python from the second on, which has the context."""
    seen: list[object] = []
    run = Executable._run

    def recorded(self: Executable, inputs: object) -> object:
        seen.append(inputs)
        return run(self, inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(Executable, "_run", recorded)
    return seen


def test_dense_arrays_stay_out_of_python_after_the_first_call(
    twice: Executable, slow_calls: list[object]
) -> None:
    twice(np.zeros((900, 3), np.float32))
    for count in (1, 2, 900):
        x = np.full((count, 3), 1.5, np.float32)
        y, rows = twice(x)
        assert rows == count
        assert y.dtype == np.float32
        assert y.flags.c_contiguous
        np.testing.assert_array_equal(y, 2 * x)
    assert len(slow_calls) == 1


@pytest.mark.parametrize("array", [X.T.copy().T, X[::-1], X.tolist()], ids=["T", "::-1", "list"])
def test_other_inputs_go_through_python(
    twice: Executable, slow_calls: list[object], array: object
) -> None:
    twice(X)
    np.testing.assert_array_equal(twice(array)[0], 2 * np.array(array))
    np.testing.assert_array_equal(twice({"x": array})["y"], 2 * np.array(array))
    assert len(slow_calls) == 3


def test_wrong_calls_say_what_is_wrong(twice: Executable) -> None:
    twice(X)
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        twice(x=X)
    with pytest.raises(TypeError, match="unexpected keyword argument 'more'"):
        twice(X, more=1)
    with pytest.raises(InputError, match="0 inputs given"):
        twice()
    with pytest.raises(InputError, match="dtype float64"):
        twice(X.astype(np.float64))
    with pytest.raises(InputError, match="rank 1"):
        twice(X[0])
    with pytest.raises(InputError, match="axis 1: size 2"):
        twice(np.ascontiguousarray(X[:, :2]))
    np.testing.assert_array_equal(twice(X)[0], 2 * X)


def test_a_failed_check_is_raised_and_the_next_call_works(twice: Executable) -> None:
    twice(X)
    with pytest.raises(RuntimeFault, match="x holds -1"):
        twice(np.full((2, 3), -1, np.float32))
    np.testing.assert_array_equal(twice(X)[0], 2 * X)


def test_calls_leak_no_references(twice: Executable) -> None:
    x = X.copy()
    twice(x)
    dtype = x.dtype
    before = sys.getrefcount(x), sys.getrefcount(dtype), sys.getrefcount(twice)
    for _ in range(1000):
        y, _ = twice(x)
        assert sys.getrefcount(y) == 2
    del y
    for bad in (np.full((2, 3), -1, np.float32), X[0]):
        for _ in range(100):
            with pytest.raises((InputError, RuntimeFault)):
                twice(bad)
    del bad
    after = sys.getrefcount(x), sys.getrefcount(dtype), sys.getrefcount(twice)
    assert all(one - other <= 3 for one, other in zip(after, before, strict=True))


def test_a_bound_call_keeps_the_model(tmp_path: Path) -> None:
    call = load(handmade.write(tmp_path / "twice.so")).__call__
    gc.collect()
    for _ in range(2):
        np.testing.assert_array_equal(call(X)[0], 2 * X)


def test_nested_and_parallel_calls_have_contexts_of_their_own() -> None:
    x = tfc.placeholder(("N", 64), name="x")
    executable = tfc.compile(outputs=(x @ np.eye(64, dtype=np.float32) + 1).sum(1), threads=1)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for k in range(200):
            rows = 1 + (seed * 31 + k) % 100
            a = np.full((rows, 64), seed, np.float32)
            if not np.array_equal(executable(a), np.full(rows, 64 * (seed + 1))):
                wrong.append(seed)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_no_output_and_no_input_are_cases_like_any() -> None:
    three = tfc.compile(outputs=tfc.constant([1, 2]) * 3)
    for _ in range(3):
        np.testing.assert_array_equal(three(), [3, 6])
    a = tfc.placeholder((), name="a", dtype="i32")
    several = tfc.compile(outputs=[a + 1, a * 2, a - 1])
    for _ in range(3):
        assert [int(y) for y in several(np.array(5, np.int32))] == [6, 10, 4]


def test_artifacts_without_the_method_are_called_all_the_same(tmp_path: Path) -> None:
    path = handmade.write(tmp_path / "bare.so", python=False)
    other = handmade.write(tmp_path / "twice.so")
    code = f"""
import numpy as np, tfc
from tfc.runtime.executable import Executable
x = np.ones((2, 3), np.float32)
bare = tfc.load({str(path)!r})
native = lambda: type(Executable.__call__).__name__ == "method_descriptor"
assert not native() and (bare(x)[0] == 2).all()
both = tfc.load({str(other)!r}), bare
assert native()
for _ in range(3):
    assert all((model(x)[0] == 2).all() for model in both)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_call_costs_less_than_a_microsecond(twice: Executable) -> None:
    x = X[:1]
    seconds = []
    for _ in range(300):
        start = time.perf_counter()
        for _ in range(100):
            twice(x)
        seconds.append((time.perf_counter() - start) / 100)
    assert min(seconds) < 1e-6
