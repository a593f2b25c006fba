"""How many CPUs this process may use: affinity, cgroup CPU quota and `TFC_THREADS`.
It reads files and starts nothing; the thread pool takes its size from `usable_cores`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

THREADS_VARIABLE = "TFC_THREADS"


def usable_cores(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """Return how many threads are worth starting, at least one.

    `TFC_THREADS` decides when it is set and not empty, and must then be a positive integer. A
    fractional quota is rounded up: two threads use a quota of 1.5 fully, one thread does not.
    `root` is where `proc` and `sys` are found.
    """
    text = environ.get(THREADS_VARIABLE, "").strip()
    if text:
        return _parse_threads(text)
    cores = affinity_cores()
    quota = cgroup_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def affinity_cores() -> int:
    """Return the number of CPUs that the calling thread may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Return the tightest CPU quota of this process's cgroups in CPUs; None without a quota.

    Version 1 and 2 hierarchies are read, and a quota of any ancestor counts.
    """
    groups = _own_groups(_read(root / "proc/self/cgroup"))
    limits = [
        limit
        for mount in _cpu_mounts(_read(root / "proc/self/mountinfo"))
        if (group := groups.get(mount.version)) is not None
        for folder in _folders(mount, group, root)
        if (limit := _folder_quota(folder, mount.version)) is not None
    ]
    return min(limits, default=None)


@dataclass(frozen=True)
class _Mount:
    """A mounted cgroup hierarchy that can hold CPU quotas; `top` is the group seen at `point`."""

    version: int
    top: PurePosixPath
    point: PurePosixPath


def _parse_threads(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"{THREADS_VARIABLE} is {text!r}: it must be a positive integer")
    return int(text)


def _read(path: Path) -> str:
    """Return the file's text; empty when it cannot be read, as on systems without cgroups."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _own_groups(text: str) -> dict[int, PurePosixPath]:
    """Read /proc/self/cgroup (cgroups(7)): version to the path of this process's CPU group."""
    groups = {}
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) != 3:
            continue
        hierarchy, controllers, path = fields
        if hierarchy == "0" and not controllers:
            groups[2] = PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            groups[1] = PurePosixPath(path)
    return groups


def _cpu_mounts(text: str) -> Iterator[_Mount]:
    """Read /proc/self/mountinfo (proc_pid_mountinfo(5)): `... top point ... - type dev options`."""
    for line in text.splitlines():
        mounted, _, kind = line.partition(" - ")
        mounted_fields, kind_fields = mounted.split(), kind.split()
        if len(mounted_fields) < 5 or not kind_fields:
            continue
        top, point = (PurePosixPath(_unescape(field)) for field in mounted_fields[3:5])
        if kind_fields[0] == "cgroup2":
            yield _Mount(2, top, point)
        elif kind_fields[0] == "cgroup" and "cpu" in kind_fields[-1].split(","):
            yield _Mount(1, top, point)


def _unescape(field: str) -> str:
    """Undo the octal escapes that the kernel writes for space, tab, newline and backslash."""
    for code in (" ", "\t", "\n", "\\"):
        field = field.replace(f"\\{ord(code):03o}", code)
    return field


def _folders(mount: _Mount, group: PurePosixPath, root: Path) -> Iterator[Path]:
    """List the group's folder and those of its ancestors, as far as the mount shows them.

    In a container the group may be named as the host sees it, outside of what is mounted; the
    mount point itself is then the group.
    """
    below = group.relative_to(mount.top) if group.is_relative_to(mount.top) else PurePosixPath()
    if ".." in below.parts:
        below = PurePosixPath()
    base = root / mount.point.relative_to("/")
    for part in (below, *below.parents):
        yield base / part


def _folder_quota(folder: Path, version: int) -> float | None:
    if version == 2:
        fields = _read(folder / "cpu.max").split()
    else:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        fields = [_read(folder / name).strip() for name in names]
    if len(fields) != 2:
        return None
    try:
        quota, period = (int(field) for field in fields)
    except ValueError:  # "max", or a file that is not there
        return None
    return quota / period if quota > 0 and period > 0 else None
