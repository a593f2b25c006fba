"""Every scalar op on every element type it takes, as scalar and as vector, against numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.codegen.harness import TARGETS, Array, Kernel, all_targets, building
from tfc.compiler.codegen.scalar_llvm import CORE_LLVM
from tfc.compiler.target import parse_target
from tfc.ir.arrays import decode, encode, numpy_dtype
from tfc.ir.loop.nodes import ScalarAttrs
from tfc.ir.loop.scalar import CORE, ScalarOp
from tfc.ir.types import (
    BF16,
    BOOL,
    DTYPES,
    F16,
    F32,
    F64,
    FLOATS,
    INTS,
    DType,
    VectorType,
    buffer,
)

KINDS = [dtype for dtype in DTYPES.values() if dtype.kind not in "cs"]
LANES = 8
Reference = Callable[..., Array]


def _truncated(x: Array, y: Array) -> tuple[Array, Array]:
    quotients, remainders = [], []
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        q = 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        quotients.append(q)
        remainders.append(a - q * b)
    return _wrapped(quotients, x.dtype), _wrapped(remainders, x.dtype)


def _wrapped(numbers: Sequence[int], dtype: Any) -> Array:
    mask = (1 << 8 * dtype.itemsize) - 1
    raw = np.array([number & mask for number in numbers], np.uint64)
    return raw.astype(np.dtype(f"u{dtype.itemsize}")).view(dtype)


def _by_integers(fn: Callable[[int, int], int]) -> Reference:
    def reference(x: Array, y: Array) -> Array:
        pairs = zip(x.tolist(), y.tolist(), strict=True)
        return _wrapped([fn(a, b) for a, b in pairs], x.dtype)

    return reference


def _bits(x: Array) -> int:
    return 8 * x.dtype.itemsize


def _shl(x: Array, y: Array) -> Array:
    bits = _bits(x)
    unsigned = [n % (1 << bits) for n in y.tolist()]
    return _wrapped(
        [a << n if n < bits else 0 for a, n in zip(x.tolist(), unsigned, strict=True)], x.dtype
    )


def _shr(x: Array, y: Array) -> Array:
    bits = _bits(x)
    unsigned = [min(n % (1 << bits), bits) for n in y.tolist()]
    return _wrapped([a >> n for a, n in zip(x.tolist(), unsigned, strict=True)], x.dtype)


def _mulhi(x: Array, y: Array) -> Array:
    return _by_integers(lambda a, b: (a * b) >> _bits(x))(x, y)


def _div(x: Array, y: Array) -> Array:
    return x / y if x.dtype.kind == "f" else _truncated(x, y)[0]


def _rem(x: Array, y: Array) -> Array:
    return np.fmod(x, y) if x.dtype.kind == "f" else _truncated(x, y)[1]


def _fma(x: Array, y: Array, z: Array) -> Array:
    rounded = x * y + z  # where a limit is reached
    for i in np.flatnonzero(np.isfinite(rounded)):
        exact = sum(
            (Fraction(float(x[i])) * Fraction(float(y[i])), Fraction(float(z[i]))), Fraction(0)
        )
        near = x.dtype.type(float(exact))
        choices = [near, *(np.nextafter(near, x.dtype.type(way)) for way in (-math.inf, math.inf))]
        # float() rounded to f64; the nearest f32, of two equally near ones the even one.
        rounded[i] = min(
            (v for v in choices if np.isfinite(v)),
            key=lambda v: (abs(Fraction(float(v)) - exact), _last_bit(v)),
        )
    return rounded


def _last_bit(value: Any) -> int:
    return int.from_bytes(value.tobytes(), "little") & 1


REFERENCES: dict[str, Reference] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _div,
    "rem": _rem,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": _shl,
    "shr": _shr,
    "mulhi": _mulhi,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "neg": lambda x: (0 - x) if x.dtype.kind == "u" else -x,
    "abs": np.abs,
    "not": np.invert,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "round": np.rint,
    "isnan": np.isnan,
    "fma": _fma,
    "select": lambda c, x, y: np.where(c, x, y),
}
CASTS = ("cast", "bitcast")


def samples(dtype: DType) -> Array:
    """Return numbers at which something may go wrong, and ordinary ones."""
    rng = np.random.default_rng(7)
    if dtype == BOOL:
        return np.array([False, True])
    if dtype.is_float:
        special = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            -0.5,
            1.5,
            2.5,
            -2.5,
            3.0,
            -7.25,
            127.6,
            255.5,
            -128.7,
        ]
        special += [math.inf, -math.inf, math.nan, 1e-3, 6.0e-8, 1e-40, 65504.0, 65520.0, 3e9]
        special += [
            1e10,
            -1e10,
            2**31 - 128,
            2.0**31,
            2.0**32,
            2.0**63,
            2.0**64,
            8388607.5,
            4503599.5,
        ]
        raw = np.concatenate([np.array(special), rng.standard_normal(6) * 10])
        with np.errstate(over="ignore"):
            narrow = raw.astype(np.float64 if dtype == F64 else np.float32)
            return encode(narrow, dtype)
    limits = np.iinfo(numpy_dtype(dtype))
    special_ints = [0, 1, 2, 3, 5, 7, dtype.bits - 1, dtype.bits, limits.max, limits.max - 1]
    if dtype.kind == "i":
        special_ints += [-1, -2, -3, -7, limits.min, limits.min + 1]
    rest = rng.integers(limits.min, limits.max, 6, numpy_dtype(dtype), endpoint=True)
    return np.concatenate([np.array(special_ints, numpy_dtype(dtype)), rest])


def operands(op: ScalarOp, dtype: DType) -> tuple[Array, ...]:
    """Return arrays of all combinations of samples, their length a multiple of the lanes."""
    base = samples(dtype)
    if op.name == "fma":
        base = base[::3]
    choices = [np.array([False, True])] if op.name == "select" else []
    choices += [base] * (op.arity - len(choices))
    grid = np.array(list(itertools.product(*(range(len(choice)) for choice in choices))))
    count = -(-len(grid) // LANES) * LANES
    index = np.resize(grid, (count, grid.shape[1]))
    return tuple(choice[index[:, i]] for i, choice in enumerate(choices))


def run(
    name: str, inputs: Sequence[tuple[Array, DType]], result: DType, target: str
) -> tuple[Array, Array]:
    """Return what the op gives element by element and vector by vector."""
    count = len(inputs[0][0])
    types = [buffer(dtype, count) for _, dtype in inputs]
    attrs = ScalarAttrs(result if name in CASTS else None)
    with building([*types, buffer(result, count), buffer(result, count)]) as (b, function):
        *sources, scalars, vectors = function.args
        with b.for_(0, count) as loop:
            args = [b.load(source, loop.index) for source in sources]
            b.store(b.emit(name, args, attrs).result, scalars, loop.index)
        with b.for_(0, count, step=LANES) as loop:
            args = [b.vload(source, [loop.index], LANES) for source in sources]
            b.vstore(b.emit(name, args, attrs).result, vectors, [loop.index])
    outputs = [np.zeros(count, numpy_dtype(result)) for _ in range(2)]
    Kernel(function, parse_target(target))(
        *(np.ascontiguousarray(array) for array, _ in inputs), *outputs
    )
    return outputs[0], outputs[1]


def same(actual: Array, expected: Array, dtype: DType) -> None:
    """Compare bit by bit, any NaN being like any other."""
    if not dtype.is_float:
        np.testing.assert_array_equal(actual, expected)
        return
    got, wanted = decode(actual, dtype), decode(expected, dtype)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    keep = ~np.isnan(wanted)
    np.testing.assert_array_equal(got[keep], wanted[keep])


def test_the_table_has_every_core_op_and_no_other() -> None:
    assert set(CORE_LLVM) == set(CORE)
    assert set(REFERENCES) | set(CASTS) == set(CORE)


CASES = [
    (name, dtype.name)
    for name, op in CORE.items()
    if name not in CASTS
    for dtype in KINDS
    if dtype.kind in op.kinds
]


@all_targets
@pytest.mark.parametrize(("name", "dtype_name"), CASES)
def test_op_equals_numpy(name: str, dtype_name: str, target: str) -> None:
    op, dtype = CORE[name], DTYPES[dtype_name]
    arrays = operands(op, dtype)
    dtypes = [BOOL if name == "select" and i == 0 else dtype for i in range(op.arity)]
    result = BOOL if op.result == "bool" else dtype
    actual = run(name, list(zip(arrays, dtypes, strict=True)), result, target)
    wide = [decode(a, d) for a, d in zip(arrays, dtypes, strict=True)]
    if dtype == F16:
        wide = [a.astype(np.float32) if a.dtype == np.float16 else a for a in wide]
    with np.errstate(all="ignore"):
        expected = REFERENCES[name](*wide)
        if name == "fma" and not parse_target(target).has_fma:
            expected = wide[0] * wide[1] + wide[2]
        expected = encode(expected, result) if result != BOOL else expected.astype(bool)
    for array in actual:
        same(array, expected, result)
        if dtype.is_float and name in ("neg", "abs", "floor", "ceil", "trunc", "round", "rem"):
            zero = decode(expected, dtype) == 0
            signs = [np.signbit(decode(a, dtype)[zero]) for a in (array, expected)]
            np.testing.assert_array_equal(*signs)


def _cast(array: Array, source: DType, to: DType) -> Array:
    wide = decode(array, source)
    if to == BOOL:
        return wide != 0
    if source.is_float and to.is_int:
        limits = np.iinfo(numpy_dtype(to))
        numbers = [
            0 if math.isnan(v) else limits.max if v > limits.max else
            limits.min if v < limits.min else int(v)
            for v in wide.astype(np.float64).tolist()
        ]  # fmt: skip
        return np.array(numbers, numpy_dtype(to))
    if to.is_float:
        if to in (F16, BF16) and not (source == F64 and to == F16):
            wide = wide.astype(np.float32)
        return encode(wide, to)
    return wide.astype(numpy_dtype(to))


@all_targets
@pytest.mark.parametrize("to", [dtype.name for dtype in KINDS])
@pytest.mark.parametrize("source", [dtype.name for dtype in KINDS])
def test_cast_equals_numpy(source: str, to: str, target: str) -> None:
    from_dtype, to_dtype = DTYPES[source], DTYPES[to]
    if from_dtype == to_dtype:
        return
    (array,) = operands(CORE["cast"], from_dtype)
    with np.errstate(all="ignore"):
        expected = _cast(array, from_dtype, to_dtype)
    for actual in run("cast", [(array, from_dtype)], to_dtype, target):
        same(actual, expected, to_dtype)


@all_targets
@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_every_16_bit_float_widens_exactly_and_comes_back(dtype: DType, target: str) -> None:
    raw = np.arange(1 << 16, dtype=np.uint16).view(numpy_dtype(dtype))
    with np.errstate(invalid="ignore"):
        expected = decode(raw, dtype).astype(np.float32)
    for actual in run("cast", [(raw, dtype)], F32, target):
        same(actual, expected, F32)
    for actual in run("cast", [(expected, F32)], dtype, target):
        same(actual, raw, dtype)


@all_targets
@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_f32_rounds_to_16_bits_half_to_even(dtype: DType, target: str) -> None:
    rng = np.random.default_rng(11)
    bits = rng.integers(0, 1 << 32, 1 << 14, np.uint32)
    bits[::2] &= np.uint32(0xFFFFF000)  # many ties
    array = bits.view(np.float32)
    with np.errstate(all="ignore"):
        expected = encode(array, dtype)
    for actual in run("cast", [(array, F32)], dtype, target):
        same(actual, expected, dtype)


@all_targets
def test_f64_rounds_to_16_bits_once(target: str) -> None:
    # One and a half units of the last place, and a little: rounding to f32 first gives the tie.
    little = 2.0**-40
    array = np.array(
        [1 + 2.0**-8 + little, 1 + 2.0**-8 - little, 1 + 3 * 2.0**-8 - little, 1e300] * 2
    )
    expected = np.array([1 + 2.0**-7, 1.0, 1 + 2.0**-7, math.inf] * 2)
    for actual in run("cast", [(array, F64)], BF16, target):
        np.testing.assert_array_equal(decode(actual, BF16), expected)
    array = np.array([1 + 2.0**-11 + little, 1 + 2.0**-11 - little, 65520 - 2.0**-30, 65520.0] * 2)
    expected = np.array([1 + 2.0**-10, 1.0, 65504.0, math.inf] * 2)
    for actual in run("cast", [(array, F64)], F16, target):
        np.testing.assert_array_equal(actual.astype(np.float64), expected)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_bitcast_keeps_the_bits(dtype: DType) -> None:
    array = samples(dtype)
    array = np.resize(array, -(-len(array) // LANES) * LANES)
    for to in KINDS:
        if to.bits != dtype.bits:
            continue
        if to == BOOL:
            continue
        for actual in run("bitcast", [(array, dtype)], to, TARGETS[-1]):
            assert actual.tobytes() == array.tobytes()


@pytest.mark.parametrize("target", [name for name in TARGETS if parse_target(name).has_fma])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_fma_rounds_once_where_the_target_has_it(dtype: DType, target: str) -> None:
    x = np.full(LANES, 1 + 2.0 ** (-12 if dtype == F32 else -30), numpy_dtype(dtype))
    z = -(x * x)
    exact = x.astype(np.longdouble) ** 2 + z.astype(np.longdouble)
    assert (exact != 0).all()
    for actual in run("fma", [(x, dtype), (x, dtype), (z, dtype)], dtype, target):
        np.testing.assert_array_equal(actual, exact.astype(actual.dtype))


@all_targets
@pytest.mark.parametrize("name", ["div", "rem", "shl", "shr"])
@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_integer_op_by_a_constant_equals_numpy(name: str, dtype: DType, target: str) -> None:
    array = samples(dtype)
    array = np.resize(array, -(-len(array) // LANES) * LANES)
    numbers = [0, 1, 3, 8, dtype.bits, *((-1, -3) if dtype.kind == "i" else ())]
    count = len(array)
    with building([buffer(dtype, count), buffer(dtype, len(numbers), count)]) as (b, function):
        source, result = function.args
        with b.for_(0, count, step=LANES) as loop:
            x = b.vload(source, [loop.index], LANES)
            for row, number in enumerate(numbers):
                constant = b.const(number, VectorType(dtype, LANES))
                b.vstore(b.apply(name, x, constant), result, [row, loop.index])
    out = np.zeros((len(numbers), count), array.dtype)
    Kernel(function, parse_target(target))(array, out)
    for row, number in enumerate(numbers):
        expected = REFERENCES[name](array, np.full_like(array, number))
        np.testing.assert_array_equal(out[row], expected)


@pytest.mark.parametrize("constant", [0.0, 2.5, math.nan])
@pytest.mark.parametrize("name", ["min", "max"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_extreme_with_a_constant_keeps_nan(name: str, dtype: DType, constant: float) -> None:
    array = np.resize(samples(dtype), 64)
    with building([buffer(dtype, 64), buffer(dtype, 2, 64)]) as (b, function):
        source, result = function.args
        with b.for_(0, 64, step=LANES) as loop:
            x = b.vload(source, [loop.index], LANES)
            c = b.const(constant, x)
            b.vstore(b.apply(name, x, c), result, [0, loop.index])
            b.vstore(b.apply(name, c, x), result, [1, loop.index])
    out = np.zeros((2, 64), array.dtype)
    Kernel(function, parse_target(TARGETS[-1]))(array, out)
    wide = decode(array, dtype)
    with np.errstate(invalid="ignore"):
        expected = REFERENCES[name](wide, wide.dtype.type(constant))
    for row in out:
        same(row, encode(expected, dtype), dtype)
