"""Sequences and optionals while a model is imported: trees of tensors. The graph has the tensors.

How many elements there are is known at import, always; a computation on them picks values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tfc.compiler.frontends.onnx.tensors import dtype_from
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.errors import ModelError, UnsupportedError, UsageError
from tfc.ir.types import DType


@dataclass(frozen=True)
class TensorSequence:
    """Tensors in order, of one element type, each with a shape of its own."""

    items: tuple[Value, ...]
    dtype: DType

    def __str__(self) -> str:
        return f"a sequence of {len(self.items)} {self.dtype} tensors"


@dataclass(frozen=True)
class OptionalItem:
    """A tensor or a sequence, or nothing."""

    element: Value | TensorSequence | None

    def __str__(self) -> str:
        if self.element is None:
            return "an optional without an element"
        return f"an optional of {describe(self.element)}"


Item: TypeAlias = "Value | TensorSequence | OptionalItem"


def describe(item: Item) -> str:
    """Return what errors say of an item."""
    return str(tensor_type(item)) if isinstance(item, Value) else str(item)


def sequence(items: Sequence[Value]) -> TensorSequence:
    """Return a sequence of one tensor or more. Raises ModelError where their types differ."""
    dtypes = [tensor_type(x).dtype for x in items]
    if len(set(dtypes)) > 1:
        raise ModelError(f"a sequence of {', '.join(map(str, dict.fromkeys(dtypes)))} tensors")
    return TensorSequence(tuple(items), dtypes[0])


def leaves(item: Item) -> Iterator[Value]:
    """Yield the tensors of an item, in order."""
    match item:
        case TensorSequence(items):
            yield from items
        case OptionalItem(element):
            if element is not None:
                yield from leaves(element)
        case Value():
            yield item


def with_leaves(item: Item, values: Iterator[Value]) -> Item:
    """Return an item of the same make with the next ones of `values` for its tensors."""
    match item:
        case TensorSequence(items, dtype):
            return TensorSequence(tuple(next(values) for _ in items), dtype)
        case OptionalItem(element):
            if element is None:
                return item
            found = with_leaves(element, values)
            assert not isinstance(found, OptionalItem)
            return OptionalItem(found)
        case Value():
            return next(values)


def alike(a: Item, b: Item) -> bool:
    """Whether two items are of one make: as many tensors in the same places."""
    match a, b:
        case TensorSequence(x), TensorSequence(y):
            return len(x) == len(y)
        case OptionalItem(x), OptionalItem(y):
            return x is y if x is None or y is None else alike(x, y)
        case Value(), Value():
            return True
        case _:
            return False


def tensor(item: Item) -> Value:
    """Return an item that must be a tensor."""
    if isinstance(item, Value):
        return item
    raise ModelError(f"{item} stands where a tensor must")


def named_leaves(name: str, item: Item) -> Iterator[tuple[str, Value]]:
    """Yield the tensors of an item with names: those of a sequence are counted, NAME.0 on."""
    match item:
        case TensorSequence(items):
            yield from ((f"{name}.{i}", x) for i, x in enumerate(items))
        case OptionalItem(element):
            if element is not None:
                yield from named_leaves(name, element)
        case Value():
            yield name, item


def as_python(item: Item, arrays: Iterator[Any]) -> Any:
    """Return an item with `arrays` for its tensors: a sequence as a list, no element as None."""
    match item:
        case TensorSequence(items):
            return [next(arrays) for _ in items]
        case OptionalItem(element):
            return None if element is None else as_python(element, arrays)
        case Value():
            return next(arrays)


# -- the types of a model's inputs ----------------------------------------------------------------

# What a caller says of an input that is no plain tensor: a shape for a tensor, a list of shapes for
# a sequence, None for an optional without an element.
Given: TypeAlias = "Sequence[Any] | None"
MakeTensor: TypeAlias = "Callable[[str, Any, Sequence[Any]], Value]"


def is_nested(proto: Any) -> bool:
    """Whether the type of an input or output is that of a sequence or an optional."""
    return proto.type.WhichOneof("value") in ("sequence_type", "optional_type")


def is_open(proto: Any) -> bool:
    """Whether the type of an input leaves open what shapes it has: its rank, or what is in it."""
    kind = proto.type.WhichOneof("value")
    return is_nested(proto) or (
        kind == "tensor_type" and not proto.type.tensor_type.HasField("shape")
    )


def from_shapes(name: str, type_proto: Any, given: Given, make: MakeTensor) -> Item:
    """Return an input of the model's type. make: a tensor of a name, a tensor type and a shape."""
    kind = type_proto.WhichOneof("value")
    if kind == "optional_type":
        if given is None:
            return OptionalItem(None)
        element = from_shapes(name, type_proto.optional_type.elem_type, given, make)
        if isinstance(element, OptionalItem):
            raise UnsupportedError("an optional of an optional")
        return OptionalItem(element)
    if given is None:
        raise UsageError("has no element, but is no optional")
    if kind == "sequence_type":
        inner = type_proto.sequence_type.elem_type
        if inner.WhichOneof("value") != "tensor_type":
            raise UnsupportedError("a sequence of what is no tensor")
        if not isinstance(given, (list, tuple)) or not all(map(_is_shape, given)):
            raise UsageError(f"is a sequence, of which the shapes are listed, not {given!r}")
        tensor_proto = inner.tensor_type
        items = tuple(make(f"{name}.{i}", tensor_proto, shape) for i, shape in enumerate(given))
        return TensorSequence(items, dtype_from(tensor_proto.elem_type))
    if kind != "tensor_type":
        raise UnsupportedError(f"a {kind or 'typeless'} input; tensors are supported")
    if not _is_shape(given):
        raise UsageError(f"is a tensor, which has one shape, not {given!r}")
    return make(name, type_proto.tensor_type, given)


def _is_shape(given: object) -> bool:
    if not isinstance(given, (list, tuple)):
        return False
    return all(dim is None or isinstance(dim, (int, str)) for dim in given)
