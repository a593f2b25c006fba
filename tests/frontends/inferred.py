"""Types of all values of a model: as the importer has them, and as onnx infers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from tfc.compiler.frontends.onnx.importer import Importer
from tfc.compiler.frontends.onnx.reader import read
from tfc.compiler.frontends.onnx.tensors import DTYPES
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, evaluate, symbol, symbols_of
from tfc.ir.types import DType, TensorType

# What onnx states of a value: element type, and each dim as a number, a name, or None.
Stated = tuple[DType, "tuple[int | str | None, ...] | None"]


class Recorder(Importer):
    """An importer that notes the type of what each node of the model's own graph defines."""

    def __init__(self, model: Any) -> None:
        super().__init__(read(model), None)
        self._own = list(self.source.graph.node)
        self.types: dict[str, TensorType] = {}

    def _define(self, node: Any, name: str, value: Any) -> None:
        super()._define(node, name, value)
        if isinstance(value, Value) and any(node is own for own in self._own):
            self.types[name] = tensor_type(value)

    def chosen(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes of the symbols that inputs' shapes or other symbols decide: as given, or small."""
        found: dict[str, int] = {}
        for name, info in self.run().main.symbols.items():
            if isinstance(info.source, (int, Dim)):
                if symbols_of(info.source) <= found.keys():
                    found[name] = evaluate(info.source, found)
            elif name in self.symbols._originals.values():
                found[name] = sizes.get(name, 3 + len(found))
        return found

    def named_sizes(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The sizes of dims by the model's own names, given those of our symbols."""
        dims = {
            label: self.symbols._equal.get(name, symbol(name))
            for label, name in self.symbols._originals.items()
        }
        return {label: evaluate(dim, sizes) for label, dim in dims.items()}


def compare(model: Any, sizes: Mapping[str, int] | None = None) -> tuple[int, list[str]]:
    """Return how many values both sides have, and where they disagree. sizes: of our symbols."""
    recorder = Recorder(model)
    chosen = recorder.chosen(sizes or {})
    ours = {
        name: (type.dtype, tuple(_size(dim, chosen) for dim in type.shape))
        for name, type in recorder.types.items()
    }
    theirs = stated_types(model)
    return len(ours.keys() & theirs.keys()), disagreements(
        ours, theirs, recorder.named_sizes(chosen)
    )


def _size(dim: DimLike, sizes: Mapping[str, int]) -> int | None:
    """The size of a dim, None where the data of a run decides it."""
    return evaluate(dim, sizes) if symbols_of(dim) <= sizes.keys() else None


def stated_types(model: Any) -> dict[str, Stated]:
    """Return what onnx's shape inference says, of those values it says something of."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    found: dict[str, Stated] = {}
    for proto in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = proto.type.tensor_type
        if tensor.elem_type in DTYPES:
            found[proto.name] = DTYPES[tensor.elem_type], _shape(tensor)
    return found


def _shape(tensor: Any) -> tuple[int | str | None, ...] | None:
    if not tensor.HasField("shape"):
        return None
    return tuple(
        (dim.dim_value if dim.dim_value >= 0 else None)
        if dim.HasField("dim_value")
        else dim.dim_param or None
        for dim in tensor.shape.dim
    )


def disagreements(
    ours: Mapping[str, tuple[DType, tuple[int | None, ...]]],
    theirs: Mapping[str, Stated],
    sizes: Mapping[str, int],
) -> list[str]:
    """Compare element type, rank and each dim that onnx gives as a number or by a known name."""
    found = []
    for name in ours.keys() & theirs.keys():
        (dtype, shape), (other, dims) = ours[name], theirs[name]
        same = dtype == other and (dims is None or len(dims) == len(shape))
        for have, wanted in zip(shape, dims or (), strict=False):
            known = sizes.get(wanted) if isinstance(wanted, str) else wanted
            same = same and (have is None or known in (None, have))
        if not same:
            found.append(f"{name}: ours {dtype}{list(shape)}, onnx's {other}{dims}")
    return found
