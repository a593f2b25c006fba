"""Machine code equals the reference: every op on every sample, at several targets and levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tests.conformance.cases import (
    COMPUTING,
    Case,
    assert_close,
    call,
    cases,
    cases_in_turn,
    make_attrs,
    reference,
    rounded,
)
from tests.lower.native import Code, can_run, graph, lowered
from tests.ops.support import fix, fix_attrs
from tfc.compiler.codegen.host import host_target
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import Target, parse_target
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import DimLike, floordiv, symbol, symbols_of
from tfc.ir.opdef import OPS, Kind, OpDef
from tfc.ir.types import F32, TensorType

LOWERED = COMPUTING
COMPOSITE = [n for n in LOWERED if OPS[n].decompose is not None]
ELEMENTWISE = [n for n in LOWERED if OPS[n].kind is Kind.ELEMENTWISE]
# Narrower than most machines: without masks and fused operations, and with 16 registers.
LEVELS = tuple(level for level in ("x86-64", "avx2") if can_run(level))
MANY, FEW = 48, 6
# Beyond these the ops promise a result in range only.
LARGEST = {"sin": 1e8, "cos": 1e8, "tan": 1e8}


def _module(
    op: OpDef,
    attrs: Any,
    types: Sequence[TensorType],
    symbols: Mapping[str, SymbolInfo] | None = None,
) -> Module:
    def make(b: GraphBuilder, *args: Value) -> Sequence[Value]:
        return b.emit(op, args, attrs).results

    return graph(types, make, symbols)


def _program(module: Module, target: Target, level: int) -> Module:
    run(module, PassContext(target=target, level=level))
    return lowered(module, target)


def _check(picked: Sequence[Case], target: Target, level: int) -> None:
    programs = [_program(_module(c.op, c.attrs, c.types), target, level) for c in picked]
    code = Code(programs, target)
    for case, program in zip(picked, programs, strict=True):
        inputs = {
            f"x{i}": arrays.encode(x, type.dtype)
            for i, (x, type) in enumerate(zip(case.operands, case.types, strict=True))
        }
        found = code.run(program, inputs)
        types = case.op.check(case.types, case.attrs)
        for k, (want, type) in enumerate(zip(reference(case), types, strict=True)):
            _compare_one(case.op, str(case), found[f"y{k}"], want, type, case.operands)


def _compare_one(
    op: OpDef, what: str, raw: Array, want: Array, type: TensorType, operands: Sequence[Array]
) -> None:
    got = arrays.decode(raw, type.dtype)
    if op.name in LARGEST:
        near = np.abs(operands[0].astype(np.float64)) <= LARGEST[op.name]
        got, want = got[near], want[near]
    assert_close(got, want, op.tol.get(type.dtype.name), what)


def _spread(found: Sequence[Case], most: int) -> Sequence[Case]:
    """At most so many of the cases, at equal distances, the first among them."""
    return found[:: max(-(-len(found) // most), 1)]


@pytest.mark.parametrize("name", LOWERED)
def test_native_code_equals_reference(name: str) -> None:
    _check(_spread(cases_in_turn(OPS[name]), MANY), host_target(), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOWERED)
def test_native_code_equals_reference_on_every_sample_in_every_type(name: str) -> None:
    _check(list(cases(OPS[name])), host_target(), 2)


@pytest.mark.parametrize("name", COMPOSITE)
def test_unfused_decompositions_equal_reference(name: str) -> None:
    _check([case for case in cases(OPS[name]) if case.types[0].dtype == F32], host_target(), 0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", LOWERED)
def test_code_for_lesser_machines_equals_reference(name: str, level: str) -> None:
    samples = [case for case in cases(OPS[name]) if " as " not in case.label]
    _check(_spread(samples, FEW), parse_target(level), 2)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", LOWERED)
def test_code_for_lesser_machines_equals_reference_on_every_sample(name: str, level: str) -> None:
    samples = [case for case in cases(OPS[name]) if " as " not in case.label]
    _check(samples, parse_target(level), 2)


# -- symbolic shapes ----------------------------------------------------------------------------

N, M = symbol("N"), symbol("M")
SIZES = ((0, 3), (1, 1), (3, 17), (17, 0), (64, 5))
WINDOW = {"strides": (2, 1), "pads": ((1, 2), (0, 1)), "dilations": (1, 2)}
SAME = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)}

Shapes = tuple[tuple[DimLike, ...], ...]

SYMBOLIC: list[tuple[str, Shapes, dict[str, Any]]] = [
    ("reshape", ((N, 6, M),), {"shape": (N * 2, 3, M)}),
    ("reshape", ((4, N),), {"shape": (N, 4)}),
    ("reshape", ((N, M, 2),), {"shape": (N * M * 2,)}),
    ("transpose", ((N, 3, M),), {"perm": (2, 0, 1)}),
    ("transpose", ((N, M),), {"perm": (1, 0)}),
    ("broadcast", ((N, 1, M),), {"shape": (N, 3, M)}),
    ("slice", ((N + 3, 4),), {"starts": (N + 2, 1), "sizes": (N + 1, 3), "steps": (-1, 1)}),
    ("slice", ((2 * N, M),), {"starts": (1, 0), "sizes": (N, M), "steps": (2, 1)}),
    ("concat", ((N, 2), (3, 2), (M, 2)), {"axis": 0}),
    ("concat", ((2, N), (2, 3), (2, M)), {"axis": 1}),
    ("pad", ((N, M),), {"lo": (2, 0), "hi": (M, 1), "mode": "constant"}),
    ("pad", ((N + 1, 3),), {"lo": (2, 0), "hi": (4, 1), "mode": "edge"}),
    ("tile", ((N, 3),), {"repeats": (2, 4)}),
    ("reduce_sum", ((N, M, 2),), {"axes": (0, 2), "keepdims": False}),
    ("reduce_sum", ((N, M),), {"axes": (1,), "keepdims": False}),
    ("reduce_sum", ((M, N),), {"axes": (0,), "keepdims": True}),
    ("reduce_max", ((N, M),), {"axes": (1,), "keepdims": True}),
    ("reduce_prod", ((N, M),), {"axes": (0, 1), "keepdims": False}),
    ("argmax", ((N, M + 1),), {"axis": 1, "keepdims": False, "last": False}),
    ("argmin", ((N + 1, M),), {"axis": 0, "keepdims": False, "last": True}),
    ("cumsum", ((N, M),), {"axis": 1, "exclusive": True, "reverse": True}),
    ("matmul", ((N, M), (M, 24)), {}),
    ("matmul", ((N, 40), (40, 24)), {}),
    ("matmul", ((5, N), (N, M)), {}),
    ("matmul", ((2, N, M), (M, 3)), {}),
    ("matmul", ((N, 3, 8), (N, 8, M)), {}),
    ("matmul", ((M,), (M, N)), {}),
    ("conv", ((N, 3, 9, 8), (4, 3, 3, 2)), {**WINDOW, "groups": 1}),
    ("conv", ((N, 4, 5, 6), (8, 2, 3, 3)), {**SAME, "groups": 2}),
    ("conv", ((N, 8, 5, 6), (8, 1, 3, 3)), {**SAME, "groups": 8}),
    ("conv", ((1, 3, N + 2, M + 2), (16, 3, 3, 3)), {**SAME, "groups": 1}),
    ("conv_transpose", ((N, 2, 4, 5), (2, 3, 3, 2)), {
        **WINDOW, "groups": 1, "output_padding": (0, 0),
    }),
    ("max_pool", ((N, 2, 6, 7),), {"kernel": (3, 2), **WINDOW}),
    ("max_pool", ((1, 2, N + 3, M + 3),), {"kernel": (3, 3), **SAME}),
    ("avg_pool", ((N, M, 6, 7),), {"kernel": (3, 2), **WINDOW, "count_include_pad": False}),
    ("softmax", ((N, M),), {"axis": 1}),
    ("softmax", ((N, M),), {"axis": 0}),
    ("log_softmax", ((3, N, M),), {"axis": 2}),
    ("layer_norm", ((N, M + 1), (M + 1,), (M + 1,)), {"axis": 1, "eps": 1e-5}),
    ("reduce_mean", ((N + 1, M),), {"axes": (0,), "keepdims": True}),
    ("gather", ((N + 1, M), (M, 2)), {"axis": 0}),
    ("trilu", ((N, M),), {"upper": False, "k": 1}),
    ("sort", ((N, M),), {"axis": 1}),
    ("sort", ((N, M),), {"axis": 0, "descending": True}),
    ("top_k", ((N + 2, M),), {"axis": 0, "k": 2}),
    ("top_k", ((N, M + 1),), {"axis": 1, "k": M}),
    ("positions", ((N,),), {"count": floordiv(N, 2)}),
    ("unique", ((N, M),), {"axis": 0, "ordered": True}),
    ("unique", ((M,),), {"axis": 0, "ordered": False}),
    ("non_max_suppression", ((N, M, 4), (N, 2, M)), {"max_out": 3, "iou": 0.2}),
    ("non_max_suppression", ((1, N, 4), (1, M, N)), {"max_out": N, "score": 0.5}),
    ("resize", ((1, 2, N + 1),), {
        "sizes": (1, 2, floordiv(3 * (N + 1), 2)), "scales": (1.0, 1.0, 1.5), "mode": "linear",
        "coordinate": "half_pixel", "nearest": "round_prefer_floor",
    }),
]  # fmt: skip


def _check_symbolic(
    op: OpDef,
    shapes: Shapes,
    attrs: Any,
    values: Sequence[Array],
    target: Target,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> None:
    """Compile once, and run at several sizes; operands repeat the numbers of `values`."""
    types = [TensorType(arrays.dtype_of(x), shape) for x, shape in zip(values, shapes, strict=True)]
    names = sorted({name for shape in shapes for dim in shape for name in symbols_of(dim)})
    module = _module(op, attrs, types, {name: SymbolInfo() for name in names})
    result_types = [value.type for value in module.main.outputs]
    program = _program(module, target, 2)
    code = Code([program], target)
    for n, m in sizes:
        symbols = {"N": n, "M": m}
        operands = [
            np.resize(x, fix(shape, symbols)) for x, shape in zip(values, shapes, strict=True)
        ]
        found = code.run(program, {f"x{i}": x for i, x in enumerate(operands)})
        for k, want in enumerate(call(op, fix_attrs(attrs, symbols), *operands)):
            type = result_types[k]
            assert isinstance(type, TensorType)
            what = f"{op.name} on {shapes} at {symbols}"
            _compare_one(op, what, found[f"y{k}"], rounded(want, type.dtype), type, operands)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_code_for_any_size_equals_reference(name: str) -> None:
    op = OPS[name]
    case = next(case for case in cases(op) if all(type.size for type in case.types))
    count = len(case.operands)
    shapes = ((N, M), (N, 1), (M,), (N, M))[:count]
    _check_symbolic(op, shapes, case.attrs, case.operands, host_target())
    _check_symbolic(op, ((N,),) * count, case.attrs, case.operands, host_target())


@pytest.mark.parametrize(
    ("name", "shapes", "attrs"), SYMBOLIC, ids=[f"{c[0]}-{i}" for i, c in enumerate(SYMBOLIC)]
)
@pytest.mark.parametrize("level", ["host", "x86-64"])
def test_code_for_any_size_equals_reference(
    name: str, shapes: Shapes, attrs: dict[str, Any], level: str
) -> None:
    if level != "host" and not can_run(level):
        pytest.skip(f"no {level} machine")
    target = host_target() if level == "host" else parse_target(level)
    op = OPS[name]
    values: list[Array] = [
        np.random.default_rng(i).uniform(-1, 1, 97).astype(np.float32) for i in range(3)
    ]
    if name == "gather":
        values[1] = np.array([0, -1, 1, 0, 2])
    if name == "positions":
        values[0] = values[0] > 0
    _check_symbolic(op, shapes, make_attrs(op, attrs), values[: len(shapes)], target)
