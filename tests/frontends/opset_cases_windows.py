"""Cases over opsets: convolutions, pools, resizing, sampling, Fourier transforms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from tests.frontends.opset_cases import Versioned, cases
from tests.frontends.support import Array, floats, ints

IMAGE = floats(2, 3, 7, 6)
SMALL = floats(1, 2, 4, 5)
K3 = {"kernel_shape": [3, 3]}
Pairs = Sequence[tuple[int, int]]


def _padded(x: Array, pads: Pairs, fill: float = 0) -> Array:
    return np.pad(x, ((0, 0), (0, 0), *pads), constant_values=fill)


def _windows(x: Array, kernel: Sequence[int], strides: Sequence[int],
             dilations: Sequence[int]) -> Array:  # fmt: skip
    """All windows of a padded image: [n, c, *windows, elements]."""
    counts = [
        (size - (k - 1) * d - 1) // s + 1
        for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    parts = []
    for tap in itertools.product(*map(range, kernel)):
        index = tuple(
            slice(t * d, t * d + (count - 1) * s + 1, s)
            for t, d, s, count in zip(tap, dilations, strides, counts, strict=True)
        )
        parts.append(x[(slice(None), slice(None), *index)])
    return np.stack(parts, -1)


def _conv(x: Array, w: Array, strides: Sequence[int] = (1, 1), pads: Pairs = ((0, 0), (0, 0)),
          dilations: Sequence[int] = (1, 1), groups: int = 1) -> Array:  # fmt: skip
    columns = _windows(_padded(x.astype(np.float64), pads), w.shape[2:], strides, dilations)
    own, results = x.shape[1] // groups, w.shape[0] // groups
    found = []
    for g in range(groups):
        weights = w[g * results : (g + 1) * results].reshape(results, own, -1).astype(np.float64)
        part = columns[:, g * own : (g + 1) * own]
        found.append(np.einsum("nc...t,oct->no...", part, weights))
    return np.concatenate(found, 1).astype(x.dtype)


def _conv_transpose(x: Array, w: Array, strides: Sequence[int],
                    dilations: Sequence[int] = (1, 1), extra: Sequence[int] = (0, 0),
                    groups: int = 1) -> Array:  # fmt: skip
    """Without any padding: each element adds its weights times itself."""
    n, c, h, width = x.shape
    results = w.shape[1]
    sizes = [
        (size - 1) * s + (k - 1) * d + 1 + e
        for size, s, k, d, e in zip(
            (h, width), strides, w.shape[2:], dilations, extra, strict=True
        )
    ]  # fmt: skip
    y = np.zeros((n, results * groups, *sizes))
    for channel, i, j in np.ndindex(c, h, width):
        group = channel // (c // groups)
        for a, b in np.ndindex(*w.shape[2:]):
            at = (i * strides[0] + a * dilations[0], j * strides[1] + b * dilations[1])
            part = x[:, channel, i, j][:, None] * w[channel, :, a, b]
            y[:, group * results : (group + 1) * results, at[0], at[1]] += part
    return y.astype(x.dtype)


def _convolutions() -> list[Versioned]:
    w, bias = floats(4, 3, 3, 2, seed=1), floats(4, seed=2)
    deep, single = floats(1, 6, 8, 8), floats(6, 1, 3, 3, seed=2)
    line, kernel = floats(2, 3, 9), floats(5, 3, 3, seed=3)
    both = (7, 11)
    biased = _conv(IMAGE, w, (2, 1), ((1, 2), (0, 1))) + bias[:, None, None]
    return [
        *cases("Conv", both, [IMAGE, w, bias], biased, {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        *cases("Conv", both, [deep, single], _conv(deep, single, (1, 1), ((0, 0),) * 2, (2, 2), 6),
               {"group": 6, "dilations": [2, 2]}),
        # 7 rows by a stride of 2 are 4 of a kernel of 3: 2 of padding; 6 columns of 2: 0.
        *cases("Conv", both, [IMAGE, w], _conv(IMAGE, w, (2, 2), ((1, 1), (0, 0))),
               {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        *cases("Conv", both, [IMAGE, w], _conv(IMAGE, w, (1, 1), ((1, 1), (0, 1))),
               {"auto_pad": "SAME_UPPER"}),
        *cases("Conv", both, [IMAGE, w], _conv(IMAGE, w, (1, 1), ((1, 1), (1, 0))),
               {"auto_pad": "SAME_LOWER"}),
        *cases("Conv", both, [IMAGE, w], _conv(IMAGE, w), {"auto_pad": "VALID"}),
        *cases("Conv", both, [line, kernel], _conv(line, kernel, (2,), ((1, 1),), (1,)),
               {"strides": [2], "pads": [1, 1]}),
        *_transposed(),
    ]  # fmt: skip


def _transposed() -> list[Versioned]:
    w, bias = floats(2, 3, 3, 3, seed=4), floats(3, seed=5)
    full, wide = _conv_transpose(SMALL, w, (2, 2)), _conv_transpose(SMALL, w, (1, 1))
    grouped = floats(2, 2, 3, 3, seed=6)
    more = _conv_transpose(SMALL, w, (2, 3), (1, 1), (1, 2))
    both = (7, 11)
    twice = {"strides": [2, 2]}
    return [
        *cases("ConvTranspose", both, [SMALL, w, bias], full + bias[:, None, None], twice),
        *cases("ConvTranspose", both, [SMALL, w], full[:, :, 1:-2, :-1],
               {**twice, "pads": [1, 0, 2, 1]}),
        *cases("ConvTranspose", both, [SMALL, w], more,
               {"strides": [2, 3], "output_padding": [1, 2]}),
        *cases("ConvTranspose", both, [SMALL, w], _conv_transpose(SMALL, w, (1, 1), (2, 2)),
               {"dilations": [2, 2]}),
        *cases("ConvTranspose", both, [SMALL, grouped],
               _conv_transpose(SMALL, grouped, (1, 1), groups=2), {"group": 2}),
        # 9 by 11 to 8 by 10: the odd row goes before or behind.
        *cases("ConvTranspose", both, [SMALL, w], full[:, :, :-1, :-1],
               {**twice, "auto_pad": "SAME_UPPER"}),
        *cases("ConvTranspose", both, [SMALL, w], full[:, :, 1:, 1:],
               {**twice, "auto_pad": "SAME_LOWER"}),
        *cases("ConvTranspose", both, [SMALL, w], full, {**twice, "auto_pad": "VALID"}),
        *cases("ConvTranspose", both, [SMALL, w], wide[:, :, 1:-1, 1:-1],
               {"output_shape": [4, 5]}),
        # Which half the odd row is in was the other way round in the text before opset 11, though
        # neither in ONNX Runtime nor in onnx's reference.
        *cases("ConvTranspose", both, [SMALL, w], full[:, :, 1:, 1:],
               {**twice, "output_shape": [8, 10]}),
    ]  # fmt: skip


def _max(x: Array, kernel: Sequence[int], strides: Sequence[int] = (1, 1), pads: Pairs = (),
         dilations: Sequence[int] = (1, 1)) -> Array:  # fmt: skip
    lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    padded = _padded(x, pads or ((0, 0),) * (x.ndim - 2), lowest)
    return np.asarray(_windows(padded, kernel, strides, dilations).max(-1))


def _mean(x: Array, kernel: Sequence[int], strides: Sequence[int] = (1, 1), pads: Pairs = (),
          dilations: Sequence[int] = (1, 1), counted: Pairs = ()) -> Array:  # fmt: skip
    """counted: the part of the padding that counts."""
    pads = pads or ((0, 0), (0, 0))
    shares = _padded(np.ones_like(x), counted or ((0, 0), (0, 0)), 1)
    rest = [(p[0] - c[0], p[1] - c[1]) for p, c in zip(pads, counted or ((0, 0),) * 2, strict=True)]
    total = _windows(_padded(x, pads), kernel, strides, dilations).sum(-1)
    return np.asarray(total / _windows(_padded(shares, rest), kernel, strides, dilations).sum(-1))


def _norm(x: Array, kernel: Sequence[int], order: int, strides: Sequence[int] = (1, 1),
          pads: Pairs = (), dilations: Sequence[int] = (1, 1)) -> Array:  # fmt: skip
    padded = _padded(np.abs(x.astype(np.float64)) ** order, pads or ((0, 0), (0, 0)))
    total = _windows(padded, kernel, strides, dilations).sum(-1)
    return np.asarray(total ** (1 / order), x.dtype)


def _pools() -> list[Versioned]:
    versions, dilated, average = (7, 8, 10, 11, 12), (10, 11, 12), (7, 10, 11, 19)
    ones, twice = ((1, 1), (1, 1)), {**K3, "strides": [2, 2]}
    padded = {**twice, "pads": [1, 1, 1, 1]}
    places = _first_places(IMAGE)
    codes = np.arange(84, dtype=np.uint8).reshape(1, 2, 7, 6)[:, :, ::-1]
    values = floats(1, 1, 2, 2, lo=0.1)
    flat = ints(5, 7, 13, 8)
    unpooled = np.zeros(16, np.float32)
    unpooled[flat] = values.reshape(-1)
    line = floats(1, 2, 9)
    return [
        *cases("MaxPool", versions, [IMAGE], _max(IMAGE, (3, 3)), K3),
        *cases("MaxPool", versions, [IMAGE], _max(IMAGE, (3, 3), (2, 2), ones), padded),
        *cases("MaxPool", versions, [IMAGE], _max(IMAGE, (3, 3), (2, 2), ((1, 1), (0, 1))),
               {**twice, "auto_pad": "SAME_UPPER"}),
        *cases("MaxPool", versions, [IMAGE], _max(IMAGE, (3, 3), (2, 2), ((1, 1), (1, 0))),
               {**twice, "auto_pad": "SAME_LOWER"}),
        *cases("MaxPool", versions, [line], _max(line, (2,), (2,), (), (1,)),
               {"kernel_shape": [2], "strides": [2]}),
        *cases("MaxPool", versions[1:], [IMAGE], [_max(IMAGE, (2, 2)), places],
               {"kernel_shape": [2, 2]}),
        *cases("MaxPool", dilated, [IMAGE], _max(IMAGE, (3, 3), (2, 2), ((0, 0), (0, 1))),
               {**twice, "ceil_mode": 1}),
        *cases("MaxPool", dilated, [IMAGE], _max(IMAGE, (3, 3), dilations=(2, 2)),
               {**K3, "dilations": [2, 2]}),
        # Codes of quantised images since opset 12.
        *cases("MaxPool", 12, [codes], _max(codes, (3, 3)), K3),
        *cases("AveragePool", average, [IMAGE], _mean(IMAGE, (3, 3)), K3),
        *cases("AveragePool", average, [IMAGE], _mean(IMAGE, (3, 3), (2, 2), ones), padded),
        *cases("AveragePool", average, [IMAGE], _mean(IMAGE, (3, 3), (2, 2), ones, counted=ones),
               {**padded, "count_include_pad": 1}),
        *cases("AveragePool", average, [IMAGE], _mean(IMAGE, (3, 3), (2, 2), ((1, 1), (0, 1))),
               {**twice, "auto_pad": "SAME_UPPER"}),
        *cases("AveragePool", average[1:], [IMAGE], _mean(IMAGE, (3, 3), (2, 2), ((0, 0), (0, 1))),
               {**twice, "ceil_mode": 1}),
        *cases("AveragePool", 19, [IMAGE], _mean(IMAGE, (3, 3), dilations=(2, 2)),
               {**K3, "dilations": [2, 2]}),
        *cases("GlobalAveragePool", 7, [IMAGE], IMAGE.mean((2, 3), keepdims=True)),
        *cases("GlobalMaxPool", 7, [IMAGE], IMAGE.max((2, 3), keepdims=True)),
        *cases("GlobalLpPool", 7, [IMAGE], np.sqrt((IMAGE**2).sum((2, 3), keepdims=True))),
        *cases("LpPool", (7, 11, 18), [IMAGE], _norm(IMAGE, (3, 3), 2), K3),
        *cases("LpPool", (7, 11, 18), [IMAGE], _norm(IMAGE, (3, 3), 3, (2, 2), ones),
               {**padded, "p": 3}),
        *cases("LpPool", 18, [IMAGE], _norm(IMAGE, (3, 3), 1, dilations=(2, 2)),
               {**K3, "dilations": [2, 2], "p": 1}),
        *cases("LpPool", 18, [IMAGE], _norm(IMAGE, (3, 3), 2, (2, 2), ((0, 0), (0, 1))),
               {**twice, "ceil_mode": 1}),
        *cases("MaxUnpool", (9, 11), [values, flat.reshape(1, 1, 2, 2)],
               unpooled.reshape(1, 1, 4, 4), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ]  # fmt: skip


def _first_places(x: Array) -> Array:
    """Where the maxima of windows of 2 by 2 are, counted through the whole tensor."""
    numbers = np.arange(x.size).reshape(x.shape)
    windows = [_windows(v, (2, 2), (1, 1), (1, 1)) for v in (x, numbers)]
    best = windows[0].argmax(-1)[..., None]
    return np.asarray(np.take_along_axis(windows[1], best, -1)[..., 0])


# -- resizing -------------------------------------------------------------------------------------

Place = Callable[[Array, float, int, int], Array]
PLACES: dict[str, Place] = {
    "half_pixel": lambda x, scale, new, old: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, scale, new, old: (
        (x + 0.5) / scale - 0.5 if new > 1 else np.zeros_like(x)
    ),
    "align_corners": lambda x, scale, new, old: x * (old - 1) / (new - 1),
    "asymmetric": lambda x, scale, new, old: x / scale,
    "tf_half_pixel_for_nn": lambda x, scale, new, old: (x + 0.5) / scale,
}
NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _cubic(t: Array, a: float) -> Array:
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def _line(x: Array, axis: int, new: int, scale: float, mode: str, place: str, nearest: str,
          a: float = -0.75) -> Array:  # fmt: skip
    """Resize one axis. The kernels are separable."""
    old = x.shape[axis]
    at = PLACES[place](np.arange(new, dtype=np.float64), scale, new, old)
    if mode == "nearest":
        return np.take(x, np.clip(NEAREST[nearest](at).astype(int), 0, old - 1), axis)
    low = np.floor(at)
    reach = range(2) if mode == "linear" else range(-1, 3)
    found = np.zeros(1)
    for k in reach:
        distance = at - (low + k)
        weight = 1 - np.abs(distance) if mode == "linear" else _cubic(distance, a)
        shape = [new if i == axis else 1 for i in range(x.ndim)]
        part = np.take(x, np.clip((low + k).astype(int), 0, old - 1), axis)
        found = found + part * weight.reshape(shape)
    return found


def _resized(x: Array, sizes: Sequence[int], scales: Sequence[float], mode: str = "nearest",
             place: str = "half_pixel", nearest: str = "round_prefer_floor") -> Array:  # fmt: skip
    wide = x.astype(np.float64)
    for axis, (new, scale) in enumerate(zip(sizes, scales, strict=True)):
        if new != x.shape[axis] or scale != 1:
            wide = _line(wide, axis, new, scale, mode, place, nearest)
    return wide.astype(x.dtype)


def _resizes() -> list[Versioned]:
    newer = (11, 13, 18, 19)
    up, down = (1.0, 1.0, 2.0, 3.0), (1.0, 1.0, 0.6, 0.5)
    large, little = (1, 2, 8, 15), (1, 2, 2, 2)
    scale_of = {up: np.array(up, np.float32), down: np.array(down, np.float32)}
    found: list[Versioned] = []
    for mode, name in (("nearest", "nearest"), ("linear", "linear"), ("bilinear", "linear")):
        wanted = _resized(SMALL, large, up, name, "asymmetric", "floor")
        if mode != "bilinear":
            found += cases("Upsample", 7, [SMALL], wanted, {"mode": mode, "scales": list(up)})
            found += cases(
                "Upsample", 9, [SMALL, scale_of[up]], wanted, {"mode": mode}, constant=[1]
            )
            found += cases("Resize", 10, [SMALL, scale_of[up]], wanted, {"mode": mode},
                           constant=[1])  # fmt: skip
    # Opset 10 does not say which pixel is nearest; the suite of its time takes the next one where
    # the image shrinks, and the one before where it grows.
    found += cases(
        "Resize",
        10,
        [SMALL, scale_of[down]],
        _resized(SMALL, little, down, "nearest", "asymmetric", "ceil"),
        constant=[1],
    )
    found += cases("Resize", 10, [SMALL, np.array([1, 1, 0.6, 3], np.float32)],
                   _line(_line(SMALL, 2, 2, 0.6, "nearest", "asymmetric", "ceil"), 3, 15, 3,
                         "nearest", "asymmetric", "floor"), constant=[1])  # fmt: skip
    found += cases("Resize", 10, [SMALL, scale_of[down]],
                   _resized(SMALL, little, down, "linear", "asymmetric"), {"mode": "linear"},
                   constant=[1])  # fmt: skip
    empty = np.zeros(0, np.float32)
    for place in ("half_pixel", "pytorch_half_pixel", "asymmetric"):
        for mode in ("nearest", "linear", "cubic"):
            attrs = {"mode": mode, "coordinate_transformation_mode": place}
            sizes, scales = (1, 2, 7, 3), (1, 1, 7 / 4, 3 / 5)
            found += cases(
                "Resize",
                newer,
                [SMALL, empty, empty, ints(*sizes)],
                _resized(SMALL, sizes, scales, mode, place),
                attrs,
                constant=[1, 2, 3],
            )
            found += cases(
                "Resize",
                newer,
                [SMALL, empty, scale_of[up]],
                _resized(SMALL, large, up, mode, place),
                attrs,
                constant=[1, 2],
            )
    for nearest in NEAREST:
        attrs = {"nearest_mode": nearest, "coordinate_transformation_mode": "asymmetric"}
        found += cases("Resize", newer, [SMALL, empty, empty, ints(1, 2, 7, 3)],
                       _resized(SMALL, (1, 2, 7, 3), (1, 1, 7 / 4, 3 / 5), "nearest", "asymmetric",
                                nearest), attrs, constant=[1, 2, 3])  # fmt: skip
    corners = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    sizes = (1, 2, 7, 3)
    return [
        *found,
        *cases("Resize", newer[1:], [SMALL, None, None, ints(*sizes)],
               _resized(SMALL, sizes, (1, 1, 7 / 4, 3 / 5), "linear", "align_corners"), corners,
               constant=[3]),
        *cases("Resize", 11, [SMALL, empty, scale_of[up]],
               _resized(SMALL, large, up, "nearest", "tf_half_pixel_for_nn", "floor"),
               {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"},
               constant=[1, 2]),
        *cases("Resize", (18, 19), [SMALL, None, None, ints(7, 3)],
               _resized(SMALL, sizes, (1, 1, 7 / 4, 3 / 5), "linear"),
               {"mode": "linear", "axes": [2, 3]}, constant=[3]),
        *cases("Resize", (18, 19), [SMALL, None, np.array([3, 2], np.float32)],
               _resized(SMALL, (1, 2, 8, 15), (1, 1, 2, 3), "linear"),
               {"mode": "linear", "axes": [-1, -2]}, constant=[2]),
    ]  # fmt: skip


# -- sampling -------------------------------------------------------------------------------------


def _bilinear(image: Array, y: float, x: float) -> Array:
    """Of one image [c, h, w]; what lies outside counts 0."""
    c, h, w = image.shape
    found = np.zeros(c)
    for i, j in itertools.product((np.floor(y), np.floor(y) + 1), (np.floor(x), np.floor(x) + 1)):
        if 0 <= i < h and 0 <= j < w:
            weight = (1 - abs(y - i)) * (1 - abs(x - j))
            found += image[:, int(i), int(j)] * weight
    return found


def _grid_sampled(image: Array, grid: Array, align: bool) -> Array:
    n, c, h, w = image.shape
    found = np.zeros((n, c, *grid.shape[1:3]), np.float32)
    for item, i, j in np.ndindex(n, *grid.shape[1:3]):
        x, y = grid[item, i, j].astype(np.float64)
        if align:
            at = ((y + 1) / 2 * (h - 1), (x + 1) / 2 * (w - 1))
        else:
            at = (((y + 1) * h - 1) / 2, ((x + 1) * w - 1) / 2)
        found[item, :, i, j] = _bilinear(image[item], *at)
    return found


def _roi_aligned(image: Array, rois: Array, batch: Array, size: int, samples: int, scale: float,
                 half: bool) -> Array:  # fmt: skip
    found = np.zeros((len(rois), image.shape[1], size, size), image.dtype)
    for r, (roi, item) in enumerate(zip(rois.astype(np.float64), batch, strict=True)):
        x1, y1, x2, y2 = roi * scale - (0.5 if half else 0)
        height, width = y2 - y1, x2 - x1
        if not half:
            height, width = max(height, 1), max(width, 1)
        for i, j, a, b in np.ndindex(size, size, samples, samples):
            y = y1 + height / size * (i + (a + 0.5) / samples)
            x = x1 + width / size * (j + (b + 0.5) / samples)
            found[r, :, i, j] += _bilinear(image[item], y, x) / samples**2
    return found


def _samples() -> list[Versioned]:
    grid = floats(2, 4, 3, 2, seed=1, lo=-1.2, hi=1.2)
    rois, batch = np.array([[1, 1, 5, 4], [0.5, 1, 4, 5]], np.float32), ints(0, 1)
    bins = {"output_height": 2, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.75}

    def wanted(half: bool) -> Array:
        return _roi_aligned(IMAGE, rois, batch, 2, 2, 0.75, half)

    w, columns = floats(4, 3, 2, 2, seed=3), floats(1, 4, 9)
    still = np.zeros((2, 8, 6, 5), np.float32)
    moved = still + np.tile(np.float32([1, 0]), 4).reshape(1, 8, 1, 1)
    down = np.pad(IMAGE, ((0, 0), (0, 0), (0, 1), (0, 0)))[:, :, 1:]
    overlap = np.zeros((4, 4), np.float32)
    for k, (i, j) in enumerate(np.ndindex(3, 3)):
        overlap[i : i + 2, j : j + 2] += columns[0, :, k].reshape(2, 2)
    theta = floats(1, 2, 3, seed=4)
    points = np.stack(np.meshgrid(np.linspace(-1, 1, 4), np.linspace(-1, 1, 3)), -1)
    affine = points @ theta[0, :, :2].T.astype(np.float64) + theta[0, :, 2]
    named = {16: "bilinear", 20: "linear"}
    return [
        *(
            case
            for opset, mode in named.items()
            for align in (0, 1)
            for case in cases("GridSample", opset, [IMAGE, grid],
                              _grid_sampled(IMAGE, grid, bool(align)),
                              {"mode": mode, "align_corners": align})
        ),
        *cases("GridSample", (16, 20), [IMAGE, grid], _grid_sampled(IMAGE, grid, False)),
        # Before opset 16 regions start at pixels' corners and have at least one pixel.
        *cases("MaxRoiPool", 7, [IMAGE, np.array([[1, 0, 0, 99, 99]], np.float32)],
               IMAGE[1:].max((2, 3), keepdims=True), {"pooled_shape": [1, 1]}),
        *cases("RoiAlign", 10, [IMAGE, rois, batch], wanted(False), bins),
        *cases("RoiAlign", 16, [IMAGE, rois, batch], wanted(True), bins),
        *cases("RoiAlign", 16, [IMAGE, rois, batch], wanted(False),
               {**bins, "coordinate_transformation_mode": "output_half_pixel"}),
        *cases("DeformConv", 19, [IMAGE, w, still], _conv(IMAGE, w)),
        *cases("DeformConv", 19, [IMAGE, w, moved], _conv(down, w)),
        *cases("Col2Im", 18, [columns, ints(4, 4), ints(2, 2)], overlap[None, None],
               constant=[1, 2]),
        *cases("AffineGrid", 20, [theta, ints(1, 1, 3, 4)], affine[None].astype(np.float32),
               {"align_corners": 1}, constant=[1]),
    ]  # fmt: skip


def _pairs(x: Array) -> Array:
    return np.stack([x.real, x.imag], -1).astype(np.float32)


def _signals() -> list[Versioned]:
    real, both = floats(2, 6, 3, 1), floats(2, 6, 3, 2)
    numbers = both[..., 0] + 1j * both[..., 1].astype(np.float64)
    signal = floats(1, 16, 1)
    frames = np.stack([signal[:, s : s + 8, 0] for s in (0, 4, 8)], 1)
    angle = np.arange(8) / 8
    windows = {
        "HannWindow": 0.5 - 0.5 * np.cos(2 * np.pi * angle),
        "HammingWindow": 25 / 46 - 21 / 46 * np.cos(2 * np.pi * angle),
        "BlackmanWindow": 0.42 - 0.5 * np.cos(2 * np.pi * angle) + 0.08 * np.cos(4 * np.pi * angle),
    }
    return [
        *(
            case
            for op, values in windows.items()
            for case in cases(op, 17, [np.int64(8)], values.astype(np.float32), constant=[0])
        ),
        # The axis is 1 where it is left out, and became an operand with another default.
        *cases("DFT", 17, [real], _pairs(np.fft.fft(real[..., 0], axis=1))),
        *cases("DFT", 17, [both], _pairs(np.fft.fft(numbers, axis=2)), {"axis": 2}),
        *cases("DFT", 17, [both, np.int64(4)], _pairs(np.fft.fft(numbers, 4, axis=1)),
               constant=[1]),
        *cases("DFT", 17, [real], _pairs(np.fft.rfft(real[..., 0], axis=1)), {"onesided": 1}),
        *cases("DFT", 17, [both], _pairs(np.fft.ifft(numbers, axis=1)), {"inverse": 1}),
        *cases("DFT", 20, [both], _pairs(np.fft.fft(numbers, axis=2))),
        *cases("DFT", 20, [both, None, np.int64(1)], _pairs(np.fft.ifft(numbers, axis=1)),
               {"inverse": 1}, constant=[2]),
        *cases("STFT", 17, [signal, np.int64(4), None, np.int64(8)], _pairs(np.fft.rfft(frames)),
               constant=[1, 3]),
    ]  # fmt: skip


CASES = [*_convolutions(), *_pools(), *_resizes(), *_samples(), *_signals()]
