"""Structured control flow: `if` and `loop`. Their regions may use values from outside.

What a region computes is its own ops' matter; lowering turns both into native branches and loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfc.ir import control
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.control import Next, Round, Scanned
from tfc.ir.core import Block, Op, Value
from tfc.ir.dims import DimLike
from tfc.ir.errors import UnsupportedError, UsageError
from tfc.ir.opdef import Kind, OpDef, register, require
from tfc.ir.ops.common import Array
from tfc.ir.reverse import captured, copied, gradients, zeros
from tfc.ir.types import BOOL, I64, TensorType, shape_text

INDEX_TYPE = TensorType(I64, ())
CONDITION_TYPE = TensorType(BOOL, ())


class Region(Protocol):
    """A region to run: arrays in, what its `yield` hands out."""

    def __call__(self, *args: Array) -> list[Array]: ...

    def none_of(self, position: int) -> Array:
        """No element at all of the yielded value at `position`, stacked."""


def _nothing(types: Sequence[TensorType], attrs: Any) -> Sequence[TensorType]:
    return ()


def yielded(region: Block) -> list[TensorType]:
    """The types that a region hands out."""
    return [tensor_type(value) for value in region.terminator.operands]


def _is_float(value: Value) -> bool:
    return tensor_type(value).dtype.is_float


def _floats(values: Sequence[Value]) -> list[Value]:
    return [value for value in values if _is_float(value)]


def _placed(found: Sequence[Value], values: Sequence[Value]) -> list[Value | None]:
    """Gradients of the floats among `values`, each in its place; None for the others."""
    given = iter(found)
    return [next(given) if _is_float(value) else None for value in values]


def _or_zeros(b: GraphBuilder, found: Sequence[Value | None], of: Sequence[Value]) -> list[Value]:
    return [zeros(b, x) if g is None else g for g, x in zip(found, of, strict=True)]


# -- if -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IfAttrs:
    """assumes: what each branch takes for granted, as pairs (a dim that is 0 there, message)."""

    assumes: tuple[tuple[tuple[DimLike, str], ...], ...] = ((), ())


def _infer_if(
    types: Sequence[TensorType], attrs: IfAttrs, regions: Sequence[Block]
) -> Sequence[TensorType]:
    require(types[0] == CONDITION_TYPE, f"the condition is {types[0]}, not {CONDITION_TYPE}")
    require(not any(region.args for region in regions), "a branch takes no arguments")
    require(len(attrs.assumes) == 2, "a list of assumptions for each branch is wanted")
    then, otherwise = map(yielded, regions)
    require(len(then) == len(otherwise), f"branches yield {len(then)} and {len(otherwise)} values")
    for i, (one, other) in enumerate(zip(then, otherwise, strict=True)):
        require(one == other, f"branches yield {one} and {other} as result {i}")
    return then


def _if_ref(attrs: Any, condition: Array, *, regions: Sequence[Region]) -> tuple[Array, ...]:
    return tuple(regions[0 if condition else 1]())


def _if_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """The branch taken is computed once more, and gives the gradients of what it captured."""
    outer = captured(op)
    wanted = _floats(outer)
    if not wanted:
        return [None] * (1 + len(outer))

    def side(region: Block) -> Callable[[], Sequence[Value]]:
        def build() -> Sequence[Value]:
            return _or_zeros(b, gradients(b, copied(b, region, ()), gs, wanted), wanted)

        return build

    found = control.branch(b, op.operands[0], *map(side, op.regions))
    return [None, *_placed(found, outer)]


if_ = register(
    OpDef(
        name="if",
        operands=(1, 1),
        kind=Kind.CONTROL,
        attrs=IfAttrs,
        infer=_nothing,
        infer_regions=_infer_if,
        ref=_if_ref,
        regions=2,
        grad=_if_grad,
        doc="What the first region yields where the bool scalar is true, else the second.",
    )
)


# -- check --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckAttrs:
    """message: what a run is told that does not meet the condition."""

    message: str


def _infer_check(types: Sequence[TensorType], attrs: CheckAttrs) -> Sequence[TensorType]:
    require(types[0] == CONDITION_TYPE, f"the condition is {types[0]}, not {CONDITION_TYPE}")
    return (types[1],)


def _check_ref(attrs: CheckAttrs, condition: Array, x: Array) -> Array:
    if not condition:
        raise UsageError(f"check failed: {attrs.message}")
    return x


check = register(
    OpDef(
        name="check",
        operands=(2, 2),
        kind=Kind.CONTROL,
        attrs=CheckAttrs,
        infer=_infer_check,
        ref=_check_ref,
        grad=lambda b, op, gs: (None, gs[0]),
        doc="The second operand. A run in which the bool scalar is false fails with the message.",
    )
)


# -- loop ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoopAttrs:
    """trips: how often the region runs; None where only the run tells.

    limited: an i64 scalar, the first operand, is the most it may run. conditional: a bool scalar,
    the next operand, says whether it runs at all, and the region's first yield whether it runs
    again. scanned, stacked: one entry for each operand taken apart and each result put together
    along axis 0; true where from the end. They need `trips`, which limit and condition must then
    come to: a run where they do not fails. early: that may be fewer; the rows of stacks that are
    left hold anything.
    """

    trips: DimLike | None = None
    limited: bool = False
    conditional: bool = False
    scanned: tuple[bool, ...] = ()
    stacked: tuple[bool, ...] = ()
    early: bool = False


@dataclass(frozen=True)
class LoopParts:
    """The operands of a loop, by what they are; of an op's values or of anything in their order."""

    limit: Any
    start: Any
    carried: Sequence[Any]
    scanned: Sequence[Any]


def split_operands(attrs: LoopAttrs, operands: Sequence[Any]) -> LoopParts:
    """Tell a loop's operands apart."""
    head = list(operands[: attrs.limited + attrs.conditional])
    end = len(operands) - len(attrs.scanned)
    return LoopParts(
        head[0] if attrs.limited else None,
        head[-1] if attrs.conditional else None,
        operands[len(head) : end],
        operands[end:],
    )


@dataclass(frozen=True)
class LoopYields:
    """What a loop's region hands out, by what it is."""

    again: Any
    carried: Sequence[Any]
    stacked: Sequence[Any]


def split_yields(attrs: LoopAttrs, values: Sequence[Any]) -> LoopYields:
    """Tell apart what a loop's region yields."""
    end = len(values) - len(attrs.stacked)
    return LoopYields(
        values[0] if attrs.conditional else None, values[int(attrs.conditional) : end], values[end:]
    )


def _infer_loop(
    types: Sequence[TensorType], attrs: LoopAttrs, regions: Sequence[Block]
) -> Sequence[TensorType]:
    fixed = attrs.trips is not None
    require(fixed or attrs.limited or attrs.conditional, "nothing ends the loop")
    require(not attrs.early or (fixed and attrs.conditional), "nothing ends the loop early")
    require(fixed or not (attrs.scanned or attrs.stacked), "what it stacks has no known extent")
    head = attrs.limited + attrs.conditional
    require(len(types) >= head + len(attrs.scanned), f"{len(types)} operands are too few")
    parts = split_operands(attrs, types)
    if attrs.limited:
        require(parts.limit == INDEX_TYPE, f"the limit is {parts.limit}, not {INDEX_TYPE}")
    if attrs.conditional:
        require(parts.start == CONDITION_TYPE, f"the condition is {parts.start}")
    (region,) = regions
    wanted = [INDEX_TYPE, *parts.carried, *_elements(parts.scanned, attrs.trips)]
    taken = [tensor_type(arg) for arg in region.args]
    require(taken == wanted, f"the region takes {_list(taken)}, not {_list(wanted)}")
    return _loop_results(attrs, parts, yielded(region))


def _elements(types: Sequence[TensorType], trips: DimLike | None) -> Iterator[TensorType]:
    for type in types:
        fits = type.rank > 0 and type.shape[0] == trips
        require(fits, f"{shape_text(type.shape)} is not taken apart in {trips} rounds")
        yield TensorType(type.dtype, type.shape[1:])


def _loop_results(
    attrs: LoopAttrs, parts: LoopParts, types: Sequence[TensorType]
) -> list[TensorType]:
    count = attrs.conditional + len(parts.carried) + len(attrs.stacked)
    require(len(types) == count, f"the region yields {len(types)} values, not {count}")
    found = split_yields(attrs, types)
    if attrs.conditional:
        require(found.again == CONDITION_TYPE, f"the region's condition is {found.again}")
    for i, (before, after) in enumerate(zip(parts.carried, found.carried, strict=True)):
        require(before == after, f"carries {before}, but yields {after} as value {i}")
    rows: DimLike = 0 if attrs.trips is None else attrs.trips
    stacked = [TensorType(t.dtype, (rows, *t.shape)) for t in found.stacked]
    return [*parts.carried, *stacked]


def _list(types: Sequence[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"


def _loop_ref(attrs: LoopAttrs, *arrays: Array, regions: Sequence[Region]) -> tuple[Array, ...]:
    (body,) = regions
    parts = split_operands(attrs, arrays)
    bounds = [int(n) for n in (attrs.trips, parts.limit) if n is not None]  # type: ignore[arg-type]
    again = parts.start is None or bool(parts.start)
    carried = list(parts.carried)
    rows: list[list[Array]] = [[] for _ in attrs.stacked]
    i = 0
    while again and (not bounds or i < min(bounds)):
        slices = [
            x[len(x) - 1 - i if back else i]
            for x, back in zip(parts.scanned, attrs.scanned, strict=True)
        ]
        values = body(np.asarray(i, np.int64), *carried, *map(np.asarray, slices))
        found = split_yields(attrs, values)
        again = found.again is None or bool(found.again)
        carried = list(found.carried)
        for row, value in zip(rows, found.stacked, strict=True):
            row.append(value)
        i += 1
    _check_trips(attrs, parts, i, again)
    first = attrs.conditional + len(carried)
    stacks = [
        np.stack(row[::-1] if back else row) if row else body.none_of(first + position)
        for position, (row, back) in enumerate(zip(rows, attrs.stacked, strict=True))
    ]
    if attrs.early:
        stacks = [_filled(x, attrs, back) for x, back in zip(stacks, attrs.stacked, strict=True)]
    return (*carried, *stacks)


def _filled(x: Array, attrs: LoopAttrs, backward: bool) -> Array:
    """A stack with zeros in the rows that no round has made."""
    assert isinstance(attrs.trips, int)
    left = np.zeros((attrs.trips - len(x), *x.shape[1:]), x.dtype)
    return np.concatenate([left, x] if backward else [x, left])


def _check_trips(attrs: LoopAttrs, parts: LoopParts, rounds: int, again: bool) -> None:
    """Refuse a run in which limit and condition do not come to the rounds announced."""
    if attrs.trips is None:
        return
    more = again and (parts.limit is None or rounds < int(parts.limit))
    bounded = attrs.limited or attrs.conditional
    if bounded and not attrs.early and (rounds != attrs.trips or more):
        had = f"more than {rounds}" if more else str(rounds)
        raise UsageError(f"the loop ran {had} rounds, not {attrs.trips}")


# A backward pass needs what every round began with. Where the extent of stacks is known a second
# run stacks that, in memory; else each round's is computed again from the start, in time that
# grows with the square of the rounds.


class _Grads(NamedTuple):
    """Gradients of the floats among what a round takes."""

    carried: Sequence[Value]
    slices: Sequence[Value]
    outer: Sequence[Value]


def _loop_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    attrs: LoopAttrs = op.attrs
    if attrs.early:
        raise UnsupportedError("gradient of a loop that may end early")
    parts = split_operands(attrs, op.operands)
    outer = captured(op)
    pass_back = _stacked_back if attrs.trips is not None else _repeated_back
    found = pass_back(b, op, parts, gs, _floats(outer))
    heads = [None] * (attrs.limited + attrs.conditional)
    carried, scanned = _placed(found.carried, parts.carried), _placed(found.slices, parts.scanned)
    return [*heads, *carried, *scanned, *_placed(found.outer, outer)]


def _round_back(
    b: GraphBuilder, op: Op, i: Value, carried: Sequence[Value], slices: Sequence[Value],
    gs: Sequence[Value], outer: Sequence[Value],
) -> _Grads:  # fmt: skip
    """One round backwards. gs: gradients of the floats among what it carried on and stacked."""
    last = b.block.last
    found = split_yields(op.attrs, copied(b, op.regions[0], [i, *carried, *slices]))
    inputs = (_floats(carried), _floats(slices), outer)
    wanted = [value for values in inputs for value in values]
    outputs = _floats([*found.carried, *found.stacked])
    given = iter(_or_zeros(b, gradients(b, outputs, gs, wanted, last), wanted))
    return _Grads(*([next(given) for _ in values] for values in inputs))


def _begin_back(
    b: GraphBuilder, parts: LoopParts, gs: Sequence[Value], outer: Sequence[Value]
) -> tuple[int, list[Value]]:
    """How many gradients are carried back, and what a pass back begins with."""
    carried = [g for g, x in zip(gs, parts.carried, strict=False) if _is_float(x)]
    return len(carried), [*carried, *(zeros(b, x) for x in outer)]


def _stacked_back(
    b: GraphBuilder, op: Op, parts: LoopParts, gs: Sequence[Value], outer: Sequence[Value]
) -> _Grads:
    attrs: LoopAttrs = op.attrs
    trips = attrs.trips
    assert trips is not None
    scans = [Scanned(x, back) for x, back in zip(parts.scanned, attrs.scanned, strict=True)]

    def again(r: Round) -> Next:
        values = copied(b, op.regions[0], [r.number, *r.carried, *r.slices])
        return Next(split_yields(attrs, values).carried, r.carried)

    kept = control.loop(
        b, again, parts.carried, scans, backward=[False] * len(parts.carried), trips=trips
    ).stacked
    stacks = [
        Scanned(g, not back)
        for g, back in zip(gs[len(parts.carried) :], attrs.stacked, strict=True)
        if _is_float(g)
    ]
    count, begin = _begin_back(b, parts, gs, outer)

    def back(r: Round) -> Next:
        i = b.sub(b.dims(values=(trips - 1,), rank=0), r.number)
        states, rest = r.slices[: len(kept)], r.slices[len(kept) :]
        slices, stacked = rest[: len(scans)], rest[len(scans) :]
        found = _round_back(b, op, i, states, slices, [*r.carried[:count], *stacked], outer)
        sums = [b.add(sum, g) for sum, g in zip(r.carried[count:], found.outer, strict=True)]
        return Next([*found.carried, *sums], found.slices)

    done = control.loop(
        b,
        back,
        begin,
        [*(Scanned(x, True) for x in kept), *(Scanned(x, not back) for x, back in scans), *stacks],
        backward=[not back for x, back in scans if _is_float(x)],
        trips=trips,
    )
    return _Grads(done.carried[:count], done.stacked, done.carried[count:])


def _repeated_back(
    b: GraphBuilder, op: Op, parts: LoopParts, gs: Sequence[Value], outer: Sequence[Value]
) -> _Grads:
    attrs: LoopAttrs = op.attrs
    one = b.constant(1, I64)

    def counting(r: Round) -> Next:
        found = split_yields(attrs, copied(b, op.regions[0], [r.number, *r.carried[:-1]]))
        return Next([*found.carried, b.add(r.carried[-1], one)], (), found.again)

    def again(r: Round) -> Next:
        found = split_yields(attrs, copied(b, op.regions[0], [r.number, *r.carried]))
        return Next(found.carried)

    begin = [*parts.carried, b.constant(0, I64)]
    rounds = control.loop(b, counting, begin, limit=parts.limit, start=parts.start).carried[-1]
    count, begin = _begin_back(b, parts, gs, outer)

    def back(r: Round) -> Next:
        i = b.sub(b.sub(rounds, one), r.number)
        states = control.loop(b, again, parts.carried, limit=i).carried
        found = _round_back(b, op, i, states, (), r.carried[:count], outer)
        sums = [b.add(sum, g) for sum, g in zip(r.carried[count:], found.outer, strict=True)]
        return Next([*found.carried, *sums])

    done = control.loop(b, back, begin, limit=rounds).carried
    return _Grads(done[:count], (), done[count:])


loop = register(
    OpDef(
        name="loop",
        operands=(0, None),
        kind=Kind.CONTROL,
        attrs=LoopAttrs,
        infer=_nothing,
        infer_regions=_infer_loop,
        ref=_loop_ref,
        regions=1,
        grad=_loop_grad,
        doc="Runs its region again and again. Operands: limit, condition, carried values, operands "
        "taken apart. The region takes the round's number, the carried values, and the slices; it "
        "yields whether to go on, the next carried values, and the elements of what is stacked. "
        "Results: the last carried values, then the stacks.",
    )
)
