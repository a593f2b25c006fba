"""How fast this machine is at most, measured: multiply-adds of one core, and copying."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfc.compiler.target import Target
    from tfc.ir.core import Module

_CHAINS = 10  # more than latency times throughput of a multiply-add on any x86-64 of today
_ROUNDS = 200_000
_TRIALS = 30
_COPY_BYTES = 256 << 20


def peak() -> dict[str, float]:
    """Return GFLOP/s of f32 multiply-adds on one core, and GB/s read and written by one copy."""
    return {"one_core_gflops": multiply_add_gflops(), "copy_gbytes": _copy_gbytes()}


def multiply_add_gflops() -> float:
    """Return the best of many short runs on one core."""
    from tfc.compiler.build import Options
    from tfc.compiler.codegen.host import host_target
    from tfc.inprocess import compile_in_process

    target = host_target()
    program = _multiply_adds(target)
    run = compile_in_process(lambda: program, Options(target, name="peak", threads=False), 1)
    seconds = min(_timed(run) for _ in range(_TRIALS))
    return 2e-9 * _ROUNDS * _CHAINS * _lanes(target) / seconds


def _copy_gbytes() -> float:
    import numpy as np

    source = np.ones(_COPY_BYTES, np.uint8)
    sink = np.ones_like(source)
    copy = min(_timed(lambda: np.copyto(sink, source)) for _ in range(3))
    return 2e-9 * _COPY_BYTES / copy


def _timed(function: Any) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _lanes(target: Target) -> int:
    from tfc.ir.types import F32

    return target.lanes(F32)


def _multiply_adds(target: Target) -> Module:
    """Return a program of independent chains of vector multiply-adds, and their sum."""
    from tfc.ir.constants import ConstantStore
    from tfc.ir.core import Block, Function, Module
    from tfc.ir.loop.build import LoopBuilder
    from tfc.ir.loop.nodes import CallAttrs
    from tfc.ir.types import F32, TensorType, VectorType, buffer

    lanes = _lanes(target)
    type = buffer(F32, lanes)
    block = Block([type], ["y"])
    b = LoopBuilder(block)
    like = VectorType(F32, lanes)
    factor = b.const(0.999, like)
    with b.for_(0, _ROUNDS, [b.const(float(i), like) for i in range(_CHAINS)]) as loop:
        loop.yields = [b.fma(value, factor, factor) for value in loop.carried]
    total = loop.results[0]
    for value in loop.results[1:]:
        total = b.add(total, value)
    b.vstore(total, block.args[0], [0])
    b.emit("return")
    module = Module("loop", constants=ConstantStore())
    module.add(Function("chains", block, "kernel"))
    body = Block([type], ["y"])
    b = LoopBuilder(body)
    b.emit("call", [body.args[0]], CallAttrs("chains"))
    b.emit("return")
    outputs = (("y", TensorType(F32, (lanes,))),)
    attrs = {"inputs": (), "outputs": outputs, "workspace": 0}
    module.add(Function("main", body, "main", attrs=attrs))
    return module
