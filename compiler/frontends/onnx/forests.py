"""TreeEnsemble and TreeEnsembleRegressor: trees as tables of nodes, and sums over their leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfc.compiler.frontends.onnx.context import Array, Context, Results, Rule
from tfc.ir import arrays
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.ops.trees import EQUAL, LESS, LESS_OR_EQUAL, NAN_FIRST
from tfc.ir.types import F32, F64, I64, DType

# Weights are a table of all leaves and all targets.
MAX_WEIGHTS = 1 << 27
LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
# What is computed by `tree_leaves`, and whether its ways on change places.
_COMPARED = {
    LEQ: (LESS_OR_EQUAL, False), LT: (LESS, False), GTE: (LESS, True), GT: (LESS_OR_EQUAL, True),
    EQ: (EQUAL, False), NEQ: (EQUAL, True),
}  # fmt: skip


@dataclass
class _Forest:
    """Nodes of all trees. A way on is a node, or leaf l as -1 - l."""

    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    ways: list[tuple[int, int]] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)

    def add(self, feature: int, split: float, mode: int, ways: tuple[int, int], nan: bool) -> None:
        """Add a node; nan: whether NaN takes the first way on, where the comparison fails."""
        kind, swapped = _COMPARED[mode]
        if swapped:
            ways = ways[1], ways[0]
            # NaN differs from everything.
            nan = mode != NEQ and not nan
        self.features.append(feature)
        self.splits.append(split)
        self.modes.append(kind + NAN_FIRST * nan)
        self.ways.append(ways)

    def check(self, ctx: Context) -> None:
        """Refuse ways on that lead nowhere or back; two may lead to one node."""
        done: set[int] = set()
        path: set[int] = set()
        stack = [root for root in self.roots if root >= 0]
        while stack:
            node = stack[-1]
            if node >= len(self.ways):
                raise ctx.malformed(f"node {node} is none of {len(self.ways)}")
            if node in path or node in done:
                stack.pop()
                path.discard(node)
                done.add(node)
                continue
            path.add(node)
            for way in self.ways[node]:
                if way in path:
                    raise ctx.malformed(f"node {node} leads back to node {way}")
                if way >= 0 and way not in done:
                    stack.append(way)

    def leaves(self, ctx: Context, x: Value) -> Value:
        """The leaf that each row comes to in each tree."""
        self.check(ctx)
        if tensor_type(x).rank != 2 or not tensor_type(x).dtype.is_float:
            raise ctx.malformed(f"takes rows of features, not {tensor_type(x)}")
        width = tensor_type(x).shape[1]
        if min(self.features) < 0 or (isinstance(width, int) and max(self.features) >= width):
            raise ctx.malformed(f"compares feature {max(self.features)} of {width}")
        splits = ctx.b.constant(self.splits, tensor_type(x).dtype)
        features, modes, ways, roots = (
            ctx.b.constant(table, I64)
            for table in (self.features, self.modes, self.ways, self.roots)
        )
        found: Value = ctx.b.tree_leaves(x, features, splits, modes, ways, roots)
        return found


def _aggregated(
    ctx: Context, leaves: Value, weights: Array, dtype: DType, how: str, transform: str
) -> Value:
    """The weights [leaf, target] of the leaves that were come to, over all trees."""
    if how not in AGGREGATES or transform not in TRANSFORMS:
        raise ctx.malformed(f"aggregate {how!r}, post_transform {transform!r}")
    if how in ("MIN", "MAX") and weights.shape[1] != 1:
        raise ctx.unsupported(f"the {how} of several targets")
    if transform not in ("NONE", "SOFTMAX", "LOGISTIC"):
        raise ctx.unsupported(f"post_transform {transform}")
    table = ctx.b.constant(weights.astype(arrays.numpy_dtype(dtype)))
    parts = ctx.b.gather(table, leaves, axis=0)
    reduce = {"MIN": ctx.b.reduce_min, "MAX": ctx.b.reduce_max, "SUM": ctx.b.reduce_sum,
              "AVERAGE": ctx.b.reduce_mean}[how]  # fmt: skip
    found: Value = reduce(parts, axes=(1,), keepdims=False)
    return found


def _no_weights(ctx: Context, leaves: int, targets: int) -> Array:
    if not 0 < targets <= MAX_WEIGHTS // max(leaves, 1):
        raise ctx.unsupported(f"weights of {leaves} leaves for {targets} targets")
    return np.zeros((leaves, targets))


def _transformed(ctx: Context, x: Value, transform: str) -> Value:
    match transform:
        case "SOFTMAX":
            found: Value = ctx.b.softmax(x, axis=-1)
            return found
        case "LOGISTIC":
            found = ctx.b.sigmoid(x)
            return found
        case _:
            return x


def _rows(ctx: Context, *tables: Sequence[Any] | Array) -> Iterator[tuple[Any, ...]]:
    """The entries of tables that must be of one length, side by side."""
    if len({len(table) for table in tables}) != 1:
        raise ctx.malformed(f"tables of {', '.join(str(len(t)) for t in tables)} entries")
    return zip(*tables, strict=True)


def _choice(ctx: Context, names: Sequence[str], number: int) -> str:
    if not 0 <= number < len(names):
        raise ctx.malformed(f"{number} is none of {', '.join(names)}")
    return names[number]


# -- opset 5 --------------------------------------------------------------------------------------


def _ensemble(ctx: Context) -> Results:
    x, dtype = ctx.x(), ctx.type().dtype
    weights, targets = _numbers(ctx, "leaf_weights"), np.array(_ints(ctx, "leaf_targetids"))
    count = ctx.integer("n_targets", int(max(targets, default=0)) + 1)
    if len(weights) != len(targets) or not len(weights) or not (targets < count).all():
        raise ctx.malformed(f"{len(weights)} weights for {len(targets)} targets of {count}")
    how = _choice(ctx, AGGREGATES, ctx.integer("aggregate_function", 1))
    transform = _choice(ctx, TRANSFORMS, ctx.integer("post_transform", 0))
    leaves = _read_ensemble(ctx, len(weights)).leaves(ctx, x)
    table = _no_weights(ctx, len(weights), count)
    table[np.arange(len(weights)), targets] = weights
    found = _aggregated(ctx, leaves, table, dtype, how, transform)
    return _transformed(ctx, found, transform)


def _read_ensemble(ctx: Context, leaf_count: int) -> _Forest:
    forest = _Forest(roots=list(_ints(ctx, "tree_roots")))
    modes = [int(n) for n in _numbers(ctx, "nodes_modes")]
    splits = _numbers(ctx, "nodes_splits").tolist()
    features = _ints(ctx, "nodes_featureids")
    first = _ways(ctx, "true", leaf_count)
    second = _ways(ctx, "false", leaf_count)
    nans = ctx.integers("nodes_missing_value_tracks_true") or (0,) * len(modes)
    sets = _sets(ctx)
    if not modes:
        raise ctx.malformed("there are no nodes")
    rows = _rows(ctx, modes, splits, features, first, second, nans)
    spare: list[tuple[int, list[float], tuple[int, int]]] = []
    for node, (mode, split, feature, *ways, nan) in enumerate(rows):
        if mode == MEMBER:
            values = next(sets, None)
            if values is None:
                raise ctx.malformed(f"node {node} has no members to compare with")
            values = values or [np.nan]
            spare.append((node, values[1:], (ways[0], ways[1])))
            mode, split = EQ, values[0]
        elif mode not in _COMPARED:
            raise ctx.malformed(f"node {node} compares in a way {mode}")
        forest.add(feature, split, mode, (ways[0], ways[1]), bool(nan))
    # A set is a chain of nodes, each with one member.
    for node, values, (hit, miss) in spare:
        before = node
        for value in values:
            forest.ways[before] = hit, len(forest.ways)
            before = len(forest.ways)
            forest.add(features[node], value, EQ, (hit, miss), False)
    return forest


def _sets(ctx: Context) -> Iterator[list[float]]:
    """The members of each set; each set is ended by a NaN."""
    given = ctx.tensor("membership_values")
    found: list[float] = []
    for value in [] if given is None else given[0].reshape(-1).tolist():
        if np.isnan(value):
            yield found
            found = []
        else:
            found.append(value)


def _ways(ctx: Context, side: str, leaf_count: int) -> list[int]:
    """Where nodes go on: leaves as -1 - leaf."""
    found = []
    nodes, are_leaves = _ints(ctx, f"nodes_{side}nodeids"), _ints(ctx, f"nodes_{side}leafs")
    for node, leaf in _rows(ctx, nodes, are_leaves):
        if node < 0 or (leaf and node >= leaf_count):
            raise ctx.malformed(f"goes on to {'leaf' if leaf else 'node'} {node}")
        found.append(-1 - node if leaf else node)
    return found


def _ints(ctx: Context, name: str) -> tuple[int, ...]:
    found = ctx.integers(name)
    if found is None:
        raise ctx.malformed(f"attribute {name!r} is missing")
    return found


def _numbers(ctx: Context, name: str) -> Array:
    found = ctx.tensor(name)
    if found is None:
        raise ctx.malformed(f"attribute {name!r} is missing")
    return arrays.decode(found[0], found[1]).reshape(-1)


# -- before ---------------------------------------------------------------------------------------


def _regressor(ctx: Context) -> Results:
    thresholds, wide = _either(ctx, "nodes_values")
    votes, precise = _either(ctx, "target_weights")
    base, more_precise = _either(ctx, "base_values")
    dtype = F64 if wide or precise or more_precise or ctx.type().dtype == F64 else F32
    exact = F64 if dtype == F64 or not ctx.type().dtype.is_float else F32
    forest, leaves = _read_nodes(ctx, thresholds)
    count = ctx.integer("n_targets", 1)
    table = _no_weights(ctx, len(leaves), count)
    names = [_ints(ctx, f"target_{kind}") for kind in ("treeids", "nodeids", "ids")]
    for tree, node, target, weight in _rows(ctx, *names, votes):
        if (tree, node) not in leaves or not 0 <= target < count:
            raise ctx.malformed(f"a weight of node {node} of tree {tree} for target {target}")
        table[leaves[tree, node], target] += weight
    how, transform = ctx.string("aggregate_function", "SUM"), ctx.string("post_transform", "NONE")
    found = forest.leaves(ctx, ctx.cast(ctx.x(), exact))
    total = _aggregated(ctx, found, table, dtype, how, transform)
    if len(base):
        if len(base) != count:
            raise ctx.malformed(f"{len(base)} base values for {count} targets")
        total = ctx.b.add(total, ctx.b.constant(base.astype(arrays.numpy_dtype(dtype))))
    return ctx.cast(_transformed(ctx, total, transform), F32)


def _either(ctx: Context, name: str) -> tuple[Array, bool]:
    """Numbers as floats or as a tensor of doubles, and whether they are the latter."""
    tensor = ctx.tensor(f"{name}_as_tensor")
    if tensor is not None:
        return tensor[0].reshape(-1), tensor[1] == F64
    return np.array(ctx.reals(name) or (), np.float64), False


def _read_nodes(ctx: Context, thresholds: Array) -> tuple[_Forest, dict[tuple[int, int], int]]:
    """The forest, and the number of each leaf by its tree and node."""
    names = list(_rows(ctx, _ints(ctx, "nodes_treeids"), _ints(ctx, "nodes_nodeids")))
    modes = ctx.strings("nodes_modes") or ()
    first, second = _ints(ctx, "nodes_truenodeids"), _ints(ctx, "nodes_falsenodeids")
    features = _ints(ctx, "nodes_featureids")
    nans = ctx.integers("nodes_missing_value_tracks_true") or (0,) * len(names)
    if len(set(names)) < len(names):
        raise ctx.malformed("a node of a tree is there twice")
    leaves: dict[tuple[int, int], int] = {}
    places: dict[tuple[int, int], int] = {}
    for name, mode in _rows(ctx, names, modes):
        if mode == "LEAF":
            leaves[name] = len(leaves)
            places[name] = -1 - leaves[name]
        elif mode in MODES:
            places[name] = len(places) - len(leaves)
        else:
            raise ctx.malformed(f"unknown mode {mode!r}")
    forest = _Forest()
    roots: dict[int, int] = {}
    nodes = _rows(ctx, names, modes, thresholds, features, first, second, nans)
    for (tree, node), mode, split, feature, *ways, nan in nodes:
        roots.setdefault(tree, places[tree, node])
        if mode == "LEAF":
            continue
        missing = [way for way in ways if (tree, way) not in places]
        if missing:
            raise ctx.malformed(f"tree {tree} has no node {missing[0]}")
        to = places[tree, ways[0]], places[tree, ways[1]]
        forest.add(feature, float(split), MODES.index(mode), to, bool(nan))
    forest.roots = list(roots.values())
    if not forest.ways:
        # Every tree is a leaf: a table has a row at least, which nothing comes to.
        forest.add(0, 0.0, LEQ, (-1, -1), False)
    return forest, leaves


IGNORED = ("nodes_hitrates", "nodes_hitrates_as_tensor")
RULES: dict[str, tuple[Rule, ...]] = {
    "TreeEnsemble": (Rule(_ensemble, ignores=IGNORED),),
    "TreeEnsembleRegressor": (Rule(_regressor, ignores=IGNORED),),
}
