"""Operators of random ONNX graphs whose results have sizes that the data decides. No tests.

Nothing of the graph's tables can follow them, since no shape is known; what does is made here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.fuzz.onnx_graphs import Graph, Maker, Picks, Value, code, need
from tests.fuzz.onnx_nodes import some_axis
from tests.fuzz.onnx_values import DTYPES, MOVED, is_float

INDEX = np.dtype(np.int64)
FLOAT = np.dtype(np.float32)


@dataclass(frozen=True)
class Open:
    """A tensor with one dim that is open. sides: the others', None for it."""

    value: Value
    sides: tuple[int | None, ...]

    @property
    def at(self) -> int:
        return self.sides.index(None)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    def with_sides(self, value: Value, *sides: int | None) -> Open:
        return replace(self, value=value, sides=sides)


def results(
    g: Graph,
    op: str,
    x: Open,
    *more: Value,
    dtype: Any = None,
    sides: tuple[int | None, ...] | None = None,
    **attrs: Any,
) -> Open:
    need(op in ("Cast",) or x.dtype in g.dtypes(op))
    (found,) = g.open(op, [x.value, *more], attrs, [np.dtype(dtype or x.dtype)])
    return Open(found, x.sides if sides is None else sides)


def unary_of_open(g: Graph, p: Picks, x: Open) -> Open:
    return results(g, p.of(("Neg", "Abs", "Sign", "Tanh", "Exp", "Relu", "Not")), x)


def cast_of_open(g: Graph, p: Picks, x: Open) -> Open:
    to = g.some_dtype(p, [d for d in DTYPES.values() if d not in MOVED.values()])
    return results(g, "Cast", x, dtype=to, to=code(to))


def binary_of_open(g: Graph, p: Picks, x: Open) -> Open:
    op = p.of(("Add", "Mul", "Sub", "Max", "Where"))
    other = g.leaf(p, x.dtype, [p.of((1, side or 1)) for side in x.sides[p.next(len(x.sides)) :]])
    if op != "Where":
        return results(g, op, x, other)
    need(x.dtype not in MOVED.values())
    (flags,) = g.open("Equal", [x.value, other], {}, [np.dtype(bool)])
    (found,) = g.open("Where", [flags, x.value, other], {}, [x.dtype])
    return Open(found, x.sides)


def with_itself(g: Graph, p: Picks, x: Open) -> Open:
    """Concatenated with something: longer, or wider."""
    axis = p.next(len(x.sides))
    if axis == x.at:
        shape = [2 if side is None else side for side in x.sides]
        (found,) = g.open("Concat", [x.value, g.leaf(p, x.dtype, shape)], {"axis": axis}, [x.dtype])
        return Open(found, x.sides)
    sides = list(x.sides)
    sides[axis] = 2 * (sides[axis] or 0)
    (found,) = g.open("Concat", [x.value, x.value], {"axis": axis}, [x.dtype])
    return Open(found, tuple(sides))


def turned(g: Graph, p: Picks, x: Open) -> Open:
    rank = len(x.sides)
    perm = list(range(rank))[::-1]
    return results(g, "Transpose", x, sides=tuple(x.sides[i] for i in perm), perm=perm)


def sliced(g: Graph, p: Picks, x: Open) -> Open:
    need(g.opset >= 10)
    start, end, step = p.of(((1, 1 << 40, 1), (0, 3, 1), (-1, -(1 << 40), -1), (0, 1 << 40, 2)))
    parts = [g.ints(start), g.ints(end), g.ints(x.at), g.ints(step)]
    return results(g, "Slice", x, *parts)


def along_open(g: Graph, p: Picks, x: Open) -> Open:
    op = p.of(("CumSum", "Softmax", "LogSoftmax"))
    if op == "CumSum":
        return results(g, op, x, g.constant(x.at, np.int64))
    need(g.opset >= 13)
    return results(g, op, x, axis=x.at)


def ordered(g: Graph, p: Picks, x: Open) -> Open:
    """All of an axis in order, their count by Shape."""
    need(g.opset >= 15 and x.dtype in g.dtypes("TopK"))
    (count,) = g.open("Shape", [x.value], {"start": x.at, "end": x.at + 1}, [INDEX])
    attrs = {"axis": x.at, "largest": p.of((None, 0))}
    values, places = g.open("TopK", [x.value, count], attrs, [x.dtype, INDEX])
    return Open(p.of((values, places)), x.sides)


def flattened(g: Graph, p: Picks, x: Open) -> Open:
    return results(g, "Reshape", x, g.ints(-1), sides=(None,))


def widened(g: Graph, p: Picks, x: Open) -> Open:
    need(g.opset >= 13)
    return results(g, "Unsqueeze", x, g.ints(0), sides=(1, *x.sides))


def padded(g: Graph, p: Picks, x: Open) -> Open:
    need(g.opset >= 13)
    pads = [p.of((0, 1)) for _ in range(2 * len(x.sides))]
    rank = len(x.sides)
    sides = tuple(
        None if side is None else side + pads[i] + pads[i + rank] for i, side in enumerate(x.sides)
    )
    return results(g, "Pad", x, g.ints(*pads), sides=sides)


def picked(g: Graph, p: Picks, x: Open) -> Open:
    """Rows of a table by computed numbers."""
    need(x.dtype == INDEX and len(x.sides) == 1)
    table = g.leaf(p, FLOAT, (4, 3))
    (found,) = g.open("Mod", [x.value, g.constant(4, np.int64)], {}, [INDEX])
    (rows,) = g.open("Gather", [table, found], {}, [FLOAT])
    return Open(rows, (None, 3))


FOLLOWING = (
    unary_of_open, cast_of_open, binary_of_open, with_itself, turned, sliced, along_open, ordered,
    flattened, widened, padded, picked,
)  # fmt: skip


def closed(g: Graph, p: Picks, x: Open) -> None:
    """A tensor of known sizes from one that has an open dim."""
    match p.next(4):
        case 0:
            g.open("Shape", [x.value], {}, [INDEX])
        case 1:
            need(len(x.sides) == 2 and is_float(x.dtype))
            y = g.leaf(p, x.dtype, [x.sides[1], 3] if x.at == 0 else [2, x.sides[0]])
            need(x.dtype in g.dtypes("MatMul"))
            g.open("MatMul", [x.value, y] if x.at == 0 else [y, x.value], {}, [x.dtype])
        case _:
            op = p.of(("ReduceSum", "ReduceSum", "ReduceProd", "ReduceMean"))
            need(x.dtype in g.dtypes(op) and g.opset >= 18)
            inputs = [x.value, g.ints(x.at)]
            (found,) = g.open(op, inputs, {"keepdims": 0}, [x.dtype])
            del g.unsized[found.name]
            sides = tuple(side for side in x.sides if side is not None)
            g.values.append(Value(found.name, x.dtype, sides))


def followed(g: Graph, p: Picks, x: Open) -> None:
    for _ in range(p.of((1, 2, 0, 3))):
        x = _next(g, p, x)
    if p.next(2):
        g.attempt(lambda graph, picks: closed(graph, picks, x), p)


def _next(g: Graph, p: Picks, x: Open) -> Open:
    found = [x]

    def make(graph: Graph, picks: Picks) -> None:
        found.append(picks.of(FOLLOWING)(graph, picks, x))

    g.attempt(make, p)
    return found[-1]


def non_zero(g: Graph, p: Picks) -> None:
    x = g.x(p, "NonZero", fits=lambda v: v.rank > 0)
    (found,) = g.open("NonZero", [x], {}, [INDEX])
    if p.next(3):
        followed(g, p, Open(found, (x.rank, None)))
        return
    (places,) = g.open("Transpose", [found], {}, [INDEX])
    if p.next(2):
        (picked,) = g.open("GatherND", [x, places], {}, [x.dtype])
        followed(g, p, Open(picked, (None,)))
    else:
        need(g.opset >= 16 and is_float(x.dtype))
        y = g.like(p, x, x.shape)
        updates = g.open("GatherND", [x, places], {}, [x.dtype])
        (found,) = g.open("ScatterND", [y, places, *updates], {"reduction": "add"}, [x.dtype])
        del g.unsized[found.name]
        g.values.append(Value(found.name, x.dtype, x.shape))


def unique(g: Graph, p: Picks) -> None:
    need(g.opset >= 11)
    dtypes = [d for d in g.dtypes("Unique") if d.kind != "c"]
    x = g.x(p, "Unique", fits=lambda v: v.rank > 0 and v.size > 0 and v.dtype in dtypes)
    axis = p.of((None, some_axis(p, x.rank)))
    ordered = p.of((None, 1, 0))
    attrs = {"axis": axis, "sorted": ordered}
    values, *numbers = g.open("Unique", [x], attrs, [x.dtype, INDEX, INDEX, INDEX])
    sides: list[int | None] = list(x.shape) if axis is not None else [None]
    if axis is not None:
        sides[axis] = None
    followed(g, p, p.of([Open(values, tuple(sides)), Open(numbers[0], (None,)),
                         Open(numbers[2], (None,))]))  # fmt: skip


def compress(g: Graph, p: Picks) -> None:
    need(g.opset >= 9)
    x = g.x(p, "Compress", fits=lambda v: v.rank > 0 and v.size > 0)
    axis = p.of((None, p.next(x.rank)))
    count = x.size if axis is None else x.shape[axis]
    fitting = [v for v in g.values if v.dtype == bool and v.rank == 1 and v.shape[0] <= count]
    flags = p.of(fitting[::-1]) if fitting and p.next(3) else None
    if flags is None:
        flags = g.leaf(p, np.dtype(bool), (max(count - p.of((0, 0, 1)), 0),))
    (found,) = g.open("Compress", [x, flags], {"axis": axis}, [x.dtype])
    sides: list[int | None] = [None] if axis is None else list(x.shape)
    if axis is not None:
        sides[axis] = None
    followed(g, p, Open(found, tuple(sides)))


OPEN: dict[str, Maker] = {"NonZero": non_zero, "Unique": unique, "Compress by data": compress}
