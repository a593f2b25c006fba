"""Plans one workspace: byte offsets for buffers whose lifetimes are known.

Static sizes: largest first, each at the lowest offset free for its lifetime. With symbolic sizes:
buffers share slots, and offsets are prefix sums of the slots' sizes, evaluated at run time.
Memory for each thread comes last, so that it does not make the rest symbolic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfc.ir.dims import DimLike, ceildiv, maximum, symbols_of
from tfc.ir.loop.verify import THREADS

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A buffer that is written first by call `start` and read last by call `end`."""

    size: DimLike
    start: int
    end: int

    def overlaps(self, other: Lifetime) -> bool:
        return self.start <= other.end and other.start <= self.end


@dataclass(frozen=True)
class MemoryPlan:
    """offsets: bytes into the workspace, one a buffer. size: bytes of the whole workspace."""

    offsets: tuple[DimLike, ...]
    size: DimLike


def aligned(size: DimLike) -> DimLike:
    return ceildiv(size, ALIGNMENT) * ALIGNMENT


def plan_memory(buffers: Sequence[Lifetime], estimates: Sequence[int]) -> MemoryPlan:
    """Place every buffer. `estimates` are likely sizes in bytes, used where sizes are symbolic."""
    offsets: list[DimLike] = [0] * len(buffers)
    total: DimLike = 0
    each = [THREADS in symbols_of(buffer.size) for buffer in buffers]
    for last in (False, True):
        chosen = [i for i in range(len(buffers)) if each[i] is last]
        own = [buffers[i] for i in chosen]
        if all(isinstance(buffer.size, int) for buffer in own):
            plan = _plan_static(own)
        else:
            plan = _plan_slots(own, [estimates[i] for i in chosen])
        for i, offset in zip(chosen, plan.offsets, strict=True):
            offsets[i] = total + offset
        total = total + plan.size
    return MemoryPlan(tuple(offsets), total)


def _plan_static(buffers: Sequence[Lifetime]) -> MemoryPlan:
    order = sorted(range(len(buffers)), key=lambda i: (-_bytes(buffers[i]), i))
    offsets = [0] * len(buffers)
    placed: list[int] = []
    total = 0
    for i in order:
        size = _bytes(buffers[i])
        busy = sorted(
            (offsets[j], offsets[j] + _bytes(buffers[j]))
            for j in placed
            if buffers[i].overlaps(buffers[j])
        )
        at = 0
        for start, end in busy:
            if at + size <= start:
                break
            at = max(at, end)
        offsets[i] = at
        placed.append(i)
        total = max(total, at + size)
    return MemoryPlan(tuple(offsets), total)


def _bytes(buffer: Lifetime) -> int:
    size = aligned(buffer.size)
    assert isinstance(size, int)
    return size


def _plan_slots(buffers: Sequence[Lifetime], estimates: Sequence[int]) -> MemoryPlan:
    """First-fit into slots, largest first; a slot is as large as its largest buffer."""
    order = sorted(range(len(buffers)), key=lambda i: (-estimates[i], i))
    slots: list[list[int]] = []
    for i in order:
        for slot in slots:
            if not any(buffers[i].overlaps(buffers[j]) for j in slot):
                slot.append(i)
                break
        else:
            slots.append([i])
    offsets: list[DimLike] = [0] * len(buffers)
    total: DimLike = 0
    for slot in slots:
        for i in slot:
            offsets[i] = total
        total = total + maximum(0, *(aligned(buffers[i].size) for i in slot))
    return MemoryPlan(tuple(offsets), total)
