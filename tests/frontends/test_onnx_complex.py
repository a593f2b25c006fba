"""Complex numbers are moved and chosen, and not computed with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import helper

import tfc
from tests.frontends.support import make_model, run, value_info
from tfc.compiler.frontends.onnx import load
from tfc.ir.errors import UnsupportedError

DICE = np.random.default_rng(0)
X = DICE.integers(-9, 10, (7, 9)) + 1j * DICE.integers(-9, 10, (7, 9))
Stored = dict[str, Any]
CASES: list[tuple[str, Sequence[str], dict[str, Any], Stored, Any]] = [
    ("Transpose", ["x"], {}, {}, X.T),
    ("Concat", ["x", "k"], {"axis": 0}, {"k": X[:2]}, np.concatenate([X, X[:2]])),
    ("Slice", ["x", "from", "to", "axis", "step"], {},
     {"from": [8], "to": [0], "axis": [1], "step": [-3]}, X[:, 8:0:-3]),
    ("Pad", ["x", "pads", "k"], {}, {"pads": [1, 3, 2, 4], "k": X.dtype.type(2 - 1j)},
     np.pad(X, ((1, 2), (3, 4)), constant_values=2 - 1j)),
    ("Gather", ["x", "i"], {"axis": 1}, {"i": [1, 8, 5]}, X[:, [1, 8, 5]]),
    ("Where", ["c", "x", "k"], {}, {"c": X.real > 0, "k": X.dtype.type(3 + 4j)},
     np.where(X.real > 0, X, 3 + 4j)),
    ("Trilu", ["x"], {}, {}, np.triu(X)),
    ("OneHot", ["i", "depth", "k"], {}, {"i": [2, 0], "depth": 3, "k": X[0, :2]},
     np.array([[0, 0, 1], [1, 0, 0]]) * (X[0, 1] - X[0, 0]) + X[0, 0]),
]  # fmt: skip


def one_node(op: str, operands: Sequence[str], attrs: Any, stored: Stored, dtype: Any) -> Any:
    arrays = {name: np.asarray(value) for name, value in stored.items()}
    arrays = {k: v.astype(dtype) if v.dtype.kind == "c" else v for k, v in arrays.items()}
    node = helper.make_node(op, list(operands), ["y"], **attrs)
    return make_model([node], [value_info("x", X.astype(dtype))], ["y"], 21, arrays)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_node_moves_complex_numbers(case: Any, dtype: Any) -> None:
    *given, wanted = case
    model = one_node(*given, dtype)
    feeds = {"x": X.astype(dtype)}
    for found in (
        run(model, feeds)[0],
        *(tfc.compile(model, opt=opt)(feeds["x"]) for opt in (0, 2)),
    ):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, wanted)


def test_arithmetic_of_complex_numbers_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="not c64; complex numbers are only moved"):
        load(one_node("NonZero", ["x"], {}, {}, np.complex64))
