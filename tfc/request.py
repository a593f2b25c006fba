"""What `tfc.compile` is asked for, and how it is made by the compiler."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfc.compiler.build import Build, Options, precision
from tfc.compiler.codegen.host import missing_features, resolve_target
from tfc.compiler.driver import optimise, print_stage
from tfc.compiler.inplace import InPlace, make_in_place
from tfc.compiler.source import Dims, Shapes, is_text, open_module, specialise
from tfc.compiler.target import Target
from tfc.graph import Graph, Tensor
from tfc.inprocess import compile_in_process
from tfc.ir.core import Module
from tfc.ir.errors import TargetError, UsageError
from tfc.kept import Kept
from tfc.runtime.cores import usable_cores
from tfc.runtime.executable import Executable
from tfc.tuned import tuned, with_tuning

if TYPE_CHECKING:
    from tfc.api import Model


@dataclass(frozen=True)
class Request:
    """The arguments of `tfc.compile`."""

    model: Model | None
    inputs: Sequence[Tensor] | None
    outputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None
    target: str | Target
    threads: int | None
    opt: int
    dtype: str
    dims: Dims
    shapes: Shapes
    in_place: InPlace
    name: str | None
    constants: str | os.PathLike[str] | None
    tune: float | None
    tuning: str | os.PathLike[str] | None
    _files: list[Path] = field(default_factory=list, init=False)

    def compile(self, kept: Kept | None) -> Executable:
        """Compile and load, by way of the cache's entry where there is one."""
        if kept is None or is_text(self._path):
            return compile_in_process(self._open, self._options, self.threads)

        def keep(build: Build) -> int | None:
            constants = build.manifest["memory"]["constants"]
            return kept.store(constants, build.write_shared, self._files)

        return compile_in_process(self._open, self._options, self.threads, keep)

    def stage(self, stage: str) -> str:
        """Return the text of the model at a stage."""
        return print_stage(self._open(), stage, self._options)

    @property
    def _path(self) -> Path:
        assert isinstance(self.model, (str, os.PathLike))
        return Path(self.model)

    @cached_property
    def _options(self) -> Options:
        if self.opt not in range(4):
            raise UsageError(f"opt is {self.opt!r}: it must be 0, 1, 2 or 3")
        from_file = isinstance(self.model, (str, os.PathLike))
        options = Options(
            native(self.target),
            name=self.name or (self._path.stem if from_file else "model"),
            opt=self.opt,
            dtype=precision(self.dtype),
            threads=self.threads != 1,
            jobs=usable_cores(),
        )
        options = with_tuning(options, self._tuning_file, missing=self.tune is not None)
        if self.tune is None:
            return options
        if self.tune <= 0:
            raise UsageError(f"tune is {self.tune!r}: it must be a number of seconds")
        module = self._open()
        optimise(module, options)
        return tuned(module, options, self.tune, self.threads, self._tuning_file)[0]

    @property
    def _tuning_file(self) -> Path | None:
        return Path(self.tuning) if self.tuning is not None else None

    @cached_property
    def _source(self) -> Any:
        """The model: a path, a ModelProto, or a Graph."""
        if (self.model is None) == (self.outputs is None):
            raise UsageError("compile takes a model, or outputs (and inputs) made of tensors")
        if self.outputs is not None:
            return Graph.of(self.outputs, self.inputs)
        if self.inputs is not None:
            raise UsageError("inputs go with outputs; those of a model are known")
        return self._path if isinstance(self.model, (str, os.PathLike)) else self.model

    def _open(self) -> Module:
        """Return a module of the model, a new one at each call."""
        source = self._source
        if not isinstance(source, Graph):
            folder = Path(self.constants) if self.constants else None
            return open_module(source, self.dims, folder, self._files, self.shapes, self.in_place)
        if self.shapes:
            raise UsageError("shapes are for ONNX models; a graph has those of its inputs")
        module = source.copy()
        if self.dims:
            specialise(module, self.dims)
        if self.in_place:
            make_in_place(module, self.in_place)
        return module


def native(target: str | Target) -> Target:
    """Return the target, which must be one that this machine can run."""
    if isinstance(target, str):
        target = resolve_target(target.replace("native", "host", 1))
    missing = missing_features(target)
    if missing:
        raise TargetError(f"this machine lacks {', '.join(sorted(missing))} of the target")
    return target
