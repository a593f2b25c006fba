"""Cases over opsets: reductions, normalising operators, products, quantisation, losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.frontends.opset_cases import Versioned, cases
from tests.frontends.support import Array, floats, ints

IMAGE = floats(2, 3, 4, 5)
POSITIVE = floats(2, 3, 4, lo=0.1)
CUBE = floats(2, 3, 4)
WHOLE = np.arange(-12, 12).reshape(2, 3, 4)
MATRIX = floats(4, 5, seed=3)
CHANNELS = [floats(3, seed=s, lo=0.2) for s in range(4)]


def _log_sum_exp(x: Array, axis: Any, keepdims: bool) -> Array:
    return np.asarray(np.log(np.exp(x).sum(axis, keepdims=keepdims)))


REDUCTIONS: dict[str, Callable[[Array, Any, bool], Array]] = {
    "ReduceL1": lambda x, axis, keep: np.abs(x).sum(axis, keepdims=keep),
    "ReduceL2": lambda x, axis, keep: np.sqrt((x * x).sum(axis, keepdims=keep)),
    "ReduceLogSum": lambda x, axis, keep: np.log(x.sum(axis, keepdims=keep)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": lambda x, axis, keep: x.max(axis, keepdims=keep),
    "ReduceMean": lambda x, axis, keep: x.mean(axis, keepdims=keep),
    "ReduceMin": lambda x, axis, keep: x.min(axis, keepdims=keep),
    "ReduceProd": lambda x, axis, keep: x.prod(axis, keepdims=keep),
    "ReduceSum": lambda x, axis, keep: x.sum(axis, keepdims=keep),
    "ReduceSumSquare": lambda x, axis, keep: (x * x).sum(axis, keepdims=keep),
}


def _reductions() -> list[Versioned]:
    found: list[Versioned] = []
    for op, function in REDUCTIONS.items():
        x = POSITIVE if op == "ReduceLogSum" else CUBE
        wide = x.astype(np.float64)

        def wanted(axis: Any, keep: bool, f: Any = function, x: Array = wide) -> Array:
            return np.asarray(f(x, axis, keep), np.float32)

        # The axes became an operand: of ReduceSum with opset 13, of the others with 18.
        attribute = (7, 11) if op == "ReduceSum" else (7, 11, 12, 13)
        operand = (13, 18) if op == "ReduceSum" else (18,)
        if op in ("ReduceMax", "ReduceMin"):
            operand = (18, 20)
        found += [
            *cases(op, attribute, [x], wanted(None, True)),
            *cases(op, attribute, [x], wanted(1, True), {"axes": [1]}),
            *cases(op, attribute, [x], wanted((0, 2), False), {"axes": [0, 2], "keepdims": 0}),
            *cases(op, attribute[1:], [x], wanted(-1, False), {"axes": [-1], "keepdims": 0}),
            *cases(op, operand, [x], wanted(None, False), {"keepdims": 0}),
            *cases(op, operand, [x, ints(1, -1)], wanted((1, 2), True), constant=[1]),
            *cases(op, operand, [x, np.zeros(0, np.int64)], wanted(None, True), constant=[1]),
        ]
        found += cases(op, operand, [x], wanted((), True), {"noop_with_empty_axes": 1})
        if op in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd"):
            for dtype in (np.int32, np.int64):
                whole = WHOLE.astype(dtype) + 13
                result = function(whole, 1, True).astype(dtype)
                found += cases(op, attribute[:2], [whole], result, {"axes": [1]})
    small = WHOLE.astype(np.int8)
    truth = CUBE > 1.5
    return [
        *found,
        *cases("ReduceMax", (12, 13), [small], small.max(2), {"axes": [2], "keepdims": 0}),
        *cases("ReduceMin", (12, 13), [small], small.min(2), {"axes": [2], "keepdims": 0}),
        # Bools since opset 20: or, and.
        *cases("ReduceMax", 20, [truth, ints(1)], truth.any(1), {"keepdims": 0}, constant=[1]),
        *cases("ReduceMin", 20, [~truth, ints(1)], (~truth).all(1), {"keepdims": 0}, constant=[1]),
    ]


def _extremes() -> list[Versioned]:
    ties = np.array([[2, 5, 5], [1, 1, 0]], np.float32)
    found: list[Versioned] = []
    for op, first in (("ArgMax", np.argmax), ("ArgMin", np.argmin)):
        last = 2 - first(ties[:, ::-1], 1)
        found += [
            *cases(op, (7, 11, 12, 13), [ties], first(ties, 0)[None]),
            *cases(op, (7, 11, 12, 13), [ties], first(ties, 1), {"axis": 1, "keepdims": 0}),
            *cases(op, (11, 12, 13), [ties], first(ties, 1)[:, None], {"axis": -1}),
            *cases(op, (12, 13), [ties], last, {"axis": 1, "keepdims": 0, "select_last_index": 1}),
            *cases(op, (7, 12, 13), [ties.astype(np.int32)], first(ties, 1),
                   {"axis": 1, "keepdims": 0}),
        ]  # fmt: skip
    exclusive = np.cumsum(CUBE, 1) - CUBE
    backward = np.cumsum(CUBE[:, ::-1], 1)[:, ::-1]
    return [
        *found,
        *cases("CumSum", (11, 14), [CUBE, np.int32(1)], np.cumsum(CUBE, 1), constant=[1]),
        *cases("CumSum", (11, 14), [CUBE, np.int64(-2)], exclusive, {"exclusive": 1}, constant=[1]),
        *cases("CumSum", (11, 14), [CUBE, np.int64(1)], backward, {"reverse": 1}, constant=[1]),
        *cases("CumSum", (11, 14), [WHOLE, np.int64(0)], np.cumsum(WHOLE, 0), constant=[1]),
    ]


def _softmax(x: Array, axes: tuple[int, ...]) -> Array:
    wide = x.astype(np.float64)
    e = np.exp(wide - wide.max(axes, keepdims=True))
    return np.asarray(e / e.sum(axes, keepdims=True), np.float32)


def _hardmax(x: Array, axes: tuple[int, ...]) -> Array:
    """1 at the first largest element of all that have the same place on the other axes."""
    rest = [axis for axis in range(x.ndim) if axis not in axes]
    moved = x.transpose(*rest, *axes)
    rows = moved.reshape(*(x.shape[axis] for axis in rest), -1)
    hot = (np.arange(rows.shape[-1]) == rows.argmax(-1)[..., None]).astype(x.dtype)
    return np.asarray(hot.reshape(moved.shape).transpose(np.argsort([*rest, *axes])))


def _softmaxes() -> list[Versioned]:
    found: list[Versioned] = []
    for op, function in (
        ("Softmax", _softmax), ("LogSoftmax", lambda x, axes: np.log(_softmax(x, axes))),
        ("Hardmax", _hardmax),
    ):  # fmt: skip
        # Before opset 13 the tensor is made a matrix at `axis`, 1 where it is left out.
        found += [
            *cases(op, (7, 11, 12), [CUBE], function(CUBE, (1, 2))),
            *cases(op, (7, 11, 12), [CUBE], function(CUBE, (0, 1, 2)), {"axis": 0}),
            *cases(op, (7, 11, 12), [CUBE], function(CUBE, (2,)), {"axis": 2}),
            *cases(op, (11, 12), [CUBE], function(CUBE, (1, 2)), {"axis": -2}),
            *cases(op, 13, [CUBE], function(CUBE, (2,))),
            *cases(op, 13, [CUBE], function(CUBE, (1,)), {"axis": 1}),
            *cases(op, 13, [CUBE], function(CUBE, (0,)), {"axis": -3}),
        ]
    return found


def _batch_norm(x: Array, scale: Array, bias: Array, mean: Array, var: Array, eps: float) -> Array:
    shape = (-1, *(1,) * (x.ndim - 2))
    scale, bias, mean, var = (v.astype(np.float64).reshape(shape) for v in (scale, bias, mean, var))
    return np.asarray(scale * (x - mean) / np.sqrt(var + eps) + bias, x.dtype)


def _lrn(x: Array, size: int, alpha: float, beta: float, bias: float) -> Array:
    before = (size - 1) // 2
    squares = np.pad(x.astype(np.float64) ** 2, ((0, 0), (before, size), (0, 0), (0, 0)))
    total = np.asarray(sum(squares[:, k : k + x.shape[1]] for k in range(size)))
    return np.asarray(x / (bias + alpha / size * total) ** beta, x.dtype)


def _normal(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    wide = x.astype(np.float64)
    mean = wide.mean(axes, keepdims=True)
    return np.asarray((wide - mean) / np.sqrt(wide.var(axes, keepdims=True) + eps))


def _norms() -> list[Versioned]:
    scale, bias, mean, var = CHANNELS
    per_channel = (-1, 1, 1)
    plain = _batch_norm(IMAGE, *CHANNELS, eps=1e-5)
    own_mean, own_var = IMAGE.mean((0, 2, 3)), IMAGE.var((0, 2, 3))
    trained = [
        _batch_norm(IMAGE, scale, bias, own_mean, own_var, 1e-5),
        mean * np.float32(0.8) + own_mean * np.float32(0.2),
        var * np.float32(0.8) + own_var * np.float32(0.2),
    ]
    training = {"training_mode": 1, "momentum": 0.8}
    wide = IMAGE.astype(np.float64)
    each = floats(3, 4, 5, seed=9, lo=0.2)
    activations = each * (wide - each) / np.sqrt(each + 1e-5) + each
    instance = _normal(IMAGE, (2, 3), 1e-5) * scale.reshape(per_channel) + bias.reshape(per_channel)
    six = floats(2, 6, 4, seed=5)
    grouped = _normal(six.reshape(2, 2, 12), (2,), 1e-5).reshape(2, 2, 3, 4)
    by_group = grouped * scale[:2].reshape(2, 1, 1) + bias[:2].reshape(2, 1, 1)
    wide_scale = floats(6, seed=7)
    by_channel = grouped.reshape(2, 6, 4) * wide_scale[:, None] + wide_scale[:, None]
    rows, row_bias = floats(5, seed=8), floats(5, seed=10)
    layer = _normal(IMAGE, (3,), 1e-5)
    planes = floats(4, 5, seed=11)
    total = np.abs(CUBE).sum(1, keepdims=True)
    return [
        *cases("BatchNormalization", (7, 9, 14, 15), [IMAGE, *CHANNELS], plain),
        *cases("BatchNormalization", (7, 9, 14, 15), [IMAGE, *CHANNELS],
               _batch_norm(IMAGE, *CHANNELS, eps=1e-2), {"epsilon": 1e-2, "momentum": 0.5}),
        *cases("BatchNormalization", (9, 15), [IMAGE[:, :, 0, 0], *CHANNELS],
               _batch_norm(IMAGE[:, :, 0, 0], *CHANNELS, eps=1e-5)),
        *cases("BatchNormalization", 7, [IMAGE, each, each, each, each],
               activations.astype(np.float32), {"spatial": 0}),
        *cases("BatchNormalization", (14, 15), [IMAGE, *CHANNELS], trained, training),
        *cases("BatchNormalization", 15, [IMAGE.astype(np.float16), *CHANNELS],
               plain.astype(np.float16)),
        *cases("InstanceNormalization", 7, [IMAGE, scale, bias], instance.astype(np.float32)),
        *cases("GroupNormalization", 18, [six, scale[:2], bias[:2]],
               by_group.reshape(2, 6, 4).astype(np.float32), {"num_groups": 2}),
        *cases("GroupNormalization", 21, [six, wide_scale, wide_scale],
               by_channel.astype(np.float32), {"num_groups": 2}),
        *cases("LayerNormalization", 17, [IMAGE, rows, row_bias],
               (layer * rows + row_bias).astype(np.float32)),
        *cases("LayerNormalization", 17, [IMAGE, rows], (layer * rows).astype(np.float32)),
        *cases("LayerNormalization", 17, [IMAGE, planes],
               (_normal(IMAGE, (2, 3), 1e-3) * planes).astype(np.float32),
               {"axis": 2, "epsilon": 1e-3}),
        *cases("LayerNormalization", 17, [IMAGE, rows],
               [(layer * rows).astype(np.float32), wide.mean(3, keepdims=True).astype(np.float32),
                (1 / np.sqrt(wide.var(3, keepdims=True) + 1e-5)).astype(np.float32)]),
        *cases("LRN", (7, 13), [IMAGE], _lrn(IMAGE, 3, 0.1, 0.5, 2), {
            "size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0}),
        *cases("LRN", (7, 13), [IMAGE], _lrn(IMAGE, 2, 1e-4, 0.75, 1), {"size": 2}),
        *cases("LpNormalization", 7, [CUBE], CUBE / total, {"axis": 1, "p": 1}),
        *cases("LpNormalization", 7, [CUBE], CUBE / np.sqrt((CUBE**2).sum(2, keepdims=True))),
        *cases("MeanVarianceNormalization", (9, 13), [IMAGE],
               _normal(IMAGE, (0, 2, 3), 0).astype(np.float32)),
        *cases("MeanVarianceNormalization", (9, 13), [IMAGE],
               _normal(IMAGE, (1, 2), 0).astype(np.float32), {"axes": [1, 2]}),
    ]  # fmt: skip


def _products() -> list[Versioned]:
    x, wide = floats(3, 4), floats(2, 3, 4)
    row, column = floats(5, seed=1), floats(3, 1, seed=2)
    plain = x @ MATRIX
    scaled = np.float32(0.5) * plain + np.float32(2) * column
    turned = {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}
    whole = np.arange(12).reshape(3, 4)
    other = np.arange(20).reshape(4, 5) - 8
    a, b = (whole * 7).astype(np.uint8), (other * 5).astype(np.int8)
    exact = (a.astype(np.int32) - 3) @ (b.astype(np.int32) - 1)
    return [
        *cases("MatMul", (7, 9, 13), [wide, MATRIX], wide @ MATRIX),
        *cases("MatMul", (7, 9, 13), [x[0], MATRIX], x[0] @ MATRIX),
        *cases("MatMul", (7, 9, 13), [x[0], MATRIX[:, 0]], x[0] @ MATRIX[:, 0]),
        *cases("MatMul", (9, 13), [whole, other], whole @ other),
        *cases("MatMul", (9, 13), [whole.astype(np.uint32), whole.T.astype(np.uint32)],
               (whole @ whole.T).astype(np.uint32)),
        *cases("Gemm", (7, 9, 11, 13), [x, MATRIX, row], plain + row),
        *cases("Gemm", (7, 9, 11, 13), [x, MATRIX, np.float32(3)], plain + 3),
        *cases("Gemm", (7, 9, 11, 13), [x.T, MATRIX.T, column], scaled, turned),
        *cases("Gemm", (11, 13), [x, MATRIX], plain),
        *cases("Gemm", (9, 11, 13), [whole, other, np.arange(5)], whole @ other + np.arange(5)),
        *cases("Det", 11, [floats(2, 4, 4)], np.linalg.det(floats(2, 4, 4))),
        *cases("Einsum", 12, [floats(3, 4, 4)], np.einsum("bii->bi", floats(3, 4, 4)),
               {"equation": "bii->bi"}),
        *cases("Einsum", 12, [wide, MATRIX], np.einsum("bij,jk->bik", wide, MATRIX),
               {"equation": "bij,jk->bik"}),
        *cases("Einsum", 12, [wide, wide], np.einsum("...ij,...kj", wide, wide),
               {"equation": "...ij,...kj"}),
        *cases("MatMulInteger", 10, [a, b, np.uint8(3), np.int8(1)], exact.astype(np.int32)),
        *cases("MatMulInteger", 10, [a, b], (a.astype(np.int32) @ b.astype(np.int32))),
    ]  # fmt: skip


def _linear(x: Array, scale: Any, zero: Any, dtype: type) -> Array:
    limits = np.iinfo(dtype)
    return np.clip(np.round(x / scale) + zero, limits.min, limits.max).astype(dtype)


def _quantised() -> list[Versioned]:
    x = floats(3, 4, lo=-40, hi=90)
    scale, zero = np.float32(0.5), np.uint8(10)
    scales, zeros = np.array([0.5, 0.25, 2], np.float32), np.array([0, 3, 128], np.uint8)
    column, offset = scales[:, None], zeros[:, None]
    codes = np.array([[0, 127, 200], [255, 3, 128], [1, 2, 3]], np.uint8)
    signed, wide = codes.astype(np.int8), np.array([[-70000, 3, 90000]], np.int32)
    sixteen = np.array([[-300, 20000, 32767]], np.int16)
    spread = np.repeat(np.array([[0.5, 2], [1, 0.25]], np.float32), 2, axis=1)
    blocks, four = spread[:, ::2], np.array([[1, -3, 5, 7], [-8, 0, 2, 4]], np.int8)
    first = {"axis": 0}
    per_axis = (codes.astype(np.float32) - offset) * column
    return [
        *cases("QuantizeLinear", (10, 13, 19, 21), [x, scale, zero],
               _linear(x, scale, 10, np.uint8)),
        *cases("QuantizeLinear", (10, 13, 19, 21), [x, scale, np.int8(-3)],
               _linear(x, scale, -3, np.int8)),
        *cases("QuantizeLinear", (10, 13, 19, 21), [x, scale], _linear(x, scale, 0, np.uint8)),
        # Half to even, before the zero point is added.
        *cases("QuantizeLinear", (10, 13), [np.array([0.25, 0.75, 1.25, -0.25], np.float32), scale,
                                            np.uint8(1)], np.array([1, 3, 3, 1], np.uint8)),
        *cases("QuantizeLinear", (13, 19, 21), [x, scales, zeros],
               _linear(x, column, offset.astype(int), np.uint8), first),
        *cases("QuantizeLinear", (13, 19, 21), [x.T.copy(), scales, zeros],
               _linear(x, column, offset.astype(int), np.uint8).T),
        *cases("QuantizeLinear", 21, [x, scale], _linear(x, scale, 0, np.int16),
               {"output_dtype": TensorProto.INT16}),
        *cases("QuantizeLinear", 21, [x * 900, scale, np.uint16(9)],
               _linear(x * 900, scale, 9, np.uint16)),
        *cases("QuantizeLinear", 21, [four * spread, blocks, np.zeros((2, 2), np.int8)], four,
               {"axis": 1, "block_size": 2}),
        *cases("QuantizeLinear", 10, [wide, scale, zero], _linear(wide, scale, 10, np.uint8)),
        *cases("DequantizeLinear", (10, 13, 19, 21), [codes, scale, zero],
               (codes.astype(np.float32) - 10) * scale),
        *cases("DequantizeLinear", (10, 13, 19, 21), [signed, scale],
               signed.astype(np.float32) * scale),
        *cases("DequantizeLinear", (10, 13, 19, 21), [wide, scale], wide.astype(np.float32) / 2),
        *cases("DequantizeLinear", (13, 19, 21), [codes, scales, zeros], per_axis, first),
        *cases("DequantizeLinear", (13, 19, 21), [codes.T.copy(), scales, zeros], per_axis.T),
        *cases("DequantizeLinear", 19, [codes, np.float16(0.5)], codes.astype(np.float16) / 2),
        *cases("DequantizeLinear", 21, [sixteen, scale], sixteen.astype(np.float32) / 2),
        *cases("DequantizeLinear", 21, [four, blocks], four * spread, {"axis": 1, "block_size": 2}),
        *_quantised_products(),
    ]  # fmt: skip


def _quantised_products() -> list[Versioned]:
    a, b = np.arange(12, dtype=np.uint8).reshape(3, 4), np.arange(8, dtype=np.uint8).reshape(4, 2)
    scales = [np.float32(0.5), np.float32(0.25), np.float32(0.125)]
    exact = (a.astype(int) - 2) @ (b.astype(int) - 3)
    result = np.clip(np.round(exact * 0.5 * 0.25 / 0.125) + 9, 0, 255).astype(np.uint8)
    x = floats(3, 4)
    lo, hi = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = np.float32((hi - lo) / 255)
    middle = np.uint8(np.clip(np.round(-lo / step), 0, 255))
    image = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    kernel = np.array([1, 0, 2, 3], np.uint8).reshape(1, 1, 2, 2)
    shifted = image.astype(np.int32)[0, 0] - 5
    summed = sum(
        shifted[i : i + 3, j : j + 3] * (int(kernel[0, 0, i, j]) - 1)
        for i in range(2)
        for j in range(2)
    )
    summed = np.asarray(summed, np.int32)[None, None]
    scaled = np.clip(np.round(summed + 9), 0, 255).astype(np.uint8)
    return [
        *cases("QLinearMatMul", (10, 21), [a, scales[0], np.uint8(2), b, scales[1], np.uint8(3),
                                           scales[2], np.uint8(9)], result),
        *cases("DynamicQuantizeLinear", 11, [x], [_linear(x, step, int(middle), np.uint8), step,
                                                  middle]),
        *cases("ConvInteger", 10, [image, kernel, np.uint8(5), np.uint8(1)], summed),
        *cases("QLinearConv", 10, [image, scales[0], np.uint8(5), kernel, scales[1], np.uint8(1),
                                   scales[2], np.uint8(9)], scaled),
    ]  # fmt: skip


def _losses() -> list[Versioned]:
    scores, target = floats(3, 4), ints(1, 3, 0)
    weight = np.array([0.5, 1, 2, 0.25], np.float32)
    logged = np.log(_softmax(scores, (1,)))
    picked = -logged[np.arange(3), target]
    share = weight[target]
    kept = target != 3
    plane, places = floats(2, 4, 3, seed=2), ints([1, 0, 3], [2, 2, 1])
    each = -np.take_along_axis(plane, places[:, None], 1)[:, 0]
    mean = np.asarray((picked * share).sum() / share.sum(), np.float32)
    return [
        *cases("NegativeLogLikelihoodLoss", (12, 13), [logged, target], picked.mean()),
        *cases("NegativeLogLikelihoodLoss", (12, 13), [logged, target, weight], mean),
        *cases("NegativeLogLikelihoodLoss", (12, 13), [logged, target], picked[kept].mean(),
               {"ignore_index": 3}),
        *cases("NegativeLogLikelihoodLoss", (12, 13), [plane, places], each, {"reduction": "none"}),
        *cases("NegativeLogLikelihoodLoss", (12, 13), [plane, places], each.sum(),
               {"reduction": "sum"}),
        *cases("SoftmaxCrossEntropyLoss", (12, 13), [scores, target], picked.mean()),
        *cases("SoftmaxCrossEntropyLoss", (12, 13), [scores, target, weight], [mean, logged]),
        *cases("SoftmaxCrossEntropyLoss", (12, 13), [scores, target],
               np.where(kept, picked, 0).astype(np.float32),
               {"reduction": "none", "ignore_index": 3}),
    ]  # fmt: skip


CASES = [
    *_reductions(),
    *_extremes(),
    *_softmaxes(),
    *_norms(),
    *_products(),
    *_quantised(),
    *_losses(),
]
