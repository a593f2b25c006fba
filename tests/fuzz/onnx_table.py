"""All operators of random ONNX graphs, as often as they shall come up. No tests."""

from __future__ import annotations

from tests.fuzz.onnx_control import CONTROL, SEQUENCES
from tests.fuzz.onnx_graphs import Maker
from tests.fuzz.onnx_index import INDEXED
from tests.fuzz.onnx_layers import NORMS, PRODUCTS, QUANTISED, RECURRENT, RESIZED, WINDOWS
from tests.fuzz.onnx_learning import LEARNED
from tests.fuzz.onnx_models import LANGUAGE, MADE
from tests.fuzz.onnx_nodes import ELEMENTWISE, MOVEMENT, REDUCTIONS
from tests.fuzz.onnx_open import OPEN
from tests.fuzz.onnx_sampled import SAMPLED, SIGNALS

FAMILIES = (
    (ELEMENTWISE, 3), (REDUCTIONS, 3), (MOVEMENT, 5), (INDEXED, 4), (PRODUCTS, 5), (WINDOWS, 4),
    (NORMS, 3), (QUANTISED, 3), (RESIZED, 2), (RECURRENT, 1),
    (CONTROL, 8), (SEQUENCES, 4), (OPEN, 6), (SAMPLED, 4), (SIGNALS, 2), (LANGUAGE, 4), (MADE, 1),
    (LEARNED, 1),
)  # fmt: skip
"""The tables, and how often an entry counts."""

MAKERS: tuple[Maker, ...] = tuple(
    maker for family, weight in FAMILIES for maker in family.values() for _ in range(weight)
)
