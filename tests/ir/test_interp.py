"""The graph interpreter runs references with symbols bound, and refuses inputs that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ir.support import graph
from tfc.ir import arrays
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Module
from tfc.ir.errors import CompileError, UsageError
from tfc.ir.interp import evaluate, evaluate_ops
from tfc.ir.opdef import OPS, Kind, OpDef
from tfc.ir.types import BF16, F32

X = np.array([[1, -2], [3, 4], [5, 6]], np.float32)


def run(module: Module, **inputs: Any) -> dict[str, Any]:
    return evaluate(module, inputs, ConstantStore())


def test_symbols_are_bound_from_shapes_and_put_into_attributes() -> None:
    body = """
  %n = dims() {values = [2*N, N + 1]} : i64[2]
  %f = reshape(%x) {shape = [2*N]} : f32[2*N]
  return(%f, %n)
"""
    module = graph(body, head="%x: f32[N, 2]", outputs="f, n", symbols="N: 1..3")
    found = run(module, x=X)
    np.testing.assert_array_equal(found["f"], X.reshape(-1))
    np.testing.assert_array_equal(found["n"], [6, 4])
    with pytest.raises(UsageError, match=r"N is 4, outside 1\.\.3"):
        run(module, x=np.zeros((4, 2), np.float32))


def test_fused_regions_run_inline() -> None:
    body = """
  %a = fused(%x, %x) {
    ^(%p: f32[3, 2], %q: f32[3, 2]):
    %s = add(%p, %q) : f32[3, 2]
    %r = relu(%s) : f32[3, 2]
    yield(%r, %s)
  } : f32[3, 2], f32[3, 2]
"""
    body = body.replace("%a =", "%a, %b =") + "return(%b, %a)"
    found = run(graph(body, head="%x: f32[3, 2]", outputs="s, r"), x=X)
    np.testing.assert_array_equal(found["s"], 2 * X)
    np.testing.assert_array_equal(found["r"], np.maximum(2 * X, 0))


def test_bf16_is_raw_bits_outside_and_rounded_after_each_op() -> None:
    body = "%y = add(%x, %x) : bf16[2]\n%z = mul(%y, %y) : bf16[2]\nreturn(%z)"
    module = graph(body, head="%x: bf16[2]")
    x = arrays.make([1.0078125, 3.0], BF16)
    found = run(module, x=x)["y"]
    assert found.dtype == np.uint16
    wide = arrays.decode(x, BF16)
    np.testing.assert_array_equal(found, arrays.make((wide + wide) ** 2, BF16))


def test_stored_constants_come_from_the_store() -> None:
    store = ConstantStore()
    data = np.arange(100, dtype=np.float32)
    ref = store.add(data, F32)
    body = f"%w = constant() {{value = @{ref.hash}, dtype = f32, shape = [100]}} : f32[100]"
    module = graph(body + "\n%y = add(%x, %w) : f32[100]\nreturn(%y)", head="%x: f32[1]")
    found = evaluate(module, {"x": np.ones(1, np.float32)}, store)
    np.testing.assert_array_equal(found["y"], data + 1)


def test_every_result_is_given_to_the_visitor_in_order() -> None:
    body = """
  %a = neg(%x) : f32[2]
  %b = fused(%a) {
    ^(%p: f32[2]):
    %c = exp(%p) : f32[2]
    yield(%c)
  } : f32[2]
  return(%b)
"""
    seen: list[str] = []
    x = np.zeros(2, np.float32)
    evaluate_ops(graph(body), {"x": x}, ConstantStore(), lambda v, a: seen.append(v.name))
    assert seen == ["a", "c", "b"]


def test_value_that_is_used_twice_and_returned_outlives_its_uses() -> None:
    body = "%a = neg(%x) : f32[2]\n%b = add(%a, %a) : f32[2]\nreturn(%a, %b, %x, %a)"
    found = run(graph(body, outputs="a, b, x, c"), x=np.ones(2, np.float32))
    assert [value[0] for value in found.values()] == [-1, -2, 1, -1]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"input 'x' is missing \(it is f32\[N, 2\]\)"),
        ({"x": X, "z": X}, r"there is no input 'z' \(inputs: x\)"),
        ({"x": X.astype(np.float64)}, "input 'x' is float64, not f32"),
        ({"x": [[1.0, 2.0]]}, "input 'x' is float64, not f32"),
        ({"x": X[0]}, r"input 'x' has rank 1, not 2: it is f32\[N, 2\]"),
        ({"x": X.T}, "input 'x': dim 1 is 3, not 2"),
    ],
)
def test_unfit_input_is_refused_by_name(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(graph("return(%x)", head="%x: f32[N, 2]", symbols="N"), **inputs)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros(3, np.float32), r"gave \[3\] for f32\[2\]"),
        (np.zeros((2, 1), np.float32), r"gave float32\[2, 1\] for f32\[2\]"),
        (np.zeros(2, np.float64), r"gave float64\[2\] for f32\[2\]"),
        ((), "gave 0 results"),
    ],
)
def test_reference_that_contradicts_inference_is_a_compile_error(
    result: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    defn = OpDef("probe", lambda types, attrs: types, lambda attrs, x: result, Kind.OPAQUE, "")
    monkeypatch.setitem(OPS, "probe", defn)
    module = graph("%a = probe(%x) : f32[2]\nreturn(%a)")
    with pytest.raises(CompileError, match=message):
        run(module, x=np.ones(2, np.float32))


def test_size_that_the_data_decide_binds_its_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    defn = OpDef("probe", lambda t, a: t, lambda attrs, x: x[x > 0], Kind.OPAQUE, "")
    monkeypatch.setitem(OPS, "probe", defn)
    body = "%a = probe(%x) : f32[K]\n%k = dims() {values = [K]} : i64[1]\nreturn(%a, %k)"
    module = graph(body, outputs="a, k", head="%x: f32[4]", symbols="K")
    found = run(module, x=np.array([1, -1, 2, 3], np.float32))
    assert found["k"].tolist() == [3]
