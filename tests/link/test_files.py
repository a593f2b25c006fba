"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest

from tfc.compiler.link.files import write_atomically


def test_result_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    path.write_bytes(b"old")

    def writer(out: BinaryIO) -> int:
        assert path.read_bytes() == b"old"
        return out.write(b"new bytes")

    assert write_atomically(path, writer) == 9
    assert path.read_bytes() == b"new bytes"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    path.write_bytes(b"old")

    def writer(out: BinaryIO) -> None:
        out.write(b"x" * (2 << 20))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, writer)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch()
    path = tmp_path / "m.so"
    write_atomically(str(path), lambda out: out.write(b"x"))
    assert path.stat().st_mode == other.stat().st_mode
