"""The standard backend interface of the onnx package: `prepare(model).run(inputs)`.

Each model becomes an artifact, a file that the runtime alone loads and runs. An input whose value
decides shapes, such as the operand `shape` of Reshape, is compiled in: a model with such inputs
is compiled when `run` first sees their values, and again for other values.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.base import Backend, BackendRep

from tfc.compiler.build import Options
from tfc.compiler.codegen.host import resolve_target
from tfc.compiler.driver import compile_module
from tfc.compiler.frontends import onnx as front_end
from tfc.ir.errors import TfcError, UsageError
from tfc.runtime.loader import load

__all__ = ["TfcBackend", "is_compatible", "prepare", "run_model", "supports_device"]

Array = npt.NDArray[Any]
# Loads an artifact and returns what runs it on arrays in the order of its inputs.
Loader = Callable[[Path], Callable[[Sequence[Array]], Sequence[Array]]]

# Values of inputs that are compiled in: shapes, axes, scales; never the data itself.
_MOST_VALUES = 64


def load_here(path: Path) -> Callable[[Sequence[Array]], Sequence[Array]]:
    """Load an artifact into this process."""
    executable = load(path, threads=1)
    single = len(executable.outputs) == 1
    return lambda inputs: (executable(*inputs),) if single else tuple(executable(*inputs))


class TfcRep(BackendRep):  # type: ignore[misc]
    """A model that is ready to run."""

    def __init__(self, model: ModelProto, options: Options, loader: Loader) -> None:
        self._model = model
        self._options = options
        self._loader = loader
        self._folder = tempfile.TemporaryDirectory(prefix="tfc-onnx-")
        weakref.finalize(self, self._folder.cleanup)
        stored = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [p.name for p in model.graph.input if p.name not in stored]
        self._needed: set[str] = set()
        self._programs: dict[Any, Callable[[Sequence[Array]], Sequence[Array]]] = {}

    def prepare(self) -> None:
        """Compile the model, unless values of its inputs are needed for that."""
        try:
            self._programs[()] = self._compile({})
        except front_end.ValueNeeded as error:
            self._needed = set(error.inputs)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return the outputs in the model's order.

        inputs: arrays in the order of the model's inputs, or one dict by name, or one array.
        """
        given = self._named(inputs)
        while True:
            values = {name: given[name] for name in self._inputs if name in self._needed}
            key = tuple((name, v.tobytes(), v.shape) for name, v in values.items())
            program = self._programs.get(key)
            if program is None:
                try:
                    program = self._programs[key] = self._compile(values)
                except front_end.ValueNeeded as error:
                    more = {n for n in error.inputs if given[n].size <= _MOST_VALUES}
                    if more <= self._needed:
                        raise
                    self._needed |= more
                    continue
            return tuple(program([given[n] for n in self._inputs if n not in values]))

    def _named(self, inputs: Any) -> dict[str, Array]:
        if isinstance(inputs, Mapping):
            named = dict(inputs)
        else:
            listed = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(listed) > len(self._inputs):
                raise UsageError(f"{len(listed)} inputs given, the model has {len(self._inputs)}")
            named = dict(zip(self._inputs, listed, strict=False))
        missing = [name for name in self._inputs if name not in named]
        if missing:
            raise UsageError(f"input {missing[0]!r} is missing")
        return {
            name: numpy_helper.to_array(v) if isinstance(v, TensorProto) else np.asarray(v)
            for name, v in named.items()
        }

    def _compile(self, values: Mapping[str, Array]) -> Callable[[Sequence[Array]], Sequence[Array]]:
        module = front_end.load(self._model, values=values)
        path = Path(self._folder.name) / f"{len(self._programs)}.so"
        compile_module(module, self._options).write(path)
        return self._loader(path)


class TfcBackend(Backend):  # type: ignore[misc]
    """onnx's backend interface. A subclass may run artifacts elsewhere by another `loader`."""

    loader: Loader = staticmethod(load_here)

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the model can be imported, as far as that is known without its inputs' values."""
        if not cls.supports_device(device):
            return False
        try:
            front_end.load(model)
        except front_end.ValueNeeded:
            return True
        except TfcError:
            return False
        return True

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> TfcRep:
        """Compile a model. Raises TfcError, where the model is not supported too."""
        if not cls.supports_device(device):
            raise UsageError(f"no device {device!r}: CPU is there")
        rep = TfcRep(model, Options(resolve_target("host"), threads=False), cls.loader)
        rep.prepare()
        return rep

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether `device` is the CPU."""
        return device.split(":")[0] == "CPU"


is_compatible = TfcBackend.is_compatible
prepare = TfcBackend.prepare
run_model = TfcBackend.run_model
supports_device = TfcBackend.supports_device
