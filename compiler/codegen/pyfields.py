"""Short forms for the LLVM text of what Python calls: a field of an object is one line.

`%x = field TYPE %object NAME` loads what lies at the offset NAME behind a pointer, and
`put TYPE %x %object NAME` stores it. `${NAME}` is the offset or number itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Template

from tfc.compiler.codegen.abi import TENSOR_BYTES, TENSOR_CAPACITY, TENSOR_DATA, TENSOR_DIMS
from tfc.compiler.codegen.values import CTX_WORKSPACE_BYTES
from tfc.runtime import pylayout

_FIELD = re.compile(r"^( *)(%[\w.]+) = field (\w+) (%[\w.]+) (\w+)$", re.MULTILINE)
_PUT = re.compile(r"^( *)put (\w+) (%[\w.]+) (%[\w.]+) (\w+)$", re.MULTILINE)

NAMES: Mapping[str, int] = {
    **{name: value for name, value in vars(pylayout).items() if type(value) is int},
    **{f"STATE_{name}": 8 * word for name, word in pylayout.STATE.items()},
    **{f"PORT_{name}": 8 * word for name, word in pylayout.PORT.items()},
    "PORTS": 8 * len(pylayout.STATE),
    "PORT_BYTES": 8 * len(pylayout.PORT),
    "TENSOR_BYTES": TENSOR_BYTES,
    "TENSOR_DATA": TENSOR_DATA,
    "TENSOR_CAPACITY": TENSOR_CAPACITY,
    "TENSOR_DIMS": TENSOR_DIMS,
    "CTX_WORKSPACE_BYTES": CTX_WORKSPACE_BYTES,
}


def expanded(text: str, **names: str) -> str:
    """Return LLVM text without short forms."""

    def load(match: re.Match[str]) -> str:
        indent, name, type, base, field = match.groups()
        return (
            f"{indent}{name}.at = getelementptr i8, ptr {base}, i64 {NAMES[field]}\n"
            f"{indent}{name} = load {type}, ptr {name}.at, align {4 if type == 'i32' else 8}"
        )

    def store(match: re.Match[str]) -> str:
        indent, type, value, base, field = match.groups()
        at = f"{base}.{field}.to"
        return (
            f"{indent}{at} = getelementptr i8, ptr {base}, i64 {NAMES[field]}\n"
            f"{indent}store {type} {value}, ptr {at}, align 8"
        )

    return Template(_PUT.sub(store, _FIELD.sub(load, text))).substitute(NAMES, **names)
