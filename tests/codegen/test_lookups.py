"""Tables of bytes: every target finds the entry of every byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.codegen.harness import TARGETS, Kernel
from tfc.compiler.codegen.host import missing_features
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.target import parse_target
from tfc.ir.attrs import Dense
from tfc.ir.core import Block, Function
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.nodes import LoopTypeError
from tfc.ir.types import F32, I8, U8, BufferType, DType

PERMUTES = "avx512,+avx512vbmi"
ALL_TARGETS = (*TARGETS, *([] if missing_features(parse_target(PERMUTES)) else [PERMUTES]))
ALL = np.arange(256, dtype=np.uint8)


def table(dtype: DType) -> Any:
    values = np.random.default_rng(1).permutation(ALL)
    return values if dtype == U8 else values.view(np.int8)


def kernel(lanes: int, dtype: DType) -> Function:
    block = Block([BufferType(t, (256,), (1,)) for t in (U8, dtype)], ["x", "y"])
    b = LoopBuilder(block)
    values = Dense(tuple(table(dtype).tolist()))
    for start in range(0, 256, lanes or 1):
        if lanes:
            x = b.vload(block.args[0], [start], lanes)
            b.vstore(b.lookup(values, x, dtype), block.args[1], [start])
        else:
            b.store(b.lookup(values, b.load(block.args[0], start), dtype), block.args[1], start)
    b.emit("return")
    return Function("kernel", block, "kernel")


@pytest.mark.parametrize("target", ALL_TARGETS)
@pytest.mark.parametrize("dtype", [U8, I8], ids=str)
@pytest.mark.parametrize("lanes", [0, 4, 16, 64, 128])
def test_every_byte_finds_its_entry(target: str, dtype: DType, lanes: int) -> None:
    found = np.zeros_like(table(dtype))
    Kernel(kernel(lanes, dtype), parse_target(target))(ALL[::-1].copy(), found)
    np.testing.assert_array_equal(found, table(dtype)[::-1])


def test_registers_are_permuted_where_an_instruction_does_that() -> None:
    assert "vpermi2var" in kernel_text(kernel(16, U8), parse_target(PERMUTES))
    assert "vpermi2var" not in kernel_text(kernel(64, U8), parse_target("avx512"))
    assert "pshuf" in kernel_text(kernel(64, U8), parse_target("avx512"))


def test_a_table_is_looked_up_by_bytes_and_has_all_of_them() -> None:
    block = Block([BufferType(t, (4,), (1,)) for t in (U8, F32)], ["x", "y"])
    b = LoopBuilder(block)
    byte, number = (b.load(arg, 0) for arg in block.args)
    with pytest.raises(LoopTypeError, match="looks up u8"):
        b.lookup(Dense((0,) * 256), number, U8)
    with pytest.raises(LoopTypeError, match="not one value for each"):
        b.lookup(Dense((0,) * 16), byte, U8)
    with pytest.raises(LoopTypeError, match="not bytes"):
        b.lookup(Dense((0,) * 256), byte, F32)
