"""Elementary functions: errors in units in the last place, and what happens at the ends.

The emitted ops are evaluated in numpy, so nothing here depends on a code generator. f32 is held
against numpy's float64, f64 against its long double.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tfc.compiler.lower.math import EXPANSIONS, expand
from tfc.ir.arrays import Array, numpy_dtype
from tfc.ir.core import Block, Op, Value
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.numeric import compute, number
from tfc.ir.loop.scalar import CORE, MATH
from tfc.ir.types import F32, F64, I8, I32, I64, U8, U32, DType, ScalarType, Type, VectorType

LONG = np.finfo(np.longdouble).nmant > 60
REAL = {F32: np.float64, F64: np.longdouble}


def run_block(block: Block, known: dict[Value, Array]) -> tuple[Array, ...]:
    """Evaluate a block of scalar ops and `for` loops; return what its `yield` hands out."""
    for op in block:
        if op.name == "yield":
            return tuple(known[value] for value in op.operands)
        if op.name == "for":
            _run_for(op, known)
        elif op.name == "const":
            known[op.result] = number(op.attrs.value, op.attrs.dtype)
        else:
            assert op.name in CORE, f"{op.name} is not a core op"
            args = [known[value] for value in op.operands]
            assert isinstance(op.result.type, (ScalarType, VectorType))
            known[op.result] = compute(op.name, args, op.result.type.dtype)
    return ()


def _run_for(op: Op, known: dict[Value, Array]) -> None:
    lo, hi, *carried = (known[value] for value in op.operands)
    (body,) = op.regions
    for i in range(int(lo), int(hi), op.attrs.step):
        known |= dict(zip(body.args, (np.asarray(i), *carried), strict=True))
        carried = list(run_block(body, known))
    known |= dict(zip(op.results, carried, strict=True))


def emit(name: str, type: Type) -> tuple[Block, Value]:
    """A block whose arguments are those of the function, and the value of the function."""
    block = Block([type] * MATH[name].arity)
    return block, expand(LoopBuilder(block), name, block.args)


def evaluate(name: str, dtype: DType, *args: Array) -> Array:
    block, result = emit(name, ScalarType(dtype))
    arrays = [np.asarray(x, numpy_dtype(dtype)) for x in args]
    known = dict(zip(block.args, arrays, strict=True))
    run_block(block, known)
    return known[result]


def ulps(got: Array, want: Array) -> Array:
    """How far `got` is from the exact `want`, in units in the last place of its own type."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        unit = np.spacing(np.abs(rounded)).astype(want.dtype)
        error = np.abs(got.astype(want.dtype) - want) / unit
        same = (got == rounded) | (np.isnan(got) & np.isnan(want))
    return np.where(same, np.minimum(np.nan_to_num(error), 0.5), error)


def _long_erf(x: Array) -> Array:
    """2/sqrt(pi) * e**(-x*x) * sum of 2**n * x**(2*n+1) / (2*n+1)!!: no term cancels."""
    term = x.copy()
    total = x.copy()
    for n in range(1, 200):
        term = term * (2 * x * x) / (2 * n + 1)
        total = total + term
    root = np.sqrt(np.longdouble("3.14159265358979323846264338327950288"))
    return np.asarray(2 / root * np.exp(-x * x) * total)


def _erf(x: Array) -> Array:
    if x.dtype == np.longdouble:
        near = np.clip(x, -7, 7)
        return np.where(np.isnan(x), x, np.where(np.abs(x) > 7, np.sign(x), _long_erf(near)))
    return np.vectorize(math.erf, otypes=[np.float64])(x)


REFERENCE: dict[str, Callable[..., Any]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "erf": _erf,
    "pow": np.power,
}
# Where random arguments lie, and the bound in ulps for f32 and f64.
CASES: dict[str, tuple[tuple[float, float], tuple[float, float], float, float]] = {
    "exp": ((-104, 89), (-746, 710), 2, 2),
    "expm1": ((-20, 89), (-40, 710), 2, 2),
    "log": ((0, 100), (0, 100), 2, 2),
    "log1p": ((-1, 100), (-1, 100), 2, 2),
    "sin": ((-1e5, 1e5), (-1e8, 1e8), 2, 2),
    "cos": ((-1e5, 1e5), (-1e8, 1e8), 2, 2),
    "tan": ((-1e5, 1e5), (-1e8, 1e8), 3, 3),
    "asin": ((-1, 1), (-1, 1), 2, 2),
    "acos": ((-1, 1), (-1, 1), 2, 2),
    "atan": ((-20, 20), (-20, 20), 2, 2),
    "sinh": ((-90, 90), (-711, 711), 2.2, 2.2),
    "cosh": ((-90, 90), (-711, 711), 2, 2),
    "tanh": ((-10, 10), (-22, 22), 3, 3),
    "asinh": ((-100, 100), (-100, 100), 2, 2),
    "acosh": ((1, 100), (1, 100), 2, 2),
    "atanh": ((-1, 1), (-1, 1), 2, 2),
    "erf": ((-4.5, 4.5), (-6.5, 6.5), 3, 3),
}


def arguments(dtype: DType, lo: float, hi: float, count: int = 200_000) -> Array:
    """Uniform numbers of [lo, hi], and numbers of all sizes and both signs."""
    generator = np.random.default_rng(20)
    info = np.finfo(numpy_dtype(dtype))
    exponents = generator.uniform(info.minexp - info.nmant, info.maxexp, count // 2)
    sized = np.exp2(exponents - 1) * generator.uniform(1, 2, count // 2)
    sized *= generator.choice([-1.0, 1.0], count // 2)
    sized = sized[(sized >= lo) & (sized <= hi)]
    near = generator.uniform(max(lo, -3), min(hi, 3), count // 2)
    found = np.concatenate([generator.uniform(lo, hi, count), sized, near])
    return found.astype(numpy_dtype(dtype))


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


def corners(dtype: DType) -> Array:
    info = np.finfo(numpy_dtype(dtype))
    sizes = [
        0.0, 0.5, 1.0, 2.0, 3.0, 88.7, 89.5, 104.0, 709.7, 710.5, 746.0, 1e5, 1e30, math.inf,
        float(info.max), float(info.tiny), float(info.smallest_subnormal), 3.5 * float(info.tiny),
        1 - float(info.epsneg), 1 + float(info.eps),
    ]  # fmt: skip
    with np.errstate(over="ignore"):
        return np.array([*sizes, *(-x for x in sizes), math.nan], numpy_dtype(dtype))


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
