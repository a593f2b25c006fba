"""A model that was compiled before comes from the cache, and only if nothing has changed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tfc
from tfc import kept
from tfc.compiler.driver import compile_module
from tfc.kept import content_hash, kept_model

onnx = pytest.importorskip("onnx")

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def write_model(path: Path, weights: float, external: str = "") -> Path:
    """Write y = x * w of 3 columns; w lies in the file `external` where it is given."""
    helper, tensor = onnx.helper, onnx.TensorProto
    data = np.full(3, weights, np.float32)
    w = onnx.numpy_helper.from_array(data, "w")
    if external:
        (path.parent / external).write_bytes(data.tobytes())
        onnx.external_data_helper.set_external_data(w, external, 0, 12)
        w.ClearField("raw_data")
        w.data_location = tensor.EXTERNAL
    ports = [helper.make_tensor_value_info(name, tensor.FLOAT, ["N", 3]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])], "g", *_split(ports), [w]
    )
    opset = helper.make_opsetid("", 17)
    path.write_bytes(helper.make_model(graph, opset_imports=[opset]).SerializeToString())
    return path


def _split(ports: list[object]) -> tuple[list[object], list[object]]:
    return ports[:1], ports[1:]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "net.onnx", 2)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Compile, check the result, and tell whether the compiler ran."""
    runs: list[None] = []

    def counted(*args: object) -> object:
        runs.append(None)
        return compile_module(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("tfc.inprocess.compile_module", counted)

    def compile(path: Path, weights: float = 2, **options: object) -> bool:
        runs.clear()
        run = tfc.compile(path, **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(run(X), X * weights)
        return bool(runs)

    return compile


def test_the_second_time_nothing_is_compiled(compiled: Callable[..., bool], model: Path) -> None:
    assert compiled(model)
    assert not compiled(model)
    assert not compiled(str(model))


def test_a_copy_under_the_same_name_is_the_same_model(
    compiled: Callable[..., bool], model: Path, tmp_path: Path
) -> None:
    assert compiled(model)
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / model.name
    copy.write_bytes(model.read_bytes())
    assert not compiled(copy)


@pytest.mark.parametrize(
    "options",
    [{"opt": 0}, {"threads": 1}, {"name": "other"}, {"dims": {"N": 2}}, {"target": "x86-64"},
     {"dtype": "bf16"}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_other_options_are_another_artifact(
    compiled: Callable[..., bool], model: Path, options: dict[str, object]
) -> None:
    try:
        compiled(model, **options)
    except tfc.TargetError as error:
        pytest.skip(str(error))
    assert compiled(model)
    assert not compiled(model, **options)


def test_the_number_of_threads_is_no_part_of_the_artifact(
    compiled: Callable[..., bool], model: Path
) -> None:
    assert compiled(model, threads=2)
    assert not compiled(model, threads=3)


def test_a_changed_model_is_compiled_anew(compiled: Callable[..., bool], model: Path) -> None:
    assert compiled(model)
    write_model(model, 3)
    assert compiled(model, 3)


def test_changed_external_weights_are_compiled_anew(
    compiled: Callable[..., bool], tmp_path: Path
) -> None:
    model = write_model(tmp_path / "net.onnx", 2, "net.data")
    assert compiled(model)
    assert not compiled(model)
    write_model(model, 3, "net.data")
    assert compiled(model, 3)
    (tmp_path / "net.data").unlink()
    with pytest.raises(tfc.ModelError):
        tfc.compile(model)


@pytest.mark.parametrize("suffix", [".so", ".json"])
def test_a_damaged_entry_is_compiled_anew(
    compiled: Callable[..., bool], model: Path, cache: Path, suffix: str
) -> None:
    assert compiled(model)
    (entry,) = cache.glob(f"*{suffix}")
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 0xFF
    entry.write_bytes(data)
    assert compiled(model)
    assert not compiled(model)


def test_a_changed_compiler_compiles_anew(
    compiled: Callable[..., bool], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled(model)
    monkeypatch.setattr(kept, "_versions", lambda: ["a file has changed"])
    assert compiled(model)


def test_the_sources_of_the_compiler_are_part_of_its_version() -> None:
    names = [entry[0] for entry in kept._versions() if isinstance(entry, list)]
    assert {"driver.py", "dims.py", "executable.py"} <= set(names)


def test_text_and_graphs_are_not_kept(
    compiled: Callable[..., bool], model: Path, cache: Path, tmp_path: Path
) -> None:
    text = tmp_path / "net.tfc"
    text.write_text(tfc.compile(model, opt=0).ir("graph"))
    before = set(cache.glob("*.so"))
    assert compiled(text)
    assert compiled(text)
    assert set(cache.glob("*.so")) == before


def test_without_a_cache_nothing_is_kept(
    compiled: Callable[..., bool], model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFC_CACHE", "off")
    assert compiled(model)
    assert compiled(model)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_keeps_nothing(
    compiled: Callable[..., bool], model: Path, cache: Path
) -> None:
    cache.parent.mkdir()
    cache.write_bytes(b"a file where the folder should be")
    assert compiled(model)
    assert compiled(model)


def test_the_entries_used_longest_ago_go_first(
    compiled: Callable[..., bool], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [write_model(tmp_path / f"net{i}.onnx", i + 2) for i in range(3)]
    for i, model in enumerate(models[:2]):
        compiled(model, i + 2)
    for record in cache.glob("*.json"):
        os.utime(record, (1, 1))
    assert not compiled(models[0], 2)
    size = max(file.stat().st_size for file in cache.glob("*.so"))
    monkeypatch.setattr(kept, "LIMIT", 3 * size - size // 10)
    assert compiled(models[2], 4)
    assert len(list(cache.glob("*.so"))) == len(list(cache.glob("*.json"))) == 2
    assert not compiled(models[2], 4)
    assert not compiled(models[0], 2)
    assert compiled(models[1], 3)


def test_an_artifact_of_half_the_limit_is_not_kept(
    compiled: Callable[..., bool], model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "LIMIT", 8)
    assert compiled(model)
    assert list(cache.glob("*.so")) == []


def test_stages_are_made_from_the_model(model: Path) -> None:
    first = tfc.compile(model)
    second = tfc.compile(model)
    for stage in ("graph", "fused", "loops"):
        assert second.ir(stage) == first.ir(stage)


def test_a_hit_imports_neither_the_front_end_nor_the_compiler(model: Path) -> None:
    code = f"""
import sys, numpy, tfc
run = tfc.compile({str(model)!r})
assert run(numpy.ones((1, 3), numpy.float32)).tolist() == [[2, 2, 2]]
heavy = ("onnx", "llvmlite", "tfc.compiler", "tfc.ir", "tfc.request")
print([name for name in heavy if name in sys.modules])
"""
    found = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert "tfc.compiler" in found[0].stdout
    assert found[1].stdout.strip() == "[]"


# -- hashes -------------------------------------------------------------------------------------


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A file of several chunks that has not changed lately."""
    file = tmp_path / "weights"
    file.write_bytes(np.random.default_rng(0).bytes(100_000))
    return file


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_SETTLED_SECONDS", -1.0)


def test_a_hash_follows_every_byte_and_the_size(
    old_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_CHUNK", 1 << 12)
    data = old_file.read_bytes()
    found = {content_hash(old_file, tmp_path / "memos")}
    for changed in (
        data[:-1],
        data + b"\0",
        b"\1" + data[1:],
        data[:50_000] + b"\1" + data[50_001:],
    ):
        old_file.write_bytes(changed)
        found.add(content_hash(old_file, tmp_path / "memos"))
    assert len(found) == 5


@pytest.mark.usefixtures("settled")
def test_a_file_that_has_not_changed_is_not_read_again(
    old_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = content_hash(old_file, tmp_path / "memos")
    monkeypatch.setattr(kept, "_hash", lambda path: "read again")
    assert content_hash(old_file, tmp_path / "memos") == first
    old_file.touch()
    assert content_hash(old_file, tmp_path / "memos") == "read again"


def test_a_file_that_has_just_changed_is_read_again(
    old_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_file.touch()
    content_hash(old_file, tmp_path / "memos")
    monkeypatch.setattr(kept, "_hash", lambda path: "read again")
    assert content_hash(old_file, tmp_path / "memos") == "read again"


def test_a_file_that_is_not_there_has_no_entry(tmp_path: Path) -> None:
    assert kept_model(tmp_path / "missing.onnx", {}) is None


def test_a_hit_is_fast(model: Path, compiled: Callable[..., bool]) -> None:
    compiled(model)
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        assert not compiled(model)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.1
