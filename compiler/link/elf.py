"""ELF64 records, constants and a parser for relocatable objects; no linking decisions.

Layouts follow the System V gABI (chapters 4 and 5), little-endian only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tfc.ir.errors import CompileError

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
SHDR = struct.Struct("<IIQQQQIIQQ")
SYM = struct.Struct("<IBBHQQ")
RELA = struct.Struct("<QQq")
DYN = struct.Struct("<qQ")

ET_REL, ET_DYN = 1, 3
EM_X86_64, EM_AARCH64 = 62, 183

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA = 1, 2, 3, 4
SHT_DYNAMIC, SHT_NOTE, SHT_NOBITS, SHT_REL = 6, 7, 8, 9
SHT_DYNSYM, SHT_INIT_ARRAY, SHT_FINI_ARRAY, SHT_PREINIT_ARRAY = 11, 14, 15, 16
SHT_GROUP, SHT_GNU_HASH, SHT_X86_64_UNWIND = 17, 0x6FFFFFF6, 0x70000001

SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 0x1, 0x2, 0x4
SHF_INFO_LINK, SHF_TLS, SHF_X86_64_LARGE = 0x40, 0x400, 0x10000000

SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_COMMON = 0, 0xFF00, 0xFFF1, 0xFFF2
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = 0, 1, 2, 3, 4
GRP_COMDAT = 1

PT_LOAD, PT_DYNAMIC = 1, 2
PT_GNU_STACK, PT_GNU_RELRO = 0x6474E551, 0x6474E552
PF_X, PF_W, PF_R = 1, 2, 4

DT_NULL, DT_NEEDED, DT_STRTAB, DT_SYMTAB = 0, 1, 5, 6
DT_RELA, DT_RELASZ, DT_RELAENT, DT_STRSZ, DT_SYMENT, DT_SONAME = 7, 8, 9, 10, 11, 14
DT_FLAGS, DT_GNU_HASH, DT_RELACOUNT, DT_FLAGS_1 = 30, 0x6FFFFEF5, 0x6FFFFFF9, 0x6FFFFFFB
DF_BIND_NOW, DF_1_NOW = 0x8, 0x1


class Ehdr(NamedTuple):
    """File header."""

    ident: bytes
    type: int
    machine: int
    version: int
    entry: int
    phoff: int
    shoff: int
    flags: int
    ehsize: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


class Phdr(NamedTuple):
    """Program header: one segment that the loader sees."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


class Shdr(NamedTuple):
    """Section header; `name` is an offset in the section name table."""

    name: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int


class Sym(NamedTuple):
    """Symbol table entry; `name` is an offset in the string table."""

    name: int
    info: int
    other: int
    shndx: int
    value: int
    size: int


def file_header(
    kind: int, machine: int, *, phnum: int, shoff: int, shnum: int, shstrndx: int
) -> bytes:
    """Pack the file header; program headers, if any, follow it at once."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    phoff, phentsize = (EHDR.size, PHDR.size) if phnum else (0, 0)
    return EHDR.pack(
        *Ehdr(ident, kind, machine, 1, 0, phoff, shoff, 0, EHDR.size, phentsize, phnum,
              SHDR.size, shnum, shstrndx)
    )  # fmt: skip


def align_up(value: int, align: int) -> int:
    return value + -value % align


class StringTable:
    """A growing string table: `add` returns the offset of a name."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._offsets: dict[str, int] = {"": 0}

    def add(self, name: str) -> int:
        offset = self._offsets.get(name)
        if offset is None:
            offset = self._offsets[name] = len(self.data)
            self.data += name.encode() + b"\0"
        return offset


class Symbol(NamedTuple):
    """A symbol of an object file, with its name looked up."""

    name: str
    bind: int
    type: int
    shndx: int
    value: int
    size: int


@dataclass(slots=True)
class InputSection:
    """A section of an object file; `relocs` holds (offset, info, addend)."""

    name: str
    type: int
    flags: int
    align: int
    size: int
    data: memoryview
    relocs: list[tuple[int, int, int]]


@dataclass(slots=True)
class ObjectFile:
    """A parsed relocatable object; `sections` and `symbols` keep the file's numbering."""

    machine: int
    sections: list[InputSection]
    symbols: list[Symbol]
    groups: list[tuple[str, tuple[int, ...]]]

    @classmethod
    def parse(cls, data: bytes | memoryview) -> ObjectFile:
        try:
            return _parse(memoryview(data))
        except (struct.error, IndexError, ValueError) as error:
            raise CompileError(f"object file is damaged: {error}") from error


def _parse(data: memoryview) -> ObjectFile:
    header = Ehdr._make(EHDR.unpack_from(data))
    if header.ident[:6] != b"\x7fELF\x02\x01" or header.type != ET_REL:
        raise CompileError("object file is not a little-endian ELF64 relocatable object")
    table = data[header.shoff : header.shoff + header.shnum * SHDR.size]
    headers = [Shdr._make(fields) for fields in SHDR.iter_unpack(table)]
    if header.shnum == 0 or len(headers) != header.shnum:
        raise CompileError("object file has no complete section table")
    names = bytes(_contents(data, headers[header.shstrndx]))
    sections = [
        InputSection(
            _string(names, h.name), h.type, h.flags, max(h.align, 1), h.size,
            _contents(data, h), [],
        )
        for h in headers
    ]  # fmt: skip
    symbols: list[Symbol] = []
    for section, h in zip(sections, headers, strict=True):
        if h.type == SHT_SYMTAB:
            symbols = list(_symbols(section.data, bytes(sections[h.link].data)))
        elif h.type == SHT_RELA:
            sections[h.info].relocs += RELA.iter_unpack(section.data)
        elif h.type == SHT_REL:
            raise CompileError(f"section {section.name}: SHT_REL relocations are not supported")
    groups = []
    for section, h in zip(sections, headers, strict=True):
        if h.type == SHT_GROUP:
            words = [word for (word,) in struct.iter_unpack("<I", section.data)]
            if words[0] & GRP_COMDAT:
                groups.append((symbols[h.info].name, tuple(words[1:])))
    return ObjectFile(header.machine, sections, symbols, groups)


def _contents(data: memoryview, header: Shdr) -> memoryview:
    if header.type == SHT_NOBITS:
        return data[:0]
    end = header.offset + header.size
    if end > len(data):
        raise CompileError("object file is damaged: a section ends beyond the file")
    return data[header.offset : end]


def _string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


def _symbols(table: memoryview, names: bytes) -> Iterator[Symbol]:
    for name, info, _other, shndx, value, size in SYM.iter_unpack(table):
        yield Symbol(_string(names, name), info >> 4, info & 15, shndx, value, size)
