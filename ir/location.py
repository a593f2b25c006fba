"""Where an op came from: a file and a node name, kept to the end for errors and profiles."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """A source file and the names of the nodes there that this op computes."""

    file: str = ""
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        nodes = "+".join(self.nodes)
        return f"{self.file}: node '{nodes}'" if self.file and nodes else self.file or nodes

    def merge(self, other: Location) -> Location:
        """Return the location of an op that replaces ops at `self` and `other`."""
        if self is UNKNOWN or self == other:
            return other
        if other is UNKNOWN:
            return self
        extra = tuple(node for node in other.nodes if node not in self.nodes)
        return Location(self.file or other.file, self.nodes + extra)


UNKNOWN = Location()
