"""The cache of objects: entries come back whole or not at all, and the directory stays bounded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tfc.cachedir import default_directory
from tfc.compiler.cache import Cache

KEY = "ab" * 16


def test_an_entry_comes_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "folder")
    assert cache.get(KEY) is None
    cache.put(KEY, b"object")
    assert cache.get(KEY) == b"object"
    assert Cache(tmp_path / "new" / "folder").get(KEY) == b"object"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"tfc object 0" + data[12:],
        lambda data: b"",
    ],
)
def test_a_damaged_entry_is_none(tmp_path: Path, damage: object) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, b"object")
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert cache.get(KEY) is None
    cache.put(KEY, b"object")
    assert cache.get(KEY) == b"object"


def test_an_entry_under_another_key_is_none(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, b"object")
    (file,) = tmp_path.iterdir()
    file.rename(file.with_name(file.name.replace("ab", "cd")))
    assert cache.get(KEY.replace("ab", "cd")) is None


def test_entries_not_used_for_longest_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=4000)
    for i in range(6):
        cache.put(f"{i + 1:032x}".replace("0", "f"), bytes(1000))
        for age, file in enumerate(sorted(tmp_path.iterdir(), key=lambda f: f.stat().st_mtime)):
            os.utime(file, (age, age))
    used = f"{1:032x}".replace("0", "f")
    assert cache.get(used) is not None
    cache.trim()
    assert cache.get(used) is not None
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3000
    assert len(list(tmp_path.iterdir())) == 2


def test_many_puts_keep_the_directory_within_its_limit(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=20_000)
    for i in range(200):
        cache.put(f"f{i:031x}", bytes(1000))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 20_000 + 33 * 1100


def test_without_a_directory_nothing_is_kept() -> None:
    cache = Cache(None)
    cache.put(KEY, b"object")
    cache.trim()
    assert cache.get(KEY) is None


def test_a_directory_that_cannot_be_written_stores_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file")
    cache.put(KEY, b"object")
    assert cache.get(KEY) is None


def test_variables_choose_the_directory() -> None:
    assert default_directory({"TFC_CACHE_DIR": "/x"}) == Path("/x")
    assert default_directory({"TFC_CACHE_DIR": "/x", "TFC_CACHE": "off"}) is None
    assert default_directory({"XDG_CACHE_HOME": "/y"}) == Path("/y/tfc")
    assert default_directory({"HOME": "/home/me"}) == Path("/home/me/.cache/tfc")
