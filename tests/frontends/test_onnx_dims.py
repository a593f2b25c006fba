"""Dynamic dims in the ONNX front end: their names, and arithmetic on shapes at import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.frontends.cases import CASES, Case
from tests.frontends.support import (
    Array,
    floats,
    ints,
    make_model,
    one_node,
    reference,
    run,
    value_info,
)
from tfc.compiler.frontends.onnx import load
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.errors import ModelError, UnsupportedError, UsageError
from tfc.ir.types import TensorType

node = helper.make_node
X = floats(2, 3)


def relu_of(*shape: int | str | None) -> Any:
    return make_model([node("Relu", ["x"], ["y"])], [value_info("x", floats(1), shape)], ["y"])


def out_type(module: Module) -> str:
    (value,) = module.main.outputs
    assert isinstance(value.type, TensorType)
    return str(value.type)


# -- names ----------------------------------------------------------------------------------------


def test_dynamic_dims_become_symbols_with_identifiers_as_names() -> None:
    module = load(relu_of("p2o.DynamicDimension.0", "2nd", "max", "ok"))
    assert out_type(module) == "f32[p2o_DynamicDimension_0, _2nd, max_, ok]"


@pytest.mark.parametrize("label", [None, "", "?", -1])
def test_unnamed_dims_are_called_after_input_and_axis(label: Any) -> None:
    assert out_type(load(relu_of(3, label))) == "f32[3, x_d1]"


def test_different_labels_never_share_a_symbol() -> None:
    assert out_type(load(relu_of("a.b", "a:b", "a.b"))) == "f32[a_b, a_b_, a_b]"


def test_hint_is_1_for_the_first_axis_and_64_for_others() -> None:
    symbols = load(relu_of("n", "seq")).main.symbols
    assert symbols == {"n": SymbolInfo(0, None, 1), "seq": SymbolInfo(0, None, 64)}


def test_dims_fix_and_bound_by_either_name() -> None:
    module = load(relu_of("a.b", "c.d", "e"), {"a.b": 4, "c_d": (2, 32), "e": None})
    assert out_type(module) == "f32[4, c_d, e]"
    assert module.main.symbols["c_d"] == SymbolInfo(2, 32, 32)


@pytest.mark.parametrize("given", [-1, (3, 2), (-1, None), (None, 3), (1, 2, 3)])
def test_dims_that_are_no_size_are_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="dim 'n'"):
        load(relu_of("n"), {"n": given})


def test_unknown_dim_is_refused_with_the_known_names() -> None:
    with pytest.raises(UsageError, match=r"'m' \(dynamic dims: n\)"):
        load(relu_of("n"), {"m": 4})


def test_negative_dim_is_refused() -> None:
    with pytest.raises(ModelError, match="input 'x': axis 0 has the negative dim -3"):
        load(relu_of(-3))


# -- dynamic operands -----------------------------------------------------------------------------

# Where the rest of the node fixes what a dynamic dim may be, but not to one number.
NOT_KNOWN = {"ConvTranspose", "GatherElements"}
DYNAMIC = [
    case
    for case in CASES
    if case.arrays and np.ndim(case.arrays[0]) and 0 not in case.constant  # type: ignore[arg-type]
]


@pytest.mark.parametrize("case", DYNAMIC, ids=str)
def test_node_with_dynamic_dims_computes_the_same(case: Case) -> None:
    constant = [i for i, array in enumerate(case.arrays) if i and array is not None]
    model, feeds = one_node(case.op, case.arrays, case.attrs, case.opset, constant, case.outputs)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        # Channels are what weights have.
        if not (axis == 1 and len(dims) > 2) and dim.dim_value != 1:
            dim.dim_param = f"d{axis}_{dim.dim_value}"
    try:
        found = run(model, feeds)
    except UnsupportedError:
        assert case.op in NOT_KNOWN
        return
    expected = reference(model, feeds) if case.expected is None else case.expected
    for have, wanted in zip(found, expected, strict=True):
        assert have.shape == np.shape(wanted)
        tolerance = 2e-3 if have.dtype == np.float16 else 2e-5
        np.testing.assert_allclose(have, wanted, rtol=tolerance, atol=tolerance)


def test_dim_that_weights_fix_is_fixed() -> None:
    model = make_model(
        [node("MatMul", ["x", "w"], ["y"])],
        [value_info("x", floats(1), ("n", "features"))],
        ["y"],
        constants={"w": floats(4, 5)},
    )
    module = load(model)
    assert str(module.main.args[0].type) == "f32[n, 4]"
    assert list(module.main.symbols) == ["n"]
    with pytest.raises(UsageError, match="the model wants 4, outside of the given bounds"):
        load(model, {"features": (5, 9)})


def test_dims_that_must_be_equal_become_one_symbol() -> None:
    inputs = [
        value_info(name, floats(1), shape) for name, shape in (("a", ("n", 3)), ("b", ("m", 5)))
    ]
    model = make_model([node("Concat", ["a", "b"], ["y"], axis=1)], inputs, ["y"])
    module = load(model, {"n": (2, None), "m": (0, 9)})
    (name,) = module.main.symbols
    assert module.main.symbols[name] == SymbolInfo(2, 9, 2)
    assert out_type(module) == f"f32[{name}, 8]"


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, -1), (2, 32)])
def test_reshape_to_a_fixed_size_fixes_the_only_symbol(shape: tuple[int, ...]) -> None:
    model = make_model(
        [node("Reshape", ["x", "shape"], ["y"])],
        [value_info("x", floats(1), ("n", 64))],
        ["y"],
        constants={"shape": ints(*shape)},
    )
    expected = "f32[3, floordiv(64*n, 3)]" if -1 in shape else f"f32{list(shape)}"
    assert out_type(load(model)) == expected


# -- arithmetic on shapes -------------------------------------------------------------------------


def shape_program(nodes: Sequence[Any], **constants: Array) -> Any:
    """A model of x: f32[n, 6, w], whose nodes end in y."""
    inputs = [value_info("x", floats(1), ("n", 6, "w"))]
    return make_model(nodes, inputs, ["y"], constants=constants)


HEADS = shape_program(
    [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Gather", ["s", "last"], ["w"]),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Mul", ["w", "two"], ["ww"]),
        node("Unsqueeze", ["ww", "axis"], ["w1"]),
        node("Concat", ["n1", "three", "w1"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["y"]),
    ],
    zero=np.array(0), last=np.array(-1), axis=ints(0), two=np.array(2), three=ints(3),
)  # fmt: skip
MASK = shape_program(
    [
        node("Shape", ["x"], ["s"], start=2),
        node("Squeeze", ["s"], ["w"]),
        node("Range", ["zero", "w", "one"], ["r"]),
        node("Unsqueeze", ["r", "axis"], ["r1"]),
        node("LessOrEqual", ["r", "r1"], ["mask"]),
        node("Where", ["mask", "f0", "f1"], ["bias"]),
        node("Concat", ["s", "s"], ["ww"], axis=0),
        node("Expand", ["bias", "ww"], ["y"]),
    ],
    zero=np.array(0), one=np.array(1), axis=ints(1), f0=np.float32([0]), f1=np.float32([-1]),
)  # fmt: skip
EXPAND_MINUS_ONE = shape_program(
    [
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["three"], ["ones"],
             value=TensorProto(data_type=TensorProto.INT64, dims=[1], int64_data=[1])),
        node("Mul", ["ones", "minus"], ["want"]),
        node("Equal", ["s", "want"], ["open"]),
        node("Where", ["open", "ones", "s"], ["shape"]),
        node("Expand", ["f", "shape"], ["y"]),
    ],
    three=ints(3), minus=ints(-1), f=np.float32([2.5]),
)  # fmt: skip
PADDED = shape_program(
    [
        node("Shape", ["x"], ["s"], start=-1),
        node("Cast", ["s"], ["s32"], to=TensorProto.INT32),
        node("Cast", ["s32"], ["s64"], to=TensorProto.INT64),
        node("Div", ["s64", "two"], ["half"]),
        node("Concat", ["zeros", "half", "zeros", "one"], ["pads"], axis=0),
        node("Pad", ["x", "pads"], ["p"]),
        node("Tile", ["p", "repeats"], ["t"]),
        node("Slice", ["t", "one", "s", "one"], ["y"]),
    ],
    two=ints(2), zeros=ints(0, 0), one=ints(1), repeats=ints(1, 1, 2),
)  # fmt: skip
FILLED = shape_program(
    [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "zero", "two"], ["head"]),
        node("ReduceProd", ["s"], ["size"], keepdims=1),
        node("Concat", ["head", "size"], ["shape"], axis=0),
        node("ConstantOfShape", ["shape"], ["y"]),
    ],
    zero=ints(0), two=ints(2),
)  # fmt: skip
RESIZED = shape_program(
    [
        node("Unsqueeze", ["x", "zero"], ["image"]),
        node("Shape", ["image"], ["s"]),
        node("Slice", ["s", "zero", "two"], ["head"]),
        node("Slice", ["s", "two", "four"], ["tail"]),
        node("Mul", ["tail", "two"], ["doubled"]),
        node("Concat", ["head", "doubled"], ["sizes"], axis=0),
        node("Resize", ["image", "", "", "sizes"], ["y"], mode="linear"),
    ],
    zero=ints(0), two=ints(2), four=ints(4),
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (HEADS, "f32[n, 3, 2*w]"),
        (MASK, "f32[w, w]"),
        (EXPAND_MINUS_ONE, "f32[n, 6, w]"),
        (PADDED, None),
        (FILLED, "f32[n, 6, 6*n*w]"),
        (RESIZED, "f32[1, n, 12, 2*w]"),
    ],
    ids=["heads", "mask", "expand", "padded", "filled", "resized"],
)
def test_shape_arithmetic_becomes_symbolic_dims(model: Any, expected: str | None) -> None:
    if expected is not None:
        assert out_type(load(model)) == expected
    for n, w in ((1, 4), (3, 6)):
        x = floats(n, 6, w)
        (found,) = run(model, {"x": x})
        np.testing.assert_allclose(found, reference(model, {"x": x})[0], rtol=1e-6, atol=1e-6)


def test_shape_arithmetic_leaves_no_ops_behind() -> None:
    assert [op.name for op in load(HEADS).main.block] == ["reshape", "return"]


@pytest.mark.parametrize("op", ["Reshape", "Expand", "Tile", "ConstantOfShape"])
def test_shape_that_is_computed_from_data_is_unsupported(op: str) -> None:
    inputs = [value_info("x", floats(2, 3)), value_info("f", floats(2))]
    names = ["s"] if op == "ConstantOfShape" else ["x", "s"]
    cast = node("Cast", ["f"], ["s"], to=TensorProto.INT64)
    model = make_model([cast, node(op, names, ["y"], name="here")], inputs, ["y"])
    with pytest.raises(UnsupportedError, match=rf"node 'here' \({op}\): .*'s'.* the data"):
        load(model)


# -- functions and If -----------------------------------------------------------------------------


def test_functions_of_the_model_are_inlined() -> None:
    opset = helper.make_opsetid("", 21)
    double = helper.make_function(
        "mine", "Double", ["v"], ["w"], [node("Add", ["v", "v"], ["w"])], [opset]
    )
    model = make_model([node("Double", ["x"], ["y"], domain="mine")], [value_info("x", X)], ["y"])
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(double)
    assert [op.name for op in load(model).main.block] == ["add", "return"]


def branch(op: str, inner: Sequence[Any] = ()) -> Any:
    """A graph that reads the outer x."""
    return helper.make_graph(
        [*inner, node(op, ["x"], ["z"])], "b", [], [helper.make_empty_tensor_value_info("z")]
    )


def test_if_on_a_known_condition_takes_its_branch() -> None:
    nested = helper.make_graph(
        [node("If", ["c"], ["z"], then_branch=branch("Exp"), else_branch=branch("Abs"))],
        "nested",
        [],
        [helper.make_empty_tensor_value_info("z")],
    )
    model = make_model(
        [
            node("Shape", ["x"], ["s"], start=1),
            node("Equal", ["s", "six"], ["c"]),
            node("If", ["c"], ["y"], then_branch=branch("NonZero"), else_branch=nested),
        ],
        [value_info("x", floats(1), ("n", 5))],
        ["y"],
        constants={"six": ints(6)},
    )
    assert [op.name for op in load(model).main.block] == ["abs", "return"]


def test_if_on_data_becomes_an_if() -> None:
    model = make_model(
        [node("If", ["c"], ["y"], then_branch=branch("Exp"), else_branch=branch("Abs"))],
        [value_info("x", floats(2)), value_info("c", np.array(True))],
        ["y"],
    )
    assert [op.name for op in load(model).main.block] == ["if", "return"]
