"""Evaluates body expressions in numpy over a whole grid of iterators at once.

Used to fold and pack constants and as the oracle of schedules; not how models run. Affine loads
become strided views, guards become sub-boxes, so that packing a weight is one strided copy.
Start at `evaluate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.ir import dims
from tfc.ir.body import Apply, Expr, Guard, Keep, Load, Lookup, Number, Position, Range, Reduce
from tfc.ir.core import Value
from tfc.ir.dims import Call, Dim, DimLike, Interval, Symbol
from tfc.ir.loop import numeric
from tfc.ir.types import BOOL

Array = npt.NDArray[Any]

# Grids of reductions are cut along their first iterator to hold about this many elements.
_CHUNK = 1 << 24
_TILE = 64


@dataclass(frozen=True, slots=True)
class Axis:
    """One iterator of the grid: the values start <= name < stop."""

    name: str
    start: int
    stop: int

    @property
    def extent(self) -> int:
        return max(self.stop - self.start, 0)


Axes = tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """The grid that values stand on: array axis k is axes[k]; length 1 where it does not matter.

    guarded: some points may be outside a guard; their loads are clipped instead of refused.
    """

    axes: Axes
    guarded: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.extent for axis in self.axes)

    @property
    def env(self) -> dict[str, Interval]:
        return {axis.name: (axis.start, axis.stop - 1) for axis in self.axes}


def evaluate(
    expr: Expr,
    iters: Mapping[str, int],
    tensors: Mapping[Value, Array],
    symbols: Mapping[str, int] | None = None,
) -> Array:
    """Return `expr` for all 0 <= name < extent: an array with one axis per iterator, in order.

    tensors holds decoded arrays (bf16 as float32). The result may be a read-only view of one.
    Raises IndexError for a load out of bounds.
    """
    scope = Scope(tuple(Axis(name, 0, extent) for name, extent in iters.items()))
    if 0 in scope.shape:
        return np.zeros(scope.shape, numeric.register_dtype(expr.dtype))
    found = _Evaluator(tensors, symbols or {}).value(expr, scope)
    return _contiguous(np.broadcast_to(found, scope.shape))


def _contiguous(array: Array) -> Array:
    """Copy to row-major order, in tiles where the fast axes of both sides differ."""
    if array.flags.c_contiguous:
        return array
    out = np.empty(array.shape, array.dtype)
    strides = [abs(s) if n > 1 else 0 for s, n in zip(array.strides, array.shape, strict=True)]
    moving = [axis for axis, stride in enumerate(strides) if stride]
    fast = min(moving, key=lambda axis: strides[axis], default=array.ndim - 1)
    last = max(moving, default=array.ndim - 1)
    small = array.shape[last] < _TILE or array.shape[fast] < _TILE
    if fast == last or small or array.size < 1 << 16:
        np.copyto(out, array)
        return out
    source, target = np.moveaxis(array, fast, -1), np.moveaxis(out, fast, -1)
    for lo in range(0, source.shape[-1], _TILE):
        target[..., lo : lo + _TILE] = source[..., lo : lo + _TILE]
    return out


class _Evaluator:
    """Walks one expression; remembers what each node is worth on each grid."""

    def __init__(self, tensors: Mapping[Value, Array], symbols: Mapping[str, int]) -> None:
        self.tensors = tensors
        self.symbols = symbols
        self.known: dict[tuple[int, Scope], Array] = {}

    def value(self, expr: Expr, scope: Scope) -> Array:
        """Return an array that broadcasts, aligned at the last axis, to the grid."""
        key = (id(expr), scope)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self.compute(expr, scope)
        return found

    def compute(self, expr: Expr, scope: Scope) -> Array:
        match expr:
            case Load():
                return self.load(expr, scope)
            case Number():
                return numeric.number(expr.value, expr.dtype)
            case Position():
                return numeric.convert(self.dim(expr.dim, scope), expr.dtype)
            case Apply():
                args = [self.value(arg, scope) for arg in expr.args]
                return numeric.compute(expr.name, args, expr.dtype)
            case Lookup():
                return numeric.lookup(expr.values, expr.dtype, self.value(expr.arg, scope))
            case Guard():
                return self.guard(expr, scope)
            case Reduce():
                return self.reduce(expr, scope)
            case Keep():
                return self.value(expr.inside, scope)

    # -- index arithmetic -------------------------------------------------------------------------

    def bind(self, dim: DimLike, scope: Scope) -> DimLike:
        """Replace shape symbols by their values; iterators stay."""
        return dims.substitute(dim, self.symbols, scope.env)

    def integer(self, dim: DimLike) -> int:
        return dims.evaluate(dim, self.symbols)

    def dim(self, dim: DimLike, scope: Scope) -> Array:
        """Return an index expression as an i64 array over the grid."""
        total: Array = np.zeros((), np.int64)
        for mono, coeff in dims.terms_of(self.bind(dim, scope)):
            part: Array = np.asarray(coeff, np.int64)
            for atom in mono:
                part = part * self.atom(atom, scope)
            total = total + part
        return np.asarray(total)

    def atom(self, atom: Symbol | Call, scope: Scope) -> Array:
        if isinstance(atom, Symbol):
            rank = len(scope.axes)
            for k, axis in enumerate(scope.axes):
                if axis.name == atom.name:
                    ramp = np.arange(axis.start, axis.stop, dtype=np.int64)
                    return ramp.reshape((-1,) + (1,) * (rank - k - 1))
            raise KeyError(f"{atom.name} is neither an iterator nor a symbol with a value")
        args = [self.dim(arg, scope) for arg in atom.args]
        fn = _DIM_FUNCTIONS[atom.fn]
        total = args[0]
        for arg in args[1:]:
            total = np.asarray(fn(total, arg))
        return total

    # -- loads ------------------------------------------------------------------------------------

    def load(self, expr: Load, scope: Scope) -> Array:
        array = self.tensors[expr.value]
        if array.ndim == 0:
            return array
        bound = [self.bind(i, scope) for i in expr.index if isinstance(i, (int, Dim))]
        if len(bound) == array.ndim and 0 not in scope.shape:
            view = _view(array, bound, scope)
            if view is not None:
                return view
        return self.gather(array, expr, scope)

    def gather(self, array: Array, expr: Load, scope: Scope) -> Array:
        """Read at computed indices: one flat offset per point."""
        offset: Array = np.zeros((), np.int64)
        step = 1
        for i, size in zip(reversed(expr.index), reversed(array.shape), strict=True):
            at = self.dim(i, scope) if isinstance(i, (int, Dim)) else self.value(i, scope)
            if scope.guarded:
                at = np.clip(at, 0, max(size - 1, 0))
            elif at.size and (int(at.min()) < 0 or int(at.max()) >= size):
                raise IndexError(f"index {at.min()}..{at.max()} into an axis of {size}")
            offset = offset + at * step
            step *= size
        if not array.size:
            return np.zeros(offset.shape, array.dtype)
        return np.take(array.reshape(-1), offset)

    # -- guards -----------------------------------------------------------------------------------

    def guard(self, expr: Guard, scope: Scope) -> Array:
        """Evaluate `inside` on a box where the ranges are bounds of single iterators."""
        boxed: list[Axis] = list(scope.axes)
        rest: list[Range] = []
        for r in expr.ranges:
            if not self.narrow(boxed, r, scope):
                rest.append(r)
        inner = replace(scope, axes=tuple(boxed))
        outside = self.value(expr.outside, scope)
        if 0 in inner.shape:
            return outside
        if rest:
            mask = self.mask(rest, inner)
            fallback = self.value(expr.outside, inner)
            inside = np.where(mask, self.value(expr.inside, replace(inner, guarded=True)), fallback)
        else:
            inside = self.value(expr.inside, inner)
        if inner == scope:
            return inside
        return _paste(outside, inside, scope, inner)

    def narrow(self, boxed: list[Axis], r: Range, scope: Scope) -> bool:
        """Cut one axis to where `r` holds, if `r` is about one iterator alone."""
        dim = self.bind(r.dim, scope)
        lo, hi = self.bind(r.lo, scope), self.bind(r.hi, scope)
        if not (isinstance(lo, int) and isinstance(hi, int)):
            return False
        names = dims.symbols_of(dim)
        if len(names) != 1:
            return False
        (name,) = names
        coeff = dims.coefficient(dim, name)
        if not isinstance(coeff, int) or coeff == 0:
            return False
        base = dims.evaluate(dim, {name: 0})
        first, last = (lo - base, hi - 1 - base) if coeff > 0 else (hi - 1 - base, lo - base)
        start, stop = -(-first // coeff), last // coeff + 1
        for k, axis in enumerate(boxed):
            if axis.name == name:
                start = max(axis.start, start)
                boxed[k] = Axis(name, start, max(min(axis.stop, stop), start))
        return True

    def mask(self, ranges: list[Range], scope: Scope) -> Array:
        mask: Array = np.asarray(True)
        for r in ranges:
            at = self.dim(r.dim, scope)
            mask = mask & (at >= self.dim(r.lo, scope)) & (at < self.dim(r.hi, scope))
        return mask

    # -- reductions -------------------------------------------------------------------------------

    def reduce(self, expr: Reduce, scope: Scope) -> Array:
        """Put the reduction's iterators in front of the grid and fold those axes away."""
        extents = [self.integer(i.extent) for i in expr.iters]
        if 0 in extents:
            return _identity(expr)
        axes = tuple(Axis(i.name, 0, n) for i, n in zip(expr.iters, extents, strict=True))
        arg = expr.kind in ("argmax", "argmin")
        size = int(np.prod([*extents, *scope.shape], dtype=np.float64))
        rows = extents[0] if arg else max(1, extents[0] * _CHUNK // max(size, 1))
        total: Array | None = None
        for lo in range(0, extents[0], rows):
            first = replace(axes[0], start=lo, stop=min(lo + rows, extents[0]))
            part = self.fold(expr, (first, *axes[1:]), scope)
            total = part if total is None else _COMBINE[expr.kind](total, part)
        assert total is not None
        dtype = np.dtype(np.int64) if arg else numeric.register_dtype(expr.dtype)
        return np.asarray(total).astype(dtype, copy=False)

    def fold(self, expr: Reduce, axes: Axes, scope: Scope) -> Array:
        inner = replace(scope, axes=axes + scope.axes)
        found = self.value(expr.body, inner)
        found = found.reshape((1,) * (len(inner.axes) - found.ndim) + found.shape)
        lead = tuple(axis.extent for axis in axes)
        found = np.broadcast_to(found, lead + found.shape[len(axes) :])
        if expr.kind in ("argmax", "argmin"):
            flat = found.reshape(-1, *found.shape[len(axes) :])
            pick = np.argmax if expr.kind == "argmax" else np.argmin
            if not expr.last:
                return np.asarray(pick(flat, axis=0))
            return np.asarray(flat.shape[0] - 1 - pick(flat[::-1], axis=0))
        wide = np.float64 if found.dtype.kind == "f" else found.dtype
        over = tuple(range(len(axes)))
        with np.errstate(all="ignore"):
            return np.asarray(_COMBINE[expr.kind].reduce(found, axis=over, dtype=wide))


_DIM_FUNCTIONS: dict[str, Any] = {
    "floordiv": np.floor_divide, "mod": np.mod, "min": np.minimum, "max": np.maximum,
}  # fmt: skip
_COMBINE: dict[str, Any] = {
    "sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum,
    "any": np.logical_or, "all": np.logical_and,
}  # fmt: skip


def _identity(expr: Reduce) -> Array:
    """What a reduction over nothing gives."""
    if expr.kind in ("argmax", "argmin"):
        return np.zeros((), np.int64)
    if expr.kind in ("max", "min"):
        sign = -1 if expr.kind == "max" else 1
        if expr.dtype.is_float:
            return numeric.number(sign * np.inf, expr.dtype)
        ends = (0, 1) if expr.dtype == BOOL else numeric.int_range(expr.dtype)
        return numeric.number(ends[sign > 0], expr.dtype)
    return numeric.number(1 if expr.kind in ("prod", "all") else 0, expr.dtype)


def _paste(outside: Array, inside: Array, scope: Scope, inner: Scope) -> Array:
    """Return `outside` on the grid with `inside` put into its box."""
    out = np.empty(scope.shape, inside.dtype)
    out[...] = outside
    box = tuple(
        slice(small.start - big.start, small.stop - big.start)
        for big, small in zip(scope.axes, inner.axes, strict=True)
    )
    out[box] = inside
    return out


# -- strided views --------------------------------------------------------------------------------


def _view(array: Array, index: list[DimLike], scope: Scope) -> Array | None:
    """Return the loaded elements as a strided view of `array`, or None where they are not one.

    Iterators under floordiv and mod are split in two, which a reshape of the result undoes.
    """
    groups = [[axis] for axis in scope.axes]
    index = _split(groups, index)
    axes = [axis for group in groups for axis in group]
    env = {axis.name: (axis.start, axis.stop - 1) for axis in axes}
    starts = {axis.name: axis.start for axis in axes}
    strides = dict.fromkeys(starts, 0)
    corner = []
    for dim, size, stride in zip(index, array.shape, array.strides, strict=True):
        lo, hi = dims.bounds(dim, env)
        if lo is None or hi is None or lo < 0 or hi >= size:
            return None
        for mono, coeff in dims.terms_of(dim):
            if len(mono) == 1 and isinstance(mono[0], Symbol):
                strides[mono[0].name] += coeff * stride
            elif mono:
                return None
        corner.append(slice(dims.evaluate(dim, starts), None))
    used = {axis.name for axis in axes if strides[axis.name]}
    whole = [any(axis.name in used for axis in group) for group in groups]
    shape = [
        axis.extent if keep else 1
        for group, keep in zip(groups, whole, strict=True)
        for axis in group
    ]
    view = np.lib.stride_tricks.as_strided(
        array[tuple(corner)], shape, list(strides.values()), writeable=False
    )
    if len(axes) == len(groups):
        return view
    return view.reshape([a.extent if k else 1 for a, k in zip(scope.axes, whole, strict=True)])


def _split(groups: list[list[Axis]], index: list[DimLike]) -> list[DimLike]:
    """Split iterators, within `groups`, until no floordiv or mod is left that a split removes."""
    for _ in range(16):
        found = next(filter(None, (_divided(groups, call) for call in _calls(index))), None)
        if found is None:
            break
        group, k, inner = found
        axis = group[k]
        high = Axis(f"{axis.name}.q", 0, axis.stop // inner)
        low = Axis(f"{axis.name}.r", 0, inner)
        group[k : k + 1] = [high, low]
        env = {a.name: (a.start, a.stop - 1) for g in groups for a in g}
        value = dims.symbol(high.name) * inner + dims.symbol(low.name)
        index = [dims.substitute(dim, {axis.name: value}, env) for dim in index]
    return index


def _calls(index: list[DimLike]) -> Iterator[Call]:
    for dim in index:
        yield from dims.walk_calls(dim)


def _divided(groups: list[list[Axis]], call: Call) -> tuple[list[Axis], int, int] | None:
    """Return an iterator (its group and place) that `call` divides, and by how much."""
    divisor = call.args[1]
    if call.fn not in ("floordiv", "mod") or not isinstance(divisor, int):
        return None
    for group in groups:
        for k, axis in enumerate(group):
            coeff = dims.coefficient(call.args[0], axis.name)
            if not isinstance(coeff, int) or coeff <= 0 or divisor % coeff:
                continue
            inner = divisor // coeff
            if axis.start == 0 and 1 < inner < axis.stop and axis.stop % inner == 0:
                return group, k, inner
    return None
