"""Graphs built in Python: values, types, shapes, operators, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tfc.ir.types import BF16, BOOL, F16, F32, F64, I32, I64, U8, U64, DType


def test_a_constant_expression_prints_its_value_shape_and_type() -> None:
    x1 = tfc.constant(5)
    x2 = tfc.constant(6)
    assert str(x1 * x2) == "Tensor(30, shape=(), dtype=i64)"
    assert str(tfc.constant([1.5, 2]) + 1) == "Tensor([2.5, 3. ], shape=(2,), dtype=f32)"


def test_what_needs_an_input_prints_without_a_value() -> None:
    x = tfc.placeholder(("N", 3), name="x")
    assert str(x) == "Tensor(x, shape=(N, 3), dtype=f32)"
    assert str(x * 2) == "Tensor(mul, shape=(N, 3), dtype=f32)"
    with pytest.raises(tfc.UsageError, match="depends on a placeholder"):
        (x * 2).numpy()


def test_values_convert_to_python_and_numpy() -> None:
    x = tfc.constant(7) * 2
    assert (int(x), float(x), bool(x), x.item()) == (14, 14.0, True, 14)
    assert range(20)[x] == 14
    np.testing.assert_array_equal(np.asarray(tfc.constant([1, 2]) + 1), [2, 3])
    with pytest.raises(TypeError, match="no index"):
        range(20)[tfc.constant(1.0)]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (5, I64),
        (5.0, F32),
        (True, BOOL),
        ([1, 2], I64),
        ([1, 2.0], F32),
        (np.float64(1), F64),
        (np.zeros(2, np.uint8), U8),
        (np.float16(1), F16),
    ],
)
def test_constants_take_their_type_from_the_value(value: Any, dtype: DType) -> None:
    assert tfc.constant(value).dtype == dtype


def test_constants_take_the_type_they_are_given() -> None:
    assert tfc.constant(1, "f16").dtype == F16
    assert tfc.constant(1, np.int32).dtype == I32
    assert tfc.constant(1, "bfloat16").dtype == BF16
    with pytest.raises(tfc.UsageError, match="no element type"):
        tfc.constant(1, "f17")
    with pytest.raises(tfc.UsageError, match="no constant"):
        tfc.constant("text")


def test_a_constant_does_not_follow_its_array() -> None:
    array = np.ones(3, np.float32)
    x = tfc.constant(array)
    array[:] = 5
    np.testing.assert_array_equal(x.numpy(), [1, 1, 1])


@pytest.mark.parametrize(
    ("left", "right", "dtype"),
    [
        (I32, 2, I32),
        (I32, 2.5, F32),
        (F16, 2, F16),
        (F64, 2.5, F64),
        (BOOL, 2, I64),
        (U8, True, U8),
        (I32, I64, I64),
        (U8, I32, I32),
        (U8, tfc.constant(0, "i8"), DType("i16", "i", 16)),
        (I64, F16, F16),
        (F16, BF16, F32),
        (F16, F64, F64),
    ],
)
def test_types_of_operands_are_joined(left: DType, right: Any, dtype: DType) -> None:
    x = tfc.placeholder((2,), left)
    y = tfc.placeholder((2,), right) if isinstance(right, DType) else right
    assert (x + y).dtype == dtype
    assert (y + x).dtype == dtype


def test_u64_and_signed_types_are_not_joined() -> None:
    with pytest.raises(tfc.UsageError, match="no common type"):
        tfc.placeholder((2,), U64) + tfc.placeholder((2,), I64)


X = np.array([[-7.0, -0.5, 2.0], [3.5, 0.25, 9.0]], np.float32)
Y = np.array([2.0, 0.5, -4.0], np.float32)
K = np.array([-7, 7, 5, 0], np.int64)


@pytest.mark.parametrize(
    "expression",
    [
        lambda x, y: x + y,
        lambda x, y: 1 + x - 2,
        lambda x, y: 3 - x,
        lambda x, y: x * y,
        lambda x, y: 2 * x,
        lambda x, y: x / y,
        lambda x, y: 1 / y,
        lambda x, y: x // y,
        lambda x, y: 5 // y,
        lambda x, y: x % y,
        lambda x, y: abs(x) ** 2,
        lambda x, y: -x,
        lambda x, y: abs(x),
        lambda x, y: x < y,
        lambda x, y: x <= 2,
        lambda x, y: x > y,
        lambda x, y: x >= y,
        lambda x, y: x == 2,
        lambda x, y: x != 2,
        lambda x, y: (x > 0) & (y > 0),
        lambda x, y: (x > 0) | (y > 0),
        lambda x, y: (x > 0) ^ (y > 0),
        lambda x, y: ~(x > 0),
        lambda x, y: x @ y,
        lambda x, y: x @ x.T,
        lambda x, y: x.T,
        lambda x, y: x.transpose(1, 0),
        lambda x, y: x.reshape(3, 2),
        lambda x, y: x.reshape((-1,)),
        lambda x, y: x.reshape(-1, 2),
        lambda x, y: x.sum(),
        lambda x, y: x.sum(0),
        lambda x, y: x.sum(axis=-1, keepdims=True),
        lambda x, y: x.sum((0, 1)),
        lambda x, y: x.mean(1),
        lambda x, y: x.max(0),
        lambda x, y: x.min(),
        lambda x, y: x.prod(1),
        lambda x, y: (x > 0).any(0),
        lambda x, y: (x > 0).all(1),
        lambda x, y: x[0],
        lambda x, y: x[-1, 1:],
        lambda x, y: x[:, ::-1],
        lambda x, y: x[..., 0],
        lambda x, y: x[None, :, 1],
        lambda x, y: x[:, -2:-1],
        lambda x, y: x[1:1],
    ],
)
def test_operators_and_methods_do_what_numpys_do(expression: Any) -> None:
    got = expression(tfc.constant(X), tfc.constant(Y))
    wanted = expression(X, Y)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-6)


@pytest.mark.parametrize("divisor", [2, -2, 3, -3])
def test_integer_division_rounds_down(divisor: int) -> None:
    k = tfc.constant(K)
    np.testing.assert_array_equal((k // divisor).numpy(), K // divisor)
    np.testing.assert_array_equal((k % divisor).numpy(), K % divisor)
    np.testing.assert_allclose((k / divisor).numpy(), K / divisor)


def test_integers_have_bits() -> None:
    k = tfc.constant(K)
    for got, wanted in [
        (k & 3, K & 3),
        (k | 8, K | 8),
        (k ^ 5, K ^ 5),
        (~k, ~K),
        (k << 2, K << 2),
        (k >> 1, K >> 1),
    ]:
        np.testing.assert_array_equal(got.numpy(), wanted)


def test_every_op_is_a_function_with_its_documentation() -> None:
    x = tfc.constant(X)
    np.testing.assert_allclose(tfc.exp(x).numpy(), np.exp(X), rtol=1e-6)
    assert tfc.exp.__name__ == "exp"
    assert tfc.exp.__doc__
    soft = tfc.softmax(x, axis=0).numpy()
    np.testing.assert_allclose(soft.sum(axis=0), 1, rtol=1e-6)
    joined = tfc.concat(x, [[1, 2, 3]], axis=0)
    assert joined.shape == (3, 3)
    picked = tfc.select(x > 0, x, 0)
    np.testing.assert_array_equal(picked.numpy(), np.where(X > 0, X, 0))
    with pytest.raises(AttributeError, match="no attribute 'fused'"):
        _ = tfc.fused
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tfc.nonsense


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x + np.ones(2), r"add\(f64\[2, 3\], f64\[2\]\)"),
        (lambda x: tfc.relu(x, x), "takes 1 operands, not 2"),
        (lambda x: tfc.softmax(x, axis=5), "softmax"),
        (lambda x: tfc.softmax(x, axes=1), "softmax has no attribute 'axes'"),
        (lambda x: tfc.transpose(x), "transpose"),
        (lambda x: x @ x, "matmul"),
        (lambda x: x.sum(2), "axis 2 of a tensor of rank 2"),
        (lambda x: x.reshape(4, 4), "reshape"),
        (lambda x: x[0, 0, 0], "3 indices into a tensor of rank 2"),
        (lambda x: x[..., ...], "one ellipsis"),
        (lambda x: x[[0, 1]], "use tfc.gather"),
        (lambda x: tfc.placeholder((-1, 2)), "dim -1 is negative"),
    ],
)
def test_what_an_op_does_not_take_is_refused_at_once(call: Any, message: str) -> None:
    with pytest.raises(tfc.UsageError, match=message):
        call(tfc.constant(X))


def test_an_index_out_of_range_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="index 2 into an axis of size 2"):
        tfc.constant(X)[2]


def test_deep_expressions_need_no_deep_stack() -> None:
    x = tfc.constant(1)
    for _ in range(3000):
        x = x + 1
    assert x.item() == 3001
