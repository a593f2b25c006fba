"""`tfc run`: a model or an artifact on given inputs, its outputs shown, saved or compared."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfc.cli.options import (
    INPUT_SYNTAX,
    MODEL,
    Settings,
    compile_options,
    executable_for,
    is_artifact,
    named,
    output_options,
)
from tfc.cli.report import emit_json, time_text

if TYPE_CHECKING:
    from tfc.cli.values import Array
    from tfc.runtime.executable import Executable

_FEW = 16
_MANY = 10_000
_REPEATS = 20
_BUDGET = 0.5


@click.command("run", epilog=INPUT_SYNTAX)
@click.argument("model", type=MODEL)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE",
    help="An input, such as x=@x.npy, @all.npz, image=@a.png, x=1x3xf32=rand:7.",
)
@click.option(
    "--expect",
    multiple=True,
    metavar="NAME=@FILE",
    help="Compare an output; exit code 6 where it differs.",
)
@click.option(
    "--rtol",
    default=1e-4,
    show_default=True,
    help="Largest error allowed, relative to the largest expected value.",
)
@click.option("--atol", default=1e-6, show_default=True, help="Largest error allowed beside that.")
@click.option(
    "--output", "outputs", multiple=True, metavar="NAME=@FILE", help="Save an output as .npy."
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="By default all cores.")
@compile_options
@output_options
def command(
    model: Path,
    inputs: tuple[str, ...],
    expect: tuple[str, ...],
    rtol: float,
    atol: float,
    outputs: tuple[str, ...],
    threads: int | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Run MODEL (ONNX, IR text, or a compiled .so) once and show its outputs."""
    from tfc.cli.values import read_expected, read_inputs

    started = time.perf_counter()
    executable = executable_for(model, settings, threads)
    compiled = time.perf_counter() - started
    facts = cache(lambda: _metadata(model))
    given = read_inputs(inputs, executable.inputs, facts)
    wanted = read_expected(expect, executable.outputs)
    files = _output_files(executable, outputs)
    results = executable(executable.with_room(given))
    latency = _latency(executable, executable.with_room(given))
    for name, path in files.items():
        _save(path, results[name])
    errors = {name: _error(results[name], wanted[name], name) for name in wanted}
    if as_json:
        shown = {name: _as_json(array) for name, array in results.items()}
        emit_json({
            "outputs": shown, "errors": errors, "compile_seconds": compiled,
            "run_seconds": latency,
        })  # fmt: skip
    else:
        labels = facts().get("labels") if any("@" in text for text in inputs) else None
        for name, array in results.items():
            click.echo(_shown(name, array, labels))
        for name, error in errors.items():
            click.echo(
                f"{name}: largest error {error['max']:.3g}, relative {error['relative']:.3g}"
            )
        verb = "load" if is_artifact(model) else "compile"
        click.echo(f"{verb}: {time_text(compiled)}    run: {time_text(latency)}")
    _judge(errors, rtol, atol)


def _metadata(model: Path) -> dict[str, Any]:
    """Return the metadata of an ONNX file whose values are JSON."""
    import json

    if model.suffix != ".onnx":
        return {}
    import onnx

    found = {}
    for entry in onnx.load(str(model), load_external_data=False).metadata_props:
        try:
            found[entry.key] = json.loads(entry.value)
        except ValueError:
            continue
    return found


def _output_files(executable: Executable, texts: tuple[str, ...]) -> dict[str, Path]:
    names = [port.name for port in executable.outputs]
    files = {}
    for text in texts:
        full = text if "=" in text or len(names) != 1 else f"{names[0]}={text}"
        name, value = named(full, "--output")
        if name not in names:
            raise click.UsageError(f"--output: no output {name!r} (outputs: {', '.join(names)})")
        files[name] = Path(value.removeprefix("@"))
    return files


def _save(path: Path, array: Array) -> None:
    import numpy as np

    from tfc.compiler.link.files import write_atomically

    write_atomically(path, lambda out: np.lib.format.write_array(out, array, allow_pickle=False))


def _latency(executable: Executable, inputs: Mapping[str, Any]) -> float:
    """Return the median time of a call over at most half a second, at least one call."""
    values = [inputs[port.name] for port in executable.inputs]
    seconds: list[float] = []
    end = time.perf_counter() + _BUDGET
    while len(seconds) < _REPEATS and (not seconds or time.perf_counter() < end):
        start = time.perf_counter()
        executable(*values)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def _error(got: Array, wanted: Array, name: str) -> dict[str, float]:
    from tfc.cli.compare import largest_error
    from tfc.ir.errors import MismatchError

    if got.shape != wanted.shape:
        raise MismatchError(f"shape {list(got.shape)}, expected {list(wanted.shape)}", where=name)
    return largest_error(got, wanted)


def _judge(errors: Mapping[str, Mapping[str, float]], rtol: float, atol: float) -> None:
    from tfc.ir.errors import MismatchError

    for name, error in errors.items():
        if not error["max"] <= atol + rtol * error["scale"]:
            text = f"largest error {error['max']:.3g} against values up to {error['scale']:.3g}"
            raise MismatchError(text, where=name)


def _as_json(array: Array) -> dict[str, Any]:
    values = array.tolist() if array.size <= _MANY else None
    return {"dtype": array.dtype.name, "shape": list(array.shape), "values": values}


def _shown(name: str, array: Array, labels: list[str] | None) -> str:
    import numpy as np

    head = f"{name}: {array.dtype.name}{list(array.shape)}"
    if labels and array.ndim == 2 and array.shape[1] == len(labels):
        best = array.argmax(axis=1)
        rows = [f"{labels[k]} ({array[i, k]:.2%})" for i, k in enumerate(best)]
        return f"{head}\n  " + "\n  ".join(rows)
    if array.size <= _FEW or array.dtype.kind not in "fiu":
        text = np.array2string(array, separator=", ", threshold=_FEW, precision=6)
        return f"{head}\n  " + text.replace("\n", "\n  ")
    values = array.astype(np.float64)
    return f"{head}\n  min {values.min():.6g}, mean {values.mean():.6g}, max {values.max():.6g}"
