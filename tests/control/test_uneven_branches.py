"""Branches of If that give results of other sizes compute what ONNX Runtime does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from tests.control.test_assumptions import dynamic  # noqa: E402
from tests.control.test_onnx_flow import BOOL, INT64, agrees, body, declared, model, node  # noqa: E402
from tests.frontends.support import floats  # noqa: E402

NONE = np.zeros((3, 4), np.float32)
SOME = np.array([[0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 0, 4]], np.float32)
ALL = np.ones((3, 4), np.float32)
T, F = np.array(True), np.array(False)


def branching(condition: str, outs: list[str], then: Any, otherwise: Any) -> Any:
    return node("If", [condition], outs, then_branch=then, else_branch=otherwise)


FOUND = [node("NonZero", ["x"], ["z"]), node("Gather", ["z", "zero"], ["rows"])]


def empty() -> Any:
    return body([], [], ["e"], {"e": np.zeros(0, np.int64)})


def agrees_when_empty(nodes: list[Any], chosen: list[Any]) -> None:
    """Compare an If that gives nothing where `condition` holds, else what `chosen` gives."""
    rest = [
        branching("condition", ["y"], empty(), body(chosen, [], ["chosen"])),
        node("Shape", ["y"], ["size"]),
        node("Add", ["y", "size"], ["more"]),
    ]
    proto = model([*nodes, *rest], {"x": SOME}, ["y", "size", "more"], zero=np.int64(0))
    agrees(proto, *({"x": x} for x in (NONE, SOME, ALL)))


def test_nothing_where_nothing_was_counted() -> None:
    """The way of detection models, which select nothing from nothing."""
    count = [node("Size", ["rows"], ["n"]), node("Equal", ["n", "zero"], ["condition"])]
    agrees_when_empty([*FOUND, *count], [node("Mul", ["rows", "rows"], ["chosen"])])


def test_a_branch_counts() -> None:
    number = [
        node("Cast", ["x"], ["b"], to=BOOL),
        node("Cast", ["b"], ["ones"], to=INT64),
        node("ReduceSum", ["ones"], ["n"], keepdims=0),
        node("Equal", ["n", "zero"], ["condition"]),
    ]
    agrees_when_empty(number, [*FOUND, node("Mul", ["rows", "rows"], ["chosen"])])


def test_nothing_of_an_input_without_elements() -> None:
    count = [node("Size", ["x"], ["n"]), node("Equal", ["n", "zero"], ["condition"])]
    nodes = [
        *count,
        branching("condition", ["y"], empty(), body(FOUND, [], ["rows"])),
        node("Mul", ["y", "y"], ["r"]),
    ]
    proto = dynamic(nodes, SOME, zero=np.int64(0))
    agrees(proto, *({"x": x} for x in (NONE, SOME, ALL, np.ones((0, 4), np.float32))))


def test_sizes_that_a_condition_chooses() -> None:
    """Two rows of four or three of eight; what follows reads the sizes of both axes."""
    then = body([node("Slice", ["x", "one", "three"], ["a"])], [], ["a"])
    otherwise = body([node("Concat", ["x", "x"], ["a"], axis=1)], [], ["a"])
    nodes = [
        branching("c", ["y"], then, otherwise),
        node("Transpose", ["y"], ["t"], perm=[1, 0]),
        node("MatMul", ["t", "y"], ["r"]),
    ]
    x = floats(3, 4)
    proto = model(nodes, {"c": T, "x": x}, ["y", "r"], one=[1], three=[3])
    agrees(proto, {"c": T, "x": x}, {"c": F, "x": x})


def test_results_of_one_size_stay_so() -> None:
    names = ["a", "b"]
    then = body([node("Neg", ["h"], ["a"]), node("Abs", ["h"], ["b"])], [], names)
    otherwise = body(
        [
            node("NonZero", ["x"], ["z"]),
            node("Cast", ["z"], ["f"], to=1),
            node("Gather", ["f", "zero"], ["a"]),
            node("Gather", ["f", "one"], ["b"]),
        ],
        [],
        names,
    )
    nodes = [
        node("Slice", ["v", "first", "second"], ["h"]),
        branching("c", names, then, otherwise),
        node("Add", names, ["r"]),
    ]
    given = {"c": T, "x": SOME, "v": floats(5)}
    constants = {"zero": np.int64(0), "one": np.int64(1), "first": [1], "second": [4]}
    proto = model(nodes, given, ["r"], **constants)
    module = agrees(proto, *({**given, "c": c, "x": x} for c in (T, F) for x in (NONE, SOME, ALL)))
    sizes = [op for op in module.main.block.walk() if op.name == "bind"]
    # One in the branch, one behind it.
    assert len(sizes) == 2


def nested() -> Any:
    inner = body([branching("d", ["inner"], empty(), body(FOUND, [], ["rows"]))], [], ["inner"])
    return branching("c", ["y"], inner, body([], [], ["s"], {"s": np.full(7, 2, np.int64)}))


GIVEN = {"c": T, "d": T, "x": SOME}
CASES = [{"c": c, "d": d, "x": x} for c in (T, F) for d in (T, F) for x in (NONE, SOME, ALL)]


def test_a_branch_in_a_branch() -> None:
    agrees(model([nested()], GIVEN, ["y"], zero=np.int64(0)), *CASES)


def test_branches_in_a_loop() -> None:
    rounds = body(
        [
            nested(),
            node("ReduceSum", ["y"], ["t"], keepdims=0),
            node("Add", ["total", "t"], ["next"]),
            node("Identity", ["go"], ["on"]),
        ],
        [declared("number", INT64, []), declared("go", BOOL, []), declared("total", INT64, [])],
        ["on", "next"],
    )
    loop = node("Loop", ["times", "", "zero"], ["r"], body=rounds)
    proto = model([loop], GIVEN, ["r"], zero=np.int64(0), times=np.int64(3))
    agrees(proto, *CASES)
