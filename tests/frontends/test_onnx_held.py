"""Models whose inputs hold shapes, bounds and counts: every run reads them anew."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import tfc
from tests.frontends.support import Array, floats, ints, make_model, reference, run, value_info
from tfc.compiler.frontends.onnx import load
from tfc.ir.errors import TfcError, UnsupportedError
from tfc.runtime.errors import InputError, RuntimeFault

X = floats(4, 6)


def node(op: str, inputs: Iterable[str], output: str = "y", **attrs: Any) -> Any:
    return helper.make_node(op, list(inputs), [output], **attrs)


class Both:
    """A model, interpreted and compiled."""

    def __init__(self, model: Any, threads: int = 1) -> None:
        self.model = model
        self.executable = tfc.compile(model, threads=threads)

    def gives(self, feeds: Mapping[str, Array], *wanted: Any) -> None:
        compiled = self.executable(dict(feeds)).values()
        for have, same, expected in zip(compiled, run(self.model, feeds), wanted, strict=True):
            assert have.shape == same.shape == np.shape(expected)
            np.testing.assert_allclose(have, expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(same, expected, rtol=1e-5, atol=1e-6)

    def agrees(self, feeds: Mapping[str, Array]) -> None:
        self.gives(feeds, *reference(self.model, feeds))

    def refuses(self, feeds: Mapping[str, Array], error: Any = (InputError, RuntimeFault)) -> None:
        with pytest.raises(error):
            self.executable(dict(feeds))
        with pytest.raises(TfcError):
            run(self.model, feeds)


def on_x(nodes: Any, *others: Any, shape: Any = ("n", "m"), **constants: Array) -> Any:
    nodes = nodes if isinstance(nodes, list) else [nodes]
    inputs = [value_info("x", X, shape), *others]
    return make_model(nodes, inputs, ["y"], constants=constants)


# -- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowzero", [0, 1])
def test_reshape_to_any_numbers(allowzero: int) -> None:
    held = value_info("s", ints(1, 1, 1))
    both = Both(on_x(node("Reshape", "xs", allowzero=allowzero), held), threads=2)
    for shape in ((2, 3, 4), (-1, 2, 2), (24, 1, -1), (1, 1, 24), (4, -1, 6), (1, 24, 1)):
        both.gives({"x": X, "s": ints(*shape)}, X.reshape(shape))
    if not allowzero:
        both.gives({"x": X, "s": ints(0, 3, 2)}, X.reshape(4, 3, 2))
        both.gives({"x": X, "s": ints(0, 0, -1)}, X.reshape(4, 6, 1))
        both.gives({"x": X, "s": ints(-1, 0, 1)}, X.reshape(4, 6, 1))
    else:
        empty = np.zeros((0, 6), np.float32)
        both.gives({"x": empty, "s": ints(3, 0, 2)}, empty.reshape(3, 0, 2))
    for wrong in ((5, 5, 1), (-1, 5, 1), (-2, 4, 3), (2, 2, 2), (2**62, 4, 6), (2**32, 2**32, 1)):
        both.refuses({"x": X, "s": ints(*wrong)})
    both.refuses({"x": X[:0], "s": ints(2**32, 2**32, 2**8)})


def test_later_operators_work_on_the_held_shape() -> None:
    nodes = [
        node("Reshape", "xs", "r"),
        node("Softmax", ["r"], "p", axis=1),
        node("ReduceSum", ["r"], "t", keepdims=1),
        node("Mul", ["p", "t"], "y"),
    ]
    both = Both(on_x(nodes, value_info("s", ints(1, 1))), threads=3)
    for shape in ((4, 6), (-1, 8), (24, 1), (0, -1)):
        both.agrees({"x": X, "s": ints(*shape)})


def test_expand_checks_the_shape_that_it_is_given() -> None:
    both = Both(on_x(node("Expand", "xs"), value_info("s", ints(1, 1, 1)), shape=("n", 1)))
    x = X[:, :1]
    for shape in ((2, 4, 3), (1, 1, 1), (5, 4, 1), (1, 1, 7), (0, 4, 2)):
        both.agrees({"x": x, "s": ints(*shape)})
    both.refuses({"x": x, "s": ints(2, 3, 3)})
    both.refuses({"x": x, "s": ints(-1, 4, 3)}, InputError)
    fixed = Both(on_x(node("Expand", "xs"), value_info("s", ints(1, 1)), shape=(4, 6)))
    fixed.agrees({"x": X, "s": ints(4, 1)})
    fixed.refuses({"x": X, "s": ints(8, 6)})


def test_tile_constant_of_shape_and_one_hot() -> None:
    Both(on_x(node("Tile", "xs"), value_info("s", ints(1, 1)))).agrees({"x": X, "s": ints(3, 2)})
    s = value_info("s", np.zeros(2, np.int32))
    cast = node("Cast", ["s"], "l", to=TensorProto.INT64)
    filled = Both(make_model([cast, node("ConstantOfShape", ["l"])], [s], ["y"]))
    for shape in ((2, 3), (0, 5), (70, 1)):
        filled.gives({"s": np.array(shape, np.int32)}, np.zeros(shape, np.float32))
    filled.refuses({"s": np.array([-1, 2], np.int32)}, InputError)
    inputs = [value_info("i", ints(1), ["n"]), value_info("d", np.int64(0))]
    values = np.array([0, 1], np.float32)
    hot = Both(
        make_model([node("OneHot", ["i", "d", "v"])], inputs, ["y"], constants={"v": values})
    )
    for depth in (1, 3, 40):
        hot.gives({"i": ints(0, 2, -1), "d": np.array(depth)}, np.array(
            [[float((i % depth if i < 0 else i) == k) for k in range(depth)] for i in (0, 2, -1)]
        ))  # fmt: skip


def test_the_shape_may_be_computed_from_what_is_held() -> None:
    nodes = [
        node("Shape", ["x"], "rows", end=1),
        node("Mul", ["k", "two"], "k2"),
        node("Concat", ["rows", "k2", "rest"], "s", axis=0),
        node("Reshape", ["x", "s"]),
    ]
    model = on_x(nodes, value_info("k", ints(1)), two=ints(2), rest=ints(-1))
    both = Both(model)
    for k in (1, 3):
        both.gives({"x": X, "k": ints(k)}, X.reshape(4, 2 * k, -1))
    both.refuses({"x": X, "k": ints(2)})


# -- parts ----------------------------------------------------------------------------------------

ENDS = (-(2**63), -100, -7, -4, -1, 0, 1, 3, 6, 99, 2**63 - 1)


@pytest.mark.parametrize("step", [1, 2, -1, -3])
def test_slice_from_and_to_any_numbers(step: int) -> None:
    names = ["x", "a", "b", "axes", "steps"]
    held = [value_info("a", ints(0)), value_info("b", ints(0))]
    both = Both(on_x(node("Slice", names), *held, axes=ints(1), steps=ints(step)))
    for start, end in itertools.product(ENDS, ENDS):
        # The standard brings a start in front of the first element to it, whatever the step.
        first = max(start, -6) if step < 0 else start
        feeds = {"x": X, "a": ints(start), "b": ints(end)}
        both.gives(feeds, X[:, slice(first, None if end < -6 and step < 0 else end, step)])


@pytest.mark.parametrize("step", [1, 3, -2])
def test_slice_from_and_to_numbers_that_data_gives(step: int) -> None:
    nodes = [
        node("ArgMax", ["x"], "at", axis=0, keepdims=0),
        node("Gather", ["at", "zero"], "a"),
        node("ReduceSum", ["f"], "sum", keepdims=1),
        node("Cast", ["sum"], "b", to=TensorProto.INT64),
        node("Slice", ["x", "a", "b", "zero", "steps"]),
    ]
    x = floats(9, 2, seed=1)
    inputs = [value_info("x", x, ["n", 2]), value_info("f", floats(2))]
    both = Both(make_model(nodes, inputs, ["y"], constants={"zero": ints(0), "steps": ints(step)}))
    first = int(x[:, 0].argmax())
    for end in (-20, -3, 0, 2, 5, 9, 30):
        wanted = x[slice(first, None if end < -9 and step < 0 else end, step)]
        both.gives({"x": x, "f": np.array([end - 1, 1], np.float32)}, wanted)


def test_pad_split_and_resize_by_held_numbers() -> None:
    pad = Both(on_x(node("Pad", ["x", "p", "v"]), value_info("p", ints(*4 * [0])), v=np.float32(7)))
    for pads in ((0, 0, 0, 0), (1, 0, 0, 3), (0, 2, 1, 0)):
        pad.agrees({"x": X, "p": ints(*pads)})
    pad.refuses({"x": X, "p": ints(-1, 0, 0, 0)}, InputError)
    outputs = ["y", "z"]
    parts = helper.make_node("Split", ["x", "s"], outputs, axis=1)
    model = make_model(
        [parts], [value_info("x", X, ["n", 6]), value_info("s", ints(0, 0))], outputs
    )
    split = Both(model)
    for sizes in ((2, 4), (0, 6), (6, 0)):
        split.gives({"x": X, "s": ints(*sizes)}, X[:, : sizes[0]], X[:, sizes[0] :])
    for wrong in ((2, 3), (8, -2), (7, 7)):
        split.refuses({"x": X, "s": ints(*wrong)})
    image = floats(1, 2, 4, 6)
    resize = node("Resize", ["x", "", "", "s"], mode="linear")
    inputs = [value_info("x", image), value_info("s", ints(1, 2, 1, 1))]
    resized = Both(make_model([resize], inputs, ["y"]))
    for sizes in ((8, 3), (4, 6), (1, 1)):
        resized.agrees({"x": image, "s": ints(1, 2, *sizes)})


# -- counts ---------------------------------------------------------------------------------------


def test_range_over_any_numbers() -> None:
    inputs = [value_info(name, np.array(0, np.int32)) for name in "abc"]
    both = Both(make_model([node("Range", "abc")], inputs, ["y"]))
    for a, b, c in itertools.product((-3, 0, 2), (-5, 0, 9), (-4, -1, 1, 3)):
        feeds = dict(zip("abc", np.array([a, b, c], np.int32), strict=True))
        both.gives({k: np.asarray(v) for k, v in feeds.items()}, np.arange(a, b, c))
    with pytest.raises((InputError, RuntimeFault)):
        both.executable(np.array(1, np.int32), np.array(5, np.int32), np.array(0, np.int32))


@pytest.mark.parametrize("kind", ["held", "computed"])
def test_top_k_of_a_count_that_a_run_gives(kind: str) -> None:
    nodes = [helper.make_node("TopK", ["x", "k"], ["y", "i"])]
    inputs = [value_info("x", X, ["n", "m"])]
    if kind == "held":
        inputs.append(value_info("k", ints(1)))
    else:
        inputs.append(value_info("f", floats(1)))
        nodes.insert(0, node("Cast", ["f"], "k", to=TensorProto.INT64))
    both = Both(make_model(nodes, inputs, ["y", "i"]))
    name, dtype = inputs[1].name, np.int64 if kind == "held" else np.float32
    for k in (0, 1, 4, 6):
        order = np.argsort(-X, axis=1, kind="stable")[:, :k]
        both.gives({"x": X, name: np.array([k], dtype)}, np.take_along_axis(X, order, 1), order)
    for wrong in (-1, 7):
        both.refuses({"x": X, name: np.array([wrong], dtype)})


def test_boxes_are_as_many_as_an_input_allows() -> None:
    boxes = np.array([[[0, 0, 1, 1], [0, 2, 1, 3], [0, 4, 1, 5]]], np.float32)
    scores = np.array([[[0.5, 0.9, 0.1]]], np.float32)
    inputs = [value_info("b", boxes), value_info("s", scores), value_info("k", ints(1))]
    both = Both(make_model([node("NonMaxSuppression", "bsk")], inputs, ["y"]))
    order = np.array([[0, 0, 1], [0, 0, 0], [0, 0, 2]])
    for k in (0, 1, 2, 5):
        both.gives({"b": boxes, "s": scores, "k": ints(k)}, order[:k])


# -- the artifact ---------------------------------------------------------------------------------


def test_dims_are_exact_before_a_run() -> None:
    (result,) = load(on_x(node("Tile", "xs"), value_info("s", ints(1, 1)))).main.outputs
    assert str(result.type) == "f32[n*s_0, m*s_1]"


def test_a_run_that_an_input_does_not_fit_says_which() -> None:
    executable = tfc.compile(on_x(node("Tile", "xs"), value_info("s", ints(1, 1))))
    with pytest.raises(InputError, match="input s, element 1 is -3, which the model does not take"):
        executable(X, ints(2, -3))


def test_floats_decide_no_sizes() -> None:
    inputs = [value_info(name, np.float32(0)) for name in "abc"]
    with pytest.raises(UnsupportedError, match="a float range whose bounds are not constant"):
        load(make_model([node("Range", "abc")], inputs, ["y"]))


def test_a_branch_that_is_not_taken_asks_nothing_of_its_numbers() -> None:
    def branch(op: str, *names: str) -> Any:
        result = [helper.make_empty_tensor_value_info("z")]
        nodes = [node(op, names, "t"), node("ReduceSum", ["t"], "z", keepdims=0)]
        return helper.make_graph(nodes, op, [], result)

    choice = node("If", ["c"], then_branch=branch("Tile", "x", "s"), else_branch=branch("Abs", "x"))
    held = [value_info("s", ints(1, 1)), value_info("c", np.array(True))]
    both = Both(on_x(choice, *held))
    yes, no = np.array(True), np.array(False)
    both.gives({"x": X, "s": ints(2, 3), "c": yes}, 6 * X.sum(dtype=np.float64))
    both.gives({"x": X, "s": ints(-2, 3), "c": no}, np.abs(X).sum())
    both.refuses({"x": X, "s": ints(-2, 3), "c": yes}, RuntimeFault)
