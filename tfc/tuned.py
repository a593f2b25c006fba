"""Which tuned choices a compilation uses, and tuning before one; `tfc.tune` searches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tfc.cachedir import TUNING
from tfc.compiler.build import Options
from tfc.compiler.codegen.host import host_cpu
from tfc.compiler.tuning import Tuning, read_tuning, target_text
from tfc.ir.core import Module
from tfc.ir.errors import ModelError, UsageError

if TYPE_CHECKING:
    from tfc.tune import Report


def with_tuning(options: Options, file: Path | None, *, missing: bool = False) -> Options:
    """Return options with what a file says of the target; without a file, what the cache does.

    missing: the file need not be there, nor know the target.
    """
    cpu = host_cpu()
    if file is None:
        known = _kept(options).machines.get((target_text(options.target), cpu), {})
        return replace(options, tuned={key: tuned.choices for key, tuned in known.items()})
    tuning = read_tuning(file, missing=missing)
    choices = tuning.choices(options.target, cpu)
    if not missing and not tuning.knows(options.target):
        others = "; ".join(sorted({target for target, _ in tuning.machines})) or "nothing"
        wanted = target_text(options.target)
        raise UsageError(f"nothing is tuned for {wanted}, but for {others}", where=str(file))
    return replace(options, tuned=choices)


def tuned(
    module: Module, options: Options, seconds: float, threads: int | None, file: Path | None
) -> tuple[Options, Report]:
    """Tune an optimised graph for some seconds; return options with what was found.

    It is kept in the file, or else in the cache, for later compilations.
    """
    from tfc.tune import tune

    if module.level != "graph":
        raise UsageError("only a graph can be tuned: of loops nothing is to be decided")
    cpu = host_cpu()
    tuning = read_tuning(file, missing=True) if file is not None else _kept(options)
    report = tune(module, options, seconds, threads=threads, cpu=cpu, tuning=tuning)
    path = file or (options.cache / TUNING if options.cache is not None else None)
    if path is not None and (report.changed or file is not None):
        tuning.write(path)
    return replace(options, tuned=tuning.choices(options.target, cpu)), report


def _kept(options: Options) -> Tuning:
    """What the cache has; a damaged file of it is none."""
    if options.cache is None:
        return Tuning()
    try:
        return read_tuning(options.cache / TUNING, missing=True)
    except (ModelError, UsageError):
        return Tuning()
