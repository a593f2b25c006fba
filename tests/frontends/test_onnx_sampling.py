"""Between pixels: what is outside of an image counts as 0, whatever its edge holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.frontends.support import one_node, run

EDGE = np.array([[[[np.inf, 1.0, 2.0, np.inf]]]], np.float32)
FAR = np.full((1, 2, 1, 4), 9.0, np.float32)
CASES: list[tuple[str, list[Any], dict[str, Any], Any]] = [
    ("GridSample", [EDGE, np.array([[[[-1.2, 0.0], [5.0, 0.0]]]], np.float32)], {},
     [[[[np.inf, 0]]]]),
    ("RoiAlign", [EDGE, np.array([[40, 0, 44, 1]], np.float32), np.array([0])],
     {"output_width": 2, "sampling_ratio": 2}, [[[[0, 0]]]]),
    ("DeformConv", [EDGE, np.ones((1, 1, 1, 1), np.float32), FAR], {}, [[[[0, 0, 0, 0]]]]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_an_infinite_edge_does_not_reach_beyond_the_image(case: Any) -> None:
    op, arrays, attrs, wanted = case
    model, feeds = one_node(op, arrays, attrs, 22)
    for found in (run(model, feeds)[0], *tfc.compile(model)(feeds).values()):
        np.testing.assert_array_equal(found, np.array(wanted, np.float32))
