"""Random ops: the generator's published answers, and distributions with bounds for fixed keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tfc.ir.ops  # noqa: F401  (fills the registry)
from tfc.ir.arrays import Array
from tfc.ir.build import freeze
from tfc.ir.opdef import OPS
from tfc.ir.types import F32, F64

KEYS = [0, 1, 2, 1 << 32, 0xDEADBEEF12345678]
# Kolmogorov's statistic stays below this in all but one of a thousand samples.
KOLMOGOROV = 1.95


def draw(name: str, key: int, *operands: Array, **attrs: Any) -> Array:
    op = OPS[name]
    values = op.attrs(**{k: freeze(v) for k, v in attrs.items()})
    return np.asarray(op.ref(values, np.array(key, np.uint64), *operands))


def kolmogorov(sample: Array, cdf: Any) -> float:
    """The largest distance between the sample's distribution and `cdf`, times sqrt(n)."""
    x = np.sort(sample.reshape(-1).astype(np.float64))
    expected, n = cdf(x), x.size
    above = np.arange(1, n + 1) / n - expected
    below = expected - np.arange(n) / n
    return float(max(above.max(), below.max()) * math.sqrt(n))


def normal_cdf(x: Array) -> Array:
    return np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


# From the known answers that Salmon et al. publish with Random123: counter, key, result.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_answers(
    counter: tuple[int, int], key: tuple[int, int], expected: tuple[int, int]
) -> None:
    packed = [np.array(low | high << 32, np.uint64) for low, high in (key, counter)]
    found = int(OPS["threefry"].ref(OPS["threefry"].attrs(), *packed))
    assert (found & 0xFFFFFFFF, found >> 32) == expected


def test_bits_of_a_shape_are_those_of_its_elements_in_a_row() -> None:
    whole = draw("random_bits", 7, shape=(24,))
    np.testing.assert_array_equal(draw("random_bits", 7, shape=(2, 3, 4)).reshape(-1), whole)
    np.testing.assert_array_equal(draw("random_bits", 7, shape=(5,)), whole[:5])


def test_each_bit_is_set_half_of_the_time() -> None:
    bits = draw("random_bits", 3, shape=(20_000,))
    for i in range(64):
        share = ((bits >> np.uint64(i)) & np.uint64(1)).mean()
        assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(bits.size), i


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_uniform_numbers_are_spread_evenly(dtype: Any, key: int) -> None:
    x = draw("random_uniform", key, shape=(100, 200), dtype=dtype)
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 0.5) < 4 / math.sqrt(12 * x.size)
    assert abs(x.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / x.size)
    assert kolmogorov(x, lambda v: v) < KOLMOGOROV


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_normal_numbers_are_distributed_normally(dtype: Any, key: int) -> None:
    x = draw("random_normal", key, shape=(20_000,), dtype=dtype)
    assert abs(x.mean()) < 4 / math.sqrt(x.size)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / x.size)
    assert abs((x.astype(np.float64) ** 4).mean() - 3) < 4 * math.sqrt(96 / x.size)
    assert kolmogorov(x, normal_cdf) < KOLMOGOROV


@pytest.mark.parametrize("name", ["random_uniform", "random_normal"])
def test_streams_of_different_keys_are_not_correlated(name: str) -> None:
    n = 20_000
    streams = np.array([draw(name, key, shape=(n,), dtype=F64) for key in KEYS])
    shifted = np.roll(streams[:1], 1, axis=1)
    found = np.corrcoef(np.concatenate([streams, shifted]))
    off = found[~np.eye(len(found), dtype=bool)]
    assert np.abs(off).max() < 4 / math.sqrt(n)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_bernoulli_is_true_as_often_as_asked(p: float) -> None:
    n = 40_000
    share = draw("bernoulli", 11, np.full(n, p, np.float32)).mean()
    assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("key", KEYS)
def test_multinomial_draws_classes_by_their_probabilities(key: int) -> None:
    p = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    with np.errstate(divide="ignore"):
        logits = np.log(p)[None].astype(np.float32) + 3
    n = 20_000
    counts = np.bincount(draw("multinomial", key, logits, count=n)[0], minlength=5)
    assert counts[1] == 0
    kept = p > 0
    chi2 = ((counts - n * p)[kept] ** 2 / (n * p)[kept]).sum()
    assert chi2 < 16.3, "the limit that 1 of 1000 samples passes, with 3 degrees of freedom"


def test_multinomial_of_many_classes_is_even() -> None:
    """The least of many exponential variables is far smaller than any step of a plain uniform."""
    classes, n = 5_000, 1_000
    drawn = draw("multinomial", 5, np.zeros((1, classes), np.float32), count=n)
    assert kolmogorov((drawn + 0.5) / classes, lambda v: v) < KOLMOGOROV
