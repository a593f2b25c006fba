"""What a rule sees of its node: operands, attributes, and the builder. Knows no operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tfc.compiler.frontends.onnx.nested import Item, OptionalItem, TensorSequence, describe, leaves
from tfc.compiler.frontends.onnx.storage import packed, unpacked
from tfc.compiler.frontends.onnx.tensors import MAX_BYTES, TensorReader
from tfc.compiler.passes.assume import NOT_SO
from tfc.ir import arrays
from tfc.ir.build import GraphBuilder, freeze, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import Dim, DimLike, bounds, maximum, product, symbol, symbol_name, symbols_of
from tfc.ir.errors import ModelError, UnsupportedError
from tfc.ir.graph import MAX_ELEMENTS, Content, dims_content, fold_dims
from tfc.ir.opdef import OPS, Kind, OpDef
from tfc.ir.symbols import dims_in
from tfc.ir.types import F64, DType, TensorType, shape_text

if TYPE_CHECKING:
    from tfc.compiler.frontends.onnx.importer import Importer

Array = npt.NDArray[Any]
Results: TypeAlias = "Item | Sequence[Item | None]"
Shape: TypeAlias = "tuple[DimLike, ...]"

# AttributeProto.AttributeType: its number, name, and the field that holds it
_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _STRINGS = range(1, 9)
_ATTRIBUTES = {
    _FLOAT: ("a float", "f"), _INT: ("an integer", "i"), _STRING: ("a string", "s"),
    _TENSOR: ("a tensor", "t"), _GRAPH: ("a graph", "g"), _FLOATS: ("floats", "floats"),
    _INTS: ("integers", "ints"), _STRINGS: ("strings", "strings"),
}  # fmt: skip


# What shapes are computed with.
_FOLDED = (Kind.ELEMENTWISE, Kind.INJECTIVE, Kind.REDUCTION)


class Missing(Exception):
    """A value that was not made, because a node before it is unsupported."""


class Equated(Exception):
    """A node that is valid only where symbol `name` is `dim`: the import starts again with that."""

    def __init__(self, name: str, dim: DimLike) -> None:
        super().__init__(f"{name} = {dim}")
        self.name = name
        self.dim = dim


@dataclass(frozen=True)
class Rule:
    """How nodes of one operator become graph ops, from opset `since` on.

    build: returns the node's results in order, None for one that the node does not use.
    ignores: attributes that change no result of inference.
    """

    build: Callable[[Context], Results]
    since: int = 1
    ignores: tuple[str, ...] = ()


class FoldingBuilder(GraphBuilder):
    """A builder that computes shape arithmetic at once and refuses results of absurd size."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in OPS:
            raise AttributeError(name)

        def build(*operands: Value, **attrs: Any) -> Any:
            found = tuple(self._fold(value) for value in self.op(name, *operands, **attrs).results)
            return found[0] if len(found) == 1 else found

        return build

    def op(self, name: str, *operands: Value, **attrs: Any) -> Op:
        defn = OPS[name]
        op = self.emit(defn, operands, defn.attrs(**{k: freeze(v) for k, v in attrs.items()}))
        for value in op.results:
            refuse_absurd(tensor_type(value))
        return op

    def full(self, shape: Sequence[DimLike], value: float, dtype: DType) -> Value:
        found: Value = self.broadcast(self.constant(value, dtype), shape=tuple(shape))
        return found

    def _fold(self, value: Value) -> Value:
        op = value.op
        if op is None or len(op.results) != 1:
            return value
        folded = fold_dims(op, self)
        if folded is None:
            folded = self._fold_constant(op)
        if folded is None:
            return value
        op.erase()
        return folded

    def _fold_constant(self, op: Op) -> Value | None:
        """Compute an op on small constants: what a shape needs may go through any of them."""
        defn, type = op.defn, tensor_type(op.result)
        assert isinstance(defn, OpDef)
        if (
            defn.kind not in _FOLDED
            or not op.operands
            or not is_small(type)
            or any(True for _ in dims_in(op.attrs))
        ):
            return None
        operands = []
        for value in op.operands:
            if value.op is None or value.op.name != "constant" or not is_small(tensor_type(value)):
                return None
            attrs = value.op.attrs
            operands.append(
                arrays.decode(arrays.constant_array(attrs, self.constants), attrs.dtype)
            )
        with np.errstate(all="ignore"):
            result = arrays.encode(np.asarray(defn.ref(op.attrs, *operands)), type.dtype)
        return self.op(
            "constant", **arrays.constant_attrs(result, self.constants, type.dtype)
        ).result


def is_small(type: TensorType) -> bool:
    """Whether a tensor is of the size of a shape; a dim of 0 does not make room for a huge one."""
    size = product(maximum(dim, 1) for dim in type.shape)
    return isinstance(size, int) and size <= MAX_ELEMENTS


def refuse_absurd(type: TensorType) -> None:
    """Refuse a tensor that no memory holds; a symbolic dim counts as 1."""
    bits = type.dtype.bits
    for dim in type.shape:
        bits *= dim if isinstance(dim, int) else 1
    if bits > MAX_BYTES * 8:
        raise ModelError(f"a result of shape {shape_text(type.shape)} is too large for any memory")


class Context:
    """One node while its rule runs."""

    def __init__(self, importer: Importer, node: Any) -> None:
        self.importer = importer
        self.node = node
        self.b: FoldingBuilder = importer.builder
        # Of the standard operators, and of the node's own domain.
        self.opset: int = importer.versions.opset
        self.version: int = importer.versions.of(node.domain)
        self._attributes = {attribute.name: attribute for attribute in node.attribute}
        self._read: set[str] = set()

    @property
    def tensors(self) -> TensorReader:
        return self.importer.source.tensors

    # -- errors ---------------------------------------------------------------------------------

    def unsupported(self, reason: str) -> UnsupportedError:
        """An error to raise: the node is valid, but tfc has no way to compute it."""
        return UnsupportedError(reason)

    def malformed(self, reason: str) -> ModelError:
        """An error to raise: the node breaks the rules of its operator."""
        return ModelError(reason)

    # -- operands -------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many operands are listed; those left out in the middle count."""
        return len(self.node.input)

    def has(self, position: int) -> bool:
        return position < len(self.node.input) and bool(self.node.input[position])

    def x(self, position: int = 0) -> Value:
        """The operand at `position`, which must be there and be a tensor."""
        return self.importer.value(self._name(position))

    def item(self, position: int = 0) -> Item:
        """The operand at `position`: a tensor, a sequence or an optional."""
        return self.importer.item(self._name(position))

    def sequence(self, position: int = 0) -> TensorSequence:
        """The operand at `position`, which must be a sequence; an optional stands for its own."""
        found = self.item(position)
        if isinstance(found, OptionalItem) and found.element is not None:
            found = found.element
        if not isinstance(found, TensorSequence):
            raise ModelError(f"operand {position} is {describe(found)}, no sequence")
        return found

    def _name(self, position: int) -> str:
        if not self.has(position):
            raise ModelError(f"operand {position} is missing")
        return str(self.node.input[position])

    def optional(self, position: int) -> Value | None:
        return self.x(position) if self.has(position) else None

    def operands(self) -> list[Value]:
        """All operands, of a node that takes any number."""
        if not self.count:
            raise ModelError("has no operands")
        return [self.x(i) for i in range(self.count)]

    def type(self, position: int = 0) -> TensorType:
        return tensor_type(self.x(position))

    def shape(self, position: int = 0) -> Shape:
        return self.type(position).shape

    def const(self, position: int) -> Array | None:
        """The content of a constant operand (bf16 as f32), or None where it is not constant."""
        value = self.x(position)
        if value.op is None or value.op.name != "constant":
            self.importer.want(value)
            return None
        attrs = value.op.attrs
        return arrays.decode(arrays.constant_array(attrs, self.b.constants), attrs.dtype)

    def dims_or_none(self, position: int) -> Shape | None:
        """The elements of an integer operand of rank 0 or 1, symbolic ones included."""
        value = self.x(position)
        content = dims_content(value, self.b.constants)
        if content is None:
            found = self.const(position)
            if found is None or found.dtype.kind not in "iu":
                return None
            content = found.astype(object)
        return tuple(content.reshape(-1))

    def dims(self, position: int, what: str) -> Shape:
        """The elements of an integer operand that decides a shape."""
        found = self.dims_or_none(position)
        if found is None:
            self.x(position)
            raise UnsupportedError(
                f"{what} (operand {self.node.input[position]!r}) depends on the data; "
                "a constant or a computation on dims is supported"
            )
        return found

    def sizes(self, position: int, what: str) -> Shape:
        """The elements of an integer operand that are sizes; a run may give them."""
        found = self.dims_or_none(position)
        if found is None:
            found = self.held(position)
        return self.dims(position, what) if found is None else found

    def held(self, position: int, signed: bool = False) -> Shape | None:
        """The elements of an integer operand that is computed from what small inputs hold.

        They are symbols and expressions over such. A run refuses inputs with negative numbers
        unless they are `signed`.
        """

        def leaf(value: Value) -> Content | None:
            return self.importer.elements(value, signed)

        content = dims_content(self.x(position), self.b.constants, leaf)
        if content is None:
            return None
        found: Shape = tuple(content.reshape(-1))
        self.importer.symbols.use(found)
        for name in sorted({name for dim in found for name in symbols_of(dim)}):
            below = None if signed else self.importer.below.get(symbol(name))
            if below is not None:
                self.importer.symbols.use([below])
                self.assume(below, f"{name} of an input is not below 0")
        return found

    def define(self, dim: DimLike, what: str) -> DimLike:
        """A symbol for an expression that a run starts with; others as they are."""
        return self.importer.symbols.define(dim, f"{self.node.output[0]}_{what}")

    def ints_of(self, position: int, what: str) -> tuple[int, ...]:
        """The elements of an integer operand that must be constant."""
        found = self.dims(position, what)
        fixed = tuple(int(n) for n in found if isinstance(n, int))
        if len(fixed) != len(found):
            raise UnsupportedError(f"{what} {shape_text(found)} is not constant")
        return fixed

    # -- results --------------------------------------------------------------------------------

    def uses(self, position: int) -> bool:
        """Whether the node's result at `position` has a name."""
        return position < len(self.node.output) and bool(self.node.output[position])

    def declared(self, position: int) -> tuple[int | None, ...] | None:
        """The shape that the model states for the node's result, None for what it leaves open."""
        return self.importer.declared(self.node.output[position]) if self.uses(position) else None

    def refuse_outputs_from(self, position: int) -> None:
        """Refuse a node that names results other than the first ones."""
        for i in range(position, len(self.node.output)):
            if self.node.output[i] and self.importer.needed(self.node.output[i]):
                raise UnsupportedError(f"its result {i} ({self.node.output[i]!r}) is used")

    def expand(self) -> Results:
        """Compute the node by its operator's function body."""
        self._read.update(self._attributes)
        return self.importer.expand(self.node)

    # -- attributes -----------------------------------------------------------------------------

    def has_attr(self, name: str) -> bool:
        self._read.add(name)
        return name in self._attributes

    def _attr(self, name: str, kind: int) -> Any:
        """The attribute's value, or None where it is left out."""
        self._read.add(name)
        attribute = self._attributes.get(name)
        if attribute is None:
            return None
        if attribute.ref_attr_name:
            raise ModelError(f"attribute {name!r} refers to a function that is not there")
        if attribute.type != kind:
            wanted, _ = _ATTRIBUTES[kind]
            have = _ATTRIBUTES.get(attribute.type, (f"of type {attribute.type}",))[0]
            raise ModelError(f"attribute {name!r} is {have}, not {wanted}")
        return getattr(attribute, _ATTRIBUTES[kind][1])

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self._required(name, self._attr(name, _INT), default))

    def flag(self, name: str, default: bool = False) -> bool:
        return self.integer(name, int(default)) != 0

    def real(self, name: str, default: float | None = None) -> float:
        given = self._attr(name, _FLOAT)
        value = float(self._required(name, given, default))
        # Attributes are float32, left out or not. Where f64 is computed with, they are just that;
        # elsewhere one of the file gets its shortest decimals back: 0.2, not 0.20000000298.
        if self._is_double():
            return float(np.float32(value))
        return value if given is None else float(str(np.float32(value)))

    def _is_double(self) -> bool:
        """Whether an operand is f64."""
        names = [name for name in self.node.input if name]
        values = [self.importer.item(name) for name in names]
        return any(isinstance(x, Value) and tensor_type(x).dtype == F64 for x in values)

    def string(self, name: str, default: str | None = None) -> str:
        value = self._attr(name, _STRING)
        return str(self._required(name, None if value is None else _text(value), default))

    def integers(self, name: str) -> tuple[int, ...] | None:
        value = self._attr(name, _INTS)
        return None if value is None else tuple(int(n) for n in value)

    def reals(self, name: str) -> tuple[float, ...] | None:
        value = self._attr(name, _FLOATS)
        return None if value is None else tuple(float(n) for n in value)

    def strings(self, name: str) -> tuple[str, ...] | None:
        value = self._attr(name, _STRINGS)
        return None if value is None else tuple(map(_text, value))

    def tensor(self, name: str) -> tuple[Array, DType] | None:
        value = self._attr(name, _TENSOR)
        return None if value is None else self.tensors.array(value)

    def graph(self, name: str) -> Any:
        return self._required(name, self._attr(name, _GRAPH), None)

    def _required(self, name: str, value: Any, default: Any) -> Any:
        if value is not None:
            return value
        if default is None:
            raise ModelError(f"attribute {name!r} is missing")
        return default

    def unread(self, ignores: Sequence[str]) -> list[str]:
        """Names of attributes that the rule has not looked at."""
        return sorted(self._attributes.keys() - self._read - set(ignores))

    # -- dims -----------------------------------------------------------------------------------

    def is_symbolic(self) -> bool:
        """Whether an operand's shape has a symbolic dim."""
        return any(not type.is_static for type in self._tensor_types())

    def is_complex(self) -> bool:
        """Whether an operand holds complex numbers."""
        return any(type.dtype.kind == "c" for type in self._tensor_types())

    def _tensor_types(self) -> list[TensorType]:
        items = [self.item(i) for i in range(self.count) if self.has(i)]
        return [tensor_type(x) for item in items for x in leaves(item)]

    def equate(self, a: DimLike, b: DimLike) -> None:
        """Make two dims equal that the operator wants to be, if one is a mere symbol.

        What is left unequal is for the graph op to refuse or to assume. In a branch nothing is
        made equal: a run may not take it.
        """
        if a == b or self.importer.conditional:
            return
        for one, other in ((a, b), (b, a)):
            name, other_name = symbol_name(one), symbol_name(other)
            known = self.importer.symbols.known
            if name in known and (isinstance(other, int) or other_name in known):
                raise Equated(name, other)

    def bind(self, count: Value, hi: DimLike, label: str) -> DimLike:
        """Return the dim that an i64 scalar gives: itself if it is known, else a new symbol.

        A run in which it is not between 0 and `hi` fails. label: what the symbol is called.
        """
        known = dims_content(count, self.b.constants)
        if known is not None:
            (dim,) = known.reshape(-1)
            low, _ = bounds(dim, {})
            _, beyond = bounds(dim - hi, {})
            if low is not None and low >= 0 and beyond is not None and beyond <= 0:
                return dim  # type: ignore[no-any-return]
        name = self.importer.symbols.late(label)
        self.b.bind(count, symbol=name, hi=hi)
        return symbol(name)

    def assume(self, zero: DimLike, message: str) -> None:
        """Take for granted that `zero` is 0: a run where it is not ends with the message."""
        if not isinstance(zero, int):
            place = f"{self.b.loc}: " if str(self.b.loc) else ""
            self.importer.assumed.setdefault(zero, f"{place}{NOT_SO} {message}")
        elif zero:
            raise ModelError(f"{NOT_SO} {message}")

    def fit(self, x: Value, shape: Sequence[DimLike]) -> Value:
        """`x` in a shape that the operator wants it to have already.

        Where only the run tells whether it has, the run checks it. Dims that differ in any case
        are left as they are, for the graph op to refuse.
        """
        own = tensor_type(x).shape
        if len(own) != len(shape):
            return x
        wanted = []
        for axis, (have, want) in enumerate(zip(own, shape, strict=True)):
            self.equate(have, want)
            open = not isinstance(have - want, int)
            if open:
                self.assume(have - want, f"dims {have} and {want} are equal (axis {axis})")
            wanted.append(want if open else have)
        return self.reshape(x, wanted)

    def fit_axis(self, x: Value, axis: int, dim: DimLike) -> Value:
        """`fit` for one axis."""
        shape = list(tensor_type(x).shape)
        shape[axis] = dim
        return self.fit(x, shape)

    # -- building -------------------------------------------------------------------------------

    def scalar(self, value: float, like: Value) -> Value:
        """A scalar constant of the element type of `like`."""
        dtype = tensor_type(like).dtype
        try:
            with np.errstate(all="ignore"):
                found: Value = self.b.constant(value, dtype)
        except (OverflowError, ValueError) as error:
            raise ModelError(f"{value} is no {dtype}") from error
        return found

    def numbers(self, values: Sequence[DimLike], rank: int = 1) -> Value:
        """The dims as i64 numbers: a list, or with rank 0 the only one."""
        if any(isinstance(value, Dim) for value in values):
            found: Value = self.b.dims(values=tuple(values), rank=rank)
        else:
            array = np.array(values, np.int64)
            found = self.b.constant(array if rank else array.reshape(()))
        return found

    def axis(self, axis: int, rank: int) -> int:
        """Return `axis` counted from the front. Refuses one that is out of range."""
        if not -rank <= axis < rank:
            raise ModelError(f"axis {axis} is out of range for rank {rank}")
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Return axes counted from the front. Refuses duplicates."""
        found = tuple(self.axis(axis, rank) for axis in axes)
        if len(set(found)) < len(found):
            raise ModelError(f"axes {list(axes)} name an axis twice")
        return found

    def reshape(self, x: Value, shape: Sequence[DimLike]) -> Value:
        """Reshape, or leave `x` alone where it has the shape."""
        if tensor_type(x).shape == tuple(shape):
            return x
        found: Value = self.b.reshape(x, shape=tuple(shape))
        return found

    def cast(
        self, x: Value, dtype: DType, saturate: bool = True, rounding: str = "nearest"
    ) -> Value:
        """Cast, or leave `x` alone. saturate, rounding: of the eight-bit floats."""
        if tensor_type(x).dtype == dtype:
            return x
        if tensor_type(x).dtype.kind == "s":
            x = unpacked(self.b, x)
        if dtype.kind == "s":
            return packed(self.b, x, dtype, saturate, rounding)
        found: Value = self.b.cast(x, dtype=dtype)
        return found

    def as_scalar(self, x: Value) -> Value:
        """A tensor of one element as a scalar."""
        return self.reshape(x, ())


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"a string attribute is not UTF-8: {raw!r}") from error
