"""Checks many random ONNX graphs and lists what fails: `python -m tests.fuzz.onnx_run --help`.

Graphs are checked in processes of their own, so that one that crashes is a line of the list, too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection

from tests.fuzz.onnx_check import LEVELS, Difference, Tally, check, text
from tests.fuzz.onnx_graphs import Numbers, build
from tests.fuzz.onnx_table import MAKERS

BATCH = 100


def numbers_of(seed: int, index: int) -> Numbers:
    """The numbers of graph `index` of a seed."""
    dice = random.Random(f"{seed}/{index}")
    head = [dice.randrange(1000) for _ in range(8)]
    steps = [
        (dice.randrange(len(MAKERS)), [dice.randrange(1000) for _ in range(80)])
        for _ in range(1 + dice.randrange(12))
    ]
    return head, steps


@dataclass(frozen=True)
class Ways:
    """What graphs are checked by."""

    levels: tuple[int, ...] = tuple(LEVELS)
    peer: bool = True


def failure(numbers: Numbers, tally: Tally, ways: Ways = Ways()) -> str | None:
    """Say what is wrong with the graph of the numbers, None where nothing is."""
    sample = build(numbers, MAKERS)
    if sample is None:
        tally.counts["empty"] += 1
        return None
    try:
        check(sample, tally, ways.peer, ways.levels)
    except Difference as error:
        return f"{error}\n{text(sample)}"
    except Exception:
        return f"{traceback.format_exc()}\n{text(sample)}"
    return None


def shrunk(numbers: Numbers, ways: Ways) -> Numbers:
    """Smaller numbers whose graph fails in the same way, as far as one goes greedily."""
    head, steps = numbers
    wanted = _kind(numbers, ways)
    at = len(steps) - 1
    while at >= 0 and len(steps) > 1:
        fewer = [*steps[:at], *steps[at + 1 :]]
        if _kind((head, fewer), ways) == wanted:
            steps = fewer
        at -= 1
    for at, (kind, picks) in enumerate(steps):
        for length in (0, 1, 2, 4, 8, 16):
            shorter = [*steps[:at], (kind, picks[:length]), *steps[at + 1 :]]
            if _kind((head, shorter), ways) == wanted:
                steps = shorter
                break
    return head, steps


def _kind(numbers: Numbers, ways: Ways) -> str | None:
    found = failure(numbers, Tally(), ways)
    return None if found is None else found.split(":")[0]


def _batch(seed: int, start: int, stop: int, ways: Ways, out: Connection) -> None:
    warnings.simplefilter("ignore")
    for index in range(start, stop):
        tally = Tally()
        out.send((index, None, None))
        found = failure(numbers_of(seed, index), tally, ways)
        out.send((index, found, tally))


def run(seed: int, first: int, count: int, ways: Ways) -> tuple[Tally, int]:
    """Check graphs and print failures; return what was done and how many failed."""
    tally, failed, at = Tally(), 0, first
    while at < first + count:
        receive, send = multiprocessing.Pipe(duplex=False)
        stop = min(at + BATCH, first + count)
        child = multiprocessing.get_context("spawn").Process(
            target=_batch, args=(seed, at, stop, ways, send)
        )
        child.start()
        send.close()
        found: str | None
        index, found, part = at, None, None
        while True:
            try:
                index, found, part = receive.recv()
            except EOFError:
                break
            if part is None:
                continue
            tally += part
            at = index + 1
            failed += _report(seed, index, found)
        child.join()
        if child.exitcode:
            failed += _report(seed, index, f"the process ended with {child.exitcode}")
            at = index + 1
        print(f"{at - first} of {count}", file=sys.stderr, flush=True)
    return tally, failed


def _report(seed: int, index: int, found: str | None) -> int:
    if found is None:
        return 0
    print(f"=== --seed {seed} --first {index} --count 1\n{found}", flush=True)
    return 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first graph")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--numbers", help="check the graph of these numbers (JSON) instead")
    parser.add_argument("--no-peer", action="store_true", help="without ONNX Runtime")
    parser.add_argument("--levels", type=int, nargs="+", default=[*LEVELS])
    parser.add_argument("--shrink", action="store_true", help="look for a smaller first graph")
    parser.add_argument("--text", action="store_true", help="print the first graph, too")
    given = parser.parse_args()
    ways = Ways(tuple(given.levels), not given.no_peer)
    if given.numbers:
        numbers = json.loads(given.numbers)
    else:
        numbers = numbers_of(given.seed, given.first)
    if given.text:
        sample = build(numbers, MAKERS)
        print("nothing fits" if sample is None else text(sample))
    if given.shrink:
        numbers = shrunk(numbers, ways)
        print(f"--numbers '{json.dumps(numbers)}'")
    if given.numbers or given.shrink:
        print(failure(numbers, Tally(), ways) or "no difference")
        return
    begin = time.monotonic()
    tally, failed = run(given.seed, given.first, given.count, ways)
    print(f"--- seed {given.seed}: {given.count} graphs, {failed} failures, "
          f"{time.monotonic() - begin:.0f} s")  # fmt: skip
    for title, counter in vars(tally).items():
        print(f"{title}: " + ", ".join(f"{name} {n}" for name, n in counter.most_common()))


if __name__ == "__main__":
    main()
