"""Loops, branches, memory access and parallel regions of kernels, run against numpy."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest

from tests.codegen.harness import CONTEXT_BYTES, TARGETS, Array, Kernel, building
from tfc.compiler.codegen.emit import compile_kernel, emit_assembly, kernel_key
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.link.elf import ObjectFile
from tfc.compiler.target import parse_target
from tfc.ir.arrays import numpy_dtype
from tfc.ir.core import Block, Function
from tfc.ir.dims import evaluate, maximum, minimum, symbol
from tfc.ir.errors import CompileError
from tfc.ir.types import (
    BOOL,
    F32,
    F64,
    I8,
    I32,
    I64,
    U8,
    BufferType,
    DType,
    ScalarType,
    VectorType,
    buffer,
)

N, M, K = symbol("N"), symbol("M"), symbol("K")
all_targets = pytest.mark.parametrize("target", TARGETS)


def _range(dtype: DType, *shape: int) -> Array:
    count = int(np.prod(shape))
    return (
        (np.arange(count) % 97 - (0 if dtype.kind in "ub" else 40))
        .astype(numpy_dtype(dtype))
        .reshape(shape)
    )


# -- loops --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_loop_carries_values_and_runs_as_often_as_its_bounds_say(count: int) -> None:
    with building([buffer(I64, 2)], ["N"]) as (b, function):
        (out,) = function.args
        start = [b.const(0, I64), b.const(1, I64)]
        with b.for_(0, N, start) as loop:  # Fibonacci: both values change places
            loop.yields = [loop.carried[1], b.add(loop.carried[0], loop.carried[1])]
        for i, value in enumerate(loop.results):
            b.store(value, out, i)
    out = np.zeros(2, np.int64)
    Kernel(function, parse_target(TARGETS[0]))(out, count)
    x, y = 0, 1
    for _ in range(count):
        x, y = y, x + y
    assert out.tolist() == [x, y]


@pytest.mark.parametrize(
    ("lo", "hi", "step"), [(0, 0, 1), (3, 4, 1), (1, 10, 4), (5, 2, 1), (-4, 4, 3)]
)
def test_static_bounds_and_steps(lo: int, hi: int, step: int) -> None:
    with building([buffer(I64, 1)]) as (b, function):
        with b.for_(lo, hi, [b.const(0, I64)], step) as loop:
            ten = b.mul(loop.carried[0], b.const(10, I64))
            loop.yields = [b.add(ten, b.add(loop.index, b.const(5, I64)))]
        b.store(loop.results[0], function.args[0], 0)
    out = np.zeros(1, np.int64)
    Kernel(function, parse_target(TARGETS[0]))(out)
    expected = 0
    for i in range(lo, hi, step):
        expected = expected * 10 + i + 5
    assert out[0] == expected


def test_nested_loops_over_symbolic_strides() -> None:
    source = BufferType(F32, (N, M, K), (M * K * 2, K * 2, 2))
    with building([source, buffer(F32, K, N, M)], ["N", "M", "K"]) as (b, function):
        x, y = function.args
        with b.for_(0, N) as i, b.for_(0, M) as j, b.for_(0, K) as k:
            b.store(b.load(x, i.index, j.index, k.index), y, k.index, i.index, j.index)
    array = _range(F32, 3, 4, 5, 2)
    out = np.zeros((5, 3, 4), np.float32)
    Kernel(function, parse_target(TARGETS[0]))(array, out, 3, 4, 5)
    np.testing.assert_array_equal(out, array[..., 0].transpose(2, 0, 1))


def test_if_hands_out_values_and_nests() -> None:
    with building([buffer(I64, N)], ["N"]) as (b, function):
        (out,) = function.args
        with b.for_(0, N) as loop:
            small, big = Block(), Block()
            with b.at(small):
                b.emit("yield", [b.mul(loop.index, b.const(10, I64))])
            with b.at(big):
                inner = [Block(), Block()]
                for block, value in zip(inner, (-1, -2), strict=True):
                    with b.at(block):
                        b.emit("yield", [b.const(value, I64)])
                odd = b.eq(b.and_(loop.index, b.const(1, I64)), b.const(1, I64))
                b.emit("yield", b.branch(odd, *inner))
            (value,) = b.branch(b.lt(loop.index, b.const(3, I64)), small, big)
            b.store(value, out, loop.index)
    out = np.zeros(7, np.int64)
    Kernel(function, parse_target(TARGETS[0]))(out, 7)
    assert out.tolist() == [0, 10, 20, -1, -2, -1, -2]


def test_if_guards_a_store() -> None:
    with building([buffer(I64, 8), ScalarType(I64)]) as (b, function):
        out, limit = function.args
        with b.for_(0, 8) as loop, b.if_(b.lt(loop.index, limit)):
            b.store(b.const(1, I64), out, loop.index)
    out = np.zeros(8, np.int64)
    Kernel(function, parse_target(TARGETS[0]))(out, 3)
    assert out.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


DIMS = [
    N + 2 * M - 3,
    N * M - K * K,
    N // 3,
    (N - 10) // 4,
    (N - 10) // 7,
    (N - 10) % 4,
    (N - 10) % 7,
    N % M,
    N // M,
    maximum(N, M, 3),
    minimum(N - M, K),
]


@pytest.mark.parametrize("values", [(0, 1, 2), (7, 3, 5), (100, 9, 1)])
def test_dim_expressions(values: tuple[int, int, int]) -> None:
    with building([buffer(I64, len(DIMS))], ["N", "M", "K"]) as (b, function):
        for i, dim in enumerate(DIMS):
            b.store(b.index(dim), function.args[0], i)
    out = np.zeros(len(DIMS), np.int64)
    Kernel(function, parse_target(TARGETS[0]))(out, *values)
    env = dict(zip("NMK", values, strict=True))
    assert out.tolist() == [evaluate(dim, env) for dim in DIMS]


def test_dim_divided_by_a_symbol_that_is_zero_does_not_trap() -> None:
    with building([buffer(I64, 1)], ["N", "M"]) as (b, function):
        b.store(b.index(N // M), function.args[0], 0)
    Kernel(function, parse_target(TARGETS[0]))(np.zeros(1, np.int64), 4, 0)


def test_index_sums_wrap_like_64_bit_integers() -> None:
    with building([buffer(I64, 1), ScalarType(I64)]) as (b, function):
        out, x = function.args
        big = b.const(0x5851F42D4C957F2D, I64)
        b.store(b.add(b.mul(b.mul(x, big), big), b.sub(big, x)), out, 0)
    out = np.zeros(1, np.int64)
    Kernel(function, parse_target(TARGETS[0]))(out, 12345)
    big = 0x5851F42D4C957F2D
    expected = (12345 * big * big + big - 12345) % (1 << 64)
    assert int(out[0]) % (1 << 64) == expected


# -- vectors ------------------------------------------------------------------------------------


@all_targets
@pytest.mark.parametrize("dtype", [F32, F64, I8, I32, I64, BOOL], ids=str)
@pytest.mark.parametrize("lanes", [2, 4, 16])
def test_vector_access_along_every_kind_of_stride(dtype: DType, lanes: int, target: str) -> None:
    if dtype == BOOL:
        array = _range(U8, lanes, 3, lanes) % 2 == 1
    else:
        array = _range(dtype, lanes, 3, lanes)
    broadcast = BufferType(dtype, (lanes,), (0,))
    dynamic = BufferType(dtype, (lanes, 3, N), (3 * N, N, 1))
    out_type = buffer(dtype, 6, lanes)
    strided = BufferType(dtype, (lanes,), (2,))
    args = [buffer(dtype, lanes, 3, lanes), dynamic, broadcast, out_type, strided]
    with building(args, ["N"]) as (b, function):
        x, moving, same, out, stepped = function.args
        reads = [
            b.vload(x, [1, 2, 0], lanes),
            b.vload(x, [0, 1, 1], lanes, axis=0),
            b.vload(moving, [0, 1, 1], lanes, axis=0),
            b.vload(same, [0], lanes),
            b.gather(x, [b.iota(lanes), b.const(2, I64), b.iota(lanes)]),
            b.gather(moving, [b.iota(lanes), b.const(0, I64), b.const(1, I64)]),
        ]
        for i, value in enumerate(reads):
            b.vstore(value, out, [i, 0])
        b.vstore(reads[0], stepped, [0])
    out = np.zeros((6, lanes), array.dtype)
    steps = np.zeros(2 * lanes, array.dtype)
    Kernel(function, parse_target(target))(array, array, array[1, 1], out, steps, lanes)
    diagonal = np.arange(lanes)
    expected = [
        array[1, 2],
        array[:, 1, 1],
        array[:, 1, 1],
        np.full(lanes, array[1, 1, 0]),
        array[diagonal, 2, diagonal],
        array[:, 0, 1],
    ]
    for row, wanted in zip(out, expected, strict=True):
        np.testing.assert_array_equal(row, wanted)
    np.testing.assert_array_equal(steps[::2], array[1, 2])
    assert not steps[1::2].any()


class Guarded:
    """Memory whose end is followed by a page that must not be touched."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        self.map = mmap.mmap(-1, 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        libc = ctypes.CDLL(None, use_errno=True)
        protect = libc.mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        assert protect(start + page, page, 0) == 0
        self.bytes = (ctypes.c_char * size).from_address(start + page - size)

    def array(self, dtype: Any) -> Array:
        return np.frombuffer(self.bytes, dtype)


@all_targets
@pytest.mark.parametrize("dtype", [F32, F64, I8, I32, BOOL], ids=str)
@pytest.mark.parametrize("used", [0, 1, 5, 8])
def test_masked_lanes_touch_no_memory(dtype: DType, used: int, target: str) -> None:
    lanes = 8
    stride = 2
    wide = BufferType(dtype, (N,), (stride,))
    args = [buffer(dtype, N), buffer(dtype, N), wide, wide, buffer(dtype, 3, lanes)]
    with building(args, ["N"]) as (b, function):
        x, y, spread, spread_out, out = function.args
        mask = b.tail_mask(b.const(0, I64), b.index(N), lanes)
        contiguous = b.vload(x, [0], lanes, mask=mask)
        stepped = b.vload(spread, [0], lanes, mask=mask)
        gathered = b.gather(x, [b.iota(lanes)], mask)
        for row, value in enumerate((contiguous, stepped, gathered)):
            b.vstore(value, out, [row, 0])
        b.vstore(contiguous, y, [0], mask=mask)
        b.vstore(stepped, spread_out, [0], mask=mask)
        b.scatter(gathered, y, [b.iota(lanes)], mask)
    kind = numpy_dtype(dtype)
    memory = [Guarded(max(used, 1) * kind.itemsize * step) for step in (1, 1, stride, stride)]
    x, y, spread, spread_out = (block.array(kind) for block in memory)
    if not used:  # an address that nothing may be read from
        x, y, spread, spread_out = (array[len(array) :] for array in (x, y, spread, spread_out))
    x[:] = _range(I64, len(x)) % 2 if dtype == BOOL else _range(dtype, len(x))
    spread[:] = _range(I64, len(spread)) % 3 == 1 if dtype == BOOL else _range(dtype, len(spread))
    out = np.ones((3, lanes), kind)
    Kernel(function, parse_target(target))(x, y, spread, spread_out, out, used)
    wanted = np.zeros((3, lanes), kind)
    wanted[0, :used] = wanted[2, :used] = x
    wanted[1, :used] = spread[::stride]
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(spread_out[::stride], spread[::stride])
    assert not spread_out[1::stride].any()


@all_targets
@pytest.mark.parametrize("lanes", [2, 8, 16, 64, 128])
def test_tail_mask_has_as_many_lanes_as_are_left(lanes: int, target: str) -> None:
    with building([buffer(BOOL, lanes), ScalarType(I64), ScalarType(I64)]) as (b, function):
        out, start, end = function.args
        b.vstore(b.tail_mask(start, end, lanes), out, [0])
    kernel = Kernel(function, parse_target(target))
    for left in (-(2**40) - 1, -1, 0, 1, lanes - 1, lanes, lanes + 1, 256, 2**32 + 1, 2**40):
        out = np.zeros(lanes, bool)
        kernel(out, 5, 5 + left)
        np.testing.assert_array_equal(out, np.arange(lanes) < left)


@all_targets
@pytest.mark.parametrize("lanes", [2, 7, 16])
@pytest.mark.parametrize("dtype", [F32, F64, I8, I64, U8], ids=str)
def test_reduce_combines_all_lanes(dtype: DType, lanes: int, target: str) -> None:
    kinds = ["add", "mul", "min", "max", *(() if dtype.is_float else ("and", "or"))]
    with building([buffer(dtype, lanes), buffer(dtype, len(kinds))]) as (b, function):
        x, out = function.args
        value = b.vload(x, [0], lanes)
        for i, kind in enumerate(kinds):
            b.store(b.reduce(kind, value), out, i)
    array = (np.arange(lanes) % 3 + 1).astype(numpy_dtype(dtype))
    out = np.zeros(len(kinds), array.dtype)
    Kernel(function, parse_target(target))(array, out)
    fns: dict[str, Any] = {
        "add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum,
        "and": np.bitwise_and, "or": np.bitwise_or,
    }  # fmt: skip
    with np.errstate(over="ignore"):
        assert out.tolist() == [fns[kind].reduce(array, dtype=array.dtype) for kind in kinds]


@all_targets
def test_reduce_of_bools_and_of_nan(target: str) -> None:
    args = [buffer(BOOL, 8), buffer(BOOL, 4), buffer(F32, 8), buffer(F32, 2)]
    with building(args) as (b, function):
        x, out, y, extremes = function.args
        value = b.vload(x, [0], 8)
        for i, kind in enumerate(("and", "or", "min", "max")):
            b.store(b.reduce(kind, value), out, i)
        numbers = b.vload(y, [0], 8)
        for i, kind in enumerate(("min", "max")):
            b.store(b.reduce(kind, numbers), extremes, i)
    kernel = Kernel(function, parse_target(target))
    for position in range(8):
        bools = np.arange(8) != position
        numbers = np.where(bools, np.arange(8), np.nan).astype(np.float32)
        out, extremes = np.zeros(4, bool), np.zeros(2, np.float32)
        kernel(bools, out, numbers, extremes)
        assert out.tolist() == [False, True, False, True]
        assert np.isnan(extremes).all()


def test_float_sum_is_a_tree_of_halves() -> None:
    with building([buffer(F32, 8), buffer(F32, 1)]) as (b, function):
        x, out = function.args
        b.store(b.reduce("add", b.vload(x, [0], 8)), out, 0)
    array = np.random.default_rng(3).standard_normal(8).astype(np.float32) * 1e3
    out = np.zeros(1, np.float32)
    Kernel(function, parse_target(TARGETS[-1]))(array, out)
    tree = array
    while len(tree) > 1:
        tree = tree[: len(tree) // 2] + tree[len(tree) // 2 :]
    assert out[0] == tree[0]


def test_shuffle_insert_extract_and_select_by_a_scalar() -> None:
    with building([buffer(I32, 4), buffer(I32, 3, 4)]) as (b, function):
        x, out = function.args
        value = b.vload(x, [0], 4)
        b.vstore(b.shuffle(value, b.iota(4, I32), [3, 4, 0, 7]), out, [0, 0])
        b.vstore(b.insert(b.extract(value, 2), value, 0), out, [1, 0])
        positive = b.gt(b.load(x, 0), b.const(0, I32))
        b.vstore(b.select(positive, value, b.neg(value)), out, [2, 0])
    out = np.zeros((3, 4), np.int32)
    Kernel(function, parse_target(TARGETS[-1]))(np.array([-5, 6, 7, 8], np.int32), out)
    assert out.tolist() == [[8, 0, -5, 3], [7, 6, 7, 8], [5, -6, -7, -8]]


def test_tables_stack_buffers_and_views() -> None:
    with building([buffer(U8, 64), buffer(F32, 8)], ["N"]) as (b, function):
        memory, out = function.args
        table = b.table([0.5, 1.5, 2.5, 3.5], F32)
        stack = b.alloca(buffer(F32, 8))
        floats = b.view(memory, b.index(4 * N), buffer(F32, 8))
        later = b.view(floats, 1, buffer(F32, 4))
        with b.for_(0, 4) as loop:
            b.store(b.load(table, loop.index), stack, loop.index)
            b.store(b.load(later, loop.index), stack, b.add(loop.index, b.const(4, I64)))
        b.vstore(b.vload(stack, [0], 8), out, [0])
    memory = np.arange(16, dtype=np.float32)
    out = np.zeros(8, np.float32)
    Kernel(function, parse_target(TARGETS[-1]))(memory, out, 2)
    assert out.tolist() == [0.5, 1.5, 2.5, 3.5, 3.0, 4.0, 5.0, 6.0]


def test_prefetch_and_scalar_arguments() -> None:
    with building([buffer(F32, 4), ScalarType(F32), ScalarType(I64)]) as (b, function):
        out, scale, at = function.args
        b.prefetch(out, at)
        b.store(scale, out, at)
    out = np.zeros(4, np.float32)
    Kernel(function, parse_target(TARGETS[-1]))(out, 2.5, 3)
    assert out.tolist() == [0, 0, 0, 2.5]


# -- parallel -----------------------------------------------------------------------------------

Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
ParallelFor = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
)


def make_context(parallel_for: Any = None, threads: int = 1) -> Any:
    context = (ctypes.c_char * CONTEXT_BYTES)()
    ctypes.c_int32.from_buffer(context, 16).value = threads
    if parallel_for is not None:
        ctypes.c_void_p.from_buffer(context, 24).value = ctypes.cast(
            parallel_for, ctypes.c_void_p
        ).value
        ctypes.c_void_p.from_buffer(context, 32).value = 1234
    return context


def parallel_kernel() -> Function:
    """Scale rows of x by the row's number + 1, using a captured loop value, and note the worker."""
    args = [buffer(F32, N, M), buffer(F32, N, M), buffer(I64, N), ScalarType(BOOL), ScalarType(F32)]
    with building(args, ["N", "M"]) as (b, function):
        x, y, workers, when, scale = function.args
        twice = b.mul(scale, b.const(2.0, F32))
        with b.for_(0, 2) as outer, b.parallel(N, when) as (row, worker):
            b.store(worker, workers, row)
            factor = b.add(b.cast(row, F32), b.cast(outer.index, F32))
            with b.for_(0, M) as column:
                value = b.mul(b.load(x, row, column.index), b.mul(factor, twice))
                b.store(value, y, row, column.index)
    return function


@pytest.fixture(scope="module")
def rows() -> Kernel:
    return Kernel(parallel_kernel(), parse_target(TARGETS[-1]))


def call_rows(kernel: Kernel, context: Any, when: int, rows: int = 5) -> list[int]:
    x = _range(F32, rows, 3)
    y = np.zeros_like(x)
    workers = np.full(rows, -1, np.int64)
    kernel(x, y, workers, when, 1.5, rows, 3, context=context)
    np.testing.assert_array_equal(y, x * (np.arange(rows)[:, None] + 1) * np.float32(3))
    return [int(worker) for worker in workers]


def recording(calls: list[tuple[int, int]], answer: int = 0) -> Any:
    def parallel_for(user: int, body: int, closure: int, count: int) -> int:
        calls.append((user, count))
        if answer == 0:
            for index in reversed(range(count)):
                Body(body)(closure, index, index % 2)
        return answer

    return ParallelFor(parallel_for)


def test_parallel_without_a_pool_is_a_loop_of_worker_0(rows: Kernel) -> None:
    assert call_rows(rows, make_context(threads=4), 1) == [0] * 5


def test_parallel_calls_the_pool_with_user_and_count(rows: Kernel) -> None:
    calls: list[tuple[int, int]] = []
    assert call_rows(rows, make_context(recording(calls), 2), 1) == [0, 1, 0, 1, 0]
    assert calls == [(1234, 5), (1234, 5)]


def test_parallel_stays_here_when_told_so_and_for_one_task(rows: Kernel) -> None:
    calls: list[tuple[int, int]] = []
    context = make_context(recording(calls), 2)
    assert call_rows(rows, context, 0) == [0] * 5
    assert call_rows(rows, context, 1, rows=1) == [0]
    assert call_rows(rows, context, 1, rows=0) == []
    assert calls == []


def test_parallel_runs_here_when_the_pool_refuses(rows: Kernel) -> None:
    calls: list[tuple[int, int]] = []
    assert call_rows(rows, make_context(recording(calls, answer=7), 2), 1) == [0] * 5
    assert len(calls) == 2


def test_threads_symbol_is_the_number_of_workers_and_1_without_a_pool() -> None:
    with building([buffer(I64, 1)]) as (b, function):
        b.store(b.index(symbol("threads") * 10), function.args[0], 0)
    kernel = Kernel(function, parse_target(TARGETS[0]))
    pool = recording([])
    for context, expected in (
        (make_context(pool, 3), 30),
        (make_context(pool, 0), 10),
        (make_context(None, 3), 10),
    ):
        out = np.zeros(1, np.int64)
        kernel(out, context=context)
        assert out[0] == expected


def test_a_parallel_loop_inside_another_keeps_the_worker() -> None:
    with building([buffer(I64, 4, 2)]) as (b, function):
        (out,) = function.args
        with b.parallel(4) as (i, _), b.parallel(2) as (j, worker):
            b.store(worker, out, i, j)
    calls: list[tuple[int, int]] = []
    out = np.full((4, 2), -1, np.int64)
    Kernel(function, parse_target(TARGETS[0]))(out, context=make_context(recording(calls), 2))
    assert out.tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert calls == [(1234, 4)]


def test_a_parallel_body_captures_vectors_masks_and_stack_buffers() -> None:
    with building([buffer(F32, 8), buffer(F32, 4, 8)]) as (b, function):
        x, out = function.args
        value = b.vload(x, [0], 8)
        mask = b.gt(value, b.const(0.0, value))
        stack = b.alloca(buffer(F32, 8))
        b.vstore(b.neg(value), stack, [0])
        with b.parallel(4) as (i, _):
            own = b.alloca(buffer(F32, 8))
            b.vstore(b.splat(b.cast(i, F32), 8), own, [0])
            chosen = b.select(mask, value, b.vload(stack, [0], 8))
            b.vstore(b.add(chosen, b.vload(own, [0], 8)), out, [i, 0])
    array = np.array([1, -2, 3, -4, 5, -6, 7, -8], np.float32)
    out = np.zeros((4, 8), np.float32)
    Kernel(function, parse_target(TARGETS[-1]))(array, out, context=make_context(recording([]), 2))
    np.testing.assert_array_equal(out, np.abs(array) + np.arange(4, dtype=np.float32)[:, None])


# -- the text -----------------------------------------------------------------------------------


def matmul(rows: int, vectors: int, lanes: int) -> Function:
    """A register-blocked matmul over a packed right side, all extents symbolic."""
    panels, width = symbol("P"), vectors * lanes
    args = [buffer(F32, M, K), buffer(F32, panels, K, width), buffer(F32, M, panels * width)]
    with building(args, ["M", "P", "K"], "matmul") as (b, function):
        x, packed, y = function.args
        zero = b.const(0.0, VectorType(F32, lanes))
        with b.for_(0, panels) as p, b.for_(0, M, step=rows) as i:
            with b.for_(0, K, [zero] * (rows * vectors)) as k:
                right = [
                    b.vload(packed, [p.index, k.index, j * lanes], lanes) for j in range(vectors)
                ]
                sums = []
                for r in range(rows):
                    left = b.load(x, b.add(i.index, b.const(r, I64)), k.index)
                    sums += [
                        b.fma(b.splat(left, lanes), right[j], k.carried[r * vectors + j])
                        for j in range(vectors)
                    ]
                k.yields = sums
            for n, value in enumerate(k.results):
                r, j = divmod(n, vectors)
                column = b.add(b.mul(p.index, b.const(width, I64)), b.const(j * lanes, I64))
                b.vstore(value, y, [b.add(i.index, b.const(r, I64)), column])
    return function


@pytest.mark.parametrize(("target", "rows", "vectors"), [("avx2", 6, 2), ("avx512", 14, 2)])
def test_matmul_is_right_and_its_inner_loop_computes_no_address(
    target: str, rows: int, vectors: int
) -> None:
    goal = parse_target(target)
    lanes = goal.lanes(F32)
    function = matmul(rows, vectors, lanes)
    text = kernel_text(function, goal)
    inner = max(text.split("\nloop")[1:], key=lambda part: part.count("@llvm.fma"))
    inner = inner[: inner.index("br i1")]
    # The row of the packed side; everything else is a pointer from outside plus k.
    assert inner.count(" mul ") == 1
    assert inner.count("@llvm.fma") == rows * vectors
    assembly = emit_assembly(text, goal)
    stores = [line for line in assembly.splitlines() if "vmovup" in line and "(%rsp)" in line]
    assert stores == []  # no accumulator lives on the stack
    if target not in TARGETS:
        return
    rng = np.random.default_rng(5)
    m, k, panels, width = rows * 2, 33, 2, vectors * lanes
    x = rng.standard_normal((m, k)).astype(np.float32)
    packed = rng.standard_normal((panels, k, width)).astype(np.float32)
    y = np.zeros((m, panels * width), np.float32)
    Kernel(function, goal)(x, packed, y, m, panels, k)
    right = packed.transpose(1, 0, 2).reshape(k, -1)
    np.testing.assert_allclose(y, x.astype(np.float64) @ right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["x86-64", "avx2", "avx512", "aarch64"])
def test_a_kernel_needs_no_other_symbol(target: str) -> None:
    """Rounding, remainders, conversions and powers of two at all widths, without a library."""
    goal = parse_target(target)
    with building([buffer(F32, 32), buffer(F64, 32), buffer(I64, 32)], name="lonely") as (b, f):
        singles, doubles, integers = f.args
        for lanes in (4, 16):
            x, y = b.vload(singles, [0], lanes), b.vload(doubles, [0], lanes)
            for value, buf in ((x, singles), (y, doubles)):
                total = b.add(b.floor(value), b.round(value))
                total = b.add(total, b.fma(b.ceil(value), b.trunc(value), b.sqrt(value)))
                total = b.max(b.rem(total, value), b.abs(value))
                b.vstore(total, buf, [0])
            n = b.vload(integers, [0], lanes)
            whole = b.add(b.div(n, b.cast(y, I64)), b.mulhi(n, b.cast(x, I64)))
            b.vstore(whole, integers, [0])
    object = ObjectFile.parse(compile_kernel(f, goal))
    undefined = [s.name for s in object.symbols if s.shndx == 0 and s.name]
    assert undefined == []


def test_math_ops_are_refused() -> None:
    with building([buffer(F32, 1)]) as (b, function):
        b.store(b.exp(b.load(function.args[0], 0)), function.args[0], 0)
    with pytest.raises(CompileError, match="loop op exp has to be expanded"):
        kernel_text(function, parse_target("avx2"))


def test_the_same_kernel_has_the_same_text_and_key() -> None:
    goal = parse_target("avx2")
    first, second = (matmul(6, 2, 8) for _ in range(2))
    assert kernel_text(first, goal) == kernel_text(second, goal)
    assert kernel_key(first, goal) == kernel_key(second, goal)
    assert compile_kernel(first, goal) == compile_kernel(second, goal)
    others = [
        kernel_key(matmul(4, 2, 8), goal),
        kernel_key(first, parse_target("avx2,-f16c")),
        kernel_key(first, goal, opt=0),
    ]
    assert len({kernel_key(first, goal), *others}) == 4


@pytest.mark.parametrize("name", ["min", "max"])
def test_an_extreme_with_a_constant_is_one_instruction(name: str) -> None:
    with building([buffer(F32, 8), buffer(F32, 8)]) as (b, function):
        x, y = function.args
        value = b.vload(x, [0], 8)
        b.vstore(b.apply(name, value, b.const(0.5, value)), y, [0])
    goal = parse_target("avx2")
    lines = emit_assembly(kernel_text(function, goal), goal).splitlines()
    vector = [line.split()[0] for line in lines if line.startswith("\tv")]
    assert [line for line in vector if line not in ("vbroadcastss", "vmovups", "vzeroupper")] == [
        f"v{name}ps"
    ]
