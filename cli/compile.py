"""`tfc compile`: a model to files, each of them whole or not there."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
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
from tfc.cli.report import emit_json, size_text, time_text

if TYPE_CHECKING:
    from tfc.compiler.build import Build, Options
    from tfc.ir.core import Module
    from tfc.tune import Report

_KINDS = {
    ".so": "so", ".o": "o", ".a": "a", ".h": "h", ".ll": "ll", ".s": "s", ".tfc": "graph",
}  # fmt: skip
_SUFFIXES = {
    "so": ".so", "o": ".o", "a": ".a", "h": ".h", "ll": ".ll", "s": ".s",
    "graph": ".graph.tfc", "fused": ".fused.tfc", "loops": ".loops.tfc",
}  # fmt: skip
_FOREIGN = (".dylib", ".dll", ".exe", ".lib")


@click.command("compile")
@click.argument("model", type=MODEL)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file to write; its suffix says what: .so .o .a (with .h), .h .ll .s .tfc",
)
@click.option(
    "--emit",
    multiple=True,
    metavar="KIND",
    help="Write this too, or in a .tfc instead of the graph: "
    "so, o, a, h, ll, s, graph, fused, loops.",
)
@click.option("--name", metavar="NAME", help="What C names begin with; by default the output's.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="1 leaves the thread pool out; the artifact then needs no libc.",
)
@click.option(
    "--tune",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Measure kernels on this machine for so long, and keep what is faster for this and later "
    "compilations, in --tuning's file or the cache.",
)
@compile_options
@output_options
def command(
    model: Path,
    output: Path,
    emit: tuple[str, ...],
    name: str | None,
    threads: int | None,
    tune: float | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Compile MODEL (ONNX, or IR text of any stage)."""  # fmt: skip
    started = time.perf_counter()
    plan = _plan(output, [kind for text in emit for kind in text.split(",")])
    if not output.parent.is_dir():
        raise click.UsageError(f"{output.parent} is not a directory")
    tuning = _Tuning(tune, threads, settings.tuning) if tune is not None else None
    with options_for(
        settings, name or output.stem, threads=threads != 1, tunes=tune is not None
    ) as options:
        written = _write_all(model, settings, options, plan, tuning)
    seconds = time.perf_counter() - started
    report = tuning.report if tuning is not None else None
    if as_json:
        files = [{"path": str(path), "bytes": path.stat().st_size} for path in written]
        tuned = {"tuned": asdict(report)} if report is not None else {}
        emit_json({"files": files, "seconds": seconds, **tuned})
        return
    if report is not None:
        click.echo(
            f"tuned {report.changed} kernels, tried {report.tried} of {report.kernels} with "
            f"{report.candidates} candidates"
        )
    for path in written:
        click.echo(f"{path}  {size_text(path.stat().st_size)}")
    click.echo(f"compiled in {time_text(seconds)}")


def _plan(output: Path, emit: list[str]) -> dict[str, Path]:
    """Return which kinds go where, in the order of the stages."""
    from tfc.ir.errors import LinkerError

    if output.suffix in _FOREIGN:
        raise LinkerError(f"{output.name} needs a linker for its platform; tfc writes ELF alone")
    kind = _KINDS.get(output.suffix)
    if kind is None:
        raise click.UsageError(f"{output.name}: the suffix is none of {' '.join(_KINDS)}")
    unknown = [one for one in emit if one not in _SUFFIXES]
    if unknown:
        raise click.UsageError(f"--emit {unknown[0]}: not one of {', '.join(_SUFFIXES)}")
    levels = [one for one in emit if one in ("graph", "fused", "loops")]
    if kind == "graph" and len(levels) == 1:
        kind = levels[0]
    plan = {one: output.with_suffix(_SUFFIXES[one]) for one in emit}
    plan[kind] = output
    if plan.keys() & {"so", "o", "a"}:
        plan.setdefault("h", output.with_suffix(".h"))
    return {one: plan[one] for one in ("graph", "fused", "loops", *_SUFFIXES) if one in plan}


@dataclass
class _Tuning:
    """What --tune asks for, and what came of it."""

    seconds: float
    threads: int | None
    file: Path | None
    report: Report | None = None

    def options(self, module: Module, options: Options) -> Options:
        from tfc.request import native
        from tfc.tuned import tuned

        native(options.target)
        options, self.report = tuned(module, options, self.seconds, self.threads, self.file)
        return options


def _write_all(
    model: Path,
    settings: Settings,
    options: Options,
    plan: dict[str, Path],
    tuning: _Tuning | None,
) -> list[Path]:
    from tfc.compiler.build import finish, start
    from tfc.compiler.driver import lower_module, optimise

    written: list[Path] = []
    makes_code = bool(plan.keys() - {"graph", "fused", "loops"})
    with start(options) if makes_code else nullcontext() as emission:
        module = open_model(model, settings)
        if "graph" in plan:
            written += _write_text(module, plan["graph"], settings)
        if module.level == "graph" and plan.keys() - {"graph"}:
            optimise(module, options)
        if "fused" in plan:
            written += _write_text(module, plan["fused"], settings)
        if not plan.keys() - {"graph", "fused"}:
            return written
        if tuning is not None:
            options = tuning.options(module, options)
        made = None if emission is None else emission.kernel
        program = lower_module(module, options, optimised=True, made=made)
        if "loops" in plan:
            written += _write_text(program, plan["loops"], settings)
        if emission is not None:
            written += _write_code(finish(program, options, emission), plan)
    return written


def _write_text(module: Module, path: Path, settings: Settings) -> list[Path]:
    """Write IR text, and the data of its large constants beside it."""
    from tfc.compiler.build import Build
    from tfc.compiler.constants import stored_refs
    from tfc.compiler.source import constants_beside
    from tfc.ir.text.printer import print_module

    refs = stored_refs(module)
    if refs:
        module.constants.write(refs, settings.constants or constants_beside(path))
    Build.write_text(path, print_module(module, locations=True))
    return [path]


def _write_code(compiled: Build, plan: dict[str, Path]) -> list[Path]:
    texts = {"h": compiled.header, "ll": compiled.llvm, "s": compiled.assembly}
    written: list[Any] = []
    for kind, path in plan.items():
        if kind in texts:
            compiled.write_text(path, texts[kind]())
        elif kind in ("so", "o", "a"):
            compiled.write(path)
        else:
            continue
        written.append(path)
    return written
