"""More ops of random typed graphs: norms, functions, indices, quantised products, regions.

Not test cases. As in `graphs`, a maker says which of its results are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.fuzz.graphs import MAKERS, Graph, Maker, Unfit, dtype_of, keep, need, shape_of
from tfc.ir.control import Next, Round, Scanned, branch, loop
from tfc.ir.core import Value
from tfc.ir.dims import DimLike
from tfc.ir.types import BF16, BOOL, F16, F32, F64, I8, I32, I64, U8

FLOATS = (F32, F64, F16)

# -- elementwise --------------------------------------------------------------------------------


def _tamed(name: str, low: float, high: float, **attrs: object) -> Maker:
    """A function where it is neither steep nor large."""

    def make(g: Graph, x: Value, pick: int) -> Value:
        need(dtype_of(x).is_float)
        return g.b.op(name, g.b.clamp(x, lo=low, hi=high), **attrs).result

    return make


def _bits(name: str) -> Maker:
    def make(g: Graph, x: Value, pick: int) -> Value:
        need(dtype_of(x) in (I32, I64))
        y = g.partner(x, pick)
        g.exact(x), g.exact(y)
        return keep(g, g.b.op(name, x, y).result, x, y, more=1)

    return make


def _shifted(g: Graph, x: Value, pick: int) -> Value:
    need(dtype_of(x) in (I32, I64))
    g.exact(x)
    places = g.b.constant(pick % 4, dtype_of(x))
    name = ("shr", "shl")[pick // 4 % 2]
    return keep(g, g.b.op(name, x, places).result, x, more=3)


def _through_bf16(g: Graph, x: Value, pick: int) -> Value:
    """Rounded, so that what is not exact may end on either side."""
    need(dtype_of(x) in (F32, F64))
    g.exact(x, less=0)
    y = g.b.cast(g.b.neg(g.b.cast(x, dtype=BF16)), dtype=dtype_of(x))
    if g.digits[x] <= 7:
        g.digits[y] = g.digits[x]
    return y


# -- norms and folds ----------------------------------------------------------------------------


def _positive(x: Value) -> Sequence[DimLike]:
    shape = shape_of(x)
    need(all(not isinstance(dim, int) or dim > 0 for dim in shape))
    return shape


def _norm(name: str) -> Maker:
    """A norm of channels."""

    def make(g: Graph, x: Value, pick: int) -> Value:
        shape = _positive(x)
        need(dtype_of(x).is_float and len(shape) >= 3 and isinstance(shape[1], int))
        channels = shape[1]
        assert isinstance(channels, int)
        of_channels = [g.constant((channels,), dtype_of(x), pick + i) for i in range(3)]
        if name == "batch_norm":
            variance = g.b.constant(np.linspace(0.5, 2.0, channels), dtype_of(x))
            return g.b.op(name, x, *of_channels, variance, eps=0.5).result
        scale, bias, _ = of_channels
        if name == "instance_norm":
            return g.b.op(name, x, scale, bias, eps=0.5).result
        groups = 2 if channels % 2 == 0 else channels
        return g.b.op(name, x, scale, bias, groups=groups, eps=0.5).result

    return make


def _rms_norm(g: Graph, x: Value, pick: int) -> Value:
    shape = _positive(x)
    need(dtype_of(x).is_float and len(shape) > 0 and isinstance(shape[-1], int))
    assert isinstance(shape[-1], int)
    return g.b.op("rms_norm", x, g.constant((shape[-1],), dtype_of(x), pick), eps=0.5).result


def _lrn(g: Graph, x: Value, pick: int) -> Value:
    shape = _positive(x)
    need(dtype_of(x).is_float and len(shape) >= 3)
    return g.b.op("lrn", x, size=3, alpha=0.1, beta=0.5, bias=2.0).result


def _folded(name: str) -> Maker:
    def make(g: Graph, x: Value, pick: int) -> Value:
        rank = len(_positive(x))
        need(dtype_of(x).is_float and rank > 0)
        tame = g.b.clamp(x, lo=-4.0, hi=4.0)
        return g.b.op(name, tame, axes=(pick % rank,), keepdims=bool(pick // 8 % 2)).result

    return make


# -- indices ------------------------------------------------------------------------------------


def _static(x: Value) -> list[int]:
    sizes = [dim for dim in shape_of(x) if isinstance(dim, int) and dim > 0]
    need(len(sizes) == len(shape_of(x)) > 0)
    return sizes


def _gather_elements(g: Graph, x: Value, pick: int) -> Value:
    sizes = _static(x)
    axis = pick % len(sizes)
    sizes[axis] = 1 + pick // 4 % 6
    indices = g.constant(sizes, I64, pick)
    return keep(g, g.b.op("gather_elements", x, indices, axis=axis).result, x)


def _gather_nd(g: Graph, x: Value, pick: int) -> Value:
    sizes = _static(x)
    depth = 1 + pick % len(sizes)
    indices = g.constant((2, 3, depth), I64, pick)
    return keep(g, g.b.op("gather_nd", x, indices, batch_dims=0).result, x)


def _scatter_nd(g: Graph, x: Value, pick: int) -> Value:
    sizes = _static(x)
    depth = 1 + pick % len(sizes)
    indices = g.constant((3, depth), I64, pick)
    updates = g.constant((3, *sizes[depth:]), dtype_of(x), pick + 1)
    reduction = ("none", "add", "max", "min")[pick // 2 % 4] if dtype_of(x) != BOOL else "none"
    if not dtype_of(x).is_float or reduction in ("max", "min"):
        g.exact(x)
    y = g.b.op("scatter_nd", x, indices, updates, reduction=reduction).result
    return keep(g, y, x, updates, more=3 if reduction == "add" else 0)


# -- windows ------------------------------------------------------------------------------------


def _conv_transpose(g: Graph, x: Value, pick: int) -> Value:
    sizes = _static(x)
    need(dtype_of(x) in FLOATS and 3 <= len(sizes) <= 4)
    rank = len(sizes) - 2
    kernel = tuple((1, 3, 2)[(pick // (3 + i)) % 3] for i in range(rank))
    strides = tuple(1 + (pick // (5 + i)) % 2 for i in range(rank))
    w = g.constant((sizes[1], (1, 4, 3)[pick % 3], *kernel), dtype_of(x), pick)
    zeros = tuple((0, 0) for _ in range(rank))
    return g.b.op(
        "conv_transpose", x, w, strides=strides, pads=zeros, dilations=(1,) * rank, groups=1,
        output_padding=(0,) * rank,
    ).result  # fmt: skip


def _resize(g: Graph, x: Value, pick: int) -> Value:
    sizes = _static(x)
    need(dtype_of(x) in FLOATS and len(sizes) == 4)
    factors = (1.0, 1.0, (2.0, 0.5, 1.0)[pick % 3], (2.0, 3.0, 1.0)[pick // 3 % 3])
    wanted = [int(size * f) for size, f in zip(sizes, factors, strict=True)]
    need(min(wanted) > 0)
    mode = ("nearest", "linear", "cubic")[pick // 9 % 3]
    y = g.b.op("resize", x, sizes=wanted, scales=factors, mode=mode).result
    return keep(g, y, x) if mode == "nearest" else y


# -- quantised ----------------------------------------------------------------------------------


def _bytes(g: Graph, x: Value, scale: float, signed: bool, zero: int) -> Value:
    """x, rounded to a byte and widened again."""
    dtype = I8 if signed else U8
    by, point = g.b.constant(scale, F32), g.b.constant(zero, dtype)
    small = g.b.op("quantize_linear", x, by, point, dtype=dtype).result
    return g.b.op("dequantize_linear", small, by, point).result


def _quantised(g: Graph, x: Value, pick: int) -> Value:
    need(dtype_of(x) == F32)
    g.exact(x)
    y = _bytes(g, x, (0.25, 0.5, 1.0)[pick % 3], bool(pick // 3 % 2), (0, 5)[pick // 6 % 2])
    g.digits[y] = 9
    return y


def _quantised_product(g: Graph, x: Value, pick: int) -> Value:
    """A product of bytes, which may be summed as whole numbers."""
    need(dtype_of(x) == F32 and len(shape_of(x)) >= 2)
    inner = shape_of(x)[-1]
    need(isinstance(inner, int) and inner > 0)
    assert isinstance(inner, int)
    g.exact(x)
    left = _bytes(g, x, 0.25, bool(pick % 2), 0)
    columns = (4, 1, 17)[pick // 2 % 3]
    weights = np.random.default_rng(pick).integers(-8, 9, (inner, columns)).astype(np.int8)
    scale, point = g.b.constant(0.5, F32), g.b.constant(0, I8)
    right = g.b.op("dequantize_linear", g.b.constant(weights, I8), scale, point).result
    y = g.b.matmul(left, right)
    # Whole multiples of an eighth, below 2^(9 + 4 + log2(inner)).
    g.digits[y] = min(13 + inner.bit_length(), 99)
    if g.digits[y] > 20:
        raise Unfit
    if pick // 8 % 2:
        return _quantised(g, y, pick // 16)
    return y


# -- regions ------------------------------------------------------------------------------------


def _conditional(g: Graph, x: Value, pick: int) -> Value:
    conditions = [v for v in g.values if dtype_of(v) == BOOL and not shape_of(v)]
    need(bool(conditions) and dtype_of(x) != BOOL)
    condition = conditions[pick % len(conditions)]
    g.exact(condition)
    (y,) = branch(
        g.b, condition, lambda: [g.b.op("neg", x).result], lambda: [g.b.op("abs", x).result]
    )
    return keep(g, y, x)


def _rounds(g: Graph, x: Value, pick: int) -> Value:
    """A few rounds that add something to a value."""
    need(dtype_of(x) != BOOL)
    y = g.constant((), dtype_of(x), pick)
    if not dtype_of(x).is_float:
        g.exact(x)

    def body(round: Round) -> Next:
        (state,) = round.carried
        return Next([g.b.op("add", g.b.op("neg", state).result, y).result])

    found = loop(g.b, body, [x], trips=1 + pick % 4).carried[0]
    return keep(g, found, x, y, more=3)


def _taken_apart(g: Graph, x: Value, pick: int) -> Value:
    """Rounds over the rows of a tensor, stacked again."""
    shape = shape_of(x)
    need(dtype_of(x) != BOOL and len(shape) > 0)

    def body(round: Round) -> Next:
        (row,) = round.slices
        return Next([], [g.b.op("abs" if pick % 2 else "neg", row).result])

    parts = loop(
        g.b, body, scanned=[Scanned(x, bool(pick // 2 % 2))],
        backward=[bool(pick // 4 % 2)], trips=shape[0],
    )  # fmt: skip
    return keep(g, parts.stacked[0], x)


ALL: tuple[Maker, ...] = (
    *MAKERS,
    _tamed("leaky_relu", -9.0, 9.0, alpha=0.25), _tamed("elu", -4.0, 9.0, alpha=0.5),
    _tamed("selu", -4.0, 9.0), _tamed("celu", -4.0, 9.0, alpha=0.5),
    *(_tamed(name, -6.0, 6.0) for name in (
        "softplus", "mish", "hard_sigmoid", "hard_swish", "atan", "asinh", "cos",
    )),
    *(_tamed(name, -3.0, 3.0) for name in ("cosh", "sinh", "expm1")),
    *(_tamed(name, -0.75, 0.75) for name in ("asin", "acos", "atanh")),
    _tamed("log1p", -0.5, 4.0),
    *(_bits(name) for name in ("bitwise_and", "bitwise_or", "bitwise_xor")),
    _shifted, _through_bf16,
    *(_norm(name) for name in ("batch_norm", "group_norm", "instance_norm")),
    _rms_norm, _lrn,
    *(_folded(name) for name in ("reduce_l1", "reduce_sum_square", "reduce_log_sum_exp")),
    _gather_elements, _gather_nd, _scatter_nd, _conv_transpose, _resize,
    _quantised, _quantised_product, _quantised_product, _conditional, _rounds, _taken_apart,
)  # fmt: skip
