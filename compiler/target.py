"""What a machine can do, as far as schedules and code generation ask: `Target`.

Knows no LLVM library; the machine that tfc runs on is looked at in `compiler.codegen.host`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tfc.ir.errors import UsageError
from tfc.ir.types import DType

_LINUX = "-unknown-linux-gnu"

_V1 = ("sse", "sse2")
_V2 = (*_V1, "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_AMX = ("amx-tile", "amx-bf16", "amx-int8")
_SAPPHIRE_RAPIDS = (
    *_V4, "avx512vbmi", "avx512vbmi2", "gfni", "avx512vnni", "avx512bf16", "avx512fp16",
    "avxvnni", *_AMX,
)  # fmt: skip
_NEON = ("fp-armv8", "neon")

LEVELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "x86-64": ("x86_64", _V1),
    "x86-64-v2": ("x86_64", _V2),
    "x86-64-v3": ("x86_64", _V3),
    "x86-64-v4": ("x86_64", _V4),
    "sapphirerapids": ("x86_64", _SAPPHIRE_RAPIDS),
    "aarch64": ("aarch64", _NEON),
}
# Sizes of caches where a level names one CPU.
_CACHES = {"sapphirerapids": (48 << 10, 2 << 20, 30 << 20)}
ALIASES = {"generic": "x86-64-v2", "avx2": "x86-64-v3", "avx512": "x86-64-v4", "arm64": "aarch64"}
WIDE_MASKED = frozenset(("avx512f", "avx512bw", "avx512dq", "avx512vl"))
"""The features without which 512-bit vectors are not used: masks on all element sizes."""


@dataclass(frozen=True, slots=True)
class CpuidBit:
    """Where CPUID shows a feature: leaf, subleaf, register (0 eax .. 3 edx) and bit.

    state is the mask of XCR0 bits by which the operating system says that it saves the registers.
    """

    leaf: int
    subleaf: int
    register: int
    bit: int
    state: int = 0


_YMM, _ZMM, _TILE = 0x6, 0xE6, 0x60000

# Intel SDM volume 2A, CPUID; XCR0 in volume 1, chapter 13. Features that generated code may use.
X86_FEATURES: dict[str, CpuidBit] = {
    "sse": CpuidBit(1, 0, 3, 25),
    "sse2": CpuidBit(1, 0, 3, 26),
    "sse3": CpuidBit(1, 0, 2, 0),
    "ssse3": CpuidBit(1, 0, 2, 9),
    "sse4.1": CpuidBit(1, 0, 2, 19),
    "sse4.2": CpuidBit(1, 0, 2, 20),
    "popcnt": CpuidBit(1, 0, 2, 23),
    "movbe": CpuidBit(1, 0, 2, 22),
    "fma": CpuidBit(1, 0, 2, 12, _YMM),
    "avx": CpuidBit(1, 0, 2, 28, _YMM),
    "f16c": CpuidBit(1, 0, 2, 29, _YMM),
    "bmi": CpuidBit(7, 0, 1, 3),
    "bmi2": CpuidBit(7, 0, 1, 8),
    "avx2": CpuidBit(7, 0, 1, 5, _YMM),
    "avx512f": CpuidBit(7, 0, 1, 16, _ZMM),
    "avx512dq": CpuidBit(7, 0, 1, 17, _ZMM),
    "avx512cd": CpuidBit(7, 0, 1, 28, _ZMM),
    "avx512bw": CpuidBit(7, 0, 1, 30, _ZMM),
    "avx512vl": CpuidBit(7, 0, 1, 31, _ZMM),
    "avx512vbmi": CpuidBit(7, 0, 2, 1, _ZMM),
    "avx512vbmi2": CpuidBit(7, 0, 2, 6, _ZMM),
    "gfni": CpuidBit(7, 0, 2, 8),
    "avx512vnni": CpuidBit(7, 0, 2, 11, _ZMM),
    "avx512fp16": CpuidBit(7, 0, 3, 23, _ZMM),
    "amx-bf16": CpuidBit(7, 0, 3, 22, _TILE),
    "amx-tile": CpuidBit(7, 0, 3, 24, _TILE),
    "amx-int8": CpuidBit(7, 0, 3, 25, _TILE),
    "avxvnni": CpuidBit(7, 1, 0, 4, _YMM),
    "avx512bf16": CpuidBit(7, 1, 0, 5, _ZMM),
    "lzcnt": CpuidBit(0x80000001, 0, 2, 5),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to compile for. Sizes are bytes of data cache per core (l3: shared).

    cpu names a scheduling model and brings no features; empty is the best one measured ("x86-64"
    spills in a loop that needs all 16 registers: 68 instead of 139 GFLOP/s). has_fma: fused
    multiply-add is an instruction. has_masks: masked access of every element size is one.
    emulates_tiles: ops of tiles become loops over vectors, so that what is made for tiles can run
    on a machine without; slow.
    lowers: the user chose bf16: rounding to it may take denormals for zero, as `dot` does, and what
    is only rounded to it may be computed by short expansions.
    """

    triple: str
    arch: str
    cpu: str
    features: frozenset[str]
    vector_bits: int
    vector_registers: int
    has_fma: bool
    has_masks: bool
    l1: int = 32 << 10
    l2: int = 1 << 20
    l3: int = 16 << 20
    cores: int | None = None
    emulates_tiles: bool = False
    lowers: bool = False

    def lanes(self, dtype: DType) -> int:
        """Return how many elements of `dtype` one vector register holds."""
        return self.vector_bits // (8 * dtype.bytes)

    def has(self, feature: str) -> bool:
        return feature in self.features

    def has_dot(self, dtype: DType, lanes: int) -> bool:
        """Whether there is a `dot` of factors of `dtype` that adds to so many sums at once.

        Of bytes there is one everywhere: where it is no instruction, it is several.
        """
        if dtype.name == "bf16":
            return self._wide_with("avx512bf16") and lanes == 16
        return dtype.name == "u8" and 128 <= 32 * lanes <= self.vector_bits

    def has_tiles(self, dtype: DType) -> bool:
        """Whether there is a `tile_dot` of factors of `dtype`, bf16 or bytes."""
        if self.emulates_tiles:
            return True
        unit = "amx-bf16" if dtype.name == "bf16" else "amx-int8"
        return self.uses_amx and self._wide_with(unit)

    @property
    def uses_amx(self) -> bool:
        """Whether ops of tiles are instructions; a process asks the system for their registers."""
        return self._wide_with("amx-tile") and not self.emulates_tiles

    def rounds_bf16(self, lanes: int) -> bool:
        """Whether so many f32 are rounded to bf16 by one instruction; it flushes denormals."""
        return self.lowers and self._wide_with("avx512bf16") and lanes in (8, 16)

    def for_precision(self, dtype: DType) -> Target:
        """Return the target for programs whose products are to be of `dtype`."""
        return replace(self, lowers=dtype.name == "bf16")

    @property
    def multiplies_bytes(self) -> bool:
        """Whether `dot` of bytes is an instruction."""
        return self._wide_with("avx512vnni") or (
            self.arch == "x86_64" and self.vector_bits == 256 and "avxvnni" in self.features
        )

    @property
    def narrowed_at_once(self) -> int:
        """How many floats are best made bytes together; 1 where that takes as long one by one."""
        return 64 if self.arch == "x86_64" and self.vector_bits == 512 else 1

    @property
    def permutes_bytes(self) -> bool:
        """Whether one instruction takes any bytes of two registers."""
        return self._wide_with("avx512vbmi")

    def _wide_with(self, feature: str) -> bool:
        return self.arch == "x86_64" and self.vector_bits == 512 and feature in self.features

    @property
    def feature_list(self) -> tuple[str, ...]:
        return tuple(sorted(self.features))

    @property
    def has_half_conversion(self) -> bool:
        """Whether f16 to f32 and back are instructions."""
        return self.arch == "aarch64" or "f16c" in self.features

    @property
    def has_rounding(self) -> bool:
        """Whether floor, ceil, trunc and round of f32 and f64 are instructions."""
        return self.arch == "aarch64" or "sse4.1" in self.features


def make_target(
    arch: str,
    features: Iterable[str],
    *,
    l1: int = 32 << 10,
    l2: int = 1 << 20,
    l3: int = 16 << 20,
    cores: int | None = None,
) -> Target:
    """Return the target that `features` make of `arch`; vector width and the rest follow."""
    kept = frozenset(features)
    bits, registers, fma = 128, 16, "fma" in kept
    if arch == "aarch64":
        registers, fma = 32, True
    elif kept >= WIDE_MASKED:
        bits, registers = 512, 32
    elif kept >= {"avx", "avx2"}:
        bits = 256
    return Target(
        arch + _LINUX, arch, "", kept, bits, registers, fma, bits == 512, l1, l2, l3, cores
    )


def level_features(name: str) -> tuple[str, frozenset[str]]:
    """Return architecture and features of a named level or an alias of one."""
    level = LEVELS.get(ALIASES.get(name, name))
    if level is None:
        known = ", ".join((*LEVELS, *ALIASES, "host"))
        raise UsageError(f"unknown target {name!r}; known: {known}")
    return level[0], frozenset(level[1])


def apply_changes(features: frozenset[str], changes: str, arch: str) -> frozenset[str]:
    """Return `features` after changes such as `,+avx512bf16,-avx512vl`."""
    known = set(X86_FEATURES) if arch == "x86_64" else set(_NEON)
    kept = set(features)
    for change in filter(None, changes.split(",")):
        feature = change[1:]
        if change[0] not in "+-" or feature not in known:
            raise UsageError(
                f"target change {change!r} is not + or - and one of {', '.join(sorted(known))}"
            )
        if change[0] == "+":
            kept.add(feature)
        else:
            kept.discard(feature)
    return frozenset(kept)


def parse_target(text: str) -> Target:
    """Return the target that `LEVEL[,+FEATURE|,-FEATURE]...` names.

    >>> parse_target("avx2").vector_bits
    256
    """
    name, changes = split_target(text)
    arch, features = level_features(name)
    target = make_target(arch, apply_changes(features, changes, arch))
    return with_caches(target, *_CACHES[name]) if name in _CACHES else target


def split_target(text: str) -> tuple[str, str]:
    """Return the level's name and the changes behind it."""
    match = re.fullmatch(r"([\w.-]+)((?:,[^,]*)*)", text.strip())
    if match is None:
        raise UsageError(f"target {text!r} is not LEVEL[,+FEATURE|,-FEATURE]...")
    return match[1], match[2]


def with_caches(target: Target, l1: int, l2: int, l3: int, cores: int | None = None) -> Target:
    return replace(target, l1=l1, l2=l2, l3=l3, cores=cores)
