"""Runs a flat table of passes: order checks, verifier, timing, dumps, printing, bisection.

Knows no pass; the table is in `compiler.pipeline`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tfc.compiler.target import Target
from tfc.ir.attrs import ConstRef
from tfc.ir.core import Module, ops_of
from tfc.ir.errors import CompileError, UsageError, VerifyError
from tfc.ir.text.printer import print_module
from tfc.ir.types import F32, DType
from tfc.ir.verify import Seen, verify


@dataclass(eq=False)
class PassContext:
    """What one run of the passes shall do, and what it has done.

    disabled: names of passes and rules. print_after: names of passes, or `all`.
    bisect: how many rewrites optional passes may make. dump_dir: gets the module after each pass.
    dtype: what operands of matrix products and convolutions are rounded to.
    hits counts rewrites by rule or pass; times has seconds by pass.
    """

    target: Target | None = None
    level: int = 2
    disabled: set[str] = field(default_factory=set)
    print_after: set[str] = field(default_factory=set)
    print_after_change: bool = False
    stop_after: str | None = None
    dump_dir: Path | None = None
    time_passes: bool = False
    bisect: int | None = None
    verify: bool = True
    fast_math: bool = False
    dtype: DType = F32
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    hits: Counter[str] = field(default_factory=Counter)
    times: dict[str, float] = field(default_factory=dict)

    @property
    def rewrites(self) -> int:
        """How many rewrites have been made that `bisect` counts."""
        return self.hits.total()

    def allows(self, name: str) -> bool:
        """Whether the rewrite `name` may be made: it is not disabled and the budget is left."""
        if name in self.disabled:
            return False
        return self.bisect is None or self.rewrites < self.bisect

    def count(self, name: str) -> None:
        """Note that the rewrite `name` was made."""
        self.hits[name] += 1


PassFunction = Callable[[Module, PassContext], None]


@dataclass(frozen=True)
class Pass:
    """One row of the table.

    level: of the module before it. required: needed for correctness, at every level and not to be
    disabled. after: passes that must stand before it, with the reason. min_opt: the least
    optimisation level that runs it. rules: names that `disabled` may hold beside the pass's.
    """

    name: str
    fn: PassFunction
    level: str = "graph"
    required: bool = False
    after: dict[str, str] = field(default_factory=dict)
    min_opt: int = 1
    rules: tuple[str, ...] = ()


def make_table(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """Return the table, checked. Raises CompileError for one that breaks its own constraints."""
    seen: set[str] = set()
    for row in passes:
        if row.name in seen:
            raise CompileError(f"pass {row.name} is in the table twice")
        if row.required and row.min_opt > 0:
            raise CompileError(f"pass {row.name} is required but not run at -O0")
        for other, reason in row.after.items():
            if other not in seen:
                raise CompileError(f"pass {row.name} must run after {other}: {reason}")
        seen.add(row.name)
    return tuple(passes)


def run_passes(table: Sequence[Pass], module: Module, context: PassContext) -> None:
    """Run the table's passes on `module`, in place.

    Raises UsageError for names in the context that no pass or rule has.
    """
    _check_names(table, context)
    watch = _Watch(module, context)
    watch.start()
    for row in table:
        if context.level >= row.min_opt and row.name not in context.disabled:
            if row.level != module.level:
                raise CompileError(f"pass {row.name} is given a {module.level} module")
            watch.run(row)
        if row.name == context.stop_after:
            break
    if context.time_passes:
        _print_times(context)


def _check_names(table: Sequence[Pass], context: PassContext) -> None:
    passes = {row.name for row in table}
    rules = {rule for row in table for rule in row.rules}
    for row in table:
        if row.required and row.name in context.disabled:
            raise UsageError(f"pass {row.name} is required and cannot be disabled")
    unknown = sorted(context.disabled - passes - rules)
    unknown += sorted(context.print_after - passes - {"all"})
    if context.stop_after is not None and context.stop_after not in passes:
        unknown.append(context.stop_after)
    if unknown:
        known = ", ".join(row.name for row in table)
        raise UsageError(f"no pass or rule is called {unknown[0]!r}; passes are: {known}")


class _Watch:
    """Verifies, times, dumps and prints around each pass."""

    def __init__(self, module: Module, context: PassContext) -> None:
        self.module = module
        self.context = context
        self.number = 0
        self.dumped: Path | None = None
        self._seen = Seen()
        self.text = ""

    def start(self) -> None:
        if self.context.verify:
            verify(self.module, seen=self._seen)
        if self.context.print_after_change:
            self.text = print_module(self.module)
        self._dump("input")

    def run(self, row: Pass) -> None:
        started = time.perf_counter()
        row.fn(self.module, self.context)
        times = self.context.times
        times[row.name] = times.get(row.name, 0.0) + time.perf_counter() - started
        self.number += 1
        self._dump(row.name)
        self._print(row.name)
        if self.context.verify:
            self._verify(row.name)

    def _verify(self, name: str) -> None:
        try:
            verify(self.module, name, self._seen)
        except VerifyError as error:
            if self.dumped is None:
                raise
            raise VerifyError(
                f"{error.message}\nits dump: {self.dumped}", where=error.where
            ) from error

    def _print(self, name: str) -> None:
        context = self.context
        wanted = name in context.print_after or "all" in context.print_after
        if not wanted and not context.print_after_change:
            return
        text = print_module(self.module)
        changed = context.print_after_change and text != self.text
        self.text = text
        if wanted or changed:
            context.stream.write(f"# after {name}\n{text}")

    def _dump(self, name: str) -> None:
        folder = self.context.dump_dir
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.dumped = folder / f"{self.number:02}-{name}.tfc"
        self.dumped.write_text(print_module(self.module, locations=True), encoding="utf-8")
        if self.module.constants is not None:
            self.module.constants.write(_refs(self.module), folder / "constants")


def _refs(module: Module) -> Iterable[ConstRef]:
    """The stored constants that the module's ops name."""
    found: dict[ConstRef, None] = {}
    for op in ops_of(module.functions.values()):
        value = getattr(op.attrs, "value", None)
        if isinstance(value, ConstRef):
            found[value] = None
    return found


def _print_times(context: PassContext) -> None:
    for name, seconds in context.times.items():
        context.stream.write(f"{seconds * 1e3:9.2f} ms  {name}\n")
    context.stream.write(f"{sum(context.times.values()) * 1e3:9.2f} ms  total\n")
