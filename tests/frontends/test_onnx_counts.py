"""Operators whose number of results depends on data: a run binds it, or checks what is declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import tfc
from tests.frontends.support import Array, make_model, reference, run, value_info
from tfc.compiler.frontends.onnx import load
from tfc.ir.errors import UnsupportedError, UsageError
from tfc.runtime.errors import RuntimeFault

X = np.array([[3, 0, 1], [0, 3, 1]], np.float32)
ROWS = np.array([[1, 2], [0, 5], [1, 2], [0, 4]], np.float32)


def declared(
    op: str, arrays: list[Array], shapes: list[tuple[int, ...]], codes: list[int], **attrs: Any
) -> tuple[Any, dict[str, Array]]:
    """Return a model of one node, with results of the given shapes, and its inputs."""
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    outputs = [f"y{i}" for i in range(len(shapes))]
    graph = helper.make_graph(
        [helper.make_node(op, list(feeds), outputs, **attrs)],
        "g",
        [value_info(name, array) for name, array in feeds.items()],
        [
            helper.make_tensor_value_info(name, code, shape)
            for name, code, shape in zip(outputs, codes, shapes, strict=True)
        ],
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feeds


FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
CASES: list[tuple[str, list[Array], list[tuple[int, ...]], list[int], dict[str, Any]]] = [
    ("NonZero", [X], [(2, 4)], [INT], {}),
    ("NonZero", [X[0]], [(1, 2)], [INT], {}),
    ("NonZero", [np.zeros((2, 2), np.float32)], [(2, 0)], [INT], {}),
    ("Compress", [X, np.array([False, True])], [(1, 3)], [FLOAT], {"axis": 0}),
    ("Compress", [X, np.array([True, False, True])], [(2, 2)], [FLOAT], {"axis": -1}),
    ("Compress", [X, np.array([False, True, True, False])], [(2,)], [FLOAT], {}),
    ("Unique", [X], [(3,), (3,), (6,), (3,)], [FLOAT, INT, INT, INT], {}),
    ("Unique", [ROWS], [(3, 2), (3,), (4,), (3,)], [FLOAT, INT, INT, INT], {"axis": 0}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_results_are_those_of_onnx(case: Any) -> None:
    op, arrays, shapes, codes, attrs = case
    model, feeds = declared(op, arrays, shapes, codes, **attrs)
    for have, wanted in zip(run(model, feeds), reference(model, feeds), strict=True):
        np.testing.assert_array_equal(have, np.asarray(wanted))


def test_unsorted_unique_keeps_the_order_of_first_occurrences() -> None:
    shapes: list[tuple[int, ...]] = [(3,), (3,), (6,), (3,)]
    model, feeds = declared("Unique", [X], shapes, [FLOAT, INT, INT, INT], sorted=0)
    wanted = ([3, 0, 1], [0, 1, 2], [0, 1, 2, 1, 0, 2], [2, 2, 2])
    for have, expected in zip(run(model, feeds), wanted, strict=True):
        np.testing.assert_array_equal(have, expected)


def test_data_of_another_count_fails_the_run() -> None:
    model, _ = declared("NonZero", [X], [(2, 4)], [INT])
    with pytest.raises(UsageError, match="there are 4 elements in the result, as the model"):
        run(model, {"x0": np.ones_like(X)})


# -- counts that a run binds ----------------------------------------------------------------------


def undeclared(
    op: str, arrays: list[Array], outputs: int = 1, opset: int = 21, **attrs: Any
) -> Any:
    """Return a model of one node whose inputs have dynamic dims and whose results no type."""
    names = [f"x{i}" for i in range(len(arrays))]
    results = [f"y{i}" for i in range(outputs)]
    inputs = [
        value_info(name, array, [f"{name}_{axis}" for axis in range(array.ndim)])
        for name, array in zip(names, arrays, strict=True)
    ]
    return make_model([helper.make_node(op, names, results, **attrs)], inputs, results, opset)


def agree(model: Any, executable: Any, feeds: dict[str, Array], wanted: Any) -> None:
    """Check that compiled and interpreted results are those wanted."""
    found = executable(*feeds.values())
    found = found if isinstance(found, tuple) else (found,)
    for have, interpreted, expected in zip(found, run(model, feeds), wanted, strict=True):
        np.testing.assert_array_equal(have, expected)
        np.testing.assert_array_equal(interpreted, expected)
        assert have.shape == interpreted.shape == np.asarray(expected).shape


RANDOM = np.random.default_rng(7)
MASKS = [np.zeros(11, bool), np.ones(11, bool), *(RANDOM.random((4, 11)) < 0.5)]


@pytest.mark.parametrize("shape", [(11,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_non_zero_finds_as_many_as_there_are(shape: tuple[int, ...], dtype: Any) -> None:
    model = undeclared("NonZero", [np.zeros(shape, dtype)])
    executable = tfc.compile(model, threads=3)
    for chance in (0, 0.3, 0.9, 1):
        x = (RANDOM.random(shape) < chance).astype(dtype)
        agree(model, executable, {"x0": x}, [np.stack(np.nonzero(x))])


def test_compress_keeps_what_the_mask_says() -> None:
    x = RANDOM.standard_normal((11, 4), np.float32)
    model = undeclared("Compress", [x, MASKS[0]], axis=0)
    executable = tfc.compile(model)
    for mask in MASKS:
        agree(model, executable, {"x0": x, "x1": mask}, [x[mask]])
    short = np.array([False, True, True])
    agree(model, executable, {"x0": x, "x1": short}, [x[1:3]])
    with pytest.raises(RuntimeFault, match="the condition has x1_0 elements, at most x0_0"):
        executable(x[:10], MASKS[1])


def test_unique_numbers_what_there_is() -> None:
    model = undeclared("Unique", [np.zeros((2, 2), np.int64)], outputs=4)
    executable = tfc.compile(model, threads=2)
    for top in (1, 3, 30):
        x = RANDOM.integers(0, top, (4, 6))
        values, first, inverse, counts = np.unique(
            x, return_index=True, return_inverse=True, return_counts=True
        )
        wanted = [values, first, inverse.reshape(-1), counts]
        agree(model, executable, {"x0": x}, wanted)


def test_unique_rows_and_their_numbers_alone() -> None:
    x = RANDOM.integers(0, 2, (9, 3))
    rows, inverse = np.unique(x, axis=0, return_inverse=True)
    model = undeclared("Unique", [x], outputs=1, axis=0)
    agree(model, tfc.compile(model), {"x0": x}, [rows])
    node = helper.make_node("Unique", ["x0"], ["", "", "y0"], axis=0)
    model = make_model([node], [value_info("x0", x, ["n", 3])], ["y0"])
    agree(model, tfc.compile(model), {"x0": x}, [inverse.reshape(-1)])


def test_later_operators_speak_of_the_count() -> None:
    """Chosen rows, normalised among themselves, counted, and put in front of the others."""
    x = RANDOM.standard_normal((11, 4), np.float32)
    nodes = [
        helper.make_node("Compress", ["x", "mask"], ["rows"], axis=0),
        helper.make_node("Softmax", ["rows"], ["soft"], axis=0),
        helper.make_node("Shape", ["rows"], ["size"], end=1),
        helper.make_node("Concat", ["soft", "x"], ["all"], axis=0),
        helper.make_node("MatMul", ["soft", "w"], ["product"]),
        helper.make_node("Reshape", ["product", "flat"], ["line"]),
    ]
    w = RANDOM.standard_normal((4, 6), np.float32)
    inputs = [value_info("x", x, ["n", 4]), value_info("mask", MASKS[0], ["n"])]
    model = make_model(
        nodes, inputs, ["soft", "size", "all", "line"],
        constants={"w": w, "flat": np.array([-1], np.int64)},
    )  # fmt: skip
    executable = tfc.compile(model, threads=2)
    for mask in MASKS:
        rows = x[mask]
        powers = np.exp(rows - rows.max(axis=0, initial=-np.inf))
        soft = powers / powers.sum(axis=0)
        wanted = [soft, [len(rows)], np.concatenate([soft, x]), (soft @ w).reshape(-1)]
        found = run(model, {"x": x, "mask": mask})
        for have, same, expected in zip(executable(x, mask), found, wanted, strict=True):
            assert have.shape == same.shape == np.shape(expected)
            np.testing.assert_allclose(have, expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(same, expected, rtol=1e-5, atol=1e-6)


def test_a_constant_mask_is_counted_when_compiling() -> None:
    nodes = [helper.make_node("Compress", ["x", "mask"], ["y"], axis=0)]
    model = make_model(nodes, [value_info("x", X)], ["y"], constants={"mask": MASKS[2][:2]})
    (result,) = load(model).main.outputs
    assert str(result.type) == f"f32[{MASKS[2][:2].sum()}, 3]"


def test_a_branch_hands_out_what_only_it_has_counted() -> None:
    def branch(op: str) -> Any:
        node = helper.make_node(op, ["x"], ["z"])
        return helper.make_graph([node], op, [], [helper.make_empty_tensor_value_info("z")])

    x = np.array([[0, -2, 3], [4, 0, 0]], np.int64)
    node = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("NonZero"), else_branch=branch("Abs")
    )
    model = make_model([node], [value_info("x", x), value_info("c", np.array(True))], ["y"])
    executable = tfc.compile(model)
    for numbers in (x, 0 * x, np.ones_like(x)):
        for choice, wanted in ((True, np.stack(np.nonzero(numbers))), (False, np.abs(numbers))):
            agree(model, executable, {"x": numbers, "c": np.array(choice)}, [wanted])


def test_a_round_may_count_but_not_stack_what_it_has_counted() -> None:
    def model(last: str) -> Any:
        body = helper.make_graph(
            [
                helper.make_node("Greater", ["x", "sum"], ["mask"]),
                helper.make_node("Compress", ["x", "mask"], ["rows"], axis=0),
                helper.make_node("ReduceSum", ["rows"], ["s"], keepdims=0),
                helper.make_node("Size", ["rows"], ["size"]),
                helper.make_node("Add", ["sum", "s"], ["next"]),
                helper.make_node("Identity", ["on"], ["still"]),
            ],
            "body",
            [
                value_info("i", np.int64(0)),
                value_info("on", np.array(True)),
                value_info("sum", np.float32(0)),
            ],
            [helper.make_empty_tensor_value_info(name) for name in ("still", "next", last)],
        )
        nodes = [
            helper.make_node("Size", ["x"], ["trips"]),
            helper.make_node("Loop", ["trips", "", "start"], ["sum_out", "stack"], body=body),
        ]
        inputs = [value_info("x", np.zeros(3, np.float32), ["n"])]
        constants = {"start": np.asarray(0, np.float32)}
        return make_model(nodes, inputs, ["sum_out", "stack"], constants=constants)

    good = model("size")
    x = np.array([1, -2, 3, 5], np.float32)
    wanted = [np.float32(9), np.array([3, 0, 0, 0])]
    agree(good, tfc.compile(good), {"x": x}, wanted)
    with pytest.raises(UnsupportedError, match=r"rows_count.*which is known in one round alone"):
        load(model("rows"))


# -- non-max suppression --------------------------------------------------------------------------


def suppression(
    boxes: Array, scores: Array, most: int | None, iou: float | None, score: float | None,
    opset: int = 11, **attrs: Any,
) -> Any:  # fmt: skip
    given = {"most": most, "iou": iou, "score": score}
    constants = {
        name: np.array([value], np.int64 if name == "most" else np.float32)
        for name, value in given.items()
        if value is not None
    }
    names = ["boxes", "scores", *(name if name in constants else "" for name in given)]
    inputs = [
        value_info("boxes", boxes, ["batch", "n", 4]),
        value_info("scores", scores, ["batch", scores.shape[1], "n"]),
    ]
    node = helper.make_node("NonMaxSuppression", names, ["y"], **attrs)
    return make_model([node], inputs, ["y"], opset, constants)


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("opset", [10, 11])
@pytest.mark.parametrize("limits", [(3, 0.3, 0.4), (100, 0.5, None), (2, None, None), (None,) * 3])
def test_boxes_are_selected_as_onnx_runtime_does(
    form: int, opset: int, limits: tuple[Any, Any, Any]
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    random = np.random.default_rng(3)
    boxes = random.random((2, 20, 4), np.float32)
    scores = random.random((2, 3, 20), np.float32)
    model = suppression(boxes, scores, *limits, opset=opset, center_point_box=form)
    session = runtime.InferenceSession(model.SerializeToString())
    feeds = {"boxes": boxes, "scores": scores}
    executable = tfc.compile(model, threads=2)
    agree(model, executable, feeds, session.run(None, feeds))
    few = {"boxes": boxes[:1, :1], "scores": scores[:1, :, :1]}
    agree(model, executable, few, session.run(None, few))


def test_branches_count_each_for_itself() -> None:
    def branch(name: str, *operators: tuple[str, list[str], str]) -> Any:
        nodes = [helper.make_node(op, names, [out]) for op, names, out in operators]
        nodes.append(helper.make_node("ReduceSum", ["t"], ["z"], keepdims=0))
        return helper.make_graph(nodes, name, [], [helper.make_empty_tensor_value_info("z")])

    positive = branch(
        "positive",
        ("Greater", ["x", "zero"], "mask"),
        ("Compress", ["x", "mask"], "rows"),
        ("Mul", ["rows", "rows"], "t"),
    )
    different = branch("different", ("Unique", ["x"], "t"))
    node = helper.make_node("If", ["c"], ["y"], then_branch=positive, else_branch=different)
    last = helper.make_node("Concat", ["y1", "x"], ["all"], axis=0)
    one = helper.make_node("Unsqueeze", ["y", "axis"], ["y1"])
    x = np.array([3, -1, 3, 2, -1, 0], np.float32)
    inputs = [value_info("x", x, ["n"]), value_info("c", np.array(True))]
    constants = {"zero": np.array(0, np.float32), "axis": np.array([0])}
    model = make_model([node, one, last], inputs, ["all"], constants=constants)
    for threads in (1, 2):
        executable = tfc.compile(model, threads=threads)
        for given in (x, -x, np.zeros(3, np.float32)):
            squares = np.sum(given[given > 0] ** 2)
            for yes, wanted in ((True, squares), (False, np.unique(given).sum())):
                feeds = {"x": given, "c": np.array(yes)}
                agree(model, executable, feeds, [np.concatenate([[wanted], given])])


def test_loops_in_loops_count_in_every_round() -> None:
    def graph(name: str, nodes: list[Any], ins: list[str], outs: list[str]) -> Any:
        scalars = {"i": np.int64(0), "c": np.array(True), "j": np.int64(0), "d": np.array(True)}
        arrays = {**scalars, "s": np.float32(0), "t": np.float32(0)}
        inputs = [value_info(one, np.asarray(arrays[one])) for one in ins]
        results = [helper.make_empty_tensor_value_info(one) for one in outs]
        return helper.make_graph(nodes, name, inputs, results)

    inner = graph(
        "inner",
        [
            helper.make_node("Add", ["i", "j"], ["k"]),
            helper.make_node("Cast", ["k"], ["least"], to=FLOAT),
            helper.make_node("GreaterOrEqual", ["x", "least"], ["mask"]),
            helper.make_node("Compress", ["x", "mask"], ["rows"]),
            helper.make_node("ReduceSum", ["rows"], ["more"], keepdims=0),
            helper.make_node("Add", ["t", "more"], ["t1"]),
            helper.make_node("Size", ["rows"], ["count"]),
        ],
        ["j", "d", "t"],
        ["d", "t1", "count"],
    )
    outer = graph(
        "outer",
        [
            helper.make_node("Loop", ["n", "", "s"], ["s1", "counts"], body=inner),
            helper.make_node("ReduceSum", ["counts"], ["all"], keepdims=0),
        ],
        ["i", "c", "s"],
        ["c", "s1", "all"],
    )
    nodes = [
        helper.make_node("Size", ["x"], ["n"]),
        helper.make_node("Loop", ["n", "", "zero"], ["sum", "totals"], body=outer),
    ]
    x = np.array([2, 0, 5, 1], np.float32)
    constants = {"zero": np.array(0, np.float32)}
    model = make_model(nodes, [value_info("x", x, ["n"])], ["sum", "totals"], constants=constants)
    executable = tfc.compile(model, threads=2)
    for given in (x, x - 3, np.array([7], np.float32)):
        size = len(given)
        least = np.add.outer(np.arange(size), np.arange(size))[..., None]
        kept = given >= least
        wanted = [np.float32((given * kept).sum()), kept.sum(axis=(1, 2))]
        agree(model, executable, {"x": given}, wanted)
