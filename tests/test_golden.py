"""Golden files: text in, text or a refusal out, compared whole. `--bless` rewrites them.

tests/golden/FOLDER/CASE.tfc: a comment that says what and why, `# run: STEP ...`, the module, the
divider, the expected output. Steps: `print`, `verify`, and every pass by its name.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import ROOT
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import PASSES
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Module
from tfc.ir.errors import TfcError
from tfc.ir.text import parse_module, print_module
from tfc.ir.verify import verify

FOLDER = ROOT / "tests" / "golden"
DIVIDER = "# ====\n"
STEPS = {row.name: row.fn for row in PASSES}


def golden_output(text: str) -> str:
    """Return what a golden file's input gives. Positions in refusals are lines of the file."""
    steps = next(line for line in text.splitlines() if line.startswith("# run:"))
    try:
        module = parse_module(text, ConstantStore(), "input")
        for step in steps.removeprefix("# run:").split():
            run_step(step, module)
    except TfcError as error:
        return f"{type(error).__name__}: {error}\n"
    return print_module(module)


def run_step(step: str, module: Module) -> None:
    if step == "verify":
        verify(module)
    elif step != "print":
        STEPS[step](module, PassContext())
        verify(module, step)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.tfc")), ids=lambda p: p.stem)
def test_golden_file_gives_its_expected_output(path: Path, bless: bool) -> None:
    head, divider, expected = path.read_text(encoding="utf-8").partition(DIVIDER)
    assert re.match(r"# (?!run:)", head), "say what the case shows"
    found = golden_output(head)
    if bless:
        path.write_text(head + DIVIDER + found, encoding="utf-8")
        return
    assert divider, "run pytest --bless and read what it wrote"
    assert found == expected


def test_golden_output_differs_where_the_module_does() -> None:
    text = "# run: print\ntfc 1 graph\nfunc @main(%x: f32[2]) -> (y) { return(%x) }\n"
    assert golden_output(text) != golden_output(text.replace("f32[2]", "f32[3]"))
