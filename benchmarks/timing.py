"""Times several callables side by side: short loops in turn, so that all meet the same load."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

LEAST_CALLS = 3
# Other engines' worker threads spin for a while after a call; this lets them go to sleep.
PAUSE = 0.02


@dataclass(frozen=True)
class Spread:
    """Seconds a call: one entry for each round, the median of that round's loop."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, relative to the median."""
        if len(self.rounds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return (high - low) / 2 / self.median


def ratio(ours: Spread, theirs: Spread) -> float:
    """Return the median over the rounds of our time divided by theirs: below 1 is faster."""
    return statistics.median(a / b for a, b in zip(ours.rounds, theirs.rounds, strict=True))


def loop(call: Callable[[], object], seconds: float) -> float:
    """Return the median time of a call in a loop of about `seconds`, after one call to warm up."""
    call()
    times: list[float] = []
    clock = time.perf_counter
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = clock() + seconds
        while len(times) < LEAST_CALLS or clock() + times[-1] < end:
            start = clock()
            call()
            times.append(clock() - start)
    finally:
        if collecting:
            gc.enable()
    return statistics.median(times)


def side_by_side(
    calls: Mapping[str, Callable[[], object]], rounds: int, seconds: float
) -> dict[str, Spread]:
    """Time the calls in turn, `rounds` times; who begins moves on with each round."""
    names = list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            time.sleep(PAUSE)
            found[name].append(loop(calls[name], seconds))
    return {name: Spread(tuple(values)) for name, values in found.items()}
