"""More one-node models, of the operators that models use less; see `cases`."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.frontends.cases import Case
from tests.frontends.support import Array, floats

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


def _positions() -> list[Case]:
    """Operators that write or pick by positions."""
    cache, update, starts = floats(2, 5, 3), floats(2, 2, 3, seed=1), np.array([1, 3])
    linear, circular = cache.copy(), cache.copy()
    for item, start in enumerate(starts):
        linear[item, start : start + 2] = update[item]
        circular[item, [(start + 1) % 5, (start + 2) % 5]] = update[item]
    places, values = np.array([[1, -1], [0, 2]]), floats(2, 2, seed=2)
    rows, columns = np.array([[2], [0]]), floats(2, 4, seed=3)
    twice = np.array([[1], [1]])
    sequences, lengths = floats(4, 3), np.array([4, 2, 1])
    turned = sequences.copy()
    for item, length in enumerate(lengths):
        turned[:length, item] = sequences[:length, item][::-1]
    return [
        Case("Scatter", [X, places, values], {"axis": 1}, opset=9,
             expected=[_scattered(X, places, values)]),
        Case("ScatterElements", [X, places, values], {"axis": 1}),
        Case("ScatterElements", [X, places, values], {"axis": 0, "reduction": "add"}, opset=16),
        Case("ScatterElements", [X, places, values], {"axis": 1, "reduction": "max"}, opset=18),
        Case("ScatterND", [X, rows, columns], opset=11),
        Case("ScatterND", [X, twice, columns], {"reduction": "add"}, opset=16),
        Case("ScatterND", [X, twice, columns], {"reduction": "min"}, opset=18),
        Case("TensorScatter", [cache, update, starts], {"axis": 1}, opset=24, expected=[linear]),
        Case("TensorScatter", [cache, update, starts + 1], {"axis": -2, "mode": "circular"},
             opset=24, expected=[circular]),
        Case("ReverseSequence", [sequences, lengths], opset=10, expected=[turned]),
        Case("ReverseSequence", [sequences.T.copy(), lengths], {"time_axis": 1, "batch_axis": 0},
             expected=[turned.T]),
        Case("TopK", [X], {"k": 2}, opset=9, outputs=2,
             expected=[-np.sort(-X)[:, :2], np.argsort(-X)[:, :2]]),
        Case("TopK", [X, np.array([2])], {"axis": 0}, opset=10, outputs=2, constant=[1],
             expected=[-np.sort(-X, 0)[:2], np.argsort(-X, 0)[:2]]),
        Case("TopK", [X, np.array([3])], {"largest": 0}, outputs=2, constant=[1],
             expected=[np.sort(X)[:, :3], np.argsort(X)[:, :3]]),
    ]  # fmt: skip


def _scattered(x: Array, places: Array, values: Array) -> Array:
    found = x.copy()
    np.put_along_axis(found[:2], places % x.shape[1], values, 1)
    return found


def _integers() -> list[Case]:
    image = np.arange(32, dtype=np.uint8).reshape(1, 2, 4, 4)
    kernel = (np.arange(12, dtype=np.int64) - 5).astype(np.int8).reshape(1, 2, 2, 3)
    a, b = np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(12, dtype=np.uint8).reshape(3, 4)
    scales = [np.float32(0.5), np.float32(0.25), np.float32(0.1)]
    product = (a.astype(np.int32) - 2) @ (b.astype(np.int32) - 3)
    scaled = np.clip(np.round(product * (scales[0] * scales[1] / scales[2])) + 9, 0, 255)
    convolved = _convolved(image, kernel)
    rescaled = np.clip(np.round((convolved + 7) * (scales[0] * scales[1] / scales[2])) + 9, 0, 255)
    return [
        Case("ConvInteger", [image, kernel, np.uint8(3)], expected=[convolved]),
        Case("MatMulInteger", [a, b, np.array([1, 2], np.uint8), np.array([0, 1, 2, 3], np.uint8)],
             expected=[(a.astype(np.int32) - [[1], [2]]) @ (b.astype(np.int32) - [0, 1, 2, 3])]),
        Case("QLinearMatMul", [a, scales[0], np.uint8(2), b, scales[1], np.uint8(3), scales[2],
                               np.uint8(9)], expected=[scaled.astype(np.uint8)]),
        Case("QLinearConv", [image, scales[0], np.uint8(3), kernel, scales[1], np.int8(0),
                             scales[2], np.uint8(9), np.array([7], np.int32)],
             expected=[rescaled.astype(np.uint8)]),
    ]  # fmt: skip


def _convolved(image: Array, kernel: Array) -> Array:
    """Of an image with zero point 3 and the kernel, one channel out."""
    x = image.astype(np.int32) - 3
    rows, columns = x.shape[2] - kernel.shape[2] + 1, x.shape[3] - kernel.shape[3] + 1
    found = np.zeros((1, 1, rows, columns), np.int32)
    for i in range(kernel.shape[2]):
        for j in range(kernel.shape[3]):
            part = x[:, :, i : i + rows, j : j + columns]
            found[0, 0] += (part[0] * kernel[0, :, i, j].reshape(-1, 1, 1)).sum(0)
    return found


MORE = [*_storage(), *_positions(), *_integers()]
