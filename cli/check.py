"""`tfc check`: everything in a model that cannot be compiled, at once and by node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tfc.cli.options import MODEL, output_options, rules_option, run_rules
from tfc.cli.report import emit_json

_UNSUPPORTED = 4


@click.command("check")
@click.argument("model", type=MODEL)
@rules_option
@output_options
def command(model: Path, rules: tuple[Path, ...], as_json: bool) -> int:
    """List what tfc cannot compile in MODEL; exit code 4 if there is anything."""
    run_rules(rules)
    problems, facts = _check(model)
    if as_json:
        emit_json({"problems": problems, **facts})
    elif problems:
        for problem in problems:
            click.echo(f"{problem['node']}: {problem['reason']}")
        click.echo(f"{len(problems)} nodes are not supported")
    else:
        for kind in ("inputs", "outputs"):
            for name, type in facts[kind].items():
                click.echo(f"{kind[:-1]} {name}: {type}")
        click.echo(f"{facts['ops']} ops, all supported")
    return _UNSUPPORTED if problems else 0


def _check(model: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from tfc.compiler.source import is_text, open_module
    from tfc.graph import Graph

    if not is_text(model):
        from tfc.compiler.frontends import onnx

        problems = [
            {"node": problem.node, "op": problem.op, "reason": problem.reason}
            for problem in onnx.check(model)
        ]
        if problems:
            return problems, {}
    graph = Graph(open_module(model))
    return [], {
        "inputs": {name: str(type) for name, type in graph.inputs.items()},
        "outputs": {name: str(type) for name, type in graph.outputs.items()},
        "ops": sum(len(function.block) for function in graph.module.functions.values()),
    }
