"""Dims that a run decides: compiled programs, both interpreters and numpy agree."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tfc
from tfc.compiler.build import Options
from tfc.compiler.codegen.host import host_target
from tfc.compiler.driver import compile_module, lower_module
from tfc.compiler.source import parse_text
from tfc.ir.dims import evaluate, floordiv, maximum, minimum, mod, symbol
from tfc.ir.errors import UsageError
from tfc.ir.extent import highest, most
from tfc.ir.loop.interp import run_program
from tfc.ir.text import parse_module, print_module
from tfc.runtime.errors import RuntimeFault

Array = npt.NDArray[Any]

SELECT = """tfc 1 graph

func @main(%x: f32[N, 3], %mask: bool[N]) -> (rows, count, whole, mean)
  symbols {N, n}
{
  %front = neg(%x) : f32[N, 3]
  %i = cast(%mask) {dtype = i64} : i64[N]
  %k = reduce_sum(%i) {axes = [0], keepdims = false} : i64[]
  bind(%k) {symbol = "n", hi = N}
  %upto = cumsum(%i) {axis = 0, exclusive = false, reverse = false} : i64[N]
  %row = reshape(%upto) {shape = [1, N]} : i64[1, N]
  %at = iota() {shape = [n, 1], axis = 0} : i64[n, 1]
  %past = gt(%row, %at) : bool[n, N]
  %hit = cast(%past) {dtype = i64} : i64[n, N]
  %where = argmax(%hit) {axis = 1, keepdims = false, last = false} : i64[n]
  %rows = gather(%x, %where) {axis = 0} : f32[n, 3]
  %twice = add(%rows, %rows) : f32[n, 3]
  %whole = concat(%front, %twice) {axis = 0} : f32[N + n, 3]
  %mean = reduce_sum(%rows) {axes = [0], keepdims = false} : f32[3]
  %count = dims() {values = [n]} : i64[1]
  return(%rows, %count, %whole, %mean)
}
"""

LOOP = """tfc 1 graph

func @main(%x: f32[N], %counts: i64[R]) -> (sums)
  symbols {N, R, n}
{
  %sums = loop(%counts) {trips = R, scanned = [false], stacked = [false]} {
    ^(%i: i64[], %count: i64[]):
    bind(%count) {symbol = "n", hi = N}
    %a = slice(%x) {starts = [0], sizes = [n], steps = [1]} : f32[n]
    %t = reduce_sum(%a) {axes = [0], keepdims = false} : f32[]
    yield(%t)
  } : f32[R]
  return(%sums)
}
"""

HEAD = """tfc 1 graph

func @main(%x: f32[N], %k: i64[]) -> (y)
  symbols {N, n}
{
  bind(%k) {symbol = "n", hi = N}
  %y = slice(%x) {starts = [N - n], sizes = [n], steps = [1]} : f32[n]
  return(%y)
}
"""


LEVELS = ((1, 0), (2, 1), (3, 2), (1, 3))


def selected(x: Array, mask: Array) -> list[Array]:
    rows = x[mask]
    whole = np.concatenate([-x, 2 * rows])
    return [rows, np.array([len(rows)]), whole, rows.sum(axis=0, dtype=np.float32)]


def masks(size: int) -> list[Array]:
    random = np.random.default_rng(size)
    return [np.zeros(size, bool), np.ones(size, bool), *(random.random((3, size)) < 0.4)]


@pytest.fixture(scope="module")
def executables() -> list[Any]:
    graph = tfc.parse(SELECT)
    return [tfc.compile(graph, threads=threads, opt=opt) for threads, opt in LEVELS]


@pytest.mark.parametrize("size", [1, 7, 40])
def test_outputs_are_as_long_as_the_data_says(executables: list[Any], size: int) -> None:
    x = np.random.default_rng(0).standard_normal((size, 3), np.float32)
    for mask, executable in itertools.product(masks(size), executables):
        wanted = selected(x, mask)
        found = executable(x, mask)
        for got, reference, exact in zip(
            found, tfc.parse(SELECT).eval(x, mask), wanted, strict=True
        ):
            assert got.shape == reference.shape == exact.shape
            np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(reference, exact, rtol=1e-5, atol=1e-6)


def test_an_output_keeps_no_memory_that_is_mostly_unused(executables: list[Any]) -> None:
    x = np.ones((4000, 3), np.float32)
    mask = np.zeros(4000, bool)
    mask[5] = True
    rows = executables[0](x, mask)[0]
    assert rows.shape == (1, 3)
    assert rows.base is None or rows.base.size <= 3


def test_the_loop_level_means_the_same() -> None:
    program = lower_module(parse_text(SELECT), Options(host_target()))
    x = np.random.default_rng(1).standard_normal((9, 3), np.float32)
    for mask in masks(9):
        found = run_program(program, {"x": x, "mask": mask})
        for got, wanted in zip(found.values(), selected(x, mask), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stage", ["graph", "loops"])
def test_text_of_every_stage_reads_back(stage: str) -> None:
    module = parse_text(SELECT)
    if stage == "loops":
        module = lower_module(module, Options(host_target()))
    text = print_module(module)
    assert print_module(parse_module(text, module.constants)) == text


def test_each_round_of_a_loop_binds_anew() -> None:
    x, counts = np.arange(1, 9, dtype=np.float32), np.array([3, 0, 8, 1])
    graph = tfc.parse(LOOP)
    for run in (graph.eval, tfc.compile(graph)):
        np.testing.assert_array_equal(run(x, counts), [6, 0, 36, 1])


@pytest.mark.parametrize("count", [-1, 5])
def test_a_number_outside_of_its_bounds_fails_the_run(count: int) -> None:
    graph = tfc.parse(HEAD)
    x = np.arange(4, dtype=np.float32)
    with pytest.raises(UsageError, match=f"n is {count}, outside of 0..4"):
        graph.eval(x, np.int64(count))
    executable = tfc.compile(graph)
    with pytest.raises(RuntimeFault, match=r"n is outside of 0\.\.N"):
        executable(x, np.int64(count))
    np.testing.assert_array_equal(executable(x, np.int64(1)), [3])


def test_a_symbol_of_the_run_is_no_dim_to_fix() -> None:
    with pytest.raises(UsageError, match="no dim of the model is called 'n'"):
        parse_text(HEAD, {"n": 3})
    fixed = parse_text(HEAD, {"N": 3})
    assert "hi = 3" in print_module(fixed)


def test_the_manifest_lists_what_a_run_tells(executables: list[Any]) -> None:
    manifest = executables[0].manifest
    assert manifest["run_time"] == [{"name": "n", "hi": "N"}]
    assert [entry["name"] for entry in manifest["symbols"]] == ["N"]
    assert [port.told for port in executables[0].outputs] == [True, False, True, False]


# -- bounds ---------------------------------------------------------------------------------------

A, B, C = symbol("a"), symbol("b"), symbol("c")
SIZES = [
    A * 3 + 2,
    A * B,
    (A + 1) * (C - B),
    C - A,
    maximum(A, B),
    minimum(C, A + 5) * B,
    maximum(C - A * 2, 0),
    floordiv(A * 3 + B, 4),
    mod(A, 5),
    floordiv(C * 7, A + 1),
    mod(C, B + 2),
    floordiv(A - C, 3) * B,
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_most_is_never_less(size: Any) -> None:
    limits = {"a": C, "b": 4}
    bound = most(size, limits)
    for c in range(7):
        at_most = evaluate(bound, {"c": c})
        for a, b in itertools.product(range(c + 1), range(5)):
            assert evaluate(size, {"a": a, "b": b, "c": c}) <= at_most


def test_bounds_of_bounds_are_in_terms_of_what_a_run_starts_with() -> None:
    text = HEAD.replace("{N, n}", "{N, n, m}").replace(
        "  %y", '  bind(%k) {symbol = "m", hi = 2*n + 1}\n  %y'
    )
    assert highest(parse_text(text).main) == {"n": symbol("N"), "m": 2 * symbol("N") + 1}


# -- C --------------------------------------------------------------------------------------------

CALLER = r"""
#include <stdio.h>
#include <stdlib.h>
#include "select.h"

int main(void) {
  float x[5] = {1, 2, 3, 4, 5};
  int64_t k = 2, symbols[select_SYMBOLS];
  select_tensor in[2] = {{x, 0, {5}}, {&k, 0, {0}}}, out[1];
  if (select_shapes(in, out, symbols) || out[0].dims[0] != 5 || out[0].capacity != 20) return 1;
  out[0].data = malloc((size_t)out[0].capacity);
  select_ctx ctx = {0};
  for (k = 0; k <= 6; ++k) {
    int32_t code = select_run(&ctx, in, out);
    printf("%d", (int)code);
    if (!code) {
      printf(" %d:", (int)out[0].dims[0]);
      for (int64_t i = 0; i < out[0].dims[0]; ++i) printf(" %g", ((float *)out[0].data)[i]);
    }
    printf("\n");
  }
  out[0].capacity = 19;
  printf("%d\n", (int)select_run(&ctx, in, out));
  return 0;
}
"""


HELD = """tfc 1 graph

func @main(%x: f32[N], %s: i32[2]) -> (z)
  symbols {N, a: 0..4 = element(%s, 0), up = positive(%s, 1), down = negative(%s, 1),
           k = max(up - down, 0)}
{
  %y = tile(%x) {repeats = [a]} : f32[N*a]
  %z = pad(%y) {lo = [0], hi = [k], mode = "constant"} : f32[N*a + k]
  return(%z)
}
"""

READER = r"""
#include <limits.h>
#include <stdio.h>
#include "held.h"

int main(void) {
  float x[2] = {1, 2}, y[64], space[128];
  static const int32_t cases[][2] = {{2, 1}, {1, -3}, {0, 2}, {5, 0}, {-1, 0}, {1, INT_MIN}};
  for (int i = 0; i < 6; ++i) {
    held_tensor in[2] = {{x, 0, {2}}, {(void *)cases[i], 0, {2}}}, out[1];
    int64_t symbols[held_SYMBOLS];
    int32_t code = held_shapes(in, out, symbols);
    printf("%d", (int)code);
    if (!code) {
      printf(" %d %d %d:", (int)symbols[held_SYMBOL_a], (int)symbols[held_SYMBOL_k],
             (int)out[0].capacity);
      out[0].data = y;
      held_ctx ctx = {0};
      ctx.workspace = space;
      ctx.workspace_bytes = held_workspace_size(symbols, 1);
      if (ctx.workspace_bytes > 512 || held_run(&ctx, in, out)) return 1;
      for (int64_t j = 0; j < out[0].dims[0]; ++j) printf(" %g", y[j]);
    }
    printf("\n");
  }
  held_tensor in[2] = {{x, 0, {2}}, {0, 0, {2}}}, out[1];
  printf("%d", (int)held_shapes(in, out, 0));
  in[1].dims[0] = 1;
  printf(" %d\n", (int)held_shapes(in, out, 0));
  return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_c_program_knows_dims_that_inputs_hold_before_a_run(tmp_path: Path) -> None:
    build = compile_module(parse_text(HELD), Options(host_target(), "held", threads=False))
    build.write(tmp_path / "held.a")
    build.write_text(tmp_path / "held.h", build.header())
    (tmp_path / "reader.c").write_text(READER)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    command = ["cc", *flags, "reader.c", "held.a", "-o", "reader"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    ran = subprocess.run(["./reader"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert ran.stdout.decode().splitlines() == [
        "0 2 1 20: 1 2 1 2 0", "0 1 0 8: 1 2", "0 0 2 8: 0 0", "6", "6", "0 1 0 8: 1 2", "1 1",
    ]  # fmt: skip


def test_the_header_says_what_a_run_tells() -> None:
    header = compile_module(parse_text(HEAD), Options(host_target(), "select")).header()
    assert re.search(r"\* n is told by a run, at most N\n", header)
    assert "#define select_SYMBOLS 1\n" in header


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_c_program_gets_the_dims_of_each_run(tmp_path: Path) -> None:
    build = compile_module(parse_text(HEAD), Options(host_target(), "select", threads=False))
    build.write(tmp_path / "select.a")
    build.write_text(tmp_path / "select.h", build.header())
    (tmp_path / "caller.c").write_text(CALLER)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    command = ["cc", *flags, "caller.c", "select.a", "-o", "caller"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    ran = subprocess.run(["./caller"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    lines = ran.stdout.decode().splitlines()
    assert lines[:4] == ["0 0:", "0 1: 5", "0 2: 4 5", "0 3: 3 4 5"]
    assert lines[5:] == ["0 5: 1 2 3 4 5", "100", "2"]
