"""First half of every link: merge input sections, pair symbol uses with definitions.

Neither addresses nor file layout: `shared.py` and `relocatable.py` do that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tfc.compiler.link.blob import Blob, place_blobs
from tfc.compiler.link.elf import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_TLS,
    SHF_WRITE,
    SHN_ABS,
    SHN_COMMON,
    SHN_LORESERVE,
    SHN_UNDEF,
    SHT_FINI_ARRAY,
    SHT_INIT_ARRAY,
    SHT_NOBITS,
    SHT_NOTE,
    SHT_PREINIT_ARRAY,
    SHT_PROGBITS,
    SHT_X86_64_UNWIND,
    STB_GLOBAL,
    STB_LOCAL,
    STT_FILE,
    STT_OBJECT,
    STT_SECTION,
    InputSection,
    ObjectFile,
    Symbol,
    align_up,
)
from tfc.compiler.link.machine import Machine, machine_of
from tfc.ir.errors import CompileError

_DROPPED_TYPES = {SHT_NOTE, SHT_X86_64_UNWIND}
_ARRAY_TYPES = {SHT_INIT_ARRAY, SHT_FINI_ARRAY, SHT_PREINIT_ARRAY}
_FLAGS = SHF_ALLOC | SHF_WRITE | SHF_EXECINSTR


@dataclass(slots=True, eq=False)
class OutputSection:
    """A section of the file being written; `size` exceeds `data` for zeros and blobs."""

    name: str
    type: int
    flags: int
    align: int = 1
    size: int = 0
    data: bytearray = field(default_factory=bytearray)
    entsize: int = 0
    index: int = 0
    address: int = 0
    offset: int = 0
    link: int = 0
    info: int = 0

    def append(self, data: bytes | bytearray | memoryview, align: int, fill: bytes = b"\0") -> int:
        start = align_up(self.size, align)
        self.data += fill * (start - self.size)
        self.data += data
        self.size = len(self.data)
        self.align = max(self.align, align)
        return start

    def reserve(self, size: int, align: int) -> int:
        start = align_up(self.size, align)
        self.size = start + size
        self.align = max(self.align, align)
        return start


class Place(NamedTuple):
    """A point in an output section."""

    section: OutputSection
    offset: int

    @property
    def address(self) -> int:
        return self.section.address + self.offset


class Definition(NamedTuple):
    """A symbol with a place; `bind` is what its object said."""

    name: str
    bind: int
    type: int
    size: int
    place: Place


@dataclass(slots=True)
class MergedObject:
    """An object whose kept sections have places; `targets[i]` is where symbol i is.

    A target of None is an import, or a symbol that no kept section may use.
    """

    file: ObjectFile
    sections: list[tuple[InputSection, Place]]
    targets: list[Place | None]


@dataclass(slots=True)
class Merged:
    """Everything that is known before addresses are."""

    machine: Machine
    sections: dict[str, OutputSection]
    objects: list[MergedObject]
    locals: list[Definition]
    definitions: dict[str, Definition]
    imports: list[str]
    blobs: Sequence[Blob]


def merge(
    objects: Sequence[bytes],
    *,
    exports: Sequence[str],
    blobs: Sequence[Blob],
    libc: Sequence[str],
) -> Merged:
    """Merge `objects`; raise CompileError for what cannot be linked, naming it."""
    if not objects:
        raise CompileError("nothing to link: no object files")
    files = [ObjectFile.parse(data) for data in objects]
    numbers = {file.machine for file in files}
    if len(numbers) > 1:
        raise CompileError(f"objects for different ELF machines: {sorted(numbers)}")
    merger = _Merger(machine_of(files[0].machine))
    for file in files:
        merger.add(file)
    merger.add_blobs(blobs)
    merger.resolve(frozenset(libc))
    result = merger.result
    missing = [name for name in exports if name not in result.definitions]
    if missing:
        raise CompileError(f"exported but not defined: {', '.join(missing)}")
    if len(set(exports)) != len(exports):
        raise CompileError("a symbol is exported twice")
    return result


class _Merger:
    def __init__(self, machine: Machine) -> None:
        self.result = Merged(machine, {}, [], [], {}, [], ())
        self._signatures: set[str] = set()

    def add(self, file: ObjectFile) -> None:
        dropped = self._dropped_groups(file)
        places: dict[int, Place] = {}
        for index, section in enumerate(file.sections):
            if index not in dropped and _is_kept(section):
                places[index] = self._place(section)
        targets: list[Place | None] = []
        for symbol in file.symbols:
            targets.append(self._target(symbol, places))
        kept = [(file.sections[index], place) for index, place in places.items()]
        self.result.objects.append(MergedObject(file, kept, targets))

    def _dropped_groups(self, file: ObjectFile) -> set[int]:
        """Sections of COMDAT groups that an earlier object has brought."""
        dropped: set[int] = set()
        for signature, members in file.groups:
            if signature in self._signatures:
                dropped.update(members)
            self._signatures.add(signature)
        return dropped

    def _place(self, section: InputSection) -> Place:
        name, kind = _output(section)
        out = self.result.sections.get(name)
        if out is None:
            out = OutputSection(name, kind, section.flags & _FLAGS)
            self.result.sections[name] = out
        if kind == SHT_NOBITS:
            return Place(out, out.reserve(section.size, section.align))
        fill = self.result.machine.text_fill if section.flags & SHF_EXECINSTR else b"\0"
        return Place(out, out.append(section.data, section.align, fill))

    def _target(self, symbol: Symbol, places: dict[int, Place]) -> Place | None:
        if symbol.shndx == SHN_UNDEF or symbol.type == STT_FILE:
            return None
        if symbol.shndx >= SHN_LORESERVE:
            kind = {SHN_COMMON: "common", SHN_ABS: "absolute"}.get(symbol.shndx, "reserved")
            raise CompileError(f"symbol {symbol.name}: {kind} symbols are not supported")
        if symbol.type > STT_FILE:
            raise CompileError(f"symbol {symbol.name}: type {symbol.type} is not supported")
        base = places.get(symbol.shndx)
        if base is None:
            return None
        place = Place(base.section, base.offset + symbol.value)
        if not is_anonymous(symbol):
            definition = Definition(symbol.name, symbol.bind, symbol.type, symbol.size, place)
            if symbol.bind == STB_LOCAL:
                self.result.locals.append(definition)
            else:
                self._define(definition)
        return place

    def _define(self, new: Definition) -> None:
        old = self.result.definitions.get(new.name)
        if old is not None and old.bind == STB_GLOBAL == new.bind:
            raise CompileError(f"symbol {new.name} is defined twice")
        if old is None or (old.bind != STB_GLOBAL and new.bind == STB_GLOBAL):
            self.result.definitions[new.name] = new

    def add_blobs(self, blobs: Sequence[Blob]) -> None:
        self.result.blobs = blobs
        if not blobs:
            return
        offsets, end = place_blobs(blobs)
        machine = self.result.machine
        section = OutputSection(machine.blob_section, SHT_PROGBITS, machine.blob_flags)
        section.reserve(end, max(machine.page, *(blob.align for blob in blobs)))
        self.result.sections[section.name] = section
        for blob, offset in zip(blobs, offsets, strict=True):
            place = Place(section, offset)
            self._define(Definition(blob.symbol, STB_GLOBAL, STT_OBJECT, blob.size, place))

    def resolve(self, libc: frozenset[str]) -> None:
        """Fill in targets of global symbols; whatever stays open must be in `libc`."""
        definitions = self.result.definitions
        imports: dict[str, None] = {}
        missing: dict[str, None] = {}
        for merged in self.result.objects:
            symbols = merged.file.symbols
            for index, symbol in enumerate(symbols):
                if symbol.bind != STB_LOCAL:
                    found = definitions.get(symbol.name)
                    merged.targets[index] = None if found is None else found.place
            for index in sorted(_used_symbols(merged)):
                if merged.targets[index] is None:
                    name = symbols[index].name
                    if symbols[index].bind == STB_LOCAL:
                        raise CompileError(f"kept code uses {name!r} in a section that is dropped")
                    (imports if name in libc else missing)[name] = None
        if missing:
            raise CompileError(f"undefined symbols: {', '.join(sorted(missing))}")
        self.result.imports = list(imports)


def _used_symbols(merged: MergedObject) -> set[int]:
    used = {info >> 32 for section, _ in merged.sections for _, info, _ in section.relocs}
    if used and max(used) >= len(merged.targets):
        raise CompileError("object file is damaged: a relocation names no symbol")
    return used


def is_anonymous(symbol: Symbol) -> bool:
    """Whether the output names no such symbol: a section, or a label for the assembler alone."""
    return symbol.bind == STB_LOCAL and (symbol.type == STT_SECTION or symbol.name.startswith(".L"))


def _is_kept(section: InputSection) -> bool:
    if not section.flags & SHF_ALLOC or section.type in _DROPPED_TYPES:
        return False
    if section.name.startswith(".eh_frame"):
        return False
    if section.type in _ARRAY_TYPES or section.name.startswith((".ctors", ".dtors")):
        raise CompileError(f"section {section.name}: code that runs at load is not supported")
    if section.flags & SHF_TLS:
        raise CompileError(f"section {section.name}: thread-local data is not supported")
    if section.type not in (SHT_PROGBITS, SHT_NOBITS):
        raise CompileError(f"section {section.name}: type {section.type:#x} is not supported")
    return True


def _output(section: InputSection) -> tuple[str, int]:
    if section.flags & SHF_EXECINSTR:
        if section.flags & SHF_WRITE:
            raise CompileError(f"section {section.name} is both writable and executable")
        return ".text", SHT_PROGBITS
    if not section.flags & SHF_WRITE:
        return ".rodata", SHT_PROGBITS
    if section.type == SHT_NOBITS:
        return ".bss", SHT_NOBITS
    relocatable = section.name.startswith(".data.rel.ro")
    return (".data.rel.ro" if relocatable else ".data"), SHT_PROGBITS
