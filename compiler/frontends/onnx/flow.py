"""Loop and Scan: their graphs become regions of `loop`. If is in `branches`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tfc.compiler.evaluate import constant_array, is_constant
from tfc.compiler.frontends.onnx.context import Context, Results, Rule
from tfc.compiler.frontends.onnx.nested import Item, alike, leaves, tensor, with_leaves
from tfc.compiler.frontends.onnx.trips import Body, count_rounds
from tfc.ir.build import tensor_type
from tfc.ir.control import Next, Round, Scanned
from tfc.ir.control import loop as build_loop
from tfc.ir.core import Block, Value
from tfc.ir.dims import Dim, DimLike, maximum, minimum, symbols_of
from tfc.ir.errors import UnsupportedError
from tfc.ir.opdef import OPS
from tfc.ir.ops.parts import take_range
from tfc.ir.symbols import bound_by, type_symbols
from tfc.ir.types import BOOL, I64, TensorType

# A loop is written out where carried values change their types, if it has no more rounds.
MAX_UNROLLED = 256
# How many results are stacked at most, where the data decides how many.
MOST_ROUNDS = 1 << 20


# -- regions ------------------------------------------------------------------------------------


@contextmanager
def region(ctx: Context, block: Block) -> Iterator[Block]:
    """Build into `block`; where that fails, nothing in it uses anything any more."""
    try:
        with ctx.b.at(block):
            yield block
    except BaseException:
        block.clear()
        raise


@contextmanager
def assuming(ctx: Context) -> Iterator[dict[DimLike, str]]:
    """Keep apart what is assumed meanwhile, but for what is of dims bound meanwhile."""
    importer = ctx.importer
    before = importer.symbols.count_late()
    importer.assumed, outer = {}, importer.assumed
    found = importer.assumed
    try:
        yield found
    finally:
        importer.assumed = outer
        own = importer.symbols.late_from(before)
        for zero in [zero for zero in found if symbols_of(zero) & own]:
            importer.assumed_inside.setdefault(zero, found.pop(zero))


def _assume_in_rounds(ctx: Context, assumed: Mapping[DimLike, str], trips: DimLike | None) -> None:
    """Assume what the rounds of a loop do, if there are any."""
    some: DimLike = 1 if trips is None else maximum(0, minimum(trips, 1))
    for zero, message in assumed.items():
        dim = zero * some
        if isinstance(dim, Dim):
            ctx.importer.assumed.setdefault(dim, message)


def scalar(ctx: Context, x: Value, what: str) -> Value:
    if tensor_type(x).size != 1:
        raise ctx.malformed(f"{what} is no scalar, but {tensor_type(x)}")
    return ctx.as_scalar(x)


def flat(items: Sequence[Item]) -> list[Value]:
    return [x for item in items for x in leaves(item)]


def _same_types(ctx: Context, one: Sequence[Item], other: Sequence[Item]) -> bool:
    """Whether items have the same types two by two; dims that are mere symbols are made equal."""
    if not all(map(alike, one, other)):
        return False
    for x, y in zip(flat(one), flat(other), strict=True):
        a, b = tensor_type(x), tensor_type(y)
        if a.dtype != b.dtype:
            raise ctx.malformed(f"a value is {a.dtype} on one way and {b.dtype} on the other")
        if a.rank != b.rank:
            return False
        for m, n in zip(a.shape, b.shape, strict=True):
            ctx.equate(m, n)
        if a != b:
            return False
    return True


def _refuse_counted(ctx: Context, block: Block, values: Sequence[Value]) -> None:
    """Refuse to stack values of which a dim was bound in the round."""
    own = {bound_by(op) for op in block}
    for value in values:
        for name in sorted(type_symbols(value.type) & own):
            raise ctx.unsupported(
                f"{value.name or 'a value'} is {value.type} by {name}, "
                "which is known in one round alone"
            )


# -- Loop ---------------------------------------------------------------------------------------


@dataclass
class _Loop:
    """A Loop node: inits are the carried values that change; fixed ones stand for themselves."""

    graph: Any
    limit: Value | None
    start: Value | None
    inits: list[Item]
    # For each carried value: its place in `inits`, or None where no round changes it.
    places: list[int | None]
    given: dict[str, Item] = field(default_factory=dict)

    @property
    def stacked(self) -> int:
        return len(self.graph.output) - 1 - len(self.places)


def _loop(ctx: Context) -> Results:
    loop = _read_loop(ctx)
    limit = None if loop.limit is None else ctx.dims_or_none(0)
    most = None if limit is None else maximum(limit[0], 0)
    starts = True if loop.start is None else _truth(ctx, loop.start)
    if starts is False:
        most = 0
    try:
        types = [TensorType(I64, ()), *map(tensor_type, flat(loop.inits))]
        with assuming(ctx) as assumed, region(ctx, Block(types)) as block:
            args = iter(block.args[1:])
            carried = [with_leaves(item, args) for item in loop.inits]
            values = _round(ctx, loop, block.args[0], carried)
            again = scalar(ctx, tensor(values[0]), "the condition")
            following, stacked = _split(loop, values)
            fits = _same_types(ctx, loop.inits, following)
            _refuse_counted(ctx, block, stacked)
    except UnsupportedError:
        # A round whose number is known may be possible.
        _want_count(ctx, loop)
        if starts is not True or not isinstance(most, int) or most > MAX_UNROLLED:
            raise
        return _unrolled(ctx, loop, most)
    endless = starts is True and _truth(ctx, again) is True
    bound = most
    if starts is True and not endless and (most is None or isinstance(most, int)):
        rounds = None
        if fits:
            body = Body(block, block.args[1:], again, flat(following))
            rounds = count_rounds(body, flat(loop.inits), most, ctx.b.constants)
        if rounds is not None:
            bound = rounds
            # A limit that is read while it runs may end it sooner.
            if most is not None or loop.limit is None:
                most, endless = rounds, True
    conditional = not (endless or starts is False)
    if not conditional and most is None and loop.limit is None:
        block.clear()
        raise ctx.malformed("nothing ends the loop")
    trips = None if conditional else most
    few = isinstance(trips, int) and trips <= MAX_UNROLLED
    # Written out, a round knows its number, and often the dims that it would have to bind.
    if not fits or (few and any(bound_by(op) is not None for op in block)):
        block.clear()
        return _unrolled(ctx, loop, trips)
    fixed = not conditional and trips is not None and (limit is not None or starts is False)
    early = False
    if stacked and trips is None:
        trips = _announced(ctx, len(loop.places))
        if trips is None:
            trips = _bound(ctx, loop, bound)
            early, fixed = conditional, not conditional
    _assume_in_rounds(ctx, assumed, trips)
    form = _Form(trips, loop.limit is not None and not fixed, conditional, early)
    return _emit(ctx, loop, block, (again, flat(following), stacked), form)


def _want_count(ctx: Context, loop: _Loop) -> None:
    """Note that it would help to know how often the loop runs."""
    for value in (loop.limit, loop.start):
        if value is not None:
            ctx.importer.want(value)


def _read_loop(ctx: Context) -> _Loop:
    graph = ctx.graph("body")
    carried = [ctx.item(i) for i in range(2, ctx.count)]
    if len(graph.input) != 2 + len(carried) or len(graph.output) < 1 + len(carried):
        raise ctx.malformed(
            f"a body of {len(graph.input)} inputs and {len(graph.output)} outputs "
            f"for {len(carried)} carried values"
        )
    limit = scalar(ctx, ctx.x(0), "the limit") if ctx.has(0) else None
    start = scalar(ctx, ctx.x(1), "the condition") if ctx.has(1) else None
    if limit is not None:
        limit = ctx.cast(limit, I64)
    loop = _Loop(graph, limit, start, [], [])
    same = _passed_through(graph)
    for proto, output, value in zip(graph.input[2:], graph.output[1:], carried, strict=False):
        if same.get(output.name) == proto.name:
            loop.given[proto.name] = value
            loop.places.append(None)
        else:
            loop.places.append(len(loop.inits))
            loop.inits.append(value)
    return loop


def _passed_through(graph: Any) -> dict[str, str]:
    """The outputs of a graph that are inputs of it, under the inputs' names."""
    source = {proto.name: proto.name for proto in graph.input}
    for node in graph.node:
        if node.op_type != "Identity" or not (node.input and node.output):
            continue
        if node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
    return {proto.name: source[proto.name] for proto in graph.output if proto.name in source}


def _truth(ctx: Context, x: Value) -> bool | None:
    """The truth of a constant scalar, else None."""
    return bool(constant_array(x, ctx.b.constants).all()) if is_constant(x) else None


def _round(ctx: Context, loop: _Loop, number: Value, carried: Sequence[Item]) -> list[Item]:
    """Compute one round's body; in it the condition is true."""
    first, condition, *protos = loop.graph.input
    given: dict[str, Item] = dict(loop.given)
    given[first.name] = _declared(ctx, number, first)
    given[condition.name] = _declared(ctx, ctx.b.constant(True, BOOL), condition)
    for proto, place in zip(protos, loop.places, strict=True):
        if place is not None:
            given[proto.name] = carried[place]
    with ctx.importer.in_round(number):
        return ctx.importer.inline(loop.graph, given)


def _declared(ctx: Context, x: Value, proto: Any) -> Value:
    """A scalar in the rank that an input of one element is declared in."""
    return ctx.reshape(x, (1,) * len(proto.type.tensor_type.shape.dim))


def _split(loop: _Loop, values: Sequence[Item]) -> tuple[list[Item], list[Value]]:
    """What the rounds change of a body's outputs, and what is stacked."""
    count = len(loop.places)
    carried = values[1 : 1 + count]
    following = [x for x, place in zip(carried, loop.places, strict=True) if place is not None]
    return following, [tensor(item) for item in values[1 + count :]]


def _announced(ctx: Context, carried: int) -> int | None:
    """The rounds that the declared shape of a stacked result stands for, if it does."""
    for name in list(ctx.node.output)[carried:]:
        shape = ctx.importer.declared(name) if name else None
        if shape and shape[0] is not None:
            return shape[0]
    return None


def _bound(ctx: Context, loop: _Loop, most: DimLike | None) -> DimLike:
    """The most rounds that there can be, for which stacks need room."""
    if most is None and loop.limit is not None:
        held = ctx.held(0, signed=True)
        most = None if held is None else ctx.define(maximum(held[0], 0), "rounds")
    if most is None:
        _want_count(ctx, loop)
        raise ctx.unsupported(
            "how often it runs depends on the data, and so would a result's shape; a limit that "
            "is a number or an input is supported"
        )
    if isinstance(most, int) and most > MOST_ROUNDS:
        raise ctx.unsupported(f"it may stack {most} results; up to {MOST_ROUNDS} are taken")
    return most


@dataclass(frozen=True)
class _Form:
    """How a loop ends, as `LoopAttrs` has it."""

    trips: DimLike | None
    limited: bool
    conditional: bool
    early: bool


def _emit(
    ctx: Context,
    loop: _Loop,
    block: Block,
    yields: tuple[Value, list[Value], list[Value]],
    form: _Form,
) -> Results:
    again, following, stacked = yields
    heads: list[Value] = []
    if form.limited:
        assert loop.limit is not None
        heads.append(loop.limit)
    if form.conditional:
        start = ctx.b.constant(True, BOOL) if loop.start is None else loop.start
        heads.append(start)
    counter: list[Value] = []
    if form.early:
        counter = [ctx.b.constant(0, I64)]
        block.add_arg(TensorType(I64, ()))
    with ctx.b.at(block):
        count = [ctx.b.add(block.args[0], ctx.b.constant(1, I64))] if form.early else []
        ctx.b.op("yield", *([again] if form.conditional else []), *following, *count, *stacked)
    attrs = OPS["loop"].attrs(
        trips=form.trips,
        limited=form.limited,
        conditional=form.conditional,
        stacked=(False,) * len(stacked),
        early=form.early,
    )
    operands = (*heads, *flat(loop.inits), *counter)
    results = iter(ctx.b.emit(OPS["loop"], operands, attrs, [block]).results)
    changed = [with_leaves(item, results) for item in loop.inits]
    stacks = _made(ctx, next(results), list(results), form) if form.early else list(results)
    return [*_carried(ctx, loop, changed), *stacks]


def _made(ctx: Context, rounds: Value, stacks: Sequence[Value], form: _Form) -> list[Value]:
    """The rows of stacks that rounds have made."""
    assert form.trips is not None
    if form.trips == 0:
        return list(stacks)
    count = ctx.bind(rounds, form.trips, f"{ctx.node.name or ctx.node.output[-1]}_rounds")
    return [take_range(ctx.b, x, 0, 0, count) for x in stacks]


def _carried(ctx: Context, loop: _Loop, changed: Sequence[Item]) -> list[Item]:
    """What the node hands out of its carried values: those that no round changes as they were."""
    return [
        ctx.item(2 + i) if place is None else changed[place] for i, place in enumerate(loop.places)
    ]


def _unrolled(ctx: Context, loop: _Loop, trips: DimLike | None) -> Results:
    """Write out every round: what it computes has other types each time."""
    what = "a carried value changes its shape, or how many tensors it has, from round to round"
    if not isinstance(trips, int):
        _want_count(ctx, loop)
        raise ctx.unsupported(f"{what}, and how often it runs is not known")
    if trips > MAX_UNROLLED:
        raise ctx.unsupported(f"{what}, and it runs {trips} times; up to {MAX_UNROLLED} are taken")
    carried: Sequence[Item] = loop.inits
    rows = []
    for i in range(trips):
        values = _round(ctx, loop, ctx.b.constant(i, I64), carried)
        carried, row = _split(loop, values)
        rows.append(row)
        more = _truth(ctx, tensor(values[0]))
        if more is None:
            raise ctx.unsupported("a round changes shapes, and the data decides how often it runs")
        if not more:
            break
    results = _carried(ctx, loop, carried)
    for column in zip(*rows, strict=True):
        parts = [ctx.b.reshape(x, shape=(1, *tensor_type(x).shape)) for x in column]
        results.append(ctx.b.concat(*parts, axis=0) if len(parts) > 1 else parts[0])
    return results


# -- Scan ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scan:
    """A Scan node without its batch: axes and directions of what is taken apart and stacked."""

    graph: Any
    states: int
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    in_backward: tuple[bool, ...]
    out_backward: tuple[bool, ...]

    def run(
        self,
        ctx: Context,
        states: Sequence[Value],
        inputs: Sequence[Value],
        length: Value | None = None,
    ) -> list[Value]:
        """Build the loop; results are the last states and the stacks.

        length: after how many rounds states stay as they are, and rows of stacks are 0.
        """
        rows = [_to_front(ctx, x, axis) for x, axis in zip(inputs, self.in_axes, strict=True)]
        trips = tensor_type(rows[0]).shape[0]
        rows = [ctx.fit_axis(row, 0, trips) for row in rows]
        names = [proto.name for proto in self.graph.input]

        def body(r: Round) -> Next:
            given = dict(zip(names, (*r.carried, *r.slices), strict=True))
            with ctx.importer.in_round(r.number):
                values = [tensor(item) for item in ctx.importer.inline(self.graph, given)]
            if not _same_types(ctx, states, values[: self.states]):
                raise ctx.unsupported("a state changes its shape from round to round")
            if length is not None:
                zeros = [ctx.scalar(0, x) for x in values[self.states :]]
                inside = ctx.b.lt(r.number, length)
                values = [
                    ctx.b.select(inside, x, old)
                    for x, old in zip(values, (*r.carried, *zeros), strict=True)
                ]
            return Next(values[: self.states], values[self.states :])

        scanned = [Scanned(x, back) for x, back in zip(rows, self.in_backward, strict=True)]
        with assuming(ctx) as assumed:
            found = build_loop(
                ctx.b, body, states, scanned, backward=self.out_backward, trips=trips
            )
        _assume_in_rounds(ctx, assumed, trips)
        stacks = zip(found.stacked, self.out_axes, strict=True)
        return [*found.carried, *(_from_front(ctx, x, axis) for x, axis in stacks)]


def _to_front(ctx: Context, x: Value, axis: int) -> Value:
    rank = tensor_type(x).rank
    axis = ctx.axis(axis, rank)
    if axis == 0:
        return x
    found: Value = ctx.b.transpose(x, perm=(axis, *(i for i in range(rank) if i != axis)))
    return found


def _from_front(ctx: Context, x: Value, axis: int) -> Value:
    rank = tensor_type(x).rank
    axis = ctx.axis(axis, rank)
    if axis == 0:
        return x
    order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
    found: Value = ctx.b.transpose(x, perm=tuple(order))
    return found


def _scan(ctx: Context) -> Results:
    graph = ctx.graph("body")
    count = ctx.integer("num_scan_inputs")
    states = ctx.count - count
    stacks = len(graph.output) - states
    if not 0 < count <= ctx.count or len(graph.input) != ctx.count or stacks < 0:
        raise ctx.malformed(f"{count} of {ctx.count} operands for {len(graph.input)} inputs")

    def numbers(name: str, length: int) -> tuple[int, ...]:
        found = ctx.integers(name)
        if found is not None and len(found) != length:
            raise ctx.malformed(f"{name} has {len(found)} entries, not {length}")
        return found or (0,) * length

    scan = _Scan(
        graph,
        states,
        numbers("scan_input_axes", count),
        numbers("scan_output_axes", stacks),
        tuple(bool(n) for n in numbers("scan_input_directions", count)),
        tuple(bool(n) for n in numbers("scan_output_directions", stacks)),
    )
    operands = ctx.operands()
    return scan.run(ctx, operands[:states], operands[states:])


def _batched_scan(ctx: Context) -> Results:
    """Opset 8: a batch of sequences, each on its own."""
    graph = ctx.graph("body")
    count = ctx.integer("num_scan_inputs")
    directions = ctx.integers("directions") or (0,) * count
    lengths = ctx.optional(0)
    if lengths is not None and any(directions):
        raise ctx.unsupported("sequence lengths of what is scanned from the end")
    operands = [ctx.x(i) for i in range(1, ctx.count)]
    states = len(operands) - count
    stacks = len(graph.output) - states
    if not 0 < count <= len(operands) or len(directions) != count or stacks < 0:
        raise ctx.malformed(f"{count} of {len(operands)} operands are scanned")
    backward = tuple(bool(n) for n in directions)
    scan = _Scan(graph, states, (0,) * count, (0,) * stacks, backward, (False,) * stacks)

    def each(r: Round) -> Next:
        inputs = r.slices[states : states + count]
        length = None if lengths is None else r.slices[-1]
        with ctx.importer.in_round(r.number):
            return Next((), scan.run(ctx, r.slices[:states], inputs, length))

    batch = tensor_type(operands[0]).shape[0]
    if lengths is not None:
        operands.append(ctx.fit(lengths, (batch,)))
    with assuming(ctx) as assumed:
        found = build_loop(
            ctx.b,
            each,
            scanned=[Scanned(x) for x in operands],
            backward=(False,) * len(graph.output),
            trips=batch,
        )
    _assume_in_rounds(ctx, assumed, batch)
    return found.stacked


RULES: dict[str, tuple[Rule, ...]] = {
    "Loop": (Rule(_loop),),
    "Scan": (Rule(_batched_scan), Rule(_scan, since=9)),
}
