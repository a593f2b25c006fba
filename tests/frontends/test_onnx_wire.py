"""Large tensors stay in the file: what the onnx package is given to parse instead."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.frontends.support import make_model, run, value_info
from tfc.compiler.frontends.onnx import load
from tfc.compiler.frontends.onnx.tensors import TensorReader
from tfc.compiler.frontends.onnx.wire import LARGE, OWN_FILE, without_weights
from tfc.ir.errors import ModelError, TfcError

COUNT = LARGE // 4
X = np.arange(COUNT, dtype=np.float32)


def numbers(seed: int, count: int = COUNT) -> Any:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def model() -> Any:
    """x + initialiser + constant of a node + constant of a branch + constant of a function."""
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(numbers(3), "c"))],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [COUNT])],
    )
    inside = helper.make_node("Constant", [], ["f"], value=numpy_helper.from_array(numbers(4), "f"))
    opset = [helper.make_opsetid("", 21)]
    function = helper.make_function("own", "Four", [], ["f"], [inside], opset)
    nodes = [
        helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(numbers(2), "b")),
        helper.make_node("If", ["true"], ["c2"], then_branch=branch, else_branch=branch),
        helper.make_node("Four", [], ["d"], domain="own"),
        helper.make_node("Sum", ["x", "a", "b", "c2", "d", "small"], ["y"]),
    ]
    constants = {"a": numbers(1), "small": numbers(5, 1), "true": np.array(True)}
    made = make_model(nodes, [value_info("x", X)], ["y"], constants=constants)
    made.opset_import.append(helper.make_opsetid("own", 1))
    made.functions.append(function)
    return made


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file:
        yield mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def saved(made: Any, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def tensors_of(made: Any) -> list[Any]:
    """All tensors, those of nodes, branches and functions too."""

    def in_nodes(nodes: Any) -> Iterator[Any]:
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from in_nodes(attribute.g.node)

    found = [*made.graph.initializer, *in_nodes(made.graph.node)]
    return found + [each for function in made.functions for each in in_nodes(function.node)]


def test_large_tensors_are_where_they_were_and_all_else_is_the_same(tmp_path: Path) -> None:
    made = model()
    with mapped(saved(made, tmp_path)) as data:
        small = without_weights(data)
        assert small is not None
        assert len(small) < 1000
        stripped = onnx.ModelProto.FromString(small)
        reader = TensorReader(data, tmp_path)
        for one, own in zip(tensors_of(stripped), tensors_of(made), strict=True):
            array, _ = reader.array(one)
            np.testing.assert_array_equal(array, numpy_helper.to_array(own))
            assert one.name == own.name
            if array.nbytes >= LARGE:
                assert not one.HasField("raw_data")
                one.raw_data = array.tobytes()
                del one.external_data[:]
                one.ClearField("data_location")
        assert stripped == made


def test_a_model_with_large_tensors_computes(tmp_path: Path) -> None:
    wanted = X + sum(numbers(seed) for seed in (1, 2, 3, 4)) + numbers(5, 1)
    (found,) = run(saved(model(), tmp_path), {"x": X})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


def test_small_models_and_other_forms_of_data_are_left_alone(tmp_path: Path) -> None:
    fields = helper.make_tensor("a", TensorProto.FLOAT, [COUNT], numbers(1))
    elsewhere = numpy_helper.from_array(numbers(1), "a")
    elsewhere.data_location = TensorProto.EXTERNAL
    for tensor in (numpy_helper.from_array(numbers(1, 9), "a"), fields, elsewhere):
        made = make_model([helper.make_node("Neg", ["a"], ["y"])], [], ["y"])
        made.graph.initializer.append(tensor)
        with mapped(saved(made, tmp_path)) as data:
            assert without_weights(data) is None


def test_damaged_files_are_left_to_the_package(tmp_path: Path) -> None:
    whole = model().SerializeToString()
    random = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    for cut in random.integers(1, len(whole), 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(TfcError):
            load(path)
    for at in (*range(40), *random.integers(0, len(whole), 20)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        with mapped(path) as data:
            without_weights(data)


@pytest.mark.parametrize(
    ("offset", "length"), [("9" * 30, "4"), ("0", "9" * 30), ("-1", "4"), ("0", "")]
)
def test_a_file_that_names_places_in_itself_is_not_believed(
    offset: str, length: str, tmp_path: Path
) -> None:
    made = make_model([helper.make_node("Neg", ["a"], ["y"])], [], ["y"])
    tensor = TensorProto(name="a", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ((OWN_FILE, offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    made.graph.initializer.append(tensor)
    with pytest.raises(ModelError, match="initialiser 'a'"):
        load(saved(made, tmp_path))
