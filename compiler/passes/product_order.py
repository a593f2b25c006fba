"""In which order a contraction's result lies in memory, and what it likes to read.

A result has the axis innermost that only the right side has, so that convolutions run with
channels last. One that is returned, and so must be row-major, is computed as it is where that
takes less time than to turn it around.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tfc.compiler.cost.contraction import Picture, first_cycles, last_cycles
from tfc.compiler.cost.machine import Machine
from tfc.ir.body import Expr, ExprBuilder, Index, Iter, Reduce, loads, substitute_dims, walk
from tfc.ir.build import tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import Dim, DimLike, coefficient, product, symbols_of
from tfc.ir.opdef import Kind
from tfc.ir.types import F32


def _members(op: Op) -> list[Op]:
    return [op, *(inner for region in op.regions for inner in region)]


def contraction_of(op: Op) -> Op | None:
    """The contraction in `op`, if there is one."""
    found = [m for m in _members(op) if m.defn.kind is Kind.CONTRACTION]  # type: ignore[attr-defined]
    return found[0] if len(found) == 1 else None


class _Inliner(ExprBuilder):
    """Loads of values that the ops `inside` compute become their bodies."""

    def __init__(self, inside: Sequence[Op]) -> None:
        self.inside = {member.results[0]: member for member in inside if member.results}

    def load(self, value: Value, index: tuple[Index, ...]) -> Expr:
        op = self.inside.get(value)
        body = op.defn.body if op is not None else None  # type: ignore[attr-defined]
        if body is None or not all(isinstance(i, (int, Dim)) for i in index):
            return super().load(value, index)
        return body(self, op, 0, index)  # type: ignore[no-any-return]


def _element(op: Op, iters: Sequence[Iter]) -> Expr:
    """One element of an op's result, from what its group reads.

    The iterators' bounds drop what merging axes and splitting them again would else leave.
    """
    members = [m for m in _members(op) if m.defn.body is not None]  # type: ignore[attr-defined]
    last = op.regions[0].terminator.operands[0] if op.regions else op.result
    at = {it.name: it.dim for it in iters}
    expr = _Inliner(members).load(last, tuple(at.values()))
    return substitute_dims(expr, at, {it.name: it.interval for it in iters})


def contracted(op: Op, machine: Machine | None) -> tuple[int, ...] | None:
    """The order in which the axes that only the right side indexes come last.

    A row-major left side that moves with the last axis is read in vectors as it is; then the
    order stays where the right side's axes are too short to fill them, and where it is wanted and
    costs less.
    """
    found = _product(op)
    if found is None:
        return None
    others = [a for a in range(len(found.iters)) if a not in found.own]
    order = (*others, *found.own)
    if not found.own or order == tuple(range(len(found.iters))):
        return order if found.own else None
    step = coefficient(found.at[-1], found.iters[-1].name) if found.at else None
    if found.outer.encoding is None and step == 1:
        lanes = machine.target.lanes(F32) if machine is not None else 1
        columns, last = product(found.shape[a] for a in found.own), found.shape[-1]
        short = isinstance(columns, int) and columns < lanes
        if short and isinstance(last, int) and last >= lanes:
            return None
        if machine is not None and _stays(op, found, machine):
            return None
    return order


def reads_channels_last(op: Op, machine: Machine | None) -> bool:
    """Whether a copy of what the contraction in `op` reads best has the summed channels last.

    They must fill vectors, or turning the copy around costs more than copying.
    """
    found = _product(op)
    if found is None or machine is None or len(found.at) < 3:
        return False
    order = contracted(op, machine)
    if order is None or order[-1] == len(order) - 1:
        return False
    summed = next((it for it in found.summed if found.at[1] == it.dim), None)
    lanes = machine.target.lanes(F32)
    return summed is not None and isinstance(summed.extent, int) and summed.extent >= lanes


@dataclass(frozen=True)
class _Product:
    """A group's contraction: its result's shape and iterators, of which `own` move the right side
    alone, what it sums over, and where the left side, which is `outer` to the group, is read.
    """

    shape: Sequence[DimLike]
    iters: Sequence[Iter]
    own: Sequence[int]
    summed: Sequence[Iter]
    at: Sequence[DimLike]
    outer: Value
    right: Value


def _product(op: Op) -> _Product | None:
    contraction = contraction_of(op)
    if contraction is None or contraction.defn.body is None:  # type: ignore[attr-defined]
        return None
    shape = tensor_type(op.result).shape
    iters = [ExprBuilder().iter(extent, "i") for extent in shape]
    expr = _element(op, iters)
    folds = [node for node in walk(expr) if isinstance(node, Reduce)]
    if not shape:
        return None
    used: dict[Value, set[str]] = {}
    at: dict[Value, list[DimLike]] = {}
    for load in loads(expr):
        at[load.value] = [entry for entry in load.index if isinstance(entry, (int, Dim))]
        names = used.setdefault(load.value, set())
        names |= {name for entry in at[load.value] for name in symbols_of(entry)}
    x, w = (_source(operand, op) for operand in contraction.operands[:2])
    own = [
        a
        for a, it in enumerate(iters)
        if it.name in used.get(w, ()) and it.name not in used.get(x, ())
    ]
    outer, right = _outer_value(op, x), _outer_value(op, w)
    summed = folds[0].iters if folds else ()
    return _Product(shape, iters, own, summed, at.get(x, []), outer, right)


def _stays(op: Op, found: _Product, machine: Machine) -> bool:
    """Whether a result that is returned takes less time where nothing is turned around."""
    if not all(user.defn.terminator for user in op.result.users):  # type: ignore[attr-defined]
        return False
    sizes = [n for n in found.shape if isinstance(n, int) and n > 0]
    steps = product(it.extent for it in found.summed)
    if tensor_type(op.result).dtype != F32 or len(sizes) < len(found.shape):
        return False
    if not isinstance(steps, int) or len(found.at) < 2 or len(sizes) < 2:
        return False
    channels, columns = math.prod(sizes[a] for a in found.own), sizes[-1]
    below = tensor_type(found.outer).shape
    last = [it.dim for it in found.iters[-2:]]
    if below[-1] == columns and list(found.at[-2:]) == last:
        # The rows of single pixels run on into each other.
        columns *= sizes[-2]
    picture = Picture(math.prod(sizes) // channels, columns, channels, steps, _is_winograd(found))
    return first_cycles(machine, picture) < last_cycles(machine, picture)


def _is_winograd(found: _Product) -> bool:
    """Whether the sum may be a convolution that takes fewer multiplications."""
    if len(found.at) < 4 or found.right.op is None or found.right.op.defn.kind is not Kind.CONSTANT:  # type: ignore[attr-defined]
        return False
    taps = {it.name: it for it in found.summed}
    for entry, it in zip(found.at[-2:], found.iters[-2:], strict=True):
        tap = [taps[name] for name in symbols_of(entry) if name in taps]
        names = [it.name, *(each.name for each in tap)]
        if [each.extent for each in tap] != [3] or any(coefficient(entry, n) != 1 for n in names):
            return False
    return True


def _source(value: Value, op: Op) -> Value:
    """What a value is cast from inside the group of `op`, or the value itself."""
    while value.op is not None and value.op.name == "cast" and value.op.block in op.regions:
        value = value.op.operands[0]
    return value


def _outer_value(op: Op, value: Value) -> Value:
    """The operand of `op` that a region's argument stands for."""
    for region in op.regions:
        if value in region.args:
            return op.operands[region.args.index(value)]
    return value
