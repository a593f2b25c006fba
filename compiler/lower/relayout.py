"""Lays constants out anew for the loops that read them. The copies are made at compile time.

A depthwise filter stored [channels][taps] is read with a stride by vectors of channels; as
[taps][channels] it is read in one load. A filter whose taps and channels follow the order in
which the data lies is folded by one long loop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.compiler.lower.compose import Nest, Output
from tfc.compiler.lower.dependence import POSITIONS
from tfc.compiler.lower.normal import reductions
from tfc.ir.body import Expr, Iter, Load, Reduce, loads, rewrite
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, coefficient, evaluate, product, substitute, symbols_of

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
            steps.append(evaluate(step, {}))
        origin = evaluate(substitute(self.source, {it.name: 0 for it in self.iters}), {})
        last = origin + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        if origin >= 0 and last < flat.size:
            strides = [step * flat.itemsize for step in steps]
            view = np.lib.stride_tricks.as_strided(flat[origin:], shape, strides, writeable=False)
            return np.ascontiguousarray(view).reshape(-1)
        # What lies outside is padding, and never read: any element will do.
        at = np.full((1,), origin)
        for n, step in zip(shape, steps, strict=True):
            at = (at[:, None] + step * np.arange(n)).reshape(-1)
        return np.take(flat, at, mode="clip")


def order_reductions(nest: Nest, constants: Collection[Value]) -> Nest:
    """Let reductions run in the order in which the data that they fold lies."""

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Reduce) or node.kind in POSITIONS or len(node.iters) < 2:
            return None
        data = [x for x in loads(node.body) if x.value not in constants and len(x.index) == 1]
        if not data:
            return None
        steps = [_static_step(data[0], it) for it in node.iters]
        known = [step for step in steps if step is not None]
        if len(known) < len(steps):
            return None
        order = sorted(range(len(known)), key=lambda i: known[i], reverse=True)
        iters = tuple(node.iters[i] for i in order)
        if iters == node.iters:
            return None
        return Reduce(node.kind, iters, node.body, node.dtype, node.last)

    outputs = tuple(Output(o.value, o.address, rewrite(o.expr, change)) for o in nest.outputs)
    return Nest(nest.iters, outputs)


def _static_step(load: Load, it: Iter) -> int | None:
    address = load.index[0]
    step = coefficient(address, it.name) if isinstance(address, (int, Dim)) else None
    return step if isinstance(step, int) else None


def follow_reduction(load: Load, nest: Nest) -> Relayout | None:
    """Return the layout in which a constant is read in the order of the loops around it.

    None where it is not folded, or lies so already.
    """
    # Reductions may share an iterator.
    inner = dict.fromkeys(it for reduce in reductions(nest) for it in reduce.iters)
    address = load.index[0]
    if len(load.index) != 1 or not isinstance(address, Dim):
        return None
    names = symbols_of(address)
    if not any(it.name in names for it in inner):
        return None
    outer = [it for it in nest.iters if it.name in names]
    outer.sort(key=lambda it: _static_step(load, it) or 0, reverse=True)
    order = [*outer, *(it for it in inner if it.name in names)]
    return _relayout(address, order)


def _relayout(address: Dim, order: Sequence[Iter]) -> Relayout | None:
    """The layout that is row-major over `order`; None where it cannot be made or is there."""
    if symbols_of(address) != {it.name for it in order}:
        return None
    new: DimLike = 0
    for it in order:
        step = coefficient(address, it.name)
        if not isinstance(it.extent, int) or not isinstance(step, int) or step < 0:
            return None
        new = new * it.extent + it.dim
    return None if new == address else Relayout(tuple(order), address, new)


def plan_relayout(load: Load, iters: Sequence[Iter], lane: Iter, size: DimLike) -> Relayout | None:
    """Return the layout in which `load` is contiguous along `lane`; None where it is, or cannot be.

    iters: all iterators in scope. size: elements of the constant.
    """
    address = load.index[0]
    if len(load.index) != 1 or not isinstance(address, Dim):
        return None
    names = symbols_of(address)
    if lane.name not in names or coefficient(address, lane.name) == 1:
        return None
    order = [it for it in iters if it.name in names and it.name != lane.name]
    order.sort(key=lambda it: _static_step(load, it) or 0, reverse=True)
    order.append(lane)
    found = _relayout(address, order)
    count = product(it.extent for it in order)
    if found is None or not isinstance(size, int) or count > size * MOST_GROWTH:
        return None
    return found
