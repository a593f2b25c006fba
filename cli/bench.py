"""`tfc bench`: how long a call takes, for several numbers of threads, in whole or by kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfc.cli.measure import inputs_for, measured, nodes_text, profiled
from tfc.cli.options import (
    INPUT_SYNTAX,
    MODEL,
    Settings,
    compile_options,
    executable_for,
    is_artifact,
    output_options,
    some_inputs,
)
from tfc.cli.report import emit_json, table, time_text

if TYPE_CHECKING:
    from tfc.runtime.profile import Entry

_PERCENTILES = (50, 90, 99)


@click.command("bench", epilog=INPUT_SYNTAX)
@click.argument("model", type=MODEL)
@some_inputs
@click.option("--threads", "threads", metavar="N,...", help="Numbers of threads, such as 1,2.")
@click.option("--seconds", default=2.0, show_default=True, help="How long to measure each.")
@click.option(
    "--profile",
    "profiled",
    is_flag=True,
    help="Show the time of each kernel, with its nodes, GFLOP/s and GB/s.",
)
@compile_options
@output_options
def command(
    model: Path,
    inputs: tuple[str, ...],
    threads: str | None,
    seconds: float,
    profiled: bool,
    settings: Settings,
    as_json: bool,
) -> None:
    """Measure the latency of MODEL (ONNX, IR text, or a compiled .so)."""
    counts = _counts(threads)
    if profiled:
        _profile(model, inputs, counts[0], seconds, settings, as_json)
        return
    results = []
    for count in counts:
        executable = executable_for(model, _at_compile_time(model, settings), count)
        values, sizes = inputs_for(executable, inputs, settings)
        samples = measured(executable, values, seconds)
        results.append({"threads": executable.threads, **_statistics(samples), "dims": sizes})
    if as_json:
        emit_json({"model": model.name, "results": results})
        return
    if results[0]["dims"]:
        click.echo(", ".join(f"{name}={size}" for name, size in results[0]["dims"].items()))
    names = ["median", "p90", "p99", "min"]
    rows = [
        [f"{result['threads']}", *(time_text(result[name]) for name in names), f"{result['calls']}"]
        for result in results
    ]
    click.echo(table(rows, ["threads", *names, "calls"]))


def _counts(text: str | None) -> list[int | None]:
    if text is None:
        return [None]
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.UsageError(f"--threads {text!r} is not like 1,2")
    return [int(part) for part in parts]


def _at_compile_time(model: Path, settings: Settings) -> Settings:
    """For an artifact the sizes of dims say what to measure, not what to compile."""
    return replace(settings, dims=(), shapes=()) if is_artifact(model) else settings


def _statistics(samples: list[float]) -> dict[str, Any]:
    ordered = sorted(samples)
    at = {p: ordered[min(len(ordered) * p // 100, len(ordered) - 1)] for p in _PERCENTILES}
    return {
        "median": at[50],
        "p90": at[90],
        "p99": at[99],
        "min": ordered[0],
        "mean": sum(ordered) / len(ordered),
        "calls": len(ordered),
    }


def _profile(
    model: Path,
    inputs: tuple[str, ...],
    threads: int | None,
    seconds: float,
    settings: Settings,
    as_json: bool,
) -> None:
    found = profiled(model, inputs, threads, seconds, settings)
    executable, samples = found.executable, found.samples
    rows = _rows(found.entries, found.program.functions, found.symbols)
    if as_json:
        facts = {"model": model.name, "threads": executable.threads, "dims": found.sizes}
        emit_json({**facts, **_statistics(samples), "kernels": rows})
        return
    click.echo(f"{executable.threads} threads, median {time_text(_statistics(samples)['median'])}")
    click.echo(_text(rows))


def _rows(
    entries: list[Entry], functions: Mapping[str, Any], symbols: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return the call sites, those that take longest first."""
    from tfc.compiler.cost.work import bytes_of, flops_of

    total = sum(entry.seconds for entry in entries) or 1.0
    rows = []
    for entry in entries:
        kernel = functions[entry.kernel]
        each = entry.seconds / max(entry.calls, 1)
        flops, size = flops_of(kernel, symbols), bytes_of(kernel, symbols)
        rows.append(
            {
                "kernel": entry.kernel,
                "nodes": list(entry.nodes),
                "seconds": each,
                "share": entry.seconds / total,
                "gflops": flops / each / 1e9 if each else 0.0,
                "gbytes": size / each / 1e9 if each else 0.0,
            }
        )
    return sorted(rows, key=lambda row: -row["seconds"])


def _text(rows: list[dict[str, Any]]) -> str:
    lines = [
        [
            row["kernel"],
            time_text(row["seconds"]),
            f"{row['share']:.1%}",
            f"{row['gflops']:.1f}",
            f"{row['gbytes']:.1f}",
            nodes_text(row["nodes"]),
        ]
        for row in rows
    ]
    return table(lines, ["kernel", "time", "share", "GFLOP/s", "GB/s", "nodes"])
