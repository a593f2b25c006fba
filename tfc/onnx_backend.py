"""The standard backend interface of the onnx package: `prepare(model).run(inputs)`.

Each model becomes an artifact, a file that the runtime alone loads and runs. An input whose value
decides more than sizes, such as axes or scales, is compiled in: a model with such inputs is
compiled when `run` first sees their values, and again for other values. So are the shapes of
what a sequence or an optional holds. Sequences are lists; an optional without an element is None.
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
Program = Callable[[Sequence[Array]], tuple[Any, ...]]

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
        self._nested = {p.name for p in model.graph.input if front_end.is_nested(p)}
        self._needed: set[str] = set()
        self._programs: dict[Any, Program] = {}

    def prepare(self) -> None:
        """Compile the model, unless values of its inputs are needed for that, or what they hold."""
        try:
            self._programs[(), repr({})] = self._compile({}, {})
        except front_end.ValueNeeded as error:
            self._needed = set(error.inputs) - self._nested

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return the outputs in the model's order.

        inputs: arrays in the order of the model's inputs, or one dict by name, or one array.
        """
        given = self._named(inputs)
        shapes = {name: _shapes(given[name]) for name in self._inputs if name in self._nested}
        while True:
            values = {name: given[name] for name in self._inputs if name in self._needed}
            known = tuple((name, v.tobytes(), v.shape) for name, v in values.items())
            key = (known, repr(shapes))
            program = self._programs.get(key)
            if program is None:
                try:
                    program = self._programs[key] = self._compile(values, shapes)
                except front_end.ValueNeeded as error:
                    more = {n for n in error.inputs - self._nested if _is_small(given[n])}
                    if more <= self._needed:
                        raise
                    self._needed |= more
                    continue
            return program([x for n in self._inputs if n not in values for x in _arrays(given[n])])

    def _named(self, inputs: Any) -> dict[str, Any]:
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
        return {name: _item(v) if name in self._nested else _array(v) for name, v in named.items()}

    def _compile(
        self, values: Mapping[str, Array], shapes: Mapping[str, front_end.Shapes]
    ) -> Program:
        results: dict[str, Any] = {}
        module = front_end.load(self._model, values=values, shapes=shapes, results=results)
        path = Path(self._folder.name) / f"{len(self._programs)}.so"
        compile_module(module, self._options).write(path)
        run = self._loader(path)

        def program(arrays: Sequence[Array]) -> tuple[Any, ...]:
            found = iter(run(arrays))
            return tuple(front_end.as_python(item, found) for item in results.values())

        return program


def _array(given: Any) -> Array:
    return numpy_helper.to_array(given) if isinstance(given, TensorProto) else np.asarray(given)


def _item(given: Any) -> Any:
    """A list of arrays, an array, or None."""
    if isinstance(given, (list, tuple)):
        return [_array(x) for x in given]
    return None if given is None else _array(given)


def _arrays(given: Any) -> list[Array]:
    """The arrays of an input: of a list all of them, of None none."""
    if given is None:
        return []
    return given if isinstance(given, list) else [given]


def _shapes(given: Any) -> front_end.Shapes:
    if isinstance(given, list):
        return [x.shape for x in given]
    shape: front_end.Shapes = None if given is None else given.shape
    return shape


def _is_small(given: Any) -> bool:
    return isinstance(given, np.ndarray) and given.size <= _MOST_VALUES


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
