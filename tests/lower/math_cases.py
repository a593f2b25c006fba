"""Elementary functions and what is expected of them: references, bounds, arguments. Not tests.

f32 is held against numpy's float64, f64 against its long double.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfc.compiler.lower.math import expand
from tfc.ir.arrays import Array, numpy_dtype
from tfc.ir.core import Block, Op, Value
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.numeric import compute, number
from tfc.ir.loop.scalar import CORE, MATH
from tfc.ir.types import F32, F64, DType, ScalarType, Type, VectorType

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
    "sin": ((-1e8, 1e8), (-1e8, 1e8), 2, 2),
    "cos": ((-1e8, 1e8), (-1e8, 1e8), 2, 2),
    "tan": ((-1e8, 1e8), (-1e8, 1e8), 3, 3),
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


def corners(dtype: DType) -> Array:
    info = np.finfo(numpy_dtype(dtype))
    sizes = [
        0.0, 0.5, 1.0, 2.0, 3.0, 88.7, 89.5, 104.0, 709.7, 710.5, 746.0, 1e5, 1e30, math.inf,
        float(info.max), float(info.tiny), float(info.smallest_subnormal), 3.5 * float(info.tiny),
        1 - float(info.epsneg), 1 + float(info.eps),
    ]  # fmt: skip
    with np.errstate(over="ignore"):
        return np.array([*sizes, *(-x for x in sizes), math.nan], numpy_dtype(dtype))
