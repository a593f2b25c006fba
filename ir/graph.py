"""Symbolic evaluation of the graph: what small integer tensors that come from shapes hold.

Ops that compute on shapes become `dims` ops, so that reshapes see dims and not data.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfc.ir import arrays
from tfc.ir.attrs import ConstRef
from tfc.ir.build import GraphBuilder
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Op, Value
from tfc.ir.dims import Dim, UndecidableError
from tfc.ir.opdef import Kind, OpDef, Trait
from tfc.ir.symbols import dims_in
from tfc.ir.types import BOOL, I64, DType, TensorType

Content = npt.NDArray[np.object_]
Leaf = Callable[[Value], "Content | None"]
MAX_ELEMENTS = 64
# How far content is followed through ops that have no `dims` form, such as casts to i32.
MAX_DEPTH = 8


def dims_content(
    value: Value, constants: ConstantStore | None = None, leaf: Leaf | None = None
) -> Content | None:
    """Return the elements of a small integer or bool tensor, as ints, bools and dims.

    They are known of `dims` and `constant` ops (of stored constants, where the store is given)
    and of ops with the trait DIMS on such. None where they are not, or are more than 64.
    leaf: what is known of values that no op defines.
    """
    return _content(value, _Known(constants, leaf), MAX_DEPTH)


class _Known(NamedTuple):
    constants: ConstantStore | None
    leaf: Leaf | None


def _content(value: Value, known: _Known, depth: int) -> Content | None:
    op, type = value.op, value.type
    if not isinstance(type, TensorType):
        return None
    if not (type.dtype.is_int or type.dtype == BOOL) or not _is_small(type):
        return None
    if op is None:
        return None if known.leaf is None else known.leaf(value)
    if not isinstance(op.defn, OpDef):
        return None
    if op.defn.kind is Kind.CONSTANT:
        return _constant_content(op, op.defn, known.constants)
    if depth == 0 or Trait.DIMS not in op.defn.traits or len(op.results) != 1:
        return None
    return _evaluate(op, op.defn, type, known, depth - 1)


def _is_small(type: TensorType) -> bool:
    sizes = [dim for dim in type.shape if isinstance(dim, int)]
    # A dim of 0 does not make room for a huge one.
    return len(sizes) == type.rank and prod(max(size, 1) for size in sizes) <= MAX_ELEMENTS


def _constant_content(op: Op, defn: OpDef, constants: ConstantStore | None) -> Content | None:
    if isinstance(getattr(op.attrs, "value", None), ConstRef):
        if constants is None:
            return None
        return arrays.constant_array(op.attrs, constants).astype(object)
    return np.asarray(defn.ref(op.attrs)).astype(object)


def _evaluate(op: Op, defn: OpDef, type: TensorType, known: _Known, depth: int) -> Content | None:
    """Run an op's reference on the content of its operands; plain numbers keep their dtype."""
    if dims_in(op.attrs):
        return None
    operands: list[npt.NDArray[Any]] = []
    for value in op.operands:
        content = _content(value, known, depth)
        if content is None:
            return None
        assert isinstance(value.type, TensorType)
        symbolic = any(isinstance(item, Dim) for item in content.flat)
        operands.append(content if symbolic else _plain(content, value.type.dtype))
    return _run(defn.ref, op.attrs, operands, type)


def _plain(content: Content, dtype: DType) -> npt.NDArray[Any]:
    return content.astype(arrays.numpy_dtype(dtype))


def _run(
    ref: Callable[..., Any], attrs: Any, operands: list[npt.NDArray[Any]], type: TensorType
) -> Content | None:
    """Return the result, or None where symbols leave it open or a number does not fit."""
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(ref(attrs, *operands)).astype(object)
    except (UndecidableError, TypeError):
        # TypeError: numpy has no such operation on dims, or none between a dim and a float.
        return None
    if found.shape != type.shape:
        return None
    info = None if type.dtype == BOOL else np.iinfo(arrays.numpy_dtype(type.dtype))
    for item in found.flat:
        if isinstance(item, Dim):
            if info is None:
                return None
        elif not isinstance(item, (bool, int)) or (info and not info.min <= item <= info.max):
            return None
    return found


def fold_dims(op: Op, builder: GraphBuilder) -> Value | None:
    """Return a `dims` or `constant` value for the result of an op on symbolic dims.

    None where no operand holds a symbol (constant folding is a pass of its own), where the
    content is not known, or where the result has no `dims` form: then it is of another element
    type than i64, or of rank 2 or more.
    """
    if Trait.DIMS not in getattr(op.defn, "traits", ()) or len(op.results) != 1:
        return None
    known = [dims_content(value, builder.constants) for value in op.operands]
    if not any(content is not None and _is_symbolic(content) for content in known):
        return None
    type = op.result.type
    content = dims_content(op.result, builder.constants)
    if content is None:
        return None
    assert isinstance(type, TensorType)
    if not _is_symbolic(content):
        return builder.constant(_plain(content, type.dtype), type.dtype, op.result.name)
    if type.dtype != I64 or type.rank > 1:
        return None
    values = tuple(content.reshape(-1).tolist())
    result: Value = builder.dims(values=values, rank=type.rank)
    result.name = op.result.name
    return result


def _is_symbolic(content: Content) -> bool:
    return any(isinstance(item, Dim) for item in content.flat)
