"""Floats to bytes: every target saturates and rounds alike, NaN included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.codegen.harness import Kernel, all_targets
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.target import parse_target
from tfc.ir.core import Block, Function
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.types import F32, U8, BufferType

VALUES = np.array(
    [
        0.0, -0.0, 0.5, 1.5, 2.5, 254.5, 254.49, 255.0, 255.5, 256.0, 1e9, 4.2e9, 4.3e9, 1e30,
        np.inf, -np.inf, np.nan, -np.nan, -0.49, -0.5, -0.51, -1.0, -1e9, -3e9, -1e30, 1e-40,
        127.5, 128.5, 3.999, 200.25, 77.0, 2.0**31,
    ],
    np.float32,
)  # fmt: skip


def conversion(lanes: int, rounded: bool, added: int = 0) -> Function:
    block = Block([BufferType(dtype, (64,), (1,)) for dtype in (F32, U8)], ["x", "y"])
    b = LoopBuilder(block)
    for start in range(0, 64, lanes):
        x = b.vload(block.args[0], [start], lanes)
        x = b.round(x) if rounded else x
        x = b.add(x, b.const(added, x)) if added else x
        b.vstore(b.cast(x, U8), block.args[1], [start])
    b.emit("return")
    return Function("kernel", block, "kernel")


def expected(rounded: bool, added: int = 0) -> Any:
    x = np.rint(VALUES) if rounded else VALUES
    x = np.trunc(x + np.float32(added))
    return np.clip(np.nan_to_num(x, nan=0.0, posinf=1e9, neginf=-1e9), 0, 255).astype(np.uint8)


@all_targets
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("added", [0, 3, 255, -128, 20000])
@pytest.mark.parametrize("lanes", [4, 16, 32, 64])
def test_floats_saturate_to_bytes(target: str, rounded: bool, added: int, lanes: int) -> None:
    found = np.zeros(64, np.uint8)
    Kernel(conversion(lanes, rounded, added), parse_target(target))(np.tile(VALUES, 2), found)
    np.testing.assert_array_equal(found, np.tile(expected(rounded, added), 2))


def test_avx512_converts_and_rounds_at_once() -> None:
    text = kernel_text(conversion(16, True), parse_target("avx512"))
    assert "cvtps2udq" in text
    assert "cvtps2udq" not in kernel_text(conversion(16, True), parse_target("avx2"))


def test_avx512_packs_several_vectors_and_adds_in_between() -> None:
    text = kernel_text(conversion(64, True, 7), parse_target("avx512"))
    assert "packuswb" in text
    assert "sadd.sat" in text
    assert "packuswb" not in kernel_text(conversion(64, True, 7), parse_target("avx2"))
