"""Archives: names, the 64-bit index, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from tfc.compiler.link import archive
from tfc.compiler.link.archive import write_archive
from tfc.ir.errors import CompileError

Emit = Callable[..., bytes]
Tool = Callable[..., str]

TEXT = "define i32 @f() nounwind { ret i32 1 }"


def test_offsets_beyond_the_limit_get_a_64_bit_index(
    tmp_path: Path, emit: Emit, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_WIDE_FROM", 100)
    path = tmp_path / "lib.a"
    with path.open("wb") as out:
        write_archive(out, [("f.o", emit(TEXT)), ("g.o", emit(TEXT.replace("@f", "@g")))])
    assert path.read_bytes()[8:15] == b"/SYM64/"
    index = tool("nm", "-s", path).split("\n\n")[0].splitlines()
    assert index[-2:] == ["f in f.o", "g in g.o"]


def test_same_members_give_the_same_bytes(tmp_path: Path, emit: Emit) -> None:
    data = emit(TEXT)
    file = tmp_path / "f.o"
    file.write_bytes(data)
    results = []
    for content in (data, file):
        out = io.BytesIO()
        write_archive(out, [("f.o", content)])
        results.append(out.getvalue())
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["", "a/b.o", "a\nb.o"])
def test_bad_member_name_is_refused(emit: Emit, name: str) -> None:
    with pytest.raises(CompileError, match="cannot be the name"):
        write_archive(io.BytesIO(), [(name, emit(TEXT))])


def test_member_that_is_no_object_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.o"
    empty.touch()
    for content in (b"", b"text", empty):
        with pytest.raises(CompileError, match="object file is"):
            write_archive(io.BytesIO(), [("a.o", content)])
