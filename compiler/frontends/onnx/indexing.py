"""Operators that write or pick by positions: scatters, top-k, sequences turned around, and those
whose number of results depends on data: a run binds it, or checks what the model declares.
"""

from __future__ import annotations

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, maximum, product
from tfc.ir.types import BOOL, I64, U8

# -- writing --------------------------------------------------------------------------------------


def _scatter_elements(ctx: Context) -> Results:
    for a, b in zip(ctx.shape(1), ctx.shape(2), strict=False):
        ctx.equate(a, b)
    found: Value = ctx.b.scatter_elements(
        ctx.x(0),
        ctx.x(1),
        ctx.fit(ctx.x(2), ctx.shape(1)),
        axis=ctx.axis(ctx.integer("axis", 0), ctx.type().rank),
        reduction=ctx.string("reduction", "none"),
    )
    return found


def _scatter_nd(ctx: Context) -> Results:
    places, depth = ctx.shape(1), (ctx.shape(1) or (0,))[-1]
    updates = ctx.x(2)
    if isinstance(depth, int):
        updates = ctx.fit(updates, (*places[:-1], *ctx.shape()[depth:]))
    found: Value = ctx.b.scatter_nd(
        ctx.x(0), ctx.x(1), updates, reduction=ctx.string("reduction", "none")
    )
    return found


def _tensor_scatter(ctx: Context) -> Results:
    """Each item of the batch gets its update at a position of its own along the axis."""
    cache, update = ctx.x(0), ctx.x(1)
    dtype = ctx.type(0).dtype
    if dtype.kind == "s":
        cache, update = (ctx.b.bitcast(x, dtype=U8) for x in (cache, update))
    shape, new = ctx.shape(0), ctx.shape(1)
    axis = ctx.axis(ctx.integer("axis", -2), len(shape))
    mode = ctx.string("mode", "linear")
    if mode not in ("linear", "circular") or axis == 0:
        raise ctx.malformed(f"mode {mode!r}, axis {axis}")
    places = ctx.b.iota(shape=_single(len(new), axis, new[axis]), axis=axis, dtype=I64)
    if ctx.has(2):
        starts = ctx.reshape(ctx.cast(ctx.x(2), I64), _single(len(shape), 0, shape[0]))
        places = ctx.b.add(places, starts)
    if mode == "circular":
        places = ctx.b.mod(places, ctx.numbers((shape[axis],), rank=0))
    spread = ctx.b.broadcast(places, shape=new)
    found: Value = ctx.b.scatter_elements(cache, spread, update, axis=axis, reduction="none")
    return ctx.b.bitcast(found, dtype=dtype) if dtype.kind == "s" else found


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
        count = _wanted(ctx, shape[axis])
    ctx.flag("sorted", True)
    largest = ctx.flag("largest", True)
    if product(shape[axis + 1 :]) == 1:
        found: Results = ctx.b.top_k(ctx.x(0), axis=axis, k=count, largest=largest)
        return found
    # Rows that are contiguous are looked through several times as fast.
    perm = (*(i for i in range(len(shape)) if i != axis), axis)
    back = tuple(perm.index(i) for i in range(len(shape)))
    rows = ctx.b.transpose(ctx.x(0), perm=perm)
    return [
        ctx.b.transpose(result, perm=back)
        for result in ctx.b.top_k(rows, axis=len(shape) - 1, k=count, largest=largest)
    ]


def _wanted(ctx: Context, dim: DimLike) -> DimLike:
    """How many elements of `dim` are to be found: what operand 1 holds."""
    given = ctx.dims_or_none(1)
    if given is None:
        given = ctx.held(1)
    if given is None:
        count = ctx.as_scalar(ctx.cast(ctx.x(1), I64))
        return ctx.bind(count, dim, f"{ctx.node.output[0] or ctx.node.output[1]}_count")
    if len(given) != 1:
        raise ctx.malformed(f"k holds {len(given)} numbers")
    (k,) = given
    ctx.assume(maximum(k - dim, 0), f"k = {k} is at most {dim}")
    return k


# -- results of as many elements as the data says -------------------------------------------------


def _counted(
    ctx: Context, total: Value, most: DimLike, place: tuple[int, int], value: Value
) -> tuple[DimLike, Value]:
    """Return the dim that a number of elements is, and `value` to be used where it is.

    place: the result and the axis of which the model may declare how long it is; then a run checks
    that. Otherwise the run binds it, and it is `most` at most.
    """
    position, axis = place
    shape = ctx.declared(position)
    count = shape[axis] if shape is not None and len(shape) > axis else None
    if count is None:
        return ctx.bind(total, most, f"{ctx.node.output[position]}_count"), value
    right = ctx.b.eq(total, ctx.b.constant(count, I64))
    message = f"there are {count} elements in the result, as the model declares"
    checked: Value = ctx.b.check(right, value, message=message)
    return count, checked


def _front(ctx: Context, x: Value, count: DimLike) -> Value:
    """The first rows."""
    rows, *rest = tensor_type(x).shape
    if rows == 0:
        return x
    rank = 1 + len(rest)
    found: Value = ctx.b.slice(x, starts=(0,) * rank, sizes=(count, *rest), steps=(1,) * rank)
    return found


def _positions(ctx: Context, mask: Value, place: tuple[int, int]) -> Value:
    """The indices at which a flat mask is true."""
    total = ctx.b.reduce_sum(ctx.cast(mask, I64), axes=(0,), keepdims=False)
    count, mask = _counted(ctx, total, tensor_type(mask).shape[0], place, mask)
    found: Value = ctx.b.positions(mask, count=count)
    return found


def _non_zero(ctx: Context) -> Results:
    x, shape = ctx.x(), ctx.shape()
    flat = ctx.b.cast(ctx.reshape(x, (product(shape),)), dtype=BOOL)
    left = _positions(ctx, flat, (0, 1))
    count = tensor_type(left).shape[0]
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
    """A condition may be shorter than the axis; what is behind it is not selected."""
    x, mask = ctx.x(0), ctx.x(1)
    axis = 0
    if ctx.has_attr("axis"):
        axis = ctx.axis(ctx.integer("axis"), ctx.type().rank)
    else:
        x = ctx.reshape(x, (ctx.type().size,))
    length, dim = tensor_type(mask).shape[0], tensor_type(x).shape[axis]
    if isinstance(length, int) and isinstance(dim, int) and length > dim:
        raise ctx.malformed(f"the condition has {length} elements for {dim}")
    ctx.assume(maximum(length - dim, 0), f"the condition has {length} elements, at most {dim}")
    found: Value = ctx.b.gather(x, _positions(ctx, mask, (0, axis)), axis=axis)
    return found


def _unique(ctx: Context) -> Results:
    x, rank = ctx.x(), ctx.type().rank
    axis = ctx.axis(ctx.integer("axis"), rank) if ctx.has_attr("axis") else None
    if axis is None:
        x, axis = ctx.reshape(x, (ctx.type().size,)), 0
    indices, inverse, counts, total = ctx.b.unique(x, axis=axis, ordered=ctx.flag("sorted", True))
    first = next((i for i in (0, 1, 3) if ctx.uses(i)), None)
    if first is None:
        return [None, None, inverse, None]
    place = (first, axis if first == 0 else 0)
    count, indices = _counted(ctx, total, tensor_type(x).shape[axis], place, indices)
    indices = _front(ctx, indices, count)
    return [ctx.b.gather(x, indices, axis=axis), indices, inverse, _front(ctx, counts, count)]


def _non_max_suppression(ctx: Context) -> Results:
    """The selected boxes; without a number of boxes there are none."""
    boxes, scores = ctx.x(0), ctx.x(1)
    given = ctx.sizes(2, "max_output_boxes_per_class") if ctx.has(2) else (0,)
    if len(given) != 1:
        raise ctx.malformed(f"max_output_boxes_per_class holds {len(given)} numbers")
    form = ctx.integer("center_point_box", 0)
    if form not in (0, 1):
        raise ctx.malformed(f"center_point_box is {form}")
    indices, total = ctx.b.non_max_suppression(
        boxes,
        scores,
        max_out=maximum(given[0], 0),
        iou=_threshold(ctx, 3, "iou_threshold") or 0.0,
        score=_threshold(ctx, 4, "score_threshold"),
        center_point_box=bool(form),
    )
    most = tensor_type(indices).shape[0]
    count, indices = _counted(ctx, total, most, (0, 0), indices)
    return _front(ctx, indices, count)


def _threshold(ctx: Context, position: int, what: str) -> float | None:
    """The number that an operand holds, None where it is left out."""
    if not ctx.has(position):
        return None
    value = ctx.const(position)
    if value is None:
        raise ctx.unsupported(f"{what} depends on the data; a constant is supported")
    if value.size != 1:
        raise ctx.malformed(f"{what} holds {value.size} numbers")
    return float(value.reshape(()))


RULES: dict[str, tuple[Rule, ...]] = {
    "Compress": (Rule(_compress),),
    "NonMaxSuppression": (Rule(_non_max_suppression),),
    "NonZero": (Rule(_non_zero),),
    "ReverseSequence": (Rule(_reverse_sequence),),
    "Scatter": (Rule(_scatter_elements),),
    "ScatterElements": (Rule(_scatter_elements),),
    "ScatterND": (Rule(_scatter_nd),),
    "TensorScatter": (Rule(_tensor_scatter),),
    "TopK": (Rule(_top_k),),
    "Unique": (Rule(_unique),),
}
