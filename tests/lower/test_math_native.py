"""Elementary functions as machine code: as exact on every level of this machine as in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.harness import TARGETS, Kernel, building
from tests.lower.math_cases import CASES, LONG, REAL, REFERENCE, arguments, corners, ulps
from tfc.compiler.lower.math import expand
from tfc.compiler.target import parse_target
from tfc.ir.arrays import Array, numpy_dtype
from tfc.ir.dims import symbol
from tfc.ir.loop.scalar import MATH
from tfc.ir.types import F32, F64, DType, buffer

LANES = 8
# Without a fused operation the reduced argument is as exact, but not relative to itself.
UNFUSED_TRIGONOMETRY = 16


def native(name: str, dtype: DType, target: str, *args: Array) -> Array:
    """Run the function over vectors; the number of elements is a multiple of LANES."""
    arity = MATH[name].arity
    n = symbol("N")
    with building([buffer(dtype, n)] * (arity + 1), ["N"]) as (b, function):
        *inputs, out = function.args
        with b.for_(0, n, step=LANES) as loop:
            read = [b.vload(x, [loop.index], LANES) for x in inputs]
            b.vstore(expand(b, name, read), out, [loop.index])
    result = np.empty_like(args[0])
    Kernel(function, parse_target(target))(*args, result, result.size)
    return result


def _whole_vectors(x: Array) -> Array:
    return np.ascontiguousarray(np.resize(x, -(-x.size // LANES) * LANES))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_machine_code_keeps_the_bound(name: str, dtype: DType, target: str) -> None:
    if dtype == F64 and not LONG:
        pytest.skip("long double is no longer than double here")
    single, double, bound32, bound64 = CASES[name]
    bound = bound32 if dtype == F32 else bound64
    x = arguments(dtype, *(single if dtype == F32 else double), 20_000)
    if name in ("sin", "cos", "tan"):
        bound = bound if parse_target(target).has_fma else UNFUSED_TRIGONOMETRY
    else:
        x = np.concatenate([x, corners(dtype)])
    x = _whole_vectors(x)
    with np.errstate(all="ignore"):
        want = np.asarray(REFERENCE[name](x.astype(REAL[dtype])))
    error = ulps(native(name, dtype, target, x), want)
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    assert error[worst] <= bound, f"{name}({x[worst]!r}) is off by {error[worst]:.2f} ulp"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_machine_code_of_pow_keeps_the_bound(dtype: DType, target: str) -> None:
    if dtype == F64 and not LONG:
        pytest.skip("long double is no longer than double here")
    kind = numpy_dtype(dtype)
    generator = np.random.default_rng(4)
    x = np.exp(generator.uniform(-20, 20, 20_000)).astype(kind)
    y = generator.uniform(-4, 4, x.size) * (1 if dtype == F32 else 8)
    ends, powers = (grid.reshape(-1) for grid in np.meshgrid(corners(dtype), corners(dtype)))
    x = _whole_vectors(np.concatenate([x, ends]))
    y = _whole_vectors(np.concatenate([y.astype(kind), powers]))
    with np.errstate(all="ignore"):
        want = np.power(x.astype(REAL[dtype]), y.astype(REAL[dtype]))
    error = ulps(native("pow", dtype, target, x, y), want)
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    assert error[worst] <= 2, f"pow({x[worst]!r}, {y[worst]!r}) is off by {error[worst]:.2f} ulp"
