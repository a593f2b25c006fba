"""What `main` does, before it is written: calls, branches and loops, and how long memory lives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tfc.compiler.lower.group import Band
from tfc.compiler.lower.storage import LoopMemory, Place, Root, RootKind
from tfc.ir.core import Op, Value


@dataclass(eq=False)
class Call:
    """One call of main: a kernel and the place of each of its arguments.

    band: as of the step.
    """

    kernel: str
    args: list[Place]
    writes: int
    op: Op | None
    band: Band | None = None


@dataclass(eq=False)
class Branch:
    """An `if`: what is done where its condition is true, and where it is not."""

    op: Op
    condition: Scalar
    sides: tuple[list[Item], list[Item]]


@dataclass(eq=False)
class Repeat:
    """A `loop`. inits: the memory of the first carried values. again: read after each round."""

    op: Op
    memory: LoopMemory
    limit: Scalar | None
    start: Scalar | None
    again: Scalar | None
    inits: list[Place]
    body: list[Item] = field(default_factory=list)


@dataclass(eq=False)
class Demand:
    """A `check`: the run ends where the condition is false."""

    op: Op
    condition: Scalar


@dataclass(eq=False)
class Bound:
    """A `bind`: the number becomes a symbol of main."""

    op: Op
    number: Scalar


@dataclass(frozen=True)
class Scalar:
    """A tensor of one element that main itself reads, at `place` unless it is one of dims."""

    value: Value
    place: Place | None


Item: TypeAlias = Call | Branch | Repeat | Demand | Bound


@dataclass
class Span:
    """The first and the last moment at which a buffer is in use."""

    first: int
    last: int

    def widen(self, first: int, last: int) -> None:
        self.first, self.last = min(self.first, first), max(self.last, last)


def spans(items: Sequence[Item]) -> dict[Root, Span]:
    """When each root of the workspace is in use; what a loop shares, it uses throughout."""
    timeline = _Timeline()
    timeline.walk(items)
    for first, last in timeline.loops:
        for span in timeline.spans.values():
            inside = span.first <= last and span.last >= first
            if inside and (span.first < first or span.last > last):
                span.widen(first, last)
    return timeline.spans


class _Timeline:
    """Walks items in the order in which they are written. Loops are listed innermost first."""

    def __init__(self) -> None:
        self.now = 0
        self.spans: dict[Root, Span] = {}
        self.loops: list[tuple[int, int]] = []

    def walk(self, items: Iterable[Item]) -> None:
        for item in items:
            self.now += 1
            match item:
                case Call():
                    self._touch(item.args)
                case Branch():
                    self._read(item.condition)
                    for side in item.sides:
                        self.walk(side)
                case Repeat():
                    self._repeat(item)
                case Demand():
                    self._read(item.condition)
                case Bound():
                    self._read(item.number)

    def _repeat(self, item: Repeat) -> None:
        first = self.now
        own = [Place(item.memory.index, 0, ()), *item.inits]
        own += [Place(carry.current, 0, ()) for carry in item.memory.carries]
        self._touch(own)
        self._read(item.limit)
        self._read(item.start)
        self.walk(item.body)
        self._read(item.again)
        self.now += 1
        self._touch(own)
        self.loops.append((first, self.now))

    def _read(self, scalar: Scalar | None) -> None:
        if scalar is not None and scalar.place is not None:
            self._touch([scalar.place])

    def _touch(self, places: Iterable[Place]) -> None:
        for place in places:
            for root in buffers_of(place.root):
                self.spans.setdefault(root, Span(self.now, self.now)).widen(self.now, self.now)


def calls(items: Iterable[Item]) -> Iterator[Call]:
    """Every call, those in branches and loops included."""
    for item in items:
        match item:
            case Call():
                yield item
            case Branch():
                for side in item.sides:
                    yield from calls(side)
            case Repeat():
                yield from calls(item.body)


def buffers_of(root: Root) -> Iterator[Root]:
    """The roots of the workspace whose memory a root is, or may point into."""
    if root.kind is RootKind.TEMP:
        yield root
    for other in root.backing:
        yield from buffers_of(other)
