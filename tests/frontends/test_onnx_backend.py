"""onnx's own suite of backend tests: what passes, and a list with reasons of what does not.

The default run takes the first of the parts; `-m slow` takes the others: the whole suite is both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.frontends.backend_suite import PROCESS, ApartBackend, all_cases, outcome
from tests.frontends.support import make_model, value_info
from tfc import onnx_backend
from tfc.ir.errors import UnsupportedError, UsageError

LIST = Path(__file__).with_name("onnx_backend_failing.txt")
PARTS = 24
DEFAULT_PARTS = PARTS // 12
CASES = 2033
PASSING = 1978


def not_passing() -> dict[str, str]:
    """Return the reasons of the listed cases by name."""
    lines = [line for line in LIST.read_text().splitlines() if line and line[0] != "#"]
    entries = [line.partition(": ") for line in lines]
    return {name: reason for name, _, reason in entries}


@pytest.fixture(scope="module", autouse=True)
def _artifact_process() -> Iterator[None]:
    yield
    PROCESS.close()


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(part, marks=[] if part < DEFAULT_PARTS else pytest.mark.slow)
        for part in range(PARTS)
    ],
)
def test_cases_pass_but_for_those_listed(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFC_CACHE", "off")
    listed = not_passing()
    cases = [case for i, case in enumerate(all_cases()) if i % PARTS == part]
    found = {case.name: outcome(case) for case in cases}
    wrong = {name: why for name, why in found.items() if (why is None) == (name in listed)}
    assert not wrong, "\n".join(
        f"{name}: {'passes, though it is listed' if why is None else why}"
        for name, why in wrong.items()
    )


def test_list_has_a_reason_for_cases_that_exist() -> None:
    names = {case.name for case in all_cases()}
    listed = not_passing()
    assert len(names) == CASES
    assert listed.keys() <= names
    assert all(listed.values())
    assert CASES - len(listed) >= PASSING
    assert list(listed) == sorted(listed)


# -- the interface --------------------------------------------------------------------------------

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_model_runs_with_arrays_in_order_or_by_name() -> None:
    node = helper.make_node("Sub", ["a", "b"], ["y"])
    model = make_model([node], [value_info("a", X), value_info("b", X)], ["y"])
    prepared = onnx_backend.prepare(model)
    for inputs in ([X, X + 1], {"b": X + 1, "a": X}):
        (y,) = prepared.run(inputs)
        np.testing.assert_array_equal(y, np.full_like(X, -1))
    (y,) = onnx_backend.run_model(model, [X, X])
    assert not y.any()


def test_each_output_is_returned_in_the_models_order() -> None:
    node = helper.make_node("Split", ["x"], ["b", "a"], axis=1, num_outputs=2)
    model = make_model([node], [value_info("x", X)], ["a", "b", "a2"][:2])
    a, b = onnx_backend.prepare(model).run([X])
    np.testing.assert_array_equal(a, X[:, 2:])
    np.testing.assert_array_equal(b, X[:, :2])


def test_shapes_from_inputs_are_compiled_in_anew_for_each_value() -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    shape = np.array([3, 2])
    model = make_model([node], [value_info("x", X), value_info("shape", shape)], ["y"])
    assert onnx_backend.is_compatible(model)
    prepared = onnx_backend.prepare(model)
    for wanted in ((3, 2), (6, 1), (3, 2)):
        (y,) = prepared.run([X, np.array(wanted)])
        np.testing.assert_array_equal(y, X.reshape(wanted))


def test_unknown_operator_is_not_compatible_and_refused() -> None:
    node = helper.make_node("StringSplit", ["x"], ["y"])
    model = make_model([node], [value_info("x", X)], ["y"])
    assert not onnx_backend.is_compatible(model)
    with pytest.raises(UnsupportedError, match="StringSplit"):
        onnx_backend.prepare(model)


def test_only_the_cpu_is_a_device() -> None:
    assert onnx_backend.supports_device("CPU")
    assert not onnx_backend.supports_device("CUDA:0")
    model = make_model([helper.make_node("Abs", ["x"], ["y"])], [value_info("x", X)], ["y"])
    with pytest.raises(UsageError, match="no device 'CUDA'"):
        onnx_backend.prepare(model, "CUDA")


def test_wrong_inputs_are_refused() -> None:
    model = make_model([helper.make_node("Abs", ["x"], ["y"])], [value_info("x", X)], ["y"])
    prepared = onnx_backend.prepare(model)
    with pytest.raises(UsageError, match="input 'x' is missing"):
        prepared.run([])
    with pytest.raises(UsageError, match="2 inputs given, the model has 1"):
        prepared.run([X, X])


def test_artifacts_run_in_a_process_without_the_compiler() -> None:
    model = make_model([helper.make_node("Abs", ["x"], ["y"])], [value_info("x", X)], ["y"])
    (y,) = ApartBackend.prepare(model).run([-X])
    np.testing.assert_array_equal(y, X)
    assert PROCESS.loaded().isdisjoint({"tfc.ir", "tfc.compiler", "llvmlite", "onnx"})
    assert "tfc.runtime" in PROCESS.loaded()
