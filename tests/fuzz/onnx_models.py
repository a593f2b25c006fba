"""Operators of random ONNX graphs: those of language models, losses, random numbers. No tests.

As in `onnx_nodes`, a row of a table is an operator and how its node is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper

from tests.fuzz.onnx_graphs import Graph, Maker, Picks, Value, code, need
from tests.fuzz.onnx_index import indices
from tests.fuzz.onnx_values import is_float

# -- language models ----------------------------------------------------------------------------


def attention(g: Graph, p: Picks) -> None:
    need(g.opset >= 23)
    batch, heads, shared = p.of((1, 2, "N")), p.of((2, 1, 4)), p.of((1, 1, 2))
    need(heads % shared == 0)
    rows, keys, depth = p.of((3, 1, 5)), p.of((4, 1, 7, 3)), p.of((4, 8, 3))
    wide = p.of((depth, depth, 5))
    dtype = g.some_dtype(p, g.dtypes("Attention"))
    flat = p.one_in(2)
    past = p.of((0, 0, 2))

    def operand(heads: int, length: int, depth: int) -> Value:
        shape = [batch, length, heads * depth] if flat else [batch, heads, length, depth]
        return g.leaf(p, dtype, shape)

    few = heads // shared
    q, k, v = operand(heads, rows, depth), operand(few, keys, depth), operand(few, keys, wide)
    size = q.shape[0]
    total = keys + past
    mask = None
    if p.next(2):
        kind = p.of((np.dtype(bool), dtype))
        mask = g.leaf(
            p, kind, p.of(((rows, total), (size, 1, rows, total), (1, heads, rows, total)))
        )
    cache = [g.leaf(p, dtype, [batch, few, past, n]) if past else None for n in (depth, wide)]
    attrs: dict[str, Any] = {
        "is_causal": p.of((None, 1)), "scale": p.of((None, 0.5)),
        "softcap": p.of((None, None, 2.0)),
    }  # fmt: skip
    if flat:
        attrs |= {"q_num_heads": heads, "kv_num_heads": few}
    lengths = None
    if g.opset >= 24 and not past and p.one_in(3):
        dice = np.random.default_rng(p.next(1000))
        lengths = g.given(p, dice.integers(1, keys + 1, size))
    if g.opset >= 25 and p.one_in(3):
        attrs |= {"left_window_size": p.of((1, 2)), "right_window_size": p.of((None, 1))}
    if p.one_in(3):
        attrs["softmax_precision"] = p.of((1, 10, 11, 16))
    known = [(dtype, (size, rows, heads * wide) if flat else (size, heads, rows, wide))]
    if past:
        known += [(dtype, (size, few, total, n)) for n in (depth, wide)]
    g.emit("Attention", [q, k, v, mask, *cache, lengths], attrs, known=known)


def rotary(g: Graph, p: Picks) -> None:
    need(g.opset >= 23)
    batch, heads, rows, depth = p.of((1, 2, "N")), p.of((2, 1, 3)), p.of((3, 1, 5)), p.of((4, 8))
    dtype = g.some_dtype(p, g.dtypes("RotaryEmbedding"))
    flat = p.one_in(2)
    shape = [batch, rows, heads * depth] if flat else [batch, heads, rows, depth]
    x = g.leaf(p, dtype, shape)
    part = p.of((0, 0, depth // 2))
    half = (part or depth) // 2
    table = (8, half) if p.next(2) else (x.shape[0], rows, half)
    caches = [g.leaf(p, dtype, table) for _ in "ab"]
    places = None
    if len(table) == 2:
        places = g.given(p, indices(p, (x.shape[0], rows), 8, negative=False))
    attrs = {
        "interleaved": p.of((None, 1)), "rotary_embedding_dim": part or None,
        "num_heads": heads if flat else None,
    }  # fmt: skip
    g.emit("RotaryEmbedding", [x, *caches, places], attrs, known=[(dtype, x.shape)])


def linear_attention(g: Graph, p: Picks) -> None:
    need(g.opset >= 27)
    rule = p.of(("gated_delta", "linear", "gated", "delta"))
    heads, shared = p.of((2, 1)), p.of((1, 1, 2))
    need(heads % shared == 0)
    few = heads // shared
    batch, rows, depth, wide = p.of((1, 2)), p.of((3, 1, 5)), p.of((3, 4)), p.of((2, 5))
    dtype = g.some_dtype(p, g.dtypes("LinearAttention"))
    q, k = (g.leaf(p, dtype, [batch, rows, n * depth]) for n in (heads, few))
    v = g.leaf(p, dtype, [batch, rows, few * wide])
    past = g.leaf(p, dtype, [batch, few, depth, wide]) if p.next(2) else None
    decay = beta = None
    if "gated" in rule:
        decay = g.leaf(p, dtype, [batch, rows, p.of((few, few * depth))])
    if "delta" in rule:
        beta = g.leaf(p, dtype, [batch, rows, few])
    attrs = {
        "q_num_heads": heads, "kv_num_heads": few, "update_rule": rule,
        "scale": p.of((None, 0.5)),
    }  # fmt: skip
    known = [(dtype, (batch, rows, heads * wide)), (dtype, (batch, few, depth, wide))]
    g.emit("LinearAttention", [q, k, v, past, decay, beta], attrs, known=known)


def causal_conv(g: Graph, p: Picks) -> None:
    need(g.opset >= 27)
    x = g.x(p, "CausalConvWithState", fits=lambda v: v.rank == 3 and v.size > 0,
            shape=lambda: [p.of((1, 2, "N")), p.of((3, 1, 4)), p.of((5, 1, 8))])  # fmt: skip
    batch, channels, _ = x.shape
    taps = p.of((3, 1, 2, 4))
    weight = g.like(p, x, (channels, 1, taps))
    bias = g.like(p, x, (channels,)) if p.next(2) else None
    past = g.like(p, x, (batch, channels, taps - 1)) if p.next(2) else None
    attrs = {"activation": p.of((None, "silu", "swish", "none"))}
    known = [(x.dtype, x.shape), (x.dtype, (batch, channels, taps - 1))]
    g.emit("CausalConvWithState", [x, weight, bias, past], attrs, known=known)


def swiglu(g: Graph, p: Picks) -> None:
    x = g.x(p, "SwiGLU")
    g.one("SwiGLU", x, g.like(p, x, x.shape), alpha=p.of((None, 1.5)))


# -- losses -------------------------------------------------------------------------------------


def loss(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op, fits=lambda v: 2 <= v.rank <= 4 and v.size > 0)
        classes, rest = x.shape[1], (x.shape[0], *x.shape[2:])
        labels = indices(p, rest, classes, negative=False).astype(p.of((np.int64, np.int32)))
        weights = g.like(p, x, (classes,)) if p.next(2) else None
        attrs: dict[str, Any] = {"reduction": p.of((None, "none", "sum", "mean"))}
        if p.one_in(3):
            attrs["ignore_index"] = p.next(classes)
        known = [(x.dtype, rest if attrs["reduction"] == "none" else ())]
        if op == "SoftmaxCrossEntropyLoss" and p.one_in(3):
            known.append((x.dtype, x.shape))
        g.emit(op, [x, g.given(p, labels), weights], attrs, known=known)

    return make


# -- random numbers, constants ------------------------------------------------------------------


def seed_of(p: Picks) -> float | None:
    found: float | None = p.of((None, 1.0, 7.5))
    return found


def random_shape(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        dtype = p.of([None, *g.dtypes_of_result(op)])
        shape = [p.of((3, 4, 1, 0, 8)) for _ in range(p.of((2, 1, 3)))]
        ends = {"low": -1.0, "high": p.of((1.0, 5.0))} if "Uniform" in op else {"mean": 1.0}
        known = [(dtype or np.dtype(np.float32), tuple(shape))]
        given = None if dtype is None else code(dtype)
        g.emit(op, [], {"shape": shape, "dtype": given, "seed": seed_of(p), **ends}, known=known)

    return make


def random_like(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op)
        to = p.of([None, *g.dtypes_of_result(op)])
        need(to is not None or x.dtype in g.dtypes_of_result(op))
        attrs = {"dtype": None if to is None else code(to), "seed": seed_of(p)}
        g.emit(op, [x], attrs, known=[(to or x.dtype, x.shape)])

    return make


def bernoulli(g: Graph, p: Picks) -> None:
    x = g.x(p, "Bernoulli")
    to = p.of([None, *g.dtypes_of_result("Bernoulli")])
    chance = g.one("Sigmoid", x)
    attrs = {"dtype": None if to is None else code(to), "seed": seed_of(p)}
    g.emit("Bernoulli", [chance], attrs, known=[(to or x.dtype, x.shape)])


def multinomial(g: Graph, p: Picks) -> None:
    x = g.x(p, "Multinomial", fits=lambda v: v.rank == 2 and v.size > 0,
            shape=lambda: [p.of((2, 1, "N")), p.of((4, 1, 8))])  # fmt: skip
    count, to = p.of((5, 1, 16)), p.of((None, np.dtype(np.int64)))
    attrs = {"sample_size": count, "seed": seed_of(p), "dtype": None if to is None else code(to)}
    known = [(to or np.dtype(np.int32), (x.shape[0], count))]
    g.emit("Multinomial", [x], attrs, known=known)


def training_dropout(g: Graph, p: Picks) -> None:
    need(g.opset >= 12)
    x = g.x(p, "Dropout")
    ratio = g.given(p, np.array(p.of((0.5, 0.0, 0.9)), p.of((x.dtype, np.dtype(np.float32)))))
    need(is_float(ratio.dtype))
    flag = g.constant(True)
    g.emit("Dropout", [x, ratio, flag], {"seed": p.of((None, 3))}, outputs=p.of((1, 2)))


def constant(g: Graph, p: Picks) -> None:
    g.schema("Constant")
    match p.next(4) if g.opset >= 12 else 0:
        case 0:
            x = g.leaf(p, g.some_dtype(p, g.dtypes_of_result("Constant")), (p.of((3, 1, 0)),))
            need(x.data is not None)
            known = [(x.dtype, x.shape)]
            g.emit("Constant", [], {"value": numpy_helper.from_array(x.data)}, known=known)
        case 1:
            g.emit("Constant", [], {"value_float": 1.5}, known=[(np.dtype(np.float32), ())])
        case 2:
            g.emit("Constant", [], {"value_ints": [3, -1]}, known=[(np.dtype(np.int64), (2,))])
        case _:
            known = [(np.dtype(np.float32), (2,))]
            g.emit("Constant", [], {"value_floats": [0.5, 2.0]}, known=known)


LANGUAGE: dict[str, Maker] = {
    "Attention": attention, "RotaryEmbedding": rotary, "LinearAttention": linear_attention,
    "CausalConvWithState": causal_conv, "SwiGLU": swiglu,
    **{op: loss(op) for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")},
}  # fmt: skip

MADE: dict[str, Maker] = {
    **{op: random_shape(op) for op in ("RandomNormal", "RandomUniform")},
    **{op: random_like(op) for op in ("RandomNormalLike", "RandomUniformLike")},
    "Bernoulli": bernoulli, "Multinomial": multinomial, "Dropout in training": training_dropout,
    "Constant": constant,
}  # fmt: skip
