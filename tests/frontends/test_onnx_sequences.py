"""Sequences and optionals of ONNX models: resolved at import, tensors in the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import tfc
from tests.frontends.support import Array, floats, ints, make_model, run, value_info
from tfc import onnx_backend
from tfc.cli.main import run as run_command
from tfc.compiler.frontends.onnx import load
from tfc.ir.errors import ModelError, UnsupportedError, UsageError
from tfc.ir.interp import evaluate

node = helper.make_node
FLOAT = TensorProto.FLOAT
X = value_info("x", floats(1), (2, 3))
COND = helper.make_tensor_value_info("c", TensorProto.BOOL, ())
TRIPS = helper.make_tensor_value_info("n", TensorProto.INT64, ())
SEQUENCE = helper.make_tensor_sequence_value_info("s", FLOAT, None)


def optional_info(name: str, inner: Any) -> Any:
    return helper.make_value_info(name, helper.make_optional_type_proto(inner))


def graph(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[str]) -> Any:
    infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
    return helper.make_graph(nodes, "body", inputs, infos)


def run_shaped(model: Any, shapes: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
    module = load(model, shapes=shapes)
    return dict(evaluate(module, feeds, module.constants))


# -- operators ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_edits_of_a_sequence_are_those_of_a_list(data: Any) -> None:
    arrays = [floats(2, seed=seed) + seed for seed in range(4)]
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    constants: dict[str, Array] = {}
    nodes = [node("SequenceConstruct", ["x0", "x1"], ["s0"])]
    model: list[int] = [0, 1]
    for step in range(1, data.draw(st.integers(1, 6)) + 1):
        count = len(model)
        inserts = not count or data.draw(st.booleans())
        at = data.draw(st.integers(-count, count if inserts else count - 1))
        operands = [f"s{step - 1}"]
        if inserts:
            picked = data.draw(st.integers(0, 3))
            operands.append(f"x{picked}")
        if data.draw(st.booleans()):
            constants[f"p{step}"] = np.array(at)
            operands.append(f"p{step}")
        else:
            at = count if inserts else count - 1
        if inserts:
            model.insert(at, picked)
        else:
            del model[at]
        op = "SequenceInsert" if inserts else "SequenceErase"
        nodes.append(node(op, operands, [f"s{step}"]))
    last = f"s{len(nodes) - 1}"
    nodes.append(node("SequenceLength", [last], ["n"]))
    inputs = [value_info(name, array) for name, array in feeds.items()]
    module = load(make_model(nodes, inputs, ["n", last], constants=constants))
    found = evaluate(module, feeds, module.constants)
    assert found.pop("n") == len(model)
    assert list(found) == [f"{last}.{i}" for i in range(len(model))]
    for have, index in zip(found.values(), model, strict=True):
        np.testing.assert_array_equal(have, arrays[index])


@pytest.mark.parametrize(
    ("attrs", "split", "expected"),
    [
        ({"axis": 1}, None, [(2, 1)] * 5),
        ({"axis": -1, "keepdims": 0}, None, [(2,)] * 5),
        ({"axis": 1}, np.array(2), [(2, 2), (2, 2), (2, 1)]),
        ({"axis": 1, "keepdims": 0}, np.array(2), [(2, 2), (2, 2), (2, 1)]),
        ({"axis": 1}, ints(4, 0, 1), [(2, 4), (2, 0), (2, 1)]),
        ({}, np.array(7), [(2, 5)]),
    ],
)  # fmt: skip
def test_parts_of_a_split_are_the_whole_in_order(
    attrs: dict[str, int], split: Array | None, expected: list[tuple[int, ...]]
) -> None:
    x = floats(2, 5)
    names = ["x"] if split is None else ["x", "split"]
    constants = {} if split is None else {"split": split}
    split_node = node("SplitToSequence", names, ["s"], **attrs)
    new = int(len(expected[0]) == 1)
    axis = attrs.get("axis", 0)
    nodes = [split_node, node("ConcatFromSequence", ["s"], ["y"], axis=axis, new_axis=new)]
    model = make_model(nodes, [value_info("x", x)], ["y", "s"], constants=constants)
    whole, *parts = run(model, {"x": x})
    assert [part.shape for part in parts] == expected
    np.testing.assert_array_equal(whole, x)


def test_data_may_pick_from_tensors_of_one_shape() -> None:
    nodes = [node("SplitToSequence", ["x"], ["s"]), node("SequenceAt", ["s", "n"], ["y"])]
    model = make_model(nodes, [value_info("x", floats(3, 2)), TRIPS], ["y"])
    for i in (0, 2, -1):
        (y,) = run(model, {"x": floats(3, 2), "n": np.array(i)})
        np.testing.assert_array_equal(y, floats(3, 2)[i : i + 1 or None])


def test_data_may_not_pick_a_shape() -> None:
    nodes = [
        node("SplitToSequence", ["x", "two"], ["s"]),
        node("SequenceAt", ["s", "n"], ["y"], name="picks"),
    ]
    inputs = [value_info("x", floats(3, 2)), TRIPS]
    model = make_model(nodes, inputs, ["y"], constants={"two": np.array(2)})
    with pytest.raises(UnsupportedError, match=r"node 'picks'.*which of several shapes"):
        load(model)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("SequenceAt", ["s", "far"], ["y"])], "position 5 is out of range for 2"),
        ([node("SequenceInsert", ["s", "i"], ["y"])], "is no tensor of a sequence of 2 f32"),
        ([node("SequenceConstruct", ["x", "i"], ["y"])], "a sequence of f32, i64 tensors"),
        ([node("SequenceLength", ["x"], ["y"])], "no sequence"),
        ([node("Relu", ["s"], ["y"])], "'s' is a sequence of 2 f32 tensors, where a tensor"),
        ([node("SplitToSequence", ["x", "uneven"], ["y"])], "do not add up to 2"),
        ([node("SplitToSequence", ["x", "zero"], ["y"])], "parts of size 0"),
        ([node("SequenceEmpty", [], ["e"]), node("SequenceErase", ["e"], ["y"])], "empty"),
        ([node("Optional", [], ["o"]), node("OptionalGetElement", ["o"], ["y"])], "has none"),
    ],
)
def test_broken_rules_are_refused_with_the_reason(nodes: list[Any], message: str) -> None:
    constants = {"far": np.array(5), "i": ints(1), "uneven": ints(1, 2), "zero": np.array(0)}
    construct = node("SequenceConstruct", ["x", "x"], ["s"])
    model = make_model([construct, *nodes], [X], ["y"], constants=constants)
    with pytest.raises(ModelError, match=f"node 'y'.*{message}"):
        load(model)


def test_map_runs_its_body_for_each_element_and_knows_outer_values() -> None:
    inner = [node("Mul", ["a", "x"], ["p"]), node("Shape", ["a"], ["q"])]
    body = graph(inner, [helper.make_empty_tensor_value_info("a")], ["p", "q"])
    nodes = [
        node("SplitToSequence", ["x"], ["s"], axis=1),
        node("SequenceMap", ["s"], ["y", "z"], body=body),
    ]
    found = run(make_model(nodes, [X], ["y", "z"]), {"x": floats(2, 3)})
    for i in range(3):
        np.testing.assert_array_equal(found[i], floats(2, 3)[:, i : i + 1] * floats(2, 3))
        np.testing.assert_array_equal(found[3 + i], [2, 1])


# -- control flow ---------------------------------------------------------------------------------


def branches(then: int, otherwise: int) -> Any:
    """An If on data whose branches give sequences of so many tensors."""
    graphs = []
    for op, count in (("Neg", then), ("Abs", otherwise)):
        inner = [node(op, ["x"], ["y"]), node("SequenceConstruct", ["y"] * count, ["s"])]
        graphs.append(graph(inner, [], ["s"]))
    both = node("If", ["c"], ["r"], then_branch=graphs[0], else_branch=graphs[1], name="choice")
    return make_model([both], [X, COND], ["r"])


def test_branches_with_sequences_of_one_length_merge() -> None:
    for truth, function in ((True, np.negative), (False, np.abs)):
        found = run(branches(2, 2), {"x": floats(2, 3), "c": np.array(truth)})
        assert len(found) == 2
        for y in found:
            np.testing.assert_array_equal(y, function(floats(2, 3)))


def test_branches_with_sequences_of_two_lengths_are_refused() -> None:
    message = r"node 'choice'.*a sequence of 1 f32 tensors and a sequence of 2 f32 tensors"
    with pytest.raises(UnsupportedError, match=message):
        load(branches(1, 2))


def rounds(inner: Sequence[Any], trips: int | None, again: str = "go") -> Any:
    """A Loop that carries the sequence (x, x); its body makes `after` of `before`."""
    inputs = [helper.make_empty_tensor_value_info(name) for name in ("i", "go", "before")]
    inputs[0], inputs[1] = (
        helper.make_tensor_value_info("i", TensorProto.INT64, ()),
        helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
    )
    same = node("Identity", [again], ["more"])
    body = graph([*inner, same], inputs, ["more", "after"])
    nodes = [
        node("SequenceConstruct", ["x", "x"], ["s"]),
        node("Loop", ["n" if trips is None else "trips", "", "s"], ["r"], body=body, name="turns"),
    ]
    inputs = [X, TRIPS] if trips is None else [X]
    constants = {} if trips is None else {"trips": np.array(trips)}
    return make_model(nodes, inputs, ["r"], constants={**constants, "zero": np.array(0)})


REPLACED = [
    node("SequenceAt", ["before", "zero"], ["first"]),
    node("SequenceErase", ["before", "zero"], ["rest"]),
    node("Add", ["first", "x"], ["sum"]),
    node("SequenceInsert", ["rest", "sum"], ["after"]),
]
GROWN = [
    node("SequenceAt", ["before", "i"], ["one"]),
    node("Add", ["one", "x"], ["sum"]),
    node("SequenceInsert", ["before", "sum"], ["after"]),
]


def test_sequence_that_keeps_its_make_is_carried_by_a_loop() -> None:
    model = rounds(REPLACED, None)
    assert any(op.name == "loop" for op in load(model).main.block)
    first, second = run(model, {"x": floats(2, 3), "n": np.array(5)})
    np.testing.assert_allclose(first, floats(2, 3) * 3, rtol=1e-6)
    np.testing.assert_allclose(second, floats(2, 3) * 4, rtol=1e-6)


def test_sequence_that_grows_is_written_out() -> None:
    model = rounds(GROWN, 4)
    assert all(op.name != "loop" for op in load(model).main.block)
    found = run(model, {"x": floats(2, 3)})
    factors = [1, 1, 2, 2, 3, 3]
    for y, factor in zip(found, factors, strict=True):
        np.testing.assert_allclose(y, floats(2, 3) * factor, rtol=1e-6)


@pytest.mark.parametrize(("trips", "message"), [(None, "is not known"), (10_000, "10000 times")])
def test_sequence_that_grows_for_long_is_refused(trips: int | None, message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"node 'turns'.*how many tensors.*{message}"):
        load(rounds([node("SequenceInsert", ["before", "x"], ["after"])], trips))


# -- inputs and outputs ---------------------------------------------------------------------------


def test_open_input_is_refused_by_name_with_what_to_do() -> None:
    model = make_model([node("SequenceLength", ["s"], ["y"])], [SEQUENCE], ["y"])
    with pytest.raises(UnsupportedError, match=r"input 's': a sequence.*with shapes"):
        tfc.compile(model)


def test_shapes_make_a_sequence_inputs_by_number() -> None:
    nodes = [node("ConcatFromSequence", ["s"], ["y"], axis=0), node("Identity", ["s"], ["z"])]
    model = make_model(nodes, [SEQUENCE], ["y", "z"])
    program = tfc.compile(model, shapes={"s": [("rows", 2), (1, 2)]}, threads=1)
    assert [spec.name for spec in program.inputs] == ["s.0", "s.1"]
    assert [spec.name for spec in program.outputs] == ["y", "z.0", "z.1"]
    y, first, second = program(floats(3, 2), floats(1, 2, seed=1))
    np.testing.assert_array_equal(y, np.concatenate([first, second]))


def test_shapes_give_a_tensor_of_unknown_rank_one() -> None:
    unknown = helper.make_tensor_value_info("x", FLOAT, None)
    model = make_model([node("Neg", ["x"], ["y"])], [unknown], ["y"])
    with pytest.raises(UnsupportedError, match="input 'x': an input of unknown rank"):
        load(model)
    assert run_shaped(model, {"x": (None, 2)}, {"x": floats(3, 2)})["y"].shape == (3, 2)


def test_optional_input_has_an_element_or_none() -> None:
    inner = helper.make_tensor_type_proto(FLOAT, (None, 3))
    model = make_model(
        [node("OptionalHasElement", ["o"], ["y"])], [optional_info("o", inner)], ["y"]
    )
    assert run_shaped(model, {"o": (2, 3)}, {"o": floats(2, 3)})["y"]
    assert not run_shaped(model, {"o": None}, {})["y"]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (2, 4)}, r"shape \[2, 4\] is not that of the model, \[2, 3\]"),
        ({"x": (2,)}, r"shape \[2\]"),
        ({"x": (2, 3), "t": ()}, "the model has no input 't'"),
        ({"x": (2, -3)}, "shape"),
        ({"x": None}, "is no optional"),
        ({"x": [(2, 3)]}, "one shape"),
        ({"x": 3}, "one shape"),
    ],
)
def test_shapes_that_do_not_fit_the_model_are_refused(shapes: Any, message: str) -> None:
    model = make_model([node("Neg", ["x"], ["y"])], [X], ["y"])
    with pytest.raises(UsageError, match=message):
        load(model, shapes=shapes)


def test_sequence_takes_a_list_of_shapes() -> None:
    model = make_model([node("SequenceLength", ["s"], ["y"])], [SEQUENCE], ["y"])
    for shapes in ((2, 3), [2], "2x3", [(2, -1)]):
        with pytest.raises(UsageError, match="input 's'"):
            load(model, shapes={"s": shapes})
    assert run_shaped(model, {"s": []}, {})["y"] == 0


def test_command_line_names_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = helper.make_tensor_type_proto(FLOAT, None)
    inputs = [SEQUENCE, optional_info("o", inner), X]
    nodes = [
        node("SequenceInsert", ["s", "x"], ["t"]),
        node("ConcatFromSequence", ["t"], ["y"], axis=0),
        node("OptionalHasElement", ["o"], ["z"]),
    ]
    path = tmp_path / "open.onnx"
    path.write_bytes(make_model(nodes, inputs, ["y", "z"]).SerializeToString())
    shapes = ["--shape", "s=1x3,4x3,", "--shape", "o=none", "--shape", "x=2x3"]
    assert run_command(["dump", str(path), "--stage", "graph", *shapes]) == 0
    text = capsys.readouterr().out
    assert "%s.0: f32[1, 3], %s.1: f32[4, 3], %x: f32[2, 3]" in text
    assert "f32[7, 3]" in text


def test_backend_takes_and_returns_lists_and_none() -> None:
    inner = helper.make_tensor_type_proto(FLOAT, None)
    inputs = [SEQUENCE, optional_info("o", inner)]
    nodes = [node("SequenceInsert", ["s", "x"], ["t"]), node("Identity", ["o"], ["p"])]
    prepared = onnx_backend.prepare(make_model(nodes, [*inputs, X], ["t", "p"]))
    x, one = floats(2, 3), floats(4)
    found, nothing = prepared.run([[one, one + 1], None, x])
    assert nothing is None
    for have, wanted in zip(found, [one, one + 1, x], strict=True):
        np.testing.assert_array_equal(have, wanted)
    found, element = prepared.run([[], one, x])
    np.testing.assert_array_equal(element, one)
    assert len(found) == 1


def test_outputs_without_a_tensor_are_refused() -> None:
    model = make_model([node("SequenceEmpty", [], ["y"])], [X], ["y"])
    with pytest.raises(UnsupportedError, match="hold no tensor"):
        load(model)
