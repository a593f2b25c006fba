"""Quantised models beside their f32 forms: `python -m benchmarks.int8 MODEL ...`.

MODEL is a file, or a name in TFC_MODELS. Its quantised form is MODEL_qdq there, or is made by ONNX
Runtime. What `compare` measures of that is measured of tfc with the f32 form as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.compare import Plan, Row, choose_engines, compare
from benchmarks.models import Arrays, locate, prepare
from benchmarks.peers import DEFAULT_PEERS, TFC, Engine, Run
from benchmarks.quantise import quantised
from tfc.ir.errors import TfcError, UsageError


class Unquantised:
    """tfc with another file than it is given: the model in f32, whose inputs are the same."""

    name = "tfc-f32"

    def __init__(self, path: Path) -> None:
        self.path = path

    def version(self) -> str | None:
        return TFC.version()

    def load(self, path: Path, threads: int) -> Run:
        run = TFC.load(self.path, threads)
        names = list(prepare(self.path, {}).cases[0].feeds)

        kept: dict[int, Arrays] = {}

        def renamed(feeds: Arrays) -> Arrays:
            # Made once, so that it is not timed.
            own = kept.get(id(feeds))
            if own is None:
                own = kept[id(feeds)] = dict(zip(names, feeds.values(), strict=True))
            return run(own)

        return renamed


def pair(name: str) -> tuple[Path, Path]:
    """Return the files of a model in f32 and quantised."""
    path = locate(name)
    model = prepare(path, {})
    stem = path.parent.name if path.stem == "model" else path.stem
    try:
        return model.path, locate(f"{stem}_qdq")
    except UsageError:
        return model.path, quantised(model.path, model.cases[0].feeds)


def measure(
    name: str, threads: Sequence[int], rounds: int, seconds: float
) -> tuple[list[Row], tuple[Engine, ...]]:
    """Return the rows of a model, and the engines that they compare."""
    plain, narrow = pair(name)
    peers = choose_engines(DEFAULT_PEERS["f32"], "f32")[1:]
    engines = (TFC, Unquantised(plain), *peers)
    rows = compare(narrow, Plan(engines, tuple(threads), rounds, seconds, {}, memory=False))
    for row in rows:
        row.model = f"{locate(name).stem if Path(name).is_file() else name} int8"
    return rows, engines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 where tfc failed on a model, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a timed loop")
    arguments = parser.parse_args(argv)
    rows: list[Row] = []
    engines: tuple[Engine, ...] = ()
    try:
        for name in arguments.models:
            found, engines = measure(name, arguments.threads, arguments.rounds, arguments.seconds)
            rows += found
    except TfcError as error:
        print(error, file=sys.stderr)
        return 2
    print(report.tables(rows, engines))
    return int(any(row.entries[TFC.name].failure for row in rows))


if __name__ == "__main__":
    sys.exit(main())
