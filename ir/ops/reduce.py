"""Ops that fold axes away: sums, products, extremes, norms, argmax; and running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir.arrays import dtype_of
from tfc.ir.body import Expr, ExprBuilder, Index, Iter
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, maximum, product
from tfc.ir.opdef import Assumption, Kind, NoGrad, OpDef, Reject, Sample, Trait, register, require
from tfc.ir.ops.common import (
    PURE,
    THROUGH,
    Array,
    compute_dtype,
    floats,
    integers,
    is_narrow,
    like,
    normalize_axes,
    normalize_axis,
    require_kind,
)
from tfc.ir.ops.convert import cast_ref
from tfc.ir.ops.movement import Shape, fixed
from tfc.ir.types import BOOL, C64, F32, F64, I64, DType, TensorType

# Sums are combined in another order than the reference's, so errors grow with the count.
_OF_BOOLS = {"max": "any", "min": "all"}
NO_FLOATS = NoGrad("takes no floats")
SUM_TOL = {"f64": 1e-13, "f32": 2e-5, "f16": 4e-3, "bf16": 3e-2}


@dataclass(frozen=True, slots=True)
class ReduceAttrs:
    """axes: those folded away (none: nothing is); keepdims: leave them with extent 1."""

    axes: tuple[int, ...]
    keepdims: bool


def reduced_shape(shape: Shape, axes: Sequence[int], keepdims: bool) -> Shape:
    """Return the shape left when `axes`, counted from the front, are folded away."""
    if keepdims:
        return tuple(1 if axis in axes else dim for axis, dim in enumerate(shape))
    return tuple(dim for axis, dim in enumerate(shape) if axis not in axes)


def _infer(kinds: str) -> Callable[[Sequence[TensorType], ReduceAttrs], Sequence[TensorType]]:
    def infer(types: Sequence[TensorType], attrs: ReduceAttrs) -> Sequence[TensorType]:
        (x,) = types
        require_kind(x, kinds)
        axes = normalize_axes(attrs.axes, x.rank)
        return (TensorType(x.dtype, reduced_shape(x.shape, axes, attrs.keepdims)),)

    return infer


def iterate(b: ExprBuilder, extent: DimLike, hint: str = "r") -> tuple[tuple[Iter, ...], DimLike]:
    """Return the iterators over `extent` and the index they give: none and 0 for extent 1."""
    if isinstance(extent, int) and extent == 1:
        return (), 0
    it = b.iter(extent, hint)
    return (it,), it.dim


def fold(b: ExprBuilder, kind: str, iters: tuple[Iter, ...], element: Expr, dtype: DType) -> Expr:
    """Reduce `element` over `iters`; without iterators it is the element itself."""
    return b.reduce(kind, iters, element, dtype) if iters else element


def _body(kind: str) -> Callable[[ExprBuilder, Op, int, tuple[Index, ...]], Expr]:
    def body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
        (x,) = op.operands
        type = tensor_type(x)
        axes = normalize_axes(op.attrs.axes, type.rank)
        given = iter(index)
        iters: list[Iter] = []
        full: list[Index] = []
        for axis, dim in enumerate(type.shape):
            if axis not in axes:
                full.append(next(given))
                continue
            if op.attrs.keepdims:
                next(given)
            own, i = iterate(b, dim)
            iters += own
            full.append(i)
        dtype = compute_dtype(type.dtype) if kind in ("sum", "prod") else type.dtype
        element = b.cast(b.load(x, tuple(full)), dtype)
        way = _OF_BOOLS.get(kind, kind) if dtype == BOOL else kind
        return b.cast(fold(b, way, tuple(iters), element, dtype), type.dtype)

    return body


def _kept_shape(op: Op) -> Shape:
    """The shape of a reduction's result with keepdims."""
    x = tensor_type(op.operands[0])
    return reduced_shape(x.shape, normalize_axes(op.attrs.axes, x.rank), True)


def _spread(b: GraphBuilder, op: Op, y: Value) -> Value:
    """A value of the result's shape, with the folded axes back as extent 1."""
    shape = _kept_shape(op)
    return y if tensor_type(y).shape == shape else b.reshape(y, shape=shape)


def _repeat(b: GraphBuilder, op: Op, y: Value) -> Value:
    """A value of the result's shape repeated over the operand's."""
    return b.broadcast(_spread(b, op, y), shape=tensor_type(op.operands[0]).shape)  # type: ignore[no-any-return]


def _sum_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    return [_repeat(b, op, gs[0])]


def _prod_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """g times the product of the other elements, which is not y / x where an element is 0."""
    (x,) = op.operands
    one, zero = like(b, 1, x), like(b, 0, x)
    is_zero = b.eq(x, zero)
    safe = b.select(is_zero, one, x)
    attrs = {"axes": op.attrs.axes, "keepdims": True}
    rest = b.reduce_prod(safe, **attrs)
    zeros = b.reduce_sum(b.select(is_zero, one, zero), **attrs)
    others = b.select(is_zero, rest, b.div(rest, safe))
    alone = b.eq(zeros, b.select(is_zero, one, zero))
    return [b.mul(_spread(b, op, gs[0]), b.select(alone, others, zero))]


def _extreme_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """Elements that tie share the gradient evenly."""
    (x,) = op.operands
    hit = b.eq(x, _spread(b, op, op.result))
    share = b.select(hit, like(b, 1, x), like(b, 0, x))
    ties = b.reduce_sum(share, axes=op.attrs.axes, keepdims=True)
    return [b.mul(share, b.div(_spread(b, op, gs[0]), ties))]


_SHAPES: tuple[tuple[tuple[int, ...], tuple[int, ...], bool], ...] = (
    ((3, 5), (1,), False),
    ((3, 5), (0,), True),
    ((2, 3, 7), (0, 2), False),
    ((2, 3, 7), (-1,), True),
    ((2, 1, 3), (1,), False),
    ((17,), (0,), False),
    ((3, 0), (1,), False),
    ((0, 3), (1,), True),
    ((), (), False),
    ((2, 3), (), False),
)


def _samples(kinds: str, lo: float = -2.0, hi: float = 2.0) -> Callable[[], Sequence[Sample]]:
    def make() -> Sequence[Sample]:
        found = []
        for shape, axes, keepdims in _SHAPES:
            attrs = {"axes": axes, "keepdims": keepdims}
            if "f" in kinds:
                found.append(Sample((floats(shape, lo, hi),), attrs, grad=0 not in shape))
            if "i" in kinds:
                found.append(Sample((integers(shape, max(int(lo), -5), 5),), attrs))
            if "b" in kinds:
                found.append(Sample((integers(shape, 0, 1, np.bool_),), attrs))
        return found

    return make


def _rejects(kinds: str) -> Sequence[Reject]:
    dtype = BOOL if kinds == "b" else F32
    other = F32 if kinds == "b" else C64 if "b" in kinds else BOOL
    attrs = {"axes": (1,), "keepdims": False}
    return (
        Reject((TensorType(dtype, (2,)),), attrs, "out of range"),
        Reject((TensorType(dtype, (2, 3)),), {"axes": (1, -1), "keepdims": False}, "twice"),
        Reject((TensorType(other, (2, 3)),), attrs, f"not {other}"),
    )


def _reduction(
    name: str,
    kind: str,
    kinds: str,
    ref: Callable[[Array, tuple[int, ...], bool], Any],
    doc: str,
    *,
    grad: Any = NO_FLOATS,
    traits: frozenset[Trait] = PURE,
    tol: dict[str, float] | None = None,
) -> None:
    def run(attrs: ReduceAttrs, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(ref(x, attrs.axes, attrs.keepdims))

    register(
        OpDef(
            name=name,
            doc=doc,
            attrs=ReduceAttrs,
            kind=Kind.REDUCTION,
            traits=traits,
            infer=_infer(kinds),
            ref=run,
            body=_body(kind),
            grad=grad,
            samples=_samples(kinds),
            rejects=lambda: _rejects(kinds),
            tol=tol or {},
        )
    )


def _wide(x: Array) -> Array:
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def _lowest(x: Array) -> Any:
    if x.dtype.kind == "f":
        return -np.inf
    return False if x.dtype.kind == "b" else np.iinfo(x.dtype).min


def _highest(x: Array) -> Any:
    if x.dtype.kind == "f":
        return np.inf
    return True if x.dtype.kind == "b" else np.iinfo(x.dtype).max


_reduction(
    "reduce_sum",
    "sum",
    "fiu",
    lambda x, axes, keep: _as(np.sum(_wide(x), axes, dtype=_wide(x).dtype, keepdims=keep), x),
    "The sum over `axes`; 0 of nothing. Integers wrap; f16 and bf16 add in f32.",
    grad=_sum_grad,
    traits=PURE | {Trait.DIMS},
    tol=SUM_TOL,
)
_reduction(
    "reduce_prod",
    "prod",
    "fiu",
    lambda x, axes, keep: _as(np.prod(_wide(x), axes, dtype=_wide(x).dtype, keepdims=keep), x),
    "The product over `axes`; 1 of nothing. Integers wrap; f16 and bf16 multiply in f32.",
    grad=_prod_grad,
    traits=PURE | {Trait.DIMS},
    tol=SUM_TOL,
)
_reduction(
    "reduce_max",
    "max",
    "fiub",
    lambda x, axes, keep: np.max(x, axes, keepdims=keep, initial=_lowest(x)),
    "The largest over `axes`; NaN if one is; of nothing -inf or the type's lowest.",
    grad=_extreme_grad,
)
_reduction(
    "reduce_min",
    "min",
    "fiub",
    lambda x, axes, keep: np.min(x, axes, keepdims=keep, initial=_highest(x)),
    "The smallest over `axes`; NaN if one is; of nothing inf or the type's highest.",
    grad=_extreme_grad,
)
_reduction(
    "reduce_any",
    "any",
    "b",
    lambda x, axes, keep: np.any(x, axes, keepdims=keep),
    "Whether an element over `axes` is true; false of nothing.",
)
_reduction(
    "reduce_all",
    "all",
    "b",
    lambda x, axes, keep: np.all(x, axes, keepdims=keep),
    "Whether every element over `axes` is true; true of nothing.",
)


# -- composites ---------------------------------------------------------------------------------


def _as(y: Any, x: Array) -> Array:
    """Return y in the element type of x; float to integer truncates and saturates."""
    y = np.asarray(y)
    truncates = y.dtype.kind == "f" and x.dtype.kind in "iu"
    return cast_ref(y, dtype_of(x), saturate=True) if truncates else y.astype(x.dtype)


def _composite(
    name: str,
    ref: Callable[[Array, tuple[int, ...], bool], Any],
    build: Callable[[GraphBuilder, Value, dict[str, Any]], Value],
    doc: str,
    *,
    through_float: bool = False,
    lo: float = -2.0,
) -> None:
    """Register a reduction made of others; f16 and bf16 go through f32 as a whole.

    through_float: integers go through f64, and the result is truncated.
    """

    def wide(dtype: DType) -> DType:
        if is_narrow(dtype):
            return F32
        return F64 if through_float and not dtype.is_float else dtype

    def decompose(b: GraphBuilder, op: Op) -> Sequence[Value]:
        (x,) = op.operands
        dtype = tensor_type(x).dtype
        if wide(dtype) != dtype:
            x = b.cast(x, dtype=wide(dtype), saturate=True)
        y = build(b, x, {"axes": op.attrs.axes, "keepdims": op.attrs.keepdims})
        return [y if wide(dtype) == dtype else b.cast(y, dtype=dtype, saturate=True)]

    def run(attrs: ReduceAttrs, x: Array) -> Array:
        with np.errstate(all="ignore"):
            floating = x.astype(np.float64) if through_float else _wide(x)
            return _as(ref(floating, attrs.axes, attrs.keepdims), x)

    register(
        OpDef(
            name=name,
            doc=doc,
            attrs=ReduceAttrs,
            kind=Kind.COMPOSITE,
            infer=_infer("fiu"),
            ref=run,
            decompose=decompose,
            grad=THROUGH,
            samples=_samples("f" if through_float else "fi", lo),
            rejects=lambda: _rejects("fiu"),
            tol=SUM_TOL,
        )
    )


def _count(b: GraphBuilder, x: Value, axes: tuple[int, ...]) -> Value:
    """The number of elements folded into one, as a scalar of the type of x."""
    type = tensor_type(x)
    count = product(type.shape[axis] for axis in normalize_axes(axes, type.rank))
    if isinstance(count, int):
        return like(b, count, x)
    return b.cast(b.dims(values=(count,), rank=0), dtype=type.dtype, saturate=True)  # type: ignore[no-any-return]


def _mean_ref(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    count = int(np.prod([x.shape[axis] for axis in axes]))
    total = np.sum(x, axes, dtype=x.dtype, keepdims=keep)
    if x.dtype.kind == "f":
        return np.asarray(np.divide(total, count))
    # Truncates towards zero, as integer division does.
    floor = total // max(count, 1)
    return np.asarray(floor + ((total < 0) & (floor * max(count, 1) != total)).astype(x.dtype))


def _log_sum_exp_ref(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    top = np.max(x, axes, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    total = np.log(np.sum(np.exp(x - top), axes, keepdims=True)) + top
    return np.asarray(total if keep else np.squeeze(total, axes))


def _log_sum_exp(b: GraphBuilder, x: Value, attrs: dict[str, Any]) -> Value:
    kept = {**attrs, "keepdims": True}
    top = b.reduce_max(x, **kept)
    finite = b.lt(b.abs(top), like(b, float("inf"), x))
    top = b.select(finite, top, like(b, 0, x))
    total = b.add(b.log(b.reduce_sum(b.exp(b.sub(x, top)), **kept)), top)
    if attrs["keepdims"]:
        return total  # type: ignore[no-any-return]
    shape = tensor_type(x).shape
    axes = normalize_axes(attrs["axes"], len(shape))
    return b.reshape(total, shape=reduced_shape(shape, axes, False))  # type: ignore[no-any-return]


_composite(
    "reduce_mean",
    _mean_ref,
    lambda b, x, attrs: b.div(b.reduce_sum(x, **attrs), _count(b, x, attrs["axes"])),
    "The sum over `axes` divided by the count; integers truncate. NaN of nothing (integers: 0).",
)
_composite(
    "reduce_l1",
    lambda x, axes, keep: np.sum(np.abs(x), axes, dtype=x.dtype, keepdims=keep),
    lambda b, x, attrs: b.reduce_sum(b.abs(x), **attrs),
    "The sum of absolute values over `axes`.",
)
_composite(
    "reduce_l2",
    lambda x, axes, keep: np.sqrt(np.sum(x * x, axes, keepdims=keep)),
    lambda b, x, attrs: b.sqrt(b.reduce_sum(b.mul(x, x), **attrs)),
    "The square root of the sum of squares over `axes`.",
    through_float=True,
)
_composite(
    "reduce_sum_square",
    lambda x, axes, keep: np.sum(x * x, axes, dtype=x.dtype, keepdims=keep),
    lambda b, x, attrs: b.reduce_sum(b.mul(x, x), **attrs),
    "The sum of squares over `axes`.",
)
_composite(
    "reduce_log_sum",
    lambda x, axes, keep: np.log(np.sum(x, axes, keepdims=keep)),
    lambda b, x, attrs: b.log(b.reduce_sum(x, **attrs)),
    "The logarithm of the sum over `axes`; -inf of nothing.",
    through_float=True,
    lo=0.1,
)
_composite(
    "reduce_log_sum_exp",
    _log_sum_exp_ref,
    _log_sum_exp,
    "log(sum(exp(x))) over `axes`, without overflow; -inf of nothing.",
    through_float=True,
)


# -- argmax, argmin -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArgAttrs:
    """axis: the one folded away; keepdims: leave it with extent 1; last: of equals the last."""

    axis: int
    keepdims: bool
    last: bool


def _infer_arg(types: Sequence[TensorType], attrs: ArgAttrs) -> Sequence[TensorType]:
    (x,) = types
    require_kind(x, "fiu")
    axis = normalize_axis(attrs.axis, x.rank)
    require(x.shape[axis] != 0, f"axis {axis} is empty")
    return (TensorType(I64, reduced_shape(x.shape, (axis,), attrs.keepdims)),)


def _assume_arg(types: Sequence[TensorType], attrs: ArgAttrs) -> list[Assumption]:
    """There are elements along the axis, or none is asked for."""
    (x,) = types
    axis = normalize_axis(attrs.axis, x.rank)
    rest = product(reduced_shape(x.shape, (axis,), False))
    zero = maximum(1 - x.shape[axis], 0) * rest
    return [] if isinstance(zero, int) else [Assumption(zero, f"axis {axis} is not empty")]


def _arg_ref(find: Callable[..., Any]) -> Callable[[ArgAttrs, Array], Array]:
    def ref(attrs: ArgAttrs, x: Array) -> Array:
        if not x.size:
            shape = reduced_shape(x.shape, (attrs.axis % x.ndim,), attrs.keepdims)
            return np.zeros(fixed(shape), np.int64)
        if not attrs.last:
            found = find(x, attrs.axis)
        else:
            found = x.shape[attrs.axis] - 1 - find(np.flip(x, attrs.axis), attrs.axis)
        found = np.asarray(found, np.int64)
        return np.expand_dims(found, attrs.axis) if attrs.keepdims else found

    return ref


def _arg_body(kind: str) -> Callable[[ExprBuilder, Op, int, tuple[Index, ...]], Expr]:
    def body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
        (x,) = op.operands
        type = tensor_type(x)
        axis = normalize_axis(op.attrs.axis, type.rank)
        after = index[axis + 1 :] if op.attrs.keepdims else index[axis:]
        it = b.iter(type.shape[axis])
        element = b.load(x, (*index[:axis], it.dim, *after))
        return b.reduce(kind, (it,), element, I64, op.attrs.last)

    return body


def _arg(name: str, find: Callable[..., Any], what: str) -> None:
    register(
        OpDef(
            name=name,
            doc=f"The index along `axis` of the {what} element; a NaN counts as it.",
            attrs=ArgAttrs,
            kind=Kind.REDUCTION,
            infer=_infer_arg,
            assumes=_assume_arg,
            ref=_arg_ref(find),
            body=_arg_body(name),
            grad=NoGrad("gives integers"),
            samples=lambda: [
                Sample((x,), {"axis": axis, "keepdims": keepdims, "last": last})
                for x, axis, keepdims, last in (
                    (floats((3, 5)), 1, False, False),
                    (floats((2, 7, 3)), 1, True, False),
                    (integers((4, 9), 0, 2), -1, False, True),
                    (integers((9, 4), 0, 2, np.uint8), 0, False, False),
                    (np.array([1, np.nan, 3, np.nan], np.float32), 0, False, False),
                    (np.array([1, np.nan, 3, np.nan], np.float32), 0, True, True),
                    (floats((3, 1)), 1, False, False),
                    (floats((0, 3)), 1, False, False),
                )
            ],
            rejects=lambda: [
                Reject(
                    (TensorType(F32, (2, 0)),),
                    {"axis": 1, "keepdims": False, "last": False},
                    "is empty",
                ),
                Reject(
                    (TensorType(BOOL, (2,)),),
                    {"axis": 0, "keepdims": False, "last": False},
                    "not bool",
                ),
                Reject(
                    (TensorType(F32, (2,)),),
                    {"axis": 1, "keepdims": False, "last": False},
                    "out of range",
                ),
            ],
        )
    )


_arg("argmax", np.argmax, "largest")
_arg("argmin", np.argmin, "smallest")
