"""Predictions of kernels' times: what limits them, and what threads and sizes change."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lower.native import graph
from tfc.compiler.cost.attention import Head, score_tiles
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.cost.predict import CALL_SECONDS, predict
from tfc.compiler.cost.work import work_of
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Block, Function, Module, Value
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.types import F32, TensorType, VectorType, buffer

MACHINE = machine_of(parse_target("avx512")).measured(256.0, 10.0)


def kernel_of(module: Module) -> Function:
    run(module, PassContext(target=MACHINE.target, level=2))
    program = lower(module, MACHINE.target, {}, fast=frozenset())
    (kernel,) = (f for f in program.functions.values() if f.kind == "kernel")
    return kernel


def product(rows: int, inputs: int, outputs: int) -> Function:
    def make(b: GraphBuilder, x: Value, y: Value) -> Value:
        return b.matmul(x, y)  # type: ignore[no-any-return]

    return kernel_of(
        graph([TensorType(F32, (rows, inputs)), TensorType(F32, (inputs, outputs))], make)
    )


def doubled(size: int) -> Function:
    def make(b: GraphBuilder, x: Value) -> Value:
        return b.add(x, x)  # type: ignore[no-any-return]

    return kernel_of(graph([TensorType(F32, (size,))], make))


def test_the_clock_follows_from_the_peak() -> None:
    assert MACHINE.rates.hertz == pytest.approx(4e9)
    assert MACHINE.peak == pytest.approx(256.0)


def test_work_counts_registers_and_loops() -> None:
    block = Block([buffer(F32, 64)], ["x"])
    b = LoopBuilder(block)
    with b.for_(0, 4) as loop:
        x = b.vload(block.args[0], [b.mul(loop.index, b.index(16))], 16)
        b.vstore(b.fma(x, x, b.const(1.0, VectorType(F32, 16))), block.args[0], [0])
    b.emit("return")
    work = work_of(Function("k", block, "kernel"), {})
    assert (work.flops, work.units, work.loads, work.stores) == (4 * 32, 4, 4, 4)
    halves = work_of(Function("k", block, "kernel"), {}, register_bits=256)
    assert (halves.units, halves.loads) == (8, 8)


def test_large_products_are_limited_by_arithmetic() -> None:
    found = predict(product(140, 256, 256), {}, MACHINE)
    assert found.limit == "arithmetic"
    least = 2 * 140 * 256 * 256 / (MACHINE.peak * 1e9)
    assert least <= found.seconds - CALL_SECONDS <= 1.1 * least


def test_what_exceeds_the_last_cache_is_limited_by_memory() -> None:
    size = MACHINE.target.l3
    found = predict(doubled(size), {}, MACHINE)
    assert found.limit == "memory"
    assert found.bytes == 8 * size
    assert found.seconds == pytest.approx(found.bytes / 10e9 + CALL_SECONDS)
    assert predict(doubled(64), {}, MACHINE).limit == "call"


def test_threads_share_tasks_but_not_memory() -> None:
    kernel = product(140, 256, 256)
    work = work_of(kernel, {})
    assert work.tasks > 1
    ratio = predict(kernel, {}, MACHINE, 2).seconds / predict(kernel, {}, MACHINE).seconds
    assert 0.5 <= ratio < 0.7
    size = MACHINE.target.l3
    assert predict(doubled(size), {}, MACHINE, 2).limit == "memory"
    assert (
        predict(doubled(size), {}, MACHINE, 2).seconds
        > 0.99 * predict(doubled(size), {}, MACHINE).seconds
    )


def attention(length: int, causal: bool) -> Function:
    given = [TensorType(F32, (4, length, 64))] * 3

    def make(b: GraphBuilder, q: Value, k: Value, v: Value) -> Value:
        scores = b.matmul(q, b.transpose(k, perm=(0, 2, 1)))
        if causal:
            hidden = np.triu(np.full((length, length), -np.inf), 1)
            scores = b.add(scores, b.constant(hidden, F32))
        return b.matmul(b.softmax(scores, axis=-1), v)  # type: ignore[no-any-return]

    return kernel_of(graph(given, make))


def test_of_keys_behind_a_diagonal_half_are_predicted() -> None:
    whole, half = (predict(attention(512, causal), {}, MACHINE) for causal in (False, True))
    assert whole.work.flops > 4 * 4 * 512 * 512 * 64
    assert 0.45 < half.work.flops / whole.work.flops < 0.65
    assert 0.45 < half.seconds / whole.seconds < 0.7


def test_tiles_of_scores_pad_few_rows() -> None:
    def rows(count: int) -> int:
        return score_tiles(MACHINE, Head(count, 64, 64, 64, 16))[0].value

    assert [rows(count) for count in (5, 128, 197, 1024)] == [5, 8, 11, 13]
