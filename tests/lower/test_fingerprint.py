"""Fingerprints tell apart what makes another kernel, and nothing else."""

from __future__ import annotations

import pytest

from tfc.compiler.build import Options
from tfc.compiler.driver import lower_module
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.fingerprint import code_fingerprint, fingerprint
from tfc.compiler.source import parse_text
from tfc.compiler.target import parse_target
from tfc.ir.body import Apply, Load, Number
from tfc.ir.core import Block, Function, Value
from tfc.ir.dims import symbol
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.text.printer import print_module
from tfc.ir.types import F32, TensorType, buffer

LAYERS = """tfc 1 graph

func @main(%x: f32[64, 48], %w: f32[48, 48]) -> (y) {
  %a = matmul(%x, %w) : f32[64, 48]
  %b = exp(%a) : f32[64, 48]
  %c = matmul(%b, %w) : f32[64, 48]
  %d = exp(%c) : f32[64, 48]
  %e = matmul(%d, %w) : f32[64, 48]
  %y = exp(%e) : f32[64, 48]
  return(%y)
}
"""

ATTENTION = """tfc 1 graph

func @main(%x: f32[2, 16, 8], %k: f32[2, 8, 16], %v: f32[2, 16, 8]) -> (y) {
  %a = matmul(%x, %k) : f32[2, 16, 16]
  %b = softmax(%a) {axis = -1} : f32[2, 16, 16]
  %c = matmul(%b, %v) : f32[2, 16, 8]
  %d = matmul(%c, %k) : f32[2, 16, 16]
  %e = softmax(%d) {axis = -1} : f32[2, 16, 16]
  %f = matmul(%e, %v) : f32[2, 16, 8]
  %g = matmul(%f, %k) : f32[2, 16, 16]
  %h = softmax(%g) {axis = -1} : f32[2, 16, 16]
  %y = matmul(%h, %v) : f32[2, 16, 8]
  return(%y)
}
"""


def value() -> Value:
    return Value(TensorType(F32, (8,)), Block(), 0)


def total(x: Value, y: Value) -> Apply:
    at = symbol("i")
    return Apply("add", (Load(x, (at,), F32), Load(y, (at,), F32)), F32)


def test_values_count_by_their_place_among_the_buffers() -> None:
    a, b, c, d = (value() for _ in range(4))
    assert fingerprint(total(a, b), (a, b)) == fingerprint(total(c, d), (c, d))
    assert fingerprint(total(a, b), (a, b)) != fingerprint(total(b, a), (a, b))


def test_a_value_that_is_no_buffer_is_itself_and_no_other() -> None:
    a, b, c = (value() for _ in range(3))
    assert fingerprint(total(a, b), (a,)) == fingerprint(total(a, c), (a,))
    assert fingerprint(total(b, b), ()) != fingerprint(total(b, c), ())


def test_what_is_shared_is_told_from_what_is_equal() -> None:
    once = Number(2.0, F32)
    shared = Apply("mul", (once, once), F32)
    apart = Apply("mul", (Number(2.0, F32), Number(2.0, F32)), F32)
    assert fingerprint(shared, ()) != fingerprint(apart, ())


@pytest.mark.parametrize("pair", [(0.0, -0.0), (1.0, 2.0), (1.0, float("nan"))])
def test_numbers_that_differ_in_bits_differ(pair: tuple[float, float]) -> None:
    x, y = (fingerprint(Number(number, F32), ()) for number in pair)
    assert x != y
    assert x == fingerprint(Number(pair[0], F32), ())


@pytest.mark.parametrize("pair", [(0.0, -0.0), (1.0, 2.0)])
def test_code_with_other_numbers_is_other_code(pair: tuple[float, float]) -> None:
    x, y = (code_fingerprint(stores(number, "k")) for number in pair)
    assert x != y
    assert x == code_fingerprint(stores(pair[0], "another name"))


def stores(number: float, name: str) -> Function:
    """A kernel that stores a number."""
    block = Block([buffer(F32, 8)])
    b = LoopBuilder(block)
    b.store(b.const(number, F32), block.args[0], 3)
    b.emit("return")
    return Function(name, block, "kernel")


@pytest.mark.parametrize("layers", [LAYERS, ATTENTION], ids=["products", "attention"])
def test_equal_layers_are_emitted_once_and_the_program_is_the_same(
    layers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitters: list[Emitter] = []
    start = Emitter.__init__

    def counted(self: Emitter, *args: object, **kwargs: object) -> None:
        emitters.append(self)
        start(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Emitter, "__init__", counted)
    options = Options(parse_target("avx2"), cache=None)
    program = lower_module(parse_text(layers), options)
    once, text = len(emitters), print_module(program)
    calls = [op for op in program.main.block if op.name == "call"]
    assert len(calls) > once

    emitters.clear()
    monkeypatch.setattr("tfc.compiler.lower.maker.fingerprint", lambda parts, buffers: object())
    assert print_module(lower_module(parse_text(layers), options)) == text
    assert len(emitters) == len(calls)
