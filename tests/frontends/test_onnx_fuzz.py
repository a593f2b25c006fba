"""Damaged and odd models: the ONNX front end loads them or refuses, and never fails otherwise."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, helper, numpy_helper

from tests.frontends import (
    test_onnx_domains,
    test_onnx_forests,
    test_onnx_randoms,
    test_onnx_sequences,
)
from tests.frontends.cases import CASES
from tests.frontends.support import floats, ints, one_node
from tfc.compiler.frontends.onnx import load
from tfc.ir.errors import CompileError, TfcError

node = helper.make_node


ROWS = test_onnx_forests.rows(5, nan=False)
MODELS = [
    *(test_onnx_domains.one_node_model(case) for case in test_onnx_domains.CASES),
    test_onnx_domains.vectorizer(ints(1, 2, 3)),
    *(test_onnx_domains.optimiser(*given)[0] for given in test_onnx_domains.OPTIMISERS),
    test_onnx_forests.ensemble(ROWS),
    test_onnx_forests.regressor(ROWS),
    *(test_onnx_randoms.model_of((op, {"seed": 1.0})) for op in test_onnx_randoms.KINDS),
    test_onnx_randoms.looped(3, grows=True),
    test_onnx_sequences.branches(2, 2),
    test_onnx_sequences.rounds(test_onnx_sequences.REPLACED, 3),
    test_onnx_sequences.rounds(test_onnx_sequences.GROWN, 3),
]


def failure_of(source: Any) -> TfcError | None:
    try:
        load(source)
    except TfcError as error:
        return error
    return None


def test_mutated_file_loads_or_is_refused(tmp_path: Path) -> None:
    model, _ = one_node(
        "Conv", [floats(1, 2, 4, 4), floats(3, 2, 3, 3)], {"pads": [1, 1, 1, 1]}, 21, [1]
    )
    model.graph.node.extend(
        [
            node("Shape", ["y0"], ["s"]),
            node("Slice", ["s", "lo", "hi"], ["head"]),
            node("Concat", ["head", "open"], ["shape"], axis=0),
            node("Reshape", ["y0", "shape"], ["r"]),
            node("ReduceSum", ["r", "axes"], ["y"], keepdims=0),
        ]
    )
    for name, value in (("lo", ints(0)), ("hi", ints(2)), ("open", ints(-1)), ("axes", ints(2))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.graph.output[0].name = "y"
    whole = model.SerializeToString()
    path = tmp_path / "a.onnx"
    outcomes = {"loaded": 0, "refused": 0}
    dice = random.Random(7)
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 4))):
            at = dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[at] = dice.randrange(256)
                case 1:
                    data[at] ^= 1 << dice.randrange(8)
                case 2:
                    del data[at : at + dice.randrange(1, 9)]
                case _:
                    data[at:at] = dice.randbytes(dice.randrange(1, 9))
        path.write_bytes(data)
        failure = failure_of(path)
        assert not isinstance(failure, CompileError), f"{failure} by {bytes(data)!r}"
        outcomes["refused" if failure else "loaded"] += 1
    assert min(outcomes.values()) > 100, outcomes


INTEGERS = (-1, 0, 1, 2, 3, -5, 1000, 1 << 40, -(1 << 63))
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e30)
STRINGS = (b"", b"x", b"\xff")


def _nodes(graph: Any) -> list[Any]:
    """The nodes of a graph, and those of its nodes' graphs."""
    found = []
    for entry in graph.node:
        inner = [a.g for a in entry.attribute if a.type == AttributeProto.GRAPH]
        found += [entry, *(part for own in inner for part in _nodes(own))]
    return found


def _change_attribute(dice: random.Random, model: Any) -> None:
    attributes = dice.choice(_nodes(model.graph)).attribute
    if not attributes:
        return
    attribute = dice.choice(attributes)
    match attribute.type:
        case AttributeProto.INT:
            attribute.i = dice.choice(INTEGERS)
        case AttributeProto.FLOAT:
            attribute.f = dice.choice(FLOATS)
        case AttributeProto.STRING:
            attribute.s = dice.choice(STRINGS)
        case AttributeProto.INTS if attribute.ints:
            attribute.ints[dice.randrange(len(attribute.ints))] = dice.choice(INTEGERS)
        case _:
            attributes.remove(attribute)


def _change_operands(dice: random.Random, model: Any) -> None:
    names = dice.choice(_nodes(model.graph)).input
    if names and dice.random() < 0.5:
        names[dice.randrange(len(names))] = dice.choice(["", *names])
    elif names:
        del names[dice.randrange(len(names))]


def _change_input(dice: random.Random, model: Any) -> None:
    if not model.graph.input:
        return
    tensor = dice.choice(model.graph.input).type.tensor_type
    dims = tensor.shape.dim
    match dice.randrange(4):
        case 0:
            tensor.elem_type = dice.randrange(1, 17)
        case 1:
            dims.add(dim_value=dice.randrange(4))
        case 2 if dims:
            del dims[dice.randrange(len(dims))]
        case _ if dims:
            dim = dice.choice(dims)
            dim.Clear()
            if dice.random() < 0.5:
                dim.dim_param = dice.choice("abc")
            else:
                dim.dim_value = dice.choice((0, 1, 2, 3, 5, 1 << 33))


def _change_constant(dice: random.Random, model: Any) -> None:
    if not model.graph.initializer:
        return
    tensor = dice.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor).copy()
    if array.size and array.dtype == np.int64:
        array.reshape(-1)[dice.randrange(array.size)] = dice.choice(INTEGERS)
    else:
        array = array.reshape(-1)[: dice.randrange(3)]
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def test_changed_node_loads_or_is_refused() -> None:
    changes = (_change_attribute, _change_operands, _change_input, _change_constant)
    outcomes = {"loaded": 0, "refused": 0}
    dice = random.Random(11)
    for _ in range(8000):
        case = dice.choice(CASES)
        stored = [i for i, array in enumerate(case.arrays) if i and array is not None]
        constant = case.constant if 0 in case.constant or dice.random() < 0.5 else stored
        model, _ = one_node(case.op, case.arrays, case.attrs, case.opset, constant, case.outputs)
        for _ in range(dice.randrange(1, 4)):
            dice.choice(changes)(dice, model)
        failure = failure_of(model)
        assert not isinstance(failure, CompileError), f"{failure} by {model}"
        outcomes["refused" if failure else "loaded"] += 1
    assert min(outcomes.values()) > 1000, outcomes


def test_changed_model_of_many_nodes_or_another_domain_loads_or_is_refused() -> None:
    changes = (_change_attribute, _change_operands, _change_input)
    outcomes = {"loaded": 0, "refused": 0}
    dice = random.Random(13)
    for _ in range(2500):
        model = type(MODELS[0])()
        model.CopyFrom(dice.choice(MODELS))
        for _ in range(dice.randrange(1, 3)):
            dice.choice(changes)(dice, model)
        failure = failure_of(model)
        assert not isinstance(failure, CompileError), f"{failure} by {model}"
        outcomes["refused" if failure else "loaded"] += 1
    assert min(outcomes.values()) > 500, outcomes
