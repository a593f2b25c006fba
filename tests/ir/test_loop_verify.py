"""The loop verifier accepts what is right and finds each kind of fault."""

from __future__ import annotations

import pytest

from tests.ir.support import graph, loop
from tfc.ir.errors import VerifyError
from tfc.ir.loop.verify import verify_loop
from tfc.ir.verify import verify

HEAD = "%x: buf<f32[4, 8]>, %y: buf<f32[N]>, %s: f32"
NUMBERS = """
  %0 = const() {value = 0, dtype = i64} : i64
  %1 = const() {value = 4, dtype = i64} : i64
  %f = const() {value = 1.0, dtype = f32} : f32
  %t = const() {value = true, dtype = bool} : bool
  %v = const() {value = 1.0, dtype = f32, lanes = 8} : vec<8xf32>
  %m = const() {value = true, dtype = bool, lanes = 4} : vec<4xbool>
"""

RIGHT = [
    "%a = vload(%x, %0, %0) {lanes = 8} : vec<8xf32>",
    "%n = dim() {expr = 2*N + threads} : i64",
    "%r = for(%0, %1, %f) {\n^(%i: i64, %a: f32):\nyield(%a)\n} : f32",
    "parallel(%1, %t) {\n^(%i: i64, %w: i64):\nyield()\n}",
    "%i = if(%t) {\nyield(%f)\n} {\nyield(%s)\n} : f32",
    "%a = alloca() {type = buf<f32[4, 8], stack>} : buf<f32[4, 8], stack>",
    '%r = reduce(%v) {kind = "max"} : f32',
]

WRONG = [
    ("%a = add(%f, %0) : f32", "add: operands differ in type"),
    ("%a = add(%f, %f) : f64", r"add: has results \(f64\), its rule says \(f32\)"),
    ("%a = add(%f) : f32", "add: takes 2 operands, not 1"),
    ("%a = sqrt(%0) : i64", "sqrt: does not apply to i64"),
    ("%a = load(%x, %0) : f32", "load: 1 indices into"),
    ("%a = load() : f32", "load: its rule failed: IndexError"),
    ("store(%0, %x, %0, %0)", "store: stores i64 into"),
    ("%a = vload(%x, %0, %0) {lanes = 8, axis = 2} : vec<8xf32>", "axis 2 is out of range"),
    ("%a = vload(%x, %0, %0, %m) {lanes = 8, masked = true} : vec<8xf32>", "vload: the mask"),
    ("%a = splat(%f) {lanes = 0} : vec<0xf32>", "expected a vector type"),
    ("%a = extract(%v) {lane = 8} : f32", "extract: lane 8 of vec<8xf32>"),
    ("%a = insert(%0, %v) {lane = 1} : vec<8xf32>", "insert: inserts i64 into vec<8xf32>"),
    ('%a = reduce(%v) {kind = "and"} : f32', "reduce: and of vec<8xf32>"),
    ('%a = reduce(%v) {kind = "mean"} : f32', "reduce: unknown reduction 'mean'"),
    ("%n = dim() {expr = M} : i64", "dim: M speaks of undeclared M"),
    ("%a = alloca() {type = buf<f32[N]>} : buf<f32[N]>", "on the stack is not of fixed size"),
    ("%r = for(%0, %1, %f) {\n^(%i: i64):\nyield(%f)\n} : f32", "for: the region takes"),
    ("%r = for(%0, %1, %f) {\n^(%i: i64, %a: f32):\nyield()\n} : f32", r"for: yields \(\)"),
    ("for(%0, %1) {step = 0} {\n^(%i: i64):\nyield()\n}", "for: the step is not positive"),
    ("parallel(%1) {\n^(%i: i64):\nyield()\n}", "parallel: the region takes"),
    ("parallel(%1) {\n^(%i: i64, %w: i64):\nyield(%i)\n}", "a parallel region yields nothing"),
    ("%i = if(%t) {\nyield(%f)\n} {\nyield(%0)\n} : f32", r"but region 1 yields \(i64\)"),
    ("if(%f) {\nyield()\n} {\nyield()\n}", "if: the condition is not a bool scalar"),
    ('check(%t) {code = 5, message = "no"}', "check: stands in a kernel"),
]


def module(body: str, head: str = HEAD) -> str:
    return f"kernel @k({head}) symbols {{N}} {{\n{NUMBERS}\n{body}\nreturn()\n}}"


@pytest.mark.parametrize("body", RIGHT)
def test_right_kernel_is_accepted(body: str) -> None:
    verify_loop(loop(module(body)))


@pytest.mark.parametrize(("body", "message"), WRONG)
def test_fault_is_found(body: str, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        verify(loop(module(body)))
    assert type(caught.value).__name__ == ("ModelError" if "expected" in message else "VerifyError")


PROGRAM = """
data {@w: buf<f32[4]> = @00}
kernel @k(%x: buf<f32[N]>, %y: buf<f32[N], workspace>, %s: f32) symbols {N} { return() }
main @main(%in0: buf<f32[N]>, %out0: buf<f32[N]>)
  symbols {N}
  attrs {inputs = [["x", f32[N]]], outputs = [["y", f32[N]]], workspace = 4*N}
{
  %0 = const() {value = 0, dtype = i64} : i64
  %s = const() {value = 1.0, dtype = f32} : f32
  %w = constant() {name = "w", type = buf<f32[4]>} : buf<f32[4]>
  %t = workspace(%0) {type = buf<f32[N]>} : buf<f32[N]>
  call(%in0, %t, %s) {callee = "k"}
  return()
}
"""


def test_right_program_is_accepted() -> None:
    verify(loop(PROGRAM))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("call(%in0, %t, %s)", "call(%in0, %w, %s)", r"call: passes .* but @k takes"),
        ("call(%in0, %t, %s)", "call(%in0, %t)", r"call: passes .* but @k takes"),
        ('callee = "k"', 'callee = "main"', "call: there is no kernel @main"),
        ('name = "w"', 'name = "v"', "constant: there is no data @v"),
        ("symbols {N} { return() }", "symbols {N, M} { return() }", "@k needs the symbols M"),
        ('outputs = [["y", f32[N]]]', "outputs = []", "2 arguments, but 1 inputs and outputs"),
        ('[["y", f32[N]]]', '[["y", i32[N]]]', r"y is i32\[N\], but the argument is buf"),
        ('[["y", f32[N]]]', '["y"]', '"y" in outputs is no name and type'),
        ("workspace = 4*N", "workspace = 4*M", "M speaks of undeclared M"),
        ("workspace = 4*N", 'workspace = "all"', "the workspace is not a number of bytes"),
        ("symbols {N}\n", "symbols {N, threads}\n", "declares 'threads'"),
        ("%s: f32)", "%s: f32, %z: buf<f32[1]>)", "buffers stand before scalars"),
        ("%0 = const() {value = 0, dtype = i64} : i64\n", "", "%0 is not defined here"),
        ("return()\n}", "return(%s)\n}", "return: a function returns nothing"),
    ],
)
def test_fault_of_a_program_is_found(old: str, new: str, message: str) -> None:
    assert old in PROGRAM
    with pytest.raises(Exception, match=message):
        verify(loop(PROGRAM.replace(old, new)))


def test_ops_of_the_other_level_are_refused() -> None:
    with pytest.raises(VerifyError, match="is of level 'graph', not loop"):
        verify_loop(graph("return(%x)"))
    strange = graph("%a = relu(%x) : f32[2]\nreturn(%a)")
    strange.level = "loop"
    strange.main.kind = "kernel"
    with pytest.raises(VerifyError, match="buffers stand before scalars"):
        verify(strange)
