"""Symbols wherever dims may stand: in types, in attribute dataclasses, in input shapes.

The algebra of single dims is in `ir.dims`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from tfc.ir.attrs import ConstRef, Dense
from tfc.ir.core import Element, Function, Op, SymbolInfo
from tfc.ir.dims import Dim, DimLike, coefficient, evaluate, substitute, symbols_of
from tfc.ir.errors import UsageError
from tfc.ir.types import BufferType, DType, TensorType, Type

# The attribute of a function that lists what it takes for granted of its symbols, as pairs of a dim
# that is 0 and a message.
ASSUMES = "assumes"
# The op, of either level, that gives a symbol its value while a program runs.
BIND = "bind"
_DIMLESS = (int, float, complex, str, DType, Dense, ConstRef, type(None))
# The same as annotations of attributes name it.
_DIMLESS_NAMES = {
    "bool", "int", "float", "complex", "str", "DType", "Dense", "ConstRef", "None",
    "tuple[bool, ...]", "tuple[int, ...]", "tuple[float, ...]",
}  # fmt: skip


def dims_in(value: Any) -> list[Dim]:
    """Return every symbolic dim in an attribute value, a type or an attribute dataclass."""
    found: list[Dim] = []
    _collect(value, found)
    return found


def may_have_dims(attrs: Any) -> bool:
    """Whether a dataclass has fields in which dims may stand."""
    kind: Any = type(attrs)
    return bool(_fields_with_dims(kind))


def _collect(value: Any, found: list[Dim]) -> None:
    if isinstance(value, _DIMLESS):
        return
    if isinstance(value, Dim):
        found.append(value)
    elif isinstance(value, tuple):
        for item in value:
            _collect(item, found)
    else:
        kind: Any = type(value)
        for name in _fields_with_dims(kind):
            _collect(getattr(value, name), found)


@cache
def _fields_with_dims(kind: type) -> tuple[str, ...]:
    """Return the fields of a dataclass in which dims may stand; none of any other class."""
    return tuple(
        name
        for name, field in getattr(kind, "__dataclass_fields__", {}).items()
        if not _DIMLESS_NAMES.issuperset(str(field.type).split(" | "))
    )


def with_symbols(value: Any, values: Mapping[str, DimLike]) -> Any:
    """Return an attribute value, type or dataclass with symbols replaced; itself where none is."""
    if isinstance(value, _DIMLESS):
        return value
    if isinstance(value, Dim):
        return substitute(value, values)
    if isinstance(value, tuple):
        items = tuple([with_symbols(item, values) for item in value])
        return value if all(map(operator.is_, items, value)) else items
    changes = {}
    kind: Any = type(value)
    for name in _fields_with_dims(kind):
        old = getattr(value, name)
        new = with_symbols(old, values)
        if new is not old:
            changes[name] = new
    return replace(value, **changes) if changes else value


def type_symbols(type: Type) -> set[str]:
    """Return the names of the symbols in a type."""
    if isinstance(type, TensorType):
        return {name for dim in type.shape for name in symbols_of(dim)}
    if isinstance(type, BufferType):
        return {name for dim in (*type.shape, *type.strides) for name in symbols_of(dim)}
    return set()


def bound_by(op: Op) -> str | None:
    """Return the symbol that an op binds, if it is a `bind`."""
    return op.attrs.symbol if op.defn.name == BIND else None


def run_time_symbols(function: Function) -> dict[str, Op]:
    """Return the symbols that only a run gives values to, in order, with the ops that bind them."""
    if not function.symbols:
        return {}
    return {op.attrs.symbol: op for op in function.block.walk() if op.defn.name == BIND}


def start_symbols(function: Function) -> dict[str, SymbolInfo]:
    """Return the symbols that have values when a run starts."""
    late = run_time_symbols(function)
    return {name: info for name, info in function.symbols.items() if name not in late}


def substitute_in(function: Function, values: Mapping[str, DimLike]) -> None:
    """Replace symbols in all types, attributes and regions of a function, and in other symbols."""
    function.symbols = {n: with_symbols(info, values) for n, info in function.symbols.items()}
    for arg in function.args:
        arg.type = with_symbols(arg.type, values)
    for op in function.block.walk():
        op.set_attrs(with_symbols(op.attrs, values))
        for region in op.regions:
            for arg in region.args:
                arg.type = with_symbols(arg.type, values)
        for result in op.results:
            result.type = with_symbols(result.type, values)
    function.attrs = {name: with_symbols(value, values) for name, value in function.attrs.items()}


def bind_shapes(
    shapes: Iterable[tuple[str, tuple[DimLike, ...], tuple[int, ...]]],
    known: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return the values of symbols that make each declared shape the actual one.

    shapes: (name of the tensor, declared shape, actual shape), of equal ranks. A dim that is an
    expression is solved where one symbol in it is unknown and it is affine in that symbol.
    Raises UsageError where sizes contradict each other, naming the tensor.
    """
    values = dict(known or {})
    pending = [
        (name, axis, dim, size)
        for name, declared, actual in shapes
        for axis, (dim, size) in enumerate(zip(declared, actual, strict=True))
    ]
    # Plain dims first, so that messages speak of the simplest contradiction.
    pending.sort(key=lambda item: not _is_plain(item[2]))
    while pending:
        left = [item for item in pending if not _bind(item, values)]
        if len(left) == len(pending):
            name, axis, dim, size = left[0]
            raise UsageError(f"{name}: dim {axis} is {size}, which does not settle {dim}")
        pending = left
    return values


def _is_plain(dim: DimLike) -> bool:
    return isinstance(dim, int) or (coefficient(dim, str(dim)) == 1)


def _bind(item: tuple[str, int, DimLike, int], values: dict[str, int]) -> bool:
    """Check a dim against its size or learn a symbol from it; False where neither works."""
    name, axis, dim, size = item
    unknown = symbols_of(dim) - values.keys()
    if not unknown:
        wanted = evaluate(dim, values)
        if wanted != size:
            said = "" if isinstance(dim, int) else f" ({dim})"
            raise UsageError(f"{name}: dim {axis} is {size}, not {wanted}{said}")
        return True
    if len(unknown) > 1:
        return False
    (symbol,) = unknown
    rest = substitute(dim, {**values, symbol: 0})
    factor = coefficient(dim, symbol)
    factor = None if factor is None else substitute(factor, values)
    if not isinstance(factor, int) or not isinstance(rest, int) or factor == 0:
        return False
    value, remainder = divmod(size - rest, factor)
    if remainder:
        raise UsageError(f"{name}: dim {axis} is {size}, which {dim} is for no integer {symbol}")
    values[symbol] = value
    return True


def bind_elements(symbols: Mapping[str, SymbolInfo], inputs: Mapping[str, Any]) -> dict[str, int]:
    """Return the values of symbols that come from the inputs' contents, given as arrays."""
    found: dict[str, int] = {}
    for name, info in symbols.items():
        if not isinstance(info.source, Element):
            continue
        flat = inputs[info.source.input].reshape(-1)
        # One that is too short has a shape that does not fit.
        if info.source.index < len(flat):
            found[name] = part_of(int(flat[info.source.index]), info.source.part)
    return found


def part_of(number: int, part: str) -> int:
    """Return what `Element` says of a number."""
    if part == "element":
        return number
    return max(number if part == "positive" else -number, 0)


def define(symbols: Mapping[str, SymbolInfo], values: dict[str, int]) -> None:
    """Add the values of symbols that are expressions over others."""
    for name, info in symbols.items():
        if isinstance(info.source, (int, Dim)):
            values[name] = evaluate(info.source, values)


def check_assumed(assumed: Iterable[tuple[DimLike, str]], values: Mapping[str, int]) -> None:
    """Refuse values for which something does not hold that a function takes for granted."""
    for zero, message in assumed:
        if symbols_of(zero) <= values.keys() and evaluate(zero, values) != 0:
            raise UsageError(f"check failed: {message}")


def check_bounds(symbols: Mapping[str, SymbolInfo], values: Mapping[str, int]) -> None:
    """Refuse a symbol's value outside its bounds with UsageError."""
    for name, info in symbols.items():
        value = values.get(name)
        if value is None:
            continue
        if value < info.lo or (info.hi is not None and value > info.hi):
            high = "" if info.hi is None else str(info.hi)
            raise UsageError(f"{described(name, info)} is {value}, outside {info.lo}..{high}")


def described(name: str, info: SymbolInfo) -> str:
    """Return the name of a symbol for a message, with where it comes from."""
    source = info.source
    if isinstance(source, Element):
        part = "" if source.part == "element" else f"{source.part} part of "
        return f"{name}, the {part}element {source.index} of input {source.input!r},"
    return name if source is None else f"{name} = {source}"
