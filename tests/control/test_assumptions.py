"""What dims must be is checked by the run where only a run tells, and in a branch only if taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from tests.control.support import LEVELS, artifact  # noqa: E402
from tests.control.test_onnx_flow import BOOL, HEAD, agrees, body, node  # noqa: E402
from tests.frontends.support import floats, ints, make_model, value_info  # noqa: E402
from tfc.compiler.frontends.onnx import check, load  # noqa: E402
from tfc.ir.errors import UnsupportedError  # noqa: E402
from tfc.ir.text.parser import parse_module  # noqa: E402
from tfc.ir.text.printer import print_module  # noqa: E402
from tfc.runtime.errors import RuntimeFault  # noqa: E402

# One element where x has 2 or 3, two where it has 4 or 5.
HALVES = [node("AveragePool", ["x"], ["h"], kernel_shape=[2], strides=[2])]


def dynamic(
    nodes: Any, *arrays: Any, outputs: Any = ("r",), opset: int = 16, **constants: Any
) -> Any:
    """A model of float inputs x, y, z, all of whose dims are dynamic."""
    ins = [
        value_info(name, array, [f"{name}{axis}" for axis in range(np.ndim(array))])
        for name, array in zip("xyz", arrays, strict=False)
    ]
    return make_model(nodes, ins, outputs, opset, {k: np.asarray(v) for k, v in constants.items()})


def refuses(proto: Any, match: str, **feeds: Any) -> None:
    for opt in LEVELS:
        with pytest.raises(RuntimeFault, match=match):
            artifact(load(proto), opt)(feeds)


def test_axis_that_is_squeezed_has_one_element_when_run() -> None:
    nodes = [*HALVES, node("Squeeze", ["h", "last"], ["r"])]
    proto = dynamic(nodes, floats(2, 3, 2), last=[-1])
    agrees(proto, {"x": floats(2, 3, 2)}, {"x": floats(1, 4, 3)})
    refuses(proto, "Squeeze_r'.* axis 2 has 1 element", x=floats(2, 3, 4))


def test_squeezed_axis_in_the_middle_leaves_the_others_in_order() -> None:
    nodes = [*HALVES, node("Transpose", ["h"], ["t"], perm=[0, 2, 1])]
    proto = dynamic([*nodes, node("Squeeze", ["t", "one"], ["r"])], floats(2, 3, 2), one=[1])
    agrees(proto, {"x": floats(2, 3, 2)}, {"x": floats(4, 1, 3)})


def test_constant_pixels_meet_weights_whose_channels_a_run_tells() -> None:
    weights = value_info("x", floats(2, 1, 3), [2, "M", 3])
    nodes = [node("Conv", ["pixels", "x"], ["r"], group=2)]
    proto = make_model(nodes, [weights], ["r"], 16, {"pixels": floats(1, 2, 5)})
    agrees(proto, {"x": floats(2, 1, 3)})


def test_parts_of_a_split_add_up_when_run() -> None:
    nodes = [node("Split", ["x", "sizes"], ["a", "r"], axis=0)]
    proto = dynamic(nodes, floats(5), outputs=["a", "r"], sizes=[2, 3])
    agrees(proto, {"x": floats(5)})
    for size in (4, 6):
        refuses(proto, r"Split_a'.* parts \[2, 3\] add up", x=floats(size))


def test_equal_parts_are_equal_when_run() -> None:
    proto = dynamic([node("Split", ["x"], ["a", "r"], axis=0)], floats(4), outputs=["a", "r"])
    agrees(proto, {"x": floats(4)}, {"x": floats(6)})
    refuses(proto, "it does not hold that x0 divides into 2 equal parts", x=floats(5))


def test_channels_that_are_computed_fit_the_weights_when_run() -> None:
    nodes = [node("Concat", ["x", "x"], ["c"], axis=1), node("Conv", ["c", "w"], ["r"])]
    proto = dynamic(nodes, floats(1, 3, 5), w=floats(2, 6, 3))
    agrees(proto, {"x": floats(1, 3, 5)}, {"x": floats(2, 3, 7)})
    refuses(proto, r"Conv_r'.* dims 2\*x1 and 6 are equal", x=floats(1, 2, 5))


def test_updates_have_the_shape_of_indices_when_run() -> None:
    nodes = [
        node("Concat", ["y", "y"], ["u"], axis=0),
        node("ScatterElements", ["x", "i", "u"], ["r"], axis=0),
    ]
    proto = dynamic(nodes, floats(6), floats(2), i=ints(3, 1, 0, 5))
    agrees(proto, {"x": floats(6), "y": floats(2)})
    refuses(proto, r"dims 2\*y0 and 4 are equal", x=floats(6), y=floats(3))


def long_windows() -> list[Any]:
    return [
        node("Conv", ["x", "w"], ["k"]),
        node("Softmax", ["k"], ["l"], axis=-1),
        node("Conv", ["l", "w"], ["m"]),
        node("ReduceSum", ["m"], ["n"], keepdims=1),
    ]


def test_sizes_below_zero_end_a_run() -> None:
    w, reason = floats(3, 3, 4), r"x2 - 6 is negative|a kernel of 4 fits|do not fit the model"
    for nodes, result in ((long_windows(), "n"), (long_windows()[:3], "m")):
        refuses(dynamic(nodes, floats(1, 3, 9), outputs=[result], w=w), reason, x=floats(2, 3, 5))


def test_sizes_below_zero_in_a_branch_not_taken_move_no_buffers() -> None:
    then = body(long_windows(), [], ["n"])
    nodes = [node("Softmax", ["x"], ["e"], axis=-1), node("Softmax", ["e"], ["f"], axis=1)]
    otherwise = body([*nodes, node("ReduceSum", ["f"], ["m"], keepdims=1)], [], ["m"])
    proto = chosen(then, otherwise, floats(1, 3, 9), w=floats(3, 3, 4))
    no = np.array(False)
    agrees(proto, *({"c": no, "x": floats(2, 3, size)} for size in (1, 2, 5, 40)))


# -- branches -----------------------------------------------------------------------------------


def chosen(then: Any, otherwise: Any, *arrays: Any, **constants: Any) -> Any:
    """A model of one If on the input c."""
    proto = dynamic(
        [*HALVES, node("If", ["c"], ["r"], then_branch=then, else_branch=otherwise)],
        *arrays, **constants,
    )  # fmt: skip
    proto.graph.input.append(onnx.helper.make_tensor_value_info("c", BOOL, []))
    return proto


def squeezed() -> Any:
    return body([node("Squeeze", ["h", "last"], ["s"])], [], ["s"], {"last": ints(-1)})


def summed() -> Any:
    return body(
        [node("ReduceSum", ["x", "last"], ["m"], keepdims=0)], [], ["m"], {"last": ints(-1)}
    )


def test_a_branch_not_taken_fails_no_run() -> None:
    proto = chosen(squeezed(), summed(), floats(2, 3, 2))
    yes, no = np.array(True), np.array(False)
    agrees(
        proto,
        {"c": yes, "x": floats(2, 3, 2)},
        {"c": no, "x": floats(2, 3, 2)},
        {"c": no, "x": floats(2, 3, 7)},
    )
    refuses(proto, "Squeeze_s'.* axis 2 has 1 element", c=yes, x=floats(2, 3, 7))


def test_a_branch_in_a_branch_checks_its_own() -> None:
    inner = node("If", ["d"], ["q"], then_branch=squeezed(), else_branch=summed())
    proto = chosen(body([inner], [], ["q"]), summed(), floats(2, 3, 2))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("d", BOOL, []))
    yes, no = np.array(True), np.array(False)
    wide = {"x": floats(2, 3, 6)}
    agrees(proto, {"c": no, "d": yes, **wide}, {"c": yes, "d": no, **wide})
    refuses(proto, "Squeeze_s'.* axis 2 has 1 element", c=yes, d=yes, **wide)


def test_what_a_branch_wants_of_a_dim_does_not_fix_the_input() -> None:
    then = body([node("Squeeze", ["x", "last"], ["s"])], [], ["s"], {"last": ints(-1)})
    proto = chosen(then, summed(), floats(2, 3, 2))
    module = load(proto)
    assert len(module.main.symbols) == 3
    agrees(proto, {"c": np.array(False), "x": floats(2, 3, 4)})


def test_branches_whose_dims_may_differ_are_held_to_one_when_taken() -> None:
    then = body([node("Neg", ["x"], ["m"])], [], ["m"])
    otherwise = body([node("Neg", ["y"], ["n"])], [], ["n"])
    proto = chosen(then, otherwise, floats(2, 3, 4), floats(2, 3, 4))
    del proto.graph.node[0]
    x, y = floats(2, 3, 4), floats(2, 3, 4, seed=1)
    yes, no = np.array(True), np.array(False)
    agrees(proto, {"c": yes, "x": x, "y": y}, {"c": no, "x": x, "y": y})
    module = load(proto)
    for opt in LEVELS:
        run = artifact(module, opt)
        failed = 0
        for condition in (yes, no):
            try:
                found = run({"c": condition, "x": x, "y": y[:, :2]})["r"]
            except RuntimeFault:
                failed += 1
            else:
                np.testing.assert_array_equal(found, -(x if condition else y[:, :2]))
        assert failed == 1


def test_assumptions_of_a_branch_are_text_and_move_with_it() -> None:
    module = load(chosen(squeezed(), summed(), floats(2, 3, 2)))
    text = print_module(module)
    assert "Squeeze_s': it does not hold that axis 2 has 1 element" in text
    assert print_module(parse_module(text, module.constants)) == text


def test_a_branch_that_is_known_only_later_takes_its_assumptions_along() -> None:
    module = load(chosen(squeezed(), summed(), floats(2, 3, 2)))
    text = print_module(module).replace(", %c: bool[])", ")")
    for truth in (0, 1):
        known = f"  %c = constant() {{value = dense({truth}), dtype = bool, shape = []}} : bool[]"
        fixed = parse_module(text.replace("  %h = ", f"{known}\n  %h = "), module.constants)
        for opt in LEVELS:
            run = artifact(fixed, opt)
            assert run({"x": floats(2, 3, 2)})["r"].shape == (2, 3)
            if truth:
                with pytest.raises(RuntimeFault, match=r"Squeeze_s'.* axis 2 has 1 element"):
                    run({"x": floats(2, 3, 6)})
            else:
                assert run({"x": floats(2, 3, 6)})["r"].shape == (2, 3)


def test_what_is_assumed_of_a_number_that_a_branch_counts_is_checked_there() -> None:
    nodes = [node("NonZero", ["x"], ["z"]), node("Squeeze", ["z", "one"], ["s"])]
    then = body(nodes, [], ["s"], {"one": ints(1)})
    otherwise = body([node("Shape", ["x"], ["k"])], [], ["k"])
    proto = dynamic([node("If", ["c"], ["r"], then_branch=then, else_branch=otherwise)], floats(4))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("c", BOOL, []))
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    yes, no = np.array(True), np.array(False)
    single = np.array([0, 0, 3, 0], np.float32)
    agrees(proto, {"c": yes, "x": single}, {"c": no, "x": single}, {"c": no, "x": floats(4)})
    refuses(proto, "Squeeze_s'.* axis 1 has 1 element", c=yes, x=floats(4))


# -- conditions on dims -------------------------------------------------------------------------


def of_last(then: Any, otherwise: Any, rest: Any = (), **constants: Any) -> Any:
    """An If on whether the pooled axis has one element."""
    nodes = [
        *HALVES,
        node("Shape", ["h"], ["shape"]),
        node("Gather", ["shape", "last"], ["n"], axis=0),
        node("Equal", ["n", "one"], ["c"]),
        node("If", ["c"], ["b"], then_branch=then, else_branch=otherwise),
        *rest,
    ]
    outputs = ["r"] if rest else ["b"]
    return dynamic(nodes, floats(2, 3, 2), outputs=outputs, last=[-1], one=[1], **constants)


def test_size_decides_between_branches_of_equal_rank() -> None:
    then = body([node("Neg", ["x"], ["m"])], [], ["m"])
    otherwise = body([node("Abs", ["x"], ["m"])], [], ["m"])
    agrees(of_last(then, otherwise), {"x": floats(2, 3, 2)}, {"x": floats(2, 3, 5)})


def test_size_decides_between_branches_of_other_sizes() -> None:
    then = body([node("Neg", ["short"], ["m"])], [], ["m"])
    otherwise = body([node("Abs", ["long"], ["m"])], [], ["m"])
    rest = [node("Mul", ["b", "b"], ["t"]), node("Concat", ["t", "b"], ["r"], axis=0)]
    proto = of_last(then, otherwise, rest, short=floats(3), long=floats(5))
    agrees(proto, *({"x": floats(2, 3, size)} for size in (2, 3, 4)))


def test_sizes_follow_from_dims_in_either_branch() -> None:
    """Results without rows included; that x has a row at most where it is cut is not assumed."""
    then = body([node("Slice", ["x", "zero", "one"], ["m"])], [], ["m"], {"zero": ints(0)})
    otherwise = body([node("Concat", ["x", "x"], ["m"], axis=0)], [], ["m"])
    rest = [
        node("Transpose", ["b"], ["t"], perm=[2, 1, 0]),
        node("ReduceSum", ["t"], ["s"], keepdims=0),
        node("Add", ["t", "s"], ["r"]),
    ]
    proto = of_last(then, otherwise, rest)
    shapes = [(3, 3, 2), (3, 4, 5), (0, 4, 2), (0, 2, 5)]
    agrees(proto, *({"x": floats(*shape)} for shape in shapes))


def test_a_condition_on_several_sizes_is_no_product_that_overflows() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Split", ["shape"], ["m", "n"], axis=0),
        node("Equal", ["m", "large"], ["first"]),
        node("Equal", ["n", "large"], ["second"]),
        node("Or", ["first", "second"], ["c"]),
        node("If", ["c"], ["r"],
             then_branch=body([node("Neg", ["short"], ["a"])], [], ["a"]),
             else_branch=body([node("Neg", ["long"], ["a"])], [], ["a"])),
    ]  # fmt: skip
    large = (1 << 16) + 1
    proto = dynamic(nodes, floats(2, 3), large=[large], short=floats(3), long=floats(5))
    agrees(proto, {"x": floats(1, 1)}, {"x": floats(large, 1)}, {"x": floats(0, large)})


def test_the_rest_may_need_to_know_the_branch_that_is_taken() -> None:
    then = body([node("Neg", ["short"], ["m"])], [], ["m"])
    otherwise = body([node("Neg", ["long"], ["m"])], [], ["m"])
    rest = [node("Conv", ["x", "b"], ["r"])]
    proto = of_last(then, otherwise, rest, short=floats(2, 3, 2), long=floats(2, 3, 3))
    agrees(proto, {"x": floats(2, 3, 2)}, {"x": floats(4, 3, 3)})
    refuses(proto, "If_b.*the condition is true; the branches give", x=floats(2, 3, 5))


def test_of_branches_with_other_ranks_one_is_compiled_and_a_run_held_to_it() -> None:
    same = body([node("Identity", ["h"], ["m"])], [], ["m"])
    proto = of_last(squeezed(), same)
    assert check(proto) == []
    agrees(proto, {"x": floats(2, 3, 2)}, {"x": floats(1, 2, 3)})
    refuses(proto, "If_b.*the condition is true; the branches give", x=floats(2, 3, 5))


def test_the_branch_is_compiled_with_which_the_rest_can_be() -> None:
    same = body([node("Identity", ["h"], ["m"])], [], ["m"])
    rest = [node("Transpose", ["b"], ["r"], perm=[2, 0, 1])]
    proto = of_last(squeezed(), same, rest)
    assert check(proto) == []
    agrees(proto, {"x": floats(2, 3, 5)}, {"x": floats(2, 3, 9)})
    refuses(proto, "If_b.*the condition is false; the branches give", x=floats(2, 3, 2))


def test_where_neither_branch_will_do_the_first_reason_is_told() -> None:
    same = body([node("Identity", ["h"], ["m"])], [], ["m"])
    rest = [node("Transpose", ["b"], ["r"], perm=[3, 2, 1, 0])]
    with pytest.raises(UnsupportedError, match=r"Transpose_r.*of 2 axes"):
        load(of_last(squeezed(), same, rest))


# -- loops --------------------------------------------------------------------------------------


def test_a_loop_without_rounds_assumes_nothing() -> None:
    nodes = [
        node("Squeeze", ["h", "last"], ["s"]),
        node("ReduceSum", ["s"], ["t"], keepdims=0),
        node("Add", ["sum", "t"], ["next"]),
    ]
    loop = body(nodes, [*HEAD, onnx.helper.make_tensor_value_info("sum", 1, [])], ["go", "next"])
    outer = [
        *HALVES,
        node("Shape", ["y"], ["rounds"]),
        node("Squeeze", ["rounds"], ["count"]),
        node("Loop", ["count", "", "zero"], ["r"], body=loop),
    ]
    proto = dynamic(outer, floats(2, 3, 2), floats(4), last=[-1], zero=np.float32(0))
    agrees(proto, {"x": floats(2, 3, 2), "y": floats(4)}, {"x": floats(2, 3, 6), "y": floats(0)})
    refuses(proto, "Squeeze_s'.* axis 2 has 1 element", x=floats(2, 3, 6), y=floats(1))
