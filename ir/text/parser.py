"""Reads modules of both levels from text. Checks what is written, not what it means.

Ops get the result types that the text states; the verifier compares them with inference.
"""

from __future__ import annotations

from tfc.ir.attrs import ConstRef
from tfc.ir.constants import ConstantStore
from tfc.ir.core import (
    PARTS,
    Block,
    DataEntry,
    Element,
    Function,
    Module,
    Op,
    SymbolInfo,
    Value,
)
from tfc.ir.dims import DimLike
from tfc.ir.location import UNKNOWN, Location
from tfc.ir.loop.nodes import LOOP_OPS, LoopOp
from tfc.ir.opdef import OPS, OpDef
from tfc.ir.text.attrtypes import make_attrs
from tfc.ir.text.lexer import is_symbol, is_value_name
from tfc.ir.text.printer import VERSION
from tfc.ir.text.reader import Problem, Reader
from tfc.ir.types import BufferType, Encoding, Type

KINDS = {"graph": ("func",), "loop": ("kernel", "main")}


def parse_module(text: str, constants: ConstantStore, filename: str = "<text>") -> Module:
    """Return the module that `text` says. Raises ModelError with file, line and column."""
    parser = Parser(text)
    try:
        return parser.module(constants)
    except Problem as problem:
        raise parser.located(problem, filename) from None


class Parser(Reader):
    """Reads ops and functions. `values` are the names visible at the cursor."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values: dict[str, Value] = {}
        self.defns: dict[str, OpDef] | dict[str, LoopOp] = OPS
        self.kinds: tuple[str, ...] = ()

    def module(self, constants: ConstantStore) -> Module:
        if self.tokens[0] != "tfc":
            self.fail(f"expected 'tfc {VERSION} graph' or 'tfc {VERSION} loop'")
        self.at = 1
        version = self.integer()
        if version != VERSION:
            self.fail(f"text version {version}, this tfc reads version {VERSION}", self.at - 1)
        level = self.word("graph or loop")
        if level not in KINDS:
            self.fail(f"unknown level {level}", self.at - 1)
        self.kinds = KINDS[level]
        self.defns = OPS if level == "graph" else LOOP_OPS
        source = self.string() if self.accept("source") else ""
        module = Module(level, constants=constants, source=source)
        if level == "loop" and self.accept("data"):
            self.data(module)
        while self.tokens[self.at]:
            start = self.at
            function = self.function()
            if function.name in module.functions:
                self.fail(f"function @{function.name} is defined twice", start)
            module.add(function)
        return module

    def data(self, module: Module) -> None:
        self.expect("{")
        while not self.accept("}"):
            name = self.sigil("@", "the name of a constant")
            if name in module.data:
                self.fail(f"@{name} is defined twice", self.at - 1)
            self.expect(":")
            type = self.type()
            if not isinstance(type, BufferType):
                self.fail(f"@{name} is {type}, not a buffer", self.at - 1)
            self.expect("=")
            module.data[name] = DataEntry(ConstRef(self.sigil("@", "a hash like @9f3c")), type)

    def function(self) -> Function:
        kind = self.word(" or ".join(self.kinds))
        if kind not in self.kinds:
            self.fail(f"expected {' or '.join(self.kinds)}, found '{kind}'", self.at - 1)
        name = self.sigil("@", "the name of a function")
        self.values = {}
        function = Function(name, Block(), kind)
        self.expect("(")
        self.args(function.block, ")")
        if kind == "func":
            self.expect("->")
            function.output_names = self.output_names()
        if self.accept("symbols"):
            self.symbols(function)
        if self.accept("attrs"):
            self.expect("{")
            function.attrs = self.attrs()
        self.expect("{")
        self.ops(function.block)
        return function

    def args(self, block: Block, closing: str) -> None:
        """Arguments `%name: type`, up to the closing bracket."""
        while not self.accept(closing):
            if block.args:
                self.expect(",")
            start = self.at
            key = self.key("an argument like %x")
            self.expect(":")
            value = block.add_arg(self.type())
            value.encoding = self.encoding()
            self.define(key, value, start)

    def key(self, what: str) -> str:
        """Read `%name` and return it in one form, which tells the number %1 from the name %"1"."""
        token = self.tokens[self.at]
        if token[:2] != '%"':
            return "%" + self.sigil("%", what)
        name = self.unquoted(token[1:])
        return f"%{name}" if is_value_name(name) else f'%"{name}'

    def define(self, key: str, value: Value, at: int) -> None:
        if key in self.values:
            self.fail(f"{self.tokens[at]} is defined twice", at)
        self.values[key] = value
        # A bare number is a name that the printer gave.
        if key[1:2] == '"':
            value.name = key[2:]
        elif not key[1:].isdigit():
            value.name = key[1:]

    def output_names(self) -> tuple[str, ...]:
        self.expect("(")
        names: list[str] = []
        while not self.accept(")"):
            if names:
                self.expect(",")
            names.append(self.name("the name of an output"))
        return tuple(names)

    def symbols(self, function: Function) -> None:
        self.expect("{")
        while not self.accept("}"):
            if function.symbols:
                self.expect(",")
            name = self.word("a symbol")
            if not is_symbol(name) or name in function.symbols:
                why = "is declared twice" if name in function.symbols else "is a reserved word"
                self.fail(f"{name} {why}", self.at - 1)
            lo, hi, hint = 0, None, None
            if self.accept(":"):
                lo = self.integer()
                self.expect("..")
                if self.tokens[self.at] not in ("}", ",", "~", "="):
                    hi = self.integer()
            source = self.source() if self.accept("=") else None
            if self.accept("~"):
                hint = self.integer()
            function.symbols[name] = SymbolInfo(lo, hi, hint, source)

    def source(self) -> Element | DimLike:
        """Where a symbol's value comes from: `element(%x, 0)`, or a dim."""
        part, bracket = self.tokens[self.at : self.at + 2]
        if part not in PARTS or bracket != "(":
            return self.dim()
        self.at += 2
        name = self.sigil("%", "an input like %x")
        self.expect(",")
        index = self.integer()
        self.expect(")")
        return Element(name, index, part)

    def attrs(self) -> dict[str, object]:
        """Attributes `name = value`, up to the closing brace."""
        values: dict[str, object] = {}
        while not self.accept("}"):
            if values:
                self.expect(",")
            name = self.name("the name of an attribute")
            if name in values:
                self.fail(f"attribute {name} is given twice", self.at - 1)
            self.expect("=")
            values[name] = self.attr()
        return values

    def ops(self, block: Block) -> None:
        """Ops, up to the closing brace."""
        self.enter()
        while not self.accept("}"):
            self.op(block)
        self.leave()

    def op(self, block: Block) -> None:
        start = self.at
        keys = self.results()
        at = self.at
        defn = self.defns.get(self.word("an op"))
        if defn is None:
            self.fail(f"unknown op {self.tokens[at]}", at)
        operands = self.operands()
        attrs = self.op_attrs(defn, at)
        regions = []
        while self.accept("{"):
            regions.append(self.region())
        if len(regions) != defn.regions:
            self.fail(f"{defn.name} has {defn.regions} regions, not {len(regions)}", at)
        types: list[Type] = []
        encodings: list[Encoding | None] = []
        if self.accept(":"):
            types.append(self.type())
            encodings.append(self.encoding())
            while self.accept(","):
                types.append(self.type())
                encodings.append(self.encoding())
        if len(types) != len(keys):
            self.fail(f"{len(keys)} results are named, {len(types)} types given", start)
        loc = self.location() if self.tokens[self.at] == "loc" else UNKNOWN
        op = block.append(Op(defn, operands, attrs, types, regions, loc))
        for i, (value, key) in enumerate(zip(op.results, keys, strict=True)):
            value.encoding = encodings[i]
            self.define(key, value, start + 2 * i)

    def results(self) -> list[str]:
        """The keys of what stands in front of `=`; each and what follows it is one token."""
        keys: list[str] = []
        while self.tokens[self.at][:1] == "%":
            keys.append(self.key("a result like %x"))
            if not self.accept(","):
                self.expect("=")
                break
        return keys

    def operands(self) -> list[Value]:
        self.expect("(")
        values: list[Value] = []
        while not self.accept(")"):
            if values:
                self.expect(",")
            value = self.values.get(self.key("an operand like %x"))
            if value is None:
                at = self.at - 1
                self.fail(f"{self.tokens[at]} is not defined here", at)
            values.append(value)
        return values

    def op_attrs(self, defn: OpDef | LoopOp, at: int) -> object:
        """The attributes, where the brace under the cursor opens some and no region."""
        values: dict[str, object] = {}
        tokens = self.tokens
        # `{name =` opens attributes; a region starts with `^`, an op, or `%name =`.
        following = tokens[self.at + 1 : self.at + 3]
        if tokens[self.at] == "{" and following[-1] == "=" and following[0][0] != "%":
            self.at += 1
            values = self.attrs()
        try:
            return make_attrs(defn.attrs, values)
        except ValueError as err:
            self.fail(f"{defn.name} {err}", at)

    def region(self) -> Block:
        """A block; what it defines is not visible behind it."""
        outer = self.values
        self.values = dict(outer)
        block = Block()
        if self.accept("^"):
            self.expect("(")
            self.args(block, ")")
            self.expect(":")
        self.ops(block)
        self.values = outer
        return block

    def location(self) -> Location:
        self.at += 1
        self.expect("(")
        parts = [self.string()]
        while self.accept(","):
            parts.append(self.string())
        self.expect(")")
        return Location(parts[0], tuple(parts[1:]))
