"""The numpy evaluator of body expressions: views, guards, reductions, data-dependent indices."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from tfc.ir import evalexpr
from tfc.ir.arrays import Array
from tfc.ir.body import Expr, ExprBuilder, Index, Iter, Keep, Range
from tfc.ir.core import Block, Value
from tfc.ir.dims import floordiv, maximum, minimum, mod, symbol
from tfc.ir.evalexpr import evaluate
from tfc.ir.types import BF16, BOOL, F32, I32, I64, TensorType

B = ExprBuilder()
P, J, K, R = (symbol(name) for name in "ijkr")


def tensor(*shape: int, dtype: object = F32) -> Value:
    return Block([TensorType(dtype, shape)]).args[0]  # type: ignore[arg-type]


def ramp(*shape: int) -> Array:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


X = tensor(6, 8)
A = ramp(6, 8)
VIEWS: dict[str, tuple[tuple[Index, ...], dict[str, int], Array]] = {
    "transposed": ((J, P), {"i": 8, "j": 6}, A.T),
    "flipped": ((5 - P, J), {"i": 6, "j": 8}, A[::-1]),
    "stepped": ((2 * P + 1, 3 * J), {"i": 3, "j": 3}, A[1::2, ::3]),
    "diagonal": ((P, P + 1), {"i": 6}, np.diagonal(A, 1)),
    "broadcast": ((P, 3), {"i": 6, "k": 2}, np.repeat(A[:, 3:4], 2, 1)),
    "windows": (
        (P + K, J), {"i": 4, "j": 8, "k": 3}, np.stack([A[k : k + 4] for k in range(3)], 2),
    ),
    "packed": ((J, 4 * P + K), {"i": 2, "j": 6, "k": 4}, A.reshape(6, 2, 4).transpose(1, 0, 2)),
    "unpacked": (
        (floordiv(J, 2), 4 * mod(J, 2) + K), {"j": 12, "k": 4}, A.reshape(12, 4),
    ),
    "flattened": ((floordiv(P, 8), mod(P, 8)), {"i": 48}, A.reshape(-1)),
    "split twice": (
        (mod(P, 6), mod(floordiv(P, 6), 4) * 2 + floordiv(P, 24)), {"i": 48},
        A.reshape(6, 4, 2).transpose(2, 1, 0).reshape(-1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VIEWS)
def test_affine_loads_are_views_not_gathers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index, iters, want = VIEWS[case]
    monkeypatch.delattr(evalexpr._Evaluator, "gather")
    np.testing.assert_array_equal(evaluate(B.load(X, index), iters, {X: A}), want)


@pytest.mark.parametrize("case", VIEWS)
def test_gathers_give_what_views_give(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index, iters, want = VIEWS[case]
    monkeypatch.setattr(evalexpr, "_view", lambda *args: None)
    np.testing.assert_array_equal(evaluate(B.load(X, index), iters, {X: A}), want)


def test_loads_of_strided_arrays_read_the_right_elements() -> None:
    wide = ramp(8, 12).T[::2]
    assert wide.shape == (6, 8)
    found = evaluate(B.load(X, (P, 7 - J)), {"i": 6, "j": 8}, {X: wide})
    np.testing.assert_array_equal(found, wide[:, ::-1])


@pytest.mark.parametrize("index", [(P + 1, J), (P, J - 1), (mod(7 * P, 9), J)])
def test_loads_out_of_bounds_are_errors(index: tuple[Index, ...]) -> None:
    with pytest.raises(IndexError, match="into an axis of"):
        evaluate(B.load(X, index), {"i": 6, "j": 8}, {X: A})


def test_indices_may_be_loads_and_clamped_dims() -> None:
    picks = tensor(4, dtype=I64)
    where = np.array([5, 0, 3, 3])
    found = evaluate(
        B.load(X, (B.load(picks, (P,)), minimum(maximum(J - 1, 0), 5))),
        {"i": 4, "j": 8},
        {X: A, picks: where},
    )
    np.testing.assert_array_equal(found, A[where][:, [0, 0, 1, 2, 3, 4, 5, 5]])


PADDED = np.pad(A, ((1, 2), (0, 3)), constant_values=-1)
GUARDS: dict[str, tuple[Range, ...]] = {
    "a box": (Range(P - 1, 0, 6), Range(J, 0, 8)),
    "negative coefficients": (Range(6 - P, 0, 6), Range(7 - J, 0, 8)),
    "a mask": (Range(floordiv(6 - P, 1), 0, 6), Range(J + 0 * K, 0, 8)),
}


@pytest.mark.parametrize("case", GUARDS)
def test_guards_keep_loads_in_bounds(case: str) -> None:
    guarded = B.guard(GUARDS[case], B.load(X, (P - 1, J)), B.const(-1, F32))
    np.testing.assert_array_equal(evaluate(guarded, {"i": 9, "j": 11}, {X: A}), PADDED)


def test_a_guard_over_two_iterators_masks() -> None:
    guarded = B.guard((Range(P + J, 0, 6),), B.load(X, (P + J, 0)), B.const(-1, F32))
    want = np.array([[8 * (i + j) if i + j < 6 else -1 for j in range(8)] for i in range(6)])
    np.testing.assert_array_equal(evaluate(guarded, {"i": 6, "j": 8}, {X: A}), want)


def test_a_guard_that_never_holds_loads_nothing() -> None:
    guarded = B.guard((Range(P, 50, 60),), B.load(X, (P, J)), B.const(-1, F32))
    found = evaluate(guarded, {"i": 6, "j": 8}, {X: A})
    np.testing.assert_array_equal(found, np.full((6, 8), -1))


def test_nested_guards_use_their_own_box() -> None:
    inner = B.guard((Range(J, 2, 5),), B.load(X, (P - 1, J)), B.const(-2, F32))
    outer = B.guard((Range(P, 1, 4),), inner, B.const(-1, F32))
    want = np.full((6, 8), -1.0)
    want[1:4] = -2
    want[1:4, 2:5] = A[0:3, 2:5]
    np.testing.assert_array_equal(evaluate(outer, {"i": 6, "j": 8}, {X: A}), want)


REDUCTIONS: dict[str, Callable[[Array], Array]] = {
    "sum": lambda x: x.sum(1),
    "prod": lambda x: x.prod(1, dtype=np.float64).astype(np.float32),
    "max": lambda x: x.max(1),
    "min": lambda x: x.min(1),
    "argmax": lambda x: x.argmax(1),
    "argmin": lambda x: x.argmin(1),
}


@pytest.mark.parametrize("chunk", [1, 1 << 24])
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions_fold_their_iterators(
    kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evalexpr, "_CHUNK", chunk)
    values = np.random.default_rng(0).permutation(48).reshape(6, 8).astype(np.float32)
    iters = (Iter("r", 8),)
    dtype = I64 if kind.startswith("arg") else F32
    reduced = B.reduce(kind, iters, B.load(X, (P, R)), dtype)
    np.testing.assert_array_equal(
        evaluate(reduced, {"i": 6}, {X: values}), REDUCTIONS[kind](values)
    )


def test_a_matrix_product_is_a_reduction() -> None:
    y = tensor(8, 3)
    other = ramp(8, 3)
    product = B.mul(B.load(X, (P, R)), B.load(y, (R, J)))
    found = evaluate(
        B.reduce("sum", (Iter("r", 8),), product, F32), {"i": 6, "j": 3}, {X: A, y: other}
    )
    np.testing.assert_array_equal(found, A @ other)


def test_a_reduction_of_what_does_not_vary_counts_every_step() -> None:
    total = B.reduce("sum", (Iter("r", 5), Iter("s", 2)), B.load(X, (P, 0)), F32)
    np.testing.assert_array_equal(evaluate(total, {"i": 6}, {X: A}), 10 * A[:, 0])


def test_the_last_of_equal_extremes_can_be_asked_for() -> None:
    ties = np.array([[1, 3, 3, 0, 3, 2, 0, 0]] * 6, np.float32)
    for last, want in ((False, 1), (True, 4)):
        expr = B.reduce("argmax", (Iter("r", 8),), B.load(X, (P, R)), I64, last)
        np.testing.assert_array_equal(evaluate(expr, {"i": 6}, {X: ties}), [want] * 6)


@pytest.mark.parametrize(
    ("kind", "want"),
    [("sum", 0), ("prod", 1), ("max", -np.inf), ("min", np.inf), ("argmax", 0), ("argmin", 0)],
)
def test_empty_reductions_give_the_identity(kind: str, want: float) -> None:
    dtype = I64 if kind.startswith("arg") else F32
    expr = B.reduce(kind, (Iter("r", symbol("N")),), B.load(X, (P, R)), dtype)
    found = evaluate(expr, {"i": 2}, {X: A}, {"N": 0})
    np.testing.assert_array_equal(found, [want, want])


def test_empty_reductions_of_integers_and_bools_give_the_identity() -> None:
    none = (Iter("r", 0),)
    for kind, dtype, want in (
        ("max", I32, -(2**31)), ("min", I32, 2**31 - 1), ("max", BOOL, False), ("min", BOOL, True),
        ("any", BOOL, False), ("all", BOOL, True),
    ):  # fmt: skip
        assert evaluate(B.reduce(kind, none, B.const(1, dtype), dtype), {}, {}) == want


def test_symbols_have_the_values_given() -> None:
    n = symbol("N")
    expr = B.load(X, (P, n - 1 - J))
    found = evaluate(expr, {"i": 6, "j": 4}, {X: A}, {"N": 4})
    np.testing.assert_array_equal(found, A[:, 3::-1])


def test_positions_are_numbers() -> None:
    found = evaluate(B.position(10 * P + J, F32), {"i": 2, "j": 3}, {})
    np.testing.assert_array_equal(found, np.array([[0, 1, 2], [10, 11, 12]], np.float32))
    assert found.dtype == np.float32


def test_bf16_is_rounded_and_held_as_f32() -> None:
    found = evaluate(B.cast(B.load(X, (P, 0)), BF16), {"i": 6}, {X: A + 1.00390625})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1, 9, 17, 25, 33, 41])


def test_what_is_kept_is_computed_as_well() -> None:
    kept: Expr = Keep(B.neg(B.load(X, (P, J))), X, (P, J), F32)
    np.testing.assert_array_equal(evaluate(kept, {"i": 6, "j": 8}, {X: A}), -A)


def test_an_empty_grid_computes_nothing() -> None:
    found = evaluate(B.load(X, (P, J)), {"i": 0, "j": 8}, {X: A})
    assert found.shape == (0, 8)
    assert found.dtype == np.float32


def test_repacking_four_million_weights_takes_less_than_a_second() -> None:
    """A bound far above what it takes (10 ms), but far below what computed indices would."""
    weights = tensor(2048, 2048)
    array = ramp(2048, 2048)
    expr = B.load(weights, (32 * P + K, J))
    start = time.perf_counter()
    found = evaluate(expr, {"i": 64, "j": 2048, "k": 32}, {weights: array})
    assert time.perf_counter() - start < 1
    np.testing.assert_array_equal(found, array.reshape(64, 32, 2048).transpose(0, 2, 1))
