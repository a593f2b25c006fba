"""A single op that was measured."""

from __future__ import annotations

from dataclasses import dataclass

OURS = ("tfc", "tfc-plain")


@dataclass(frozen=True)
class Point:
    """One op measured: seconds by library, and the least that the machine allows."""

    sweep: str
    op: str
    threads: int
    least: float
    times: dict[str, float]

    def share(self, name: str) -> float:
        return self.least / self.times[name]

    @property
    def rival(self) -> str | None:
        """The fastest of the others."""
        others = [name for name in self.times if name not in OURS]
        return min(others, key=lambda name: self.times[name]) if others else None
