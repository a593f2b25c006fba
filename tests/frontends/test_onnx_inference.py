"""The importer gives each value the type that onnx's own shape inference gives it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.frontends.cases import CASES, Case
from tests.frontends.cases_more import MORE
from tests.frontends.inferred import compare
from tests.frontends.support import one_node
from tests.frontends.test_onnx_models import FILES, FILLED
from tests.frontends.test_onnx_opsets import CASES as VERSIONED
from tfc.compiler.frontends.onnx import ValueNeeded, load
from tfc.ir.errors import UnsupportedError

# Where onnx is wrong.
ONNX_ERRS = {
    "STFT-17-": "onesided is 1 where it is left out; onnx takes it for 0",
    "Slice-10-": "with symbolic dims, onnx gives the operand's in opset 10, as if nothing was cut",
}
PARTS = 16


def modelled() -> list[tuple[str, Any]]:
    """All cases of single nodes, by a name."""

    def model(case: Case) -> Any:
        constant, outputs = case.constant, case.outputs
        return one_node(case.op, case.arrays, case.attrs, case.opset, constant, outputs)[0]

    found = [(str(case), case.model()[0]) for case in VERSIONED]
    return found + [(str(case), model(case)) for case in (*CASES, *MORE)]


def wrong(name: str, model: Any, sizes: dict[str, int] | None = None) -> list[str]:
    """Disagreements with onnx that are not its own."""
    _, found = compare(model, sizes)
    excused = any(name.startswith(key) for key in ONNX_ERRS)
    return [] if excused else [f"{name}: {text}" for text in found]


def test_types_of_single_nodes_are_those_of_onnx() -> None:
    assert not [text for name, model in modelled() for text in wrong(name, model)]


def errs(model: Any, sizes: dict[str, int] | None = None) -> bool:
    try:
        return bool(compare(model, sizes)[1])
    except UnsupportedError:
        return False


@pytest.mark.parametrize("key", ONNX_ERRS)
def test_onnx_still_errs_where_it_is_said_to(key: str) -> None:
    models = [model for name, model in modelled() if name.startswith(key)]
    assert any(errs(model) or errs(*with_symbols(model)) for model in models)


def with_symbols(model: Any) -> tuple[Any, dict[str, int]]:
    """Return a copy whose inputs have dims of unknown size, and their sizes."""
    copy = type(model).FromString(model.SerializeToString())
    stored = {tensor.name for tensor in copy.graph.initializer}
    sizes = {}
    for proto in copy.graph.input:
        for axis, dim in enumerate(proto.type.tensor_type.shape.dim):
            if proto.name not in stored:
                name = f"{proto.name}_{axis}"
                sizes[name] = dim.dim_value
                dim.dim_param = name
    return copy, sizes


def test_types_with_symbolic_dims_are_those_of_onnx() -> None:
    """Evaluated at the sizes that the operands of the case have."""
    found, compared = [], 0
    for name, model in modelled():
        symbolic, sizes = with_symbols(model)
        try:
            found += wrong(name, symbolic, sizes)
        except UnsupportedError:
            continue
        compared += 1
    assert not found
    assert compared >= 1600


# -- onnx's own suite -----------------------------------------------------------------------------


@cache
def suite() -> tuple[Any, ...]:
    """The node models of the standard domain that have tensors alone, with values where needed."""
    with np.errstate(all="ignore"):
        from onnx.backend.test.case.node import collect_testcases

        tests = collect_testcases("")
    return tuple(
        test
        for test in tests
        if all(
            proto.type.HasField("tensor_type")
            for proto in (*test.model.graph.input, *test.model.graph.output)
        )
        and any(entry.domain in ("", "ai.onnx") for entry in test.model.opset_import)
    )


def valued(test: Any) -> Any:
    """The model of a case, with those inputs as initialisers whose values decide shapes."""
    model = type(test.model).FromString(test.model.SerializeToString())
    arrays = dict(zip((p.name for p in model.graph.input), test.data_sets[0][0], strict=False))
    while True:
        stored = {tensor.name for tensor in model.graph.initializer}
        try:
            if not load(model).main.symbols:
                return model
            # The data of a run decides a size.
            names = {name for name, array in arrays.items() if np.ndim(array) < 2}
        except ValueNeeded as error:
            names = set(error.inputs)
            if names <= stored:
                raise
        names -= stored
        if not names:
            return model
        for name in names:
            given = arrays[name]
            tensor = given if hasattr(given, "dims") else numpy_helper.from_array(given)
            model.graph.initializer.append(tensor)
            model.graph.initializer[-1].name = name


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))]
)
def test_types_of_the_backend_suite_are_those_of_onnx(part: int) -> None:
    found, compared = [], 0
    for test in suite()[part::PARTS]:
        try:
            model = valued(test)
        except UnsupportedError:
            continue
        found += wrong(test.name, model)
        compared += 1
    assert not found
    assert compared >= 100


# -- models ---------------------------------------------------------------------------------------


@pytest.mark.models
@pytest.mark.parametrize(
    "name", [*FILES, *(pytest.param(name, marks=pytest.mark.slow) for name in FILLED)]
)
def test_types_of_models_are_those_of_onnx(
    name: str, models_dir: Path, filled_model: Callable[[str], Path]
) -> None:
    path = models_dir / FILES[name] if name in FILES else filled_model(name)
    model = onnx.load(path)
    compared, found = compare(model)
    assert not found
    assert compared >= len(model.graph.node) // 2
