"""Operators of random ONNX graphs: by index, by order, by condition. No tests.

As in `onnx_nodes`, a row of a table is an operator and how its node is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.fuzz.onnx_graphs import Graph, Maker, Picks, Value, need
from tests.fuzz.onnx_nodes import some_axis
from tests.fuzz.onnx_values import Array


def indices(p: Picks, shape: Sequence[int], dim: int, negative: bool = True) -> Array:
    """Positions of an axis of extent `dim`, some counted from its end."""
    need(dim > 0 or 0 in shape)
    dice = np.random.default_rng(p.next(1000))
    low = -dim if negative and p.next(2) else 0
    return dice.integers(low, max(dim, 1), tuple(shape))


def gather(g: Graph, p: Picks) -> None:
    x = g.x(p, "Gather", fits=lambda v: v.rank > 0)
    axis = some_axis(p, x.rank)
    shape = p.of(((2,), (), (3, 2), (1,), (0,), (5,)))
    found = indices(p, shape, x.shape[axis], negative=g.opset >= 11)
    g.one("Gather", x, g.given(p, found.astype(p.of((np.int64, np.int32)))), axis=axis)


def gather_elements(g: Graph, p: Picks) -> None:
    x = g.x(p, "GatherElements", fits=lambda v: v.rank > 0)
    axis = some_axis(p, x.rank)
    shape = list(x.shape)
    shape[axis] = p.of((2, 1, 5, x.shape[axis]))
    found = indices(p, shape, x.shape[axis])
    g.one("GatherElements", x, g.given(p, found), axis=axis)


def tuples(p: Picks, x: Value, batch: Sequence[int], depth: int) -> Array:
    parts = [indices(p, batch, dim) for dim in x.shape[:depth]]
    return np.stack(parts, -1) if parts else np.zeros((*batch, 0), np.int64)


def gather_nd(g: Graph, p: Picks) -> None:
    x = g.x(p, "GatherND", fits=lambda v: v.rank > 0)
    depth = 1 + p.next(x.rank)
    if g.opset >= 12 and x.rank > 1 and p.one_in(3):
        found = indices(p, (x.shape[0], 2, 1), x.shape[1])
        g.one("GatherND", x, g.given(p, found), batch_dims=1)
    else:
        g.one("GatherND", x, g.given(p, tuples(p, x, p.of(((2,), (3, 2), ())), depth)))


def distinct(p: Picks, count: int, dim: int) -> Array:
    dice = np.random.default_rng(p.next(1000))
    return dice.permutation(dim)[:count]


def reductions(g: Graph, p: Picks, x: Value) -> str | None:
    if g.opset < 16:
        return None
    more = ("max", "min") if g.opset >= 18 else ()
    if x.dtype == np.bool_:
        return None
    found: str | None = p.of((None, "add", "mul", *more))
    return found


def scatter_elements(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op, fits=lambda v: v.rank > 0 and v.size > 0)
        axis = some_axis(p, x.rank)
        reduction = reductions(g, p, x) if op == "ScatterElements" else None
        shape = list(x.shape)
        shape[axis] = 1 + p.next(x.shape[axis])
        if reduction is None:
            # Where two updates meet in one place, which of them stays is not specified.
            line = distinct(p, shape[axis], x.shape[axis])
            across = [1] * x.rank
            across[axis] = -1
            found = np.broadcast_to(line.reshape(across), shape)
        else:
            found = indices(p, shape, x.shape[axis])
        updates = g.like(p, x, shape)
        attrs: dict[str, Any] = {"axis": axis}
        if reduction is not None:
            attrs["reduction"] = reduction
        g.one(op, x, g.given(p, np.ascontiguousarray(found)), updates, **attrs)

    return make


def scatter_nd(g: Graph, p: Picks) -> None:
    x = g.x(p, "ScatterND", fits=lambda v: v.rank > 0 and v.size > 0)
    reduction = reductions(g, p, x)
    depth = 1 + p.next(x.rank)
    if reduction is None:
        count = min(3, int(np.prod(x.shape[:depth])))
        flat = distinct(p, count, int(np.prod(x.shape[:depth])))
        found = np.stack(np.unravel_index(flat, x.shape[:depth]), -1)
    else:
        found = tuples(p, x, (4,), depth)
    updates = g.like(p, x, (*found.shape[:-1], *x.shape[depth:]))
    attrs = {} if reduction is None else {"reduction": reduction}
    g.one("ScatterND", x, g.given(p, found), updates, **attrs)


def one_hot(g: Graph, p: Picks) -> None:
    need(g.opset >= 9)
    x = g.x(p, "OneHot", fits=lambda v: v.rank < 4 and v.dtype.kind in "iu")
    values = g.leaf(p, g.some_dtype(p, g.dtypes("OneHot", 2)), (2,))
    depth = g.constant(p.of((4, 1, 7)), np.int64)
    g.one("OneHot", x, depth, values, axis=p.of((None, 0, -1, x.rank)))


def top_k(g: Graph, p: Picks) -> None:
    x = g.x(p, "TopK", fits=lambda v: v.rank > 0 and v.size > 0)
    axis = some_axis(p, x.rank)
    k = 1 + p.next(x.shape[axis])
    if g.opset < 10:
        g.emit("TopK", [x], {"axis": axis, "k": k}, outputs=2)
        return
    attrs: dict[str, Any] = {"axis": axis}
    if g.opset >= 11:
        attrs["largest"] = p.of((None, 0))
    g.emit("TopK", [x, g.ints(k)], attrs, outputs=2)


def reverse_sequence(g: Graph, p: Picks) -> None:
    x = g.x(p, "ReverseSequence", fits=lambda v: v.rank >= 2 and v.size > 0)
    batch = p.next(2)
    lengths = 1 + indices(p, (x.shape[batch],), x.shape[1 - batch], negative=False)
    g.one("ReverseSequence", x, g.given(p, lengths), batch_axis=batch, time_axis=1 - batch)


def tensor_scatter(g: Graph, p: Picks) -> None:
    x = g.x(p, "TensorScatter", fits=lambda v: v.rank >= 3 and v.size > 0)
    axis = p.of((-2, 1))
    length = 1 + p.next(x.shape[axis])
    shape = list(x.shape)
    shape[axis] = length
    starts = indices(p, (x.shape[0],), x.shape[axis] - length + 1, negative=False)
    g.one("TensorScatter", x, g.like(p, x, shape), g.given(p, starts), axis=axis)


def compress(g: Graph, p: Picks) -> None:
    """A constant condition, so that the size is known."""
    x = g.x(p, "Compress", fits=lambda v: v.rank > 0 and v.size > 0)
    axis = some_axis(p, x.rank)
    if g.opset < 11:
        axis %= x.rank
    dice = np.random.default_rng(p.next(1000))
    kept = dice.integers(0, 2, x.shape[axis]).astype(bool)
    shape = list(x.shape)
    shape[axis] = int(kept.sum())
    results = [(x.dtype, tuple(shape))]
    g.emit("Compress", [x, g.constant(kept)], {"axis": axis}, known=results)


INDEXED: dict[str, Maker] = {
    "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd,
    "ScatterElements": scatter_elements("ScatterElements"), "Scatter": scatter_elements("Scatter"),
    "ScatterND": scatter_nd, "OneHot": one_hot, "TopK": top_k,
    "ReverseSequence": reverse_sequence, "TensorScatter": tensor_scatter, "Compress": compress,
}  # fmt: skip
