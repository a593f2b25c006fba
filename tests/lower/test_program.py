"""Whole programs: kernels shared, checked, printed, and the same interpreted as compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.lower.native import Code, can_run, graph, lowered
from tests.lower.nests import FREE, Make, N, fused, tensors
from tfc.compiler.codegen.host import host_target
from tfc.compiler.lower.program import ProgramBuilder
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.ir import arrays
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.dims import evaluate, minimum, symbol
from tfc.ir.errors import UsageError
from tfc.ir.loop.interp import run_program
from tfc.ir.text import parse_module, print_module
from tfc.ir.types import BF16, BOOL, F16, F32, I64, TensorType

Build = Callable[[], Module]
LEVELS = tuple(level for level in ("x86-64", "avx2", "avx512", "aarch64") if can_run(level))


def _attention(b: Any, x: Any) -> Any:
    keys = b.transpose(x, perm=(0, 2, 1))
    return b.matmul(b.softmax(b.matmul(x, keys), axis=-1), x)


def _conv(b: Any, x: Any) -> Any:
    w = b.constant(np.linspace(-1, 1, 8 * 3 * 9, dtype=np.float32).reshape(8, 3, 3, 3))
    y = b.conv(x, w, strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1)
    return b.max_pool(b.relu(y), kernel=(2, 2), strides=(2, 2), pads=((0, 0), (0, 0)),
                      dilations=(1, 1))  # fmt: skip


def _lookup(b: Any, x: Any, i: Any) -> Any:
    return b.concat(b.gather(x, i, axis=0), b.pad(x, lo=(0, 0), hi=(1, 0), mode="edge"), axis=0)


def _mlp(b: Any, x: Any) -> Any:
    w = b.constant(np.linspace(-1, 1, 9 * 20, dtype=np.float32).reshape(9, 20))
    return b.softmax(b.relu(b.add(b.matmul(x, w), b.constant(np.ones(20, np.float32)))), axis=1)


def _depthwise(b: Any, x: Any) -> Any:
    w = b.constant(np.linspace(-1, 1, 6 * 9, dtype=np.float32).reshape(6, 1, 3, 3))
    return b.conv(x, w, strides=(2, 2), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=6)


SAMPLES: dict[str, tuple[list[TensorType], Make]] = {
    "elementwise": (tensors((5, 7), (7,)), lambda b, x, y: b.tanh(b.add(x, y))),
    "narrow floats": (tensors((37,), dtype=BF16), lambda b, x: b.mul(x, x)),
    "halves": (tensors((3, 11), dtype=F16), lambda b, x: b.softmax(x, axis=1)),
    "bools": (tensors((3, 11)), lambda b, x: b.op("not", b.lt(x, b.neg(x))).result),
    "attention": (tensors((2, 6, 5)), _attention),
    "convolution": (tensors((1, 3, 8, 6)), _conv),
    "depthwise": (tensors((1, 6, 9, 7)), _depthwise),
    "symbolic mlp": (tensors((N, 9)), _mlp),
    "lookup": ([TensorType(F32, (N, 3)), TensorType(I64, (4,))], _lookup),
    "positions": (tensors((4, 9)), lambda b, x: b.argmax(x, axis=1, keepdims=False, last=True)),
    "any": (tensors((4, 9), dtype=BOOL), lambda b, x: b.reduce_any(x, axes=(0,), keepdims=False)),
}  # fmt: skip


def _inputs(types: list[TensorType], sizes: dict[str, int]) -> dict[str, Any]:
    generator = np.random.default_rng(3)
    found = {}
    for position, type in enumerate(types):
        shape = [evaluate(dim, sizes) for dim in type.shape]
        numbers = generator.uniform(-1, 1, shape)
        match type.dtype.name:
            case "bool":
                found[f"x{position}"] = numbers > 0
            case "i64":
                found[f"x{position}"] = np.round(numbers * 3).astype(np.int64)
            case _:
                found[f"x{position}"] = arrays.make(numbers, type.dtype)
    return found


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SAMPLES)
def test_programs_run_the_same_interpreted_as_compiled(name: str, level: str) -> None:
    types, make = SAMPLES[name]
    module = graph(types, make, FREE)
    target = parse_target(level)
    run(module, PassContext(target=target))
    program = lowered(module, target)
    code = Code([program], target)
    for n in (5, 1):
        inputs = _inputs(types, {"N": n})
        # The interpreter knows of no symbols but those of the inputs.
        slow = run_program(program, inputs, None if "N" in str(types) else {"N": 0})
        fast = code.run(program, inputs, {"N": n})
        for key, array in slow.items():
            if target.has_fma or array.dtype.kind != "f":
                np.testing.assert_array_equal(fast[key], array)
            else:
                # Without the instruction, products are rounded before they are added.
                np.testing.assert_allclose(fast[key], array, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLES)
def test_programs_print_and_parse_back(name: str) -> None:
    module = graph(*SAMPLES[name], FREE)
    run(module, PassContext(target=host_target()))
    program = lowered(module, host_target())
    text = print_module(program)
    assert print_module(parse_module(text, program.constants)) == text


def test_equal_work_shares_a_kernel() -> None:
    def make(b: Any, x: Any) -> Any:
        y = b.relu(x)
        for _ in range(3):
            y = b.relu(b.transpose(y, perm=(1, 0)))
        return y

    program = lowered(graph(tensors((6, 6)), make), host_target())
    kernels = [f for f in program.functions.values() if f.kind == "kernel"]
    calls = [op for op in program.main.block if op.name == "call"]
    assert (len(kernels), len(calls)) == (2, 4)


def test_main_of_two_kernels_reads() -> None:
    target = parse_target("avx2")
    program = lowered(graph(tensors((2, 3)), lambda b, x: b.exp(b.relu(x))), target)
    main = print_module(program).partition("main @main")[2]
    assert (
        main
        == """(%in0: buf<f32[6]>, %out0: buf<f32[6]>)
  attrs {inputs = [["x0", f32[2, 3]]], outputs = [["y0", f32[2, 3]]], workspace = 64}
{
  %0 = const() {value = 0, dtype = i64} : i64
  %1 = workspace(%0) {type = buf<f32[6]>} : buf<f32[6]>
  call(%in0, %1) {callee = "k0_relu"}
  call(%1, %out0) {callee = "k1_exp"}
  return()
}
"""
    )


def test_a_kernel_reads() -> None:
    target = parse_target("avx2")
    program = lowered(graph(tensors((19,)), lambda b, x: b.neg(x)), target)
    (kernel, _) = print_module(program).partition("main @main")[::2]
    assert (
        kernel
        == """tfc 1 loop

kernel @k0_neg(%x0: buf<f32[19]>, %y0: buf<f32[19]>) {
  %0 = const() {value = 0, dtype = i64} : i64
  %1 = const() {value = 16, dtype = i64} : i64
  for(%0, %1) {step = 8} {
    ^(%i: i64):
    %2 = vload(%x0, %i) {lanes = 8} : vec<8xf32>
    %3 = neg(%2) : vec<8xf32>
    vstore(%3, %y0, %i) {lanes = 8}
    yield()
  }
  %4 = const() {value = 19, dtype = i64} : i64
  for(%1, %4) {
    ^(%5: i64):
    %6 = load(%x0, %5) : f32
    %7 = neg(%6) : f32
    store(%7, %y0, %5)
    yield()
  }
  return()
}

"""
    )


M = symbol("M")


def test_dims_that_must_agree_are_checked() -> None:
    types = [TensorType(F32, (N, 4)), TensorType(F32, (M, 4))]
    module = graph(types, lambda b, x, y: b.add(x, y), {"N": SymbolInfo(), "M": SymbolInfo()})
    run(module, PassContext(target=host_target()))
    program = lowered(module, host_target())
    code = Code([program], host_target())
    x = np.ones((3, 4), np.float32)
    assert code.run(program, {"x0": x, "x1": x[:1]})["y0"].tolist() == (x + 1).tolist()
    with pytest.raises(UsageError, match="dims N and M broadcast"):
        code.run(program, {"x0": x, "x1": x[:2]})


def test_a_lookup_in_nothing_is_refused_at_run_time() -> None:
    types = [TensorType(F32, (N, 4)), TensorType(I64, (M,))]
    module = graph(types, lambda b, x, i: b.gather(x, i, axis=0),
                   {"N": SymbolInfo(), "M": SymbolInfo()})  # fmt: skip
    run(module, PassContext(target=host_target()))
    program = lowered(module, host_target())
    code = Code([program], host_target())
    x, i = np.ones((3, 4), np.float32), np.array([7, -1])
    assert code.run(program, {"x0": x, "x1": i})["y0"].shape == (2, 4)
    assert code.run(program, {"x0": x[:0], "x1": i[:0]})["y0"].shape == (0, 4)
    with pytest.raises(UsageError, match="empty axis"):
        code.run(program, {"x0": x[:0], "x1": i})


LONG = ((200_003,), (2, 150_001), (7, 99_999))


@pytest.mark.parametrize("level", LEVELS)
def test_long_rows_are_done_in_tasks_without_a_gap(level: str) -> None:
    target = parse_target(level)

    def make(b: Any, x: Any, y: Any) -> Any:
        return fused(b, lambda b, x, y: b.add(b.mul(x, x), y), x, y)

    modules = [graph(tensors(shape, shape[-1:]), make) for shape in LONG]
    modules.append(graph(tensors((N, M), (M,)), make, {"N": SymbolInfo(), "M": SymbolInfo()}))
    programs = [lowered(module, target) for module in modules]
    code = Code(programs, target)
    for program, shape in zip([*programs, *[programs[-1]] * 3], (*LONG, *LONG), strict=False):
        if len(shape) < len(program.main.attrs["inputs"][0][1].shape):
            shape = (1, *shape)
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 1009
        y = np.arange(shape[-1], dtype=np.float32) % 31
        found = code.run(program, {"x0": x, "x1": y})["y0"]
        np.testing.assert_array_equal(found, x * x + y)
        assert "parallel" in print_module(program)


def test_likely_value_of_an_expression_follows_from_those_of_its_symbols() -> None:
    symbols = {"N": SymbolInfo(0, None, 40), "k": SymbolInfo(source=minimum(448, N + 1) - N)}
    module = graph(tensors((N, 3)), lambda b, x: b.relu(x), symbols)
    builder = ProgramBuilder(module, host_target(), {}, frozenset())
    assert builder.hints == {"N": 40, "k": 1}
