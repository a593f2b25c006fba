"""More one-node models, of the operators that models use less; see `cases`."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.frontends.cases import Case
from tests.frontends.support import Array, floats, one_node, reference

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


def _images() -> list[Case]:
    image, grid = floats(2, 3, 5, 6), floats(2, 4, 3, 2, seed=1, lo=-1.3, hi=1.3)
    pooled, kernel = floats(1, 2, 2, 2, lo=0.1), {"kernel_shape": [2, 2], "strides": [2, 2]}
    places = np.array([[[[5, 7], [13, 8]], [[16, 22], [28, 31]]]])
    unpooled = np.zeros(32, np.float32)
    unpooled[places.reshape(-1)] = pooled.reshape(-1)
    regions = np.array([[0, 0, 4, 3], [1, 1, 5, 4], [-3, 0, 2, 2]], np.float32)
    rois = [image, regions, np.array([0, 1, 0])]
    bins = {"output_height": 2, "output_width": 3, "sampling_ratio": 2, "spatial_scale": 0.8}
    deformed = [floats(1, 2, 4, 4), floats(2, 2, 2, 2), floats(1, 8, 3, 3, lo=-1, hi=1)]
    masked = [*deformed, floats(2), floats(1, 4, 3, 3, lo=0)]
    norm = np.abs(image) ** 3
    return [
        *(Case("GridSample", [image, grid], {"mode": mode, "padding_mode": padding,
                                             "align_corners": align}, opset=20)
          for mode in ("nearest", "linear", "cubic")
          for padding in ("zeros", "border", "reflection") for align in (0, 1)),
        Case("GridSample", [image, grid], {"mode": "bilinear"}, opset=16,
             expected=reference(*one_node("GridSample", [image, grid], {"mode": "linear"}, 20))),
        Case("RoiAlign", rois, bins, opset=16),
        Case("RoiAlign", rois, {**bins, "mode": "max"}, opset=16),
        Case("RoiAlign", rois, bins, opset=10, expected=reference(*one_node(
            "RoiAlign", rois, {**bins, "coordinate_transformation_mode": "output_half_pixel"}, 16
        ))),
        *(Case("AffineGrid", [floats(2, 3, 4), np.array([2, 1, 3, 2, 4])], {"align_corners": align},
               constant=[1]) for align in (0, 1)),
        Case("MaxRoiPool", [image, MAX_ROIS], {"pooled_shape": [2, 3], "spatial_scale": 0.5},
             opset=22, expected=[_max_of_rois(image)]),
        Case("DeformConv", deformed, opset=19),
        Case("DeformConv", masked, opset=22),
        Case("MaxUnpool", [pooled, places], kernel, expected=[unpooled.reshape(1, 2, 4, 4)]),
        Case("MaxPool", [image], {"kernel_shape": [2, 3], "strides": [1, 2]}, outputs=2),
        Case("MaxPool", [np.zeros((1, 2, 3, 1), np.uint8)],
             {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}, outputs=2,
             expected=[np.zeros((1, 2, 3, 1), np.uint8),
                       np.array([[[[0], [0], [1]], [[3], [3], [4]]]])]),
        Case("MaxPool", [image], {"kernel_shape": [2, 2], "storage_order": 1}, outputs=2,
             expected=_positions_by_columns(image)),
        Case("Col2Im", [floats(1, 12, 4), np.array([3, 3]), np.array([2, 2])], constant=[1, 2]),
        Case("Col2Im", [floats(1, 4, 9), np.array([5, 5]), np.array([2, 2])],
             {"dilations": [2, 2]}, constant=[1, 2]),
        Case("LpPool", [image], {"kernel_shape": [2, 3], "p": 3}, opset=18),
        Case("LpPool", [image], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}, opset=11,
             expected=reference(*one_node("LpPool", [image], {"kernel_shape": [2, 2],
                                                              "pads": [1, 1, 1, 1]}, 18))),
        Case("GlobalLpPool", [image], {"p": 3},
             expected=[norm.sum((2, 3), keepdims=True) ** (1 / 3)]),
    ]  # fmt: skip


# One of them lies outside, and has no pixels.
MAX_ROIS = np.array(
    [[0, 0, 0, 7, 7], [0, 1.8, 4.2, 5.4, 6.6], [1, 20, 20, 24, 24], [1, 2, 0, 9, 4]],
    np.float32,
)  # fmt: skip


def _max_of_rois(image: Array) -> Array:
    """Bins of 2 by 3 of the regions at half their size, pixel by pixel."""
    c, h, w = image.shape[1:]
    found = np.zeros((len(MAX_ROIS), c, 2, 3), np.float32)
    for r, (left, top, right, bottom) in enumerate(np.floor(MAX_ROIS[:, 1:] * 0.5 + 0.5)):
        one = image[int(MAX_ROIS[r, 0])]
        for i, j in np.ndindex(2, 3):
            tall, wide = max(bottom - top + 1, 1) / 2, max(right - left + 1, 1) / 3
            high, low = np.ceil((i + 1) * tall), np.floor(i * tall)
            rows = [y for y in range(h) if low <= y - top < high]
            high, low = np.ceil((j + 1) * wide), np.floor(j * wide)
            cells = [x for x in range(w) if low <= x - left < high]
            if rows and cells:
                found[r, :, i, j] = one[:, rows][:, :, cells].max((1, 2))
    return found


def _positions_by_columns(image: Array) -> list[Array]:
    """Of windows of 2 by 2: their maxima, and where these are when columns lie one by one."""
    n, c, h, w = image.shape
    values, found = [], []
    for i, j in np.ndindex(2, 2):
        values.append(image[:, :, i : h - 1 + i, j : w - 1 + j])
        at = np.add.outer(np.arange(i, h - 1 + i), h * np.arange(j, w - 1 + j))
        first = (np.arange(n * c) * h * w).reshape(n, c, 1, 1)
        found.append(first + at)
    best = np.argmax(values, 0)[None]
    return [np.max(values, 0), np.take_along_axis(np.array(found), best, 0)[0]]


def _signals() -> list[Case]:
    real, complex_ = floats(2, 6, 1), floats(2, 6, 2)
    signal, window = floats(1, 16, 1), floats(6, lo=0.1)
    scalars = [np.int64(8), np.int64(32), np.int64(8000), np.float32(0), np.float32(4000)]
    half = floats(2, 4, 2)
    half[:, [0, 3], 1] = 0
    return [
        Case("DFT", [real], {"axis": 1}, opset=17),
        Case("DFT", [complex_, None, np.array(1)], opset=20, constant=[2]),
        Case("DFT", [complex_, np.array(8), np.array(1)], opset=20, constant=[1, 2],
             expected=[_pairs(np.fft.fft(complex_[..., 0] + 1j * complex_[..., 1], 8, 1))]),
        Case("DFT", [complex_, np.array(4), np.array(1)], {"inverse": 1}, opset=20,
             constant=[1, 2],
             expected=[_pairs(np.fft.ifft(complex_[..., 0] + 1j * complex_[..., 1], 4, 1))]),
        Case("DFT", [real], {"axis": 1, "onesided": 1}, opset=17,
             expected=[_pairs(np.fft.rfft(real[..., 0], axis=1))]),
        Case("DFT", [half], {"onesided": 1, "inverse": 1}, opset=20,
             expected=[np.fft.irfft(half[..., 0] + 1j * half[..., 1], axis=1)[..., None]]),
        Case("DFT", [floats(4, 3, 2)], {"axis": 0}, opset=19),
        Case("STFT", [signal, np.int64(3), window], opset=17, constant=[1],
             expected=[_stft(signal, 3, window)]),
        Case("STFT", [signal, np.int64(4), None, np.int64(8)], {"onesided": 0}, opset=17,
             constant=[1, 3], expected=[_stft(signal, 4, np.ones(8, np.float32), full=True)]),
        *(Case(f"{name}Window", [np.int64(size)], {"periodic": periodic}, constant=[0])
          for name in ("Blackman", "Hamming", "Hann") for size, periodic in ((8, 1), (9, 0))),
        Case("MelWeightMatrix", scalars, constant=[0, 1, 2, 3, 4]),
        Case("CumProd", [X, np.array(1)], opset=26, constant=[1], expected=[np.cumprod(X, 1)]),
        Case("CumProd", [X, np.array(0)], {"reverse": 1}, opset=26, constant=[1],
             expected=[np.cumprod(X[::-1], 0)[::-1]]),
    ]  # fmt: skip


def _pairs(x: Array) -> Array:
    return np.stack([x.real, x.imag], -1)


def _stft(signal: Array, step: int, window: Array, full: bool = False) -> Array:
    starts = range(0, signal.shape[1] - window.size + 1, step)
    frames = np.stack([signal[:, s : s + window.size, 0] * window for s in starts], 1)
    return _pairs(np.fft.fft(frames) if full else np.fft.rfft(frames))


MORE = [*_storage(), *_positions(), *_integers(), *_images(), *_signals()]
