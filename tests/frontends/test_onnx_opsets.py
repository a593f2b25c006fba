"""Every definition that an operator had in opsets 7 to 21: what it computes, as its text says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.frontends import (
    opset_cases_elementwise,
    opset_cases_flow,
    opset_cases_movement,
    opset_cases_sums,
    opset_cases_windows,
)
from tests.frontends.opset_cases import Versioned
from tests.frontends.support import Array, run
from tfc import onnx_backend
from tfc.compiler.frontends.onnx.table import RULES

FAMILIES = (
    opset_cases_elementwise,
    opset_cases_movement,
    opset_cases_sums,
    opset_cases_windows,
    opset_cases_flow,
)
CASES = [case for family in FAMILIES for case in family.CASES]
OLDEST, NEWEST = 7, 21
each_case = pytest.mark.parametrize(
    "case", CASES, ids=[f"{i}-{case}" for i, case in enumerate(CASES)]
)
# Of these, ONNX Runtime has no kernel of the type or the attributes.
NO_KERNEL = {
    "Acos-7-f8-",
    "GRU-14-f4,f4,f4,f4-hidden_size=5-layout=1",
    "Gemm-11-i8,i8,i8-",
    "Gemm-13-i8,i8,i8-",
    "Gemm-9-i8,i8,i8-",
    "LRN-13-f4-size=2",
    "LRN-7-f4-size=2",
    "LSTM-14-f4,f4,f4,f4-hidden_size=5-layout=1",
    "PRelu-9-i4,i4-",
    "Pow-15-i4,u1-",
    "QuantizeLinear-10-i4,f4,u1-",
    "RNN-14-f4,f4,f4,f4-hidden_size=5-layout=1",
    "Where-16-b1,b1,b1-",
    "Where-9-b1,b1,b1-",
}
# Definitions without a case, each with the reason.
UNTESTED = {
    "Bernoulli": "random numbers, see test_onnx_randoms",
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"),
        "random numbers, see test_onnx_randoms",
    ),
    "MelWeightMatrix": "one definition only, in the cases of all rules",
    "TfIdfVectorizer": "one definition only, see test_onnx_domains",
    "OptionalGetElement": "optional types, see test_onnx_sequences",
    "OptionalHasElement": "optional types, see test_onnx_sequences",
}


def assert_close(found: Sequence[Array], case: Versioned) -> None:
    """Fail where counts, shapes, element types or numbers differ."""
    expected = [array for array in case.expected if array is not None]
    assert len(found) == len(expected)
    for have, wanted in zip(found, expected, strict=True):
        assert have.shape == wanted.shape
        assert have.dtype == wanted.dtype
        if have.dtype.kind in "iub":
            np.testing.assert_array_equal(have, wanted)
        else:
            tolerance = 2e-3 if have.dtype == np.float16 else 2e-5
            np.testing.assert_allclose(have, wanted, rtol=tolerance, atol=tolerance)


def by_runtime(model: Any, feeds: dict[str, Array]) -> list[Array]:
    """What ONNX Runtime computes, without its rewrites."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    found: list[Array] = session.run(None, feeds)
    return found


@each_case
def test_node_computes_what_its_opset_says(case: Versioned) -> None:
    assert_close(run(*case.model()), case)


@each_case
def test_expected_values_are_those_of_onnx_runtime(case: Versioned) -> None:
    if str(case) in NO_KERNEL:
        with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|was false"):
            by_runtime(*case.model())
        return
    found = by_runtime(*case.model())
    if case.runtime:
        with pytest.raises(AssertionError):
            assert_close(found, case)
    else:
        assert_close(found, case)


@pytest.mark.parametrize("rest", [
    0, *(pytest.param(rest, marks=pytest.mark.slow) for rest in range(1, 40))
])  # fmt: skip
def test_compiled_node_computes_what_its_opset_says(rest: int) -> None:
    for case in CASES[rest::40]:
        model, feeds = case.model()
        assert_close(onnx_backend.prepare(model).run(feeds), case)


def takes_tensors(name: str) -> bool:
    """Whether operands and results may all be tensors, not sequences or optional ones."""
    schema = onnx.defs.get_schema(name)
    parameters = (*schema.inputs, *schema.outputs)
    return all(any(type.startswith("tensor(") for type in p.types) for p in parameters)


def definitions() -> dict[str, list[int]]:
    """The opsets, from the oldest one on, at which the definition of each operator changed."""
    found: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= NEWEST and not schema.deprecated:
            found.setdefault(schema.name, set()).add(max(schema.since_version, OLDEST))
    return {name: sorted(versions) for name, versions in found.items()}


def test_every_definition_has_a_case() -> None:
    supported = [
        name
        for name in definitions()
        if takes_tensors(name)
        and (
            name in RULES
            or onnx.defs.get_schema(name).has_function
            or onnx.defs.get_schema(name).has_context_dependent_function
        )
    ]
    assert len(supported) >= 150
    missing = []
    for name in supported:
        versions = definitions()[name]
        tested = {case.opset for case in CASES if case.op == name}
        for first, end in zip(versions, [*versions[1:], NEWEST + 1], strict=True):
            if not tested & set(range(first, end)) and name not in UNTESTED:
                missing.append((name, first))
    assert not missing


def test_operators_of_many_families_have_cases() -> None:
    assert len({case.op for case in CASES}) >= 160
    assert {name for name in UNTESTED if any(case.op == name for case in CASES)} == set()
