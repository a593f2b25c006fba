"""What the ONNX front end refuses: always by a TfcError that names the file and the node."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests.frontends.support import floats, ints, make_model, run, value_info
from tfc.compiler.frontends.onnx import Problem, check, load
from tfc.ir.errors import CompileError, ModelError, TfcError, UnsupportedError, UsageError

node = helper.make_node
X = value_info("x", floats(1), (2, 3))


def small(**changes: Any) -> Any:
    """A model y = relu(x + w) of a convolution's size in nothing."""
    nodes = [node("Add", ["x", "w"], ["s"], name="plus"), node("Relu", ["s"], ["y"], name="act")]
    return make_model(nodes, [X], ["y"], constants={"w": floats(3)}, **changes)


def save(model: Any, folder: Path) -> Path:
    path = folder / "small.onnx"
    path.write_bytes(model.SerializeToString())
    return path


# -- files ----------------------------------------------------------------------------------------


def test_missing_onnx_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = save(small(), tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"pip install 'tfc-compiler\[onnx\]'"):
        load(path)


@pytest.mark.parametrize("name", [b"plus", b"Relu", b"x", b"w"])
def test_names_that_are_not_text_are_refused(name: bytes, tmp_path: Path) -> None:
    path = save(small(), tmp_path)
    path.write_bytes(path.read_bytes().replace(name, bytes([0xA1] * len(name))))
    with pytest.raises(ModelError, match=r"the name b'(\\xa1)+' is not UTF-8"):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"<html>no model</html>", "not an ONNX"),
        (b"\x08\x09", "no graph"),
    ],
)
def test_file_that_is_no_model_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"a\.onnx: .*{message}"):
        load(path)


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="directory"):
        load(tmp_path)


def test_source_that_is_neither_path_nor_model_is_refused() -> None:
    with pytest.raises(UsageError, match="not int"):
        load(3)  # type: ignore[arg-type]


def test_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = small().SerializeToString()
    path = tmp_path / "a.onnx"
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(TfcError) as caught:
            load(path)
        assert not isinstance(caught.value, CompileError), size


# -- graphs ---------------------------------------------------------------------------------------


def test_nodes_out_of_order_are_sorted() -> None:
    model = small()
    first = model.graph.node[0]
    model.graph.node.append(first)
    del model.graph.node[0]
    assert run(model, {"x": floats(2, 3)})[0].shape == (2, 3)


def _cycle(model: Any) -> None:
    model.graph.node[0].input[0] = "y"


def _missing_value(model: Any) -> None:
    model.graph.node[0].input[1] = "nowhere"


def _missing_output(model: Any) -> None:
    model.graph.output[0].name = "nowhere"


def _defined_twice(model: Any) -> None:
    model.graph.node[1].output[0] = "s"


def _shadows_input(model: Any) -> None:
    model.graph.node[0].input[0] = "w"
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "x"


def _two_inputs(model: Any) -> None:
    model.graph.input.append(X)


def _two_initialisers(model: Any) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _two_outputs(model: Any) -> None:
    model.graph.output.append(model.graph.output[0])


def _no_outputs(model: Any) -> None:
    del model.graph.output[:]


def _shapes_differ(model: Any) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(floats(4), "w"))


def _short_data(model: Any) -> None:
    model.graph.initializer[0].raw_data = b"1234"


def _negative_dims(model: Any) -> None:
    model.graph.initializer[0].dims[0] = -3


def _absurd_dims(model: Any) -> None:
    model.graph.initializer[0].dims[0] = 1 << 60


def _absurd_result(model: Any) -> None:
    for axis in range(2):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 1 << 30
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(floats(1), "w"))


def _unknown_dtype(model: Any) -> None:
    model.graph.initializer[0].data_type = 99


def _other_dtype(model: Any) -> None:
    model.graph.output[0].CopyFrom(value_info("y", ints(1), (2, 3)))


def _wrong_attribute_type(model: Any) -> None:
    model.graph.node[1].CopyFrom(node("Elu", ["s"], ["y"], name="act", alpha=[1.0]))


def _unknown_attribute_type(model: Any) -> None:
    model.graph.node[1].CopyFrom(node("Elu", ["s"], ["y"], name="act", alpha=1.0))
    model.graph.node[1].attribute[0].type = AttributeProto.SPARSE_TENSOR


def _too_few_operands(model: Any) -> None:
    del model.graph.node[0].input[1]


def _no_opset(model: Any) -> None:
    del model.opset_import[:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cycle, r"node 'plus' \(Add\) needs its own result"),
        (_missing_value, r"node 'plus' \(Add\): reads 'nowhere', which nothing defines"),
        (_missing_output, "output 'nowhere': reads 'nowhere'"),
        (_defined_twice, r"node 'act' \(Relu\) defines 's' again"),
        (_shadows_input, r"node 'plus' \(Add\): defines 'x', which is there already"),
        (_two_inputs, "input 'x': is defined twice"),
        (_two_initialisers, "initialiser 'w': is defined twice"),
        (_two_outputs, "two outputs have one name"),
        (_no_outputs, "the graph has no outputs"),
        (_shapes_differ, r"node 'plus' \(Add\): dims 3 and 4 do not broadcast"),
        (_short_data, "initialiser 'w': holds 4 bytes of data where its shape needs 12"),
        (_negative_dims, r"initialiser 'w': negative dim in shape \[-3\]"),
        (_absurd_dims, "initialiser 'w': .* is larger than 1 TiB"),
        (_absurd_result, r"node 'plus' \(Add\): .* too large for any memory"),
        (_unknown_dtype, "initialiser 'w': unknown element type 99"),
        (_other_dtype, "output 'y': is declared i64 but is f32"),
        (_wrong_attribute_type, r"node 'act' \(Elu\): attribute 'alpha' is floats, not a float"),
        (_unknown_attribute_type, "attribute 'alpha' is of type 11, not a float"),
        (_too_few_operands, r"node 'plus' \(Add\): operand 1 is missing"),
        (_no_opset, "no opset of the standard operators"),
    ],
)
def test_malformed_model_is_refused(
    damage: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    model = small()
    damage(model)
    with pytest.raises(ModelError, match=message) as caught:
        load(save(model, tmp_path))
    assert str(caught.value).startswith("small.onnx: ")


# -- what tfc lacks -------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [0, 99])
def test_opset_out_of_range_is_unsupported(opset: int) -> None:
    with pytest.raises(UnsupportedError, match=f"opset {opset}: 1 to"):
        load(small(opset=opset))


def test_unknown_operators_are_all_listed() -> None:
    nodes = [
        node("ImageDecoder", ["x"], ["a"], name="one"),
        node("StringSplit", ["a"], ["y"], name="two"),
    ]
    with pytest.raises(
        UnsupportedError,
        match=r"node 'one' \(ImageDecoder\): .*operator ImageDecoder.*; nor for StringSplit",
    ):
        load(make_model(nodes, [X], ["y"]))


def test_unknown_operator_that_no_output_needs_is_left_out() -> None:
    model = small()
    model.graph.node.append(node("ImageDecoder", ["x"], ["unused"]))
    assert [op.name for op in load(model).main.block] == ["constant", "add", "relu", "return"]


def test_operator_of_another_domain_is_unsupported() -> None:
    model = make_model([node("Gelu", ["x"], ["y"], domain="com.microsoft")], [X], ["y"])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UnsupportedError, match=r"operator Gelu of domain 'com\.microsoft'"):
        load(model)


def test_unknown_attribute_is_unsupported() -> None:
    model = make_model([node("Relu", ["x"], ["y"], activation="none")], [X], ["y"])
    with pytest.raises(UnsupportedError, match="attribute 'activation'"):
        load(model)


def test_result_that_has_no_rule_is_unsupported_only_where_used() -> None:
    image = value_info("x", floats(1), (1, 1, 4, 4))
    channel = dict.fromkeys("sbmv", floats(1, lo=0.5))
    norm = node("BatchNormalization", ["x", *channel], ["y", "mean"], name="norm")
    load(make_model([norm], [image], ["y"], 9, channel))
    with pytest.raises(UnsupportedError, match=r"node 'norm' \(BatchNormalization\): its result 1"):
        load(make_model([norm], [image], ["y", "mean"], 9, channel))


def test_strings_are_unsupported() -> None:
    model = small()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(UnsupportedError, match="input 'x': element type"):
        load(model)


def test_input_that_is_no_tensor_is_unsupported() -> None:
    model = small()
    model.graph.input[0].CopyFrom(helper.make_sparse_tensor_value_info("x", 1, (2, 3)))
    with pytest.raises(UnsupportedError, match="input 'x': a sparse_tensor_type input"):
        load(model)


def test_check_lists_every_unsupported_node() -> None:
    nodes = [
        node("ImageDecoder", ["x"], ["a"], name="one"),
        node("Relu", ["a"], ["b"], name="behind"),
        node("StringSplit", ["b"], ["c"], name="two"),
        node("Constant", [], ["d"], name="three", value_strings=["s"]),
        node("Reshape", ["x", "c"], ["e"], name="behind too"),
    ]
    model = make_model(nodes, [X], ["c", "d", "e"])
    assert check(model) == [
        Problem(
            "one",
            "ImageDecoder",
            "no rule for operator ImageDecoder: image files are not decoded; give it pixels",
        ),
        Problem(
            "two",
            "StringSplit",
            "no rule for operator StringSplit: strings are not supported, numbers are",
        ),
        Problem("three", "Constant", "a constant that is no tensor of numbers"),
    ]
    assert check(small()) == []


# -- external data --------------------------------------------------------------------------------


def external(folder: Path, **entries: str) -> Path:
    """Save the small model with its weights in a file of their own."""
    model = small()
    tensor = model.graph.initializer[0]
    (folder / "w.bin").write_bytes(b"skip" + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin", "offset": "4", "length": "12"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    return save(model, folder)


def test_external_data_is_read_from_its_offset(tmp_path: Path) -> None:
    x = floats(2, 3, seed=1)
    (found,) = run(external(tmp_path), {"x": x})
    np.testing.assert_array_equal(found, np.maximum(x + floats(3), 0))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../w.bin"}, "not in the model's folder"),
        ({"location": "/etc/passwd"}, "not in the model's folder"),
        ({"location": "none.bin"}, "cannot read external data file 'none.bin'"),
        ({"offset": "8"}, "ends before byte 20"),
        ({"offset": "-4"}, "'-4' where a number belongs"),
        ({"length": "99"}, "99 bytes where its shape needs 12"),
    ],
)
def test_wrong_external_data_is_refused(
    entries: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"initialiser 'w': .*{message}"):
        load(external(tmp_path, **entries))


def test_external_data_needs_a_path(tmp_path: Path) -> None:
    import onnx

    model = onnx.load(external(tmp_path), load_external_data=False)
    with pytest.raises(ModelError, match="load it from a file"):
        load(model)
