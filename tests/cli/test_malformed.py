"""Malformed models, data and calls, from the command line: one line, its code, no file left."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfc
from tests.cli.conftest import Command, Result
from tests.frontends.support import floats, ints, make_model, value_info

onnx = pytest.importorskip("onnx")
node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array

USAGE, MALFORMED, UNSUPPORTED, VERIFIER = 2, 3, 4, 5
ABSURD = 1 << 60


def net() -> Any:
    """A model y = softmax(flatten(relu(conv(x, k) + b)) @ w) of an input [1, 2, 4, 4]."""
    nodes = [
        node("Conv", ["x", "k"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("Add", ["c", "b"], ["a"], name="add"),
        node("Relu", ["a"], ["r"], name="relu"),
        node("Reshape", ["r", "shape"], ["f"], name="flatten"),
        node("MatMul", ["f", "w"], ["m"], name="matmul"),
        node("Softmax", ["m"], ["y"], name="softmax", axis=1),
    ]
    constants = {
        "k": floats(3, 2, 3, 3), "b": floats(3, 1, 1), "w": floats(48, 5), "shape": ints(1, 48),
    }  # fmt: skip
    inputs = [value_info("x", floats(1, 2, 4, 4))]
    return make_model(nodes, inputs, ["y"], constants=constants)


def set_constant(model: Any, name: str, array: Any) -> None:
    for entry in model.graph.initializer:
        if entry.name == name:
            entry.CopyFrom(tensor(array, name))


def initialiser(model: Any, name: str) -> Any:
    return next(entry for entry in model.graph.initializer if entry.name == name)


def node_of(model: Any, name: str) -> Any:
    return next(entry for entry in model.graph.node if entry.name == name)


def dims_of(model: Any) -> Any:
    return model.graph.input[0].type.tensor_type.shape.dim


def replaced(model: Any, name: str, op: str, **attributes: Any) -> None:
    """Put another operator with attributes in the place of a node."""
    old = node_of(model, name)
    old.CopyFrom(node(op, list(old.input), list(old.output), name=name, **attributes))


def shaped_by(op: str, *values: int) -> Callable[[Any], None]:
    """Return what lets a node's constant operand ask for a size."""

    def damage(model: Any) -> None:
        set_constant(model, "shape", ints(*values))
        replaced(model, "flatten", op)

    return damage


def _cycle(m: Any) -> None:
    node_of(m, "conv").input[0] = "m"


def _own_result(m: Any) -> None:
    node_of(m, "relu").input[0] = "r"


def _missing_initialiser(m: Any) -> None:
    m.graph.initializer.remove(initialiser(m, "w"))


def _missing_operand(m: Any) -> None:
    node_of(m, "matmul").input[1] = ""


def _missing_output(m: Any) -> None:
    m.graph.output[0].name = "z"


def _defined_twice(m: Any) -> None:
    node_of(m, "relu").output[0] = "c"


def _channels_differ(m: Any) -> None:
    set_constant(m, "k", floats(3, 5, 3, 3))


def _rows_differ(m: Any) -> None:
    set_constant(m, "w", floats(47, 5))


def _no_broadcast(m: Any) -> None:
    set_constant(m, "b", floats(7, 1, 1))


def _count_differs(m: Any) -> None:
    set_constant(m, "shape", ints(1, 49))


def _two_open_dims(m: Any) -> None:
    set_constant(m, "shape", ints(-1, -1))


def _rank_differs(m: Any) -> None:
    del dims_of(m)[3]


def _declared_otherwise(m: Any) -> None:
    m.graph.output[0].CopyFrom(value_info("y", ints(1)))


def _absurd_input(m: Any) -> None:
    dims_of(m)[0].dim_value = ABSURD


def _absurd_weights(m: Any) -> None:
    initialiser(m, "w").dims[0] = ABSURD


def _overflowing_weights(m: Any) -> None:
    del initialiser(m, "w").dims[:]
    initialiser(m, "w").dims.extend([1 << 32, 1 << 32])


def _negative_input(m: Any) -> None:
    dims_of(m)[2].dim_value = -4


def _negative_weights(m: Any) -> None:
    initialiser(m, "w").dims[0] = -48


def _short_weights(m: Any) -> None:
    initialiser(m, "w").raw_data = initialiser(m, "w").raw_data[:-4]


def _weights_of_no_type(m: Any) -> None:
    initialiser(m, "w").data_type = 77


def _doubles_meet_floats(m: Any) -> None:
    set_constant(m, "w", np.zeros((48, 5)))


def _absurd_pads(m: Any) -> None:
    replaced(m, "conv", "Conv", pads=[ABSURD, 1, 1, 1])


def _zero_stride(m: Any) -> None:
    replaced(m, "conv", "Conv", strides=[0, 1])


def _negative_dilation(m: Any) -> None:
    replaced(m, "conv", "Conv", dilations=[-1, 1])


def _no_groups(m: Any) -> None:
    replaced(m, "conv", "Conv", group=0)


def _kernel_shape_differs(m: Any) -> None:
    replaced(m, "conv", "Conv", kernel_shape=[5, 5])


def _kernel_is_larger(m: Any) -> None:
    replaced(m, "conv", "Conv", dilations=[9, 9])


def _axis_beyond_rank(m: Any) -> None:
    replaced(m, "softmax", "Softmax", axis=7)


def _text_for_a_number(m: Any) -> None:
    replaced(m, "softmax", "Softmax", axis="one")


def _no_permutation(m: Any) -> None:
    replaced(m, "softmax", "Transpose", perm=[0, 0])


def _no_opset(m: Any) -> None:
    del m.opset_import[:]


def _opset(version: int) -> Callable[[Any], None]:
    def damage(m: Any) -> None:
        m.opset_import[0].version = version

    return damage


def _unknown_operator(m: Any) -> None:
    node_of(m, "relu").op_type = "Zap"


def _unknown_domain(m: Any) -> None:
    node_of(m, "relu").domain = "my.own"
    m.opset_import.append(onnx.helper.make_opsetid("my.own", 1))


def _recursive_function(m: Any) -> None:
    own = [onnx.helper.make_opsetid("my.own", 1)]
    inner = node("Twice", ["p"], ["q"], domain="my.own")
    m.functions.append(onnx.helper.make_function("my.own", "Twice", ["p"], ["q"], [inner], own))
    _unknown_domain(m)
    node_of(m, "relu").op_type = "Twice"


def _branch_without_a_graph(m: Any) -> None:
    replaced(m, "relu", "If")


def _strings(m: Any) -> None:
    m.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING


def _input_without_a_type(m: Any) -> None:
    m.graph.input[0].ClearField("type")


def _no_outputs(m: Any) -> None:
    del m.graph.output[:]


def _external(**entries: str) -> Callable[[Any], None]:
    def damage(m: Any) -> None:
        weights = initialiser(m, "w")
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        for key, value in entries.items():
            weights.external_data.add(key=key, value=value)

    return damage


DAMAGES: list[tuple[Callable[[Any], None], int, str]] = [
    (_cycle, MALFORMED, "needs its own result"),
    (_own_result, MALFORMED, "node 'relu' (Relu) needs its own result"),
    (_missing_initialiser, MALFORMED, "node 'matmul' (MatMul): reads 'w', which nothing defines"),
    (_missing_operand, MALFORMED, "node 'matmul' (MatMul): operand 1 is missing"),
    (_missing_output, MALFORMED, "output 'z': reads 'z', which nothing defines"),
    (_defined_twice, MALFORMED, "'c'"),
    (_channels_differ, MALFORMED, "node 'conv' (Conv): "),
    (_rows_differ, MALFORMED, "node 'matmul' (MatMul): "),
    (_no_broadcast, MALFORMED, "node 'add' (Add): dims 3 and 7 do not broadcast"),
    (_count_differs, MALFORMED, "node 'flatten' (Reshape): "),
    (_two_open_dims, MALFORMED, "node 'flatten' (Reshape): "),
    (_rank_differs, MALFORMED, "node 'conv' (Conv): "),
    (_declared_otherwise, MALFORMED, "output 'y': is declared i64 but is f32"),
    (_absurd_input, MALFORMED, "too large for any memory"),
    (_absurd_weights, MALFORMED, "initialiser 'w': "),
    (_overflowing_weights, MALFORMED, "initialiser 'w': "),
    (_negative_input, MALFORMED, "input 'x': "),
    (_negative_weights, MALFORMED, "initialiser 'w': negative dim"),
    (_short_weights, MALFORMED, "initialiser 'w': holds 956 bytes of data where its shape needs"),
    (_weights_of_no_type, MALFORMED, "initialiser 'w': unknown element type 77"),
    (_doubles_meet_floats, MALFORMED, "node 'matmul' (MatMul): "),
    (_absurd_pads, MALFORMED, "node 'conv' (Conv): "),
    (_zero_stride, MALFORMED, "node 'conv' (Conv): "),
    (_negative_dilation, MALFORMED, "node 'conv' (Conv): "),
    (_no_groups, MALFORMED, "node 'conv' (Conv): "),
    (_kernel_shape_differs, MALFORMED, "node 'conv' (Conv): "),
    (_kernel_is_larger, MALFORMED, "node 'conv' (Conv): "),
    (_axis_beyond_rank, MALFORMED, "node 'softmax' (Softmax): "),
    (_text_for_a_number, MALFORMED, "attribute 'axis' is"),
    (_no_permutation, MALFORMED, "node 'softmax' (Transpose): "),
    (shaped_by("Expand", ABSURD, 1), MALFORMED, "node 'flatten' (Expand): "),
    (shaped_by("Tile", 1, 1, ABSURD, 1), MALFORMED, "node 'flatten' (Tile): "),
    (shaped_by("Tile", 1, 1, -1, 1), MALFORMED, "node 'flatten' (Tile): "),
    (shaped_by("Pad", *[0] * 7, ABSURD), MALFORMED, "node 'flatten' (Pad): "),
    (shaped_by("Reshape", ABSURD, ABSURD), MALFORMED, "node 'flatten' (Reshape): "),
    (shaped_by("Unsqueeze", 0, 0), MALFORMED, "node 'flatten' (Unsqueeze): "),
    (_no_opset, MALFORMED, "no opset of the standard operators"),
    (_opset(0), UNSUPPORTED, "opset 0"),
    (_opset(9999), UNSUPPORTED, "opset 9999"),
    (_unknown_operator, UNSUPPORTED, "no rule for operator Zap"),
    (_unknown_domain, UNSUPPORTED, "of domain 'my.own'"),
    (_recursive_function, MALFORMED, "my.own"),
    (_branch_without_a_graph, MALFORMED, "node 'relu' (If)"),
    (_strings, UNSUPPORTED, "input 'x': element type"),
    (_input_without_a_type, UNSUPPORTED, "input 'x': "),
    (_no_outputs, MALFORMED, "the graph has no outputs"),
    (_external(location="none.bin"), MALFORMED, "cannot read external data file 'none.bin'"),
    (_external(location="../w.bin"), MALFORMED, "not in the model's folder"),
    (_external(), MALFORMED, "initialiser 'w': "),
    (_external(location="net.onnx", offset="9" * 30), MALFORMED, "initialiser 'w': "),
    (_external(location="net.onnx", offset="-1"), MALFORMED, "initialiser 'w': "),
]


def assert_refused(result: Result, code: int, *messages: str) -> None:
    """Check that a command printed one line of complaint and nothing else."""
    assert (result.code, result.out) == (code, ""), result.err
    assert result.err.startswith("tfc: error: ")
    assert result.err.count("\n") == 1, result.err
    for message in messages:
        assert message in result.err


@pytest.mark.parametrize(
    ("damage", "code", "message"), DAMAGES, ids=[message for _, _, message in DAMAGES]
)
def test_malformed_models_are_refused(
    cli: Command, tmp_path: Path, damage: Callable[[Any], None], code: int, message: str
) -> None:
    model = net()
    damage(model)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    for arguments in (
        ("compile", path, "-o", tmp_path / "net.so", "--emit", "o,a,ll,graph,loops"),
        ("compile", path, "-o", tmp_path / "net.tfc"),
        ("run", path, "--input", "ones"),
    ):
        assert_refused(cli(*arguments), code, "net.onnx: ", message)
    assert list(tmp_path.iterdir()) == [path]


def test_the_model_without_damage_compiles(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(net().SerializeToString())
    result = cli("run", tmp_path / "net.onnx", "--input", "ones")
    assert result.code == 0, result.err


MAGIC = {
    "empty": b"", "elf": b"\x7fELF\x02\x01\x01" + bytes(57), "zip": b"PK\x03\x04" + bytes(99),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(99), "png": b"\x89PNG\r\n\x1a\n" + bytes(99),
    "tflite": b"\x1c\0\0\0TFL3" + bytes(99), "json": b'{"model": []}', "html": b"<html></html>",
    "zeros": bytes(4096), "ones": b"\xff" * 4096, "text": b"tfc", "version": b"tfc 7 graph\n",
    "npy": b"\x93NUMPY\x01\x00", "long": b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
}  # fmt: skip


@pytest.mark.parametrize("name", MAGIC)
def test_files_of_another_kind_are_refused(cli: Command, tmp_path: Path, name: str) -> None:
    for suffix in (".onnx", ".tfc", ""):
        path = tmp_path / f"net{suffix}"
        path.write_bytes(MAGIC[name])
        result = cli("compile", path, "-o", tmp_path / "out.so")
        assert_refused(result, MALFORMED, path.name)
        assert_refused(cli("run", path), MALFORMED, path.name)
        path.unlink()
    assert list(tmp_path.iterdir()) == []


def test_models_cut_anywhere_are_refused(cli: Command, tmp_path: Path) -> None:
    data = net().SerializeToString()
    path = tmp_path / "net.onnx"
    for size in range(1, len(data), len(data) // 60):
        path.write_bytes(data[:size])
        result = cli("compile", path, "-o", tmp_path / "net.so")
        assert_refused(result, MALFORMED, "net.onnx")
    assert list(tmp_path.iterdir()) == [path]


def test_text_cut_anywhere_is_refused(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(net().SerializeToString())
    assert cli("compile", tmp_path / "net.onnx", "-o", tmp_path / "net.loops.tfc",
               "--emit", "loops", "-O0").code == 0  # fmt: skip
    data = (tmp_path / "net.loops.tfc").read_bytes()
    end = data.rindex(b"}")
    before = sorted(tmp_path.iterdir())
    path = tmp_path / "net.loops.tfc"
    for size in range(4, end, end // 40):
        path.write_bytes(data[:size])
        result = cli("compile", path, "-o", tmp_path / "net.so")
        assert result.code in (MALFORMED, VERIFIER), result.err
        assert result.err.startswith(f"tfc: error: {path}")
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def text_and_data(cli: Command, tmp_path: Path) -> Path:
    """A model as text, with its constants beside it."""
    (tmp_path / "net.onnx").write_bytes(net().SerializeToString())
    assert cli("compile", tmp_path / "net.onnx", "-o", tmp_path / "net.tfc").code == 0
    return tmp_path / "net.tfc"


def _remove(path: Path) -> None:
    path.unlink()


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _alter_head(path: Path) -> None:
    path.write_bytes(b"x" + path.read_bytes()[1:])


def _alter_data(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("damage", [_remove, _shorten, _alter_head, _alter_data])
def test_damaged_constants_of_text_are_refused(
    cli: Command, text_and_data: Path, damage: Callable[[Path], None]
) -> None:
    for path in text_and_data.with_name("net.constants").iterdir():
        damage(path)
    before = sorted(text_and_data.parent.iterdir())
    result = cli("compile", text_and_data, "-o", text_and_data.with_name("net.so"))
    assert_refused(result, MALFORMED)
    assert sorted(text_and_data.parent.iterdir()) == before


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """y = a + b, for a of [N, 3] and b of [N, 3] with N up to 8."""
    a, b = (tfc.placeholder(("N", 3), name=name) for name in "ab")
    path = tmp_path / "pair.tfc"
    path.write_text(tfc.Graph.of({"y": a + b}).text())
    return path


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a=2x3xf32"], "missing input b"),
        (["a=2x3xf32", "b=2x3xf32", "c=2x3xf32"], "begins with none of the names: a, b"),
        (["a=2x3xf32", "b=2x3xi32"], "dtype int32, the model takes"),
        (["a=2x3xf32", "b=2x3xf16"], "dtype float16, the model takes"),
        (["a=2x3xf32", "b=2x3xbool"], "dtype bool, the model takes"),
        (["a=2x3xf32", "b=3xf32"], "rank 1"),
        (["a=2x3xf32", "b=1x2x3xf32"], "rank 3"),
        (["a=2x3xf32", "b=f32=1"], "rank 0"),
        (["a=2x3xf32", "b=2x4xf32"], "size 4, the model takes 3"),
        (["a=2x3xf32", "b=5x3xf32"], "N"),
        (["a=9x3xf32", "b=9x3xf32"], "N must be 1 to 8"),
        (["a=0x3xf32", "b=0x3xf32"], "N must be 1 to 8"),
    ],
)
def test_calls_that_do_not_fit_are_refused(
    cli: Command, pair: Path, inputs: list[str], message: str
) -> None:
    library = pair.with_name("pair.so")
    assert cli("compile", pair, "-o", library, "--dim", "N=1..8").code == 0
    before = sorted(pair.parent.iterdir())
    given = [part for text in inputs for part in ("--input", text)]
    saved = ["--output", f"@{pair.with_name('y.npy')}"]
    for command in (["run", pair, "--dim", "N=1..8"], ["run", library]):
        assert_refused(cli(*command, *given, *saved), USAGE, message)
    assert sorted(pair.parent.iterdir()) == before


def test_artifacts_with_a_damaged_head_or_manifest_are_refused(cli: Command, pair: Path) -> None:
    library = pair.with_name("pair.so")
    assert cli("compile", pair, "-o", library).code == 0
    data = library.read_bytes()
    cases = {
        "magic": b"\x7fELG" + data[4:],
        "class": data[:4] + b"\x01" + data[5:],
        "machine": data[:18] + struct.pack("<H", 243) + data[20:],
        "headers": data[:32] + struct.pack("<Q", ABSURD) + data[40:],
        "manifest": data.replace(b'"format_version":1', b'"format_version":9'),
        "ports": data.replace(b'"inputs":[', b'"inputs":{'),
    }
    for name, content in cases.items():
        assert content != data, name
        (pair.parent / "bad.so").write_bytes(content)
        result = cli("run", pair.parent / "bad.so", "--input", "a=2x3xf32", "--input", "b=2x3xf32")
        assert_refused(result, MALFORMED, "bad.so")


def test_mutated_models_compile_or_are_refused(cli: Command, tmp_path: Path) -> None:
    whole = net().SerializeToString()
    path, library = tmp_path / "net.onnx", tmp_path / "net.so"
    dice = random.Random(11)
    codes: dict[int, int] = {}
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2))):
            at = dice.randrange(len(data))
            data[at] = dice.choice((dice.randrange(256), data[at] ^ 1 << dice.randrange(8)))
        path.write_bytes(data)
        result = cli("compile", path, "-o", library, "-O", dice.choice("012"))
        codes[result.code] = codes.get(result.code, 0) + 1
        assert result.code in (0, MALFORMED, UNSUPPORTED), f"{result.err} by {bytes(data)!r}"
        assert library.exists() == (result.code == 0)
        for file in tmp_path.iterdir():
            if file != path:
                file.unlink()
    assert codes[0] > 20
    assert codes[MALFORMED] > 20
