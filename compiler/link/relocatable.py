"""Write one relocatable object out of many, as `ld -r` does; only `exports` stay global.

Relocations are carried over, not applied: the user's linker does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from tfc.compiler.link import elf
from tfc.compiler.link.blob import Blob, stream_blobs
from tfc.compiler.link.machine import Kind
from tfc.compiler.link.merge import Merged, MergedObject, OutputSection, is_anonymous, merge
from tfc.compiler.link.output import (
    LinkReport,
    manifest_section,
    pack_symbol,
    symbol_sections,
    write_sections,
)
from tfc.ir.errors import CompileError


def write_relocatable(
    out: BinaryIO,
    objects: Sequence[bytes],
    *,
    exports: Sequence[str],
    blobs: Sequence[Blob] = (),
    manifest: bytes,
    libc: Sequence[str] = (),
) -> LinkReport:
    """Merge `objects` and `blobs` into one relocatable object; `libc` may stay undefined.

    `out` is written front to back and need not be seekable.
    """
    merged = merge(objects, exports=exports, blobs=blobs, libc=libc)
    loaded = list(merged.sections.values())
    for index, section in enumerate(loaded, start=1):
        section.index = index
    table = _SymbolTable(merged, exports)
    relocations = _relocations(merged, table)
    extra = [
        *relocations,
        manifest_section(manifest),
        OutputSection(".note.GNU-stack", elf.SHT_PROGBITS, 0),
    ]
    symtab_index = len(loaded) + len(extra) + 1
    for section in relocations:
        section.link = symtab_index
    extra += symbol_sections(table.strings, table.entries, table.locals_count, symtab_index)
    size = write_sections(
        out,
        elf.ET_REL,
        merged.machine.number,
        sections=[*loaded, *extra],
        blob=merged.sections.get(merged.machine.blob_section) if blobs else None,
        program_headers=list,
        stream=lambda: stream_blobs(out, merged.blobs),
    )
    return LinkReport(
        file_size=size,
        section_sizes={section.name: section.size for section in loaded},
        imports=tuple(merged.imports),
    )


class _SymbolTable:
    """Symbols of the output, and the way from an input symbol to one of them."""

    def __init__(self, merged: Merged, exports: Sequence[str]) -> None:
        self.strings = elf.StringTable()
        self.entries = [bytes(elf.SYM.size)]
        self._locals: list[int] = []
        self._globals: dict[str, int] = {}
        section_info = elf.STB_LOCAL << 4 | elf.STT_SECTION
        for section in merged.sections.values():
            self.entries.append(elf.SYM.pack(0, section_info, 0, section.index, 0, 0))
        for definition in merged.locals:
            self._locals.append(len(self.entries))
            self.entries.append(pack_symbol(self.strings, elf.STB_LOCAL, definition))
        exported = set(exports)
        for name, definition in merged.definitions.items():
            if name not in exported:
                self._globals[name] = len(self.entries)
                self.entries.append(pack_symbol(self.strings, elf.STB_LOCAL, definition))
        self.locals_count = len(self.entries)
        for name in exports:
            self._globals[name] = len(self.entries)
            self.entries.append(pack_symbol(self.strings, elf.STB_GLOBAL, merged.definitions[name]))
        for name in merged.imports:
            self._globals[name] = len(self.entries)
            info = elf.STB_GLOBAL << 4 | elf.STT_NOTYPE
            self.entries.append(elf.SYM.pack(self.strings.add(name), info, 0, 0, 0, 0))
        self._next_local = iter(self._locals)

    def translate(self, merged: MergedObject) -> list[tuple[int, int]]:
        """New index and addition to the addend, by old index; call once, in order of objects."""
        result = []
        for symbol, target in zip(merged.file.symbols, merged.targets, strict=True):
            if symbol.bind != elf.STB_LOCAL:
                result.append((self._globals.get(symbol.name, 0), 0))
            elif target is None:
                result.append((0, 0))
            elif is_anonymous(symbol):
                result.append((target.section.index, target.offset))
            else:
                result.append((next(self._next_local), 0))
        return result


def _relocations(merged: Merged, table: _SymbolTable) -> list[OutputSection]:
    tables: dict[str, OutputSection] = {}
    # The addend of these moves the instruction's operand, not the symbol in the slot.
    got_kinds = {n for n, r in merged.machine.relocations.items() if r.kind is Kind.GOT}
    for item in merged.objects:
        symbols = table.translate(item)
        for section, place in item.sections:
            if not section.relocs:
                continue
            target = place.section
            out = tables.get(target.name)
            if out is None:
                out = OutputSection(
                    f".rela{target.name}",
                    elf.SHT_RELA,
                    elf.SHF_INFO_LINK,
                    align=8,
                    entsize=elf.RELA.size,
                    info=target.index,
                )
                tables[target.name] = out
            packed = bytearray()
            for offset, info, addend in section.relocs:
                index, extra = symbols[info >> 32]
                kind = info & 0xFFFFFFFF
                if extra and kind in got_kinds:
                    name = merged.machine.relocation_name(kind)
                    raise CompileError(f"relocation {name} against a symbol without a name")
                packed += elf.RELA.pack(place.offset + offset, index << 32 | kind, addend + extra)
            out.append(packed, 8)
    return list(tables.values())
