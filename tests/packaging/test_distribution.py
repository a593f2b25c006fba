"""The sdist and the wheel hold the package and nothing else, and the wheel works on its own."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support import ROOT, SOURCE_FOLDERS

SETUPTOOLS_NEEDED = 77
EXAMPLE = Path("examples", "digits")


def _run(command: list[str], folder: Path, **environment: str) -> str:
    result = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a clean copy, where no earlier build can add a stale file."""
    pytest.importorskip("build", reason="the build package is missing")
    if int(version("setuptools").partition(".")[0]) < SETUPTOOLS_NEEDED:
        pytest.skip(f"setuptools is older than {SETUPTOOLS_NEEDED}")
    source = tmp_path_factory.mktemp("source")
    for name in (*SOURCE_FOLDERS, "tfc"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # A sdist first and the wheel from it: neither may need what the other does not hold.
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"], source)
    return source / "dist"


@pytest.fixture(scope="module")
def wheel_names(built: Path) -> set[str]:
    (wheel,) = built.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (wheel,) = built.glob("*.whl")
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def _expected() -> set[str]:
    """Every source file of the package, by the name under which it is imported."""
    folders = {ROOT / name: Path("tfc", name) for name in SOURCE_FOLDERS}
    modules = {to / f.relative_to(d) for d, to in folders.items() for f in d.rglob("*.py")}
    modules |= {Path("tfc", f.name) for f in (ROOT / "tfc").glob("*.py")}
    return {m.as_posix() for m in modules} | {"tfc/py.typed"}


def test_wheel_is_pure_python_and_holds_only_tfc(built: Path, wheel_names: set[str]) -> None:
    (wheel,) = built.glob("*.whl")
    name, number = wheel.name.split("-")[:2]
    assert wheel.name == f"tfc_compiler-{number}-py3-none-any.whl"
    assert {n.partition("/")[0] for n in wheel_names} == {"tfc", f"{name}-{number}.dist-info"}


def test_wheel_holds_every_module_and_no_other_file(wheel_names: set[str]) -> None:
    assert {n for n in wheel_names if n.startswith("tfc/")} == _expected()


def test_wheel_holds_the_licence(wheel_names: set[str]) -> None:
    assert [n for n in wheel_names if n.endswith("/licenses/LICENSE")]


def test_sdist_holds_real_files_and_no_other_folder(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert all(m.isfile() or m.isdir() for m in members)
    inside = {m.name.partition("/")[2] for m in members if m.isfile()}
    folders = {n.partition("/")[0] for n in inside if "/" in n}
    assert folders == {"tfc", "tfc_compiler.egg-info"}
    assert {n for n in inside if n.startswith("tfc/")} == _expected()
    assert {"LICENSE", "README.md", "pyproject.toml"} <= inside


def test_every_module_of_the_wheel_imports_from_another_folder(
    unpacked: Path, tmp_path: Path
) -> None:
    paths = [n.removesuffix(".py") for n in sorted(_expected()) if n.endswith(".py")]
    modules = [n.removesuffix("/__init__").replace("/", ".") for n in paths]
    code = (
        f"import importlib, pathlib\nfor name in {modules}:\n"
        "    module = importlib.import_module(name)\n"
        f"    assert pathlib.Path(module.__file__).is_relative_to({str(unpacked)!r}), module\n"
        "print('imported')"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    assert _run(command, tmp_path, PYTHONPATH=str(unpacked)) == "imported\n"


def test_script_of_the_wheel_answers_help(unpacked: Path, tmp_path: Path) -> None:
    (file,) = unpacked.glob("*.dist-info/entry_points.txt")
    scripts = configparser.ConfigParser()
    scripts.read(file)
    module, _, function = scripts["console_scripts"]["tfc"].partition(":")
    code = f"import sys; from {module} import {function} as f; sys.argv = ['tfc', '--help']; f()"
    text = _run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(unpacked))
    assert text.startswith("Usage: tfc ")


def test_digits_example_reads_the_strip_with_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / EXAMPLE, tmp_path / EXAMPLE)
    command = [sys.executable, str(EXAMPLE / "read.py"), str(EXAMPLE / "strip.png")]
    text = _run(command, tmp_path, PYTHONPATH=str(unpacked), PYTHONIOENCODING="utf-8")
    assert "read: 314159\n" in text
