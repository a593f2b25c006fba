"""Last half of every link: symbol names for debuggers, section headers, the file itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from tfc.compiler.link import elf
from tfc.compiler.link.elf import Phdr, Shdr, StringTable, Sym, align_up
from tfc.compiler.link.merge import Definition, Merged, OutputSection
from tfc.runtime.artifact import MANIFEST_SECTION


@dataclass(frozen=True)
class LinkReport:
    """What was written: bytes in the file, bytes per loaded section, symbols left to libc."""

    file_size: int
    section_sizes: dict[str, int]
    imports: tuple[str, ...]


def pack_symbol(strings: StringTable, bind: int, definition: Definition) -> bytes:
    """Pack a .symtab entry; default visibility, since `bind` alone says who may see it."""
    place = definition.place
    return elf.SYM.pack(
        *Sym(
            strings.add(definition.name),
            bind << 4 | definition.type,
            0,
            place.section.index,
            place.address,
            definition.size,
        )
    )


def symbol_sections(
    strings: StringTable, entries: Sequence[bytes], locals_count: int, first_index: int
) -> list[OutputSection]:
    """Make .symtab and .strtab, to be sections `first_index` and the next."""
    symtab = OutputSection(".symtab", elf.SHT_SYMTAB, 0, entsize=elf.SYM.size)
    symtab.append(b"".join(entries), 8)
    symtab.link = first_index + 1
    symtab.info = locals_count
    strtab = OutputSection(".strtab", elf.SHT_STRTAB, 0)
    strtab.append(strings.data, 1)
    return [symtab, strtab]


def manifest_section(manifest: bytes) -> OutputSection:
    section = OutputSection(MANIFEST_SECTION, elf.SHT_PROGBITS, 0)
    section.append(manifest, 1)
    return section


def debug_symbols(merged: Merged, exports: Sequence[str], first_index: int) -> list[OutputSection]:
    """Make the symbol table that perf and gdb read: all functions, local unless exported."""
    strings = StringTable()
    exported = set(exports)
    hidden = [d for name, d in merged.definitions.items() if name not in exported]
    entries = [bytes(elf.SYM.size)]
    entries += [pack_symbol(strings, elf.STB_LOCAL, d) for d in [*merged.locals, *hidden]]
    locals_count = len(entries)
    entries += [pack_symbol(strings, elf.STB_GLOBAL, merged.definitions[n]) for n in exports]
    return symbol_sections(strings, entries, locals_count, first_index)


def write_sections(
    out: BinaryIO,
    kind: int,
    machine: int,
    *,
    sections: list[OutputSection],
    blob: OutputSection | None,
    program_headers: Callable[[], list[Phdr]],
    stream: Callable[[], None],
) -> int:
    """Write the file front to back and return its size.

    Loaded sections have offsets already; the others follow them, then the section headers, then
    `blob`, whose bytes `stream` writes. Program headers are asked for when offsets are known.
    """
    names = StringTable()
    shstrtab = OutputSection(".shstrtab", elf.SHT_STRTAB, 0)
    sections = [*sections, shstrtab]
    name_offsets = [names.add(section.name) for section in sections]
    shstrtab.append(names.data, 1)

    position = max(
        (s.offset + s.size for s in sections if s.offset and s.data and s is not blob),
        default=elf.EHDR.size,
    )
    for section in sections:
        if not section.offset:
            position = align_up(position, section.align)
            section.offset = position
            position += len(section.data)
    header_offset = align_up(position, 8)
    end = header_offset + elf.SHDR.size * (len(sections) + 1)
    if blob is not None:
        blob.offset = align_up(end, blob.align)
        end = blob.offset + blob.size

    headers = program_headers()
    file_header = elf.file_header(
        kind,
        machine,
        phnum=len(headers),
        shoff=header_offset,
        shnum=len(sections) + 1,
        shstrndx=len(sections),
    )
    image = bytearray(file_header)
    for header in headers:
        image += elf.PHDR.pack(*header)
    for section in sections:
        if section.data:
            image += bytes(section.offset - len(image))
            image += section.data
    image += bytes(header_offset - len(image) + elf.SHDR.size)
    for section, name in zip(sections, name_offsets, strict=True):
        image += elf.SHDR.pack(*_section_header(section, name))
    if blob is not None:
        image += bytes(blob.offset - len(image))
    out.write(image)
    if blob is not None:
        stream()
    return end


def _section_header(section: OutputSection, name: int) -> Shdr:
    return Shdr(
        name, section.type, section.flags, section.address, section.offset, section.size,
        section.link, section.info, section.align, section.entsize,
    )  # fmt: skip
