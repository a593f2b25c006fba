"""Operators that write or pick by positions: scatters, top-k, sequences turned around, and those
whose number of results depends on data, which the model must declare and a run checks.
"""

from __future__ import annotations

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, product
from tfc.ir.types import BOOL, I64

# -- writing --------------------------------------------------------------------------------------


def _scatter_elements(ctx: Context) -> Results:
    for a, b in zip(ctx.shape(1), ctx.shape(2), strict=False):
        ctx.equate(a, b)
    found: Value = ctx.b.scatter_elements(
        ctx.x(0),
        ctx.x(1),
        ctx.x(2),
        axis=ctx.axis(ctx.integer("axis", 0), ctx.type().rank),
        reduction=ctx.string("reduction", "none"),
    )
    return found


def _scatter_nd(ctx: Context) -> Results:
    found: Value = ctx.b.scatter_nd(
        ctx.x(0), ctx.x(1), ctx.x(2), reduction=ctx.string("reduction", "none")
    )
    return found


def _tensor_scatter(ctx: Context) -> Results:
    """Each item of the batch gets its update at a position of its own along the axis."""
    cache, update = ctx.x(0), ctx.x(1)
    shape, new = ctx.shape(0), ctx.shape(1)
    axis = ctx.axis(ctx.integer("axis", -2), len(shape))
    mode = ctx.string("mode", "linear")
    if mode not in ("linear", "circular") or axis == 0:
        raise ctx.malformed(f"mode {mode!r}, axis {axis}")
    places = ctx.b.iota(shape=_single(len(shape), axis, shape[axis]), axis=axis, dtype=I64)
    if ctx.has(2):
        starts = ctx.reshape(ctx.cast(ctx.x(2), I64), _single(len(shape), 0, shape[0]))
        places = ctx.b.sub(places, starts)
    if mode == "circular":
        places = ctx.b.mod(places, ctx.numbers((shape[axis],), rank=0))
    zero, count = ctx.scalar(0, places), ctx.numbers((new[axis],), rank=0)
    inside = ctx.b.op("and", ctx.b.ge(places, zero), ctx.b.lt(places, count)).result
    safe = ctx.b.select(inside, places, zero)
    spread = ctx.b.broadcast(safe, shape=shape)
    found: Value = ctx.b.select(inside, ctx.b.gather_elements(update, spread, axis=axis), cache)
    return found


def _single(rank: int, axis: int, dim: DimLike) -> Shape:
    """A shape of ones with `dim` on one axis."""
    return tuple(dim if i == axis else 1 for i in range(rank))


# -- order ----------------------------------------------------------------------------------------


def _reverse_sequence(ctx: Context) -> Results:
    """The first elements of each item, as many as its length, from the last to the first."""
    x, shape = ctx.x(0), ctx.shape(0)
    batch = ctx.axis(ctx.integer("batch_axis", 1), len(shape))
    time = ctx.axis(ctx.integer("time_axis", 0), len(shape))
    if batch == time:
        raise ctx.malformed(f"batch_axis and time_axis are both {time}")
    lengths = ctx.reshape(ctx.cast(ctx.x(1), I64), _single(len(shape), batch, shape[batch]))
    steps = ctx.b.iota(shape=_single(len(shape), time, shape[time]), axis=time, dtype=I64)
    last = ctx.b.sub(lengths, ctx.scalar(1, lengths))
    places = ctx.b.select(ctx.b.lt(steps, lengths), ctx.b.sub(last, steps), steps)
    found: Value = ctx.b.gather_elements(x, ctx.b.broadcast(places, shape=shape), axis=time)
    return found


def _top_k(ctx: Context) -> Results:
    shape = ctx.shape()
    axis = ctx.axis(ctx.integer("axis", -1), len(shape))
    if ctx.opset < 10:
        count: DimLike = ctx.integer("k")
    else:
        given = ctx.dims(1, "k")
        if len(given) != 1:
            raise ctx.malformed(f"k holds {len(given)} numbers")
        (count,) = given
    ctx.flag("sorted", True)
    found: Results = ctx.b.top_k(ctx.x(0), axis=axis, k=count, largest=ctx.flag("largest", True))
    return found


# -- results of as many elements as the data says -------------------------------------------------


def _declared(ctx: Context, position: int, axis: int) -> int:
    """How long the model says that a result is."""
    shape = ctx.declared(position)
    count = shape[axis] if shape is not None and len(shape) > axis else None
    if count is not None:
        return count
    raise ctx.unsupported(
        "how many elements there are depends on the data; a result is supported whose "
        "shape the model declares"
    )


def _positions(ctx: Context, mask: Value, count: int) -> Value:
    """The indices at which a flat mask is true, of which there must be `count`."""
    total = ctx.b.reduce_sum(ctx.cast(mask, I64), axes=(0,), keepdims=False)
    right = ctx.b.eq(total, ctx.b.constant(count, I64))
    mask = ctx.b.check(
        right, mask, message=f"the data selects {count} elements, as the model declares"
    )
    found: Value = ctx.b.positions(mask, count=count)
    return found


def _non_zero(ctx: Context) -> Results:
    x, shape = ctx.x(), ctx.shape()
    count = _declared(ctx, 0, 1)
    flat = ctx.b.cast(ctx.reshape(x, (product(shape),)), dtype=BOOL)
    left = _positions(ctx, flat, count)
    rows: list[Value] = []
    for dim in reversed(shape):
        size = ctx.numbers((dim,), rank=0)
        rows.append(ctx.reshape(ctx.b.mod(left, size), (1, count)))
        left = ctx.b.div(left, size)
    if len(rows) < 2:
        return rows[0] if rows else ctx.b.full((0, count), 0, I64)
    found: Value = ctx.b.concat(*reversed(rows), axis=0)
    return found


def _compress(ctx: Context) -> Results:
    x, mask = ctx.x(0), ctx.x(1)
    axis = 0
    if ctx.has_attr("axis"):
        axis = ctx.axis(ctx.integer("axis"), ctx.type().rank)
    else:
        x = ctx.reshape(x, (ctx.type().size,))
    found: Value = ctx.b.gather(x, _positions(ctx, mask, _declared(ctx, 0, axis)), axis=axis)
    return found


def _unique(ctx: Context) -> Results:
    x, rank = ctx.x(), ctx.type().rank
    axis = ctx.axis(ctx.integer("axis"), rank) if ctx.has_attr("axis") else None
    if axis is None:
        x, axis = ctx.reshape(x, (ctx.type().size,)), 0
    indices, inverse, counts, total = ctx.b.unique(x, axis=axis, ordered=ctx.flag("sorted", True))
    outputs = [i for i in range(4) if ctx.uses(i)]
    count = _declared(ctx, outputs[0], axis if outputs[0] == 0 else 0)
    right = ctx.b.eq(total, ctx.b.constant(count, I64))
    message = f"the data has {count} different elements, as the model declares"
    indices, inverse, counts = (
        ctx.b.check(right, value, message=message) for value in (indices, inverse, counts)
    )
    indices, counts = (
        ctx.b.slice(value, starts=(0,), sizes=(count,), steps=(1,)) for value in (indices, counts)
    )
    return [ctx.b.gather(x, indices, axis=axis), indices, inverse, counts]


RULES: dict[str, tuple[Rule, ...]] = {
    "Compress": (Rule(_compress),),
    "NonZero": (Rule(_non_zero),),
    "ReverseSequence": (Rule(_reverse_sequence),),
    "Scatter": (Rule(_scatter_elements),),
    "ScatterElements": (Rule(_scatter_elements),),
    "ScatterND": (Rule(_scatter_nd),),
    "TensorScatter": (Rule(_tensor_scatter),),
    "TopK": (Rule(_top_k),),
    "Unique": (Rule(_unique),),
}
