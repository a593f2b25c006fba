"""bf16 operands: what the pass rounds, and that `dot` kernels compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.codegen.harness import Kernel
from tests.lower.native import graph
from tfc.compiler.codegen.host import host_target
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.graph import Graph
from tfc.ir import arrays
from tfc.ir.core import Block, Function, Module
from tfc.ir.errors import CompileError, UsageError
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.interp import run_kernel
from tfc.ir.types import BF16, F32, I8, I32, U8, BufferType, TensorType

Array = Any
WITH_DOT = parse_target("avx512,+avx512bf16,+avx512vnni")


def rounded(x: Array) -> Array:
    return arrays.decode(arrays.encode(x, BF16), BF16).astype(np.float64)


def product(rows: int, depth: int, columns: int) -> tuple[Graph, Array, Array]:
    generator = np.random.default_rng(depth)
    x = generator.standard_normal((rows, depth), dtype=np.float32)
    w = generator.standard_normal((depth, columns), dtype=np.float32)
    source = tfc.placeholder((rows, depth), "f32", name="x")
    return Graph.of({"y": source @ w}, [source]), x, w


@pytest.mark.parametrize(
    "shape", [(1, 64, 48), (7, 33, 40), (28, 128, 100), (5, 3, 16), (16, 9, 5)]
)
@pytest.mark.parametrize("target", ["native", "avx2"])
def test_products_add_up_rounded_operands_in_f32(shape: tuple[int, int, int], target: str) -> None:
    graph, x, w = product(*shape)
    got = tfc.compile(graph, dtype="bf16", target=target, threads=1)({"x": x})["y"]
    wanted = rounded(x) @ rounded(w)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert np.abs(got - x @ w).max() > 1e-5 * np.abs(wanted).max()


def program_of(dtype: Any, target: Any) -> Module:
    graph, _, _ = product(8, 64, 64)
    module = graph.copy()
    run(module, PassContext(target=target, dtype=dtype))
    return lower(module, target, {})


def ops_in(module: Module) -> set[str]:
    return {op.name for f in module.functions.values() for op in f.block.walk()}


def test_dot_is_chosen_by_the_feature_and_the_asked_type() -> None:
    assert "dot" in ops_in(program_of(BF16, WITH_DOT))
    assert "dot" not in ops_in(program_of(BF16, parse_target("avx512")))
    assert "dot" not in ops_in(program_of(F32, WITH_DOT))


def test_another_dtype_is_refused() -> None:
    graph, _, _ = product(1, 8, 8)
    with pytest.raises(UsageError, match="f32 or bf16"):
        tfc.compile(graph, dtype="f16")


def dot_function(x_type: Any, y_type: Any, sum_type: Any, group: int) -> Function:
    lanes = 16
    sizes = (lanes * group, lanes * group, lanes)
    types = [
        BufferType(dtype, (size,), (1,))
        for dtype, size in zip((x_type, y_type, sum_type), sizes, strict=True)
    ]
    block = Block(types, ["x", "y", "total"])
    b = LoopBuilder(block)
    x, y, total = (b.vload(arg, [0], size) for arg, size in zip(block.args, sizes, strict=True))
    b.vstore(b.dot(x, y, total), block.args[2], [0])
    b.emit("return")
    return Function("kernel", block, "kernel")


def test_a_target_without_the_feature_refuses_dot() -> None:
    function = dot_function(BF16, BF16, F32, 2)
    with pytest.raises(CompileError, match="no dot"):
        kernel_text(function, parse_target("avx512"))
    assert "dpbf16ps" in kernel_text(function, WITH_DOT)
    assert "vpdpbusd" in kernel_text(dot_function(U8, I8, I32, 4), WITH_DOT)


@pytest.mark.parametrize(
    ("x_type", "y_type", "sum_type", "group"), [(BF16, BF16, F32, 2), (U8, I8, I32, 4)]
)
def test_dot_computes_what_the_interpreter_does(
    x_type: Any, y_type: Any, sum_type: Any, group: int
) -> None:
    if not host_target().has_dot(x_type, 16):
        pytest.skip("this machine has no such instruction")
    generator = np.random.default_rng(group)
    if x_type == BF16:
        x, y = (arrays.encode(generator.standard_normal(32).astype(np.float32), BF16) for _ in "xy")
    else:
        x = generator.integers(0, 256, 64).astype(np.uint8)
        y = generator.integers(-128, 128, 64).astype(np.int8)
    function = dot_function(x_type, y_type, sum_type, group)
    runners = (
        Kernel(function, host_target()),
        lambda *args: run_kernel(function, args, {}),
    )
    totals = []
    for run_it in runners:
        total = np.arange(16).astype(arrays.numpy_dtype(sum_type))
        run_it(x.copy(), y.copy(), total)
        totals.append(total)
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-6 if group == 2 else 0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_step_between_rows_may_be_that_of_a_group_which_is_not_full(channels: int) -> None:
    generator = np.random.default_rng(0)
    x, w = (
        generator.integers(-8, 8, shape).astype(np.float32)
        for shape in ((1, channels, 9, 4), (32, channels, 3, 3))
    )
    window = {"strides": (1, 1), "pads": ((0, 0),) * 2, "dilations": (1, 1), "groups": 1}
    program = Graph(
        graph([TensorType(F32, x.shape)], lambda b, v: b.conv(v, b.constant(w), **window))
    )
    found = tfc.compile(program, dtype="bf16")({"x0": x})["y0"]
    np.testing.assert_array_equal(found, program.eval({"x0": x})["y0"])


def rounding_only(size: int) -> Graph:
    return Graph(graph([TensorType(F32, (size,))], lambda b, v: b.cast(v, dtype=BF16)))


def test_rounding_by_an_instruction_differs_in_denormals_alone() -> None:
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 1 << 32, 5001, dtype=np.uint32)
    bits[:6] = [0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x3F808000, 0x3F818000, 0x80000000]
    x = bits.view(np.float32)
    x[np.isnan(x)] = np.nan
    program = rounding_only(len(x))
    exact, fast = (
        arrays.decode(tfc.compile(program, dtype=dtype)({"x0": x})["y0"].view(np.uint16), BF16)
        for dtype in ("f32", "bf16")
    )
    wanted = arrays.decode(arrays.encode(x, BF16), BF16)
    np.testing.assert_array_equal(exact, wanted)
    normal = ~(np.abs(x) < np.finfo(np.float32).tiny)
    np.testing.assert_array_equal(fast[normal], wanted[normal])
    assert np.all((fast[~normal] == wanted[~normal]) | (fast[~normal] == 0))


def test_the_instruction_that_rounds_is_for_those_who_asked_for_bf16() -> None:
    module = rounding_only(64).copy()
    run(module, PassContext(target=WITH_DOT))
    (kernel,) = (f for f in lower(module, WITH_DOT, {}).functions.values() if f.kind == "kernel")
    assert "cvtneps2bf16" not in kernel_text(kernel, WITH_DOT)
    assert "cvtneps2bf16" in kernel_text(kernel, WITH_DOT.for_precision(BF16))
    assert "cvtneps2bf16" not in kernel_text(kernel, parse_target("avx512").for_precision(BF16))


def groups_of(build: Any, *shapes: tuple[int, ...]) -> list[list[str]]:
    module = graph([TensorType(F32, shape) for shape in shapes], build)
    run(module, PassContext(target=WITH_DOT, dtype=BF16))
    return [
        [op.name for op in group.regions[0] if op.name not in ("constant", "yield")]
        for group in module.main.block
        if group.name == "fused"
    ]


def test_weights_may_be_a_view_of_a_constant() -> None:
    weights = np.ones((48, 32), np.float32)
    found = groups_of(
        lambda b, v: b.matmul(v, b.transpose(b.constant(weights), perm=(1, 0))), (8, 32)
    )
    assert found == [["cast"], ["cast", "cast", "matmul"]]


def test_a_view_between_does_not_keep_rounding_out_of_the_producer() -> None:
    weights = np.ones((32, 48), np.float32)
    found = groups_of(
        lambda b, v: b.matmul(b.reshape(b.exp(v), shape=(8, 32)), b.constant(weights)), (2, 4, 32)
    )
    assert found == [["exp", "cast"], ["cast", "cast", "matmul"]]


def test_a_grouped_convolution_reads_rounded_pixels_and_exact_weights() -> None:
    weights = np.full((8, 1, 3, 3), 1 + 2.0**-12, np.float32)
    window = {"strides": (1, 1), "pads": ((0, 0),) * 2, "dilations": (1, 1), "groups": 8}
    program = Graph(
        graph(
            [TensorType(F32, (1, 8, 9, 9))], lambda b, v: b.conv(v, b.constant(weights), **window)
        )
    )
    x = np.random.default_rng(0).standard_normal((1, 8, 9, 9)).astype(np.float32)
    found = tfc.compile(program, dtype="bf16")({"x0": x})["y0"]
    wanted = program.eval({"x0": rounded(x).astype(np.float32)})["y0"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert np.abs(found - program.eval({"x0": x})["y0"]).max() > 1e-3
