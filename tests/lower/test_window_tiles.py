"""Tiles of windows: nothing is computed twice where that can be, and neighbours share inputs."""

from __future__ import annotations

import math

import pytest

from tfc.compiler.cost.machine import machine_of
from tfc.compiler.cost.nest import Slide, window_tiles
from tfc.compiler.target import parse_target


@pytest.mark.parametrize(
    ("extent", "taps", "stride", "wanted"),
    [(14, 5, 1, (2, 7)), (28, 5, 1, (4, 4)), (7, 7, 1, (2, 7)), (56, 3, 1, (4, 4))],
)
def test_measured_choices(extent: int, taps: int, stride: int, wanted: tuple[int, int]) -> None:
    slide = Slide(extent, taps, stride)
    assert window_tiles(machine_of(parse_target("avx512")), slide, slide)[0].value == wanted


@pytest.mark.parametrize("level", ["x86-64", "avx2", "avx512"])
@pytest.mark.parametrize("extent", [1, 2, 3, 7, 13, 100])
def test_tiles_fit_into_half_of_the_registers(extent: int, level: str) -> None:
    target = parse_target(level)
    for high in (Slide(1), Slide(extent, 3)):
        tiles = window_tiles(machine_of(target), high, Slide(extent, 3))
        assert tiles == sorted(tiles, key=lambda tile: tile.cycles)
        for tile in tiles:
            rows, columns = tile.value
            held = min(rows, high.extent) * min(columns, extent)
            assert 1 <= held <= target.vector_registers // 2
        assert len({tile.name for tile in tiles}) == len(tiles)
    assert math.prod(window_tiles(machine_of(target), Slide(1), Slide(1))[0].value) >= 1
