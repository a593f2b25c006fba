"""Tiles: what the ops mean, what the verifier refuses, and the instructions that they become."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from tests.codegen.harness import Kernel
from tests.codegen.tiles import PAIRS, arguments, bits, product
from tfc.compiler.codegen.emit import emit_assembly
from tfc.compiler.codegen.host import host_target
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.target import parse_target
from tfc.ir import arrays
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function, Module
from tfc.ir.errors import CompileError, VerifyError
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.interp import run_kernel
from tfc.ir.loop.nodes import TILE, LoopTypeError
from tfc.ir.loop.verify import verify_function
from tfc.ir.text.parser import parse_module
from tfc.ir.text.printer import print_module
from tfc.ir.types import BF16, F32, I8, I32, U8, buffer

Array = Any
EMULATED = dataclasses.replace(host_target(), emulates_tiles=True)
AMX = parse_target("sapphirerapids")
SHAPES = [(16, 64, 16), (1, 64, 16), (7, 12, 16), (16, 4, 3), (3, 20, 5)]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(("x", "y"), PAIRS)
@pytest.mark.parametrize(("rows", "width", "columns"), SHAPES)
def test_loops_over_vectors_give_the_bits_of_the_interpreter(
    x: Any, y: Any, rows: int, width: int, columns: int, special: bool
) -> None:
    function = product(x, y, columns, width, twice=True)
    given = arguments(x, y, special=special)
    found = [[array.copy() for array in given] for _ in range(2)]
    Kernel(function, EMULATED)(*found[0], rows, width // 4)
    run_kernel(function, [*found[1], rows, width // 4], {})
    np.testing.assert_array_equal(bits(found[0][2]), bits(found[1][2]))


@pytest.mark.parametrize(("x", "y"), PAIRS)
def test_a_product_of_tiles_is_that_of_matrices(x: Any, y: Any) -> None:
    group = 2 if x == BF16 else 4
    given = arguments(x, y)
    before = given[2].copy()
    run_kernel(product(x, y), [*given, 16, 16], {})
    wide = [arrays.decode(given[i], dtype).astype(np.float64) for i, dtype in enumerate((x, y))]
    left = wide[0][3 : 3 + 80 * 15 + 16 * group]
    left = np.lib.stride_tricks.as_strided(left, (16, 16 * group), (80 * 8, 8))
    right = wide[1].reshape(16, 72)[:, : 16 * group].reshape(16, 16, group)
    product_ = left @ right.swapaxes(1, 2).reshape(16 * group, 16)
    rows = [slice(5 + 24 * i, 21 + 24 * i) for i in range(16)]
    got = np.array([given[2][at] for at in rows])
    wanted = np.array([before[at] for at in rows]) + product_
    if x == BF16:
        scale = np.abs(left) @ np.abs(right.swapaxes(1, 2).reshape(16 * group, 16))
        assert (np.abs(got - wanted) <= 1e-6 * scale + 1e-6).all()
    else:
        np.testing.assert_array_equal(got, wanted.astype(np.int64).astype(np.int32))


def test_bf16_sums_even_and_odd_steps_apart_and_denormals_are_zeros() -> None:
    """The order of additions, by numbers of which another order loses one."""
    function = product(BF16, BF16)
    x, y, total = (np.zeros_like(array) for array in arguments(BF16, BF16))
    one = arrays.encode(np.float32([1]), BF16)[0]
    big, small = arrays.encode(np.float32([2.0**24, 2.0**-130]), BF16)
    # Row 0: 2^24 and 1 are both at even steps, where 1 is lost; row 1: one of them at an odd one.
    x[3], x[3 + 2], x[83], x[83 + 3] = big, one, big, one
    x[163] = small
    y.reshape(16, 72)[:, :32] = one
    total[5], total[29], total[53] = -(2.0**24), -(2.0**24), 2.0**-140
    run_kernel(function, [x, y, total, 16, 16], {})
    # 2^24 + 1 is halfway between two numbers and is rounded to the even one, so it is lost too.
    assert [total[5], total[29], total[53]] == [0, 0, 0]
    total[5] = -(2.0**24)
    x[3 + 4] = x[3 + 6] = one
    x[3 + 5] = x[3 + 7] = one
    run_kernel(function, [x, y, total, 16, 16], {})
    assert total[5] == 2, "the odd steps add up to 2 before they meet the even ones"


def module_of(function: Function) -> Module:
    module = Module("loop")
    module.add(function)
    return module


def test_text_of_tiles_is_parsed_back() -> None:
    text = print_module(module_of(product(U8, I8)))
    assert "tiles(" in text
    assert ", tile>" in text
    assert print_module(parse_module(text, ConstantStore())) == text


def tile_function(types: Any, rows: Any, body: Any) -> Function:
    block = Block([buffer(F32, 400), buffer(BF16, 4, 4)], ["x", "y"])
    b = LoopBuilder(block)
    with b.tiles(types, rows) as tiles:
        body(b, tiles, block.args)
    b.emit("return")
    return Function("kernel", block, "kernel")


WIDE = buffer(F32, 16, 16, space=TILE)
NARROW = buffer(BF16, 16, 32, space=TILE)


@pytest.mark.parametrize(
    ("types", "rows", "message"),
    [
        ([WIDE] * 9, [16] * 9, "only 8 tiles"),
        ([buffer(F32, 17, 16, space=TILE)], [16], "no tile of up to 16x64"),
        ([buffer(F32, 16, 17, space=TILE)], [16], "no tile of up to 16x64"),
        ([buffer(U8, 16, 6, space=TILE)], [16], "no tile of up to 16x64"),
        ([buffer(F32, 16, 16)], [16], "is not a tile"),
        ([WIDE], [], "no number of rows"),
    ],
)
def test_what_is_no_tile_is_refused(types: Any, rows: Any, message: str) -> None:
    function = tile_function(types, rows, lambda b, tiles, args: None)
    with pytest.raises(VerifyError, match=message):
        verify_function(module_of(function), function)


def test_tiles_are_not_shared_with_other_tasks() -> None:
    def body(b: LoopBuilder, tiles: Any, args: Any) -> None:
        with b.parallel(2):
            b.tile_zero(tiles[0])

    function = tile_function([WIDE], [16], body)
    with pytest.raises(VerifyError, match="parallel inside tiles"):
        verify_function(module_of(function), function)


@pytest.mark.parametrize(
    ("types", "body", "message"),
    [
        ([WIDE], lambda b, t, a: b.vload(t[0], [0, 0], 16), "by tile ops only"),
        ([WIDE], lambda b, t, a: b.tile_load(t[0], a[1], 0, 1), "not flat"),
        ([NARROW], lambda b, t, a: b.tile_load(t[0], a[0], 0, 1), "does not hold"),
        ([NARROW, WIDE], lambda b, t, a: b.tile_dot(t[0], t[1], t[1]), "does not multiply"),
        ([NARROW, NARROW], lambda b, t, a: b.tile_dot(t[0], t[0], t[1]), "adds products"),
        (
            [NARROW, buffer(F32, 8, 16, space=TILE)],
            lambda b, t, a: b.tile_dot(t[0], t[0], t[1]),
            "is no",
        ),
        ([WIDE], lambda b, t, a: b.tile_zero(a[0]), "is not a tile"),
    ],
)
def test_ops_of_tiles_check_their_types(types: Any, body: Any, message: str) -> None:
    with pytest.raises(LoopTypeError, match=message):
        tile_function(types, [16] * len(types), body)


def test_the_interpreter_checks_rows_and_accesses() -> None:
    def body(b: LoopBuilder, tiles: Any, args: Any) -> None:
        b.tile_load(tiles[0], args[0], 160, 16)

    buffers = [np.zeros(400, np.float32), np.zeros((4, 4), np.uint16)]
    run_kernel(tile_function([WIDE], [15], body), buffers, {})
    with pytest.raises(VerifyError, match="outside"):
        run_kernel(tile_function([WIDE], [16], body), buffers, {})
    with pytest.raises(VerifyError, match="0 rows"):
        run_kernel(tile_function([WIDE], [0], body), buffers, {})


def test_a_target_without_tiles_refuses_them() -> None:
    for level in ("avx2", "avx512", "sapphirerapids,-amx-tile"):
        with pytest.raises(CompileError, match="no tiles"):
            kernel_text(product(BF16, BF16), parse_target(level))
    with pytest.raises(CompileError, match="no tiles of i8"):
        kernel_text(product(I8, I8), parse_target("sapphirerapids,-amx-int8"))


@pytest.mark.parametrize(("x", "y"), PAIRS)
def test_each_op_is_one_instruction(x: Any, y: Any) -> None:
    assembly = emit_assembly(kernel_text(product(x, y, twice=True), AMX), AMX)
    found = re.findall(r"^\s+(ld[t]ilecfg|tile\w+|tdp\w+)\b", assembly, re.MULTILINE)
    dot = "tdpbf16ps" if x == BF16 else f"tdpb{x.kind[0]}{y.kind[0]}d"
    dot = dot.replace("tdpbi", "tdpbs").replace("id", "sd")
    assert found == [
        "ldtilecfg", "tileloadd", "tileloadd", "tileloadd", dot, dot, "tilestored", "tilerelease",
    ]  # fmt: skip
    assert "tmm0" in assembly


def test_a_known_configuration_is_a_constant_of_palette_1() -> None:
    block = Block([buffer(I32, 256)], ["x"])
    b = LoopBuilder(block)
    with b.tiles([buffer(I32, 16, 9, space=TILE), NARROW], [5, 16]) as (tile, _):
        b.tile_zero(tile)
        b.tile_store(tile, block.args[0], 0, 16)
    b.emit("return")
    text = kernel_text(Function("kernel", block, "kernel"), AMX)
    (data,) = re.findall(r"constant \[64 x i8\] \[(.*)\], align 64", text)
    config = [int(part.split()[1]) for part in data.split(", ")]
    wanted = [0] * 64
    wanted[0], wanted[16], wanted[18], wanted[48], wanted[49] = 1, 36, 64, 5, 16
    assert config == wanted
