"""Random operators of ONNX models: functions of seeds and places, the same in every run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import tfc
from tests.frontends.support import Array, floats, make_model, run, value_info
from tfc.compiler.frontends.onnx import load
from tfc.ir.errors import ModelError, UnsupportedError

node = helper.make_node
FLOAT = TensorProto.FLOAT
SHAPE = [40, 50]
KINDS = {
    "RandomNormal": {"shape": SHAPE},
    "RandomUniform": {"shape": SHAPE},
    "RandomNormalLike": {},
    "RandomUniformLike": {},
    "Bernoulli": {},
    "Multinomial": {"sample_size": 300},
}
X = np.full(SHAPE, 0.25, np.float32)


def model_of(*kinds: tuple[str, dict[str, Any]]) -> Any:
    nodes = [
        node(op, [] if "shape" in KINDS[op] else ["x"], [f"y{i}"], **{**KINDS[op], **attrs})
        for i, (op, attrs) in enumerate(kinds)
    ]
    return make_model(nodes, [value_info("x", X)], [f"y{i}" for i in range(len(kinds))], opset=22)


def draw(*kinds: tuple[str, dict[str, Any]]) -> list[Array]:
    return run(model_of(*kinds), {"x": X})


@pytest.mark.parametrize("op", KINDS)
def test_seed_decides_the_numbers_and_no_seed_the_place(op: str) -> None:
    given, same, other, first, second = draw(
        (op, {"seed": 1.5}), (op, {"seed": 1.5}), (op, {"seed": 2.5}), (op, {}), (op, {})
    )
    np.testing.assert_array_equal(given, same)
    different = [given, other, first, second]
    for i, a in enumerate(different):
        for b in different[:i]:
            assert not np.array_equal(a, b)
    np.testing.assert_array_equal(draw((op, {}))[0], first)


@pytest.mark.parametrize("op", KINDS)
def test_compiled_numbers_are_the_same_for_any_threads_and_run(op: str) -> None:
    model = model_of((op, {"seed": 3.0}))
    (expected,) = run(model, {"x": X})
    one, two = tfc.compile(model, threads=1), tfc.compile(model, threads=2)
    drawn = one(X)
    for again in (one(X), two(X), two(X)):
        np.testing.assert_array_equal(again, drawn)
    plain = tfc.compile(model, threads=1, opt=0)(X)
    for other in (expected, plain):
        np.testing.assert_allclose(drawn, other, rtol=1e-6 if "Normal" in op else 0)


def test_nodes_without_a_seed_are_not_correlated() -> None:
    streams = np.array([y.reshape(-1) for y in draw(*[("RandomNormal", {})] * 6)])
    off = np.corrcoef(streams)[~np.eye(len(streams), dtype=bool)]
    assert np.abs(off).max() < 4 / math.sqrt(streams.shape[1])


def test_ranges_and_moments_are_those_of_the_attributes() -> None:
    uniform, normal = draw(
        ("RandomUniform", {"low": -3.0, "high": 5.0}),
        ("RandomNormalLike", {"mean": 4.0, "scale": 2.0}),
    )
    assert -3 <= uniform.min() < -2.9
    assert 4.9 < uniform.max() <= 5
    assert abs(normal.mean() - 4) < 8 / math.sqrt(normal.size)
    assert abs(normal.std() - 2) < 8 / math.sqrt(normal.size)


@pytest.mark.parametrize(
    ("op", "attrs", "dtype"),
    [
        ("RandomNormal", {"dtype": TensorProto.DOUBLE}, np.float64),
        ("RandomUniform", {"dtype": TensorProto.FLOAT16}, np.float16),
        ("RandomUniformLike", {}, np.float32),
        ("RandomNormalLike", {"dtype": TensorProto.DOUBLE}, np.float64),
        ("Bernoulli", {"dtype": TensorProto.BOOL}, np.bool_),
        ("Bernoulli", {}, np.float32),
        ("Multinomial", {}, np.int32),
        ("Multinomial", {"dtype": TensorProto.INT64}, np.int64),
    ],
)
def test_element_type_is_the_attributes_or_the_default(op: str, attrs: Any, dtype: Any) -> None:
    assert draw((op, attrs))[0].dtype == dtype


def test_symbolic_shape_takes_numbers_of_its_size() -> None:
    nodes = [node("RandomUniformLike", ["x"], ["y"], seed=1.0)]
    model = make_model(nodes, [value_info("x", X, ["n", "m"])], ["y"])
    program = tfc.compile(model, threads=1)
    wide = program(X)
    np.testing.assert_array_equal(program(X[:10]).reshape(-1), wide.reshape(-1)[:500])


def looped(trips: int, grows: bool) -> Any:
    """A Loop whose rounds draw two numbers each; `grows` has it written out."""
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, ()),
        helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
        helper.make_empty_tensor_value_info("before"),
    ]
    inner: Sequence[Any] = [
        node("RandomUniform", [], ["a"], shape=[1], seed=1.0),
        node("RandomUniform", [], ["b"], shape=[1]),
        node("Identity", ["go"], ["more"]),
        node("Concat", ["before", "a"], ["after"], axis=0)
        if grows
        else node("Identity", ["before"], ["after"]),
    ]
    outputs = [helper.make_empty_tensor_value_info(n) for n in ("more", "after", "a", "b")]
    body = helper.make_graph(inner, "body", inputs, outputs)
    loop = node("Loop", ["trips", "", "start"], ["end", "as", "bs"], body=body)
    constants = {"trips": np.array(trips), "start": floats(1)}
    return make_model([loop], [], ["as", "bs"], constants=constants)


def test_rounds_of_a_loop_draw_different_numbers() -> None:
    drawn = np.concatenate(run(looped(8, grows=False), {})).reshape(-1)
    assert len(set(drawn.tolist())) == 16


def test_seeded_rounds_are_the_same_when_written_out() -> None:
    np.testing.assert_array_equal(run(looped(5, True), {})[0], run(looped(5, False), {})[0])


# -- dropout --------------------------------------------------------------------------------------

TRAINING = helper.make_tensor_value_info("t", TensorProto.BOOL, ())


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("ratio", [0.25, 0.5, None])
def test_training_drops_a_share_and_scales_the_rest(ratio: float | None, constant: bool) -> None:
    x = floats(100, 100, lo=1)
    names = ["x", "" if ratio is None else "r", "t"]
    constants = {} if ratio is None else {"r": np.array(ratio, np.float32)}
    inputs = [value_info("x", x)]
    if constant:
        constants["t"] = np.array(True)
    else:
        inputs.append(TRAINING)
    dropout = node("Dropout", names, ["y", "mask"], seed=7)
    model = make_model([dropout], inputs, ["y", "mask"], constants=constants)
    feeds = {"x": x} if constant else {"x": x, "t": np.array(True)}
    y, mask = run(model, feeds)
    share = 0.5 if ratio is None else ratio
    assert abs((~mask).mean() - share) < 4 * math.sqrt(share * (1 - share) / x.size)
    np.testing.assert_allclose(y, np.where(mask, x / (1 - share), 0), rtol=1e-6)
    if not constant:
        y, mask = run(model, {"x": x, "t": np.array(False)})
        np.testing.assert_array_equal(y, x)
        assert mask.all()


def test_ratio_of_all_is_malformed() -> None:
    constants = {"r": np.array(1.0, np.float32), "t": np.array(True)}
    model = make_model(
        [node("Dropout", ["x", "r", "t"], ["y"])], [value_info("x", X)], ["y"], constants=constants
    )
    with pytest.raises(ModelError, match=r"ratio 1\.0 is not in"):
        load(model)


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        ("RandomUniform", {"dtype": TensorProto.INT64}, "numbers of element type i64"),
        ("Bernoulli", {"dtype": TensorProto.STRING}, "element type string"),
    ],
)
def test_element_types_without_random_numbers_are_refused(
    op: str, attrs: Any, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"node 'y0'.*{message}"):
        load(model_of((op, attrs)))
