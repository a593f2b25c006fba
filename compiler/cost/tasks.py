"""Sharing work out to threads: from which size on, and in how large tasks.

The split depends on shapes alone, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import math

from tfc.compiler.cost.choice import Candidate
from tfc.ir.loop.kernel import PARALLEL_WORK
from tfc.ir.loop.kernel import TASK_WORK as TASK_WORK

# Tasks wanted at least, so that threads have about equal shares.
LEAST_TASKS = 4
# Iterations of outer loops that are enough to make tasks of: inner loops stay whole.
ENOUGH = 64
# Threads that the model thinks of, and cycles that taking a task costs.
SHARERS = 2
TAKE = 200
SERIAL = 0
# What the decision is called.
TASKS = "tasks"


def pays(cycles: float) -> bool:
    """Whether a second thread saves more than it costs."""
    return cycles >= PARALLEL_WORK


def grain(count: int, cycles: float, static: bool = True) -> int:
    """How many of `count` iterations, of so many cycles each, make a task."""
    size = max(1, int(TASK_WORK / max(cycles, 1.0)))
    return min(size, max(1, count // LEAST_TASKS)) if static else size


def least_count(cycles: float) -> int:
    """From how many iterations on, of so many cycles each, threads are woken."""
    return max(2, int(PARALLEL_WORK / max(cycles, 1.0)))


def chunk(cycles: float, unit: int) -> int:
    """How many elements of so many cycles, in whole units, make a task."""
    return math.ceil(TASK_WORK / cycles / unit) * unit


def shared_cycles(count: int, cycles: float, size: int) -> float:
    """How long `count` iterations take in tasks of `size`."""
    if size == SERIAL:
        return count * cycles
    tasks = math.ceil(count / size)
    last = size * cycles * (1 - 1 / SHARERS)
    return PARALLEL_WORK / 2 + (count * cycles + tasks * TAKE) / SHARERS + last


def grains(count: int, cycles: float, static: bool) -> list[Candidate[int]]:
    """Sizes of a task, the model's first; SERIAL is no task at all.

    Of a count that only a run tells there are always tasks, and the run decides on threads.
    """
    chosen = grain(count, cycles, static)
    sizes = [chosen, max(1, chosen // 4), max(1, chosen // 2), 2 * chosen, 4 * chosen]
    if static:
        sizes = [size for size in sizes if size == chosen or size < count]
        sizes.insert(0 if not pays(count * cycles) else len(sizes), SERIAL)
    return [
        Candidate("serial" if size == SERIAL else f"{size}",
                  shared_cycles(count, cycles, size), size)
        for size in dict.fromkeys(sizes)
    ]  # fmt: skip
