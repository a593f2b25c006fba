"""Attention without the keys behind a causal mask's diagonal: the same numbers, NaN included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import Code, can_run
from tests.lower.test_attention import (
    HOST,
    LOWEST,
    Chain,
    assert_near,
    attended,
    attention_graph,
    inputs_of,
    is_one,
    program_of,
    softmax,
    types,
)
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.ir.arrays import Array
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.dims import DimLike, symbol
from tfc.ir.loop.interp import run_program
from tfc.ir.ops.control import FusedAttrs
from tfc.ir.types import F32, F64, I64, DType

INF = float("inf")
SIZES = ((64, 64), (40, 33), (33, 40), (7, 100), (100, 7))


def causal(
    m: DimLike, n: DimLike, k: DimLike = 0, hidden: float = LOWEST, dtype: DType = F32
) -> Chain:
    """Softmax of scores to which `hidden` is added behind diagonal k."""

    def chain(b: Any, s: Any) -> Any:
        row = b.iota(shape=(1, m, n), axis=1, dtype=I64)
        key = b.iota(shape=(1, m, n), axis=2, dtype=I64)
        shift = b.constant(k, I64) if isinstance(k, int) else b.dims(values=(k,), rank=0)
        zero, low = b.constant(0.0, dtype), b.constant(hidden, dtype)
        return b.softmax(b.add(s, b.select(b.le(key, b.add(row, shift)), zero, low)), axis=-1)

    return chain


def masked(m: int, n: int, k: int = 0, hidden: float = LOWEST) -> Any:
    keep = np.arange(n) <= np.arange(m)[:, None] + k
    return lambda s: softmax(s + np.where(keep, 0, hidden))


def limited(program: Module) -> bool:
    """Whether the kernel looks at the numbers before it leaves out keys."""
    kernels = [f for f in program.functions.values() if f.kind == "kernel"]
    return any(op.name == "if" for kernel in kernels for op in kernel.block.walk())


@pytest.mark.parametrize("k", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (5, -3))])
def test_every_size_is_right(k: int) -> None:
    hidden = LOWEST if k >= 0 else -INF
    cases = [types((2,), m, n, 16, 24) for m, n in SIZES]
    programs = [program_of(attention_graph(case, causal(m, n, k, hidden)))
                for case, (m, n) in zip(cases, SIZES, strict=True)]  # fmt: skip
    code = Code(programs, HOST)
    for case, program, (m, n) in zip(cases, programs, SIZES, strict=True):
        given = inputs_of(case)
        assert is_one(program)
        found = code.run(program, given)["y0"]
        assert_near(found, attended(given.values(), masked(m, n, k, hidden)))


@pytest.mark.parametrize("level", [level for level in ("x86-64", "avx2") if can_run(level)])
@pytest.mark.slow
def test_every_target_is_right(level: str) -> None:
    target = parse_target(level)
    for m, n, dtype in ((64, 64, F32), (45, 45, F64), (33, 50, F32)):
        case = types((2,), m, n, 12, 20, dtype)
        module = attention_graph(case, causal(m, n, hidden=-INF, dtype=dtype))
        program, given = program_of(module, target), inputs_of(case)
        assert limited(program)
        found = Code([program], target).run(program, given)["y0"]
        assert_near(found, attended(given.values(), masked(m, n, hidden=-INF)))


def test_no_access_is_out_of_bounds() -> None:
    """The interpreter checks each one."""
    case = types((1,), 21, 26, 5, 6)
    target = parse_target("avx2")
    program, given = program_of(attention_graph(case, causal(21, 26)), target), inputs_of(case)
    assert limited(program)
    found = run_program(program, given, {"threads": 2})["y0"]
    assert_near(found, attended(given.values(), masked(21, 26)))


def test_lengths_may_be_unknown() -> None:
    m, past = symbol("m"), symbol("past")
    symbols = {"m": SymbolInfo(0), "past": SymbolInfo(0)}
    case = types((2,), m, m + past, 16, 16)
    program = program_of(attention_graph(case, causal(m, m + past, past), symbols))
    assert limited(program)
    code = Code([program], HOST)
    for rows, before in ((1, 0), (1, 40), (5, 3), (40, 0), (64, 64), (100, 29), (0, 4)):
        given = inputs_of(types((2,), rows, rows + before, 16, 16))
        found = code.run(program, given)["y0"]
        wanted = attended(given.values(), masked(rows, rows + before, before))
        assert_near(found, wanted)


def _spoiled(name: str, given: dict[str, Array]) -> dict[str, Array]:
    """Inputs for which keys behind the diagonal do count."""
    given = {key: array.copy() for key, array in given.items()}
    match name:
        case "a key is NaN":
            given["x1"][0, 40, 3] = np.nan
        case "a key is infinite":
            given["x1"][0, -1, 0] = INF
        case "a value is infinite":
            given["x2"][0, 40, 2] = INF
        case "a value is NaN":
            given["x2"][0, -1] = np.nan
        case "a query is NaN":
            given["x0"][0, 7] = np.nan
        case "scores are beyond the mask":
            given["x0"] *= np.float32(1e18)
            given["x1"] *= np.float32(1e19)
    return given


@pytest.mark.parametrize("hidden", [LOWEST, -INF])
def test_numbers_that_are_not_moderate_are_as_without(hidden: float) -> None:
    m, n = 64, 64
    case = types((2,), m, n, 16, 24)
    chain = causal(m, n, hidden=hidden)
    programs = [program_of(attention_graph(case, chain)), _without(attention_graph(case, chain))]
    assert [limited(program) for program in programs] == [True, False]
    code = Code(programs, HOST)
    names = ("a key is NaN", "a key is infinite", "a value is infinite", "a value is NaN",
             "a query is NaN", "scores are beyond the mask", "nothing")  # fmt: skip
    for name in names:
        given = _spoiled(name, inputs_of(case))
        found, wanted = (code.run(program, given)["y0"] for program in programs)
        assert np.isnan(wanted).any() == (name not in ("nothing", "scores are beyond the mask"))
        if name == "nothing":
            assert_near(found, wanted, 1e-6)
        else:
            np.testing.assert_array_equal(found[:1], wanted[:1], name)


def _without(module: Module) -> Module:
    """The program that computes all scores, from the same group."""
    run(module, PassContext(target=HOST, level=2))
    for op in module.main.block:
        if op.name == "fused":
            op.set_attrs(FusedAttrs())
    return lower(module, HOST, {})


def test_threads_change_no_bit() -> None:
    m = n = 300
    case = types((1,), m, n, 32, 48)
    given = inputs_of(case)
    found = []
    for threads in (1, 2, 3):
        call = tfc.compile(tfc.Graph(attention_graph(case, causal(m, n))), threads=threads)
        found.append(np.asarray(call(*given.values())))
    for other in found[1:]:
        np.testing.assert_array_equal(other.view(np.uint32), found[0].view(np.uint32))
    assert_near(found[0], attended(given.values(), masked(m, n)))
