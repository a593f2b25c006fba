"""The system's C compiler and linker accept all three kinds of output."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfc.compiler.link.archive import write_archive
from tfc.compiler.link.blob import Blob
from tfc.compiler.link.elf import RELA, ObjectFile
from tfc.compiler.link.relocatable import write_relocatable
from tfc.compiler.link.shared import write_shared
from tfc.ir.errors import CompileError
from tfc.runtime.artifact import read_manifest

Emit = Callable[..., bytes]
Tool = Callable[..., str]

ARM = "aarch64-unknown-linux-gnu"
MANIFEST = b'{"format_version": 1, "name": "m", "prefix": "m_"}'

MODEL = """
@weights = external hidden global i8
@pointer = hidden constant ptr @weights
@calls = internal global i32 0
declare hidden float @scale(float, i32)
declare i32 @getpid()
define float @m_run(float %x, i32 %case) nounwind {
  %p = load ptr, ptr @pointer
  %q = getelementptr float, ptr %p, i64 1
  %w = load float, ptr %q
  %y = call float @scale(float %x, i32 %case)
  %z = fadd float %y, %w
  %c = load i32, ptr @calls
  %d = add i32 %c, 1
  store i32 %d, ptr @calls
  ret float %z
}
define i32 @m_calls() nounwind {
  %c = load i32, ptr @calls
  ret i32 %c
}
define i32 @m_pid() nounwind {
  %a = call i32 @getpid()
  ret i32 %a
}
"""
SCALE = """
declare float @visible(float)
define hidden float @scale(float %x, i32 %case) nounwind {
  switch i32 %case, label %other [i32 0, label %a
                                  i32 1, label %b
                                  i32 2, label %c
                                  i32 3, label %d]
a:
  %f = call float @visible(float %x)
  ret float %f
b:
  %g = fmul float %x, 2.5
  ret float %g
c:
  %h = fdiv float %x, 3.0
  ret float %h
d:
  %i = fsub float 1.5, %x
  ret float %i
other:
  ret float 0.0
}
"""
VISIBLE = """
define float @visible(float %x) nounwind {
  %y = fmul float %x, %x
  %z = fadd float %y, 0.25
  ret float %z
}
"""
PROGRAM = """
#include <stdio.h>
#include <unistd.h>
float m_run(float x, int c);
int m_calls(void);
int m_pid(void);
float visible(float x);
float visible(float x) { return x; }
int main(void) {
  printf("%g %g %g %g", m_run(3, 0), m_run(3, 1), m_run(3, 2), m_run(3, 3));
  printf(" %d %d\\n", m_calls(), m_pid() == getpid());
  return 0;
}
"""
EXPECTED = "17.25 15.5 9 6.5 4 1\n"
EXPORTS = ["m_run", "m_calls", "m_pid"]
BLOB = Blob("weights", 8, 64, lambda: iter([struct.pack("<2f", 4.0, 8.0)]))


@pytest.fixture
def options(emit: Emit, loadable: None) -> dict[str, Any]:
    return {
        "objects": [emit(MODEL), emit(SCALE), emit(VISIBLE)],
        "exports": EXPORTS,
        "blobs": [BLOB],
        "manifest": MANIFEST,
        "libc": ["getpid"],
    }


def run_program(directory: Path, *flags: str | Path) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: cc is not installed")
    source = directory / "main.c"
    source.write_text(PROGRAM)
    program = directory / "main"
    command = [compiler, "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Werror", source]
    built = subprocess.run(
        [*command, *flags, "-Wl,--fatal-warnings", "-o", program], capture_output=True, text=True
    )
    assert (built.returncode, built.stderr) == (0, "")
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


def test_program_links_with_shared_object(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "libm_model.so"
    with path.open("wb") as out:
        write_shared(out, soname=path.name, **options)
    assert run_program(tmp_path, path, f"-Wl,-rpath,{tmp_path}") == EXPECTED


@pytest.mark.parametrize("flags", [["-pie", "-fpie"], ["-no-pie"], ["-Wl,--gc-sections"]])
def test_program_links_with_object(
    tmp_path: Path, options: dict[str, Any], flags: list[str]
) -> None:
    path = tmp_path / "model.o"
    with path.open("wb") as out:
        report = write_relocatable(out, **options)
    assert path.stat().st_size == report.file_size
    assert run_program(tmp_path, path, *flags) == EXPECTED


@pytest.mark.parametrize("from_file", [True, False])
def test_program_links_with_archive(
    tmp_path: Path, options: dict[str, Any], from_file: bool
) -> None:
    path = tmp_path / "model.o"
    with path.open("wb") as out:
        write_relocatable(out, **options)
    library = tmp_path / "libmodel.a"
    with library.open("wb") as out:
        write_archive(out, [("model.o", path if from_file else path.read_bytes())])
    path.unlink()
    assert run_program(tmp_path, f"-L{tmp_path}", "-lmodel") == EXPECTED


def test_system_linker_makes_a_shared_object_of_the_object(
    tmp_path: Path, options: dict[str, Any], tool: Tool
) -> None:
    path = tmp_path / "model.o"
    with path.open("wb") as out:
        write_relocatable(out, **options)
    shared = tmp_path / "libmodel.so"
    tool("ld", "-shared", "-z", "text", "-o", shared, path)
    assert read_manifest(shared)["name"] == "m"
    assert run_program(tmp_path, shared, f"-Wl,-rpath,{tmp_path}") == EXPECTED


def test_object_hides_all_but_exports(tmp_path: Path, options: dict[str, Any], tool: Tool) -> None:
    path = tmp_path / "model.o"
    with path.open("wb") as out:
        report = write_relocatable(out, **options)
    assert report.imports == ("getpid",)
    lines = [line.split() for line in tool("nm", "-g", path).splitlines()]
    assert sorted(line[-1] for line in lines) == ["getpid", *sorted(EXPORTS)]
    names = {line.split()[-1] for line in tool("nm", path).splitlines()}
    assert {"scale", "visible", "calls", "weights", "pointer"} <= names
    assert read_manifest(path) == {"format_version": 1, "name": "m", "prefix": "m_"}


@pytest.mark.parametrize("triple", ["x86_64-unknown-linux-gnu", ARM])
def test_readelf_has_no_complaint_about_the_object(
    tmp_path: Path, emit: Emit, tool: Tool, triple: str
) -> None:
    path = tmp_path / "model.o"
    objects = [emit(text, triple) for text in (MODEL, SCALE, VISIBLE)]
    with path.open("wb") as out:
        write_relocatable(
            out, objects, exports=EXPORTS, blobs=[BLOB], manifest=MANIFEST, libc=["getpid"]
        )
    report = tool("readelf", "-aW", path)
    assert "Warning" not in report
    assert report.count("ABS64" if triple == ARM else "R_X86_64_64 ") == 1


def test_object_without_imports_has_no_undefined_symbol(
    tmp_path: Path, emit: Emit, tool: Tool
) -> None:
    path = tmp_path / "model.o"
    with path.open("wb") as out:
        write_relocatable(out, [emit(SCALE), emit(VISIBLE)], exports=["scale"], manifest=MANIFEST)
    assert tool("nm", "-u", path) == ""


def test_got_slot_of_a_nameless_place_is_refused(emit: Emit) -> None:
    data = emit(SCALE)
    text = next(s for s in ObjectFile.parse(data).sections if s.name == ".text")
    offset, info, addend = next(r for r in text.relocs if r[1] & 0xFFFFFFFF == 2)
    old, new = (RELA.pack(offset, info >> 32 << 32 | kind, addend) for kind in (2, 9))
    objects = [emit(VISIBLE), data.replace(old, new)]
    with pytest.raises(CompileError, match="R_X86_64_GOTPCREL against a symbol without a name"):
        write_relocatable(io.BytesIO(), objects, exports=["scale"], manifest=MANIFEST)


def test_archive_lists_members_and_symbols(
    tmp_path: Path, options: dict[str, Any], tool: Tool, emit: Emit
) -> None:
    path = tmp_path / "lib.a"
    long_name = "a_model_with_quite_a_long_name.o"
    members: list[tuple[str, bytes | Path]] = [
        ("scale.o", emit(SCALE)),
        (long_name, emit(VISIBLE)),
        ("fifteen_bytes.o", options["objects"][0]),
    ]
    with path.open("wb") as out:
        size = write_archive(out, members)
    assert path.stat().st_size == size
    assert tool("ar", "t", path).split() == [name for name, _ in members]
    index = tool("nm", "-s", path).split("\n\n")[0].splitlines()
    assert "scale in scale.o" in index
    assert f"visible in {long_name}" in index
    assert "m_run in fifteen_bytes.o" in index
    for name, content in members:
        done = subprocess.run(["ar", "p", path, name], capture_output=True, check=True)
        assert done.stdout == content
