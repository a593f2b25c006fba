"""Integers at the ends of their types: each operator wraps, compares and divides exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.frontends.dtype_cases import NEWEST, Template, Variant, one_model
from tests.frontends.support import Array, ints
from tfc import onnx_backend

TYPES = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
DEFAULT = (np.dtype(np.int8), np.dtype(np.uint64))
Entry = tuple[str, list[Any], dict[str, Any], tuple[int, ...], list[Array]]


def ends(dtype: np.dtype[Any]) -> Array:
    info = np.iinfo(dtype)
    below = [-1, -2] if info.min < 0 else []
    middle = [0, 1, 2, 3, info.max // 2, info.max // 2 + 1]
    return np.array([info.min, info.min + 1, *middle, info.max - 1, info.max, *below], dtype)


def wrapped(numbers: Any, dtype: np.dtype[Any]) -> Array:
    """Python's numbers of any size in a type."""
    exact = np.asarray(numbers, object)
    size = 1 << np.iinfo(dtype).bits
    found = np.array([int(n) % size for n in exact.reshape(-1)], f"u{dtype.itemsize}")
    return found.view(dtype).reshape(exact.shape)


def quotient(a: int, b: int) -> int:
    """Towards zero."""
    found = abs(a) // abs(b)
    return found if (a < 0) == (b < 0) else -found


def each(function: Callable[[int, int], int], x: Array, y: Array) -> Array:
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    return np.array([function(a, b) for a, b in pairs] + [None], object)[:-1]


def _pairs(dtype: np.dtype[Any]) -> Iterator[Entry]:
    numbers = ends(dtype)
    x, y = (v.reshape(-1) for v in np.meshgrid(numbers, numbers))
    a, b = x.astype(object), y.astype(object)
    arithmetic = {"Add": a + b, "Sub": a - b, "Mul": a * b}
    for op, exact in arithmetic.items():
        yield op, [x, y], {}, (), [wrapped(exact, dtype)]
    u, v = x[y != 0], y[y != 0]
    remainder = each(lambda m, n: m - n * quotient(m, n), u, v)
    yield "Div", [u, v], {}, (), [wrapped(each(quotient, u, v), dtype)]
    yield "Mod", [u, v], {}, (), [wrapped(each(lambda m, n: m % n, u, v), dtype)]
    yield "Mod", [u, v], {"fmod": 1}, (), [wrapped(remainder, dtype)]
    for op, compare in (
        ("Less", np.less), ("LessOrEqual", np.less_equal), ("Greater", np.greater),
        ("GreaterOrEqual", np.greater_equal), ("Equal", np.equal), ("Max", np.maximum),
        ("Min", np.minimum), ("BitwiseAnd", np.bitwise_and), ("BitwiseXor", np.bitwise_xor),
    ):  # fmt: skip
        yield op, [x, y], {}, (), [compare(x, y)]
    yield "Where", [x > y, x, y], {}, (), [np.maximum(x, y)]


def _single(dtype: np.dtype[Any]) -> Iterator[Entry]:
    x, bits = ends(dtype), np.iinfo(dtype).bits
    exact = x.astype(object)
    yield "Abs", [x], {}, (), [wrapped(abs(exact), dtype)]
    yield "Sign", [x], {}, (), [np.sign(x)]
    yield "BitwiseNot", [x], {}, (), [~x]
    if dtype.kind == "i":
        yield "Neg", [x], {}, (), [wrapped(-exact, dtype)]
        yield "Relu", [x], {}, (), [np.maximum(x, 0)]
    for by in (1, bits - 1, bits, bits + 1):
        n = np.full_like(x, by)
        left = [m << by for m in x.tolist()]
        yield "BitShift", [x, n], {"direction": "LEFT"}, (), [wrapped(left, dtype)]
        right = [m >> by for m in x.tolist()]
        yield "BitShift", [x, n], {"direction": "RIGHT"}, (), [wrapped(right, dtype)]
    for constant in ((), (1, 2)):
        yield "Clip", [x, x[1], x[8]], {}, constant, [np.clip(x, x[1], x[8])]
    for other in TYPES:
        to = {"to": helper.np_dtype_to_tensor_dtype(other)}
        yield "Cast", [x], to, (), [wrapped(exact, other)]
    for real in (np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.bool_)):
        yield "Cast", [x], {"to": helper.np_dtype_to_tensor_dtype(real)}, (), [x.astype(real)]
    # What each element is the sum or the greatest of.
    added, greatest = exact.copy(), x.copy()
    added[0] += exact[-3] + exact[-2]
    added[1] += exact[-1]
    np.maximum.at(greatest, ints(0, 0, 1), x[-3:])
    places = [x, ints(0, 0, 1), x[-3:]]
    yield "ScatterElements", places, {"reduction": "add"}, (), [wrapped(added, dtype)]
    yield "ScatterElements", places, {"reduction": "max"}, (), [greatest]


def _rows(dtype: np.dtype[Any]) -> Iterator[Entry]:
    x = np.resize(ends(dtype), (3, 5))
    exact = x.astype(object)
    flat: dict[str, Any] = {"keepdims": 0}
    yield "ReduceMax", [x, ints(1)], flat, (1,), [x.max(1)]
    yield "ReduceMin", [x, ints(0)], flat, (1,), [x.min(0)]
    yield "ArgMax", [x], {"axis": 1, **flat}, (), [x.argmax(1)]
    yield "ArgMin", [x], {"axis": 0, **flat}, (), [x.argmin(0)]
    different = np.random.default_rng(0).permutation(np.unique(x))
    down = np.argsort(different)[::-1][:4]
    yield "TopK", [different, ints(4)], {}, (1,), [different[down], down]
    up = np.argsort(different)[:4]
    yield "TopK", [different, ints(4)], {"largest": 0}, (1,), [different[up], up]
    yield "Einsum", [x, x], {"equation": "ij,ij->i"}, (), [wrapped((exact**2).sum(1), dtype)]
    if dtype.itemsize < 4:
        return
    yield "ReduceSum", [x, ints(1)], flat, (1,), [wrapped(exact.sum(1), dtype)]
    yield "ReduceProd", [x, ints(1)], flat, (1,), [wrapped(exact.prod(1), dtype)]
    yield "ReduceL1", [x, ints(1)], flat, (1,), [wrapped(abs(exact).sum(1), dtype)]
    yield "ReduceSumSquare", [x, ints(1)], flat, (1,), [wrapped((exact**2).sum(1), dtype)]
    yield "CumSum", [x, np.int64(1)], {}, (1,), [wrapped(exact.cumsum(1), dtype)]
    yield "MatMul", [x, x.T.copy()], {}, (), [wrapped(exact @ exact.T, dtype)]
    if dtype.kind == "i":
        yield "Pow", [x, np.array(3, dtype)], {}, (), [wrapped(exact**3, dtype)]


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(t, marks=() if t in DEFAULT else pytest.mark.slow, id=str(t)) for t in TYPES],
)
def test_operators_are_exact_at_the_ends_of_the_type(dtype: np.dtype[Any]) -> None:
    entries = [*_pairs(dtype), *_single(dtype), *_rows(dtype)]
    nodes = []
    for op, arrays, attrs, constant, expected in entries:
        template = Template(op, arrays, attrs, constant, len(expected))
        nodes.append((Variant(template, "", ""), [np.asarray(array) for array in arrays]))
    model, feeds = one_model(nodes)
    assert model.opset_import[0].version == NEWEST
    found = iter(onnx_backend.prepare(model).run(feeds))
    for op, arrays, attrs, _, expected in entries:
        for want in expected:
            have = next(found)
            assert have.dtype == want.dtype, op
            np.testing.assert_array_equal(have, want, f"{op} {attrs} of {arrays}")
