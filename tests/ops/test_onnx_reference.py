"""References against ONNX's own, on odd shapes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.conformance.cases import assert_close
from tests.ops.support import onnx_result, reference
from tfc.ir.arrays import Array
from tfc.ir.ops.common import floats, integers


def both(pads: tuple[tuple[int, int], ...]) -> list[int]:
    return [lo for lo, _ in pads] + [hi for _, hi in pads]


@pytest.mark.parametrize(
    ("x", "w", "strides", "pads", "dilations", "groups"),
    [
        ((1, 3, 7), (4, 3, 3), (2,), ((1, 0),), (1,), 1),
        ((2, 4, 9, 7), (6, 2, 3, 2), (2, 1), ((1, 2), (0, 1)), (2, 1), 2),
        ((1, 3, 5, 6), (3, 1, 3, 3), (1, 2), ((1, 1), (1, 1)), (1, 1), 3),
        ((1, 2, 4, 5, 3), (3, 2, 2, 3, 1), (1, 2, 1), ((0, 1),) * 3, (1, 1, 2), 1),
    ],
)
def test_conv_equals_onnx(
    x: tuple[int, ...],
    w: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
    groups: int,
) -> None:
    operands = floats(x), floats(w, seed=1)
    attrs = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    given = {"strides": strides, "pads": both(pads), "dilations": dilations, "group": groups}
    assert_close(
        reference("conv", attrs, *operands), onnx_result("Conv", *operands, **given), 1e-5, "conv"
    )


TRANSPOSED = [
    ((1, 3, 5), (3, 4, 3), (2,), ((1, 0),), (1,), 1, (1,)),
    ((2, 4, 3, 4), (4, 3, 3, 2), (3, 2), ((1, 2), (0, 1)), (1, 1), 2, (2, 0)),
    ((1, 2, 4, 3), (2, 2, 3, 2), (2, 1), ((1, 1), (0, 0)), (3, 2), 1, (1, 1)),
    ((1, 2, 2, 3, 2), (2, 2, 2, 3, 2), (2, 1, 2), ((0, 1),) * 3, (1, 1, 1), 1, (0, 0, 1)),
]


def scattered(
    x: Array,
    w: Array,
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
    groups: int,
    output_padding: tuple[int, ...],
) -> Array:
    """The transposed convolution, one product at a time."""
    inner, outer = w.shape[0] // groups, w.shape[1]
    shape = [
        (n - 1) * s - lo - hi + (k - 1) * d + 1 + extra
        for n, s, (lo, hi), k, d, extra in zip(
            x.shape[2:], strides, pads, w.shape[2:], dilations, output_padding, strict=True
        )
    ]
    y = np.zeros((x.shape[0], outer * groups, *shape))
    for n, i, *at in np.ndindex(*x.shape):
        for o, *tap in np.ndindex(*w.shape[1:]):
            place = [
                p * s + k * d - lo
                for p, s, k, d, (lo, _) in zip(at, strides, tap, dilations, pads, strict=True)
            ]
            if all(0 <= p < size for p, size in zip(place, shape, strict=True)):
                channel = i // inner * outer + o
                y[(n, channel, *place)] += float(x[(n, i, *at)]) * float(w[(i, o, *tap)])
    return y.astype(x.dtype)


@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose_equals_products_added_one_by_one(case: tuple[Any, ...]) -> None:
    x, w, strides, pads, dilations, groups, output_padding = case
    operands = floats(x), floats(w, seed=1)
    attrs = {
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "groups": groups,
        "output_padding": output_padding,
    }
    want = scattered(*operands, strides, pads, dilations, groups, output_padding)
    assert_close(reference("conv_transpose", attrs, *operands), want, 1e-5, str(case))


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize(
    ("x", "kernel", "strides", "pads"),
    [
        ((1, 2, 7), (3,), (2,), ((1, 1),)),
        ((2, 3, 7, 6), (2, 3), (2, 1), ((0, 1), (2, 1))),
        ((1, 1, 4, 5, 3), (2, 2, 3), (1, 2, 1), ((1, 0), (0, 1), (1, 1))),
    ],
)
def test_pools_equal_onnx(
    x: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    include: bool,
) -> None:
    data = floats(x)
    attrs = {
        "kernel": kernel, "strides": strides, "pads": pads, "dilations": (1,) * len(kernel)
    }  # fmt: skip
    given = {"kernel_shape": kernel, "strides": strides, "pads": both(pads)}
    want = onnx_result("AveragePool", data, count_include_pad=int(include), **given)
    got = reference("avg_pool", {**attrs, "count_include_pad": include}, data)
    assert_close(got, want, 1e-5, "avg_pool")
    want = onnx_result("MaxPool", data, **given)
    assert_close(reference("max_pool", attrs, data), want, None, "max_pool")


REDUCTIONS = {
    "ReduceSum": "reduce_sum",
    "ReduceProd": "reduce_prod",
    "ReduceMax": "reduce_max",
    "ReduceMin": "reduce_min",
    "ReduceMean": "reduce_mean",
    "ReduceL1": "reduce_l1",
    "ReduceL2": "reduce_l2",
    "ReduceLogSum": "reduce_log_sum",
    "ReduceLogSumExp": "reduce_log_sum_exp",
    "ReduceSumSquare": "reduce_sum_square",
}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_reductions_equal_onnx(op_type: str, keepdims: bool) -> None:
    for shape, axes in (((3, 1, 5), (0, 2)), ((7,), (0,)), ((2, 3, 4), (1,)), ((2, 3), (0, 1))):
        for x in (floats(shape, 0.1, 2.0), integers(shape, 1, 9)):
            if x.dtype.kind == "i" and "Log" in op_type:
                continue
            want = onnx_result(op_type, x, np.array(axes, np.int64), keepdims=int(keepdims))
            got = reference(REDUCTIONS[op_type], {"axes": axes, "keepdims": keepdims}, x)
            assert_close(got, want, 1e-5, f"{op_type} {shape} {x.dtype}")


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("reduce_sum", 0.0),
        ("reduce_prod", 1.0),
        ("reduce_max", -np.inf),
        ("reduce_min", np.inf),
        ("reduce_log_sum_exp", -np.inf),
        ("reduce_log_sum", -np.inf),
        ("reduce_l2", 0.0),
    ],
)
def test_reduction_of_nothing_is_the_identity(name: str, identity: float) -> None:
    x = np.zeros((2, 0), np.float32)
    assert reference(name, {"axes": (1,), "keepdims": False}, x).tolist() == [identity] * 2


def test_nan_wins_in_max_and_min() -> None:
    x = np.array([[1, np.nan, 2], [np.nan, -np.inf, np.inf]], np.float32)
    for name in ("reduce_max", "reduce_min"):
        assert np.isnan(reference(name, {"axes": (1,), "keepdims": False}, x)).all()


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_arg_extremes_equal_onnx(op_type: str) -> None:
    for axis, keepdims, last in itertools.product((0, 1), (False, True), (False, True)):
        x = integers((5, 7), 0, 2)
        given = {"axis": axis, "keepdims": int(keepdims), "select_last_index": int(last)}
        attrs = {"axis": axis, "keepdims": keepdims, "last": last}
        got = reference(op_type.lower(), attrs, x)
        assert_close(got, onnx_result(op_type, x, **given), None, f"{op_type} {attrs}")


def test_cumsum_equals_onnx() -> None:
    for axis, exclusive, reverse in itertools.product((0, 1), (False, True), (False, True)):
        x = floats((4, 5))
        given = {"exclusive": int(exclusive), "reverse": int(reverse)}
        want = onnx_result("CumSum", x, np.array(axis, np.int64), **given)
        attrs = {"axis": axis, "exclusive": exclusive, "reverse": reverse}
        assert_close(reference("cumsum", attrs, x), want, 1e-6, str(attrs))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad_equals_onnx(mode: str) -> None:
    for lo, hi in (((2, 0), (1, 3)), ((0, 1), (2, 0))):
        x = floats((3, 4))
        want = onnx_result("Pad", x, np.array(lo + hi, np.int64), mode=mode)
        attrs = {"lo": lo, "hi": hi, "mode": mode}
        assert_close(reference("pad", attrs, x), want, None, str(attrs))


def test_lookups_equal_onnx() -> None:
    x = floats((4, 5, 3))
    for axis in (0, 1, -1):
        indices = integers((2, 3), -3, 2)
        got = reference("gather", {"axis": axis}, x, indices)
        assert_close(got, onnx_result("Gather", x, indices, axis=axis), None, "gather")
        indices = integers((4, 5, 3), -3, 2)
        got = reference("gather_elements", {"axis": axis}, x, indices)
        want = onnx_result("GatherElements", x, indices, axis=axis)
        assert_close(got, want, None, "gather_elements")
    for batch, shape in ((0, (6, 2)), (1, (4, 2)), (2, (4, 5, 2, 1))):
        indices = integers(shape, -3, 2)
        got = reference("gather_nd", {"batch_dims": batch}, x, indices)
        assert_close(got, onnx_result("GatherND", x, indices, batch_dims=batch), None, "gather_nd")


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_equals_onnx(reduction: str) -> None:
    x = floats((4, 5))
    indices = np.array([[2, 0, 1, -1, 4], [0, 1, -2, 4, 2]])
    updates = floats((2, 5), seed=1)
    attrs = {"axis": 1, "reduction": reduction}
    want = onnx_result("ScatterElements", x, indices, updates, **attrs)
    assert_close(reference("scatter_elements", attrs, x, indices, updates), want, 1e-6, reduction)
    tuples, parts = np.array([[2], [0], [3]]), floats((3, 5), seed=1)
    want = onnx_result("ScatterND", x, tuples, parts, reduction=reduction)
    got = reference("scatter_nd", {"reduction": reduction}, x, tuples, parts)
    assert_close(got, want, 1e-6, reduction)


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("k", [-5, -1, 0, 2, 9])
def test_trilu_equals_onnx(upper: bool, k: int) -> None:
    x = floats((2, 3, 5))
    want = onnx_result("Trilu", x, np.array(k, np.int64), upper=int(upper))
    assert_close(reference("trilu", {"upper": upper, "k": k}, x), want, None, "trilu")


COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
)  # fmt: skip


# ONNX's evaluator takes scales of f32 as they are, in f64, so that 5 / 0.6 is less than it should
# be, and has a fractional extent of the result where the scale gives one; ONNX Runtime and this
# reference do neither. These scales are exact, and the last gives a fraction.
SCALES = [
    (scales, coordinate)
    for scales in ((2.0, 3.0), (0.25, 2.0), (0.5, 1.0), (1.25, 0.75))
    for coordinate in COORDINATES
    if scales[1] != 0.75 or coordinate not in ("half_pixel_symmetric", "align_corners")
]


@pytest.mark.parametrize(("scales", "coordinate"), SCALES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_by_scales_equals_onnx(
    mode: str, coordinate: str, scales: tuple[float, float]
) -> None:
    x = floats((8, 7))
    sizes = tuple(int(n * s) for n, s in zip(x.shape, scales, strict=True))
    for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        given: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinate}
        if mode == "nearest":
            given["nearest_mode"] = nearest
        want = onnx_result("Resize", x, None, np.array(scales, np.float32), **given)
        attrs = {
            "sizes": sizes,
            "scales": scales,
            "mode": mode,
            "coordinate": coordinate,
            "nearest": nearest,
        }
        assert_close(reference("resize", attrs, x), want, 1e-5, str(attrs))


@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [(9, 5), (3, 14), (4, 3)])
def test_resize_to_sizes_equals_onnx(mode: str, coordinate: str, sizes: tuple[int, int]) -> None:
    x = floats((4, 7))
    given = {"mode": mode, "coordinate_transformation_mode": coordinate}
    want = onnx_result("Resize", x, None, None, np.array(sizes, np.int64), **given)
    attrs = {"sizes": sizes, "scales": (0.0, 0.0), "mode": mode, "coordinate": coordinate}
    assert_close(reference("resize", attrs, x), want, 1e-5, str(attrs))


def test_pytorch_half_pixel_takes_the_first_element_for_an_extent_of_1() -> None:
    attrs = {
        "sizes": (1,),
        "scales": (0.0,),
        "mode": "linear",
        "coordinate": "pytorch_half_pixel",
    }
    assert reference("resize", attrs, np.array([3, 5, 7], np.float32)).tolist() == [3]


@pytest.mark.parametrize("a", [-0.75, -0.5])
def test_cubic_without_the_outside_equals_onnx(a: float) -> None:
    x = floats((5, 3))
    scales = np.array([1.6, 2.0], np.float32)
    want = onnx_result("Resize", x, None, scales, mode="cubic", cubic_coeff_a=a, exclude_outside=1)
    attrs = {
        "sizes": (8, 6),
        "scales": tuple(map(float, scales)),
        "mode": "cubic",
        "cubic_a": a,
        "exclude_outside": True,
    }
    assert_close(reference("resize", attrs, x), want, 1e-5, str(attrs))
