"""Operators of random ONNX graphs: those of ai.onnx.ml that are for numbers. No tests.

As in `onnx_nodes`, a row of a table is an operator and how its node is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz.onnx_graphs import LEARNING, Graph, Maker, Picks, need
from tests.fuzz.onnx_index import indices

FLOAT = np.dtype(np.float32)


def name(op: str) -> str:
    return f"{LEARNING}.{op}"


def pick_features(g: Graph, p: Picks) -> None:
    op = name("ArrayFeatureExtractor")
    x = g.x(p, op, fits=lambda v: v.rank > 0 and v.size > 0)
    found = indices(p, (p.of((2, 1, 3)),), x.shape[-1], negative=False)
    # ONNX's inference leaves out that rows of one dim get a second one.
    shape = (*(x.shape[:-1] or (1,)), len(found))
    g.emit(op, [x, g.given(p, found)], known=[(x.dtype, shape)])


def binarizer(g: Graph, p: Picks) -> None:
    op = name("Binarizer")
    x = g.x(p, op)
    g.emit(op, [x], {"threshold": p.of((None, 0.5, -1.0))}, known=[(x.dtype, x.shape)])


def of_columns(p: Picks, count: int) -> list[float]:
    return [p.of((1.0, 0.5, -2.0, 0.0, 3.0)) for _ in range(p.of((1, count)))]


def scaler(g: Graph, p: Picks) -> None:
    op = name("Scaler")
    x = g.x(p, op, fits=lambda v: v.rank == 2 and v.size > 0)
    count = x.shape[-1]
    attrs = {"offset": of_columns(p, count), "scale": of_columns(p, count)}
    need(len(attrs["offset"]) == len(attrs["scale"]))
    g.emit(op, [x], attrs, known=[(FLOAT, x.shape)])


def normalizer(g: Graph, p: Picks) -> None:
    op = name("Normalizer")
    x = g.x(p, op, fits=lambda v: 1 <= v.rank <= 2 and v.size > 0)
    g.emit(op, [x], {"norm": p.of((None, "L1", "L2", "MAX"))}, known=[(FLOAT, x.shape)])


def imputer(g: Graph, p: Picks) -> None:
    op = name("Imputer")
    x = g.x(p, op, fits=lambda v: v.rank == 2 and v.size > 0
            and v.dtype in (FLOAT, np.dtype(np.int64)))  # fmt: skip
    if x.dtype == FLOAT:
        replaced = p.of((None, float("nan"), 1.0))
        attrs: dict[str, Any] = {
            "imputed_value_floats": of_columns(p, x.shape[1]),
            "replaced_value_float": float("nan") if replaced is None else replaced,
        }
    else:
        attrs = {"imputed_value_int64s": [p.of((7, -1)) for _ in range(p.of((1, x.shape[1])))],
                 "replaced_value_int64": p.of((0, 3))}  # fmt: skip
    g.emit(op, [x], attrs, known=[(x.dtype, x.shape)])


def one_hot(g: Graph, p: Picks) -> None:
    op = name("OneHotEncoder")
    x = g.x(p, op, fits=lambda v: v.rank < 4)
    attrs = {"cats_int64s": [0, 1, 3], "zeros": p.of((None, 1))}
    known = [(FLOAT, (*x.shape, 3))]
    need(x.dtype.kind == "i")
    g.emit(op, [x], attrs, known=known)


def label_encoder(g: Graph, p: Picks) -> None:
    op = name("LabelEncoder")
    need(g.learning >= 2)
    kinds = {FLOAT: "floats", np.dtype(np.int64): "int64s"}
    x = g.x(p, op, fits=lambda v: v.dtype in kinds)
    to = p.of(list(kinds))
    keys = p.of(([0, 1, 2], [3, -1]))
    attrs = {
        f"keys_{kinds[x.dtype]}": np.array(keys, x.dtype).tolist(),
        f"values_{kinds[to]}": np.array([4, 2, 9][: len(keys)], to).tolist(),
        "default_int64": 5, "default_float": 0.5,
    }  # fmt: skip
    g.emit(op, [x], attrs, known=[(to, x.shape)])


def linear_regressor(g: Graph, p: Picks) -> None:
    op = name("LinearRegressor")
    x = g.x(p, op, fits=lambda v: v.rank == 2 and v.size > 0)
    targets = p.of((1, 2))
    dice = np.random.default_rng(p.next(1000))
    weights = (dice.integers(-12, 13, targets * x.shape[1]) / 4).tolist()
    attrs = {"coefficients": weights, "targets": targets,
             "intercepts": p.of((None, [0.5, -1.0][:targets]))}  # fmt: skip
    g.emit(op, [x], attrs, known=[(FLOAT, (x.shape[0], targets))])


def feature_vectorizer(g: Graph, p: Picks) -> None:
    op = name("FeatureVectorizer")
    x = g.x(p, op, fits=lambda v: v.rank == 2 and v.size > 0)
    y = g.like(p, x, (x.shape[0], p.of((2, 1, 4))))
    sizes = [x.shape[1], y.shape[1]]
    known = [(FLOAT, (x.shape[0], sum(sizes)))]
    g.emit(op, [x, y], {"inputdimensions": sizes}, known=known)


def trees(g: Graph, p: Picks) -> None:
    """A forest of small trees: a root, and two leaves or a node and three."""
    op = name("TreeEnsembleRegressor")
    x = g.x(p, op, fits=lambda v: v.rank == 2 and v.size > 0)
    dice = np.random.default_rng(p.next(1000))
    table: list[tuple[int, int, int, str, float, int, int]] = []
    leaves: list[tuple[int, int]] = []
    for tree in range(p.of((2, 1, 5))):
        inner = p.of((1, 3))
        for node in range(2 * inner + 1):
            if node < inner:
                mode = p.of(("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_EQ", "BRANCH_GTE"))
                column, at = int(dice.integers(x.shape[1])), float(dice.integers(-8, 9)) / 4
                table.append((tree, node, column, mode, at, 2 * node + 1, 2 * node + 2))
            else:
                table.append((tree, node, 0, "LEAF", 0.0, 0, 0))
                leaves.append((tree, node))
    ids, nodes, columns, modes, ends, true, false = map(list, zip(*table, strict=True))
    attrs = {
        "n_targets": 1, "nodes_treeids": ids, "nodes_nodeids": nodes, "nodes_featureids": columns,
        "nodes_modes": modes, "nodes_values": ends, "nodes_truenodeids": true,
        "nodes_falsenodeids": false, "target_treeids": [tree for tree, _ in leaves],
        "target_nodeids": [node for _, node in leaves], "target_ids": [0] * len(leaves),
        "target_weights": (dice.integers(-12, 13, len(leaves)) / 4).tolist(),
        "aggregate_function": p.of((None, "SUM", "AVERAGE", "MIN", "MAX")),
        "base_values": p.of((None, [0.5])),
        "nodes_missing_value_tracks_true": p.of((None, [0] * len(table), [1] * len(table))),
    }  # fmt: skip
    g.emit(op, [x], attrs, known=[(FLOAT, (x.shape[0], 1))])


def tf_idf(g: Graph, p: Picks) -> None:
    x = g.x(p, "TfIdfVectorizer", fits=lambda v: 1 <= v.rank <= 2 and v.size > 0)
    attrs = {
        "mode": p.of(("TF", "IDF", "TFIDF")), "min_gram_length": 1, "max_gram_length": 2,
        "max_skip_count": p.of((0, 1, 3)), "ngram_counts": [0, 3],
        "ngram_indexes": p.of(([0, 1, 2, 3, 4], [4, 0, 1, 3, 2])),
        "pool_int64s": [1, 2, 3, 1, 2, 0, 1], "weights": p.of((None, [1.0, 2.0, 0.5, -1.0, 3.0])),
    }  # fmt: skip
    known = [(FLOAT, (5,) if x.rank == 1 else (x.shape[0], 5))]
    g.emit("TfIdfVectorizer", [x], attrs, known=known)


LEARNED: dict[str, Maker] = {
    name("ArrayFeatureExtractor"): pick_features, name("Binarizer"): binarizer,
    name("Scaler"): scaler, name("Normalizer"): normalizer, name("Imputer"): imputer,
    name("OneHotEncoder"): one_hot, name("LabelEncoder"): label_encoder,
    name("LinearRegressor"): linear_regressor, name("FeatureVectorizer"): feature_vectorizer,
    name("TreeEnsembleRegressor"): trees, "TfIdfVectorizer": tf_idf,
}  # fmt: skip
