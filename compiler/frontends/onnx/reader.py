"""Reads an ONNX file into a ModelProto and checks what holds for the model as a whole."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfc.compiler.frontends.onnx.tensors import TensorReader
from tfc.compiler.frontends.onnx.wire import without_weights
from tfc.ir.errors import ModelError, UnsupportedError, UsageError

MIN_OPSET = 1
DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Source:
    """A parsed model: the graph, the opset of the standard domain, and how to read tensors.

    versions: the opsets of all domains by name.
    """

    file: str
    graph: Any
    opset: int
    tensors: TensorReader
    versions: Mapping[str, int]


def read(source: Any, name: str | None = None) -> Source:
    """Parse a path or take a ModelProto. Raises ModelError or UnsupportedError.

    name: what errors call the model.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        model, data = _parse(path)
        tensors = TensorReader(data, path.parent)
        file = path.name
    elif hasattr(source, "graph") and hasattr(source, "opset_import"):
        model, tensors, file = source, TensorReader(), "model"
    else:
        raise UsageError(f"expected a path or an onnx.ModelProto, not {type(source).__name__}")
    return _checked(model, tensors, name or file)


def _parse(path: Path) -> tuple[Any, mmap.mmap]:
    import onnx

    model = onnx.ModelProto()
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        small = without_weights(data)
        with memoryview(data) as view:
            model.ParseFromString(view if small is None else small)
    except OSError as error:
        raise ModelError(error.strerror or str(error), where=str(path)) from error
    except ValueError as error:
        raise ModelError("the file is empty", where=str(path)) from error
    except Exception as error:  # protobuf's DecodeError, whose module has no types
        raise ModelError("not an ONNX file, or a damaged one", where=str(path)) from error
    return model, data


def _checked(model: Any, tensors: TensorReader, file: str) -> Source:
    import onnx

    if not model.HasField("graph"):
        raise ModelError("not an ONNX model: it has no graph", where=file)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    standard = [versions[domain] for domain in DOMAINS if domain in versions]
    newest = onnx.defs.onnx_opset_version()
    if not standard and (not versions or any(n.domain in DOMAINS for n in model.graph.node)):
        raise ModelError("no opset of the standard operators is named", where=file)
    opset = max(standard, default=newest)
    if not MIN_OPSET <= opset <= newest:
        raise UnsupportedError(
            f"opset {opset}: {MIN_OPSET} to {newest} are supported"
            + (" (a newer onnx package may know it)" if opset > newest else ""),
            where=file,
        )
    if model.functions:
        model = _inlined(model, file)
    return Source(file, model.graph, opset, tensors, versions)


def _inlined(model: Any, file: str) -> Any:
    """Replace calls of the model's own functions by their nodes."""
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise ModelError(f"its functions cannot be inlined: {error}", where=file) from error
