"""`tfc opt`: IR text in, passes, IR text out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfc.cli.options import (
    MODEL,
    Settings,
    compile_options,
    open_model,
    options_for,
    output_options,
    parse_dims,
)
from tfc.cli.report import emit_json

if TYPE_CHECKING:
    from tfc.compiler.build import Options
    from tfc.ir.core import Module


@click.command("opt")
@click.argument("file", type=MODEL, required=False)
@click.option(
    "--passes",
    metavar="NAME,...",
    help="Run these passes in this order, instead of those of the level.",
)
@click.option("--lower", is_flag=True, help="Go on to the loop level.")
@click.option("--locations", is_flag=True, help="Print where each op came from.")
@click.option("--list", "list_passes", is_flag=True, help="List the passes and stop.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write there instead of to stdout.",
)
@compile_options
@output_options
def command(
    file: Path | None,
    passes: str | None,
    lower: bool,
    locations: bool,
    list_passes: bool,
    output: Path | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Run passes on FILE (IR text, - for stdin, or ONNX) and print the result."""
    from tfc.compiler.build import Build
    from tfc.compiler.driver import lower_module
    from tfc.ir.text.printer import print_module

    if list_passes:
        _list(as_json)
        return
    if file is None:
        raise click.UsageError("give a FILE, or - for stdin")
    module = _open(file, settings)
    with options_for(settings, "opt", threads=True) as options:
        _run(module, options, passes)
        if lower:
            module = lower_module(module, options, optimised=True)
    text = print_module(module, locations)
    if output is not None:
        Build.write_text(output, text)
    elif as_json:
        emit_json({"level": module.level, "text": text})
    else:
        click.echo(text, nl=False)


def _open(file: Path, settings: Settings) -> Module:
    if str(file) != "-":
        return open_model(file, settings)
    from tfc.compiler.source import parse_text

    return parse_text(sys.stdin.read(), parse_dims(settings.dims), settings.constants, "<stdin>")


def _run(module: Module, options: Options, names: str | None) -> None:
    from tfc.compiler.driver import optimise, pass_context
    from tfc.compiler.passman import run_passes
    from tfc.compiler.pipeline import PASSES

    if names is None:
        if module.level == "graph":
            optimise(module, options)
        return
    known = {row.name: row for row in PASSES}
    rows = []
    for name in filter(None, names.split(",")):
        if name not in known:
            raise click.UsageError(f"no pass is called {name!r}; passes are: {', '.join(known)}")
        rows.append(known[name])
    run_passes(rows, module, pass_context(options))


def _list(as_json: bool) -> None:
    from tfc.compiler.pipeline import PASSES

    if as_json:
        emit_json([
            {"name": row.name, "required": row.required, "min_opt": row.min_opt} for row in PASSES
        ])  # fmt: skip
        return
    for row in PASSES:
        click.echo(f"{row.name}  (-O{row.min_opt}{', required' if row.required else ''})")
        for other, reason in row.after.items():
            click.echo(f"    after {other}: {reason}")
