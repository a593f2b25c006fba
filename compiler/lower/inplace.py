"""Which outputs kernels may write to the memory of inputs: nothing is lost that is still read."""

from __future__ import annotations

from collections.abc import Callable

from tfc.ir.core import Block, Function, Op, Value
from tfc.ir.inplace import Shared, shared_memory
from tfc.ir.opdef import Kind, OpDef, Trait
from tfc.ir.types import TensorType

_POINTWISE = (Kind.ELEMENTWISE, Kind.CONSTANT)


class InPlace:
    """What a function says of outputs in the memory of inputs, by either's position."""

    def __init__(self, function: Function) -> None:
        entries = shared_memory(function)
        self.by_output = {one.output: one for one in entries}
        self.by_input = {one.input: one for one in entries}
        self._function = function
        self._order: dict[Op, int] = {}
        if entries:
            self._order = {op: at for at, op in enumerate(function.block)}

    def kept(self, one: Shared) -> Value:
        """The input whose memory an output takes."""
        return self._function.args[one.input]

    def allows(self, one: Shared, source: Value, forwards: Callable[[Op], bool]) -> bool:
        """Whether the kernel that makes `source`, an output, may write it where the input lies.

        forwards: whether an op's result may be the memory of its operands.
        """
        writer, kept = source.op, self.kept(one)
        if writer is None or writer not in self._order:
            return False
        alike = _reads_what_it_replaces(writer, kept)
        now = self._order[writer]
        for value, reader in _readers(kept, forwards):
            if reader is writer and value is kept and alike:
                continue
            if reader.defn.terminator or self._order.get(reader, now) >= now:  # type: ignore[attr-defined]
                return False
        return True


def _readers(value: Value, forwards: Callable[[Op], bool]) -> list[tuple[Value, Op]]:
    """Return the ops that read a value's memory, with the value as which they do."""
    found: list[tuple[Value, Op]] = []
    stack = [value]
    while stack:
        seen = stack.pop()
        for op in seen.users:
            found.append((seen, op))
            if forwards(op):
                stack += op.results
    return found


def _reads_what_it_replaces(op: Op, value: Value) -> bool:
    """Whether a kernel is done with an element of `value` when it writes the same one."""
    defn = op.defn
    assert isinstance(defn, OpDef)
    if Trait.UPDATES in defn.traits:
        return op.operands[0] is value and op.operands.count(value) == 1
    kernel: Block | list[Op] = op.regions[0] if op.regions else [op]
    same = [v.type.shape for v in (value, *op.results) if isinstance(v.type, TensorType)]
    return len(set(same)) == 1 and all(
        inner.defn.terminator or inner.defn.kind in _POINTWISE  # type: ignore[attr-defined]
        for inner in kernel
    )
