"""What `bench` and `explain` measure with: inputs, repeated calls, and a model timed by kernel."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfc.cli.options import Settings, is_artifact, open_model, options_for, parse_dims

if TYPE_CHECKING:
    from tfc.compiler.cost.choice import Site
    from tfc.ir.core import Module
    from tfc.runtime.executable import Executable
    from tfc.runtime.profile import Entry


def inputs_for(
    executable: Executable, texts: tuple[str, ...], settings: Settings
) -> tuple[list[Any], dict[str, int]]:
    from tfc.cli.values import default_sizes, random_inputs, read_inputs

    given = read_inputs(texts, executable.inputs, dict)
    dims = parse_dims(settings.dims)
    fixed = {name: size for name, size in dims.items() if isinstance(size, int)}
    bound: dict[str, int] = {}
    for port in executable.inputs:
        if port.name in given and given[port.name].ndim == len(port.shape):
            pairs = zip(port.shape, given[port.name].shape, strict=True)
            bound |= {dim: size for dim, size in pairs if isinstance(dim, str)}
    sizes = default_sizes(executable, {**fixed, **bound})
    named = executable.with_room(random_inputs(executable, sizes, given))
    return [named[port.name] for port in executable.inputs], sizes


def measured(executable: Executable, values: list[Any], seconds: float) -> list[float]:
    """Return the time of each call, after calls that warm up for a tenth of the time."""
    clock = time.perf_counter
    end = clock() + seconds / 10
    executable(*values)
    while clock() < end:
        executable(*values)
    samples: list[float] = []
    end = clock() + seconds
    now = clock()
    while now < end or not samples:
        executable(*values)
        after = clock()
        samples.append(after - now)
        now = after
    return samples


@dataclass(frozen=True)
class Profile:
    """A timed model: its loop-level program, the time of each call site, and of each call.

    sites: what was decided, by kernel. symbols: the values of the program's symbols. sizes: those
    of the dynamic dims.
    """

    program: Module
    sites: dict[str, Site]
    executable: Executable
    entries: list[Entry]
    samples: list[float]
    sizes: dict[str, int]

    @property
    def symbols(self) -> dict[str, int]:
        return {**self.sizes, "threads": self.executable.threads}


def profiled(
    model: Path,
    texts: tuple[str, ...],
    threads: int | None,
    seconds: float,
    settings: Settings,
) -> Profile:
    """Compile a model so that its kernels are timed, and run it on inputs for some seconds."""
    from tfc.compiler.cost.choice import Chooser
    from tfc.compiler.driver import lower_module
    from tfc.inprocess import compile_in_process
    from tfc.request import native
    from tfc.runtime.profile import profile

    if is_artifact(model):
        raise click.UsageError("kernels are timed in a model compiled anew: give the model")
    with options_for(settings, model.stem, threads=threads != 1) as options:
        native(options.target)
        timed = replace(options, profile=True)
        chooser = Chooser(timed.tuned, record=True)
        program = lower_module(open_model(model, settings), timed, chooser=chooser)
        executable = compile_in_process(lambda: program, timed, threads)
    values, sizes = inputs_for(executable, texts, settings)
    samples: list[float] = []
    entries = profile(executable, lambda: samples.extend(measured(executable, values, seconds)))
    return Profile(program, chooser.sites, executable, entries, samples, sizes)


def nodes_text(nodes: list[str]) -> str:
    """Return the first nodes, and how many more there are."""
    shown = " ".join(nodes[:3])
    return f"{shown} (+{len(nodes) - 3})" if len(nodes) > 3 else shown
