"""What differs between CPU architectures: relocations, PLT stubs, page sizes.

Numbers and formulas: System V ABI AMD64 supplement (4.4), ELF for the Arm 64-bit Architecture.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from tfc.compiler.link.elf import EM_AARCH64, EM_X86_64, SHF_ALLOC, SHF_X86_64_LARGE
from tfc.ir.errors import CompileError

# (data, offset in data, address of that place, target address); struct.error when out of range.
Apply = Callable[[bytearray, int, int, int], None]


class Kind(Enum):
    """What a relocation needs from the linker."""

    RELATIVE = auto()  # distance from the place to the symbol
    CALL = auto()  # the same, and an imported symbol may be reached through a PLT stub
    GOT = auto()  # distance to a GOT slot that holds the symbol's address
    ADDRESS = auto()  # the address itself, known only when the file is loaded


class Relocation(NamedTuple):
    name: str
    kind: Kind
    apply: Apply


@dataclass(frozen=True)
class Machine:
    name: str
    number: int
    page: int
    relocations: Mapping[int, Relocation]
    other_names: Mapping[int, str]
    dyn_relative: int
    dyn_glob_dat: int
    dyn_address: int
    plt_size: int
    plt_stub: Callable[[int, int], bytes]
    text_fill: bytes
    blob_section: str
    blob_flags: int

    def relocation_name(self, number: int) -> str:
        known = self.relocations.get(number)
        if known is not None:
            return known.name
        return self.other_names.get(number, f"type {number} of {self.name}")


def machine_of(number: int) -> Machine:
    for machine in (X86_64, AARCH64):
        if machine.number == number:
            return machine
    raise CompileError(f"objects for ELF machine {number} cannot be linked by tfc")


_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_I64 = struct.Struct("<q")
_U64 = struct.Struct("<Q")


def _pc32(data: bytearray, offset: int, place: int, target: int) -> None:
    _I32.pack_into(data, offset, target - place)


def _pc64(data: bytearray, offset: int, place: int, target: int) -> None:
    _I64.pack_into(data, offset, target - place)


def _address64(data: bytearray, offset: int, place: int, target: int) -> None:
    _U64.pack_into(data, offset, target)


def _x86_plt_stub(stub: int, slot: int) -> bytes:
    return b"\xff\x25" + _I32.pack(slot - (stub + 6)) + b"\xcc\xcc"


X86_64 = Machine(
    name="x86-64",
    number=EM_X86_64,
    page=0x1000,
    relocations={
        1: Relocation("R_X86_64_64", Kind.ADDRESS, _address64),
        2: Relocation("R_X86_64_PC32", Kind.RELATIVE, _pc32),
        4: Relocation("R_X86_64_PLT32", Kind.CALL, _pc32),
        9: Relocation("R_X86_64_GOTPCREL", Kind.GOT, _pc32),
        24: Relocation("R_X86_64_PC64", Kind.RELATIVE, _pc64),
        41: Relocation("R_X86_64_GOTPCRELX", Kind.GOT, _pc32),
        42: Relocation("R_X86_64_REX_GOTPCRELX", Kind.GOT, _pc32),
    },
    other_names={
        3: "R_X86_64_GOT32",
        10: "R_X86_64_32",
        11: "R_X86_64_32S",
        12: "R_X86_64_16",
        13: "R_X86_64_PC16",
        14: "R_X86_64_8",
        15: "R_X86_64_PC8",
        17: "R_X86_64_DTPOFF64",
        19: "R_X86_64_TLSGD",
        20: "R_X86_64_TLSLD",
        21: "R_X86_64_DTPOFF32",
        22: "R_X86_64_GOTTPOFF",
        23: "R_X86_64_TPOFF32",
        25: "R_X86_64_GOTOFF64",
        26: "R_X86_64_GOTPC32",
        29: "R_X86_64_GOTPC64",
        32: "R_X86_64_SIZE32",
        33: "R_X86_64_SIZE64",
        34: "R_X86_64_GOTPC32_TLSDESC",
        35: "R_X86_64_TLSDESC_CALL",
    },
    dyn_relative=8,
    dyn_glob_dat=6,
    dyn_address=1,
    plt_size=8,
    plt_stub=_x86_plt_stub,
    text_fill=b"\xcc",
    # GNU ld moves .lrodata out of the 2 GB that code can reach (AMD64 ABI, large data sections).
    blob_section=".lrodata",
    blob_flags=SHF_ALLOC | SHF_X86_64_LARGE,
)


def _check(fits: bool) -> None:
    if not fits:
        raise struct.error("value out of range")


def _insert(data: bytearray, offset: int, keep: int, bits: int) -> None:
    (word,) = _U32.unpack_from(data, offset)
    _U32.pack_into(data, offset, word & keep | bits)


def _branch26(data: bytearray, offset: int, place: int, target: int) -> None:
    distance = target - place
    _check(-(1 << 27) <= distance < 1 << 27 and distance & 3 == 0)
    _insert(data, offset, 0xFC000000, distance >> 2 & 0x3FFFFFF)


def _page21(data: bytearray, offset: int, place: int, target: int) -> None:
    pages = (target >> 12) - (place >> 12)
    _check(-(1 << 20) <= pages < 1 << 20)
    _insert(data, offset, 0x9F00001F, (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5)


def _low12(scale: int) -> Apply:
    def apply(data: bytearray, offset: int, place: int, target: int) -> None:
        low = target & 0xFFF
        _check(low & ((1 << scale) - 1) == 0)
        _insert(data, offset, 0xFFC003FF, low >> scale << 10)

    return apply


def _aarch64_plt_stub(stub: int, slot: int) -> bytes:
    code = bytearray(struct.pack("<4I", 0x90000010, 0xF9400211, 0xD61F0220, 0xD503201F))
    _page21(code, 0, stub, slot)  # adrp x16, slot
    _low12(3)(code, 4, stub + 4, slot)  # ldr x17, [x16, slot]; then br x17, nop
    return bytes(code)


AARCH64 = Machine(
    name="aarch64",
    number=EM_AARCH64,
    page=0x10000,
    relocations={
        257: Relocation("R_AARCH64_ABS64", Kind.ADDRESS, _address64),
        260: Relocation("R_AARCH64_PREL64", Kind.RELATIVE, _pc64),
        261: Relocation("R_AARCH64_PREL32", Kind.RELATIVE, _pc32),
        275: Relocation("R_AARCH64_ADR_PREL_PG_HI21", Kind.RELATIVE, _page21),
        277: Relocation("R_AARCH64_ADD_ABS_LO12_NC", Kind.RELATIVE, _low12(0)),
        278: Relocation("R_AARCH64_LDST8_ABS_LO12_NC", Kind.RELATIVE, _low12(0)),
        282: Relocation("R_AARCH64_JUMP26", Kind.CALL, _branch26),
        283: Relocation("R_AARCH64_CALL26", Kind.CALL, _branch26),
        284: Relocation("R_AARCH64_LDST16_ABS_LO12_NC", Kind.RELATIVE, _low12(1)),
        285: Relocation("R_AARCH64_LDST32_ABS_LO12_NC", Kind.RELATIVE, _low12(2)),
        286: Relocation("R_AARCH64_LDST64_ABS_LO12_NC", Kind.RELATIVE, _low12(3)),
        299: Relocation("R_AARCH64_LDST128_ABS_LO12_NC", Kind.RELATIVE, _low12(4)),
        311: Relocation("R_AARCH64_ADR_GOT_PAGE", Kind.GOT, _page21),
        312: Relocation("R_AARCH64_LD64_GOT_LO12_NC", Kind.GOT, _low12(3)),
        314: Relocation("R_AARCH64_PLT32", Kind.CALL, _pc32),
    },
    other_names={
        258: "R_AARCH64_ABS32",
        259: "R_AARCH64_ABS16",
        262: "R_AARCH64_PREL16",
        263: "R_AARCH64_MOVW_UABS_G0",
        264: "R_AARCH64_MOVW_UABS_G0_NC",
        265: "R_AARCH64_MOVW_UABS_G1",
        266: "R_AARCH64_MOVW_UABS_G1_NC",
        267: "R_AARCH64_MOVW_UABS_G2",
        268: "R_AARCH64_MOVW_UABS_G2_NC",
        269: "R_AARCH64_MOVW_UABS_G3",
        273: "R_AARCH64_LD_PREL_LO19",
        274: "R_AARCH64_ADR_PREL_LO21",
        279: "R_AARCH64_TSTBR14",
        280: "R_AARCH64_CONDBR19",
        541: "R_AARCH64_TLSIE_ADR_GOTTPREL_PAGE21",
        549: "R_AARCH64_TLSLE_ADD_TPREL_HI12",
        562: "R_AARCH64_TLSDESC_ADR_PAGE21",
    },
    dyn_relative=1027,
    dyn_glob_dat=1025,
    dyn_address=257,
    plt_size=16,
    plt_stub=_aarch64_plt_stub,
    text_fill=b"\0",
    blob_section=".rodata.blobs",
    blob_flags=SHF_ALLOC,
)
