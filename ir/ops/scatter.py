"""Ops that write elements to places read from data: scatter_elements, scatter_nd.

Their bodies ask every update whether it hits the element, which suits few updates: there is no
other order of writes to choose, so results are the same on every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.arrays import numpy_dtype
from tfc.ir.body import Expr, ExprBuilder, Index, Iter, Range
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike
from tfc.ir.errors import UnsupportedError
from tfc.ir.opdef import Kind, OpDef, Reject, Sample, register, require
from tfc.ir.ops.common import Array, compute_dtype, floats, index_expr, integers, normalize_axis
from tfc.ir.ops.index import in_range, require_indices, wrapped
from tfc.ir.ops.movement import dims_of
from tfc.ir.ops.reduce import SUM_TOL, fold
from tfc.ir.types import BOOL, F32, I64, DType, TensorType, shape_text

REDUCTIONS = ("none", "add", "mul", "max", "min")
_FOLDS = {"add": "sum", "mul": "prod", "max": "max", "min": "min"}


def _require_scatter(types: Sequence[TensorType], reduction: str) -> None:
    x, indices, updates = types
    require_indices(indices)
    require(x.dtype == updates.dtype, f"updates are {updates.dtype}, the tensor is {x.dtype}")
    require(reduction in REDUCTIONS, f"unknown reduction {reduction!r}")
    require(reduction == "none" or x.dtype != BOOL, f"reduction {reduction} takes no bools")


def _limits(dtype: DType) -> tuple[float, float]:
    """The lowest and the highest number of a type."""
    if dtype.is_float:
        return -np.inf, np.inf
    info = np.iinfo(numpy_dtype(dtype))
    return int(info.min), int(info.max)


def _combined(
    b: ExprBuilder, reduction: str, iters: tuple[Iter, ...], hit: Expr, update: Expr, element: Expr
) -> Expr:
    """The element after all updates over `iters` that hit it, by a reduction."""
    dtype = compute_dtype(element.dtype) if reduction in ("add", "mul") else element.dtype
    lowest, highest = _limits(dtype)
    neutral = {"add": 0, "mul": 1, "max": lowest, "min": highest}[reduction]
    part = b.select(hit, b.cast(update, dtype), b.const(neutral, dtype))
    total = fold(b, _FOLDS[reduction], iters, part, dtype)
    both = {"add": b.add, "mul": b.mul, "max": b.max, "min": b.min}[reduction]
    return b.cast(both(b.cast(element, dtype), total), element.dtype)


def _last_hit(b: ExprBuilder, iters: tuple[Iter, ...], hit: Expr) -> tuple[Expr, tuple[Index, ...]]:
    """Whether anything over `iters` hits, and the iterators' values at the last that does."""
    if not iters:
        return hit, ()
    number: DimLike = 0
    for it in iters:
        number = number * it.extent + it.dim
    none = b.const(-1, I64)
    last = b.reduce("max", iters, b.select(hit, b.position(number, I64), none), I64)
    zero = b.const(0, I64)
    left = b.max(last, zero)
    digits: list[Expr] = []
    for it in reversed(iters[1:]):
        extent = index_expr(b, it.extent)
        digits.append(b.rem(left, extent))
        left = b.div(left, extent)
    return b.ge(last, zero), (left, *reversed(digits))


def _apply(y: Array, place: tuple[int, ...], update: Array, reduction: str) -> None:
    """Write one update to the reference's result."""
    match reduction:
        case "none":
            y[place] = update
        case "add":
            y[place] += update
        case "mul":
            y[place] *= update
        case "max":
            y[place] = np.maximum(y[place], update)
        case _:
            y[place] = np.minimum(y[place], update)


def _scatter_grad(
    b: GraphBuilder, op: Op, g: Value, scatter: str, gather: str, **attrs: int
) -> Sequence[Value | None]:
    _, indices, updates = op.operands
    reduction = op.attrs.reduction
    picked = b.op(gather, g, indices, **attrs).result
    if reduction == "add":
        return [g, None, picked]
    if reduction != "none":
        raise UnsupportedError(f"gradient of {op.name} with reduction {reduction}")
    type = tensor_type(updates)
    zeros = b.full(type.shape, 0, type.dtype)
    kept = {name: value for name, value in attrs.items() if name == "axis"}
    rest = b.op(scatter, g, indices, zeros, reduction="none", **kept).result
    return [rest, None, picked]


# -- scatter_elements ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScatterElementsAttrs:
    """axis: which one indices are about. reduction: none (the last stays), add, mul, max, min."""

    axis: int
    reduction: str


def _infer_elements(
    types: Sequence[TensorType], attrs: ScatterElementsAttrs
) -> Sequence[TensorType]:
    _require_scatter(types, attrs.reduction)
    x, indices, updates = types
    axis = normalize_axis(attrs.axis, x.rank)
    require(
        indices.shape == updates.shape,
        f"indices {shape_text(indices.shape)} and updates {shape_text(updates.shape)} differ",
    )
    require(x.rank == indices.rank, f"x has rank {x.rank}, indices have {indices.rank}")
    for i, (dim, count) in enumerate(zip(x.shape, indices.shape, strict=True)):
        fits = i == axis or not (isinstance(dim, int) and isinstance(count, int)) or count <= dim
        require(fits, f"indices {shape_text(indices.shape)} reach beyond {shape_text(x.shape)}")
    return (x,)


def _elements_ref(attrs: ScatterElementsAttrs, x: Array, indices: Array, updates: Array) -> Array:
    axis = attrs.axis % x.ndim
    places = wrapped(indices, x.shape[axis])
    y = x.astype(np.float64) if x.dtype.kind == "f" and attrs.reduction != "none" else x.copy()
    for at in np.ndindex(*indices.shape):
        place = (*at[:axis], int(places[at]), *at[axis + 1 :])
        _apply(y, place, updates[at], attrs.reduction)
    return y.astype(x.dtype)


def _elements_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    x, indices, updates = op.operands
    shape, counts = tensor_type(x).shape, tensor_type(indices).shape
    axis = normalize_axis(op.attrs.axis, len(index))
    element = b.load(x, index)
    if counts[axis] == 0:
        return element
    it = b.iter(counts[axis])
    at = (*index[:axis], it.dim, *index[axis + 1 :])
    hit = b.eq(in_range(b, b.load(indices, at), shape[axis]), index_expr(b, index[axis]))
    if op.attrs.reduction == "none":
        any_hit, last = _last_hit(b, (it,), hit)
        update = b.load(updates, (*index[:axis], *last, *index[axis + 1 :]))
        changed = b.select(any_hit, update, element)
    else:
        changed = _combined(b, op.attrs.reduction, (it,), hit, b.load(updates, at), element)
    ranges = tuple(
        Range(dims_of((i,))[0], 0, count)
        for k, (i, dim, count) in enumerate(zip(index, shape, counts, strict=True))
        if k != axis and dim != count
    )
    return b.guard(ranges, changed, element)


def _elements_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    return _scatter_grad(b, op, gs[0], "scatter_elements", "gather_elements", axis=op.attrs.axis)


def _types(*shapes: tuple[int, ...], dtype: DType = F32) -> tuple[TensorType, ...]:
    x, indices, updates = shapes
    return TensorType(dtype, x), TensorType(I64, indices), TensorType(dtype, updates)


def _distinct(shape: tuple[int, ...], axis: int, size: int) -> Array:
    """Indices of which no two along an axis are the same, some counted from the end."""
    order = np.argsort(floats((size, *shape), seed=3), axis=0)[: shape[axis]]
    found = np.moveaxis(np.take(order, 0, axis + 1), 0, axis)
    return np.asarray(np.where(found % 2 == 0, found, found - size), np.int64)


register(
    OpDef(
        name="scatter_elements",
        doc=(
            "x, with each update combined into the element at its own place but for `axis`, where "
            "the index says which."
        ),
        attrs=ScatterElementsAttrs,
        operands=(3, 3),
        kind=Kind.REDUCTION,
        infer=_infer_elements,
        ref=_elements_ref,
        body=_elements_body,
        grad=_elements_grad,
        samples=lambda: [
            *(
                Sample(
                    (floats(shape), _distinct(count, axis, shape[axis]), floats(count, seed=1)),
                    {"axis": axis, "reduction": reduction},
                    grad=reduction in ("none", "add"),
                )
                for shape, count, axis in (
                    ((4, 3), (2, 3), 0),
                    ((4, 5), (3, 4), 1),
                    ((3,), (0,), 0),
                )
                for reduction in REDUCTIONS
            ),
            Sample(
                (floats((3, 4)), integers((3, 6), -5, 4), floats((3, 6), seed=1)),
                {"axis": 1, "reduction": "none"},
                grad=False,
            ),
            Sample(
                (integers((3,), 0, 1, np.bool_), np.array([1]), np.array([True])),
                {"axis": 0, "reduction": "none"},
            ),
            Sample(
                (integers((3,)), np.array([1, 1]), np.array([5, -7])),
                {"axis": -1, "reduction": "min"},
            ),
        ],
        rejects=lambda: [
            Reject(_types((2,), (1,), (2,)), {"axis": 0, "reduction": "none"}, "differ"),
            Reject(_types((2,), (1, 1), (1, 1)), {"axis": 0, "reduction": "none"}, "rank"),
            Reject(_types((2, 2), (2, 3), (2, 3)), {"axis": 0, "reduction": "none"}, "beyond"),
            Reject(_types((2,), (1,), (1,)), {"axis": 0, "reduction": "sum"}, "unknown reduction"),
            Reject(
                _types((2,), (1,), (1,), dtype=BOOL), {"axis": 0, "reduction": "add"}, "no bools"
            ),
        ],
        tol=SUM_TOL,
    )
)


# -- scatter_nd ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScatterNdAttrs:
    """reduction: none (the last stays), add, mul, max, min."""

    reduction: str


def _infer_nd(types: Sequence[TensorType], attrs: ScatterNdAttrs) -> Sequence[TensorType]:
    _require_scatter(types, attrs.reduction)
    x, indices, updates = types
    require(indices.rank > 0, "indices are a scalar")
    depth = indices.shape[-1]
    require(isinstance(depth, int), f"the length {depth} of an index tuple is not a number")
    assert isinstance(depth, int)
    require(depth <= x.rank, f"{depth} indices for rank {x.rank}")
    wanted = (*indices.shape[:-1], *x.shape[depth:])
    require(
        updates.shape == wanted,
        f"updates are {shape_text(updates.shape)}, not {shape_text(wanted)}",
    )
    return (x,)


def _nd_ref(attrs: ScatterNdAttrs, x: Array, indices: Array, updates: Array) -> Array:
    y = x.astype(np.float64) if x.dtype.kind == "f" and attrs.reduction != "none" else x.copy()
    for at in np.ndindex(*indices.shape[:-1]):
        place = tuple(int(wrapped(i, dim)) for i, dim in zip(indices[at], x.shape, strict=False))
        _apply(y, place, updates[at], attrs.reduction)
    return y.astype(x.dtype)


def _nd_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    x, indices, updates = op.operands
    shape, counts = tensor_type(x).shape, tensor_type(indices).shape
    depth = counts[-1]
    assert isinstance(depth, int)
    element = b.load(x, index)
    if any(count == 0 for count in counts[:-1]):
        return element
    iters = tuple(b.iter(count) for count in counts[:-1])
    at = tuple(it.dim for it in iters)
    hit = b.const(1, BOOL)
    for k in range(depth):
        own = in_range(b, b.load(indices, (*at, k)), shape[k])
        same = b.eq(own, index_expr(b, index[k]))
        hit = same if k == 0 else b.and_(hit, same)
    if op.attrs.reduction == "none":
        any_hit, last = _last_hit(b, iters, hit)
        return b.select(any_hit, b.load(updates, (*last, *index[depth:])), element)
    update = b.load(updates, (*at, *index[depth:]))
    return _combined(b, op.attrs.reduction, iters, hit, update, element)


def _nd_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    return _scatter_grad(b, op, gs[0], "scatter_nd", "gather_nd", batch_dims=0)


def _nd_samples() -> Sequence[Sample]:
    cases = (
        ((4, 3), np.array([[2], [0], [-1]])),
        ((4, 3), np.array([[2, 1], [0, -1], [3, 0]])),
        ((2, 3, 2), np.array([[[0, 2], [1, 0]], [[1, 1], [0, 0]]])),
        ((4,), np.array([1])),
        ((3, 2), np.zeros((0, 1), np.int64)),
        ((0, 2), np.zeros((0, 1), np.int64)),
        ((2, 3), np.zeros((1, 0), np.int64)),
    )
    found = []
    for shape, indices in cases:
        updates = floats((*indices.shape[:-1], *shape[indices.shape[-1] :]), seed=1)
        for reduction in REDUCTIONS:
            grad = reduction in ("none", "add") and 0 not in shape
            found.append(
                Sample((floats(shape), indices, updates), {"reduction": reduction}, grad=grad)
            )
    twice = np.array([[1], [1], [2]])
    for reduction in REDUCTIONS:
        operands = (floats((4,)), twice, floats((3,), seed=1))
        found.append(Sample(operands, {"reduction": reduction}, grad=False))
    return found


register(
    OpDef(
        name="scatter_nd",
        doc="x, with each update combined into the part that its tuple of indices names.",
        attrs=ScatterNdAttrs,
        operands=(3, 3),
        kind=Kind.REDUCTION,
        infer=_infer_nd,
        ref=_nd_ref,
        body=_nd_body,
        grad=_nd_grad,
        samples=_nd_samples,
        rejects=lambda: [
            Reject(_types((2, 3), (4, 3), (4,)), {"reduction": "none"}, "3 indices"),
            Reject(_types((2, 3), (4, 1), (4, 2)), {"reduction": "none"}, "updates are [4, 2]"),
            Reject(_types((2,), (), ()), {"reduction": "none"}, "scalar"),
            Reject(
                (TensorType(F32, (2,)), TensorType(F32, (1, 1)), TensorType(F32, (1,))),
                {"reduction": "none"},
                "are integers",
            ),
        ],
        tol=SUM_TOL,
    )
)
