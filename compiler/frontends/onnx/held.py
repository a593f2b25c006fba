"""Shapes and ranges of numbers that only a run knows, for the rules that move elements.

Numbers in inputs are symbols when a run starts; numbers computed from data are bound on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfc.compiler.frontends.onnx.context import Context, Shape
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, floordiv, maximum, minimum, product
from tfc.ir.types import I64


def held_shape(ctx: Context, old: Shape, wanted: Shape, keep_zeros: bool) -> Shape:
    """The shape that a reshape's numbers give, whatever their signs."""
    known: list[DimLike] = []
    is_open: list[DimLike] = []
    for axis, number in enumerate(wanted):
        below = maximum(-number, 0)
        above = number + below
        zero = 1 - minimum(above + below, 1)
        kept = old[axis] if axis < len(old) and not keep_zeros else 0
        is_open.append(minimum(below, 1))
        known.append(above + zero * kept + is_open[-1])
        ctx.assume(maximum(below - 1, 0), "no number of a shape is below -1")
    rest = floordiv(product(old), maximum(product(known), 1))
    return tuple(
        ctx.define(dim + more * (rest - 1), str(axis))
        for axis, (dim, more) in enumerate(zip(known, is_open, strict=True))
    )


def ranges_by_data(
    ctx: Context, axes: Sequence[int] | None, steps: Sequence[int] | None
) -> dict[int, tuple[DimLike, DimLike, int]]:
    """The ranges of a slice from operand 1 to operand 2, by axis: (first index, count, step)."""
    shape = ctx.shape()
    numbers = [ctx.cast(ctx.x(i), I64) for i in (1, 2)]
    count = tensor_type(numbers[0]).size
    if not isinstance(count, int) or tensor_type(numbers[1]).size != count:
        raise ctx.malformed("starts and ends differ in length")
    axes = ctx.axes(range(count) if axes is None else axes, len(shape))
    steps = (1,) * count if steps is None else steps
    if not count == len(axes) == len(steps) or 0 in steps:
        raise ctx.malformed("starts, ends, axes and steps differ in length, or a step is 0")
    taken: dict[int, tuple[DimLike, DimLike, int]] = {}
    for k, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        start, end = (_element(ctx, x, k, count) for x in numbers)
        taken[axis] = _bound_range(ctx, shape[axis], start, end, step)
    return taken


def _element(ctx: Context, x: Value, k: int, count: int) -> Value:
    flat = ctx.reshape(x, (count,))
    return ctx.as_scalar(ctx.b.slice(flat, starts=(k,), sizes=(1,), steps=(1,)))


def _bound_range(
    ctx: Context, dim: DimLike, start: Value, end: Value, step: int
) -> tuple[DimLike, DimLike, int]:
    """The range that two scalars give: a run binds where it begins and how long it is."""
    b, size = ctx.b, ctx.numbers((dim,), rank=0)
    zero, one = ctx.scalar(0, size), ctx.scalar(1, size)

    def inside(i: Value, lo: int) -> Value:
        counted = b.select(b.lt(i, zero), b.add(i, size), i)
        most = size if step > 0 else b.sub(size, one)
        found: Value = b.min(b.max(counted, ctx.scalar(lo, size)), most)
        return found

    first, last = inside(start, 0), inside(end, 0 if step > 0 else -1)
    distance = b.max(b.sub(last, first) if step > 0 else b.sub(first, last), zero)
    count = b.div(b.add(distance, ctx.scalar(abs(step) - 1, size)), ctx.scalar(abs(step), size))
    name = ctx.node.output[0]
    return (
        ctx.bind(b.max(first, zero), dim, f"{name}_start"),
        ctx.bind(count, dim, f"{name}_count"),
        step,
    )
