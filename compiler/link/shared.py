"""Write an ELF shared object: layout, relocation, dynamic tables, then the file in one pass.

Everything is bound at load (no lazy binding) and only `exports` are visible. Input is merged by
`merge.py`; the rules of one CPU architecture are in `machine.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from tfc.compiler.link import elf
from tfc.compiler.link.blob import Blob, stream_blobs
from tfc.compiler.link.elf import Phdr, Sym, align_up
from tfc.compiler.link.machine import Kind
from tfc.compiler.link.merge import Definition, Merged, MergedObject, OutputSection, Place, merge
from tfc.compiler.link.output import LinkReport, debug_symbols, manifest_section, write_sections
from tfc.ir.errors import CompileError

LIBC = "libc.so.6"

# A GOT slot belongs to a global name or to symbol i of object o.
_Slot = str | tuple[int, int]


class _Use(NamedTuple):
    """An address that the loader writes: where, and what (a name is an import)."""

    at: Place
    target: Place | str
    addend: int
    type: int


def write_shared(
    out: BinaryIO,
    objects: Sequence[bytes],
    *,
    exports: Sequence[str],
    blobs: Sequence[Blob] = (),
    manifest: bytes,
    soname: str | None = None,
    libc: Sequence[str] = (),
) -> LinkReport:
    """Link `objects` and `blobs` into a shared object with `manifest` in its own section.

    `libc` lists the only names that may stay undefined; when one is used, libc.so.6 is needed.
    `out` is written front to back and need not be seekable.
    """
    merged = merge(objects, exports=exports, blobs=blobs, libc=libc)
    link = _SharedLink(merged, exports, soname)
    link.scan()
    link.make_dynamic_tables()
    link.layout()
    link.relocate()
    link.fill_dynamic_tables()
    size = link.write(out, manifest)
    return LinkReport(
        file_size=size,
        section_sizes={section.name: section.size for section in link.loaded_sections()},
        imports=tuple(merged.imports),
    )


@dataclass
class _Segment:
    flags: int
    sections: list[OutputSection]
    relro: bool = False
    address: int = 0
    file_size: int = 0
    memory_size: int = 0
    align: int = 0

    @property
    def offset(self) -> int:
        first = self.sections[0]
        return first.offset - (first.address - self.address)


class _SharedLink:
    def __init__(self, merged: Merged, exports: Sequence[str], soname: str | None) -> None:
        self.merged = merged
        self.machine = merged.machine
        self.soname = soname
        self.exports = _gnu_hash_order(exports)
        self.got = _table(".got", elf.SHF_WRITE, align=8, entsize=8)
        self.plt = _table(".plt", elf.SHF_EXECINSTR, align=16, entsize=self.machine.plt_size)
        self.hash = _table(".gnu.hash", 0, align=8, kind=elf.SHT_GNU_HASH)
        self.dynsym = _table(".dynsym", 0, align=8, entsize=elf.SYM.size, kind=elf.SHT_DYNSYM)
        self.dynstr = _table(".dynstr", 0, align=1, kind=elf.SHT_STRTAB)
        self.rela = _table(".rela.dyn", 0, align=8, entsize=elf.RELA.size, kind=elf.SHT_RELA)
        self.dynamic = _table(
            ".dynamic", elf.SHF_WRITE, align=8, entsize=elf.DYN.size, kind=elf.SHT_DYNAMIC
        )
        self.strings = elf.StringTable()
        self.uses: list[_Use] = []
        self.segments: list[_Segment] = []
        self._slots: dict[_Slot, int] = {}
        self._stubs: dict[str, int] = {}

    def loaded_sections(self) -> Iterator[OutputSection]:
        for segment in self.segments:
            yield from segment.sections

    # Pass 1: what do the relocations need?

    def scan(self) -> None:
        relocations = self.machine.relocations
        for number, merged in enumerate(self.merged.objects):
            for section, place in merged.sections:
                for offset, info, addend in section.relocs:
                    relocation = relocations.get(info & 0xFFFFFFFF)
                    if relocation is None:
                        self._refuse(merged, info)
                    elif relocation.kind is Kind.GOT:
                        self._need_slot(number, merged, info >> 32)
                    elif relocation.kind is Kind.ADDRESS:
                        at = Place(place.section, place.offset + offset)
                        self._need_address(merged, at, info >> 32, addend)
                    elif merged.targets[info >> 32] is None:
                        if relocation.kind is not Kind.CALL:
                            self._refuse(merged, info)
                        self._need_stub(merged.file.symbols[info >> 32].name)

    def _refuse(self, merged: MergedObject, info: int) -> None:
        name = self.machine.relocation_name(info & 0xFFFFFFFF)
        symbol = _describe(merged, info >> 32)
        raise CompileError(
            f"relocation {name} against {symbol} cannot be used in a shared object; "
            "objects must use the 'pic' relocation model and the 'small' code model"
        )

    def _need_slot(self, number: int, merged: MergedObject, index: int) -> None:
        symbol = merged.file.symbols[index]
        key: _Slot = (number, index) if symbol.bind == elf.STB_LOCAL else symbol.name
        if key in self._slots:
            return
        offset = self._slots[key] = self.got.reserve(8, 8)
        target = merged.targets[index]
        if target is None:
            use = _Use(Place(self.got, offset), symbol.name, 0, self.machine.dyn_glob_dat)
        else:
            use = _Use(Place(self.got, offset), target, 0, self.machine.dyn_relative)
        self.uses.append(use)

    def _need_address(self, merged: MergedObject, at: Place, index: int, addend: int) -> None:
        target = merged.targets[index]
        if not at.section.flags & elf.SHF_WRITE:
            raise CompileError(
                f"section {at.section.name} holds the address of {_describe(merged, index)}; "
                "only writable sections and .data.rel.ro can"
            )
        if target is None:
            name = merged.file.symbols[index].name
            self.uses.append(_Use(at, name, addend, self.machine.dyn_address))
        else:
            self.uses.append(_Use(at, target, addend, self.machine.dyn_relative))

    def _need_stub(self, name: str) -> None:
        if name in self._stubs:
            return
        self._stubs[name] = self.plt.reserve(self.machine.plt_size, 16)
        if name not in self._slots:
            offset = self._slots[name] = self.got.reserve(8, 8)
            at = Place(self.got, offset)
            self.uses.append(_Use(at, name, 0, self.machine.dyn_glob_dat))

    # Sizes of all tables, then addresses.

    def make_dynamic_tables(self) -> None:
        imports = self.merged.imports
        self.dynsym.size = elf.SYM.size * (1 + len(imports) + len(self.exports))
        self.dynsym.info = 1
        self.hash.append(_gnu_hash_table(self.exports, 1 + len(imports)), 8)
        for name in [*imports, *self.exports]:
            self.strings.add(name)
        if self.soname:
            self.strings.add(self.soname)
        if imports:
            self.strings.add(LIBC)
        self.dynstr.append(self.strings.data, 1)
        self.rela.size = elf.RELA.size * len(self.uses)
        self.got.data = bytearray(self.got.size)
        self.plt.data = bytearray(self.plt.size)
        self.dynamic.size = elf.DYN.size * len(self._dynamic_entries())

    def layout(self) -> None:
        find = self.merged.sections.get
        read_only = [self.hash, self.dynsym, self.dynstr, self.rela, find(".rodata")]
        constant = [find(".data.rel.ro"), self.dynamic, self.got]
        wanted = [
            (elf.PF_R, read_only, False),
            (elf.PF_R | elf.PF_X, [find(".text"), self.plt], False),
            (elf.PF_R | elf.PF_W, constant, True),
            (elf.PF_R | elf.PF_W, [find(".data"), find(".bss")], False),
            (elf.PF_R, [find(self.machine.blob_section)], False),
        ]
        for flags, candidates, relro in wanted:
            sections = [s for s in candidates if s is not None and s.size]
            if sections:
                self.segments.append(_Segment(flags, sections, relro))
        position = elf.EHDR.size + elf.PHDR.size * (len(self.segments) + 3)
        address = position
        for segment in self.segments:
            aligns = (section.align for section in segment.sections)
            segment.align = max(self.machine.page, *aligns)
            if segment is not self.segments[0]:
                # A blob's place in the file is found later, behind the tables no one loads.
                skew = 0 if self._is_blob(segment) else position % segment.align
                segment.address = address = align_up(address, segment.align) + skew
            position, address = self._layout_segment(segment, position, address)
        for index, section in enumerate(self.loaded_sections(), start=1):
            section.index = index
        self.rela.link = self.dynsym.index
        self.hash.link = self.dynsym.index
        self.dynsym.link = self.dynamic.link = self.dynstr.index

    def _layout_segment(self, segment: _Segment, position: int, address: int) -> tuple[int, int]:
        for section in segment.sections:
            gap = -address % section.align
            address += gap
            section.address = address
            if section.type == elf.SHT_NOBITS:
                section.offset = position
            else:
                position += gap
                section.offset = position
                position += section.size
            address += section.size
        segment.file_size = position - segment.offset
        segment.memory_size = address - segment.address
        if segment.relro:
            # The loader protects whole pages only.
            address = align_up(address, self.machine.page)
            segment.memory_size = address - segment.address
        return position, address

    def _is_blob(self, segment: _Segment) -> bool:
        return segment.sections[0].name == self.machine.blob_section

    # Pass 2: addresses are known.

    def relocate(self) -> None:
        relocations = self.machine.relocations
        got = self.got.address
        for number, merged in enumerate(self.merged.objects):
            addresses = self._addresses(merged)
            for section, place in merged.sections:
                data, base, start = place.section.data, place.offset, place.address
                for offset, info, addend in section.relocs:
                    relocation = relocations[info & 0xFFFFFFFF]
                    index = info >> 32
                    if relocation.kind is Kind.GOT:
                        target = got + self._slot(number, merged, index)
                    else:
                        target = addresses[index]
                    try:
                        relocation.apply(data, base + offset, start + offset, target + addend)
                    except struct.error as error:
                        raise CompileError(
                            f"relocation {relocation.name} against {_describe(merged, index)} "
                            f"cannot reach its target: {error}"
                        ) from error

    def _slot(self, number: int, merged: MergedObject, index: int) -> int:
        symbol = merged.file.symbols[index]
        if symbol.bind == elf.STB_LOCAL:
            return self._slots[number, index]
        return self._slots[symbol.name]

    def _addresses(self, merged: MergedObject) -> list[int]:
        """Addresses by symbol index; imports stand for their stub (0 when there is none)."""
        addresses = []
        for target, symbol in zip(merged.targets, merged.file.symbols, strict=True):
            if target is not None:
                addresses.append(target.address)
            elif symbol.name in self._stubs:
                addresses.append(self.plt.address + self._stubs[symbol.name])
            else:
                addresses.append(0)
        return addresses

    def fill_dynamic_tables(self) -> None:
        for name, offset in self._stubs.items():
            slot = self.got.address + self._slots[name]
            stub = self.machine.plt_stub(self.plt.address + offset, slot)
            self.plt.data[offset : offset + len(stub)] = stub
        symbols = [Sym(0, 0, 0, 0, 0, 0)]
        for name in self.merged.imports:
            info = elf.STB_GLOBAL << 4 | elf.STT_NOTYPE
            symbols.append(Sym(self.strings.add(name), info, 0, elf.SHN_UNDEF, 0, 0))
        for name in self.exports:
            symbols.append(self._export(self.merged.definitions[name]))
        self.dynsym.append(b"".join(elf.SYM.pack(*symbol) for symbol in symbols), 8)
        self.rela.append(b"".join(self._dynamic_relocations()), 8)
        self.dynamic.append(
            b"".join(elf.DYN.pack(tag, value) for tag, value in self._dynamic_entries()), 8
        )

    def _export(self, definition: Definition) -> Sym:
        info = elf.STB_GLOBAL << 4 | definition.type
        place = definition.place
        name = self.strings.add(definition.name)
        return Sym(name, info, 0, place.section.index, place.address, definition.size)

    def _dynamic_relocations(self) -> list[bytes]:
        indices = {name: 1 + i for i, name in enumerate(self.merged.imports)}
        relative, others = [], []
        for at, target, addend, kind in self.uses:
            if isinstance(target, str):
                others.append((at.address, indices[target] << 32 | kind, addend))
            else:
                relative.append((at.address, kind, target.address + addend))
        return [elf.RELA.pack(*entry) for entry in [*sorted(relative), *sorted(others)]]

    def _dynamic_entries(self) -> list[tuple[int, int]]:
        relative = sum(use.type == self.machine.dyn_relative for use in self.uses)
        entries = []
        if self.merged.imports:
            entries.append((elf.DT_NEEDED, self.strings.add(LIBC)))
        if self.soname:
            entries.append((elf.DT_SONAME, self.strings.add(self.soname)))
        entries += [
            (elf.DT_GNU_HASH, self.hash.address),
            (elf.DT_STRTAB, self.dynstr.address),
            (elf.DT_SYMTAB, self.dynsym.address),
            (elf.DT_STRSZ, self.dynstr.size),
            (elf.DT_SYMENT, elf.SYM.size),
        ]
        if self.uses:
            entries += [
                (elf.DT_RELA, self.rela.address),
                (elf.DT_RELASZ, self.rela.size),
                (elf.DT_RELAENT, elf.RELA.size),
                (elf.DT_RELACOUNT, relative),
            ]
        entries += [
            (elf.DT_FLAGS, elf.DF_BIND_NOW),
            (elf.DT_FLAGS_1, elf.DF_1_NOW),
            (elf.DT_NULL, 0),
        ]
        return entries

    # The file.

    def write(self, out: BinaryIO, manifest: bytes) -> int:
        loaded = list(self.loaded_sections())
        tables = [manifest_section(manifest)]
        tables += debug_symbols(self.merged, self.exports, first_index=len(loaded) + 2)
        blob = self.segments[-1] if self._is_blob(self.segments[-1]) else None
        return write_sections(
            out,
            elf.ET_DYN,
            self.machine.number,
            sections=[*loaded, *tables],
            blob=None if blob is None else blob.sections[0],
            program_headers=self._program_headers,
            stream=lambda: stream_blobs(out, self.merged.blobs),
        )

    def _program_headers(self) -> list[Phdr]:
        headers = []
        for s in self.segments:
            headers.append(
                Phdr(elf.PT_LOAD, s.flags, s.offset, s.address, s.address, s.file_size,
                     s.memory_size, s.align)
            )  # fmt: skip
        d = self.dynamic
        headers.append(
            Phdr(elf.PT_DYNAMIC, elf.PF_R | elf.PF_W, d.offset, d.address, d.address, d.size,
                 d.size, 8)
        )  # fmt: skip
        for s in self.segments:
            if s.relro:
                headers.append(
                    Phdr(elf.PT_GNU_RELRO, elf.PF_R, s.offset, s.address, s.address,
                         s.file_size, s.memory_size, 1)
                )  # fmt: skip
        headers.append(Phdr(elf.PT_GNU_STACK, elf.PF_R | elf.PF_W, 0, 0, 0, 0, 0, 16))
        return headers


def _table(
    name: str, flags: int, *, align: int, entsize: int = 0, kind: int = elf.SHT_PROGBITS
) -> OutputSection:
    return OutputSection(name, kind, flags | elf.SHF_ALLOC, align=align, entsize=entsize)


def _describe(merged: MergedObject, index: int) -> str:
    symbol = merged.file.symbols[index]
    if symbol.name:
        return f"symbol {symbol.name}"
    return f"section {merged.file.sections[symbol.shndx].name}"


def _gnu_hash(name: str) -> int:
    value = 5381
    for byte in name.encode():
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def _buckets(count: int) -> int:
    return max(1, count // 2)


def _gnu_hash_order(names: Sequence[str]) -> list[str]:
    buckets = _buckets(len(names))
    return sorted(names, key=lambda name: (_gnu_hash(name) % buckets, name))


def _gnu_hash_table(names: Sequence[str], first: int) -> bytes:
    """Build .gnu.hash for `names` (in `_gnu_hash_order`), which are symbols `first` and up."""
    shift = 26
    count = _buckets(len(names))
    bloom = [0] * (1 << (len(names) // 4).bit_length())
    buckets = [0] * count
    chain = []
    hashes = [_gnu_hash(name) for name in names]
    for i, value in enumerate(hashes):
        bloom[value // 64 % len(bloom)] |= 1 << value % 64 | 1 << (value >> shift) % 64
        if not buckets[value % count]:
            buckets[value % count] = first + i
        last = i + 1 == len(hashes) or hashes[i + 1] % count != value % count
        chain.append(value & ~1 | last)
    return (
        struct.pack("<4I", count, first, len(bloom), shift)
        + struct.pack(f"<{len(bloom)}Q", *bloom)
        + struct.pack(f"<{count}I", *buckets)
        + struct.pack(f"<{len(chain)}I", *chain)
    )
