"""What holds for every op of the registry, tried on every one of its samples."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import tfc.ir.ops
from tests.conformance.cases import (
    COMPUTING,
    Case,
    GraphEvaluator,
    assert_close,
    build,
    by_body,
    by_loops,
    call,
    cases,
    cases_in_turn,
    differentiable,
    make_attrs,
    reference,
    strided,
)
from tfc.ir.arrays import Array
from tfc.ir.build import tensor_type
from tfc.ir.dims import UndecidableError
from tfc.ir.opdef import OPS, Kind, NoGrad, Trait, TypeRefusal
from tfc.ir.ops.common import THROUGH
from tfc.ir.reverse import vjp
from tfc.ir.types import BOOL, I64, DType

HELPERS = {"common", "windows"}
WITH_BODY = [name for name in COMPUTING if OPS[name].body is not None]
WITH_LOOPS = [name for name in COMPUTING if OPS[name].loops is not None]
COMPOSITE = [name for name in COMPUTING if OPS[name].decompose is not None]
DIFFERENTIABLE = [
    name
    for name in COMPUTING
    if not isinstance(OPS[name].grad, NoGrad) or OPS[name].grad == THROUGH
]


def _with_trait(trait: Trait) -> list[str]:
    return [name for name in COMPUTING if trait in OPS[name].traits]


def test_every_module_of_the_folder_is_a_listed_family() -> None:
    modules = {module.name for module in pkgutil.iter_modules(tfc.ir.ops.__path__)}
    listed = {family.__name__.rpartition(".")[2] for family in tfc.ir.ops.FAMILIES}
    assert listed == modules - HELPERS


def test_every_op_computes_in_one_way_and_says_what() -> None:
    for op in OPS.values():
        ways = [op.body is not None, op.decompose is not None, op.loops is not None]
        assert sum(ways) == (op.kind is not Kind.CONTROL), op.name
        assert (op.loops is not None) == (op.kind is Kind.OPAQUE), op.name
        assert (op.decompose is not None) == (op.kind is Kind.COMPOSITE), op.name
        assert op.doc.rstrip().endswith("."), op.name


@pytest.mark.parametrize("name", COMPUTING)
def test_samples_take_in_an_empty_tensor_and_something_is_refused(name: str) -> None:
    op = OPS[name]
    types = [type for case in cases(op) for type in op.check(case.types, case.attrs)]
    types += [type for case in cases(op) for type in case.types]
    assert op.rejects(), f"{name} has no rejects"
    assert any(type.size == 0 for type in types), f"{name} has no sample with an empty tensor"


@pytest.mark.parametrize("name", COMPUTING)
def test_types_are_those_of_the_reference_result(name: str) -> None:
    for case in cases(OPS[name]):
        types = case.op.check(case.types, case.attrs)
        found = call(case.op, case.attrs, *case.operands)
        assert len(found) == len(types), case
        for array, type in zip(map(np.asarray, found), types, strict=True):
            assert array.shape == type.shape, case
            held = _numpy_name(type.dtype)
            assert array.dtype.name == held, case


def _numpy_name(dtype: DType) -> str:
    """What a reference computes in: bf16 is decoded, storage types are bytes."""
    if dtype.kind == "s":
        return "uint8"
    letters = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
    name = {"bf16": "f32"}.get(dtype.name, dtype.name)
    return name if name == "bool" else letters[name[0]] + name[1:]


@pytest.mark.parametrize("name", COMPUTING)
def test_samples_and_reference_are_deterministic(name: str) -> None:
    op = OPS[name]
    for first, second in zip(cases(op), cases(op), strict=True):
        for a, b in zip(reference(first), reference(second), strict=True):
            assert_close(a, b, None, str(first))


@pytest.mark.parametrize("name", COMPUTING)
def test_rejects_are_refused_with_their_message(name: str) -> None:
    op = OPS[name]
    for reject in op.rejects():
        with pytest.raises(TypeRefusal) as caught:
            op.check(reject.types, make_attrs(op, reject.attrs))
        assert reject.message in str(caught.value), name


@pytest.mark.parametrize("name", COMPUTING)
def test_a_wrong_number_of_operands_is_refused(name: str) -> None:
    op = OPS[name]
    case = next(cases(op))
    high = op.operands[1]
    if high is not None:
        spare = case.types[0] if case.types else op.check(case.types, case.attrs)[0]
        with pytest.raises(TypeRefusal, match="operands"):
            op.check((spare,) * (high + 1), case.attrs)


@pytest.mark.parametrize("name", WITH_BODY)
def test_body_equals_reference(name: str) -> None:
    for case in cases(OPS[name]):
        _compare(case, by_body(case), reference(case))


@pytest.mark.parametrize("name", WITH_BODY)
def test_strides_of_operands_do_not_matter(name: str) -> None:
    for case in cases(OPS[name]):
        operands = [strided(x) for x in case.operands]
        _compare(case, by_body(case, operands), by_body(case))
        _compare(case, reference(case, operands), reference(case))


@pytest.mark.parametrize("name", WITH_LOOPS)
def test_loops_equal_reference(name: str) -> None:
    for case in cases_in_turn(OPS[name]):
        threads = 1 if " as " in case.label else 3
        _compare(case, by_loops(case, threads), reference(case))


@pytest.mark.parametrize("name", COMPOSITE)
def test_decomposition_equals_reference(name: str) -> None:
    for case in cases(OPS[name]):
        builder, op = build(case)
        assert case.op.decompose is not None
        outputs = case.op.decompose(builder, op)
        assert [v.type for v in outputs] == [v.type for v in op.results], case
        run = GraphEvaluator(builder.constants, dict(zip(op.operands, case.operands, strict=True)))
        _compare(case, [run(value) for value in outputs], reference(case))


@pytest.mark.parametrize("name", _with_trait(Trait.COMMUTATIVE))
def test_commutative_ops_take_their_operands_either_way(name: str) -> None:
    for case in cases(OPS[name]):
        swapped = call(OPS[name], case.attrs, *reversed(case.operands))
        _compare(case, swapped, (call(OPS[name], case.attrs, *case.operands)))


@pytest.mark.parametrize("name", _with_trait(Trait.IDEMPOTENT))
def test_idempotent_ops_change_nothing_the_second_time(name: str) -> None:
    for case in cases(OPS[name]):
        once = reference(case)
        _compare(case, reference(case, once), once)


@pytest.mark.parametrize("name", _with_trait(Trait.DIMS))
def test_reference_takes_object_arrays_of_dims(name: str) -> None:
    """Objects that hold numbers stand for dims; all operands of an elementwise op may be dims."""
    op, tried = OPS[name], 0
    elementwise = op.kind is Kind.ELEMENTWISE
    for case in cases(op):
        (type,) = op.check(case.types, case.attrs)
        if type.dtype not in (I64, BOOL):
            continue
        plain = list(case.operands)
        if elementwise:
            plain = [np.asarray(abs(x) + 1) if x.dtype == np.int64 else x for x in plain]
        symbolic = list(plain)
        for k in range(len(plain) if elementwise else min(1, len(plain))):
            if plain[k].dtype == np.int64:
                symbolic[k] = np.array(plain[k], object)
        try:
            (found,) = call(op, case.attrs, *symbolic)
        except UndecidableError:
            continue
        tried += any(x.dtype == object for x in symbolic)
        kept = np.asarray(found).astype(np.int64 if type.dtype == I64 else np.bool_)
        _compare(case, [kept], reference(case, plain))
    assert tried or not op.operands[0], f"{name} was tried on nothing"


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_equals_finite_differences(name: str) -> None:
    tried = [_check_gradient(case) for case in differentiable(OPS[name])]
    assert sum(tried), f"{name} has no sample to take a gradient of"


def _check_gradient(case: Case) -> int:
    """Compare at every (or some 40) elements of each float operand; return how many."""
    builder, op = build(case)
    inputs = dict(zip(op.operands, case.operands, strict=True))
    weights = []
    cotangents = []
    for k, (value, array) in enumerate(zip(op.results, reference(case), strict=True)):
        weights.append(np.random.default_rng(k).uniform(0.5, 1.5, array.shape))
        cotangents.append(builder.block.add_arg(value.type))
        inputs[cotangents[-1]] = weights[-1]
    found = vjp(builder, op, cotangents)
    run = GraphEvaluator(builder.constants, inputs)
    tried = 0
    for k, (operand, g) in enumerate(zip(op.operands, found, strict=True)):
        if not tensor_type(operand).dtype.is_float:
            assert g is None, f"{case}: operand {k} is not of floats but has a gradient"
            continue
        got = np.zeros(case.operands[k].shape) if g is None else run(g)
        assert g is None or g.type == operand.type, f"{case}: gradient {k} is {g.type}"
        tried += _compare_differences(case, k, got, weights)
    return tried


def _compare_differences(case: Case, k: int, got: Array, weights: Sequence[Array]) -> int:
    x = case.operands[k]
    picks: Any = np.arange(x.size)
    if x.size > 40:
        picks = np.random.default_rng(0).choice(x.size, 40, replace=False)
    for flat in picks:
        at = np.unravel_index(flat, x.shape)
        step = 1e-6 * max(1.0, abs(float(x[at])))
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[at] += sign * step
            operands = (*case.operands[:k], moved, *case.operands[k + 1 :])
            found = call(case.op, case.attrs, *operands)
            ends.append(sum(float((w * f).sum()) for w, f in zip(weights, found, strict=True)))
        slope = (ends[0] - ends[1]) / (2 * step)
        error = abs(slope - got[at])
        assert error <= 2e-6 * (10 + abs(slope)), (
            f"{case}: d/d operand {k} at {at} is {got[at]}, differences give {slope}"
        )
    return len(picks)


def _compare(case: Case, found: Sequence[Array], want: Sequence[Array]) -> None:
    types = case.op.check(case.types, case.attrs)
    for got, expected, type in zip(found, want, types, strict=True):
        assert_close(got, expected, case.op.tol.get(type.dtype.name), str(case))
