"""Corner cases of ops that fold: reductions, products, windows, softmax, norms, orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import graph
from tests.numerics.probes import FLOAT_TYPES, INF, LIMITS, NAN, Probe, check, each, probe
from tfc.graph import Graph
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Value
from tfc.ir.types import BOOL, F32, INTS, DType, TensorType

WIDTHS = (1, 7, 16, 33)
REDUCTIONS = ("sum", "prod", "max", "min")


def fold(name: str, axis: int = 1) -> Callable[..., Any]:
    return lambda b, x: b.op(f"reduce_{name}", x, axes=(axis,), keepdims=False).result


def row(width: int, at: int, value: float, rest: float = 1.0) -> list[float]:
    found = [rest] * width
    found[at] = value
    return found


@each(*FLOAT_TYPES)
def test_folds_of_special_numbers(dtype: DType) -> None:
    probes: list[Probe] = []

    def add(name: str, x: Any, want: Any, **more: Any) -> None:
        for axis in (1, 0):
            turned = np.asarray(x, np.float64).T if axis == 0 else x
            probes.append(
                probe(f"{name} over {axis}", fold(name, axis), [turned], want, dtype=dtype, **more)
            )

    for width in WIDTHS:
        last = width - 1
        for at in {0, width // 2, last}:
            for name in REDUCTIONS:
                add(
                    name,
                    [row(width, at, NAN), row(width, at, 1.0)],
                    [NAN, width if name == "sum" else 1],
                )
            add("max", [row(width, at, INF), row(width, at, -INF)], [INF, 1 if width > 1 else -INF])
            add("min", [row(width, at, INF), row(width, at, -INF)], [1 if width > 1 else INF, -INF])
            add("sum", [row(width, at, INF), row(width, at, -INF)], [INF, -INF])
            add("prod", [row(width, at, INF, 2.0), row(width, at, 0.0)], [INF, 0.0])
            add("log_sum_exp", [row(width, at, NAN), row(width, at, INF)], [NAN, INF])
        add("log_sum_exp", [[-INF] * width, [0.0] * width], [-INF, np.log(width)], tol=1e-2)
        add("sum", [[0.0] * width, [-0.0] * width], [0.0, -0.0], any_zero=True)
        add("mean", [[0.25] * width], [0.25])
        for name in ("l1", "l2", "sum_square", "log_sum"):
            add(name, [row(width, 0, NAN)], [NAN])
    add("sum", [[INF, -INF, 1], [INF, INF, 1]], [NAN, INF])
    add("prod", [[INF, 0.0, 1], [INF, -1, 1], [-0.0, 1, 1]], [NAN, -INF, -0.0])
    add("max", [[-INF, -INF], [NAN, INF]], [-INF, NAN])
    add("l2", [[3, -4, 0.0]], [5])
    check(probes)


@each(*FLOAT_TYPES, *INTS)
def test_folds_of_nothing(dtype: DType) -> None:
    empty = np.zeros((3, 0))
    low, high, mean = -INF, INF, NAN
    if dtype.is_int:
        info = np.iinfo(arrays.numpy_dtype(dtype))
        low, high, mean = int(info.min), int(info.max), 0  # type: ignore[assignment]
    wants = {"sum": 0, "prod": 1, "max": low, "min": high, "mean": mean, "l1": 0, "sum_square": 0}
    if not dtype.is_int:
        wants |= {"l2": 0, "log_sum": -INF, "log_sum_exp": -INF}
    probes = []
    for name, want in wants.items():
        exact = np.full(3, want, None if not dtype.is_int else arrays.numpy_dtype(dtype))
        probes.append(probe(name, fold(name), [empty], exact, dtype=dtype))
    check(probes)


def test_any_and_all_of_nothing() -> None:
    empty = np.zeros((2, 0), bool)
    check(
        [
            probe("any", fold("any"), [empty], [False, False], dtype=BOOL),
            probe("all", fold("all"), [empty], [True, True], dtype=BOOL),
        ]
    )


@each(*INTS)
def test_folds_of_integers_wrap(dtype: DType) -> None:
    """Against Python's integers, taken modulo the width."""
    of = arrays.numpy_dtype(dtype)
    info = np.iinfo(of)
    low, top = int(info.min), int(info.max)

    def wrapped(number: int) -> int:
        return (number - low) % 2**dtype.bits + low

    probes = []
    for width in WIDTHS:
        rows = [[top] * width, [low] * width, ([top, low, 3] * width)[:width]]
        totals = [sum(r) for r in rows]
        products = [int(np.prod(np.array(r, object))) for r in rows]
        means = [abs(t) // width * (1 if t >= 0 else -1) for t in map(wrapped, totals)]
        for name, want in (
            ("sum", [wrapped(n) for n in totals]),
            ("prod", [wrapped(n) for n in products]),
            ("max", [max(r) for r in rows]),
            ("min", [min(r) for r in rows]),
            ("mean", means),
        ):
            probes.append(
                probe(
                    f"{name} of {width}",
                    fold(name),
                    [np.array(rows, of)],
                    np.array(want, of),
                    dtype=dtype,
                )
            )
        x = np.array(rows, of)
        want = [[wrapped(int(sum(int(v) for v in r[: i + 1]))) for i in range(width)] for r in rows]
        probes.append(probe("cumsum", _scan("cumsum"), [x], np.array(want, of), dtype=dtype))
        if dtype.bits >= 32:
            y = np.array([[top, low], *[[2, 3]] * (width - 1)], of)
            product = [
                [
                    wrapped(sum(int(p) * int(q) for p, q in zip(r, y[:, c], strict=True)))
                    for c in (0, 1)
                ]
                for r in rows
            ]
            probes.append(
                probe(
                    "matmul",
                    lambda b, x, y: b.matmul(x, y),
                    [x, y],
                    np.array(product, of),
                    dtype=dtype,
                )
            )
    check(probes)


def _scan(name: str) -> Callable[..., Any]:
    return lambda b, x: b.op(name, x, axis=1, exclusive=False, reverse=False).result


def _arg(name: str, last: bool = False) -> Callable[..., Any]:
    return lambda b, x: b.op(name, x, axis=1, keepdims=False, last=last).result


@each(*FLOAT_TYPES)
def test_places_and_orders(dtype: DType) -> None:
    """The first of equals; NaN is the extreme for argmax and argmin, and greatest in an order."""
    probes = []

    def add(label: str, make: Any, x: Any, want: Any) -> None:
        probes.append(probe(label, make, [x], want, dtype=dtype))

    for width in WIDTHS:
        ones = [1.0] * width
        last = width - 1
        add("argmax of equals", _arg("argmax"), [ones], [0])
        add("argmin of equals", _arg("argmin"), [ones], [0])
        add("last argmax of equals", _arg("argmax", last=True), [ones], [last])
        add("argmax of zeros", _arg("argmax"), [[-0.0] * last + [0.0]], [0])
        add("argmax of -inf", _arg("argmax"), [[-INF] * width], [0])
        add("argmin of inf", _arg("argmin"), [[INF] * width], [0])
        for at in {0, width // 2, last}:
            add("argmax with NaN", _arg("argmax"), [row(width, at, NAN, INF)], [at])
            add("argmin with NaN", _arg("argmin"), [row(width, at, NAN, -INF)], [at])
        add("cumsum", _scan("cumsum"), [row(width, width // 2, INF)], [
            [i + 1 if i < width // 2 else INF for i in range(width)]])  # fmt: skip
        add("cumprod", _scan("cumprod"), [row(width, width // 2, 0.0)], [
            [1.0 if i < width // 2 else 0.0 for i in range(width)]])  # fmt: skip
    add("argmax, two NaN", _arg("argmax"), [[1, NAN, INF, NAN]], [1])
    add("cumsum, inf - inf", _scan("cumsum"), [[1, INF, -INF, 1]], [[1, INF, NAN, NAN]])
    x = [[1.0, NAN, -INF, INF, 1.0, NAN, -0.0, 0.0]]
    for largest, order in ((True, [1, 5, 3, 0, 4, 6, 7, 2]), (False, [2, 6, 7, 0, 4, 3, 1, 5])):
        add("top_k values", lambda b, x, largest=largest: b.top_k(
            x, axis=1, k=8, largest=largest)[0], x, [[x[0][i] for i in order]])  # fmt: skip
        add("top_k places", lambda b, x, largest=largest: b.top_k(
            x, axis=1, k=8, largest=largest)[1], x, [order])  # fmt: skip
    check(probes)


@each(*FLOAT_TYPES)
def test_softmax_and_norms_at_their_ends(dtype: DType) -> None:
    t = LIMITS[dtype]
    probes = []

    def add(name: str, x: Any, want: Any, **attrs: Any) -> None:
        make = lambda b, x: b.op(name, x, **attrs).result  # noqa: E731
        probes.append(probe(f"{name} of {x[0][:3]}", make, [x], want, dtype=dtype, tol=4 * t.eps))

    for width in WIDTHS:
        nans, last = [NAN] * width, width - 1
        share = 1 / width
        add("softmax", [[-INF] * width], [nans], axis=1)
        add("softmax", [row(width, last, INF)], [nans], axis=1)
        add("softmax", [row(width, last, NAN)], [nans], axis=1)
        add("softmax", [[t.max] * width], [[share] * width], axis=1)
        add("softmax", [row(width, last, 1.0, -INF)], [row(width, last, 1.0, 0.0)], axis=1)
        add("log_softmax", [[-INF] * width], [nans], axis=1)
        add("log_softmax", [row(width, last, NAN)], [nans], axis=1)
        add("log_softmax", [row(width, last, 1.0, -INF)], [row(width, last, 0.0, -INF)], axis=1)
        add("layer_norm", [[0.25] * width], [[0.0] * width], axis=-1, eps=1e-3)
        add("layer_norm", [[0.0] * width], [[0.0] * width], axis=-1, eps=1e-3)
        add("layer_norm", [[0.25] * width], [nans], axis=-1, eps=0.0)
        add("layer_norm", [row(width, last, NAN)], [nans], axis=-1, eps=1e-3)
        add("layer_norm", [row(width, last, INF)], [nans], axis=-1, eps=1e-3)
        add("rms_norm", [[0.0] * width], [[0.0] * width], axis=-1, eps=1e-3)
        add("rms_norm", [[0.0] * width], [nans], axis=-1, eps=0.0)
    check(probes)


@each(*FLOAT_TYPES)
def test_products_of_infinities(dtype: DType) -> None:
    """0 * inf is NaN in matrix products, and padding makes no NaN of an infinite input."""
    probes = []
    for m, k, n in ((1, 1, 1), (3, 7, 5), (16, 16, 16), (7, 33, 33)):
        x = np.ones((m, k))
        y = np.ones((k, n))
        x[0, k // 2] = INF
        y[k // 2, n - 1] = 0.0
        with np.errstate(invalid="ignore"):
            want = x @ y
        assert np.isnan(want[0, -1])
        probes.append(probe("matmul", lambda b, x, y: b.matmul(x, y), [x, y], want, dtype=dtype))
    conv = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1}
    for channels, size in ((1, 5), (16, 9)):
        x = np.ones((1, channels, size, size))
        x[0, 0, 0, 0] = INF
        w = np.ones((2, channels, 3, 3))
        area = np.convolve(np.ones(size), np.ones(3), "same")
        want = np.broadcast_to(np.outer(area, area) * channels, (1, 2, size, size)).copy()
        want[:, :, :2, :2] = INF
        probes.append(
            probe("conv", lambda b, x, w: b.conv(x, w, **conv), [x, w], want, dtype=dtype)
        )
    check(probes)


@each(*FLOAT_TYPES)
def test_windows_with_special_numbers(dtype: DType) -> None:
    """Padding is no element of a maximum, nor of a mean that does not count it."""
    probes = []
    at = {"kernel": (3,), "strides": (1,), "pads": ((1, 1),), "dilations": (1,)}

    def add(name: str, x: Any, want: Any, **more: Any) -> None:
        make = lambda b, x: b.op(name, x, **at, **more).result  # noqa: E731
        probes.append(probe(name, make, [[[x]]], [[want]], dtype=dtype))

    for width in (4, 16, 33):
        rest = [1.0] * (width - 4)
        add("max_pool", [NAN, 1, 1, 1, *rest], [NAN, NAN, 1, 1, *rest])
        add("max_pool", [-INF, -INF, -2, 1, *rest], [-INF, -2, 1, 1, *rest])
        add("max_pool", [INF, 1, 1, 1, *rest], [INF, INF, 1, 1, *rest])
        add("avg_pool", [NAN, 1, 1, 1, *rest], [NAN, NAN, 1, 1, *rest], count_include_pad=False)
        add("avg_pool", [INF, 1, 1, 1, *rest], [INF, INF, 1, 1, *rest], count_include_pad=False)
    check(probes)


def _attention(b: GraphBuilder, q: Value, k: Value, v: Value, mask: Value) -> Value:
    scores = b.add(b.matmul(q, b.transpose(k, perm=(0, 2, 1))), mask)
    return b.matmul(b.softmax(scores, axis=-1), v)  # type: ignore[no-any-return]


def test_attention_has_nan_in_masked_rows_and_nowhere_else() -> None:
    """A row of which everything is masked by -inf is NaN; by a finite number it is a mean."""
    probes = []
    for length, size in ((5, 8), (33, 16), (130, 64)):
        generator = np.random.default_rng(length)
        q, k = (generator.uniform(-1, 1, (2, length, size)) for _ in range(2))
        v = generator.uniform(1, 2, (2, length, size))
        for hidden in (-INF, -1e9):
            mask = np.zeros((length, length))
            mask[1, :] = hidden
            mask[2, 1:] = hidden
            want = _attended(*(x.astype(np.float32).astype(float) for x in (q, k, v)), mask)
            assert np.isnan(want[:, 1]).all() == (hidden == -INF)
            assert np.isfinite(np.delete(want, 1, 1)).all()
            probes.append(probe(f"{length} by {size}", _attention, [q, k, v, mask], want, tol=1e-5))
    check(probes)


def _attended(q: Array, k: Array, v: Array, mask: Array) -> Array:
    scores = (q @ k.transpose(0, 2, 1)).astype(np.float32) + mask.astype(np.float32)
    with np.errstate(invalid="ignore"):
        weights = np.exp((scores - scores.max(-1, keepdims=True)).astype(np.float64))
        return np.asarray(weights / weights.sum(-1, keepdims=True) @ v)


def test_fast_convolution_spreads_nan_over_its_tile_at_most() -> None:
    """Winograd's transforms mix the elements of a tile; what is further away stays exact."""
    conv = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1}
    w = np.random.default_rng(0).uniform(-1, 1, (32, 32, 3, 3)).astype(np.float32)
    x = np.random.default_rng(1).uniform(-1, 1, (1, 32, 24, 24)).astype(np.float32)
    call = tfc.compile(
        Graph(graph([TensorType(F32, x.shape)], lambda b, x: b.conv(x, b.constant(w), **conv))),
        threads=1,
    )
    clean = call(x).copy()
    for value in (NAN, INF):
        x[0, 3, 8, 8] = value
        found = call(x)
        changed = np.argwhere((found != clean).any((0, 1)))
        assert not np.isfinite(found[0, :, 7:10, 7:10]).any()
        assert (np.abs(changed - 8) <= 7).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_special_numbers_survive_in_large_tensors(threads: int) -> None:
    """The same rules where several tasks share the work."""
    n = 70_001
    x = np.ones(n, np.float32)
    x[[0, n // 2, n - 1]] = [NAN, -INF, -0.0]

    def make(b: GraphBuilder, x: Value) -> list[Value]:
        rows = b.reshape(x, shape=(1, n))
        return [
            b.relu(b.neg(x)),
            b.reduce_max(rows, axes=(1,), keepdims=False),
            b.reduce_sum(
                b.select(b.isnan(rows), b.constant(0.0, F32), rows), axes=(1,), keepdims=False
            ),
            b.argmin(rows, axis=1, keepdims=False, last=False),
        ]

    found = tfc.compile(Graph(graph([TensorType(F32, (n,))], make)), threads=threads)(x)
    assert np.isnan(found[0][0])
    assert found[0][n // 2] == INF
    assert np.count_nonzero(found[0]) == 2
    assert np.isnan(found[1][0])
    assert found[2][0] == -INF
    assert found[3][0] == 0
