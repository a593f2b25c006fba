"""What holds for the IR of either level: links, definitions before uses, use-lists, symbols.

The checks of each level (`ir.verify`, `ir.loop.verify`) subclass `Checker`.
"""

from __future__ import annotations

from typing import NoReturn

from tfc.ir.core import Block, Element, Function, Module, Op, SymbolInfo, Value
from tfc.ir.dims import symbols_of
from tfc.ir.errors import VerifyError
from tfc.ir.symbols import BIND, bound_by, dims_in, may_have_dims, run_time_symbols, type_symbols
from tfc.ir.text.lexer import is_symbol
from tfc.ir.text.printer import Printer
from tfc.ir.types import TensorType, Type

CONTEXT_LINES = 10


class Checker:
    """Checks one module. `after` names the pass that ran last, for the message."""

    def __init__(self, module: Module, after: str = "") -> None:
        self.module = module
        self.after = after
        # The symbols that types may speak of at the present op, and those that a run gives values.
        self.declared: set[str] = set()
        self.run_time: set[str] = set()
        self._typed: set[int] = set()  # types by identity: the values keep them
        self._counts: dict[Value, int] = {}

    # -- what a level adds ----------------------------------------------------------------------

    def check_op(self, op: Op) -> None:
        """Check what the level says of an op."""

    def isolated(self, op: Op) -> bool:
        """Whether the op's regions may use nothing from outside."""
        return False

    # -- the walk -------------------------------------------------------------------------------

    def function(self, function: Function) -> None:
        """Check the symbols, the block and the use counts of a function."""
        self._counts = {}
        self._typed = set()
        self._symbols(function)
        block = function.block
        if block.parent is not function:
            self.fail(f"the block of @{function.name} has another parent")
        self._block(block, set(), "return")
        for value, count in self._counts.items():
            if len(value.uses) != count:
                what = f"{value!r} has {len(value.uses)} uses listed, but {count} in the function"
                self.fail(what, value.op)

    def _symbols(self, function: Function) -> None:
        for name, info in function.symbols.items():
            if not is_symbol(name):
                self.fail(f"@{function.name}: {name!r} cannot be the name of a symbol")
            if info.hi is not None and info.hi < info.lo:
                self.fail(f"@{function.name}: symbol {name} has bounds {info.lo}..{info.hi}")
            self._source(function, name, info)
        self.declared = set(function.symbols)
        self.run_time = set()
        for op in function.block.walk():
            bound = bound_by(op)
            if bound is None:
                continue
            own = function.symbols.get(bound)
            if own is None:
                self.fail(f"{bound} is no symbol of @{function.name}", op)
            if own.lo != 0 or own.hi is not None or own.source is not None:
                self.fail(f"{bound} has bounds or a source beside the op", op)
            if bound in self.run_time:
                self.fail(f"{bound} is bound twice", op)
            self.run_time.add(bound)
        self.declared -= self.run_time

    def _source(self, function: Function, name: str, info: SymbolInfo) -> None:
        """Check where a symbol's value comes from."""
        if isinstance(info.source, Element):
            type = dict(self.inputs(function)).get(info.source.input)
            size = type.size if isinstance(type, TensorType) and type.dtype.is_int else 0
            if not isinstance(size, int) or not 0 <= info.source.index < size:
                place = f"element {info.source.index} of {info.source.input!r}"
                self.fail(f"@{function.name}: {name} is {place}, which is {type}")
            if info.lo < 0:
                self.fail(f"@{function.name}: {name} may be negative")
        elif info.source is not None:
            before = list(function.symbols)[: list(function.symbols).index(name)]
            late = run_time_symbols(function)
            unknown = sorted(symbols_of(info.source) - (set(before) - late.keys()))
            if unknown:
                self.fail(
                    f"@{function.name}: {name} speaks of {', '.join(unknown)}, not known then"
                )
            named = {n for _, type in self.inputs(function) for n in type_symbols(type)}
            if name in named:
                self.fail(f"@{function.name}: an input has {name} as a dim, which is {info.source}")

    def inputs(self, function: Function) -> list[tuple[str, Type]]:
        """The names and types of what a function is given."""
        return [(arg.name, arg.type) for arg in function.args]

    def _block(self, block: Block, visible: set[Value], ending: str) -> None:
        """Check a block that may use the values of `visible`, which is left as it was."""
        defined: list[Value] = []
        for i, arg in enumerate(block.args):
            if arg.owner is not block or arg.index != i:
                self.fail(f"argument {i} of a block says that it is another's", _holder(block))
            self._define(arg, visible, defined)
        count, previous = 0, None
        bound: list[str] = []
        for op in block:
            if op.block is not block or op.prev is not previous:
                self.fail("the links between ops are broken", op)
            self._op(op, visible)
            if op.name == BIND:
                bound.append(op.attrs.symbol)
                self.declared.add(op.attrs.symbol)
            if op.results:
                for i, result in enumerate(op.results):
                    if result.owner is not op or result.index != i:
                        self.fail(f"result {i} says that it is another's", op)
                    self._define(result, visible, defined)
            previous = op
            count += 1
        if block.last is not previous or block.count != count:
            self.fail("the links between ops are broken", previous or _holder(block))
        if previous is None or previous.name != ending:
            self.fail(f"the block does not end in {ending}", previous or _holder(block))
        visible.difference_update(defined)
        if bound:
            self.declared.difference_update(bound)
            self._typed.clear()

    def _define(self, value: Value, visible: set[Value], defined: list[Value]) -> None:
        visible.add(value)
        defined.append(value)
        self._counts.setdefault(value, 0)
        type = value.type
        if id(type) in self._typed:
            return
        unknown = type_symbols(type) - self.declared
        if unknown:
            self.fail(f"{type} speaks of {self._undeclared(unknown)}", value.op)
        self._typed.add(id(type))

    def _undeclared(self, names: set[str] | frozenset[str]) -> str:
        bound = names & self.run_time
        if bound:
            return f"{', '.join(sorted(bound))}, which no op has bound here"
        return f"undeclared {', '.join(sorted(names))}"

    def _op(self, op: Op, visible: set[Value]) -> None:
        counts = self._counts
        for i, value in enumerate(op.operands):
            if value not in visible:
                self.fail(f"operand {i} ({value!r}) is not defined before it is used", op)
            if (op, i) not in value.uses:
                self.fail(f"operand {i} ({value!r}) does not list this use", op)
            counts[value] += 1
        if may_have_dims(op.attrs):
            for dim in dims_in(op.attrs):
                unknown = symbols_of(dim) - self.declared
                if unknown:
                    self.fail(f"{dim} speaks of {self._undeclared(unknown)}", op)
        if op.regions:
            inner: set[Value] = set() if self.isolated(op) else visible
            for region in op.regions:
                if region.parent is not op:
                    self.fail("a region has another parent", op)
                self._block(region, inner, "yield")
        if op.next is not None and op.name in ("return", "yield"):
            self.fail("stands in the middle of a block", op)
        self.check_op(op)

    # -- messages -------------------------------------------------------------------------------

    def fail(self, message: str, op: Op | None = None) -> NoReturn:
        """Raise VerifyError with the op, the text around it and the last pass."""
        text, where = message, None
        if op is not None:
            text = f"{op.name}: {message}{self._context(op)}"
            where = str(op.loc) or None
        if self.after:
            text += f"\nthe pass that ran last: {self.after}"
        raise VerifyError(text, where=where)

    def _context(self, op: Op) -> str:
        printer = Printer().module(self.module)
        line = printer.line_of.get(op)
        if line is None:
            return "\n(the op is not in the module)"
        first = max(line - CONTEXT_LINES // 2, 0)
        lines = printer.lines[first : first + CONTEXT_LINES]
        marked = [
            f"{'>' if first + i == line else ' '} {text}".rstrip() for i, text in enumerate(lines)
        ]
        return "\n" + "\n".join(marked)


def _holder(block: Block) -> Op | None:
    return block.parent if isinstance(block.parent, Op) else None
