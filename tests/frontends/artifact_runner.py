"""Runs artifacts as a program of its own that has the runtime of tfc and nothing of the compiler.

Reads pickled (path, inputs) from stdin and answers with (outputs, error), until stdin ends.
Without a path it tells the names of the modules that it has imported.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

from tfc.runtime.loader import load

FORBIDDEN = ("tfc.ir", "tfc.compiler", "llvmlite", "onnx")


def answer(path: str, inputs: list[Any]) -> tuple[list[Any], str]:
    if not path:
        return sorted(sys.modules), ""
    try:
        program = load(path, threads=1)
        found = program(*inputs)
        outputs = [found] if len(program.outputs) == 1 else list(found)
    except Exception as error:
        return [], f"{type(error).__name__}: {error}"
    loaded = [name for name in FORBIDDEN if name in sys.modules]
    return (outputs, "") if not loaded else ([], f"imports {', '.join(loaded)}")


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            path, inputs = pickle.load(source)
        except EOFError:
            return
        pickle.dump(answer(path, inputs), sink)
        sink.flush()


if __name__ == "__main__":
    main()
