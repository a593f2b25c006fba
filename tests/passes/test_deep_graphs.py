"""Passes take graphs with more ops one behind the other than Python has calls in calls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.lower.native import graph
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.ir.core import ops_of
from tfc.ir.types import F32, I8, TensorType

WHOLE = np.random.default_rng(3).integers(-127, 128, (192, 128)).astype(np.int8)


def in_line(b: Any, x: Any) -> Any:
    return b.sin(x)


def behind_views(b: Any, x: Any) -> Any:
    flat = b.neg(b.reshape(x, shape=(3 * 192,)))
    return b.exp(b.reshape(flat, shape=(3, 192)))


@pytest.mark.parametrize(("step", "ops"), [(in_line, 1), (behind_views, 4)])
def test_graphs_deeper_than_calls_are_optimised(step: Callable[..., Any], ops: int) -> None:
    """Weights behind them are found to be constant, and what is in front of them is not."""

    def make(b: Any, x: Any) -> Any:
        for _ in range(sys.getrecursionlimit() // ops + 1):
            x = step(b, x)
        scales = b.constant(np.full(128, 0.01, np.float32))
        return b.matmul(x, b.dequantize_linear(b.constant(WHOLE), scales, axis=1))

    module = graph([TensorType(F32, (3, 192))], make)
    run(module, PassContext(target=parse_target("avx512")))
    kept = [op.result.type for op in ops_of(module.functions.values()) if op.name == "constant"]
    assert [type.dtype for type in kept if type.size == WHOLE.size] == [I8]
