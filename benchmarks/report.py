"""Tables of measured rows, and the page of results with the machine and the versions."""

from __future__ import annotations

import datetime
import math
import os
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.engine import Engine, installed

if TYPE_CHECKING:
    from benchmarks.compare import Entry, Plan, Row

NONE = "-"


def tables(rows: Sequence[Row], engines: Sequence[Engine]) -> str:
    """Return the tables of times, of errors, and of what loading costs."""
    names = [engine.name for engine in engines]
    subject, *peers = names
    times = _table(
        [*(f"{name} ms" for name in names), *(f"{subject} / {name}" for name in peers)],
        rows,
        lambda row: [
            *(_cell(row, name, _time) for name in names),
            *(_cell(row, name, lambda entry: _number(entry.ratio, ".2f")) for name in peers),
        ],
    )
    errors = _table(
        [*(f"{name} / reference" for name in names), *(f"{subject} / {name}" for name in peers)],
        rows,
        lambda row: [
            *(_cell(row, name, lambda entry: _number(entry.error, ".1e")) for name in names),
            *(_cell(row, name, lambda entry: _number(entry.difference, ".1e")) for name in peers),
        ],
    )
    parts = [times, *_means(rows, subject, peers), "Relative error of the outputs:", errors]
    probed = [row for row in rows if any(entry.probe for entry in row.entries.values())]
    if probed:
        parts += [
            "In a fresh process, compile seconds and peak MiB, and once compiled in another:",
            _loading(probed, names),
        ]
    parts += _failures(rows)
    return "\n\n".join(parts)


def _loading(rows: Sequence[Row], names: Sequence[str]) -> str:
    return _table(
        [
            *(f"{name} s" for name in names),
            *(f"{name} MiB" for name in names),
            *(f"{name} again" for name in names),
        ],
        rows,
        lambda row: [
            *(_cell(row, name, _compile) for name in names),
            *(_cell(row, name, _memory) for name in names),
            *(_cell(row, name, _again) for name in names),
        ],
    )


def _table(heads: Sequence[str], rows: Sequence[Row], cells: Callable[[Row], list[str]]) -> str:
    lines = [["model", "threads", *heads]]
    lines += [[row.model, str(row.threads), *cells(row)] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [_line(lines[0], widths)]
    text.append("|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":")
                               for i, w in enumerate(widths)) + "|")  # fmt: skip
    return "\n".join([*text, *(_line(line, widths) for line in lines[1:])])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "| " + " | ".join([first, *rest]) + " |"


def _cell(row: Row, name: str, text: Callable[[Entry], str]) -> str:
    entry = row.entries.get(name)
    return NONE if entry is None else text(entry)


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _time(entry: Entry) -> str:
    if entry.time is None or entry.spread is None:
        return "failed"
    return f"{entry.time * 1e3:.4g} ±{entry.spread:.1%}"


def _compile(entry: Entry) -> str:
    return NONE if entry.probe is None else f"{entry.probe.compile:.2f}"


def _memory(entry: Entry) -> str:
    return NONE if entry.probe is None else f"{entry.probe.peak / 2**20:.0f}"


def _again(entry: Entry) -> str:
    return NONE if entry.probe is None else f"{entry.probe.again / 2**20:.0f}"


def _means(rows: Sequence[Row], subject: str, peers: Sequence[str]) -> list[str]:
    """One line for each number of threads: geometric means of the ratios."""
    lines: list[str] = []
    for threads in dict.fromkeys(row.threads for row in rows):
        found: list[str] = []
        for name in peers:
            entries = (row.entries.get(name) for row in rows if row.threads == threads)
            ratios = [e.ratio for e in entries if e is not None and e.ratio is not None]
            if ratios:
                mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                found.append(f"{subject} / {name} {mean:.2f} over {len(ratios)}")
        if found:
            lines.append(f"Geometric mean, threads {threads}: {'; '.join(found)}.")
    return lines


def _failures(rows: Sequence[Row]) -> list[str]:
    """What could not be measured; the same message once for a model."""
    seen: dict[str, None] = {}
    for row in rows:
        for name, entry in row.entries.items():
            if entry.failure:
                seen[f"{row.model}: {name} failed: {entry.failure}"] = None
    return ["\n".join(seen)] if seen else []


def page(rows: Sequence[Row], plan: Plan) -> str:
    """Return the page of results."""
    versions = [f"{engine.name} {engine.version()}" for engine in plan.engines]
    versions += [f"{name} {installed(name)}" for name in ("llvmlite", "numpy")]
    return "\n".join(
        [
            "# Results",
            "",
            f"{datetime.date.today().isoformat()}, {machine()}.",
            f"Python {platform.python_version()}, {', '.join(versions)}.",
            f"{plan.rounds} rounds of loops of {plan.seconds} s, in turn; medians, ± half the",
            "distance of the quartiles. A ratio below 1 means that tfc is faster.",
            "",
            tables(rows, plan.engines),
            "",
        ]
    )


def machine() -> str:
    """Return the processor, the usable cores, the caches and the widest vectors."""
    info = Path("/proc/cpuinfo").read_text()
    facts = dict(re.findall(r"^(model name|cpu family|model|cache size)\s*: (.*)$", info, re.M))
    flags = set((re.search(r"^flags\s*: (.*)$", info, re.M) or ["", ""])[1].split())
    width = next((n for n in ("avx512f", "avx2", "avx") if n in flags), platform.machine())
    name = facts.get("model name", platform.processor())
    family = f"family {facts['cpu family']} model {facts['model']}" if "model" in facts else ""
    return f"{name} {family}, {len(os.sched_getaffinity(0))} cores, {width}"
