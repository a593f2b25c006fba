"""Running sums and products: every element of the result folds the elements up to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import ceildiv, product
from tfc.ir.loop.kernel import VECTOR_BYTES, KernelWriter, lanes_along
from tfc.ir.opdef import Kind, OpDef, Reject, Sample, register
from tfc.ir.ops.common import (
    Array,
    compute_dtype,
    floats,
    integers,
    like,
    normalize_axis,
    require_kind,
)
from tfc.ir.ops.reduce import SUM_TOL
from tfc.ir.types import BOOL, F32, I64, BufferType, TensorType


@dataclass(frozen=True, slots=True)
class ScanAttrs:
    """exclusive: leave the element itself out; reverse: fold from the end."""

    axis: int
    exclusive: bool
    reverse: bool


def _infer(types: Sequence[TensorType], attrs: ScanAttrs) -> Sequence[TensorType]:
    (x,) = types
    require_kind(x, "fiu")
    normalize_axis(attrs.axis, x.rank)
    return (x,)


def _fold_ref(fold: Callable[..., Array], neutral: int, attrs: ScanAttrs, x: Array) -> Array:
    wide = x.astype(np.float64) if x.dtype.kind == "f" else x
    if attrs.reverse:
        wide = np.flip(wide, attrs.axis)
    with np.errstate(all="ignore"):
        total = fold(wide, attrs.axis, dtype=wide.dtype)
    if attrs.exclusive:
        alone = np.full_like(wide, neutral)
        first = np.take(alone, range(min(1, wide.shape[attrs.axis])), attrs.axis)
        rest = np.take(total, range(wide.shape[attrs.axis] - 1), attrs.axis)
        total = np.concatenate([first, rest], attrs.axis)
    with np.errstate(all="ignore"):
        return (np.flip(total, attrs.axis) if attrs.reverse else total).astype(x.dtype)


def _cumsum_ref(attrs: ScanAttrs, x: Array) -> Array:
    return _fold_ref(np.cumsum, 0, attrs, x)


def _cumprod_ref(attrs: ScanAttrs, x: Array) -> Array:
    return _fold_ref(np.cumprod, 1, attrs, x)


# How many vectors of columns go side by side, and the cycles that an element costs.
WIDE, WORK = 8, 2
_COMBINE = {"cumsum": ("add", 0), "cumprod": ("mul", 1)}


def _loops(k: KernelWriter) -> None:
    type = tensor_type(k.op.result)
    axis = normalize_axis(k.op.attrs.axis, type.rank)
    outer, size, inner = type.shape[:axis], type.shape[axis], type.shape[axis + 1 :]
    folded = (product(outer), size, product(inner))
    x, y = (k.reshape(buf, folded) for buf in (*k.operands, *k.results))
    if x is not None and y is not None:
        scan = _Scan(k, x, y, 1)
        outer, inner = folded[:1], folded[2:]
    else:
        scan = _Scan(k, k.operands[0], k.results[0], axis)
    if product(inner) == 1:
        with k.rows(outer, size * WORK) as (row, _):
            scan.along((*row, *(k.b.index(0) for _ in inner)))
        return
    block = VECTOR_BYTES * WIDE
    with k.rows((*outer, *inner[:-1], ceildiv(inner[-1], block)), size * block) as (row, _):
        *at, part = row
        first = k.b.mul(part, k.b.index(block))
        end = k.b.min(k.b.add(first, k.b.index(block)), k.b.index(inner[-1]))
        scan.across(at, first, end)


class _Scan:
    """Folds x along an axis into y, of one row or of neighbouring columns at once."""

    def __init__(self, k: KernelWriter, x: Value, y: Value, axis: int) -> None:
        self.k = k
        self.b = k.b
        self.x, self.y, self.axis = x, y, axis
        attrs = k.op.attrs
        assert isinstance(x.type, BufferType)
        self.size = x.type.shape[axis]
        self.dtype = x.type.dtype
        self.wide = compute_dtype(self.dtype)
        self.exclusive, self.reverse = attrs.exclusive, attrs.reverse
        self.combine, self.neutral = _COMBINE[k.op.name]

    def _place(self, i: Value, count: int = 1) -> Value:
        """Where round `i` is, or the lowest of the `count` rounds from there on."""
        return self.b.sub(self.b.index(self.size - count), i) if self.reverse else i

    # -- columns --------------------------------------------------------------------------------

    def across(self, at: Sequence[Value], first: Value, end: Value) -> None:
        """Fold columns `first` to `end` of the last axis: some vectors of them, one, one column."""
        lanes = lanes_along(-1, self.x, self.y)
        if lanes:

            def several(i: Value, count: int) -> None:
                self._columns(at, i, max(count // lanes, 1), lanes)

            whole = self._whole(first, end, lanes)
            wide = self._whole(first, whole, lanes * WIDE)
            with self.b.for_(first, wide, step=lanes * WIDE) as loop:
                several(loop.index, lanes * WIDE)
            with self.b.for_(wide, whole, step=lanes) as loop:
                several(loop.index, lanes)
            first = whole
        with self.b.for_(first, end) as loop:
            self._columns(at, loop.index, 1, 0)

    def _whole(self, first: Value, end: Value, step: int) -> Value:
        """Where whole steps from `first` on end."""
        b = self.b
        return b.max(first, b.sub(end, b.rem(b.sub(end, first), b.index(step))))

    def _columns(self, at: Sequence[Value], column: Value, count: int, lanes: int) -> None:
        b = self.b
        columns = [b.add(column, b.index(n * lanes)) for n in range(count)]
        start = b.splat(b.const(self.neutral, self.wide), lanes)
        with b.for_(0, self.size, [start] * count) as loop:
            place = self._place(loop.index)
            index = [(*at[: self.axis], place, *at[self.axis :], c) for c in columns]
            loop.yields = [
                self._step(at, total, lanes) for at, total in zip(index, loop.carried, strict=True)
            ]

    def _step(self, at: tuple[Value, ...], before: Value, lanes: int) -> Value:
        b = self.b
        x = b.vload(self.x, at, lanes) if lanes else b.load(self.x, *at)
        total = b.apply(self.combine, before, b.cast(x, self.wide))
        found = b.cast(before if self.exclusive else total, self.dtype)
        if lanes:
            b.vstore(found, self.y, at)
        else:
            b.store(found, self.y, *at)
        return total

    # -- rows -----------------------------------------------------------------------------------

    def along(self, at: Sequence[Value]) -> None:
        """Fold a row: sums a vector at a time, products one by one, so that none overflows."""
        b = self.b
        lanes = lanes_along(self.axis, self.x, self.y) if self.combine == "add" else 0
        lo, total = b.index(0), b.const(self.neutral, self.wide)
        if lanes:
            lo = self._whole(lo, b.index(self.size), lanes)
            with b.for_(0, lo, (total,), step=lanes) as loop:
                place = self._place(loop.index, lanes)
                loop.yields = (self._vector(self._index(at, place), loop.carried[0], lanes),)
            (total,) = loop.results
        with b.for_(lo, self.size, (total,)) as loop:
            index = self._index(at, self._place(loop.index))
            loop.yields = (self._step(index, loop.carried[0], 0),)

    def _index(self, at: Sequence[Value], place: Value) -> tuple[Value, ...]:
        return (*at[: self.axis], place, *at[self.axis :])

    def _vector(self, at: tuple[Value, ...], before: Value, lanes: int) -> Value:
        """Fold the elements of a vector, in steps of one lane, two, four, ..., behind `before`."""
        b = self.b
        x = b.cast(b.vload(self.x, at, lanes, self.axis), self.wide)
        none = b.const(self.neutral, x)
        shift = 1
        while shift < lanes:
            x = b.apply(self.combine, self._shifted(x, none, shift, lanes), x)
            shift *= 2
        totals = b.apply(self.combine, b.splat(before, lanes), x)
        found = totals
        if self.exclusive:
            found = self._shifted(totals, b.splat(before, lanes), 1, lanes)
        b.vstore(b.cast(found, self.dtype), self.y, at, self.axis)
        return b.extract(totals, 0 if self.reverse else lanes - 1)

    def _shifted(self, x: Value, fill: Value, shift: int, lanes: int) -> Value:
        """The lanes of x moved on in the direction of the fold; those of `fill` come in."""
        if self.reverse:
            mask = [lane + shift if lane + shift < lanes else lanes for lane in range(lanes)]
        else:
            mask = [lane - shift if lane >= shift else lanes for lane in range(lanes)]
        return self.b.shuffle(x, fill, mask)


def _cumsum_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    attrs = op.attrs
    return [b.cumsum(gs[0], axis=attrs.axis, exclusive=attrs.exclusive, reverse=not attrs.reverse)]


def _cumprod_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    """Elements are divided out, but for the first zero, which is left out of the products.

    Behind it all products are 0, whatever the element.
    """
    (x,), (g,), attrs = op.operands, gs, op.attrs
    same = {"axis": attrs.axis, "exclusive": attrs.exclusive}
    zero, one = like(b, 0, x), like(b, 1, x)
    is_zero = b.eq(x, zero)
    zeros = b.cumsum(
        b.cast(is_zero, dtype=I64), axis=attrs.axis, exclusive=False, reverse=attrs.reverse
    )
    first = b.op("and", is_zero, b.eq(zeros, b.constant(1, I64))).result

    def behind(products: Value) -> Value:
        """The sum over the results that an element takes part in."""
        found: Value = b.cumsum(b.mul(g, products), **same, reverse=not attrs.reverse)
        return found

    without = b.cumprod(b.select(first, one, x), **same, reverse=attrs.reverse)
    before = b.div(behind(op.result), b.select(is_zero, one, x))
    rest = b.select(b.eq(zeros, b.constant(0, I64)), before, zero)
    return [b.select(first, behind(without), rest)]


def _with_zeros() -> Array:
    """Rows with no zero, one and two."""
    found = floats((3, 5))
    found[1:, 1] = 0
    found[2, 3] = 0
    return found


def _samples() -> Sequence[Sample]:
    ways = ((False, False), (True, False), (False, True), (True, True))
    operands = (
        (floats((5, 3)), 0),
        (floats((2, 70)), 1),
        (floats((3, 90)), -2),
        (floats((2, 3, 2)), 1),
        (integers((1, 4)), -1),
        (integers((40,), dtype=np.int32), 0),
        (integers((40,), dtype=np.uint8, lo=0), 0),
        (_with_zeros(), 1),
        (floats((2, 0)), 0),
        (floats((2, 0)), 1),
    )
    return [
        Sample((x,), {"axis": axis, "exclusive": exclusive, "reverse": reverse})
        for x, axis in operands
        for exclusive, reverse in ways
    ]


def _rejects() -> Sequence[Reject]:
    attrs = {"exclusive": False, "reverse": False}
    return (
        Reject((TensorType(F32, (2,)),), {"axis": 1, **attrs}, "out of range"),
        Reject((TensorType(BOOL, (2,)),), {"axis": 0, **attrs}, "not bool"),
    )


register(
    OpDef(
        name="cumsum",
        doc="The running sum along `axis`; integers wrap, f16 and bf16 add in f32.",
        attrs=ScanAttrs,
        kind=Kind.OPAQUE,
        infer=_infer,
        ref=_cumsum_ref,
        loops=_loops,
        grad=_cumsum_grad,
        samples=_samples,
        rejects=_rejects,
        tol=SUM_TOL,
    )
)
register(
    OpDef(
        name="cumprod",
        doc="The running product along `axis`; integers wrap, f16 and bf16 multiply in f32.",
        attrs=ScanAttrs,
        kind=Kind.OPAQUE,
        infer=_infer,
        ref=_cumprod_ref,
        loops=_loops,
        grad=_cumprod_grad,
        samples=_samples,
        rejects=_rejects,
        tol=SUM_TOL,
    )
)
