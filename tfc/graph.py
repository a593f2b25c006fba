"""`Graph`: a program as data, with its text, its verifier and its reference; not compiled yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfc.ir.constants import ConstantStore
from tfc.ir.core import Module
from tfc.ir.errors import UsageError
from tfc.ir.text.parser import parse_module
from tfc.ir.text.printer import print_module
from tfc.ir.types import TensorType
from tfc.ir.verify import verify
from tfc.tensor import Array, Tensor, constant, module_of, op_function, placeholder

__all__ = ["Graph", "Tensor", "constant", "op_function", "placeholder"]


class Graph:
    """A module of graph or loop level. `tfc.compile` takes it and leaves it as it is."""

    def __init__(self, module: Module) -> None:
        self.module = module

    @classmethod
    def of(
        cls,
        outputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
        inputs: Sequence[Tensor] | None = None,
    ) -> Graph:
        """Return the graph that computes tensors from placeholders."""
        return cls(module_of(outputs, inputs))

    def __repr__(self) -> str:
        count = sum(len(function.block) for function in self.module.functions.values())
        return f"<Graph {self.module.level}: {count} ops>"

    @property
    def level(self) -> str:
        """graph or loop."""
        return self.module.level

    @property
    def inputs(self) -> dict[str, TensorType]:
        main = self.module.main
        if self.level == "loop":
            return dict(main.attrs["inputs"])
        return {arg.name: _tensor_type(arg.type) for arg in main.args}

    @property
    def outputs(self) -> dict[str, TensorType]:
        main = self.module.main
        if self.level == "loop":
            return dict(main.attrs["outputs"])
        types = [_tensor_type(value.type) for value in main.outputs]
        return dict(zip(main.output_names, types, strict=True))

    def text(self, *, locations: bool = False) -> str:
        """Return the text that `tfc.parse` reads; large constants stand in it by hash."""
        return print_module(self.module, locations)

    def verify(self) -> None:
        """Check every rule of the IR. Raises VerifyError."""
        verify(self.module)

    def eval(self, *inputs: Any) -> Any:
        """Compute the outputs op by op in numpy: slow, and what compiled code is held against.

        Takes and returns arrays, or one dict by name, as an `Executable` does.
        """
        from tfc.ir.interp import evaluate

        if self.level != "graph":
            raise UsageError("only a graph can be evaluated; this program is at the loop level")
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return evaluate(self.module, inputs[0], self._constants)
        names = list(self.inputs)
        if len(inputs) != len(names):
            raise UsageError(f"{len(inputs)} inputs given, the graph takes {len(names)}")
        results: dict[str, Array] = evaluate(
            self.module, dict(zip(names, inputs, strict=True)), self._constants
        )
        values = tuple(results.values())
        return values[0] if len(values) == 1 else values

    def copy(self) -> Module:
        """Return a module of its own that shares the constants."""
        return parse_module(self.text(locations=True), self._constants)

    @property
    def _constants(self) -> ConstantStore:
        store = self.module.constants
        assert isinstance(store, ConstantStore)
        return store


def _tensor_type(type: object) -> TensorType:
    assert isinstance(type, TensorType)
    return type
