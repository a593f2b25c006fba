"""What is vectorised, and how work is split into tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.lower.native import graph, lowered
from tests.lower.nests import FREE, Make, extents, fused, nest_of, tensors
from tfc.compiler.lower.normal import normalise
from tfc.compiler.lower.plan import Plan, Planner
from tfc.compiler.target import parse_target
from tfc.ir.core import Module, ops_of
from tfc.ir.dims import DimLike, symbol
from tfc.ir.text import print_module
from tfc.ir.types import F16, F64, TensorType

N = symbol("N")
AVX512 = parse_target("avx512")


def _plan(types: list[TensorType], make: Make, target: Any = AVX512) -> Plan:
    return Planner(normalise(nest_of(types, make, symbolic=True)), target, {"N": 64}).plan()


def _softmax(b: Any, x: Any) -> Any:
    def inner(b: Any, x: Any) -> Any:
        e = b.exp(b.sub(x, b.reduce_max(x, axes=(1,), keepdims=True)))
        return b.div(e, b.reduce_sum(e, axes=(1,), keepdims=True))

    return fused(b, inner, x)


CASES: list[tuple[str, list[TensorType], Make, DimLike | None, int]] = [
    ("elementwise: all elements", tensors((64, 100)), lambda b, x: b.relu(x), 6400, 16),
    ("few elements: as many lanes", tensors((5,)), lambda b, x: b.relu(x), 5, 8),
    ("f64: half the lanes", tensors((64, 100), dtype=F64), lambda b, x: b.relu(x), 6400, 8),
    ("f16: lanes of f32", tensors((64, 100), dtype=F16), lambda b, x: b.exp(x), 6400, 16),
    ("a row added to a matrix: columns", tensors((64, 96), (96,)),
     lambda b, x, y: b.add(x, y), 96, 16),
    ("a column added to a matrix: columns", tensors((64, 96), (64, 1)),
     lambda b, x, y: b.add(x, y), 96, 16),
    ("symbolic rows: all elements", tensors((N, 100)), lambda b, x: b.relu(x), 100 * N, 16),
    ("sums of columns: columns", tensors((64, 100)),
     lambda b, x: b.reduce_sum(x, axes=(0,), keepdims=False), 100, 16),
    ("sums of long rows: along the rows", tensors((64, 1000)),
     lambda b, x: b.reduce_sum(x, axes=(1,), keepdims=False), None, 16),
    ("softmax of rows: along the rows", tensors((64, 1000)), _softmax, None, 16),
]  # fmt: skip


@pytest.mark.parametrize(("types", "make", "extent", "width"), [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
def test_the_vectorised_iterator(
    types: list[TensorType], make: Make, extent: DimLike | None, width: int
) -> None:
    plan = _plan(types, make)
    assert (plan.lane.extent if plan.lane is not None else None) == extent
    assert plan.width == width


def test_rows_of_a_row_kernel_are_outside_and_elements_inside() -> None:
    plan = _plan(tensors((64, 1000)), _softmax)
    assert (extents(plan.rows), extents(plan.inner)) == ([64], [1000])


@pytest.mark.parametrize("target", ["x86-64", "avx2", "avx512"])
def test_lanes_fill_a_vector(target: str) -> None:
    machine = parse_target(target)
    plan = _plan(tensors((64, 1000)), lambda b, x: b.relu(x), machine)
    assert plan.width * 32 == machine.vector_bits


# -- tasks --------------------------------------------------------------------------------------


def _program(types: list[TensorType], make: Make, cores: int = 2) -> Module:
    return lowered(graph(types, make, FREE), replace(AVX512, cores=cores))


BIG: dict[str, tuple[list[TensorType], Make]] = {
    "elementwise": (tensors((512, 1024)), lambda b, x: b.exp(x)),
    "softmax": (tensors((512, 1024)), _softmax),
    "matmul": (tensors((256, 256), (256, 512)), lambda b, x, w: b.matmul(x, w)),
    "symbolic": (tensors((N, 1024)), lambda b, x: b.exp(x)),
    "sum": (tensors((512, 4096)), lambda b, x: b.reduce_sum(x, axes=(1,), keepdims=False)),
}


def _tasks(program: Module) -> int:
    return sum(op.name == "parallel" for op in ops_of(program.functions.values()))


@pytest.mark.parametrize("name", BIG)
def test_large_work_is_split_the_same_for_any_number_of_cores(name: str) -> None:
    types, make = BIG[name]
    one, many = _program(types, make, 1), _program(types, make, 64)
    assert _tasks(one) >= 1
    assert print_module(one) == print_module(many)


@pytest.mark.parametrize("name", ["elementwise", "softmax", "sum"])
def test_small_work_is_not_split(name: str) -> None:
    _, make = BIG[name]
    assert _tasks(_program(tensors((4, 8)), make)) == 0


def test_work_of_unknown_size_is_split_on_a_condition() -> None:
    program = _program(*BIG["symbolic"])
    (op,) = (op for op in ops_of(program.functions.values()) if op.name == "parallel")
    assert len(op.operands) == 2


@pytest.mark.parametrize(("rows", "streams"), [(512, True), (16, False)])
def test_sums_of_more_than_the_cache_holds_read_ahead(rows: int, streams: bool) -> None:
    program = _program(
        tensors((rows, 4096)), lambda b, x: b.reduce_sum(x, axes=(1,), keepdims=False)
    )
    assert any(op.name == "prefetch" for op in ops_of(program.functions.values())) == streams
