"""Decision trees as tables: which leaf of each tree a row of features comes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfc.ir.core import Value
from tfc.ir.dims import DimLike
from tfc.ir.loop.kernel import KernelWriter
from tfc.ir.opdef import Kind, NoGrad, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import PURE, Array, compute_dtype, floats, require_kind
from tfc.ir.types import F32, F64, I64, TensorType

LESS_OR_EQUAL, LESS, EQUAL = range(3)
# Added to a node's comparison: NaN takes the first way.
NAN_FIRST = 4
# Cycles that a step down a tree costs, and how deep trees are taken to be.
_STEP, _DEPTH = 12, 8


def _infer(types: Sequence[TensorType], attrs: Any) -> Sequence[TensorType]:
    x, features, splits, modes, ways, roots = types
    require_kind(x, "f")
    require(x.rank == 2 and x.shape[1] != 0, f"takes rows of features, not {x}")
    require(splits.dtype == x.dtype, f"splits are {splits.dtype}, features {x.dtype}")
    for name, table in (("features", features), ("modes", modes), ("ways", ways), ("roots", roots)):
        require(table.dtype == I64, f"{name} are {table.dtype}, not i64")
    require(features.rank == roots.rank == 1, "features and roots have one axis")
    (nodes,) = features.shape
    require(nodes != 0, "there are no nodes")
    fits = splits.shape == modes.shape == (nodes,) and ways.shape == (nodes, 2)
    require(fits, f"tables of {splits}, {modes} and {ways} for {nodes} nodes")
    return (TensorType(I64, (x.shape[0], roots.shape[0])),)


def _ref(
    attrs: Any, x: Array, features: Array, splits: Array, modes: Array, ways: Array, roots: Array
) -> Array:
    at = np.broadcast_to(roots, (len(x), len(roots))).astype(np.int64)
    rows = np.broadcast_to(np.arange(len(x))[:, None], at.shape)
    for _ in range(len(features)):
        node = np.clip(at, 0, len(features) - 1)
        value = x[rows, np.clip(features[node], 0, x.shape[1] - 1)]
        split, kind = splits[node], modes[node] & 3
        hit = np.select([kind == LESS_OR_EQUAL, kind == LESS], [value <= split, value < split],
                        value == split)  # fmt: skip
        hit = np.where(np.isnan(value), modes[node] >= NAN_FIRST, hit)
        at = np.where(at < 0, at, ways[node, np.where(hit, 0, 1)])
    return np.asarray(np.maximum(~at, 0))


def _loops(k: KernelWriter) -> None:
    """Each row down each tree; no more steps than there are nodes, whatever the tables say."""
    b = k.b
    x, features, splits, modes, ways, roots = k.operands
    (result,) = k.results
    types = [value.type for value in k.op.operands]
    first, table, last = types[0], types[1], types[5]
    assert isinstance(first, TensorType)
    assert isinstance(table, TensorType)
    assert isinstance(last, TensorType)
    (rows, width), (nodes,), (trees,) = first.shape, table.shape, last.shape
    wide = compute_dtype(first.dtype)
    zero = b.index(0)

    def clipped(i: Value, size: DimLike) -> Value:
        return b.max(b.min(i, b.index(size - 1)), zero)

    def step(row: Value, node: Value) -> Value:
        at = clipped(node, nodes)
        value = b.cast(b.load(x, row, clipped(b.load(features, at), width)), wide)
        split = b.cast(b.load(splits, at), wide)
        mode = b.load(modes, at)
        kind = b.and_(mode, b.index(3))
        strict = b.select(b.eq(kind, b.index(LESS)), b.lt(value, split), b.eq(value, split))
        hit = b.select(b.eq(kind, b.index(LESS_OR_EQUAL)), b.le(value, split), strict)
        hit = b.select(b.isnan(value), b.ge(mode, b.index(NAN_FIRST)), hit)
        return b.load(ways, at, b.select(hit, zero, b.index(1)))

    with k.rows((rows,), trees * _DEPTH * _STEP) as ((row,), _), b.for_(0, trees) as tree:
        root = b.load(roots, tree.index)
        with b.while_(b.ge(root, zero), (root, zero)) as loop:
            node, steps = loop.carried
            following = step(row, node)
            count = b.add(steps, b.index(1))
            loop.again = b.and_(b.ge(following, zero), b.lt(count, b.index(nodes)))
            loop.yields = (following, count)
        b.store(b.max(b.not_(loop.results[0]), zero), result, row, tree.index)


def _samples() -> Sequence[Sample]:
    # One tree of three nodes and one that is a leaf.
    features, roots = np.array([1, 0, 0]), np.array([0, -4])
    ways = np.array([[1, 2], [-1, -2], [-3, -4]])
    modes = np.array([LESS_OR_EQUAL, LESS + NAN_FIRST, EQUAL])
    splits = np.array([0.25, -0.5, 1], np.float32)
    special = np.array([[1, np.nan], [np.nan, 0], [1, 0.25], [1, 9]], np.float32)
    endless = np.array([[0, 0], [0, 0], [0, 0]])
    return [
        Sample((floats((40, 2)), features, splits, modes, ways, roots), grad=False),
        Sample((special, features, splits, modes, ways, roots), grad=False),
        Sample((floats((0, 2)), features, splits, modes, ways, roots), grad=False),
        Sample((floats((3, 2)), features * 9, splits, modes, ways * 7, roots * 5), grad=False),
        Sample((floats((3, 2)), features, splits, modes, endless, roots), grad=False),
    ]


_TABLE = TensorType(I64, (3,))
_GOOD = (
    TensorType(F32, (4, 2)), _TABLE, TensorType(F32, (3,)), _TABLE, TensorType(I64, (3, 2)), _TABLE
)  # fmt: skip

register(
    OpDef(
        name="tree_leaves",
        operands=(6, 6),
        doc="Which leaf each row comes to in each tree. Operands: rows of features; for each node "
        "its feature, what that is compared with, the comparison (0: <=, 1: <, 2: ==, and 4 more "
        "where NaN goes the first way), the two ways on, taken where it holds or not; the trees' "
        "roots. A way on is a node, or leaf l as -1 - l.",
        kind=Kind.OPAQUE,
        infer=_infer,
        ref=_ref,
        loops=_loops,
        grad=NoGrad("its results are numbers of leaves"),
        traits=PURE,
        samples=_samples,
        rejects=lambda: (
            Reject((TensorType(F32, (4,)), *_GOOD[1:]), {}, "takes rows of features"),
            Reject((TensorType(F64, (4, 2)), *_GOOD[1:]), {}, "splits are f32"),
            Reject((*_GOOD[:5], TensorType(F32, (3,))), {}, "roots are f32"),
            Reject((*_GOOD[:4], _TABLE, _TABLE), {}, "tables of"),
        ),
    )
)
