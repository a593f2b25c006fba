"""Random programs of branches and loops give the same interpreted and compiled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.control.support import agree, graph, inputs
from tfc.ir.build import GraphBuilder
from tfc.ir.control import Next, Round, Scanned, branch, loop
from tfc.ir.core import Value
from tfc.ir.types import BOOL, F32, I64, TensorType

ROW, TABLE = TensorType(F32, (5,)), TensorType(F32, (3, 5))
FLAG, COUNT = TensorType(BOOL, ()), TensorType(I64, ())
MAX_DEPTH = 3


class Maker:
    """Builds a program that a list of numbers stands for; every value is a row of small integers.

    What is added is halved or bounded, so that all arithmetic is exact.
    """

    def __init__(self, numbers: Sequence[int], b: GraphBuilder, heads: Sequence[Value]) -> None:
        self.numbers = list(reversed(numbers))
        self.b = b
        self.flag, self.count, self.table = heads
        self.depth = 0

    def next(self, below: int) -> int:
        return self.numbers.pop() % below if self.numbers else 0

    def pick(self, scope: Sequence[Value]) -> Value:
        return scope[-1 - self.next(len(scope))]

    def condition(self, scope: Sequence[Value]) -> Value:
        if self.next(3) == 0:
            return self.flag
        total = self.b.reduce_sum(self.pick(scope), axes=(0,), keepdims=False)
        found: Value = self.b.lt(total, self.b.constant(self.next(20) - 8, F32))
        return found

    def block(self, scope: Sequence[Value], yields: int) -> list[Value]:
        """Some steps, and what they hand out of all that is visible."""
        own = list(scope)
        for _ in range(self.next(4)):
            own += self.step(own)
        return [self.pick(own) for _ in range(yields)]

    def step(self, scope: Sequence[Value]) -> Sequence[Value]:
        kind = self.next(7)
        if kind < 4 or self.depth >= MAX_DEPTH:
            return [self.simple(kind, scope)]
        self.depth += 1
        found = self.branch(scope) if kind == 4 else self.loop(scope, kind == 6)
        self.depth -= 1
        return found

    def simple(self, kind: int, scope: Sequence[Value]) -> Value:
        b, x, y = self.b, self.pick(scope), self.pick(scope)
        match kind:
            case 0:
                found = b.min(b.add(x, y), b.constant(40.0, F32))
            case 1:
                found = b.neg(x)
            case 2:
                found = b.slice(b.max(x, y), starts=(4,), sizes=(5,), steps=(-1,))
            case _:
                found = b.select(b.lt(x, y), x, b.constant(3.0, F32))
        result: Value = found
        return result

    def branch(self, scope: Sequence[Value]) -> Sequence[Value]:
        count = 1 + self.next(2)
        condition = self.condition(scope)
        sides = (lambda: self.block(scope, count), lambda: self.block(scope, count))
        return branch(self.b, condition, *sides)

    def loop(self, scope: Sequence[Value], by_data: bool) -> Sequence[Value]:
        carried = [self.pick(scope) for _ in range(self.next(3))]

        def body(r: Round) -> Next:
            number = self.b.broadcast(self.b.cast(r.number, dtype=F32), shape=(5,))
            inside = [*scope, number, *r.carried, *r.slices]
            found = self.block(inside, len(carried) + (0 if by_data else 1))
            again = self.condition([*inside, *found]) if by_data else None
            return Next(found[: len(carried)], found[len(carried) :], again)

        if by_data:
            start = self.condition(scope)
            return loop(self.b, body, carried, limit=self.count, start=start).carried
        scanned = [Scanned(self.table, self.next(2) == 1)]
        results = loop(
            self.b, body, carried, scanned, backward=(self.next(2) == 1,), trips=3
        )  # fmt: skip
        (stack,) = results.stacked
        return [*results.carried, self.b.reduce_max(stack, axes=(0,), keepdims=False)]


def make(numbers: Sequence[int], b: GraphBuilder, *args: Value) -> list[Value]:
    flag, count, table, *rows = args
    maker = Maker(numbers, b, (flag, count, table))
    found = list(rows)
    for _ in range(4):
        found += maker.step(found)
    return found[-4:]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 999), min_size=20, max_size=120),
    st.booleans(),
    st.integers(0, 4),
    st.integers(0, 99),
)
def test_random_programs_are_the_same_interpreted_and_compiled(
    numbers: list[int], flag: bool, count: int, seed: int
) -> None:
    module = graph(
        [FLAG, COUNT, TABLE, ROW, ROW], lambda b, *args: make(numbers, b, *args)
    )  # fmt: skip
    random = np.random.default_rng(seed)
    rows = [random.integers(-9, 9, s).astype(np.float32) for s in ((3, 5), (5,), (5,))]
    agree(module, [inputs(flag, count, *rows)])
