"""tfc: a tensor graph compiler. What is public is listed here and imported at first use.

Beside these names every graph op is a function on tensors: `tfc.exp(x)`, `tfc.softmax(x, axis=1)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfc.api import compile, load, parse
    from tfc.compiler.version import VERSION as __version__
    from tfc.graph import Graph, Tensor, constant, placeholder
    from tfc.ir.errors import (
        CompileError,
        LinkerError,
        MismatchError,
        ModelError,
        TargetError,
        TfcError,
        UnsupportedError,
        UsageError,
        VerifyError,
    )
    from tfc.rules import OnnxContext, onnx_rule
    from tfc.runtime.errors import ArtifactError, CpuError, InputError, RuntimeFault
    from tfc.runtime.executable import Executable

__all__ = [
    "ArtifactError",
    "CompileError",
    "CpuError",
    "Executable",
    "Graph",
    "InputError",
    "LinkerError",
    "MismatchError",
    "ModelError",
    "OnnxContext",
    "RuntimeFault",
    "TargetError",
    "Tensor",
    "TfcError",
    "UnsupportedError",
    "UsageError",
    "VerifyError",
    "__version__",
    "compile",
    "constant",
    "load",
    "onnx_rule",
    "parse",
    "placeholder",
]

_HOMES = {
    "Executable": "tfc.runtime.executable",
    "compile": "tfc.api",
    "load": "tfc.runtime.loader",
    "onnx_rule": "tfc.rules",
    "OnnxContext": "tfc.rules",
    "parse": "tfc.api",
    **dict.fromkeys(("Graph", "Tensor", "constant", "placeholder"), "tfc.graph"),
    **dict.fromkeys(
        ("ArtifactError", "CpuError", "InputError", "RuntimeFault"), "tfc.runtime.errors"
    ),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module("tfc.compiler.version").VERSION
    elif name in __all__:
        value = getattr(import_module(_HOMES.get(name, "tfc.ir.errors")), name)
    elif name.startswith("_"):
        raise AttributeError(f"module 'tfc' has no attribute {name!r}")
    else:
        value = import_module("tfc.graph").op_function(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
