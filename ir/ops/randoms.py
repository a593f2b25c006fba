"""Random numbers as functions: of a key, and of each element's position. No state, no clock.

The generator is Threefry 2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw: Parallel random numbers:
as easy as 1, 2, 3, SC 2011). One key gives 2^64 words; keys give streams that are unrelated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir import arrays
from tfc.ir.body import Expr, ExprBuilder
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, product
from tfc.ir.opdef import Kind, NoAttrs, NoGrad, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import (
    CLOSE,
    PURE,
    Array,
    broadcast_shapes,
    compute_dtype,
    elementwise,
    floats,
    require_kind,
)
from tfc.ir.types import BOOL, F32, F64, I32, I64, U32, U64, DType, TensorType

Shape = tuple[DimLike, ...]

KEY = TensorType(U64, ())
ROUNDS = 20
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
# From Skein, by way of the paper.
_PARITY = 0x1BD11BDA
_NO_GRAD = NoGrad("its numbers do not depend on the key smoothly")
_SAMPLE_KEY = np.array(0x0123456789ABCDEF, np.uint64)

# -- the generator --------------------------------------------------------------------------------


def _words(x: Array) -> tuple[Array, Array]:
    return (x & np.uint64(0xFFFFFFFF)).astype(np.uint32), (x >> np.uint64(32)).astype(np.uint32)


def _threefry_ref(key: Array, counter: Array) -> Array:
    k0, k1 = _words(key)
    schedule = (k0, k1, k0 ^ k1 ^ np.uint32(_PARITY))
    x0, x1 = _words(counter)
    with np.errstate(over="ignore"):
        x0, x1 = x0 + k0, x1 + k1
        for i in range(ROUNDS):
            turn = _ROTATIONS[i % len(_ROTATIONS)]
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(turn)) | (x1 >> np.uint32(32 - turn))) ^ x0
            if i % 4 == 3:
                n = i // 4 + 1
                x0 = x0 + schedule[n % 3]
                x1 = x1 + schedule[(n + 1) % 3] + np.uint32(n)
    return np.asarray(x0.astype(np.uint64) | (x1.astype(np.uint64) << np.uint64(32)))


def _split(b: ExprBuilder, x: Expr) -> tuple[Expr, Expr]:
    return b.cast(x, U32), b.cast(b.shr(x, b.const(32, x)), U32)


def _threefry(b: ExprBuilder, key: Expr, counter: Expr) -> Expr:
    k0, k1 = _split(b, key)
    schedule = (k0, k1, b.xor(b.xor(k0, k1), b.const(_PARITY, U32)))
    x0, x1 = _split(b, counter)
    x0, x1 = b.add(x0, k0), b.add(x1, k1)
    for i in range(ROUNDS):
        turn = _ROTATIONS[i % len(_ROTATIONS)]
        x0 = b.add(x0, x1)
        x1 = b.or_(b.shl(x1, b.const(turn, U32)), b.shr(x1, b.const(32 - turn, U32)))
        x1 = b.xor(x1, x0)
        if i % 4 == 3:
            n = i // 4 + 1
            x0 = b.add(x0, schedule[n % 3])
            x1 = b.add(b.add(x1, schedule[(n + 1) % 3]), b.const(n, U32))
    return b.or_(b.cast(x0, U64), b.shl(b.cast(x1, U64), b.const(32, U64)))


def _threefry_infer(types: Sequence[TensorType], attrs: Any) -> Sequence[TensorType]:
    for type in types:
        require(type.dtype == U64, f"takes u64, not {type.dtype}")
    return (TensorType(U64, broadcast_shapes(*(type.shape for type in types))),)


def _u64(*shape: int, seed: int = 0) -> Array:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 1 << 64, shape, np.uint64)


elementwise(
    "threefry",
    arity=2,
    infer=_threefry_infer,
    ref=_threefry_ref,
    body=_threefry,
    grad=_NO_GRAD,
    samples=lambda: (
        Sample((_SAMPLE_KEY, np.arange(9, dtype=np.uint64))),
        Sample((_u64(3, 1), _u64(4, seed=1))),
        Sample((_u64(0), _u64(1))),
    ),
    rejects=(Reject((TensorType(I64, ()), KEY), {}, "takes u64, not i64"),),
    doc="Threefry 2x32 with 20 rounds: random bits of a key and a counter. The low half of a "
    "number is the first of the paper's words.",
)


# -- tensors of random numbers --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShapeAttrs:
    """shape: of the result."""

    shape: Shape


@dataclass(frozen=True, slots=True)
class NumberAttrs:
    """shape, dtype: of the result, f32 or f64."""

    shape: Shape
    dtype: DType = F32


def _composite(
    name: str,
    *,
    attrs: type,
    infer: Callable[[Sequence[TensorType], Any], TensorType],
    ref: Callable[..., Array],
    decompose: Callable[..., Value],
    samples: Sequence[Sample],
    rejects: Sequence[Reject],
    doc: str,
    operands: int = 1,
    tol: dict[str, float] | None = None,
) -> OpDef:
    """Register a composite whose first operand is a key."""

    def check(types: Sequence[TensorType], values: Any) -> Sequence[TensorType]:
        require(types[0] == KEY, f"the key is {types[0]}, not {KEY}")
        return (infer(types, values),)

    def expand(b: GraphBuilder, op: Op) -> Sequence[Value]:
        return [decompose(b, op.attrs, *op.operands)]

    wrong = TensorType(U32, ())
    given = (wrong, *(TensorType(F32, (2, 3)),) * (operands - 1))
    refused = (Reject(given, samples[0].attrs, "the key is u32[]"), *rejects)
    return register(
        OpDef(
            name=name,
            operands=(operands, operands),
            attrs=attrs,
            kind=Kind.COMPOSITE,
            infer=check,
            ref=ref,
            decompose=expand,
            grad=_NO_GRAD,
            traits=PURE,
            samples=lambda: samples,
            rejects=lambda: refused,
            tol=tol or {},
            doc=doc,
        )
    )


def _positions(b: GraphBuilder, shape: Shape) -> Value:
    """Each element's position in row-major order, as u64."""
    size = product(shape)
    found: Value = b.reshape(b.iota(shape=(size,), axis=0, dtype=U64), shape=shape)
    return found


def _counters(shape: Shape) -> Array:
    fixed = [int(dim) for dim in shape]  # type: ignore[arg-type]
    return np.arange(math.prod(fixed), dtype=np.uint64).reshape(fixed)


_composite(
    "random_bits",
    attrs=ShapeAttrs,
    infer=lambda types, attrs: TensorType(U64, attrs.shape),
    ref=lambda attrs, key: _threefry_ref(key, _counters(attrs.shape)),
    decompose=lambda b, attrs, key: b.threefry(key, _positions(b, attrs.shape)),
    samples=(
        Sample((_SAMPLE_KEY,), {"shape": (3, 5)}),
        Sample((_SAMPLE_KEY,), {"shape": ()}),
        Sample((_SAMPLE_KEY,), {"shape": (2, 0)}),
    ),
    rejects=(),
    doc="y[i] = threefry(key, i), with i the position in row-major order.",
)

_FLOATS = ({"shape": (7, 9)}, {"shape": (33,), "dtype": F64}, {"shape": ()}, {"shape": (0, 2)})
_FLOAT_SAMPLES = tuple(Sample((_SAMPLE_KEY,), attrs) for attrs in _FLOATS)
_FLOAT_REJECTS = (Reject((KEY,), {"shape": (2,), "dtype": I64}, "makes f32 or f64, not i64"),)


def _number_type(types: Sequence[TensorType], attrs: NumberAttrs) -> TensorType:
    require(attrs.dtype in (F32, F64), f"makes f32 or f64, not {attrs.dtype}")
    return TensorType(attrs.dtype, attrs.shape)


def _unit_ref(bits: Array, dtype: DType) -> Array:
    """The upper bits as multiples of 2^-24 or 2^-53: both they and the result are exact."""
    if dtype == F64:
        return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)
    return np.asarray((bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))


def _unit(b: GraphBuilder, bits: Value, dtype: DType) -> Value:
    shift, through = (11, I64) if dtype == F64 else (40, I32)
    upper = b.cast(b.shr(bits, b.constant(shift, U64)), dtype=through)
    step = 2.0**-53 if dtype == F64 else 2.0**-24
    found: Value = b.mul(b.cast(upper, dtype=dtype), b.constant(step, dtype))
    return found


_composite(
    "random_uniform",
    attrs=NumberAttrs,
    infer=_number_type,
    ref=lambda attrs, key: _unit_ref(_threefry_ref(key, _counters(attrs.shape)), attrs.dtype),
    decompose=lambda b, attrs, key: _unit(b, b.random_bits(key, shape=attrs.shape), attrs.dtype),
    samples=_FLOAT_SAMPLES,
    rejects=_FLOAT_REJECTS,
    doc="Numbers 0 <= y < 1 with equal chances: the upper 24 bits of random_bits times 2^-24, or "
    "for f64 53 bits times 2^-53.",
)


# -- normal ---------------------------------------------------------------------------------------


def _radius_ref(u: Array) -> Array:
    return np.asarray(np.sqrt(-2 * np.log(u.astype(np.float64))))


def _turn_ref(u: Array) -> Array:
    return np.asarray(np.sin(2 * np.pi * (np.abs(u.astype(np.float64) - 0.5) - 0.25)))


def _normal_ref(attrs: NumberAttrs, key: Array) -> Array:
    counters = _counters(attrs.shape)
    if attrs.dtype == F64:
        two = np.uint64(2)
        radius: Array = _unit_ref(_threefry_ref(key, counters * two), F64) + 2.0**-53
        turn = _unit_ref(_threefry_ref(key, counters * two + np.uint64(1)), F64)
    else:
        bits = _threefry_ref(key, counters)
        low = (bits & np.uint64(0xFFFFFFFF)).astype(np.float32)
        radius = (low + np.float32(1)) * np.float32(2.0**-32)
        turn = _unit_ref(bits, F32)
    found = _radius_ref(radius) * _turn_ref(turn)
    return np.asarray(found.astype(arrays.numpy_dtype(attrs.dtype)))


def _normal(b: GraphBuilder, attrs: NumberAttrs, key: Value) -> Value:
    """Box and Muller's transform. The radius is of u in (0, 1], the angle of 2 pi u.

    The cosine is the sine of an angle in [-pi/2, pi/2] that is as exact near 0 as elsewhere.
    """
    dtype = attrs.dtype

    def number(value: float) -> Value:
        found: Value = b.constant(value, dtype)
        return found

    if dtype == F64:
        first = b.mul(_positions(b, attrs.shape), b.constant(2, U64))
        second = b.add(first, b.constant(1, U64))
        u = b.add(_unit(b, b.threefry(key, first), dtype), number(2.0**-53))
        turn = _unit(b, b.threefry(key, second), dtype)
    else:
        bits = b.random_bits(key, shape=attrs.shape)
        low = b.cast(b.cast(bits, dtype=U32), dtype=dtype)
        u = b.mul(b.add(low, number(1)), number(2.0**-32))
        turn = _unit(b, bits, dtype)
    radius = b.sqrt(b.mul(b.log(u), number(-2)))
    angle = b.sub(b.abs(b.sub(turn, number(0.5))), number(0.25))
    found: Value = b.mul(radius, b.sin(b.mul(angle, number(2 * math.pi))))
    return found


_composite(
    "random_normal",
    attrs=NumberAttrs,
    infer=_number_type,
    ref=_normal_ref,
    decompose=_normal,
    samples=_FLOAT_SAMPLES,
    rejects=_FLOAT_REJECTS,
    tol=CLOSE,
    doc="Numbers of mean 0 and variance 1, normally distributed, by Box and Muller's transform of "
    "random_bits: none beyond 6.7 (f64: 8.6).",
)


# -- choices --------------------------------------------------------------------------------------


def _bernoulli_type(types: Sequence[TensorType], attrs: Any) -> TensorType:
    require_kind(types[1], "f")
    return TensorType(BOOL, types[1].shape)


def _bernoulli_ref(attrs: Any, key: Array, p: Array) -> Array:
    dtype = F64 if p.dtype == np.float64 else F32
    return np.asarray(_unit_ref(_threefry_ref(key, _counters(p.shape)), dtype) < p)


def _bernoulli(b: GraphBuilder, attrs: Any, key: Value, p: Value) -> Value:
    type = tensor_type(p)
    dtype = compute_dtype(type.dtype)
    wide = p if type.dtype == dtype else b.cast(p, dtype=dtype)
    found: Value = b.lt(b.random_uniform(key, shape=type.shape, dtype=dtype), wide)
    return found


_composite(
    "bernoulli",
    attrs=NoAttrs,
    operands=2,
    infer=_bernoulli_type,
    ref=_bernoulli_ref,
    decompose=_bernoulli,
    samples=(
        Sample((_SAMPLE_KEY, floats((5, 6), 0, 1)), grad=False),
        Sample((_SAMPLE_KEY, np.array([0, 1, 2, -1, np.nan], np.float32)), grad=False),
        Sample((_SAMPLE_KEY, floats((0,))), grad=False),
    ),
    rejects=(Reject((KEY, TensorType(I64, (2,))), {}, "not i64"),),
    doc="Whether random_uniform(key) < p: true with probability p. 0 never, 1 always, NaN never.",
)


@dataclass(frozen=True, slots=True)
class MultinomialAttrs:
    """count: how many classes are drawn for each row, each time from all of them."""

    count: DimLike


def _multinomial_type(types: Sequence[TensorType], attrs: MultinomialAttrs) -> TensorType:
    logits = types[1]
    require_kind(logits, "f")
    require(logits.rank == 2, f"takes rows of classes, not rank {logits.rank}")
    require(logits.shape[1] != 0, "draws from no classes")
    return TensorType(I64, (logits.shape[0], attrs.count))


# Draws are the races of exponential variables with rates exp(logits): the class of the least one.
# The variable is -log1p(-u), exact where it counts, near 0; u is kept from 0 and from 1.
_LEAST, _MOST = 2.0**-33, 1 - 2.0**-24


def _multinomial_ref(attrs: MultinomialAttrs, key: Array, logits: Array) -> Array:
    rows, classes = logits.shape
    bits = _threefry_ref(key, _counters((rows, int(attrs.count), classes)))  # type: ignore[arg-type]
    upper = bits >> np.uint64(32)
    u: Array
    if logits.dtype == np.float64:
        u = upper.astype(np.float64) * 2.0**-32 + _LEAST
    else:
        u = upper.astype(np.float32) * np.float32(2.0**-32) + np.float32(_LEAST)
    u = np.minimum(u, _MOST).astype(np.float64)
    return np.asarray(np.argmax(logits[:, None] - np.log(-np.log1p(-u)), -1))


def _multinomial(b: GraphBuilder, attrs: MultinomialAttrs, key: Value, logits: Value) -> Value:
    type = tensor_type(logits)
    rows, classes = type.shape
    dtype = compute_dtype(type.dtype)

    def number(value: float) -> Value:
        found: Value = b.constant(value, dtype)
        return found

    wide = logits if type.dtype == dtype else b.cast(logits, dtype=dtype)
    bits = b.random_bits(key, shape=(rows, attrs.count, classes))
    upper = b.cast(b.shr(bits, b.constant(32, U64)), dtype=U32)
    u = b.add(b.mul(b.cast(upper, dtype=dtype), number(2.0**-32)), number(_LEAST))
    waits = b.neg(b.log1p(b.neg(b.min(u, number(_MOST)))))
    scores = b.sub(b.reshape(wide, shape=(rows, 1, classes)), b.log(waits))
    found: Value = b.argmax(scores, axis=2, keepdims=False, last=False)
    return found


_composite(
    "multinomial",
    attrs=MultinomialAttrs,
    operands=2,
    infer=_multinomial_type,
    ref=_multinomial_ref,
    decompose=_multinomial,
    samples=(
        Sample((_SAMPLE_KEY, floats((3, 7))), {"count": 5}, grad=False),
        Sample((_SAMPLE_KEY, np.array([[0, -np.inf]], np.float32)), {"count": 9}, grad=False),
        Sample((_SAMPLE_KEY, floats((2, 3))), {"count": 0}, grad=False),
    ),
    rejects=(
        Reject((KEY, TensorType(F32, (3,))), {"count": 1}, "not rank 1"),
        Reject((KEY, TensorType(F32, (3, 0))), {"count": 1}, "no classes"),
        Reject((KEY, TensorType(I64, (3, 2))), {"count": 1}, "not i64"),
    ),
    doc="Classes drawn with probabilities softmax(logits) along the rows. A class of logit -inf is "
    "never drawn where another is finite.",
)
