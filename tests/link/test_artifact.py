"""The manifest is read from good files; every damaged one is an ArtifactError."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfc.compiler.link.blob import Blob
from tfc.compiler.link.shared import write_shared
from tfc.runtime.artifact import read_manifest
from tfc.runtime.errors import ArtifactError, RuntimeFault

Emit = Callable[..., bytes]

GOOD = {"format_version": 1, "name": "digits", "prefix": "digits_", "extra": [1, 2]}


def artifact(emit: Emit, manifest: bytes) -> bytes:
    out = io.BytesIO()
    text = "define i32 @f() nounwind { ret i32 1 }"
    blob = Blob("w", 100, 64, lambda: iter([b"w" * 100]))
    write_shared(out, [emit(text)], exports=["f"], blobs=[blob], manifest=manifest)
    return out.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_manifest(path)
    assert caught.value.path == str(path)
    assert isinstance(caught.value, RuntimeFault)
    return caught.value.reason


@pytest.fixture(scope="module")
def good(emit: Emit) -> bytes:
    return artifact(emit, json.dumps(GOOD).encode())


def test_manifest_comes_back(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "m.so"
    path.write_bytes(good)
    assert read_manifest(path) == GOOD
    assert read_manifest(str(path)) == GOOD


def test_every_shorter_file_is_truncated(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "m.so"
    path.write_bytes(good)
    for length in range(len(good) - 1, -1, -7):
        os.truncate(path, length)
        assert refusal(path).startswith("truncated: ")


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (b"", "the manifest is damaged: Expecting value"),
        (b"{", "the manifest is damaged: Expecting property name"),
        (b"\xff\xfe\xff", "the manifest is damaged: 'utf-16-le' codec"),
        (b"[" * 200_000, "the manifest is damaged: maximum recursion"),
        (b"[1]", "the manifest is damaged: not an object"),
        (b"{}", "the manifest is damaged: no format_version"),
        (b'{"format_version": true}', "the manifest is damaged: no format_version"),
        (b'{"format_version": 2}', "artifact format 2, but this tfc reads format 1; "),
        (b'{"format_version": 1}', "the manifest is damaged: no name"),
        (b'{"format_version": 1, "name": 3}', "the manifest is damaged: no name"),
        (b'{"format_version": 1, "name": "a"}', "the manifest is damaged: no prefix"),
        (b'{"format_version": ' + b"1" * 9999 + b"}", ""),
    ],
)
def test_bad_manifest_is_refused(tmp_path: Path, emit: Emit, manifest: bytes, reason: str) -> None:
    path = tmp_path / "m.so"
    path.write_bytes(artifact(emit, manifest))
    assert refusal(path).startswith(reason)


def test_file_of_another_kind_is_refused(tmp_path: Path, emit: Emit) -> None:
    path = tmp_path / "m.so"
    path.write_text("text " * 100)
    assert refusal(path) == "not an ELF file"
    path.write_bytes(emit("define i32 @f() nounwind { ret i32 1 }"))
    assert refusal(path) == "not made by tfc: no section .tfc.manifest"
    path.write_bytes(b"\x7fELF\x01\x01" + bytes(100))
    assert refusal(path) == "not a little-endian 64-bit ELF file"


def test_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "not a regular file"
    assert refusal(tmp_path / "none") == "No such file or directory"
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == "not a regular file"


@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    ),
    early=st.booleans(),
)
def test_changed_bytes_give_a_manifest_or_an_error(
    tmp_path_factory: pytest.TempPathFactory,
    good: bytes,
    changes: list[tuple[float, int]],
    early: bool,
) -> None:
    data = bytearray(good)
    for position, value in changes:
        data[int(position * (64 if early else len(data)))] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed.so"
    path.write_bytes(data)
    # Nothing but these two ends is allowed.
    with contextlib.suppress(ArtifactError):
        assert isinstance(read_manifest(path), dict)
