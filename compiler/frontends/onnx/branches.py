"""If: its graphs become regions of `if`, or the one that sizes decide for is built in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tfc.compiler.frontends.onnx.conditions import falsity, negated
from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.compiler.frontends.onnx.flow import assuming, flat, region, scalar
from tfc.compiler.frontends.onnx.nested import Item, alike, describe, with_leaves
from tfc.ir.build import tensor_type
from tfc.ir.core import Block, Value
from tfc.ir.dims import DimLike, maximum, minimum, symbols_of
from tfc.ir.errors import ModelError
from tfc.ir.extent import most
from tfc.ir.opdef import OPS
from tfc.ir.ops.common import unify_dims
from tfc.ir.ops.parts import take_range
from tfc.ir.symbols import bound_by, type_symbols


@dataclass
class _Side:
    """One branch, or why there is none; what is assumed in it, as dims that are 0."""

    block: Block = field(default_factory=Block)
    values: list[Item] = field(default_factory=list)
    assumed: dict[DimLike, str] = field(default_factory=dict)
    error: ModelError | None = None


def _if(ctx: Context) -> Results:
    """A condition that is known selects its branch here."""
    graphs = [ctx.graph("then_branch"), ctx.graph("else_branch")]
    known = ctx.const(0)
    if known is not None:
        if known.size != 1:
            raise ctx.malformed(f"the condition has {known.size} elements")
        return _counted(ctx, ctx.importer.inline(graphs[0 if known.all() else 1]))
    condition = scalar(ctx, ctx.x(0), "the condition")
    then, other = (_built(ctx, graph) for graph in graphs)
    zero = falsity(condition, ctx.b.constants)
    if then.error is not None and other.error is not None:
        raise then.error
    for side in (then, other):
        if side.error is not None:
            taken = other if side is then else then
            reason = f"the other branch is not possible: {side.error.message}"
            if zero is None and not flat(taken.values):
                taken.block.clear()
                raise side.error
            return _only(ctx, condition, zero, taken, taken is then, reason)
    merged = _merged(ctx, condition, zero, (then, other))
    if merged is not None:
        return merged
    shapes = [", ".join(map(describe, side.values)) for side in (then, other)]
    reason = f"the branches give {shapes[0]} and {shapes[1]}"
    if zero is None:
        for side in (then, other):
            side.block.clear()
        raise ctx.unsupported(
            f"{reason}; fix a dynamic dim with dims if that decides the condition"
        )
    first = ctx.importer.way() == 0
    taken, left = (then, other) if first else (other, then)
    left.block.clear()
    return _only(ctx, condition, zero, taken, first, f"{reason}, and one alone can be compiled")


def _merged(
    ctx: Context, condition: Value, zero: DimLike | None, sides: tuple[_Side, _Side]
) -> Results | None:
    """Results of both branches, None where their types have none."""
    same_ranks = _same_ranks(*sides)
    is_late = zero is None or (same_ranks and _is_late(ctx, zero, *sides))
    if same_ranks and zero is not None and not is_late:
        chosen = _chosen(ctx, zero, *sides)
        if chosen is not None and ctx.importer.way() == 0:
            return _even(ctx, condition, sides, chosen)
    shapes = _unified(ctx, *sides)
    if shapes is not None:
        return _even(ctx, condition, sides, shapes)
    return _uneven(ctx, condition, sides) if same_ranks and is_late else None


def _built(ctx: Context, graph: Any) -> _Side:
    side = _Side()
    with assuming(ctx) as side.assumed:
        try:
            with _conditional(ctx), region(ctx, side.block):
                side.values = _counted(ctx, ctx.importer.inline(graph))
        except ModelError as error:
            side.error = error
    return side


@contextmanager
def _conditional(ctx: Context) -> Iterator[None]:
    ctx.importer.conditional += 1
    try:
        yield
    finally:
        ctx.importer.conditional -= 1


def _counted(ctx: Context, values: list[Item]) -> list[Item]:
    if len(values) != len(ctx.node.output):
        raise ctx.malformed(f"{len(values)} values for {len(ctx.node.output)} results")
    return values


def _unified(ctx: Context, then: _Side, other: _Side) -> list[Shape] | None:
    """The shapes that the values of both branches can have, None where there are none.

    Dims that may be equal are taken to be so by the branch that a run takes.
    """
    if not all(map(alike, then.values, other.values)):
        return None
    late = ctx.importer.symbols.late_from(0)
    shapes = []
    for x, y in zip(flat(then.values), flat(other.values), strict=True):
        a, b = tensor_type(x), tensor_type(y)
        if a.dtype != b.dtype:
            raise ctx.malformed(f"a value is {a.dtype} on one way and {b.dtype} on the other")
        if a.rank != b.rank:
            return None
        dims = [unify_dims(m, n) for m, n in zip(a.shape, b.shape, strict=True)]
        if None in dims or (a != b and (type_symbols(a) | type_symbols(b)) & late):
            return None
        shapes.append(tuple(dim for dim in dims if dim is not None))
    return shapes


def _chosen(ctx: Context, zero: DimLike, then: _Side, other: _Side) -> list[Shape] | None:
    """The shapes of the values of the branch that is taken, `then` where `zero` is 0.

    None where both branches have them.
    """
    sides = zip(flat(then.values), flat(other.values), strict=True)
    pairs = [(tensor_type(x).shape, tensor_type(y).shape) for x, y in sides]
    if all(a == b for a, b in pairs):
        return None
    failed = minimum(zero, 1)
    return [
        tuple(
            m if m == n else ctx.define(m + (n - m) * failed, "size")
            for m, n in zip(a, b, strict=True)
        )
        for a, b in pairs
    ]


def _even(
    ctx: Context, condition: Value, sides: tuple[_Side, _Side], shapes: Sequence[Shape]
) -> Results:
    """Results of the same shapes by both branches."""
    for side in sides:
        with assuming(ctx) as assumed, _conditional(ctx), ctx.b.at(side.block):
            pairs = zip(flat(side.values), shapes, strict=True)
            fitting = iter([ctx.fit(x, shape) for x, shape in pairs])
            side.values = [with_leaves(item, fitting) for item in side.values]
        side.assumed |= assumed
    values = [flat(side.values) for side in sides]
    results = iter(_both(ctx, condition, sides, values))
    return [with_leaves(item, results) for item in sides[0].values]


def _same_ranks(then: _Side, other: _Side) -> bool:
    pairs = zip(flat(then.values), flat(other.values), strict=False)
    return all(map(alike, then.values, other.values)) and all(
        tensor_type(x).rank == tensor_type(y).rank for x, y in pairs
    )


def _is_late(ctx: Context, zero: DimLike, then: _Side, other: _Side) -> bool:
    """Whether only the run knows what decides, or a dim in which the branches differ."""
    differing = {zero}
    for x, y in zip(flat(then.values), flat(other.values), strict=True):
        pairs = zip(tensor_type(x).shape, tensor_type(y).shape, strict=True)
        differing |= {dim for pair in pairs if pair[0] != pair[1] for dim in pair}
    late = ctx.importer.symbols.late_from(0)
    return any(symbols_of(dim) & late for dim in differing)


def _uneven(ctx: Context, condition: Value, sides: tuple[_Side, _Side]) -> Results:
    """Results of the sizes that the branch a run takes gives.

    Each branch pads to what both can be at most, and hands out the sizes: behind it they are bound.
    """
    shapes = [[tensor_type(x).shape for x in flat(side.values)] for side in sides]
    limits = [_limits(side.block) for side in sides]
    places = [list(zip(*pair, strict=True)) for pair in zip(*shapes, strict=True)]
    most_of = {
        (a, b): a if a == b else maximum(most(a, limits[0]), most(b, limits[1]))
        for dims in places
        for a, b in dims
    }
    differ = [pair for pair in most_of if pair[0] != pair[1]]
    values = []
    for k, side in enumerate(sides):
        with ctx.b.at(side.block):
            padded = [
                _padded(ctx, x, [most_of[pair] for pair in dims])
                for x, dims in zip(flat(side.values), places, strict=True)
            ]
            values.append([*padded, *(ctx.numbers([pair[k]], rank=0) for pair in differ)])
    results = _both(ctx, condition, sides, values)
    label = f"{ctx.node.name or ctx.node.output[0]}_size"
    counts = results[len(places) :]
    sizes = {
        pair: ctx.bind(count, most_of[pair], label)
        for pair, count in zip(differ, counts, strict=True)
    }
    found = []
    for value, dims in zip(results, places, strict=False):
        for axis, pair in enumerate(dims):
            if pair in sizes:
                value = take_range(ctx.b, value, axis, 0, sizes[pair])
        found.append(value)
    leaves = iter(found)
    return [with_leaves(item, leaves) for item in sides[0].values]


def _limits(block: Block) -> dict[str, DimLike]:
    """The bounds of the symbols that a block binds, over those known in front of it."""
    found: dict[str, DimLike] = {}
    for op in block:
        name = bound_by(op)
        if name is not None:
            found[name] = most(op.attrs.hi, found)
    return found


def _padded(ctx: Context, x: Value, shape: Sequence[DimLike]) -> Value:
    own = tensor_type(x).shape
    if own == tuple(shape):
        return x
    more = tuple(most - dim for most, dim in zip(shape, own, strict=True))
    padded: Value = ctx.b.pad(x, lo=(0,) * len(more), hi=more, mode="constant")
    return padded


def _both(
    ctx: Context, condition: Value, sides: tuple[_Side, _Side], values: Sequence[Sequence[Value]]
) -> list[Value]:
    """The results of an `if` whose branches give `values`, of the same types two by two."""
    for side, given in zip(sides, values, strict=True):
        with ctx.b.at(side.block):
            ctx.b.op("yield", *given)
    assumes = tuple(tuple(side.assumed.items()) for side in sides)
    attrs = OPS["if"].attrs(assumes=assumes)
    blocks = [side.block for side in sides]
    return list(ctx.b.emit(OPS["if"], (condition,), attrs, blocks).results)


def _only(
    ctx: Context, condition: Value, zero: DimLike | None, side: _Side, truth: bool, reason: str
) -> Results:
    """Take the branch that is possible here. A run that wants the other fails."""
    if zero is not None:
        wanted = f"the condition is {str(truth).lower()}"
        ctx.assume(zero if truth else negated(zero), f"{wanted}; {reason}")
    for dim, message in side.assumed.items():
        ctx.importer.assumed.setdefault(dim, message)
    before = ctx.b.block
    for op in side.block:
        before.move(op, None)
    if zero is not None:
        return side.values
    if not truth:
        condition = ctx.b.op("not", condition).result
    message = f"{ctx.node.name or ctx.node.output[0]}: {reason}"
    checked = iter([ctx.b.check(condition, x, message=message) for x in flat(side.values)])
    return [with_leaves(item, checked) for item in side.values]


RULES: dict[str, tuple[Rule, ...]] = {"If": (Rule(_if),)}
