"""Ops that write elements to places read from data: scatter_elements, scatter_nd.

Updates are applied in the order of their indices, so results are the same on every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, ceildiv, minimum, product
from tfc.ir.loop.kernel import KernelWriter, lanes_along
from tfc.ir.opdef import Assumption, Kind, OpDef, Reject, Sample, Trait, register, require
from tfc.ir.ops.common import (
    Array,
    compute_dtype,
    floats,
    integers,
    like,
    normalize_axis,
    require_kind,
    zeros_like,
)
from tfc.ir.ops.index import (
    assume_nonempty,
    assume_within,
    require_indices,
    require_within,
    wrapped,
)
from tfc.ir.ops.reduce import SUM_TOL
from tfc.ir.types import BOOL, F32, I64, DType, TensorType, shape_text

REDUCTIONS = ("none", "add", "mul", "max", "min")
_UFUNCS: dict[str, np.ufunc] = {
    "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
}  # fmt: skip
UPDATES = frozenset({Trait.PURE, Trait.UPDATES})
# Cycles that an update costs.
WORK = 6


def _require_scatter(types: Sequence[TensorType], reduction: str) -> None:
    x, indices, updates = types
    require_indices(indices)
    require(x.dtype == updates.dtype, f"updates are {updates.dtype}, the tensor is {x.dtype}")
    require(reduction in REDUCTIONS, f"unknown reduction {reduction!r}")
    if reduction != "none":
        require(x.dtype != BOOL, f"reduction {reduction} takes no bools")
        require_kind(x, "fiu")


def _apply(y: Array, place: tuple[Array, ...], updates: Array, reduction: str) -> None:
    """Write updates to the reference's result."""
    if reduction == "none":
        y[place] = updates
    else:
        _UFUNCS[reduction].at(y, place, updates)


def _reference(x: Array, place: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    """Combine updates with the parts of x at `place`, in float64 where they are added up."""
    y = x.astype(np.float64) if x.dtype.kind == "f" and reduction != "none" else x.copy()
    if y.size:
        _apply(y, place, updates, reduction)
    return y.astype(x.dtype)


class _Target:
    """The result while updates are written to it: f16 and bf16 are combined in f32."""

    def __init__(self, k: KernelWriter, reduction: str) -> None:
        self.k = k
        self.reduction = reduction
        self.type = tensor_type(k.op.results[0])
        wide = compute_dtype(self.type.dtype) if reduction in ("add", "mul") else self.type.dtype
        self.apart = wide != self.type.dtype
        self.memory = k.scratch(wide, *self.type.shape) if self.apart else k.results[0]
        self.dtype = wide
        k.copy(k.operands[0], self.memory, self.type.shape)

    def update(self, at: Sequence[Value], update: Value, lanes: int = 0) -> None:
        """Combine the element at an index, or as many as there are lanes, with an update."""
        b = self.k.b
        value = b.cast(update, self.dtype)
        if self.reduction != "none":
            old = b.vload(self.memory, at, lanes) if lanes else b.load(self.memory, *at)
            value = b.apply(self.reduction, old, value)
        if lanes:
            b.vstore(value, self.memory, at)
        else:
            b.store(value, self.memory, *at)

    def finish(self) -> None:
        if self.apart:
            self.k.copy(self.memory, self.k.results[0], self.type.shape)

    def place(self, index: Value, axis: int) -> Value:
        """An index read from data as one into `axis`."""
        b, size = self.k.b, self.type.shape[axis]
        i = b.cast(index, I64)
        zero = b.index(0)
        i = b.select(b.lt(i, zero), b.add(i, b.index(size)), i)
        return b.max(b.min(i, b.index(size - 1)), zero)


def _nonempty(shape: Sequence[DimLike]) -> DimLike:
    """0 where a tensor has no element, else 1."""
    return minimum(1, product(shape))


class _Gradients:
    """Gradients of x and the updates. What is scattered comes back by a gather at the same places.

    scatter_attrs, gather_attrs: of these two ops.
    """

    def __init__(
        self, b: GraphBuilder, op: Op, gather: str, scatter_attrs: Any, gather_attrs: Any
    ) -> None:
        self.b = b
        self.op = op
        self.gather = gather
        self.scatter_attrs = scatter_attrs
        self.gather_attrs = gather_attrs
        self.x, self.indices, self.updates = op.operands

    def pick(self, value: Value) -> Value:
        return self.b.op(self.gather, value, self.indices, **self.gather_attrs).result

    def put(self, base: Value, updates: Value, reduction: str) -> Value:
        attrs = {**self.scatter_attrs, "reduction": reduction}
        return self.b.op(self.op.name, base, self.indices, updates, **attrs).result

    def __call__(self, g: Value) -> Sequence[Value | None]:
        match self.op.attrs.reduction:
            case "add":
                return [g, None, self.pick(g)]
            case "none":
                return self._replaced(g)
            case "mul":
                return self._multiplied(g)
            case _:
                return self._extreme(g)

    def _replaced(self, g: Value) -> Sequence[Value | None]:
        """Of updates of one element, only the last had an effect."""
        b, type = self.b, tensor_type(self.updates)
        numbers = b.reshape(b.iota(shape=(type.size,), axis=0, dtype=I64), shape=type.shape)
        none = b.full(tensor_type(self.x).shape, -1, I64)
        stayed = b.eq(self.pick(self.put(none, numbers, "none")), numbers)
        zero = like(b, 0, g)
        rest = self.put(g, zeros_like(b, self.updates), "none")
        return [rest, None, b.select(stayed, self.pick(g), zero)]

    def _multiplied(self, g: Value) -> Sequence[Value | None]:
        """The product of the others is divided out, but for zeros, which are counted apart."""
        b = self.b
        zero, one = like(b, 0, g), like(b, 1, g)
        sides = []
        for value in (self.x, self.updates):
            is_zero = b.eq(value, zero)
            sides.append((b.select(is_zero, one, value), b.cast(is_zero, dtype=I64)))
        (x, x_zero), (u, u_zero) = sides
        whole = self.put(x, u, "mul")
        zeros = self.put(x_zero, u_zero, "add")

        def others(whole: Value, zeros: Value, own: Value, own_zero: Value) -> Value:
            some = b.gt(zeros, own_zero)
            found: Value = b.select(some, zero, b.div(whole, own))
            return found

        gx = b.mul(g, others(whole, zeros, x, x_zero))
        gu = b.mul(self.pick(g), others(self.pick(whole), self.pick(zeros), u, u_zero))
        return [gx, None, gu]

    def _extreme(self, g: Value) -> Sequence[Value | None]:
        """Elements that are the extreme share the gradient."""
        b, y = self.b, self.op.result
        zero, one = like(b, 0, g), like(b, 1, g)
        mine = b.eq(self.x, y)
        theirs = b.eq(self.updates, self.pick(y))
        counts = self.put(b.select(mine, one, zero), b.select(theirs, one, zero), "add")
        share = b.div(g, counts)
        return [b.select(mine, share, zero), None, b.select(theirs, self.pick(share), zero)]


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
    require_within(x.shape, indices.shape, axis)
    return (x,)


def _assume_elements(
    types: Sequence[TensorType], attrs: ScatterElementsAttrs
) -> Sequence[Assumption]:
    """Every index has a place, and something to name there."""
    x, indices, _ = types
    return assume_within(x.shape, indices.shape, normalize_axis(attrs.axis, x.rank))


def _elements_ref(attrs: ScatterElementsAttrs, x: Array, indices: Array, updates: Array) -> Array:
    axis = attrs.axis % x.ndim
    place: list[Array] = list(np.indices(indices.shape))
    place[axis] = wrapped(indices, x.shape[axis])
    return _reference(x, tuple(place), updates, attrs.reduction)


def _elements_loops(k: KernelWriter) -> None:
    """Other places along the axis never meet: they are shared out."""
    b = k.b
    _, indices, updates = k.operands
    shape, counts = (tensor_type(value).shape for value in k.op.operands[:2])
    axis = normalize_axis(k.op.attrs.axis, len(shape))
    target = _Target(k, k.op.attrs.reduction)
    # Symbolic indices reach as far as the tensor does.
    limits = [minimum(dim, count) for dim, count in zip(shape, counts, strict=True)]
    limits[axis] = counts[axis] * _nonempty(shape)
    shared = list(range(axis))
    if product(limits[:axis]) == 1:
        shared += range(axis + 1, min(axis + 2, len(shape)))
    inner = [i for i in range(len(shape)) if i not in shared]
    cost = product(limits[i] for i in inner) * WORK
    with k.rows([limits[i] for i in shared], cost) as (outer, _), ExitStack() as loops:
        at = dict(zip(shared, outer, strict=True))
        for i in inner:
            at[i] = loops.enter_context(b.for_(0, limits[i])).index
        index = [at[i] for i in range(len(shape))]
        place = target.place(b.load(indices, *index), axis)
        target.update([*index[:axis], place, *index[axis + 1 :]], b.load(updates, *index))
    target.finish()


def _elements_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    axis = {"axis": op.attrs.axis}
    return _Gradients(b, op, "gather_elements", axis, axis)(gs[0])


def _types(*shapes: tuple[int, ...], dtype: DType = F32) -> tuple[TensorType, ...]:
    x, indices, updates = shapes
    return TensorType(dtype, x), TensorType(I64, indices), TensorType(dtype, updates)


def _with_zeros(shape: tuple[int, ...]) -> Array:
    found = floats(shape)
    found[::2] = 0
    return found


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
        kind=Kind.OPAQUE,
        infer=_infer_elements,
        assumes=_assume_elements,
        ref=_elements_ref,
        loops=_elements_loops,
        traits=UPDATES,
        grad=_elements_grad,
        samples=lambda: [
            *(
                Sample(
                    (floats(shape), _distinct(count, axis, shape[axis]), floats(count, seed=1)),
                    {"axis": axis, "reduction": reduction},
                )
                for shape, count, axis in (
                    ((4, 3), (2, 3), 0),
                    ((4, 5), (3, 4), 1),
                    ((3,), (0,), 0),
                )
                for reduction in REDUCTIONS
            ),
            *(
                Sample((floats(shape), indices, floats(indices.shape, seed=1)), attrs)
                for shape, indices, axis in (
                    ((3, 4), integers((3, 6), -5, 4), 1),
                    ((4, 2, 3), integers((9, 2, 3), -5, 4), 0),
                    ((2, 3, 2), integers((1, 4, 2), -5, 4), 1),
                )
                for reduction in REDUCTIONS
                for attrs in ({"axis": axis, "reduction": reduction},)
            ),
            Sample(
                (_with_zeros((4,)), np.array([0, 1, 1, 2, 2, 3]), _with_zeros((6,))),
                {"axis": 0, "reduction": "mul"},
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


def _assume_nd(types: Sequence[TensorType], attrs: ScatterNdAttrs) -> Sequence[Assumption]:
    x, indices, updates = types
    depth = indices.shape[-1]
    assert isinstance(depth, int)
    return assume_nonempty(x.shape[:depth], updates.shape)


def _nd_ref(attrs: ScatterNdAttrs, x: Array, indices: Array, updates: Array) -> Array:
    # Without indices every update is of the whole.
    depth = indices.shape[-1]
    whole = x if depth else x[np.newaxis]
    place = tuple(wrapped(indices[..., i], dim) for i, dim in enumerate(x.shape[:depth]))
    place = place or (np.zeros(indices.shape[:-1], np.int64),)
    return _reference(whole, place, updates, attrs.reduction).reshape(x.shape)


# How many elements of a part are a task.
BLOCK = 1024


def _nd_loops(k: KernelWriter) -> None:
    """Each update in turn; elements within the parts that are written are shared out."""
    b = k.b
    _, indices, updates = k.operands
    shape, counts = (tensor_type(value).shape for value in k.op.operands[:2])
    depth = counts[-1]
    assert isinstance(depth, int)
    target = _Target(k, k.op.attrs.reduction)
    limits = [count * _nonempty(shape) for count in counts[:-1]]
    inner = shape[depth:]
    lanes = lanes_along(-1, target.memory, updates) if inner else 0
    shared = (*inner[:-1], ceildiv(inner[-1], BLOCK)) if inner else ()
    with k.rows(shared, product(limits) * WORK * 8) as (part, _), ExitStack() as loops:
        at = [loops.enter_context(b.for_(0, limit)).index for limit in limits]
        place = [target.place(b.load(indices, *at, i), i) for i in range(depth)]
        if not inner:
            target.update(place, b.load(updates, *at))
        else:
            *row, block = part
            first = b.mul(block, b.index(BLOCK))
            end = b.min(b.add(first, b.index(BLOCK)), b.index(inner[-1]))

            def one(i: Value, lanes: int) -> None:
                source = (*at, *row, i)
                update = b.vload(updates, source, lanes) if lanes else b.load(updates, *source)
                target.update([*place, *row, i], update, lanes)

            k.each(first, end, lanes, one)
    target.finish()


def _nd_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    return _Gradients(b, op, "gather_nd", {}, {"batch_dims": 0})(gs[0])


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
            grad = 0 not in shape
            found.append(
                Sample((floats(shape), indices, updates), {"reduction": reduction}, grad=grad)
            )
    twice = np.array([[1], [1], [2]])
    for reduction in REDUCTIONS:
        operands = (floats((4,)), twice, floats((3,), seed=1))
        found.append(Sample(operands, {"reduction": reduction}))
    return found


register(
    OpDef(
        name="scatter_nd",
        doc="x, with each update combined into the part that its tuple of indices names.",
        attrs=ScatterNdAttrs,
        operands=(3, 3),
        kind=Kind.OPAQUE,
        infer=_infer_nd,
        assumes=_assume_nd,
        ref=_nd_ref,
        loops=_nd_loops,
        traits=UPDATES,
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
