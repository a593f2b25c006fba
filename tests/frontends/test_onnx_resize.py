"""Resize in all its modes agrees with onnx's own reference, on sizes as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import tfc
from tests.frontends.support import Array, floats, ints, make_model, reference, run, value_info
from tfc.compiler.frontends.onnx import load
from tfc.ir.errors import ModelError, UnsupportedError

MODES = ("nearest", "linear", "cubic")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    "tf_crop_and_resize",
)  # fmt: skip
# Scales whose products with sizes are exact: the reference computes places in floats, and picks
# another element where one is at a tie.
EXACT = (0.5, 2.0, 3.0, 1.5, 0.25, 1.0)
ANY = (*EXACT, 0.6, 0.8, 1 / 3, 0.7, 2.3)


def resize(x: Array, inputs: list[str], constants: dict[str, Array], **attrs: Any) -> Any:
    """A model of one Resize."""
    node = helper.make_node("Resize", ["x", *inputs], ["y"], name="the_node", **attrs)
    return make_model([node], [value_info("x", x)], ["y"], 19, constants)


def drawn(seed: int) -> tuple[Any, Array]:
    """Return a Resize with attributes and sizes at random, and its input."""
    random = np.random.default_rng(seed)
    shape = [int(n) for n in random.integers(1, 9, random.integers(1, 4))]
    mode, coordinate = str(random.choice(MODES)), str(random.choice(COORDINATES))
    cropped = coordinate == "tf_crop_and_resize"
    attrs: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": coordinate,
        "nearest_mode": str(random.choice(ROUNDINGS)),
        "cubic_coeff_a": float(random.choice([-0.75, -0.5])),
        "antialias": int(mode != "nearest" and random.random() < 0.4),
        "exclude_outside": int(mode == "cubic" and random.random() < 0.4),
    }
    axes = list(range(len(shape)))
    if random.random() < 0.4:
        axes = [int(axis) for axis in random.permutation(axes)[: random.integers(1, len(axes) + 1)]]
        attrs["axes"] = axes
    roi = np.zeros(0)
    if cropped:
        starts = random.uniform(-0.2, 0.6, len(axes))
        roi = np.concatenate([starts, starts + random.uniform(0.1, 0.8, len(axes))])
        attrs["extrapolation_value"] = 7.0
    constants: dict[str, Array] = {"roi": roi.astype(np.float32)}
    # For a single element the reference has another place than the standard: -0.5 for 0.
    least = 2 if coordinate == "pytorch_half_pixel" else 1
    tied = mode == "nearest" and coordinate == "half_pixel_symmetric"
    if cropped or tied or random.random() < 0.5:
        constants["sizes"] = random.integers(least, 13, len(axes))
        inputs = ["roi", "", "sizes"]
        if not cropped and least == 1 and random.random() < 0.4:
            attrs["keep_aspect_ratio_policy"] = str(random.choice(["not_larger", "not_smaller"]))
    else:
        exact = mode == "nearest" or coordinate == "half_pixel_symmetric"
        scales = random.choice(EXACT if exact else ANY, len(axes)).astype(np.float32)
        sizes = (scales * np.array(shape, np.float32)[axes]).astype(int)
        constants["scales"] = np.where(sizes < least, np.float32(3), scales)
        inputs = ["roi", "scales"]
    x = floats(*shape, seed=seed)
    return resize(x, inputs, constants, **attrs), x


def compare(model: Any, x: Array, got: Array) -> None:
    (wanted,) = reference(model, {"x": x})
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("seed", range(120))
def test_resize_is_the_reference_s(seed: int) -> None:
    model, x = drawn(seed)
    compare(model, x, run(model, {"x": x})[0])


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(n, marks=pytest.mark.slow) for n in range(120, 300))]
)
def test_compiled_resize_is_the_reference_s(seed: int) -> None:
    model, x = drawn(seed)
    compare(model, x, tfc.compile(model, threads=1)(x))


@pytest.mark.parametrize("seed", range(12))
def test_regions_may_be_inputs(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, starts = floats(2, 7, 5, seed=seed), random.uniform(-0.1, 0.6, 2)
    roi = np.concatenate([starts, starts + random.uniform(0.1, 0.6, 2)]).astype(np.float32)
    attrs = {"mode": MODES[seed % 3], "coordinate_transformation_mode": "tf_crop_and_resize"}
    model = resize(x, ["roi", "", "sizes"], {"sizes": ints(4, 9)}, axes=[1, 2], **attrs)
    model.graph.input.append(value_info("roi", roi))
    (wanted,) = reference(model, {"x": x, "roi": roi})
    (got,) = run(model, {"x": x, "roi": roi})
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_dynamic_pictures_shrink_with_a_filter(mode: str) -> None:
    x = floats(1, 2, 9, 14)
    constants = {"roi": np.zeros(0, np.float32), "sizes": ints(5, 6)}
    attrs = {"mode": mode, "antialias": 1, "axes": [2, 3]}
    fixed = resize(x, ["roi", "", "sizes"], constants, **attrs)
    model = resize(x, ["roi", "", "sizes"], constants, **attrs)
    for axis, name in ((2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    executable = tfc.compile(model, threads=1)
    compare(fixed, x, executable(x))
    for h, w in ((5, 6), (3, 31), (40, 4)):
        other = floats(1, 2, h, w)
        compare(resize(other, ["roi", "", "sizes"], constants, **attrs), other, executable(other))


@pytest.mark.parametrize("scale", [1.5, 0.6, 0.75])
def test_dynamic_dims_take_scales_that_are_fractions(scale: float) -> None:
    x = floats(3, 10)
    constants = {"roi": np.zeros(0, np.float32), "scales": np.array([1, scale], np.float32)}
    model = resize(x, ["roi", "scales"], constants, mode="linear")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "w"
    module = load(model)
    assert len(module.main.symbols) == 1
    for width in (4, 7, 10, 33):
        x = floats(3, width)
        (wanted,) = reference(resize(x, ["roi", "scales"], constants, mode="linear"), {"x": x})
        (got,) = run(model, {"x": x})
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_an_open_axis_that_stays_as_it_is_keeps_infinities_apart(mode: str) -> None:
    x = np.linspace(-1, 1, 3 * 9).reshape(3, 9)
    x[1, 4], x[0, 2] = np.inf, np.nan
    constants = {"roi": np.zeros(0, np.float32), "sizes": ints(3, 13)}
    model = resize(x, ["roi", "", "sizes"], constants, mode=mode)
    wanted = tfc.compile(model)(x)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    np.testing.assert_allclose(tfc.compile(model)(x), wanted, rtol=1e-12)
    assert np.isfinite(wanted[2]).all()


def test_integers_are_truncated_when_filtered() -> None:
    x = np.arange(24, dtype=np.uint8).reshape(2, 12) * 10
    constants = {"roi": np.zeros(0, np.float32), "sizes": ints(2, 5)}
    (got,) = run(resize(x, ["roi", "", "sizes"], constants, mode="linear", antialias=1), {"x": x})
    wide = resize(x.astype(np.float64), ["roi", "", "sizes"], constants, mode="linear", antialias=1)
    (exact,) = reference(wide, {"x": x.astype(np.float64)})
    np.testing.assert_array_equal(got, np.trunc(exact + 1e-9).astype(np.uint8))


def test_what_a_policy_or_region_cannot_be_is_refused() -> None:
    x = floats(4, 6)
    sizes = {"roi": np.zeros(0, np.float32), "sizes": ints(2, 3)}
    model = resize(x, ["roi", "", "sizes"], sizes, keep_aspect_ratio_policy="larger")
    with pytest.raises(ModelError, match="'larger'"):
        load(model)
    model = resize(x, ["roi", "", "sizes"], sizes, keep_aspect_ratio_policy="not_larger")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "w"
    with pytest.raises(UnsupportedError, match=r"the_node.*for w to 3 elements; fix the dims"):
        load(model)
    cropped = {"coordinate_transformation_mode": "tf_crop_and_resize"}
    with pytest.raises(ModelError, match="no region of interest for 2 axes"):
        load(resize(x, ["roi", "", "sizes"], sizes, **cropped))
