"""Structured bodies: what one element of an op's result is, as data.

An `Expr` is a scalar expression over elements of operands at affine indices, with guards,
reductions and data-dependent indices. Schedules read these trees; nothing here emits code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tfc.ir.attrs import Dense
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, Interval, substitute, symbol, symbols_of
from tfc.ir.loop.scalar import ScalarBuilder
from tfc.ir.types import DType, TensorType


@dataclass(frozen=True, eq=False, slots=True)
class Load:
    """The element of tensor `value` at `index`, which is in bounds wherever it is evaluated."""

    value: Value
    index: tuple[Index, ...]
    dtype: DType


@dataclass(frozen=True, eq=False, slots=True)
class Number:
    """A literal."""

    value: float | complex
    dtype: DType


@dataclass(frozen=True, eq=False, slots=True)
class Position:
    """An index expression as a number: i64, or cast to `dtype`."""

    dim: DimLike
    dtype: DType


@dataclass(frozen=True, eq=False, slots=True)
class Apply:
    """A scalar op (`ir.loop.scalar`) on scalars."""

    name: str
    args: tuple[Expr, ...]
    dtype: DType


@dataclass(frozen=True, eq=False, slots=True)
class Lookup:
    """The element of `values` that the byte `arg` counts to."""

    values: Dense
    arg: Expr
    dtype: DType


@dataclass(frozen=True, slots=True)
class Range:
    """lo <= dim < hi."""

    dim: DimLike
    lo: DimLike
    hi: DimLike


@dataclass(frozen=True, eq=False, slots=True)
class Guard:
    """`inside` where every range holds, else `outside`; `inside` is evaluated only there."""

    ranges: tuple[Range, ...]
    inside: Expr
    outside: Expr
    dtype: DType


@dataclass(frozen=True, slots=True)
class Iter:
    """An iterator 0 <= name < extent. Names are unique within one composed expression."""

    name: str
    extent: DimLike

    @property
    def dim(self) -> Dim:
        return symbol(self.name)

    @property
    def interval(self) -> Interval:
        return 0, (self.extent - 1 if isinstance(self.extent, int) else None)


@dataclass(frozen=True, eq=False, slots=True)
class Reduce:
    """`body` combined over all values of `iters`, in row-major order of the iterators.

    kind: sum, prod, max, min (NaN wins), any, all; or argmax, argmin: the linear index, as i64,
    of the first extreme (of the last where `last`). An empty reduction gives the kind's identity.
    """

    kind: str
    iters: tuple[Iter, ...]
    body: Expr
    dtype: DType
    last: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Keep:
    """The value of `inside`, which is also written to element `index` of `value`'s memory.

    Schedules put it where a later stage of the same kernel loads `value` again.
    """

    inside: Expr
    value: Value
    index: tuple[Index, ...]
    dtype: DType


Expr: TypeAlias = Load | Number | Position | Apply | Lookup | Guard | Reduce | Keep
Index: TypeAlias = int | Dim | Load | Number | Position | Apply | Lookup | Guard | Reduce | Keep

COMBINE = {
    "sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and",
}  # fmt: skip


class ExprBuilder(ScalarBuilder[Expr]):
    """What an op's body is given: makes expressions. Lowering subclasses `load` to inline."""

    _names: Iterator[int] = itertools.count()

    def scalar(self, name: str, args: tuple[Expr, ...], dtype: DType) -> Expr:
        return Apply(name, args, dtype)

    def dtype_of(self, value: Expr) -> DType:
        return value.dtype

    def const(self, value: float | complex, like: Expr | DType) -> Expr:
        return Number(value, like if isinstance(like, DType) else like.dtype)

    def load(self, value: Value, index: tuple[Index, ...]) -> Expr:
        """The element of `value` at `index`; an entry may be an i64 expression."""
        assert isinstance(value.type, TensorType)
        return Load(value, index, value.type.dtype)

    def lookup(self, values: Dense, x: Expr, dtype: DType) -> Expr:
        return Lookup(values, x, dtype)

    def position(self, dim: DimLike, dtype: DType) -> Expr:
        return Position(dim, dtype)

    def guard(self, ranges: tuple[Range, ...], inside: Expr, outside: Expr) -> Expr:
        """Drop the ranges that always hold; no guard is made where none is left."""
        kept = tuple(r for r in ranges if not (isinstance(r.dim, int) and _holds(r)))
        return Guard(kept, inside, outside, inside.dtype) if kept else inside

    def iter(self, extent: DimLike, hint: str = "r") -> Iter:
        """A fresh iterator."""
        return Iter(f"{hint}.{next(self._names)}", extent)

    def reduce(
        self, kind: str, iters: tuple[Iter, ...], body: Expr, dtype: DType, last: bool = False
    ) -> Expr:
        return Reduce(kind, iters, body, dtype, last)


def _holds(r: Range) -> bool:
    return all(isinstance(x, int) for x in (r.dim, r.lo, r.hi)) and r.lo <= r.dim < r.hi


def children(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly below `expr`, data-dependent indices included."""
    match expr:
        case Load():
            return tuple(i for i in expr.index if not isinstance(i, (int, Dim)))
        case Apply():
            return expr.args
        case Lookup():
            return (expr.arg,)
        case Guard():
            return (expr.inside, expr.outside)
        case Reduce():
            return (expr.body,)
        case Keep():
            return (expr.inside,)
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """Yield every distinct node of the DAG, the root first."""
    seen: set[int] = set()
    stack = [expr]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        stack.extend(reversed(children(node)))


def walk_up(expr: Expr) -> Iterator[Expr]:
    """Yield every distinct node of the DAG, children before all of their parents."""
    seen: set[int] = set()
    stack = [expr]
    while stack:
        node = stack[-1]
        below = [child for child in children(node) if id(child) not in seen]
        if below and id(node) not in seen:
            stack.extend(reversed(below))
            continue
        stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node


def loads(expr: Expr) -> list[Load]:
    return [node for node in walk(expr) if isinstance(node, Load)]


def rewrite(
    expr: Expr,
    fn: Callable[[Expr], Expr | None],
    given: Mapping[int, Expr] | None = None,
) -> Expr:
    """Rebuild the DAG bottom-up: `fn` returns a replacement for a rebuilt node, or None.

    given: replacements of nodes by their id, which are not looked into.
    """
    done: dict[int, Expr] = dict(given or {})
    stack = [expr]
    while stack:
        node = stack[-1]
        below = [child for child in children(node) if id(child) not in done]
        if below and id(node) not in done:
            stack.extend(below)
            continue
        stack.pop()
        if id(node) not in done:
            rebuilt = _with_children(node, [done[id(child)] for child in children(node)])
            done[id(node)] = fn(rebuilt) or rebuilt
    return done[id(expr)]


def _with_children(node: Expr, new: list[Expr]) -> Expr:
    if all(a is b for a, b in zip(children(node), new, strict=True)):
        return node
    match node:
        case Load():
            rest = iter(new)
            index = tuple(i if isinstance(i, (int, Dim)) else next(rest) for i in node.index)
            return Load(node.value, index, node.dtype)
        case Apply():
            return Apply(node.name, tuple(new), node.dtype)
        case Lookup():
            return Lookup(node.values, new[0], node.dtype)
        case Guard():
            return Guard(node.ranges, new[0], new[1], node.dtype)
        case Reduce():
            return Reduce(node.kind, node.iters, new[0], node.dtype, node.last)
        case Keep():
            return Keep(new[0], node.value, node.index, node.dtype)
        case _:
            return node


def substitute_dims(expr: Expr, values: Mapping[str, DimLike], env: Mapping[str, Interval]) -> Expr:
    """Replace iterator names by dims in every index, range and position of the DAG.

    Nodes that do not mention the names are kept, so sharing survives.
    """

    def swap(dim: DimLike) -> DimLike:
        return substitute(dim, values, env) if symbols_of(dim) & values.keys() else dim

    def swap_index(index: tuple[Index, ...]) -> tuple[Index, ...]:
        return tuple(swap(i) if isinstance(i, (int, Dim)) else i for i in index)

    def change(node: Expr) -> Expr | None:
        match node:
            case Load():
                index = swap_index(node.index)
                return None if index == node.index else Load(node.value, index, node.dtype)
            case Keep():
                index = swap_index(node.index)
                same = index == node.index
                return None if same else Keep(node.inside, node.value, index, node.dtype)
            case Position():
                dim = swap(node.dim)
                return None if dim == node.dim else Position(dim, node.dtype)
            case Guard():
                ranges = tuple(Range(swap(r.dim), swap(r.lo), swap(r.hi)) for r in node.ranges)
                if ranges == node.ranges:
                    return None
                return Guard(ranges, node.inside, node.outside, node.dtype)
            case _:
                return None

    return rewrite(expr, change)
