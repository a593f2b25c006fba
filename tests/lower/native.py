"""Runs lowered programs: `main` by the loop interpreter, kernels as machine code. Not test cases.

The kernels of many programs are linked at once; outputs and workspace stand between guards.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np

import tfc.ir.ops  # noqa: F401  (fills the registry)
from tests.codegen.harness import CONTEXT_BYTES
from tfc.compiler.codegen.emit import emit_object, target_machine
from tfc.compiler.codegen.host import host_target, missing_features
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.codegen.support import support_module
from tfc.compiler.lower.program import lower
from tfc.compiler.target import Target, parse_target
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function, Module, SymbolInfo, Value
from tfc.ir.dims import evaluate
from tfc.ir.loop.interp import Machine
from tfc.ir.symbols import bind_shapes
from tfc.ir.types import TensorType
from tfc.ir.verify import verify

GUARD = 64
BYTE = 0xA5
_libraries = itertools.count()


def can_run(level: str) -> bool:
    target = parse_target(level)
    return target.arch == host_target().arch and not missing_features(target)


def graph(
    types: Sequence[TensorType],
    make: Callable[..., Value | Sequence[Value]],
    symbols: Mapping[str, SymbolInfo] | None = None,
) -> Module:
    """The graph of `make(builder, *inputs)`; inputs are x0, x1, ..., outputs y0, y1, ..."""
    store = ConstantStore()
    block = Block(types, [f"x{i}" for i in range(len(types))])
    builder = GraphBuilder(block, store)
    made = make(builder, *block.args)
    outputs = [made] if isinstance(made, Value) else list(made)
    builder.op("return", *outputs)
    module = Module("graph", constants=store)
    names = tuple(f"y{i}" for i in range(len(outputs)))
    module.add(Function("main", block, symbols=dict(symbols or {}), output_names=names))
    return module


def lowered(module: Module, target: Target, hints: Mapping[str, int] | None = None) -> Module:
    program = lower(module, target, hints or {})
    verify(program)
    return program


class Code:
    """The kernels of some programs, linked once."""

    def __init__(self, programs: Sequence[Module], target: Target) -> None:
        self.names: dict[Function, str] = {}
        known: dict[str, str] = {}
        builder = llvm.JITLibraryBuilder()
        for program in programs:
            for function in program.functions.values():
                if function.kind == "kernel":
                    self.names[function] = self._add(function, target, known, builder)
        if not known:
            return
        builder.add_object_img(_emit(support_module(target.triple), target))
        # The JIT keeps addresses, not the library that has them, so both are kept here.
        self.jit = llvm.create_lljit_compiler(target_machine(host_target()))
        self.library = builder.link(self.jit, f"programs{next(_libraries)}")

    @staticmethod
    def _add(function: Function, target: Target, known: dict[str, str], builder: Any) -> str:
        own, function.name = function.name, "kernel"
        text = kernel_text(function, target)
        function.name = own
        if text not in known:
            name = known[text] = f"k{len(known)}"
            builder.add_object_img(_emit(text.replace("@kernel", f"@{name}"), target))
            builder.export_symbol(name)
        return known[text]

    def call(self, function: Function, pointers: Sequence[int], symbols: Sequence[int]) -> None:
        kinds = [ctypes.c_void_p] * (1 + len(pointers)) + [ctypes.c_int64] * len(symbols)
        address = int(self.library[self.names[function]])
        context = (ctypes.c_char * CONTEXT_BYTES)()
        ctypes.CFUNCTYPE(None, *kinds)(address)(context, *pointers, *symbols)

    def run(
        self, program: Module, inputs: Mapping[str, Array], symbols: Mapping[str, int] | None = None
    ) -> dict[str, Array]:
        """The outputs by name; bf16 arrays are raw bits, in and out."""
        main = program.main
        ports = main.attrs["inputs"]
        given = [np.array(inputs[name], order="C") for name, _ in ports]
        shapes = [(n, t.shape, x.shape) for (n, t), x in zip(ports, given, strict=True)]
        machine = _Native(self, program, bind_shapes(shapes, symbols))
        outputs, whole = {}, []
        for name, type in main.attrs["outputs"]:
            shape = [evaluate(dim, machine.symbols) for dim in type.shape]
            memory, inner = _guarded(int(np.prod(shape)), arrays.numpy_dtype(type.dtype))
            outputs[name] = inner.reshape(shape)
            whole.append(memory)
        machine.function(main, [*given, *outputs.values()])
        for memory in whole:
            sides = memory[:GUARD], memory[-GUARD:]
            assert all((side == BYTE).all() for side in sides), "a store outside of an output"
        for name, value in zip((n for n, _ in ports), given, strict=True):
            assert value.tobytes() == np.asarray(inputs[name]).tobytes(), f"{name} was written"
        return outputs


class _Native(Machine):
    """The loop interpreter, but that kernels are machine code."""

    def __init__(self, code: Code, module: Module, symbols: Mapping[str, int]) -> None:
        super().__init__(module, symbols)
        self.code = code

    def function(self, function: Function, args: Sequence[Any]) -> None:
        if function.kind != "kernel":
            super().function(function, args)
            return
        pointers = [b.data.ctypes.data + b.base * b.data.itemsize for b in args]
        self.code.call(function, pointers, [self.symbols[name] for name in function.symbols])


def _emit(text: str, target: Target) -> bytes:
    # The JIT does not find hidden names.
    return emit_object(text.replace("define hidden", "define"), target)


def _guarded(count: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    memory = np.full(count * dtype.itemsize + 2 * GUARD, BYTE, np.uint8)
    inner = memory[GUARD : memory.size - GUARD]
    inner[...] = 0xFF
    return memory, inner.view(dtype)
