"""Operators on sequences and optionals. They pick, count and order tensors while importing."""

from __future__ import annotations

from tfc.compiler.frontends.onnx.context import Context, Results, Rule, Shape
from tfc.compiler.frontends.onnx.movement import part
from tfc.compiler.frontends.onnx.nested import (
    Item,
    OptionalItem,
    TensorSequence,
    describe,
    sequence,
    tensor,
)
from tfc.compiler.frontends.onnx.tensors import dtype_from
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, ceildiv
from tfc.ir.types import BOOL, shape_text

# Sequences of more tensors would make programs of more ops than are worth compiling.
MAX_LENGTH = 4096

# -- making them ----------------------------------------------------------------------------------


def _construct(ctx: Context) -> Results:
    return sequence(ctx.operands())


def _empty(ctx: Context) -> Results:
    return TensorSequence((), dtype_from(ctx.integer("dtype", 1)))


def _insert(ctx: Context) -> Results:
    """Without a position behind all others."""
    found, x = ctx.sequence(), ctx.x(1)
    if tensor_type(x).dtype != found.dtype:
        raise ctx.malformed(f"{describe(x)} is no tensor of {found}")
    count = len(found.items)
    at = _position(ctx, 2, count, end=1) if ctx.has(2) else count
    return TensorSequence((*found.items[:at], x, *found.items[at:]), found.dtype)


def _erase(ctx: Context) -> Results:
    """Without a position the last one."""
    found = ctx.sequence()
    count = len(found.items)
    if not count:
        raise ctx.malformed("erases from an empty sequence")
    at = _position(ctx, 1, count) if ctx.has(1) else count - 1
    return TensorSequence((*found.items[:at], *found.items[at + 1 :]), found.dtype)


def _position(ctx: Context, operand: int, count: int, end: int = 0) -> int:
    """A constant position in a sequence of `count`, counted from the front; `end`: beyond it."""
    given = ctx.ints_of(operand, "the position")
    if len(given) != 1:
        raise ctx.malformed(f"the position has {len(given)} elements")
    if not -count <= given[0] < count + end:
        raise ctx.malformed(f"position {given[0]} is out of range for {count} tensors")
    return given[0] + count if given[0] < 0 else given[0]


def _split_to_sequence(ctx: Context) -> Results:
    x, shape = ctx.x(), ctx.shape()
    axis = ctx.axis(ctx.integer("axis", 0), len(shape))
    keeps = ctx.flag("keepdims", True)
    if ctx.has(1):
        sizes = _sizes(ctx, shape[axis])
    else:
        sizes = (1,) * _count(ctx, shape[axis], 1)
    dtype = tensor_type(x).dtype
    parts: list[Value] = []
    start: DimLike = 0
    for size in sizes:
        found = part(ctx, x, {axis: (start, size, 1)})
        if not keeps and not ctx.has(1):
            found = ctx.reshape(found, (*shape[:axis], *shape[axis + 1 :]))
        parts.append(found)
        start = start + size
    return TensorSequence(tuple(parts), dtype)


def _sizes(ctx: Context, extent: DimLike) -> Shape:
    """The sizes of parts: listed, or all one number but for the last."""
    given = ctx.dims(1, "the sizes of the parts")
    if ctx.type(1).rank == 1:
        total: DimLike = 0
        for size in given:
            total = total + size
        ctx.equate(total, extent)
        if total != extent:
            raise ctx.malformed(f"parts {shape_text(given)} do not add up to {extent}")
        return given
    (size,) = given
    if not isinstance(size, int):
        raise ctx.unsupported(f"how many parts of size {size} there are is not known")
    if size <= 0:
        raise ctx.malformed(f"parts of size {size}")
    count = _count(ctx, extent, size)
    return (*(size,) * (count - 1), extent - size * (count - 1)) if count else ()


def _count(ctx: Context, extent: DimLike, size: int) -> int:
    count = ceildiv(extent, size)
    if not isinstance(count, int):
        raise ctx.unsupported(f"how many parts {extent} makes is not known; fix it with dims")
    if count > MAX_LENGTH:
        raise ctx.unsupported(f"a sequence of {count} tensors; up to {MAX_LENGTH} are taken")
    return count


def _map(ctx: Context) -> Results:
    """The body for each element. An operand that is a tensor is the same for all."""
    graph, first = ctx.graph("body"), ctx.sequence()
    items = [ctx.item(i) for i in range(ctx.count)]
    if len(graph.input) != ctx.count or len(graph.output) != len(ctx.node.output):
        raise ctx.malformed(
            f"a body of {len(graph.input)} inputs and {len(graph.output)} outputs for "
            f"{ctx.count} operands and {len(ctx.node.output)} results"
        )
    for item in items:
        if isinstance(item, TensorSequence) and len(item.items) != len(first.items):
            raise ctx.malformed(f"maps {first} with {item}")
    if not first.items:
        types = [proto.type.tensor_type.elem_type for proto in graph.output]
        return [TensorSequence((), dtype_from(code)) for code in types]
    rows: list[list[Value]] = []
    for i in range(len(first.items)):
        given: dict[str, Item] = {
            proto.name: item.items[i] if isinstance(item, TensorSequence) else item
            for proto, item in zip(graph.input, items, strict=True)
        }
        with ctx.importer.in_round(ctx.numbers((i,), rank=0)):
            rows.append([tensor(found) for found in ctx.importer.inline(graph, given)])
    return [sequence(column) for column in zip(*rows, strict=True)]


# -- taking them apart ----------------------------------------------------------------------------


def _at(ctx: Context) -> Results:
    """A position that the data decides picks from tensors of one shape."""
    found = ctx.sequence()
    if ctx.dims_or_none(1) is not None:
        return found.items[_position(ctx, 1, len(found.items))]
    if not found.items:
        raise ctx.malformed("takes a tensor of an empty sequence")
    types = [tensor_type(x) for x in found.items]
    if any(type != types[0] for type in types):
        raise ctx.unsupported("the data decides which of several shapes the result has")
    picked: Value = ctx.b.gather(_stacked(ctx, found, 0), ctx.as_scalar(ctx.x(1)), axis=0)
    return picked


def _length(ctx: Context) -> Results:
    return ctx.numbers((len(ctx.sequence().items),), rank=0)


def _concat(ctx: Context) -> Results:
    found = ctx.sequence()
    if not found.items:
        raise ctx.unsupported("the shape of nothing in a row")
    axis, rank = ctx.integer("axis"), tensor_type(found.items[0]).rank
    if ctx.flag("new_axis"):
        return _stacked(ctx, found, ctx.axis(axis, rank + 1))
    axis = ctx.axis(axis, rank)
    if len(found.items) == 1:
        return found.items[0]
    result: Value = ctx.b.concat(*found.items, axis=axis)
    return result


def _stacked(ctx: Context, found: TensorSequence, axis: int) -> Value:
    rows = []
    for x in found.items:
        shape = tensor_type(x).shape
        rows.append(ctx.b.reshape(x, shape=(*shape[:axis], 1, *shape[axis:])))
    result: Value = ctx.b.concat(*rows, axis=axis) if len(rows) > 1 else rows[0]
    return result


# -- optionals ------------------------------------------------------------------------------------


def _optional(ctx: Context) -> Results:
    if not ctx.has(0):
        return OptionalItem(None)
    found = ctx.item()
    if isinstance(found, OptionalItem):
        raise ctx.malformed("an optional of an optional")
    return OptionalItem(found)


def _get_element(ctx: Context) -> Results:
    """What is no optional is its own element."""
    found = ctx.item()
    if not isinstance(found, OptionalItem):
        return found
    if found.element is None:
        raise ctx.malformed("takes the element of an optional that has none")
    return found.element


def _has_element(ctx: Context) -> Results:
    found = ctx.item() if ctx.has(0) else OptionalItem(None)
    has = not isinstance(found, OptionalItem) or found.element is not None
    answer: Value = ctx.b.constant(has, BOOL)
    return answer


RULES: dict[str, tuple[Rule, ...]] = {
    "ConcatFromSequence": (Rule(_concat),),
    "Optional": (Rule(_optional, ignores=("type",)),),
    "OptionalGetElement": (Rule(_get_element),),
    "OptionalHasElement": (Rule(_has_element),),
    "SequenceAt": (Rule(_at),),
    "SequenceConstruct": (Rule(_construct),),
    "SequenceEmpty": (Rule(_empty),),
    "SequenceErase": (Rule(_erase),),
    "SequenceInsert": (Rule(_insert),),
    "SequenceLength": (Rule(_length),),
    "SequenceMap": (Rule(_map),),
    "SplitToSequence": (Rule(_split_to_sequence),),
}
