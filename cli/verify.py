"""`tfc verify`: compiled code against the reference, by output or by every op's result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfc.cli.options import (
    INPUT_SYNTAX,
    MODEL,
    Settings,
    compile_options,
    open_model,
    options_for,
    output_options,
    some_inputs,
)
from tfc.cli.report import emit_json, table

if TYPE_CHECKING:
    from tfc.ir.core import Module


@click.command("verify", epilog=INPUT_SYNTAX)
@click.argument("model", type=MODEL)
@some_inputs
@click.option("--ops", is_flag=True, help="Compare the result of every op, not the outputs alone.")
@click.option(
    "--rtol",
    type=float,
    help="Largest error allowed, relative to the largest reference value; by default 1e-4, with "
    "--dtype bf16 any.",
)
@click.option("--atol", default=1e-6, show_default=True, help="Largest error allowed beside that.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="By default all cores.")
@compile_options
@output_options
def command(
    model: Path,
    inputs: tuple[str, ...],
    ops: bool,
    rtol: float | None,
    atol: float,
    threads: int | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Compile MODEL (ONNX, or IR text at graph level) and compare it with the reference.

    The reference computes op by op in numpy: slow for large models. With --dtype bf16 the last
    column is the error of the reference itself where the operands of products are rounded.
    """
    from tfc.cli.compare import largest_error
    from tfc.graph import Graph
    from tfc.ir.arrays import decode
    from tfc.ir.errors import MismatchError, UsageError

    module = open_model(model, settings)
    if module.level != "graph":
        raise UsageError("the reference computes graphs; this is a loop-level program")
    places = _expose(module) if ops else {}
    graph = Graph(module)
    values, got = _compiled(graph, inputs, threads, settings)
    wanted = graph.eval(values)
    rounded = {} if settings.dtype == "f32" else _rounded(graph, values)
    limit = 1e-4 if rtol is None and settings.dtype == "f32" else rtol
    rows = []
    for name, reference in wanted.items():
        dtype = graph.outputs[name].dtype
        error = largest_error(decode(got[name], dtype), decode(reference, dtype))
        good = limit is None or error["max"] <= atol + limit * error["scale"]
        row = {"name": name, "op": places.get(name, ""), "ok": good, **error}
        if rounded:
            alone = largest_error(decode(rounded[name], dtype), decode(reference, dtype))
            row["rounding"] = alone["relative"]
        rows.append(row)
    if as_json:
        emit_json({"results": rows})
    else:
        lines = [
            [row["name"], row["op"], f"{row['max']:.3g}", f"{row['relative']:.3g}",
             "ok" if row["ok"] else "DIFFERS",
             *([f"{row['rounding']:.3g}"] if rounded else [])]
            for row in rows
        ]  # fmt: skip
        head = ["output", "op", "error", "relative", "", *(["rounding alone"] if rounded else [])]
        click.echo(table(lines, head))
    bad = [row for row in rows if not row["ok"]]
    if bad:
        first = f"largest error {bad[0]['max']:.3g} against values up to {bad[0]['scale']:.3g}"
        where = f"{bad[0]['name']} {bad[0]['op']}".strip()
        raise MismatchError(f"{first} ({len(bad)} of {len(rows)} differ)", where=where)


def _compiled(
    graph: Any, texts: tuple[str, ...], threads: int | None, settings: Settings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs, and the outputs of the compiled graph for them."""
    from tfc.cli.values import default_sizes, random_inputs, read_inputs
    from tfc.inprocess import compile_in_process
    from tfc.request import native

    with options_for(settings, "verify", threads=threads != 1) as options:
        native(options.target)
        executable = compile_in_process(graph.copy, options, threads)
    given = read_inputs(texts, executable.inputs, dict)
    sizes: dict[str, int] = {}
    for port in executable.inputs:
        if port.name in given:
            pairs = zip(port.shape, given[port.name].shape, strict=False)
            sizes |= {dim: size for dim, size in pairs if isinstance(dim, str)}
    values = random_inputs(executable, default_sizes(executable, sizes), given)
    return values, executable(executable.with_room(values))


def _rounded(graph: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The reference's outputs where the operands of products are rounded to bf16."""
    from tfc.compiler.passes.decompose import decompose
    from tfc.compiler.passes.lower_precision import round_operands
    from tfc.compiler.passman import PassContext
    from tfc.compiler.target import parse_target
    from tfc.graph import Graph

    module = graph.copy()
    decompose(module, PassContext(parse_target("generic")))
    round_operands(module)
    found: dict[str, Any] = Graph(module).eval(values)
    return found


def _expose(module: Module) -> dict[str, str]:
    """Make every op's result an output, in order, and return what computes each by its name."""
    from tfc.ir.opdef import Kind, OpDef

    main = module.main
    terminator = main.block.terminator
    names = dict(zip(main.output_names, main.outputs, strict=True))
    places: dict[str, str] = {}
    shown = []
    for op in main.block:
        assert isinstance(op.defn, OpDef)
        if op.defn.kind in (Kind.CONSTANT, Kind.CONTROL):
            continue
        for result in op.results:
            name = f"{len(places):04}"
            places[name] = f"{op.name} {'+'.join(op.loc.nodes)}".strip()
            shown.append(result)
    terminator.set_operands([*shown, *names.values()])
    main.output_names = (*places, *names)
    return places
