"""Lowers a graph to a loop-level program: kernels, their constants, and `main` that calls them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tfc.compiler.lower.cost import estimate
from tfc.compiler.lower.kernels import Group, KernelBuilder, Step
from tfc.compiler.lower.memplan import Lifetime, plan_memory
from tfc.compiler.lower.storage import PARTS, Place, Root, RootKind, Storage, is_data
from tfc.compiler.passes.assume import ATTRIBUTE
from tfc.compiler.target import Target
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function, Module, Op, Value
from tfc.ir.dims import DimLike
from tfc.ir.errors import CompileError
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.nodes import BufferAttrs, CallAttrs, ConstantAttrs
from tfc.ir.types import BufferType, DType, TensorType

RECURSION_LIMIT = 20_000
# Codes below are those that every program returns.
FIRST_ASSUMPTION = 100


@dataclass(eq=False)
class Call:
    """One call of main: a kernel and the place of each of its arguments."""

    kernel: str
    args: list[Place]
    writes: int
    op: Op | None


def lower(
    module: Module, target: Target, hints: Mapping[str, int], *, winograd: bool = True
) -> Module:
    """Return the loop-level program of a graph module whose ops all have bodies.

    hints: likely values of the symbols. winograd: as for `KernelBuilder`.
    Raises UnsupportedError and CompileError.
    """
    with _deep_recursion():
        return ProgramBuilder(module, target, hints, winograd).build()


@contextmanager
def _deep_recursion() -> Iterator[None]:
    """Expressions are walked recursively; a cubic resize alone is 700 nodes deep."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, RECURSION_LIMIT))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


class ProgramBuilder:
    """Lowers one module."""

    def __init__(
        self, module: Module, target: Target, hints: Mapping[str, int], winograd: bool
    ) -> None:
        self.source = module
        self.function = module.main
        self.target = target
        self.hints = dict(hints)
        for name, info in self.function.symbols.items():
            if info.hint is not None:
                self.hints.setdefault(name, info.hint)
        assert isinstance(module.constants, ConstantStore)
        self.store = module.constants
        self.program = Module("loop", constants=self.store, source=module.source)
        self.storage = Storage(self.function)
        self.kernels = KernelBuilder(self.program, self.storage, target, self.hints, winograd)
        self.calls: list[Call] = []

    def build(self) -> Module:
        for op in self.function.block:
            self._lower_op(op)
        self._finish_outputs()
        self._write_main()
        return self.program

    # -- calls ----------------------------------------------------------------------------------

    def _lower_op(self, op: Op) -> None:
        if is_data(op) or op.defn.terminator:  # type: ignore[attr-defined]
            return
        if op.regions and op.name != "fused":
            raise CompileError(f"{op.name} cannot be lowered yet", where=str(op.loc) or None)
        if len(op.results) == 1 and not self.storage.is_kernel(op.result):
            return
        if op.name in PARTS:
            self._lower_parts(op)
            return
        self._call(self.kernels.group(Group.of(op)), op)

    def _lower_parts(self, op: Op) -> None:
        """Build a concat or pad: what its operands' producers have not written already."""
        parts = PARTS[op.name](op)
        inside = [self.storage.inside.get(op.operands[p.operand]) == (op.result, p) for p in parts]
        if not parts:
            self._call(self.kernels.group(Group.of(op)), op)
            return
        for part, done in zip(parts, inside, strict=True):
            if not done:
                self._call(self.kernels.copy_part(op, part), op)
        border = self.kernels.border(op, parts)
        if border is not None:
            self._call([border], op)

    def _call(self, steps: Sequence[Step], op: Op | None) -> None:
        for step in steps:
            self.calls.append(Call(step.kernel, step.places, step.writes, op))

    def _finish_outputs(self) -> None:
        """Copy the returned values that no kernel could produce in place."""
        for position, value in enumerate(self.function.outputs):
            place = self.storage.place(value)
            if place.root.kind is RootKind.OUTPUT and place.root.position == position:
                continue
            self._call([self.kernels.copy_out(value, position)], None)

    # -- main -----------------------------------------------------------------------------------

    def _write_main(self) -> None:
        inputs = [(arg.name, arg.type) for arg in self.function.args]
        outputs = [
            (name, value.type)
            for name, value in zip(self.function.output_names, self.function.outputs, strict=True)
        ]
        types = [_flat(type) for _, type in (*inputs, *outputs)]
        names = [f"in{i}" for i in range(len(inputs))] + [f"out{i}" for i in range(len(outputs))]
        block = Block(types, names)
        builder = LoopBuilder(block)
        self._write_checks(builder)
        plan, offsets = self._plan_workspace()
        pointers: dict[object, Value] = {}
        for call in self.calls:
            self._write_call(builder, call, pointers, offsets, len(inputs))
        builder.emit("return")
        symbols = dict(self.function.symbols)
        attrs = {"inputs": tuple(inputs), "outputs": tuple(outputs), "workspace": plan}
        self.program.add(Function("main", block, "main", symbols, (), attrs))

    def _write_checks(self, b: LoopBuilder) -> None:
        """End the run where the symbols contradict what the graph's ops take for granted."""
        assumed = self.function.attrs.get(ATTRIBUTE, ())
        for number, (zero, message) in enumerate(assumed):
            holds = b.eq(b.index(zero), b.index(0))
            b.check(holds, FIRST_ASSUMPTION + number, message)

    def _plan_workspace(self) -> tuple[DimLike, dict[Root, DimLike]]:
        first: dict[Root, int] = {}
        last: dict[Root, int] = {}
        for index, call in enumerate(self.calls):
            for place in call.args:
                if place.root.kind is RootKind.TEMP:
                    first.setdefault(place.root, index)
                    last[place.root] = index
        roots = list(first)
        sizes = [root.size * _dtype(root.value).bytes for root in roots]
        lifetimes = [
            Lifetime(size, first[root], last[root])
            for root, size in zip(roots, sizes, strict=True)
        ]
        plan = plan_memory(lifetimes, [estimate(size, self.hints) for size in sizes])
        return plan.size, dict(zip(roots, plan.offsets, strict=True))

    def _write_call(
        self,
        b: LoopBuilder,
        call: Call,
        pointers: dict[object, Value],
        offsets: Mapping[Root, DimLike],
        n_inputs: int,
    ) -> None:
        if call.op is not None:
            b.loc = call.op.loc
        kernel = self.program.functions[call.kernel]
        args: list[Value] = []
        for place, arg in zip(call.args, kernel.args, strict=True):
            assert isinstance(arg.type, BufferType)
            base = self._root_pointer(b, place.root, pointers, offsets, n_inputs)
            key = (place.root, place.offset, arg.type)
            if base.type == arg.type and place.offset == 0:
                args.append(base)
                continue
            if key not in pointers:
                pointers[key] = b.view(base, b.index(place.offset), arg.type)
            args.append(pointers[key])
        b.emit("call", args, CallAttrs(call.kernel))

    def _root_pointer(
        self,
        b: LoopBuilder,
        root: Root,
        pointers: dict[object, Value],
        offsets: Mapping[Root, DimLike],
        n_inputs: int,
    ) -> Value:
        if root not in pointers:
            type = BufferType(_dtype(root.value), (root.size,), (1,))
            match root.kind:
                case RootKind.INPUT:
                    pointers[root] = b.block.args[root.position]
                case RootKind.OUTPUT:
                    pointers[root] = b.block.args[n_inputs + root.position]
                case RootKind.CONSTANT:
                    name = self.kernels.data.name_of(root)
                    pointers[root] = b.emit("constant", (), ConstantAttrs(name, type)).result
                case RootKind.TEMP:
                    at = b.index(offsets[root])
                    pointers[root] = b.emit("workspace", (at,), BufferAttrs(type)).result
        return pointers[root]


def _flat(type: object) -> BufferType:
    assert isinstance(type, TensorType)
    return BufferType(type.dtype, (type.size,), (1,))


def _dtype(value: Value) -> DType:
    assert isinstance(value.type, TensorType)
    return value.type.dtype
