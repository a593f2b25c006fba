"""Rounds the operands of matrix products and convolutions by constants to bf16, where asked.

Nothing else loses precision: products are added up in f32, and results are f32. Casts are put as
close to the producer as views allow, so that what only such ops use is stored as bf16.
"""

from __future__ import annotations

from tfc.compiler.evaluate import constant_array, is_constant
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir import arrays
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.opdef import OPS, Kind, OpDef, Trait
from tfc.ir.types import BF16, F32

_PAD, _CONCAT = OPS["pad"], OPS["concat"]


def lower_precision(module: Module, context: PassContext) -> None:
    if context.dtype != BF16:
        return
    for function in module.functions.values():
        for block in blocks_of(function.block):
            if not (isinstance(block.parent, Op) and block.parent.defn is OPS["fused"]):
                _Lowering(block, module).run(context)


class _Lowering:
    """The contractions of one block. narrow: bf16 values by the f32 ones that they round."""

    def __init__(self, block: Block, module: Module) -> None:
        self.block = block
        self.module = module
        self.narrow: dict[Value, Value] = {}

    def run(self, context: PassContext) -> None:
        for op in list(self.block):
            if _gains(op) and context.allows("lower-precision"):
                b = GraphBuilder(self.block, self.module.constants, op, op.loc)
                grouped = getattr(op.attrs, "groups", 1) != 1
                for position, value in enumerate(op.operands):
                    if not (grouped and position):
                        wide = b.cast(self._rounded(value, b), dtype=F32)
                        op.set_operand(position, wide)
                context.count("lower-precision")

    def _rounded(self, value: Value, b: GraphBuilder) -> Value:
        known = self.narrow.get(value)
        if known is None:
            known = self.narrow[value] = self._round(value, b)
        return known

    def _round(self, value: Value, b: GraphBuilder) -> Value:
        """The value in bf16; what only moves elements is done to rounded ones."""
        op = value.op
        if is_constant(value):
            array = constant_array(value, self.module.constants)
            attrs = arrays.constant_attrs(array, self.module.constants, BF16)
            return b.op("constant", **attrs).result
        if op is not None and op.block is self.block and _moves(op):
            assert isinstance(op.defn, OpDef)
            return b.emit(op.defn, [self._rounded(x, b) for x in op.operands], op.attrs).result
        narrow: Value = b.cast(value, dtype=BF16)
        return narrow


def round_operands(module: Module) -> None:
    """Round the operands of every product of f32 to bf16 where it reads them, and nothing else.

    What computed so in f32 is what the errors of such programs are held against.
    """
    for function in module.functions.values():
        for block in blocks_of(function.block):
            for op in list(block):
                assert isinstance(op.defn, OpDef)
                if op.defn.kind is Kind.CONTRACTION and tensor_type(op.result).dtype == F32:
                    b = GraphBuilder(block, module.constants, op, op.loc)
                    for position, value in enumerate(op.operands):
                        op.set_operand(position, b.cast(b.cast(value, dtype=BF16), dtype=F32))


def _gains(op: Op) -> bool:
    """Whether the op is a product by constants, which reads less of what is rounded."""
    assert isinstance(op.defn, OpDef)
    if op.defn.kind is not Kind.CONTRACTION or tensor_type(op.result).dtype != F32:
        return False
    return _of_constant(op.operands[1])


def _of_constant(value: Value) -> bool:
    """Whether the value is a constant, or its elements in another order."""
    while value.op is not None and _moves(value.op) and len(value.op.operands) == 1:
        (value,) = value.op.operands
    return is_constant(value)


def _moves(op: Op) -> bool:
    """Whether the op moves every element of its operands to its result, and adds only zeros."""
    assert isinstance(op.defn, OpDef)
    if op.defn in (_PAD, _CONCAT):
        return op.defn is _CONCAT or (len(op.operands) == 1 and op.attrs.mode == "constant")
    if Trait.VIEW not in op.defn.traits or len(op.operands) != 1:
        return False
    return tensor_type(op.result).size == tensor_type(op.operands[0]).size
