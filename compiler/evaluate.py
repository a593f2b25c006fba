"""Runs single ops on constant arrays, by their references. Whole graphs run in `ir.interp`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Op, Value
from tfc.ir.opdef import OpDef, Trait
from tfc.ir.ops.const import constant
from tfc.ir.types import TensorType


def evaluate(
    defn: OpDef, attrs: Any, types: Sequence[TensorType], operands: Sequence[Array]
) -> tuple[Array, ...]:
    """Return the results, which have `types`. bf16 is decoded on both sides."""
    with np.errstate(all="ignore"):
        found = defn.ref(attrs, *operands)
    results = found if isinstance(found, tuple) else (found,)
    rounded = []
    for type, array in zip(types, results, strict=True):
        raw = arrays.encode(np.asarray(array), type.dtype)
        rounded.append(arrays.decode(raw, type.dtype))
    return tuple(rounded)


def is_constant(value: Value) -> bool:
    """Whether a `constant` op defines the value."""
    return value.op is not None and value.op.defn is constant


def is_stored(op: Op) -> bool:
    """Whether an op's result is known before the program runs, and lies in the constant table."""
    return isinstance(op.defn, OpDef) and Trait.STORED in op.defn.traits


def constant_array(value: Value, constants: ConstantStore) -> Array:
    """Return the elements of a value that is a constant, decoded."""
    assert value.op is not None
    attrs = value.op.attrs
    return arrays.decode(arrays.constant_array(attrs, constants), attrs.dtype)
