"""How fast memory is read: vector loads over a set of a size, by as many threads as wanted."""

from __future__ import annotations

import ctypes
import functools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from llvmlite import binding

LOADS = 16
TRIALS = 7
# A trial reads at least so many bytes, so that small sets are read many times.
LEAST_BYTES = 256 << 20


def vector_lanes() -> int:
    """Return the f32 lanes of the widest vectors, 0 where it is not known."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    if features.get("fma") and features.get("avx2"):
        return 8
    return 4 if features.get("neon") else 0


def load_function(name: str, text: str, *arguments: Any) -> Any:
    """Return the function `name` of LLVM text, compiled for this machine."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple = binding.get_default_triple()
    features = binding.get_host_cpu_features().flatten()
    machine = binding.Target.from_triple(triple).create_target_machine(opt=2, features=features)
    jit = binding.create_lljit_compiler(machine)
    library = binding.JITLibraryBuilder().add_ir(text).export_symbol(name).link(jit, name)
    function: Any = ctypes.CFUNCTYPE(None, *arguments)(library[name])
    # The code lives as long as the library.
    function.library = library
    return function


def kernel_text(lanes: int) -> str:
    """Return a function that adds up `count` blocks of LOADS vectors, `times` over."""
    vector = f"<{lanes} x float>"
    sums = range(LOADS // 4)
    lines = [
        "define void @read(ptr %data, i64 %count, i64 %times) {",
        "entry:",
        "  br label %again",
        "again:",
        "  %time = phi i64 [ 0, %entry ], [ %later, %done ]",
        *(f"  %a{i} = phi {vector} [ zeroinitializer, %entry ], [ %c{i}, %done ]" for i in sums),
        "  br label %loop",
        "loop:",
        "  %step = phi i64 [ 0, %again ], [ %next, %loop ]",
        *(f"  %b{i} = phi {vector} [ %a{i}, %again ], [ %c{i}, %loop ]" for i in sums),
        f"  %at = mul i64 %step, {LOADS}",
    ]
    for i in range(LOADS):
        row, j = divmod(i, len(sums))
        before = f"%b{j}" if row == 0 else f"%t{i - len(sums)}"
        name = f"%c{j}" if row == 3 else f"%t{i}"
        lines += [
            f"  %i{i} = add i64 %at, {i}",
            f"  %p{i} = getelementptr {vector}, ptr %data, i64 %i{i}",
            f"  %v{i} = load {vector}, ptr %p{i}, align 64",
            f"  {name} = fadd {vector} {before}, %v{i}",
        ]
    lines += [
        "  %next = add i64 %step, 1",
        "  %more = icmp ult i64 %next, %count",
        "  br i1 %more, label %loop, label %done",
        "done:",
        "  %later = add i64 %time, 1",
        "  %on = icmp ult i64 %later, %times",
        "  br i1 %on, label %again, label %exit",
        "exit:",
        "  %s1 = fadd " + f"{vector} %c0, %c1",
        "  %s2 = fadd " + f"{vector} %s1, %c2",
        "  %s3 = fadd " + f"{vector} %s2, %c3",
        f"  store {vector} %s3, ptr %data",
        "  ret void",
        "}",
    ]
    return "\n".join(lines)


def read_bandwidth(size: int, threads: int) -> float:
    """Return the best bytes a second over some trials, of sets about as large as `size`."""
    return _measured(round(2 * math.log2(max(size, 1 << 14))), threads)


@functools.cache
def _measured(half_powers: int, threads: int) -> float:
    lanes = vector_lanes() or 4
    block = LOADS * lanes * 4
    share = int(2 ** (half_powers / 2)) // threads // block * block
    read = load_function(
        "read", kernel_text(lanes), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
    )
    times = max(LEAST_BYTES // (threads * share), 1)
    memory = [np.full(share + 64, 1, np.uint8) for _ in range(threads)]
    starts = [-(-each.ctypes.data // 64) * 64 for each in memory]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:

        def one(start: int) -> None:
            read(start, share // block, times)

        for _ in range(TRIALS):
            begin = time.perf_counter()
            list(pool.map(one, starts))
            best = max(best, threads * share * times / (time.perf_counter() - begin))
    return best
