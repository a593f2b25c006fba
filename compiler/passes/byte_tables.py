"""Functions of one byte whose values are bytes become tables of all their values.

An activation between two quantisations is such a function, whatever it computes. Its values are
computed by the references of its ops, so they are the same on every target.
"""

from __future__ import annotations

import numpy as np

from tfc.compiler.evaluate import constant_array, evaluate, is_constant
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of, is_dead
from tfc.ir.arrays import Array
from tfc.ir.attrs import Dense
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.opdef import OPS, Kind, OpDef, Trait
from tfc.ir.symbols import dims_in
from tfc.ir.types import I8, U8, DType, TensorType

# So many ops, at least, take as long as a table.
LEAST_OPS = 6
ENTRIES = 256


def byte_tables(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            if not (isinstance(block.parent, Op) and block.parent.defn is OPS["fused"]):
                _in_block(block, module.constants, context)


def _in_block(block: Block, constants: ConstantStore, context: PassContext) -> None:
    sources = _Sources(block)
    order = {op: position for position, op in enumerate(block)}
    # The last first: what it is made of is then needed no more.
    for op in reversed(list(order)):
        if op.block is None:
            continue
        if is_dead(op):
            op.erase()
            continue
        source = sources.bytes_of(op.result) if len(op.results) == 1 else None
        if source is None or source is op.result:
            continue
        ops = sorted(_between(source, op), key=order.__getitem__)
        if len(ops) < LEAST_OPS or not context.allows("byte-tables"):
            continue
        values = _values(source, ops, constants)
        b = GraphBuilder(block, constants, op, op.loc)
        dtype = tensor_type(op.result).dtype
        op.replace_with([b.lookup(source, values=Dense(values), dtype=dtype)])
        context.count("byte-tables")


class _Sources:
    """Of which u8 value others are functions, element by element."""

    def __init__(self, block: Block) -> None:
        self._known: dict[Value, Value | None] = {}
        for op in block:
            for result in op.results:
                own = result if _dtype(result) == U8 else None
                self._known[result] = self._of(op) or own

    def bytes_of(self, value: Value) -> Value | None:
        """The source of a value that is bytes itself."""
        return self._known[value] if _dtype(value) in (U8, I8) else None

    def _of(self, op: Op) -> Value | None:
        defn = op.defn
        assert isinstance(defn, OpDef)
        if defn.kind is not Kind.ELEMENTWISE or Trait.PURE not in defn.traits:
            return None
        if dims_in(op.attrs):
            return None
        found: set[Value | None] = set()
        for operand in op.operands:
            if not _is_number(operand):
                same = tensor_type(operand).shape == tensor_type(op.result).shape
                found.add(self._source(operand) if same else None)
        return found.pop() if len(found) == 1 else None

    def _source(self, value: Value) -> Value | None:
        if value in self._known:
            return self._known[value]
        return value if _dtype(value) == U8 else None


def _dtype(value: Value) -> DType | None:
    return value.type.dtype if isinstance(value.type, TensorType) else None


def _is_number(value: Value) -> bool:
    return is_constant(value) and tensor_type(value).size == 1


def _between(source: Value, last: Op) -> set[Op]:
    """The ops that make the result of `last` of the source."""
    found: set[Op] = set()
    stack = [last]
    while stack:
        op = stack.pop()
        found.add(op)
        for value in op.operands:
            if value is not source and value.op not in found and not _is_number(value):
                assert value.op is not None
                stack.append(value.op)
    return found


def _values(source: Value, ops: list[Op], constants: ConstantStore) -> tuple[int, ...]:
    known: dict[Value, Array] = {source: np.arange(ENTRIES, dtype=np.uint8)}
    for op in ops:
        operands = [
            constant_array(v, constants).reshape(()) if _is_number(v) else known[v]
            for v in op.operands
        ]
        assert isinstance(op.defn, OpDef)
        type = TensorType(tensor_type(op.result).dtype, (ENTRIES,))
        (known[op.result],) = evaluate(op.defn, op.attrs, [type], operands)
    return tuple(known[ops[-1].result].tolist())
