"""Operators of random ONNX graphs: branches, loops, sequences and optionals. No tests.

As in `onnx_nodes`, a row of a table is an operator and how its node is made. The graphs in these
nodes are random ones, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TypeProto, helper

from tests.fuzz.onnx_graphs import MAX_ELEMENTS, Graph, Maker, Picks, Value, code, need
from tests.fuzz.onnx_index import INDEXED
from tests.fuzz.onnx_layers import NORMS, PRODUCTS, QUANTISED, RESIZED, WINDOWS
from tests.fuzz.onnx_nodes import ELEMENTWISE, MOVEMENT, REDUCTIONS, some_axis

STEPS: list[Maker] = [
    maker
    for family, weight in (
        (ELEMENTWISE, 3), (REDUCTIONS, 2), (MOVEMENT, 3), (INDEXED, 2), (PRODUCTS, 3),
        (WINDOWS, 1), (NORMS, 1), (QUANTISED, 1), (RESIZED, 1),
    )
    for maker in family.values()
    for _ in range(weight)
]  # fmt: skip
"""What the graphs in nodes are made of; as many as `CONTROL` has are nodes with graphs again."""


def grow(inner: Graph, p: Picks) -> None:
    """Add a few nodes to an inner graph."""
    nested = [CONTROL[name] for name in ("If", "Loop", "Scan")]
    for _ in range(p.of((2, 1, 3, 0))):
        inner.attempt(p.of(nested) if p.one_in(12) else p.of(STEPS), p)


def alike(inner: Graph, p: Picks, x: Value) -> Value:
    """A value of x's type, the later the likelier."""
    fitting = [v for v in inner.values if v.dtype == x.dtype and v.shape == x.shape]
    found: Value = fitting[-1 - p.next(len(fitting)) // 2]
    return found


def flag(g: Graph, p: Picks) -> Value:
    """A bool: computed, a constant or an input."""
    fitting = [v for v in g.values if v.dtype == np.bool_ and v.shape == () and v.data is None]
    if fitting and p.next(3):
        found: Value = p.of(fitting[::-1])
        return found
    return g.given(p, np.array(bool(p.next(2))))


def branch(g: Graph, p: Picks) -> None:
    """If: two ways to compute values of the same types from values around."""
    wanted = [g.x(p, "Identity", fits=lambda v: v.size > 0) for _ in range(p.of((1, 2)))]
    condition = flag(g, p)
    ways = []
    for _ in range(2):
        inner = g.inner()
        grow(inner, p)
        ways.append(inner.proto((), [alike(inner, p, x) for x in wanted]))
    attrs = {"then_branch": ways[0], "else_branch": ways[1]}
    g.emit("If", [condition], attrs, known=[(x.dtype, x.shape) for x in wanted])


def chosen_branch(g: Graph, p: Picks) -> None:
    """If by a constant, so that the ways may give different types."""
    taken = bool(p.next(2))
    _if_of(g, g.constant(taken), taken, [_way(g, p) for _ in range(2)])


def branch_by_size(g: Graph, p: Picks) -> None:
    """If by a size, so that the ways may give results of other sizes."""
    x = g.x(p, "Shape", fits=lambda v: v.rank > 0)
    axis, op = p.next(x.rank), p.of(("Equal", "Less", "Greater"))
    n = x.shape[axis]
    limit = n + p.of((0, 1, -1))
    size = g.one("Gather", g.one("Shape", x), g.constant(axis, np.int64))
    condition = g.one(op, size, g.constant(limit, np.int64))
    taken = {"Equal": n == limit, "Less": n < limit, "Greater": n > limit}[op]
    way = _way(g, p)
    _if_of(g, condition, taken, [way, _way(g, p, way[1])])


def _way(g: Graph, p: Picks, like: Value | None = None) -> tuple[Any, Value]:
    """A graph, and what it results in; like: the rank and type of that."""
    inner = g.inner()
    grow(inner, p)
    need(bool(inner.nodes))
    result = inner.values[-1]
    if like is not None:
        fitting = [v for v in inner.values if v.dtype == like.dtype and v.rank == like.rank]
        need(bool(fitting))
        result = p.of(fitting[::-1])
    return inner.proto((), [result]), result


def _if_of(g: Graph, condition: Value, taken: bool, ways: Sequence[tuple[Any, Value]]) -> None:
    (then, first), (otherwise, second) = ways
    need(first.dtype == second.dtype)
    found = first if taken else second
    attrs = {"then_branch": then, "else_branch": otherwise}
    g.emit("If", [condition], attrs, known=[(found.dtype, found.shape)])


def stacked(inner: Graph, p: Picks) -> list[Value]:
    """Values of each round to be stacked."""
    made = {name for node in inner.nodes for name in node.output}
    fitting = [v for v in inner.values if v.name in made and v.rank < 4]
    return [p.of(fitting[::-1]) for _ in range(p.of((1, 0, 2)))] if fitting else []


def loop(g: Graph, p: Picks) -> None:
    carried = [g.x(p, "Identity", fits=lambda v: 0 < v.size <= 300) for _ in range(p.of((1, 2)))]
    limit, rounds = p.of((2, 1, 3, 0, 5)), None
    inner = g.inner()
    index, going = inner.parameter(np.int64, ()), inner.parameter(bool, ())
    states = [inner.parameter(x.dtype, x.shape) for x in carried]
    grow(inner, p)
    results = [alike(inner, p, x) for x in carried]
    match p.next(4):
        case 0 | 1:
            proceed, rounds = going, limit
        case 2:
            last = p.next(4)
            proceed, rounds = inner.one("Less", index, inner.constant(last, np.int64)), last + 1
        case _:
            flags = [v for v in inner.values if v.dtype == np.bool_ and v.shape == ()]
            proceed = p.of(flags[::-1])
    first = p.of((None, None, True, True, False))
    stacks = stacked(inner, p) if rounds is not None else []
    bound: Value | None = g.given(p, np.array(limit, np.int64))
    if rounds is not None:
        rounds = min(rounds, limit)
        if proceed is not going and first is not None and p.one_in(3) and not stacks:
            bound = None
        if first is False:
            rounds = 0
    body = inner.proto((index, going, *states), [proceed, *results, *stacks])
    known = [(x.dtype, x.shape) for x in carried]
    known += [(x.dtype, (rounds or 0, *x.shape)) for x in stacks]
    start = None if first is None else g.given(p, np.array(first))
    g.emit("Loop", [bound, start, *carried], {"body": body}, known=known)


def scan(g: Graph, p: Picks) -> None:
    need(g.opset >= 9)
    first = g.x(p, "Identity", fits=lambda v: v.rank > 0 and v.size > 0)
    sources, axes = [first], [some_axis(p, first.rank)]
    rounds = first.shape[axes[0]]
    need(rounds <= 8)
    if p.one_in(3):
        fitting = [v for v in g.values if rounds in v.shape]
        sources.append(p.of(fitting[::-1]))
        axes.append(sources[1].shape.index(rounds))
    carried = [g.x(p, "Identity", fits=lambda v: 0 < v.size <= 300) for _ in range(p.of((1, 0)))]
    inner = g.inner()
    states = [inner.parameter(x.dtype, x.shape) for x in carried]
    parts = []
    for x, axis in zip(sources, axes, strict=True):
        shape = list(x.shape)
        del shape[axis]
        parts.append(inner.parameter(x.dtype, shape))
    grow(inner, p)
    results = [alike(inner, p, x) for x in carried]
    stacks = stacked(inner, p)
    need(bool(results or stacks))
    body = inner.proto((*states, *parts), [*results, *stacks])
    attrs: dict[str, Any] = {"body": body, "num_scan_inputs": len(sources)}
    if g.opset < 11:
        axes = [axis % x.rank for axis, x in zip(axes, sources, strict=True)]
    if any(axes) or p.next(2):
        attrs["scan_input_axes"] = axes
    if p.one_in(3):
        attrs["scan_input_directions"] = [p.next(2) for _ in sources]
    known = [(x.dtype, x.shape) for x in carried]
    at = [p.next(x.rank + 1) for x in stacks]
    for x, axis in zip(stacks, at, strict=True):
        shape = list(x.shape)
        shape.insert(axis, rounds)
        known.append((x.dtype, tuple(shape)))
    if any(at):
        attrs["scan_output_axes"] = at
    if stacks and p.one_in(3):
        attrs["scan_output_directions"] = [p.next(2) for _ in stacks]
    g.emit("Scan", [*carried, *sources], attrs, known=known)


# -- sequences ----------------------------------------------------------------------------------


def alike_before(g: Graph, p: Picks, x: Value, count: int) -> list[Value]:
    return [x, *(g.like(p, x, x.shape) for _ in range(count))]


def some_sequence(g: Graph, p: Picks) -> tuple[Value, list[Value]]:
    """A sequence of tensors of one type, and these."""
    need(g.opset >= 11)
    x = g.x(p, "SequenceConstruct", fits=lambda v: v.rank < 4)
    parts = alike_before(g, p, x, p.of((1, 2, 0)))
    if p.one_in(3):
        made = g.sequence("SequenceEmpty", [], {"dtype": code(x.dtype)})
        for part in parts:
            made = g.sequence("SequenceInsert", [made, part])
    else:
        made = g.sequence("SequenceConstruct", parts)
    if p.next(2):
        at = p.next(len(parts) + 1)
        place = g.constant(at if p.next(2) or at == len(parts) else at - len(parts), np.int64)
        made = g.sequence("SequenceInsert", [made, x, place])
        parts.insert(at, x)
    if p.next(2) and len(parts) > 1:
        at = p.next(len(parts))
        place = None if at == len(parts) - 1 and p.next(2) else g.constant(at, np.int64)
        made = g.sequence("SequenceErase", [made, place])
        parts.pop(at)
    if p.one_in(4) and g.opset >= 17:
        made, parts = _mapped(g, p, made, parts)
    return made, parts


def _mapped(g: Graph, p: Picks, made: Value, parts: Sequence[Value]) -> tuple[Value, list[Value]]:
    inner = g.inner()
    parameter = inner.parameter(parts[0].dtype, parts[0].shape)
    grow(inner, p)
    result = alike(inner, p, parameter)
    body = inner.proto([parameter], [result])
    return g.sequence("SequenceMap", [made], {"body": body}), list(parts)


def _taken(g: Graph, p: Picks, made: Value, parts: Sequence[Value]) -> None:
    """Tensors from a sequence."""
    x = parts[0]
    same = all(part.shape == x.shape for part in parts)
    at = p.next(len(parts))
    match p.next(4):
        case 0:
            place = np.array(at - len(parts) if p.next(2) else at, p.of((np.int64, np.int32)))
            position = g.given(p, place) if same else g.constant(place)
            known = [(x.dtype, parts[at].shape)]
            g.emit("SequenceAt", [made, position], known=known, checked=False)
        case 1:
            known = [(np.dtype(np.int64), ())]
            g.emit("SequenceLength", [made], known=known, checked=False)
        case 2:
            need(same)
            axis, stack = p.next(x.rank + 1), [len(parts)]
            shape = (*x.shape[:axis], *stack, *x.shape[axis:])
            attrs = {"axis": axis - x.rank - 1 if p.next(2) else axis, "new_axis": 1}
            g.emit("ConcatFromSequence", [made], attrs, known=[(x.dtype, shape)], checked=False)
        case _:
            need(x.rank > 0)
            axis = p.next(x.rank)
            sides = [part.shape[:axis] + part.shape[axis + 1 :] for part in parts]
            need(all(part.rank == x.rank for part in parts) and len(set(sides)) == 1)
            total = sum(part.shape[axis] for part in parts)
            shape = (*x.shape[:axis], total, *x.shape[axis + 1 :])
            attrs = {"axis": axis}
            g.emit("ConcatFromSequence", [made], attrs, known=[(x.dtype, shape)], checked=False)
    need(all(v.size <= MAX_ELEMENTS for v in g.values[-1:]))


def from_sequence(g: Graph, p: Picks) -> None:
    made, parts = some_sequence(g, p)
    for _ in range(p.of((1, 2))):
        _taken(g, p, made, parts)


def split_to_sequence(g: Graph, p: Picks) -> None:
    need(g.opset >= 11)
    x = g.x(p, "SplitToSequence", fits=lambda v: v.rank > 0)
    axis = p.next(x.rank)
    dim = x.shape[axis]
    keep: int | None = None
    sizes: Value | None = None
    match p.next(3):
        case 0:
            need(0 < dim <= 8)
            keep = p.of((None, 0))
            lengths = [1] * dim
        case 1:
            step = p.of((2, 3, 1))
            need(0 < dim <= 8 * step)
            sizes = g.constant(step, np.int64)
            lengths = [min(step, dim - at) for at in range(0, dim, step)]
        case _:
            cut = p.next(dim + 1)
            lengths = [cut, dim - cut]
            sizes = g.ints(*lengths)
    shapes = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in lengths]
    if keep == 0:
        shapes = [(*x.shape[:axis], *x.shape[axis + 1 :]) for _ in lengths]
    attrs = {"axis": axis - x.rank if p.next(2) else axis, "keepdims": keep}
    made = g.sequence("SplitToSequence", [x, sizes], attrs)
    _taken(g, p, made, [Value("", x.dtype, shape) for shape in shapes])


def optional(g: Graph, p: Picks) -> None:
    """A tensor, a sequence or nothing as an optional."""
    need(g.opset >= 15)
    empty = p.one_in(4)
    x = g.x(p, "Identity", fits=lambda v: v.rank < 4)
    if empty:
        held = _type_of(x) if p.next(2) else helper.make_sequence_type_proto(_type_of(x))
        made = g.sequence("Optional", [], {"type": held})
        g.emit("OptionalHasElement", [made], known=[(np.dtype(bool), ())], checked=False)
        return
    if p.next(2):
        made = g.sequence("Optional", [x])
        g.emit("OptionalGetElement", [made], known=[(x.dtype, x.shape)], checked=False)
    else:
        sequence, parts = some_sequence(g, p)
        made = g.sequence("Optional", [sequence])
        _taken(g, p, g.sequence("OptionalGetElement", [made]), parts)
    if p.next(2):
        g.emit("OptionalHasElement", [made], known=[(np.dtype(bool), ())], checked=False)


def _type_of(x: Value) -> TypeProto:
    return helper.make_tensor_type_proto(code(x.dtype), x.shape)


CONTROL: dict[str, Maker] = {
    "If": branch, "If by a constant": chosen_branch, "If by a size": branch_by_size, "Loop": loop,
    "Scan": scan,
}  # fmt: skip

SEQUENCES: dict[str, Maker] = {
    "SequenceConstruct": from_sequence, "SplitToSequence": split_to_sequence, "Optional": optional,
}  # fmt: skip
