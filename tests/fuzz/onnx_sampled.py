"""Operators of random ONNX graphs: signals, regions, patches and the like. No tests.

As in `onnx_nodes`, a row of a table is an operator and how its node is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.fuzz.onnx_graphs import Graph, Maker, Picks, Value, code, need
from tests.fuzz.onnx_layers import image, is_image
from tests.fuzz.onnx_nodes import some_axis
from tests.fuzz.onnx_values import is_float

# -- signals ------------------------------------------------------------------------------------


def dft(g: Graph, p: Picks) -> None:
    pairs = p.of((1, 2))
    x = g.x(p, "DFT", fits=lambda v: v.rank >= 2 and v.shape[-1] == pairs and v.size > 0,
            shape=lambda: [p.of((1, 2, "N")), p.of((4, 3, 8, 1, 5, 16, "M")), pairs])  # fmt: skip
    axis = some_axis(p, x.rank - 1)
    if axis < 0:
        axis -= 1
    dim = x.shape[axis]
    length = p.of((None, None, dim, dim + 2, max(dim - 1, 1)))
    count = None if length is None else g.constant(length, p.of((np.int64, np.int32)))
    inverse = p.of((None, 0, 1))
    attrs: dict[str, Any] = {"inverse": inverse}
    if not inverse and pairs == 1:
        attrs["onesided"] = p.of((None, 1))
    if g.opset < 20:
        # The default axis differs, and only positive ones are allowed for.
        g.emit("DFT", [x, count], attrs | {"axis": axis % x.rank})
    else:
        g.emit("DFT", [x, count, g.constant(axis, np.int64)], attrs)


def stft(g: Graph, p: Picks) -> None:
    x = g.x(p, "STFT", fits=lambda v: v.rank == 3 and v.shape[-1] == 1 and v.size > 0,
            shape=lambda: [p.of((1, 2, "N")), p.of((16, 9, 33)), 1])  # fmt: skip
    length = p.of([n for n in (4, 8, 5, 3) if n <= x.shape[1]])
    step = p.of((2, 1, 3))
    window = g.like(p, x, (length,)) if p.next(2) else None
    frame = g.constant(length, np.int64) if window is None or p.next(2) else None
    attrs = {"onesided": p.of((None, 0, 1))}
    bins = length if attrs["onesided"] == 0 else length // 2 + 1
    frames = (x.shape[1] - length) // step + 1
    known = [(x.dtype, (x.shape[0], frames, bins, 2))]
    g.emit("STFT", [x, g.constant(step, np.int64), window, frame], attrs, known=known)


def window_of(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        size = p.of((5, 8, 1, 2, 16))
        to = p.of([None, *g.dtypes_of_result(op)])
        known = [(np.dtype(np.float32) if to is None else to, (size,))]
        attrs = {"periodic": p.of((None, 0)), "output_datatype": None if to is None else code(to)}
        g.emit(op, [g.constant(size, p.of((np.int64, np.int32)))], attrs, known=known)

    return make


def mel_weights(g: Graph, p: Picks) -> None:
    bins, length = p.of((4, 1, 8)), p.of((16, 8, 17))
    numbers = [g.constant(n, np.int64) for n in (bins, length, p.of((8000, 16000)))]
    edges = [g.constant(hertz, np.float32) for hertz in (p.of((0.0, 20.0)), p.of((4000.0, 3000.0)))]
    known = [(np.dtype(np.float32), (length // 2 + 1, bins))]
    g.emit("MelWeightMatrix", [*numbers, *edges], known=known)


# -- regions ------------------------------------------------------------------------------------


def regions(p: Picks, x: Value, count: int, batch: bool) -> np.ndarray[Any, Any]:
    """Boxes in an image, or over its edges; batch: each begins with an image's number."""
    dice = np.random.default_rng(p.next(1000))
    sides = np.array([x.shape[3], x.shape[2]], float)
    corners = dice.uniform(-0.2, 1.2, (count, 2, 2)) * sides
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    if batch:
        images = dice.integers(0, x.shape[0], (count, 1))
        boxes = np.concatenate([images, np.round(boxes)], 1)
    return boxes.astype(x.dtype)


def roi_align(g: Graph, p: Picks) -> None:
    x = g.x(p, "RoiAlign", fits=is_image(2, 2), shape=image(p, 2, 2))
    need(is_float(x.dtype) and g.opset >= 10)
    count = p.of((2, 1, 3, 0))
    boxes = regions(p, x, count, batch=False)
    dice = np.random.default_rng(p.next(1000))
    images = dice.integers(0, x.shape[0], count)
    attrs: dict[str, Any] = {
        "output_height": p.of((None, 2, 3)), "output_width": p.of((None, 3, 1)),
        "sampling_ratio": p.of((2, 1, 3)), "spatial_scale": p.of((None, 0.5, 1.0)),
        "mode": p.of((None, "avg", "max")),
    }  # fmt: skip
    if g.opset >= 16:
        modes = (None, "half_pixel", "output_half_pixel")
        attrs["coordinate_transformation_mode"] = p.of(modes)
    g.emit("RoiAlign", [x, g.given(p, boxes), g.given(p, images)], attrs)


def max_roi_pool(g: Graph, p: Picks) -> None:
    x = g.x(p, "MaxRoiPool", fits=is_image(2, 2), shape=image(p, 2, 2))
    boxes = regions(p, x, p.of((2, 1, 3)), batch=True)
    attrs = {"pooled_shape": p.of(([2, 2], [1, 3])), "spatial_scale": p.of((None, 0.5, 1.0))}
    g.emit("MaxRoiPool", [x, g.given(p, boxes)], attrs)


def deform_conv(g: Graph, p: Picks) -> None:
    need(g.opset >= 19)
    x = g.x(p, "DeformConv", fits=is_image(2, 2), shape=image(p, 2, 2))
    channels = x.shape[1]
    groups = p.of([n for n in (1, 1, 2, channels) if channels % n == 0])
    kernel = [p.of((2, 1, 3)) for _ in "ab"]
    strides, dilations = [p.of((1, 2)) for _ in "ab"], [p.of((1, 1, 2)) for _ in "ab"]
    pads = [p.next(min(k, 2)) for _ in "ab" for k in kernel]
    extents = [
        (x.shape[2 + i] + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilations[i] - 1) // strides[i]
        + 1
        for i in range(2)
    ]
    need(min(extents) > 0)
    own = p.of([n for n in (1, 1, 2, channels) if channels % n == 0])
    taps = kernel[0] * kernel[1]
    w = g.like(p, x, (groups * p.of((1, 2)), channels // groups, *kernel))
    offset = g.leaf(p, x.dtype, (x.shape[0], own * taps * 2, *extents))
    bias = g.like(p, x, (w.shape[0],)) if p.next(2) else None
    mask = g.leaf(p, x.dtype, (x.shape[0], own * taps, *extents)) if p.next(2) else None
    attrs = {
        "strides": strides, "dilations": dilations, "pads": pads, "kernel_shape": kernel,
        "group": groups, "offset_group": own,
    }  # fmt: skip
    g.emit("DeformConv", [x, w, offset, bias, mask], attrs)


def col2im(g: Graph, p: Picks) -> None:
    need(g.opset >= 18)
    rank = p.of((2, 1, 3))
    block = [p.of((2, 1, 3)) for _ in range(rank)]
    picture = [p.of((5, 4, 3)) for _ in range(rank)]
    strides = [p.of((1, 2)) for _ in range(rank)]
    dilations = [p.of((1, 1, 2)) for _ in range(rank)]
    pads = [p.next(2) for _ in range(2 * rank)]
    counts = [
        (picture[i] + pads[i] + pads[i + rank] - (block[i] - 1) * dilations[i] - 1) // strides[i]
        + 1
        for i in range(rank)
    ]
    need(min(counts) > 0)
    channels = p.of((2, 1, 3))
    dtypes = [d for d in g.dtypes("Col2Im") if d != np.bool_ and d.kind != "c"]
    shape = [p.of((1, 2, "N")), channels * int(np.prod(block)), int(np.prod(counts))]
    x = g.leaf(p, g.some_dtype(p, dtypes), shape)
    attrs = {"strides": strides, "dilations": dilations, "pads": pads}
    known = [(x.dtype, (x.shape[0], channels, *picture))]
    g.emit("Col2Im", [x, g.ints(*picture), g.ints(*block)], attrs, known=known)


def max_unpool(g: Graph, p: Picks) -> None:
    need(g.opset >= 9)
    x = g.x(p, "MaxPool", fits=is_image(1, 2), shape=image(p))
    kernel = [p.of((2, 1, 3)) for _ in x.shape[2:]]
    strides = p.of((None, kernel))
    need(all(side >= k for side, k in zip(x.shape[2:], kernel, strict=True)))
    attrs = {"kernel_shape": kernel, "strides": strides or [1] * len(kernel)}
    y, places = g.emit("MaxPool", [x], attrs, outputs=2)
    need(y.dtype in g.dtypes("MaxUnpool"))
    # Where two windows have their largest element in common, they write the same.
    known = [(x.dtype, x.shape)]
    g.emit("MaxUnpool", [y, places, g.ints(*x.shape)], attrs, known=known)


def non_max_suppression(g: Graph, p: Picks) -> None:
    """Some boxes, and tensors by their indices."""
    need(g.opset >= 10)
    batch, classes, count = p.of((1, 2)), p.of((1, 3)), p.of((6, 1, 12, "N"))
    x = g.leaf(p, np.dtype(np.float32), [batch, count, 4])
    scores = g.leaf(p, np.dtype(np.float32), [batch, classes, count])
    limits = [
        g.given(p, np.array([p.of((3, 1, 0, 20))])),
        g.constant([p.of((0.5, 0.0, 0.9))], np.float32),
        g.constant([p.of((-1.0, 0.4))], np.float32) if p.next(2) else None,
    ]
    attrs = {"center_point_box": p.of((None, 1))}
    (found,) = g.open("NonMaxSuppression", [x, scores, *limits], attrs, [np.dtype(np.int64)])
    if p.next(2):
        g.open("GatherND", [scores, found], {}, [scores.dtype])
    if p.next(2):
        total = g.open("ReduceSum", [found, g.ints(0)], {"keepdims": 0}, [found.dtype])
        g.open("Cast", total, {"to": TensorProto.FLOAT}, [np.dtype(np.float32)])


# -- others -------------------------------------------------------------------------------------


def affine_grid(g: Graph, p: Picks) -> None:
    need(g.opset >= 20)
    rank = p.of((2, 3))
    theta = g.x(p, "AffineGrid", fits=lambda v: v.shape[1:] == (rank, rank + 1) and v.size > 0,
                shape=lambda: [p.of((1, 2, "N")), rank, rank + 1])  # fmt: skip
    sides = [p.of((3, 1, 4)) for _ in range(rank)]
    size = g.ints(theta.shape[0], p.of((1, 3)), *sides)
    known = [(theta.dtype, (theta.shape[0], *sides, rank))]
    g.emit("AffineGrid", [theta, size], {"align_corners": p.of((None, 1))}, known=known)


def center_crop_pad(g: Graph, p: Picks) -> None:
    need(g.opset >= 18)
    x = g.x(p, "CenterCropPad", fits=lambda v: v.rank > 0)
    axes = sorted({p.next(x.rank), p.next(x.rank)}) if p.next(2) else list(range(x.rank))
    sizes = [max(x.shape[axis] + p.of((1, -1, 2, 0, -3)), 0) for axis in axes]
    shape = list(x.shape)
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    named: Sequence[int] | None = axes
    if len(axes) == x.rank and p.next(2):
        named = None
    elif p.one_in(3):
        named = [axis - x.rank for axis in axes]
    known = [(x.dtype, tuple(shape))]
    g.emit("CenterCropPad", [x, g.ints(*sizes)], {"axes": named}, known=known)


def det(g: Graph, p: Picks) -> None:
    x = g.x(p, "Det", fits=lambda v: v.rank >= 2 and v.shape[-1] == v.shape[-2] <= 6,
            shape=lambda: [*Graph.some_shape(p, 0, 1), *[p.of((3, 2, 1, 4, 0))] * 2])  # fmt: skip
    g.one("Det", x)


SIGNALS: dict[str, Maker] = {
    "DFT": dft, "STFT": stft, "MelWeightMatrix": mel_weights,
    **{op: window_of(op) for op in ("BlackmanWindow", "HammingWindow", "HannWindow")},
}  # fmt: skip

SAMPLED: dict[str, Maker] = {
    "RoiAlign": roi_align, "MaxRoiPool": max_roi_pool, "DeformConv": deform_conv,
    "Col2Im": col2im, "MaxUnpool": max_unpool, "NonMaxSuppression": non_max_suppression,
    "AffineGrid": affine_grid, "CenterCropPad": center_crop_pad, "Det": det,
}  # fmt: skip
