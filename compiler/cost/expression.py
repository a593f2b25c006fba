"""Sizes and costs that schedules decide by: estimates of symbolic dims, work of expressions."""

from __future__ import annotations

from collections.abc import Mapping

from tfc.ir.body import Apply, Expr, Reduce, children
from tfc.ir.dims import DimLike, evaluate, symbols_of
from tfc.ir.loop.scalar import MATH

DEFAULT_EXTENT = 64
_MATH_COST = 12.0
_DIV_COST = 4.0


def estimate(dim: DimLike, hints: Mapping[str, int]) -> int:
    """The likely value of a dim: symbols by their hints, unknown ones as 64."""
    if isinstance(dim, int):
        return dim
    return evaluate(dim, {name: hints.get(name, DEFAULT_EXTENT) for name in symbols_of(dim)})


def work(expr: Expr, hints: Mapping[str, int], given: Expr | None = None) -> float:
    """Scalar operations that one element of `expr` costs, shared nodes counted once.

    given: a part of it that is there already.
    """
    done = {id(given)}

    def visit(node: Expr) -> float:
        if id(node) in done:
            return 0.0
        done.add(id(node))
        below = sum(visit(child) for child in children(node))
        if isinstance(node, Reduce):
            for it in node.iters:
                below *= estimate(it.extent, hints)
            return below + 1
        if isinstance(node, Apply):
            return below + _op_cost(node.name)
        return below + 1

    return visit(expr)


def _op_cost(name: str) -> float:
    if name in MATH:
        return _MATH_COST
    return _DIV_COST if name in ("div", "rem", "sqrt") else 1.0


def repeats_free(name: str) -> bool:
    """Whether computing a scalar op again costs no more than reading its result again."""
    return _op_cost(name) < _DIV_COST
