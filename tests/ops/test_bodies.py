"""The shape of bodies, where schedules rely on it: affine indices, few guards and iterators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.ops.support import body_of, make_op
from tfc.ir.body import Apply, Guard, Reduce, loads, walk
from tfc.ir.dims import DimLike, coefficient, floordiv, minimum, mod, symbol, walk_calls
from tfc.ir.types import BF16, F32

N = symbol("N")
I0, I1, I2, I3 = (symbol(f"i{axis}") for axis in range(4))

CONV: dict[str, Any] = {"strides": (1, 1), "pads": ((0, 0),) * 2, "dilations": (1, 1), "groups": 1}


def load_index(name: str, shapes: Sequence[Sequence[DimLike]], attrs: dict[str, Any]) -> Any:
    _, op = make_op(name, shapes, attrs)
    (load,) = loads(body_of(op)[0])
    return load.index


@pytest.mark.parametrize(
    ("old", "new", "index"),
    [
        ((2, 3, 4), (6, 4), (floordiv(I0, 3), mod(I0, 3), I1)),
        ((6, 4), (2, 3, 4), (3 * I0 + I1, I2)),
        ((2, 12), (4, 6), (floordiv(I0, 2), 6 * mod(I0, 2) + I1)),
        ((5, 1, N), (5, N, 1), (I0, 0, I1)),
        ((N, 4, 3), (N * 4, 3), (floordiv(I0, 4), mod(I0, 4), I1)),
        ((N * 4, 3), (N, 4, 3), (4 * I0 + I1, I2)),
        ((N, 6), (3 * N, 2), (floordiv(I0, 3), 2 * mod(I0, 3) + I1)),
        ((4, 9), (6, 6), (floordiv(6 * I0 + I1, 9), mod(6 * I0 + I1, 9))),
        ((2, N, 3, 5), (2, N, 15), (I0, I1, floordiv(I2, 5), mod(I2, 5))),
    ],
)
def test_reshape_keeps_indices_as_simple_as_they_can_be(
    old: tuple[DimLike, ...], new: tuple[DimLike, ...], index: tuple[DimLike, ...]
) -> None:
    assert load_index("reshape", [old], {"shape": new}) == index


@pytest.mark.parametrize(
    ("coordinate", "rounding"),
    [
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
    ],
)
@pytest.mark.parametrize(("size", "scale"), [((N, 3 * N), 3.0), ((5, 15), 3.0), ((N, 2 * N), 0.0)])
def test_nearest_upsampling_by_a_whole_number_is_one_division(
    coordinate: str, rounding: str, size: tuple[DimLike, DimLike], scale: float
) -> None:
    attrs = {
        "sizes": size[1:],
        "scales": (scale,),
        "mode": "nearest",
        "coordinate": coordinate,
        "nearest": rounding,
    }
    index = load_index("resize", [size[:1]], attrs)
    assert index == (floordiv(I0, 3 if scale else 2),)


def conv_parts(
    x: Sequence[DimLike], w: Sequence[DimLike], **attrs: Any
) -> tuple[Reduce, list[Guard], Any, Any]:
    _, op = make_op("conv", [x, w], {**CONV, **attrs})
    expr, _ = body_of(op)
    assert isinstance(expr, Reduce)
    guards = [node for node in walk(expr) if isinstance(node, Guard)]
    image, weight = loads(expr)
    return expr, guards, image.index, weight.index


def test_conv_folds_kernel_axes_then_channels() -> None:
    expr, guards, image, weight = conv_parts((1, 3, 8, 8), (4, 3, 3, 2))
    assert [it.extent for it in expr.iters] == [3, 2, 3]
    y, x, c = (it.dim for it in expr.iters)
    assert image == (I0, c, I2 + y, I3 + x)
    assert weight == (I1, c, y, x)
    assert not guards


def test_conv_guards_only_axes_whose_windows_reach_the_padding() -> None:
    _, guards, _, _ = conv_parts((1, 3, 8, N), (4, 3, 3, 3), pads=((0, 0), (1, 1)))
    (guard,) = guards
    assert [r.hi for r in guard.ranges] == [N]
    # Windows of stride 2 over 8 + 1 elements end before the padding.
    _, guards, _, _ = conv_parts((1, 3, 8, 8), (4, 3, 2, 2), strides=(2, 2), pads=((0, 1), (0, 1)))
    assert not guards


def test_conv_of_kernel_1_is_a_product_over_channels() -> None:
    expr, guards, image, _ = conv_parts((N, 3, 8, 8), (4, 3, 1, 1))
    (c,) = expr.iters
    assert image == (I0, c.dim, I2, I3)
    assert not guards


def test_depthwise_conv_reads_the_channel_that_it_writes() -> None:
    expr, _, image, weight = conv_parts((1, 5, 8, 8), (5, 1, 3, 3), groups=5)
    assert [it.extent for it in expr.iters] == [3, 3]
    assert image[1] == I1
    assert weight[:2] == (I1, 0)


def test_grouped_conv_reads_the_channels_of_its_group() -> None:
    expr, _, image, _ = conv_parts((1, 6, 8, 8), (4, 3, 3, 3), groups=2)
    assert image[1] == 3 * floordiv(I1, 2) + expr.iters[-1].dim


def test_narrow_floats_are_summed_in_f32() -> None:
    for name, shapes, attrs in (
        ("matmul", [(2, 3), (3, 4)], {}),
        ("conv", [(1, 3, 8, 8), (4, 3, 3, 3)], CONV),
        ("reduce_sum", [(2, 3)], {"axes": (1,), "keepdims": False}),
    ):
        _, op = make_op(name, shapes, attrs, [BF16] * len(shapes))
        expr, _ = body_of(op)
        assert isinstance(expr, Apply)
        assert (expr.name, expr.dtype) == ("cast", BF16)
        (total,) = expr.args
        assert isinstance(total, Reduce)
        assert total.dtype == F32


def test_every_operand_of_concat_stands_in_a_guard() -> None:
    _, op = make_op("concat", [(3,), (N,), (2,)], {"axis": 0})
    node, _ = body_of(op)
    ranges = []
    while isinstance(node, Guard):
        ranges.append((node.ranges[0].lo, node.ranges[0].hi))
        node = node.outside
    assert ranges == [(0, 3), (3, N + 3), (N + 3, N + 5)]
    assert not loads(node)


def test_pads_smaller_than_the_axis_reflect_without_division() -> None:
    (i,) = load_index("pad", [(5,)], {"lo": (2,), "hi": (0,), "mode": "reflect"})
    assert {call.fn for call in walk_calls(i)} == {"max"}
    (i,) = load_index("pad", [(5,)], {"lo": (0,), "hi": (2,), "mode": "reflect"})
    assert i == minimum(I0, 8 - I0)


def test_slices_and_transposes_are_affine() -> None:
    attrs = {"starts": (N - 1, 2), "sizes": (N, 3), "steps": (-1, 2)}
    first, second = load_index("slice", [(N, 8)], attrs)
    assert (coefficient(first, "i0"), coefficient(second, "i1")) == (-1, 2)
    assert load_index("transpose", [(2, 3, 4)], {"perm": (2, 0, 1)}) == (I1, I2, I0)
