"""Operators of random ONNX graphs: products, windows, norms, quantising, resizing. No tests.

As in `onnx_nodes`, a row of a table is an operator and how its node is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.fuzz.onnx_graphs import Graph, Maker, Picks, Value, fit, need
from tests.fuzz.onnx_nodes import some_axes, some_axis
from tests.fuzz.onnx_values import Array, is_float

MOST_PRODUCTS = 200_000
BYTES = (np.dtype(np.uint8), np.dtype(np.int8))

# -- products -----------------------------------------------------------------------------------


def matmul(g: Graph, p: Picks) -> None:
    x = g.x(p, "MatMul", fits=lambda v: v.rank >= 1)
    inner, columns = x.shape[-1], p.of((4, 1, 8, 3, 17, 33, 0))
    need(x.size * columns <= MOST_PRODUCTS)
    match p.next(4):
        case 0:
            y = g.like(p, x, (inner, columns))
        case 1:
            y = g.like(p, x, (inner,))
        case 2:
            batch = x.shape[:-2] if p.next(2) else x.shape[1:-2]
            y = g.like(p, x, (*batch, inner, columns))
        case _:
            rows = [v for v in g.values if v.dtype == x.dtype and v.rank > 1
                    and v.shape[-2] == inner and fit(v.shape[:-2], x.shape[:-2])]  # fmt: skip
            need(bool(rows))
            y = p.of(rows[::-1])
            need(x.size * y.shape[-1] <= MOST_PRODUCTS)
    g.one("MatMul", x, y)


def gemm(g: Graph, p: Picks) -> None:
    x = g.x(p, "Gemm", fits=lambda v: v.rank == 2, shape=lambda: Graph.some_shape(p, 2, 2))
    left, right = p.next(2), p.next(2)
    rows, inner = x.shape[::-1] if left else x.shape
    columns = p.of((4, 1, 8, 3, 17))
    y = g.like(p, x, (columns, inner) if right else (inner, columns))
    c = None
    if p.next(2) or g.opset < 11:
        c = g.like(p, x, p.of(((columns,), (rows, columns), (), (1, columns), (rows, 1), (1, 1))))
    scale = (None, 0.5, 2.0, 0.0)
    whole = x.dtype.kind in "iu"
    g.one("Gemm", x, y, c, transA=left or None, transB=right or None,
          alpha=None if whole else p.of(scale), beta=None if whole else p.of(scale))  # fmt: skip


EQUATIONS: Sequence[tuple[str, Sequence[Sequence[int]]]] = (
    ("ij,jk->ik", ((3, 4), (4, 5))),
    ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5))),
    ("i,i->", ((7,), (7,))),
    ("ij->ji", ((3, 5),)),
    ("ii->i", ((4, 4),)),
    ("ii", ((4, 4),)),
    ("ij->", ((3, 5),)),
    ("...ij,...jk->...ik", ((2, 1, 3, 4), (3, 4, 2))),
    ("bhqd,bhkd->bhqk", ((1, 2, 3, 4), (1, 2, 5, 4))),
    ("ij,j->i", ((3, 4), (4,))),
    ("i,j->ij", ((3,), (5,))),
    ("ijk,k,jl->il", ((2, 3, 4), (4,), (3, 5))),
)


def einsum(g: Graph, p: Picks) -> None:
    equation, shapes = p.of(EQUATIONS)
    first = g.leaf(p, g.some_dtype(p, g.dtypes("Einsum")), shapes[0])
    rest = [g.like(p, first, shape) for shape in shapes[1:]]
    g.one("Einsum", first, *rest, equation=equation)


def zero_point(g: Graph, p: Picks, dtype: np.dtype[Any], shape: Sequence[int] = ()) -> Value | None:
    if p.one_in(3):
        return None
    dice = np.random.default_rng(p.next(1000))
    signed = dtype.kind == "i"
    low, high = (-9, 10) if signed else (118, 138)
    return g.given(p, dice.integers(low, high, tuple(shape)).astype(dtype))


def matmul_integer(g: Graph, p: Picks) -> None:
    x = g.x(p, "MatMulInteger", fits=lambda v: v.rank >= 2)
    need(x.shape[-1] > 0)
    columns = p.of((4, 1, 8, 17))
    need(x.size * columns <= MOST_PRODUCTS)
    y = g.leaf(p, p.of(BYTES), (x.shape[-1], columns))
    per_column = (columns,) if p.one_in(3) else ()
    points = zero_point(g, p, x.dtype), zero_point(g, p, y.dtype, per_column)
    g.one("MatMulInteger", x, y, *points)


PRODUCTS: dict[str, Maker] = {
    "MatMul": matmul, "Gemm": gemm, "Einsum": einsum, "MatMulInteger": matmul_integer,
}  # fmt: skip


# -- windows ------------------------------------------------------------------------------------


def image(p: Picks, least: int = 1, most: int = 2) -> Callable[[], Sequence[int | str]]:
    def make() -> Sequence[int | str]:
        rank = p.of([r for r in (2, 1, 3) if least <= r <= most])
        sides = [p.of((5, 4, 7, 8, 3, 1, 2, "M", 9)) for _ in range(rank)]
        return [p.of((1, 2, "N", 3)), p.of((3, 4, 1, 2, 6, 8, 16)), *sides]

    return make


def is_image(least: int = 1, most: int = 2) -> Callable[[Value], bool]:
    return lambda v: least <= v.rank - 2 <= most and v.size > 0


def window(p: Picks, sides: Sequence[int], kernel: Sequence[int], **more: Any) -> dict[str, Any]:
    """Strides, pads and dilations under which the window fits."""
    rank = len(sides)
    found: dict[str, Any] = dict(more)
    dilations = [p.of((1, 1, 1, 2)) for _ in range(rank)]
    if p.next(2):
        found["strides"] = [p.of((1, 2, 3)) for _ in range(rank)]
    if max(dilations) > 1:
        found["dilations"] = dilations
    auto = p.of((None, None, None, "SAME_UPPER", "SAME_LOWER", "VALID"))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if auto is None or auto == "VALID":
        pads = [p.next(min(k, 3)) for _ in "ab" for k in kernel] if auto is None else [0] * 2 * rank
        need(all(side + pads[i] + pads[i + rank] >= extents[i] for i, side in enumerate(sides)))
        if any(pads):
            found["pads"] = pads
    if auto is not None:
        found["auto_pad"] = auto
    return found


def conv(g: Graph, p: Picks) -> None:
    x = g.x(p, "Conv", fits=is_image(), shape=image(p))
    channels, rank = x.shape[1], x.rank - 2
    groups = p.of([n for n in (1, 1, 1, channels, 2) if channels % n == 0])
    out = groups * p.of((1, 2, 4, 8, 3) if groups > 1 else (4, 1, 8, 3, 16))
    kernel = [p.of((3, 1, 2)) for _ in range(rank)]
    attrs = window(p, x.shape[2:], kernel, group=groups if groups > 1 else None)
    w = g.like(p, x, (out, channels // groups, *kernel))
    bias = g.like(p, x, (out,)) if p.next(2) else None
    g.one("Conv", x, w, bias, kernel_shape=p.of((None, kernel)), **attrs)


def conv_transpose(g: Graph, p: Picks) -> None:
    x = g.x(p, "ConvTranspose", fits=is_image(), shape=image(p))
    channels, rank = x.shape[1], x.rank - 2
    groups = p.of([n for n in (1, 1, 2, channels) if channels % n == 0])
    kernel = [p.of((3, 1, 2)) for _ in range(rank)]
    strides = [p.of((1, 2, 3)) for _ in range(rank)]
    w = g.like(p, x, (channels, p.of((2, 1, 4)), *kernel))
    attrs: dict[str, Any] = {"strides": strides, "group": groups if groups > 1 else None}
    if p.next(2):
        attrs["pads"] = [p.next(min(k, 2)) for _ in "ab" for k in kernel]
    if p.one_in(3):
        attrs["output_padding"] = [p.next(s) for s in strides]
    if p.one_in(4):
        attrs["dilations"] = [p.of((1, 2)) for _ in range(rank)]
    bias = g.like(p, x, (w.shape[1] * groups,)) if p.next(2) else None
    results = g.emit("ConvTranspose", [x, w, bias], attrs)
    need(all(v.size > 0 for v in results))


def conv_integer(g: Graph, p: Picks) -> None:
    x = g.x(p, "ConvInteger", fits=is_image(), shape=image(p))
    kernel = [p.of((3, 1, 2)) for _ in x.shape[2:]]
    attrs = window(p, x.shape[2:], kernel)
    w = g.leaf(p, p.of(BYTES), (p.of((4, 1)), x.shape[1], *kernel))
    g.one("ConvInteger", x, w, zero_point(g, p, x.dtype), zero_point(g, p, w.dtype), **attrs)


def _last_begins_inside(sides: Sequence[int], kernel: Sequence[int], attrs: dict[str, Any]) -> bool:
    rank = len(sides)
    ones, zeros = [1] * rank, [0] * 2 * rank
    strides, pads = attrs.get("strides", ones), attrs.get("pads", zeros)
    for i, (side, k, d) in enumerate(zip(sides, kernel, attrs.get("dilations", ones), strict=True)):
        left = side + pads[i] + pads[i + rank] - (k - 1) * d - 1
        if -(-left // strides[i]) * strides[i] >= side + pads[i]:
            return False
    return True


def pool(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op, fits=is_image(), shape=image(p))
        kernel = [p.of((2, 3, 1)) for _ in x.shape[2:]]
        attrs = window(p, x.shape[2:], kernel, kernel_shape=kernel)
        known = g.schema(op).attributes
        if "dilations" not in known:
            attrs.pop("dilations", None)
        if "ceil_mode" in known and "auto_pad" not in attrs and p.one_in(3):
            attrs["ceil_mode"] = 1
            # Where the last window would begin in the padding, opsets differ.
            need(_last_begins_inside(x.shape[2:], kernel, attrs))
        if "count_include_pad" in known and p.next(2):
            attrs["count_include_pad"] = 1
        if op == "LpPool":
            attrs["p"] = p.of((2, 1, 3))
        two = op == "MaxPool" and g.opset >= 8 and p.one_in(4)
        g.emit(op, [x], attrs, outputs=2 if two else 1)

    return make


def of_image(op: str, **choices: Sequence[Any]) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op, fits=is_image(1, 3), shape=image(p))
        g.one(op, x, **{name: p.of(values) for name, values in choices.items()})

    return make


WINDOWS: dict[str, Maker] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "ConvInteger": conv_integer,
    **{op: pool(op) for op in ("MaxPool", "AveragePool", "LpPool")},
    **{op: of_image(op) for op in ("GlobalAveragePool", "GlobalMaxPool")},
    "GlobalLpPool": of_image("GlobalLpPool", p=(None, 1, 3)),
    "LRN": of_image("LRN", size=(3, 1, 5), alpha=(None, 0.1), beta=(None, 0.5), bias=(None, 2.0)),
}  # fmt: skip


# -- norms --------------------------------------------------------------------------------------

EPSILON = (None, 1e-3, 0.1)


def along(op: str, **choices: Sequence[Any]) -> Maker:
    """An operator with an axis."""

    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op, fits=lambda v: v.rank > 0)
        axis = None if p.one_in(4) and x.rank > 1 else some_axis(p, x.rank)
        if g.opset < 11 and axis is not None:
            axis %= x.rank
        g.one(op, x, axis=axis, **{name: p.of(values) for name, values in choices.items()})

    return make


def layer_norm(g: Graph, p: Picks) -> None:
    x = g.x(p, "LayerNormalization", fits=lambda v: v.rank > 0 and v.size > 0)
    axis = some_axis(p, x.rank)
    shape = x.shape[axis:]
    scale = g.like(p, x, shape)
    bias = g.like(p, x, shape) if p.next(2) else None
    outputs = p.of((1, 1, 3))
    attrs = {"axis": axis, "epsilon": p.of(EPSILON)}
    g.emit("LayerNormalization", [x, scale, bias], attrs, outputs)


def rms_norm(g: Graph, p: Picks) -> None:
    x = g.x(p, "RMSNormalization", fits=lambda v: v.rank > 0)
    axis = some_axis(p, x.rank)
    g.one("RMSNormalization", x, g.like(p, x, x.shape[axis:]), axis=axis, epsilon=p.of(EPSILON))


def with_channels(op: str) -> Maker:
    """A norm with a scale and a bias for each channel."""

    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op, fits=is_image(), shape=image(p))
        scale, bias = (g.like(p, x, (x.shape[1],)) for _ in "ab")
        attrs: dict[str, Any] = {"epsilon": p.of(EPSILON)}
        if op == "GroupNormalization":
            need(g.opset >= 21)
            attrs["num_groups"] = p.of([n for n in (1, 2, 3, x.shape[1]) if x.shape[1] % n == 0])
        g.emit(op, [x, scale, bias], attrs, known=[(x.dtype, x.shape)])

    return make


def batch_norm(g: Graph, p: Picks) -> None:
    x = g.x(p, "BatchNormalization", fits=lambda v: 2 <= v.rank <= 5, shape=image(p))
    channels = (x.shape[1],)
    scale, bias, mean = (g.like(p, x, channels) for _ in "abc")
    dice = np.random.default_rng(p.next(1000))
    var = g.given(p, dice.uniform(0.1, 3, channels).astype(x.dtype))
    g.one("BatchNormalization", x, scale, bias, mean, var, epsilon=p.of(EPSILON))


def mean_variance(g: Graph, p: Picks) -> None:
    x = g.x(p, "MeanVarianceNormalization", fits=lambda v: v.rank == 4, shape=image(p, 2, 2))
    axes = some_axes(p, 4)
    attrs = {"axes": None if not axes else sorted(a % 4 for a in axes)}
    g.emit("MeanVarianceNormalization", [x], attrs, known=[(x.dtype, x.shape)])


NORMS: dict[str, Maker] = {
    **{op: along(op) for op in ("Softmax", "LogSoftmax", "Hardmax")},
    "LpNormalization": along("LpNormalization", p=(None, 1)),
    "LayerNormalization": layer_norm, "RMSNormalization": rms_norm,
    "InstanceNormalization": with_channels("InstanceNormalization"),
    "GroupNormalization": with_channels("GroupNormalization"),
    "BatchNormalization": batch_norm, "MeanVarianceNormalization": mean_variance,
}  # fmt: skip


# -- quantising ---------------------------------------------------------------------------------

SCALES = (0.1, 0.5, 1.0, 0.02, 3.0)


def quantize(g: Graph, p: Picks) -> None:
    x = g.x(p, "QuantizeLinear")
    need(x.dtype == np.float32 or g.opset >= 19)
    axis = some_axis(p, x.rank) if x.rank and g.opset >= 13 and p.next(2) else None
    shape = () if axis is None else (x.shape[axis],)
    scale = scales(g, p, shape, x.dtype if is_float(x.dtype) else np.dtype(np.float32))
    target = p.of(BYTES if g.opset < 21 else (*BYTES, np.dtype(np.int16), np.dtype(np.uint16)))
    point = zero_point(g, p, target, shape)
    g.one("QuantizeLinear", x, scale, point, axis=axis)


def scales(g: Graph, p: Picks, shape: Sequence[int], dtype: Any) -> Value:
    array = np.resize(np.roll(SCALES, p.next(5)), tuple(shape)) if shape else np.array(p.of(SCALES))
    return g.given(p, array.astype(dtype))


def dequantize(g: Graph, p: Picks) -> None:
    x = g.x(p, "DequantizeLinear")
    axis = some_axis(p, x.rank) if x.rank and g.opset >= 13 and p.next(2) else None
    shape = () if axis is None else (x.shape[axis],)
    point = None if x.dtype == np.int32 else zero_point(g, p, x.dtype, shape)
    g.one("DequantizeLinear", x, scales(g, p, shape, np.float32), point, axis=axis)


def qlinear_matmul(g: Graph, p: Picks) -> None:
    x = g.x(p, "QLinearMatMul", fits=lambda v: v.rank >= 2)
    columns = p.of((4, 1, 8, 17))
    need(x.size * columns <= MOST_PRODUCTS)
    y = g.leaf(p, p.of(BYTES), (x.shape[-1], columns))
    operands = []
    for v, dtype in ((x, x.dtype), (y, y.dtype), (None, p.of(BYTES))):
        operands += [v] if v is not None else []
        operands += [scales(g, p, (), np.float32), g.given(p, np.array(p.next(100), dtype))]
    g.one("QLinearMatMul", *operands)


def qlinear_conv(g: Graph, p: Picks) -> None:
    x = g.x(p, "QLinearConv", fits=is_image(), shape=image(p))
    kernel = [p.of((3, 1, 2)) for _ in x.shape[2:]]
    out = p.of((4, 1, 8))
    attrs = window(p, x.shape[2:], kernel)
    w = g.leaf(p, p.of(BYTES), (out, x.shape[1], *kernel))
    operands: list[Value] = []
    for v, dtype in ((x, x.dtype), (w, w.dtype), (None, p.of(BYTES))):
        operands += [v] if v is not None else []
        operands += [scales(g, p, (), np.float32), g.constant(p.next(100), dtype)]
    bias = g.leaf(p, np.dtype(np.int32), (out,)) if p.next(2) else None
    g.one("QLinearConv", *operands, bias, **attrs)


QUANTISED: dict[str, Maker] = {
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize,
    "QLinearMatMul": qlinear_matmul, "QLinearConv": qlinear_conv,
}  # fmt: skip


def dynamic_quantize(g: Graph, p: Picks) -> None:
    g.emit("DynamicQuantizeLinear", [g.x(p, "DynamicQuantizeLinear")], outputs=3)


# -- resizing -----------------------------------------------------------------------------------


def resize(g: Graph, p: Picks) -> None:
    x = g.x(p, "Resize", fits=is_image(), shape=image(p))
    factors = [p.of((2.0, 1.0, 0.5, 1.5, 3.0, 0.7)) for _ in x.shape[2:]]
    scale = g.constant([1.0, 1.0, *factors], np.float32)
    mode = p.of(("nearest", "linear", "cubic"))
    need(x.dtype != np.bool_ or mode == "nearest")
    if g.opset < 11:
        need(mode != "cubic")
        g.one("Resize", x, scale, mode=mode)
        return
    attrs: dict[str, Any] = {"mode": mode}
    attrs["coordinate_transformation_mode"] = p.of(
        (None, "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    )
    if mode == "nearest":
        attrs["nearest_mode"] = p.of((None, "floor", "ceil", "round_prefer_ceil"))
    if mode == "cubic":
        attrs["cubic_coeff_a"] = p.of((None, -0.5))
        attrs["exclude_outside"] = p.of((None, 1))
    if g.opset >= 18 and mode != "nearest":
        attrs["antialias"] = p.of((None, None, 1))
    roi = None if g.opset >= 13 else g.constant(np.zeros(0, np.float32))
    if p.next(2) and g.opset >= 13:
        sizes = [max(int(side * f), 1) for side, f in zip(x.shape[2:], factors, strict=True)]
        g.one("Resize", x, roi, None, g.ints(*x.shape[:2], *sizes), **attrs)
    else:
        need(all(side * f >= 1 for side, f in zip(x.shape[2:], factors, strict=True)))
        g.one("Resize", x, roi, scale, **attrs)


def upsample(g: Graph, p: Picks) -> None:
    x = g.x(p, "Upsample", fits=lambda v: v.rank == 4 and v.size > 0, shape=image(p, 2, 2))
    factors = [1.0, 1.0, p.of((2.0, 1.0, 3.0)), p.of((2.0, 1.0))]
    mode = p.of((None, "linear"))
    need(x.dtype != np.bool_ or mode is None)
    if g.opset < 9:
        g.one("Upsample", x, scales=factors, mode=mode)
    else:
        g.one("Upsample", x, g.constant(factors, np.float32), mode=mode)


def grid_sample(g: Graph, p: Picks) -> None:
    need(g.opset >= 16)
    x = g.x(p, "GridSample", fits=lambda v: v.rank == 4 and v.size > 0, shape=image(p, 2, 2))
    grid = g.like(p, x, (x.shape[0], p.of((3, 1, 4)), 2, 2))
    need(is_float(x.dtype))
    modes = ("bilinear", "nearest", "bicubic") if g.opset < 20 else ("linear", "nearest", "cubic")
    g.one("GridSample", x, grid, mode=p.of((None, *modes)), align_corners=p.of((None, 1)),
          padding_mode=p.of((None, "border", "reflection")))  # fmt: skip


RESIZED: dict[str, Maker] = {
    "Resize": resize, "Upsample": upsample, "GridSample": grid_sample,
    "DynamicQuantizeLinear": dynamic_quantize,
}  # fmt: skip


# -- recurrent ----------------------------------------------------------------------------------

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(
            p,
            op,
            fits=lambda v: v.rank == 3 and v.size > 0,
            shape=lambda: [p.of((3, 1, 5, "M")), p.of((2, 1, "N")), p.of((4, 1, 3))],
        )
        need(x.size <= 300)
        hidden, gates = p.of((3, 1, 8)), GATES[op]
        direction = p.of((None, "reverse", "bidirectional"))
        ways = 2 if direction == "bidirectional" else 1
        w = g.like(p, x, (ways, gates * hidden, x.shape[2]))
        r = g.like(p, x, (ways, gates * hidden, hidden))
        bias = g.like(p, x, (ways, 2 * gates * hidden)) if p.next(2) else None
        batch = x.shape[1]
        lengths: Value | None = None
        if p.one_in(4):
            steps: Array = np.resize(np.arange(x.shape[0], 0, -1), batch).astype(np.int32)
            lengths = g.given(p, steps)
        state = [g.like(p, x, (ways, batch, hidden)) for _ in range(2 if op == "LSTM" else 1)]
        attrs: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
        if op == "GRU":
            attrs["linear_before_reset"] = p.of((None, 1))
        more = state if p.next(2) else []
        g.emit(op, [x, w, r, bias, lengths, *more], attrs, outputs=3 if op == "LSTM" else 2)

    return make


RECURRENT: dict[str, Maker] = {op: recurrent(op) for op in GATES}
