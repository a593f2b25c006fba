"""The machine that tfc runs on, as a target: by its features and caches, never by its name."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from tfc.compiler.codegen import amx
from tfc.compiler.codegen.emit import initialise
from tfc.compiler.target import (
    X86_FEATURES,
    Target,
    apply_changes,
    level_features,
    make_target,
    parse_target,
    split_target,
)
from tfc.ir.errors import TargetError

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def host_target(level: str | None = None) -> Target:
    """Return this machine, or what it has of the named level."""
    arch = _host_arch()
    features = host_features()
    if level is not None:
        wanted_arch, wanted = level_features(level)
        if wanted_arch != arch:
            raise TargetError(f"target {level} is {wanted_arch}, this machine is {arch}")
        features &= wanted
    sizes = cache_sizes()
    return make_target(
        arch,
        features,
        l1=sizes.get(1, 32 << 10),
        l2=sizes.get(2, 1 << 20),
        l3=sizes.get(3, sizes.get(2, 1 << 20)),
        cores=_cores(),
    )


def resolve_target(text: str) -> Target:
    """Return the target of a `--target` text: `host`, `host,-avx512f`, or a level by name."""
    name, changes = split_target(text)
    if name != "host":
        return parse_target(text)
    host = host_target()
    return make_target(
        host.arch,
        apply_changes(host.features, changes, host.arch),
        l1=host.l1,
        l2=host.l2,
        l3=host.l3,
        cores=host.cores,
    )


def host_features() -> frozenset[str]:
    """Return the features of this machine that generated code may use."""
    initialise()
    found = llvm.get_host_cpu_features()
    arch = _host_arch()
    known = X86_FEATURES if arch == "x86_64" else ("fp-armv8", "neon")
    features = frozenset(name for name in known if found.get(name, arch != "x86_64"))
    if "amx-tile" in features and not _may_use_tiles():
        features = frozenset(name for name in features if not name.startswith("amx-"))
    return features


@cache
def _may_use_tiles() -> bool:
    """Whether Linux lets this process use tile registers, which has to be asked for."""
    libc = ctypes.CDLL(None)
    return int(libc.syscall(amx.ARCH_PRCTL, amx.REQUEST, amx.TILE_DATA)) == 0


def missing_features(target: Target) -> frozenset[str]:
    """Return what `target` needs and this machine lacks."""
    if target.arch != _host_arch():
        raise TargetError(f"target is {target.arch}, this machine is {_host_arch()}")
    return target.features - host_features()


def cache_sizes(folder: Path = _CACHES) -> dict[int, int]:
    """Return bytes of data cache by level, as far as the system tells."""
    sizes: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            size = (index / "size").read_text().strip()
            if kind != "Instruction":
                sizes[level] = int(size.rstrip("KMG")) * _UNITS.get(size[-1:], 1)
        except (OSError, ValueError):
            continue
    return sizes


def host_cpu(facts: Path = Path("/proc/cpuinfo")) -> str:
    """Return what tells CPUs of the same features apart, as far as the system tells."""
    found: dict[str, str] = {}
    try:
        lines = facts.read_text(errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        found[name.strip()] = value.strip()
    names = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
    parts = [found[name] for name in names if name in found]
    return " ".join(parts) or platform.machine()


def _host_arch() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
