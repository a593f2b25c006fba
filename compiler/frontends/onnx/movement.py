"""Operators that move elements: shapes, axes, parts, repetition. None computes on them."""

from __future__ import annotations

from collections.abc import Sequence

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.compiler.frontends.onnx.held import held_shape, ranges_by_data
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import (
    Dim,
    DimLike,
    bounds,
    ceildiv,
    coefficient,
    floordiv,
    maximum,
    minimum,
    product,
    symbol,
    symbols_of,
)
from tfc.ir.ops.common import broadcast_assumptions, broadcast_shapes
from tfc.ir.types import BOOL, I64, TensorType, shape_text


def _shape(ctx: Context) -> Results:
    shape = ctx.shape()
    rank = len(shape)
    start, end = ctx.integer("start", 0), ctx.integer("end", rank)
    return ctx.numbers(shape[slice(start, end)])


def _size(ctx: Context) -> Results:
    return ctx.numbers((ctx.type().size,), rank=0)


# -- the same elements under another shape --------------------------------------------------------


def _reshape(ctx: Context) -> Results:
    """0 keeps a dim, one -1 is what is left."""
    x, old = ctx.x(), ctx.shape()
    keep_zeros = ctx.flag("allowzero")
    wanted = ctx.dims_or_none(1)
    if wanted is None:
        held = ctx.held(1, signed=True)
        if held is not None:
            return ctx.reshape(x, held_shape(ctx, old, held, keep_zeros))
        wanted = ctx.dims(1, "the shape")
    shape: list[DimLike] = []
    for axis, dim in enumerate(wanted):
        if dim == 0 and not keep_zeros:
            if axis >= len(old):
                raise ctx.malformed(f"shape {shape_text(wanted)} keeps dim {axis} of {len(old)}")
            dim = old[axis]
        shape.append(dim)
    open_axes = [axis for axis, dim in enumerate(shape) if dim == -1]
    if len(open_axes) > 1:
        raise ctx.malformed(f"shape {shape_text(wanted)} leaves two dims open")
    if open_axes:
        shape[open_axes[0]] = 1
        shape[open_axes[0]] = _left_over(ctx, product(old), product(shape))
    _equate_sizes(ctx, product(old), product(shape))
    return ctx.reshape(x, shape)


def _equate_sizes(ctx: Context, a: DimLike, b: DimLike) -> None:
    """Where a size is the other times a symbol, the symbol is 1; where n * k = m, n is m / k."""
    for one, other in ((a, b), (b, a)):
        if not isinstance(one, Dim) or one == other or other == 0:
            continue
        factor = floordiv(one, other)
        if factor * other == one:
            ctx.equate(factor, 1)
        name, *more = symbols_of(one)
        step = None if more else coefficient(one, name)
        if not isinstance(step, int) or one != symbol(name) * step:
            continue
        if isinstance(other, int) and other % step == 0:
            ctx.equate(symbol(name), other // step)


def _left_over(ctx: Context, total: DimLike, others: DimLike) -> DimLike:
    if isinstance(others, int) and others == 0:
        if isinstance(total, int) and total == 0:
            return 0
        raise ctx.malformed("the open dim of a shape with a 0 is not determined")
    return floordiv(total, others)


def _flatten(ctx: Context) -> Results:
    x, shape = ctx.x(), ctx.shape()
    axis = ctx.integer("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise ctx.malformed(f"axis {axis} is out of range for rank {len(shape)}")
    axis = axis + len(shape) if axis < 0 else axis
    return ctx.reshape(x, (product(shape[:axis]), product(shape[axis:])))


def _axes(ctx: Context, rank: int) -> tuple[int, ...] | None:
    """The axes, an operand from opset 13 on, counted from the front."""
    found = ctx.integers("axes") if ctx.opset < 13 else None
    if ctx.opset >= 13 and ctx.has(1):
        found = ctx.ints_of(1, "axes")
    return None if found is None else ctx.axes(found, rank)


def _squeeze(ctx: Context) -> Results:
    x, shape = ctx.x(), ctx.shape()
    axes = _axes(ctx, len(shape))
    if axes is None:
        if any(isinstance(dim, Dim) for dim in shape):
            raise ctx.unsupported(f"without axes the rank of {shape_text(shape)} depends on dims")
        axes = tuple(axis for axis, dim in enumerate(shape) if dim == 1)
    for axis in axes:
        ctx.equate(shape[axis], 1)
        if isinstance(shape[axis], Dim):
            ctx.assume(shape[axis] - 1, f"axis {axis} has 1 element, not {shape[axis]}")
        elif shape[axis] != 1:
            raise ctx.malformed(f"axis {axis} has {shape[axis]} elements, not 1")
    return ctx.reshape(x, [dim for axis, dim in enumerate(shape) if axis not in axes])


def _unsqueeze(ctx: Context) -> Results:
    x, shape = ctx.x(), ctx.shape()
    given = ctx.integers("axes") if ctx.opset < 13 else ctx.ints_of(1, "axes")
    if given is None:
        raise ctx.malformed("attribute 'axes' is missing")
    axes = ctx.axes(given, len(shape) + len(given))
    rest = iter(shape)
    return ctx.reshape(
        x, [1 if axis in axes else next(rest) for axis in range(len(shape) + len(axes))]
    )


def _transpose(ctx: Context) -> Results:
    x, rank = ctx.x(), ctx.type().rank
    perm = ctx.integers("perm") or tuple(reversed(range(rank)))
    if perm == tuple(range(rank)):
        return x
    found: Value = ctx.b.transpose(x, perm=perm)
    return found


# -- repetition -----------------------------------------------------------------------------------


def _expand(ctx: Context) -> Results:
    x = ctx.x()
    wanted = ctx.sizes(1, "the shape")
    shape = broadcast_shapes(ctx.shape(), wanted)
    types = [TensorType(BOOL, dims) for dims in (ctx.shape(), wanted)]
    for assumption in broadcast_assumptions(types, None):
        ctx.assume(assumption.zero, assumption.message)
    if shape == ctx.shape():
        return x
    found: Value = ctx.b.broadcast(x, shape=shape)
    return found


def _tile(ctx: Context) -> Results:
    repeats = ctx.sizes(1, "repeats")
    if all(n == 1 for n in repeats) and len(repeats) == ctx.type().rank:
        return ctx.x()
    found: Value = ctx.b.tile(ctx.x(), repeats=repeats)
    return found


# -- parts ----------------------------------------------------------------------------------------


def _concat(ctx: Context) -> Results:
    operands = ctx.operands()
    axis = ctx.integer("axis")
    if len(operands) == 1:
        return operands[0]
    rank = ctx.type().rank
    for i in range(1, len(operands)):
        for k, (a, b) in enumerate(zip(ctx.shape(), ctx.shape(i), strict=False)):
            if k != axis % max(rank, 1):
                ctx.equate(a, b)
    found: Value = ctx.b.concat(*operands, axis=axis)
    return found


def _split(ctx: Context) -> Results:
    x, shape = ctx.x(), ctx.shape()
    axis = ctx.axis(ctx.integer("axis", 0), len(shape))
    count = len(ctx.node.output)
    sizes: Shape | None = ctx.integers("split") if ctx.opset < 13 else None
    if ctx.opset >= 13 and ctx.has(1):
        sizes = ctx.sizes(1, "the sizes of the parts")
    parts = ctx.integer("num_outputs", count)
    if sizes is None:
        if parts != count or count == 0:
            raise ctx.malformed(f"num_outputs is {parts} for {count} results")
        step = ceildiv(shape[axis], count)
        last = shape[axis] - step * (count - 1)
        if ctx.opset < 18:
            ctx.assume(step - last, f"{shape[axis]} divides into {count} equal parts")
        else:
            ctx.assume(minimum(last, 0), f"{shape[axis]} fills {count} parts of {step}")
        sizes = (step,) * (count - 1) + (last,)
    if len(sizes) != count:
        raise ctx.malformed(f"{len(sizes)} sizes for {count} results")
    total: DimLike = 0
    for size in sizes:
        total = total + size
    ctx.assume(shape[axis] - total, f"parts {shape_text(sizes)} add up to {shape[axis]}")
    found: list[Value] = []
    start: DimLike = 0
    for size in sizes:
        found.append(part(ctx, x, {axis: (start, size, 1)}))
        start = start + size
    return found


def part(ctx: Context, x: Value, taken: dict[int, tuple[DimLike, DimLike, int]]) -> Value:
    """Slice `x`: axis to (start, size, step)."""
    shape = tensor_type(x).shape
    full = {axis: (0, dim, 1) for axis, dim in enumerate(shape)} | taken
    starts, sizes, steps = zip(*(full[axis] for axis in range(len(shape))), strict=True)
    if sizes == shape and all(step == 1 for step in steps):
        return x
    found: Value = ctx.b.slice(x, starts=starts, sizes=sizes, steps=steps)
    return found


def _slice(ctx: Context) -> Results:
    if ctx.opset < 10:
        starts, ends = ctx.integers("starts"), ctx.integers("ends")
        if starts is None or ends is None:
            raise ctx.malformed("attribute 'starts' or 'ends' is missing")
        return _sliced(ctx, starts, ends, ctx.integers("axes"), None)
    axes = ctx.ints_of(3, "axes") if ctx.has(3) else None
    steps = ctx.ints_of(4, "steps") if ctx.has(4) else None
    first, last = (_ends(ctx, position) for position in (1, 2))
    if first is not None and last is not None:
        return _sliced(ctx, first, last, axes, steps)
    return part(ctx, ctx.x(), ranges_by_data(ctx, axes, steps))


def _ends(ctx: Context, position: int) -> Shape | None:
    found = ctx.dims_or_none(position)
    return ctx.held(position, signed=True) if found is None else found


def _sliced(
    ctx: Context,
    starts: Shape,
    ends: Shape,
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
) -> Value:
    shape = ctx.shape()
    axes = ctx.axes(range(len(starts)) if axes is None else axes, len(shape))
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ctx.malformed("starts, ends, axes and steps differ in length")
    taken = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step == 0:
            raise ctx.malformed("a step is 0")
        first, count, _ = slice_range(shape[axis], start, end, step)
        if not (isinstance(start, int) and isinstance(end, int)):
            first, count = ctx.define(first, f"start_{axis}"), ctx.define(count, f"count_{axis}")
        taken[axis] = first, count, step
    return part(ctx, ctx.x(), taken)


def slice_range(
    dim: DimLike, start: DimLike, end: DimLike, step: int
) -> tuple[DimLike, DimLike, int]:
    """Return (first index, count, step) of numpy's start:end:step on an axis of `dim`."""
    if step > 0:
        first = _inside(start, dim, 0, dim)
        count = ceildiv(_inside(end, dim, 0, dim) - first, step)
    else:
        # Clamped to the first element, if there is one.
        first = dim - 1 if start == -1 else _inside(start, dim, minimum(0, dim - 1), dim - 1)
        count = ceildiv(first - _inside(end, dim, -1, dim - 1), -step)
    count = maximum(count, 0)
    return (0 if count == 0 else first), count, step


def _inside(i: DimLike, dim: DimLike, lo: DimLike, hi: DimLike) -> DimLike:
    """Count a negative index from the end, and bring it between lo and hi."""
    low, high = bounds(i, {})
    if high is not None and high < 0:
        return maximum(i + dim, lo)
    if low is None or low < 0:
        below = maximum(-i, 0)
        negative = minimum(below, 1)
        found = negative * maximum(dim - below, lo) + (1 - negative) * minimum(i + below, hi)
        return maximum(found, 0) if lo == 0 else found
    # Models state "to the end" by a huge number.
    if isinstance(i, int) and i >= (1 << 31) - 1:
        return hi
    return minimum(i, hi)


def _pad(ctx: Context) -> Results:
    x, rank = ctx.x(), ctx.type().rank
    mode = ctx.string("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise ctx.malformed(f"unknown mode {mode!r}")
    value: Value | None = None
    axes: Sequence[int] = range(rank)
    if ctx.opset < 11:
        pads: Shape = ctx.integers("pads") or ()
        constant = ctx.real("value", 0.0)
        if mode == "constant" and constant != 0:
            value = ctx.scalar(constant, x)
    else:
        pads = ctx.sizes(1, "pads")
        if mode == "constant" and ctx.has(2):
            value = ctx.as_scalar(ctx.x(2))
        if ctx.has(3):
            axes = ctx.axes(ctx.ints_of(3, "axes"), rank)
    if len(pads) != 2 * len(axes):
        raise ctx.malformed(f"{len(pads)} pads for {len(axes)} axes")
    lo: list[DimLike] = [0] * rank
    hi: list[DimLike] = [0] * rank
    for k, axis in enumerate(axes):
        lo[axis], hi[axis] = pads[k], pads[len(axes) + k]
    if all(p == 0 for p in (*lo, *hi)):
        return x
    operands = (x,) if value is None else (x, value)
    found: Value = ctx.b.pad(*operands, lo=lo, hi=hi, mode=mode)
    return found


def _center_crop_pad(ctx: Context) -> Results:
    """Of what is odd, the crop leaves more behind, and the padding adds more behind."""
    shape, targets = ctx.shape(), ctx.dims(1, "the shape")
    given = ctx.integers("axes")
    axes = range(len(shape)) if given is None else ctx.axes(given, len(shape))
    if len(axes) != len(targets):
        raise ctx.malformed(f"{len(targets)} sizes for {len(axes)} axes")
    taken: dict[int, tuple[DimLike, DimLike, int]] = {}
    lo: list[DimLike] = [0] * len(shape)
    hi: list[DimLike] = [0] * len(shape)
    for axis, target in zip(axes, targets, strict=True):
        less, more = maximum(shape[axis] - target, 0), maximum(target - shape[axis], 0)
        taken[axis] = (floordiv(less, 2), shape[axis] - less, 1)
        lo[axis] = floordiv(more, 2)
        hi[axis] = more - lo[axis]
    x = part(ctx, ctx.x(), taken)
    if all(p == 0 for p in (*lo, *hi)):
        return x
    found: Value = ctx.b.pad(x, lo=lo, hi=hi, mode="constant")
    return found


# -- blocks of pixels as channels -----------------------------------------------------------------


def _image(ctx: Context) -> tuple[Value, DimLike, DimLike, DimLike, DimLike, int]:
    size = ctx.integer("blocksize")
    if ctx.type().rank != 4 or size < 1:
        raise ctx.malformed(f"rank {ctx.type().rank} and blocksize {size}")
    n, c, h, w = ctx.shape()
    return ctx.x(), n, c, h, w, size


def _depth_to_space(ctx: Context) -> Results:
    x, n, c, h, w, size = _image(ctx)
    mode = ctx.string("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise ctx.malformed(f"unknown mode {mode!r}")
    depth = floordiv(c, size * size)
    split: Shape
    if mode == "DCR":
        split, perm = (n, size, size, depth, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (n, depth, size, size, h, w), (0, 1, 4, 2, 5, 3)
    moved = ctx.b.transpose(ctx.reshape(x, split), perm=perm)
    return ctx.reshape(moved, (n, depth, h * size, w * size))


def _space_to_depth(ctx: Context) -> Results:
    x, n, c, h, w, size = _image(ctx)
    rows, columns = floordiv(h, size), floordiv(w, size)
    mode = ctx.string("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise ctx.malformed(f"unknown mode {mode!r}")
    split = ctx.reshape(x, (n, c, rows, size, columns, size))
    perm = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    moved = ctx.b.transpose(split, perm=perm)
    return ctx.reshape(moved, (n, c * size * size, rows, columns))


# -- lookups --------------------------------------------------------------------------------------


def _gather(ctx: Context) -> Results:
    axis = ctx.axis(ctx.integer("axis", 0), ctx.type().rank)
    found: Value = ctx.b.gather(ctx.x(0), ctx.x(1), axis=axis)
    return found


def _gather_elements(ctx: Context) -> Results:
    axis = ctx.axis(ctx.integer("axis", 0), ctx.type().rank)
    found: Value = ctx.b.gather_elements(ctx.x(0), ctx.x(1), axis=axis)
    return found


def _gather_nd(ctx: Context) -> Results:
    batch = ctx.integer("batch_dims", 0)
    x = ctx.x(1)
    shape = tensor_type(x).shape
    if 0 <= batch <= min(len(shape), ctx.type().rank):
        x = ctx.fit(x, (*ctx.shape()[:batch], *shape[batch:]))
    found: Value = ctx.b.gather_nd(ctx.x(0), x, batch_dims=batch)
    return found


def _trilu(ctx: Context) -> Results:
    upper = ctx.flag("upper", True)
    k = 0
    if ctx.has(1):
        given = ctx.ints_of(1, "k")
        if len(given) != 1:
            raise ctx.malformed(f"k holds {len(given)} numbers")
        k = given[0]
    found: Value = ctx.b.trilu(ctx.x(), upper=upper, k=k)
    return found


def _one_hot(ctx: Context) -> Results:
    """values[1] where the index along the new axis is the element, else values[0]."""
    given = ctx.const(1)
    if given is not None and given.dtype.kind == "f" and given.size == 1:
        depth: Shape = (int(given.reshape(())),)
    else:
        depth = ctx.sizes(1, "depth")
    if len(depth) != 1:
        raise ctx.malformed(f"depth holds {len(depth)} numbers")
    if isinstance(depth[0], int) and depth[0] < 0:
        raise ctx.malformed(f"depth is {depth[0]}")
    for dim in ctx.shape(2):
        ctx.equate(dim, 2)
    if ctx.shape(2) != (2,):
        raise ctx.malformed(f"values have shape {shape_text(ctx.shape(2))}, not [2]")
    rank = ctx.type().rank + 1
    axis = ctx.axis(ctx.integer("axis", -1), rank)
    indices = ctx.cast(ctx.x(0), I64)
    if ctx.opset >= 11:
        # Before, negative indices were out of range like those beyond the depth.
        counted = ctx.b.add(indices, ctx.numbers(depth, rank=0))
        indices = ctx.b.select(ctx.b.lt(indices, ctx.scalar(0, indices)), counted, indices)
    shape = ctx.shape()
    indices = ctx.reshape(indices, (*shape[:axis], 1, *shape[axis:]))
    count_shape = tuple(depth[0] if i == axis else 1 for i in range(rank))
    hit = ctx.b.eq(indices, ctx.b.iota(shape=count_shape, axis=axis))
    off, on = (ctx.as_scalar(part(ctx, ctx.x(2), {0: (i, 1, 1)})) for i in (0, 1))
    found: Value = ctx.b.select(hit, on, off)
    return found


RULES: dict[str, tuple[Rule, ...]] = {
    "CenterCropPad": (Rule(_center_crop_pad),),
    "Concat": (Rule(_concat),),
    "DepthToSpace": (Rule(_depth_to_space),),
    "Expand": (Rule(_expand),),
    "Flatten": (Rule(_flatten),),
    "Gather": (Rule(_gather),),
    "GatherElements": (Rule(_gather_elements),),
    "GatherND": (Rule(_gather_nd),),
    "OneHot": (Rule(_one_hot),),
    "Pad": (Rule(_pad),),
    "Reshape": (Rule(_reshape),),
    "Shape": (Rule(_shape),),
    "Size": (Rule(_size),),
    "Slice": (Rule(_slice),),
    "SpaceToDepth": (Rule(_space_to_depth),),
    "Split": (Rule(_split),),
    "Squeeze": (Rule(_squeeze),),
    "Tile": (Rule(_tile),),
    "Transpose": (Rule(_transpose),),
    "Trilu": (Rule(_trilu),),
    "Unsqueeze": (Rule(_unsqueeze),),
}
