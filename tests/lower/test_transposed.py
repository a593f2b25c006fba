"""Copies that turn data around: squares in registers, their edges, what else they compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import Code, can_run, graph
from tfc.compiler.build import Options
from tfc.compiler.codegen.host import host_target
from tfc.compiler.driver import lower_module
from tfc.compiler.inplace import make_in_place
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import Target, parse_target
from tfc.graph import Graph
from tfc.ir.arrays import Array, numpy_dtype
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import symbol, symbols_of
from tfc.ir.loop.interp import run_program
from tfc.ir.types import BOOL, F16, F32, F64, I32, I64, U8, DType, TensorType
from tfc.ir.verify import verify

LEVELS = [level for level in ("x86-64", "avx2", "avx512") if can_run(level)]
DTYPES = [F64, F16, I64, I32, U8, BOOL]
CASES = [
    ((16, 16), (1, 0)),
    ((17, 33), (1, 0)),
    ((50, 31), (1, 0)),
    ((3, 5, 40, 18), (0, 1, 3, 2)),
    ((2, 23, 4, 37), (0, 3, 2, 1)),
    ((1, 19, 7, 7), (0, 2, 3, 1)),
    ((70, 130), (1, 0)),
    # The last axis is short, and runs on into the one before it.
    ((2, 13, 20), (2, 1, 0)),
    ((4, 9, 33), (2, 1, 0)),
    ((2, 3, 2, 11, 17), (4, 1, 0, 3, 2)),
]


def numbers(shape: tuple[int, ...], dtype: DType) -> Array:
    rng = np.random.default_rng(0)
    kind = numpy_dtype(dtype)
    return rng.integers(0, 2 if dtype.name == "bool" else 100, shape).astype(kind)


def turned(shape: tuple[Any, ...], perm: tuple[int, ...], dtype: DType = F32) -> Module:
    symbols = {name: SymbolInfo() for dim in shape for name in symbols_of(dim)}

    def make(b: GraphBuilder, x: Value) -> Value:
        return b.transpose(x, perm=perm)  # type: ignore[no-any-return]

    return graph([TensorType(dtype, shape)], make, symbols)


def program_of(module: Module, target: Target) -> Module:
    program = lower(module, target, {})
    verify(program)
    return program


def ops_of(program: Module) -> set[str]:
    kernels = (f for f in program.functions.values() if f.kind == "kernel")
    return {op.name for kernel in kernels for op in kernel.block.walk()}


@pytest.mark.parametrize("level", LEVELS)
def test_turned_copies_are_exact(level: str) -> None:
    target = parse_target(level)
    programs, wants = [], []
    others = [((19, 50), (1, 0), dtype) for dtype in DTYPES]
    for shape, perm, dtype in [*((shape, perm, F32) for shape, perm in CASES), *others]:
        programs.append(program_of(turned(shape, perm, dtype), target))
        x = numbers(shape, dtype)
        wants.append((x, np.ascontiguousarray(x.transpose(perm))))
    code = Code(programs, target)
    for program, (x, want) in zip(programs, wants, strict=True):
        got = code.run(program, {"x0": x})["y0"]
        assert got.tobytes() == want.tobytes()
        assert run_program(program, {"x0": x})["y0"].tobytes() == want.tobytes()


def test_squares_take_the_place_of_gathers() -> None:
    target = parse_target("avx512")
    assert "gather" not in ops_of(program_of(turned((50, 31), (1, 0)), target))
    assert "shuffle" in ops_of(program_of(turned((50, 31), (1, 0)), target))
    # Too narrow, and of a size that only a run tells.
    assert "shuffle" not in ops_of(program_of(turned((50, 7), (1, 0)), target))
    assert "shuffle" not in ops_of(program_of(turned((symbol("N"), 31), (1, 0)), target))


@pytest.mark.parametrize("level", LEVELS)
def test_elementwise_work_is_done_on_the_way(level: str) -> None:
    def make(b: GraphBuilder, x: Value, y: Value, z: Value) -> Value:
        return b.relu(b.add(b.mul(b.transpose(x, perm=(1, 0)), y), z))  # type: ignore[no-any-return]

    target = parse_target(level)
    module = graph([TensorType(F32, s) for s in ((37, 50), (50, 37), (37,))], make)
    run(module, PassContext(target=target, level=2))
    program = program_of(module, target)
    assert "shuffle" in ops_of(program)
    x, y, z = (numbers(s, F32) - 50 for s in ((37, 50), (50, 37), (37,)))
    got = Code([program], target).run(program, {"x0": x, "x1": y, "x2": z})["y0"]
    np.testing.assert_array_equal(got, np.maximum(x.T * y + z, 0))


def test_a_result_in_the_memory_of_an_operand_is_made_one_by_one() -> None:
    """The last square overlaps the one before, and would read what that has written."""
    x, y = tfc.placeholder((50, 37), name="x"), tfc.placeholder((37, 50), name="y")
    module = Graph.of({"z": x.transpose(1, 0) + y}, inputs=[x, y]).copy()
    make_in_place(module, {"y": "z"})
    program = lower_module(module, Options(host_target()))
    assert "shuffle" not in ops_of(program)
