"""Strassen's product: what is recognised, how exact each row and column is, threads, targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import Code, can_run, graph
from tfc.compiler.build import Options
from tfc.compiler.codegen.host import host_target
from tfc.compiler.driver import lower_module
from tfc.compiler.lower import strassen
from tfc.compiler.lower.planes import ERROR_LIMIT, FAST
from tfc.compiler.lower.program import lower
from tfc.compiler.lower.strassen import PAIRS, SINGLES, left_sums, powers_of, quarters
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import Target, parse_target
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import DimLike, symbol, symbols_of
from tfc.ir.loop.interp import run_program
from tfc.ir.loop.scalar import ScalarBuilder
from tfc.ir.types import F32, DType, TensorType
from tfc.ir.verify import verify

HOST = host_target()
LEVELS = [level for level in ("x86-64", "avx2", "avx512") if can_run(level)]


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def product_graph(
    x: tuple[DimLike, ...], w: Array, symbols: dict[str, SymbolInfo] | None = None
) -> Module:
    def make(b: GraphBuilder, value: Value) -> Value:
        return b.matmul(value, b.constant(w))  # type: ignore[no-any-return]

    return graph([TensorType(F32, x)], make, symbols)


def lowered(module: Module, target: Target = HOST, fast: frozenset[str] = FAST) -> Module:
    run(module, PassContext(target=target, level=2))
    program = lower(module, target, {}, fast=fast)
    verify(program)
    return program


def is_fast(program: Module) -> bool:
    """Whether a kernel has memory for each thread, which plain products have not."""
    return "threads" in symbols_of(program.main.attrs["workspace"])


def computed(x: Array, w: Array, target: Target = HOST) -> Array:
    program = lowered(product_graph(x.shape, w), target)
    assert is_fast(program)
    return Code([program], target).run(program, {"x0": x})["y0"]


def exact(x: Array, w: Array) -> Array:
    return x.astype(np.float64) @ w.astype(np.float64)


# -- the algorithm ------------------------------------------------------------------------------


class Integers(ScalarBuilder[Any]):
    """Computes with matrices of integers."""

    def scalar(self, name: str, args: tuple[Any, ...], dtype: DType) -> Any:
        return {"add": np.add, "sub": np.subtract}[name](*args)

    def dtype_of(self, value: Any) -> DType:
        return F32

    def const(self, value: float | complex, like: Any) -> Any:
        raise AssertionError


def test_seven_products_are_the_product_of_matrices() -> None:
    rng = np.random.default_rng(0)
    a, w = (rng.integers(-9, 10, (2, 2, 5, 5)) for _ in range(2))
    parts = [w[i, j] for i in range(2) for j in range(2)]
    rights = [parts[one] + sign * parts[other] for one, other, sign in PAIRS]
    rights += [parts[one] for one in SINGLES]
    lefts = left_sums(Integers(), [a[i, j] for i in range(2) for j in range(2)])
    found = quarters(Integers(), [x @ y for x, y in zip(lefts, rights, strict=True)])
    assert len(lefts) == 7
    for quarter, (i, j) in zip(found, np.ndindex(2, 2), strict=True):
        np.testing.assert_array_equal(quarter, a[i, 0] @ w[0, j] + a[i, 1] @ w[1, j])


def test_powers_of_two_are_at_or_below_the_largest_number() -> None:
    w = np.array([[0, -3, 1e-30, 4, 1e30, np.inf], [0, 1, 0, 4, 1, 0]], np.float32)
    found = powers_of(w)
    np.testing.assert_array_equal(found, [0, 2, 2.0**-60, 4, 2.0**60, 1])
    assert found.dtype == np.float32


# -- what is recognised -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "w"),
    [
        ((95, 512), (512, 512)),
        ((128, 511), (511, 512)),
        ((128, 512), (512, 511)),
        ((128, 64), (64, 64)),
        ((128, 512), (512, 16)),
    ],
)
def test_small_and_odd_products_stay_direct(x: tuple[int, ...], w: tuple[int, ...]) -> None:
    assert not is_fast(lowered(product_graph(x, numbers(*w))))


def test_unknown_rows_stay_direct() -> None:
    symbols = {"n": SymbolInfo(lo=100)}
    assert not is_fast(lowered(product_graph((symbol("n"), 512), numbers(512, 512), symbols)))


def test_weights_that_are_not_finite_stay_direct() -> None:
    w = numbers(512, 512)
    w[3, 5] = np.inf
    w[300, 256] = np.inf
    assert is_fast(lowered(product_graph((128, 512), numbers(512, 512))))
    assert not is_fast(lowered(product_graph((128, 512), w)))


def test_it_can_be_switched_off() -> None:
    module = product_graph((128, 512), numbers(512, 512))
    assert not is_fast(lowered(module, fast=frozenset({"winograd"})))
    for passes, fast in (({}, True), ({"disabled": {"strassen"}}, False)):
        options = Options(target=HOST, passes=passes, cache=None)
        program = lower_module(product_graph((128, 512), numbers(512, 512)), options)
        assert is_fast(program) is fast


# -- results ------------------------------------------------------------------------------------

SHAPES = [
    ((96, 256), 256),
    ((99, 258), 262),
    ((131, 520), 230),
    ((2, 3, 33, 384), 192),
    ((231, 400), 300),
    ((700, 300), 334),
    ((128, 1024), 96),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
def test_odd_sizes_equal_float64(shape: tuple[int, ...], outputs: int, level: str) -> None:
    x, w = numbers(*shape), numbers(shape[-1], outputs, seed=1)
    found, wanted = computed(x, w, parse_target(level)), exact(x, w)
    assert np.abs(found - wanted).max() <= ERROR_LIMIT / 8 * np.abs(wanted).max()


def test_transposed_weights_and_left_sides_with_gaps_are_read_where_they_lie() -> None:
    x, w = numbers(4, 2, 64, 256), numbers(320, 256, seed=1)

    def make(b: GraphBuilder, value: Value) -> Value:
        chosen = b.slice(value, starts=(0, 1, 0, 0), sizes=(4, 1, 64, 256), steps=(1, 1, 1, 1))
        y: Value = b.matmul(chosen, b.transpose(b.constant(w), perm=(1, 0)))
        return y

    program = lowered(graph([TensorType(F32, x.shape)], make))
    assert is_fast(program)
    found = Code([program], HOST).run(program, {"x0": x})["y0"]
    wanted = exact(x[:, 1:], w.T)
    assert np.abs(found - wanted).max() <= ERROR_LIMIT / 8 * np.abs(wanted).max()


def test_epilogues_are_evaluated_on_the_outputs() -> None:
    x, w, r, bias = numbers(101, 256), numbers(256, 256), numbers(101, 256, seed=2), numbers(256)

    def make(b: GraphBuilder, value: Value, other: Value) -> Value:
        y = b.add(b.matmul(value, b.constant(w)), b.constant(bias))
        y0: Value = b.relu(b.add(y, other))
        return y0

    program = lowered(graph([TensorType(F32, x.shape), TensorType(F32, r.shape)], make))
    assert is_fast(program)
    found = Code([program], HOST).run(program, {"x0": x, "x1": r})["y0"]
    wanted = np.maximum(exact(x, w) + bias + r, 0)
    assert np.abs(found - wanted).max() <= ERROR_LIMIT / 8 * np.abs(wanted).max()


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_columns_are_as_exact_as_their_own_size_allows(axis: int) -> None:
    x, w = numbers(128, 512), numbers(512, 256, seed=1)
    scales = np.float32(10) ** np.random.default_rng(2).integers(-9, 10, (128, 256)[axis])
    if axis == 0:
        x *= scales[:, None]
    else:
        w *= scales
    found, wanted = computed(x, w), exact(x, w)
    largest = np.abs(wanted).max(axis=1 - axis)
    assert (np.abs(found - wanted).max(axis=1 - axis) <= ERROR_LIMIT / 4 * largest).all()


def test_numbers_at_both_ends_of_the_range_are_computed() -> None:
    x, w = numbers(128, 512), numbers(512, 256, seed=1)
    x[0] *= np.float32(1e30)
    x[1] = 0
    x[2] *= np.float32(1e-36)
    x[3] *= np.float32(1e35)
    x[4] *= np.float32(1e-41)
    w[:, 7] = 0
    with np.errstate(all="ignore"):
        found, wanted = computed(x, w), exact(x, w)
    assert not found[1].any()
    assert not found[:, 7].any()
    normal = np.arange(128) != 4
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    assert (np.abs(found - wanted) <= ERROR_LIMIT / 4 * largest)[normal].all()
    assert np.abs(found[4] - wanted[4]).max() < 1e-42


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_leave_all_others_alone(odd: float) -> None:
    x, w = numbers(128, 512), numbers(512, 256, seed=1)
    usual = computed(x, w)
    x[5, 300] = odd
    found = computed(x, w)
    assert np.isnan(found[5]).all()
    rest = np.arange(128) != 5
    wanted = exact(x[rest], w)
    assert np.abs(found[rest] - wanted).max() <= ERROR_LIMIT / 8 * np.abs(wanted).max()
    others = rest & (np.arange(128) != 5 + 64)
    np.testing.assert_array_equal(found[others], usual[others])


@pytest.mark.parametrize("rows", [128, 700])
def test_threads_change_no_bit(rows: int) -> None:
    x = tfc.placeholder((rows, 512), name="x")
    w = numbers(512, 512)
    results = [
        tfc.compile(outputs=x @ w + 1, threads=threads)(numbers(rows, 512)).tobytes()
        for threads in (1, 2, 3)
    ]
    assert results[0] == results[1] == results[2]


def test_loops_mean_what_the_machine_code_does() -> None:
    x, w = numbers(97, 256), numbers(256, 224, seed=1)
    program = lowered(product_graph(x.shape, w))
    assert is_fast(program)
    native = Code([program], HOST).run(program, {"x0": x})["y0"]
    interpreted = run_program(program, {"x0": x}, {"threads": 3})["y0"]
    np.testing.assert_array_equal(native, interpreted)


def test_a_trial_refuses_what_is_not_exact_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strassen, "TRIAL_LIMIT", 1e-9)
    assert not is_fast(lowered(product_graph((128, 512), numbers(512, 512))))


def _errors(fast: frozenset[str], x: Array, w: Array) -> float:
    program = lowered(product_graph(x.shape, w), fast=fast)
    found, wanted = Code([program], HOST).run(program, {"x0": x})["y0"], exact(x, w)
    return float(np.sqrt(np.mean((found - wanted) ** 2)))


@pytest.mark.parametrize("make", [np.asarray, np.abs], ids=["both signs", "positive"])
def test_errors_are_at_most_three_times_the_direct_ones(make: Callable[[Array], Array]) -> None:
    x, w = make(numbers(128, 768)), numbers(768, 768, seed=1)
    assert _errors(FAST, x, w) <= 3 * _errors(frozenset(), x, w)
