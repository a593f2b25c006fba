"""The loop interpreter: exact scalars, checked accesses, masks, control, programs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.ir.support import kernel, loop
from tfc.ir import arrays
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function
from tfc.ir.errors import UsageError, VerifyError
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.interp import run_kernel, run_program
from tfc.ir.types import (
    BF16,
    BOOL,
    F16,
    F32,
    F64,
    I8,
    I32,
    I64,
    U8,
    U16,
    U64,
    BufferType,
    DType,
    buffer,
)  # fmt: skip

ZERO = "%0 = const() {value = 0, dtype = i64} : i64\n"


def scalar(name: str, dtype: DType, *args: Any, to: DType | None = None, lanes: int = 0) -> Any:
    """Run one scalar op in a kernel, as a scalar or splat over lanes, and return the result."""
    block = Block()
    b = LoopBuilder(block)
    values = [b.const(arg, dtype) for arg in args]
    result = b.apply(name, *(b.splat(value, lanes) for value in values), dtype=to)
    out = b.dtype_of(result)
    pointer = block.add_arg(buffer(out, max(lanes, 1)), "y")
    zero = b.index(0)
    if lanes:
        b.vstore(result, pointer, (zero,))
    else:
        b.store(result, pointer, zero)
    b.emit("return")
    memory = arrays.make(np.zeros(max(lanes, 1)), out)
    run_kernel(Function("k", block, "kernel"), [memory], {})
    found = arrays.decode(memory, out)
    assert len(set(map(str, found.tolist()))) == 1
    return found.tolist()[0]


CASES = [
    ("div", I32, (7, 2), 3), ("div", I32, (-7, 2), -3), ("div", I32, (7, -2), -3),
    ("div", I8, (5, 0), 0), ("div", I8, (-128, -1), -128), ("div", U8, (200, 7), 28),
    ("rem", I32, (7, 3), 1), ("rem", I32, (-7, 3), -1), ("rem", I32, (7, -3), 1),
    ("rem", I8, (-5, 0), -5), ("rem", I8, (-128, -1), 0), ("rem", F32, (-7.5, 2.0), -1.5),
    ("add", I8, (127, 1), -128), ("sub", U8, (0, 1), 255), ("mul", I8, (16, 16), 0),
    ("neg", I8, (-128,), -128), ("abs", I8, (-128,), -128), ("neg", U8, (1,), 255),
    ("shl", I8, (1, 7), -128), ("shl", I8, (1, 8), 0), ("shl", U8, (1, 200), 0),
    ("shr", I8, (-128, 7), -1), ("shr", I8, (-128, 8), -1), ("shr", I8, (64, 8), 0),
    ("shr", U8, (128, 7), 1), ("shr", U8, (255, 8), 0),
    ("mulhi", I8, (-128, 127), -64), ("mulhi", U8, (255, 255), 254),
    ("mulhi", I64, (-(2**63), 2**62), -(2**61)), ("mulhi", U64, (2**64 - 1, 2**64 - 1), 2**64 - 2),
    ("min", F32, (1.0, math.nan), math.nan), ("max", F64, (math.nan, 1.0), math.nan),
    ("max", I32, (-1, -2), -1), ("min", BOOL, (True, False), False),
    ("and", I8, (6, 3), 2), ("or", BOOL, (False, True), True), ("xor", U8, (6, 3), 5),
    ("not", BOOL, (True,), False), ("not", I8, (0,), -1),
    ("eq", F32, (math.nan, math.nan), False), ("ne", F32, (math.nan, math.nan), True),
    ("lt", U8, (1, 255), True), ("lt", I8, (1, -1), False), ("ge", F32, (0.0, -0.0), True),
    ("round", F32, (2.5,), 2.0), ("round", F32, (-3.5,), -4.0), ("trunc", F64, (-2.7,), -2.0),
    ("floor", F16, (-0.5,), -1.0), ("sqrt", F64, (2.0,), math.sqrt(2)),
    ("isnan", F32, (math.nan,), True),
    ("fma", F32, (1 + 2.0**-12, 1 + 2.0**-12, -1.0), 2.0**-11 + 2.0**-24),
    ("fma", F64, (1 + 2.0**-27, 1 + 2.0**-27, -1.0), 2.0**-26 + 2.0**-54),
    ("exp", F64, (1.0,), math.e), ("erf", F64, (0.5,), math.erf(0.5)),
    ("pow", I32, (3, 4), 81), ("pow", I32, (2, -1), 0), ("pow", I32, (-1, -3), -1),
    ("add", BF16, (1.0, 0.00390625), 1.0), ("add", BF16, (1.0, 0.01), 1.0078125),
]  # fmt: skip


@pytest.mark.parametrize("lanes", [0, 3])
@pytest.mark.parametrize(("name", "dtype", "args", "expected"), CASES)
def test_scalar_op_gives_what_the_vocabulary_says(
    name: str, dtype: DType, args: tuple[Any, ...], expected: Any, lanes: int
) -> None:
    assert str(scalar(name, dtype, *args, lanes=lanes)) == str(expected)


CASTS = [
    (F32, 300.0, U8, 255), (F32, -1.0, U8, 0), (F32, math.nan, I32, 0), (F32, math.inf, I8, 127),
    (F64, 1e30, I64, 2**63 - 1), (F64, -1e30, I64, -(2**63)), (F32, 1e30, U64, 2**64 - 1),
    (F32, -2.9, I32, -2), (I32, 300, I8, 44), (I32, -1, U8, 255), (I8, -1, U64, 2**64 - 1),
    (I64, 2**24 + 1, F32, float(2**24)), (F32, 0.1, BOOL, True), (I32, 0, BOOL, False),
    (BOOL, True, F32, 1.0), (F64, 1.00390625, BF16, 1.0), (F32, 1e6, F16, math.inf),
    (BF16, 1.5, F32, 1.5),
]  # fmt: skip


@pytest.mark.parametrize(("source", "value", "to", "expected"), CASTS)
def test_cast_saturates_floats_and_wraps_integers(
    source: DType, value: Any, to: DType, expected: Any
) -> None:
    assert str(scalar("cast", source, value, to=to)) == str(expected)


@pytest.mark.parametrize(
    ("source", "value", "to", "expected"),
    [(F32, 1.0, I32, 0x3F800000), (I32, 0x3F800000, F32, 1.0), (BF16, 1.0, U16, 0x3F80),
     (U16, 0x3F80, BF16, 1.0), (F64, -0.0, U64, 2**63)],
)  # fmt: skip
def test_bitcast_keeps_the_bits(source: DType, value: Any, to: DType, expected: Any) -> None:
    assert scalar("bitcast", source, value, to=to) == expected


@pytest.mark.parametrize(
    ("access", "where"),
    [
        ("%a = load(%x, %0, %0) : f32", None),
        ("%a = load(%x, %n, %0) : f32", "load: [2, 0] is outside f32[2, 3]"),
        ("%m = const() {value = -1, dtype = i64} : i64\n%a = load(%x, %0, %m) : f32",
         "load: [0, -1] is outside"),
        ("%a = vload(%x, %0, %0) {lanes = 3} : vec<3xf32>", None),
        ("%a = vload(%x, %0, %0) {lanes = 4} : vec<4xf32>", "vload: [0, [0 1 2 3]] is outside"),
        ("%a = vload(%x, %0, %0) {lanes = 2, axis = 0} : vec<2xf32>", None),
        ("%a = vload(%x, %0, %0) {lanes = 3, axis = 0} : vec<3xf32>", "vload: [[0 1 2], 0]"),
        ("store(%s, %x, %n, %n)", "store: [2, 2] is outside f32[2, 3]"),
        ("prefetch(%x, %n, %n)", None),
        ("%v = view(%x, %n) {type = buf<f32[4]>} : buf<f32[4]>\n%a = load(%v, %0) : f32", None),
        ("%v = view(%x, %n) {type = buf<f32[5]>} : buf<f32[5]>\n"
         "%m = const() {value = 4, dtype = i64} : i64\n%a = load(%v, %m) : f32",
         "load: [4] is outside f32[5]"),
    ],
)  # fmt: skip
def test_access_out_of_bounds_is_found(access: str, where: str | None) -> None:
    body = ZERO + "%n = dim() {expr = N} : i64\n" + access
    function = kernel("%x: buf<f32[N, 3]>, %s: f32", body, symbols="N")
    x = np.arange(6, dtype=np.float32)
    if where is None:
        run_kernel(function, [x, 1.0], {"N": 2})
        return
    with pytest.raises(VerifyError) as caught:
        run_kernel(function, [x, 1.0], {"N": 2})
    assert where in str(caught.value)


def test_masked_lanes_are_not_touched_and_read_as_zero() -> None:
    block = Block([buffer(F32, 5), buffer(F32, 8)], ["x", "y"])
    b = LoopBuilder(block)
    mask = b.tail_mask(b.index(2), b.index(5), 4)
    value = b.vload(block.args[0], (2,), 4, mask=mask)
    b.vstore(value, block.args[1], (0,))
    b.vstore(b.splat(b.const(9.0, F32), 4), block.args[1], (4,), mask=mask)
    b.emit("return")
    y = np.full(8, -1, np.float32)
    run_kernel(Function("k", block, "kernel"), [np.arange(5, dtype=np.float32), y], {})
    assert y.tolist() == [2, 3, 4, 0, 9, 9, 9, -1]


def test_gather_and_scatter_follow_vector_indices() -> None:
    block = Block([buffer(I32, 2, 4), buffer(I32, 4)], ["x", "y"])
    b = LoopBuilder(block)
    lanes = b.iota(4)
    back = b.sub(b.splat(b.index(3), 4), lanes)
    b.scatter(b.gather(block.args[0], (b.index(1), back)), block.args[1], (lanes,))
    b.emit("return")
    y = np.zeros(4, np.int32)
    run_kernel(Function("k", block, "kernel"), [np.arange(8, dtype=np.int32).reshape(2, 4), y], {})
    assert y.tolist() == [7, 6, 5, 4]


def test_lane_ops_move_single_lanes() -> None:
    block = Block([buffer(I64, 5)], ["y"])
    b = LoopBuilder(block)
    ramp = b.iota(3)
    moved = b.insert(b.const(9, I64), ramp, 1)
    b.vstore(b.shuffle(ramp, moved, (2, 4, 0, 3)), block.args[0], (0,))
    b.store(b.extract(moved, 1), block.args[0], 4)
    b.emit("return")
    y = np.zeros(5, np.int64)
    run_kernel(Function("k", block, "kernel"), [y], {})
    assert y.tolist() == [2, 9, 0, 0, 9]


@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 8])
def test_reduce_joins_halves(lanes: int) -> None:
    block = Block([buffer(F32, lanes), buffer(F32, 2)], ["x", "y"])
    b = LoopBuilder(block)
    x = b.vload(block.args[0], (0,), lanes)
    b.store(b.reduce("add", x), block.args[1], 0)
    b.store(b.reduce("max", x), block.args[1], 1)
    b.emit("return")
    x = np.array([1e8, 1, -1e8, 1, 3, 4, 5, 6][:lanes], np.float32)
    y = np.zeros(2, np.float32)
    run_kernel(Function("k", block, "kernel"), [x, y], {})
    a = x.tolist()
    f = np.float32
    tree = {
        1: a[0],
        2: f(a[0]) + f(a[1]) if lanes > 1 else 0,
        3: (f(a[0]) + f(a[1])) + f(a[2]) if lanes > 2 else 0,
        5: (f(a[0]) + f(a[2])) + (f(a[1]) + f(a[3])) + f(a[4]) if lanes > 4 else 0,
    }
    if lanes == 8:
        half = x[:4] + x[4:]
        tree[8] = (half[0] + half[2]) + (half[1] + half[3])
    assert y.tolist() == [float(tree[lanes]), float(x.max())]


def test_for_carries_values_and_an_empty_one_gives_them_back() -> None:
    body = """
  %0 = const() {value = 0, dtype = i64} : i64
  %n = dim() {expr = N} : i64
  %z = const() {value = 10, dtype = i64} : i64
  %r, %q = for(%0, %n, %z, %0) {step = 2} {
    ^(%i: i64, %a: i64, %b: i64):
    %s = add(%a, %i) : i64
    yield(%s, %a)
  } : i64, i64
  store(%r, %y, %0)
  %1 = const() {value = 1, dtype = i64} : i64
  store(%q, %y, %1)
"""
    function = kernel("%y: buf<i64[2]>", body, symbols="N")
    y = np.zeros(2, np.int64)
    run_kernel(function, [y], {"N": 5})
    assert y.tolist() == [16, 12]
    run_kernel(function, [y], {"N": 0})
    assert y.tolist() == [10, 0]


def test_parallel_runs_every_index_backwards_with_workers_below_threads() -> None:
    body = """
  %0 = const() {value = 0, dtype = i64} : i64
  %1 = const() {value = 1, dtype = i64} : i64
  %n = const() {value = 4, dtype = i64} : i64
  parallel(%n) {
    ^(%i: i64, %w: i64):
    %at = load(%count, %0) : i64
    store(%i, %order, %at)
    store(%w, %workers, %i)
    %next = add(%at, %1) : i64
    store(%next, %count, %0)
    yield()
  }
"""
    head = "%order: buf<i64[4]>, %workers: buf<i64[4]>, %count: buf<i64[1]>"
    order, workers, count = np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(1, np.int64)
    run_kernel(kernel(head, body), [order, workers, count], {"threads": 2})
    assert order.tolist() == [3, 2, 1, 0]
    assert workers.tolist() == [0, 1, 0, 1]


def test_if_runs_one_region() -> None:
    body = """
  %c = lt(%s, %t) : bool
  %r = if(%c) {
    yield(%s)
  } {
    yield(%t)
  } : f32
"""
    body += ZERO + "store(%r, %y, %0)"
    function = kernel("%y: buf<f32[1]>, %s: f32, %t: f32", body)
    y = np.zeros(1, np.float32)
    for args in ((1.0, 2.0), (2.0, 1.0)):
        run_kernel(function, [y, *args], {})
        assert y[0] == 1


def test_stack_memory_starts_as_garbage() -> None:
    body = ZERO + "%a = alloca() {type = buf<f32[2]>} : buf<f32[2]>\n"
    body += "%v = load(%a, %0) : f32\nstore(%v, %y, %0)"
    y = np.zeros(1, np.float32)
    run_kernel(kernel("%y: buf<f32[1]>", body), [y], {})
    assert np.isnan(y[0])


def test_tables_are_read_only() -> None:
    body = ZERO + "%a = table() {values = dense(1.0, 2.5), dtype = f32} : buf<f32[2]>\n"
    body += "%v = load(%a, %0) : f32\nstore(%v, %y, %0)\n"
    y = np.zeros(1, np.float32)
    run_kernel(kernel("%y: buf<f32[1]>", body), [y], {})
    assert y[0] == 1
    with pytest.raises(VerifyError, match="store: writes to constant memory"):
        run_kernel(kernel("%y: buf<f32[1]>", body + "store(%v, %a, %0)"), [y], {})


def test_strides_lead_through_one_array() -> None:
    transposed = BufferType(I32, (3, 2), (1, 3))
    block = Block([transposed, buffer(I32, 6)], ["x", "y"])
    b = LoopBuilder(block)
    with b.for_(0, 3) as i, b.for_(0, 2) as j:
        at = b.add(b.mul(i.index, b.index(2)), j.index)
        b.store(b.load(block.args[0], i.index, j.index), block.args[1], at)
    b.emit("return")
    x, y = np.arange(6, dtype=np.int32), np.zeros(6, np.int32)
    run_kernel(Function("k", block, "kernel"), [x, y], {})
    assert y.tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "@k takes 1 arguments"),
        ([np.zeros(2)], "@k: argument y is float64, not f32"),
        ([np.zeros((2, 2), np.float32).T], "@k: argument y is not contiguous"),
    ],
)
def test_unfit_argument_of_a_kernel_is_refused(args: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_kernel(kernel("%y: buf<f32[2]>", ""), args, {})
    with pytest.raises(UsageError, match="@k needs the symbols N"):
        run_kernel(kernel("%y: buf<f32[N]>", "", symbols="N"), [np.zeros(1, np.float32)], {})


PROGRAM = """
data {@w: buf<f32[4]> = @HASH}
kernel @scale(%x: buf<f32[N, 4]>, %w: buf<f32[4]>, %y: buf<f32[N, 4]>, %s: f32) symbols {N} {
  %0 = const() {value = 0, dtype = i64} : i64
  %n = dim() {expr = N} : i64
  for(%0, %n) {
    ^(%i: i64):
    %a = vload(%x, %i, %0) {lanes = 4} : vec<4xf32>
    %b = vload(%w, %0) {lanes = 4} : vec<4xf32>
    %c = splat(%s) {lanes = 4} : vec<4xf32>
    %d = fma(%a, %b, %c) : vec<4xf32>
    vstore(%d, %y, %i, %0) {lanes = 4}
    yield()
  }
  return()
}
main @main(%in0: buf<f32[N, 4]>, %out0: buf<f32[N, 4]>)
  symbols {N: 0..3}
  attrs {inputs = [["x", f32[N, 4]]], outputs = [["y", f32[N, 4]]], workspace = 16*N + 1}
{
  %1 = const() {value = 1, dtype = i64} : i64
  %n = dim() {expr = N} : i64
  %s = const() {value = 1.0, dtype = f32} : f32
  %w = constant() {name = "w", type = buf<f32[4]>} : buf<f32[4]>
  %t = workspace(%1) {type = buf<f32[N, 4]>} : buf<f32[N, 4]>
  call(%in0, %w, %t, %s) {callee = "scale"}
  call(%t, %w, %out0, %s) {callee = "scale"}
  %c = ge(%n, %1) : bool
  check(%c) {code = 5, message = "N is at least 1"}
  return()
}
"""


def test_program_binds_symbols_and_runs_its_kernels() -> None:
    store = ConstantStore()
    w = np.array([1, 2, 3, 4], np.float32)
    ref = store.add(w, F32)
    module = loop(PROGRAM.replace("HASH", ref.hash))
    module.constants = store
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run_program(module, {"x": x})["y"], (x * w + 1) * w + 1)
    with pytest.raises(UsageError, match=r"check failed: N is at least 1 \(code 5\)"):
        run_program(module, {"x": x[:0]})
    with pytest.raises(UsageError, match=r"N is 4, outside 0\.\.3"):
        run_program(module, {"x": np.zeros((4, 4), np.float32)})
    with pytest.raises(UsageError, match="argument in0 is float64, not f32"):
        run_program(module, {"x": x.astype(np.float64)})
    with pytest.raises(UsageError, match="input 'x' has rank 1"):
        run_program(module, {"x": x[0]})
    with pytest.raises(UsageError, match="input 'x' is missing"):
        run_program(module, {})
    with pytest.raises(UsageError, match="there is no input 'z'"):
        run_program(module, {"x": x, "z": x})
