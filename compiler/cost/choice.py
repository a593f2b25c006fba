"""Choosing among candidates: the cost model's order, unless tuning has found a better one.

A schedule lists what it may do, best first by the cost model; `Chooser.choose` gives the first,
or the one that is known to be faster on the machine. What was decided is kept for `tfc explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")

Choices = Mapping[str, str]
"""Names of candidates by the kind of decision, for one kernel."""


@dataclass(frozen=True)
class Candidate(Generic[T_co]):
    """Something that a schedule may do. name: a word by which tuning knows it. cycles: of one
    core, all in all, as the model has it.
    """

    name: str
    cycles: float
    value: T_co


def best_first(candidates: Sequence[Candidate[T]]) -> list[Candidate[T]]:
    """Sort by predicted cycles; equal ones stay in their order."""
    return sorted(candidates, key=lambda candidate: candidate.cycles)


@dataclass(frozen=True)
class Decision:
    """What was chosen for a kernel, and among what: (name, cycles), best first by the model."""

    kind: str
    chosen: str
    candidates: tuple[tuple[str, float], ...]
    tuned: bool = False


@dataclass
class Site:
    """A kernel that is being made. key: what tuning knows it by. counts: of kinds so far."""

    key: str
    choices: Choices
    decisions: list[Decision] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class Chooser:
    """Decides for the kernels of one program.

    tuned: choices by the key of a kernel. record: whether decisions are kept; sites: where, by
    the name of a kernel.
    """

    def __init__(self, tuned: Mapping[str, Choices] | None = None, record: bool = False) -> None:
        self.tuned = tuned or {}
        self.record = record
        self.sites: dict[str, Site] = {}
        self.site: Site | None = None
        self._part = ""

    @contextmanager
    def kernel(self, key: Callable[[], str]) -> Iterator[Site | None]:
        """Decide for the kernel of this key from here on; inside another kernel it is a part."""
        if self.site is not None or not (self.tuned or self.record):
            yield self.site
            return
        name = key()
        self.site = Site(name, self.tuned.get(name, {}))
        try:
            yield self.site
        finally:
            self.site = None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Keep the decisions of a kernel's part apart from the others."""
        outer, self._part = self._part, f"{self._part}{name}."
        try:
            yield
        finally:
            self._part = outer

    def choose(self, kind: str, candidates: Sequence[Candidate[T]]) -> T:
        """Return the first candidate's value, or that of the tuned one."""
        found = self.first(kind, candidates, lambda value: (value,))
        assert found is not None, "a decision has candidates"
        return found[0]

    def first(
        self, kind: str, candidates: Sequence[Candidate[T]], make: Callable[[T], R | None]
    ) -> R | None:
        """Return what `make` makes of the first candidate for which it is not None."""
        kind = self._numbered(self._part + kind)
        wanted = self._wanted(kind)
        order = sorted(candidates, key=lambda candidate: candidate.name != wanted)
        for candidate in order:
            made = make(candidate.value)
            if made is not None:
                self._note(kind, candidate.name, candidates, candidate.name == wanted)
                return made
        return None

    def _numbered(self, kind: str) -> str:
        """The name of a decision, with a number where a kernel has several of the kind."""
        if self.site is None:
            return kind
        count = self.site.counts[kind] = self.site.counts.get(kind, 0) + 1
        return kind if count == 1 else f"{kind}{count}"

    def _wanted(self, kind: str) -> str | None:
        return self.site.choices.get(kind) if self.site is not None else None

    def _note(
        self, kind: str, chosen: str, candidates: Sequence[Candidate[T]], tuned: bool
    ) -> None:
        if self.site is None or not self.record:
            return
        known = tuple((candidate.name, candidate.cycles) for candidate in candidates)
        self.site.decisions.append(Decision(kind, chosen, known, tuned))
