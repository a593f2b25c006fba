"""Sliding windows: tiles of outputs stay in registers, whatever the number of taps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.lower.native import Code, can_run, graph, lowered
from tests.lower.nests import FREE, N, tensors
from tfc.compiler.lower import window
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.ir.dims import DimLike
from tfc.ir.interp import evaluate

CHANNELS = 19
LEVELS = [level for level in ("x86-64", "avx2", "avx512") if can_run(level)]
Kernel = Sequence[int]


def _conv(b: Any, x: Any, shape: Sequence[int], stride: int = 1, groups: int = 1) -> Any:
    generator = np.random.default_rng(sum(shape))
    w = generator.uniform(-1, 1, shape).astype(np.float32) / float(np.prod(shape[1:])) ** 0.5
    rank = len(shape) - 2
    pads = tuple((n // 2, n // 2) for n in shape[2:])
    return b.conv(x, b.constant(w), strides=(stride,) * rank, pads=pads,
                  dilations=(1,) * rank, groups=groups)  # fmt: skip


def _depthwise(kernel: Kernel, stride: int) -> Any:
    """A depthwise convolution between two of single pixels, so that channels are innermost."""
    ones = (1,) * len(kernel)

    def make(b: Any, x: Any) -> Any:
        y = _conv(b, x, (CHANNELS, 3, *ones))
        y = b.relu(_conv(b, y, (CHANNELS, 1, *kernel), stride, CHANNELS))
        return _conv(b, y, (2, CHANNELS, *ones))

    return make


def _pooled(kernel: Kernel, stride: int) -> Any:
    rank = len(kernel)
    pads = tuple((n // 2, n // 2) for n in kernel)

    def make(b: Any, x: Any) -> Any:
        y = _conv(b, x, (CHANNELS, 3, *(1,) * rank))
        y = b.max_pool(y, kernel=kernel, strides=(stride,) * rank, pads=pads, dilations=(1,) * rank)
        return _conv(b, y, (2, CHANNELS, *(1,) * rank))

    return make


def _compare(make: Any, shape: Sequence[DimLike], sizes: dict[str, int], level: str) -> None:
    types = tensors(shape)
    x = np.random.default_rng(1).uniform(-1, 1, [sizes.get(str(d), d) for d in shape])
    inputs = {"x0": x.astype(np.float32)}
    plain = graph(types, make, FREE)
    wanted = evaluate(plain, inputs, plain.constants)["y0"]
    module, target = graph(types, make, FREE), parse_target(level)
    run(module, PassContext(target=target))
    program = lowered(module, target)
    found = Code([program], target).run(program, inputs, {"N": 0} | sizes)["y0"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("build", [_depthwise, _pooled])
@pytest.mark.parametrize("kernel", [(7, 7), (3, 40), (70,), (3, 3, 5)])
def test_windows_of_many_taps(build: Any, kernel: Kernel, level: str) -> None:
    shape = (1, 3, *(n + 4 for n in kernel))
    _compare(build(kernel, 1), shape, {}, level)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n", [1, 7, 26])
def test_windows_of_many_taps_over_symbolic_sizes(n: int, stride: int) -> None:
    _compare(_depthwise((7, 7), stride), (1, 3, 9, N), {"N": n}, LEVELS[-1])


@pytest.mark.parametrize("kernel", [(5, 5), (7, 7), (13, 13), (3, 3, 9)])
def test_what_is_unrolled_has_a_bound(kernel: Kernel) -> None:
    module = graph(tensors((1, 3, *(n + 4 for n in kernel))), _depthwise(kernel, 1), FREE)
    target = parse_target("avx2")
    run(module, PassContext(target=target))
    program = lowered(module, target)
    counts = [sum(op.name == "fma" for op in f.block.walk()) for f in program.functions.values()]
    # Whole vectors and the rest of the channels; kernels of the two other convolutions have less.
    assert 2 * kernel[-1] * target.vector_registers // 4 <= max(counts) <= 2 * window.MOST_STEPS
