"""Short expansions of what is only rounded to bf16: where they are used, and their errors."""

from __future__ import annotations

from collections.abc import Callable
from math import erf
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import graph
from tfc.graph import Graph
from tfc.ir import arrays
from tfc.ir.types import BF16, F32, TensorType

Array = Any
X = np.concatenate([np.linspace(-12, 12, 4001), np.geomspace(1e-30, 89, 500)]).astype(np.float32)
SPECIAL = np.array([np.inf, -np.inf, np.nan, 0, 200, -200], np.float32)


def computed(
    build: Callable[..., Any], x: Array, dtype: str = "bf16", target: str = "native"
) -> Array:
    program = Graph(graph([TensorType(F32, x.shape)], build))
    found = tfc.compile(program, dtype=dtype, target=target, threads=1)({"x0": x})["y0"]
    return arrays.decode(found.view(np.uint16), BF16) if found.dtype != np.float32 else found


@pytest.mark.parametrize("target", ["native", "avx2"])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("exp", np.exp),
        ("erf", np.vectorize(erf)),
        ("silu", lambda x: x / (1 + np.exp(-x))),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_errors_are_a_small_part_of_the_rounding(
    name: str, function: Callable[[Array], Array], target: str
) -> None:
    x = X if name != "exp" else X[np.abs(X) < 88]
    got = computed(lambda b, v: b.cast(getattr(b, name)(v), dtype=BF16), x, target=target)
    with np.errstate(over="ignore"):
        wanted = function(x.astype(np.float64))
    error = np.abs(got - wanted) / np.maximum(np.abs(wanted), 2.0**-126)
    assert error.max() <= 1.0625 * 2.0**-8


def test_of_erf_nothing_is_left_beyond_the_largest() -> None:
    x = np.array([2.75, 3, 20, 1e30, np.inf], np.float32)
    gelu = computed(lambda b, v: b.cast(b.gelu(v, approximate="none"), dtype=BF16), -1.5 * x[:-1])
    np.testing.assert_array_equal(gelu, np.zeros(4))
    got = computed(lambda b, v: b.cast(b.erf(v), dtype=BF16), x)
    np.testing.assert_array_equal(got, np.ones(5))


def test_limits_and_nan_are_those_of_the_functions() -> None:
    exp, erf_of = (
        computed(lambda b, v, name=name: b.cast(getattr(b, name)(v), dtype=BF16), SPECIAL)  # type: ignore[misc]
        for name in ("exp", "erf")
    )
    np.testing.assert_array_equal(exp, [np.inf, 0, np.nan, 1, np.inf, 0])
    np.testing.assert_array_equal(erf_of, [1, -1, np.nan, 0, 1, -1])


def same(build: Callable[..., Any]) -> bool:
    """Whether dtype changes no bit."""
    a, b = (computed(build, X, dtype) for dtype in ("f32", "bf16"))
    return bool(np.array_equal(a, b))


def test_they_are_used_where_only_products_and_sums_lie_between() -> None:
    assert same(lambda b, v: b.exp(v))
    assert same(lambda b, v: b.cast(b.log(b.add(b.exp(v), b.constant(np.float32(1)))), dtype=BF16))
    assert not same(
        lambda b, v: b.cast(b.div(v, b.add(b.exp(v), b.constant(np.float32(3)))), dtype=BF16)
    )
