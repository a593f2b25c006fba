"""Convolutions before they are kernels: weights folded, taps trimmed, what is transposed scaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.lower.native import graph
from tests.lower.nests import tensors
from tests.passes.graphs import apply_passes, op_names, run_graph
from tfc.compiler.passes.fold import SMALL_RESULT
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.ir.build import tensor_type
from tfc.ir.core import Module, Op

SIDE = 520


def numbers(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _named(module: Module, name: str) -> list[Op]:
    return [op for op in module.main.block.walk() if op.name == name]


def _with_weights(change: Callable[[Any, Any], Any]) -> Module:
    """A product by weights of more than what may always be folded."""
    assert 4 * SIDE * SIDE > SMALL_RESULT
    w = numbers(SIDE, SIDE)
    return graph(tensors((3, SIDE)), lambda b, x: b.matmul(x, change(b, b.constant(w))))


@pytest.mark.parametrize(
    "change",
    [
        lambda b, w: b.reshape(b.transpose(w, perm=(1, 0)), shape=(2 * SIDE, SIDE // 2)),
        lambda b, w: b.mul(w, b.constant(np.float32(3))),
    ],
)
def test_large_weights_are_folded(change: Any) -> None:
    module = _with_weights(lambda b, w: b.reshape(change(b, w), shape=(SIDE, SIDE)))
    x = {"x0": numbers(3, SIDE)}
    (wanted,) = run_graph(module, x)
    apply_passes(module, "fold", "dce")
    assert not {"mul", "transpose"} & {*op_names(module)}
    np.testing.assert_array_equal(run_graph(module, x)[0], wanted)


def test_large_weights_under_other_strides_are_not_copied() -> None:
    module = _with_weights(lambda b, w: b.transpose(w, perm=(1, 0)))
    before = op_names(module)
    apply_passes(module, "fold")
    assert op_names(module) == before


def _conv(w: Any, **attrs: Any) -> Any:
    rank = w.ndim - 2
    plain = {"strides": (1,) * rank, "dilations": (1,) * rank, "groups": 1}
    return lambda b, x: b.conv(x, b.constant(w), **(plain | attrs))


@pytest.mark.parametrize(
    ("size", "taps", "pads", "strides", "dilations", "kept"),
    [
        (1, 3, (1, 1), 1, 1, 1),
        (2, 3, (1, 1), 1, 1, 3),
        (2, 3, (1, 1), 2, 1, 2),
        (16, 3, (24, 24), 1, 24, 1),
        (16, 3, (12, 12), 1, 12, 3),
        (1, 7, (3, 3), 2, 1, 1),
        (3, 5, (4, 1), 1, 1, 4),
        (1, 5, (4, 0), 1, 1, 1),
        (2, 4, (0, 5), 1, 2, 2),
        (0, 3, (2, 2), 1, 1, 1),
    ],
)
def test_taps_that_see_padding_alone_go(
    size: int, taps: int, pads: tuple[int, int], strides: int, dilations: int, kept: int
) -> None:
    make = _conv(numbers(2, 3, taps, 2), strides=(strides, 1), dilations=(dilations, 1),
                 pads=(pads, (0, 0)))  # fmt: skip
    module = graph(tensors((1, 3, size, 4)), make)
    x = {"x0": numbers(1, 3, size, 4)}
    (wanted,) = run_graph(module, x)
    apply_passes(module, "trim-taps")
    (conv,) = _named(module, "conv")
    assert tensor_type(conv.operands[1]).shape == (2, 3, kept, 2)
    np.testing.assert_allclose(run_graph(module, x)[0], wanted, atol=1e-6)


def test_weights_that_are_not_finite_are_multiplied_by_padding() -> None:
    w = numbers(1, 1, 3)
    w[0, 0, 0] = np.inf
    module = graph(tensors((1, 1, 1)), _conv(w, pads=((1, 1),)))
    apply_passes(module, "trim-taps")
    assert tensor_type(_named(module, "conv")[0].operands[1]).shape == (1, 1, 3)


def test_a_batch_norm_goes_into_a_transposed_convolution() -> None:
    def make(b: Any, x: Any) -> Any:
        y = b.conv_transpose(x, b.constant(numbers(3, 4, 4)), strides=(2,), pads=((1, 1),),
                             dilations=(1,), groups=1, output_padding=(0,))  # fmt: skip
        statistics = (b.constant(np.abs(numbers(4)) + i) for i in range(4))
        return b.batch_norm(y, *statistics, eps=1e-5)

    module = graph(tensors((1, 3, 5)), make)
    x = {"x0": numbers(1, 3, 5)}
    (wanted,) = run_graph(module, x)
    run(module, PassContext())
    assert "mul" not in op_names(module)
    np.testing.assert_allclose(run_graph(module, x)[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_gate_of_each_channel_is_computed_once() -> None:
    def make(b: Any, x: Any) -> Any:
        gate = b.sigmoid(b.reduce_mean(b.exp(x), axes=(2, 3), keepdims=True))
        w = b.constant(numbers(4, 4, 1, 1))
        gate = b.sigmoid(b.conv(gate, w, strides=(1, 1), pads=((0, 0),) * 2,
                                dilations=(1, 1), groups=1))  # fmt: skip
        return b.mul(x, gate)

    module = graph(tensors((1, 4, 5, 6)), make)
    apply_passes(module, "decompose", "fuse")
    shapes = {op.name: tensor_type(op.result).shape for op in _named(module, "mul")[-1:]}
    assert shapes == {"mul": (1, 4, 5, 6)}
    (group,) = [op for op in _named(module, "fused") if op.result in _outputs(module)]
    assert [op.name for op in group.regions[0]] == ["mul", "yield"]


def test_what_a_row_is_folded_to_is_computed_in_its_kernel() -> None:
    def make(b: Any, x: Any) -> Any:
        return b.mul(x, b.sigmoid(b.reduce_mean(x, axes=(1,), keepdims=True)))

    module = graph(tensors((4, 30)), make)
    apply_passes(module, "decompose", "fuse")
    assert len(_named(module, "fused")) == 1


def _outputs(module: Module) -> list[Any]:
    return list(module.main.block.terminator.operands)
