"""Compares tfc with other engines on models: `python -m benchmarks.compare [MODEL ...]`.

Every engine gets the same file, the same inputs and as many threads, in one process, in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import report
from benchmarks.models import Arrays, Case, Model, all_models, locate, prepare, relative_error
from benchmarks.peers import DEFAULT_PEERS, PEERS, SUBJECTS, Engine, Run
from benchmarks.probe import Probe, probe
from benchmarks.quantise import SUFFIX, quantised
from benchmarks.timing import ratio, side_by_side
from tfc.ir.errors import TfcError, UsageError

NO_REASON = ("Exception from ", "Check 'false' failed")
RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass
class Entry:
    """What one engine did with one case.

    time: seconds a call. spread: half the distance of the quartiles over the rounds, relative.
    ratio: the subject's time divided by this engine's. error: against the reference's outputs;
    difference: the subject's outputs against this engine's, both relative to the largest value.
    """

    time: float | None = None
    spread: float | None = None
    ratio: float | None = None
    error: float | None = None
    difference: float | None = None
    probe: Probe | None = None
    failure: str = ""


@dataclass
class Row:
    """One model with one set of inputs and one number of threads."""

    model: str
    threads: int
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How to measure. memory: whether each engine is also probed in a process of its own.

    engines: the one that is compared, and its peers.
    """

    engines: tuple[Engine, ...]
    threads: tuple[int, ...]
    rounds: int
    seconds: float
    dims: Mapping[str, int]
    alternatives: bool = False
    memory: bool = True


def compare(path: Path, plan: Plan) -> list[Row]:
    """Measure one model: a row for each number of threads and set of inputs."""
    model = prepare(path, plan.dims, plan.alternatives)
    rows: list[Row] = []
    for threads in plan.threads:
        failures: dict[str, str] = {}
        runs = _load(model, plan.engines, threads, failures)
        for case in model.cases:
            name = f"{model.name} {case.label}".strip()
            row = Row(name, threads, {n: Entry(failure=text) for n, text in failures.items()})
            _measure(row, runs, case, plan)
            rows.append(row)
        del runs
        if plan.memory:
            _probe(rows[-len(model.cases)], path, threads, plan)
    return rows


def _load(
    model: Model, engines: Sequence[Engine], threads: int, failures: dict[str, str]
) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for engine in engines:
        try:
            runs[engine.name] = engine.load(model.path, threads)
        except Exception as error:  # a peer may raise anything; its row says what
            failures[engine.name] = _first_line(error)
    return runs


def _measure(row: Row, runs: Mapping[str, Run], case: Case, plan: Plan) -> None:
    outputs: dict[str, Arrays] = {}
    for name, run in runs.items():
        row.entries[name] = Entry()
        try:
            # Copied: an engine may hand out the same memory again with the next call.
            outputs[name] = {key: value.copy() for key, value in run(case.feeds).items()}
        except Exception as error:  # as above
            row.entries[name].failure = _first_line(error)
    subject = plan.engines[0].name
    ready = {name: partial(runs[name], case.feeds) for name in outputs}
    times = side_by_side(ready, plan.rounds, plan.seconds) if ready else {}
    for name, spread in times.items():
        entry = row.entries[name]
        entry.time, entry.spread = spread.median, spread.spread
        if case.outputs:
            entry.error = relative_error(outputs[name], case.outputs)
        if name != subject and subject in times:
            entry.ratio = ratio(times[subject], spread)
            entry.difference = relative_error(outputs[subject], outputs[name])


def _probe(row: Row, path: Path, threads: int, plan: Plan) -> None:
    for name, entry in row.entries.items():
        if not entry.failure:
            try:
                entry.probe = probe(name, path, threads, plan.dims)
            except RuntimeError as error:
                entry.failure = _first_line(error)


def _first_line(error: Exception) -> str:
    """The first line that says something: OpenVINO begins with where in its own source it is."""
    lines = [line for line in str(error).splitlines() if not line.startswith(NO_REASON)]
    return lines[0] if lines else type(error).__name__


def choose_engines(names: Sequence[str], dtype: str = "f32") -> tuple[Engine, ...]:
    """Return tfc at a precision and the peers called `names`, less those not installed."""
    subject = SUBJECTS[dtype]
    known = {peer.name: peer for peer in PEERS if peer is not subject}
    for name in names:
        if name not in known:
            raise UsageError(f"no peer is called {name!r}; known: {', '.join(known)}")
    return subject, *(known[name] for name in names if known[name].version() is not None)


def _located(name: str, plan: Plan) -> Path:
    """The file of a model, or of its quantised form where the name ends so."""
    if not name.endswith(SUFFIX):
        return locate(name)
    model = prepare(locate(name.removesuffix(SUFFIX)), plan.dims)
    return quantised(model.path, model.cases[0].feeds)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="file, or name in TFC_MODELS; with :int8 behind it quantised",
    )
    parser.add_argument("--threads", default="1", help="numbers of threads, such as 1,2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a timed loop")
    parser.add_argument(
        "--dtype", choices=SUBJECTS, default="f32", help="what tfc rounds operands of products to"
    )
    parser.add_argument("--peers", help="names, or an empty string; by default those for --dtype")
    parser.add_argument("--dims", default="", help="sizes of dynamic dims: batch=4,seq=128")
    parser.add_argument("--alt", action="store_true", help="also the second stored shape")
    parser.add_argument("--no-memory", action="store_true", help="no separate process per engine")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/{RESULTS.name}")
    return parser.parse_args(argv)


def _dims(text: str) -> dict[str, int]:
    try:
        pairs = (item.split("=") for item in text.split(",") if item)
        return {name: int(size) for name, size in pairs}
    except ValueError as error:
        raise UsageError(f"--dims {text!r} is not NAME=SIZE,...") from error


def _plan(arguments: argparse.Namespace) -> Plan:
    named = arguments.peers
    peers = DEFAULT_PEERS[arguments.dtype] if named is None else filter(None, named.split(","))
    try:
        threads = tuple(int(count) for count in arguments.threads.split(","))
    except ValueError as error:
        raise UsageError(f"--threads {arguments.threads!r} is not a list of numbers") from error
    return Plan(
        choose_engines(list(peers), arguments.dtype),
        threads,
        arguments.rounds,
        arguments.seconds,
        _dims(arguments.dims),
        arguments.alt,
        not arguments.no_memory,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 where tfc failed on a model, 2 for a wrong call."""
    arguments = _arguments(argv)
    try:
        plan = _plan(arguments)
        paths = [_located(name, plan) for name in arguments.models] or all_models()
    except TfcError as error:
        print(error, file=sys.stderr)
        return 2
    rows: list[Row] = []
    for path in paths:
        print(f"measuring {path}", file=sys.stderr)
        rows += compare(path, plan)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print(report.tables(rows, plan.engines))
    if arguments.write:
        RESULTS.write_text(report.page(rows, plan), encoding="utf-8")
    return int(any(row.entries[plan.engines[0].name].failure for row in rows))


if __name__ == "__main__":
    sys.exit(main())
