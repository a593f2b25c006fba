"""Composes the bodies of a group's ops into one expression per output, over linear accesses.

Index tuples become positions in flat buffers here; after this, logical shapes are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from tfc.compiler.evaluate import is_stored
from tfc.ir.attrs import Dense
from tfc.ir.body import (
    Apply,
    Expr,
    ExprBuilder,
    Guard,
    Index,
    Iter,
    Load,
    Number,
    Position,
    rewrite,
)
from tfc.ir.core import Op, Value
from tfc.ir.dims import Call, Dim, DimLike, Symbol, from_terms, symbols_of, terms_of
from tfc.ir.errors import CompileError
from tfc.ir.ops.const import DimsAttrs
from tfc.ir.types import BOOL, I64, TensorType


@dataclass(frozen=True)
class Access:
    """How a kernel addresses a value: element index -> offset + sum(index * strides)."""

    strides: tuple[DimLike, ...]
    offset: DimLike = 0


@dataclass(frozen=True)
class Output:
    """One output of a kernel: element `expr` goes to `address` for all values of the iterators."""

    value: Value
    address: DimLike
    expr: Expr


@dataclass(frozen=True)
class Nest:
    """What a kernel computes: outputs over parallel iterators. Everything else is schedule."""

    iters: tuple[Iter, ...]
    outputs: tuple[Output, ...]


def rewritten(nest: Nest, change: Callable[[Expr], Expr | None]) -> Nest:
    """Return a nest whose outputs' expressions are rewritten; itself where nothing changes."""
    outputs = tuple(replace(o, expr=rewrite(o.expr, change)) for o in nest.outputs)
    same = all(a.expr is b.expr for a, b in zip(outputs, nest.outputs, strict=True))
    return nest if same else replace(nest, outputs=outputs)


class Composer(ExprBuilder):
    """Inlines the bodies of `inside` ops; loads of other values become linear."""

    def __init__(
        self,
        inside: set[Op],
        outer: Mapping[Value, Value],
        access: Callable[[Value], Access],
        staged: Mapping[Value, Access],
        names: Iterator[int] | None = None,
    ) -> None:
        """names: numbers of iterators; those of all expressions in one kernel must differ."""
        if names is not None:
            self._names = names
        self.inside = inside
        self.outer = outer
        self.access = access
        self.staged = staged
        self._made: dict[tuple[Value, tuple[Index, ...]], Expr] = {}
        self._index: dict[int, tuple[DimLike, ...]] = {}

    def load(self, value: Value, index: tuple[Index, ...]) -> Expr:
        key = (value, index)
        known = self._made.get(key)
        if known is None:
            known = self._made[key] = self._load(value, index)
        return known

    def element(self, value: Value, index: tuple[Index, ...]) -> Expr:
        """The expression of an inside value, even where the value is staged."""
        op = value.op
        assert op is not None
        if op.defn.body is None:  # type: ignore[attr-defined]
            raise CompileError(f"{op.name} has no body to lower", where=str(op.loc) or None)
        return op.defn.body(self, op, value.index, index)  # type: ignore[attr-defined, no-any-return]

    def uses(self) -> dict[Value, list[Expr]]:
        """The expressions of each inside value, one for every index it was loaded at."""
        found: dict[Value, list[Expr]] = {}
        for (value, _), expr in self._made.items():
            if value.op in self.inside:
                found.setdefault(value, []).append(expr)
        return found

    def index_of(self, load: Load) -> tuple[DimLike, ...]:
        """The index at which a staged value was loaded."""
        return self._index[id(load)]

    def _inline(self, value: Value, index: tuple[Index, ...]) -> Expr:
        """The body of an inside op; entries read from data are symbols while it is built."""
        bound: dict[str, Expr] = {}
        dims: list[DimLike] = []
        for entry in index:
            if isinstance(entry, (int, Dim)):
                dims.append(entry)
            else:
                it = self.iter(0, "data")
                bound[it.name] = entry
                dims.append(it.dim)
        expr = self.element(value, tuple(dims))
        return rewrite(expr, lambda node: _resolve(node, bound)) if bound else expr

    def _load(self, value: Value, index: tuple[Index, ...]) -> Expr:
        assert isinstance(value.type, TensorType)
        if value in self.staged:
            load = Load(value, linear(self.staged[value], index), value.type.dtype)
            self._index[id(load)] = tuple(i for i in index if isinstance(i, (int, Dim)))
            return load
        if value.op in self.inside:
            return self._inline(value, index)
        value = self.outer.get(value, value)
        immediate = _immediate(value, index)
        if immediate is not None:
            return immediate
        return Load(value, linear(self.access(value), index), value.type.dtype)


def linear(access: Access, index: tuple[Index, ...]) -> tuple[Index, ...]:
    """The entries whose sum is the position of element `index`: one dim, then expressions."""
    fixed: DimLike = access.offset
    dynamic: list[Index] = []
    for entry, stride in zip(index, access.strides, strict=True):
        if isinstance(entry, (int, Dim)):
            fixed = fixed + entry * stride
        elif stride == 1:
            dynamic.append(entry)
        else:
            dynamic.append(Apply("mul", (entry, Position(stride, I64)), I64))
    return (fixed, *dynamic)


def _immediate(value: Value, index: tuple[Index, ...]) -> Expr | None:
    """The element of a tiny constant or of a `dims` op as a literal, where that is possible."""
    op = value.op
    if op is None or not is_stored(op):
        return None
    if isinstance(op.attrs, DimsAttrs):
        return _dims_element(op.attrs.values, index)
    dense = op.attrs.value
    if isinstance(dense, Dense) and len(dense.values) == 1:
        number = dense.values[0]
        return Number(number, op.attrs.dtype)
    return None


def _dims_element(values: tuple[DimLike, ...], index: tuple[Index, ...]) -> Expr:
    if not index:
        return Position(values[0], I64)
    (at,) = index
    if not values:
        return Number(0, I64)
    if isinstance(at, int):
        return Position(values[at], I64)
    where = Position(at, I64) if isinstance(at, Dim) else at
    result: Expr = Position(values[-1], I64)
    for i, dim in reversed(list(enumerate(values[:-1]))):
        here = Apply("eq", (where, Number(i, I64)), BOOL)
        result = Apply("select", (here, Position(dim, I64), result), I64)
    return result


def _resolve(node: Expr, bound: Mapping[str, Expr]) -> Expr | None:
    """Replace the symbols in `bound` by their expressions in a load's or position's dims."""
    match node:
        case Load():
            index = tuple(
                _as_expr(i, bound) if isinstance(i, Dim) and symbols_of(i) & bound.keys() else i
                for i in node.index
            )
            return None if index == node.index else Load(node.value, index, node.dtype)
        case Position() if symbols_of(node.dim) & bound.keys():
            number = _as_expr(node.dim, bound)
            return number if node.dtype == I64 else Apply("cast", (number,), node.dtype)
        case Guard() if any(
            symbols_of(d) & bound.keys() for r in node.ranges for d in (r.dim, r.lo, r.hi)
        ):
            raise CompileError("a guard on an index that is read from data")
        case _:
            return None


def _as_expr(dim: DimLike, bound: Mapping[str, Expr]) -> Expr:
    """The dim as an i64 expression, its bound symbols replaced."""
    if not symbols_of(dim) & bound.keys():
        return Position(dim, I64)
    total: Expr | None = None
    for mono, coeff in terms_of(dim):
        part: Expr = Position(coeff, I64)
        for atom in mono:
            factor = _atom_expr(atom, bound)
            plain = isinstance(part, Position) and part.dim == 1
            part = factor if plain else Apply("mul", (part, factor), I64)
        total = part if total is None else Apply("add", (total, part), I64)
    assert total is not None
    return total


def _atom_expr(atom: Symbol | Call, bound: Mapping[str, Expr]) -> Expr:
    if isinstance(atom, Symbol):
        return bound.get(atom.name) or Position(from_terms({(atom,): 1}), I64)
    args = tuple(_as_expr(arg, bound) for arg in atom.args)
    if atom.fn in ("min", "max"):
        return Apply(atom.fn, args, I64)
    # Bodies divide indices only, which are not negative, so truncation is the floor.
    return Apply({"floordiv": "div", "mod": "rem"}[atom.fn], args, I64)
