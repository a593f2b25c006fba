"""Functions of one byte become tables: which do, and that they are what the reference computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import can_run, graph
from tests.passes.test_integer_products import conv, read, weights, written
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.graph import Graph
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.dims import symbol
from tfc.ir.types import F32, I8, I32, U8, TensorType

Array = Any
TARGETS = [name for name in ("native", "avx2", "x86-64") if name == "native" or can_run(name)]
N = symbol("N")


def hard_swish(b: Any, x: Any) -> Any:
    """The bytes between its steps are of the same byte."""
    y = read(b, x, 0.04, 100)
    gate = read(b, written(b, b.hard_sigmoid(y, alpha=1 / 6, beta=0.5), 1 / 255, 0), 1 / 255, 0)
    return written(b, b.mul(y, gate), 0.03, 12)


def signed(b: Any, x: Any) -> Any:
    return written(b, b.silu(read(b, x, 0.05, 128)), 0.02, -90, I8)


def after_a_product(b: Any, x: Any) -> Any:
    y = conv(b, read(b, x, 0.02, 120), weights(b, (20, 24, 3, 3)))
    return hard_swish(b, written(b, y, 0.04, 100))


def in_two_steps(b: Any, x: Any) -> Any:
    """One table, of what comes in."""
    return written(b, b.tanh(read(b, hard_swish(b, x), 0.03, 12)), 0.01, 100)


ONE = {f.__name__: f for f in (hard_swish, signed, after_a_product, in_two_steps)}


def of_two_bytes(b: Any, x: Any) -> Any:
    """Neighbours are two bytes."""
    y = read(b, x, 0.04, 100)
    moved = b.transpose(y, perm=(0, 1, 3, 2))
    return written(b, b.mul(y, moved), 0.03, 12)


def by_channel(b: Any, x: Any) -> Any:
    factors = b.constant(np.linspace(0.5, 2, 24).astype(np.float32).reshape(24, 1, 1))
    return written(b, b.tanh(b.mul(read(b, x, 0.04, 100), factors)), 0.01, 100)


def few_steps(b: Any, x: Any) -> Any:
    """No more work than a table."""
    return b.cast(b.max(b.cast(x, dtype=I32), b.constant(3, I32)), dtype=U8)


NONE = {f.__name__: f for f in (of_two_bytes, by_channel, few_steps)}


def model(make: Callable[..., Any], shape: tuple[Any, ...] = (N, 24, 7, 7)) -> Module:
    symbols = {"N": SymbolInfo(0, 64)} if N in shape else {}
    return graph([TensorType(U8, shape)], make, symbols)


def tables_in(module: Module) -> int:
    run(module, PassContext())
    (function,) = module.functions.values()
    return sum(op.name == "lookup" for op in function.block.walk())


def everything(count: int) -> Array:
    bytes = np.resize(np.arange(256, dtype=np.uint8), count * 24 * 49)
    return np.random.default_rng(0).permutation(bytes).reshape(count, 24, 7, 7)


@pytest.mark.parametrize("name", ONE)
def test_a_function_of_a_byte_is_one_table(name: str) -> None:
    assert tables_in(model(ONE[name])) == 1


@pytest.mark.parametrize("name", NONE)
def test_other_functions_are_none(name: str) -> None:
    assert tables_in(model(NONE[name])) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_all_bytes_give_what_the_reference_says(target: str) -> None:
    for name in ("hard_swish", "signed", "in_two_steps", "of_two_bytes", "few_steps"):
        made = Graph(model({**ONE, **NONE}[name]))
        executable = tfc.compile(made, target=target)
        for count in (0, 1, 3):
            x = {"x0": everything(count)}
            np.testing.assert_array_equal(executable(x)["y0"], made.eval(x)["y0"], err_msg=name)


def test_a_byte_that_others_read_is_kept_beside_the_table() -> None:
    def make(b: Any, x: Any) -> list[Any]:
        y = conv(b, read(b, x, 0.02, 120), weights(b, (20, 24, 3, 3)))
        byte = written(b, y, 0.04, 100)
        total = b.reduce_sum(b.cast(byte, dtype=F32), axes=(3,), keepdims=False)
        return [hard_swish(b, byte), byte, total]

    found = tfc.compile(Graph(model(make, (2, 24, 7, 7))))({"x0": everything(2)})
    byte = found["y1"]
    wanted = Graph(model(hard_swish, byte.shape)).eval({"x0": byte})["y0"]
    np.testing.assert_array_equal(found["y0"], wanted)
    np.testing.assert_array_equal(found["y2"], byte.astype(np.float32).sum(axis=3))
