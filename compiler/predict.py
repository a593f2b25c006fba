"""How long a kernel should take on a machine, and what should limit it.

A throughput model: units, ports and memory each need a time, and the longest counts. It knows no
latencies, so a kernel that waits takes longer than it says. Nothing is chosen by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfc.compiler.target import Target
from tfc.compiler.work import Work, bytes_of, work_of
from tfc.ir.core import Function
from tfc.ir.types import F32

# Per cycle, of the x86-64 and aarch64 cores of the last years: two units of vector arithmetic, two
# loads, one store, six operations in all; and bytes from the last cache.
UNITS, LOADS, STORES, ISSUE = 2, 2, 1, 6
LAST_CACHE_BYTES = 12
# Calling a kernel, and having its tasks taken by other threads.
CALL_SECONDS = 20e-9
SHARE_SECONDS = 1e-6


@dataclass(frozen=True)
class Machine:
    """gflops: of f32 multiply-adds on one core; gbytes: per second from memory, for all cores."""

    target: Target
    threads: int
    gflops: float
    gbytes: float

    @property
    def hertz(self) -> float:
        return self.gflops * 1e9 / (2 * UNITS * self.target.lanes(F32))


@dataclass(frozen=True)
class Prediction:
    """seconds of one call, and the limit: arithmetic, loads, stores, issue, cache, memory, call."""

    seconds: float
    limit: str
    work: Work
    bytes: int


def predict(kernel: Function, symbols: Mapping[str, int], machine: Machine) -> Prediction:
    """Return what one call should take."""
    work = work_of(kernel, symbols, machine.target.vector_bits)
    size = bytes_of(kernel, symbols)
    threads = min(machine.threads, work.tasks)
    # The last tasks leave some threads without one.
    sharing = work.tasks / -(-work.tasks // threads)
    cycle = 1 / (machine.hertz * sharing)
    times = {
        "arithmetic": work.units / UNITS * cycle,
        "loads": work.loads / LOADS * cycle,
        "stores": work.stores / STORES * cycle,
        "issue": work.all / ISSUE * cycle,
    }
    if size > machine.target.l3:
        times["memory"] = size / (machine.gbytes * 1e9)
    elif size > machine.target.l2 * threads:
        times["cache"] = size / LAST_CACHE_BYTES * cycle
    overhead = CALL_SECONDS + (SHARE_SECONDS if threads > 1 else 0)
    limit = max(times, key=times.__getitem__)
    seconds = times[limit] + overhead
    return Prediction(seconds, "call" if overhead > times[limit] else limit, work, size)
