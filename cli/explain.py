"""`tfc explain`: what each kernel does, how long it should take and takes, and what limits it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfc.cli.measure import Profile, nodes_text, profiled
from tfc.cli.options import (
    INPUT_SYNTAX,
    MODEL,
    Settings,
    compile_options,
    output_options,
    some_inputs,
)
from tfc.cli.report import emit_json, size_text, table, time_text

if TYPE_CHECKING:
    from tfc.compiler.cost.choice import Site
    from tfc.compiler.cost.machine import Machine

_HEAD = [
    "kernel",
    "calls",
    "time",
    "should take",
    "of it",
    "limit",
    "GFLOP/s",
    "data",
    "chosen",
    "nodes",
]


@click.command("explain", epilog=INPUT_SYNTAX)
@click.argument("model", type=MODEL)
@some_inputs
@click.option("--threads", type=click.IntRange(1), help="How many threads to run on.")
@click.option("--seconds", default=1.0, show_default=True, help="How long to measure.")
@click.option("--top", type=click.IntRange(1), metavar="N", help="Show only the longest N kernels.")
@compile_options
@output_options
def command(
    model: Path,
    inputs: tuple[str, ...],
    threads: int | None,
    seconds: float,
    top: int | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Say of each kernel of MODEL what it does, what it should take, and what limits it.

    The prediction is the longest of the times that arithmetic, loads, stores, issue and memory
    need at the rates measured here; latency is not in it. A kernel that takes much longer than it
    should waits for something else. What was chosen for it stands behind, marked * where tuning
    and not the cost model chose.
    """
    from tfc.compiler.codegen.host import host_target
    from tfc.compiler.cost.machine import machine_of
    from tfc.peak import peak

    found = profiled(model, inputs, threads, seconds, settings)
    rates = peak()
    machine = machine_of(host_target()).measured(rates["one_core_gflops"], rates["copy_gbytes"])
    threads = found.executable.threads
    rows = _rows(found, machine)
    total = {
        "median": sorted(found.samples)[len(found.samples) // 2],
        "kernels_seconds": sum(row["seconds"] * row["calls"] for row in rows),
        "predicted": sum(row["predicted"] * row["calls"] for row in rows),
    }
    rows = rows[:top]
    if as_json:
        emit_json(
            {
                "model": model.name,
                "threads": threads,
                "dims": found.sizes,
                "machine": rates,
                **total,
                "kernels": rows,
            }
        )
        return
    click.echo(
        f"{threads} threads, median {time_text(total['median'])}, kernels "
        f"{time_text(total['kernels_seconds'])}, should take {time_text(total['predicted'])} at "
        f"{machine.peak:.0f} GFLOP/s a core and {machine.gbytes:.0f} GB/s"
    )
    click.echo(table([_cells(row) for row in rows], _HEAD))


def _rows(found: Profile, machine: Machine) -> list[dict[str, Any]]:
    """Return the kernels, those that take longest in all first, with the nodes of all calls."""
    from tfc.compiler.cost.predict import predict

    rows: dict[str, dict[str, Any]] = {}
    for entry in found.entries:
        row = rows.get(entry.kernel)
        if row is None:
            kernel = found.program.functions[entry.kernel]
            expected = predict(kernel, found.symbols, machine, found.executable.threads)
            row = rows[entry.kernel] = {
                "kernel": entry.kernel,
                "calls": 0,
                "total": 0.0,
                "times": 0,
                "predicted": expected.seconds,
                "limit": expected.limit,
                "flops": expected.work.flops,
                "bytes": expected.bytes,
                "decisions": _decisions(found.sites.get(entry.kernel), machine),
                "nodes": [],
            }
        row["calls"] += 1
        row["total"] += entry.seconds
        row["times"] += entry.calls
        row["nodes"] += entry.nodes
    for row in rows.values():
        row["seconds"] = row.pop("total") / max(row.pop("times"), 1)
        row["of_bound"] = row["predicted"] / row["seconds"] if row["seconds"] else 0.0
    return sorted(rows.values(), key=lambda row: -row["seconds"] * row["calls"])


def _decisions(site: Site | None, machine: Machine) -> list[dict[str, Any]]:
    """Return what was chosen for a kernel and the seconds on one core that the model gave each
    candidate.
    """
    return [
        {
            "kind": decision.kind,
            "chosen": decision.chosen,
            "tuned": decision.tuned,
            "candidates": {
                name: cycles / machine.rates.hertz for name, cycles in decision.candidates
            },
        }
        for decision in (site.decisions if site is not None else ())
    ]


def _choices_text(decisions: list[dict[str, Any]]) -> str:
    chosen = [
        f"{decision['kind']}={decision['chosen']}{'*' if decision['tuned'] else ''}"
        for decision in decisions
        if len(decision["candidates"]) > 1
    ]
    return " ".join(chosen) or "-"


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["kernel"],
        f"{row['calls']}",
        time_text(row["seconds"]),
        time_text(row["predicted"]),
        f"{row['of_bound']:.0%}",
        row["limit"],
        f"{row['flops'] / row['seconds'] / 1e9:.1f}" if row["seconds"] else "0.0",
        size_text(row["bytes"]),
        _choices_text(row["decisions"]),
        nodes_text(row["nodes"]),
    ]
