"""Opens what can be compiled: IR text of either level by its first word, other files as ONNX.

Front ends are imported when a file asks for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tfc.compiler.inplace import InPlace, make_in_place
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Function, Module, SymbolInfo
from tfc.ir.errors import ModelError, UsageError
from tfc.ir.symbols import run_time_symbols, substitute_in
from tfc.ir.verify import verify

Given: TypeAlias = "int | tuple[int, int | None] | None"
Dims: TypeAlias = "Mapping[str, Given] | None"
Shapes: TypeAlias = "Mapping[str, Sequence[Any] | None] | None"

_TEXT_START = b"tfc "


def open_module(
    source: Any,
    dims: Dims = None,
    constants: Path | None = None,
    files: list[Path] | None = None,
    shapes: Shapes = None,
    in_place: InPlace = None,
) -> Module:
    """Return the module of a path or an ONNX ModelProto.

    constants: the directory with the data of IR text; by default `constants_beside` the file.
    files: gets the files beside an ONNX model that hold its weights. shapes: of inputs that an
    ONNX model leaves open. in_place: as for `make_in_place`.
    """
    module = _read_module(source, dims, constants, files, shapes)
    if in_place:
        make_in_place(module, in_place)
    return module


def _read_module(
    source: Any, dims: Dims, constants: Path | None, files: list[Path] | None, shapes: Shapes
) -> Module:
    if isinstance(source, (str, Path)) and is_text(Path(source)):
        if shapes:
            raise UsageError("shapes are for ONNX models; IR text has those of its inputs")
        path = Path(source)
        return read_text(path, dims, constants or constants_beside(path))
    from tfc.compiler.frontends import onnx

    return onnx.load(source, dims, files=files, shapes=shapes)


def open_inputs(path: Path) -> frozenset[str]:
    """Return the names of a model's inputs whose types leave open what shapes they have."""
    if is_text(path):
        return frozenset()
    from tfc.compiler.frontends import onnx

    return onnx.open_inputs(path)


def is_text(path: Path) -> bool:
    """Whether a file is IR text. Raises ModelError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_TEXT_START)) == _TEXT_START or path.suffix == ".tfc"
    except OSError as error:
        raise ModelError(error.strerror or str(error), where=str(path)) from error


def constants_beside(path: Path) -> Path:
    """Return where the constants of an IR text file are unless told otherwise.

    The files of a model's stages, as `tfc compile --emit` names them, share theirs.
    """
    name = path.name.removesuffix(".tfc")
    for stage in (".graph", ".fused", ".loops"):
        name = name.removesuffix(stage)
    return path.with_name(f"{name}.constants")


def read_text(path: Path, dims: Dims, constants: Path) -> Module:
    """Parse and verify a file of IR text."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(error.strerror or str(error), where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ModelError(f"not UTF-8 text: {error}", where=str(path)) from error
    return parse_text(text, dims, constants, str(path))


def parse_text(
    text: str, dims: Dims = None, constants: Path | None = None, name: str = "<text>"
) -> Module:
    """Parse and verify IR text."""
    import tfc.ir.ops  # noqa: F401  registers the ops that the text may name
    from tfc.ir.text.parser import parse_module

    module = parse_module(text, ConstantStore(constants), name)
    verify(module)
    if dims:
        specialise(module, dims)
        verify(module)
    return module


def specialise(module: Module, dims: Mapping[str, Given]) -> None:
    """Fix symbols of the module's functions to sizes, or narrow their bounds, in place."""
    known = {
        name
        for function in module.functions.values()
        for name, info in function.symbols.items()
        if info.source is None and name not in run_time_symbols(function)
    }
    for name, given in dims.items():
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise UsageError(f"no dim of the model is called {name!r} (dynamic dims: {listed})")
        if not _is_valid(given):
            raise UsageError(f"dim {name!r}: {given!r} is neither a size nor bounds (lo, hi)")
    for function in module.functions.values():
        _specialise_function(function, dims)


def _is_valid(given: Given) -> bool:
    if given is None or isinstance(given, int):
        return given is None or given >= 0
    return len(given) == 2 and given[0] >= 0 and (given[1] is None or given[0] <= given[1])


def _specialise_function(function: Function, dims: Mapping[str, Given]) -> None:
    fixed = {name: size for name, size in dims.items() if isinstance(size, int)}
    for name, given in dims.items():
        info = function.symbols.get(name)
        if info is None or given is None:
            continue
        if isinstance(given, int):
            if given < info.lo or (info.hi is not None and given > info.hi):
                raise UsageError(f"dim {name!r}: {given} is outside of the model's bounds")
            del function.symbols[name]
        else:
            lo, hi = given
            ends = [end for end in (hi, info.hi) if end is not None]
            function.symbols[name] = SymbolInfo(max(lo, info.lo), min(ends, default=None), None)
    substitute_in(function, fixed)
