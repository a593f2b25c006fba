"""Winograd convolutions: what is recognised, how exact it is, and that threads change no bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import Code, can_run, graph
from tfc.compiler.build import Options
from tfc.compiler.codegen.host import host_target
from tfc.compiler.driver import lower_module
from tfc.compiler.lower.memplan import Lifetime, plan_memory
from tfc.compiler.lower.planes import ERROR_LIMIT, FAST, TRIAL_LIMIT
from tfc.compiler.lower.program import lower
from tfc.compiler.lower.winograd import (
    F2,
    F4,
    Form,
    both_axes,
    error_of,
)
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import Target, parse_target
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import DimLike, symbol, symbols_of
from tfc.ir.loop.interp import run_program
from tfc.ir.loop.scalar import ScalarBuilder
from tfc.ir.types import F32, DType, TensorType
from tfc.ir.verify import verify

HOST = host_target()
LEVELS = [level for level in ("x86-64", "avx2", "avx512") if can_run(level)]
VALID = ((0, 0), (0, 0))
SAME = ((1, 1), (1, 1))
PLAIN = {"strides": (1, 1), "pads": VALID, "dilations": (1, 1), "groups": 1}


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def convolved(x: Array, w: Array) -> Array:
    """The convolution of x [n, y, x, c], which has its border, by w [o, c, 3, 3] in float64."""
    height, width = x.shape[1] - 2, x.shape[2] - 2
    total = np.zeros((len(x), height, width, len(w)))
    for i in range(3):
        for j in range(3):
            part = x[:, i : i + height, j : j + width].astype(np.float64)
            total += part @ w[:, :, i, j].T.astype(np.float64)
    return total


def conv_graph(
    x: Sequence[DimLike],
    w: Array,
    *,
    symbols: Mapping[str, SymbolInfo] | None = None,
    **changes: Any,
) -> Module:
    """y = conv(x, w), both channels last in memory."""

    def make(b: GraphBuilder, value: Value) -> Value:
        last = b.transpose(value, perm=(0, 3, 1, 2))
        y0: Value = b.transpose(b.conv(last, b.constant(w), **(PLAIN | changes)), perm=(0, 2, 3, 1))
        return y0

    return graph([TensorType(F32, tuple(x))], make, symbols)


def lowered(module: Module, target: Target = HOST, *, winograd: bool = True) -> Module:
    run(module, PassContext(target=target, level=2))
    program = lower(module, target, {}, fast=FAST if winograd else frozenset())
    verify(program)
    return program


def has_scratch(program: Module) -> bool:
    """Whether a kernel has memory for each thread, which Winograd's alone have."""
    workspace = program.main.attrs["workspace"]
    assert "threads" not in program.main.symbols
    return "threads" in symbols_of(workspace)


def products_of(program: Module, inputs: int, outputs: int) -> int:
    """How many products a tile has: 36 for F(4x4), 16 for F(2x2), 9 for the direct kernel."""
    sizes = [entry.type.shape[0] for entry in program.data.values()]
    (size,) = (n for n in sizes if isinstance(n, int) and n >= inputs * outputs)
    return size // (inputs * outputs)


def assert_near(found: Array, wanted: Array, limit: float) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= limit * np.abs(wanted).max()


def check(module: Module, inputs: Mapping[str, Array], wanted: Array, target: Target) -> Module:
    program = lowered(module, target)
    assert has_scratch(program)
    assert_near(Code([program], target).run(program, inputs)["y0"], wanted, ERROR_LIMIT)
    return program


# -- transforms ---------------------------------------------------------------------------------


class Exact(ScalarBuilder[Fraction]):
    """Computes with fractions."""

    def scalar(self, name: str, args: tuple[Fraction, ...], dtype: DType) -> Fraction:
        match name:
            case "add":
                return args[0] + args[1]
            case "sub":
                return args[0] - args[1]
            case "fma":
                return args[0] * args[1] + args[2]
        raise AssertionError(name)

    def dtype_of(self, value: Fraction) -> DType:
        return F32

    def const(self, value: float | complex, like: Fraction | DType) -> Fraction:
        assert not isinstance(value, complex)
        return Fraction(value)


@pytest.mark.parametrize("form", [F2, F4])
def test_transforms_are_a_convolution_in_exact_arithmetic(form: Form) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(-9, 10, (form.side, form.side))
    kernel = rng.integers(-9, 10, (3, 3))
    matrix = [[Fraction(x).limit_denominator(24) for x in row] for row in form.weights]
    weights = [
        sum(matrix[i][a] * int(kernel[a, b]) * matrix[j][b] for a in range(3) for b in range(3))
        for i in range(form.side)
        for j in range(form.side)
    ]
    inputs = both_axes(Exact(), form.inputs, [Fraction(int(x)) for x in pixels.flat])
    products = [x * w for x, w in zip(inputs, weights, strict=True)]
    found = both_axes(Exact(), form.outputs, products)
    wanted = [
        int((pixels[i : i + 3, j : j + 3] * kernel).sum())
        for i in range(form.m)
        for j in range(form.m)
    ]
    assert found == wanted


def test_trial_tells_exact_forms_from_inexact_ones() -> None:
    ordinary = numbers(48, 64, 3, 3)
    assert error_of(F2, ordinary) < 1e-6 < error_of(F4, ordinary) < TRIAL_LIMIT
    denormal = ordinary * np.float32(1e-42)
    assert error_of(F2, denormal) > ERROR_LIMIT


# -- what is recognised -------------------------------------------------------------------------


def test_the_number_of_tiles_chooses_the_form() -> None:
    w = numbers(32, 32, 3, 3)
    for size, products in ((13, 36), (12, 16), (7, 16), (6, 9)):
        program = lowered(conv_graph((1, size + 2, size + 2, 32), w))
        assert products_of(program, 32, 32) == products
        assert has_scratch(program) is (products != 9)


def test_tiles_of_all_pictures_count() -> None:
    w = numbers(32, 32, 3, 3)
    assert products_of(lowered(conv_graph((4, 10, 10, 32), w)), 32, 32) == 36
    assert products_of(lowered(conv_graph((3, 10, 10, 32), w)), 32, 32) == 16


@pytest.mark.parametrize(
    ("channels", "outputs", "changes"),
    [
        (31, 32, {}),
        (32, 31, {}),
        (32, 32, {"strides": (2, 2)}),
        (32, 32, {"dilations": (2, 2)}),
        (32, 32, {"strides": (1, 2)}),
        (64, 64, {"groups": 2}),
    ],
)
def test_other_convolutions_stay_direct(
    channels: int, outputs: int, changes: dict[str, Any]
) -> None:
    inner = channels // changes.get("groups", 1)
    w = numbers(outputs, inner, 3, 3)
    assert not has_scratch(lowered(conv_graph((1, 22, 22, channels), w, **changes)))


def test_larger_kernels_stay_direct() -> None:
    assert not has_scratch(lowered(conv_graph((1, 22, 22, 32), numbers(32, 32, 5, 5))))


def test_too_large_an_error_chooses_the_smaller_form(monkeypatch: pytest.MonkeyPatch) -> None:
    w = numbers(32, 32, 3, 3)
    monkeypatch.setattr("tfc.compiler.lower.winograd.TRIAL_LIMIT", 1e-6)
    assert products_of(lowered(conv_graph((1, 22, 22, 32), w)), 32, 32) == 16


@pytest.mark.parametrize("scale", [np.nan, np.inf, 2e37, 1e-42])
def test_weights_that_no_form_is_exact_for_stay_direct(scale: float) -> None:
    w = numbers(32, 32, 3, 3) * np.float32(scale)
    assert not has_scratch(lowered(conv_graph((1, 22, 22, 32), w)))


def test_it_can_be_switched_off() -> None:
    w = numbers(32, 32, 3, 3)
    assert not has_scratch(lowered(conv_graph((1, 22, 22, 32), w), winograd=False))
    for options, wanted in (
        (Options(HOST), True),
        (Options(HOST, passes={"disabled": {"winograd"}}), False),
        (Options(HOST, opt=0), False),
    ):
        assert has_scratch(lower_module(conv_graph((1, 22, 22, 32), w), options)) is wanted


def test_strides_as_wide_as_dilations_are_recognised() -> None:
    x, w = numbers(1, 29, 31, 32), numbers(32, 32, 3, 3, seed=1)
    module = conv_graph(x.shape, w, strides=(2, 2), dilations=(2, 2))
    check(module, {"x0": x}, convolved(x[:, ::2, ::2], w), HOST)


def test_taps_merged_with_channels_are_recognised() -> None:
    x, w = numbers(1, 16, 20, 32), numbers(3, 3, 32, 48, seed=1)

    def make(b: GraphBuilder, value: Value) -> Value:
        last = b.transpose(value, perm=(0, 3, 1, 2))
        weights = b.transpose(b.constant(w), perm=(3, 2, 0, 1))
        y0: Value = b.transpose(b.conv(last, weights, **PLAIN), perm=(0, 2, 3, 1))
        return y0

    module = graph([TensorType(F32, x.shape)], make)
    program = lower(_with_order(module), HOST, {})
    assert has_scratch(program)
    found = Code([program], HOST).run(program, {"x0": x})["y0"]
    assert_near(found, convolved(x, w.transpose(3, 2, 0, 1)), ERROR_LIMIT)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("level", LEVELS)
def test_a_third_axis_counts_as_channels(depth: int, level: str) -> None:
    x, w = numbers(2, 5, 15, 14, 33), numbers(35, 33, depth, 3, 3, seed=1)
    wanted = sum(
        np.stack([convolved(x[:, t + i], w[:, :, i]) for t in range(6 - depth)], axis=1)
        for i in range(depth)
    )

    def make(b: GraphBuilder, value: Value) -> Value:
        last = b.transpose(value, perm=(0, 4, 1, 2, 3))
        y = b.conv(last, b.constant(w), strides=(1, 1, 1), pads=((0, 0),) * 3,
                   dilations=(1, 1, 1), groups=1)  # fmt: skip
        y0: Value = b.transpose(y, perm=(0, 2, 3, 4, 1))
        return y0

    check(graph([TensorType(F32, x.shape)], make), {"x0": x}, wanted, parse_target(level))


def _with_order(module: Module) -> Module:
    """Run the passes that lowering needs, which leave the weights' transpose in place."""
    run(module, PassContext(target=HOST, level=2, disabled={"fold", "fold-again"}))
    return module


# -- results ------------------------------------------------------------------------------------

SHAPES = [
    (1, 16, 16, 32, 32),
    (1, 13, 17, 33, 40),
    (2, 9, 30, 48, 70),
    (3, 7, 7, 64, 32),
    (1, 7, 7, 96, 128),
    (1, 13, 13, 259, 32),
    (5, 4, 5, 40, 34),
    (1, 41, 43, 32, 33),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_odd_sizes_equal_float64(shape: tuple[int, ...], level: str) -> None:
    images, height, width, inputs, outputs = shape
    x, w = numbers(images, height + 2, width + 2, inputs), numbers(outputs, inputs, 3, 3, seed=1)
    check(conv_graph(x.shape, w), {"x0": x}, convolved(x, w), parse_target(level))


@pytest.mark.parametrize("size", [6, 7])
def test_rows_of_a_multiple_of_4_kib_equal_float64(size: int) -> None:
    x, w = numbers(2, size + 2, size + 2, 1024), numbers(32, 1024, 3, 3, seed=1)
    check(conv_graph(x.shape, w), {"x0": x}, convolved(x, w), HOST)


@pytest.mark.parametrize("level", LEVELS)
def test_epilogues_are_evaluated_on_the_outputs(level: str) -> None:
    x, w, r = numbers(2, 15, 16, 32), numbers(40, 32, 3, 3, seed=1), numbers(2, 13, 14, 40, seed=2)
    bias = numbers(40, seed=3)

    def make(b: GraphBuilder, value: Value, other: Value) -> Value:
        last = b.transpose(value, perm=(0, 3, 1, 2))
        y = b.conv(last, b.constant(w), **PLAIN)
        y = b.add(y, b.reshape(b.constant(bias), shape=(1, 40, 1, 1)))
        y = b.relu(b.add(y, b.transpose(other, perm=(0, 3, 1, 2))))
        y0: Value = b.transpose(b.tanh(y), perm=(0, 2, 3, 1))
        return y0

    module = graph([TensorType(F32, x.shape), TensorType(F32, r.shape)], make)
    total = convolved(x, w)
    wanted = np.tanh(np.maximum(total + bias + r, 0))
    target = parse_target(level)
    program = lowered(module, target)
    assert has_scratch(program)
    found = Code([program], target).run(program, {"x0": x, "x1": r})["y0"]
    assert np.abs(found - wanted).max() <= ERROR_LIMIT * np.abs(total).max()


def test_padded_convolutions_follow_one_another() -> None:
    x, w = numbers(1, 32, 15, 18), numbers(48, 32, 3, 3, seed=1) / 16
    first, second = numbers(32, 32, 1, 1, seed=2) / 5, numbers(32, 48, 3, 3, seed=3) / 16

    def make(b: GraphBuilder, value: Value) -> Value:
        y = b.conv(value, b.constant(first), **PLAIN)
        y = b.relu(b.conv(y, b.constant(w), **(PLAIN | {"pads": SAME})))
        y0: Value = b.conv(y, b.constant(second), **(PLAIN | {"pads": SAME}))
        return y0

    border = [(0, 0), (1, 1), (1, 1), (0, 0)]
    y = x.transpose(0, 2, 3, 1).astype(np.float64) @ first[:, :, 0, 0].T.astype(np.float64)
    y = np.maximum(convolved(np.pad(y, border), w), 0)
    wanted = convolved(np.pad(y, border), second).transpose(0, 3, 1, 2)
    program = check(graph([TensorType(F32, x.shape)], make), {"x0": x}, wanted, HOST)
    scratch = [
        function
        for function in program.functions.values()
        if any("threads" in symbols_of(arg.type.shape[0]) for arg in function.args)  # type: ignore[union-attr]
        and function.kind == "kernel"
    ]
    assert len(scratch) == 2


@pytest.mark.parametrize("level", LEVELS)
def test_symbolic_sizes_run_with_one_kernel(level: str) -> None:
    n, h, w = (symbol(name) for name in "NHW")
    kernel = numbers(32, 32, 3, 3, seed=1)
    symbols = {name: SymbolInfo() for name in "NHW"}
    module = conv_graph((n, h + 2, w + 2, 32), kernel, symbols=symbols)
    target = parse_target(level)
    program = lowered(module, target)
    assert has_scratch(program)
    code = Code([program], target)
    for images, height, width in ((1, 1, 1), (2, 4, 5), (1, 30, 7), (3, 13, 14)):
        x = numbers(images, height + 2, width + 2, 32)
        sizes = {"N": images, "H": height, "W": width}
        found = code.run(program, {"x0": x}, sizes)["y0"]
        wanted = convolved(x, kernel)
        assert found.shape == wanted.shape
        if wanted.size:
            assert_near(found, wanted, ERROR_LIMIT)


@pytest.mark.parametrize(("height", "width"), [(7, 8), (13, 14)])
def test_every_access_is_inside_its_buffer(height: int, width: int) -> None:
    x, w = numbers(1, height + 2, width + 2, 33), numbers(34, 33, 3, 3, seed=1)
    program = lowered(conv_graph(x.shape, w), parse_target("avx512"))
    assert has_scratch(program)
    found = run_program(program, {"x0": x}, {"threads": 3})["y0"]
    assert_near(found, convolved(x, w), ERROR_LIMIT)


def test_a_clipped_row_spoils_no_other() -> None:
    """Rows beyond the last one are the last one's: whatever lies behind the picture is not read."""
    x, w = numbers(2, 15, 15, 32), numbers(32, 32, 3, 3, seed=1)
    program = lowered(conv_graph(x.shape, w))
    code = Code([program], HOST)
    clean = code.run(program, {"x0": x})["y0"]
    x[1] = np.inf
    assert np.array_equal(code.run(program, {"x0": x})["y0"][0], clean[0])


# -- threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 30, 31, 64, 64), (1, 14, 14, 64, 96), (1, 55, 54, 32, 48)])
def test_threads_change_no_bit(shape: tuple[int, ...]) -> None:
    images, height, width, inputs, outputs = shape
    x, w = numbers(images, height + 2, width + 2, inputs), numbers(outputs, inputs, 3, 3, seed=1)
    module = conv_graph(x.shape, w)
    results = []
    for threads in (1, 2, 3, 4):
        run_it = tfc.compile(tfc.Graph(module), threads=threads)
        results += [run_it(x) for _ in range(3)]
    assert_near(results[0], convolved(x, w), ERROR_LIMIT)
    assert all(result.tobytes() == results[0].tobytes() for result in results[1:])


def test_memory_for_each_thread_lies_behind_the_rest() -> None:
    threads = symbol("threads")
    buffers = [Lifetime(100, 0, 1), Lifetime(threads * 64, 1, 1), Lifetime(threads * 32, 2, 2)]
    plan = plan_memory([*buffers, Lifetime(40, 2, 3)], [100, 64, 32, 40])
    assert plan.offsets == (0, 128, 128, 0)
    assert "threads" in symbols_of(plan.size)
