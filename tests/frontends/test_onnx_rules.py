"""Every rule of the ONNX front end: one node, interpreted, against ONNX's reference."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frontends.cases import CASES, Case
from tests.frontends.cases_more import MORE
from tests.frontends.support import one_node, reference, run
from tfc.compiler.frontends.onnx import randoms, sequences
from tfc.compiler.frontends.onnx.table import RULES

ALL = [*CASES, *MORE]
# With graphs of their own in test_onnx_dims.
ELSEWHERE = {"If", "Loop", "Scan", "RNN", "GRU", "LSTM"}
# In test_onnx_counts.
ELSEWHERE |= {"Compress", "NonMaxSuppression", "NonZero", "Unique"}
# In test_onnx_sequences, test_onnx_randoms and test_onnx_domains.
ELSEWHERE |= sequences.RULES.keys() | randoms.RULES.keys() - {"Dropout"} | {"TfIdfVectorizer"}


@pytest.mark.parametrize("case", ALL, ids=[f"{i}-{case}" for i, case in enumerate(ALL)])
def test_node_computes_what_onnx_says(case: Case) -> None:
    model, feeds = one_node(
        case.op, case.arrays, case.attrs, case.opset, case.constant, case.outputs
    )
    expected = reference(model, feeds) if case.expected is None else case.expected
    found = run(model, feeds)
    assert len(found) == len(expected)
    for have, wanted in zip(found, expected, strict=True):
        wanted = np.asarray(wanted)
        assert have.shape == wanted.shape
        if case.expected is None:
            assert have.dtype == wanted.dtype
        tolerance = 2e-3 if have.dtype == np.float16 else 2e-5
        np.testing.assert_allclose(have, wanted, rtol=tolerance, atol=tolerance)


def test_every_operator_has_a_case() -> None:
    assert {case.op for case in ALL} == RULES.keys() - ELSEWHERE
