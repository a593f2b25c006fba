"""The functions of `import tfc`: compile, load, parse. Graphs made in Python are in `tfc.graph`.

The compiler is imported when it is needed: not for a model that is kept compiled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tfc.kept import Kept, kept_model
from tfc.rules import any_rules
from tfc.runtime.executable import Executable
from tfc.runtime.loader import load

if TYPE_CHECKING:
    from onnx import ModelProto

    from tfc.compiler.inplace import InPlace
    from tfc.compiler.source import Dims, Shapes
    from tfc.compiler.target import Target
    from tfc.graph import Graph, Tensor

    Model: TypeAlias = "str | os.PathLike[str] | ModelProto | Graph"

__all__ = ["compile", "load", "parse"]


def compile(
    model: Model | None = None,
    *,
    inputs: Sequence[Tensor] | None = None,
    outputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None = None,
    target: str | Target = "native",
    threads: int | None = None,
    opt: int = 2,
    dtype: str = "f32",
    dims: Dims = None,
    shapes: Shapes = None,
    in_place: InPlace = None,
    name: str | None = None,
    constants: str | os.PathLike[str] | None = None,
    tune: float | None = None,
    tuning: str | os.PathLike[str] | None = None,
) -> Executable:
    """Compile a model and load it into this process.

    model: a path (ONNX, or IR text), an ONNX ModelProto, or a Graph. Instead of it, `outputs`
    and `inputs` are tensors of `tfc.placeholder` and what was computed from them.
    target: native, or a level such as avx2. threads: how many a call may use; by default all
    cores of this process; 1 leaves the thread pool out of the artifact. opt: 0 to 3.
    dtype: bf16 rounds the operands of matrix products and convolutions by constants to bf16;
    sums and all else stay f32.
    dims: for a dynamic dim by name, a size, or bounds (lo, hi), hi may be None.
    shapes: for an ONNX input whose type leaves them open, by name: of a tensor of unknown rank its
    shape; of a sequence the list of its tensors' shapes, which become inputs NAME.0 and so on; of
    an optional what it holds, or None where that is nothing. A name in a shape is a dynamic dim.
    in_place: outputs that a run makes in the memory of inputs, which it changes, as
    {"h": "h_next"}; where the two differ along one axis, as a cache that grows, with what the
    memory has room for: {"past_*": ("present_*", 1024)}. See `Executable.with_room`.
    name: what the artifact is called. constants: where the data of IR text is.
    tune: seconds to measure kernels on this machine for, before compiling with what is fastest;
    it is kept in the file `tuning`, or else in the cache, and used by later compilations.
    tuning: such a file to use.

    An ONNX file that was compiled before with the same options comes from the cache, unless this
    process has rules of its own (`tfc.onnx_rule`).
    """
    request: dict[str, Any] = {
        "model": model,
        "inputs": inputs,
        "outputs": outputs,
        "target": target,
        "threads": threads,
        "opt": opt,
        "dtype": dtype,
        "dims": dims,
        "shapes": shapes,
        "in_place": in_place,
        "name": name,
        "constants": constants,
        "tune": tune,
        "tuning": tuning,
    }
    kept = _kept(request)
    found = kept.load(threads) if kept is not None else None
    if found is None:
        return _compile(request, kept)
    found.set_stages(lambda stage: _stage(request, stage))
    return found


def _kept(request: Mapping[str, Any]) -> Kept | None:
    """Return the entry of a request for a file in the cache, if it can have one."""
    model = request["model"]
    # What a user's rule depends on cannot be seen, and tuning takes its time at each call.
    if not isinstance(model, (str, os.PathLike)) or any_rules() or request["tune"] is not None:
        return None
    name, threads = request["name"] or Path(model).stem, request["threads"] != 1
    settings = {**request, "model": None, "name": name, "threads": threads, "tuning": None}
    return kept_model(model, settings, request["tuning"])


def _compile(request: Mapping[str, Any], kept: Kept | None) -> Executable:
    from tfc.request import Request

    return Request(**request).compile(kept)


def _stage(request: Mapping[str, Any], stage: str) -> str:
    from tfc.request import Request

    return Request(**request).stage(stage)


def parse(text: str, *, constants: str | os.PathLike[str] | None = None) -> Graph:
    """Return the graph (or loop-level program) that IR text says, verified.

    constants: the directory with the data of large constants.
    """
    from tfc.compiler.source import parse_text
    from tfc.graph import Graph

    return Graph(parse_text(text, None, Path(constants) if constants else None))
