"""Prints modules of both levels in the one generic syntax. Prints broken IR too, for messages.

Equal modules print as equal bytes: no ids, addresses or times, names in order of definition.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from tfc.ir.attrs import attr_text, quote
from tfc.ir.core import Block, Element, Function, Module, Op, SymbolInfo, Value
from tfc.ir.location import UNKNOWN, Location
from tfc.ir.text.lexer import is_value_name, is_word
from tfc.ir.types import Type

VERSION = 1


def print_module(module: Module, locations: bool = False) -> str:
    """Return the text of a module; `locations` adds where each op came from."""
    return "\n".join(Printer(locations).module(module).lines) + "\n"


def print_function(function: Function, locations: bool = False) -> str:
    """Return the text of one function."""
    return "\n".join(Printer(locations).function(function).lines) + "\n"


class Printer:
    """Collects lines. `line_of` says which line an op starts on."""

    def __init__(self, locations: bool = False) -> None:
        self.locations = locations
        self.lines: list[str] = []
        self.line_of: dict[Op, int] = {}
        self._names: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._count = 0
        self._types: dict[Type, str] = {}

    def module(self, module: Module) -> Printer:
        self.lines.append(f"tfc {VERSION} {module.level}")
        if self.locations and module.source:
            self.lines.append(f"source {quote(module.source)}")
        if module.data:
            self.lines.append("data {")
            for name, entry in module.data.items():
                self.lines.append(f"  {sigiled('@', name)}: {entry.type} = {attr_text(entry.ref)}")
            self.lines.append("}")
        for function in module.functions.values():
            self.lines.append("")
            self.function(function)
        return self

    def function(self, function: Function) -> Printer:
        self._names, self._taken, self._count = {}, set(), 0
        args = ", ".join(self._define_arg(arg) for arg in function.args)
        head = f"{function.kind} {sigiled('@', function.name)}({args})"
        if function.kind == "func":
            head += f" -> ({', '.join(map(_name_text, function.output_names))})"
        extra = []
        if function.symbols:
            symbols = ", ".join(_symbol_text(*item) for item in function.symbols.items())
            extra.append(f"  symbols {{{symbols}}}")
        if function.attrs:
            pairs = (f"{_name_text(k)} = {attr_text(v)}" for k, v in sorted(function.attrs.items()))
            extra.append(f"  attrs {{{', '.join(pairs)}}}")
        self.lines.extend([head, *extra, "{"] if extra else [f"{head} {{"])
        self._block(function.block, "  ")
        self.lines.append("}")
        return self

    def _block(self, block: Block, indent: str) -> None:
        for op in block:
            self._op(op, indent)

    def _op(self, op: Op, indent: str) -> None:
        self.line_of[op] = len(self.lines)
        names = self._names
        operands = ", ".join([names.get(v) or f"%?{v.name}" for v in op.operands])
        text = f"{op.name}({operands})"
        if op.results:
            text = f"{', '.join([self._define(value) for value in op.results])} = {text}"
        attrs = self._attrs(op.attrs)
        if attrs:
            text += f" {{{attrs}}}"
        for region in op.regions:
            self.lines.append(f"{indent}{text} {{")
            if region.args:
                args = ", ".join([self._define_arg(arg) for arg in region.args])
                self.lines.append(f"{indent}  ^({args}):")
            self._block(region, indent + "  ")
            text = "}"
        if op.results:
            text += " : " + ", ".join([self._typed(value) for value in op.results])
        if self.locations and op.loc != UNKNOWN:
            text += f" {_location_text(op.loc)}"
        self.lines.append(indent + text)

    def _attrs(self, attrs: Any) -> str:
        cls = type(attrs)
        defaults = _DEFAULTS.get(cls)
        if defaults is None:
            if not is_dataclass(cls):
                return repr(attrs)
            defaults = _DEFAULTS[cls] = _attr_defaults(cls)
        out = []
        for name, default in defaults:
            text = attr_text(getattr(attrs, name))
            if text != default:
                out.append(f"{name} = {text}")
        return ", ".join(out)

    def _typed(self, value: Value) -> str:
        text = self._types.get(value.type)
        if text is None:
            text = self._types[value.type] = str(value.type)
        return text if value.encoding is None else f"{text} {value.encoding}"

    def _define_arg(self, value: Value) -> str:
        return f"{self._define(value, quoted=True)}: {self._typed(value)}"

    def _define(self, value: Value, quoted: bool = False) -> str:
        """Name a value: as it is called where that is unique and fits, else by number."""
        name = value.name
        if name and name not in self._taken and (quoted or is_value_name(name)):
            self._taken.add(name)
            text = sigiled("%", name)
        else:
            text = f"%{self._count}"
            self._count += 1
        self._names[value] = text
        return text


_DEFAULTS: dict[type, tuple[tuple[str, str | None], ...]] = {}


def _attr_defaults(attrs: type) -> tuple[tuple[str, str | None], ...]:
    """Return each field of an attribute dataclass with the text of its default, if it has one."""
    out: list[tuple[str, str | None]] = []
    for field in fields(attrs):
        if field.default is not MISSING:
            out.append((field.name, attr_text(field.default)))
        elif field.default_factory is not MISSING:
            out.append((field.name, attr_text(field.default_factory())))
        else:
            out.append((field.name, None))
    return tuple(out)


def sigiled(sigil: str, name: str) -> str:
    return sigil + (name if is_value_name(name) else quote(name))


def _name_text(name: str) -> str:
    return name if is_word(name) else quote(name)


def _symbol_text(name: str, info: SymbolInfo) -> str:
    text = name
    if info.lo != 0 or info.hi is not None:
        text += f": {info.lo}.." + ("" if info.hi is None else str(info.hi))
    source = info.source
    if isinstance(source, Element):
        text += f" = {source.part}({sigiled('%', source.input)}, {source.index})"
    elif source is not None:
        text += f" = {source}"
    return text if info.hint is None else f"{text} ~ {info.hint}"


def _location_text(loc: Location) -> str:
    return f"loc({', '.join(quote(part) for part in (loc.file, *loc.nodes))})"
