"""Steps of convolutions that read padding alone are left out, and borders that none reads."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.lower.native import Code, graph, lowered
from tfc.compiler.codegen.host import host_target
from tfc.compiler.lower import margins
from tfc.compiler.lower.contract import Contraction, Tile
from tfc.compiler.lower.kernels import KernelBuilder
from tfc.compiler.lower.margins import Margin, Taps
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.ir import dims
from tfc.ir.arrays import Array
from tfc.ir.body import Iter
from tfc.ir.core import Module, Op, SymbolInfo, Value
from tfc.ir.dims import DimLike, symbol
from tfc.ir.interp import evaluate
from tfc.ir.types import F32, TensorType

H, W, N = symbol("h"), symbol("w"), symbol("n")
SLOW = pytest.mark.slow
RNG = np.random.default_rng(0)


def _program(make: Any, shape: tuple[DimLike, ...]) -> tuple[Module, Module, Code]:
    """The graph of `make`, its program and its code."""
    symbols = {str(n): SymbolInfo() for n in shape if not isinstance(n, int)}
    source, module = (graph([TensorType(F32, shape)], make, symbols) for _ in range(2))
    run(module, PassContext(target=host_target()))
    program = lowered(module, host_target(), {"h": 16, "w": 16, "n": 1})
    return source, program, Code([program], host_target())


def _agree(parts: tuple[Module, Module, Code], shape: tuple[int, ...]) -> Array:
    source, program, code = parts
    x = RNG.standard_normal(shape, np.float32)
    wanted = evaluate(source, {"x0": x}, source.constants)["y0"]
    found = code.run(program, {"x0": x})["y0"]
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)
    return found


def _conv(weights: Array, rate: int = 1, stride: int = 1, pads: Any = None, groups: int = 1) -> Any:
    attrs = {"strides": (stride, stride), "dilations": (rate, rate), "groups": groups}

    def make(b: Any, x: Value) -> Value:
        sides = pads or ((rate, rate),) * 2
        return b.relu(b.conv(x, b.constant(weights), pads=sides, **attrs))  # type: ignore[no-any-return]

    return make


def _window(weights: Array, strides: tuple[int, int], pads: Any) -> Any:
    def make(b: Any, x: Value) -> Value:
        w = b.constant(weights)
        return b.conv(x, w, strides=strides, pads=pads, dilations=(1, 1), groups=1)  # type: ignore[no-any-return]

    return make


def _weights(*shape: int) -> Array:
    return RNG.standard_normal(shape, np.float32)


@pytest.mark.parametrize(("rate", "stride", "pads"), [
    (1, 1, None), (6, 1, None), (3, 1, ((0, 7), (6, 2))),
    pytest.param(5, 2, None, marks=SLOW), pytest.param(4, 1, ((9, 9), (0, 8)), marks=SLOW),
])  # fmt: skip
def test_any_picture_by_one_program(rate: int, stride: int, pads: Any) -> None:
    parts = _program(_conv(_weights(24, 16, 3, 3), rate, stride, pads), (N, 16, H, W))
    least = 9 if pads else 1
    for size in ((1, 1, 1), (1, 1, 17), (2, 19, 2), (1, 5, 14), (3, 16, 16), (1, 33, 7)):
        n, h, w = (max(size[0], 1), *(max(each, least) for each in size[1:]))
        _agree(parts, (n, 16, h, w))


@pytest.mark.parametrize(("size", "rate", "taps"), [
    ((7, 7), 1, (3, 3)), ((16, 16), 12, (3, 3)), ((2, 30), 1, (2, 9)),
    *(pytest.param(*each, marks=SLOW) for each in (
        ((5, 20), 4, (5, 3)), ((3, 3), 2, (3, 3)), ((20, 9), 7, (3, 5)),
    )),
])  # fmt: skip
def test_pictures_of_a_fixed_size(size: tuple[int, int], rate: int, taps: tuple[int, int]) -> None:
    pads = tuple(((n - 1) * rate // 2,) * 2 for n in taps)
    _agree(_program(_conv(_weights(32, 8, *taps), rate, 1, pads), (2, 8, *size)), (2, 8, *size))


@pytest.mark.parametrize("taps", [(1, 2), (3, 2)])
def test_rows_and_columns_that_are_one_iterator(taps: tuple[int, int]) -> None:
    """Windows side by side read every column once, so that they go on behind the end of a row."""
    pads = ((taps[0] // 2,) * 2, (1, 1))
    make = _window(_weights(4, 4, *taps), (1, 2), pads)
    _agree(_program(make, (1, 4, 4, 6)), (1, 4, 4, 6))


@pytest.mark.parametrize("channels", [1, 8])
def test_rows_of_open_number_and_columns_that_are_one_iterator(channels: int) -> None:
    make = _window(_weights(3, channels, 2, 1), (1, 1), ((1, 1), (0, 0)))
    parts = _program(make, (1, channels, H, 5))
    for rows in (1, 4, 9):
        _agree(parts, (1, channels, rows, 5))


def test_groups_and_lines() -> None:
    _agree(_program(_conv(_weights(32, 8, 3, 3), 9, groups=2), (1, 16, H, W)), (1, 16, 11, 12))

    weights = _weights(32, 16, 3)

    def line(b: Any, x: Value) -> Value:
        w, pads = b.constant(weights), ((16, 0),)
        return b.conv(x, w, strides=(1,), pads=pads, dilations=(8,), groups=1)  # type: ignore[no-any-return]

    parts = _program(line, (1, 16, N))
    for n in (1, 5, 16, 40):
        _agree(parts, (1, 16, n))


def test_rows_of_a_border_that_no_tile_reads_are_not_filled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spans = []
    fill = KernelBuilder.border

    def border(self: KernelBuilder, op: Op, parts: Any, read: Any) -> Any:
        spans.append(tuple(read))
        return fill(self, op, parts, read)

    monkeypatch.setattr(KernelBuilder, "border", border)
    _program(_conv(_weights(16, 16, 3, 3), 30), (1, 16, H, W))
    ((_, _, rows, columns),) = spans
    assert rows == (30, H + 30)
    first, last = columns
    assert 0 < first < 30
    assert last == W + 60 - first


@pytest.mark.parametrize("rate", [1, 3, 12])
@pytest.mark.parametrize("stride", [1, 2])
def test_steps_between_the_ends_are_those_that_read_something(rate: int, stride: int) -> None:
    size, y = symbol("size"), Iter("y", symbol("rows"))
    margin = Margin(2, 8, size + 2 * rate, rate, size + rate)
    for unit in (1, 4):
        tap = Taps(Iter("k", 3 * unit), margin, stride * y.dim, rate, unit, (y,))
        for n, row in itertools.product((1, 2, 7, 16), range(8)):
            at = {"size": n, "y": row}
            inside = [k for k in range(3) if rate <= stride * row + rate * k < n + rate]
            found = range(dims.evaluate(tap.start, at), dims.evaluate(tap.stop, at))
            assert [k // unit for k in found] == [k for k in inside for _ in range(unit)]


@pytest.mark.parametrize(("size", "rate", "stride"), [
    ((4, 4), 1, 1), ((7, 9), 2, 1), ((9, 30), 1, 2), ((1, 5), 3, 1),
])  # fmt: skip
def test_the_share_of_steps_that_tiles_make(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], rate: int, stride: int
) -> None:
    seen = []

    def share(c: Contraction, found: Any) -> Any:
        seen.append((c, found))
        return shares(c, found)

    shares = margins.share
    monkeypatch.setattr(margins, "share", share)
    _program(_conv(_weights(16, 8, 3, 3), rate, stride), (2, 8, *size))
    ((c, found),) = seen
    for th, tw in ((1, 1), (1, 4), (2, 3), (3, 30)):
        tile = Tile(th, tw, 1, 16)
        rows = {it.name: n for it, n in zip(c.rows[::-1], (tw, th), strict=False)}
        wanted = 1.0
        for tap in margins.taps(c, tile, found):
            (it,) = tap.rows
            extent, count = dims.evaluate(it.extent, {}), dims.evaluate(tap.it.extent, {})
            height = min(rows.get(it.name, 1), extent)
            steps = []
            for start in range(0, extent, height):
                first = min(start, extent - height)
                last = first + height - 1
                stop = dims.evaluate(tap.stop, {it.name: first})
                steps.append(max(stop - dims.evaluate(tap.start, {it.name: last}), 0) / count)
            wanted *= float(np.mean(steps))
        assert shares(c, found)(tile) == pytest.approx(wanted)
        assert 0 < wanted <= 1
    if size == (4, 4):
        assert shares(c, found)(Tile(1, 1, 1, 16)) == pytest.approx((10 / 12) ** 2)
        assert shares(c, found)(Tile(4, 4, 1, 16)) == 1


def test_weights_that_are_not_finite_meet_the_zeros_around() -> None:
    weights = _weights(16, 16, 3, 3)
    weights[3, :, 0, 0] = np.inf
    parts = _program(_conv(weights, 12), (1, 16, H, W))
    source, program, code = parts
    x = np.ones((1, 16, 4, 4), np.float32)
    wanted = evaluate(source, {"x0": x}, source.constants)["y0"]
    found = code.run(program, {"x0": x})["y0"]
    assert np.isnan(wanted[:, 3]).all()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))


def test_a_border_that_others_read_is_filled() -> None:
    weights = _weights(16, 16, 3, 3)

    def make(b: Any, x: Value) -> Value:
        padded = b.pad(b.relu(x), lo=(0, 0, 5, 5), hi=(0, 0, 5, 5), mode="constant")
        w = b.constant(weights)
        y = b.conv(padded, w, strides=(1, 1), pads=((0, 0),) * 2, dilations=(5, 5), groups=1)
        pool = b.reduce_sum(b.exp(padded), axes=(2, 3), keepdims=True)
        return b.add(y, pool)  # type: ignore[no-any-return]

    parts = _program(make, (1, 16, H, W))
    for size in ((3, 4), (16, 7)):
        _agree(parts, (1, 16, *size))


def test_padding_by_another_number_is_read() -> None:
    weights = _weights(16, 16, 3, 3)

    def make(b: Any, x: Value) -> Value:
        fill = b.constant(np.float32(2))
        padded = b.pad(x, fill, lo=(0, 0, 5, 5), hi=(0, 0, 5, 5), mode="constant")
        w = b.constant(weights)
        return b.conv(padded, w, strides=(1, 1), pads=((0, 0),) * 2, dilations=(5, 5), groups=1)  # type: ignore[no-any-return]

    _agree(_program(make, (1, 16, H, W)), (1, 16, 4, 9))
