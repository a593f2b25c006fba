"""`tfc dump`: the program at a stage, the C interface, the memory plan or the kernels' sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfc.cli.options import (
    MODEL,
    Settings,
    compile_options,
    open_model,
    options_for,
    output_options,
)
from tfc.cli.report import emit_json, size_text, table

if TYPE_CHECKING:
    from tfc.compiler.build import Options

_TEXTS = ("graph", "fused", "loops", "llvm", "asm", "abi")
_FACTS = ("memory", "kernels")


@click.command("dump")
@click.argument("model", type=MODEL)
@click.option(
    "--stage",
    type=click.Choice([*_TEXTS, *_FACTS]),
    default="fused",
    show_default=True,
    help="graph, fused and loops are IR text, abi is the C header.",
)
@click.option("--kernel", metavar="NAME", help="Only this kernel (of loops, llvm and asm).")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write there instead of to stdout.",
)
@compile_options
@output_options
def command(
    model: Path,
    stage: str,
    kernel: str | None,
    output: Path | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Show MODEL (ONNX or IR text) as the compiler has it at a stage."""
    with options_for(settings, model.stem, threads=True) as options:
        if stage in _FACTS:
            facts = _facts(model, settings, options, stage)
            text = _shown(facts, stage)
        else:
            text = _text(model, settings, options, stage, kernel)
            facts = {"stage": stage, "text": text}
    if output is not None:
        from tfc.compiler.build import Build

        Build.write_text(output, text.rstrip("\n") + "\n")
    elif as_json:
        emit_json(facts)
    else:
        click.echo(text.rstrip("\n"))


def _text(model: Path, settings: Settings, options: Options, stage: str, kernel: str | None) -> str:
    from tfc.compiler.driver import compile_module, lower_module, print_stage

    module = open_model(model, settings)
    if stage == "abi":
        return compile_module(module, options).header()
    if kernel is None:
        return print_stage(module, stage, options)
    from tfc.compiler.codegen.emit import emit_assembly
    from tfc.compiler.codegen.kernel import kernel_text
    from tfc.ir.text.printer import print_function

    program = lower_module(module, options)
    function = program.functions.get(kernel)
    if function is None or function.kind != "kernel":
        known = ", ".join(f.name for f in program.functions.values() if f.kind == "kernel")
        raise click.UsageError(f"no kernel {kernel!r}; kernels are: {known}")
    if stage == "loops":
        return print_function(function)
    if stage == "llvm":
        return kernel_text(function, options.target)
    if stage == "asm":
        return emit_assembly(kernel_text(function, options.target), options.target)
    raise click.UsageError(f"--kernel goes with the stages loops, llvm and asm, not {stage}")


def _facts(model: Path, settings: Settings, options: Options, stage: str) -> dict[str, Any]:
    from tfc.compiler.build import build
    from tfc.compiler.driver import lower_module

    program = lower_module(open_model(model, settings), options)
    if stage == "memory":
        from tfc.compiler.constants import table_of

        main = program.main
        return {
            "workspace": str(main.attrs.get("workspace", 0)),
            "constants": table_of(program).size,
            "buffers": [
                {"offset": str(_offset(op)), "type": str(op.result.type)}
                for op in main.block.walk()
                if op.name == "workspace"
            ],
        }
    compiled = build(program, options)
    callers: dict[str, list[str]] = {}
    for op in program.main.block.walk():
        if op.name == "call":
            callers.setdefault(op.attrs.callee, []).extend(op.loc.nodes)
    return {
        "kernels": [
            {"name": name, "bytes": size, "nodes": callers[name]}
            for name, size in compiled.code_bytes().items()
            if name in callers
        ]
    }


def _offset(op: Any) -> Any:
    source = op.operands[0].op
    if source is None:
        return "?"
    return source.attrs.expr if source.name == "dim" else source.attrs.value


def _shown(facts: dict[str, Any], stage: str) -> str:
    if stage == "memory":
        constants = size_text(facts["constants"])
        head = f"workspace {facts['workspace']} bytes, constants {constants}"
        rows = [[buffer["offset"], buffer["type"]] for buffer in facts["buffers"]]
        return f"{head}\n{table(rows, ['offset', 'buffer'])}"
    rows = [
        [kernel["name"], str(kernel["bytes"]), " ".join(dict.fromkeys(kernel["nodes"]))]
        for kernel in sorted(facts["kernels"], key=lambda kernel: -kernel["bytes"])
    ]
    return table(rows, ["kernel", "bytes", "nodes"])
