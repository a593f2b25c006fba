"""Counted loops as LLVM text, bottom-tested with phis. What stands in them is `kernel`'s."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfc.compiler.codegen.values import Linear, ValueBuilder


class LoopEmitter(ValueBuilder):
    """A value builder that writes loops."""

    def loop(
        self,
        lo: Linear,
        hi: Linear,
        step: int,
        inits: Sequence[tuple[str, str]],
        body: Callable[[Linear, list[str]], Sequence[str]],
    ) -> list[str]:
        """Emit a counted loop; body gets index and carried values and returns the next ones.

        inits are (type, value). Returns the values that the last round, or nobody, left.
        """
        values = [value for _, value in inits]
        trip = hi.plus(lo, -1)
        static = trip.rest if not trip.terms and isinstance(trip.rest, int) else None
        if static is not None and static <= 0:
            return values
        if static is not None and static <= step:
            return list(body(lo, values))
        first, last = self.sum(lo), self.sum(hi)
        header, end = self.new_block("loop"), self.new_block("end")
        before = self.scope.block.label
        if static is None:
            some = self.compare("icmp slt", "i64", first, last)
            self.branch(some, header, end)
        else:
            self.jump(header)
        with self.region(header) as scope:
            index = self.name("i64", scope.depth)
            carried = [self.name(type, scope.depth) for type, _ in inits]
            nexts = list(body(Linear(((index, 1),)), carried))
            following = self.effect("i64", f"add nsw i64 {index}, {step}")
            more = self.effect("i1", f"icmp slt i64 {following}, {last}")
            latch = self.scope.block.label
            self.branch(more, header, end)
        header.phis = [phi(index, "i64", (first, before), (following, latch))] + [
            phi(name, type, (init, before), (after, latch))
            for name, (type, init), after in zip(carried, inits, nexts, strict=True)
        ]
        self.enter(end)
        results = []
        for (type, init), after in zip(inits, nexts, strict=True):
            name = self.name(type, self.scope.depth)
            sources = [(after, latch)] if static is not None else [(init, before), (after, latch)]
            end.phis.append(phi(name, type, *sources))
            results.append(name)
        return results


def phi(name: str, type: str, *sources: tuple[str, str]) -> str:
    """Return a phi of values and the labels that they come from."""
    return f"  {name} = phi {type} " + ", ".join(f"[ {v}, %{label} ]" for v, label in sources)
