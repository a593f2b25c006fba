"""Lowers a graph to a loop-level program: kernels, their constants, and `main` that calls them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tfc.compiler.cost.choice import Chooser
from tfc.compiler.cost.expression import estimate
from tfc.compiler.evaluate import is_stored
from tfc.compiler.lower.group import Band, Group, Span, Step
from tfc.compiler.lower.items import (
    Bound,
    Branch,
    Call,
    Demand,
    Item,
    Repeat,
    Scalar,
    calls,
)
from tfc.compiler.lower.kernels import KernelBuilder
from tfc.compiler.lower.main import MainWriter
from tfc.compiler.lower.maker import Made
from tfc.compiler.lower.planes import FAST
from tfc.compiler.lower.storage import (
    PARTS,
    Part,
    Place,
    Root,
    RootKind,
    Storage,
    first_yield,
    is_control,
    is_counted,
    is_dense,
    parts_of_zeros,
    shape_of,
)
from tfc.compiler.target import Target
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.dims import Dim, DimLike, maximum, minimum, product
from tfc.ir.extent import highest
from tfc.ir.ops.bind import BindAttrs
from tfc.ir.ops.const import DimsAttrs
from tfc.ir.ops.flow import CheckAttrs, LoopAttrs, split_operands, split_yields
from tfc.ir.types import row_major

RECURSION_LIMIT = 20_000


def lower(
    module: Module,
    target: Target,
    hints: Mapping[str, int],
    *,
    fast: frozenset[str] = FAST,
    made: Made | None = None,
    chooser: Chooser | None = None,
) -> Module:
    """Return the loop-level program of a graph module whose ops all have bodies.

    hints: likely values of the symbols. fast, made, chooser: as for `KernelBuilder`.
    Raises UnsupportedError and CompileError.
    """
    builder = ProgramBuilder(module, target, hints, fast, chooser)
    builder.kernels.maker.made = made
    return builder.build()


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Expressions are walked recursively; a cubic resize alone is 700 nodes deep."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, RECURSION_LIMIT))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@dataclass(frozen=True)
class _Border:
    """A call to be made, at a place among the items, once it is known what is read of a result."""

    op: Op
    parts: Sequence[Part]
    items: list[Item]
    call: Call


class ProgramBuilder:
    """Lowers one module."""

    def __init__(
        self,
        module: Module,
        target: Target,
        hints: Mapping[str, int],
        fast: frozenset[str],
        chooser: Chooser | None = None,
    ) -> None:
        self.source = module
        self.function = module.main
        self.target = target
        self.hints = dict(hints)
        for name, info in self.function.symbols.items():
            if info.hint is not None:
                self.hints.setdefault(name, info.hint)
            elif isinstance(info.source, (int, Dim)):
                self.hints.setdefault(name, estimate(info.source, self.hints))
        for name, most in highest(self.function).items():
            self.hints.setdefault(name, estimate(most, self.hints))
        assert isinstance(module.constants, ConstantStore)
        self.store = module.constants
        self.program = Module("loop", constants=self.store, source=module.source)
        self.storage = Storage(self.function)
        self.kernels = KernelBuilder(self.program, self.storage, target, self.hints, fast, chooser)
        self.items: list[Item] = []
        self._borders: list[_Border] = []

    def build(self) -> Module:
        with deep_recursion():
            return self._build()

    def _build(self) -> Module:
        for op in self.function.block:
            self._lower_op(op)
        self._finish_outputs()
        self._fill_borders()
        writer = MainWriter(
            self.program, self.function, self.storage, self.kernels.maker.data, self.hints
        )
        writer.write(self.items)
        return self.program

    # -- calls ----------------------------------------------------------------------------------

    def _lower_op(self, op: Op) -> None:
        if is_stored(op) or op.defn.terminator:  # type: ignore[attr-defined]
            return
        if is_control(op):
            self._lower_control(op)
            return
        if isinstance(op.attrs, CheckAttrs):
            self.items.append(Demand(op, self._scalar(op.operands[0])))
            return
        if isinstance(op.attrs, BindAttrs):
            self.items.append(Bound(op, self._scalar(op.operands[0])))
            return
        if len(op.results) == 1 and not self.storage.is_kernel(op.result):
            return
        if op.name in PARTS:
            self._lower_parts(op)
            return
        self._call(self.kernels.group(Group.of(op)), op)

    def _lower_parts(self, op: Op) -> None:
        """Build a concat or pad: what its operands' producers have not written already."""
        parts = PARTS[op.name](op)
        there = [self.storage.is_there(op.operands[p.operand], op.result, p) for p in parts]
        if not parts:
            self._call(self.kernels.group(Group.of(op)), op)
            return
        for part, done in zip(parts, there, strict=True):
            if not done:
                self._call(self.kernels.copy_part(op, part), op)
        if len(parts) == 1:
            call = Call("", [], 0, op)
            self.items.append(call)
            self._borders.append(_Border(op, parts, self.items, call))

    def _fill_borders(self) -> None:
        """Make the calls that fill borders, as far as these are read, or take them out."""
        by_op: dict[Op, list[Call]] = {}
        for call in calls(self.items):
            if call.op is not None:
                by_op.setdefault(call.op, []).append(call)
        for border in self._borders:
            op, call = border.op, border.call
            read = self._read_of(op, by_op)
            step = self.kernels.border(op, border.parts, read)
            if step is None:
                border.items.remove(call)
            else:
                call.kernel, call.args, call.writes = step.kernel, step.places, step.writes

    def _read_of(self, op: Op, by_op: Mapping[Op, Sequence[Call]]) -> list[Span]:
        """What is read of a padded result, for each axis from where to where."""
        place = self.storage.place(op.result)
        whole: list[Span] = [(0, size) for size in shape_of(op.result)]
        if not parts_of_zeros(op) or place.root.value is not op.result:
            return whole
        bands: list[Band] = []
        for user, _ in op.result.uses:
            reads = [call for call in by_op.get(user, ()) if place in call.args[: -call.writes]]
            if user.name in PARTS or is_control(user) or not reads:
                return whole
            for call in reads:
                if call.band is None or call.band.value is not op.result:
                    return whole
                bands.append(call.band)
        if not bands:
            return whole
        return [
            (minimum(*(lo for lo, _ in spans)), maximum(*(hi for _, hi in spans)))
            for spans in zip(*(band.spans for band in bands), strict=True)
        ]

    def _call(self, steps: Sequence[Step], op: Op | None) -> None:
        for step in steps:
            self.items.append(Call(step.kernel, step.places, step.writes, op, step.band))

    # -- control flow ---------------------------------------------------------------------------

    def _lower_control(self, op: Op) -> None:
        if isinstance(op.attrs, LoopAttrs):
            self._lower_loop(op)
            return
        condition = self._scalar(op.operands[0])
        then, otherwise = (self._lower_region(op, region) for region in op.regions)
        self.items.append(Branch(op, condition, (then, otherwise)))

    def _lower_loop(self, op: Op) -> None:
        attrs: LoopAttrs = op.attrs
        parts = split_operands(attrs, op.operands)
        inits = [self._dense(value, op) for value in parts.carried]
        for value in parts.scanned:
            place = self.storage.place(value)
            if is_counted(place.root.value):
                whole = self.storage.place(place.root.value)
                self._call([self.kernels.copy_to(place.root.value, whole)], op)
        memory = self.storage.loop(op)
        for carry, init in zip(memory.carries, inits, strict=True):
            for root in (carry.current, carry.result):
                root.backing.append(init.root)
        body = self._lower_region(op, op.regions[0])
        again = split_yields(attrs, op.regions[0].terminator.operands).again
        limit, start, again = (
            None if value is None else self._scalar(value)
            for value in (parts.limit, parts.start, again)
        )
        self.items.append(Repeat(op, memory, limit, start, again, inits, body))

    def _lower_region(self, op: Op, region: Block) -> list[Item]:
        """Lower a region, and copy what it yields that could not be produced in place."""
        outer, self.items = self.items, []
        for inner in region:
            self._lower_op(inner)
        yields = region.terminator.operands
        done: set[tuple[Root, DimLike]] = set()
        for position in range(first_yield(op), len(yields)):
            to = self.storage.yield_place(op, position)
            place = self.storage.place(yields[position])
            there = (to.root, to.offset)
            if (place.root, place.offset) != there and there not in done:
                self._call([self.kernels.copy_to(yields[position], to)], op)
            done.add(there)
        items, self.items = self.items, outer
        return items

    def _dense(self, value: Value, op: Op) -> Place:
        """The place of a value in row-major order, a copy's where it lies otherwise."""
        if value.op is None or not isinstance(value.op.attrs, DimsAttrs):
            place = self.storage.place(value)
            if is_dense(value, place):
                return place
        shape = shape_of(value)
        place = Place(Root(RootKind.TEMP, value, product(shape)), 0, row_major(shape))
        self._call([self.kernels.copy_to(value, place)], op)
        return place

    def _scalar(self, value: Value) -> Scalar:
        known = value.op is not None and isinstance(value.op.attrs, DimsAttrs)
        return Scalar(value, None if known else self.storage.place(value))

    # -- outputs --------------------------------------------------------------------------------

    def _finish_outputs(self) -> None:
        """Copy the returned values that no kernel could produce in place.

        The memory of inputs is written last, when nothing reads what was in it.
        """
        left = []
        for position, value in enumerate(self.function.outputs):
            place = self.storage.place(value)
            target = self.storage.output_place(value, position)
            if place.root.kind is RootKind.OUTPUT and place.root.position == position:
                continue
            if target.root.kind is not RootKind.INPUT:
                self._call([self.kernels.copy_to(value, target)], None)
            elif place != target:
                left.append((value, target))
        ready = [(self._apart(value), value, target) for value, target in left]
        for source, value, target in ready:
            self._call([self.kernels.copy_to(value, target, source)], None)

    def _apart(self, value: Value) -> Place | None:
        """A place of a value that is none of an input's, or None if it lies so itself."""
        if self.storage.place(value).root.kind is not RootKind.INPUT:
            return None
        shape = shape_of(value)
        place = Place(Root(RootKind.TEMP, value, product(shape)), 0, row_major(shape))
        self._call([self.kernels.copy_to(value, place)], None)
        return place
