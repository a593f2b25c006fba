"""Each command on small models: what it prints, what it writes, with and without --json."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tfc
from tests.cli.conftest import SCALE, Command
from tests.support import ROOT
from tfc.cli.main import COMMANDS
from tfc.cli.report import Progress
from tfc.compiler.version import VERSION

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = np.maximum(X * SCALE + 1, 0)
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = ROOT / "examples" / "digits"


def test_help_lists_every_command(cli: Command) -> None:
    result = cli("--help")
    assert result.code == 0
    for name, text in COMMANDS.items():
        assert name in result.out
        assert text[:40] in result.out
        assert cli(name, "--help").code == 0
    assert "6 numerical mismatch" in result.out


def test_commands_are_documented_as_they_are_listed(cli: Command) -> None:
    for path in (ROOT / "cli").glob("*.py"):
        if "@click.command" in path.read_text():
            assert path.stem in COMMANDS
    assert cli("--version").out == f"tfc {VERSION}\n"


def test_help_is_quick() -> None:
    command = [sys.executable, "-m", "tfc.cli.main", "--help"]
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Where others use the cores too, waiting for one is not the command's.
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < 0.15


def test_run_shows_small_outputs_and_times(cli: Command, model: Path, inputs: Path) -> None:
    result = cli("run", model, "--input", f"@{inputs}")
    assert result.code == 0
    assert "y: float32[2, 3]" in result.out
    assert "compile: " in result.out
    assert "run: " in result.out


@pytest.mark.parametrize(
    "value",
    [
        "x=@{folder}/x.npy",
        "@{folder}/x.npy",
        "x=@{folder}/values.npz:x",
        "@{folder}/values.npz",
        "x=2x3xf32=range",
        "2x3xf32=range",
        "[[0,1,2],[3,4,5]]",
        "x=2x3xf32=[[0,1,2],[3,4,5]]",
    ],
)
def test_run_takes_inputs_in_many_spellings(
    cli: Command, model: Path, inputs: Path, value: str
) -> None:
    text = value.format(folder=inputs.parent)
    result = cli("run", model, "--input", text, "--json")
    assert result.code == 0, result.err
    np.testing.assert_array_equal(result.json["outputs"]["y"]["values"], Y)


def test_random_inputs_follow_their_seed(cli: Command, model: Path) -> None:
    def values(fill: str) -> object:
        return cli("run", model, "--input", f"2x3xf32={fill}", "--json").json["outputs"]

    assert values("rand:7") == values("rand:7") != values("rand:8")
    assert values("randn:7") != values("rand:7")
    assert values("zeros") != values("ones")


def test_run_reads_what_numpy_saved_of_types_that_it_lacks(cli: Command, tmp_path: Path) -> None:
    """Its files hold bytes alone of those."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    onnx = pytest.importorskip("onnx")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.BFLOAT16, [3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.BFLOAT16, [3])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    model, given, saved = (tmp_path / name for name in ("model.onnx", "x.npy", "y.npy"))
    onnx.save(onnx.helper.make_model(graph), model)
    np.save(given, np.array([1.5, -2, 3], ml_dtypes.bfloat16))
    assert np.load(given).dtype.kind == "V"
    result = cli("run", model, "--input", f"x=@{given}", "--output", f"y=@{saved}")
    assert "[-1.5, 2, -3]" in result.out
    assert cli("run", model, "--input", f"x=@{given}", "--expect", f"y=@{saved}").code == 0
    assert cli("run", model, "--input", f"x=@{given}", "--expect", f"y=@{given}").code == 6


def test_run_saves_and_compares(cli: Command, model: Path, inputs: Path) -> None:
    folder = inputs.parent
    saved = folder / "saved.npy"
    result = cli(
        "run", model, "--input", f"@{inputs}", "--expect", f"@{inputs}", "--output", f"y=@{saved}"
    )
    assert result.code == 0
    assert "y: largest error 0, relative 0" in result.out
    np.testing.assert_array_equal(np.load(saved), Y)
    np.save(folder / "y.npy", Y + 0.5)
    arguments = ("run", model, "--input", f"@{inputs}", "--expect", f"y=@{folder}/y.npy")
    wrong = cli(*arguments)
    assert wrong.code == 6
    assert "tfc: error: y: largest error 0.5 against values up to 11.5" in wrong.err
    assert cli(*arguments, "--rtol", "0.1").code == 0
    assert cli(*arguments, "--atol", "0.5").code == 0
    np.save(folder / "y.npy", Y[:1])
    assert "shape [2, 3], expected [1, 3]" in cli(*arguments).err


def test_nan_where_none_is_expected_is_a_mismatch(cli: Command, tmp_path: Path) -> None:
    x = tfc.placeholder((2,), name="x")
    (tmp_path / "log.tfc").write_text(tfc.Graph.of({"y": tfc.log(x)}).text())
    np.save(tmp_path / "y.npy", np.zeros(2, np.float32))
    arguments = ("run", tmp_path / "log.tfc", "--expect", f"y=@{tmp_path}/y.npy", "--input")
    assert cli(*arguments, "[-1,1]").code == 6
    assert cli(*arguments, "[1,1]").code == 0


def test_compile_writes_a_library_and_its_header(cli: Command, model: Path, tmp_path: Path) -> None:
    result = cli("compile", model, "-o", tmp_path / "net.so")
    assert result.code == 0
    assert "compiled in" in result.out
    assert "net_run(" in (tmp_path / "net.h").read_text()
    np.testing.assert_array_equal(tfc.load(tmp_path / "net.so")(X), Y)
    shown = cli("run", tmp_path / "net.so", "--input", "2x3xf32=range", "--threads", 2, "--json")
    np.testing.assert_array_equal(shown.json["outputs"]["y"]["values"], Y)


def test_compile_writes_every_kind_at_once(cli: Command, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    result = cli(
        "compile", model, "-o", folder / "net.so", "--emit", "o,a,h,ll,s",
        "--emit", "graph,fused,loops", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    names = {Path(file["path"]).name for file in result.json["files"]}
    assert names == {
        "net.so", "net.o", "net.a", "net.h", "net.ll", "net.s",
        "net.graph.tfc", "net.fused.tfc", "net.loops.tfc",
    }  # fmt: skip
    assert {file.name for file in folder.iterdir()} - {"net.constants"} == names
    for stage in ("graph", "fused", "loops"):
        shown = cli("run", folder / f"net.{stage}.tfc", "--input", "2x3xf32=range", "--json")
        np.testing.assert_array_equal(shown.json["outputs"]["y"]["values"], Y)


@pytest.mark.parametrize("suffix", [".o", ".a", ".h", ".ll", ".s", ".tfc"])
def test_the_suffix_says_what_is_written(
    cli: Command, model: Path, tmp_path: Path, suffix: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert cli("compile", model, "-o", folder / f"net{suffix}").code == 0
    written = {file.name for file in folder.iterdir()}
    assert written == {f"net{suffix}"} | ({"net.h"} if suffix in (".o", ".a") else set())


def test_names_threads_and_dims_of_an_artifact_are_chosen(
    cli: Command, model: Path, tmp_path: Path
) -> None:
    arguments = ("compile", model, "-o", tmp_path / "a.so", "--name", "other", "--threads", 1)
    assert cli(*arguments, "--dim", "N=1..8").code == 0
    loaded = tfc.load(tmp_path / "a.so")
    assert (loaded.name, loaded.threads) == ("other", 1)
    assert loaded.signature.symbols == {"N": (1, 8)}
    assert "other_run(" in (tmp_path / "a.h").read_text()
    for option in (("--dim", "N=4"), ("--shape", "x=4x3")):
        assert cli("compile", model, "-o", tmp_path / "b.so", *option).code == 0
        assert tfc.load(tmp_path / "b.so").inputs[0].shape == (4, 3)


def test_other_targets_can_be_compiled_for(cli: Command, model: Path, tmp_path: Path) -> None:
    machine = {b"\x3e": "x86-64-v2", b"\xb7": "aarch64"}
    for code, target in machine.items():
        assert cli("compile", model, "-o", tmp_path / "a.so", "--target", target).code == 0
        assert (tmp_path / "a.so").read_bytes()[18:19] == code


def test_constants_go_where_they_are_told(cli: Command, tmp_path: Path) -> None:
    x = tfc.placeholder((2, 3), name="x")
    weights = np.arange(300, dtype=np.float32).reshape(3, 100)
    tfc.compile(outputs={"y": x @ weights}).save(tmp_path / "direct.so")
    source = tfc.Graph.of({"y": x @ weights})
    (tmp_path / "in.tfc").write_text(source.text())
    constant = next(op for op in source.module.main.block if op.name == "constant")
    source.module.constants.write([constant.attrs.value], tmp_path / "in.constants")
    out = tmp_path / "out.tfc"
    assert cli("compile", tmp_path / "in.tfc", "-o", out).code == 0
    assert len(list((tmp_path / "out.constants").iterdir())) == 1
    arguments = ("compile", tmp_path / "in.tfc", "-o", out, "--emit", "loops", "--constants")
    assert cli(*arguments, tmp_path / "in.constants").code == 0
    given = ("run", out, "--input", "2x3xf32=range", "--constants", tmp_path / "in.constants")
    shown = cli(*given, "--json").json
    np.testing.assert_allclose(shown["outputs"]["y"]["values"], X @ weights)


def test_bench_measures_each_number_of_threads(cli: Command, model: Path) -> None:
    arguments = ("bench", model, "--threads", "1,2", "--seconds", "0.02", "--dim", "N=50")
    result = cli(*arguments)
    assert result.code == 0
    assert result.out.splitlines()[0].split() == ["threads", "median", "p90", "p99", "min", "calls"]
    measured = cli(*arguments, "--json").json["results"]
    assert [row["threads"] for row in measured] == [1, 2]
    for row in measured:
        assert 0 < row["min"] <= row["median"] <= row["p90"] <= row["p99"]


def test_bench_chooses_sizes_and_shows_them(cli: Command, model: Path, tmp_path: Path) -> None:
    assert cli("bench", model, "--seconds", "0.01").out.startswith("N=1\n")
    cli("compile", model, "-o", tmp_path / "a.so")
    arguments = ("bench", tmp_path / "a.so", "--seconds", "0.01")
    assert cli(*arguments, "--dim", "N=9").out.startswith("N=9\n")
    assert cli(*arguments, "--input", "7x3xf32=rand").out.startswith("N=7\n")


def test_profiles_name_kernels_and_account_for_the_time(cli: Command, model: Path) -> None:
    arguments = ("bench", model, "--profile", "--dim", "N=3000", "--seconds", "0.1")
    shown = cli(*arguments)
    assert shown.code == 0, shown.err
    assert "GFLOP/s" in shown.out
    facts = cli(*arguments, "--threads", 1, "--json").json
    assert facts["threads"] == 1
    total = sum(kernel["seconds"] for kernel in facts["kernels"])
    assert 0 < total <= facts["mean"] * 1.1
    assert sum(kernel["share"] for kernel in facts["kernels"]) == pytest.approx(1)
    assert all(kernel["gbytes"] > 0 for kernel in facts["kernels"])


def test_explain_predicts_each_kernel_and_says_what_limits_it(cli: Command, model: Path) -> None:
    arguments = ("explain", model, "--dim", "N=3000", "--seconds", "0.1", "--threads", 1)
    shown = cli(*arguments)
    assert shown.code == 0, shown.err
    assert "should take" in shown.out
    facts = cli(*arguments, "--json").json
    assert facts["machine"]["one_core_gflops"] > 1
    for kernel in facts["kernels"]:
        assert kernel["calls"] >= 1
        assert 0 < kernel["predicted"] < 100 * kernel["seconds"]
        assert kernel["limit"] in (
            "arithmetic", "loads", "stores", "issue", "cache", "memory", "call"
        )  # fmt: skip
    assert facts["predicted"] == pytest.approx(
        sum(kernel["predicted"] * kernel["calls"] for kernel in facts["kernels"])
    )
    assert len(cli(*arguments, "--top", 1, "--json").json["kernels"]) == 1


@pytest.mark.parametrize(
    ("stage", "part"),
    [
        ("graph", "tfc 1 graph"),
        ("fused", "tfc 1 graph"),
        ("loops", "kernel @"),
        ("llvm", "define"),
        ("asm", "small_run:"),
        ("abi", "int32_t small_run("),
        ("memory", "workspace 0 bytes"),
        ("kernels", "bytes"),
    ],
)
def test_dump_shows_every_stage(cli: Command, model: Path, stage: str, part: str) -> None:
    result = cli("dump", model, "--stage", stage)
    assert result.code == 0
    assert part in result.out
    assert cli("dump", model, "--stage", stage, "--json").json


def test_dump_shows_one_kernel(cli: Command, model: Path, tmp_path: Path) -> None:
    (kernel,) = cli("dump", model, "--stage", "kernels", "--json").json["kernels"]
    for stage, part in (("loops", "kernel @"), ("llvm", "define hidden void @"), ("asm", "ret")):
        arguments = ("dump", model, "--stage", stage, "--kernel", kernel["name"])
        shown = cli(*arguments)
        assert part in shown.out
        assert kernel["name"] in shown.out
        assert "_run" not in shown.out
        assert cli(*arguments, "-o", tmp_path / "out").out == ""
        assert (tmp_path / "out").read_text() == shown.out
    assert cli("dump", model, "--stage", "loops", "--kernel", "nothing").code == 2


def test_opt_reads_and_writes_text(
    cli: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("opt", model, "--passes", "").out == model.read_text()
    fused = cli("opt", model).out
    assert "fused" in fused
    assert cli("opt", model, "-O0").out != fused
    assert cli("opt", model, "--disable-pass", "fuse").out != fused
    assert cli("opt", model, "--lower").out.startswith("tfc 1 loop")
    assert cli("opt", model, "--json").json == {"level": "graph", "text": fused}
    assert cli("opt", model, "-o", tmp_path / "out.tfc").out == ""
    assert (tmp_path / "out.tfc").read_text() == fused
    with model.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert cli("opt", "-").out == fused


def test_opt_shows_its_passes(cli: Command, model: Path, tmp_path: Path) -> None:
    listed = cli("opt", "--list", "--json").json
    assert {row["name"] for row in listed} >= {"decompose", "fold", "fuse"}
    assert "fuse  (-O1)" in cli("opt", "--list").out
    shown = cli("opt", model, "--print-ir-after", "fuse", "--time-passes")
    assert "# after fuse\n" in shown.err
    assert "ms  total" in shown.err
    changed = cli("opt", model, "--print-ir-after-change").err
    assert "# after fuse\n" in changed
    assert "# after dce\n" not in changed
    assert cli("opt", model, "--dump-dir", tmp_path / "dump").code == 0
    assert any(file.name.endswith("-fuse.tfc") for file in (tmp_path / "dump").iterdir())


def test_check_shows_what_a_model_takes(cli: Command, model: Path) -> None:
    result = cli("check", model)
    assert (result.code, "input x: f32[N, 3]" in result.out) == (0, True)
    facts = cli("check", model, "--json").json
    assert facts["outputs"] == {"y": "f32[N, 3]"}
    assert facts["problems"] == []


def test_verify_compares_outputs_and_ops(cli: Command, model: Path, inputs: Path) -> None:
    result = cli("verify", model)
    assert (result.code, "ok" in result.out) == (0, True)
    rows = cli("verify", model, "--ops", "--input", f"@{inputs}", "--json").json["results"]
    assert [row["op"].split()[0] for row in rows if row["op"]] == ["mul", "add", "relu"]
    assert all(row["ok"] for row in rows)
    none = cli("verify", model, "--rtol", "-1", "--atol", "-1", "--ops")
    assert none.code == 6
    assert "4 of 4 differ" in none.err
    assert "0000 mul" in none.err


def test_doctor_shows_the_machine(cli: Command) -> None:
    facts = cli("doctor", "--no-measure", "--json").json
    assert facts["cores"] >= 1
    assert facts["packages"]["llvmlite"]
    assert facts["cache_directory"] == os.environ["TFC_CACHE_DIR"]
    shown = cli("doctor")
    assert shown.code == 0
    assert "one core gflops" in shown.out


def test_json_is_all_that_stands_on_stdout(cli: Command, model: Path, tmp_path: Path) -> None:
    commands = [
        ("compile", model, "-o", tmp_path / "a.so"),
        ("run", model, "--input", "2x3xf32=ones"),
        ("bench", model, "--seconds", "0.01"),
        ("explain", model, "--seconds", "0.01"),
        ("check", model),
        ("verify", model),
        ("opt", model, "--print-ir-after", "all", "--time-passes"),
        ("dump", model, "--dump-dir", tmp_path / "dump"),
    ]
    for command in commands:
        result = cli(*command, "--json")
        assert result.code == 0, result.err
        assert isinstance(result.json, dict)


def test_images_fit_their_input_in_every_layout(cli: Command, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    image.fromarray(pixels).save(tmp_path / "a.png")
    first = pixels.astype(np.float32).transpose(2, 0, 1)
    for shape, wanted in [
        ((1, 3, 4, 5), first[None]),
        ((3, 4, 5), first),
        ((4, 5, 3), pixels),
        (("N", 3, "H", "W"), first[None]),
        (("N", "H", "W", 3), pixels[None]),
    ]:
        x = tfc.placeholder(shape, name="x")
        (tmp_path / "same.tfc").write_text(tfc.Graph.of({"y": x + 0}).text())
        given = f"@{tmp_path}/a.png:mean=1/2/3,scale=2"
        shown = cli("run", tmp_path / "same.tfc", "--input", given, "--json").json["outputs"]["y"]
        last = 3 if shape[-1] == 3 else 1
        mean = np.array([1, 2, 3]).reshape((3,) if last == 3 else (3, 1, 1))
        np.testing.assert_allclose(shown["values"], (wanted - mean) / 2)


def test_progress_is_for_terminals_and_leaves_no_trace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = Progress(delay=0)
    silent("lower", 0, 1)
    silent.close()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = Progress(delay=0)
    shown("generate code", 3, 10)
    shown.close()
    written = capsys.readouterr().err
    assert written == "\rgenerate code 3/10\r                  \r"


def test_a_trained_network_reads_a_picture(cli: Command) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("PIL")
    for digit, name in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    ):
        given = f"image=@{DIGITS / name}.png"
        result = cli("run", DIGITS / "digits.onnx", "--input", given)
        assert result.code == 0
        assert f"\n  {digit} (" in result.out
    plain = cli("run", DIGITS / "digits.onnx", "--input", f"{given}:mean=57.91,scale=84.1")
    assert "\n  9 (" in plain.out


# -- dims that a run gives ------------------------------------------------------------------------

RUN_TIME = """tfc 1 graph

func @main(%x: f32[N], %k: i64[1]) -> (y, z)
  symbols {N, k: 0..9 = element(%k, 0), n}
{
  %zero = constant() {value = dense(0.0), dtype = f32, shape = []} : f32[]
  %mask = gt(%x, %zero) : bool[N]
  %number = cast(%mask) {dtype = i64} : i64[N]
  %count = reduce_sum(%number) {axes = [0], keepdims = false} : i64[]
  bind(%count) {symbol = "n", hi = N}
  %at = positions(%mask) {count = n} : i64[n]
  %y = gather(%x, %at) {axis = 0} : f32[n]
  %z = tile(%y) {repeats = [k]} : f32[k*n]
  return(%y, %z)
}
"""


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    path = tmp_path / "counting.tfc"
    path.write_text(RUN_TIME)
    return path


def test_run_shows_outputs_as_long_as_they_are(cli: Command, counting: Path) -> None:
    done = cli("run", counting, "--input", "x=[1,-2,3]", "--input", "k=[2]")
    assert done.code == 0
    assert "y: float32[2]\n  [1., 3.]" in done.out
    assert "z: float32[4]\n  [1., 3., 1., 3.]" in done.out


def test_verify_of_bf16_shows_what_rounding_alone_does(cli: Command) -> None:
    pytest.importorskip("onnx")
    path = DIGITS / "digits.onnx"
    result = cli("verify", path, "--dtype", "bf16")
    assert (result.code, "rounding alone" in result.out) == (0, True)
    (row,) = cli("verify", path, "--dtype", "bf16", "--json").json["results"]
    assert 1e-4 < row["relative"] < 1.1 * row["rounding"]
    assert "rounding" not in cli("verify", path, "--json").json["results"][0]


@pytest.mark.parametrize("ops", [[], ["--ops"]])
def test_verify_makes_up_numbers_that_stand_for_dims(
    cli: Command, counting: Path, ops: list[str]
) -> None:
    done = cli("verify", counting, *ops)
    assert done.code == 0, done.err


@pytest.mark.parametrize("stage", ["graph", "fused", "loops", "llvm", "memory"])
def test_dump_shows_every_stage_with_dims_of_the_run(
    cli: Command, counting: Path, stage: str
) -> None:
    done = cli("dump", counting, "--stage", stage)
    assert done.code == 0, done.err
    if stage in ("graph", "fused", "loops"):
        assert "bind(" in done.out
        assert "k: 0..9 = element(%k, 0)" in done.out


def test_compile_says_in_the_header_what_is_read(
    cli: Command, counting: Path, tmp_path: Path
) -> None:
    done = cli("compile", counting, "-o", tmp_path / "counting.so")
    assert done.code == 0, done.err
    header = (tmp_path / "counting.h").read_text()
    assert "Reads the inputs' dims, and what k hold. Writes" in header
    assert " * n is told by a run, at most N\n" in header
    ran = cli("run", tmp_path / "counting.so", "--input", "x=[1,-2,3]", "--input", "k=[0]")
    assert "z: float32[0]" in ran.out
