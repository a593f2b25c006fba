"""What expressions depend on: iterators, shape symbols, memory. Emits nothing."""

from __future__ import annotations

from tfc.ir.body import Expr, Guard, Keep, Load, Position, Reduce, children
from tfc.ir.dims import Dim, DimLike, symbols_of

# Reductions whose result is where an element is, not what it is.
POSITIONS = ("argmax", "argmin")


class Names:
    """What expressions depend on, remembered by node."""

    def __init__(self) -> None:
        self._free: dict[int, frozenset[str]] = {}
        self._reads: dict[int, bool] = {}
        self._alive: list[Expr] = []

    def free(self, expr: Expr) -> frozenset[str]:
        """The names (iterators and shape symbols) that `expr` depends on."""
        known = self._free.get(id(expr))
        if known is None:
            names: set[str] = set()
            for child in children(expr):
                names |= self.free(child)
            for dim in own_dims(expr):
                names |= symbols_of(dim)
            if isinstance(expr, Reduce):
                names -= {it.name for it in expr.iters}
            known = self._free[id(expr)] = frozenset(names)
            self._alive.append(expr)
        return known

    def reads(self, expr: Expr) -> bool:
        """Whether evaluating `expr` touches memory."""
        known = self._reads.get(id(expr))
        if known is None:
            own = isinstance(expr, (Load, Keep))
            known = self._reads[id(expr)] = own or any(self.reads(c) for c in children(expr))
            self._alive.append(expr)
        return known


def own_dims(expr: Expr) -> list[DimLike]:
    match expr:
        case Load() | Keep():
            return [i for i in expr.index if isinstance(i, (int, Dim))]
        case Position():
            return [expr.dim]
        case Guard():
            return [d for r in expr.ranges for d in (r.dim, r.lo, r.hi)]
        case Reduce():
            return [it.extent for it in expr.iters]
        case _:
            return []
