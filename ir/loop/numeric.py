"""The scalar vocabulary in numpy, on whole arrays: what each op of `ir.loop.scalar` computes.

bf16 values are held as float32 arrays that are exact in bf16. Start at `compute`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.ir import arrays
from tfc.ir.attrs import Dense
from tfc.ir.types import BF16, BOOL, F64, DType

Array = npt.NDArray[Any]


def register_dtype(dtype: DType) -> np.dtype[Any]:
    """Return the numpy dtype that holds a value of `dtype` while it is computed with."""
    return np.dtype(np.float32) if dtype == BF16 else arrays.numpy_dtype(dtype)


def int_range(dtype: DType) -> tuple[int, int]:
    """Return the least and the greatest number of an integer type."""
    if dtype.kind == "u":
        return 0, (1 << dtype.bits) - 1
    return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1


def convert(x: Array, dtype: DType) -> Array:
    """Cast: floats saturate to integers with NaN as 0; other narrowing wraps."""
    if dtype == BOOL:
        return np.asarray(x != 0)
    if dtype == BF16:
        wide = x.astype(np.float32)
        return arrays.decode(arrays.encode(wide, BF16), BF16)
    target = arrays.numpy_dtype(dtype)
    if x.dtype.kind != "f" or dtype.is_float:
        return x.astype(target, copy=False)
    lo, hi = int_range(dtype)
    wide = x.astype(np.float64)
    high = wide >= float(hi)
    inside = (wide > float(lo)) & ~high
    out = np.where(inside, wide, 0.0).astype(target)
    out = np.where(high, target.type(hi), out)
    return np.where(wide <= float(lo), target.type(lo), out)


def reinterpret(x: Array, dtype: DType) -> Array:
    """Bitcast between types of one width; a bf16 has 16 bits, though it is held as float32."""
    if dtype.bits == 16 and x.dtype == np.float32:
        x = arrays.encode(x, BF16)
    if dtype == BF16:
        return arrays.decode(np.ascontiguousarray(x).view(np.uint16), BF16).reshape(x.shape)
    return np.ascontiguousarray(x).view(register_dtype(dtype)).reshape(x.shape)


def _div(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return np.asarray(np.divide(x, y))
    quotient = np.floor_divide(x, np.where(y == 0, y.dtype.type(1), y))
    if x.dtype.kind == "i":
        uneven = quotient * y != x
        quotient = quotient + (uneven & ((x < 0) != (y < 0))).astype(x.dtype)
    return np.where(y == 0, x.dtype.type(0), quotient)


def _rem(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return np.asarray(np.fmod(x, y))
    return np.asarray(x - _div(x, y) * y)


def _shift(shift: Callable[..., Any], left: bool) -> Callable[..., Array]:
    def run(x: Array, y: Array) -> Array:
        fits = (y >= 0) & (y < x.dtype.itemsize * 8)
        shifted = shift(x, np.where(fits, y, y.dtype.type(0)))
        beyond = x.dtype.type(0) if left else np.where(x < 0, ~x.dtype.type(0), x.dtype.type(0))
        return np.asarray(np.where(fits, shifted, beyond))

    return run


def _mulhi(x: Array, y: Array) -> Array:
    bits = x.dtype.itemsize * 8
    if bits < 64:
        wide = np.int64 if x.dtype.kind == "i" else np.uint64
        product = x.astype(wide) * y.astype(wide)
        return np.asarray(product >> wide(bits)).astype(x.dtype)
    return np.asarray((x.astype(object) * y.astype(object)) >> bits).astype(x.dtype)


def _fma(x: Array, y: Array, z: Array) -> Array:
    """Rounded once, up to a rare double rounding in the last place."""
    if x.dtype != np.float64:
        wide = x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)
        return np.asarray(wide).astype(x.dtype)
    # Error-free product (Dekker) and sum (Knuth); 134217729 is 2**27 + 1.
    product = x * y
    split_x, split_y = x * 134217729.0, y * 134217729.0
    xh, yh = split_x - (split_x - x), split_y - (split_y - y)
    xl, yl = x - xh, y - yh
    low = ((xh * yh - product) + xh * yl + xl * yh) + xl * yl
    total = product + z
    back = total - product
    error = (product - (total - back)) + (z - back)
    exact = total + (error + low)
    return np.where(np.isfinite(exact), exact, total)


def _in_f64(fn: Callable[..., Any]) -> Callable[..., Array]:
    def run(*args: Array) -> Array:
        wide = (arg.astype(np.float64, copy=False) for arg in args)
        return np.asarray(fn(*wide)).astype(args[0].dtype, copy=False)

    return run


_erf = np.frompyfunc(math.erf, 1, 1)


def _pow(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return _in_f64(np.power)(x, y)
    one, zero = x.dtype.type(1), x.dtype.type(0)
    out = np.power(x, np.maximum(y, zero))
    if x.dtype.kind == "u":
        return np.asarray(out)
    unit = np.where(x == 1, one, np.where(x == -1, np.where(y & one == one, -one, one), zero))
    return np.asarray(np.where(y < 0, unit, out))


def _logical(bools: Callable[..., Any], bits: Callable[..., Any]) -> Callable[..., Array]:
    return lambda *args: np.asarray((bools if args[0].dtype == np.bool_ else bits)(*args))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _div,
    "rem": _rem,
    "min": np.minimum,
    "max": np.maximum,
    "and": _logical(np.logical_and, np.bitwise_and),
    "or": _logical(np.logical_or, np.bitwise_or),
    "xor": _logical(np.logical_xor, np.bitwise_xor),
    "shl": _shift(np.left_shift, left=True),
    "shr": _shift(np.right_shift, left=False),
    "mulhi": _mulhi,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "neg": np.negative,
    "abs": np.abs,
    "not": _logical(np.logical_not, np.bitwise_not),
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "round": np.rint,
    "isnan": np.isnan,
    "fma": _fma,
    "select": np.where,
    "exp": _in_f64(np.exp),
    "expm1": _in_f64(np.expm1),
    "log": _in_f64(np.log),
    "log1p": _in_f64(np.log1p),
    "sin": _in_f64(np.sin),
    "cos": _in_f64(np.cos),
    "tan": _in_f64(np.tan),
    "asin": _in_f64(np.arcsin),
    "acos": _in_f64(np.arccos),
    "atan": _in_f64(np.arctan),
    "sinh": _in_f64(np.sinh),
    "cosh": _in_f64(np.cosh),
    "tanh": _in_f64(np.tanh),
    "asinh": _in_f64(np.arcsinh),
    "acosh": _in_f64(np.arccosh),
    "atanh": _in_f64(np.arctanh),
    "erf": _in_f64(lambda x: np.asarray(_erf(x), np.float64)),
    "pow": _pow,
}


def number(value: float | complex, dtype: DType) -> Array:
    """Return a literal as a 0-d array; those of complex types are bits."""
    if dtype.kind == "c":
        assert isinstance(value, int)
        bits = np.frombuffer(value.to_bytes(dtype.bytes, "little"), arrays.numpy_dtype(dtype))
        return bits.reshape(())
    if dtype == BF16:
        return convert(np.asarray(value, arrays.numpy_dtype(F64)), BF16)
    return np.asarray(value).astype(register_dtype(dtype))


def lookup(values: Dense, dtype: DType, x: Array) -> Array:
    """The elements of a table that bytes count to."""
    return np.asarray(arrays.make(list(values.values), dtype)[x])


def compute(name: str, args: Sequence[Array], dtype: DType) -> Array:
    """Return scalar op `name` on arrays that broadcast; `dtype` is the result's element type."""
    with np.errstate(all="ignore"):
        if name == "cast":
            return convert(args[0], dtype)
        if name == "bitcast":
            return reinterpret(args[0], dtype)
        return np.asarray(FUNCTIONS[name](*args))
