"""What is done to sums before they are stored as bytes, for several vectors of them at once.

Targets make bytes of four vectors of floats in about as many instructions as of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfc.compiler.lower.scalars import scalar_op
from tfc.ir.body import Apply, Expr, Lookup, Number
from tfc.ir.core import Value
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.types import F32, U8, VectorType


@dataclass(frozen=True)
class Narrowing:
    """An element is `steps` of `base`, the first one first; each has one operand but literals."""

    base: Expr
    steps: tuple[Expr, ...]

    def of(self, b: LoopBuilder, bases: Sequence[Value]) -> Value:
        """The elements of some vectors of bases, side by side."""
        value = joined(b, bases)
        known = self.base
        for step in self.steps:
            if isinstance(step, Lookup):
                value = b.lookup(step.values, value, step.dtype)
            else:
                assert isinstance(step, Apply)
                lanes = value.type.lanes  # type: ignore[union-attr]
                args = [value if arg is known else _literal(b, arg, lanes) for arg in step.args]
                value = scalar_op(b, step.name, args, step.dtype)
            known = step
        return value


def narrowing(expr: Expr) -> Narrowing | None:
    """Split an element that is made a byte of a float."""
    steps: list[Expr] = []
    narrows = False
    while True:
        below = _operand(expr)
        if below is None:
            break
        steps.append(expr)
        narrows |= isinstance(expr, Apply) and expr.dtype == U8 and below.dtype == F32
        expr = below
    return Narrowing(expr, tuple(reversed(steps))) if narrows else None


def _operand(expr: Expr) -> Expr | None:
    """The only operand of an op that is no literal."""
    if isinstance(expr, Lookup):
        return expr.arg
    if not isinstance(expr, Apply):
        return None
    found = [arg for arg in expr.args if not isinstance(arg, Number)]
    return found[0] if len(found) == 1 else None


def _literal(b: LoopBuilder, expr: Expr, lanes: int) -> Value:
    assert isinstance(expr, Number)
    assert not isinstance(expr.value, complex)
    return b.const(expr.value, VectorType(expr.dtype, lanes))


def joined(b: LoopBuilder, vectors: Sequence[Value]) -> Value:
    """A power of two of equal vectors, one behind the other."""
    parts = list(vectors)
    while len(parts) > 1:
        lanes = 2 * parts[0].type.lanes  # type: ignore[union-attr]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [b.shuffle(x, y, range(lanes)) for x, y in pairs]
    return parts[0]


def part(b: LoopBuilder, whole: Value, first: int, lanes: int) -> Value:
    """Some lanes of a vector."""
    return b.shuffle(whole, whole, range(first, first + lanes))


def batches(count: int, most: int) -> list[range]:
    """Numbers below `count` in powers of two that are at most `most`."""
    found, start = [], 0
    while start < count:
        size = min(most, 1 << ((count - start).bit_length() - 1))
        found.append(range(start, start + size))
        start += size
    return found
