"""The memory functions that artifacts carry, against Python's own slices of bytes."""

from __future__ import annotations

import ctypes
import random
import re
import struct
from collections.abc import Callable, Iterator

import llvmlite.binding as llvm
import pytest

from tfc.compiler.codegen.support import support_module

NAMES = ("memcpy", "memmove", "memset", "memcmp")
TRIPLES = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "riscv64-unknown-linux-gnu")
LONGEST = 300
Call = Callable[..., int]


@pytest.fixture(scope="module", autouse=True)
def _targets() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@pytest.fixture(scope="module", params=["base", "host"])
def functions(request: pytest.FixtureRequest) -> Iterator[dict[str, Call]]:
    """The four functions at the base instruction set and at everything the host has."""
    triple = llvm.get_default_triple()
    features = llvm.get_host_cpu_features().flatten() if request.param == "host" else ""
    machine = llvm.Target.from_triple(triple).create_target_machine(
        features=features, opt=2, reloc="pic", jit=True
    )
    jit = llvm.create_lljit_compiler(machine, use_jit_link=True)
    # Under their own names the host's functions would be found in place of ours.
    text = re.sub(r"@(mem\w+)", r"@tested_\1", support_module(triple)).replace("hidden ", "")
    builder = llvm.JITLibraryBuilder().add_ir(text)
    for name in NAMES:
        builder.export_symbol(f"tested_{name}")
    library = builder.link(jit, f"support_{request.param}")
    pointer, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    move = ctypes.CFUNCTYPE(pointer, pointer, pointer, size)
    signatures = {
        "memcpy": move,
        "memmove": move,
        "memset": ctypes.CFUNCTYPE(pointer, pointer, integer, size),
        "memcmp": ctypes.CFUNCTYPE(integer, pointer, pointer, size),
    }
    yield {name: signatures[name](library[f"tested_{name}"]) for name in NAMES}
    del library


def _aligned_buffer(content: bytes) -> tuple[ctypes.Array[ctypes.c_char], int]:
    """Return the storage (to be kept) and the offset in it that is a multiple of 64."""
    storage = ctypes.create_string_buffer(len(content) + 64)
    offset = -ctypes.addressof(storage) % 64
    storage[offset : offset + len(content)] = content
    return storage, offset


def _noise(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


def test_memcpy_copies_every_short_length_at_every_misalignment(
    functions: dict[str, Call],
) -> None:
    source_bytes, blank = _noise(512), bytes(512)
    source, source_at = _aligned_buffer(source_bytes)
    target, target_at = _aligned_buffer(blank)
    base_from = ctypes.addressof(source) + source_at
    base_to = ctypes.addressof(target) + target_at
    for n in range(LONGEST + 1):
        for shift in range(64):
            other = (shift * 7 + n) % 64
            target[target_at : target_at + 512] = blank
            assert functions["memcpy"](base_to + shift, base_from + other, n) == base_to + shift
            expected = blank[:shift] + source_bytes[other : other + n] + blank[shift + n :]
            assert target[target_at : target_at + 512] == expected, (n, shift, other)


@pytest.mark.parametrize("distance", [*range(-70, 71), -128, -127, 127, 128, 200, -200])
def test_memmove_moves_overlapping_bytes_both_ways(
    functions: dict[str, Call], distance: int
) -> None:
    content = _noise(1024)
    storage, at = _aligned_buffer(content)
    base = ctypes.addressof(storage) + at
    for n in range(LONGEST + 1):
        start = 256 + n % 64
        storage[at : at + 1024] = content
        to = base + start + distance
        assert functions["memmove"](to, base + start, n) == to
        expected = bytearray(content)
        expected[start + distance : start + distance + n] = content[start : start + n]
        assert storage[at : at + 1024] == bytes(expected), (n, start)


def test_memset_fills_every_short_length_at_every_misalignment(
    functions: dict[str, Call],
) -> None:
    content = _noise(512)
    storage, at = _aligned_buffer(content)
    base = ctypes.addressof(storage) + at
    for n in range(LONGEST + 1):
        for shift in range(64):
            storage[at : at + 512] = content
            value = 0x1200 | (n + shift) & 0xFF
            assert functions["memset"](base + shift, value, n) == base + shift
            fill = bytes([value & 0xFF]) * n
            expected = content[:shift] + fill + content[shift + n :]
            assert storage[at : at + 512] == expected, (n, shift)


def test_memcmp_has_the_sign_of_the_first_difference(functions: dict[str, Call]) -> None:
    content = _noise(512)
    left, left_at = _aligned_buffer(content)
    right, right_at = _aligned_buffer(content)
    compare = functions["memcmp"]
    for n in range(LONGEST + 1):
        shift = n % 64
        x = ctypes.addressof(left) + left_at + shift
        y = ctypes.addressof(right) + right_at + shift
        assert compare(x, y, n) == 0
        for place in range(0, n, 1 if n < 40 else 13):
            index = right_at + shift + place
            kept = right[index]
            for changed in (0x00, 0x7F, 0x80, 0xFF):
                right[index] = changed
                expected = kept[0] - changed
                found = compare(x, y, n)
                assert (found > 0) - (found < 0) == (expected > 0) - (expected < 0), (n, place)
            right[index] = kept
        right[right_at + shift + n] = content[shift + n] ^ 0xFF
        assert compare(x, y, n) == 0, "a byte behind the end was compared"
        right[right_at + shift + n] = content[shift + n]


def test_memcmp_is_decided_by_the_first_of_several_differences(
    functions: dict[str, Call],
) -> None:
    x, y = b"equal...\x01\xff\xff\xff....", b"equal...\x02\x00\x00\x00...."
    assert functions["memcmp"](x, y, len(x)) < 0
    assert functions["memcmp"](y, x, len(x)) > 0


@pytest.mark.parametrize("n", [4095, 4096, 65536 + 17, 1 << 20])
def test_long_copies_and_fills_reach_both_ends_and_nothing_beyond(
    functions: dict[str, Call], n: int
) -> None:
    content = _noise(n)
    source, source_at = _aligned_buffer(content)
    target, target_at = _aligned_buffer(b"\xa5" * (n + 2))
    to = ctypes.addressof(target) + target_at
    functions["memcpy"](to + 1, ctypes.addressof(source) + source_at, n)
    assert target[target_at : target_at + n + 2] == b"\xa5" + content + b"\xa5"
    functions["memset"](to + 1, 0x3C, n)
    assert target[target_at : target_at + n + 2] == b"\xa5" + b"\x3c" * n + b"\xa5"


@pytest.mark.parametrize("triple", TRIPLES)
def test_object_is_complete_after_the_strongest_passes(triple: str) -> None:
    module = llvm.parse_assembly(support_module(triple))
    machine = llvm.Target.from_triple(triple).create_target_machine(
        opt=3, reloc="pic", codemodel="small"
    )
    options = llvm.create_pipeline_tuning_options(3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    symbols = _elf_symbols(machine.emit_object(module))
    defined = {name: hidden for name, (section, hidden) in symbols.items() if section}
    undefined = {name for name, (section, _) in symbols.items() if not section}
    assert undefined == set()
    assert {name: defined.get(name) for name in NAMES} == dict.fromkeys(NAMES, True)
    bodies = re.split(r"^(mem\w+):", machine.emit_assembly(module), flags=re.MULTILINE)[1:]
    called = {
        name: set(re.findall(r"\s(?:call|jmp|bl?|j|tail)[a-z]?\s+(mem\w+)", body))
        for name, body in zip(bodies[::2], bodies[1::2], strict=True)
    }
    assert called.pop("memcpy") <= {"memmove"}
    assert called == {"memmove": set(), "memset": set(), "memcmp": set()}


def _elf_symbols(data: bytes) -> dict[str, tuple[int, bool]]:
    """Read names, section numbers and hidden visibility of the globals of an ELF64 object."""
    table = struct.unpack_from("<Q", data, 0x28)[0]
    entry, count = struct.unpack_from("<HH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry) for i in range(count)]
    symtab = next(header for header in headers if header[1] == 2)
    strings = headers[symtab[6]][4]
    found = {}
    for at in range(symtab[4], symtab[4] + symtab[5], 24):
        name_at, info, other, section = struct.unpack_from("<IBBH", data, at)
        if info >> 4 != 0:
            start = strings + name_at
            name = data[start : data.index(b"\0", start)].decode()
            found[name] = (section, other & 3 == 2)
    return found
