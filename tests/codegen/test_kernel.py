"""Loops, branches and dims of kernels, and their text, run against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.harness import TARGETS, Kernel, building, compile_kernel, ramp
from tfc.compiler.codegen.emit import emit_assembly, text_key
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.link.elf import ObjectFile
from tfc.compiler.target import Target, parse_target
from tfc.ir.core import Block, Function
from tfc.ir.dims import evaluate, maximum, minimum, symbol
from tfc.ir.errors import CompileError
from tfc.ir.types import (
    F32,
    F64,
    I64,
    BufferType,
    ScalarType,
    VectorType,
    buffer,
)

N, M, K = symbol("N"), symbol("M"), symbol("K")


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
    array = ramp(F32, 3, 4, 5, 2)
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


def _key(function: Function, target: Target, opt: int = 2) -> str:
    return text_key(kernel_text(function, target), target, opt)


def test_the_same_kernel_has_the_same_text_and_key() -> None:
    goal = parse_target("avx2")
    first, second = (matmul(6, 2, 8) for _ in range(2))
    assert kernel_text(first, goal) == kernel_text(second, goal)
    assert _key(first, goal) == _key(second, goal)
    assert compile_kernel(first, goal) == compile_kernel(second, goal)
    others = [
        _key(matmul(4, 2, 8), goal),
        _key(first, parse_target("avx2,-f16c")),
        _key(first, goal, opt=0),
    ]
    assert len({_key(first, goal), *others}) == 4


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
