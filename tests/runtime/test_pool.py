"""The thread pool, called as compiled code with task bodies that are LLVM IR too."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from tfc.compiler.codegen.pool import POOL_LIBC_SYMBOLS, POOL_OFFSETS, pool_module

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pool is for linux")

DEADLINE = 20.0
LINUX = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
FLUSH_DENORMALS = {"x86_64": 0x8040, "aarch64": 1 << 24}

# Bodies. A loop that waits for another thread is bounded, so that a fault fails and does not hang.
BODIES = r"""
; closure: i64 counts, one for each index
define void @count(ptr %c, i64 %i, i64 %w) {
  %at = getelementptr i64, ptr %c, i64 %i
  %old = atomicrmw add ptr %at, i64 1 monotonic
  ret void
}

; closure: i64 sum
define void @sum(ptr %c, i64 %i, i64 %w) {
  %old = atomicrmw add ptr %c, i64 %i monotonic
  ret void
}

; closure: i64 clashes, then an i64 flag for each worker (16 at most), then 16 counts of tasks
define void @exclusive(ptr %c, i64 %i, i64 %w) {
entry:
  %valid = icmp ult i64 %w, 16
  br i1 %valid, label %take, label %clash
take:
  %slot = add i64 %w, 1
  %flag = getelementptr i64, ptr %c, i64 %slot
  %held = atomicrmw xchg ptr %flag, i64 1 acquire
  %free = icmp eq i64 %held, 0
  br i1 %free, label %work, label %clash
work:
  %k = phi i64 [ 0, %take ], [ %k1, %work ]
  %k1 = add i64 %k, 1
  %value = load volatile i64, ptr %flag
  %more = icmp ult i64 %k1, 500
  br i1 %more, label %work, label %give
give:
  %tally_slot = add i64 %w, 17
  %tally = getelementptr i64, ptr %c, i64 %tally_slot
  %old = atomicrmw add ptr %tally, i64 1 monotonic
  store atomic i64 0, ptr %flag release, align 8
  ret void
clash:
  %n = atomicrmw add ptr %c, i64 1 monotonic
  ret void
}

; closure: i64 arrived, i64 wanted, i64 given up
define void @meet(ptr %c, i64 %i, i64 %w) {
entry:
  %old = atomicrmw add ptr %c, i64 1 seq_cst
  %at_wanted = getelementptr i64, ptr %c, i64 1
  %wanted = load i64, ptr %at_wanted
  br label %wait
wait:
  %k = phi i64 [ 0, %entry ], [ %k1, %again ]
  %now = load atomic i64, ptr %c acquire, align 8
  %all = icmp uge i64 %now, %wanted
  br i1 %all, label %done, label %again
again:
  call void @t_relax()
  %k1 = add i64 %k, 1
  %late = icmp ugt i64 %k1, 200000000
  br i1 %late, label %fail, label %wait
fail:
  %at_failed = getelementptr i64, ptr %c, i64 2
  %n = atomicrmw add ptr %at_failed, i64 1 monotonic
  ret void
done:
  ret void
}

; closure: ptr pool, i64 arrived, i64 seen. Worker 0 leaves as soon as two have come, the other
; one only when worker 0 sleeps at the gate.
define void @outstay(ptr %c, i64 %i, i64 %w) {
entry:
  %pool = load ptr, ptr %c
  %gate = getelementptr i8, ptr %pool, i64 GATE_OFFSET
  %arrived = getelementptr i64, ptr %c, i64 1
  %old = atomicrmw add ptr %arrived, i64 1 seq_cst
  br label %wait
wait:
  %k = phi i64 [ 0, %entry ], [ %k1, %again ]
  %n = load atomic i64, ptr %arrived acquire, align 8
  %both = icmp eq i64 %n, 2
  %caller = icmp eq i64 %w, 0
  %value = load atomic i32, ptr %gate monotonic, align 4
  %bit = and i32 %value, 2
  %sleeps = icmp ne i32 %bit, 0
  %ready = select i1 %caller, i1 %both, i1 %sleeps
  br i1 %ready, label %done, label %again
again:
  call void @t_relax()
  %k1 = add i64 %k, 1
  %late = icmp ugt i64 %k1, 200000000
  br i1 %late, label %fail, label %wait
done:
  %seen = getelementptr i64, ptr %c, i64 2
  %add = select i1 %caller, i64 0, i64 1
  %m = atomicrmw add ptr %seen, i64 %add monotonic
  ret void
fail:
  ret void
}

; closure: ptr pool, i64 sum: each task is a parallel_for of ten
define void @nested(ptr %c, i64 %i, i64 %w) {
  %pool = load ptr, ptr %c
  %sum = getelementptr i64, ptr %c, i64 1
  %rc = call i32 @t_parallel_for(ptr %pool, ptr @sum, ptr %sum, i64 10)
  ret void
}

; closure: as of @meet, then a float for each index: half of the denormal number 2^-133
define void @denormal(ptr %c, i64 %i, i64 %w) {
  call void @meet(ptr %c, i64 %i, i64 %w)
  %cell = alloca float
  store volatile float 0x37A0000000000000, ptr %cell
  %x = load volatile float, ptr %cell
  %y = fmul float %x, 0.5
  %results = getelementptr i64, ptr %c, i64 3
  %at = getelementptr float, ptr %results, i64 %i
  store float %y, ptr %at
  ret void
}

define void @flushing(ptr %pool, ptr %body, ptr %closure, i64 %n, i64 %bits) {
  %saved = alloca i64
  %changed = alloca i64
  store i64 0, ptr %saved
  call void @t_read_control(ptr %saved)
  %old = load i64, ptr %saved
  %new = or i64 %old, %bits
  store i64 %new, ptr %changed
  call void @t_write_control(ptr %changed)
  %rc = call i32 @t_parallel_for(ptr %pool, ptr %body, ptr %closure, i64 %n)
  call void @t_write_control(ptr %saved)
  ret void
}

define void @repeat(ptr %pool, ptr %body, ptr %closure, i64 %n, i64 %times) {
entry:
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %k1, %loop ]
  %rc = call i32 @t_parallel_for(ptr %pool, ptr %body, ptr %closure, i64 %n)
  %k1 = add i64 %k, 1
  %more = icmp ult i64 %k1, %times
  br i1 %more, label %loop, label %done
done:
  ret void
}
""".replace("GATE_OFFSET", str(POOL_OFFSETS["GATE"]))

FUNCTIONS = ("t_pool_create", "t_pool_destroy", "t_pool_threads", "t_parallel_for", "repeat")
BODY_NAMES = ("count", "sum", "exclusive", "meet", "outstay", "nested", "denormal", "flushing")


@dataclass(frozen=True)
class Code:
    """The compiled pool and bodies."""

    library: llvm.ResourceTracker
    create: Callable[[int], int | None]
    destroy: Callable[[int | None], None]
    threads: Callable[[int], int]
    run: Callable[..., int]
    repeat: Callable[..., None]
    flushing: Callable[..., None]
    bodies: dict[str, int]


def load_code() -> Code:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_default_triple()
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=2, reloc="pic", jit=True)
    jit = llvm.create_lljit_compiler(machine, use_jit_link=True)
    builder = llvm.JITLibraryBuilder().add_ir(pool_module("t", triple) + BODIES)
    builder.add_current_process()
    for name in (*FUNCTIONS, *BODY_NAMES):
        builder.export_symbol(name)
    library = builder.link(jit, "pool")
    pointer, i64, i32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    call = [pointer, pointer, pointer, i64]
    return Code(
        library,
        ctypes.CFUNCTYPE(pointer, i32)(library["t_pool_create"]),
        ctypes.CFUNCTYPE(None, pointer)(library["t_pool_destroy"]),
        ctypes.CFUNCTYPE(i32, pointer)(library["t_pool_threads"]),
        ctypes.CFUNCTYPE(i32, *call)(library["t_parallel_for"]),
        ctypes.CFUNCTYPE(None, *call, i64)(library["repeat"]),
        ctypes.CFUNCTYPE(None, *call, i64)(library["flushing"]),
        {name: library[name] for name in BODY_NAMES},
    )


@pytest.fixture(scope="module")
def code() -> Code:
    return load_code()


@pytest.fixture
def pool(code: Code, request: pytest.FixtureRequest) -> Iterator[int]:
    """A pool of two threads, or of as many as the test's parameter says."""
    created = code.create(getattr(request, "param", 2))
    assert created is not None
    yield created
    code.destroy(created)


def word(pool: int, name: str) -> int:
    return ctypes.c_int32.from_address(pool + POOL_OFFSETS[name]).value


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "the awaited state did not come"
        os.sched_yield()


def wait_until_parked(pool: int, workers: int) -> None:
    wait_until(lambda: word(pool, "PARKED") == workers)


def cells(*values: int) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


@pytest.mark.parametrize("pool", [1, 2, 3, 8], indirect=True)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 64, 1000])
def test_every_index_runs_exactly_once(code: Code, pool: int, n: int) -> None:
    counts = cells(*[0] * (n + 1))
    for _ in range(50):
        assert code.run(pool, code.bodies["count"], counts, n) == 0
    assert list(counts) == [50] * n + [0]


@pytest.mark.parametrize("n", [-1, -(1 << 63)])
def test_negative_count_runs_nothing(code: Code, pool: int, n: int) -> None:
    counts = cells(0)
    assert code.run(pool, code.bodies["count"], counts, n) == 0
    assert list(counts) == [0]


@pytest.mark.parametrize("pool", [2, 4], indirect=True)
def test_worker_ids_are_in_range_and_never_shared_at_one_time(code: Code, pool: int) -> None:
    state = cells(*[0] * 33)
    code.repeat(pool, code.bodies["exclusive"], state, 16, 500)
    assert state[0] == 0
    assert sum(state[17:33]) == 16 * 500
    assert sum(state[17 + code.threads(pool) : 33]) == 0


def test_one_task_leaves_the_workers_alone(code: Code, pool: int) -> None:
    total = cells(0)
    code.repeat(pool, code.bodies["sum"], total, 1, 100)
    code.repeat(pool, code.bodies["sum"], total, 0, 100)
    assert word(pool, "GENERATION") == 0
    code.run(pool, code.bodies["sum"], total, 2)
    assert word(pool, "GENERATION") == 1


def test_pool_of_one_starts_no_thread(code: Code) -> None:
    before = len(os.listdir("/proc/self/task"))
    pool = code.create(1)
    assert pool is not None
    assert len(os.listdir("/proc/self/task")) == before
    assert code.threads(pool) == 1
    code.destroy(pool)


def test_null_pool_runs_in_the_caller(code: Code) -> None:
    counts = cells(0, 0, 0)
    assert code.run(None, code.bodies["count"], counts, 3) == 0
    assert list(counts) == [1, 1, 1]
    code.destroy(None)


@pytest.mark.parametrize("threads", [0, -1, -(1 << 31)])
def test_pool_without_threads_is_refused(code: Code, threads: int) -> None:
    assert code.create(threads) is None


@pytest.mark.parametrize("pool", [2, 4], indirect=True)
def test_parked_workers_are_woken_and_take_part(code: Code, pool: int) -> None:
    threads = code.threads(pool)
    for _ in range(20):
        wait_until_parked(pool, threads - 1)
        state = cells(0, threads, 0)
        code.run(pool, code.bodies["meet"], state, threads)
        assert list(state) == [threads, threads, 0]


def test_no_more_workers_are_woken_than_there_are_tasks(code: Code) -> None:
    before = set(os.listdir("/proc/self/task"))
    pool = code.create(6)
    assert pool is not None
    wait_until_parked(pool, 5)
    workers = set(os.listdir("/proc/self/task")) - before

    def times_parked() -> int:
        texts = [Path(f"/proc/self/task/{worker}/status").read_text() for worker in workers]
        return sum(int(re.findall(r"\nvoluntary_ctxt_switches:\s*(\d+)", t)[0]) for t in texts)

    first = times_parked()
    for _ in range(50):
        state = cells(0, 2, 0)
        code.run(pool, code.bodies["meet"], state, 2)
        assert state[2] == 0
        wait_until_parked(pool, 5)
    assert times_parked() - first < 2 * 50
    code.destroy(pool)


def test_caller_sleeps_until_the_last_worker_has_left(code: Code, pool: int) -> None:
    for _ in range(20):
        state = cells(pool, 0, 0)
        code.run(pool, code.bodies["outstay"], state, 2)
        assert list(state) == [pool, 2, 1]
        wait_until(lambda: word(pool, "GATE") == 0)


@pytest.mark.parametrize("pool", [4], indirect=True)
def test_more_threads_than_cores_finish_many_calls(code: Code, pool: int) -> None:
    total = cells(0)
    code.repeat(pool, code.bodies["sum"], total, 8, 20_000)
    assert total[0] == 28 * 20_000


@pytest.mark.parametrize("pool", [2, 3], indirect=True)
def test_concurrent_callers_all_get_their_own_result(code: Code, pool: int) -> None:
    totals = [cells(0) for _ in range(4)]
    callers = [
        threading.Thread(
            target=code.repeat, args=(pool, code.bodies["sum"], total, 20, 5000), daemon=True
        )
        for total in totals
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(DEADLINE)
        assert not caller.is_alive()
    assert [total[0] for total in totals] == [190 * 5000] * 4


def test_call_from_within_a_task_runs_inline(code: Code, pool: int) -> None:
    state = cells(pool, 0)
    code.repeat(pool, code.bodies["nested"], state, 8, 200)
    assert state[1] == 45 * 8 * 200


def test_workers_use_the_floating_point_mode_of_the_caller(code: Code, pool: int) -> None:
    bits = FLUSH_DENORMALS[llvm.get_default_triple().split("-")[0]]
    for flushed in (False, True, False):
        state = cells(0, 2, 0, -1)
        if flushed:
            code.flushing(pool, code.bodies["denormal"], state, 2, bits)
        else:
            code.run(pool, code.bodies["denormal"], state, 2)
        results = struct.unpack("<2I", bytes(state)[24:32])
        assert results == ((0, 0) if flushed else (32768, 32768))
        assert state[2] == 0


def test_workers_leave_signals_to_the_program_but_not_faults(code: Code) -> None:
    before = set(os.listdir("/proc/self/task"))
    pool = code.create(2)
    assert pool is not None
    wait_until_parked(pool, 1)
    (worker,) = set(os.listdir("/proc/self/task")) - before
    status = Path(f"/proc/self/task/{worker}/status").read_text()
    code.destroy(pool)
    blocked = int(re.findall(r"SigBlk:\s*(\w+)", status)[0], 16)
    assert blocked >> (2 - 1) & 1, "SIGINT"
    assert blocked >> (15 - 1) & 1, "SIGTERM"
    assert not blocked >> (11 - 1) & 1, "SIGSEGV"


def test_destroy_ends_parked_and_spinning_workers(code: Code) -> None:
    before = len(os.listdir("/proc/self/task"))
    for park in (False, True):
        pool = code.create(4)
        assert pool is not None
        if park:
            wait_until_parked(pool, 3)
        code.destroy(pool)
        wait_until(lambda: len(os.listdir("/proc/self/task")) == before)


def test_pools_made_and_destroyed_leave_no_memory_behind(code: Code) -> None:
    def use_pools(count: int) -> int:
        for _ in range(count):
            pool = code.create(2)
            assert pool is not None
            total = cells(0)
            code.run(pool, code.bodies["sum"], total, 5)
            assert total[0] == 10
            code.destroy(pool)
        return int(Path("/proc/self/statm").read_text().split()[0])

    # The first pools fill the C library's cache of stacks. A leak would be 1000 pages or more.
    before = use_pools(20)
    assert use_pools(1000) < before + 600


def _run_script(body: str) -> str:
    """Run code in a fresh process that has loaded this file as `t` and the compiled code as `c`."""
    script = f"""
import importlib.util, os, signal, sys, threading, time
spec = importlib.util.spec_from_file_location("t", {__file__!r})
t = importlib.util.module_from_spec(spec)
sys.modules["t"] = t
spec.loader.exec_module(t)
c = t.load_code()
{body}
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORK = """
def child_works(pool):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        total = t.cells(0)
        c.repeat(pool, c.bodies["sum"], total, 10, 100)
        alone = len(os.listdir("/proc/self/task")) == 1
        unchanged = t.word(pool, "GENERATION") == generation(pool)
        c.destroy(pool)
        os._exit(0 if total[0] == 4500 and alone and unchanged else 1)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("marked", [True, False], ids=["wiped-page", "getpid"])
def test_forked_child_runs_inline_and_the_parent_goes_on(marked: bool) -> None:
    forget = "" if marked else "ctypes.c_int64.from_address(pool + t.POOL_OFFSETS['LIVE']).value=0"
    _run_script(
        FORK
        + f"""
import ctypes
pool = c.create(2)
{forget}
assert bool(ctypes.c_int64.from_address(pool + t.POOL_OFFSETS['LIVE']).value) == {marked}
for _ in range(5):
    before = t.word(pool, "GENERATION")
    generation = lambda pool: before
    child_works(pool)
    state = t.cells(0, 2, 0)
    c.run(pool, c.bodies["meet"], state, 2)
    assert list(state) == [2, 2, 0]
c.destroy(pool)
"""
    )


def test_fork_while_the_pool_is_busy_leaves_a_child_that_works() -> None:
    _run_script(
        FORK
        + """
pool = c.create(2)
generation = lambda pool: t.word(pool, "GENERATION")
total, stop = t.cells(0), threading.Event()
def work():
    while not stop.is_set():
        c.repeat(pool, c.bodies["sum"], total, 4, 2000)
busy = threading.Thread(target=work)
busy.start()
t.wait_until(lambda: t.word(pool, "GENERATION") != 0)
for _ in range(25):
    child_works(pool)
stop.set()
busy.join()
c.destroy(pool)
"""
    )


@pytest.mark.parametrize("state", ["spinning", "parked"])
def test_process_ends_without_destroying_the_pool(state: str) -> None:
    wait = "t.wait_until_parked(pool, 2)" if state == "parked" else ""
    output = _run_script(
        f"""
pool = c.create(3)
total = t.cells(0)
c.run(pool, c.bodies["sum"], total, 5)
{wait}
print(total[0])
"""
    )
    assert output == "10\n"


def test_failure_to_start_a_thread_undoes_the_others() -> None:
    _run_script(
        """
import resource
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20), resource.RLIM_INFINITY))
before = len(os.listdir("/proc/self/task"))
assert c.create(4000) is None
t.wait_until(lambda: len(os.listdir("/proc/self/task")) == before)
pool = c.create(2)
state = t.cells(0, 2, 0)
c.run(pool, c.bodies["meet"], state, 2)
assert list(state) == [2, 2, 0]
c.destroy(pool)
"""
    )


@pytest.mark.parametrize("triple", LINUX)
def test_object_needs_only_the_listed_libc_symbols(triple: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(pool_module("net_v2", triple))
    machine = llvm.Target.from_triple(triple).create_target_machine(
        opt=2, reloc="pic", codemodel="small"
    )
    defined, undefined = _elf_globals(machine.emit_object(module))
    assert undefined == set(POOL_LIBC_SYMBOLS)
    suffixes = ("parallel_for", "pool_create", "pool_destroy", "pool_threads")
    assert defined == {f"net_v2_{suffix}" for suffix in suffixes}


@pytest.mark.parametrize("triple", ["x86_64-pc-windows-msvc", "riscv64-unknown-linux-gnu"])
def test_other_triples_are_refused(triple: str) -> None:
    with pytest.raises(ValueError, match=f"no thread pool for {triple}"):
        pool_module("t", triple)


def _elf_globals(data: bytes) -> tuple[set[str], set[str]]:
    """Read the names of the defined and of the undefined global symbols of an ELF64 object."""
    table = struct.unpack_from("<Q", data, 0x28)[0]
    entry, count = struct.unpack_from("<HH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry) for i in range(count)]
    symtab = next(header for header in headers if header[1] == 2)
    strings = headers[symtab[6]][4]
    names: tuple[set[str], set[str]] = (set(), set())
    for at in range(symtab[4], symtab[4] + symtab[5], 24):
        name_at, info, _, section = struct.unpack_from("<IBBH", data, at)
        if info >> 4 != 0:
            start = strings + name_at
            names[section == 0].add(data[start : data.index(b"\0", start)].decode())
    return names
