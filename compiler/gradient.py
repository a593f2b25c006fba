"""Reverse-mode derivatives of graph values: by each op's `grad`, or through its decomposition."""

from __future__ import annotations

from collections.abc import Sequence

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.errors import UnsupportedError
from tfc.ir.opdef import NoGrad, OpDef


def gradients(b: GraphBuilder, y: Value, xs: Sequence[Value]) -> list[Value]:
    """Build the derivatives of the sum of `y` by each of `xs`; 0 where it does not depend on one.

    Raises UnsupportedError where an op between them has no gradient.
    """
    type = tensor_type(y)
    sums = _pulled_back(b, [y], [b.full(type.shape, 1, type.dtype)], set(xs))
    found = []
    for x in xs:
        g = sums.get(x)
        shape, dtype = tensor_type(x).shape, tensor_type(x).dtype
        found.append(b.full(shape, 0, dtype) if g is None else g)
    return found


def _pulled_back(
    b: GraphBuilder, outputs: Sequence[Value], given: Sequence[Value], ends: set[Value]
) -> dict[Value, Value]:
    """The gradients of `ends`, from those `given` of outputs."""
    sums: dict[Value, Value] = {}
    for output, g in zip(outputs, given, strict=True):
        _accumulate(b, sums, output, g)
    for op in reversed(_between(outputs, ends)):
        gs = [sums.get(result) for result in op.results]
        if all(g is None for g in gs):
            continue
        filled = [
            b.full(tensor_type(result).shape, 0, tensor_type(result).dtype) if g is None else g
            for result, g in zip(op.results, gs, strict=True)
        ]
        for operand, found in zip(op.operands, _of_op(b, op, filled), strict=True):
            if found is not None:
                _accumulate(b, sums, operand, found)
    return sums


def _of_op(b: GraphBuilder, op: Op, given: Sequence[Value]) -> list[Value | None]:
    defn = op.defn
    assert isinstance(defn, OpDef)
    if not isinstance(defn.grad, NoGrad):
        return list(defn.grad(b, op, given))
    if defn.decompose is None:
        raise UnsupportedError(f"no gradient of {op.name}: {defn.grad.reason}")
    sums = _pulled_back(b, defn.decompose(b, op), given, set(op.operands))
    return [sums.get(operand) for operand in op.operands]


def _accumulate(b: GraphBuilder, sums: dict[Value, Value], value: Value, g: Value) -> None:
    sums[value] = b.add(sums[value], g) if value in sums else g


def _between(outputs: Sequence[Value], ends: set[Value]) -> list[Op]:
    """The ops through which outputs depend on `ends`, each behind those that it reads from."""
    depends: dict[Value, bool] = dict.fromkeys(ends, True)
    found: list[Op] = []
    stack = list(outputs)
    while stack:
        value = stack[-1]
        op = value.op
        if value in depends or op is None:
            depends.setdefault(value, False)
            stack.pop()
            continue
        new = [x for x in op.operands if x not in depends]
        if new:
            stack += new
            continue
        stack.pop()
        through = any(depends[x] for x in op.operands)
        depends.update({result: depends.get(result, through) for result in op.results})
        if through:
            found.append(op)
    return found
