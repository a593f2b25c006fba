"""Collects what ops take for granted of symbolic dims, before rewrites can remove the ops.

Lists of (dim, message) go into the function's attributes, and for what is in a branch into those
of its `if`: lowering makes `main` check that each dim is 0, once there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tfc.compiler.passman import PassContext
from tfc.ir.build import tensor_type
from tfc.ir.core import Block, Function, Module, Op
from tfc.ir.dims import DimLike, Interval, bounds, maximum, minimum, symbols_of
from tfc.ir.opdef import OPS
from tfc.ir.ops.flow import IfAttrs, LoopAttrs
from tfc.ir.symbols import ASSUMES, BIND

# How messages begin: what follows is what had to be so.
NOT_SO = "it does not hold that"
IF, LOOP = OPS["if"], OPS["loop"]

Assumed = tuple[tuple[DimLike, str], ...]


def assume(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        env = {name: (info.lo, info.hi) for name, info in function.symbols.items()}
        _collect(function.block, env)


def add_assumed(block: Block, assumed: Sequence[tuple[DimLike, str]]) -> None:
    """Have `assumed` checked whenever `block` runs, before anything in it.

    What speaks of symbols that are bound in the block is checked behind those, wherever it stands.
    """
    parent = block.parent
    if isinstance(parent, Function):
        found = _merged(parent.attrs.get(ASSUMES, ()), assumed)
        if found:
            parent.attrs[ASSUMES] = found
        return
    if parent is None or parent.block is None:
        return
    inside = {op.attrs.symbol for op in block.walk() if op.defn.name == BIND}
    before = [entry for entry in assumed if not symbols_of(entry[0]) & inside]
    behind = [entry for entry in assumed if symbols_of(entry[0]) & inside]
    add_assumed(parent.block, behind)
    if parent.defn is not IF:
        add_assumed(parent.block, _around(parent, before))
        return
    attrs: IfAttrs = parent.attrs
    lists = [
        _merged(old, before) if region is block else old
        for region, old in zip(parent.regions, attrs.assumes, strict=True)
    ]
    parent.set_attrs(replace(attrs, assumes=tuple(lists)))


def _collect(block: Block, env: Mapping[str, Interval]) -> None:
    found: list[tuple[DimLike, str]] = []
    for op in block:
        place = f"{op.loc}: " if str(op.loc) else ""
        found += [(zero, f"{place}{NOT_SO} {message}") for zero, message in _own(op, env)]
        for region in op.regions:
            _collect(region, env)
    add_assumed(block, found)


def _own(op: Op, env: Mapping[str, Interval]) -> Iterator[tuple[DimLike, str]]:
    """What an op takes for granted: by its rule, and that its results have sizes at all."""
    rule = op.defn.assumes  # type: ignore[attr-defined]
    if rule is not None:
        for assumption in rule([tensor_type(value) for value in op.operands], op.attrs):
            yield assumption.zero, assumption.message
    for dim in dict.fromkeys(dim for value in op.results for dim in tensor_type(value).shape):
        least, _ = bounds(dim, env)
        if least is None or least < 0:
            yield minimum(dim, 0), f"a result has a size: {dim} is negative"


def _around(op: Op, assumed: Iterable[tuple[DimLike, str]]) -> list[tuple[DimLike, str]]:
    """What is to be checked before an op for what its region assumes: a loop may have no round."""
    if op.defn is not LOOP:
        return list(assumed)
    attrs: LoopAttrs = op.attrs
    runs: DimLike = 1 if attrs.trips is None else maximum(0, minimum(attrs.trips, 1))
    return [(zero * runs, message) for zero, message in assumed]


def _merged(old: Assumed, new: Iterable[tuple[DimLike, str]]) -> Assumed:
    """One entry a dim: the first, so that the pass may run again."""
    found = dict(old)
    for zero, message in new:
        if not (isinstance(zero, int) and zero == 0):
            found.setdefault(zero, message)
    return tuple(found.items())
