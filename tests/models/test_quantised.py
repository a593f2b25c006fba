"""Quantised models are computed in integers. What they answer is held to in `test_outputs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tfc
from benchmarks.quantise import quantised
from tests.models.catalogue import ENTRIES, marked, stored_references
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.source import open_module
from tfc.compiler.target import parse_target
from tfc.ir.core import ops_of
from tfc.ir.types import I32

pytestmark = pytest.mark.models

QUANTISED = [name for name, entry in ENTRIES.items() if entry.quantised]


@pytest.mark.parametrize("name", marked(QUANTISED))
def test_products_are_in_integers(name: str, model_path: Callable[[str], Path]) -> None:
    module = open_module(model_path(name))
    run(module, PassContext(target=parse_target("avx512,+avx512vnni")))
    found = [op for op in ops_of(module.functions.values()) if op.name in ("conv", "matmul")]
    assert found
    assert {op.result.type.dtype for op in found} == {I32}  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_a_large_network_quantised_answers_as_onnx_runtime(
    name: str, models_dir: Path, filled_model: Callable[[str], Path]
) -> None:
    """As near to it as it is to the network in floats, or nearer."""
    runtime = pytest.importorskip("onnxruntime")
    inputs, plain = stored_references(models_dir, name)[0]
    path = quantised(filled_model(name), inputs)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = dict(zip(plain, session.run(list(plain), inputs), strict=True))
    found = tfc.compile(path, threads=2)(inputs)
    for key, want in wanted.items():
        assert np.abs(found[key] - want).max() <= np.abs(want - plain[key]).max()
        np.testing.assert_array_equal(found[key].argmax(-1), want.argmax(-1))
