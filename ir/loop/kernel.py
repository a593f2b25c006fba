"""A kernel that an op writes itself: its buffers, scratch memory, and how work is shared out.

Start at `write_kernel`. What the loops compute is the op's business, where its values lie is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfc.ir.core import Block, Function, Op, Value
from tfc.ir.dims import DimLike, ceildiv, floordiv, maximum, product, symbol
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.types import BufferType, DType, TensorType, buffer, row_major

if TYPE_CHECKING:
    from tfc.ir.opdef import OpDef

# Work is counted in cycles of one core. Waking and joining a thread costs about 7,000 of them;
# below PARALLEL_WORK a second thread costs more than it saves. TASK_WORK is one task's share.
PARALLEL_WORK = 24_000
TASK_WORK = 20_000
# What is worked on at once; narrower targets split it.
VECTOR_BYTES = 64
# Bytes between the memory of two workers, so that they share no cache line.
GAP = 128
# How many elements are copied in one go.
COPIED = 4096


@dataclass(frozen=True, slots=True)
class Memory:
    """Where a value lies: element index is at lead + sum(index * strides) of a flat buffer."""

    type: BufferType
    strides: tuple[DimLike, ...]
    lead: DimLike = 0

    @staticmethod
    def dense(type: TensorType) -> Memory:
        return Memory(buffer(type.dtype, type.size), row_major(type.shape))


@dataclass(frozen=True, slots=True)
class Written:
    """A kernel on the operands, the results and the scratch buffers of an op, in this order."""

    function: Function
    scratch: tuple[BufferType, ...]


class KernelWriter:
    """What the `loops` of an op is given: buffers in the shapes of its operands and results."""

    def __init__(self, op: Op, block: Block, memories: Sequence[Memory]) -> None:
        self.op = op
        self.b = LoopBuilder(block, op.loc)
        self._block = block
        self._scratch: list[BufferType] = []
        values = (*op.operands, *op.results)
        seen = [
            self._shaped(arg, value, memory)
            for arg, value, memory in zip(list(block.args), values, memories, strict=True)
        ]
        self.operands = tuple(seen[: len(op.operands)])
        self.results = tuple(seen[len(op.operands) :])

    def _shaped(self, arg: Value, value: Value, memory: Memory) -> Value:
        assert isinstance(value.type, TensorType)
        type = BufferType(memory.type.dtype, value.type.shape, memory.strides)
        if type == memory.type and memory.lead == 0:
            return arg
        return self.b.view(arg, memory.lead, type)

    def scratch(self, dtype: DType, *shape: DimLike) -> Value:
        """Memory of this kernel alone, whose contents are not defined at first."""
        flat = buffer(dtype, product(shape))
        arg = self._block.add_arg(flat, f"t{len(self._scratch)}")
        self._scratch.append(flat)
        return arg if len(shape) == 1 else self.b.view(arg, 0, buffer(dtype, *shape))

    def own(self, dtype: DType, rows: Sequence[DimLike], *shape: DimLike) -> Value:
        """Scratch memory of `shape` for each worker of `rows`, which is its first index."""
        *outer, size = shape
        return self.scratch(dtype, workers(rows), *outer, size + GAP // dtype.bytes)

    def finish(self, name: str) -> Written:
        self.b.emit("return")
        return Written(Function(name, self._block, "kernel"), tuple(self._scratch))

    # -- loops ----------------------------------------------------------------------------------

    @contextmanager
    def tasks(self, count: DimLike, cost: DimLike) -> Iterator[tuple[Value, Value, Value]]:
        """Open a loop over ranges that cover 0 to `count`, on threads where that pays.

        cost: cycles of one. Gives (first, end, worker). The ranges depend on shapes alone.
        """
        b = self.b
        if count == 1:
            yield b.index(0), b.index(1), b.index(0)
            return
        size = maximum(1, floordiv(TASK_WORK, maximum(1, cost)))
        tasks = ceildiv(count, size)
        when = b.gt(b.index(count * cost), b.index(PARALLEL_WORK))
        with b.parallel(tasks, when, "task") as (task, worker):
            first = b.mul(task, b.index(size))
            end = b.min(b.add(first, b.index(size)), b.index(count))
            yield first, end, worker

    @contextmanager
    def rows(
        self, shape: Sequence[DimLike], cost: DimLike
    ) -> Iterator[tuple[tuple[Value, ...], Value]]:
        """Open a loop over all indices into `shape`, on threads where that pays.

        cost: cycles of one. Gives (index, worker).
        """
        with (
            self.tasks(product(shape), cost) as (first, end, worker),
            self.b.for_(first, end) as loop,
        ):
            yield self.unflatten(loop.index, shape), worker

    def unflatten(self, flat: Value, shape: Sequence[DimLike]) -> tuple[Value, ...]:
        """The index into `shape` of an element by its place in row-major order."""
        b = self.b
        zero = b.index(0)
        found: list[Value] = []
        left = flat
        many = [axis for axis, dim in enumerate(shape) if dim != 1]
        for axis in reversed(range(len(shape))):
            if axis not in many:
                found.append(zero)
            elif axis == many[0]:
                found.append(left)
            else:
                size = b.index(shape[axis])
                found.append(b.rem(left, size))
                left = b.div(left, size)
        return tuple(reversed(found))

    def each(self, lo: Value, hi: Value, lanes: int, body: Callable[[Value, int], None]) -> None:
        """Call `body(index, lanes)` for whole vectors, then `body(index, 0)` for each one left."""
        b = self.b
        if lanes > 1:
            whole = b.sub(hi, b.rem(b.sub(hi, lo), b.index(lanes)))
            with b.for_(lo, b.max(lo, whole), step=lanes) as loop:
                body(loop.index, lanes)
            lo = b.max(lo, whole)
        with b.for_(lo, hi) as loop:
            body(loop.index, 0)

    def copy(self, source: Value, target: Value, shape: Sequence[DimLike]) -> None:
        """Copy a tensor of `shape`, converted to the target's element type, on threads."""
        if source is target:
            return
        if not shape:
            self._copy_one(source, target, (), 0)
            return
        flat = (product(shape),)
        laid, to = self.reshape(source, flat), self.reshape(target, flat)
        if laid is not None and to is not None:
            source, target, shape = laid, to, flat
        *outer, size = shape
        lanes = lanes_along(-1, source, target)
        parts = [*outer, ceildiv(size, COPIED)]
        with self.rows(parts, COPIED // max(lanes // 2, 1)) as (index, _):
            *at, part = index
            first = self.b.mul(part, self.b.index(COPIED))
            end = self.b.min(self.b.add(first, self.b.index(COPIED)), self.b.index(size))
            self.each(first, end, lanes, lambda i, n: self._copy_one(source, target, (*at, i), n))

    def reshape(self, buf: Value, shape: Sequence[DimLike]) -> Value | None:
        """A buffer in another shape; None where its elements do not lie side by side."""
        assert isinstance(buf.type, BufferType)
        if buf.type.strides != row_major(buf.type.shape):
            return None
        return self.b.view(buf, 0, buffer(buf.type.dtype, *shape))

    def _copy_one(self, source: Value, target: Value, index: tuple[Value, ...], lanes: int) -> None:
        b = self.b
        assert isinstance(target.type, BufferType)
        if lanes:
            b.vstore(b.cast(b.vload(source, index, lanes), target.type.dtype), target, index)
        else:
            b.store(b.cast(b.load(source, *index), target.type.dtype), target, *index)


def workers(rows: Sequence[DimLike]) -> DimLike:
    """How many workers take part in a loop over `rows`, each with a number below this."""
    return 1 if product(rows) == 1 else symbol("threads")


def lanes_along(axis: int, *buffers: Value) -> int:
    """How many elements to take at once along an axis: 0 where it is not contiguous."""
    widest = 1
    for buf in buffers:
        assert isinstance(buf.type, BufferType)
        if buf.type.strides[axis] != 1:
            return 0
        widest = max(widest, buf.type.dtype.bytes)
    return VECTOR_BYTES // widest


def write_kernel(op: Op, name: str, memories: Sequence[Memory], in_place: bool = False) -> Written:
    """Write the kernel of an op that has `loops`; memories: of its operands, then its results.

    in_place: the result lies where the first operand does, and needs no copy of it.
    """
    count = len(op.operands)
    names = [f"x{i}" if i < count else f"y{i - count}" for i in range(len(memories))]
    block = Block([memory.type for memory in memories], names)
    writer = KernelWriter(op, block, memories)
    if in_place:
        writer.operands = (writer.results[0], *writer.operands[1:])
    defn: OpDef = op.defn  # type: ignore[assignment]
    assert defn.loops is not None
    defn.loops(writer)
    return writer.finish(name)
