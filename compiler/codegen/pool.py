"""The thread pool that tfc links into artifacts and loads into its own process: where its words
lie, and what differs between machines. The code is in `pool_text`.

It is not a scheduler: a kernel has already been cut into `n` tasks when it gets here.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Template

from tfc.compiler.codegen.pool_text import TEXT

POOL_LIBC_SYMBOLS = ("getpid", "mmap", "munmap", "pthread_create", "pthread_join", "syscall")

SPIN_NANOSECONDS = 50_000
"""How long a thread spins before it parks.

A parked worker took 16 to 26 us (medians) from the call to its first task on a virtual machine
with two cores, a spinning one 0.5. A spin of about that length costs at most about twice what the
better choice would have, and 50 us also bridges the short serial parts between two kernels."""

_LINE = 128
"""Distance between words written by different threads: the prefetcher of x86 fetches lines of 64
bytes in pairs, and some aarch64 cores have lines of 128."""

_CALIBRATION_ROUNDS = 512

# The job (body, closure, n, floating point control, ranges) lies beside the gate: a worker that
# passes the gate owns that line and finds the rest in it.
POOL_OFFSETS = {
    "THREADS": 0,
    "PID": 4,
    "SPINS": 8,
    "STARTED": 12,
    "BYTES": 16,
    "LIVE": 24,
    "LOCK": _LINE,
    "PARKED": 2 * _LINE,
    "GENERATION": 3 * _LINE,
    "STOP": 3 * _LINE + 4,
    "GATE": 4 * _LINE,
    "BODY": 4 * _LINE + 8,
    "CLOSURE": 4 * _LINE + 16,
    "COUNT": 4 * _LINE + 24,
    "CONTROL": 4 * _LINE + 32,
    "RANGES": 4 * _LINE + 40,
    "SLOTS": 5 * _LINE,
}
"""Where the words of a pool lie; public for tests and debuggers only."""

# Of a slot: pool, worker number and pthread_t, then the next task of the worker's range.
_SLOT_BYTES, _NEXT = _LINE, 64


@dataclass(frozen=True)
class _Machine:
    """What differs between the machines: system call numbers, the spin hint, the floating point
    control register (rounding and flushing of denormals)."""

    futex: int
    madvise: int
    clock_gettime: int
    rt_sigprocmask: int
    declarations: str
    relax: str
    read_control: str
    write_control: str


_X86_64 = _Machine(
    futex=202,
    madvise=28,
    clock_gettime=228,
    rt_sigprocmask=14,
    declarations="""\
declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)""",
    relax="call void @llvm.x86.sse2.pause()",
    read_control="call void @llvm.x86.sse.stmxcsr(ptr %at)",
    write_control="call void @llvm.x86.sse.ldmxcsr(ptr %at)",
)

# `isb` and not `yield`: the latter is a no-op on most cores and would make the spin a flood of
# loads.
_AARCH64 = _Machine(
    futex=98,
    madvise=233,
    clock_gettime=113,
    rt_sigprocmask=135,
    declarations="""\
declare void @llvm.aarch64.isb(i32)
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)""",
    relax="call void @llvm.aarch64.isb(i32 15)",
    read_control="%fpcr = call i64 @llvm.aarch64.get.fpcr()\n  store i64 %fpcr, ptr %at",
    write_control="%fpcr = load i64, ptr %at\n  call void @llvm.aarch64.set.fpcr(i64 %fpcr)",
)

# SIG_BLOCK for all signals but the synchronous ones (ILL 4, TRAP 5, ABRT 6, BUS 7, FPE 8, SEGV 11),
# which must still reach the handlers of a crash reporter.
_BLOCKED_SIGNALS = ~sum(1 << (signal - 1) for signal in (4, 5, 6, 7, 8, 11))


def pool_module(prefix: str, triple: str) -> str:
    """Return the pool as LLVM IR for a linux triple; every global name begins with `prefix`."""
    machine = _machine(triple)
    return Template(TEXT).substitute(
        POOL_OFFSETS,
        P=prefix,
        TRIPLE=triple,
        SLOT_BYTES=_SLOT_BYTES,
        NEXT=_NEXT,
        SPIN_NANOSECONDS=SPIN_NANOSECONDS,
        SPIN_BUDGET=SPIN_NANOSECONDS * _CALIBRATION_ROUNDS,
        CALIBRATION_ROUNDS=_CALIBRATION_ROUNDS,
        BLOCKED_SIGNALS=_BLOCKED_SIGNALS,
        FUTEX=machine.futex,
        MADVISE=machine.madvise,
        CLOCK_GETTIME=machine.clock_gettime,
        RT_SIGPROCMASK=machine.rt_sigprocmask,
        MACHINE_DECLARATIONS=machine.declarations,
        RELAX=machine.relax,
        READ_CONTROL=machine.read_control,
        WRITE_CONTROL=machine.write_control,
    )


def _machine(triple: str) -> _Machine:
    parts = triple.split("-")
    if "linux" in parts[1:]:
        match parts[0]:
            case "x86_64":
                return _X86_64
            case "aarch64":
                return _AARCH64
    raise ValueError(f"no thread pool for {triple}: only x86_64 and aarch64 linux have one")
