"""Exponentials of numbers up to zero: as exact as the general ones, and where they are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.lower.test_attention import attention_graph, program_of, types
from tfc.compiler.lower.decay import ROUNDING, decay
from tfc.ir.body import ExprBuilder, Load
from tfc.ir.core import Block, Value
from tfc.ir.dims import symbol
from tfc.ir.evalexpr import evaluate
from tfc.ir.types import F32, TensorType

Array = Any


def computed(x: Array) -> Array:
    value = Value(TensorType(F32, x.shape), Block(), 0, "x")
    expr = decay(ExprBuilder(), Load(value, (symbol("i"),), F32))
    with np.errstate(all="ignore"):
        return evaluate(expr, {"i": x.size}, {value: x})


def test_the_error_is_that_of_exp_denormals_included() -> None:
    x = -np.concatenate([np.linspace(0, 104, 100_001), np.geomspace(1e-30, 104, 20_000)])
    x = x.astype(np.float32)
    wanted = np.exp(x.astype(np.float64))
    ulp = np.spacing(wanted.astype(np.float32)).astype(np.float64)
    assert (np.abs(computed(x) - wanted) / ulp).max() <= 2


def test_limits_and_nan_are_those_of_exp() -> None:
    x = np.array([0, -0.0, -104.01, -1e30, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(computed(x), [1, 1, 0, 0, 0, np.nan])


@pytest.mark.parametrize(
    ("name", "chain", "short"),
    [
        ("softmax", lambda b, s: b.softmax(s, axis=-1), True),
        ("scaled", lambda b, s: b.softmax(b.mul(s, b.constant(0.5, F32)), axis=-1), True),
        (
            "less than the greatest of other numbers",
            lambda b, s: b.exp(b.sub(s, b.reduce_max(b.mul(s, s), axes=(2,), keepdims=True))),
            False,
        ),
        (
            "less the least",
            lambda b, s: b.exp(b.sub(s, b.reduce_min(s, axes=(2,), keepdims=True))),
            False,
        ),
    ],
)
def test_it_takes_the_place_of_exp_where_no_argument_is_positive(
    name: str, chain: Any, short: bool
) -> None:
    program = program_of(attention_graph(types((2,), 20, 32, 16, 16), chain))
    numbers = [
        op.attrs.value
        for function in program.functions.values()
        if function.kind == "kernel"
        for op in function.block.walk()
        if op.name == "const"
    ]
    assert (ROUNDING in numbers) == short, name
