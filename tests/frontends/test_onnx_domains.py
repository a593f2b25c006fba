"""Operators beyond the standard domain, against ONNX Runtime and the texts of their definitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.frontends.support import Array, floats, ints, run, value_info
from tfc.compiler.frontends.onnx import load
from tfc.compiler.frontends.onnx.learning import RULES as LEARNING
from tfc.ir.errors import ModelError, UnsupportedError

ML = "ai.onnx.ml"
TRAINING = "ai.onnx.preview.training"


def model_of(
    nodes: Sequence[Any], feeds: dict[str, Array], outputs: Sequence[str], code: int = 0
) -> Any:
    """A model that names all domains. code: the element type that the outputs are declared in."""
    infos = [
        helper.make_tensor_value_info(name, code, None)
        if code
        else helper.make_empty_tensor_value_info(name)
        for name in outputs
    ]
    inputs = [value_info(name, array) for name, array in feeds.items()]
    graph = helper.make_graph(list(nodes), "g", inputs, infos)
    versions = {"": 21, ML: 4, TRAINING: 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def by_runtime(model: Any, feeds: dict[str, Array]) -> list[Array]:
    del model.opset_import[2]
    found: list[Array] = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    return found


# -- ai.onnx.ml -----------------------------------------------------------------------------------

TABLE = floats(4, 3)
KEYS = ints(5, -3, 9, 0)
CASES: list[tuple[str, list[Array], dict[str, Any], int]] = [
    ("ArrayFeatureExtractor", [TABLE, ints(2, 0, 2)], {}, 1),
    ("ArrayFeatureExtractor", [TABLE[0], ints(1)], {}, 1),
    ("Binarizer", [TABLE], {"threshold": 0.25}, 1),
    ("FeatureVectorizer", [TABLE, floats(4, 2, seed=1)], {"inputdimensions": [3, 2]}, 1),
    ("Imputer", [np.array([[1, np.nan], [np.nan, 2]], np.float32)],
     {"imputed_value_floats": [7.0, 8.0], "replaced_value_float": np.nan}, 1),
    ("Imputer", [ints([1, 0], [0, 2])], {"imputed_value_int64s": [9]}, 7),
    ("LabelEncoder", [ints([5, -3], [4, 9])],
     {"keys_int64s": KEYS.tolist(), "values_floats": [1.5, 2.5, 3.5, 4.5]}, 1),
    ("LabelEncoder", [np.array([0.5, np.nan, -0.0, 3], np.float32)],
     {"keys_floats": [0.5, 0.0, np.nan], "values_int64s": [1, 2, 3], "default_int64": 42}, 7),
    ("LabelEncoder", [ints(4, 9)],
     {"keys_int64s": [4], "values_floats": [1.0], "default_int64": 42, "default_float": 0.5}, 1),
    ("LabelEncoder", [np.arange(-3, 70)],
     {"keys_int64s": list(range(0, 66, 2)), "values_int64s": [n * n for n in range(33)]}, 7),
    ("LinearRegressor", [TABLE],
     {"coefficients": [0.5, -1.0, 2.0, 1.0, 0.0, 3.0], "intercepts": [1.0, -1.0], "targets": 2}, 1),
    ("Normalizer", [floats(4, 3, lo=0.1)], {"norm": "MAX"}, 1),
    ("Normalizer", [TABLE], {"norm": "L1"}, 1),
    ("Normalizer", [TABLE], {"norm": "L2"}, 1),
    ("OneHotEncoder", [ints([5, 2], [0, 5])], {"cats_int64s": [2, 5, 7]}, 1),
    ("Scaler", [TABLE], {"offset": [0.5, 1.0, -1.0], "scale": [2.0, 0.5, 1.0]}, 1),
    ("Scaler", [ints([1, 2, 3])], {"offset": [0.5], "scale": [2.0]}, 1),
]  # fmt: skip


def one_node_model(case: tuple[str, list[Array], dict[str, Any], int]) -> Any:
    op, arrays, attrs, code = case
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    node = helper.make_node(op, list(feeds), ["y"], domain=ML, **attrs)
    return model_of([node], feeds, ["y"], code)


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_node_computes_what_onnx_runtime_does(case: Any) -> None:
    feeds = {f"x{i}": array for i, array in enumerate(case[1])}
    model = one_node_model(case)
    (found,) = run(model, feeds)
    (expected,) = by_runtime(model, feeds)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_every_operator_of_the_domain_has_a_case() -> None:
    assert {case[0] for case in CASES} == LEARNING.keys()


def test_of_a_label_that_is_there_twice_the_last_counts() -> None:
    x = ints(4, 5)
    attrs = {"keys_int64s": [5, 4, 5], "values_int64s": [1, 2, 3]}
    node = helper.make_node("LabelEncoder", ["x"], ["y"], domain=ML, **attrs)
    (found,) = run(model_of([node], {"x": x}, ["y"]), {"x": x})
    np.testing.assert_array_equal(found, [2, 3])


def test_labels_may_be_tensors() -> None:
    x = np.array([3, 1, 7], np.int16)
    tensors = {
        "keys_tensor": np.array([1, 3], np.int16),
        "values_tensor": np.array([0.5, 0.25]),
        "default_tensor": np.array([-2.0]),
    }
    attrs = {name: numpy_helper.from_array(array) for name, array in tensors.items()}
    node = helper.make_node("LabelEncoder", ["x"], ["y"], domain=ML, **attrs)
    (found,) = run(model_of([node], {"x": x}, ["y"]), {"x": x})
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [0.25, 0.5, -2])


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        ("LabelEncoder", {"keys_strings": ["a"], "values_int64s": [1]}, "is of strings"),
        ("LabelEncoder", {"keys_floats": [1.0], "values_strings": ["a"]}, "is of strings"),
        ("OneHotEncoder", {"cats_strings": ["a"]}, "strings"),
        ("OneHotEncoder", {"cats_int64s": [1], "zeros": 0}, "zeros=0"),
        ("LinearRegressor", {"coefficients": [1.0], "post_transform": "PROBIT"}, "NONE"),
        ("ZipMap", {}, "no rule for operator ZipMap of domain 'ai.onnx.ml'"),
    ],
)
def test_what_is_no_arithmetic_is_refused(op: str, attrs: Any, message: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], domain=ML, name="the_node", **attrs)
    with pytest.raises(UnsupportedError, match=f"node 'the_node'.*{message}"):
        load(model_of([node], {"x": TABLE}, ["y"]))


# -- TfIdfVectorizer ------------------------------------------------------------------------------


@st.composite
def vectorizers(draw: Any) -> tuple[dict[str, Any], Array]:
    """Attributes with a pool of different n-grams of tokens 0 to 3, and rows of tokens."""
    pool: list[int] = []
    counts, total = [], 0
    longest = draw(st.integers(1, 3))
    for n in range(1, longest + 1):
        grams = st.lists(st.tuples(*[st.integers(0, 3)] * n), min_size=n == longest, max_size=4)
        found = draw(grams.filter(lambda listed: len(set(listed)) == len(listed)))
        counts.append(len(pool))
        pool += [token for gram in found for token in gram]
        total += len(found)
    attrs = {
        "mode": draw(st.sampled_from(["TF", "IDF", "TFIDF"])),
        "min_gram_length": draw(st.integers(1, longest)),
        "max_gram_length": longest,
        "max_skip_count": draw(st.integers(0, 3)),
        "ngram_counts": counts,
        "ngram_indexes": draw(st.permutations(range(total))),
        "pool_int64s": pool,
    }
    if draw(st.booleans()):
        attrs["weights"] = [0.5 * (i + 1) for i in range(total)]
    shape = draw(st.sampled_from([(6,), (2, 5), (1, 1), (3, 9)]))
    tokens = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 4, shape)
    return attrs, tokens.astype(draw(st.sampled_from([np.int32, np.int64])))


@settings(max_examples=60, deadline=None)
@given(vectorizers())
def test_ngrams_are_counted_as_by_onnx_runtime(drawn: Any) -> None:
    attrs, tokens = drawn
    node = helper.make_node("TfIdfVectorizer", ["x"], ["y"], **attrs)
    model = model_of([node], {"x": tokens}, ["y"], TensorProto.FLOAT)
    (found,) = run(model, {"x": tokens})
    (expected,) = by_runtime(model, {"x": tokens})
    np.testing.assert_array_equal(found, expected)


BIGRAMS: dict[str, Any] = {
    "mode": "TF",
    "min_gram_length": 1,
    "max_gram_length": 2,
    "max_skip_count": 0,
    "ngram_counts": [0, 0],
    "ngram_indexes": [0, 1],
    "pool_int64s": [1, 2, 3, 4],
}


def vectorizer(tokens: Array, **changed: Any) -> Any:
    node = helper.make_node("TfIdfVectorizer", ["x"], ["y"], **(BIGRAMS | changed))
    return model_of([node], {"x": tokens}, ["y"])


def test_ngrams_of_rows_of_symbolic_length_are_counted() -> None:
    attrs = BIGRAMS | {"max_skip_count": 1, "ngram_indexes": [0, 0], "pool_int64s": [1, 2, 2, 2]}
    node = helper.make_node("TfIdfVectorizer", ["x"], ["y"], **attrs)
    model = model_of([node], {"x": ints(1)}, ["y"])
    model.graph.input[0].CopyFrom(value_info("x", ints(1), ["n"]))
    for tokens, count in (([1], 0), ([1, 2], 1), ([1, 2, 2], 3)):
        (found,) = run(model, {"x": ints(*tokens)})
        np.testing.assert_array_equal(found, [count])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "BM25"}, "'BM25' is none of"),
        ({"ngram_indexes": [0]}, "2 n-grams for 1 places"),
        ({"weights": [1.0], "mode": "IDF"}, "1 weights for 2"),
        ({"ngram_counts": [0, 1]}, "are no 2-grams"),
    ],
)
def test_pools_that_are_no_ngrams_are_malformed(changed: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(vectorizer(ints(1, 2), **changed))


def test_results_of_absurdly_many_places_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="results of 1099511627777 places"):
        load(vectorizer(ints(1, 2), ngram_indexes=[0, 1 << 40]))


def test_absurdly_many_skips_are_refused_where_rows_are_of_open_length() -> None:
    model = vectorizer(ints(1, 2), max_skip_count=1 << 40)
    load(model)
    model.graph.input[0].CopyFrom(value_info("x", ints(1), ["n"]))
    with pytest.raises(UnsupportedError, match="2-grams with up to 1099511627776 tokens skipped"):
        load(model)


# -- optimisers -----------------------------------------------------------------------------------


OPTIMISERS: list[tuple[str, int, list[float], dict[str, Any]]] = [
    ("Adagrad", 1, [1.5], {}),
    ("Adam", 1, [0.75, 2], {}),
    ("Momentum", 1, [1], {"alpha": 0.5, "beta": 0.5, "mode": "standard", "norm_coefficient": 0.5}),
]


def step(op: str, count: int, states: Sequence[float], **attrs: Any) -> list[Array]:
    """One step of an optimiser on two tensors with the states given, for both alike."""
    return run(*optimiser(op, count, states, attrs))


def optimiser(
    op: str, count: int, states: Sequence[float], attrs: dict[str, Any]
) -> tuple[Any, dict[str, Array]]:
    x, g = floats(3).astype(np.float64), floats(2, 2, seed=1).astype(np.float64)
    feeds = {"r": np.float64(0.1), "t": np.int64(count), "x0": x, "x1": g, "g0": x * 2, "g1": g - 1}
    for name, scale in zip("vh", states, strict=False):
        feeds |= {f"{name}0": np.abs(x) * scale, f"{name}1": np.abs(g) * scale}
    outputs = [f"{name}{i}new" for name in ("x", "v", "h")[: 1 + len(states)] for i in (0, 1)]
    node = helper.make_node(op, list(feeds), outputs, domain=TRAINING, **attrs)
    return model_of([node], feeds, outputs), feeds


def tensors() -> list[tuple[Array, Array]]:
    x, g = floats(3).astype(np.float64), floats(2, 2, seed=1).astype(np.float64)
    return [(x, x * 2), (g, g - 1)]


# What a float32 of an attribute holds exactly.
EPSILON = 2.0**-20


@pytest.mark.parametrize("count", [0, 3])
def test_adagrad_takes_the_step_of_its_definition(count: int) -> None:
    found = step(
        "Adagrad", count, [1.5], norm_coefficient=0.0625, epsilon=EPSILON, decay_factor=0.5
    )
    for i, (x, g) in enumerate(tensors()):
        g = g + 0.0625 * x
        h = np.abs(x) * 1.5 + g * g
        moved = x - 0.1 / (1 + count * 0.5) * g / (np.sqrt(h) + EPSILON)
        np.testing.assert_allclose(found[i], moved, rtol=1e-9)
        np.testing.assert_allclose(found[2 + i], h, rtol=1e-9)


@pytest.mark.parametrize("count", [0, 3])
def test_adam_takes_the_step_of_its_definition(count: int) -> None:
    states = [0.75, 2]
    found = step(
        "Adam", count, states, alpha=0.75, beta=0.875, norm_coefficient_post=0.25, epsilon=EPSILON
    )
    for i, (x, g) in enumerate(tensors()):
        v = 0.75 * np.abs(x) * 0.75 + 0.25 * g
        h = 0.875 * np.abs(x) * 2 + 0.125 * g * g
        rate = 0.1 * np.sqrt(1 - 0.875**count) / (1 - 0.75**count) if count else 0.1
        moved = 0.75 * (x - rate * v / (np.sqrt(h) + EPSILON))
        for have, wanted in zip((found[i], found[2 + i], found[4 + i]), (moved, v, h), strict=True):
            np.testing.assert_allclose(have, wanted, rtol=1e-9)


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("mode", ["standard", "nesterov"])
def test_momentum_takes_the_step_of_its_definition(mode: str, count: int) -> None:
    attrs = {"alpha": 0.875, "beta": 0.5, "norm_coefficient": 0.125, "mode": mode}
    found = step("Momentum", count, [1], **attrs)
    for i, (x, g) in enumerate(tensors()):
        g = g + 0.125 * x
        v = 0.875 * np.abs(x) + (0.5 if count else 1) * g
        moved = x - 0.1 * (v if mode == "standard" else g + 0.875 * v)
        np.testing.assert_allclose(found[i], moved, rtol=1e-9)
        np.testing.assert_allclose(found[2 + i], v, rtol=1e-9)


# -- gradients ------------------------------------------------------------------------------------


def gradient(nodes: Sequence[Any], xs: Sequence[str], inputs: Sequence[str] = ()) -> Any:
    """A model with the derivatives of `y` by `xs`; its inputs are w and x."""
    outputs = [f"d{name}" for name in xs]
    feeds = {"w": floats(3, 2), "x": floats(4, 3, seed=1)}
    last = helper.make_node(
        "Gradient", list(inputs or xs), outputs, domain=TRAINING, name="slope", xs=xs, y="y"
    )
    return model_of([*nodes, last], feeds, outputs), feeds


def test_gradient_is_that_of_finite_differences() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Softmax", ["a"], ["b"]),
        helper.make_node("Tanh", ["a"], ["c"]),
        helper.make_node("Mul", ["b", "c"], ["y"]),
    ]
    found = run(*gradient(nodes, ["w", "x"]))

    def value(w: Array, x: Array) -> float:
        a = x @ w
        b = np.exp(a) / np.exp(a).sum(-1, keepdims=True)
        return float((b * np.tanh(a)).sum())

    feeds = [floats(3, 2).astype(np.float64), floats(4, 3, seed=1).astype(np.float64)]
    for position, have in enumerate(found):
        for at in np.ndindex(have.shape):
            near = [np.array(array) for array in feeds]
            near[position][at] += 1e-5
            far = [np.array(array) for array in feeds]
            far[position][at] -= 1e-5
            assert abs(have[at] - (value(*near) - value(*far)) / 2e-5) < 1e-4


def test_gradient_by_a_value_in_between_holds_the_others() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    model, feeds = gradient(nodes, ["a"])
    (found,) = run(model, feeds)
    np.testing.assert_allclose(found, np.full((4, 2), feeds["x"].sum()), rtol=1e-5)


def test_gradient_by_what_plays_no_part_is_0() -> None:
    (found,) = run(*gradient([helper.make_node("Exp", ["x"], ["y"])], ["w"]))
    np.testing.assert_array_equal(found, np.zeros((3, 2)))


INTEGERS, FLOATS = {"to": TensorProto.INT32}, {"to": TensorProto.FLOAT}


@pytest.mark.parametrize(
    ("nodes", "by", "inputs", "message"),
    [
        ([("Exp", "x", "y", {})], "x", ["w"], "at other values"),
        ([("Identity", "x", "a", {}), ("Exp", "a", "y", {})], "a", [], "another name of 'x'"),
        ([("Constant", "", "a", {"value_float": 2.0}), ("Exp", "a", "y", {})], "a", [],
         "by the constant 'a'"),
        ([("BitCast", "x", "a", INTEGERS), ("BitCast", "a", "y", FLOATS)], "x", [],
         "bitcast has no gradient"),
    ],
)  # fmt: skip
def test_gradients_that_are_not_known_are_refused(
    nodes: Any, by: str, inputs: Any, message: str
) -> None:
    made = [helper.make_node(op, [x] if x else [], [y], **attrs) for op, x, y, attrs in nodes]
    model, _ = gradient(made, [by], inputs)
    for entry in model.opset_import:
        if not entry.domain:
            entry.version = 26
    with pytest.raises(UnsupportedError, match=f"node 'slope'.*{message}"):
        load(model)
