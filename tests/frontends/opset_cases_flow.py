"""Cases over opsets: control flow, recurrence, counted results, operators of the newest opsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.frontends.opset_cases import Versioned, cases
from tests.frontends.support import Array, floats, ints

VERSIONS = (7, 11, 13, 16, 19, 21)
X = floats(2, 3)
ROWS = floats(4, 3)


def _graph(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    return helper.make_graph(list(nodes), "body", list(inputs), list(outputs))


def _float(name: str, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _flag(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, ())


def _counter(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.INT64, ())


def _branches() -> list[Versioned]:
    """Branches that read what is outside need a model; these are of constants."""
    found: list[Versioned] = []
    for condition in (True, False):
        sides = {
            f"{name}_branch": _graph(
                [helper.make_node("Constant", [], ["v"], value=helper.make_tensor(
                    "v", TensorProto.FLOAT, [2], [value, value + 1]))],
                [], [_float("v", 2)],
            )
            for name, value in (("then", 1.0), ("else", 5.0))
        }  # fmt: skip
        wanted = np.array([1, 2] if condition else [5, 6], np.float32)
        found += cases("If", VERSIONS, [np.array(condition)], wanted, sides)
        found += cases("If", VERSIONS, [np.array(condition)], wanted, sides, constant=[0])
    return found


def _loops() -> list[Versioned]:
    nodes = [
        helper.make_node("Add", ["state", "state"], ["doubled"]),
        helper.make_node("Identity", ["go"], ["again"]),
        helper.make_node("Identity", ["doubled"], ["row"]),
    ]
    inputs = [_counter("i"), _flag("go"), _float("state", 2, 3)]
    outputs = [_flag("again"), _float("doubled", 2, 3), _float("row", 2, 3)]
    body = _graph(nodes, inputs, outputs)
    rows = np.stack([X * 2, X * 4, X * 8])
    counted = [
        helper.make_node("Constant", [], ["limit"], value=helper.make_tensor(
            "l", TensorProto.INT64, [], [1])),
        helper.make_node("Less", ["i", "limit"], ["again"]),
        helper.make_node("Add", ["state", "state"], ["doubled"]),
    ]  # fmt: skip
    ending = _graph(counted, inputs, outputs[:2])
    true, three = np.array(True), np.int64(3)
    return [
        *cases("Loop", VERSIONS, [three, true, X], [X * 8, rows], {"body": body}, constant=[0, 1]),
        *cases("Loop", VERSIONS, [three, None, X], [X * 8, rows], {"body": body}, constant=[0]),
        *cases("Loop", VERSIONS, [three, np.array(False), X], [X, rows[:0]], {"body": body},
               constant=[0, 1]),
        *cases("Loop", VERSIONS[1:], [np.int64(9), true, X], X * 4, {"body": ending},
               constant=[0, 1]),
        *cases("Loop", VERSIONS[1:], [None, true, X], X * 4, {"body": ending}, constant=[1]),
        *cases("Loop", VERSIONS[1:], [np.int64(1), true, X], X * 2, {"body": ending}),
    ]  # fmt: skip


def _scans() -> list[Versioned]:
    nodes = [
        helper.make_node("Add", ["state", "row"], ["next"]),
        helper.make_node("Mul", ["next", "next"], ["out"]),
    ]
    body = _graph(
        nodes, [_float("state", 3), _float("row", 3)], [_float("next", 3), _float("out", 3)]
    )  # fmt: skip
    start = floats(3, seed=1)
    sums = start + np.cumsum(ROWS, 0)
    backward = start + np.cumsum(ROWS[::-1], 0)
    later = (9, 11, 16, 19, 21)
    attrs = {"body": body, "num_scan_inputs": 1}
    batch, starts = floats(2, 4, 3, seed=2), floats(2, 3, seed=3)
    batched = starts[:, None] + np.cumsum(batch, 1)
    short = [batched[0, 3], batched[1, 1]]
    padded = batched**2
    padded[1, 2:] = 0
    return [
        *cases("Scan", 8, [None, starts, batch], [batched[:, -1], batched**2], attrs),
        *cases("Scan", 8, [ints(4, 2), starts, batch], [np.stack(short), padded], attrs),
        *cases("Scan", later, [start, ROWS], [sums[-1], sums**2], attrs),
        *cases("Scan", later, [start, ROWS], [backward[-1], backward**2],
               {**attrs, "scan_input_directions": [1]}),
        *cases("Scan", later, [start, ROWS], [sums[-1], sums[::-1] ** 2],
               {**attrs, "scan_output_directions": [1]}),
        *cases("Scan", later, [start, ROWS.T], [sums[-1], (sums**2).T],
               {**attrs, "scan_input_axes": [1], "scan_output_axes": [1]}),
        *cases("Scan", later[1:], [start, ROWS.T], [sums[-1], (sums**2).T],
               {**attrs, "scan_input_axes": [-1], "scan_output_axes": [-1]}),
    ]  # fmt: skip


# -- recurrence -----------------------------------------------------------------------------------

Step = Callable[..., tuple[Array, ...]]


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _rnn(x: Array, states: Sequence[Array], w: Array, r: Array, b: Array) -> tuple[Array, ...]:
    wb, rb = np.split(b, 2)
    return (np.tanh(x @ w.T + states[0] @ r.T + wb + rb),)


def _lstm(x: Array, states: Sequence[Array], w: Array, r: Array, b: Array) -> tuple[Array, ...]:
    wb, rb = np.split(b, 2)
    i, o, f, c = np.split(x @ w.T + states[0] @ r.T + wb + rb, 4, 1)
    cell = _sigmoid(f) * states[1] + _sigmoid(i) * np.tanh(c)
    return _sigmoid(o) * np.tanh(cell), cell


def _gru(x: Array, states: Sequence[Array], w: Array, r: Array, b: Array) -> tuple[Array, ...]:
    h = states[0]
    wz, wr, wh = np.split(x @ w.T + np.split(b, 2)[0], 3, 1)
    rz, rr, rh = np.split(r, 3)
    bz, br, bh = np.split(np.split(b, 2)[1], 3)
    z, reset = _sigmoid(wz + h @ rz.T + bz), _sigmoid(wr + h @ rr.T + br)
    new = np.tanh(wh + (reset * h) @ rh.T + bh)
    return ((1 - z) * new + z * h,)


def _linear_gru(x: Array, states: Sequence[Array], w: Array, r: Array, b: Array
                ) -> tuple[Array, ...]:  # fmt: skip
    h = states[0]
    wz, wr, wh = np.split(x @ w.T + np.split(b, 2)[0], 3, 1)
    rz, rr, rh = np.split(r, 3)
    bz, br, bh = np.split(np.split(b, 2)[1], 3)
    z, reset = _sigmoid(wz + h @ rz.T + bz), _sigmoid(wr + h @ rr.T + br)
    new = np.tanh(wh + reset * (h @ rh.T + bh))
    return ((1 - z) * new + z * h,)


def _run(step: Step, count: int, x: Array, w: Array, r: Array, b: Array, backward: bool = False,
         lengths: Sequence[int] | None = None) -> list[Array]:  # fmt: skip
    """All h [steps, batch, hidden], and the last states. Behind its length an item rests."""
    steps, batch, _ = x.shape
    states = [np.zeros((batch, r.shape[1])) for _ in range(count)]
    rows = np.zeros((steps, batch, r.shape[1]))
    for item in range(batch):
        length = steps if lengths is None else lengths[item]
        own: Sequence[Array] = [s[item : item + 1] for s in states]
        for t in reversed(range(length)) if backward else range(length):
            own = step(x[t, item : item + 1].astype(np.float64), own, w, r, b)
            rows[t, item] = own[0][0]
        for s, new in zip(states, own, strict=True):
            s[item] = new[0]
    return [rows, *states]


def _recurrent() -> list[Versioned]:
    x, lengths = floats(4, 2, 3), np.array([4, 2], np.int32)
    found: list[Versioned] = []
    for op, step, gates, count in (
        ("RNN", _rnn, 1, 1), ("LSTM", _lstm, 4, 2), ("GRU", _gru, 3, 1),
    ):  # fmt: skip
        w, r = floats(2, gates * 5, 3, seed=1), floats(2, gates * 5, 5, seed=2)
        b = floats(2, gates * 10, seed=3)
        one = _run(step, count, x, w[0], r[0], b[0])
        back = _run(step, count, x, w[1], r[1], b[1], True)
        short = _run(step, count, x, w[0], r[0], b[0], False, lengths.tolist())
        plain = _run(step, count, x, w[0], r[0], np.zeros_like(b[0]))
        operands, attrs = [x, w[:1], r[:1], b[:1]], {"hidden_size": 5}

        def laid(*results: list[Array]) -> list[Array]:
            rows = np.stack([r[0] for r in results], 1)
            ends = [np.stack(s) for s in zip(*(r[1:] for r in results), strict=True)]
            return [v.astype(np.float32) for v in (rows, *ends)]

        found += cases(op, (7, 14), operands, laid(one), attrs)
        found += cases(op, (7, 14), operands[:3], laid(plain), attrs)
        found += cases(op, (7, 14), [*operands, lengths], laid(short), attrs)
        found += cases(
            op, (7, 14), [x, w, r, b], laid(one, back), {**attrs, "direction": "bidirectional"}
        )
        found += cases(
            op, (7, 14), [x, w[1:], r[1:], b[1:]], laid(back), {**attrs, "direction": "reverse"}
        )
        turned = [v.swapaxes(0, 1) for v in laid(one)[1:]]
        first = laid(one)[0].transpose(2, 0, 1, 3)
        found += cases(
            op,
            14,
            [x.swapaxes(0, 1).copy(), *operands[1:]],
            [first, *turned],
            {**attrs, "layout": 1},
        )
        if op == "GRU":
            linear = _run(_linear_gru, count, x, w[0], r[0], b[0])
            found += cases(op, (7, 14), operands, laid(linear), {**attrs, "linear_before_reset": 1})
    return found


# -- results of as many elements as the data says -------------------------------------------------


def _counted() -> list[Versioned]:
    sparse = np.array([[3, 0, 1], [0, 3, 1]], np.float32)
    kept = np.array([False, True, True])
    values, first, inverse, counts = np.unique(sparse, True, True, True)
    # The second overlaps the first by more than a half, the third touches none.
    boxes = np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 2, 1, 3]]], np.float32)
    scores = np.array([[[0.7, 0.9, 0.8]]], np.float32)
    most, overlap = np.int64(5), np.float32(0.5)
    return [
        *cases(
            "NonMaxSuppression",
            (10, 11),
            [boxes, scores, most, overlap],
            ints([0, 0, 1], [0, 0, 2]),
            constant=[2, 3],
        ),
        *cases("NonZero", (9, 13), [sparse], np.stack(np.nonzero(sparse))),
        *cases("NonZero", (9, 13), [sparse > 0], np.stack(np.nonzero(sparse))),
        *cases("Compress", (9, 11), [sparse, kept], sparse[:, 1:], {"axis": 1}),
        *cases("Compress", 11, [sparse, kept], sparse[:, 1:], {"axis": -1}),
        *cases("Compress", (9, 11), [sparse, kept], sparse.reshape(-1)[1:3]),
        *cases("Unique", 11, [sparse], [values, first, inverse.reshape(-1), counts]),
        *cases("Unique", 11, [sparse], [values, None, None, counts]),
    ]


# -- the newest -----------------------------------------------------------------------------------


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def _newest() -> list[Versioned]:
    q, k, v = (floats(1, 2, 4, 8, seed=s) for s in (1, 2, 3))
    scores = q @ k.swapaxes(2, 3) / np.sqrt(np.float32(8))
    causal = np.where(np.tril(np.ones((4, 4), bool)), scores, -np.inf)
    mask = floats(4, 4, seed=4)
    scale = floats(3, seed=5)
    wide = X.astype(np.float64)
    root = np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5)
    turned = floats(1, 2, 3, 4, seed=6)
    cos, sin = floats(1, 3, 2, seed=7), floats(1, 3, 2, seed=8)
    left, right = turned[..., :2], turned[..., 2:]
    rotated = [left * cos - right * sin, left * sin + right * cos]
    pairs = np.stack([
        turned[..., ::2] * cos - turned[..., 1::2] * sin,
        turned[..., ::2] * sin + turned[..., 1::2] * cos,
    ], -1)  # fmt: skip
    return [
        *cases("Attention", (23, 24), [q, k, v], (_softmax(scores) @ v)),
        *cases("Attention", (23, 24), [q, k, v], (_softmax(causal) @ v).astype(np.float32),
               {"is_causal": 1}),
        *cases("Attention", (23, 24), [q, k, v, mask], _softmax(scores + mask) @ v),
        *cases("RMSNormalization", 23, [X, scale], (wide / root * scale).astype(np.float32)),
        *cases("RotaryEmbedding", 23, [turned, cos, sin], np.concatenate(rotated, -1)),
        *cases("RotaryEmbedding", 23, [turned, cos, sin], pairs.reshape(turned.shape),
               {"interleaved": 1}),
        *cases("Swish", 24, [X], X / (1 + np.exp(-X))),
        *cases("Swish", 24, [X], X / (1 + np.exp(-2 * X)), {"alpha": 2.0}),
        *cases("CumProd", 26, [X, np.int64(1)], np.cumprod(X, 1), constant=[1]),
        *cases("BitCast", 26, [X], X.view(np.int32), {"to": TensorProto.INT32}),
    ]  # fmt: skip


CASES = [*_branches(), *_loops(), *_scans(), *_recurrent(), *_counted(), *_newest()]
