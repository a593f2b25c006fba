"""Writes `main`: the calls of kernels, and branches and loops around them. Makes no kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tfc.compiler.cost.expression import estimate
from tfc.compiler.lower.data import DataTable
from tfc.compiler.lower.items import Bound, Branch, Call, Demand, Item, Repeat, Scalar, spans
from tfc.compiler.lower.memplan import Lifetime, plan_memory
from tfc.compiler.lower.storage import Place, Root, RootKind, Storage
from tfc.compiler.passes.assume import Assumed
from tfc.ir.core import Block, Function, Module, Value
from tfc.ir.dims import DimLike, symbols_of
from tfc.ir.extent import highest, most, room
from tfc.ir.inplace import IN_PLACE, Shared
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.nodes import BindAttrs, BufferAttrs, CallAttrs, ConstantAttrs
from tfc.ir.symbols import ASSUMES, type_symbols
from tfc.ir.types import BufferType, DType, TensorType

# Codes below are those that every program returns.
FIRST_CHECK = 100


class MainWriter:
    """Writes one program's main."""

    def __init__(
        self,
        program: Module,
        source: Function,
        storage: Storage,
        data: DataTable,
        hints: Mapping[str, int],
    ) -> None:
        self.program = program
        self.source = source
        self.storage = storage
        self.data = data
        self.hints = hints
        self.inputs = [(arg.name, arg.type) for arg in source.args]
        self.outputs = [
            (name, value.type)
            for name, value in zip(source.output_names, source.outputs, strict=True)
        ]
        self.checks = 0
        self.offsets: dict[Root, DimLike] = {}
        # What is known at the present point: memory by root and by place, rounds by loop.
        self.pointers: dict[object, Value] = {}
        self.rounds: dict[str, Value] = {}
        # The symbols that a run binds with their bounds, and what is assumed of them.
        self.limits = highest(source)
        self.assumed: Assumed = ()
        self.bound: set[str] = set()

    def write(self, items: Sequence[Item]) -> None:
        shared = self.storage.in_place
        types = [
            self._whole(type, ends.get(i))
            for tensors, ends in (
                (self.inputs, shared.by_input), (self.outputs, shared.by_output),
            )
            for i, (_, type) in enumerate(tensors)
        ]  # fmt: skip
        names = [f"in{i}" for i in range(len(self.inputs))]
        names += [f"out{i}" for i in range(len(self.outputs))]
        block = Block(types, names)
        self.args = block.args
        self.b = LoopBuilder(block)
        self.assumed = self._check_assumed(self.source.attrs.get(ASSUMES, ()))
        workspace = self._plan_workspace(items)
        self._items(items)
        self.b.emit("return")
        attrs: dict[str, Any] = {
            "inputs": tuple(self.inputs),
            "outputs": tuple(self.outputs),
            "workspace": workspace,
        }
        if sizes := self._sizes():
            attrs["sizes"] = sizes
        if IN_PLACE in self.source.attrs:
            attrs[IN_PLACE] = self.source.attrs[IN_PLACE]
        symbols = dict(self.source.symbols)
        self.program.add(Function("main", block, "main", symbols, (), attrs))

    def _sizes(self) -> tuple[DimLike, ...]:
        """The most bytes of tensors whose dims are no inputs' dims: they may be absurdly many."""
        chosen = {name for name, info in self.source.symbols.items() if info.source is not None}
        chosen |= self.limits.keys()
        found: dict[DimLike, None] = {}
        if chosen:
            for op in self.source.block.walk():
                for value in op.results:
                    assert isinstance(value.type, TensorType)
                    if type_symbols(value.type) & chosen:
                        room_for = room(value.type.shape, self.limits)
                        found[room_for * value.type.dtype.bytes] = None
        return tuple(found)

    def _check(self, holds: Value, message: str) -> None:
        """End the run where something that the graph takes for granted does not hold."""
        self.b.check(holds, FIRST_CHECK + self.checks, message)
        self.checks += 1

    def _check_assumed(self, assumed: Assumed) -> Assumed:
        """Check what is assumed of symbols that are known by now; return the rest."""
        late = self.limits.keys() - self.bound
        left: list[tuple[DimLike, str]] = []
        for zero, message in assumed:
            if symbols_of(zero) & late:
                left.append((zero, message))
            else:
                self._check(self.b.eq(self.b.index(zero), self.b.index(0)), message)
        return tuple(left)

    def _bind(self, item: Bound) -> None:
        symbol, hi = item.op.attrs.symbol, item.op.attrs.hi
        number = self._scalar(item.number)
        inside = self.b.and_(
            self.b.ge(number, self.b.index(0)), self.b.le(number, self.b.index(hi))
        )
        place = f"{item.op.loc}: " if str(item.op.loc) else ""
        self._check(inside, f"{place}{symbol} is outside of 0..{hi}")
        self.b.emit("bind", (number,), BindAttrs(symbol, hi))
        self.bound.add(symbol)
        self.assumed = self._check_assumed(self.assumed)

    def _plan_workspace(self, items: Sequence[Item]) -> DimLike:
        lives = spans(items)
        sizes = [most(root.size, self.limits) * _dtype(root.value).bytes for root in lives]
        lifetimes = [
            Lifetime(size, span.first, span.last)
            for size, span in zip(sizes, lives.values(), strict=True)
        ]
        plan = plan_memory(lifetimes, [estimate(size, self.hints) for size in sizes])
        self.offsets = dict(zip(lives, plan.offsets, strict=True))
        return plan.size

    # -- items ----------------------------------------------------------------------------------

    def _items(self, items: Sequence[Item]) -> None:
        for item in items:
            if item.op is not None:
                self.b.loc = item.op.loc
            match item:
                case Call():
                    self._call(item)
                case Branch():
                    self._branch(item)
                case Repeat():
                    self._repeat(item)
                case Demand():
                    self._check(self._scalar(item.condition), item.op.attrs.message)
                case Bound():
                    self._bind(item)

    def _call(self, call: Call) -> None:
        kernel = self.program.functions[call.kernel]
        args = []
        for place, arg in zip(call.args, kernel.args, strict=True):
            assert isinstance(arg.type, BufferType)
            args.append(self._pointer(place, arg.type))
        self.b.emit("call", args, CallAttrs(call.kernel))

    def _branch(self, item: Branch) -> None:
        condition = self._scalar(item.condition)
        blocks = []
        for side, assumed in zip(item.sides, item.op.attrs.assumes, strict=True):
            with self._region(Block()) as block:
                self._check_assumed(assumed)
                self._items(side)
                self.b.emit("yield")
            blocks.append(block)
        self.b.branch(condition, *blocks)

    @contextmanager
    def _region(self, block: Block) -> Iterator[Block]:
        """Write into `block`; what becomes known there is forgotten behind it."""
        with self._scope(), self.b.at(block):
            yield block

    @contextmanager
    def _scope(self) -> Iterator[None]:
        outer = self.pointers, self.rounds
        self.pointers, self.rounds = dict(self.pointers), dict(self.rounds)
        try:
            yield
        finally:
            self.pointers, self.rounds = outer

    # -- loops ----------------------------------------------------------------------------------

    def _repeat(self, item: Repeat) -> None:
        first: list[Value] = []
        for carry, init in zip(item.memory.carries, item.inits, strict=True):
            first.append(self._pointer(init, _flat(carry.current)))
            if carry.buffers is not None:
                first += [self._pointer(Place(r, 0, ()), _flat(r)) for r in carry.buffers]
        limit = None if item.limit is None else self._scalar(item.limit)
        last = self._while(item, limit, first) if item.start else self._for(item, limit, first)
        for carry in item.memory.carries:
            self.pointers[carry.result] = last[0]
            last = last[1 if carry.buffers is None else 3 :]

    def _for(self, item: Repeat, limit: Value | None, first: list[Value]) -> Sequence[Value]:
        trips = item.op.attrs.trips
        if limit is not None and trips is not None:
            rounds = self.b.max(limit, self.b.index(0))
            self._check(self.b.eq(rounds, self.b.index(trips)), _message(trips))
        count = self.b.index(trips) if trips is not None else limit
        assert count is not None
        with self._scope(), self.b.for_(0, count, first) as loop:
            loop.yields = self._round(item, loop.index, loop.carried)
        return loop.results

    def _while(self, item: Repeat, limit: Value | None, first: list[Value]) -> Sequence[Value]:
        """Write a loop with a condition: carried are the next round's number, and whether to go on.

        Rounds beyond the announced number are not run, since stacks have no room for them.
        """
        b, trips = self.b, item.op.attrs.trips
        bounds = [value for value in (limit, None if trips is None else b.index(trips)) if value]
        zero = b.index(0)
        assert item.start is not None
        assert item.again is not None
        start = self._scalar(item.start)
        begin = start
        for bound in bounds:
            begin = b.and_(begin, b.lt(zero, bound))
        with self._scope(), b.while_(begin, (zero, start, *first)) as loop:
            index, _, *pointers = loop.carried
            following = self._round(item, index, pointers)
            more = self._scalar(item.again)
            next_index = b.add(index, b.index(1))
            loop.again = more
            for bound in bounds:
                loop.again = b.and_(loop.again, b.lt(next_index, bound))
            loop.yields = (next_index, more, *following)
        index, more, *last = loop.results
        if trips is not None and not item.op.attrs.early:
            if limit is not None:
                more = b.and_(more, b.lt(index, limit))
            done = b.and_(b.eq(index, b.index(trips)), b.not_(more))
            self._check(done, _message(trips))
        return last

    def _round(self, item: Repeat, index: Value, pointers: Sequence[Value]) -> Sequence[Value]:
        """Write one round; return the pointers of the next."""
        memory = item.memory
        self.rounds[memory.step] = index
        buffers: list[Sequence[Value]] = []
        for carry in memory.carries:
            count = 1 if carry.buffers is None else 3
            self.pointers[carry.current] = pointers[0]
            if carry.buffers is not None:
                self.pointers[carry.following] = pointers[1]
            buffers.append(pointers[:count])
            pointers = pointers[count:]
        if item.op.regions[0].args[0].uses:
            self.b.store(index, self._pointer(Place(memory.index, 0, ()), _flat(memory.index)), 0)
        self._items(item.body)
        following: list[Value] = []
        for position, (carry, own) in enumerate(zip(memory.carries, buffers, strict=True)):
            if carry.buffers is not None:
                following += [own[1], own[2], own[1]]
            else:
                yields = position + item.op.attrs.conditional
                place = self.storage.yield_place(item.op, yields)
                following.append(self._pointer(place, _flat(carry.current)))
        return following

    # -- memory ---------------------------------------------------------------------------------

    def _scalar(self, scalar: Scalar) -> Value:
        if scalar.place is None:
            op = scalar.value.op
            assert op is not None
            return self.b.index(op.attrs.values[0], self.rounds)
        type = BufferType(_dtype(scalar.value), (1,), (1,))
        return self.b.load(self._pointer(scalar.place, type), 0)

    def _pointer(self, place: Place, type: BufferType) -> Value:
        base = self._root(place.root)
        if base.type == type and place.offset == 0:
            return base
        key = (place.root, place.offset, type)
        if key not in self.pointers:
            offset = self.b.index(place.offset, self.rounds)
            self.pointers[key] = self.b.view(base, offset, type)
        return self.pointers[key]

    def _root(self, root: Root) -> Value:
        if root not in self.pointers:
            type = _flat(root)
            match root.kind:
                case RootKind.INPUT:
                    self.pointers[root] = self.args[root.position]
                case RootKind.OUTPUT:
                    arg = self.args[len(self.inputs) + root.position]
                    self.pointers[root] = arg if arg.type == type else self.b.view(arg, 0, type)
                case RootKind.CONSTANT:
                    attrs = ConstantAttrs(self.data.name_of(root), type)
                    self.pointers[root] = self.b.emit("constant", (), attrs).result
                case RootKind.TEMP:
                    at = self.b.index(self.offsets[root])
                    self.pointers[root] = self.b.emit("workspace", (at,), BufferAttrs(type)).result
                case RootKind.POINTER:
                    raise AssertionError("a carried value outside of its loop")
        return self.pointers[root]

    def _whole(self, type: object, shared: Shared | None) -> BufferType:
        """The memory of an input or output, as much as there is at the start of a run."""
        assert isinstance(type, TensorType)
        shape = type.shape if shared is None else shared.shape(type.shape)
        return BufferType(type.dtype, (room(shape, self.limits),), (1,))


def _message(trips: DimLike) -> str:
    return f"a loop does not run {trips} rounds, as its results' shapes have it"


def _flat(root: Root) -> BufferType:
    return BufferType(_dtype(root.value), (root.size,), (1,))


def _dtype(value: Value) -> DType:
    assert isinstance(value.type, TensorType)
    return value.type.dtype
