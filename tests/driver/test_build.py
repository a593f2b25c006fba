"""From a loop-level program to files: the cache, the workers, and what the files hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.driver.programs import WEIGHTS, scale_program
from tfc.compiler import emission
from tfc.compiler.build import Options, build, c_identifier
from tfc.compiler.codegen import workers
from tfc.compiler.codegen.host import host_target
from tfc.compiler.codegen.workers import emit_objects
from tfc.compiler.constants import ALIGNMENT, table_blob, table_of
from tfc.compiler.cost.work import bytes_of, flops_of
from tfc.compiler.target import parse_target
from tfc.ir.core import DataEntry
from tfc.ir.errors import CompileError, UsageError
from tfc.ir.types import F32, U8, buffer
from tfc.runtime.artifact import read_manifest
from tfc.runtime.loader import load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="writes and loads ELF files")


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(host_target(), name="scale", cache=tmp_path / "cache")


@pytest.mark.parametrize("threads", [True, False])
def test_a_shared_object_computes(options: Options, tmp_path: Path, threads: bool) -> None:
    build(scale_program(), replace(options, threads=threads)).write(tmp_path / "scale.so")
    scale = load(tmp_path / "scale.so", threads=2 if threads else None)
    x = np.ones((500, 3), np.float32)
    np.testing.assert_array_equal(scale(x), x * WEIGHTS * WEIGHTS)
    assert scale.memory.constants == 12
    assert scale.memory.code > 100
    assert scale.memory.workspace(N=10) == 120


def test_memory_functions_are_there_if_code_calls_them(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(scale_program(), options)
    assert "support" not in built.texts
    written = emission.kernel_text

    def with_call(*args: Any) -> str:
        return (
            f"{written(*args)}\ndeclare ptr @memcpy(ptr, ptr, i64)\n"
            "define hidden void @copy(ptr %to, ptr %from) {\n"
            "  %r = call ptr @memcpy(ptr %to, ptr %from, i64 64)\n  ret void\n}\n"
        )

    monkeypatch.setattr(emission, "kernel_text", with_call)
    built = build(scale_program(), options)
    assert "memmove" in built.texts["support"]
    built.write(tmp_path / "scale.so")
    x = np.ones((5, 3), np.float32)
    np.testing.assert_array_equal(load(tmp_path / "scale.so")(x), x * WEIGHTS * WEIGHTS)


def test_a_second_build_emits_nothing(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(scale_program(), options)
    monkeypatch.setattr(emission, "emit_object", _refuse)
    assert build(scale_program(), options).objects == first.objects


def test_a_build_without_cache_leaves_no_file(options: Options, tmp_path: Path) -> None:
    build(scale_program(), replace(options, cache=None))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cache_is_compiled_anew(options: Options) -> None:
    first = build(scale_program(), options)
    assert options.cache is not None
    for file in options.cache.iterdir():
        file.write_bytes(file.read_bytes()[:-7] + b"garbage")
    assert build(scale_program(), options).objects == first.objects


def test_other_features_are_other_cache_entries(options: Options) -> None:
    assert options.cache is not None
    build(scale_program(), options)
    count = len(list(options.cache.iterdir()))
    build(scale_program(), replace(options, target=parse_target("x86-64-v2")))
    assert len(list(options.cache.iterdir())) > count


def test_builds_are_the_same_bytes_each_time(options: Options, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        build(scale_program(), replace(options, cache=None)).write(tmp_path / name / "scale.so")
    first, second = (tmp_path / name / "scale.so" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_the_manifest_says_what_the_code_needs(options: Options, tmp_path: Path) -> None:
    compiled = build(scale_program(), options)
    compiled.write(tmp_path / "scale.so")
    manifest = read_manifest(tmp_path / "scale.so")
    assert manifest == json.loads(compiled.manifest_bytes)
    assert manifest["symbols"] == [{"name": "N", "lo": 1, "hi": 100_000}]
    assert manifest["inputs"] == [{"name": "x", "dtype": "f32", "shape": ["N", 3]}]
    assert manifest["isa"]["features"] == list(options.target.feature_list)
    assert manifest["memory"]["constants"] == 12
    assert len(manifest["build"]) == 32


def test_the_build_hash_follows_code_and_data(options: Options) -> None:
    program = scale_program()
    first = build(program, options).manifest["build"]
    assert build(scale_program(), options).manifest["build"] == first
    ref = program.constants.add(WEIGHTS + 1, F32)
    program.data["w"] = DataEntry(ref, program.data["w"].type)
    assert build(program, options).manifest["build"] != first


def test_the_constant_table_is_aligned_and_in_order() -> None:
    program = scale_program()
    data = np.arange(100, dtype=np.uint8)
    program.data["b"] = DataEntry(program.constants.add(data, U8), buffer(U8, 100))
    program.data["c"] = DataEntry(program.data["w"].ref, buffer(F32, 3))
    table = table_of(program)
    assert table.offsets == {"w": 0, "b": ALIGNMENT, "c": 3 * ALIGNMENT}
    assert table.size == 3 * ALIGNMENT + 12
    blob = table_blob(program, "s")
    written = b"".join(bytes(chunk) for chunk in blob.chunks())
    assert len(written) == blob.size == table.size
    assert written[64:164] == data.tobytes()
    assert written[192:] == WEIGHTS.tobytes()


def test_a_constant_of_another_size_than_its_type_is_an_error() -> None:
    program = scale_program()
    program.data["w"] = DataEntry(program.data["w"].ref, buffer(F32, 4))
    with pytest.raises(CompileError, match="constant w has 12 bytes"):
        list(table_blob(program, "s").chunks())


def test_workers_give_what_this_process_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORTHWHILE", 1)
    target = host_target()
    texts = [f"define i32 @f{i}() {{\n  ret i32 {i}\n}}" for i in range(40)]
    finished: list[int] = []
    several = emit_objects(texts, target, 2, 3, finished.append)
    assert several == emit_objects(texts, target, 2, 1, lambda _: None)
    assert sorted(finished) == list(range(40))


def test_what_a_worker_cannot_emit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORTHWHILE", 1)
    texts = ["define void @f() {\n  ret void\n}"] * 5 + ["nonsense"] * 5
    with pytest.raises(CompileError, match="LLVM refuses"):
        emit_objects(texts, host_target(), 2, 2, lambda _: None)


def test_workers_that_die_are_stood_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORTHWHILE", 1)
    monkeypatch.setattr(workers, "_START", "import sys; sys.exit(3)")
    texts = [f"define i32 @f{i}() {{\n  ret i32 {i}\n}}" for i in range(10)]
    objects = emit_objects(texts, host_target(), 2, 3, lambda _: None)
    assert all(data[:4] == b"\x7fELF" for data in objects)


def test_no_worker_is_started_for_little_work() -> None:
    assert workers._worker_count(["x" * 1000] * 100, 8) == 0
    assert workers._worker_count(["x" * workers.WORTHWHILE] * 100, 8) == 7


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("digits", "digits"), ("my-model.v2", "my_model_v2"), ("2nd", "m_2nd"), ("é!", "model")],
)
def test_any_name_gives_names_of_c(name: str, wanted: str) -> None:
    assert c_identifier(name) == wanted


def test_an_unknown_suffix_is_refused(options: Options, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a library ends in \.so, \.o, \.a"):
        build(scale_program(), options).write(tmp_path / "scale.zip")


def test_the_work_of_a_kernel_is_counted() -> None:
    kernel = scale_program().functions["scale"]
    assert flops_of(kernel, {"N": 10}) == 30
    assert bytes_of(kernel, {"N": 10}) == 10 * 12 + 12 + 10 * 12


PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include "scale.h"

int main(void) {
    static float x[4][3], y[4][3];
    int i, k;
    for (i = 0; i < 4; i++) for (k = 0; k < 3; k++) x[i][k] = (float)(i + 1);
    scale_tensor in = {x, sizeof x, {4, 3}}, out = {y, sizeof y, {0}};
    int64_t symbols[scale_SYMBOLS];
    if (scale_shapes(&in, &out, symbols) != 0 || out.dims[0] != 4 || out.dims[1] != 3) return 1;
    if (symbols[scale_SYMBOL_N] != 4 || out.capacity != (int64_t)sizeof y) return 2;
    scale_ctx ctx = {0};
    if (scale_run(&ctx, &in, &out) != scale_SMALL_WORKSPACE) return 3;
    ctx.workspace_bytes = scale_workspace_size(symbols, 1);
    ctx.workspace = malloc((size_t)ctx.workspace_bytes);
    out.capacity = 8;
    if (scale_run(&ctx, &in, &out) != scale_SMALL_OUTPUT) return 4;
    out.capacity = sizeof y;
    in.dims[1] = 4;
    if (scale_run(&ctx, &in, &out) != scale_BAD_SHAPE) return 5;
    in.dims[1] = 3;
    in.dims[0] = 0;
    if (scale_run(&ctx, &in, &out) != scale_OUT_OF_BOUNDS) return 6;
    in.dims[0] = 4;
    if (scale_run(&ctx, &in, &out) != 0) return 7;
    free(ctx.workspace);
    for (i = 0; i < 4; i++) printf("%g %g %g\n", y[i][0], y[i][1], y[i][2]);
    puts(scale_info());
    return 0;
}
"""


@pytest.mark.parametrize("suffix", [".so", ".a", ".o"])
def test_a_c99_program_uses_header_and_library(
    options: Options, tmp_path: Path, suffix: str, c_compiler: str
) -> None:
    compiled = build(scale_program(), options)
    library = tmp_path / f"scale{suffix}"
    compiled.write(library)
    compiled.write_text(tmp_path / "scale.h", compiled.header())
    (tmp_path / "main.c").write_text(PROGRAM)
    command = [c_compiler, "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-I."]
    libraries = [str(library)] + ["-lpthread"] * (suffix != ".so")
    subprocess.run([*command, "main.c", *libraries, "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[:4] == [f"{i} {4 * i} {9 * i}" for i in range(1, 5)]
    assert json.loads(lines[4]) == compiled.manifest


def test_undefined_names_are_those_of_libc_or_none(
    options: Options, tmp_path: Path, undefined: Callable[[Path], set[str]]
) -> None:
    build(scale_program(), replace(options, threads=False)).write(tmp_path / "one.so")
    build(scale_program(), options).write(tmp_path / "many.so")
    assert undefined(tmp_path / "one.so") == set()
    allowed = {"getpid", "mmap", "munmap", "pthread_create", "pthread_join", "syscall"}
    assert undefined(tmp_path / "many.so") == allowed


def test_no_tool_of_the_system_is_needed(options: Options, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tests.driver.programs import scale_program
from tfc.compiler.build import Options, build
from tfc.compiler.codegen.host import host_target
import numpy as np
from tfc.runtime.loader import load
build(scale_program(), Options(host_target(), cache=None)).write(Path(sys.argv[1]))
assert load(sys.argv[1])(np.ones((2, 3), np.float32))[1].tolist() == [1, 4, 9]
"""
    from tests.support import ROOT

    empty = tmp_path / "bin"
    empty.mkdir()
    environment = {**os.environ, "PATH": str(empty), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "scale.so")]
    subprocess.run(command, env=environment, check=True, timeout=60)


def _refuse(*args: object) -> bytes:
    raise AssertionError("emitted an object that the cache has")
