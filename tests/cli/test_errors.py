"""What goes wrong gives one line on stderr and its exit code, and leaves no part of a file."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tfc
from tests.cli.conftest import Command
from tests.support import ROOT
from tfc.cli import main
from tfc.cli.main import EXIT_CODES
from tfc.ir import errors
from tfc.runtime.errors import ArtifactError, CpuError, InputError, RuntimeFault

USAGE, MALFORMED, UNSUPPORTED, VERIFIER, MISMATCH, LINKER, TARGET = range(2, 9)


def test_every_error_has_the_exit_code_that_help_says() -> None:
    assert EXIT_CODES.endswith("8 the target cannot run here.")
    codes = {
        errors.CompileError: 1, errors.UsageError: USAGE, errors.ModelError: MALFORMED,
        errors.UnsupportedError: UNSUPPORTED, errors.VerifyError: VERIFIER,
        errors.MismatchError: MISMATCH, errors.LinkerError: LINKER, errors.TargetError: TARGET,
        RuntimeFault: 1, InputError: USAGE, ArtifactError: MALFORMED, CpuError: TARGET,
    }  # fmt: skip
    for error, code in codes.items():
        assert error.exit_code == code


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], USAGE, "No such command 'nonsense'"),
        (["run"], USAGE, "Missing argument 'MODEL'"),
        (["run", "{model}", "--nonsense"], USAGE, "--nonsense"),
        (["run", "{model}"], USAGE, "missing input x"),
        (["run", "{model}", "--input", "z=@x.npy"], USAGE, "begins with none of the names: x"),
        (["run", "{model}", "--input", "x=@missing.npy"], MALFORMED, "missing.npy: No such file"),
        (["run", "{model}", "--input", "x=@{model}"], USAGE, "not an array file of numpy"),
        (["run", "{model}", "--input", "x=@{values}:q"], USAGE, "no array 'q' (it has: x, out.y)"),
        (["run", "{model}", "--input", "x=rand"], USAGE, "say how large N is"),
        (["run", "{model}", "--input", "x=2x3xf32=what"], USAGE, "'what' is not rand[:SEED]"),
        (["run", "{model}", "--input", "x=2x3xf32=rand:x"], USAGE, "the seed is not a number"),
        (["run", "{model}", "--input", "x=2x3xf17"], USAGE, "no element type 'f17'"),
        (["run", "{model}", "--input", "x=[[1,"], USAGE, "is not an array of float32"),
        (["run", "{model}", "--input", "x=2x3xf64=ones"], USAGE, "dtype float64, the model takes"),
        (["run", "{model}", "--input", "x=2x4xf32=ones"], USAGE, "size 4, the model takes 3"),
        (["run", "{model}", "--input", "x=3xf32=ones"], USAGE, "rank 1 [3], the model"),
        (["run", "{model}", "--input", "x=@a.png"], USAGE, "has no place for an image"),
        (["run", "{model}", "--input", "@{values}", "--output", "z=@a"], USAGE, "no output 'z'"),
        (["run", "{model}", "--input", "@{values}", "--threads", "0"], USAGE, "--threads"),
        (["run", "{model}", "--input", "@{values}", "--target", "vax"], USAGE, "unknown target"),
        (["run", "{model}", "--dim", "N"], USAGE, "--dim 'N' is not NAME=VALUE"),
        (["run", "{model}", "--dim", "N=x"], USAGE, "'x' is not SIZE, LO..HI or LO.."),
        (["run", "{model}", "--dim", "N=9..3"], USAGE, "dim 'N'"),
        (["run", "{model}", "--dim", "M=3"], USAGE, "(dynamic dims: N)"),
        (["run", "{model}", "--shape", "q=1x3"], USAGE, "no input 'q' (inputs: x)"),
        (["run", "{model}", "--shape", "x=3"], USAGE, "rank 1, the input is f32[N, 3]"),
        (["run", "{model}", "--shape", "x=2x4"], USAGE, "dim 1 is 4"),
        (["run", "{model}", "--shape", "x=axb"], USAGE, "is not like 1x3x224x224"),
        (["run", "{folder}"], MALFORMED, "Is a directory"),
        (["run", "missing.onnx"], MALFORMED, "missing.onnx"),
        (["bench", "{model}", "--threads", "1,x"], USAGE, "is not like 1,2"),
        (["opt", "{model}", "--passes", "fold,nonsense"], USAGE, "no pass is called 'nonsense'"),
        (["opt", "{model}", "--disable-pass", "nonsense"], USAGE, "nonsense"),
        (["opt", "{model}", "--print-ir-after", "nonsense"], USAGE, "nonsense"),
        (["opt"], USAGE, "give a FILE"),
        (["dump", "{model}", "--stage", "nonsense"], USAGE, "nonsense"),
        (["dump", "{model}", "--kernel", "x"], USAGE, "no kernel 'x'"),
        (["compile", "{model}"], USAGE, "-o"),
        (["compile", "{model}", "-o", "{folder}/a.zip"], USAGE, "a.zip: the suffix is none of"),
        (["compile", "{model}", "-o", "{folder}/no/a.so"], USAGE, "is not a directory"),
        (["compile", "{model}", "-o", "{folder}/a.so", "--emit", "exe"], USAGE, "--emit exe"),
        (["compile", "{model}", "-o", "{folder}/a.dll"], LINKER, "needs a linker"),
        (["compile", "{model}", "-o", "{folder}/a.so", "-O9"], USAGE, "-O"),
        (["compile", "missing.tfc", "-o", "{folder}/a.so"], MALFORMED, "missing.tfc"),
    ],
)  # fmt: skip
def test_mistakes_are_named_in_one_line(
    cli: Command, model: Path, inputs: Path, arguments: list[str], code: int, message: str
) -> None:
    before = sorted(inputs.parent.iterdir())
    filled = [text.format(model=model, values=inputs, folder=inputs.parent) for text in arguments]
    result = cli(*filled)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert result.err.startswith("tfc: error: ")
    assert result.err.count("\n") == 1
    assert sorted(inputs.parent.iterdir()) == before


BROKEN = {
    "empty": ("", "expected 'tfc"),
    "level": ("tfc 1 tree\n", "unknown level tree"),
    "version": ("tfc 99 graph\n", "this tfc reads version 1"),
    "cut": ("tfc 1 graph\n\nfunc @main(%x: f32[2]) -> (y)\n{\n  %0 = relu(%x", ""),
    "op": ("tfc 1 graph\n\nfunc @main(%x: f32[2]) -> (y)\n{\n  %0 = zap(%x) : f32[2]\n"
           "  return(%0)\n}\n", "unknown op zap"),
    "value": ("tfc 1 graph\n\nfunc @main(%x: f32[2]) -> (y)\n{\n  return(%9)\n}\n",
              "not defined"),
    "dtype": ("tfc 1 graph\n\nfunc @main(%x: f7[2]) -> (y)\n{\n  return(%x)\n}\n", ""),
    "binary": ("tfc \0\1\2", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_text_is_malformed(cli: Command, tmp_path: Path, name: str) -> None:
    text, message = BROKEN[name]
    (tmp_path / "bad.tfc").write_text(text)
    for command in ("check", "run", "opt", "dump", "verify", "bench"):
        result = cli(command, tmp_path / "bad.tfc")
        assert result.code == MALFORMED, result.err
        assert message in result.err
        assert "bad.tfc" in result.err


def test_text_that_breaks_a_rule_is_the_verifiers(cli: Command, tmp_path: Path) -> None:
    text = (
        "tfc 1 graph\n\nfunc @main(%x: f32[2]) -> (y)\n{\n"
        "  %0 = relu(%x) : f32[3]\n  return(%0)\n}\n"
    )
    (tmp_path / "bad.tfc").write_text(text)
    result = cli("check", tmp_path / "bad.tfc")
    assert result.code == VERIFIER
    assert "relu" in result.err


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x08\x07", b"\x7fELF", b"PK\x03\x04", os.urandom(4096)]
)
def test_files_that_are_no_models_are_malformed(
    cli: Command, tmp_path: Path, content: bytes
) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "model.onnx").write_bytes(content)
    result = cli("run", tmp_path / "model.onnx")
    assert result.code == MALFORMED, result.err
    assert "model.onnx" in result.err


def test_a_cut_or_changed_artifact_is_malformed(cli: Command, model: Path, tmp_path: Path) -> None:
    library = tmp_path / "net.so"
    assert cli("compile", model, "-o", library).code == 0
    data = library.read_bytes()
    for size in range(4, len(data), len(data) // 15):
        (tmp_path / "cut.so").write_bytes(data[:size])
        result = cli("run", tmp_path / "cut.so", "--input", "2x3xf32=ones")
        assert result.code == MALFORMED, (size, result.err)


def test_compiler_options_for_an_artifact_are_a_mistake(
    cli: Command, model: Path, tmp_path: Path
) -> None:
    assert cli("compile", model, "-o", tmp_path / "net.so").code == 0
    assert cli("run", tmp_path / "net.so", "-O0").code == USAGE
    assert cli("bench", tmp_path / "net.so", "--profile").code == USAGE


def test_code_for_another_machine_does_not_run(cli: Command, model: Path, tmp_path: Path) -> None:
    other = "x86-64" if os.uname().machine == "aarch64" else "aarch64"
    assert cli("run", model, "--target", other, "--input", "2x3xf32").code == TARGET
    assert cli("compile", model, "-o", tmp_path / "net.so", "--target", other).code == 0
    result = cli("run", tmp_path / "net.so", "--input", "2x3xf32")
    assert result.code == TARGET
    assert "but this machine is" in result.err


def test_what_is_unsupported_is_listed_with_its_nodes(cli: Command, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    nodes = [
        make.make_node("StringSplit", ["x"], ["a", "b"], name="first"),
        make.make_node("Relu", ["x"], ["c"], name="fine"),
        make.make_node("Zap", ["c"], ["y"], name="second"),
    ]
    value = make.make_tensor_value_info
    graph = make.make_graph(
        nodes, "g", [value("x", 1, [2])], [value("y", 1, [2]), value("a", 1, [2])]
    )
    onnx.save(make.make_model(graph), tmp_path / "odd.onnx")
    result = cli("check", tmp_path / "odd.onnx")
    assert result.code == UNSUPPORTED
    assert "first" in result.out
    assert "second" in result.out
    assert "fine" not in result.out
    problems = cli("check", tmp_path / "odd.onnx", "--json")
    assert problems.code == UNSUPPORTED
    assert [problem["node"] for problem in problems.json["problems"]] == ["first", "second"]
    assert cli("run", tmp_path / "odd.onnx").code == UNSUPPORTED


def test_errors_are_json_too_where_json_is_asked_for(cli: Command, model: Path) -> None:
    result = cli("run", model, "--json")
    assert result.json["exit_code"] == USAGE
    assert "missing input x" in result.json["error"]
    assert "missing input x" in result.err


def test_a_fault_of_tfc_itself_asks_for_a_report(
    cli: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("tfc.compiler.source.read_text", fail)
    result = cli("check", model)
    assert result.code == 1
    assert result.err == (
        "tfc: error: internal error: ZeroDivisionError: oops (please report it; --debug shows "
        "where)\n"
    )
    assert "Traceback" in cli("check", model, "--debug").err


def test_a_failed_compilation_keeps_the_file_that_was_there(
    cli: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.so").write_text("before")

    def fail(*arguments: object, **named: object) -> None:
        arguments[0].write(b"half")  # type: ignore[attr-defined]
        raise errors.CompileError("broken off")

    monkeypatch.setattr("tfc.compiler.build.write_shared", fail)
    before = sorted(tmp_path.iterdir())
    assert cli("compile", model, "-o", tmp_path / "net.so").code == 1
    assert (tmp_path / "net.so").read_text() == "before"
    assert [file for file in sorted(tmp_path.iterdir()) if file.suffix != ".h"] == before


def test_a_reader_that_leaves_is_no_error(model: Path) -> None:
    command = [sys.executable, "-m", "tfc.cli.main", "dump", str(model), "--stage", "llvm"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_the_console_script_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tfc", "nonsense"])
    try:
        with pytest.raises(SystemExit) as stop:
            main.main()
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert stop.value.code == USAGE


def test_an_interrupt_is_not_a_traceback(
    cli: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tfc.compiler.source.read_text", interrupt)
    result = cli("check", model)
    assert (result.code, result.err.strip()) == (130, "tfc: error: interrupted")


def test_json_spells_out_what_json_has_no_numbers_for(cli: Command, tmp_path: Path) -> None:
    x = tfc.placeholder((3,), name="x")
    (tmp_path / "log.tfc").write_text(tfc.Graph.of({"y": tfc.log(x)}).text())
    result = cli("run", tmp_path / "log.tfc", "--input", "[-1,0,1]", "--json")
    assert result.json["outputs"]["y"]["values"] == ["nan", "-inf", 0.0]
