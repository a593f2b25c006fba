"""Kernels and artifacts for AMX, executed: the bits of those whose tiles are loops over vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.codegen.amx import HOST, TARGET, Trap
from tests.lower import test_integer_products as integer
from tests.lower.native import Code
from tests.lower.test_tiles import EMULATED, convolutions, kernels, product, program_of
from tfc.compiler.cost import tiles as cost
from tfc.compiler.lower import tiles, tiles_copied
from tfc.graph import Graph
from tfc.ir.types import BF16, F32, U8, DType

Array = Any


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles are used for all that they can compute."""
    cycles = cost.tile_cycles
    monkeypatch.setattr(cost, "tile_cycles", lambda sizes: cycles(sizes) * 1e-6)


def compare(program: Graph, dtype: DType, inputs: dict[str, Array], trap: Trap) -> None:
    module = program_of(program, TARGET, dtype)
    assert kernels(module)
    with trap.installed():
        got = Code([module], TARGET).run(module, inputs)
    counts = trap.counts()
    assert trap.error == ""
    assert HOST.uses_amx or counts["dots"] > 0
    assert counts["ldtilecfg"] == counts["tilerelease"]
    emulated = program_of(program, EMULATED, dtype)
    wanted = Code([emulated], EMULATED).run(emulated, inputs)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("size", [(33, 70, 20), (70, 500, 48), (128, 768, 40)])
def test_products(size: tuple[int, int, int], amx_trap: Trap) -> None:
    generator = np.random.default_rng(0)
    rows, depth, columns = size
    program, _ = product(rows, depth, columns)
    x = generator.standard_normal((rows, depth)).astype(np.float32)
    compare(program, BF16, {"x": x}, amx_trap)


def test_every_number_of_rows(amx_trap: Trap) -> None:
    program, w = product("M", 90, 24)
    module = program_of(program, TARGET)
    code = Code([module], TARGET)
    for rows in (0, 1, 7, 16, 17, 40, 100):
        x = np.random.default_rng(rows).integers(-8, 9, (rows, 90)).astype(np.float32)
        with amx_trap.installed():
            got = code.run(module, {"x": x})["y"]
        assert amx_trap.error == ""
        np.testing.assert_array_equal(got, x @ w)


@pytest.mark.parametrize("way", [pytest.param("whole", marks=pytest.mark.slow), "parts", "copied"])
def test_convolutions(way: str, amx_trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles if way == "copied" else tiles_copied, "plans", lambda *args: [])
    if way == "parts":
        for name in ("SUM", "LONG_SUM", "FEW_TASKS"):
            monkeypatch.setattr(tiles, name, 2)
    program, inputs, _ = convolutions()
    compare(program, BF16, inputs, amx_trap)


def test_convolutions_of_bytes(amx_trap: Trap) -> None:
    program, inputs, _ = integer.convolutions(U8, 0)
    compare(program, F32, {f"x{i}": x for i, x in enumerate(inputs)}, amx_trap)


def in_a_process(trap: Trap, answer: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.lower.amx_process", trap.library._name, answer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_an_artifact_asks_once_and_runs_on_every_thread(amx_trap: Trap) -> None:
    found = in_a_process(amx_trap, "granted")
    assert found["equal"] == [True] * 6
    assert found["error"] == found["message"] == ""
    # Two artifacts.
    assert found["asked"] == 2
    assert found["counts"]["ldtilecfg"] == found["counts"]["tilerelease"]
    assert HOST.uses_amx or found["counts"]["ldtilecfg"] > 12


def test_an_artifact_says_that_it_may_not_use_tiles(amx_trap: Trap) -> None:
    found = in_a_process(amx_trap, "refused")
    assert found["equal"] == []
    assert "does not let this process use the tile registers" in found["message"]
    assert found["counts"]["ldtilecfg"] == 0
