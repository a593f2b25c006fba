"""What the documentation says can be done works, and what it names is there.

Commands are the `$` lines of fenced `console` blocks, run in order for each page in a folder that
looks like the root of a checkout. `<!-- not run: REASON -->` before a block leaves it out. Of
tests that a page runs it is checked that there are some: this run has them, too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lower.math_cases import CASES
from tests.support import ROOT

PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
TOP = ("benchmarks", "cli", "compiler", "docs", "examples", "ir", "runtime", "tests", "tfc")
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n\n?)?^( *)```console\n(.*?)^ *```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
NAMED_PATH = re.compile(rf"`((?:{'|'.join(TOP)})/[\w./-]*)`")
INSTALL = re.compile(r"^python -m pip install [^&]+ && ")
TESTS = re.compile(r"^python -m pytest ")
SECONDS = 180
OWN = ("python", "tfc")


@dataclass(frozen=True)
class Block:
    """The commands of one fenced block; `run` is false where it is marked to be left out."""

    commands: tuple[str, ...]
    run: bool


def blocks_of(text: str) -> list[Block]:
    """Return a page's console blocks."""
    found = []
    for marker, indent, body in BLOCK.findall(text):
        lines = (line.removeprefix(indent) for line in body.splitlines())
        commands = tuple(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
        found.append(Block(commands, not marker))
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with links to all that is at the root, and `tfc` and `python` of this checkout."""
    root = tmp_path / "checkout"
    root.mkdir()
    for entry in ROOT.iterdir():
        if not entry.name.startswith("."):
            (root / entry.name).symlink_to(entry)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in (("python", ""), ("tfc", " -m tfc.cli.main")):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        script.chmod(0o755)
    return root


def run_command(command: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{checkout.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_the_page_succeed(page: Path, checkout: Path) -> None:
    commands = [c for block in blocks_of(page.read_text()) if block.run for c in block.commands]
    missing: list[str] = []
    for command in commands:
        # What it would install is there, or the tests would not run.
        command = INSTALL.sub("", command)
        command = TESTS.sub("python -m pytest --collect-only ", command)
        program = command.split()[0]
        if program not in OWN and shutil.which(program) is None:
            missing.append(program)
            continue
        done = run_command(command, checkout)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_the_page_exist(page: Path) -> None:
    text = page.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    gone = [link for link in links if not (page.parent / link).exists()]
    # Words in capitals stand for a name of the reader's.
    paths = [path for path in NAMED_PATH.findall(text) if not re.search(r"\b[A-Z]{2,}\b", path)]
    gone += [path for path in paths if not (ROOT / path).exists()]
    assert not gone


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_the_page_are_in_console_blocks(page: Path) -> None:
    assert not re.findall(r"^ *\$ .*", BLOCK.sub("", page.read_text()), re.M)


def test_readme_has_commands_that_are_run() -> None:
    commands = [c for b in blocks_of((ROOT / "README.md").read_text()) if b.run for c in b.commands]
    assert any(command.startswith("tfc compile") for command in commands)
    assert not any(re.search(r"-m pytest\s*$", command) for command in commands), "runs itself"


def test_blocks_are_read_as_written() -> None:
    text = (
        "a\n```console\n$ one\noutput\n$ two && three\n```\n"
        "<!-- not run: slow -->\n```console\n$ four\n```\n"
        "1. b\n\n   ```console\n   $ five\n   ```\n```python\n$ six\n```\n"
    )
    expected = [
        Block(("one", "two && three"), True),
        Block(("four",), False),
        Block(("five",), True),
    ]
    assert blocks_of(text) == expected


def test_a_failing_command_is_noticed(checkout: Path) -> None:
    assert run_command("python -c 'raise SystemExit(3)'", checkout).returncode == 3
    assert run_command("test -f README.md && python -c 'import tfc.ir'", checkout).returncode == 0


def test_numerics_page_has_the_tested_error_bounds() -> None:
    text = (ROOT / "docs" / "numerics.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    written = {
        name: (float(single), float(double))
        for names, single, double in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    bounds = {name: case[2:] for name, case in CASES.items()}
    assert written == {**bounds, "pow": (2, 2)}
