"""Ops that rearrange or repeat all elements: reshape, transpose, broadcast, tile.

Parts of tensors are in `parts`, lookups by index operands in `index`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.ir.body import Expr, ExprBuilder, Index
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import (
    Dim,
    DimLike,
    UndecidableError,
    floordiv,
    mod,
    product,
)
from tfc.ir.opdef import Assumption, Kind, OpDef, Reject, Sample, Trait, register, require
from tfc.ir.ops.common import (
    PURE,
    broadcast_index,
    broadcast_shapes,
    floats,
    integers,
    unbroadcast,
)
from tfc.ir.types import F32, TensorType, shape_text

Shape = tuple[DimLike, ...]
MOVES = PURE | {Trait.DIMS}
VIEWS = MOVES | {Trait.VIEW}


def dims_of(index: Sequence[Index]) -> Shape:
    """Return index entries as dims, which is what index arithmetic needs.

    Who inlines a body under an index that is read from data binds that number to a symbol first.
    """
    found = [i for i in index if isinstance(i, (int, Dim))]
    assert len(found) == len(index), "an index read from data must be bound to a symbol"
    return tuple(found)


def fixed(dims: Sequence[DimLike]) -> list[int]:
    """Return dims as the integers that they are in a reference."""
    found = [dim for dim in dims if isinstance(dim, int)]
    assert len(found) == len(dims), "a reference is given numbers"
    return found


def refuted(a: DimLike, b: DimLike) -> bool:
    """Whether a <= b is false for all values of the symbols."""
    try:
        return a > b
    except UndecidableError:
        return False


def require_sizes(shape: Sequence[DimLike], what: str) -> None:
    """Refuse dims that are known to be negative."""
    negative = any(refuted(0, dim) for dim in shape)
    require(not negative, f"{what} {shape_text(tuple(shape))} has a negative dim")


# -- reshape ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReshapeAttrs:
    """shape: the result's dims, all of them given."""

    shape: Shape


def _infer_reshape(types: Sequence[TensorType], attrs: ReshapeAttrs) -> Sequence[TensorType]:
    (x,) = types
    require_sizes(attrs.shape, "shape")
    wanted = product(attrs.shape)
    sizes = f"{x.size} elements of {shape_text(x.shape)}, shape {shape_text(attrs.shape)}"
    require(
        not isinstance(x.size - wanted, int) or x.size == wanted,
        f"cannot reshape {sizes} has {wanted}",
    )
    return (TensorType(x.dtype, attrs.shape),)


def _assume_reshape(types: Sequence[TensorType], attrs: ReshapeAttrs) -> Sequence[Assumption]:
    (x,) = types
    zero = x.size - product(attrs.shape)
    if isinstance(zero, int):
        return []
    return [Assumption(zero, f"{shape_text(x.shape)} reshapes to {shape_text(attrs.shape)}")]


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Pair the shortest runs of axes of `old` and `new` that hold equally many elements.

    Axes of extent 1 are in no group. What is left is the last pair: its sizes are equal only by
    assumption.
    """
    ends: dict[DimLike, int] = {}
    total: DimLike = 1
    kept = [axis for axis, dim in enumerate(old) if dim != 1]
    for count, axis in enumerate(kept, 1):
        total = total * old[axis]
        ends[total] = count
    groups: list[tuple[list[int], list[int]]] = []
    total, done, run = 1, 0, []
    for axis, dim in enumerate(new):
        if dim == 1:
            continue
        total = total * dim
        run.append(axis)
        end = ends.get(total, 0)
        if end > done:
            groups.append((kept[done:end], run))
            done, run = end, []
    if run or done < len(kept):
        groups.append((kept[done:], run))
    return groups


def _exact_quotient(a: DimLike, b: DimLike) -> DimLike | None:
    quotient = floordiv(a, b)
    return quotient if quotient * b == a else None


def _factors(
    old: Sequence[DimLike], new: Sequence[DimLike]
) -> list[tuple[int, int, DimLike]] | None:
    """Split both runs of dims into one common sequence of factors, if they have one.

    Each entry is (position in old, position in new, factor), outermost first.
    """
    found: list[tuple[int, int, DimLike]] = []
    i = j = 0
    left, right = old[0], new[0]
    while True:
        if (quotient := _exact_quotient(right, left)) is not None:
            found.append((i, j, left))
            left, right = 1, quotient
        elif (quotient := _exact_quotient(left, right)) is not None:
            found.append((i, j, right))
            left, right = quotient, 1
        else:
            return None
        if left == 1:
            i += 1
            if i == len(old):
                return found
            left = old[i]
        if right == 1:
            j += 1
            right = new[j]


def _group_index(old: Sequence[DimLike], new: Sequence[DimLike], at: Sequence[DimLike]) -> Shape:
    """Return the index into dims `old` of the element at index `at` of dims `new`."""
    factors = _factors(old, new) if product(old) == product(new) else None
    if factors is None:
        linear: DimLike = 0
        for dim, i in zip(new, at, strict=True):
            linear = linear * dim + i
        return _digits(linear, old)
    digits: list[DimLike] = []
    for j, i in enumerate(at):
        digits += _digits(i, [factor for _, own, factor in factors if own == j])
    out: list[DimLike] = [0] * len(old)
    for (i, _, factor), digit in zip(factors, digits, strict=True):
        out[i] = out[i] * factor + digit
    return tuple(out)


def _digits(linear: DimLike, dims: Sequence[DimLike]) -> Shape:
    """Return the row-major index into `dims` of element number `linear`."""
    out: list[DimLike] = []
    if not dims:
        return ()
    for dim in reversed(dims[1:]):
        out.append(mod(linear, dim))
        linear = floordiv(linear, dim)
    return (linear, *reversed(out))


def reshape_index(old: Shape, new: Shape, index: Sequence[DimLike]) -> Shape:
    """Return where in `old` the element at `index` of the same data in shape `new` is."""
    out: list[DimLike] = [0] * len(old)
    if any(isinstance(dim, int) and dim == 0 for dim in (*old, *new)):
        return tuple(out)
    for left, right in _groups(old, new):
        found = _group_index(
            [old[axis] for axis in left],
            [new[axis] for axis in right],
            [index[axis] for axis in right],
        )
        for axis, i in zip(left, found, strict=True):
            out[axis] = i
    return tuple(out)


def _reshape_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    (x,) = op.operands
    return b.load(x, reshape_index(tensor_type(x).shape, op.attrs.shape, dims_of(index)))


def _reshape_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    return [b.reshape(gs[0], shape=tensor_type(op.operands[0]).shape)]


register(
    OpDef(
        name="reshape",
        assumes=_assume_reshape,
        doc="The same elements in row-major order under another shape of equal size.",
        attrs=ReshapeAttrs,
        kind=Kind.INJECTIVE,
        traits=VIEWS,
        infer=_infer_reshape,
        ref=lambda attrs, x: x.reshape(attrs.shape),
        body=_reshape_body,
        grad=_reshape_grad,
        samples=lambda: (
            [
                Sample((floats(old),), {"shape": new})
                for old, new in (
                    ((2, 3, 4), (6, 4)),
                    ((6, 4), (2, 3, 4)),
                    ((4, 6), (8, 3)),
                    ((2, 12), (4, 6)),
                    ((4, 9), (6, 6)),
                    ((1, 5, 1), (5,)),
                    ((2, 3, 5), (3, 1, 10)),
                    ((), (1, 1)),
                    ((1,), ()),
                    ((0, 3), (3, 0, 2)),
                )
            ]
            + [Sample((integers((4,), 1, 9),), {"shape": (2, 2)})]
        ),
        rejects=lambda: [
            Reject((TensorType(F32, (2, 3)),), {"shape": (4,)}, "cannot reshape"),
            Reject((TensorType(F32, (2, 3)),), {"shape": (-2, -3)}, "negative"),
        ],
    )
)


# -- transpose ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TransposeAttrs:
    """perm: for each axis of the result, the operand's axis that it is."""

    perm: tuple[int, ...]


def _infer_transpose(types: Sequence[TensorType], attrs: TransposeAttrs) -> Sequence[TensorType]:
    (x,) = types
    require(
        sorted(attrs.perm) == list(range(x.rank)),
        f"perm {list(attrs.perm)} is no permutation of {x.rank} axes",
    )
    return (TensorType(x.dtype, tuple(x.shape[axis] for axis in attrs.perm)),)


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """Return the permutation that undoes `perm`."""
    return tuple(perm.index(axis) for axis in range(len(perm)))


def _transpose_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    return b.load(op.operands[0], tuple(index[axis] for axis in inverse(op.attrs.perm)))


def _transpose_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    return [b.transpose(gs[0], perm=inverse(op.attrs.perm))]


register(
    OpDef(
        name="transpose",
        doc="Axis i of the result is axis perm[i] of the operand.",
        attrs=TransposeAttrs,
        kind=Kind.INJECTIVE,
        traits=VIEWS,
        infer=_infer_transpose,
        ref=lambda attrs, x: np.transpose(x, attrs.perm),
        body=_transpose_body,
        grad=_transpose_grad,
        samples=lambda: (
            [
                Sample((floats(shape),), {"perm": perm})
                for shape, perm in (
                    ((3, 5), (1, 0)),
                    ((2, 3, 4), (2, 0, 1)),
                    ((2, 3, 1, 5), (0, 2, 3, 1)),
                    ((0, 3), (1, 0)),
                    ((), ()),
                )
            ]
            + [Sample((integers((2, 3), 1, 9),), {"perm": (1, 0)})]
        ),
        rejects=lambda: [
            Reject((TensorType(F32, (2, 3)),), {"perm": (0, 0)}, "no permutation"),
            Reject((TensorType(F32, (2, 3)),), {"perm": (0,)}, "no permutation"),
        ],
    )
)


# -- broadcast ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BroadcastAttrs:
    """shape: the result's dims."""

    shape: Shape


def _infer_broadcast(types: Sequence[TensorType], attrs: BroadcastAttrs) -> Sequence[TensorType]:
    (x,) = types
    require_sizes(attrs.shape, "shape")
    text = f"{shape_text(x.shape)} does not broadcast to {shape_text(attrs.shape)}"
    require(x.rank <= len(attrs.shape), text)
    found = broadcast_shapes(x.shape, attrs.shape)
    for have, wanted in zip(found, attrs.shape, strict=True):
        # Two different symbols may be equal at run time; the run checks it.
        require(have == wanted or (isinstance(wanted, Dim) and isinstance(have, Dim)), text)
    return (TensorType(x.dtype, attrs.shape),)


def _assume_broadcast(types: Sequence[TensorType], attrs: BroadcastAttrs) -> list[Assumption]:
    """A dim is 1, or that of the result."""
    found: list[Assumption] = []
    (x,) = types
    for dim, wanted in zip(reversed(x.shape), reversed(attrs.shape), strict=False):
        zero = (dim - wanted) * (dim - 1)
        if zero != 0:
            message = f"dim {dim} broadcasts to {wanted}"
            found.append(Assumption(zero, message, (dim, wanted)))
    return found


def _broadcast_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    (x,) = op.operands
    return b.load(x, broadcast_index(b, tensor_type(x).shape, op.attrs.shape, index))


def _broadcast_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    return [unbroadcast(b, gs[0], op.operands[0])]


register(
    OpDef(
        name="broadcast",
        assumes=_assume_broadcast,
        doc="Repeat along new leading axes and along axes of extent 1, to reach `shape`.",
        attrs=BroadcastAttrs,
        kind=Kind.INJECTIVE,
        traits=VIEWS,
        infer=_infer_broadcast,
        ref=lambda attrs, x: np.broadcast_to(x, attrs.shape),
        body=_broadcast_body,
        grad=_broadcast_grad,
        samples=lambda: (
            [
                Sample((floats(old),), {"shape": new})
                for old, new in (
                    ((), (2, 3)),
                    ((3,), (5, 3)),
                    ((2, 1, 3), (4, 2, 5, 3)),
                    ((1,), (0,)),
                    ((2, 3), (2, 3)),
                )
            ]
            + [Sample((integers((1,), 1, 9),), {"shape": (3,)})]
        ),
        rejects=lambda: [
            Reject((TensorType(F32, (2, 3)),), {"shape": (3,)}, "does not broadcast"),
            Reject((TensorType(F32, (3,)),), {"shape": (2, 1)}, "does not broadcast"),
        ],
    )
)


# -- tile ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TileAttrs:
    """repeats: how often each axis is repeated as a whole."""

    repeats: Shape


def _infer_tile(types: Sequence[TensorType], attrs: TileAttrs) -> Sequence[TensorType]:
    (x,) = types
    require(len(attrs.repeats) == x.rank, f"{len(attrs.repeats)} repeats for rank {x.rank}")
    require_sizes(attrs.repeats, "repeats")
    shape = tuple(dim * n for dim, n in zip(x.shape, attrs.repeats, strict=True))
    return (TensorType(x.dtype, shape),)


def _tile_body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
    (x,) = op.operands
    moved: list[Index] = []
    for i, dim, repeat in zip(index, tensor_type(x).shape, op.attrs.repeats, strict=True):
        if isinstance(dim, int) and dim <= 1:
            moved.append(0)
        elif repeat == 1:
            moved.append(i)
        else:
            moved.append(mod(dims_of((i,))[0], dim))
    return b.load(x, tuple(moved))


def _tile_grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
    split: list[DimLike] = []
    for dim, repeat in zip(tensor_type(op.operands[0]).shape, op.attrs.repeats, strict=True):
        split += [repeat, dim]
    g = b.reshape(gs[0], shape=tuple(split))
    return [b.reduce_sum(g, axes=tuple(range(0, len(split), 2)), keepdims=False)]


register(
    OpDef(
        name="tile",
        doc="The operand repeated as a whole along each axis.",
        attrs=TileAttrs,
        kind=Kind.INJECTIVE,
        traits=MOVES,
        infer=_infer_tile,
        ref=lambda attrs, x: np.tile(x, attrs.repeats),
        body=_tile_body,
        grad=_tile_grad,
        samples=lambda: (
            [
                Sample((floats(shape),), {"repeats": repeats})
                for shape, repeats in (
                    ((3,), (2,)),
                    ((2, 3), (1, 3)),
                    ((1, 3), (4, 2)),
                    ((2, 3), (0, 1)),
                    ((), ()),
                )
            ]
            + [Sample((integers((2,), 1, 9),), {"repeats": (3,)})]
        ),
        rejects=lambda: [
            Reject((TensorType(F32, (2,)),), {"repeats": (1, 1)}, "2 repeats"),
            Reject((TensorType(F32, (2,)),), {"repeats": (-1,)}, "negative"),
        ],
    )
)
