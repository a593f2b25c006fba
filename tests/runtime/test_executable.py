"""Loading and calling a hand-written artifact: binding, checks, threads, fork, files."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.runtime import handmade
from tests.support import ROOT
from tfc.runtime.cpu import cpu_flags, missing_features
from tfc.runtime.errors import ArtifactError, CpuError, InputError, RuntimeFault
from tfc.runtime.executable import Executable
from tfc.runtime.loader import load

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86-64 linux code"
)

F32 = npt.NDArray[np.float32]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return handmade.write(tmp_path / "twice.so")


@pytest.fixture
def twice(path: Path) -> Executable:
    return load(path)


def rows(count: int) -> F32:
    return np.arange(3 * count, dtype=np.float32).reshape(count, 3)


def test_positional_arrays_give_a_tuple(twice: Executable) -> None:
    y, count = twice(rows(2))
    np.testing.assert_array_equal(y, 2 * rows(2))
    assert count == 2
    assert y.dtype == np.float32
    assert count.dtype == np.int64
    assert count.shape == ()


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_dict_gives_a_dict(twice: Executable, kind: type) -> None:
    results = twice(kind(x=rows(2)))
    assert list(results) == ["y", "rows"]
    np.testing.assert_array_equal(results["y"], 2 * rows(2))


def test_every_call_gives_memory_of_its_own(twice: Executable) -> None:
    first, _ = twice(rows(2))
    second, _ = twice(rows(2) + 1)
    np.testing.assert_array_equal(first, 2 * rows(2))
    assert not np.shares_memory(first, second)


def test_one_executable_serves_many_shapes(twice: Executable) -> None:
    for count in (1, 1000, 7, 1, 999):
        np.testing.assert_array_equal(twice(rows(count))[0], 2 * rows(count))


def test_more_shapes_than_are_remembered_still_work(twice: Executable) -> None:
    for count in range(1, 600):
        assert twice(rows(count))[1] == count


@pytest.mark.parametrize(
    "array",
    [
        rows(4)[::2],
        rows(2)[:, ::-1],
        np.asfortranarray(rows(2)),
        rows(2).astype(">f4"),
        np.frombuffer(b"\0" + rows(2).tobytes(), np.float32, offset=1).reshape(2, 3),
        np.broadcast_to(np.float32(2), (2, 3)),
        rows(2).view(np.ma.MaskedArray),
    ],
    ids=["strided", "reversed", "fortran", "big-endian", "misaligned", "broadcast", "subclass"],
)
def test_arrays_of_any_layout_are_read_right(twice: Executable, array: F32) -> None:
    np.testing.assert_array_equal(twice(array)[0], 2 * np.array(array))


def test_read_only_arrays_are_taken(twice: Executable) -> None:
    x = rows(2)
    x.flags.writeable = False
    np.testing.assert_array_equal(twice(x)[0], 2 * x)


def test_lists_take_the_inputs_type(twice: Executable) -> None:
    np.testing.assert_array_equal(twice([[1, 2.5, 3]])[0], [[2, 5, 6]])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((rows(2).astype(np.float64),), "input x: dtype float64, the model takes float32"),
        ((rows(2).astype(np.int32),), "input x: dtype int32, the model takes float32"),
        ((np.array([["a", "b", "c"]]),), "input x: dtype <U1, the model takes float32"),
        ((np.array([[None] * 3]),), "input x: dtype object, the model takes float32"),
        ((["a"],), "input x: not an array of f32"),
        ((rows(1)[0],), r"input x: rank 1 \[3\], the model takes rank 2"),
        ((np.float32(1),), r"input x: rank 0 \[\], the model takes rank 2"),
        ((rows(1)[None],), r"input x: rank 3 \[1, 1, 3\], the model takes rank 2"),
        ((np.zeros((2, 4), np.float32),), "input x, axis 1: size 4, the model takes 3"),
        ((np.zeros((0, 3), np.float32),), "axis 0: size 0, but N must be 1 to 1000"),
        ((np.zeros((1001, 3), np.float32),), "axis 0: size 1001, but N must be 1 to 1000"),
        ((), r"0 inputs given, the model takes 1: x: f32\[N, 3\]"),
        ((rows(1), rows(1)), "2 inputs given, the model takes 1"),
        (({"y": rows(1)},), "unknown input y; missing input x; the model's inputs: x"),
        (({},), "missing input x"),
        (({"x": rows(1), "z": rows(1)},), "unknown input z"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    twice: Executable, inputs: tuple[object, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        twice(*inputs)
    assert twice(rows(1))[1] == 1


def test_codes_of_run_become_the_manifests_messages(twice: Executable) -> None:
    with pytest.raises(RuntimeFault, match=r"twice: x holds -1 \(code 77\)"):
        twice(-np.ones((1, 3), np.float32))
    assert twice(rows(1))[1] == 1


def test_symbols_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    inputs = [{"name": name, "dtype": "f32", "shape": ["N", 3]} for name in ("a", "b")]
    twice = load(handmade.write(tmp_path / "two.so", inputs=inputs))
    with pytest.raises(InputError, match="input b, axis 0: size 2 for N, which is 1 by input a"):
        twice(rows(1), rows(2))


def test_signature_and_memory_come_from_the_manifest(twice: Executable) -> None:
    assert str(twice.inputs[0]) == "x: f32[N, 3]"
    assert [port.name for port in twice.outputs] == ["y", "rows"]
    assert twice.outputs[1].shape == ()
    assert twice.memory.code == 1
    assert twice.memory.workspace(N=5) == 40
    with pytest.raises(InputError, match="give a value for each symbol: N"):
        twice.memory.workspace()
    assert repr(twice) == "<Executable twice (x: f32[N, 3]) -> (y: f32[N, 3]; rows: i64[])>"


def test_a_loaded_artifact_has_no_text(twice: Executable) -> None:
    with pytest.raises(RuntimeFault, match="compile the model"):
        twice.ir("graph")


def test_save_writes_the_same_bytes_even_when_the_file_is_gone(
    twice: Executable, path: Path, tmp_path: Path
) -> None:
    before = path.read_bytes()
    path.unlink()
    twice.save(tmp_path / "copy.so")
    assert (tmp_path / "copy.so").read_bytes() == before
    np.testing.assert_array_equal(load(tmp_path / "copy.so")(rows(2))[0], 2 * rows(2))


def test_save_leaves_nothing_where_it_fails(twice: Executable, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(OSError, match="dir"):
        twice.save(tmp_path / "dir")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dir", "twice.so"]


def test_a_file_written_anew_under_its_name_is_loaded_anew(path: Path) -> None:
    old = load(path)
    handmade.write(path, name="changed")
    new = load(path)
    assert (old.name, new.name) == ("twice", "changed")
    assert old._library.run is not new._library.run
    assert old(rows(1))[1] == new(rows(1))[1] == 1


def test_executables_that_are_dropped_are_unmapped(path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(path))

    kept = load(path)
    assert mapped() > 0
    del kept
    gc.collect()
    assert mapped() == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_give_the_same_results(tmp_path: Path, threads: int) -> None:
    twice = load(handmade.write(tmp_path / "pool.so", threads=True), threads=threads)
    assert twice.threads == threads
    for _ in range(100):
        np.testing.assert_array_equal(twice(rows(50))[0], 2 * rows(50))


def test_pools_are_shared_and_outlive_the_artifact_they_came_from(tmp_path: Path) -> None:
    first = load(handmade.write(tmp_path / "first.so", threads=True), threads=4)
    first(rows(50))
    tasks = len(os.listdir("/proc/self/task"))
    second = load(handmade.write(tmp_path / "second.so", threads=True), threads=4)
    del first
    gc.collect()
    for _ in range(20):
        np.testing.assert_array_equal(second(rows(50))[0], 2 * rows(50))
    assert len(os.listdir("/proc/self/task")) == tasks


def test_more_threads_than_compiled_for_are_refused(path: Path) -> None:
    with pytest.raises(InputError, match="compiled for one thread, so it cannot use 2"):
        load(path, threads=2)
    with pytest.raises(InputError, match="must be at least 1"):
        load(path, threads=0)


def test_an_executable_may_be_called_by_many_threads(tmp_path: Path) -> None:
    twice = load(handmade.write(tmp_path / "pool.so", threads=True), threads=2)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for k in range(300):
            x = rows(1 + (seed * 31 + k) % 200) + seed
            if not np.array_equal(twice(x)[0], 2 * x):
                wrong.append(seed)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_a_forked_child_computes_and_has_threads_again(tmp_path: Path) -> None:
    path = handmade.write(tmp_path / "pool.so", threads=True)
    code = f"""
import os, sys, numpy as np
from tfc.runtime.loader import load
twice = load({str(path)!r}, threads=2)
x = np.ones((50, 3), np.float32)
twice(x)
child = os.fork()
good = all((twice(x)[0] == 2).all() for _ in range(50)) and len(os.listdir("/proc/self/task")) == 2
if child == 0:
    os._exit(0 if good else 1)
_, status = os.waitpid(child, 0)
sys.exit(0 if good and status == 0 else 1)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, timeout=60)
    assert done.returncode == 0


def test_loading_imports_neither_the_ir_nor_the_compiler(path: Path) -> None:
    code = f"""
import sys, numpy as np, tfc
y, _ = tfc.load({str(path)!r})(np.ones((2, 3), np.float32))
assert (y == 2).all()
print([m for m in sys.modules if m.startswith(("tfc.ir", "tfc.compiler", "llvmlite", "onnx"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr


def test_the_cpu_must_have_the_artifacts_features(tmp_path: Path) -> None:
    flags = "flags\t\t: fpu sse sse2 pni avx512_vnni abm\n"
    assert missing_features(["sse3", "lzcnt", "avx512vnni"], cpu_flags(flags)) == []
    assert missing_features(["avx2", "sse4.1"], cpu_flags(flags)) == ["avx2", "sse4.1"]
    assert missing_features(["avx2"], cpu_flags("")) == []
    other = {"arch": "riscv64", "features": []}
    with pytest.raises(CpuError, match="compiled for riscv64, but this machine is x86_64"):
        load(handmade.write(tmp_path / "other.so", isa=other))
    wanted = {"arch": "x86_64", "features": ["sse2", "sse9"]}
    with pytest.raises(CpuError, match="a CPU with sse9, which this one lacks"):
        load(handmade.write(tmp_path / "wanted.so", isa=wanted))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix": "thrice"}, "thrice_run"),
        ({"inputs": 5}, "the manifest is damaged"),
        ({"inputs": [{"name": "x", "dtype": "f7", "shape": []}]}, "the manifest is damaged"),
        ({"outputs": [{"name": "x", "dtype": "f32", "shape": [1] * 9}]}, "more than 8 axes"),
        ({"format_version": 99}, "format 99, but this tfc reads format 1"),
    ],
)
def test_damaged_manifests_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        load(handmade.write(tmp_path / "damaged.so", **changes))


def test_files_that_are_no_artifacts_are_refused(tmp_path: Path, path: Path) -> None:
    data = path.read_bytes()
    for name, content in {"half": data[: len(data) // 2], "text": b"hello", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=name):
            load(tmp_path / name)
    with pytest.raises(ArtifactError, match="No such file"):
        load(tmp_path / "missing.so")
