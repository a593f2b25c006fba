"""How long a kernel should take on a machine, and what should limit it.

A throughput model: units, ports and memory each need a time, and the longest counts. It knows no
latencies, so a kernel that waits takes longer than it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfc.compiler.cost.machine import Machine
from tfc.compiler.cost.work import Work, bytes_of, work_of
from tfc.ir.core import Function

# Calling a kernel, and having its tasks taken by other threads.
CALL_SECONDS = 20e-9
SHARE_SECONDS = 1e-6


@dataclass(frozen=True)
class Prediction:
    """seconds of one call, and the limit: arithmetic, loads, stores, issue, cache, memory, call."""

    seconds: float
    limit: str
    work: Work
    bytes: int


def predict(
    kernel: Function, symbols: Mapping[str, int], machine: Machine, threads: int = 1
) -> Prediction:
    """Return what one call should take on so many threads."""
    work = work_of(kernel, symbols, machine.target.vector_bits)
    size = bytes_of(kernel, symbols)
    threads = min(threads, work.tasks)
    # The last tasks leave some threads without one.
    sharing = work.tasks / -(-work.tasks // threads)
    rates = machine.rates
    cycle = 1 / (rates.hertz * sharing)
    times = {
        "arithmetic": work.units / rates.units * cycle,
        "loads": work.loads / rates.loads * cycle,
        "stores": work.stores / rates.stores * cycle,
        "issue": work.all / rates.issue * cycle,
    }
    if size > machine.target.l3:
        times["memory"] = size / (machine.gbytes * 1e9)
    elif size > machine.target.l2 * threads:
        times["cache"] = size / rates.last * cycle
    overhead = CALL_SECONDS + (SHARE_SECONDS if threads > 1 else 0)
    limit = max(times, key=times.__getitem__)
    seconds = times[limit] + overhead
    return Prediction(seconds, "call" if overhead > times[limit] else limit, work, size)
