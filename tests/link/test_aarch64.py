"""Code for aarch64 is linked right: its instructions, decoded, reach what they name."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import pytest

from tfc.compiler.link.blob import Blob
from tfc.compiler.link.machine import AARCH64
from tfc.compiler.link.shared import write_shared
from tfc.ir.errors import CompileError

Emit = Callable[..., bytes]

ARM = "aarch64-unknown-linux-gnu"

USER = """
@byte = external hidden global i8
@half = external hidden global i16
@word = external hidden global i32
@double = external hidden global i64
@vector = external hidden global <2 x i64>
@weights = external hidden global i8
@pointer = hidden constant ptr @weights
declare hidden void @callee()
declare void @visible()
declare i32 @getpid()
define i8 @load_byte() nounwind { %v = load i8, ptr @byte
  ret i8 %v }
define i16 @load_half() nounwind { %v = load i16, ptr @half
  ret i16 %v }
define i32 @load_word() nounwind { %v = load i32, ptr @word
  ret i32 %v }
define i64 @load_double() nounwind { %v = load i64, ptr @double
  ret i64 %v }
define <2 x i64> @load_vector() nounwind { %v = load <2 x i64>, ptr @vector
  ret <2 x i64> %v }
define ptr @address_word() nounwind { ret ptr @word }
define ptr @got_visible() nounwind { ret ptr @visible }
define i32 @call_callee() nounwind { call void @callee()
  ret i32 0 }
define void @jump_callee() nounwind { tail call void @callee()
  ret void }
define i32 @call_getpid() nounwind { %v = call i32 @getpid()
  %w = add i32 %v, 1
  ret i32 %w }
"""
DATA = """
@byte = hidden global i8 1
@pad1 = hidden global [4100 x i8] c"{fill}"
@half = hidden global i16 2
@word = hidden global i32 3
@pad2 = hidden global [65537 x i8] zeroinitializer
@double = hidden global i64 4
@vector = hidden global <2 x i64> <i64 5, i64 6>
define hidden void @callee() nounwind { ret void }
define void @visible() nounwind { ret void }
""".replace("{fill}", "x" * 4100)
LOADS = ["load_byte", "load_half", "load_word", "load_double", "load_vector"]
EXPORTS = [*LOADS, "address_word", "got_visible", "call_callee", "jump_callee", "call_getpid"]


class Image:
    """A minimal reader of what was linked: symbols, memory and dynamic relocations."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        (shoff,) = struct.unpack_from("<Q", data, 40)
        (shnum,) = struct.unpack_from("<H", data, 60)
        self.headers = [
            struct.unpack_from("<IIQQQQIIQQ", data, shoff + 64 * i) for i in range(shnum)
        ]
        self.symbols: dict[str, int] = {}
        self.relocations: dict[int, tuple[int, int]] = {}
        for _, kind, _, _, offset, size, linked, *_ in self.headers:
            if kind == 2:
                names = self.headers[linked][4]
                for name, _, _, _, value, _ in struct.iter_unpack(
                    "<IBBHQQ", data[offset : offset + size]
                ):
                    end = data.index(b"\0", names + name)
                    self.symbols[data[names + name : end].decode()] = value
            if kind == 4:
                for at, info, addend in struct.iter_unpack("<QQq", data[offset : offset + size]):
                    self.relocations[at] = (info, addend)

    def word(self, address: int) -> int:
        for _, kind, flags, start, offset, size, *_ in self.headers:
            if flags & 2 and kind == 1 and start <= address < start + size:
                (value,) = struct.unpack_from("<I", self.data, offset + address - start)
                return int(value)
        raise AssertionError(f"{address:#x} is not in the file")

    def words(self, address: int) -> list[int]:
        return [self.word(address + 4 * i) for i in range(4)]


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def branch(image: Image, address: int) -> int:
    """Target of the first b or bl at or after `address`."""
    for i, word in enumerate(image.words(address)):
        if word & 0x7C000000 == 0x14000000:
            return address + 4 * i + 4 * signed(word & 0x3FFFFFF, 26)
    raise AssertionError("no branch")


def page_and_offset(image: Image, address: int, scale: int) -> int:
    """Address made by adrp and the 12 bits of the instruction behind it."""
    adrp, second = image.words(address)[:2]
    assert adrp & 0x9F000000 == 0x90000000
    pages = signed((adrp >> 5 & 0x7FFFF) << 2 | adrp >> 29 & 3, 21)
    return (address & ~0xFFF) + (pages << 12) + ((second >> 10 & 0xFFF) << scale)


@pytest.fixture(scope="module")
def image(emit: Emit) -> Image:
    out = io.BytesIO()
    blob = Blob("weights", 5, 64, lambda: iter([b"12345"]))
    write_shared(
        out,
        [emit(USER, ARM), emit(DATA, ARM)],
        exports=EXPORTS,
        blobs=[blob],
        manifest=b"{}",
        libc=["getpid"],
    )
    return Image(out.getvalue())


@pytest.mark.parametrize(("name", "scale"), list(zip(LOADS, range(5), strict=True)))
def test_load_of_each_width_reaches_its_variable(image: Image, name: str, scale: int) -> None:
    target = image.symbols[name.removeprefix("load_")]
    assert page_and_offset(image, image.symbols[name], scale) == target


def test_address_is_computed_from_its_page(image: Image) -> None:
    address = page_and_offset(image, image.symbols["address_word"], 0)
    assert address == image.symbols["word"]


@pytest.mark.parametrize("name", ["call_callee", "jump_callee"])
def test_branch_reaches_its_function(image: Image, name: str) -> None:
    assert branch(image, image.symbols[name]) == image.symbols["callee"]


def test_got_slot_holds_the_visible_function(image: Image) -> None:
    slot = page_and_offset(image, image.symbols["got_visible"], 3)
    assert image.relocations[slot] == (1027, image.symbols["visible"])


def test_imported_call_goes_through_a_stub_to_a_bound_slot(image: Image) -> None:
    stub = branch(image, image.symbols["call_getpid"])
    info, addend = image.relocations[page_and_offset(image, stub, 3)]
    assert (info & 0xFFFFFFFF, addend) == (1025, 0)
    assert image.words(stub)[2] == 0xD61F0220


def test_pointer_to_blob_is_relative(image: Image) -> None:
    assert image.relocations[image.symbols["pointer"]] == (1027, image.symbols["weights"])


@pytest.mark.parametrize(
    ("number", "distance"),
    [
        (283, 1 << 27),
        (283, -(1 << 27) - 4),
        (282, 2),
        (275, 1 << 32),
        (275, -(1 << 32) - 4096),
        (286, 4),
        (261, 1 << 31),
    ],
)
def test_target_out_of_range_is_refused(number: int, distance: int) -> None:
    place = 1 << 40
    with pytest.raises(struct.error):
        AARCH64.relocations[number].apply(bytearray(4), 0, place, place + distance)


@pytest.mark.parametrize("distance", [(1 << 27) - 4, -(1 << 27), 0, 4, -4])
def test_branch_reaches_its_whole_range(distance: int) -> None:
    data = bytearray(struct.pack("<I", 0x94000000))
    AARCH64.relocations[283].apply(data, 0, 1 << 40, (1 << 40) + distance)
    (word,) = struct.unpack("<I", data)
    assert word >> 26 == 0x94000000 >> 26
    assert 4 * signed(word & 0x3FFFFFF, 26) == distance


def test_unknown_relocation_is_refused_by_name(emit: Emit) -> None:
    text = "@t = hidden global i32 1\ndefine ptr @f() nounwind { ret ptr @t }"
    with pytest.raises(CompileError, match="R_AARCH64_MOVW_UABS_G0_NC against symbol t"):
        write_shared(
            io.BytesIO(),
            [emit(text, ARM, reloc="static", codemodel="large")],
            exports=["f"],
            manifest=b"{}",
        )
