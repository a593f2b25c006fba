"""Parallel regions of kernels: tasks, workers and pools."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from tests.codegen.harness import CONTEXT_BYTES, TARGETS, Kernel, building, ramp
from tfc.compiler.target import parse_target
from tfc.ir.core import Function
from tfc.ir.dims import symbol
from tfc.ir.types import (
    BOOL,
    F32,
    I64,
    ScalarType,
    buffer,
)

N, M = symbol("N"), symbol("M")


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
    x = ramp(F32, rows, 3)
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
