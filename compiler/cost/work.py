"""What one call of a kernel does: arithmetic, accesses and memory touched, as estimates.

Counts its loops without running them; a bound that an outer index decides is taken at the middle,
of an even number of tasks at both of the middle ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from tfc.ir.core import Block, Function, Op, Value
from tfc.ir.dims import DimLike, evaluate, product, symbols_of
from tfc.ir.loop.scalar import MATH
from tfc.ir.types import BufferType, ScalarType, VectorType

Known: TypeAlias = "dict[Value, int]"

_FLOPS = {
    "add": 1, "sub": 1, "mul": 1, "div": 1, "rem": 1, "min": 1, "max": 1, "neg": 1, "abs": 1,
    "sqrt": 1, "floor": 1, "ceil": 1, "round": 1, "fma": 2, "reduce": 1, "dot": 2,
}  # fmt: skip
# Cycles for which an operation occupies one unit, where it is not one; functions are expanded
# into as many operations.
UNIT_CYCLES = {"div": 8, "rem": 16, "sqrt": 10, "const": 0, "splat": 0, "reduce": 6,
               "exp": 14, "log": 20, "tanh": 22, "erf": 26, "pow": 50}  # fmt: skip
_MATH_CYCLES = 24
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


@dataclass(frozen=True)
class Work:
    """flops: operations on floats, a fused multiply-add being two. units: what occupies a unit of
    arithmetic for a cycle; loads, stores: accesses; all: all operations, of registers of
    `register_bits`. tasks: how many threads could share them.
    """

    flops: float = 0.0
    units: float = 0.0
    loads: float = 0.0
    stores: float = 0.0
    all: float = 0.0
    tasks: int = 1

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.units + other.units,
            self.loads + other.loads,
            self.stores + other.stores,
            self.all + other.all,
            max(self.tasks, other.tasks),
        )

    def times(self, count: float) -> Work:
        return Work(
            count * self.flops,
            count * self.units,
            count * self.loads,
            count * self.stores,
            count * self.all,
            self.tasks,
        )


def work_of(function: Function, symbols: Mapping[str, int], register_bits: int = 512) -> Work:
    """Return what one call does."""
    return _Counter(symbols, register_bits).block(function.block, {})


def flops_of(function: Function, symbols: Mapping[str, int]) -> float:
    """Return the float operations of one call; a fused multiply-add is two."""
    return work_of(function, symbols).flops


def _number(dim: DimLike, symbols: Mapping[str, int]) -> int:
    values = {name: symbols.get(name, 1) for name in symbols_of(dim)}
    return dim if isinstance(dim, int) else evaluate(dim, values)


class _Counter:
    def __init__(self, symbols: Mapping[str, int], register_bits: int) -> None:
        self.symbols = symbols
        self.register_bits = register_bits

    def block(self, block: Block, known: Known) -> Work:
        total = Work()
        for op in block:
            total = total + self.op(op, known)
        return total

    def op(self, op: Op, known: Known) -> Work:
        match op.name:
            case "for":
                return self._for(op, known)
            case "parallel":
                count = known.get(op.operands[0], 1)
                return replace(self._tasks(op.regions[0], count, known), tasks=max(count, 1))
            case "if":
                taken = known.get(op.operands[0])
                regions = (
                    op.regions if taken is None else op.regions[:1] if taken else op.regions[1:]
                )
                return max((self.block(region, known) for region in regions), key=_size)
            case "const" if isinstance(op.attrs.value, int) and not op.attrs.lanes:
                known[op.result] = int(op.attrs.value)
            case "dim":
                known[op.result] = _number(op.attrs.expr, self.symbols)
            case "load" | "vload" | "gather" | "store" | "vstore" | "scatter":
                return self._access(op)
            case "tiles":
                return self.block(op.regions[0], known)
            case "tile_dot" | "tile_load" | "tile_store" | "tile_zero":
                return self._tile(op)
            case _:
                return self._scalar(op, known)
        return Work()

    def _tile(self, op: Op) -> Work:
        """An op of whole tiles; a product occupies its unit for as many cycles as it has rows."""
        tile = op.operands[0].type
        assert isinstance(tile, BufferType)
        rows, columns = (_number(dim, self.symbols) for dim in tile.shape)
        match op.name:
            case "tile_dot":
                total = op.operands[2].type
                assert isinstance(total, BufferType)
                flops = 2.0 * rows * columns * _number(total.shape[1], self.symbols)
                return Work(flops=flops, units=rows, all=rows)
            case "tile_load":
                return Work(loads=rows, all=rows)
            case "tile_store":
                return Work(stores=rows, all=rows)
        return Work()

    def _tasks(self, task: Block, count: int, known: Known) -> Work:
        """All tasks, by the middle one, or by the two beside the middle."""
        middle = {max(count - 1, 0) // 2, count // 2}
        total = Work()
        for number in middle:
            known[task.args[0]] = number
            total = total + self.block(task, known)
        return total.times(count / len(middle))

    def _for(self, op: Op, known: Known) -> Work:
        lo, hi = (known.get(bound, 0) for bound in op.operands[:2])
        trips = max(0, -((lo - hi) // op.attrs.step))
        known[op.regions[0].args[0]] = lo + op.attrs.step * (max(trips - 1, 0) // 2)
        return self.block(op.regions[0], known).times(trips) if trips else Work()

    def _access(self, op: Op) -> Work:
        value = op.results[0] if op.results else op.operands[0]
        # A gather or scatter accesses lane by lane.
        lanes = value.type.lanes if isinstance(value.type, VectorType) else 1
        count = float(lanes) if op.name in ("gather", "scatter") else self._registers(value)
        return Work(loads=count, all=count) if op.results else Work(stores=count, all=count)

    def _registers(self, value: Value) -> float:
        if not isinstance(value.type, VectorType):
            return 1.0
        return max(1.0, value.type.lanes * value.type.dtype.bits / self.register_bits)

    def _scalar(self, op: Op, known: Known) -> Work:
        if not op.results:
            return Work()
        typed = op.operands[0] if op.name in ("reduce", "dot") else op.results[0]
        if not isinstance(typed.type, (ScalarType, VectorType)):
            return Work()
        count = self._registers(typed)
        lanes = typed.type.lanes if isinstance(typed.type, VectorType) else 1
        if typed.type.dtype.is_float or op.name == "dot":
            flops = _FLOPS.get(op.name, 0) * lanes
            units = count * UNIT_CYCLES.get(op.name, _MATH_CYCLES if op.name in MATH else 1)
            return Work(flops=flops, units=units, all=units)
        if op.name == "select" and op.operands[0] not in known and op.operands[1] in known:
            # Of a choice that the data make the first is likely.
            known[op.result] = known[op.operands[1]]
        fold = _INTEGER.get(op.name)
        if fold is not None and all(value in known for value in op.operands):
            known[op.result] = fold(*(known[value] for value in op.operands))
        return Work(all=count) if isinstance(typed.type, VectorType) else Work()


def _size(work: Work) -> float:
    return work.flops + work.all
