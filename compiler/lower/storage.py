"""Where each graph value lives: a root buffer, an offset and strides; no data is moved here.

Views share their operand's root. Operands of `concat` and of a zero `pad` are produced inside
the result's memory. A value that is returned is produced in the output's buffer, one that a region
yields where the op that holds the region wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tfc.compiler.evaluate import is_stored
from tfc.compiler.lower.compose import Access, Composer
from tfc.compiler.lower.inplace import InPlace
from tfc.ir.body import Iter, Load
from tfc.ir.core import Block, Function, Op, Value
from tfc.ir.dims import (
    Dim,
    DimLike,
    Interval,
    bounds,
    coefficient,
    merge_divmod,
    product,
    substitute,
    symbol,
    symbols_of,
)
from tfc.ir.opdef import Trait
from tfc.ir.ops.const import DimsAttrs
from tfc.ir.ops.flow import CheckAttrs, LoopAttrs, split_operands, split_yields
from tfc.ir.symbols import run_time_symbols
from tfc.ir.types import TensorType, row_major

# How the names of symbols begin that stand for the number of a loop's round. Shape symbols are
# identifiers.
STEP = "step:"
# Bytes behind tensors of bytes, so that a group of them can be read where fewer are left.
SPARE = 3


class RootKind(Enum):
    INPUT = "input"
    OUTPUT = "output"
    CONSTANT = "constant"
    TEMP = "temp"
    POINTER = "pointer"


@dataclass(eq=False)
class Root:
    """A buffer: `size` elements. `value` is the graph value that defines its extent.

    backing: of a pointer, which only the run sets, the roots whose memory it may point into.
    spare: of the elements those behind the last one of `value`, which may be read.
    """

    kind: RootKind
    value: Value
    size: DimLike
    position: int = 0
    backing: list[Root] = field(default_factory=list)
    spare: int = 0


@dataclass(frozen=True)
class Place:
    """A value's memory: element index is at offset + lead + sum(index * strides) in the root.

    lead: how far the first element is behind the lowest, where axes run backwards.
    """

    root: Root
    offset: DimLike
    strides: tuple[DimLike, ...]
    lead: DimLike = 0

    @property
    def moves(self) -> bool:
        """Whether the offset is another in each round of a loop."""
        return any(name.startswith(STEP) for name in symbols_of(self.offset))


@dataclass(eq=False)
class Carry:
    """The memory of one value that a loop carries.

    The region reads `current` and writes the next value to `following`, which then becomes
    `current`: two buffers by turns, or the element of stacked result `stacked`, where that is the
    same value. The first `current` is the operand's own memory; `result` is the last one.
    """

    current: Root
    following: Root
    result: Root
    buffers: tuple[Root, Root] | None
    stacked: int | None


@dataclass(eq=False)
class LoopMemory:
    """The memory of a loop: `index` holds the round's number, which dims call `step`."""

    step: str
    index: Root
    carries: list[Carry]


@dataclass(frozen=True)
class Part:
    """Where in a result's index space an operand's elements stand."""

    operand: int
    starts: tuple[DimLike, ...]


def shape_of(value: Value) -> tuple[DimLike, ...]:
    assert isinstance(value.type, TensorType)
    return value.type.shape


def is_counted(value: Value) -> bool:
    """Whether the value is of dims that a loop takes apart, so that a run has to write them."""
    return value.op is not None and isinstance(value.op.attrs, DimsAttrs) and _is_taken_apart(value)


def first_yield(op: Op) -> int:
    """Where results begin among what a region yields: behind a loop's condition, if it has one."""
    return int(isinstance(op.attrs, LoopAttrs) and op.attrs.conditional)


def _is_taken_apart(value: Value) -> bool:
    for op, _ in value.uses:
        if (
            isinstance(op.attrs, LoopAttrs)
            and value in split_operands(op.attrs, op.operands).scanned
        ):
            return True
        if _may_view(op) and _is_taken_apart(op.result):
            return True
    return False


def is_control(op: Op) -> bool:
    """Whether the op becomes branches or loops around what is in its regions."""
    return op.defn.infer_regions is not None  # type: ignore[attr-defined]


def is_dense(value: Value, place: Place) -> bool:
    """Whether a value lies row-major without gaps."""
    shape = shape_of(value)
    wanted = row_major(shape)
    same = all(n == 1 or a == b for n, a, b in zip(shape, place.strides, wanted, strict=True))
    return same and place.lead == 0


def storage_strides(value: Value) -> tuple[tuple[DimLike, ...], DimLike]:
    """The strides and the size of a value's own buffer, by its encoding."""
    shape = shape_of(value)
    if value.encoding is None:
        return row_major(shape), product(shape)
    perm = value.encoding.perm
    steps = row_major(tuple(shape[axis] for axis in perm))
    strides: list[DimLike] = [0] * len(shape)
    for axis, step in zip(perm, steps, strict=True):
        strides[axis] = step
    return tuple(strides), product(shape)


def _concat_parts(op: Op) -> list[Part]:
    axis = op.attrs.axis
    parts, start = [], 0
    for position, operand in enumerate(op.operands):
        shape = shape_of(operand)
        starts: list[DimLike] = [0] * len(shape)
        starts[axis] = start
        parts.append(Part(position, tuple(starts)))
        start = start + shape[axis]
    return parts


def _pad_parts(op: Op) -> list[Part]:
    sides = (*op.attrs.lo, *op.attrs.hi)
    if op.attrs.mode != "constant" or any(not isinstance(n, int) or n < 0 for n in sides):
        return []
    return [Part(0, tuple(op.attrs.lo))]


def parts_of_zeros(op: Op) -> list[Part]:
    """Where the operand of an op that puts zeros around it stands, none of other ops."""
    return _pad_parts(op) if op.name == "pad" and len(op.operands) == 1 else []


# The ops whose operands can be produced inside the result.
PARTS: dict[str, Callable[[Op], list[Part]]] = {"concat": _concat_parts, "pad": _pad_parts}


class Storage:
    """Decides the place of every value of a function."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.in_place = InPlace(function)
        self.inside: dict[Value, tuple[Value, Part]] = {}
        self.direct: dict[Value, int] = {}
        self.into: dict[Value, tuple[Op, int]] = {}
        self._loops: dict[Op, LoopMemory] = {}
        self._places: dict[Value, Place] = {}
        self._views: dict[Value, Place | None] = {}
        self._order: dict[Op, int] = {}
        self._bound_at: dict[str, int] = {}
        self._number_ops()
        self._assign()

    def is_kernel(self, value: Value) -> bool:
        """Whether `value` is computed by a kernel, as opposed to a view, constant or input."""
        op = value.op
        if op is None or is_stored(op):
            return False
        return self.view(value) is None

    # -- who is produced inside whom ------------------------------------------------------------

    def _assign(self) -> None:
        returned = list(enumerate(self.function.outputs))
        # What belongs in an input's memory gets there first, if it is returned twice.
        for position, value in sorted(returned, key=lambda each: not self._is_shared(each[0])):
            source = self._through_reshapes(value)
            if source is None or source in self.direct:
                continue
            if not self._is_shared(position) or self._may_replace(position, source, value):
                self.direct[source] = position
        self._assign_block(self.function.block)

    def _is_shared(self, position: int) -> bool:
        return position in self.in_place.by_output

    def _may_replace(self, position: int, source: Value, output: Value) -> bool:
        """Whether an output's source may be produced in the memory of the input that it shares."""
        one = self.in_place.by_output[position]
        if source is not output and one.axis >= 0:
            return False
        kept, op = self.in_place.kept(one), source.op
        if op is None or is_control(op):
            return False
        if op.name in PARTS:
            parts = [p for p in PARTS[op.name](op) if op.operands[p.operand] is kept]
            return len(parts) == 1 and not any(parts[0].starts)
        return self.in_place.allows(
            one, source, lambda op: _may_view(op) or isinstance(op.attrs, CheckAttrs)
        )

    def is_there(self, operand: Value, whole: Value, part: Part) -> bool:
        """Whether an operand lies where its part of the result is, without a copy."""
        if self.inside.get(operand) == (whole, part):
            return True
        return operand.op is None and self.place(operand) == self._part_place(whole, part)

    def _part_place(self, whole: Value, part: Part) -> Place:
        around = self.place(whole)
        offset = around.offset
        for start, stride in zip(part.starts, around.strides, strict=True):
            offset = offset + start * stride
        return Place(around.root, offset, around.strides, around.lead)

    def _assign_block(self, block: Block) -> None:
        for op in reversed(block):
            if is_control(op):
                for region in op.regions:
                    self._assign_yields(op, region)
                    self._assign_block(region)
            if op.name not in PARTS or (op.result.encoding is not None and not op.result.uses):
                continue
            for part in PARTS[op.name](op):
                operand = op.operands[part.operand]
                if not self._free(operand) or operand.op is None or operand.op.block is not block:
                    continue
                if self._is_known_at(op.result, operand.op):
                    self.inside[operand] = (op.result, part)

    def _number_ops(self) -> None:
        """Note where symbols are bound, if the run binds any."""
        bound = run_time_symbols(self.function)
        if bound:
            self._order = {op: at for at, op in enumerate(self.function.block.walk())}
            self._bound_at = {name: self._order[op] for name, op in bound.items()}

    def _is_known_at(self, whole: Value, op: Op) -> bool:
        """Whether the memory that `whole` lies in can be spoken of where `op` is."""
        if not self._bound_at:
            return True
        while True:
            named = {name for dim in shape_of(whole) for name in symbols_of(dim)}
            late = named & self._bound_at.keys()
            if any(self._bound_at[name] > self._order[op] for name in late):
                return False
            if whole not in self.inside:
                return True
            whole, _ = self.inside[whole]

    def _assign_yields(self, op: Op, region: Block) -> None:
        """Have what a region yields produced in place. A stack comes before a carried value."""
        yields = region.terminator.operands
        first = first_yield(op)
        for position in reversed(range(first, len(yields))):
            source = self._through_reshapes(yields[position])
            if source is None or source.op is None or source.op.block is not region:
                continue
            self.into[source] = (op, position)

    def _free(self, value: Value) -> bool:
        """Whether the value's producer can write wherever it is told to."""
        op = value.op
        if op is None or self._is_placed(value) or is_stored(op) or is_control(op):
            return False
        if isinstance(op.attrs, CheckAttrs):
            return False
        own_loops = op.defn.loops is not None  # type: ignore[attr-defined]
        return (len(op.results) == 1 or own_loops) and not _may_view(op)

    def _is_placed(self, value: Value) -> bool:
        return value in self.inside or value in self.direct or value in self.into

    def _may_be_given(self, value: Value) -> bool:
        """Whether the value is a result of control flow that can be told where it lies, densely."""
        op = value.op
        if op is None or not is_control(op) or self._is_placed(value):
            return False
        return not isinstance(op.attrs, LoopAttrs) or value.index >= _carried(op)

    def _through_reshapes(self, value: Value) -> Value | None:
        """The kernel result whose row-major memory `value` is, looking through reshapes."""
        while value.op is not None and _may_view(value.op):
            source = value.op.operands[0]
            if not _keeps_order(value.op):
                return None
            value = source
        free = self._free(value) or self._may_be_given(value)
        return value if free and value.encoding is None else None

    # -- places ---------------------------------------------------------------------------------

    def place(self, value: Value) -> Place:
        known = self._places.get(value)
        if known is None:
            known = self._places[value] = self._place(value)
        return known

    def _place(self, value: Value) -> Place:
        if value in self.direct:
            return self.output_place(value, self.direct[value])
        if value in self.into:
            target = self.yield_place(*self.into[value])
            return Place(target.root, target.offset, storage_strides(value)[0])
        if value in self.inside:
            return self._part_place(*self.inside[value])
        if value.op is None:
            assert isinstance(value.owner, Block)
            holder = value.owner.parent
            if isinstance(holder, Op):
                return self._argument(holder, value)
            shape = shape_of(value)
            shared = self.in_place.by_input.get(value.index)
            around = shape if shared is None else shared.shape(shape)
            return Place(Root(RootKind.INPUT, value, product(around), value.index), 0,
                         row_major(around))  # fmt: skip
        if isinstance(value.op.attrs, LoopAttrs) and value.index < _carried(value.op):
            return _whole(self.loop(value.op).carries[value.index].result)
        if isinstance(value.op.attrs, CheckAttrs):
            return self.place(value.op.operands[1])
        viewed = self.view(value)
        if viewed is not None:
            return viewed
        strides, size = storage_strides(value)
        if is_stored(value.op) and not is_counted(value):
            return Place(Root(RootKind.CONSTANT, value, size), 0, strides)
        assert isinstance(value.type, TensorType)
        spare = SPARE if value.type.dtype.bits == 8 else 0
        return Place(Root(RootKind.TEMP, value, size + spare, spare=spare), 0, strides)

    def output_place(self, value: Value, position: int) -> Place:
        """Where output `position` belongs, as `value`, which is it or has the same elements."""
        shared = self.in_place.by_output.get(position)
        shape = shape_of(value)
        if shared is None:
            return _whole(Root(RootKind.OUTPUT, value, product(shape), position))
        root = self.place(self.in_place.kept(shared)).root
        return Place(root, 0, row_major(shared.shape(shape)))

    # -- regions --------------------------------------------------------------------------------

    def loop(self, op: Op) -> LoopMemory:
        """The memory of a loop, beside that of its stacked results."""
        known = self._loops.get(op)
        if known is None:
            known = self._loops[op] = self._loop(op, op.attrs)
        return known

    def _loop(self, op: Op, attrs: LoopAttrs) -> LoopMemory:
        yields = split_yields(attrs, op.regions[0].terminator.operands)
        carried = op.results[: len(yields.carried)]
        carries = []
        for result, value in zip(carried, yields.carried, strict=True):
            stacked = yields.stacked.index(value) if value in yields.stacked else None
            current, following, last = (_root(RootKind.POINTER, result) for _ in range(3))
            buffers = None
            if stacked is None:
                buffers = _root(RootKind.TEMP, result), _root(RootKind.TEMP, result)
                behind = list(buffers)
            else:
                behind = [self.place(op.results[len(carried) + stacked]).root]
            for root in (current, following, last):
                root.backing += behind
            carries.append(Carry(current, following, last, buffers, stacked))
        index = Root(RootKind.TEMP, op.regions[0].args[0], 1)
        return LoopMemory(f"{STEP}{len(self._loops)}", index, carries)

    def yield_place(self, op: Op, position: int) -> Place:
        """Where a region's yielded value at `position` belongs: dense, row-major memory."""
        if not isinstance(op.attrs, LoopAttrs):
            return self.place(op.results[position])
        memory, attrs = self.loop(op), op.attrs
        position -= int(attrs.conditional)
        stacked = position - len(memory.carries)
        if stacked < 0:
            carry = memory.carries[position]
            if carry.stacked is None:
                return _whole(carry.following)
            stacked = carry.stacked
        whole = op.results[len(memory.carries) + stacked]
        return self._slice(op, whole, attrs.stacked[stacked])

    def _argument(self, op: Op, arg: Value) -> Place:
        """The place of a region's argument."""
        memory, attrs = self.loop(op), op.attrs
        if arg.index == 0:
            return Place(memory.index, 0, ())
        position = arg.index - 1
        if position < len(memory.carries):
            return _whole(memory.carries[position].current)
        position -= len(memory.carries)
        parts = split_operands(attrs, op.operands)
        return self._slice(op, parts.scanned[position], attrs.scanned[position])

    def _slice(self, op: Op, whole: Value, backward: bool) -> Place:
        """Where in `whole` the elements of the loop's present round lie."""
        place = self.place(whole)
        last = shape_of(whole)[0] - 1
        step = symbol(self.loop(op).step)
        at = last - step if backward else step
        stride = place.strides[0]
        lead = -stride * last if isinstance(stride, int) and stride < 0 else 0
        offset = place.offset + lead + at * stride
        return Place(place.root, offset, place.strides[1:], place.lead - lead)

    def view(self, value: Value) -> Place | None:
        """The place of a value that is its operand's memory under other strides."""
        if value not in self._views:
            op = value.op
            mine = op is not None and _may_view(op)
            self._views[value] = self._view(value) if mine else None
        return self._views[value]

    def _view(self, value: Value) -> Place | None:
        op = value.op
        assert op is not None
        source = self.place(op.operands[0])
        access = Access(source.strides, source.offset + source.lead)
        composer = Composer({op}, {}, lambda _: access, {})
        iters = index_iters(shape_of(value), composer)
        env: dict[str, Interval] = {it.name: it.interval for it in iters}
        element = composer.element(value, tuple(0 if it.extent == 1 else it.dim for it in iters))
        if not isinstance(element, Load) or len(element.index) != 1:
            return None
        address = element.index[0]
        assert isinstance(address, (int, Dim))
        address = merge_divmod(substitute(address, {it.name: it.dim for it in iters}, env))
        strides: list[DimLike] = []
        for it in iters:
            step = coefficient(address, it.name)
            if step is None:
                return None
            strides.append(step)
            address = substitute(address, {it.name: 0})
        if symbols_of(address) & env.keys():
            return None
        lead: DimLike = 0
        for it, step in zip(iters, strides, strict=True):
            _, most = bounds(step, {})
            if most is not None and most <= 0:
                lead = lead - step * (it.extent - 1)
        return Place(source.root, address - lead, tuple(strides), lead)


def _carried(op: Op) -> int:
    """How many values a loop carries: its first results."""
    return len(op.results) - len(op.attrs.stacked)


def _root(kind: RootKind, value: Value) -> Root:
    return Root(kind, value, product(shape_of(value)))


def _whole(root: Root) -> Place:
    return Place(root, 0, row_major(shape_of(root.value)))


def index_iters(shape: Sequence[DimLike], composer: Composer) -> list[Iter]:
    """A fresh iterator for each axis."""
    return [composer.iter(extent, "i") for extent in shape]


def _may_view(op: Op) -> bool:
    return Trait.VIEW in op.defn.traits  # type: ignore[attr-defined]


def _keeps_order(op: Op) -> bool:
    """Whether a view op keeps the row-major order of all elements, as reshape does."""
    if product(shape_of(op.operands[0])) != product(shape_of(op.result)):
        return False
    dense = row_major(shape_of(op.operands[0]))
    composer = Composer({op}, {}, lambda _: Access(dense), {})
    iters = index_iters(shape_of(op.result), composer)
    env: dict[str, Interval] = {it.name: it.interval for it in iters}
    element = composer.element(op.result, tuple(it.dim for it in iters))
    if not isinstance(element, Load) or len(element.index) != 1:
        return False
    address = element.index[0]
    assert isinstance(address, (int, Dim))
    address = merge_divmod(substitute(address, {it.name: it.dim for it in iters}, env))
    wanted: DimLike = 0
    for it, step in zip(iters, row_major(shape_of(op.result)), strict=True):
        wanted = wanted + (it.dim * step if it.extent != 1 else 0)
        if it.extent == 1:
            address = substitute(address, {it.name: 0})
    return address == wanted
