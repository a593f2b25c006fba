"""The most f32 multiply-adds that one core does: independent chains of vector FMAs, timed."""

from __future__ import annotations

import ctypes
import time
from typing import Any

from llvmlite import binding

CHAINS = 12
STEPS = 100_000
TRIALS = 50


def vector_lanes() -> int:
    """Return the f32 lanes of the widest vectors, 0 where the machine has no fused multiply-add."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    if features.get("fma") and features.get("avx2"):
        return 8
    return 4 if features.get("neon") else 0


def kernel_text(lanes: int) -> str:
    """Return a function that does STEPS rounds of CHAINS fused multiply-adds and adds them up."""
    vector = f"<{lanes} x float>"
    fma = f"@llvm.fma.v{lanes}f32"
    chains = range(CHAINS)
    lines = [
        f"declare {vector} {fma}({vector}, {vector}, {vector})",
        "define void @peak(ptr %data) {",
        "entry:",
        f"  %x = load {vector}, ptr %data",
        "  br label %loop",
        "loop:",
        "  %step = phi i64 [ 0, %entry ], [ %next, %loop ]",
        *(f"  %a{i} = phi {vector} [ %x, %entry ], [ %b{i}, %loop ]" for i in chains),
        *(
            f"  %b{i} = call {vector} {fma}({vector} %x, {vector} %a{i}, {vector} %x)"
            for i in chains
        ),
        "  %next = add i64 %step, 1",
        f"  %more = icmp ult i64 %next, {STEPS}",
        "  br i1 %more, label %loop, label %exit",
        "exit:",
        *(
            f"  %s{i} = fadd {vector} %{'b0' if i == 1 else f's{i - 1}'}, %b{i}"
            for i in range(1, CHAINS)
        ),
        f"  store {vector} %s{CHAINS - 1}, ptr %data",
        "  ret void",
        "}",
    ]
    return "\n".join(lines)


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


def fma_peak() -> float:
    """Return the best GFLOP/s of one core over many short trials, 0.0 without an FMA."""
    lanes = vector_lanes()
    if lanes == 0:
        return 0.0
    call = load_function("peak", kernel_text(lanes), ctypes.c_void_p)
    # Zeroes, and large enough that the first multiple of 64 in it has room for a vector.
    data = (ctypes.c_float * 64)()
    address = -(-ctypes.addressof(data) // 64) * 64
    best = float("inf")
    for _ in range(TRIALS):
        start = time.perf_counter()
        call(address)
        best = min(best, time.perf_counter() - start)
    return 2.0 * lanes * CHAINS * STEPS / best / 1e9
