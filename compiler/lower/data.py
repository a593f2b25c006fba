"""The constant table of a program: which stored arrays kernels read, under which names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.compiler.lower.storage import Root, RootKind
from tfc.ir import arrays
from tfc.ir.attrs import ConstRef
from tfc.ir.constants import ConstantStore
from tfc.ir.core import DataEntry, Module, Value
from tfc.ir.dims import evaluate
from tfc.ir.ops.const import ConstantAttrs
from tfc.ir.types import BufferType, DType, TensorType

Array = npt.NDArray[Any]


class DataTable:
    """Adds entries to a program's constant table; equal arrays share one entry."""

    def __init__(self, program: Module) -> None:
        assert isinstance(program.constants, ConstantStore)
        self._program = program
        self._store = program.constants
        self._names: dict[Root, str] = {}

    def array_of(self, root: Root) -> Array:
        """The elements of a constant root, flat and row-major."""
        assert root.kind is RootKind.CONSTANT
        op = root.value.op
        if op is None:
            return self._store.get(self._program.data[self._names[root]].ref)
        if isinstance(op.attrs, ConstantAttrs):
            array = arrays.constant_array(op.attrs, self._store)
        else:
            array = np.array([evaluate(dim, {}) for dim in op.attrs.values], np.int64)
        return np.ascontiguousarray(array).reshape(-1)

    def name_of(self, root: Root) -> str:
        """The table name of a constant root; the entry is made on first use."""
        name = self._names.get(root)
        if name is None:
            assert isinstance(root.value.type, TensorType)
            name = self._names[root] = self._entry(self._stored(root), root.value.type)
        return name

    def _stored(self, root: Root) -> ConstRef:
        """The elements of a constant root in the store, where they may be in any shape."""
        op = root.value.op
        assert op is not None
        assert isinstance(root.value.type, TensorType)
        if isinstance(op.attrs, ConstantAttrs) and isinstance(op.attrs.value, ConstRef):
            return op.attrs.value
        return self._store.add(self.array_of(root), root.value.type.dtype)

    def add(self, array: Array, dtype: DType, value: Value) -> Root:
        """Add a derived array, such as packed weights, and return its root."""
        root = Root(RootKind.CONSTANT, value, array.size)
        type = TensorType(dtype, (int(array.size),))
        self._names[root] = self._entry(self._store.add(array, dtype), type)
        return root

    def _entry(self, ref: ConstRef, type: TensorType) -> str:
        name = f"c_{ref.hash[:16]}"
        self._program.data[name] = DataEntry(ref, BufferType(type.dtype, (type.size,), (1,)))
        return name
