"""All operators of random ONNX graphs, as often as they shall come up. No tests."""

from __future__ import annotations

from tests.fuzz.onnx_graphs import Maker
from tests.fuzz.onnx_index import INDEXED
from tests.fuzz.onnx_layers import NORMS, PRODUCTS, QUANTISED, RECURRENT, RESIZED, WINDOWS
from tests.fuzz.onnx_nodes import ELEMENTWISE, MOVEMENT, REDUCTIONS

FAMILIES = (
    (ELEMENTWISE, 3), (REDUCTIONS, 3), (MOVEMENT, 5), (INDEXED, 4), (PRODUCTS, 5), (WINDOWS, 4),
    (NORMS, 3), (QUANTISED, 3), (RESIZED, 2), (RECURRENT, 1),
)  # fmt: skip
"""The tables, and how often an entry counts."""

MAKERS: tuple[Maker, ...] = tuple(
    maker for family, weight in FAMILIES for maker in family.values() for _ in range(weight)
)
