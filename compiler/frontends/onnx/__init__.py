"""The ONNX front end: `load` turns a file into a graph module, `check` lists what is unsupported.

Operators are rules in `table`, grouped by family; the machinery is `importer` and `context`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tfc.compiler.frontends.onnx.context import Array
from tfc.compiler.frontends.onnx.importer import Importer, Problem
from tfc.compiler.frontends.onnx.nested import Given as Shapes
from tfc.compiler.frontends.onnx.nested import Item, as_python, is_nested, is_open
from tfc.compiler.frontends.onnx.reader import read
from tfc.compiler.frontends.onnx.symbols import Given
from tfc.ir.core import Module
from tfc.ir.errors import CompileError, TfcError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = [
    "Problem",
    "Shapes",
    "ValueNeeded",
    "as_python",
    "check",
    "is_nested",
    "load",
    "open_inputs",
]


def load(
    source: str | Path | ModelProto,
    dims: Mapping[str, Given] | None = None,
    name: str | None = None,
    values: Mapping[str, Array] | None = None,
    files: list[Path] | None = None,
    shapes: Mapping[str, Shapes] | None = None,
    results: dict[str, Item] | None = None,
) -> Module:
    """Import an ONNX model.

    dims: for a dynamic dim of the inputs, by name: a size that fixes it, or bounds (lo, hi), or
    None. name: what errors and locations call the model, instead of the file's name. values:
    inputs that are constants from now on, and none of the module's inputs. files: gets the other
    files that were read. shapes: of inputs that the model leaves open: of a sequence a list of its
    tensors' shapes, of an optional that of its element or None. results: gets what each output is
    made of; the module's outputs are the tensors in it.
    Raises TfcError alone: ValueNeeded where values of inputs may help. The file must not change
    while the module is in use: large weights stay where they are in it.
    """
    with _only_our_errors(source):
        found = read(source, name)
        importer = Importer(found, dims, values=values, shapes=shapes)
        try:
            module = importer.run()
        except UnsupportedError as error:
            if not importer.wanted:
                raise
            raise ValueNeeded(error.message, error.where, frozenset(importer.wanted)) from error
        if files is not None:
            files.extend(found.tensors.files)
        if results is not None:
            results.update(importer.results)
        return module


def open_inputs(source: str | Path | ModelProto) -> frozenset[str]:
    """Return the names of inputs whose types leave open what shapes they have."""
    with _only_our_errors(source):
        graph = read(source).graph
        stored = {tensor.name for tensor in graph.initializer}
        names = [proto.name for proto in graph.input if is_open(proto)]
        return frozenset(names) - stored


class ValueNeeded(UnsupportedError):
    """Shapes alone do not decide what to compute; `inputs`: whose values may."""

    def __init__(self, message: str, where: str | None, inputs: frozenset[str]) -> None:
        super().__init__(message, where=where)
        self.inputs = inputs


def check(source: str | Path | ModelProto) -> list[Problem]:
    """List every node that tfc cannot compile. Raises TfcError where the model is malformed."""
    with _only_our_errors(source):
        importer = Importer(read(source), None, collect=True)
        importer.run()
        return importer.problems


@contextmanager
def _only_our_errors(source: object) -> Iterator[None]:
    try:
        yield
    except TfcError:
        raise
    except ModuleNotFoundError as error:
        raise UsageError(
            f"reading ONNX models needs {error.name}: pip install 'tfc-compiler[onnx]'"
        ) from error
    except Exception as error:
        where = str(source) if isinstance(source, (str, Path)) else "model"
        raise CompileError(f"{type(error).__name__}: {error}", where=where) from error
