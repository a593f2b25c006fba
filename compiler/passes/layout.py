"""Assigns encodings: how kernel results lie in memory. Types and ops stay as they are.

A contraction's result is stored with the axis that only its right side has innermost, so that
convolutions run channels-last; what follows keeps its operand's order. A result that is only
transposed is stored in the transposed order, which makes the transpose a view.
"""

from __future__ import annotations

from tfc.compiler.passman import PassContext
from tfc.ir.body import ExprBuilder, loads
from tfc.ir.build import tensor_type
from tfc.ir.core import Function, Module, Op, Value
from tfc.ir.dims import Dim, symbols_of
from tfc.ir.opdef import Kind, Trait
from tfc.ir.types import Encoding


def layout(module: Module, context: PassContext) -> None:
    """Set `Value.encoding` on the results of kernels, in order."""
    for function in module.functions.values():
        _assign(function)


def _assign(function: Function) -> None:
    for op in function.block:
        if op.defn.kind is Kind.CONSTANT or op.defn.terminator:  # type: ignore[attr-defined]
            continue
        if Trait.VIEW in op.defn.traits or len(op.results) != 1:  # type: ignore[attr-defined]
            continue
        perm = _transposed_by_users(op) or _contracted(op) or _inherited(op)
        if perm is not None and perm != tuple(range(len(perm))):
            op.result.encoding = Encoding(perm)


def _members(op: Op) -> list[Op]:
    return [op, *(inner for region in op.regions for inner in region)]


def _contraction(op: Op) -> Op | None:
    """The contraction whose result has the shape of `op`'s result, if there is one."""
    for member in _members(op):
        if member.defn.kind is Kind.CONTRACTION:  # type: ignore[attr-defined]
            same = tensor_type(member.result).shape == tensor_type(op.result).shape
            return member if same else None
    return None


def _contracted(op: Op) -> tuple[int, ...] | None:
    """The order in which the axis that only the right side indexes comes last."""
    contraction = _contraction(op)
    if contraction is None or contraction.defn.body is None:  # type: ignore[attr-defined]
        return None
    builder = ExprBuilder()
    iters = [builder.iter(extent, "i") for extent in tensor_type(contraction.result).shape]
    index = tuple(it.dim for it in iters)
    expr = contraction.defn.body(builder, contraction, 0, index)  # type: ignore[attr-defined]
    used: dict[Value, set[str]] = {}
    for load in loads(expr):
        names = used.setdefault(load.value, set())
        for entry in load.index:
            if isinstance(entry, (int, Dim)):
                names |= symbols_of(entry)
    left, right = (used.get(value, set()) for value in contraction.operands[:2])
    own = [a for a, it in enumerate(iters) if it.name in right and it.name not in left]
    if len(own) != 1 or own[0] == len(iters) - 1:
        return None
    return (*(a for a in range(len(iters)) if a != own[0]), own[0])


def _inherited(op: Op) -> tuple[int, ...] | None:
    """The order of the largest operand of the result's rank that a kernel wrote."""
    rank = tensor_type(op.result).rank
    best: Value | None = None
    for operand in op.operands:
        if tensor_type(operand).rank != rank or operand.encoding is None:
            continue
        if best is None or _larger(operand, best):
            best = operand
    return best.encoding.perm if best is not None and best.encoding is not None else None


def _larger(a: Value, b: Value) -> bool:
    x, y = tensor_type(a).size, tensor_type(b).size
    return isinstance(x, int) and isinstance(y, int) and x > y


def _transposed_by_users(op: Op) -> tuple[int, ...] | None:
    """The order that makes every user, all equal transposes, a row-major view."""
    users = op.result.users
    perms: set[tuple[int, ...]] = {_perm_of(user) for user in users}
    if len(perms) != 1:
        return None
    (perm,) = perms
    keeps_last = bool(perm) and perm[-1] == len(perm) - 1
    return perm if keeps_last and any(_wants_order(user) for user in users) else None


def _perm_of(op: Op) -> tuple[int, ...]:
    """The permutation of a transpose, () for other ops."""
    perm: tuple[int, ...] = op.attrs.perm if hasattr(op.attrs, "perm") else ()
    return perm


def _wants_order(op: Op) -> bool:
    """Whether some user of the transposed value reads it in row-major order."""
    for user in op.result.users:
        if user.defn.terminator or Trait.VIEW in user.defn.traits:  # type: ignore[attr-defined]
            return True
    return False
