"""Fingerprints: equal ones mean equal kernels. Of what a schedule is given, before one is emitted,
and of the loop-level code itself, where schedules of different nests come to the same.

Graph values count by their place among a kernel's buffers, expressions by their structure and by
which parts they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from tfc.ir.body import Apply, Guard, Iter, Keep, Load, Lookup, Number, Position, Reduce
from tfc.ir.core import Block, Function, Value
from tfc.ir.dims import Dim
from tfc.ir.loop.nodes import ConstAttrs, TableAttrs
from tfc.ir.types import DType

_LEAVES = (int, str, Dim, DType, Iter, type(None))
_NODES = (Load, Number, Position, Apply, Lookup, Guard, Reduce, Keep)


def fingerprint(parts: object, buffers: Sequence[Value]) -> Hashable:
    """Return what is the same for equal parts over buffers in the same order.

    parts: tuples, lists, dataclasses, expressions, graph values and what can be hashed.
    """
    return _Fingerprint(buffers).of(parts)


def key_of(name: str, parts: object, hints: Mapping[str, int]) -> str:
    """Return what tuning knows a kernel by: the same in every process.

    hints: the sizes that it is optimised for.
    """
    text = repr((fingerprint(parts, ()), sorted(hints.items())))
    return f"{name[:40]}.{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


class _Fingerprint:
    def __init__(self, buffers: Sequence[Value]) -> None:
        self.values = {value: number for number, value in enumerate(buffers)}
        self.nodes: dict[int, int] = {}

    def of(self, part: Any) -> Hashable:
        if isinstance(part, _LEAVES):
            return part
        if isinstance(part, (float, complex)):
            # Zeros of either sign and NaNs are told apart.
            return "number", repr(part)
        if isinstance(part, Value):
            return "value", self.values.setdefault(part, len(self.values))
        if isinstance(part, (tuple, list)):
            return tuple([self.of(item) for item in part])
        if isinstance(part, _NODES):
            known = self.nodes.get(id(part))
            if known is not None:
                return "node", known
            self.nodes[id(part)] = len(self.nodes)
        elif not is_dataclass(part) or type(part).__eq__ is object.__eq__:
            return part  # type: ignore[no-any-return]
        return type(part), *(self.of(getattr(part, name)) for name in _names(type(part)))


_FIELDS: dict[type, tuple[str, ...]] = {}


def _names(kind: type) -> tuple[str, ...]:
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = tuple(field.name for field in fields(kind))
    return names


def code_fingerprint(function: Function) -> Hashable:
    """Return what is the same for functions with the same code; their names do not matter."""
    parts: list[Hashable] = [*function.symbols.items(), *function.attrs.items()]
    _add_block(function.block, parts, {})
    return tuple(parts)


def _add_block(block: Block, parts: list[Hashable], numbers: dict[Value, int]) -> None:
    for arg in block.args:
        numbers[arg] = len(numbers)
        parts.append(arg.type)
    for op in block:
        parts.append(op.defn.name)
        parts.append(_attributes(op.attrs))
        parts.extend([numbers[value] for value in op.operands])
        for region in op.regions:
            parts.append("{")
            _add_block(region, parts, numbers)
            parts.append("}")
        for result in op.results:
            numbers[result] = len(numbers)


def _attributes(attrs: Any) -> Hashable:
    """Tell numbers apart that are equal but not the same: zeros of either sign."""
    if isinstance(attrs, ConstAttrs):
        return repr(attrs.value), attrs.dtype, attrs.lanes
    if isinstance(attrs, TableAttrs) and attrs.dtype.is_float:
        return np.array(attrs.values.values).tobytes(), attrs.dtype
    found: Hashable = attrs
    return found
