"""Write a static library: a GNU `ar` archive with a symbol index, the same bytes each time."""

from __future__ import annotations

import mmap
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tfc.compiler.link.elf import SHN_UNDEF, STB_LOCAL, ObjectFile
from tfc.ir.errors import CompileError

_MAGIC = b"!<arch>\n"
_HEADER_SIZE = 60
_SHORT_NAME = 15
_WIDE_FROM = 1 << 32


def write_archive(out: BinaryIO, members: Sequence[tuple[str, bytes | Path]]) -> int:
    """Write `members` (file name, contents or the file with them); return the size written."""
    names = [name for name, _ in members]
    for name in names:
        if not name or "/" in name or "\n" in name:
            raise CompileError(f"{name!r} cannot be the name of an archive member")
    sizes = [_size(content) for _, content in members]
    symbols = [_defined_symbols(content) for _, content in members]
    long_names, name_fields = _name_fields(names)

    strings = b"".join(s.encode() + b"\0" for group in symbols for s in group)
    count = sum(len(group) for group in symbols)
    fixed = len(_MAGIC) + _padded(len(long_names))
    total = sum(_HEADER_SIZE + _even(size) for size in sizes)
    # The 64-bit index is for archives whose last member starts beyond 4 GiB.
    wide = fixed + _padded(4 * (count + 1) + len(strings)) + total >= _WIDE_FROM
    word, index_name = (8, b"/SYM64/") if wide else (4, b"/")
    index_size = word * (count + 1) + len(strings)

    offsets = []
    position = fixed + _padded(index_size)
    for size in sizes:
        offsets.append(position)
        position += _HEADER_SIZE + _even(size)
    owners = [offset for offset, group in zip(offsets, symbols, strict=True) for _ in group]
    numbers = struct.pack(f">{count + 1}{'Q' if wide else 'I'}", count, *owners)

    out.write(_MAGIC)
    _write_member(out, index_name, numbers + strings)
    if long_names:
        _write_member(out, b"//", long_names)
    for field, (_, content) in zip(name_fields, members, strict=True):
        _write_member(out, field, content)
    return position


def _even(size: int) -> int:
    return size + size % 2


def _padded(size: int) -> int:
    """Size of a special member; one without contents is left out."""
    return _HEADER_SIZE + _even(size) if size else 0


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _name_fields(names: Sequence[str]) -> tuple[bytes, list[bytes]]:
    table = bytearray()
    fields = []
    for name in names:
        encoded = name.encode()
        if len(encoded) <= _SHORT_NAME:
            fields.append(encoded + b"/")
        else:
            fields.append(b"/%d" % len(table))
            table += encoded + b"/\n"
    return bytes(table), fields


def _defined_symbols(content: bytes | Path) -> list[str]:
    if isinstance(content, bytes):
        return _global_names(ObjectFile.parse(content))
    if not _size(content):
        raise CompileError(f"{content}: object file is empty")
    with content.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _global_names(ObjectFile.parse(memoryview(mapped)))


def _global_names(file: ObjectFile) -> list[str]:
    return [s.name for s in file.symbols if s.bind != STB_LOCAL and s.shndx != SHN_UNDEF]


def _write_member(out: BinaryIO, name: bytes, content: bytes | Path) -> None:
    size = _size(content)
    header = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"644", size)
    if len(header) != _HEADER_SIZE:
        raise CompileError(f"archive member {name.decode()}: {size} bytes are too many")
    out.write(header)
    if isinstance(content, bytes):
        out.write(content)
    else:
        with content.open("rb") as file:
            shutil.copyfileobj(file, out, 1 << 20)
    if size % 2:
        out.write(b"\n")
