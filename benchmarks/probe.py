"""Loads one model in one engine in a process of its own: compile time, first call, peak memory.

`python -m benchmarks.probe ENGINE MODEL THREADS` prints one line of JSON; `probe` starts that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.models import ROOT, prepare
from benchmarks.peers import engine


@dataclass(frozen=True)
class Probe:
    """compile: seconds to load, nothing cached. first: seconds of the first call.

    peak: bytes of memory at the highest, the process's own libraries included. again: in a second
    process, which finds what the first one has left in a cache.
    """

    compile: float
    first: float
    peak: int
    again: int


def peak_memory() -> int:
    """Return the most bytes of memory that this process ever held.

    Not from getrusage: there a child begins with the figure of the process that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not say how much memory a process held")


def measure(name: str, path: Path, threads: int, dims: Mapping[str, int]) -> Probe:
    """Load and call once, in this process."""
    model = prepare(path, dims)
    start = time.perf_counter()
    run = engine(name).load(model.path, threads)
    compiled = time.perf_counter()
    run(model.cases[0].feeds)
    peak = peak_memory()
    return Probe(compiled - start, time.perf_counter() - compiled, peak, peak)


def probe(name: str, path: Path, threads: int, dims: Mapping[str, int]) -> Probe:
    """Measure in processes of their own. Raises RuntimeError with its last line of complaint."""
    command = [sys.executable, "-m", "benchmarks.probe"]
    command += [name, str(path.resolve()), str(threads), json.dumps(dict(dims))]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TFC_CACHE_DIR": cache}
        first, second = (_started(command, environment) for _ in range(2))
    return replace(first, again=second.peak)


def _started(command: Sequence[str], environment: Mapping[str, str]) -> Probe:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return Probe(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    _, wanted, file, count, sizes = sys.argv
    found = measure(wanted, Path(file), int(count), json.loads(sizes))
    print(json.dumps(asdict(found)))
