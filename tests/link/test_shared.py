"""Shared objects that tfc writes load, run and satisfy the system's ELF tools."""

from __future__ import annotations

import ctypes
import io
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from tfc.compiler.link.blob import Blob
from tfc.compiler.link.elf import RELA, ObjectFile
from tfc.compiler.link.output import LinkReport
from tfc.compiler.link.shared import write_shared
from tfc.ir.errors import CompileError

Emit = Callable[..., bytes]
Tool = Callable[..., str]

ARM = "aarch64-unknown-linux-gnu"
MANIFEST = b'{"format_version": 1, "name": "m", "prefix": "m_"}'

ENTRY = """
declare hidden float @kernel(float)
declare hidden i32 @unused(i32)
define float @entry(float %x) nounwind {
  %y = call float @kernel(float %x)
  %z = fadd float %y, 0.5
  ret float %z
}
"""
KERNEL = """
@table = internal constant [4 x float] [float 1.0, float 10.0, float 100.0, float 1000.0]
define hidden float @kernel(float %x) nounwind {
  %i = fptosi float %x to i64
  %p = getelementptr [4 x float], ptr @table, i64 0, i64 %i
  %t = load float, ptr %p
  %y = fmul float %t, 3.25
  ret float %y
}
"""
SWITCH = """
define i32 @choose(i32 %x) nounwind {
  switch i32 %x, label %other [i32 0, label %a
                               i32 1, label %b
                               i32 2, label %c
                               i32 3, label %d
                               i32 4, label %e]
a:
  %r = call i32 @helper(i32 5)
  ret i32 %r
b:
  %s = call i32 @helper(i32 6)
  %t = mul i32 %s, %s
  ret i32 %t
c:
  ret i32 42
d:
  %u = udiv i32 1000, %x
  ret i32 %u
e:
  %v = tail call i32 @helper(i32 9)
  ret i32 %v
other:
  ret i32 -1
}
declare hidden i32 @helper(i32)
"""
HELPER = """
define hidden i32 @helper(i32 %x) nounwind {
  %y = add i32 %x, 100
  ret i32 %y
}
"""
PID = """
declare i32 @getpid()
@pointer = hidden constant ptr @getpid
define i32 @direct() nounwind {
  %a = call i32 @getpid()
  %b = add i32 %a, 1
  ret i32 %b
}
define ptr @address() nounwind {
  ret ptr @getpid
}
define i32 @indirect() nounwind {
  %p = load volatile ptr, ptr @pointer
  %a = call i32 %p()
  %b = add i32 %a, 2
  ret i32 %b
}
"""
STATE = """
@zeros = internal global [64 x i32] zeroinitializer
@seven = internal global i32 7
define i32 @bump(i32 %i) nounwind {
  %p = getelementptr [64 x i32], ptr @zeros, i32 0, i32 %i
  %a = load i32, ptr %p
  %b = add i32 %a, 1
  store i32 %b, ptr %p
  %s = load i32, ptr @seven
  %t = mul i32 %s, 2
  store i32 %t, ptr @seven
  %r = add i32 %b, %s
  ret i32 %r
}
"""
BLOB_USER = """
@weights = external hidden global i8
@tail = external hidden global i8
@pointers = hidden constant [3 x ptr] [ptr @weights, ptr @tail,
                                       ptr getelementptr (i8, ptr @tail, i64 8)]
define i64 @load(i64 %which, i64 %index) nounwind {
  %a = getelementptr [3 x ptr], ptr @pointers, i64 0, i64 %which
  %p = load ptr, ptr %a
  %q = getelementptr i64, ptr %p, i64 %index
  %v = load i64, ptr %q
  ret i64 %v
}
define ptr @base(i64 %which) nounwind {
  %a = getelementptr [3 x ptr], ptr @pointers, i64 0, i64 %which
  %p = load ptr, ptr %a
  ret ptr %p
}
"""


def link(path: Path, objects: Sequence[bytes], exports: Sequence[str], **more: Any) -> LinkReport:
    with path.open("wb") as out:
        report = write_shared(out, objects, exports=exports, manifest=MANIFEST, **more)
    assert path.stat().st_size == report.file_size
    return report


def link_and_load(
    path: Path, objects: Sequence[bytes], exports: Sequence[str], **more: Any
) -> ctypes.CDLL:
    link(path, objects, exports, **more)
    return ctypes.CDLL(str(path))


def constant(data: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter([data])


def refusal(objects: Sequence[bytes], exports: Sequence[str], **more: Any) -> str:
    with pytest.raises(CompileError) as caught:
        write_shared(io.BytesIO(), objects, exports=exports, manifest=MANIFEST, **more)
    return str(caught.value)


@pytest.mark.usefixtures("loadable")
def test_calls_and_constants_cross_objects(tmp_path: Path, emit: Emit) -> None:
    library = link_and_load(
        tmp_path / "m.so", [emit(ENTRY), emit(KERNEL)], ["entry"], soname="m.so"
    )
    library.entry.restype, library.entry.argtypes = ctypes.c_float, [ctypes.c_float]
    assert [library.entry(float(i)) for i in range(4)] == [3.75, 33.0, 325.5, 3250.5]


@pytest.mark.usefixtures("loadable")
def test_jump_table_reaches_every_case(tmp_path: Path, emit: Emit) -> None:
    objects = [emit(HELPER), emit(SWITCH)]
    assert b".rela.rodata" in objects[1]
    library = link_and_load(tmp_path / "m.so", objects, ["choose"])
    assert [library.choose(i) for i in range(6)] == [105, 106 * 106, 42, 333, 109, -1]


@pytest.mark.usefixtures("loadable")
def test_address_of_visible_function_comes_from_the_got(tmp_path: Path, emit: Emit) -> None:
    user = """
    declare i32 @visible(i32)
    define ptr @get() nounwind { ret ptr @visible }
    define ptr @get_again() nounwind { ret ptr @visible }
    """
    visible = "define i32 @visible(i32 %x) nounwind { %y = shl i32 %x, 3\n ret i32 %y }"
    path = tmp_path / "m.so"
    report = link(path, [emit(user), emit(visible)], ["get", "get_again"])
    assert report.section_sizes[".got"] == 8
    library = ctypes.CDLL(str(path))
    library.get.restype = library.get_again.restype = ctypes.c_void_p
    assert library.get() == library.get_again()
    assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(library.get())(5) == 40


@pytest.mark.usefixtures("loadable")
def test_got_slot_for_a_local_symbol_holds_its_address(tmp_path: Path, emit: Emit) -> None:
    library = link_and_load(tmp_path / "m.so", [emit(ENTRY), got_for_table(emit)], ["entry"])
    library.entry.restype, library.entry.argtypes = ctypes.c_float, [ctypes.c_float]
    assert [library.entry(float(i)) for i in range(4)] == [3.75, 33.0, 325.5, 3250.5]


def got_for_table(emit: Emit) -> bytes:
    """Make KERNEL load the address of its table (lea becomes mov) from the GOT."""
    data = emit(KERNEL)
    text = next(s for s in ObjectFile.parse(data).sections if s.name == ".text")
    [(offset, info, addend)] = [
        (offset, info, addend)
        for offset, info, addend in text.relocs
        if text.data[offset - 2] == 0x8D
    ]
    code = bytearray(text.data)
    code[offset - 2] = 0x8B
    data = data.replace(bytes(text.data), code)
    old, new = (RELA.pack(offset, info >> 32 << 32 | kind, addend) for kind in (2, 9))
    assert data.count(old) == 1
    return data.replace(old, new)


@pytest.mark.usefixtures("loadable")
def test_state_starts_as_written_and_zero(tmp_path: Path, emit: Emit) -> None:
    library = link_and_load(tmp_path / "m.so", [emit(HELPER), emit(STATE)], ["bump"])
    assert [library.bump(63), library.bump(63), library.bump(0)] == [8, 16, 29]


@pytest.mark.usefixtures("loadable")
@pytest.mark.parametrize("count", [1, 1024, 1 << 20])
def test_zero_data_alone_needs_no_bytes_in_the_file(tmp_path: Path, emit: Emit, count: int) -> None:
    text = f"""
    @zeros = internal global [{count} x i64] zeroinitializer
    define i64 @swap(i64 %i, i64 %x) nounwind {{
      %p = getelementptr [{count} x i64], ptr @zeros, i64 0, i64 %i
      %a = load i64, ptr %p
      store i64 %x, ptr %p
      ret i64 %a
    }}
    """
    path = tmp_path / "m.so"
    assert link(path, [emit(text)], ["swap"]).file_size < 4096
    library = ctypes.CDLL(str(path))
    library.swap.argtypes = [ctypes.c_int64, ctypes.c_int64]
    for index in range(0, count, max(1, count // 5)):
        assert library.swap(index, index + 9) == 0
        assert library.swap(index, 0) == index + 9


@pytest.mark.usefixtures("loadable")
def test_blobs_are_reached_by_pointer(tmp_path: Path, emit: Emit) -> None:
    words = range(5 * (1 << 20) // 8)
    data = struct.pack(f"<{len(words)}q", *words)
    view = memoryview(data)

    def chunks() -> Iterator[bytes | memoryview]:
        for start in range(0, len(data), 1_000_003):
            yield view[start : start + 1_000_003]

    blobs = [
        Blob("weights", len(data), 64, chunks),
        Blob("odd", 3, 1, constant(b"abc")),
        Blob("none", 0, 1, constant(b"")),
        Blob("tail", 16, 256, constant(struct.pack("<2q", -5, -6))),
    ]
    library = link_and_load(
        tmp_path / "m.so", [emit(BLOB_USER)], ["load", "base", "odd"], blobs=blobs
    )
    library.load.argtypes = [ctypes.c_int64, ctypes.c_int64]
    library.load.restype = ctypes.c_int64
    library.base.restype = ctypes.c_void_p
    assert [library.load(0, i) for i in (0, 1, len(words) - 1)] == [0, 1, len(words) - 1]
    assert [library.load(1, 0), library.load(2, 0)] == [-5, -6]
    assert library.base(0) % 4096 == 0
    assert library.base(1) % 256 == 0
    assert bytes((ctypes.c_char * 3).in_dll(library, "odd")) == b"abc"


class SparseFile:
    """Writes long runs of zeros as holes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes | memoryview) -> int:
        if len(data) >= 1 << 20 and not data[0]:
            self._file.seek(len(data), os.SEEK_CUR)
            return len(data)
        return self._file.write(data)


@pytest.mark.usefixtures("loadable")
def test_pointer_reaches_behind_a_blob_of_more_than_2_gib(tmp_path: Path, emit: Emit) -> None:
    zeros = memoryview(bytes(16 << 20))
    count = 140
    blobs = [
        Blob("weights", count * len(zeros), 64, lambda: iter([zeros] * count)),
        Blob("tail", 16, 64, constant(struct.pack("<2q", 77, 88))),
    ]
    path = tmp_path / "m.so"
    with path.open("wb") as file:
        out = cast("BinaryIO", SparseFile(file))
        write_shared(out, [emit(BLOB_USER)], exports=["load"], blobs=blobs, manifest=MANIFEST)
    assert path.stat().st_size > 2 << 30
    library = ctypes.CDLL(str(path))
    library.load.argtypes = [ctypes.c_int64, ctypes.c_int64]
    assert [library.load(1, 0), library.load(2, 0)] == [77, 88]
    assert library.load(0, count * len(zeros) // 8 - 1) == 0


@pytest.mark.usefixtures("loadable")
def test_libc_function_is_called_addressed_and_stored(tmp_path: Path, emit: Emit) -> None:
    path = tmp_path / "m.so"
    exports = ["direct", "address", "indirect"]
    report = link(path, [emit(PID)], exports, libc=["getpid", "malloc"])
    assert report.imports == ("getpid",)
    library = ctypes.CDLL(str(path))
    library.address.restype = ctypes.c_void_p
    assert library.direct() == os.getpid() + 1
    assert library.indirect() == os.getpid() + 2
    assert ctypes.CFUNCTYPE(ctypes.c_int)(library.address())() == os.getpid()


def test_libc_is_needed_only_for_an_import(tmp_path: Path, emit: Emit, tool: Tool) -> None:
    path = tmp_path / "m.so"
    link(path, [emit(ENTRY), emit(KERNEL)], ["entry"], libc=["getpid"])
    assert "NEEDED" not in tool("readelf", "-dW", path)
    assert tool("nm", "-u", path) == ""
    assert tool("nm", "-Du", path) == ""
    link(path, [emit(PID)], ["direct"], libc=["getpid"])
    assert "Shared library: [libc.so.6]" in tool("readelf", "-dW", path)
    assert tool("nm", "-Du", path).split() == ["U", "getpid"]


def test_only_exports_are_dynamic_and_kernels_keep_local_names(
    tmp_path: Path, emit: Emit, tool: Tool
) -> None:
    path = tmp_path / "m.so"
    visible = "define i32 @visible() nounwind { ret i32 1 }"
    link(path, [emit(ENTRY), emit(KERNEL), emit(visible)], ["entry"], soname="m.so")
    dynamic = [line.split()[1:] for line in tool("nm", "-D", path).splitlines()]
    assert dynamic == [["T", "entry"]]
    names = {tuple(line.split()[1:]) for line in tool("nm", path).splitlines()}
    assert names == {("T", "entry"), ("t", "kernel"), ("t", "visible"), ("r", "table")}
    assert "soname: [m.so]" in tool("readelf", "-dW", path)
    assert "<kernel>:" in tool("objdump", "-d", path)


def test_many_exports_are_all_found(tmp_path: Path, emit: Emit, tool: Tool) -> None:
    names = [f"function_{i}" for i in range(200)]
    text = "\n".join(f"define i32 @{n}() nounwind {{ ret i32 {i} }}" for i, n in enumerate(names))
    path = tmp_path / "m.so"
    link(path, [emit(text)], names)
    assert len(tool("nm", "-D", path).splitlines()) == 200
    tool("readelf", "-aW", path)


@pytest.mark.usefixtures("loadable")
@pytest.mark.parametrize("count", [0, 1, 2, 3, 64, 200])
def test_hash_table_finds_each_name_and_no_other(tmp_path: Path, emit: Emit, count: int) -> None:
    names = [f"function_{i}" for i in range(count)]
    text = "\n".join(f"define i32 @{n}() nounwind {{ ret i32 {i} }}" for i, n in enumerate(names))
    library = link_and_load(tmp_path / f"m{count}.so", [emit(HELPER), emit(text)], names)
    assert [library[name]() for name in names] == list(range(count))
    for name in ("helper", "function_", f"function_{count}"):
        assert not hasattr(library, name)


@pytest.mark.usefixtures("loadable")
def test_pointers_are_read_only_once_loaded(tmp_path: Path, emit: Emit) -> None:
    library = link_and_load(
        tmp_path / "m.so",
        [emit(PID), emit(STATE)],
        ["pointer", "bump"],
        libc=["getpid"],
    )
    address = ctypes.addressof(ctypes.c_char.in_dll(library, "pointer"))
    code = ctypes.cast(library.bump, ctypes.c_void_p).value
    assert code is not None
    assert _permissions(address) == "r--p"
    assert _permissions(code) == "r-xp"


def _permissions(address: int) -> str:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions = line.split()[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return permissions
    raise AssertionError("address is not mapped")


@pytest.mark.parametrize("triple", ["x86_64-unknown-linux-gnu", ARM])
def test_readelf_has_no_complaint(tmp_path: Path, emit: Emit, tool: Tool, triple: str) -> None:
    texts = [ENTRY, KERNEL, SWITCH, HELPER, PID, STATE, BLOB_USER]
    blobs = [Blob(n, 16, 64, constant(bytes(16))) for n in ("weights", "tail")]
    path = tmp_path / "m.so"
    exports = ["entry", "choose", "direct", "address", "indirect", "bump", "load"]
    objects = [emit(text, triple) for text in texts]
    link(path, objects, exports, blobs=blobs, libc=["getpid"], soname="m.so")
    report = tool("readelf", "-aW", path)
    assert "Warning" not in report
    assert "BIND_NOW" in report
    assert "Flags: NOW" in report
    assert "GNU_RELRO" in report
    stack = next(line for line in report.splitlines() if "GNU_STACK" in line)
    assert "RWE" not in stack
    assert " RW " in stack
    loads = [line for line in report.splitlines() if line.split()[:1] == ["LOAD"]]
    flags = [" ".join(line.split()[6:-1]) for line in loads]
    assert flags == ["R", "R E", "RW", "RW", "R"]


def test_file_is_written_front_to_back_and_the_same_each_time(emit: Emit) -> None:
    class Pipe:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> int:
            self.data += data
            return len(data)

    blobs = [Blob(n, 16, 64, constant(bytes(16))) for n in ("weights", "tail")]
    results = []
    for _ in range(2):
        pipe = Pipe()
        write_shared(
            cast("BinaryIO", pipe),
            [emit(BLOB_USER), emit(STATE)],
            exports=["load"],
            blobs=blobs,
            manifest=MANIFEST,
        )
        results.append(pipe.data)
    assert results[0] == results[1]


@pytest.mark.usefixtures("loadable")
def test_shared_function_of_two_objects_is_kept_once(tmp_path: Path, emit: Emit) -> None:
    shared = """
    $common = comdat any
    define linkonce_odr hidden i32 @common(i32 %x) nounwind noinline comdat {
      %y = mul i32 %x, 3
      ret i32 %y
    }
    define weak hidden i32 @weak(i32 %x) nounwind { ret i32 1 }
    """
    first = (
        shared
        + """
    define i32 @one(i32 %x) nounwind {
      %a = call i32 @common(i32 %x)
      %b = call i32 @weak(i32 %x)
      %c = add i32 %a, %b
      ret i32 %c
    }"""
    )
    strong = "define hidden i32 @weak(i32 %x) nounwind { ret i32 1000 }"
    objects = [emit(first), emit(first.replace("@one", "@two")), emit(strong)]
    path = tmp_path / "m.so"
    report = link(path, objects, ["one", "two"])
    single = link(tmp_path / "s.so", [objects[0], objects[2]], ["one"])
    assert report.section_sizes[".text"] < 2 * single.section_sizes[".text"]
    library = ctypes.CDLL(str(path))
    assert [library.one(5), library.two(6)] == [1015, 1018]


def test_local_names_may_repeat(tmp_path: Path, emit: Emit, tool: Tool) -> None:
    text = "@t = internal global i32 1\ndefine ptr @{0}() nounwind {{ ret ptr @t }}"
    path = tmp_path / "m.so"
    link(path, [emit(text.format("one")), emit(text.format("two"))], ["one", "two"])
    assert [line.split()[1:] for line in tool("nm", path).splitlines()].count(["d", "t"]) == 2


def test_second_definition_is_refused(emit: Emit) -> None:
    assert refusal([emit(HELPER), emit(HELPER)], []) == "symbol helper is defined twice"
    blobs = [Blob("helper", 1, 1, constant(b"x"))]
    assert refusal([emit(HELPER)], [], blobs=blobs) == "symbol helper is defined twice"


def test_undefined_symbol_is_refused_by_name(emit: Emit) -> None:
    assert refusal([emit(ENTRY)], ["entry"]) == "undefined symbols: kernel"
    assert refusal([emit(PID)], [], libc=["malloc"]) == "undefined symbols: getpid"


def test_missing_or_repeated_export_is_refused(emit: Emit) -> None:
    assert refusal([emit(HELPER)], ["helper", "no"]) == "exported but not defined: no"
    assert refusal([emit(HELPER)], ["helper", "helper"]) == "a symbol is exported twice"


def test_fixed_addresses_are_refused(emit: Emit) -> None:
    table = """
    @t = internal global [4 x i32] zeroinitializer
    define i32 @f(i64 %i) nounwind {
      %p = getelementptr [4 x i32], ptr @t, i64 0, i64 %i
      %v = load i32, ptr %p
      ret i32 %v
    }"""
    message = refusal([emit(table, reloc="static")], ["f"])
    assert "relocation R_X86_64_32S against section .bss" in message
    assert "'pic'" in message
    pointer = "@p = hidden constant ptr @f\ndefine void @f() nounwind { ret void }"
    message = refusal([emit(pointer, reloc="static")], ["f"])
    assert message.startswith("section .rodata holds the address of symbol f")


def test_distance_of_more_than_2_gib_is_refused_by_name(emit: Emit) -> None:
    direct = """
    @weights = external hidden global i8
    @tail = external hidden global i8
    define ptr @f() nounwind { ret ptr @tail }"""
    blobs = [Blob("weights", 3 << 30, 1, constant(b"")), Blob("tail", 1, 1, constant(b"x"))]
    message = refusal([emit(direct)], ["f"], blobs=blobs)
    assert message.startswith("relocation R_X86_64_PC32 against symbol tail cannot reach")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }] "
            "[{ i32, ptr, ptr } { i32 65535, ptr @f, ptr null }]\n"
            "define void @f() nounwind { ret void }",
            "section .ctors: code that runs at load is not supported",
        ),
        (
            '@a = global ptr @f, section ".init_array"\ndefine void @f() nounwind { ret void }',
            "section .init_array: code that runs at load is not supported",
        ),
        (
            "@t = thread_local global i32 1",
            "section .tdata: thread-local data is not supported",
        ),
        ("@c = common global i32 0", "symbol c: common symbols are not supported"),
    ],
)
def test_unsupported_section_or_symbol_is_refused(emit: Emit, text: str, message: str) -> None:
    assert refusal([emit(text)], []) == message


def test_objects_of_two_machines_are_refused(emit: Emit) -> None:
    message = refusal([emit(HELPER), emit(KERNEL, ARM)], [])
    assert message == "objects for different ELF machines: [62, 183]"
    assert refusal([], []) == "nothing to link: no object files"


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"x" * 64, bytes(2000)])
def test_damaged_object_is_refused(data: bytes) -> None:
    assert "object file is" in refusal([data], [])


@pytest.mark.parametrize(("size", "came"), [(3, "more"), (5, "4")])
def test_blob_of_wrong_length_is_refused(emit: Emit, size: int, came: str) -> None:
    blob = Blob("b", size, 1, constant(b"four"))
    message = refusal([emit(HELPER)], ["helper"], blobs=[blob])
    assert message == f"blob b: {size} bytes were promised, {came} came"


def test_blob_alignment_must_be_a_power_of_two(emit: Emit) -> None:
    blob = Blob("b", 4, 3, constant(b"four"))
    assert "alignment 3 is not valid" in refusal([emit(HELPER)], [], blobs=[blob])
