"""With `dtype="bf16"` real models err no more than rounding the operands of products must."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import tfc
from tests.models.catalogue import ENTRIES, Arrays, Reference, names
from tfc.compiler.codegen.host import host_target
from tfc.compiler.passes.decompose import decompose
from tfc.compiler.passes.lower_precision import round_operands
from tfc.compiler.passman import PassContext
from tfc.compiler.source import open_module
from tfc.graph import Graph

pytestmark = pytest.mark.models

MOST = 1.1
FAST = ("digits_mlp", "digits_cnn", "fashion_cnn", "ppocr_cls")
# Of f32: what is quantised, or f16, is computed in whole numbers or rounded otherwise.
MODELS = [name for name in names() if not ENTRIES[name].quantised and "fp16" not in name]


def root_mean_square(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """Return the error of all outputs, each relative to its own size."""
    errors = []
    for name, array in wanted.items():
        difference = got[name].astype(np.float64) - array
        errors.append(np.mean(difference**2) / np.mean(array.astype(np.float64) ** 2))
    return float(np.sqrt(np.mean(errors)))


def rounded(path: Path, inputs: Arrays) -> Arrays:
    """What the interpreter computes of operands of products that are rounded to bf16."""
    module = open_module(path)
    decompose(module, PassContext(host_target()))
    round_operands(module)
    outputs: Arrays = Graph(module).eval(inputs)
    return outputs


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_errors_are_those_of_rounding_the_operands(
    name: str,
    model_path: Callable[[str], Path],
    references: Callable[[str], list[Reference]],
) -> None:
    path = model_path(name)
    inputs, wanted = references(name)[0]
    wanted = {key: array for key, array in wanted.items() if array.dtype.kind == "f"}
    got = tfc.compile(path, dtype="bf16", threads=1)(inputs)
    alone = root_mean_square(rounded(path, inputs), wanted)
    found = root_mean_square(got, wanted)
    assert alone > 0
    assert found <= MOST * alone, f"{found:.3g} against {alone:.3g}"
