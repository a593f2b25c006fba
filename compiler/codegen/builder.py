"""Writes LLVM text: functions, basic blocks, and pure values placed as far out as they can be.

A `Scope` is an open region (function, loop, branch). A pure scalar goes into the outermost scope
that knows its operands and is found again there, so that LLVM needs no loop-invariant motion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tfc.compiler.codegen.llvm_types import lanes_of, splat, suffix, vector, wrap
from tfc.compiler.target import Target
from tfc.ir.dims import Call, DimLike, Monomial, Symbol, terms_of
from tfc.ir.errors import CompileError

THREADS = "threads"
_NAME = re.compile(r"%[A-Za-z]\w*")
_FLOATS = ("float", "double")


@dataclass(eq=False, slots=True)
class BasicBlock:
    """A label, phis, instructions, and apart from them the terminator: `lines` may still grow."""

    label: str
    phis: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    terminator: str = ""


@dataclass(eq=False, slots=True)
class FunctionText:
    """A function being written; `head` (allocas, captured values) comes before the first block."""

    head: list[str] = field(default_factory=list)
    blocks: list[BasicBlock] = field(default_factory=list)

    def body(self) -> str:
        lines = ["entry:", *self.head]
        for i, block in enumerate(self.blocks):
            if i:
                lines.append(block.label + ":")
            lines += block.phis
            lines += block.lines
            lines.append("  " + block.terminator)
        return "\n".join(lines)


@dataclass(eq=False, slots=True)
class Scope:
    """An open region; `block` is where its next instruction goes."""

    depth: int
    function: FunctionText
    block: BasicBlock
    cache: dict[str, str] = field(default_factory=dict)


class Builder:
    """The module text under construction. Values are the texts of names and constants."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.scopes: list[Scope] = []
        self.types: dict[str, str] = {}
        self.levels: dict[str, int] = {}
        self.symbols: dict[str, str] = {}
        self.declarations: dict[str, None] = {}
        self.globals: list[str] = []
        self.functions: list[str] = []
        self.helpers: set[str] = set()
        self._count = 0

    # -- names and blocks -----------------------------------------------------------------------

    @property
    def scope(self) -> Scope:
        return self.scopes[-1]

    def number(self) -> int:
        self._count += 1
        return self._count

    def name(self, type: str, level: int) -> str:
        """Return a new name for a value of `type` that scope `level` defines."""
        name = f"%v{self.number()}"
        self.types[name] = type
        self.levels[name] = level
        return name

    def param(self, name: str, type: str) -> str:
        self.types[name] = type
        self.levels[name] = self.scope.depth
        return name

    def new_block(self, hint: str) -> BasicBlock:
        """Return a block that is not in the function yet; `enter` puts it there."""
        return BasicBlock(f"{hint}{self.number()}")

    def enter(self, block: BasicBlock) -> None:
        """Go on in `block`, which all later code of this scope follows."""
        self.scope.function.blocks.append(block)
        self.scope.block = block

    def line(self, text: str) -> None:
        self.scope.block.lines.append("  " + text)

    def jump(self, block: BasicBlock) -> None:
        self.scope.block.terminator = f"br label %{block.label}"

    def branch(self, condition: str, then: BasicBlock, otherwise: BasicBlock) -> None:
        self.scope.block.terminator = (
            f"br i1 {condition}, label %{then.label}, label %{otherwise.label}"
        )

    def ret(self, value: str) -> None:
        self.scope.block.terminator = f"ret {value}"

    @contextmanager
    def region(self, block: BasicBlock) -> Iterator[Scope]:
        """Open a scope in the same function that starts at `block`."""
        scope = Scope(len(self.scopes), self.scope.function, block)
        scope.function.blocks.append(block)
        self.scopes.append(scope)
        try:
            yield scope
        finally:
            self.scopes.pop()

    @contextmanager
    def function(self) -> Iterator[FunctionText]:
        """Open the scope of a new function."""
        text = FunctionText()
        block = BasicBlock("entry")
        text.blocks.append(block)
        self.scopes.append(Scope(len(self.scopes), text, block))
        try:
            yield text
        finally:
            self.scopes.pop()

    def captures(self, body: str, depth: int) -> list[str]:
        """Return the names in `body` that scopes outside of `depth` define, in order of use."""
        found = dict.fromkeys(_NAME.findall(body))
        return [name for name in found if self.levels.get(name, depth) < depth]

    def stack(self, type: str) -> str:
        """Return memory of `type` that lives until the function returns."""
        root = next(scope for scope in self.scopes if scope.function is self.scope.function)
        name = self.name("ptr", root.depth)
        root.function.head.append(f"  {name} = alloca {type}, align 64")
        return name

    # -- values ---------------------------------------------------------------------------------

    def let(self, type: str, rhs: str, *operands: str) -> str:
        """Return the value of a pure instruction that is harmless where it is not needed."""
        scope = self.scopes[-1]
        if type[0] != "<" and type not in _FLOATS:
            level = 0
            for operand in operands:
                level = max(level, self.levels.get(operand, 0))
            scope = self.scopes[level]
            known = scope.cache.get(rhs)
        else:
            known = next((s.cache[rhs] for s in reversed(self.scopes) if rhs in s.cache), None)
        if known is not None:
            return known
        return self._define(scope, type, rhs)

    def here(self, type: str, rhs: str) -> str:
        """Return the value of a pure instruction that stays in this scope."""
        known = self.scope.cache.get(rhs)
        return known if known is not None else self._define(self.scope, type, rhs)

    def _define(self, scope: Scope, type: str, rhs: str) -> str:
        name = self.name(type, scope.depth)
        scope.block.lines.append(f"  {name} = {rhs}")
        scope.cache[rhs] = name
        return name

    def effect(self, type: str, rhs: str) -> str:
        """Return the value of an instruction that is neither moved nor shared."""
        name = self.name(type, self.scope.depth)
        self.scope.block.lines.append(f"  {name} = {rhs}")
        return name

    def op(self, opcode: str, type: str, *args: str) -> str:
        """Apply an instruction or cast-free unary operator to operands of one type."""
        return self.let(type, f"{opcode} {type} {', '.join(args)}", *args)

    def convert(self, opcode: str, source: str, value: str, to: str) -> str:
        return self.let(to, f"{opcode} {source} {value} to {to}", value)

    def compare(self, predicate: str, type: str, x: str, y: str) -> str:
        return self.let(mask_type(type), f"{predicate} {type} {x}, {y}", x, y)

    def select(self, condition: str, type: str, x: str, y: str, scalar: bool = False) -> str:
        """Choose lane by lane, or all lanes by one scalar condition."""
        kind = "i1" if scalar else mask_type(type)
        return self.let(type, f"select {kind} {condition}, {type} {x}, {type} {y}", condition, x, y)

    def splat(self, value: str, type: str) -> str:
        """Broadcast a scalar into vector type `type`."""
        lanes = lanes_of(type)
        if value[0] != "%":
            return splat(value, type)
        scalar = self.types[value]
        one = self.let(type, f"insertelement {type} poison, {scalar} {value}, i64 0", value)
        zeros = f"<{lanes} x i32> zeroinitializer"
        return self.let(type, f"shufflevector {type} {one}, {type} poison, {zeros}", one)

    def intrinsic(self, name: str, type: str, *args: tuple[str, str], mangle: str = "") -> str:
        """Call a pure intrinsic; args are (type, value), and the name ends in that of `type`."""
        full = f"@llvm.{name}.{mangle or suffix(type)}"
        self.declare(type, full, [kind for kind, _ in args])
        text = ", ".join(f"{kind} {value}" for kind, value in args)
        return self.let(type, f"call {type} {full}({text})", *(value for _, value in args))

    def declare(self, result: str, name: str, args: Sequence[str]) -> None:
        self.declarations[f"declare {result} {name}({', '.join(args)})"] = None

    # -- integers -------------------------------------------------------------------------------

    def add(self, x: str, y: str) -> str:
        if x == "0":
            return y
        return x if y == "0" else self.op("add", "i64", x, y)

    def mul(self, x: str, y: str) -> str:
        if x == "1":
            return y
        return x if y == "1" else self.op("mul", "i64", x, y)

    def dim(self, dim: DimLike) -> str:
        """Return the value of an expression over the function's symbols."""
        if isinstance(dim, int):
            return str(wrap(dim, 64))
        total = "0"
        constant = 0
        for mono, coeff in terms_of(dim):
            if mono:
                total = self.add(total, self._monomial(mono, coeff))
            else:
                constant = coeff
        return self.add(total, str(wrap(constant, 64)))

    def _monomial(self, mono: Monomial, coeff: int) -> str:
        part = "1"
        for atom in mono:
            part = self.mul(part, self._atom(atom))
        return self.mul(part, str(wrap(coeff, 64)))

    def _atom(self, atom: Symbol | Call) -> str:
        if isinstance(atom, Symbol):
            value = self.symbols.get(atom.name)
            if value is None:
                value = self.symbols[atom.name] = self.special_symbol(atom.name)
            return value
        args = [self.dim(arg) for arg in atom.args]
        if atom.fn in ("min", "max"):
            result = args[0]
            for arg in args[1:]:
                result = self.intrinsic(f"s{atom.fn}", "i64", ("i64", result), ("i64", arg))
            return result
        return self._floor(atom.fn, args[0], args[1])

    def _floor(self, fn: str, x: str, y: str) -> str:
        """Floored division or remainder. A divisor is positive where the result matters."""
        if y[0] == "%":
            y = self.intrinsic("smax", "i64", ("i64", y), ("i64", "1"))
        elif int(y) & (int(y) - 1) == 0:
            if fn == "mod":
                return self.op("and", "i64", x, str(int(y) - 1))
            return self.op("ashr", "i64", x, str(int(y).bit_length() - 1))
        rest = self.op("srem", "i64", x, y)
        negative = self.compare("icmp slt", "i64", rest, "0")
        if fn == "mod":
            return self.select(negative, "i64", self.op("add", "i64", rest, y), rest)
        quotient = self.op("sdiv", "i64", x, y)
        return self.op("add", "i64", quotient, self.convert("sext", "i1", negative, "i64"))

    def special_symbol(self, name: str) -> str:
        raise CompileError(f"the function has no symbol {name}")

    # -- the module -----------------------------------------------------------------------------

    def module(self) -> str:
        """Return the whole text. Definitions are not declared as well."""
        head = [f'target triple = "{self.target.triple}"']
        return "\n\n".join(
            (
                *head,
                *(["\n".join(self.globals)] if self.globals else []),
                *self.functions,
                "\n".join(self.declarations),
                attributes(self.target),
                "!0 = !{}",
            )
        )


def mask_type(type: str) -> str:
    """Return the type of a comparison of two values of `type`."""
    return vector("i1", lanes_of(type))


def attributes(target: Target) -> str:
    """Return attribute group 0: what every function of a module has."""
    features = ",".join(f"+{name}" for name in target.feature_list)
    width = f' "prefer-vector-width"="{target.vector_bits}"' if target.arch == "x86_64" else ""
    cpu = f' "target-cpu"="{target.cpu}"' if target.cpu else ""
    return (
        'attributes #0 = { nounwind "frame-pointer"="none" "no-builtins"'
        f'{cpu} "target-features"="{features}"{width} }}'
    )
