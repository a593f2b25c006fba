"""Each operator in each element type that its newest definition allows: compiled, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.frontends.dtype_cases import NEWEST, NUMPY, Variant, is_float, one_model, templates
from tests.frontends.support import Array, one_node, run
from tfc import onnx_backend
from tfc.compiler.frontends.onnx import load
from tfc.compiler.frontends.onnx.table import RULES
from tfc.compiler.frontends.onnx.tensors import _PACKED, DTYPES
from tfc.ir.errors import TfcError, UsageError
from tfc.ir.interp import evaluate

# Operators that have tests of their own, since no template says what they give.
ELSEWHERE = {
    "Bernoulli": "random numbers",
    "BitCast": "see below",
    "Multinomial": "random numbers",
    "RandomNormal": "random numbers",
    "RandomNormalLike": "random numbers",
    "RandomUniform": "random numbers",
    "RandomUniformLike": "random numbers",
    "OptionalGetElement": "optional types",
    "OptionalHasElement": "optional types",
}
# Types that an operator's definition allows and tfc refuses, by operator and type parameter.
_BODY = "onnx's function multiplies values of T1 and T2 as they are"
GAPS = {
    ("Attention", "T1"): ("bfloat16 float16 double", _BODY),
    ("Attention", "T2"): ("bfloat16 float16 double", _BODY),
    ("Col2Im", "T"): ("bool", "no sum of bools is defined"),
}
# What one result may be off, as against f64: half a unit in the last place and some operations.
TOLERANCES = {"float64": 1e-10, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


def kinds(constraint: Any) -> list[str]:
    """The tensor types of a constraint, without strings and complex numbers."""
    names = [text[7:-1] for text in constraint.allowed_type_strs if text.startswith("tensor(")]
    return [name for name in names if name != "string" and not name.startswith("complex")]


@cache
def variants() -> Mapping[tuple[str, str], Sequence[Variant]]:
    """All types that there are for each type parameter of each operator."""
    found: dict[tuple[str, str], Sequence[Variant]] = {}
    for schema in sorted(onnx.defs.get_all_schemas(), key=lambda schema: schema.name):
        known = schema.name in RULES or schema.has_function
        known = known or schema.has_context_dependent_function
        if schema.domain or schema.deprecated or not known or schema.name in ELSEWHERE:
            continue
        if not all(kinds_of(formal) for formal in (*schema.inputs, *schema.outputs)):
            continue
        for constraint in schema.type_constraints:
            parameter = constraint.type_param_str
            template = fitting(schema, parameter)
            found[schema.name, parameter] = [
                Variant(template, parameter, kind) for kind in kinds(constraint) if template
            ]
    return found


def kinds_of(formal: Any) -> bool:
    """Whether a parameter may be a tensor: others are sequences or optional."""
    return any(text.startswith("tensor(") for text in formal.types)


def fitting(schema: Any, parameter: str) -> Any:
    """A template with an operand or an attribute of the type parameter, None if it is fixed."""
    last = len(schema.inputs) - 1
    for template in templates(schema.name):
        names = {
            schema.inputs[min(i, last)].type_str
            for i, array in enumerate(template.arrays)
            if array is not None
        }
        if parameter in names:
            return template
        operands = {formal.type_str for formal in schema.inputs}
        if template.attributes is not None and parameter not in operands:
            return template
    return None


def gaps(variant: Variant) -> str:
    """The reason why a variant is refused, empty where it is not."""
    listed, reason = GAPS.get((variant.template.op, variant.parameter), ("", ""))
    return reason if variant.kind in listed.split() else ""


def assert_equal(found: Sequence[Array], variant: Variant) -> None:
    wanted = variant.expected()
    assert len(found) == len(wanted), str(variant)
    for have, want in zip(found, wanted, strict=True):
        assert have.shape == want.shape, str(variant)
        common = np.float64 if is_float(have.dtype) else np.int64
        kind = np.dtype(NUMPY[variant.kind]).name
        tolerance = max(TOLERANCES.get(name, 0) for name in (have.dtype.name, kind))
        np.testing.assert_allclose(
            have.astype(common),
            want.astype(have.dtype).astype(common),
            rtol=tolerance,
            atol=tolerance,
            err_msg=str(variant),
        )


PARTS = 16


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))]
)
def test_operator_is_compiled_in_each_type(part: int) -> None:
    """All types of one parameter go into one model, side by side."""
    for entries in list(variants().values())[part::PARTS]:
        taken = [(variant, variant.operands()) for variant in entries if not gaps(variant)]
        if not taken:
            continue
        results = iter(onnx_backend.prepare(one_model(taken)[0]).run(one_model(taken)[1]))
        for variant, _ in taken:
            assert_equal([next(results) for _ in range(variant.template.outputs)], variant)


def test_every_type_is_compiled_or_refused_with_a_reason() -> None:
    left = set(GAPS)
    for key, entries in variants().items():
        refused = [variant for variant in entries if gaps(variant)]
        left -= {key} if refused else set()
        for variant in refused:
            model, _ = one_model([(variant, variant.operands())])
            with pytest.raises(TfcError, match="model: node '"):
                onnx_backend.prepare(model)
    assert not left
    assert sum(map(len, variants().values())) >= 1600


def test_every_type_parameter_has_a_template() -> None:
    """But for results of one type in all cases, such as comparisons."""
    for (op, parameter), entries in variants().items():
        constraints = onnx.defs.get_schema(op).type_constraints
        (own,) = (c for c in constraints if c.type_param_str == parameter)
        assert entries or len(kinds(own)) == 1, (op, parameter)


def test_bit_cast_keeps_the_bits_of_all_types() -> None:
    """Between types of one width; those of less than a byte lie in one each."""
    array = np.array([[0, 1, 1, 0]])
    names = [name for name in NUMPY if not name.startswith("float6")]
    for source in names:
        for target in names:
            codes = [helper.np_dtype_to_tensor_dtype(np.dtype(NUMPY[n])) for n in (source, target)]
            if bits(codes[0]) != bits(codes[1]) or "bool" in (source, target):
                continue
            x = array.astype(NUMPY[source])
            model, feeds = one_node("BitCast", [x], {"to": codes[1]}, NEWEST)
            (y,) = run(model, feeds)
            np.testing.assert_array_equal(
                np.asarray(y).view(np.uint8), x.view(np.uint8), f"{source} {target}"
            )


def bits(code: int) -> int:
    return int(DTYPES[code].bits if DTYPES[code] not in _PACKED else _PACKED[DTYPES[code]])


VALUES = np.array([1.5, -2, 0.25, 3], np.float32)
STORED = [name for name, dtype in NUMPY.items() if dtype.__module__ != "numpy"]


@pytest.mark.parametrize("kind", STORED)
def test_types_that_numpy_lacks_go_in_and_come_out_as_ml_dtypes(kind: str) -> None:
    """Their bits are taken too."""
    x = VALUES.astype(NUMPY[kind])
    model, feeds = one_node("Identity", [x], {}, NEWEST)
    prepared = onnx_backend.prepare(model)
    held = np.uint16 if kind == "bfloat16" else np.uint8
    for given in (x, x.view(held)):
        (y,) = prepared.run([given])
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y.view(held), x.view(held))
    (y,) = run(model, feeds)
    np.testing.assert_array_equal(y, x.view(held))


@pytest.mark.parametrize("kind", STORED)
def test_values_that_are_compiled_in_keep_their_bits(kind: str) -> None:
    x = VALUES.astype(NUMPY[kind])
    model, _ = one_node("Identity", [x], {}, NEWEST)
    for given in (x, x.view(np.uint16 if kind == "bfloat16" else np.uint8)):
        module = load(model, values={"x0": given})
        (y,) = evaluate(module, {}, module.constants).values()
        np.testing.assert_array_equal(y, x.view(y.dtype))


def test_value_of_another_type_is_not_compiled_in() -> None:
    model, _ = one_node("Identity", [VALUES.astype(NUMPY["float8e5m2"])], {}, NEWEST)
    with pytest.raises(UsageError, match="element type float32, not f8e5m2"):
        load(model, values={"x0": VALUES})


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_large_operands_give_what_the_interpreter_computes(part: int) -> None:
    """Where vectors, tails and threads' shares of work are in play."""
    for entries in list(variants().values())[part::PARTS]:
        taken = [variant.enlarged() for variant in entries if not gaps(variant)]
        taken = [variant for variant in taken if is_valid(variant)]
        if not taken:
            continue
        model, feeds = one_model([(variant, variant.operands()) for variant in taken])
        module = load(model)
        with np.errstate(all="ignore"):
            wanted = evaluate(module, feeds, module.constants)
        found = dict(zip(wanted, onnx_backend.prepare(model).run(feeds), strict=True))
        for k, variant in enumerate(taken):
            for i in range(variant.template.outputs):
                assert_alike(found[f"y{k}_{i}"], wanted[f"y{k}_{i}"], variant)


def is_valid(variant: Variant) -> bool:
    """Whether the node takes operands of these sizes, and they are not those of the template."""
    if not variant.template.enlarged:
        return False
    try:
        load(one_model([(variant, variant.operands())])[0])
    except TfcError:
        return False
    return True


def assert_alike(have: Array, bits: Array, variant: Variant) -> None:
    """Within a tolerance of the largest number."""
    want = bits if bits.dtype == have.dtype else bits.view(have.dtype)
    common = np.float64 if is_float(have.dtype) else np.int64
    kind = np.dtype(NUMPY[variant.kind]).name
    tolerance = max(TOLERANCES.get(name, 0) for name in (have.dtype.name, kind))
    x, y = have.astype(common), want.astype(common)
    size = max(1, np.max(np.abs(y[np.isfinite(y)]), initial=0)) if common is np.float64 else 0
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * size, err_msg=str(variant))
