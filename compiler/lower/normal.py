"""Brings a nest to normal form: no unit iterators, affine indices by splitting, few iterators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tfc.compiler.lower.compose import Nest, Output
from tfc.compiler.lower.dependence import own_dims
from tfc.ir.body import Expr, Iter, Reduce, rewrite, substitute_dims, walk, walk_up
from tfc.ir.dims import (
    Dim,
    DimLike,
    Interval,
    Symbol,
    coefficient,
    floordiv,
    substitute,
    symbols_of,
    terms_of,
    walk_calls,
)


def normalise(nest: Nest) -> Nest:
    """Return an equal nest in normal form."""
    nest = _drop_units(nest)
    nest = _split(nest)
    nest = _drop_units(nest)
    return _collapse_reductions(_collapse(nest))


def all_dims(nest: Nest) -> list[DimLike]:
    """Every index expression in the nest, addresses of the outputs included."""
    found: list[DimLike] = [output.address for output in nest.outputs]
    seen: set[int] = set()
    for output in nest.outputs:
        for node in walk(output.expr):
            if id(node) not in seen:
                seen.add(id(node))
                found.extend(own_dims(node))
    return found


def reductions(nest: Nest) -> list[Reduce]:
    """The distinct reductions, those that others need first."""
    found: dict[int, Reduce] = {}
    for output in nest.outputs:
        for node in walk_up(output.expr):
            if isinstance(node, Reduce):
                found.setdefault(id(node), node)
    return list(found.values())


def _iterators(nest: Nest) -> list[Iter]:
    inner = {it.name: it for reduce in reductions(nest) for it in reduce.iters}
    return [*nest.iters, *inner.values()]


def _replace(nest: Nest, name: str, dim: DimLike, new: Sequence[Iter]) -> Nest:
    """Replace iterator `name` by `dim` over the iterators `new`, wherever it stands."""
    env: dict[str, Interval] = {it.name: it.interval for it in _iterators(nest)}
    env.update({it.name: it.interval for it in new})

    def change(expr: Expr) -> Expr:
        return rewrite(substitute_dims(expr, {name: dim}, env), in_reduce)

    def in_reduce(node: Expr) -> Expr | None:
        if not isinstance(node, Reduce) or all(it.name != name for it in node.iters):
            return None
        return Reduce(node.kind, _swap(node.iters, name, new), node.body, node.dtype, node.last)

    shared = _rebuild([output.expr for output in nest.outputs], change)
    outputs = tuple(
        Output(o.value, substitute(o.address, {name: dim}, env), expr)
        for o, expr in zip(nest.outputs, shared, strict=True)
    )
    return Nest(_swap(nest.iters, name, new), outputs)


def _rebuild(exprs: list[Expr], change: object) -> list[Expr]:
    done: dict[int, Expr] = {}
    for expr in exprs:
        if id(expr) not in done:
            done[id(expr)] = change(expr)  # type: ignore[operator]
    return [done[id(expr)] for expr in exprs]


def _swap(iters: Iterable[Iter], name: str, new: Sequence[Iter]) -> tuple[Iter, ...]:
    out: list[Iter] = []
    for it in iters:
        out.extend(new if it.name == name else [it])
    return tuple(out)


def _drop_units(nest: Nest) -> Nest:
    for it in _iterators(nest):
        if it.extent == 1:
            nest = _replace(nest, it.name, 0, ())
    return nest


def _split(nest: Nest) -> Nest:
    """Split iterator i into (q, r) with i = c*q + r where indices use i // c or i % c.

    Where c is all of its extent, q is 0 and the index was i all along.
    """
    for _ in range(16):
        found = _find_split(nest)
        if found is None:
            return nest
        it, size = found
        outer = Iter(f"{it.name}o", floordiv(it.extent, size))
        inner = Iter(f"{it.name}i", size)
        nest = _replace(nest, it.name, outer.dim * size + inner.dim, (outer, inner))
    return nest


def _find_split(nest: Nest) -> tuple[Iter, DimLike] | None:
    iters = {it.name: it for it in _iterators(nest)}
    for dim in all_dims(nest):
        for call in walk_calls(dim):
            if call.fn not in ("floordiv", "mod"):
                continue
            arg, size = call.args
            name = _only_symbol(arg)
            if name in iters and not (symbols_of(size) & iters.keys()):
                extent = iters[name].extent
                if (extent % size) == 0 and (extent != size or isinstance(size, int)):
                    return iters[name], size
    return None


def _only_symbol(dim: DimLike) -> str:
    terms = terms_of(dim)
    if isinstance(dim, Dim) and len(terms) == 1:
        mono, coeff = terms[0]
        if coeff == 1 and len(mono) == 1 and isinstance(mono[0], Symbol):
            return mono[0].name
    return ""


def _mergeable(dims: Sequence[DimLike], outer: Iter, inner: Iter) -> bool:
    """Whether outer * inner.extent + inner is all that any index needs of the two."""
    for dim in dims:
        names = symbols_of(dim)
        if outer.name not in names and inner.name not in names:
            continue
        a, b = coefficient(dim, outer.name), coefficient(dim, inner.name)
        if a is None or b is None or a != b * inner.extent:
            return False
    return True


def _collapse(nest: Nest) -> Nest:
    """Merge pairs of parallel iterators that run through every operand as one."""
    merged = True
    while merged:
        merged = False
        dims = all_dims(nest)
        for outer in nest.iters:
            for inner in nest.iters:
                if outer is not inner and _mergeable(dims, outer, inner):
                    nest = _merge(nest, outer, inner)
                    merged = True
                    break
            if merged:
                break
    return nest


def _merge(nest: Nest, outer: Iter, inner: Iter) -> Nest:
    whole = Iter(inner.name, outer.extent * inner.extent)
    nest = _replace(nest, outer.name, 0, ())
    return Nest(tuple(whole if it.name == inner.name else it for it in nest.iters), nest.outputs)


def _collapse_reductions(nest: Nest) -> Nest:
    """Merge neighbouring iterators of each reduction likewise, keeping their order."""
    for reduce in reductions(nest):
        iters = list(reduce.iters)
        dims = all_dims(nest)
        position = len(iters) - 2
        while position >= 0:
            outer, inner = iters[position], iters[position + 1]
            if reduce.kind not in ("argmax", "argmin") and _mergeable(dims, outer, inner):
                whole = Iter(inner.name, outer.extent * inner.extent)
                nest = _replace(nest, outer.name, 0, ())
                nest = _widen(nest, inner.name, whole)
                iters[position : position + 2] = [whole]
                dims = all_dims(nest)
            position -= 1
    return nest


def _widen(nest: Nest, name: str, whole: Iter) -> Nest:
    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Reduce) or all(it.name != name for it in node.iters):
            return None
        iters = _swap(node.iters, name, (whole,))
        return Reduce(node.kind, iters, node.body, node.dtype, node.last)

    exprs = _rebuild([o.expr for o in nest.outputs], lambda expr: rewrite(expr, change))
    outputs = tuple(
        Output(o.value, o.address, expr) for o, expr in zip(nest.outputs, exprs, strict=True)
    )
    return Nest(nest.iters, outputs)
