"""AMX instructions as they are emitted, executed: bits, faults, and what a configuration holds.

Where the CPU has none, the handler of `amx_trap.c` does what the manual says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.codegen.amx import HOST, TARGET, Trap
from tests.codegen.harness import Kernel
from tests.codegen.test_tiles import SHAPES
from tests.codegen.tiles import PAIRS, arguments, bits, product
from tfc.ir.core import Block, Function
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.interp import run_kernel
from tfc.ir.loop.nodes import TILE
from tfc.ir.types import F32, buffer


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(("x", "y"), PAIRS)
def test_instructions_give_the_bits_of_the_interpreter(
    x: Any, y: Any, special: bool, amx_trap: Trap
) -> None:
    for rows, width, columns in SHAPES:
        function = product(x, y, columns, width, twice=True)
        given = arguments(x, y, special=special)
        found = [[array.copy() for array in given] for _ in range(2)]
        with amx_trap.installed():
            Kernel(function, TARGET)(*found[0], rows, width // 4)
        run_kernel(function, [*found[1], rows, width // 4], {})
        assert amx_trap.error == ""
        np.testing.assert_array_equal(bits(found[0][2]), bits(found[1][2]))


def zeroed(rows: int) -> Function:
    """Store 0 into `rows` rows of an argument, as a known number or as one of the run."""
    block = Block([buffer(F32, 256)], ["x"])
    b = LoopBuilder(block)
    with b.tiles([buffer(F32, 16, 7, space=TILE)], [rows]) as (tile,):
        b.tile_zero(tile)
        b.tile_store(tile, block.args[0], 2, 9)
    b.emit("return")
    return Function("kernel", block, "kernel")


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_a_tile_stores_its_own_rows_and_columns_alone(rows: int, amx_trap: Trap) -> None:
    array = np.ones(256, np.float32)
    with amx_trap.installed():
        Kernel(zeroed(rows), TARGET)(array)
    wanted = np.ones(256, np.float32)
    for row in range(rows):
        wanted[2 + 9 * row : 9 + 9 * row] = 0
    np.testing.assert_array_equal(array, wanted)
    assert amx_trap.error == ""


@pytest.mark.skipif(HOST.uses_amx, reason="the CPU itself would raise a fault")
@pytest.mark.parametrize(
    ("rows", "steps", "message"),
    [(0, 16, "no area"), (17, 16, "too large"), (16, 3, "do not fit"), (1, 17, "too large")],
)
def test_faults_of_the_cpu_are_noticed(rows: int, steps: int, message: str, amx_trap: Trap) -> None:
    given = arguments(*PAIRS[0])
    with amx_trap.installed():
        Kernel(product(*PAIRS[0]), TARGET)(*given, rows, steps)
    assert message in amx_trap.error
