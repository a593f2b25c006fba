"""Makes the kernels of one program, equal ones once, and the constants made for them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from tfc.compiler.cost.choice import Chooser
from tfc.compiler.lower.arguments import known, overlap, symbols_in, view_type
from tfc.compiler.lower.data import Array, DataTable
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.fingerprint import code_fingerprint, fingerprint
from tfc.compiler.lower.group import Step
from tfc.compiler.lower.storage import (
    Place,
    RootKind,
    Storage,
)
from tfc.compiler.target import Target
from tfc.ir.core import Block, Function, Module, Value
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.nodes import ALIASED
from tfc.ir.types import DType, TensorType

Made = Callable[[Module, Function], None]


class KernelMaker:
    """Makes kernels by schedules, equal ones once, and the constants that they read.

    made: called with the program and each new kernel of it, which does not change any more.
    """

    def __init__(
        self,
        program: Module,
        storage: Storage,
        target: Target,
        hints: Mapping[str, int],
        chooser: Chooser,
    ) -> None:
        self.program = program
        self.storage = storage
        self.target = target
        self.hints = hints
        self.chooser = chooser
        self.data = DataTable(program)
        self.made: Made | None = None
        self._by_code: dict[Hashable, str] = {}
        self._by_parts: dict[Hashable, str] = {}

    # -- constants ------------------------------------------------------------------------------

    def is_constant(self, value: Value) -> bool:
        return self.storage.place(value).root.kind is RootKind.CONSTANT

    def array_at(self, place: Place) -> Array:
        """The data of a constant, from its place on, flat."""
        return self.data.array_of(place.root)[known(place.offset) :]

    def constant(self, array: Array, dtype: DType) -> tuple[Value, Place]:
        """Add data that kernels read; return a value for it, and where it lies."""
        value = Value(TensorType(dtype, (array.size,)), Block(), 0, "packed")
        return value, Place(self.data.add(array, dtype, value), 0, (1,))

    # -- kernels --------------------------------------------------------------------------------

    def function(
        self,
        name: str,
        reads: Sequence[Value],
        written: Sequence[Value],
        places: Mapping[Value, Place],
        schedules: Sequence[Callable[[Emitter], None]],
        parts: object = None,
    ) -> Step:
        """Make a kernel by its schedules, unless one was made of equal `parts`.

        parts: all that the schedules depend on, None where that is not known.
        """
        own = [places.get(value) or self.storage.place(value) for value in (*reads, *written)]
        types = [view_type(v, p) for v, p in zip((*reads, *written), own, strict=True)]
        aliased = overlap(own[: len(reads)], own[len(reads) :])
        what = (types, parts, aliased)
        key = fingerprint(what, (*reads, *written)) if parts is not None else None
        if key is not None and key in self._by_parts:
            return Step(self._by_parts[key], own, len(written))
        names = [f"x{i}" for i in range(len(reads))] + [f"y{i}" for i in range(len(written))]
        block = Block(types, names)
        builder = LoopBuilder(block)
        buffers = dict(zip((*reads, *written), block.args, strict=True))
        emitter = Emitter(builder, buffers, written, self.chooser, aliased)
        for schedule in schedules:
            schedule(emitter)
        builder.emit("return")
        function = Function(name, block, "kernel", attrs={ALIASED: True} if aliased else {})
        kernel = self.add(function)
        if key is not None:
            self._by_parts[key] = kernel
        return Step(kernel, own, len(written))

    def _declare_symbols(self, function: Function) -> None:
        """Declare the symbols that a kernel uses."""
        main = self.storage.function.symbols
        used = symbols_in(function) if main else set()
        function.symbols = {s: replace(main[s], source=None) for s in main if s in used}

    def add(self, function: Function) -> str:
        """Add a kernel to the program unless an equal one is there; return its name."""
        self._declare_symbols(function)
        code = code_fingerprint(function)
        name = self._by_code.get(code)
        if name is None:
            name = self._by_code[code] = f"k{len(self._by_code)}_{function.name}"[:48]
            function.name = name
            self.program.add(function)
            if self.made is not None:
                self.made(self.program, function)
        return name
