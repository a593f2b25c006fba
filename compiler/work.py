"""What one call of a kernel does: arithmetic on floats and memory touched, as estimates.

Counts its loops without running them; a bound that an outer index decides is taken at the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from tfc.ir.core import Block, Function, Op, Value
from tfc.ir.dims import DimLike, evaluate, product, symbols_of
from tfc.ir.types import BufferType, ScalarType, VectorType

Known: TypeAlias = "dict[Value, int]"

_FLOPS = {
    "add": 1, "sub": 1, "mul": 1, "div": 1, "rem": 1, "min": 1, "max": 1, "neg": 1, "abs": 1,
    "sqrt": 1, "floor": 1, "ceil": 1, "round": 1, "fma": 2, "reduce": 1,
}  # fmt: skip
_INTEGER: dict[str, Callable[..., int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: int(x / y) if y else 0,
    "rem": lambda x, y: x - int(x / y) * y if y else x,
    "min": min,
    "max": max,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "eq": lambda x, y: int(x == y),
    "ne": lambda x, y: int(x != y),
    "lt": lambda x, y: int(x < y),
    "le": lambda x, y: int(x <= y),
    "gt": lambda x, y: int(x > y),
    "ge": lambda x, y: int(x >= y),
    "select": lambda c, x, y: x if c else y,
}


def bytes_of(function: Function, symbols: Mapping[str, int]) -> int:
    """Return the bytes of the kernel's buffers: what it reads and writes at least."""
    total = 0
    for arg in function.args:
        if isinstance(arg.type, BufferType):
            extents = [
                dim
                for dim, stride in zip(arg.type.shape, arg.type.strides, strict=True)
                if stride != 0
            ]
            total += _number(product(extents), symbols) * arg.type.dtype.bytes
    return total


def flops_of(function: Function, symbols: Mapping[str, int]) -> float:
    """Return the float operations of one call; a fused multiply-add is two."""
    return _Counter(symbols).block(function.block, {})


def _number(dim: DimLike, symbols: Mapping[str, int]) -> int:
    values = {name: symbols.get(name, 1) for name in symbols_of(dim)}
    return dim if isinstance(dim, int) else evaluate(dim, values)


class _Counter:
    def __init__(self, symbols: Mapping[str, int]) -> None:
        self.symbols = symbols

    def block(self, block: Block, known: Known) -> float:
        return sum(self.op(op, known) for op in block)

    def op(self, op: Op, known: Known) -> float:
        match op.name:
            case "for":
                return self._for(op, known)
            case "parallel":
                count = known.get(op.operands[0], 1)
                known[op.regions[0].args[0]] = max(count - 1, 0) // 2
                return count * self.block(op.regions[0], known)
            case "if":
                taken = known.get(op.operands[0])
                regions = (
                    op.regions if taken is None else op.regions[:1] if taken else op.regions[1:]
                )
                return max(self.block(region, known) for region in regions)
            case "const" if isinstance(op.attrs.value, int) and not op.attrs.lanes:
                known[op.result] = int(op.attrs.value)
            case "dim":
                known[op.result] = _number(op.attrs.expr, self.symbols)
            case _:
                return self._scalar(op, known)
        return 0

    def _for(self, op: Op, known: Known) -> float:
        lo, hi = (known.get(bound, 0) for bound in op.operands[:2])
        trips = max(0, -((lo - hi) // op.attrs.step))
        known[op.regions[0].args[0]] = lo + op.attrs.step * (max(trips - 1, 0) // 2)
        return trips * self.block(op.regions[0], known) if trips else 0

    def _scalar(self, op: Op, known: Known) -> float:
        if not op.results:
            return 0
        type = op.operands[0].type if op.name == "reduce" else op.results[0].type
        if isinstance(type, (ScalarType, VectorType)) and type.dtype.is_float:
            lanes = type.lanes if isinstance(type, VectorType) else 1
            return _FLOPS.get(op.name, 0) * lanes
        fold = _INTEGER.get(op.name)
        if fold is not None and all(value in known for value in op.operands):
            known[op.result] = fold(*(known[value] for value in op.operands))
        return 0
