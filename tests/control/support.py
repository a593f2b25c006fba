"""Runs graphs with control flow in every way there is, and compares. Not test cases."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tfc
from tests.lower.native import graph
from tfc.compiler.build import Options
from tfc.compiler.codegen.host import host_target
from tfc.compiler.driver import compile_module, lower_module
from tfc.ir.core import Module
from tfc.ir.interp import evaluate
from tfc.ir.loop.interp import run_program
from tfc.ir.text.parser import parse_module
from tfc.ir.text.printer import print_module

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
LEVELS = (0, 2)

__all__ = ["Arrays", "agree", "artifact", "copy_of", "graph", "inputs"]


def inputs(*arrays: Any) -> dict[str, Array]:
    """Arrays under the names that `graph` gives its inputs."""
    return {f"x{i}": np.asarray(array) for i, array in enumerate(arrays)}


def copy_of(module: Module) -> Module:
    """The module that its text says."""
    return parse_module(print_module(module), module.constants)


def artifact(module: Module, opt: int, threads: int = 1) -> Callable[[Arrays], Arrays]:
    """What a saved artifact of a copy of the module computes."""
    options = Options(host_target(), opt=opt, threads=threads > 1, cache=None)
    compiled = compile_module(copy_of(module), options)
    with tempfile.TemporaryDirectory(prefix="tfc-control-") as folder:
        path = Path(folder) / "program.so"
        compiled.write(path)
        return tfc.load(path, threads=threads)


def agree(module: Module, cases: Sequence[Arrays], rtol: float = 0.0) -> list[Arrays]:
    """Check that all ways of running the module give the same, and return that.

    They are the references, the checked interpreter of the loop level, and machine code; the
    last two at both ends of optimisation. rtol: relative to the largest number of an output.
    """
    wanted = [evaluate(module, case, module.constants) for case in cases]
    for opt in LEVELS:
        program = lower_module(copy_of(module), Options(host_target(), opt=opt))
        run = artifact(module, opt)
        for case, want in zip(cases, wanted, strict=True):
            _same(run_program(program, case), want, rtol, f"checked, level {opt}")
            _same(run(case), want, rtol, f"native, level {opt}")
    return wanted


def _same(found: Arrays, want: Arrays, rtol: float, what: str) -> None:
    assert found.keys() == want.keys()
    for name, array in want.items():
        got = found[name]
        if got.dtype.name == "bfloat16":
            got = got.view(np.uint16)
        scale = np.abs(array).max(initial=0.0) if rtol else 0.0
        np.testing.assert_allclose(got, array, rtol=0, atol=rtol * scale, err_msg=f"{name}, {what}")
        assert got.dtype == array.dtype
        assert got.shape == array.shape
