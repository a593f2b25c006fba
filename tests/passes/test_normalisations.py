"""Normalisations of groups of channels: found between reshapes, scaled, and in the data's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.lower.native import graph
from tests.lower.nests import tensors
from tests.passes.graphs import apply_passes, op_names, run_graph
from tfc.compiler.codegen.host import host_target
from tfc.compiler.passes.layout import _reshaped
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.ir.build import tensor_type
from tfc.ir.core import Module
from tfc.ir.dims import DimLike, symbol

N = symbol("N")


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _between_reshapes(
    groups: int, shape: Sequence[int], merged: Sequence[int] | None = None
) -> Any:
    def make(b: Any, x: Any) -> Any:
        inner = merged or (shape[0], groups, int(np.prod(shape[1:])) // groups)
        y = b.reshape(x, shape=tuple(inner))
        scale, bias = (b.constant(numbers(inner[1], seed=i)) for i in (1, 2))
        y = b.instance_norm(y, scale, bias, eps=1e-5)
        y = b.reshape(y, shape=tuple(shape))
        column = (shape[1], *(1,) * (len(shape) - 2))
        y = b.mul(y, b.constant(numbers(shape[1], seed=3).reshape(column)))
        return b.add(y, b.constant(numbers(shape[1], seed=4).reshape(column)))

    return make


def _before_and_after(make: Any, shape: Sequence[int], *passes: str) -> Module:
    module = graph(tensors(shape), make)
    x = {"x0": numbers(*shape)}
    (wanted,) = run_graph(module, x)
    apply_passes(module, *passes)
    np.testing.assert_allclose(run_graph(module, x)[0], wanted, rtol=1e-5, atol=1e-5)
    return module


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", [(2, 6, 5, 3), (1, 6, 7), (3, 6, 2, 2, 2)])
def test_instances_between_reshapes_are_groups(groups: int, shape: Sequence[int]) -> None:
    module = _before_and_after(_between_reshapes(groups, shape), shape, "fold-statistics")
    names = [name for name in op_names(module) if name != "constant"]
    assert names == ["group_norm", "return"]


def test_instances_of_other_elements_stay() -> None:
    make = _between_reshapes(0, (2, 6, 4), (3, 4, 4))
    module = _before_and_after(make, (2, 6, 4), "fold-statistics")
    assert "instance_norm" in op_names(module)


def test_what_is_used_before_the_scale_keeps_its_own() -> None:
    def make(b: Any, x: Any) -> Any:
        y = b.group_norm(x, *(b.constant(numbers(4, seed=i)) for i in (1, 2)), groups=2, eps=1e-5)
        return [y, b.mul(y, b.constant(np.float32(3)))]

    module = graph(tensors((1, 4, 3)), make)
    apply_passes(module, "fold-statistics")
    assert "mul" in op_names(module)


@pytest.mark.parametrize("groups", [1, 4])
def test_groups_are_normalised_in_the_order_of_the_convolution_before(groups: int) -> None:
    def conv(b: Any, x: Any, inputs: int, outputs: int) -> Any:
        w = b.constant(numbers(outputs, inputs, 1, 1))
        return b.conv(x, w, strides=(1, 1), pads=((0, 0),) * 2, dilations=(1, 1), groups=1)

    def make(b: Any, x: Any) -> Any:
        y = conv(b, x, 3, 32)
        y = b.group_norm(y, *(b.constant(numbers(32, seed=i)) for i in (1, 2)),
                         groups=groups, eps=1e-5)  # fmt: skip
        return conv(b, y, 32, 3)

    module = graph(tensors((1, 3, 5, 7)), make)
    x = {"x0": numbers(1, 3, 5, 7)}
    (wanted,) = run_graph(module, x)
    run(module, PassContext(target=host_target()))
    size = 32 * 5 * 7
    large = [op.result for op in module.main.block if op.name == "fused"]
    large = [value for value in large if tensor_type(value).size == size]
    assert len(large) > 1
    for value in large:
        assert value.encoding is not None
        assert tensor_type(value).shape[value.encoding.perm[-1]] in (32, 32 // groups)
    np.testing.assert_allclose(run_graph(module, x)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("order", "before", "after", "wanted"),
    [
        ((0, 2, 1), (2, 6, 5), (2, 3, 2, 5), (0, 3, 1, 2)),
        ((0, 3, 1, 2), (2, 3, 2, 5), (2, 6, 5), (0, 2, 1)),
        ((0, 3, 2, 1), (2, 3, 2, 5), (2, 6, 5), None),
        ((0, 2, 1), (1, 6, 5), (6, 5), (1, 0)),
        ((0, 2, 1), (1, 6, 5), (6, 1, 5, 1), (1, 3, 2, 0)),
        ((0, 2, 1), (2, 6, 5), (2, 30), None),
        ((0, 2, 1), (2, 6, 5), (4, 15), None),
        ((0, 2, 1), (N, 6, 5), (N, 2, 3, 5), (0, 3, 1, 2)),
        ((0, 2, 1), (1, 6, N), (2, 3, N), (2, 0, 1)),
        ((0, 2, 1), (2, N, 6), (2, 2, 3 * N), None),
        ((0, 2, 1), (2, 3 * N, 6), (2, 3, N, 6), (0, 3, 1, 2)),
        ((0, 2, 1), (0, 6, 5), (6, 0), None),
    ],
)
def test_orders_follow_reshapes(
    order: Sequence[int],
    before: Sequence[DimLike],
    after: Sequence[DimLike],
    wanted: tuple[int, ...] | None,
) -> None:
    assert _reshaped(order, before, after) == wanted
