"""Vectors of kernels: memory access, masks, reductions and shuffles, run against numpy."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest

from tests.codegen.harness import TARGETS, Array, Kernel, all_targets, building, ramp
from tfc.compiler.target import parse_target
from tfc.ir.arrays import numpy_dtype
from tfc.ir.dims import symbol
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
    buffer,
)

N = symbol("N")


@all_targets
@pytest.mark.parametrize("dtype", [F32, F64, I8, I32, I64, BOOL], ids=str)
@pytest.mark.parametrize("lanes", [2, 4, 16])
def test_vector_access_along_every_kind_of_stride(dtype: DType, lanes: int, target: str) -> None:
    if dtype == BOOL:
        array = ramp(U8, lanes, 3, lanes) % 2 == 1
    else:
        array = ramp(dtype, lanes, 3, lanes)
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
    x[:] = ramp(I64, len(x)) % 2 if dtype == BOOL else ramp(dtype, len(x))
    spread[:] = ramp(I64, len(spread)) % 3 == 1 if dtype == BOOL else ramp(dtype, len(spread))
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
