"""Sweeps of single ops: their models, what libraries compute, shares of the bound."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import micro
from benchmarks.bandwidth import read_bandwidth
from benchmarks.libraries import LIBRARIES
from benchmarks.ops import Convolution, Op, Product, traffic, write_model
from benchmarks.point import Point
from benchmarks.sweeps import SWEEPS

SMALL: tuple[Op, ...] = (
    Product(5, 7, 3),
    Product(5, 7, 3, fixed=False),
    Product(5, 7, 3, (2,), fixed=False),
    Product(5, 7, 3, turned="AB"),
    Convolution((9, 8), 4, 6, 3),
    Convolution((8, 8), 4, 6, 3, stride=2, groups=2),
    Convolution((9, 9), 4, 4, 5, dilation=2, batch=2),
    Convolution((7, 6), 4, 6, 4, stride=2, transposed=True),
    Convolution((7, 6), 4, 6, 3, stride=2, transposed=True),
    Convolution((11,), 4, 6, 3),
    Convolution((4, 5, 6), 2, 3, 3),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFC_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("op", SMALL, ids=lambda op: op.name)
def test_libraries_agree_on_an_op(op: Op, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    present = [each for each in LIBRARIES if each.version() is not None]
    calls = micro.prepared(op, present, 1)
    assert capsys.readouterr().err == ""
    assert "tfc" in calls
    assert ("numpy" in calls) == isinstance(op, Product)


@pytest.mark.parametrize("name", SWEEPS)
def test_shapes_of_a_sweep_are_those_of_its_models(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "op.onnx"
    names = [op.name for op in SWEEPS[name]]
    assert len(set(names)) == len(names)
    for op in SWEEPS[name]:
        write_model(op, np.zeros((1,), np.float32), path)
        model = onnx.load(path)
        shapes = {"x": op.x, "w": op.weight}
        del model.graph.initializer[:], model.graph.input[:], model.graph.output[:]
        for key, shape in shapes.items():
            described = onnx.helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, shape)
            model.graph.input.append(described)
        empty = onnx.helper.make_empty_tensor_value_info("y")
        model.graph.output.append(empty)
        (inferred,) = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output
        dims = tuple(dim.dim_value for dim in inferred.type.tensor_type.shape.dim)
        assert dims == op.out, op.name


def test_a_library_that_computes_something_else_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Wrong:
        name = "wrong"

        def version(self) -> str:
            return "1"

        def prepare(self, op: Op, x: object, weight: object, threads: int) -> object:
            return lambda: np.zeros(op.out, np.float32)

    present = [each for each in LIBRARIES if each.name == "numpy"]
    assert list(micro.prepared(Product(5, 7, 3), [*present, Wrong()], 1)) == ["numpy"]  # type: ignore[list-item]
    assert "wrong differs" in capsys.readouterr().err


def test_the_bound_is_computing_or_reading() -> None:
    large, vector = Product(512, 512, 512), Product(1, 2048, 2048)
    assert micro.least_time(large, 2, 100.0) == pytest.approx(large.flops / 2e11)
    assert micro.least_time(vector, 1, 100.0) == traffic(vector) / read_bandwidth(
        traffic(vector), 1
    )


def test_the_rival_is_the_fastest_of_the_others() -> None:
    point = Point("s", "op", 1, 1.0, {"tfc": 2.0, "tfc-plain": 1.5, "numpy": 4.0, "torch": 3})
    assert point.rival == "torch"
    assert point.share("numpy") == 0.25
    table = micro.table([point], LIBRARIES)
    assert "1.50 |" in table.splitlines()[-1]
    assert "onednn" not in table


def test_a_sweep_prints_a_table_and_keeps_its_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    kept = tmp_path / "points.json"
    call = ["batched", "--only", "7x13x5", "--libraries", "tfc,numpy", "--rounds", "1"]
    assert micro.main([*call, "--seconds", "0", "--json", str(kept)]) == 0
    (point,) = json.loads(kept.read_text())
    assert set(point["times"]) == {"tfc", "numpy"}
    assert "| 256x7x13x5 both |" in capsys.readouterr().out


def test_shares_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plot import main

    points = [Point("s", f"op{i}", 1, 1.0, {"tfc": 2.0, "numpy": 4.0}) for i in range(3)]
    kept = tmp_path / "points.json"
    kept.write_text(json.dumps([asdict(point) for point in points]))
    assert main([str(kept), str(tmp_path / "shares.svg")]) == 0
    assert "svg" in (tmp_path / "shares.svg").read_text()
