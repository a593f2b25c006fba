"""Rounds the operands of matrix products and convolutions by constants to bf16, where asked.

Nothing else loses precision: products are added up in f32, and results are f32. Casts are put as
close to the producer as views allow, so that what only such ops use is stored as bf16.
"""

from __future__ import annotations

from tfc.compiler.cost.attention import LEAST_ROWS
from tfc.compiler.evaluate import constant_array, is_constant
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir import arrays
from tfc.ir.body import Apply, ExprBuilder, Load
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.dims import DimLike, symbol
from tfc.ir.opdef import OPS, Kind, OpDef, Trait
from tfc.ir.types import BF16, F32

_PAD, _CONCAT, _CAST = OPS["pad"], OPS["concat"], OPS["cast"]


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
            if op.regions and _rows_between(op) and context.allows("lower-precision"):
                self._round_group(op)
                context.count("lower-precision")
            elif _gains(op) and context.allows("lower-precision"):
                b = GraphBuilder(self.block, self.module.constants, op, op.loc)
                grouped = getattr(op.attrs, "groups", 1) != 1
                for position, value in enumerate(op.operands):
                    if not (grouped and position):
                        wide = b.cast(self._rounded(value, b), dtype=F32)
                        op.set_operand(position, wide)
                context.count("lower-precision")

    def _round_group(self, group: Op) -> None:
        """Round both sides of both products of an attention."""
        first, second = _products(group)
        for op in (first, second):
            for position in (0, 1):
                value = op.operands[position]
                arg = _argument(value)
                if op is second and position == 0:
                    _round_weights(op, self.module)
                elif _is_rounded(value):
                    continue
                elif arg is not None and self._is_computed(group.operands[arg.index]):
                    self._narrow_argument(group, arg)
                else:
                    _round_here(op, position, self.module)

    def _narrow_argument(self, group: Op, arg: Value) -> None:
        """Have the group read a value rounded, which only its products read."""
        (region,) = group.regions
        b = GraphBuilder(self.block, self.module.constants, group, group.loc)
        narrow = self._rounded(group.operands[arg.index], b)
        uses = list(arg.uses)
        arg.type = narrow.type
        group.set_operand(arg.index, narrow)
        inside = GraphBuilder(region, self.module.constants, region.first, group.loc)
        wide = inside.cast(arg, dtype=F32)
        for user, position in uses:
            user.set_operand(position, wide)

    def _is_computed(self, value: Value) -> bool:
        """Whether the value is made here, so that a kernel can store it rounded."""
        while value.op is not None and Trait.VIEW in _traits(value.op):
            value = value.op.operands[0]
        return value.op is not None and _kind(value.op) in (Kind.CONTRACTION, Kind.ELEMENTWISE)

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


def _kind(op: Op) -> Kind:
    assert isinstance(op.defn, OpDef)
    return op.defn.kind


def _traits(op: Op) -> frozenset[Trait]:
    assert isinstance(op.defn, OpDef)
    return op.defn.traits


def _products(group: Op) -> list[Op]:
    """The products of f32 in a group, in order."""
    (region,) = group.regions
    return [
        op for op in region if _kind(op) is Kind.CONTRACTION and tensor_type(op.result).dtype == F32
    ]


def _rows_between(op: Op) -> bool:
    """Whether the op is a group of two products, whose keys are not read where they lie."""
    if op.defn is not OPS["fused"] or len(_products(op)) != 2:
        return False
    rows = tensor_type(_products(op)[0].result).shape[-2]
    return not isinstance(rows, int) or rows >= LEAST_ROWS


def _is_rounded(value: Value) -> bool:
    """Whether the value was widened from bf16, under views."""
    while value.op is not None and Trait.VIEW in _traits(value.op):
        value = value.op.operands[0]
    op = value.op
    return op is not None and op.defn is _CAST and tensor_type(op.operands[0]).dtype == BF16


def _argument(value: Value) -> Value | None:
    """The group's argument that `value` is under views, if nothing but such products reads it."""
    while value.op is not None:
        if Trait.VIEW not in _traits(value.op) or len(value.uses) != 1:
            return None
        value = value.op.operands[0]
    return value if all(_reaches_product(user) for user in value.users) else None


def _reaches_product(op: Op) -> bool:
    while Trait.VIEW in _traits(op) and len(op.result.users) == 1:
        (op,) = op.result.users
    return _kind(op) is Kind.CONTRACTION


def _round_here(op: Op, position: int, module: Module) -> None:
    """Round an operand where the op reads it."""
    assert op.block is not None
    b = GraphBuilder(op.block, module.constants, op, op.loc)
    op.set_operand(position, b.cast(b.cast(op.operands[position], dtype=BF16), dtype=F32))


def _round_weights(op: Op, module: Module) -> None:
    """Round the left side of `op`; of a row divided by a number, the row."""
    made = op.operands[0].op
    whole = tensor_type(op.operands[0]).shape
    if made is not None and len(op.operands[0].uses) == 1 and _divides_rows(made, whole):
        _round_here(made, 0, module)
    else:
        _round_here(op, 0, module)


def _divides_rows(op: Op, whole: tuple[DimLike, ...]) -> bool:
    """Whether the op divides each row of the shape by one number."""
    if len(op.operands) != 2 or _kind(op) is not Kind.ELEMENTWISE:
        return False
    shapes = [tensor_type(value).shape for value in op.operands]
    return _scalar(op) == "div" and shapes == [whole, (*whole[:-1], 1)]


def _scalar(op: Op) -> str:
    """The scalar op that an elementwise op is, empty where it is more than one."""
    assert isinstance(op.defn, OpDef)
    assert op.defn.body is not None
    index = tuple(symbol(f"i{axis}") for axis in range(tensor_type(op.result).rank))
    expr = op.defn.body(ExprBuilder(), op, 0, index)
    plain = isinstance(expr, Apply) and all(isinstance(arg, Load) for arg in expr.args)
    return expr.name if isinstance(expr, Apply) and plain else ""


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
