"""Builds graph-level IR: what front ends, decompositions, gradients and rewrites call.

`b.matmul(x, w)`, `b.reduce_sum(x, axes=(1,))`: every registered op is a method by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tfc.ir import arrays
from tfc.ir.attrs import AttrValue
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Op, Value
from tfc.ir.dims import DimLike
from tfc.ir.location import UNKNOWN, Location
from tfc.ir.opdef import OPS, OpDef
from tfc.ir.types import DType, TensorType, Type


def freeze(value: Any) -> AttrValue:
    """Return an attribute value with lists as tuples and numpy scalars as Python numbers."""
    if isinstance(value, (list, tuple)):
        return tuple(freeze(v) for v in value)
    if isinstance(value, np.generic):
        return value.item()  # type: ignore[no-any-return]
    return value  # type: ignore[no-any-return]


class GraphBuilder:
    """Appends ops to a block, or inserts them in front of `before`."""

    def __init__(
        self,
        block: Block,
        constants: ConstantStore,
        before: Op | None = None,
        loc: Location = UNKNOWN,
    ) -> None:
        self.block = block
        self.constants = constants
        self.before = before
        self.loc = loc

    @contextmanager
    def at(self, block: Block) -> Iterator[None]:
        """Append to `block` inside the with statement."""
        outer = self.block, self.before
        self.block, self.before = block, None
        try:
            yield
        finally:
            self.block, self.before = outer

    def emit(
        self, defn: OpDef, operands: Sequence[Value], attrs: Any, regions: Sequence[Block] = ()
    ) -> Op:
        """Insert an op; its result types are inferred, or what its region yields.

        Raises TypeRefusal.
        """
        given = [tensor_type(value) for value in operands]
        types: Sequence[Type] = defn.check(given, attrs, regions)
        if regions and defn.infer_regions is None:
            types = [value.type for value in regions[0].terminator.operands]
        op = Op(defn, operands, attrs, types, regions, self.loc)
        return self.block.insert(op, self.before)

    def op(self, name: str, *operands: Value, **attrs: Any) -> Op:
        """Insert op `name` with the attributes given by keyword."""
        defn = OPS[name]
        return self.emit(defn, operands, defn.attrs(**{k: freeze(v) for k, v in attrs.items()}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in OPS:
            raise AttributeError(name)

        def build(*operands: Value, **attrs: Any) -> Any:
            results = self.op(name, *operands, **attrs).results
            return results[0] if len(results) == 1 else results

        return build

    def constant(self, value: Any, dtype: DType | None = None, name: str = "") -> Value:
        """A constant from anything numpy takes; large ones go to the store by hash."""
        array = np.asarray(value) if dtype is None else arrays.make(value, dtype)
        result: Value = self.op(
            "constant", **arrays.constant_attrs(array, self.constants, dtype)
        ).result
        result.name = name
        return result

    def full(self, shape: Sequence[DimLike], value: float, dtype: DType) -> Value:
        """`value` in every element of `shape`."""
        scalar = self.constant(value, dtype)
        result: Value = self.op("broadcast", scalar, shape=tuple(shape)).result
        return result


def tensor_type(value: Value) -> TensorType:
    """The value's type, which at graph level is a tensor."""
    assert isinstance(value.type, TensorType)
    return value.type
