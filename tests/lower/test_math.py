"""Elementary functions: errors in units in the last place, and what happens at the ends.

The emitted ops are evaluated in numpy, so nothing here depends on a code generator.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.lower.math_cases import (
    CASES,
    LONG,
    REAL,
    REFERENCE,
    arguments,
    corners,
    emit,
    evaluate,
    ulps,
)
from tfc.compiler.lower.math import EXPANSIONS
from tfc.ir.arrays import numpy_dtype
from tfc.ir.loop.scalar import MATH
from tfc.ir.types import F32, F64, I8, I32, I64, U8, U32, DType, ScalarType, VectorType


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_error_is_within_its_bound(name: str, dtype: DType) -> None:
    if dtype == F64 and not LONG:
        pytest.skip("long double is no longer than double here")
    single, double, bound32, bound64 = CASES[name]
    x = arguments(dtype, *(single if dtype == F32 else double))
    with np.errstate(all="ignore"):
        want = np.asarray(REFERENCE[name](x.astype(REAL[dtype])))
    error = ulps(evaluate(name, dtype, x), want)
    worst = int(np.nanargmax(np.where(np.isnan(error), np.inf, error)))
    bound = bound32 if dtype == F32 else bound64
    assert error[worst] <= bound, f"{name}({x[worst]!r}) is off by {error[worst]:.2f} ulp"


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_error_of_pow_is_within_its_bound(dtype: DType) -> None:
    if dtype == F64 and not LONG:
        pytest.skip("long double is no longer than double here")
    generator = np.random.default_rng(21)
    kind = numpy_dtype(dtype)
    x = np.concatenate([np.abs(arguments(dtype, -1e30, 1e30, 100_000)), np.ones(1000, kind)])
    x = np.concatenate([x, generator.uniform(0.99, 1.01, 50_000).astype(kind)])
    with np.errstate(all="ignore"):
        limit = np.log(np.finfo(kind).max) / np.abs(np.log(x.astype(np.float64)))
    y = generator.uniform(-1.04, 1.04, x.size) * np.minimum(limit, 1e6)
    y = np.where(generator.random(x.size) < 0.1, np.rint(y), y).astype(kind)
    with np.errstate(all="ignore"):
        want = np.power(x.astype(REAL[dtype]), y.astype(REAL[dtype]))
    error = ulps(evaluate("pow", dtype, x, y), want)
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    assert error[worst] <= 2, f"pow({x[worst]!r}, {y[worst]!r}) is off by {error[worst]:.2f} ulp"


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_corners_are_right(name: str, dtype: DType) -> None:
    x = corners(dtype)
    if name in ("sin", "cos", "tan"):
        x = x[~(np.isfinite(x) & (np.abs(x) > 1e5))]
    with np.errstate(all="ignore"):
        want = np.asarray(REFERENCE[name](x.astype(REAL[dtype])))
    got = evaluate(name, dtype, x)
    error = ulps(got, want)
    bad = ~(error <= CASES[name][3])
    assert not bad.any(), f"{name}({x[bad]}) is {got[bad]}, not {want[bad]}"


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", ["expm1", "log1p", "sin", "tan", "asin", "atan", "sinh", "tanh",
                                  "asinh", "atanh", "erf"])  # fmt: skip
def test_functions_with_a_root_at_zero_keep_its_sign_and_denormals(name: str, dtype: DType) -> None:
    least = np.finfo(numpy_dtype(dtype)).smallest_subnormal
    x = np.array([0.0, -0.0, least, -least, 5 * least], numpy_dtype(dtype))
    got = evaluate(name, dtype, x)
    want = x if name != "erf" else (x * numpy_dtype(dtype).type(2 / math.sqrt(math.pi)))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(x))


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_saturating_functions_end_at_one_exactly(name: str, dtype: DType) -> None:
    x = np.array([9.5, 20.0, 25.0, 1e30, math.inf], numpy_dtype(dtype))[2 * (dtype == F64) :]
    np.testing.assert_array_equal(evaluate(name, dtype, x), np.ones_like(x))
    np.testing.assert_array_equal(evaluate(name, dtype, -x), -np.ones_like(x))
    assert np.abs(evaluate(name, dtype, arguments(dtype, -30, 30, 20_000))).max() <= 1


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sine_and_cosine_stay_in_range_beyond_their_reduction(name: str, dtype: DType) -> None:
    x = arguments(dtype, -1e38, 1e38, 20_000)
    assert np.abs(evaluate(name, dtype, x)).max() <= 1


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_pow_of_special_numbers_is_that_of_c(dtype: DType) -> None:
    values = np.concatenate([corners(dtype), np.array([-2.5, 2.5, -3, -5], numpy_dtype(dtype))])
    x, y = (grid.reshape(-1) for grid in np.meshgrid(values, values))
    got = evaluate("pow", dtype, x, y)
    with np.errstate(all="ignore"):
        want = np.power(x.astype(REAL[dtype]), y.astype(REAL[dtype]))
    error = ulps(got, want)
    bad = ~(error <= 2)
    listed = list(zip(x[bad], y[bad], got[bad], want[bad], strict=True))
    assert not bad.any(), f"x, y, got, wanted: {listed[:8]}"
    ends = (got == 0) | np.isinf(got)
    np.testing.assert_array_equal(np.signbit(got[ends]), np.signbit(want[ends]))


@pytest.mark.parametrize("dtype", [I8, I32, I64, U8, U32], ids=str)
def test_pow_of_integers_wraps_and_truncates(dtype: DType) -> None:
    kind = numpy_dtype(dtype)
    low = 0 if dtype.kind == "u" else -9
    x, y = (g.reshape(-1).astype(kind) for g in np.meshgrid(np.arange(low, 10), np.arange(low, 70)))
    got = evaluate("pow", dtype, x, y)
    for base, exponent, power in zip(x.tolist(), y.tolist(), got, strict=True):
        if exponent >= 0:
            wide = base**exponent
        else:
            wide = {1: 1, -1: 1 - 2 * (exponent % 2)}.get(base, 0)
        bits = wide % 2**dtype.bits
        signed = bits - 2**dtype.bits if dtype.kind == "i" and bits >> (dtype.bits - 1) else bits
        assert int(power) == signed, (base, exponent)


def test_every_function_is_expanded() -> None:
    assert EXPANSIONS.keys() == MATH.keys()


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", MATH)
def test_vectors_expand_as_scalars_do(name: str, dtype: DType) -> None:
    scalar, _ = emit(name, ScalarType(dtype))
    vector, result = emit(name, VectorType(dtype, 8))
    assert result.type == VectorType(dtype, 8)
    assert [op.name for op in vector] == [op.name for op in scalar]
    assert all(isinstance(op.result.type, VectorType) for op in vector)


@pytest.mark.parametrize(("name", "most"), [("exp", 24), ("tanh", 22), ("erf", 34), ("log", 32)])
def test_common_functions_of_f32_stay_short(name: str, most: int) -> None:
    block, _ = emit(name, VectorType(F32, 16))
    count = sum(op.name not in ("const", "bitcast") for op in block)
    assert count <= most
