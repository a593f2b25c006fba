"""How often a loop of an ONNX model runs, where that depends on no data. Builds nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfc.compiler.evaluate import constant_array, evaluate, is_constant
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Op, Value
from tfc.ir.opdef import Kind, OpDef
from tfc.ir.symbols import dims_in

# How many ops are run to find out, and how large what they compute may be.
MAX_STEPS = 20_000
MAX_ELEMENTS = 64
_RUN = (Kind.ELEMENTWISE, Kind.INJECTIVE, Kind.REDUCTION, Kind.CONSTANT)


@dataclass(frozen=True)
class Body:
    """A loop's region: its arguments, the first being the round's number, and what it yields."""

    block: Block
    carried: Sequence[Value]
    again: Value
    following: Sequence[Value]


def count_rounds(
    body: Body, inits: Sequence[Value], limit: int | None, constants: ConstantStore
) -> int | None:
    """Return how often a loop runs whose condition is true at first; None where data decides.

    The part of the region that the condition depends on is run.
    """
    found = _needed(body, inits)
    if found is None:
        return None
    ops, state = found
    values: dict[Value, Array] = {
        body.carried[k]: constant_array(inits[k], constants) for k in state
    }
    left = MAX_STEPS
    rounds = 0
    while limit is None or rounds < limit:
        left -= len(ops) + 1
        if left < 0:
            return None
        values[body.block.args[0]] = _index(body, rounds)
        for op in ops:
            _run(op, values, constants)
        rounds += 1
        if not _get(body.again, values, constants).all():
            break
        following = [_get(body.following[k], values, constants) for k in state]
        values.update(zip((body.carried[k] for k in state), following, strict=True))
    return rounds


def _index(body: Body, rounds: int) -> Array:
    return arrays.make(rounds, tensor_type(body.block.args[0]).dtype)


def _needed(body: Body, inits: Sequence[Value]) -> tuple[list[Op], list[int]] | None:
    """The ops and the carried values that the condition depends on, if no data is among them."""
    ops: set[Op] = set()
    state: dict[int, None] = {}
    seen: set[Value] = set()
    stack = [body.again]
    while stack:
        value = stack.pop()
        if value in seen or is_constant(value) or value is body.block.args[0]:
            continue
        seen.add(value)
        if value in body.carried:
            k = body.carried.index(value)
            if not is_constant(inits[k]):
                return None
            state[k] = None
            stack.append(body.following[k])
        elif value.op is not None and value.op.block is body.block and _may_run(value.op):
            ops.add(value.op)
            stack += value.op.operands
        else:
            return None
    return [op for op in body.block if op in ops], list(state)


def _may_run(op: Op) -> bool:
    defn = op.defn
    assert isinstance(defn, OpDef)
    if defn.kind not in _RUN or any(True for _ in dims_in(op.attrs)):
        return False
    types = [tensor_type(value) for value in (*op.operands, *op.results)]
    return all(isinstance(t.size, int) and t.size <= MAX_ELEMENTS for t in types)


def _get(value: Value, values: dict[Value, Array], constants: ConstantStore) -> Array:
    known = values.get(value)
    if known is None:
        known = values[value] = constant_array(value, constants)
    return known


def _run(op: Op, values: dict[Value, Array], constants: ConstantStore) -> None:
    assert isinstance(op.defn, OpDef)
    operands = [_get(value, values, constants) for value in op.operands]
    types = [tensor_type(result) for result in op.results]
    values.update(zip(op.results, evaluate(op.defn, op.attrs, types, operands), strict=True))
