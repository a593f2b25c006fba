"""Read the manifest of a compiled file without loading it; owns the section's name and version.

Reads untrusted bytes: each offset is checked against the file's size before use.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tfc.runtime.errors import ArtifactError

MANIFEST_SECTION = ".tfc.manifest"
FORMAT_VERSION = 1

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_NOBITS = 8
_MAX_MANIFEST = 1 << 28
_MAX_NAMES = 1 << 24


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest in the ELF file at `path`; raise ArtifactError if there is none."""
    try:
        # Opening a pipe would wait for a writer.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise ArtifactError(path, "not a regular file")
        with Path(path).open("rb") as file:
            text = _find_manifest(_Reader(file, Path(path)), Path(path))
    except OSError as error:
        raise ArtifactError(path, error.strerror or str(error)) from error
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(path, f"the manifest is damaged: {error}") from error
    return _checked(manifest, path)


def _checked(manifest: object, path: str | os.PathLike[str]) -> dict[str, Any]:
    if not isinstance(manifest, dict):
        raise ArtifactError(path, "the manifest is damaged: not an object")
    version = manifest.get("format_version")
    if type(version) is not int:
        raise ArtifactError(path, "the manifest is damaged: no format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            path,
            f"artifact format {version}, but this tfc reads format {FORMAT_VERSION}; "
            "compile the model again",
        )
    for key in ("name", "prefix"):
        if not isinstance(manifest.get(key), str):
            raise ArtifactError(path, f"the manifest is damaged: no {key}")
    return manifest


def _find_manifest(reader: _Reader, path: Path) -> bytes:
    sections, names_index = _section_headers(reader, path)
    names_header = sections[names_index]
    names = reader.read(names_header.offset, min(names_header.size, _MAX_NAMES), "section names")
    wanted = MANIFEST_SECTION.encode() + b"\0"
    for section in sections:
        if names[section.name : section.name + len(wanted)] == wanted:
            if section.type == _NOBITS or section.size > _MAX_MANIFEST:
                raise ArtifactError(path, "damaged: the manifest has no contents or too large ones")
            return reader.read(section.offset, section.size, "manifest")
    raise ArtifactError(path, f"not made by tfc: no section {MANIFEST_SECTION}")


def _section_headers(reader: _Reader, path: Path) -> tuple[list[_Section], int]:
    """Return the section headers and the index of the one with their names.

    Everything the file is said to hold is checked to be there, so a truncated file is found
    even when its manifest survived.
    """
    header = reader.read(0, _EHDR.size, "file header")
    if header[:4] != b"\x7fELF":
        raise ArtifactError(path, "not an ELF file")
    fields = _EHDR.unpack(header)
    phoff, shoff = fields[5:7]
    phentsize, phnum, shentsize, shnum, shstrndx = fields[9:]
    if header[4:6] != b"\x02\x01":
        raise ArtifactError(path, "not a little-endian 64-bit ELF file")
    if (phnum and phentsize != _PHDR.size) or shentsize != _SHDR.size:
        raise ArtifactError(path, "damaged: wrong size of a header entry")
    if shstrndx >= shnum:
        raise ArtifactError(path, "damaged: no section names")
    segments = reader.read(phoff, phnum * _PHDR.size, "program headers")
    for _, _, offset, _, _, size, _, _ in _PHDR.iter_unpack(segments):
        reader.check(offset, size, "a segment")
    table = reader.read(shoff, shnum * _SHDR.size, "section headers")
    sections = []
    for name, kind, _, _, offset, size, *_ in _SHDR.iter_unpack(table):
        if kind not in (0, _NOBITS):
            reader.check(offset, size, "a section")
        sections.append(_Section(name, kind, offset, size))
    return sections, shstrndx


class _Section(NamedTuple):
    name: int
    type: int
    offset: int
    size: int


class _Reader:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._size = os.fstat(file.fileno()).st_size

    def check(self, offset: int, size: int, what: str) -> None:
        if offset + size > self._size:
            raise ArtifactError(self._path, f"truncated: {what} ends beyond the file")

    def read(self, offset: int, size: int, what: str) -> bytes:
        self.check(offset, size, what)
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise ArtifactError(self._path, f"truncated: {what} ends beyond the file")
        return data
