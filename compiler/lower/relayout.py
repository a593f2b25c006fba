"""Lays constants out anew for the iterator that a schedule vectorises.

A depthwise filter stored [channels][taps] is read with a stride by vectors of channels; as
[taps][channels] it is read in one load. The copy is made once, at compile time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.ir.body import Iter, Load
from tfc.ir.dims import Dim, DimLike, coefficient, evaluate, substitute, symbols_of

Array = npt.NDArray[Any]
# A copy repeats elements where iterators share them; more than this is not worth it.
MOST_GROWTH = 2


@dataclass(frozen=True)
class Relayout:
    """A constant's elements in row-major order of `iters`, the vectorised one last."""

    iters: tuple[Iter, ...]
    source: DimLike
    address: DimLike

    def apply(self, flat: Array) -> Array:
        """Return the new elements, given the old ones."""
        shape = [evaluate(it.extent, {}) for it in self.iters]
        steps = []
        for it in self.iters:
            step = coefficient(self.source, it.name)
            assert step is not None
            steps.append(evaluate(step, {}) * flat.itemsize)
        origin = evaluate(substitute(self.source, {it.name: 0 for it in self.iters}), {})
        view = np.lib.stride_tricks.as_strided(flat[origin:], shape, steps, writeable=False)
        return np.ascontiguousarray(view).reshape(-1)


def plan_relayout(load: Load, iters: Sequence[Iter], lane: Iter, size: DimLike) -> Relayout | None:
    """Return the layout in which `load` is contiguous along `lane`; None where it is, or cannot be.

    iters: all iterators in scope. size: elements of the constant.
    """
    address = load.index[0]
    if len(load.index) != 1 or not isinstance(address, Dim):
        return None
    names = symbols_of(address)
    used = [it for it in iters if it.name in names]
    step = coefficient(address, lane.name)
    if step is None or step in (0, 1) or names != {it.name for it in used}:
        return None
    if any(not isinstance(it.extent, int) for it in used):
        return None
    strides = {it.name: coefficient(address, it.name) for it in used}
    if any(not isinstance(stride, int) or stride < 0 for stride in strides.values()):
        return None
    order = sorted(
        (it for it in used if it.name != lane.name),
        key=lambda it: evaluate(strides[it.name] or 0, {}),
        reverse=True,
    )
    order.append(lane)
    new: DimLike = 0
    count = 1
    for it in order:
        new = new * it.extent + it.dim
        count *= evaluate(it.extent, {})
    if not isinstance(size, int) or count > size * MOST_GROWTH:
        return None
    return Relayout(tuple(order), address, new)
