"""A hand-written artifact: the C ABI in LLVM IR for y = 2 * x, and z = rows of x as numbers.

Lets the loader and the executable be tested without any of the compiler's levels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from tfc.compiler.codegen.pool import POOL_LIBC_SYMBOLS, pool_module
from tfc.compiler.codegen.pycall import PYTHON_ENTRIES, pycall_module
from tfc.compiler.link.files import write_atomically
from tfc.compiler.link.shared import write_shared
from tfc.runtime.pylayout import PYCALL_VERSION

TRIPLE = "x86_64-unknown-linux-gnu"

# x: f32[N, 3]; y: f32[N, 3]; rows: i64[]. N is 1 to 1000. The workspace is 8 * N bytes, and y is
# written by way of it. The workspace must be aligned to 64. Code 77 where x holds -1.
_BODY = """
target triple = "TRIPLE"
%tensor = type { ptr, i64, [8 x i64] }
%ctx = type { ptr, i64, i32, i32, ptr, ptr, ptr, ptr }

define i64 @twice_workspace_size(ptr %symbols, i32 %threads) {
  %n = load i64, ptr %symbols
  %size = mul i64 %n, 8
  ret i64 %size
}

define i32 @twice_shapes(ptr %in, ptr %out, ptr %symbols) {
entry:
  %pn = getelementptr %tensor, ptr %in, i64 0, i32 2, i64 0
  %n = load i64, ptr %pn
  %pc = getelementptr %tensor, ptr %in, i64 0, i32 2, i64 1
  %c = load i64, ptr %pc
  %three = icmp eq i64 %c, 3
  br i1 %three, label %fits, label %unfit
unfit:
  ret i32 1
fits:
  store i64 %n, ptr %symbols
  %low = icmp slt i64 %n, 1
  %high = icmp sgt i64 %n, 1000
  %off = or i1 %low, %high
  br i1 %off, label %unbound, label %good
unbound:
  ret i32 6
good:
  %y0 = getelementptr %tensor, ptr %out, i64 0, i32 2, i64 0
  store i64 %n, ptr %y0
  %y1 = getelementptr %tensor, ptr %out, i64 0, i32 2, i64 1
  store i64 3, ptr %y1
  %need = mul i64 %n, 12
  %cap = getelementptr %tensor, ptr %out, i64 0, i32 1
  store i64 %need, ptr %cap
  %cap1 = getelementptr %tensor, ptr %out, i64 1, i32 1
  store i64 8, ptr %cap1
  ret i32 0
}

define internal void @row(ptr %closure, i64 %i, i64 %worker) {
entry:
  %px = load ptr, ptr %closure
  %at_y = getelementptr ptr, ptr %closure, i64 1
  %py = load ptr, ptr %at_y
  %first = mul i64 %i, 3
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %k1, %loop ]
  %j = add i64 %first, %k
  %p = getelementptr float, ptr %px, i64 %j
  %v = load float, ptr %p
  %w = fadd float %v, %v
  %q = getelementptr float, ptr %py, i64 %j
  store float %w, ptr %q
  %k1 = add i64 %k, 1
  %more = icmp slt i64 %k1, 3
  br i1 %more, label %loop, label %done
done:
  ret void
}

define i32 @twice_run(ptr %ctx, ptr %in, ptr %out) {
entry:
  %pn = getelementptr %tensor, ptr %in, i64 0, i32 2, i64 0
  %n = load i64, ptr %pn
  %pcap = getelementptr %tensor, ptr %out, i64 0, i32 1
  %cap = load i64, ptr %pcap
  %need = mul i64 %n, 12
  %small = icmp slt i64 %cap, %need
  br i1 %small, label %capacity, label %space
capacity:
  ret i32 2
space:
  %ws = load ptr, ptr %ctx
  %pwb = getelementptr %ctx, ptr %ctx, i64 0, i32 1
  %wb = load i64, ptr %pwb
  %wneed = mul i64 %n, 8
  %wsmall = icmp slt i64 %wb, %wneed
  %wsint = ptrtoint ptr %ws to i64
  %odd = and i64 %wsint, 63
  %unaligned = icmp ne i64 %odd, 0
  %wbad = or i1 %wsmall, %unaligned
  br i1 %wbad, label %noroom, label %check
noroom:
  ret i32 3
check:
  store i64 %n, ptr %ws
  %x = load ptr, ptr %in
  %x0 = load float, ptr %x
  %bad = fcmp oeq float %x0, -1.0
  br i1 %bad, label %failed, label %go
failed:
  ret i32 77
go:
  %out1 = getelementptr %tensor, ptr %out, i64 1
  %rows = load ptr, ptr %out1
  store i64 %n, ptr %rows
  %closure = alloca [2 x ptr]
  store ptr %x, ptr %closure
  %y = load ptr, ptr %out
  %at_y = getelementptr ptr, ptr %closure, i64 1
  store ptr %y, ptr %at_y
  %ppf = getelementptr %ctx, ptr %ctx, i64 0, i32 4
  %pf = load ptr, ptr %ppf
  %none = icmp eq ptr %pf, null
  br i1 %none, label %loop, label %pool
pool:
  %puser = getelementptr %ctx, ptr %ctx, i64 0, i32 5
  %user = load ptr, ptr %puser
  %rc = call i32 %pf(ptr %user, ptr @row, ptr %closure, i64 %n)
  ret i32 %rc
loop:
  %i = phi i64 [ 0, %go ], [ %i1, %loop ]
  call void @row(ptr %closure, i64 %i, i64 0)
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %loop, label %done
done:
  ret i32 0
}
"""
_EXPORTS = ("twice_run", "twice_shapes", "twice_workspace_size")
_POOL_EXPORTS = ("twice_pool_create", "twice_pool_destroy", "twice_parallel_for")


_PYTHON_EXPORTS = tuple(f"twice_{name}" for name in PYTHON_ENTRIES)


def manifest(threads: bool = False, **changes: Any) -> dict[str, Any]:
    return {
        "format_version": 1,
        "pycall_version": PYCALL_VERSION,
        "name": "twice",
        "prefix": "twice",
        "threads": threads,
        "symbols": [{"name": "N", "lo": 1, "hi": 1000}],
        "inputs": [{"name": "x", "dtype": "f32", "shape": ["N", 3]}],
        "outputs": [
            {"name": "y", "dtype": "f32", "shape": ["N", 3]},
            {"name": "rows", "dtype": "i64", "shape": []},
        ],
        "isa": {"arch": "x86_64", "features": ["sse2"]},
        "messages": {"77": "x holds -1"},
        "memory": {"constants": 0, "code": 1},
        **changes,
    }


def write(path: Path, threads: bool = False, python: bool = True, **changes: Any) -> Path:
    """Write the artifact, or one without the functions for Python; `changes`: of the manifest."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(reloc="pic", codemodel="small")
    texts = [_BODY.replace("TRIPLE", TRIPLE)] + [pool_module("twice", TRIPLE)] * threads
    texts += [pycall_module("twice", TRIPLE)] * python
    objects = [machine.emit_object(llvm.parse_assembly(text)) for text in texts]
    facts = json.dumps(manifest(threads, **changes)).encode()
    write_atomically(
        path,
        lambda out: write_shared(
            out,
            objects,
            exports=_EXPORTS + _POOL_EXPORTS * threads + _PYTHON_EXPORTS * python,
            manifest=facts,
            libc=POOL_LIBC_SYMBOLS if threads else (),
        ),
    )
    return path
