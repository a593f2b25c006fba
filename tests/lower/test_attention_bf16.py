"""Attention of which both products are of bf16: right for every size, and rounded nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import graph
from tests.lower.test_attention import HOST, inputs_of, numbers, types
from tests.lower.test_causal_attention import causal
from tfc.graph import Graph
from tfc.ir.arrays import Array
from tfc.ir.core import Module
from tfc.ir.types import BF16, F32, TensorType

# Queries, keys, depth, columns.
SIZES = (
    (20, 32, 16, 16), (20, 33, 64, 64), (7, 100, 32, 48), (33, 40, 18, 20), (130, 131, 80, 40),
)  # fmt: skip
Chain = Callable[..., Any]


def plain(b: Any, s: Any) -> Any:
    return b.softmax(b.mul(s, b.constant(0.25, F32)), axis=-1)


def _guarded(b: Any, s: Any) -> Any:
    p = plain(b, s)
    return b.select(b.isnan(p), b.constant(0.0, F32), p)


def made(heads: int, m: int, n: int, d: int, c: int, chain: Chain = plain) -> Module:
    """Attention of what products by constants have made, as in models."""

    def make(b: Any, *given: Any) -> Any:
        q, k, v = (b.matmul(x, b.constant(np.eye(x.type.shape[-1]), F32)) for x in given)
        scores = b.matmul(b.mul(q, b.constant(0.75, F32)), b.transpose(k, perm=(0, 2, 1)))
        return b.matmul(chain(b, scores), v)

    return graph(types((heads,), m, n, d, c), make)


def rounded(x: Array) -> Array:
    """The nearest numbers of bf16, as float64."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def attended(
    q: Array,
    k: Array,
    v: Array,
    keep: Array | None = None,
    scale: float = 0.25,
    *,
    divided: bool = False,
) -> Array:
    """In float64, the sides of both products rounded; divided: weights when they are quotients."""
    q = rounded(0.75 * rounded(q).astype(np.float32))
    scores = scale * (q @ np.swapaxes(rounded(k), 1, 2))
    if keep is not None:
        scores = np.where(keep, scores, -np.inf)
    power = np.exp(scores - scores.max(-1, keepdims=True))
    total = power.sum(-1, keepdims=True)
    if divided:
        power, total = power / total, np.ones(1)
    found: Array = rounded(power) @ rounded(v) / total
    return found


def compiled(module: Module, given: dict[str, Array], **options: Any) -> tuple[Array, str]:
    call = tfc.compile(Graph(module), dtype="bf16", **options)
    return np.asarray(call(given)["y0"]), call.ir("loops")


def assert_close(found: Array, wanted: Array) -> None:
    """A weight may round to either side, so numbers differ by a part of one rounding."""
    assert np.abs(found - wanted).max() <= 2.0**-10 * np.abs(wanted).max()


@pytest.mark.parametrize(
    "size", [SIZES[1], *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES)]
)
@pytest.mark.parametrize("target", ["native", "avx2"])
def test_every_size_is_right(size: tuple[int, ...], target: str) -> None:
    given = inputs_of(types((2,), *size))
    found, _ = compiled(made(2, *size), given, target=target, threads=1)
    assert_close(found, attended(*given.values()))


@pytest.mark.slow
@pytest.mark.parametrize("m", [40, 57])
def test_causal_masks_and_other_chains_are_right(m: int) -> None:
    given = inputs_of(types((2,), m, m, 32, 32))
    found, _ = compiled(made(2, m, m, 32, 32, causal(m, m)), given, threads=1)
    assert_close(found, attended(*given.values(), keep=np.tri(m, dtype=bool), scale=1))
    found, _ = compiled(made(2, m, m, 32, 32, _guarded), given, threads=1)
    assert_close(found, attended(*given.values(), divided=True))


def test_threads_change_no_bit() -> None:
    case = (1, 200, 150, 32, 32)
    given = inputs_of(types((1,), *case[1:]))
    found = [compiled(made(*case), given, threads=threads)[0] for threads in (1, 3)]
    np.testing.assert_array_equal(found[0].view(np.uint32), found[1].view(np.uint32))


def test_few_queries_are_not_rounded() -> None:
    """Their keys are read once and lie as they are."""
    given = inputs_of(types((2,), 3, 40, 16, 16))
    module = graph(types((2,), 3, 40, 16, 16), _of_inputs)
    found, _ = compiled(module, given, threads=1)
    exact = np.asarray(
        tfc.compile(Graph(graph(types((2,), 3, 40, 16, 16), _of_inputs)))(given)["y0"]
    )
    np.testing.assert_array_equal(found, exact)


def test_inputs_are_rounded_where_they_are_read() -> None:
    size = (20, 34, 16, 24)
    given = inputs_of(types((2,), *size))
    found, loops = compiled(graph(types((2,), *size), _of_inputs), given, threads=1)
    q, k, v = given.values()
    wanted = attended(q / np.float32(0.75), k, v)
    assert np.abs(found - wanted).max() <= 2.0**-6 * np.abs(wanted).max()
    assert loops.count("kernel @") == 1
    assert ("dot(" in loops) == HOST.has_dot(BF16, 16)


def _of_inputs(b: Any, q: Any, k: Any, v: Any) -> Any:
    return b.matmul(plain(b, b.matmul(q, b.transpose(k, perm=(0, 2, 1)))), v)


def test_keys_may_lie_as_the_product_wants_them() -> None:
    def make(b: Any, q: Any, k: Any, v: Any) -> Any:
        return b.matmul(plain(b, b.matmul(q, k)), v)

    shapes = ((2, 20, 16), (2, 16, 37), (2, 37, 16))
    given = {f"x{i}": numbers(*shape, seed=i) for i, shape in enumerate(shapes)}
    found, _ = compiled(graph([TensorType(F32, s) for s in shapes], make), given, threads=1)
    q, k, v = given.values()
    wanted = attended(q / np.float32(0.75), np.swapaxes(k, 1, 2), v)
    assert np.abs(found - wanted).max() <= 2.0**-6 * np.abs(wanted).max()
