"""`tfc.compile`, `tfc.parse`, `Graph`: from tensors, text and files to numbers."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tfc
from tests.support import ROOT
from tfc.compiler.build import Options
from tfc.compiler.codegen.host import host_target
from tfc.compiler.driver import lower_module
from tfc.compiler.version import VERSION
from tfc.graph import Graph
from tfc.ir.text.parser import parse_module
from tfc.ir.text.printer import print_module
from tfc.request import native

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def graph() -> Graph:
    x = tfc.placeholder(("N", 3), name="x")
    return Graph.of({"y": tfc.relu(x * [1.0, -1.0, 2.0] + 1), "total": x.sum(1)})


def test_tensors_compile_to_a_callable() -> None:
    x = tfc.placeholder(("N", 3), name="x")
    run = tfc.compile(outputs=x * 2 + 1)
    np.testing.assert_array_equal(run(X), X * 2 + 1)
    np.testing.assert_array_equal(run(X[:1]), X[:1] * 2 + 1)
    assert list(run({"x": X})) == ["output0"]


def test_inputs_give_the_order_and_may_be_unused() -> None:
    a, b = (tfc.placeholder((2,), name=name) for name in "ab")
    run = tfc.compile(inputs=[b, a], outputs=[a - 1])
    np.testing.assert_array_equal(run([5, 5], [1, 2]), [0, 1])
    unnamed = tfc.compile(outputs=tfc.placeholder((1,)) + tfc.placeholder((1,)))
    assert [port.name for port in unnamed.inputs] == ["input0", "input1"]


def test_inputs_must_be_all_placeholders() -> None:
    a, b = (tfc.placeholder((2,), name=name) for name in "ab")
    with pytest.raises(tfc.UsageError, match="all placeholders of the outputs: b"):
        tfc.compile(inputs=[a], outputs=a + b)
    with pytest.raises(tfc.UsageError, match="two placeholders are called 'a'"):
        tfc.compile(outputs=a + tfc.placeholder((2,), name="a"))


def test_a_constant_output_needs_no_input() -> None:
    run = tfc.compile(outputs={"k": tfc.constant([1, 2]) * 3})
    np.testing.assert_array_equal(run(), [3, 6])
    np.testing.assert_array_equal(run({})["k"], [3, 6])


@pytest.mark.parametrize("opt", [0, 1, 2, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_level_computes_the_reference(graph: Graph, opt: int, threads: int) -> None:
    run = tfc.compile(graph, opt=opt, threads=threads)
    wanted = graph.eval({"x": X})
    for name, value in run({"x": X}).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6)


def test_graphs_survive_their_compilation(graph: Graph) -> None:
    before = graph.text()
    tfc.compile(graph)
    tfc.compile(graph, dims={"N": 2})
    assert graph.text() == before


def test_text_comes_back_as_the_same_graph(graph: Graph) -> None:
    again = tfc.parse(graph.text())
    again.verify()
    assert again.text() == graph.text()
    assert again.level == "graph"
    assert {name: str(type) for name, type in again.inputs.items()} == {"x": "f32[N, 3]"}
    assert {name: str(type) for name, type in again.outputs.items()} == {
        "y": "f32[N, 3]",
        "total": "f32[N]",
    }


def test_eval_takes_arrays_as_executables_do(graph: Graph) -> None:
    y, total = graph.eval(X)
    np.testing.assert_array_equal(total, X.sum(1))
    np.testing.assert_array_equal(y, graph.eval({"x": X})["y"])
    with pytest.raises(tfc.UsageError, match="2 inputs given, the graph takes 1"):
        graph.eval(X, X)


def test_every_stage_has_text_that_compiles_to_the_same(graph: Graph) -> None:
    run = tfc.compile(graph)
    wanted = run({"x": X})
    assert run.ir("graph") == graph.text()
    program = lower_module(graph.copy(), Options(host_target(), name="model"))
    assert run.ir("loops") == print_module(program)
    for again in (
        tfc.parse(run.ir("graph")),
        tfc.parse(run.ir("fused")),
        Graph(parse_module(run.ir("loops"), program.constants)),
    ):
        for name, value in tfc.compile(again)({"x": X}).items():
            np.testing.assert_array_equal(value, wanted[name])
    assert "define" in run.ir("llvm")
    assert "model_run:" in run.ir("asm")
    with pytest.raises(tfc.UsageError, match="no stage 'tokens'"):
        run.ir("tokens")


def test_a_loop_level_program_has_ports_but_no_reference(graph: Graph) -> None:
    program = Graph(lower_module(graph.copy(), Options(host_target())))
    assert list(program.inputs) == ["x"]
    assert list(program.outputs) == ["y", "total"]
    with pytest.raises(tfc.UsageError, match="only a graph can be evaluated"):
        program.eval(X)


def test_dims_fix_and_bound_symbols(graph: Graph) -> None:
    fixed = tfc.compile(graph, dims={"N": 2})
    assert fixed.inputs[0].shape == (2, 3)
    np.testing.assert_array_equal(fixed({"x": X})["total"], X.sum(1))
    with pytest.raises(tfc.InputError, match="size 1, the model takes 2"):
        fixed(X[:1])
    bounded = tfc.compile(graph, dims={"N": (2, 4)})
    assert bounded.signature.symbols == {"N": (2, 4)}
    with pytest.raises(tfc.InputError, match="N must be 2 to 4"):
        bounded(X[:1])
    open_ended = tfc.compile(graph, dims={"N": (2, None)})
    assert open_ended.signature.symbols == {"N": (2, None)}


@pytest.mark.parametrize("given", [-1, (3, 2), (1,), (-1, 2)])
def test_dims_that_make_no_sense_are_refused(graph: Graph, given: object) -> None:
    with pytest.raises(tfc.UsageError, match="dim 'N'"):
        tfc.compile(graph, dims={"N": given})  # type: ignore[dict-item]


def test_an_unknown_dim_is_refused(graph: Graph) -> None:
    with pytest.raises(tfc.UsageError, match=r"called 'M' \(dynamic dims: N\)"):
        tfc.compile(graph, dims={"M": 1})


def test_saved_artifacts_run_without_the_compiler(graph: Graph, tmp_path: Path) -> None:
    run = tfc.compile(graph, name="small")
    run.save(tmp_path / "small.so")
    np.save(tmp_path / "x.npy", X)
    code = f"""
import sys, numpy as np, tfc
y, total = tfc.load({str(tmp_path / "small.so")!r}, threads=2)(np.load({str(tmp_path / "x.npy")!r}))
np.save({str(tmp_path / "y.npy")!r}, y)
print([m for m in sys.modules if m.startswith(("tfc.ir", "tfc.compiler", "llvmlite"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), run(X)[0])


def test_compiling_leaves_no_file_and_no_descriptor_behind(graph: Graph) -> None:
    tfc.compile(graph)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        tfc.compile(graph)(X)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_several_threads_may_compile_at_a_time(graph: Graph) -> None:
    text = graph.text()
    wrong: list[int] = []

    def work(number: int) -> None:
        run = tfc.compile(tfc.parse(text.replace("2.0", f"{number}.0")), threads=1)
        wanted = np.maximum(X * np.array([1, -1, number], np.float32) + 1, 0)
        if not np.array_equal(run({"x": X})["y"], wanted):
            wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(3, 9)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "a model, or outputs"),
        ({"opt": 4}, "opt is 4"),
        ({"target": "nonsense"}, "unknown target 'nonsense'"),
    ],
)
def test_calls_that_make_no_sense_are_refused(
    graph: Graph, arguments: dict[str, object], message: str
) -> None:
    model = None if not arguments else graph
    with pytest.raises(tfc.UsageError, match=message):
        tfc.compile(model, **arguments)  # type: ignore[arg-type]


def test_a_target_of_another_machine_cannot_be_run() -> None:
    other = "aarch64" if native("native").arch == "x86_64" else "x86-64"
    with pytest.raises(tfc.TargetError):
        tfc.compile(outputs=tfc.constant(1) + 1, target=other)


@pytest.mark.parametrize("target", ["native", "x86-64", "x86-64-v3", "native,-avx512f"])
def test_lower_levels_of_this_machine_run(graph: Graph, target: str) -> None:
    try:
        run = tfc.compile(graph, target=target)
    except tfc.TargetError as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(run({"x": X})["total"], X.sum(1))


def test_a_path_may_be_onnx_or_text(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "model.tfc").write_text(graph.text())
    np.testing.assert_array_equal(tfc.compile(tmp_path / "model.tfc")(X)[1], X.sum(1))
    for name in ("missing.onnx", "missing.tfc"):
        with pytest.raises(tfc.ModelError, match="No such file"):
            tfc.compile(tmp_path / name)
    (tmp_path / "bad.tfc").write_text("tfc 1 graph\nfunc")
    with pytest.raises(tfc.ModelError, match=r"bad.tfc:\d+:\d+|bad.tfc"):
        tfc.compile(tmp_path / "bad.tfc")
    (tmp_path / "bytes.tfc").write_bytes(b"\xff\xfe")
    with pytest.raises(tfc.ModelError, match="not UTF-8"):
        tfc.compile(tmp_path / "bytes.tfc")


def test_constants_of_text_are_found_in_their_directory(tmp_path: Path) -> None:
    weights = np.arange(300, dtype=np.float32).reshape(3, 100)
    x = tfc.placeholder((2, 3), name="x")
    graph = Graph.of(x @ weights)
    with pytest.raises(tfc.ModelError, match="not in the constant store"):
        tfc.compile(tfc.parse(graph.text()))
    (ref,) = [op.attrs.value for op in graph.module.main.block if op.name == "constant"]
    graph.module.constants.write([ref], tmp_path)
    run = tfc.compile(tfc.parse(graph.text(), constants=tmp_path))
    np.testing.assert_allclose(run(X), X @ weights)


def test_public_names_are_what_they_say() -> None:
    assert tfc.__version__ == VERSION
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
    for name in tfc.__all__:
        assert getattr(tfc, name) is not None
    assert set(tfc.__all__) <= set(dir(tfc))
    with pytest.raises(AttributeError, match="_private"):
        _ = tfc._private
