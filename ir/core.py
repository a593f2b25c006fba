"""The IR's data: values, ops, blocks, functions, modules, and the only way to change them.

Both levels (graph and loop) are made of these. An op's meaning is in its definition
(`ir.opdef`), not here. Change the IR only through the methods of this module: they keep the
use-lists true.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tfc.ir.attrs import ConstRef
from tfc.ir.dims import DimLike
from tfc.ir.location import UNKNOWN, Location
from tfc.ir.types import BufferType, Encoding, Type


class Definition(Protocol):
    """What `core` needs to know of an op's definition."""

    @property
    def name(self) -> str: ...


class Value:
    """An SSA value: the result of an op or the argument of a block."""

    __slots__ = ("encoding", "index", "name", "owner", "type", "uses")

    def __init__(self, type: Type, owner: Op | Block, index: int, name: str = "") -> None:
        self.type = type
        self.owner = owner
        self.index = index
        self.name = name
        self.encoding: Encoding | None = None
        self.uses: dict[tuple[Op, int], None] = {}

    def __repr__(self) -> str:
        return f"<Value {self.name or '?'} : {self.type}>"

    @property
    def op(self) -> Op | None:
        """The op that defines this value, or None for a block argument."""
        return self.owner if isinstance(self.owner, Op) else None

    @property
    def users(self) -> list[Op]:
        """The distinct ops that use this value, in order of first use."""
        return list(dict.fromkeys(op for op, _ in self.uses))

    def replace_all_uses(self, other: Value) -> None:
        """Make every user of this value use `other`, which must have the same type."""
        if other is self:
            return
        for op, position in list(self.uses):
            op.set_operand(position, other)


class Op:
    """One operation: a definition, operands, frozen attributes, regions and results.

    Operands and attributes are for reading: `set_operand` and its like change them.
    """

    __slots__ = (
        "attrs", "block", "defn", "loc", "name", "next", "operands", "prev", "regions", "results",
    )  # fmt: skip

    def __init__(
        self,
        defn: Definition,
        operands: Sequence[Value],
        attrs: Any,
        result_types: Sequence[Type],
        regions: Sequence[Block] = (),
        loc: Location = UNKNOWN,
    ) -> None:
        self.defn = defn
        self.name = defn.name
        self.operands = tuple(operands)
        self.attrs = attrs
        self.loc = loc
        self.block: Block | None = None
        self.prev: Op | None = None
        self.next: Op | None = None
        self.results = tuple([Value(type, self, i) for i, type in enumerate(result_types)])
        self.regions = tuple(regions)
        for position, value in enumerate(self.operands):
            value.uses[self, position] = None
        for region in self.regions:
            region.parent = self

    def __repr__(self) -> str:
        return f"<Op {self.name}>"

    @property
    def result(self) -> Value:
        """The only result of an op that has one."""
        (value,) = self.results
        return value

    def set_operand(self, position: int, value: Value) -> None:
        operands = list(self.operands)
        del operands[position].uses[self, position]
        operands[position] = value
        self.operands = tuple(operands)
        value.uses[self, position] = None

    def set_operands(self, values: Sequence[Value]) -> None:
        """Replace the whole operand list."""
        for position, value in enumerate(self.operands):
            del value.uses[self, position]
        self.operands = tuple(values)
        for position, value in enumerate(self.operands):
            value.uses[self, position] = None

    def set_attrs(self, attrs: Any) -> None:
        self.attrs = attrs

    def replace_with(self, values: Sequence[Value]) -> None:
        """Give every use of this op's results to `values` and erase the op."""
        for old, new in zip(self.results, values, strict=True):
            if not new.name:
                new.name = old.name
            old.replace_all_uses(new)
        self.erase()

    def erase(self) -> None:
        """Remove the op, which must be unused, with its regions."""
        if any(result.uses for result in self.results):
            raise ValueError(f"erasing {self.name} while its results are used")
        for region in self.regions:
            region.clear()
        for position, value in enumerate(self.operands):
            del value.uses[self, position]
        self.operands = ()
        if self.block is not None:
            self.block.unlink(self)

    def walk(self) -> Iterator[Op]:
        """Yield this op and every op in its regions, outermost first."""
        yield self
        for region in self.regions:
            yield from region.walk()


class Block:
    """An ordered list of ops with arguments. Every region is one block: control is structured."""

    __slots__ = ("args", "count", "first", "last", "parent")

    def __init__(self, arg_types: Sequence[Type] = (), names: Sequence[str] = ()) -> None:
        self.args: list[Value] = []
        self.first: Op | None = None
        self.last: Op | None = None
        self.count = 0
        self.parent: Op | Function | None = None
        for i, type in enumerate(arg_types):
            self.add_arg(type, names[i] if i < len(names) else "")

    def __iter__(self) -> Iterator[Op]:
        """Yield the ops in order; the op just yielded may be erased or replaced."""
        op = self.first
        while op is not None:
            following = op.next
            yield op
            op = following

    def __len__(self) -> int:
        return self.count

    def __reversed__(self) -> Iterator[Op]:
        op = self.last
        while op is not None:
            following = op.prev
            yield op
            op = following

    @property
    def terminator(self) -> Op:
        """The last op, which hands the block's values out."""
        if self.last is None:
            raise ValueError("the block is empty")
        return self.last

    def add_arg(self, type: Type, name: str = "") -> Value:
        value = Value(type, self, len(self.args), name)
        self.args.append(value)
        return value

    def append(self, op: Op) -> Op:
        return self.insert(op, None)

    def insert(self, op: Op, before: Op | None) -> Op:
        """Link a detached op in front of `before`, or at the end where `before` is None."""
        if op.block is not None:
            raise ValueError(f"{op.name} is in a block already")
        after = self.last if before is None else before.prev
        op.block, op.prev, op.next = self, after, before
        if after is None:
            self.first = op
        else:
            after.next = op
        if before is None:
            self.last = op
        else:
            before.prev = op
        self.count += 1
        return op

    def unlink(self, op: Op) -> None:
        """Take an op out of the block without touching its operands or uses."""
        if op.prev is None:
            self.first = op.next
        else:
            op.prev.next = op.next
        if op.next is None:
            self.last = op.prev
        else:
            op.next.prev = op.prev
        op.block = op.prev = op.next = None
        self.count -= 1

    def move(self, op: Op, before: Op | None) -> None:
        """Move an op that is in some block to stand in front of `before` in this one."""
        if op.block is not None:
            op.block.unlink(op)
        self.insert(op, before)

    def clear(self) -> None:
        """Erase every op, last first."""
        for op in reversed(self):
            for result in op.results:
                if result.uses:
                    raise ValueError(f"clearing a block while {op.name} is used outside")
            op.erase()

    def walk(self) -> Iterator[Op]:
        for op in self:
            if op.regions:
                yield from op.walk()
            else:
                yield op


@dataclass(frozen=True, slots=True)
class Element:
    """What an integer input holds at `index`, in row-major order.

    part: `element`, the number itself; `positive` or `negative`, how far it is above or below 0,
    which are both never negative.
    """

    input: str
    index: int
    part: str = "element"


PARTS = ("element", "positive", "negative")


@dataclass(frozen=True, slots=True)
class SymbolInfo:
    """What is known of a symbol: inclusive bounds and the value to optimise for.

    source: where its value comes from, an input's contents or an expression over symbols that
    stand before it. None: from the inputs' shapes, or from the op that binds it.
    """

    lo: int = 0
    hi: int | None = None
    hint: int | None = None
    source: Element | DimLike | None = None


@dataclass(eq=False, slots=True)
class Function:
    """A named block whose arguments are inputs and whose terminator lists the outputs.

    kind is `func` (graph level), `kernel` or `main` (loop level). output_names has one entry per
    operand of the terminator of a graph function.
    """

    name: str
    block: Block
    kind: str = "func"
    symbols: dict[str, SymbolInfo] = field(default_factory=dict)
    output_names: tuple[str, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.block.parent = self

    @property
    def args(self) -> list[Value]:
        return self.block.args

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The values that the function's terminator hands out."""
        return self.block.terminator.operands


@dataclass(frozen=True, slots=True)
class DataEntry:
    """A constant of a loop-level program: where its bytes are and how kernels read them."""

    ref: ConstRef
    type: BufferType


@dataclass(eq=False, slots=True)
class Module:
    """Functions by name, and the store that holds the data behind constant references.

    level is `graph` or `loop`. data is the constant table of a loop-level program: the name in
    a `constant` op to its entry. source names the file that the module came from.
    """

    level: str
    functions: dict[str, Function] = field(default_factory=dict)
    constants: Any = None
    data: dict[str, DataEntry] = field(default_factory=dict)
    source: str = ""

    @property
    def main(self) -> Function:
        return self.functions["main"]

    def add(self, function: Function) -> Function:
        if function.name in self.functions:
            raise ValueError(f"function {function.name} is defined already")
        self.functions[function.name] = function
        return function


def ops_of(functions: Iterable[Function]) -> Iterator[Op]:
    """Yield every op of the functions, nested ones included."""
    for function in functions:
        yield from function.block.walk()
