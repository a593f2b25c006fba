"""ONNX If, Loop and Scan compute what ONNX Runtime does, from saved native code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.control.support import LEVELS, Arrays, artifact  # noqa: E402
from tests.frontends.support import floats, make_model, run, value_info  # noqa: E402
from tfc.compiler.frontends.onnx import check, load  # noqa: E402
from tfc.ir.core import Module  # noqa: E402
from tfc.ir.errors import ModelError, TfcError, UnsupportedError  # noqa: E402

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Node = Callable[..., Any]


def node(op: str, operands: Sequence[str], results: Sequence[str], **attrs: Any) -> Any:
    return helper.make_node(op, list(operands), list(results), name=f"{op}_{results[0]}", **attrs)


def declared(name: str, code: int = FLOAT, shape: Sequence[Any] | None = None) -> Any:
    return helper.make_tensor_value_info(name, code, shape)


def body(
    nodes: Sequence[Any],
    ins: Sequence[Any],
    outs: Sequence[str],
    constants: dict[str, Any] | None = None,
) -> Any:
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    results = [helper.make_empty_tensor_value_info(name) for name in outs]
    return helper.make_graph(list(nodes), "body", list(ins), results, stored)


def model(nodes: Sequence[Any], feeds: Arrays, outputs: Sequence[str], **constants: Any) -> Any:
    ins = [value_info(name, array) for name, array in feeds.items()]
    return make_model(nodes, ins, outputs, 16, {k: np.asarray(v) for k, v in constants.items()})


def agrees(proto: Any, *cases: Arrays, dims: Any = None) -> Module:
    """Compare the interpreter and artifacts with ONNX Runtime; return the module."""
    peer = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    runs = [artifact(load(proto, dims), opt) for opt in LEVELS]
    for given in cases:
        feeds = {name: np.asarray(array) for name, array in given.items()}
        want = peer.run(None, feeds)
        for found in (run(proto, feeds, dims), *(list(f(feeds).values()) for f in runs)):
            for got, array in zip(found, want, strict=True):
                np.testing.assert_allclose(got, array, rtol=1e-5, atol=1e-6)
                assert got.dtype == array.dtype
                assert got.shape == array.shape
    return load(proto, dims)


def ops(module: Module) -> list[str]:
    return [op.name for op in module.main.block.walk()]


# -- If -----------------------------------------------------------------------------------------


def test_if_takes_its_branches_at_run_time() -> None:
    then = body([node("Mul", ["x", "two"], ["m"])], [], ["m"], {"two": np.float32(2)})
    otherwise = body([node("Sub", ["x", "y"], ["s"])], [], ["s"])
    feeds = {"c": np.array(True), "x": floats(2, 3), "y": floats(2, 3, seed=1)}
    proto = model([node("If", ["c"], ["r"], then_branch=then, else_branch=otherwise)], feeds, ["r"])
    module = agrees(proto, feeds, {**feeds, "c": np.array(False)})
    assert "if" in ops(module)


def test_a_condition_of_one_element_and_any_rank_will_do() -> None:
    branches = [body([node(op, ["x"], [op])], [], [op]) for op in ("Neg", "Abs")]
    feeds = {"c": np.array([True]), "x": floats(4)}
    parts = dict(zip(("then_branch", "else_branch"), branches, strict=True))
    agrees(model([node("If", ["c"], ["r"], **parts)], feeds, ["r"]), feeds)


def mismatched(shape: Sequence[int], dims: Any = None) -> Module:
    then = body([node("Reshape", ["x", "to"], ["m"])], [], ["m"], {"to": np.array(shape)})
    otherwise = body([node("Identity", ["x"], ["i"])], [], ["i"])
    feeds = {"c": np.array(True), "x": floats(2, 3)}
    proto = model([node("If", ["c"], ["r"], then_branch=then, else_branch=otherwise)], feeds, ["r"])
    return load(proto, dims)


def test_branches_of_different_shapes_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"the branches give f32\[6\] and f32\[2, 3\]"):
        mismatched([6])


def test_a_branch_that_cannot_be_is_never_taken() -> None:
    then = body([node("Reshape", ["x", "to"], ["m"])], [], ["m"], {"to": np.array([5])})
    otherwise = body([node("Neg", ["x"], ["i"])], [], ["i"])
    feeds = {"c": np.array(False), "x": floats(2, 3)}
    proto = model([node("If", ["c"], ["r"], then_branch=then, else_branch=otherwise)], feeds, ["r"])
    agrees(proto, feeds)
    for opt in LEVELS:
        with pytest.raises(Exception, match="the other branch is not possible"):
            artifact(load(proto), opt)({**feeds, "c": np.array(True)})


def test_two_branches_that_cannot_be_are_an_error_of_the_model() -> None:
    branch = body([node("Reshape", ["x", "to"], ["m"])], [], ["m"], {"to": np.array([5])})
    feeds = {"c": np.array(False), "x": floats(2, 3)}
    proto = model([node("If", ["c"], ["r"], then_branch=branch, else_branch=branch)], feeds, ["r"])
    with pytest.raises(ModelError):
        load(proto)


# -- Loop ---------------------------------------------------------------------------------------

HEAD = [declared("i", INT64, []), declared("go", BOOL, [])]


def summing(extra: Sequence[Any] = (), again: str = "go2", stacked: Sequence[str] = ("s2",)) -> Any:
    nodes = [
        node("Cast", ["i"], ["f"], to=FLOAT),
        node("Mul", ["f", "x"], ["m"]),
        node("Add", ["s", "m"], ["s1"]),
        node("Identity", ["go"], ["go2"]),
        node("Neg", ["s1"], ["s2"]),
        *extra,
    ]
    outs = [again, "s1", *stacked]
    return body(nodes, [*HEAD, declared("s", FLOAT, None)], outs, {"nine": np.float32(9)})


def small(name: str) -> list[Any]:
    """Nodes that tell whether a value's sum is below nine."""
    return [
        node("ReduceSum", [name], ["total"], keepdims=0),
        node("Less", ["total", "nine"], ["less"]),
    ]


def test_a_loop_of_known_length_stacks_its_rounds() -> None:
    feeds = {"x": floats(3), "s0": floats(3, seed=1)}
    loop = node("Loop", ["n", "", "s0"], ["last", "all"], body=summing())
    module = agrees(model([loop], feeds, ["last", "all"], n=np.int64(4)), feeds)
    (op,) = [op for op in module.main.block if op.name == "loop"]
    assert (op.attrs.trips, op.attrs.conditional) == (4, False)


@pytest.mark.parametrize("n", [0, 1])
def test_a_loop_of_no_or_one_round(n: int) -> None:
    feeds = {"x": floats(3), "s0": floats(3, seed=1)}
    loop = node("Loop", ["n", "", "s0"], ["last"], body=summing(stacked=()))
    agrees(model([loop], feeds, ["last"], n=np.int64(n)), feeds)


def test_data_decide_how_often_a_loop_runs() -> None:
    feeds = {"n": np.int64(5), "c": np.array(True), "x": floats(3, lo=0.1), "s0": floats(3)}
    loop = node("Loop", ["n", "c", "s0"], ["last"], body=summing(small("s1"), "less", ()))
    proto = model([loop], feeds, ["last"])
    cases = [{**feeds, "n": np.array(n)} for n in (0, 1, 5, 50)]
    agrees(proto, *cases, {**feeds, "c": np.array(False)})


def test_a_condition_on_rounds_alone_gives_a_known_length() -> None:
    """The condition is computed from a counter that the loop carries, in f32."""
    nodes = [
        node("Add", ["k", "one"], ["k1"]),
        node("Cast", ["k1"], ["f"], to=FLOAT),
        node("Less", ["f", "bound"], ["less"]),
        node("Add", ["s", "x"], ["s1"]),
        node("Gather", ["rows", "k"], ["row"]),
    ]
    constants = {"one": np.int32(1), "bound": np.float32(4)}
    ins = [*HEAD, declared("k", TensorProto.INT32, []), declared("s", FLOAT, None)]
    graph = body(nodes, ins, ["less", "k1", "s1", "row"], constants)
    feeds = {"x": floats(3), "s0": floats(3, seed=1), "rows": floats(4, 2)}
    loop = node("Loop", ["", "", "k0", "s0"], ["k", "last", "all"], body=graph)
    module = agrees(model([loop], feeds, ["k", "last", "all"], k0=np.int32(0)), feeds)
    (op,) = [op for op in module.main.block if op.name == "loop"]
    assert (op.attrs.trips, op.attrs.conditional) == (4, False)


def test_the_extent_of_a_dynamic_dim_may_be_the_limit() -> None:
    feeds = {"x": floats(3), "s0": floats(3, seed=1), "rows": floats(5, 2)}
    nodes = [
        node("Shape", ["rows"], ["n"], start=0, end=1),
        node("Loop", ["n", "", "s0"], ["last", "all"], body=summing()),
    ]
    ins = [value_info("x", feeds["x"]), value_info("s0", feeds["s0"])]
    ins.append(declared("rows", FLOAT, ["N", 2]))
    proto = make_model(nodes, ins, ["last", "all"], 16)
    module = agrees(proto, feeds, {**feeds, "rows": floats(1, 2)})
    # ONNX Runtime loses the other axes of an empty stack.
    none = artifact(load(proto), 2)({**feeds, "rows": floats(0, 2)})
    assert none["all"].shape == (0, 3)
    np.testing.assert_array_equal(none["last"], feeds["s0"])
    assert str(module.main.outputs[1].type) == "f32[N, 3]"


def test_values_that_no_round_changes_are_constants_in_the_body() -> None:
    weights = floats(3, 3, seed=2)
    nodes = [
        node("MatMul", ["s", "w"], ["s1"]),
        node("Identity", ["go"], ["go2"]),
        node("Identity", ["w"], ["w1"]),
        node("Identity", ["w1"], ["w2"]),
    ]
    ins = [*HEAD, declared("w", FLOAT, [3, 3]), declared("s", FLOAT, None)]
    graph = body(nodes, ins, ["go2", "w2", "s1"])
    feeds = {"s0": floats(2, 3)}
    loop = node("Loop", ["n", "", "w0", "s0"], ["w", "last"], body=graph)
    module = agrees(model([loop], feeds, ["w", "last"], n=np.int64(3), w0=weights), feeds)
    (op,) = [op for op in module.main.block if op.name == "loop"]
    assert len(op.results) == 1


def test_values_that_change_their_shapes_are_written_out() -> None:
    nodes = [node("Identity", ["go"], ["go2"]), node("Concat", ["s", "x"], ["s1"], axis=0)]
    graph = body(nodes, [*HEAD, declared("s", FLOAT, None)], ["go2", "s1"])
    feeds = {"x": floats(3), "s0": floats(2, seed=1)}
    loop = node("Loop", ["n", "", "s0"], ["last"], body=graph)
    module = agrees(model([loop], feeds, ["last"], n=np.int64(3)), feeds)
    assert "loop" not in ops(module)


def test_rounds_that_slice_by_their_number_are_written_out() -> None:
    nodes = [
        node("Identity", ["go"], ["go2"]),
        node("Reshape", ["i", "one"], ["i1"]),
        node("Add", ["i1", "one"], ["end"]),
        node("Slice", ["x", "zero", "end"], ["part"]),
        node("ReduceSum", ["part"], ["t"], keepdims=0),
        node("Add", ["s", "t"], ["s1"]),
    ]
    constants = {"one": np.array([1]), "zero": np.array([0])}
    graph = body(nodes, [*HEAD, declared("s", FLOAT, None)], ["go2", "s1", "t"], constants)
    feeds = {"x": floats(5), "s0": floats(1, seed=1)}
    loop = node("Loop", ["n", "", "s0"], ["last", "all"], body=graph)
    module = agrees(model([loop], feeds, ["last", "all"], n=np.int64(4)), feeds)
    assert "loop" not in ops(module)


def endless(**attrs: Any) -> Any:
    feeds = {"x": floats(3), "s0": floats(3), "n": np.int64(3)}
    loop = node("Loop", [attrs.get("limit", ""), "", "s0"], ["last", "all"], body=summing())
    return model([loop], feeds, ["last", "all"])


def test_endless_loops_and_results_of_unknown_extent_are_refused() -> None:
    with pytest.raises(ModelError, match="nothing ends the loop"):
        load(endless())
    proto = endless(limit="limit")
    proto.graph.node.insert(0, node("ReduceSum", ["x"], ["sum"], keepdims=0))
    proto.graph.node.insert(1, node("Cast", ["sum"], ["limit"], to=INT64))
    with pytest.raises(UnsupportedError, match="how often it runs depends on the data"):
        load(proto)


def test_what_the_model_declares_of_a_result_is_how_often_a_loop_runs() -> None:
    proto = endless(limit="n")
    proto.graph.output[1].CopyFrom(declared("all", FLOAT, [3, 3]))
    feeds = {"x": floats(3), "s0": floats(3), "n": np.int64(3)}
    agrees(proto, feeds)
    with pytest.raises(Exception, match="does not run 3 rounds"):
        artifact(load(proto), 2)({**feeds, "n": np.int64(2)})


def test_a_body_that_does_not_fit_is_refused() -> None:
    feeds = {"x": floats(3), "s0": floats(3)}
    proto = model([node("Loop", ["n", "", "s0", "s0"], ["a", "b"], body=summing())], feeds, ["a"],
                  n=np.int64(2))  # fmt: skip
    with pytest.raises(ModelError, match="3 inputs and 3 outputs for 2 carried values"):
        load(proto)


def test_loops_nest_and_read_what_is_around_them() -> None:
    inner = body(
        [
            node("Identity", ["go_in"], ["go_in2"]),
            node("Add", ["t", "s"], ["t1"]),
            node("Mul", ["t1", "x"], ["t2"]),
        ],
        [declared("j", INT64, []), declared("go_in", BOOL, []), declared("t", FLOAT, None)],
        ["go_in2", "t2", "t1"],
    )
    nodes = [
        node("Identity", ["go"], ["go2"]),
        node("Loop", ["two", "", "s"], ["s1", "steps"], body=inner),
    ]
    outer = body(nodes, [*HEAD, declared("s", FLOAT, None)], ["go2", "s1", "steps"], {"two": 2})
    feeds = {"x": floats(3), "s0": floats(3, seed=1)}
    loop = node("Loop", ["n", "", "s0"], ["last", "all"], body=outer)
    agrees(model([loop], feeds, ["last", "all"], n=np.int64(3)), feeds)


def test_what_a_body_cannot_do_is_listed() -> None:
    feeds = {"x": floats(3), "s0": floats(3, seed=1)}
    graph = body(
        [node("Nonsense", ["s"], ["s1"])], [*HEAD, declared("s", FLOAT, None)], ["go", "s1"]
    )
    proto = model([node("Loop", ["n", "", "s0"], ["last"], body=graph)], feeds, ["last"], n=3)
    assert [problem.op for problem in check(proto)] == ["Nonsense"]
    with pytest.raises(TfcError, match="Nonsense"):
        load(proto)


# -- Scan ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_scan_takes_apart_and_stacks_along_any_axis(axis: int, backward: int) -> None:
    nodes = [node("Add", ["s", "row"], ["s1"]), node("Mul", ["s1", "row"], ["m"])]
    graph = body(nodes, [declared("s", FLOAT, None), declared("row", FLOAT, None)], ["s1", "m"])
    attrs = {
        "num_scan_inputs": 1,
        "scan_input_axes": [axis],
        "scan_input_directions": [backward],
        "scan_output_axes": [1 - axis],
        "scan_output_directions": [1 - backward],
    }
    feeds = {"s0": floats(3), "x": floats(*((4, 3) if axis == 0 else (3, 4)))}
    scan = node("Scan", ["s0", "x"], ["last", "all"], body=graph, **attrs)
    (last, stack), array = run(model([scan], feeds, ["last", "all"]), feeds), feeds["x"]
    rows = array if axis == 0 else array.T
    rows = rows[::-1] if backward else rows
    sums = feeds["s0"] + np.cumsum(rows, axis=0)
    want = sums * rows
    want = want if backward else want[::-1]
    np.testing.assert_allclose(last, sums[-1], rtol=1e-5)
    np.testing.assert_allclose(stack, want.T if axis == 0 else want, rtol=1e-5)
    for opt in LEVELS:
        found = artifact(load(model([scan], feeds, ["last", "all"])), opt)(feeds)
        np.testing.assert_allclose(found["all"], stack, rtol=1e-5)


def test_scan_takes_apart_an_open_shape() -> None:
    graph = body([node("Abs", ["d"], ["a"])], [declared("d", INT64)], ["a"])
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Scan", ["shape"], ["dims"], body=graph, num_scan_inputs=1),
    ]
    x = floats(2, 3, 5)
    proto = make_model(nodes, [value_info("x", x, ["A", 3, "B"])], ["dims"], 16)
    agrees(proto, {"x": x}, {"x": floats(4, 3, 1)})


def test_scans_of_the_first_kind_run_for_each_of_a_batch() -> None:
    nodes = [node("Add", ["s", "row"], ["s1"]), node("Identity", ["s1"], ["m"])]
    graph = body(nodes, [declared("s", FLOAT, [2]), declared("row", FLOAT, [2])], ["s1", "m"])
    feeds = {"s0": floats(3, 2), "x": floats(3, 4, 2)}
    scan = node("Scan", ["", "s0", "x"], ["last", "all"], body=graph, num_scan_inputs=1)
    ins = [value_info(name, array) for name, array in feeds.items()]
    proto = make_model([scan], ins, ["last", "all"], 8)
    want = feeds["s0"][:, None] + np.cumsum(feeds["x"], axis=1)
    for found in (run(proto, feeds), list(artifact(load(proto), 2)(feeds).values())):
        np.testing.assert_allclose(found[0], want[:, -1], rtol=1e-5)
        np.testing.assert_allclose(found[1], want, rtol=1e-5)


# -- stacks as long as the data says ---------------------------------------------------------------


def halving(limit: int | None) -> tuple[Any, Arrays]:
    """A loop that halves x until its sum is at most 1, and stacks what it has on the way."""
    graph = body(
        [
            node("Mul", ["s", "half"], ["next"]),
            node("ReduceSum", ["next"], ["sum"], keepdims=0),
            node("Greater", ["sum", "one"], ["on"]),
            node("Identity", ["next"], ["row"]),
        ],
        [declared("i", INT64, []), declared("c", BOOL, []), declared("s", FLOAT, [3])],
        ["on", "next", "row"],
    )
    feeds = {"x": floats(3, lo=0.5, hi=2.0), "start": np.array(True)}
    constants = {"half": np.float32(0.5), "one": np.float32(1)}
    if limit is None:
        feeds["limit"] = np.array(9)
    else:
        constants["limit"] = np.int64(limit)
    loop = node("Loop", ["limit", "start", "x"], ["last", "rows"], body=graph)
    total = node("ReduceSum", ["rows"], ["total"], keepdims=0)
    return model([loop, total], feeds, ["last", "rows", "total"], **constants), feeds


@pytest.mark.parametrize("limit", [12, None])
def test_a_stack_has_as_many_rows_as_the_condition_lets_run(limit: int | None) -> None:
    proto, feeds = halving(limit)
    cases = [
        feeds | {"x": feeds["x"] * np.float32(scale), "start": np.array(start)}
        for scale in (0.1, 7, 100, 100_000)
        for start in (True, False)
    ]
    assert "bind" in ops(agrees(proto, *cases))


def test_a_stack_has_a_row_for_each_round_that_an_input_wants() -> None:
    graph = body(
        [node("Add", ["s", "x"], ["next"]), node("Identity", ["next"], ["row"])],
        [declared("i", INT64, []), declared("c", BOOL, []), declared("s", FLOAT, [3])],
        ["c", "next", "row"],
    )
    feeds = {"x": floats(3), "n": np.array(4)}
    loop = node("Loop", ["n", "", "x"], ["last", "rows"], body=graph)
    proto = model([loop], feeds, ["last", "rows"])
    module = agrees(proto, *(feeds | {"n": np.array(n)} for n in (0, 1, 4, 50)))
    assert "bind" not in ops(module)


@pytest.mark.parametrize("stacked", [("row",), ()])
def test_an_input_may_end_a_loop_before_its_condition_does(stacked: tuple[str, ...]) -> None:
    nodes = [
        node("Add", ["s", "x"], ["next"]),
        node("Less", ["i", "last"], ["on"]),
        node("Identity", ["next"], ["row"]),
    ]
    ins = [declared("i", INT64, []), declared("c", BOOL, []), declared("s", FLOAT, [3])]
    graph = body(nodes, ins, ["on", "next", *stacked], {"last": np.int64(3)})
    feeds = {"x": floats(3), "n": np.array(2)}
    loop = node("Loop", ["n", "", "x"], ["end", *stacked], body=graph)
    proto = model([loop], feeds, ["end", *stacked])
    agrees(proto, *(feeds | {"n": np.array(n)} for n in (0, 1, 3, 4, 5, 50)))


def test_a_loop_that_does_not_begin_stacks_nothing_whatever_its_limit() -> None:
    graph = body(
        [node("Add", ["s", "x"], ["next"]), node("Identity", ["next"], ["row"])],
        [declared("i", INT64, []), declared("c", BOOL, []), declared("s", FLOAT, [3])],
        ["c", "next", "row"],
    )
    feeds = {"x": floats(3), "n": np.array(4)}
    loop = node("Loop", ["n", "never", "x"], ["last", "rows"], body=graph)
    proto = model([loop], feeds, ["last", "rows"], never=np.array(False))
    agrees(proto, feeds, feeds | {"n": np.array(0)})


def test_a_stack_without_bound_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="it may stack 9223372036854775807 results"):
        load(halving(2**63 - 1)[0])
