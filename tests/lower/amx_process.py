"""A process of its own in which artifacts for AMX run, and say what they gave. Not test cases.

Its CPU counts as one with AMX, and the answer to the request for tile registers is an argument.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import tfc
import tfc.compiler.build
import tfc.request
import tfc.runtime.cpu
from tests.codegen.amx import HOST, TARGET, Trap
from tfc.compiler.codegen.abi import abi_text
from tfc.runtime.errors import RuntimeFault

EMULATED = dataclasses.replace(HOST, emulates_tiles=True)


def abi_for_this_cpu(main: Any, target: Any, *args: Any, **options: Any) -> str:
    """Entry points that look for the features of this machine, AMX apart."""
    return abi_text(main, HOST, *args, **options)


def main(library: Path, granted: bool) -> dict[str, Any]:
    trap = Trap(library)
    assert trap.library.amx_grant(int(granted)) == 0
    tfc.compiler.build.abi_text = abi_for_this_cpu
    tfc.request.missing_features = lambda target: frozenset()  # type: ignore[assignment]
    tfc.runtime.cpu.own_flags = frozenset  # type: ignore[assignment]
    generator = np.random.default_rng(0)
    source = tfc.placeholder(("M", 200), "f32", name="x")
    layers = [generator.standard_normal((200, 200), dtype=np.float32) / 14 for _ in range(2)]
    program = {"y": tfc.tanh(source @ layers[0]) @ layers[1]}
    found: dict[str, Any] = {"equal": [], "message": ""}
    options: dict[str, Any] = {"outputs": program, "inputs": [source], "dtype": "bf16"}
    emulated = tfc.compile(**options, target=EMULATED, threads=1)
    for threads in (1, 3):
        native = tfc.compile(**options, target=TARGET, threads=threads)
        for rows in (5, 40, 333):
            x = generator.standard_normal((rows, 200), dtype=np.float32)
            try:
                with trap.installed():
                    got = native({"x": x})["y"]
            except RuntimeFault as fault:
                found["message"] = str(fault)
                continue
            found["equal"].append(bool((got == emulated({"x": x})["y"]).all()))
    return {
        **found, "counts": trap.counts(), "error": trap.error, "asked": trap.library.amx_asked(),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2] == "granted")))
