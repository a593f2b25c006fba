"""Sizes that an operator does not take end the run; nothing is read or written out of bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import helper

import tfc
from tests.frontends.support import Array, floats, ints, make_model, run, value_info

Shape = Sequence[int | str]

# Operator, attributes, the shape of x with its open dim N, constants, sizes that fit and do not.
CASES: list[tuple[str, dict[str, Any], Shape, Mapping[str, Array], list[int], list[int]]] = [
    ("Expand", {}, ("N",), {"s": ints(16)}, [1, 16], [6, 0]),
    ("MaxPool", {"kernel_shape": [2]}, (2, 8, "N"), {}, [2, 5], [1, 0]),
    ("AveragePool", {"kernel_shape": [3]}, (2, 8, "N"), {}, [3], [2, 0]),
    ("LpPool", {"kernel_shape": [2]}, (2, 8, "N"), {}, [2], [1, 0]),
    ("Conv", {}, (2, 8, "N"), {"w": floats(4, 8, 3)}, [3, 7], [2, 1, 0]),
    ("GatherElements", {"axis": 0}, (2, "N"), {"i": np.ones((1, 3), np.int64)}, [3, 4], [2, 0]),
    ("ScatterElements", {"axis": 0}, (2, "N"),
     {"i": np.zeros((1, 3), np.int64), "u": floats(1, 3)}, [3, 4], [2, 0]),
    ("ArgMax", {"axis": 1}, (2, "N"), {}, [1, 3], [0]),
    ("ScatterND", {}, ("N", 3), {"i": np.zeros((2, 1), np.int64), "u": floats(2, 3)}, [1, 4], [0]),
]  # fmt: skip


@pytest.mark.parametrize("opt", [0, 2])
@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_run_refuses_sizes_that_the_operator_does_not_take(case: Any, opt: int) -> None:
    op, attrs, shape, stored, good, bad = case
    node = helper.make_node(op, ["x", *stored], ["y"], **attrs)
    like = floats(*(3 if dim == "N" else dim for dim in shape))
    model = make_model([node], [value_info("x", like, shape)], ["y"], 22, stored)
    compiled = tfc.compile(model, opt=opt)
    for size in (*good, *bad):
        x = floats(*(size if dim == "N" else dim for dim in shape))
        if size in good:
            np.testing.assert_allclose(compiled(x), run(model, {"x": x})[0], rtol=1e-5, atol=1e-5)
            continue
        with pytest.raises(tfc.RuntimeFault):
            compiled(x)


@pytest.mark.parametrize("size", [0, 1, 4])
def test_backward_slice_of_an_open_dim_has_as_many_elements(size: int) -> None:
    node = helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"])
    stored = {"start": ints(-1), "end": ints(-(1 << 62)), "axis": ints(0), "step": ints(-1)}
    x = floats(size, 2)
    model = make_model([node], [value_info("x", x, ("N", 2))], ["y"], 21, stored)
    np.testing.assert_array_equal(tfc.compile(model)(x), x[::-1])
    np.testing.assert_array_equal(run(model, {"x": x})[0], x[::-1])


@pytest.mark.parametrize("size", [1, 16, 17, 40])
def test_slice_that_is_likely_empty_is_compiled(size: int) -> None:
    node = helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"])
    stored = {"start": ints(16), "end": ints(0), "axis": ints(0), "step": ints(-1)}
    x = floats(size)
    model = make_model([node], [value_info("x", x, ("N",))], ["y"], 21, stored)
    np.testing.assert_array_equal(tfc.compile(model)(x), x[16:0:-1])
