"""Sweeps over sizes of single ops: `python -m benchmarks.micro [matmul conv ...]`.

Microseconds of tfc and of libraries that are there, and which share of the least time each takes:
what its multiply-adds need at the measured peak, or its bytes at the bandwidth that a set of that
size is read with. Convolutions count the multiply-adds of the definition: with fewer of them, as
in Winograd's algorithm, more than 100 % is possible.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bandwidth import read_bandwidth
from benchmarks.libraries import DEFAULT, LIBRARIES, Call, Library
from benchmarks.ops import Op, traffic
from benchmarks.point import Point
from benchmarks.sweeps import SWEEPS
from benchmarks.timing import side_by_side
from tfc.peak import multiply_add_gflops

# Of the largest value. Winograd's algorithm is allowed 2e-5.
TOLERANCE = 1e-4
# numpy's BLAS may be told which processor it is on; here it is to see for itself.
TOLD = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def least_time(op: Op, threads: int, peak: float) -> float:
    """Return seconds that the op takes at least; peak: multiply-adds of one core, in GFLOP/s."""
    size = traffic(op)
    computing = op.flops / (threads * peak * 1e9) if peak else 0.0
    return max(computing, size / read_bandwidth(size, threads))


def prepared(op: Op, libraries: Sequence[Library], threads: int) -> dict[str, Call]:
    """Return a call of each library that has the op and computes what the others do."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(op.x, np.float32)
    weight = rng.standard_normal(op.weight, np.float32)
    calls: dict[str, Call] = {}
    first: np.ndarray[Any, Any] | None = None
    for library in libraries:
        try:
            call = library.prepare(op, x, weight, threads)
            if call is None:
                continue
            found = _array(call())
        except Exception as error:  # a library may raise anything; the others are measured
            reason = str(error).partition("\n")[0]
            print(f"{op.name}: {library.name} failed: {reason}", file=sys.stderr)
            continue
        first = found if first is None else first
        difference = float(np.abs(found - first).max() / np.abs(first).max())
        if not difference < TOLERANCE:
            print(f"{op.name}: {library.name} differs by {difference:.1e}", file=sys.stderr)
            continue
        calls[library.name] = call
    return calls


def _array(result: Any) -> np.ndarray[Any, Any]:
    if isinstance(result, dict):
        (result,) = result.values()
    if isinstance(result, np.ndarray):
        return np.array(result)
    # A tensor, which may be in a layout of its library's own.
    dense = result.to_dense() if result.is_mkldnn else result
    return np.array(dense.numpy())


def table(points: Sequence[Point], libraries: Sequence[Library]) -> str:
    """Return a sweep's table."""
    names = [each.name for each in libraries if any(each.name in p.times for p in points)]
    heads = [points[0].sweep, "bound us", *names, "best other / tfc"]
    rows = []
    for point in points:
        cells = [point.op, f"{point.least * 1e6:.4g}"]
        for name in names:
            seconds = point.times.get(name)
            cells.append("-" if seconds is None else
                         f"{seconds * 1e6:.4g} {point.share(name):4.0%}")  # fmt: skip
        rival = point.rival
        both = rival is not None and "tfc" in point.times
        cells.append(f"{point.times[rival] / point.times['tfc']:.2f}" if both else "-")  # type: ignore[index]
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = ["| " + " | ".join(
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ) + " |" for row in (heads, *rows)]  # fmt: skip
    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths))
    return "\n".join([lines[0], rule + "|", *lines[1:]])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.micro",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=f"of {', '.join(SWEEPS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.05, help="length of a timed loop")
    parser.add_argument(
        "--libraries",
        default=",".join(DEFAULT),
        help=f"of {', '.join(each.name for each in LIBRARIES)}",
    )
    parser.add_argument("--only", default="", metavar="WORD", help="ops with WORD in their names")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the points to a file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the shares: SVG or PNG")
    arguments = parser.parse_args(argv)
    for name in arguments.sweeps:
        if name not in SWEEPS:
            parser.error(f"no sweep is called {name!r}; known: {', '.join(SWEEPS)}")
    known = {each.name: each for each in LIBRARIES}
    names = [name for name in arguments.libraries.split(",") if name]
    for name in names:
        if name not in known:
            parser.error(f"no library is called {name!r}; known: {', '.join(known)}")
    arguments.libraries = [known[name] for name in names if known[name].version() is not None]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Print one table for each sweep."""
    arguments = _arguments(argv)
    threads, libraries = arguments.threads, arguments.libraries
    peak = multiply_add_gflops()
    print(f"f32 FMA peak of a core: {peak:.0f} GFLOP/s; threads: {threads}")
    points: list[Point] = []
    for sweep in arguments.sweeps or SWEEPS:
        own: list[Point] = []
        for op in SWEEPS[sweep]:
            if arguments.only not in op.name:
                continue
            calls = prepared(op, libraries, threads)
            spreads = side_by_side(calls, arguments.rounds, arguments.seconds)
            times = {name: spread.median for name, spread in spreads.items()}
            own.append(Point(sweep, op.name, threads, least_time(op, threads, peak), times))
        if own:
            print(f"\n{table(own, libraries)}", flush=True)
        points += own
    if arguments.json:
        before = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
        arguments.json.write_text(json.dumps([*before, *map(asdict, points)], indent=1))
    if arguments.plot:
        from benchmarks.plot import draw

        draw(points, arguments.plot)
    return 0


def _same_threads(wanted: str) -> None:
    """Start again with BLAS held to as many threads; it reads this when it is loaded."""
    if os.environ.get("OPENBLAS_NUM_THREADS") != wanted or any(name in os.environ for name in TOLD):
        kept = {name: value for name, value in os.environ.items() if name not in TOLD}
        threads = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
        command = [sys.executable, "-m", "benchmarks.micro", *sys.argv[1:]]
        os.execve(sys.executable, command, {**kept, **dict.fromkeys(threads, wanted)})


if __name__ == "__main__":
    _same_threads(str(_arguments(None).threads))
    sys.exit(main())
