"""Gradients as graphs of their own: compiled, of gradients again, and of symbolic shapes.

That they are the slopes is in `test_registry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import tfc
from tests.conformance.cases import (
    COMPUTING,
    Case,
    GraphEvaluator,
    build,
    cases,
    differentiable,
    make_attrs,
)
from tests.conformance.test_native import SYMBOLIC
from tests.lower.native import graph
from tests.ops.support import fix, fix_attrs
from tfc.graph import Graph
from tfc.ir.arrays import Array, numpy_dtype
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import symbol
from tfc.ir.interp import evaluate
from tfc.ir.opdef import OPS, Kind, NoGrad, OpDef
from tfc.ir.ops.common import THROUGH
from tfc.ir.reverse import gradients, vjp
from tfc.ir.types import F32, F64, I64, TensorType
from tfc.ir.verify import verify

DIFFERENTIABLE = [
    name
    for name in COMPUTING
    if not isinstance(OPS[name].grad, NoGrad) or OPS[name].grad == THROUGH
]
TOL = 2e-5
N, M = symbol("N"), symbol("M")
SIZES = ((3, 5), (1, 2), (17, 2))
UNKNOWN_EQUAL = ((N, M), (M, M))
"""Shapes that broadcast only if a run has N = M, or one of them 1."""


def _operands(op: OpDef, attrs: Any, types: Sequence[TensorType]) -> list[TensorType]:
    """The types of the operands, then those of the results, for cotangents."""
    return [*types, *op.check(types, attrs)]


def _backward(op: OpDef, attrs: Any, count: int, end: int | None = None) -> Any:
    """Takes `count` operands, then cotangents up to `end`; gives the gradients there are."""

    def make(b: GraphBuilder, *args: Value) -> list[Value]:
        made = b.emit(op, args[:count], attrs)
        return [g for g in vjp(b, made, args[count:end]) if g is not None]

    return make


def _cotangents(types: Sequence[TensorType], shapes: Sequence[Any]) -> list[Array]:
    found = []
    for k, (type, shape) in enumerate(zip(types, shapes, strict=True)):
        numbers = np.random.default_rng(k).uniform(0.5, 1.5, shape)
        found.append(numbers.astype(numpy_dtype(type.dtype)))
    return found


def _close(found: Any, want: Any, what: str) -> None:
    scale = max(1.0, float(np.max(np.abs(want), initial=0)))
    np.testing.assert_allclose(found, want, rtol=0, atol=TOL * scale, err_msg=what)


def test_ops_of_floats_to_floats_have_gradients() -> None:
    """Having none is for what takes no floats or gives none, and for a scale made by the way."""
    for name in sorted(set(COMPUTING) - set(DIFFERENTIABLE) - {"dynamic_quantize_linear"}):
        for case in cases(OPS[name]):
            results = OPS[name].check(case.types, case.attrs)
            sides = (any(t.dtype.is_float for t in side) for side in (case.types, results))
            assert not all(sides), f"{case} has no gradient"


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_compile_to_what_the_interpreter_gives(name: str) -> None:
    op = OPS[name]
    picked = [
        case for case in cases(op)
        if " as " not in case.label and any(t.dtype == F32 and t.size for t in case.types)
    ][:3]  # fmt: skip
    picked = [case for case in picked if all(np.isfinite(x).all() for x in case.operands)]
    assert picked
    types: list[TensorType] = []
    parts = []
    inputs: list[Array] = []
    for case in picked:
        results = op.check(case.types, case.attrs)
        parts.append((case, len(types), len(results)))
        types += [*case.types, *results]
        inputs += [*case.operands, *_cotangents(results, [t.shape for t in results])]

    def make(b: GraphBuilder, *args: Value) -> list[Value]:
        found = []
        for case, at, results in parts:
            count = len(case.types)
            taken = args[at : at + count + results]
            found += _backward(op, case.attrs, count)(b, *taken)
        return found

    module = graph(types, make)
    verify(module)
    want = _interpreted(module, inputs)
    found = tfc.compile(Graph(module), threads=1)(*inputs)
    for got, wanted in zip([found] if len(want) == 1 else found, want, strict=True):
        _close(got, wanted, name)


def _interpreted(module: Module, inputs: Sequence[Array]) -> list[Array]:
    assert module.constants is not None
    named = {f"x{i}": x for i, x in enumerate(inputs)}
    return list(evaluate(module, named, module.constants).values())  # type: ignore[arg-type]


# -- the second order ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_have_gradients(name: str) -> None:
    """d/dx of v . (d/dx of g . op(x)) against differences of the inner gradient."""
    case = next(c for c in differentiable(OPS[name]) if all(type.size for type in c.types))
    builder, op = build(case)
    inputs: dict[Value, Array] = dict(zip(op.operands, case.operands, strict=True))
    results = [tensor_type(value) for value in op.results]
    weights = _cotangents(results, [t.shape for t in results])
    given = [builder.block.add_arg(value.type) for value in op.results]
    inputs.update(zip(given, weights, strict=True))
    first = [g for g in vjp(builder, op, given) if g is not None]
    seeds = [builder.block.add_arg(g.type) for g in first]
    for k, seed in enumerate(seeds):
        shape = tensor_type(seed).shape
        inputs[seed] = np.random.default_rng(k).uniform(0.5, 1.5, shape)
    floats = [x for x in op.operands if tensor_type(x).dtype == F64]
    second = gradients(builder, first, seeds, floats)
    run = GraphEvaluator(builder.constants, inputs)
    for operand, g in zip(floats, second, strict=True):
        got = np.zeros(inputs[operand].shape) if g is None else run(g)
        _check_slopes(case, builder, inputs, operand, first, seeds, got)


def _check_slopes(
    case: Case, builder: GraphBuilder, inputs: dict[Value, Array], operand: Value,
    first: Sequence[Value], seeds: Sequence[Value], got: Array,
) -> None:  # fmt: skip
    x = inputs[operand]
    for flat in np.random.default_rng(0).choice(x.size, min(x.size, 4), replace=False):
        at = np.unravel_index(flat, x.shape)
        step = 1e-5 * max(1.0, abs(float(x[at])))
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[at] += sign * step
            run = GraphEvaluator(builder.constants, {**inputs, operand: moved})
            ends.append(
                sum(float((inputs[s] * run(g)).sum()) for s, g in zip(seeds, first, strict=True))
            )
        slope = (ends[0] - ends[1]) / (2 * step)
        assert abs(slope - got[at]) <= 1e-5 * (10 + abs(slope)), f"{case}: {got[at]}, not {slope}"


# -- symbolic shapes ----------------------------------------------------------------------------


def _symbolic_cases() -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = [
        (name, shapes, make_attrs(OPS[name], attrs))
        for name, shapes, attrs in SYMBOLIC
        if name in DIFFERENTIABLE
    ]
    for name in DIFFERENTIABLE:
        op = OPS[name]
        case = next(case for case in cases(op) if all(type.size for type in case.types))
        if op.kind is Kind.ELEMENTWISE and all(t.dtype == F32 for t in case.types):
            found.append((name, ((N, M), (N, 1), (M,))[: len(case.types)], case.attrs))
    found.append(("add", UNKNOWN_EQUAL, make_attrs(OPS["add"], {})))
    return found


CASES = _symbolic_cases()


@pytest.mark.parametrize(
    ("name", "shapes", "attrs"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_gradients_of_symbolic_shapes_are_those_of_fixed_ones(
    name: str, shapes: Any, attrs: Any
) -> None:
    op = OPS[name]
    integers = {"gather": {1}}.get(name, set())
    types = [TensorType(I64 if k in integers else F32, shape) for k, shape in enumerate(shapes)]
    count = len(types)
    types = _operands(op, attrs, types)
    # The last two say what the symbols are.
    bare = [TensorType(F32, (dim,)) for dim in (N, M)]
    symbols_known = {"N": SymbolInfo(), "M": SymbolInfo()}
    module = graph([*types, *bare], _backward(op, attrs, count, len(types)), symbols_known)
    verify(module)
    run = tfc.compile(Graph(module), threads=1)
    for n, m in SIZES:
        symbols = {"N": m if shapes == UNKNOWN_EQUAL and n != 1 else n, "M": m}
        fixed = [TensorType(t.dtype, fix(t.shape, symbols)) for t in (*types, *bare)]
        inputs = []
        for k, type in enumerate(fixed):
            numbers = np.random.default_rng(k).uniform(0.3, 0.9, type.shape)
            inputs.append(numbers.astype(numpy_dtype(type.dtype)))
        static = graph(fixed, _backward(op, fix_attrs(attrs, symbols), count, len(types)))
        want = _interpreted(static, inputs)
        found = run(*inputs)
        for way in (_interpreted(module, inputs), [found] if len(want) == 1 else list(found)):
            for got, wanted in zip(way, want, strict=True):
                _close(got, wanted, f"{name} at {symbols}")
