"""What this machine's CPU can do, as the kernel reports it; needs no native code of tfc."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

# Names of LLVM's features where /proc/cpuinfo has another one than with "." as "_".
_CPUINFO_NAMES = {
    "sse3": "pni",
    "lzcnt": "abm",
    "bmi": "bmi1",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
    "fp-armv8": "fp",
    "neon": "asimd",
}


def cpu_flags(text: str) -> frozenset[str]:
    """Return the flags of the first CPU in the text of /proc/cpuinfo."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


@cache
def own_flags() -> frozenset[str]:
    """Return this machine's flags, or nothing where the kernel does not tell."""
    try:
        return cpu_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return frozenset()


def missing_features(features: list[str], flags: frozenset[str]) -> list[str]:
    """Return which of LLVM's feature names `flags` lack; none where no flag is known."""
    if not flags:
        return []
    names = {name: _CPUINFO_NAMES.get(name, name) for name in features}
    return [
        name
        for name, flag in names.items()
        if not flags & {flag, flag.replace(".", "_"), flag.replace("-", "_")}
    ]


def reason_not_to_run(isa: Mapping[str, Any]) -> str | None:
    """Return why code for the manifest's `isa` cannot run here, or None if it can."""
    arch, here = isa.get("arch"), platform.machine()
    if arch and arch != here:
        return f"compiled for {arch}, but this machine is {here}"
    missing = missing_features(isa.get("features", []), own_flags())
    if missing:
        return f"compiled for a CPU with {', '.join(missing)}, which this one lacks"
    return None
