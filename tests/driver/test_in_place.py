"""Outputs in the memory of inputs: the same results as without, and no needless copies."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfc
from tfc.compiler.build import Options
from tfc.compiler.codegen.host import host_target
from tfc.compiler.driver import compile_module, lower_module
from tfc.compiler.inplace import make_in_place
from tfc.compiler.source import parse_text
from tfc.graph import Graph, Tensor
from tfc.ir.errors import UsageError, VerifyError
from tfc.ir.inplace import IN_PLACE
from tfc.ir.loop.interp import run_program
from tfc.runtime.errors import InputError

Array = npt.NDArray[Any]

ROOM = 7


def cache() -> Graph:
    """One step of attention over a cache that grows along axis 1."""
    past = tfc.placeholder((2, "past", 3), name="past")
    new = tfc.placeholder((2, 1, 3), name="new")
    keys = tfc.concat(past, new * 2, axis=1)
    scores = tfc.softmax((new @ keys.transpose(0, 2, 1)), axis=-1)
    return Graph.of({"y": scores @ keys, "keys": keys}, inputs=[past, new])


GROWING = {"past": ("keys", ROOM)}


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def calls_of(graph: Graph, wanted: Mapping[str, Any]) -> list[str]:
    """The kernels that main calls, by name."""
    module = graph.copy()
    make_in_place(module, wanted)
    program = lower_module(module, Options(host_target()))
    return [op.attrs.callee for op in program.main.block.walk() if op.name == "call"]


@pytest.mark.parametrize("opt", [0, 2])
def test_a_cache_grows_in_its_own_memory(opt: int) -> None:
    graph = cache()
    plain = tfc.compile(graph, opt=opt)
    step = tfc.compile(graph, in_place=GROWING, opt=opt)
    whole = np.full((2, ROOM, 3), np.nan, np.float32)
    keys, copied = whole[:, :0], np.zeros((2, 0, 3), np.float32)
    for at in range(ROOM):
        new = random(2, 1, 3, seed=at)
        y, keys = step(keys, new)
        wanted, copied = plain(copied, new)
        np.testing.assert_array_equal(keys, copied)
        np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=1e-6)
        assert keys.base is whole
        assert keys.shape == (2, at + 1, 3)
    np.testing.assert_array_equal(whole, copied)
    with pytest.raises(InputError, match=f"size {ROOM}, but past must be 0 to {ROOM - 1}"):
        step(keys, random(2, 1, 3))


def test_a_cache_that_grows_is_not_copied() -> None:
    graph = cache()
    assert not [name for name in calls_of(graph, GROWING) if "copy" in name]
    assert [name for name in calls_of(graph, {}) if "copy" in name]


def test_fixed_dims_grow_too() -> None:
    x = tfc.placeholder((3, 2), name="x")
    run = tfc.compile(outputs={"y": tfc.concat(x, x[:1], axis=0)}, in_place={"x": ("y", 5)})
    whole = np.zeros((5, 2), np.float32)
    whole[:3] = random(3, 2)
    y = run(whole[:3])
    np.testing.assert_array_equal(y, [*whole[:3], whole[0]])
    assert np.shares_memory(y, whole)
    assert not whole[4].any()


def test_a_sum_is_made_in_its_operand() -> None:
    w, g = (tfc.placeholder(("n", 5), name=name) for name in "wg")
    graph = Graph.of({"next": w - g * 0.5})
    run = tfc.compile(graph, in_place={"w": "next"}, threads=2)
    for rows in (0, 1, 4, 3000):
        before, slope = random(rows, 5), random(rows, 5, seed=1)
        now = before.copy()
        assert run(now, slope) is now
        np.testing.assert_array_equal(now, before - slope * np.float32(0.5))
    assert calls_of(graph, {"w": "next"}) == calls_of(graph, {})


def updated(op: str) -> Graph:
    x = tfc.placeholder((50, 4), name="x")
    rows = tfc.placeholder((2, 1), "i64", name="rows")
    new = tfc.placeholder((2, 4), name="new")
    return Graph.of({"y": tfc.scatter_nd(x, rows, new, reduction=op)})


@pytest.mark.parametrize("op", ["none", "add"])
def test_a_scatter_writes_the_new_rows_alone(op: str) -> None:
    graph = updated(op)
    run = tfc.compile(graph, in_place={"x": "y"})
    x, rows, new = random(50, 4), np.array([[3], [40]]), random(2, 4, seed=1)
    wanted = graph.eval(x, rows, new)
    assert run(x, rows, new) is x
    np.testing.assert_array_equal(x, wanted)
    module = graph.copy()
    make_in_place(module, {"x": "y"})
    text = Graph(lower_module(module, Options(host_target()))).text()
    assert "aliased = true" in text
    assert "[200]" in text
    assert "4096" not in text, "a copy goes through the rows in parts of 4096"


def exchanged() -> Graph:
    a, b = (tfc.placeholder((3, 3), name=name) for name in "ab")
    return Graph.of({"x": b, "y": a}, inputs=[a, b])


def turned() -> Graph:
    a, b = (tfc.placeholder((3, 3), name=name) for name in "ab")
    return Graph.of({"x": a.T + b, "y": b + 1}, inputs=[a, b])


def read_later() -> Graph:
    a, b = (tfc.placeholder((3, 3), name=name) for name in "ab")
    x = tfc.relu(a)
    return Graph.of({"x": x, "y": x @ b, "z": a @ x, "a": a}, inputs=[a, b])


def shifted() -> Graph:
    a, b = tfc.placeholder((3, 3), name="a"), tfc.placeholder((1, 3), name="b")
    return Graph.of({"x": tfc.concat(a[1:], b, axis=0), "y": b * a[:1]}, inputs=[a, b])


def same_twice() -> Graph:
    a, b = (tfc.placeholder((3, 3), name=name) for name in "ab")
    x = a * b
    return Graph.of({"x": x, "y": x, "z": x.T}, inputs=[a, b])


@pytest.mark.parametrize("make", [exchanged, turned, read_later, shifted, same_twice])
@pytest.mark.parametrize("opt", [0, 2])
def test_what_is_still_read_is_kept(make: Any, opt: int) -> None:
    graph = make()
    sizes = [[int(dim) for dim in type.shape] for type in graph.inputs.values()]
    arrays = [random(*size, seed=seed) for seed, size in enumerate(sizes)]
    wanted = graph.eval(*arrays)
    pairs = {"a": "x"} if sizes[0] != sizes[1] else {"a": "x", "b": "y"}
    got = tfc.compile(graph, in_place=pairs, opt=opt)(*(array.copy() for array in arrays))
    for have, want in zip(got, wanted, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-6, atol=1e-6)


OPS = (
    lambda a, b: a + b,
    lambda a, b: a - 2 * b,
    lambda a, b: a.T * b,
    lambda a, b: a @ b,
    lambda a, b: tfc.concat(a[1:], b[:1], axis=0),
    lambda a, b: tfc.relu(a),
    lambda a, b: a.sum(0, keepdims=True) + b,
    lambda a, b: a.reshape(2, 8).reshape(4, 4),
)


@st.composite
def programs(draw: st.DrawFn) -> tuple[Graph, dict[str, str]]:
    values: list[Tensor] = [tfc.placeholder((4, 4), name=f"x{i}") for i in range(3)]
    inputs = list(values)
    for _ in range(draw(st.integers(1, 6))):
        a, b = (values[draw(st.integers(0, len(values) - 1))] for _ in range(2))
        values.append(draw(st.sampled_from(OPS))(a, b))
    picked = draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=4))
    outputs = {f"y{i}": values[at] for i, at in enumerate(picked)}
    free = [f"x{i}" for i in range(3)]
    pairs = {free.pop(draw(st.integers(0, len(free) - 1))): name for name in list(outputs)[:3]}
    return Graph.of(outputs, inputs=inputs), pairs


@given(programs(), st.sampled_from([0, 2]))
@settings(max_examples=40, deadline=None)
def test_results_do_not_depend_on_it(program: tuple[Graph, dict[str, str]], opt: int) -> None:
    graph, pairs = program
    arrays = {name: random(4, 4, seed=seed) for seed, name in enumerate(graph.inputs)}
    wanted = graph.eval(arrays)
    module = graph.copy()
    make_in_place(module, pairs)
    interpreted = run_program(lower_module(module, Options(host_target(), opt=opt)), arrays)
    run = tfc.compile(graph, in_place=pairs, opt=opt, threads=1)
    compiled = run({name: array.copy() for name, array in arrays.items()})
    for name, want in wanted.items():
        np.testing.assert_allclose(interpreted[name], want, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(compiled[name], want, rtol=1e-5, atol=1e-4)


def test_text_says_it_and_the_interpreter_of_loops_follows() -> None:
    module = cache().copy()
    make_in_place(module, GROWING)
    text = Graph(module).text()
    assert f"{IN_PLACE} = [[0, 1, 1, {ROOM}]]" in text
    program = lower_module(parse_text(text), Options(host_target()))
    past, new = random(2, 4, 3), random(2, 1, 3, seed=1)
    wanted = cache().eval({"past": past, "new": new})
    got = run_program(program, {"past": past, "new": new})
    again = parse_text(Graph(program).text())
    for results in (got, run_program(again, {"past": past, "new": new})):
        for name, want in wanted.items():
            np.testing.assert_allclose(results[name], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("[[0, 0, -1, 0]]", "cannot lie in the memory"),
        ("[[0, 1, 2, 9]]", "more than one dim differs"),
        ("[[0, 1, 3, 9]]", "no axis 3"),
        ("[[0, 5, 1, 9]]", "names no input and output"),
        ("[[0, 1, 1]]", "is not input, output, axis and room"),
        ("[[0, 1, 1, 9], [0, 1, 1, 9]]", "names what another entry does"),
        ("[7]", "is not input, output, axis and room"),
    ],
)
def test_the_verifier_refuses(entry: str, reason: str) -> None:
    module = cache().copy()
    make_in_place(module, GROWING)
    text = Graph(module).text().replace(f"[[0, 1, 1, {ROOM}]]", entry)
    with pytest.raises(VerifyError, match=reason):
        parse_text(text)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"pest": "keys"}, "no input 'pest'"),
        ({"past": "kees"}, "no output 'kees'"),
        ({"past": "keys"}, "differ along axis 1"),
        ({"past": ("keys", 0)}, "0 is no size"),
        ({"past": "keys*"}, "one \\* each"),
        ({"new": ("keys", 9), "past": ("keys", 9)}, "'past' or 'keys' twice"),
        ({"new": ("y", 9)}, "room is not needed"),
    ],
)
def test_bad_wishes_are_refused(wanted: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make_in_place(cache().copy(), wanted)


def test_room_that_no_size_fits_is_refused() -> None:
    x = tfc.placeholder((3, 2), name="x")
    graph = Graph.of({"y": tfc.concat(x, x, axis=0)})
    with pytest.raises(UsageError, match="room for 5 along axis 0 is too little"):
        tfc.compile(graph, in_place={"x": ("y", 5)})
    y = tfc.placeholder(("n", "m"), name="y")
    doubled = Graph.of({"z": tfc.concat(y, y, axis=0)})
    with pytest.raises(UsageError, match="no symbol plus a number"):
        tfc.compile(doubled, in_place={"y": ("z", 5)})


def test_a_star_stands_for_many() -> None:
    xs = [tfc.placeholder((2,), name=f"past.{i}") for i in range(3)]
    run = tfc.compile(outputs={f"now.{i}": x + i for i, x in enumerate(xs)},
                      in_place={"past.*": "now.*"})  # fmt: skip
    arrays = [random(2, seed=i) for i in range(3)]
    assert all(a is b for a, b in zip(run(*arrays), arrays, strict=True))


def refused(array: Any) -> str:
    run = tfc.compile(cache(), in_place=GROWING, threads=1)
    with pytest.raises(InputError) as error:
        run(array, random(2, 1, 3))
    return str(error.value)


def test_arrays_without_the_room_are_refused() -> None:
    whole = np.zeros((2, ROOM, 3), np.float32)
    wanted = "numpy.zeros((2, 7, 3), numpy.float32)[:, :n]"
    assert wanted in refused(np.zeros((2, 2, 3), np.float32))
    assert wanted in refused(np.zeros((2, ROOM + 1, 3), np.float32)[:, :2])
    assert wanted in refused(np.zeros((2, ROOM, 3), np.float32)[:, 1:3])
    assert wanted in refused(np.zeros((2, 3, ROOM), np.float32).transpose(0, 2, 1)[:, :2])
    assert "axis 0: size 1" in refused(whole[:1, :2])
    assert "which it changes" in refused([[[0.0] * 3] * 2] * 2)
    assert "which it changes" in refused(whole[:, :2].astype(np.float64))
    whole.flags.writeable = False
    assert "may write to" in refused(whole[:, :2])


def test_memory_that_is_written_belongs_to_one_input() -> None:
    a, b = (tfc.placeholder((4,), name=name) for name in "ab")
    run = tfc.compile(outputs={"x": a + b}, inputs=[a, b], in_place={"a": "x"}, threads=1)
    whole = np.arange(8, dtype=np.float32)
    with pytest.raises(InputError, match="share memory that a run writes"):
        run(whole[:4], whole[2:6])
    with pytest.raises(InputError, match="share memory that a run writes"):
        run(whole[2:6], whole[:4])
    np.testing.assert_array_equal(run(whole[:4], whole[4:]), [4, 6, 8, 10])


def test_with_room_copies_what_a_call_changes() -> None:
    run = tfc.compile(cache(), in_place=GROWING)
    past, new = random(2, 3, 3), random(2, 1, 3, seed=1)
    named = {"past": past.copy(), "new": new}
    results = run(run.with_room(named))
    np.testing.assert_array_equal(named["past"], past)
    np.testing.assert_array_equal(results["keys"], np.concatenate([past, new * 2], axis=1))


PROGRAM = """
#include <stdio.h>
#include "step.h"

int main(void) {
  static float past[2][7][3], y[6], work[4096];
  float new[6] = {1, 2, 3, 4, 5, 6};
  step_ctx ctx = {.workspace = work, .workspace_bytes = sizeof work};
  for (int n = 0; n < 8; n++) {
    step_tensor in[2] = {{past, sizeof past, {2, n, 3}}, {new, 0, {2, 1, 3}}};
    step_tensor out[2] = {{y, sizeof y, {0}}, {0}};
    int code = step_run(&ctx, in, out);
    printf("%d %d %d\\n", code, (int)out[1].dims[1], out[1].data == past);
    in[0].capacity--;
    if (n == 1 && step_run(&ctx, in, out) != step_SMALL_OUTPUT) return 1;
  }
  for (int i = 0; i < 42; i++) printf("%g ", (&past[0][0][0])[i]);
  return 0;
}
"""


def test_a_c_program_keeps_the_cache(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    module = cache().copy()
    make_in_place(module, GROWING)
    compiled = compile_module(module, Options(host_target(), name="step", threads=False))
    compiled.write(tmp_path / "step.so")
    (tmp_path / "step.h").write_text(compiled.header())
    assert "keys is made in the memory of past, f32[2, 7, 3]" in compiled.header()
    (tmp_path / "main.c").write_text(PROGRAM)
    command = [compiler, "-std=c99", "-Wall", "-Werror", "main.c", "./step.so", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, check=True, capture_output=True, text=True)
    *steps, numbers = done.stdout.split("\n")
    assert steps[:7] == [f"0 {n + 1} 1" for n in range(7)]
    assert steps[7].startswith("6 ")
    rows = [[2.0, 4.0, 6.0] * 7, [8.0, 10.0, 12.0] * 7]
    assert [float(text) for text in numbers.split()] == [*rows[0], *rows[1]]
