"""Builds kernels, loads them through LLVM's JIT and calls them with numpy arrays."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
import pytest

from tfc.compiler.codegen.emit import emit_object, target_machine
from tfc.compiler.codegen.host import host_target, missing_features
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.target import Target, parse_target
from tfc.ir.arrays import numpy_dtype
from tfc.ir.core import Block, Function, SymbolInfo
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.types import DType, Type

Array = npt.NDArray[Any]
CONTEXT_BYTES = 56
_counter = itertools.count()

TARGETS = tuple(
    name
    for name in ("x86-64", "x86-64-v2", "avx2", "avx512", "aarch64")
    if parse_target(name).arch == host_target().arch and not missing_features(parse_target(name))
)
"""The levels that this machine can run."""
all_targets = pytest.mark.parametrize("target", TARGETS)


def compile_kernel(function: Function, target: Target) -> bytes:
    """Return the object file that defines one kernel."""
    return emit_object(kernel_text(function, target), target)


@cache
def _jit() -> Any:
    return llvm.create_lljit_compiler(target_machine(host_target()))


class Loaded:
    """A linked object and the addresses of some of its names."""

    def __init__(self, text: str, target: Target, *names: str) -> None:
        self.text = text
        # The JIT does not find hidden names.
        self.object = emit_object(text.replace("define hidden", "define"), target)
        builder = llvm.JITLibraryBuilder().add_object_img(self.object)
        for name in names:
            builder.export_symbol(name)
        # Names that are not in the object, such as libm's, are not found: linking fails.
        self.library = builder.link(_jit(), f"test{next(_counter)}")

    def address(self, name: str) -> int:
        return int(self.library[name])


class Kernel:
    """A kernel that can be called with arrays, then scalars and symbols as integers."""

    def __init__(self, function: Function, target: Target) -> None:
        self.function = function
        self.loaded = Loaded(kernel_text(function, target), target, function.name)

    @property
    def text(self) -> str:
        return self.loaded.text

    def __call__(self, *args: Array | int | float, context: Any = None) -> None:
        values: list[Any] = [context if context is not None else (ctypes.c_char * CONTEXT_BYTES)()]
        kinds: list[Any] = [ctypes.c_void_p]
        for arg in args:
            if isinstance(arg, np.ndarray):
                kinds.append(ctypes.c_void_p)
                values.append(arg.ctypes.data)
            elif isinstance(arg, float):
                kinds.append(ctypes.c_float)
                values.append(arg)
            else:
                kinds.append(ctypes.c_int64)
                values.append(arg)
        address = self.loaded.address(self.function.name)
        ctypes.CFUNCTYPE(None, *kinds)(address)(*values)


@contextmanager
def building(
    args: Sequence[Type], symbols: Sequence[str] = (), name: str = "kernel"
) -> Iterator[tuple[LoopBuilder, Function]]:
    """Open a kernel of these arguments; the terminator is added at the end."""
    function = Function(name, Block(args), "kernel", {symbol: SymbolInfo() for symbol in symbols})
    builder = LoopBuilder(function.block)
    yield builder, function
    builder.emit("return")


def ramp(dtype: DType, *shape: int) -> Array:
    """Return small numbers that differ from their neighbours."""
    count = int(np.prod(shape))
    return (
        (np.arange(count) % 97 - (0 if dtype.kind in "ub" else 40))
        .astype(numpy_dtype(dtype))
        .reshape(shape)
    )
