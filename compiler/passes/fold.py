"""Computes at compile time what depends on constants alone, by the ops' references.

`fold_dims` does the same for arithmetic on symbolic dims, which gives dims again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfc.compiler.evaluate import constant_array, evaluate, is_constant
from tfc.compiler.passes.quantised import BYTES, widens
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir import arrays, graph
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.opdef import Kind, OpDef, Trait
from tfc.ir.ops.const import constant, dims
from tfc.ir.symbols import dims_in

SMALL_RESULT = 1 << 20
"""Bytes that a folded constant may always have; beyond, at most twice its operands'.

Beyond, what is read as well where the operand lies is left alone: weights are packed from there.
"""


def fold(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            _Folder(block, module.constants).run(context)


def fold_dims(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            for op in block:
                value = graph.fold_dims(op, GraphBuilder(block, module.constants, op, op.loc))
                if value is not None:
                    op.replace_with([value])


class _Folder:
    """Evaluates a block's foldable ops, then makes constants of those that others use.

    Results that only folded ops use are never hashed.
    """

    def __init__(self, block: Block, constants: ConstantStore) -> None:
        self.block = block
        self.constants = constants
        self.values: dict[Value, Array] = {}
        self.sources: dict[Value, int] = {}

    def run(self, context: PassContext) -> None:
        folded: list[Op] = []
        for op in self.block:
            if op.defn is constant or not self._foldable(op):
                continue
            source = sum(self.sources[value] for value in op.operands)
            grows = _bytes(op) > max(2 * source, SMALL_RESULT)
            virtual = _is_virtual(op)
            if grows and not virtual:
                continue
            found = self._evaluate(op)
            virtual = virtual or (_bytes(op) > SMALL_RESULT and self._is_view(op, found))
            if not virtual:
                if not context.allows("fold"):
                    continue
                context.count("fold")
                folded.append(op)
            for result, array in zip(op.results, found, strict=True):
                self.values[result] = array
                self.sources[result] = source if virtual else _bytes(op)
        for op in reversed(folded):
            self._replace(op)

    def _foldable(self, op: Op) -> bool:
        defn = op.defn
        assert isinstance(defn, OpDef)
        if Trait.PURE not in defn.traits or defn.kind is Kind.CONTROL or op.regions:
            return False
        if not all(tensor_type(result).is_static for result in op.results) or _is_read_narrow(op):
            return False
        return not dims_in(op.attrs) and all(self._is_known(value) for value in op.operands)

    def _is_known(self, value: Value) -> bool:
        """Whether the value is a constant by now, or one of a block around this one."""
        if value not in self.values and is_constant(value):
            self.values[value] = constant_array(value, self.constants)
            # What narrow numbers are in f32 is no growth: it would be made in every run.
            self.sources[value] = max(tensor_type(value).dtype.bytes, 4) * self.values[value].size
        return value in self.values

    def _evaluate(self, op: Op) -> tuple[Array, ...]:
        assert isinstance(op.defn, OpDef)
        types = [tensor_type(result) for result in op.results]
        return evaluate(op.defn, op.attrs, types, [self.values[value] for value in op.operands])

    def _is_view(self, op: Op, found: Sequence[Array]) -> bool:
        """Whether the results are where the operand is, under other strides."""
        assert isinstance(op.defn, OpDef)
        if Trait.VIEW not in op.defn.traits:
            return False
        source = self.values[op.operands[0]]
        return all(np.may_share_memory(array, source) for array in found)

    def _replace(self, op: Op) -> None:
        b = GraphBuilder(self.block, self.constants, op, op.loc)
        values = []
        for result in op.results:
            if not result.uses:
                values.append(result)
                continue
            dtype = tensor_type(result).dtype
            attrs = arrays.constant_attrs(self.values[result], self.constants, dtype)
            values.append(b.op("constant", **attrs).result)
        op.replace_with(values)


def _is_read_narrow(op: Op) -> bool:
    """Whether the op widens bytes for matrix products alone, whose kernels read bytes."""
    if not widens(op) or tensor_type(op.operands[0]).dtype not in BYTES:
        return False
    users = op.result.users
    whole = tensor_type(op.result).dtype.is_int
    return (
        bool(users)
        and not whole
        and all(user.name == "matmul" and user.operands[0] is not op.result for user in users)
    )


def _bytes(op: Op) -> int:
    total = 0
    for result in op.results:
        size = tensor_type(result).size
        assert isinstance(size, int)
        total += size * tensor_type(result).dtype.bytes
    return total


def _is_virtual(op: Op) -> bool:
    """Whether folding it alone gains nothing: a ramp, or a view that repeats a constant."""
    defn = op.defn
    assert isinstance(defn, OpDef)
    if defn.kind is Kind.CONSTANT:
        return op.defn is not dims
    if Trait.VIEW not in defn.traits:
        return False
    return tensor_type(op.result).size > tensor_type(op.operands[0]).size
