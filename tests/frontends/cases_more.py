"""More one-node models, of the operators that models use less; see `cases`."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.frontends.cases import Case
from tests.frontends.support import floats

X = floats(3, 4)


def _storage() -> list[Case]:
    """Types that hold numbers which nothing computes with."""
    blocks = np.repeat(np.array([[0.5, 2.0], [1.0, 0.25]], np.float32), 2, axis=1)
    codes = np.array([[1, -3, 5, 7], [-8, 0, 2, 4]], np.int8)
    scales = blocks[:, ::2].copy()
    return [
        Case("BitCast", [X], {"to": TensorProto.INT32}, opset=26, expected=[X.view(np.int32)]),
        Case("DequantizeLinear", [codes, scales], {"axis": 1, "block_size": 2},
             expected=[codes * blocks]),
        Case("QuantizeLinear", [codes * blocks, scales, np.zeros((2, 2), np.int8)],
             {"axis": 1, "block_size": 2}, expected=[codes]),
    ]  # fmt: skip


MORE = [*_storage()]
