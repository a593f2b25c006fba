"""Who imports whom: the contracts of pyproject.toml hold, each can fail, and imports stay cheap."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, SOURCE_FOLDERS

CORE_LIBRARIES = {"tfc", "numpy", "click", "llvmlite"}
# Subclasses what the optional library defines, and is of no use without it.
INTERFACES = {"onnx_backend.py": {"onnx"}}
LINT = "from importlinter.cli import lint_imports_command as lint; lint()"

# contract -> a file below tfc/ and an import there that the contract must refuse
BREACHES = {
    "ir-core": ("ir/types.py", "import numpy"),
    "ir-ops": ("ir/verify.py", "import tfc.ir.ops"),
    "ir": ("ir/location.py", "import tfc.compiler"),
    "compiler": ("compiler/passes/__init__.py", "import tfc.runtime.cores"),
    "codegen": ("compiler/codegen/support.py", "import tfc.ir.ops"),
    "cost": ("compiler/cost/tasks.py", "import tfc.compiler.lower.nest"),
    "one-way": ("compiler/lower/__init__.py", "import tfc.compiler.frontends.onnx"),
    "frontends": ("compiler/frontends/onnx/__init__.py", "import tfc.compiler.codegen"),
    "frontends-apart": ("compiler/frontends/other.py", "import tfc.compiler.frontends.onnx"),
    "llvmlite": ("compiler/passes/__init__.py", "import llvmlite"),
    "runtime": ("runtime/cores.py", "import tfc.ir.types"),
    "cli": ("runtime/cores.py", "import tfc.cli"),
}


def _lint(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LINT, "--no-cache", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_every_import_contract_is_kept() -> None:
    result = _lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Contracts: {len(BREACHES)} kept, 0 broken." in result.stdout


@pytest.mark.parametrize("contract", BREACHES)
def test_contract_refuses_a_breach(contract: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tfc", tmp_path / "tfc")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    name, breach = BREACHES[contract]
    file = tmp_path / "tfc" / name
    file.write_text((file.read_text() if file.exists() else "") + f"\n{breach}\n")
    result = _lint(tmp_path, "--contract", contract)
    assert result.returncode == 1
    assert "Contracts: 0 kept, 1 broken." in result.stdout, result.stdout + result.stderr


def _sources() -> list[Path]:
    folders = [ROOT / name for name in SOURCE_FOLDERS]
    return [*(ROOT / "tfc").glob("*.py"), *(f for d in folders for f in d.rglob("*.py"))]


def _imported_at_load(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level packages that executing this code imports, calls aside."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield module.partition(".")[0]
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pass
            case _:
                yield from _imported_at_load(node)


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_optional_libraries_are_imported_inside_functions(path: Path) -> None:
    allowed = CORE_LIBRARIES | sys.stdlib_module_names | INTERFACES.get(path.name, set())
    assert set(_imported_at_load(ast.parse(path.read_text()))) <= allowed


@pytest.mark.parametrize("code", ["import tfc", "import tfc.cli.main"])
def test_import_loads_no_heavy_library(code: str) -> None:
    heavy = ("numpy", "llvmlite", "onnx", "tfc.ir.ops", "tfc.compiler.codegen")
    check = f"import sys; {code}; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", check]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout == "[]\n", result.stderr
