"""What the cost model knows of a machine: rates of one core in a cycle, by target.

Sizes of caches, vector width and registers are the target's. Where the numbers come from is in
docs/cost-model.md; only relations between them decide anything, so one row serves many CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tfc.compiler.target import Target
from tfc.ir.types import F32


@dataclass(frozen=True)
class Rates:
    """Of one core in a cycle, of whole vectors: multiply-adds (units), loads, stores, operations
    of all kinds (issue). latency: cycles of a multiply-add. last, memory: bytes from the last
    cache, from memory. hertz: a likely clock.
    """

    units: float
    loads: float
    stores: float
    issue: float
    latency: int
    last: float
    memory: float
    hertz: float


# By architecture and vector width in bits.
RATES: dict[tuple[str, int], Rates] = {
    ("x86_64", 512): Rates(2, 2, 1, 6, 4, 12, 8, 4.0e9),
    ("x86_64", 256): Rates(2, 2, 1, 6, 4, 12, 8, 4.0e9),
    ("x86_64", 128): Rates(2, 2, 1, 6, 4, 12, 8, 4.0e9),
    ("aarch64", 128): Rates(2, 2, 1, 6, 4, 12, 8, 3.0e9),
}


@dataclass(frozen=True)
class Machine:
    """A target and its rates."""

    target: Target
    rates: Rates

    @property
    def peak(self) -> float:
        """f32 multiply-adds of one core, in GFLOP/s."""
        return 2 * self.rates.units * self.target.lanes(F32) * self.rates.hertz / 1e9

    @property
    def gbytes(self) -> float:
        """GB/s from memory."""
        return self.rates.memory * self.rates.hertz / 1e9

    def measured(self, gflops: float, gbytes: float) -> Machine:
        """The same machine at the clock and the memory's speed that were measured."""
        hertz = gflops * 1e9 / (2 * self.rates.units * self.target.lanes(F32))
        return replace(self, rates=replace(self.rates, hertz=hertz, memory=gbytes * 1e9 / hertz))


def machine_of(target: Target) -> Machine:
    """Return what is known of a target."""
    return Machine(target, RATES[target.arch, target.vector_bits])
