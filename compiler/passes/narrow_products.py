"""Narrows i32 products of bytes by constants to products of u8 by i8, which targets multiply fast.

A zero point leaves the sum as a correction of each output channel; i8 activations are moved up to
u8 likewise. All of it is exact, as integers wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfc.compiler.evaluate import constant_array, is_constant
from tfc.compiler.passes.quantised import HALF, LIMITS, fits, is_view, lowered
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Module, Op, Value
from tfc.ir.opdef import OPS, Kind, OpDef
from tfc.ir.ops.common import fields_of
from tfc.ir.types import I8, I32, U8


def narrow_products(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            if isinstance(block.parent, Op) and block.parent.defn is OPS["fused"]:
                continue
            narrow: dict[Value, Value] = {}
            for op in list(block):
                if op.block is None or not context.allows("narrow-products"):
                    continue
                if _narrow(op, module.constants, narrow):
                    context.count("narrow-products")


@dataclass(frozen=True)
class _Left:
    """A side of a product: `bytes` less the zero point, moved by ops, the first one last.

    zero: a value of one element in i32, or a number.
    """

    bytes: Value
    zero: Value | int
    moves: tuple[Op, ...]


def _narrow(op: Op, constants: ConstantStore, narrow: dict[Value, Value]) -> bool:
    defn = op.defn
    assert isinstance(defn, OpDef)
    if defn.kind is not Kind.CONTRACTION or tensor_type(op.result).dtype != I32:
        return False
    right = op.operands[1]
    if not is_constant(right) or (op.name == "matmul" and tensor_type(right).rank != 2):
        return False
    left = _left(op.operands[0], constants)
    whole = constant_array(right, constants)
    if left is None or not fits(whole, I8):
        return False
    b = GraphBuilder(op.block, constants, op, op.loc)  # type: ignore[arg-type]
    unsigned, zero = _unsigned(b, left, narrow)
    moved = _moved(b, unsigned, zero, left.moves)
    if moved is None:
        return False
    weights = b.cast(b.constant(whole.astype(np.int8)), dtype=I32)
    total = b.op(op.name, b.cast(moved, dtype=I32), weights, **fields_of(op.attrs)).result
    if isinstance(zero, Value) or zero:
        _correct(b, op, total, zero, _sums(op, whole), constants)
    else:
        op.replace_with([total])
    return True


def _left(value: Value, constants: ConstantStore) -> _Left | None:
    moves: list[Op] = []
    while _moves(value.op):
        assert value.op is not None
        moves.append(value.op)
        value = value.op.operands[0]
    zero: Value | int | None = 0
    if value.op is not None and value.op.name in ("sub", "add"):
        zero = _zero(value.op, constants)
        value = value.op.operands[0]
    if zero is None or value.op is None or value.op.name != "cast":
        return None
    (source,) = value.op.operands
    return _Left(source, zero, tuple(moves)) if tensor_type(source).dtype in LIMITS else None


def _moves(op: Op | None) -> bool:
    """Whether the op moves the elements of one operand, and adds none but zeros."""
    if op is not None and op.name == "pad":
        return len(op.operands) == 1 and bool(op.attrs.mode == "constant")
    return is_view(op)


def _zero(op: Op, constants: ConstantStore) -> Value | int | None:
    """What `op` takes away from every element: a number, or a zero point widened to i32."""
    x, other = op.operands
    if tensor_type(other).size != 1 or tensor_type(x) != tensor_type(op.result):
        return None
    if is_constant(other):
        number = int(constant_array(other, constants).reshape(-1)[0])
        return number if op.name == "sub" else -number
    return other if op.name == "sub" and _source(other) is not None else None


def _source(zero: Value) -> Value | None:
    """The byte that a zero point was widened from."""
    while is_view(zero.op):
        assert zero.op is not None
        zero = zero.op.operands[0]
    if zero.op is None or zero.op.name != "cast":
        return None
    (source,) = zero.op.operands
    return source if tensor_type(source).dtype in LIMITS else None


def _unsigned(
    b: GraphBuilder, left: _Left, narrow: dict[Value, Value]
) -> tuple[Value, Value | int]:
    """The left side's bytes as u8, and its zero point for them."""
    if tensor_type(left.bytes).dtype == U8:
        return left.bytes, left.zero
    zero: Value | int = left.zero
    zero = zero + HALF if isinstance(zero, int) else b.add(zero, b.constant(HALF, I32))
    return _raised(b, left.bytes, narrow), zero


def _raised(b: GraphBuilder, x: Value, narrow: dict[Value, Value]) -> Value:
    """i8 as u8, moved up by 128: what it was made of, where it was made that way."""
    made = lowered(x)
    if made is not None:
        return made
    if x not in narrow:
        # In front of every user, since others of the same value will read it.
        at = b.block.first if x.op is None or x.op.block is not b.block else x.op.next
        assert at is not None
        early = GraphBuilder(b.block, b.constants, at, b.loc)
        wide = early.add(early.cast(x, dtype=I32), early.constant(HALF, I32))
        narrow[x] = early.cast(wide, dtype=U8)
    return narrow[x]


def _moved(b: GraphBuilder, x: Value, zero: Value | int, moves: Sequence[Op]) -> Value | None:
    """The bytes moved as their differences were; what was padded with 0 now is with `zero`."""
    inside = isinstance(zero, Value) or fits(np.array(zero), U8)
    if any(op.name == "pad" for op in moves) and not inside:
        return None
    for op in reversed(moves):
        operands = [x]
        if op.name == "pad" and (isinstance(zero, Value) or zero):
            operands.append(_scalar(b, zero))
        x = b.op(op.name, *operands, **fields_of(op.attrs)).result
    return x


def _scalar(b: GraphBuilder, zero: Value | int) -> Value:
    if isinstance(zero, int):
        return b.constant(zero, U8)
    found: Value = b.cast(b.reshape(zero, shape=()), dtype=U8)
    return found


def _sums(op: Op, whole: Array) -> Array:
    """The sum of each output channel's weights, laid out to broadcast over the result."""
    wide = whole.astype(np.int64)
    if op.name == "matmul":
        sums = wide.sum(axis=0)
    else:
        rank = wide.ndim
        sums = wide.reshape(wide.shape[0], -1).sum(axis=1).reshape(-1, *(1,) * (rank - 2))
    return np.asarray(sums)


def _correct(
    b: GraphBuilder, op: Op, total: Value, zero: Value | int, sums: Array, store: ConstantStore
) -> None:
    """Replace `op` by the total less what the zero point adds; two constants become one."""
    if isinstance(zero, Value):
        op.replace_with([b.sub(total, b.mul(b.reshape(zero, shape=()), _wrapped(b, sums)))])
        return
    shift = -zero * sums
    users = op.result.users
    if len(op.result.uses) == 1 and users[0].name == "add" and is_constant(users[0].operands[1]):
        (user,) = users
        array = constant_array(user.operands[1], store).astype(np.int64)
        if user.result.type == op.result.type and np.broadcast(array, shift).size <= sums.size:
            early = GraphBuilder(b.block, b.constants, user, user.loc)
            user.replace_with([early.add(total, _wrapped(early, array + shift))])
            op.erase()
            return
    op.replace_with([b.add(total, _wrapped(b, shift))])


def _wrapped(b: GraphBuilder, array: Array) -> Value:
    """Numbers as i32, as its sums wrap."""
    return b.constant((array & 0xFFFFFFFF).astype(np.uint32).view(np.int32))
