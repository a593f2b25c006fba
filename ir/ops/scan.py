"""Running sums and products: every element of the result folds the elements up to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.body import Expr, ExprBuilder, Index, Range
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.opdef import Body, Kind, NoGrad, OpDef, Reject, Sample, register
from tfc.ir.ops.common import Array, compute_dtype, floats, integers, normalize_axis, require_kind
from tfc.ir.ops.movement import dims_of
from tfc.ir.ops.reduce import SUM_TOL
from tfc.ir.types import BOOL, F32, TensorType


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


def _body(kind: str, neutral: int) -> Body:
    def body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
        (x,) = op.operands
        type = tensor_type(x)
        attrs = op.attrs
        axis = normalize_axis(attrs.axis, type.rank)
        (i,) = dims_of(index[axis : axis + 1])
        it = b.iter(type.shape[axis])
        dtype = compute_dtype(type.dtype)
        skip = 1 if attrs.exclusive else 0
        if attrs.reverse:
            taken = Range(it.dim, i + skip, type.shape[axis])
        else:
            taken = Range(it.dim, 0, i + 1 - skip)
        element = b.cast(b.load(x, (*index[:axis], it.dim, *index[axis + 1 :])), dtype)
        guarded = b.guard((taken,), element, b.const(neutral, dtype))
        return b.cast(b.reduce(kind, (it,), guarded, dtype), type.dtype)

    return body


def _cumsum_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    attrs = op.attrs
    return [b.cumsum(gs[0], axis=attrs.axis, exclusive=attrs.exclusive, reverse=not attrs.reverse)]


def _samples() -> Sequence[Sample]:
    return [
        Sample((x,), {"axis": axis, "exclusive": exclusive, "reverse": reverse})
        for x in (floats((5, 3)), integers((1, 4)), floats((2, 0)))
        for axis, exclusive, reverse in (
            (0, False, False),
            (1, True, False),
            (-1, False, True),
            (0, True, True),
        )
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
        kind=Kind.REDUCTION,
        infer=_infer,
        ref=_cumsum_ref,
        body=_body("sum", 0),
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
        kind=Kind.REDUCTION,
        infer=_infer,
        ref=_cumprod_ref,
        body=_body("prod", 1),
        grad=NoGrad("divides by the elements, which may be 0"),
        samples=_samples,
        rejects=_rejects,
        tol=SUM_TOL,
    )
)
