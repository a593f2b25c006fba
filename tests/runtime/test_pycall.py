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


def test_a_dict_of_arrays_stays_out_of_python(twice: Executable, slow_calls: list[object]) -> None:
    twice(X)
    for _ in range(2):
        results = twice({"x": X})
        assert type(results) is dict
        assert list(results) == ["y", "rows"]
        np.testing.assert_array_equal(results["y"], 2 * X)
        assert results["rows"] == 2
    key = "".join(["x"])
    np.testing.assert_array_equal(twice({key: X})["y"], 2 * X)
    assert len(slow_calls) == 1


def test_wrong_dicts_say_what_is_wrong(twice: Executable) -> None:
    class Odd:
        def __hash__(self) -> int:
            return hash("x")

        def __eq__(self, other: object) -> bool:
            raise ValueError("not to be compared")

    twice(X)
    for _ in range(2):
        with pytest.raises(InputError, match="missing input x"):
            twice({})
        with pytest.raises(InputError, match="unknown input z"):
            twice({"z": X})
        with pytest.raises(InputError, match="unknown input z"):
            twice({"x": X, "z": X})
        with pytest.raises(ValueError, match="not to be compared"):
            twice({Odd(): X})
    np.testing.assert_array_equal(twice({"x": X})["y"], 2 * X)


def test_calls_by_dict_leak_no_references(twice: Executable) -> None:
    x, name = X.copy(), sys.intern("rows")
    named, several = {"x": x}, {"x": x, "z": x}
    twice(named)
    before = [sys.getrefcount(one) for one in (x, x.dtype, name, twice)]
    for _ in range(1000):
        results = twice(named)
        assert [sys.getrefcount(y) for y in results.values()] == [3, 3]
        y = results.pop("y")
        assert sys.getrefcount(y) == 2
    for bad in ({"x": np.full((2, 3), -1, np.float32)}, {"x": X[0]}, several):
        for _ in range(100):
            with pytest.raises((InputError, RuntimeFault)):
                twice(bad)
    del bad, results, y
    after = [sys.getrefcount(one) for one in (x, x.dtype, name, twice)]
    assert all(abs(one - other) <= 3 for one, other in zip(after, before, strict=True))


def test_a_run_that_fails_is_not_repeated(twice: Executable, slow_calls: list[object]) -> None:
    twice(X)
    with pytest.raises(RuntimeFault, match="x holds -1"):
        twice(np.full((2, 3), -1, np.float32))
    assert len(slow_calls) == 1


ROOM = 9


@pytest.fixture(scope="module")
def step() -> Executable:
    """A cache that grows along axis 1, a number that is counted up, and a plain output."""
    past = tfc.placeholder((2, "past", 3), name="past")
    new, count = tfc.placeholder((2, 1, 3), name="new"), tfc.placeholder((), "i64", name="count")
    outputs = {"kept": tfc.concat(past, new, axis=1), "next": count + 1, "sum": past.sum(1)}
    where = {"past": ("kept", ROOM), "count": "next"}
    return tfc.compile(inputs=[past, new, count], outputs=outputs, in_place=where, threads=1)


@pytest.mark.parametrize("named", [False, True])
def test_calls_in_place_stay_out_of_python(
    step: Executable, slow_calls: list[object], named: bool
) -> None:
    step(np.zeros((2, ROOM, 3), np.float32)[:, : ROOM - 1], X.reshape(2, 1, 3), np.array(0))
    whole = np.zeros((2, ROOM, 3), np.float32)
    past, count = whole[:, :0], np.array(0)
    seen = [np.zeros((2, 0, 3), np.float32)]
    first = len(slow_calls)
    counts = sys.getrefcount(count), sys.getrefcount(count.dtype)
    for at in range(ROOM):
        new = np.full((2, 1, 3), at, np.float32)
        before = np.concatenate(seen, axis=1)
        if named:
            results = step({"count": count, "new": new, "past": past})
            past, following, total = results["kept"], results["next"], results["sum"]
            del results
        else:
            past, following, total = step(past, new, count)
        seen.append(new)
        assert following is count
        assert count == at + 1
        assert past.base is whole
        assert past.flags.writeable
        assert past.flags.aligned
        assert past.flags.c_contiguous == (at + 1 == ROOM)
        np.testing.assert_array_equal(past, np.concatenate(seen, axis=1))
        np.testing.assert_array_equal(total, before.sum(1))
        del following
    assert len(slow_calls) == first
    assert sys.getrefcount(whole) == 3, "whole, past.base and the call's own"
    assert all(
        abs(now - then) <= 1
        for now, then in zip((sys.getrefcount(count), sys.getrefcount(count.dtype)), counts,
                             strict=True)
    )  # fmt: skip


def _caches() -> dict[str, object]:
    """Arrays that are no cache with room for the model."""
    fixed = np.zeros((2, ROOM, 3), np.float32)
    fixed.flags.writeable = False
    odd = np.zeros(2 * ROOM * 12 + 1, np.uint8)[1:].view(np.float32).reshape(2, ROOM, 3)
    short = np.zeros((2 * ROOM * 3 - 1), np.float32)
    stride = np.lib.stride_tricks.as_strided
    return {
        "no room": np.zeros((2, 4, 3), np.float32),
        "other room": np.zeros((2, ROOM + 1, 3), np.float32)[:, :4],
        "not its first elements": np.zeros((2, ROOM, 3), np.float32)[:, 1:5],
        "other axes": np.zeros((2, 3, ROOM), np.float32).transpose(0, 2, 1)[:, :4],
        "element type": np.zeros((2, ROOM, 3))[:, :4],
        "not to be written": fixed[:, :4],
        "not aligned": odd[:, :4],
        "one element short": stride(short, (2, 4, 3), (ROOM * 12, 12, 4)),
        "a list": [[[0.0] * 3] * 4] * 2,
        "full": np.zeros((2, ROOM, 3), np.float32),
    }


@pytest.mark.parametrize("kind", _caches())
def test_caches_that_do_not_fit_are_refused(
    step: Executable, slow_calls: list[object], kind: str
) -> None:
    good = np.zeros((2, ROOM, 3), np.float32)[:, :4]
    new, count = X.reshape(2, 1, 3), np.array(0)
    step(good, new, count)
    step(good, new, count)
    before = len(slow_calls)
    with pytest.raises(InputError):
        step(_caches()[kind], new, count)
    assert len(slow_calls) == before + 1
    with pytest.raises(InputError):
        step(good, new, np.array(0, np.int32))
    with pytest.raises(InputError, match="which it changes"):
        step(good, new, 0)
    assert step(good, new, count)[0].base is good.base


def test_memory_that_is_written_is_one_inputs_alone() -> None:
    names = [f"x{i}" for i in range(11)]
    xs = [tfc.placeholder(("n",), name=name) for name in names]
    outputs = {f"y{i}": x + 1 for i, x in enumerate(xs)}
    pairs = {name: f"y{name[1:]}" for name in names[3:]}
    run = tfc.compile(inputs=xs, outputs=outputs, in_place=pairs, threads=1)
    rng = np.random.default_rng(0)
    for size in (4, 0):
        run(*np.zeros((11, size), np.float32))
        for _ in range(40):
            whole = np.zeros(60, np.float32)
            starts = 5 * rng.permutation(12)[:11]
            one, other = rng.choice(11, 2, replace=False)
            starts[one] = starts[other] + rng.integers(-3, 4)
            starts = np.clip(starts, 0, 56)
            arrays = [whole[start : start + size] for start in starts]
            meets = any(
                abs(starts[i] - starts[j]) < size for i in range(11) for j in range(3, 11) if i != j
            )
            if meets:
                with pytest.raises(InputError, match="share memory that a run writes"):
                    run(*arrays)
                assert not whole.any()
            else:
                results = run(*arrays)
                assert all(y is x for x, y in zip(arrays[3:], results[3:], strict=True))
                assert whole.sum() == 8 * size
        same = np.zeros(size, np.float32)
        run(same, same, same, *np.zeros((8, size), np.float32))


HEAD = """tfc 1 graph

func @main(%x: f32[N, 2], %k: i64[]) -> (y, z)
  symbols {N, n}
{
  bind(%k) {symbol = "n", hi = N}
  %y = slice(%x) {starts = [N - n, 0], sizes = [n, 2], steps = [1, 1]} : f32[n, 2]
  %z = neg(%x) : f32[N, 2]
  return(%y, %z)
}
"""


def test_dims_that_a_run_tells_stay_out_of_python(slow_calls: list[object]) -> None:
    run = tfc.compile(tfc.parse(HEAD), threads=1)
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    run(x, np.array(3))
    dtype = sys.getrefcount(x.dtype)
    for count in range(11):
        y, z = run(x, np.array(count))
        np.testing.assert_array_equal(y, x[10 - count :])
        np.testing.assert_array_equal(z, -x)
        assert y.flags.c_contiguous
        assert (y.base is None) == (count < 5 or count == 10), "less than half is copied"
        assert sys.getrefcount(y) == 2
        with pytest.raises(RuntimeFault):
            run(x, np.array(11))
    del y, z
    assert abs(sys.getrefcount(x.dtype) - dtype) <= 2
    assert len(slow_calls) == 1
