"""Searches around the cost model's choices by measuring kernels on this machine, for `--tune`.

Kernels are tried one by one, alone, on random data, those first that take most of a model's time.
A candidate is run by turns with the best so far and takes its place if it is clearly faster.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tfc.compiler.build import Options, build
from tfc.compiler.cost.choice import Choices, Chooser, Decision, Site
from tfc.compiler.cost.expression import estimate
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.cost.predict import predict
from tfc.compiler.cost.tasks import TASKS
from tfc.compiler.driver import builder_of
from tfc.compiler.lower.alone import Work, alone, works
from tfc.compiler.lower.program import ProgramBuilder
from tfc.compiler.tuning import Tuned, Tuning
from tfc.inprocess import loaded
from tfc.ir.core import Module
from tfc.ir.dims import symbol
from tfc.ir.types import TensorType
from tfc.runtime.errors import RuntimeFault
from tfc.runtime.executable import Executable
from tfc.runtime.profile import profile
from tfc.runtime.signature import numpy_dtype

Array = npt.NDArray[Any]

# Kernels that take less than this alone are left as they are: calling them takes as long.
SHORTEST = 2e-6
# What a candidate must save of the time, by the least and by the median of its runs.
MARGIN = 0.03
# Candidates of one decision that are tried: those that the model has this much slower at most.
MOST_CANDIDATES = 5
MOST_SLOWER = 1.6
# Runs of each of two programs by turns: at least, at most, and seconds beyond which no more.
LEAST_RUNS, MOST_RUNS, RACE_SECONDS = 7, 31, 0.3
# After so many runs a candidate that is this much slower has lost.
EARLY_RUNS, LOST = 3, 1.15


# The part of the time that is left for a look at the whole model, unless that is shorter than it
# takes to lower the model so often; runs at most, and what a kernel must save there.
CHECK_SHARE, CHECK_BUILDS = 0.25, 6
CHECK_RUNS, CHECK_MARGIN = 15, 0.01


class Contender(Protocol):
    """A kernel as one set of choices makes it, which can be timed."""

    site: Site

    def seconds(self) -> float:
        """Run once, and return how long that took."""


@dataclass
class Report:
    """How far a search came: kernels tried of all, candidates tried, kernels that changed."""

    kernels: int = 0
    tried: int = 0
    candidates: int = 0
    changed: int = 0


def tune(
    module: Module,
    options: Options,
    seconds: float,
    *,
    threads: int | None,
    cpu: str,
    tuning: Tuning,
    clock: Callable[[], float] = time.perf_counter,
    contender: Callable[[ProgramBuilder, Work, Options, Choices], Contender] | None = None,
) -> Report:
    """Search for `seconds`, and add what is faster to `tuning`.

    module: an optimised graph, which stays as it is. What `tuning` knows is where the search
    begins. contender: makes what is timed; by default the kernel alone, and then what is faster
    so is timed in the model, too.
    """
    start = clock()
    deadline = start + seconds
    tuned = tuning.choices(options.target, cpu)
    builder = builder_of(module, options, Chooser(tuned, record=True))
    program = builder.build()
    lowering = clock() - start
    found = works(builder)
    better: dict[str, Tuned] = {}
    found.sort(key=lambda work: -_expected(work, program, builder, options, threads))
    report = Report(kernels=len(found))
    with _stage(options, threads, program) as stage:
        make = contender or stage.contender
        end = deadline - CHECK_SHARE * seconds
        search = _Search(builder, options, end, clock, make, report, threads == 1)
        for work in found:
            if search.is_over():
                break
            report.tried += 1
            options.progress("tune", report.tried, report.kernels)
            best = search.run(work, tuned.get(work.site.key, {}))
            if best is not None:
                better[work.site.key] = best
        if contender is None and better and clock() + CHECK_BUILDS * lowering < deadline:
            better = stage.confirmed(module, builder.hints, tuned, better, clock, deadline)
    tuning.own(options.target, cpu).update(better)
    report.changed = len(better)
    return report


def _expected(
    work: Work, program: Module, builder: ProgramBuilder, options: Options, threads: int | None
) -> float:
    """Seconds of all calls, as the cost model has it."""
    machine = machine_of(options.target)
    sizes = {name: estimate(symbol(name), builder.hints) for name in builder.function.symbols}
    each = (
        predict(program.functions[name], sizes, machine, threads or options.target.cores or 1)
        for name in work.kernels
    )
    return work.calls * sum(prediction.seconds for prediction in each)


class _Search:
    """Searches kernel by kernel, until the time is over. alone: on one thread."""

    def __init__(
        self,
        builder: ProgramBuilder,
        options: Options,
        deadline: float,
        clock: Callable[[], float],
        contender: Callable[[ProgramBuilder, Work, Options, Choices], Contender],
        report: Report,
        alone: bool,
    ) -> None:
        self.alone = alone
        self.builder = builder
        self.options = options
        self.deadline = deadline
        self.clock = clock
        self.contender = contender
        self.report = report
        self._longest = 0.0

    def is_over(self) -> bool:
        """Whether another candidate might take longer than there is time."""
        return self.clock() + self._longest >= self.deadline

    def run(self, work: Work, known: Choices) -> Tuned | None:
        """Return what is faster than the present choices for a kernel, or None."""
        best = self.contender(self.builder, work, self.options, known)
        if min(best.seconds() for _ in range(3)) < SHORTEST:
            return None
        choices = dict(known)
        first, last = math.inf, math.inf
        done: set[str] = set()
        while (decision := _next(best.site, done)) is not None and not self.is_over():
            done.add(decision.kind)
            if self.alone and decision.kind.endswith(TASKS):
                continue
            for name in _others(decision):
                if self.is_over():
                    break
                start = self.clock()
                wanted = {**choices, decision.kind: name}
                other = self.contender(self.builder, work, self.options, wanted)
                before, after, wins = race(best, other, self.clock)
                self.report.candidates += 1
                if wins:
                    first = before if first == math.inf else first
                    best, choices, last = other, wanted, after
                self._longest = max(self._longest, self.clock() - start)
        if last == math.inf:
            return None
        kinds = {decision.kind for decision in best.site.decisions}
        kept = {kind: name for kind, name in choices.items() if kind in kinds}
        return Tuned(kept, 1e6 * first, 1e6 * last)


def _next(site: Site, done: set[str]) -> Decision | None:
    """The next decision with a choice."""
    open_ = (d for d in site.decisions if d.kind not in done and len(d.candidates) > 1)
    return next(open_, None)


def _others(decision: Decision) -> list[str]:
    """The candidates to try beside the chosen one, the most promising first."""
    best = min(cycles for _, cycles in decision.candidates)
    close = sorted(decision.candidates, key=lambda pair: pair[1])
    return [
        name
        for name, cycles in close[: MOST_CANDIDATES + 1]
        if name != decision.chosen and cycles <= MOST_SLOWER * best
    ]


def race(
    best: Contender, other: Contender, clock: Callable[[], float]
) -> tuple[float, float, bool]:
    """Run two by turns; return the least seconds of each, and whether the other is faster."""
    end = clock() + RACE_SECONDS
    times: tuple[list[float], list[float]] = ([], [])
    best.seconds(), other.seconds()
    for turn in range(MOST_RUNS):
        order = (0, 1) if turn % 2 else (1, 0)
        for which in order:
            times[which].append((best, other)[which].seconds())
        if turn + 1 >= EARLY_RUNS and min(times[1]) > LOST * min(times[0]):
            break
        if turn + 1 >= LEAST_RUNS and clock() >= end:
            break
    before, after = (min(own) for own in times)
    medians = [sorted(own)[len(own) // 2] for own in times]
    faster = after < (1 - MARGIN) * before and medians[1] < (1 - MARGIN) * medians[0]
    return before, after, faster and len(times[0]) >= LEAST_RUNS


# -- running a kernel alone -----------------------------------------------------------------------


@contextmanager
def _stage(options: Options, threads: int | None, program: Module) -> Iterator[Stage]:
    """Give where kernels run; without a cache the code that all share is kept for the time."""
    sizes = (estimate(e.type.shape[0], {}) * e.type.dtype.bytes for e in program.data.values())
    constants = sum(sizes)
    with tempfile.TemporaryDirectory(prefix="tfc-tune-") as folder:
        cache = options.cache or Path(folder)
        yield Stage(
            replace(options, name="tuned", cache=cache, progress=_silent), threads, constants
        )


class Stage:
    """Runs kernels alone. Between two runs as many bytes are read as the model has constants, as
    far as caches hold, so that weights come from where they come from in the model; and then
    what the kernel reads and writes beside them, which other kernels have just used there.
    """

    def __init__(self, options: Options, threads: int | None, constants: int) -> None:
        self.options = options
        self.threads = threads
        size = min(constants, options.target.l3 * 5 // 4)
        cold = constants > options.target.l2 // 2
        self.others = np.ones(size // 8 if cold else 0, np.float64)

    def contender(
        self, builder: ProgramBuilder, work: Work, options: Options, choices: Choices
    ) -> Kernel:
        chooser = Chooser({work.site.key: choices}, record=True)
        program, site = alone(builder, work.op, chooser)
        executable = loaded(build(program, self.options), self.threads)
        inputs = random_inputs(program, builder.hints)
        return Kernel(self, executable, inputs, site or work.site)

    def confirmed(
        self,
        module: Module,
        hints: Mapping[str, int],
        known: Mapping[str, Choices],
        better: dict[str, Tuned],
        clock: Callable[[], float],
        deadline: float,
    ) -> dict[str, Tuned]:
        """Return what is faster in the model as well; all of it where that cannot be run."""
        tuned = {**known, **{key: found.choices for key, found in better.items()}}
        both = [_Model(self, module, hints, choices) for choices in (known, tuned)]
        try:
            for turn in range(CHECK_RUNS):
                for model in both if turn % 2 else both[::-1]:
                    model.run()
                if turn and clock() >= deadline:
                    break
        except RuntimeFault:
            return better
        before, after = (model.seconds for model in both)
        return {
            key: found
            for key, found in better.items()
            if after.get(key, 0.0) <= (1 - CHECK_MARGIN) * before.get(key, math.inf)
        }


class _Model:
    """The whole model, of which the kernels are timed. seconds: the least of any run, by key."""

    def __init__(
        self,
        stage: Stage,
        module: Module,
        hints: Mapping[str, int],
        choices: Mapping[str, Choices],
    ) -> None:
        chooser = Chooser(choices, record=True)
        options = replace(stage.options, profile=True)
        program = builder_of(module, options, chooser).build()
        self._keys = {name: site.key for name, site in chooser.sites.items()}
        self._executable = loaded(build(program, options), stage.threads)
        self._inputs = random_inputs(program, hints)
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        sums: dict[str, float] = {}
        for entry in profile(self._executable, lambda: self._executable(*self._inputs)):
            key = self._keys.get(entry.kernel)
            if key is not None:
                sums[key] = sums.get(key, 0.0) + entry.seconds
        for key, seconds in sums.items():
            self.seconds[key] = min(seconds, self.seconds.get(key, math.inf))


def _silent(stage: str, done: int, total: int) -> None:
    pass


class Kernel:
    """A kernel, alone."""

    def __init__(
        self, stage: Stage, executable: Executable, inputs: list[Array], site: Site
    ) -> None:
        self.site = site
        self._stage = stage
        self._executable = executable
        self._inputs = inputs

    def seconds(self) -> float:
        if self._stage.others.size:
            self._stage.others.sum()
            for array in self._inputs:
                array.view(np.uint8).max(initial=0)
            self._executable.touch_workspace()
        start = time.perf_counter()
        self._executable(*self._inputs)
        return time.perf_counter() - start


def random_inputs(program: Module, hints: Mapping[str, int]) -> list[Array]:
    """Return data for a program of one group: numbers around 0; whole ones, which may be indices,
    are 0 unless they are bytes.
    """
    random = np.random.default_rng(0)
    found: list[Array] = []
    for name, type in program.main.attrs["inputs"]:
        assert isinstance(type, TensorType)
        shape = tuple(estimate(dim, hints) for dim in type.shape)
        dtype = numpy_dtype(str(type.dtype))
        if name.startswith("size."):
            found.append(np.zeros(shape, dtype))
        elif type.dtype.name in ("f16", "f32", "f64"):
            found.append(random.standard_normal(shape, np.float32).astype(dtype))
        elif type.dtype.name == "bf16":
            numbers = random.standard_normal(shape, np.float32)
            found.append((numbers.view(np.uint32) >> 16).astype(np.uint16).view(dtype))
        elif type.dtype.is_int and type.dtype.bytes == 1:
            found.append(random.integers(0, 100, shape).astype(dtype))
        else:
            found.append(np.zeros(shape, dtype))
    return found
