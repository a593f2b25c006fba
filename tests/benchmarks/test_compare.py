"""The comparison with other engines measures what it says, on the digits example."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, int8, report
from benchmarks.models import DIGITS, locate, names_of, random_feeds, relative_error
from benchmarks.peers import TFC, OnnxRuntime, engine
from benchmarks.probe import Probe, probe
from benchmarks.timing import Spread, ratio, side_by_side

SHORT = ["--rounds", "1", "--seconds", "0.01", "--no-memory"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFC_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_tfc_and_a_peer_agree_on_digits(peer: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(peer, reason=f"{peer} is not installed")
    status = compare.main([str(DIGITS), *SHORT, "--peers", peer, "--dims", "batch=3", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert status == 0
    assert row["model"] == "digits"
    assert row["entries"]["tfc"]["time"] > 0
    assert row["entries"][peer]["ratio"] > 0
    assert 0 <= row["entries"][peer]["difference"] < 1e-5


def test_a_model_is_quantised_before_it_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    calls = [f"{DIGITS}:int8", *SHORT, "--peers", "onnxruntime", "--dims", "batch=3", "--json"]
    assert compare.main(calls) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert "int8" in row["model"]
    assert 0 <= row["entries"]["onnxruntime"]["difference"] < 0.05


def test_a_quantised_model_is_measured_beside_its_f32_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime")
    calls = [str(DIGITS), "--threads", "1", "--rounds", "1", "--seconds", "0.01"]
    assert int8.main(calls) == 0
    table = capsys.readouterr().out
    assert "tfc / tfc-f32" in table
    assert "digits int8" in table
    assert int8.main(["no-such-model"]) == 2


def test_a_model_that_cannot_be_compiled_is_a_failed_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("NoSuchOp", ["x"], ["y"])],
        "broken",
        [onnx.helper.make_tensor_value_info("x", real, [2])],
        [onnx.helper.make_tensor_value_info("y", real, [2])],
    )
    path = tmp_path / "broken.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    status = compare.main([str(path), *SHORT, "--peers", ""])
    out = capsys.readouterr().out
    assert status == 1
    assert "tfc failed" in out
    assert "NoSuchOp" in out


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["torch", "inductor", "iree", "tvm", "xla"])
def test_other_compilers_agree_on_digits(peer: str, capsys: pytest.CaptureFixture[str]) -> None:
    if engine(peer).version() is None:
        pytest.skip(f"{peer} is not installed")
    compare.main([str(DIGITS), *SHORT, "--peers", peer, "--dims", "batch=3", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["entries"][peer]["failure"] == ""
    assert 0 <= row["entries"][peer]["difference"] < 1e-5


def test_unknown_names_are_wrong_calls(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["--peers", "abacus"]) == 2
    assert "known: onnxruntime, openvino" in capsys.readouterr().err
    assert compare.main(["no-such-model"]) == 2


def test_bf16_is_compared_with_f32(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(DIGITS), *SHORT, "--json", "--dtype", "bf16", "--peers", "tfc"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert list(row["entries"]) == ["tfc-bf16", "tfc"]
    assert row["entries"]["tfc"]["ratio"] > 0
    assert 1e-6 < row["entries"]["tfc"]["difference"] < 1e-1


def test_probe_sees_the_memory_of_its_own_process_alone() -> None:
    ballast = np.ones(400 << 20, np.uint8)
    found = probe(TFC.name, DIGITS, 1, {})
    assert found.compile > 0
    assert 10 << 20 < found.again < found.peak < ballast.nbytes


def test_digits_is_found_by_its_names() -> None:
    assert names_of(DIGITS) == ("digits__digits", "digits", "digits")
    assert locate("digits") == DIGITS


def test_made_inputs_take_the_sizes_given_and_are_the_same_every_time() -> None:
    pytest.importorskip("onnx")
    once, again = random_feeds(DIGITS, {"batch": 5}), random_feeds(DIGITS, {"batch": 5})
    assert once["image"].shape == (5, 1, 28, 28)
    assert once["image"].dtype == np.float32
    np.testing.assert_array_equal(once["image"], again["image"])


def test_error_is_relative_to_the_largest_value() -> None:
    want = {"y": np.array([1.0, -4.0])}
    assert relative_error({"y": np.array([1.0, -4.0])}, want) == 0
    assert relative_error({"y": np.array([1.5, -4.0])}, want) == pytest.approx(0.125)


@pytest.mark.parametrize("got", [[np.nan, 1.0], [1.0, np.nan], [np.inf, np.nan]])
def test_error_is_infinite_where_nan_moves(got: list[float]) -> None:
    want = {"y": np.array([np.nan, 2.0])}
    expected = 0.5 if got == [np.nan, 1.0] else float("inf")
    assert relative_error({"y": np.array(got)}, want) == expected
    assert relative_error({"y": np.array([np.nan])}, want) == float("inf")


def test_rounds_take_turns_in_who_begins() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    found = side_by_side(calls, rounds=2, seconds=0.0)
    # A call to warm up and three that are timed, for each name in each round.
    assert "".join(order) == "aaaabbbb" + "bbbbaaaa"
    assert {len(spread.rounds) for spread in found.values()} == {2}


def test_ratio_is_taken_round_by_round() -> None:
    # The machine was twice as slow in the last round: the ratio does not see it.
    ours, theirs = Spread((1.0, 1.0, 2.0)), Spread((2.0, 2.0, 4.0))
    assert ratio(ours, theirs) == 0.5
    assert ours.median == 1.0
    assert ours.spread == pytest.approx(0.25)


def test_page_names_machine_versions_and_ratio() -> None:
    engines = (TFC, OnnxRuntime())
    row = compare.Row("digits", 2)
    row.entries["tfc"] = compare.Entry(0.001, 0.01)
    row.entries["onnxruntime"] = compare.Entry(0.002, 0.01, 0.5, None, 1e-6, Probe(0.1, 0.2, 3, 2))
    page = report.page([row], compare.Plan(engines, (2,), 3, 0.1, {}))
    assert report.machine() in page
    assert f"numpy {np.__version__}" in page
    assert "tfc / onnxruntime 0.50 over 1" in page
    assert "| digits |       2 | 1 ±1.0% |" in page
