"""The open blocks of an emitter: what each defines and holds, entered and left."""

from __future__ import annotations

from dataclasses import dataclass, field

from tfc.ir.core import Block, Value
from tfc.ir.loop.build import LoopBuilder


@dataclass(eq=False)
class Scope:
    """An open block: the iterators it defines and what has been computed in it."""

    block: Block
    iters: dict[str, Value]
    conditional: bool = False
    cache: dict[object, Value] = field(default_factory=dict)


class Opened:
    """Puts a scope on top of others inside the with statement; a class, being entered so often."""

    __slots__ = ("scope", "scopes")

    def __init__(self, scopes: list[Scope], scope: Scope) -> None:
        self.scopes = scopes
        self.scope = scope

    def __enter__(self) -> Scope:
        self.scopes.append(self.scope)
        return self.scope

    def __exit__(self, *error: object) -> None:
        self.scopes.pop()


class At:
    """Hides the scopes inside that at `level` from an emitter, and appends to its block."""

    __slots__ = ("block", "builder", "hidden", "level", "scopes")

    def __init__(self, scopes: list[Scope], builder: LoopBuilder, level: int) -> None:
        self.scopes = scopes
        self.builder = builder
        self.level = level

    def __enter__(self) -> Scope:
        self.hidden = self.scopes[self.level + 1 :]
        del self.scopes[self.level + 1 :]
        scope = self.scopes[self.level]
        self.block, self.builder.block = self.builder.block, scope.block
        return scope

    def __exit__(self, *error: object) -> None:
        self.builder.block = self.block
        self.scopes.extend(self.hidden)
