"""Reverse mode: gradients of values by the `grad` of the ops behind them, as graph ops again.

Serves the gradients of ops that have regions and the tests; it is not a training interface.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Block, Op, Value
from tfc.ir.errors import UnsupportedError
from tfc.ir.opdef import NoGrad, OpDef
from tfc.ir.symbols import BIND


def gradients(
    b: GraphBuilder,
    outputs: Sequence[Value],
    cotangents: Sequence[Value | None],
    wrt: Sequence[Value],
    after: Op | None = None,
) -> list[Value | None]:
    """Return the gradient of each value of `wrt`, None where no output depends on it smoothly.

    Outputs and the ops behind them stand in the block that `b` appends to; values of other blocks
    count as constants unless `wrt` has them, and so do results of ops up to `after`.
    Raises UnsupportedError for an op that has no gradient.
    """
    sums: dict[Value, Value] = {}
    for output, g in zip(outputs, cotangents, strict=True):
        if g is not None and _is_float(output):
            _accumulate(b, sums, output, g)
    for op in reversed(_depending(b, wrt, after)):
        if any(result in sums for result in op.results):
            gs = [_or_zeros(b, sums.get(result), result) for result in op.results]
            for value, g in zip(inputs_of(op), vjp(b, op, gs), strict=True):
                if g is not None:
                    _accumulate(b, sums, value, g)
    return [sums.get(value) for value in wrt]


def vjp(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> list[Value | None]:
    """Return gradients of `inputs_of(op)`, given those of its results."""
    defn = op.defn
    assert isinstance(defn, OpDef)
    if not isinstance(defn.grad, NoGrad):
        return list(defn.grad(b, op, gs))
    if defn.decompose is None:
        raise UnsupportedError(f"{op.name} has no gradient: {defn.grad.reason}")
    last = b.block.last if b.before is None else b.before.prev
    outputs = defn.decompose(b, op)
    return gradients(b, outputs, gs, op.operands, last)


def inputs_of(op: Op) -> list[Value]:
    """Return what an op computes from: its operands, then what its regions take from outside."""
    return [*op.operands, *captured(op)]


def captured(op: Op) -> list[Value]:
    """Return the values from outside that the regions of an op use, each once."""
    if not op.regions:
        return []
    inner = {region for part in op.walk() for region in part.regions}
    found: dict[Value, None] = {}
    for region in op.regions:
        for part in region.walk():
            found.update((v, None) for v in part.operands if _home(v) not in inner)
    return list(found)


def copied(b: GraphBuilder, region: Block, args: Sequence[Value]) -> list[Value]:
    """Build again what a region computes, of `args`; return what it hands out.

    Raises UnsupportedError where it binds a symbol, which cannot be done twice.
    """
    known = dict(zip(region.args, args, strict=True))
    _copy_ops(b, region, known)
    return [known.get(value, value) for value in region.terminator.operands]


def zeros(b: GraphBuilder, like: Value) -> Value:
    type = tensor_type(like)
    return b.full(type.shape, 0, type.dtype)


def _copy_ops(b: GraphBuilder, region: Block, known: dict[Value, Value]) -> None:
    for op in region:
        if op is region.last:
            return
        if op.name == BIND:
            raise UnsupportedError(f"gradient of a region that binds the symbol {op.attrs.symbol}")
        regions = [_copy_block(b, inner, known) for inner in op.regions]
        operands = [known.get(value, value) for value in op.operands]
        types = [value.type for value in op.results]
        new = b.block.insert(Op(op.defn, operands, op.attrs, types, regions, op.loc), b.before)
        known.update(zip(op.results, new.results, strict=True))


def _copy_block(b: GraphBuilder, region: Block, known: dict[Value, Value]) -> Block:
    block = Block([arg.type for arg in region.args], [arg.name for arg in region.args])
    known.update(zip(region.args, block.args, strict=True))
    with b.at(block):
        _copy_ops(b, region, known)
        end = region.terminator
        operands = [known.get(value, value) for value in end.operands]
        block.append(Op(end.defn, operands, end.attrs, (), (), end.loc))
    return block


def _depending(b: GraphBuilder, wrt: Sequence[Value], after: Op | None) -> list[Op]:
    """The ops behind `after` that depend on `wrt` and have a float result, in order."""
    depends = set(wrt)
    found = []
    for op in _from(b.block, after, b.before):
        if any(value in depends for value in inputs_of(op)):
            depends.update(op.results)
            if any(map(_is_float, op.results)):
                found.append(op)
    return found


def _from(block: Block, after: Op | None, before: Op | None) -> Iterator[Op]:
    op = block.first if after is None else after.next
    while op is not None and op is not before:
        yield op
        op = op.next


def _accumulate(b: GraphBuilder, sums: dict[Value, Value], value: Value, g: Value) -> None:
    sums[value] = b.add(sums[value], g) if value in sums else g


def _or_zeros(b: GraphBuilder, g: Value | None, like: Value) -> Value:
    return zeros(b, like) if g is None else g


def _is_float(value: Value) -> bool:
    return tensor_type(value).dtype.is_float


def _home(value: Value) -> Block | None:
    """The block whose argument the value is, or whose op makes it."""
    if value.op is not None:
        return value.op.block
    assert isinstance(value.owner, Block)
    return value.owner
