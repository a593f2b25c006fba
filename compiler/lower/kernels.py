"""Makes kernels: composes a group, normalises it, picks a schedule, and emits it once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tfc.compiler.cost.choice import Candidate, Chooser, Site, best_first
from tfc.compiler.cost.expression import estimate
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.lower import (
    attention,
    coarse,
    contract,
    contract_blocked,
    fast,
    narrow,
    staging,
    tiles,
    tiles_copied,
    transposed,
    window,
    window_dots,
)
from tfc.compiler.lower.attention_kernel import AttentionSchedule
from tfc.compiler.lower.attention_kernel import Memory as AttentionMemory
from tfc.compiler.lower.compose import Access, Composer, Nest, Output
from tfc.compiler.lower.contract_blocked import BlockedSchedule
from tfc.compiler.lower.contract_kernel import ContractionSchedule, Dots
from tfc.compiler.lower.data import Array, DataTable
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.fingerprint import code_fingerprint, fingerprint, key_of
from tfc.compiler.lower.nest import NestSchedule
from tfc.compiler.lower.normal import normalise, reductions
from tfc.compiler.lower.plan import Plan, Planner
from tfc.compiler.lower.planes import FAST, Memory
from tfc.compiler.lower.quotients import without_division
from tfc.compiler.lower.relayout import (
    Relayout,
    follow_reduction,
    order_reductions,
    plan_relayout,
)
from tfc.compiler.lower.roundtrip import keep_floats
from tfc.compiler.lower.storage import (
    Part,
    Place,
    Root,
    RootKind,
    Storage,
    index_iters,
    shape_of,
)
from tfc.compiler.lower.tiles_kernel import TileSchedule
from tfc.compiler.lower.window_dots import DotWindowSchedule
from tfc.compiler.target import Target
from tfc.ir.body import Expr, Load, Number, rewrite, walk
from tfc.ir.core import Block, Function, Module, Op, Value
from tfc.ir.dims import DimLike, symbol, symbols_of
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.kernel import Memory as OwnMemory
from tfc.ir.loop.kernel import write_kernel
from tfc.ir.loop.nodes import ALIASED
from tfc.ir.loop.verify import THREADS
from tfc.ir.opdef import Trait
from tfc.ir.symbols import dims_in
from tfc.ir.types import F32, BufferType, DType, TensorType, row_major


@dataclass(frozen=True)
class Group:
    """The ops of one kernel: their outer operands and the value they compute."""

    name: str
    ops: tuple[Op, ...]
    outer: Mapping[Value, Value]
    results: tuple[tuple[Value, Value], ...]

    @staticmethod
    def of(op: Op) -> Group:
        """The group of a `fused` op, or of a single op. results: (value inside, value outside)."""
        if op.name != "fused":
            pairs = tuple((result, result) for result in op.results)
            return Group(op.name, (op,), {}, pairs)
        (region,) = op.regions
        outer = dict(zip(region.args, op.operands, strict=True))
        inner = tuple(o for o in region if not o.defn.terminator)  # type: ignore[attr-defined]
        pairs = tuple(zip(region.terminator.operands, op.results, strict=True))
        kinds = [o.name for o in inner if o.name not in ("constant", "dims")]
        return Group("_".join(dict.fromkeys(kinds)) or "copy", inner, outer, pairs)


AnyTiles: TypeAlias = "tiles.TilePlan | tiles_copied.CopyPlan"
Made = Callable[[Module, Function], None]


@dataclass(frozen=True)
class Step:
    """A call to make: kernel name, the places of its arguments, how many of them it writes."""

    kernel: str
    places: list[Place]
    writes: int = 1


class KernelBuilder:
    """Makes the kernels of one program; equal kernels are made once.

    fast: the algorithms of `planes.FAST` that may be used; they round more.
    chooser: decides among candidates.
    made: called with the program and each new kernel of it, which does not change any more.
    """

    def __init__(
        self,
        program: Module,
        storage: Storage,
        target: Target,
        hints: Mapping[str, int],
        fast: frozenset[str] = FAST,
        chooser: Chooser | None = None,
    ) -> None:
        self.program = program
        self.storage = storage
        self.target = target
        self.hints = hints
        self.fast = fast
        self.chooser = chooser or Chooser()
        self.data = DataTable(program)
        self.made: Made | None = None
        self._by_code: dict[Hashable, str] = {}
        self._by_parts: dict[Hashable, str] = {}
        self._derived: set[Value] = set()
        self._packed: dict[object, Root] = {}

    # -- what to compute ------------------------------------------------------------------------

    def group(self, group: Group) -> list[Step]:
        """The steps that compute a group."""
        if group.ops[0].defn.loops is not None:  # type: ignore[attr-defined]
            return self._own_loops(group.ops[0])
        if len(attention.products(group.ops)) > 1:
            return self._attention(group)
        composer, nest = self._compose(group, {})
        inside, outside = group.results[0]
        if len(group.results) == 1 and reductions(nest):
            staged = staging.candidate(composer, inside)
            if staged is not None:
                again, other = self._compose(group, {staged: self._access(outside)})
                nest = staging.keep_first(again, other, staged) or nest
        return self._kernel(group.name, nest)

    def _own_loops(self, op: Op) -> list[Step]:
        """The steps of an op that writes its loops itself."""
        steps: list[Step] = []
        places: list[Place] = []
        for value in op.operands:
            if _wants_copy(value, self.storage):
                copied = Root(RootKind.TEMP, value, _size(value))
                places.append(Place(copied, 0, row_major(shape_of(value))))
                steps.append(self.copy_to(value, places[-1]))
            else:
                places.append(self.storage.place(value))
        places += [self.storage.place(value) for value in op.results]
        values = (*op.operands, *op.results)
        memories = [
            OwnMemory(_view_type(value, place), place.strides, place.lead)
            for value, place in zip(values, places, strict=True)
        ]
        updated = Trait.UPDATES in op.defn.traits and places[0] == places[len(op.operands)]  # type: ignore[attr-defined]
        written = write_kernel(op, op.name, memories, updated)
        for type in written.scratch:
            (size,) = type.shape
            places.append(_scratch("scratch", size, type.dtype)[1])
        if _overlap(places[: len(op.operands)], places[len(op.operands) :]):
            written.function.attrs[ALIASED] = True
        writes = len(op.results) + len(written.scratch)
        steps.append(Step(self._unique(self._with_symbols(written.function)), places, writes))
        return steps

    def _attention(self, group: Group) -> list[Step]:
        """The step of two products with rows of scores between them."""
        ((inside, outside),) = group.results
        composition = attention.Composition(group.ops, group.outer, self._access)
        found = composition.match(inside, outside, self.hints)
        if found is not None:
            with self.chooser.kernel(lambda: key_of(group.name, found, self.hints)) as site:
                steps = self._attention_steps(group, found)
            if steps is not None:
                self._keep(site, steps)
                return steps
        return [step for part in attention.apart(group.ops)
                for step in self.group(self._part(group, part))]  # fmt: skip

    def _attention_steps(self, group: Group, found: attention.Attention) -> list[Step] | None:
        ((_, outside),) = group.results
        plan = attention.make_plan(found, self.target, self.hints)
        if plan is None:
            return None
        workers = symbol(THREADS)
        keys, keys_at = _scratch("keys", plan.key_size * workers, found.dtype)
        queries, queries_at = _scratch("queries", plan.query_size * workers, found.dtype)
        scores = Place(Root(RootKind.TEMP, found.scratch, plan.score_size * workers), 0, (1,))
        memory = AttentionMemory(
            keys if plan.packed else None, found.scratch, None if plan.direct else queries
        )
        own = [v for v in (memory.keys, memory.scores, memory.queries) if v is not None]

        def schedule(e: Emitter) -> None:
            AttentionSchedule(e, plan, memory, self.target, self.hints).emit()

        reads = [value for value in _reads(found.nest) if value is not found.scratch]
        places = {keys: keys_at, queries: queries_at, found.scratch: scores}
        return [self._function(group.name, reads, [outside, *own], places, [schedule])]

    @staticmethod
    def _part(group: Group, ops: Sequence[Op]) -> Group:
        """Some ops of a group on their own; the last one's result leaves them."""
        (result,) = ops[-1].results
        pairs = dict(group.results)
        return Group(ops[-1].name, tuple(ops), group.outer, ((result, pairs.get(result, result)),))

    def _compose(self, group: Group, staged: Mapping[Value, Access]) -> tuple[Composer, Nest]:
        # Equal groups get equal names, and so equal fingerprints.
        names = itertools.count()
        composer = Composer(set(group.ops), group.outer, self._access, staged, names)
        iters = index_iters(shape_of(group.results[0][0]), composer)
        index = tuple(it.dim for it in iters)
        outputs = tuple(
            Output(result, self._address(result, index), composer.element(value, index))
            for value, result in group.results
        )
        return composer, Nest(tuple(iters), outputs)

    def copy_part(self, op: Op, part: Part) -> list[Step]:
        """The step that copies one operand into its part of the result."""
        operand = op.operands[part.operand]
        composer = Composer(set(), {}, self._access, {})
        iters = index_iters(shape_of(operand), composer)
        index = tuple(it.dim for it in iters)
        at = tuple(i + s for i, s in zip(index, part.starts, strict=True))
        output = Output(op.result, self._address(op.result, at), composer.load(operand, index))
        return self._kernel("copy", Nest(tuple(iters), (output,)))

    def copy_to(self, value: Value, target: Place, source: Place | None = None) -> Step:
        """The step that copies `value`, which lies at `source` if that is given, to a place."""
        composer = Composer(set(), {}, self._access, {})
        iters = index_iters(shape_of(value), composer)
        index = tuple(it.dim for it in iters)
        result = Value(value.type, Block(), 0, "out")
        address = target.lead
        for i, stride in zip(index, target.strides, strict=True):
            address = address + i * stride
        places = {result: target}
        if source is not None:
            stored = Value(value.type, Block(), 0, "stored")
            places[stored] = source
            composer = Composer(set(), {}, lambda _: Access(source.strides, source.lead), {})
            value = stored
        nest = Nest(tuple(iters), (Output(result, address, composer.load(value, index)),))
        (step,) = self._kernel("copy", nest, places)
        return step

    def border(self, op: Op, parts: Sequence[Part]) -> Step | None:
        """The step that fills what no operand covers of a padded result."""
        if len(parts) != 1:
            return None
        (part,) = parts
        whole, inner = shape_of(op.result), shape_of(op.operands[part.operand])
        fill = _padding(op, Composer(set(), {}, self._access, {}))
        nests = []
        for axis, (size, own, start) in enumerate(zip(whole, inner, part.starts, strict=True)):
            end = start + own
            for lo, count in ((0, start), (end, size - end)):
                if count == 0:
                    continue
                composer = Composer(set(), {}, self._access, {})
                extents = [count if a == axis else n for a, n in enumerate(whole)]
                iters = index_iters(extents, composer)
                index = tuple(it.dim + (lo if a == axis else 0) for a, it in enumerate(iters))
                output = Output(op.result, self._address(op.result, index), fill)
                nests.append(normalise(Nest(tuple(iters), (output,))))
        return self._emit("border", nests, [op.result], {}) if nests else None

    def _access(self, value: Value) -> Access:
        place = self.storage.place(value)
        return Access(place.strides, place.lead)

    def _address(self, value: Value, index: Sequence[DimLike]) -> DimLike:
        place = self.storage.place(value)
        address = place.lead
        for i, stride in zip(index, place.strides, strict=True):
            address = address + i * stride
        return address

    # -- how to compute it ----------------------------------------------------------------------

    def _kernel(
        self, name: str, nest: Nest, places: Mapping[Value, Place] | None = None
    ) -> list[Step]:
        nest = normalise(keep_floats(nest))
        if self.target.has_fma:
            nest = without_division(nest)
        if self.target.lowers:
            nest = coarse.round_early(nest)
        with self.chooser.kernel(lambda: self._key(name, nest)) as site:
            steps = self._scheduled(name, nest, places)
        self._keep(site, steps)
        return steps

    def _key(self, name: str, nest: Nest) -> str:
        """What a kernel is known by to tuning, by what it computes and on which constants."""
        constants = [value for value in _reads(nest) if self._is_constant(value)]
        return key_of(name, (nest, constants), self.hints)

    def _keep(self, site: Site | None, steps: Sequence[Step]) -> None:
        """Note what was decided for the kernels of a group."""
        if site is not None:
            for step in steps:
                self.chooser.sites.setdefault(step.kernel, site)

    def _scheduled(self, name: str, nest: Nest, places: Mapping[Value, Place] | None) -> list[Step]:
        written = [output.value for output in nest.outputs]
        found = contract.match(nest, self.hints)
        if found is not None and (
            self._reads_in_place(found) or contract.repays(found, self.hints)
        ):
            return self._contraction(name, found)
        dots = self._dot_window(name, nest)
        if dots is not None:
            return [dots]
        return [self._emit(name, [nest], written, places or {})]

    def _contraction(self, name: str, c: contract.Contraction) -> list[Step]:
        right = c.right.load.value
        place = self.storage.place(right)
        candidates = contract.tiles(c, self.target, self.hints)
        if place.root.kind is RootKind.CONSTANT:
            step = self._algorithm(name, c, place, candidates[0].cycles)
            if step is not None:
                return [step]
        tile = self.chooser.choose("tile", candidates)
        places: dict[Value, Place] = {}
        steps: list[Step] = []
        packed = True
        dots: Dots | None = None
        if place.root.kind is RootKind.CONSTANT:
            c, dots, value, places[value] = self._packed_constant(c, tile, place)
        elif contract.is_contiguous(c):
            packed = False
        else:
            steps, value, places[value] = self._pack(c, tile)
            c = contract.with_packed_right(c, value, tile.block)
        if dots is None:
            c = contract.collapse_reduced(c)
        streamed = packed and self._is_large(c)
        written = [output.value for output in c.nest.outputs]
        machine = machine_of(self.target)
        blocking = None if dots else contract_blocked.make_plan(c, tile, packed, machine)
        memory: dict[str, Value] = {}
        if blocking is not None:
            for key, size in blocking.scratch.items():
                memory[key], places[memory[key]] = _scratch(key, size, c.reduce.dtype)
            written += memory.values()

        def schedule(e: Emitter) -> None:
            options = packed, streamed, self.target
            if blocking is None:
                ContractionSchedule(e, c, tile, self.hints, *options, dots).emit()
            else:
                BlockedSchedule(e, c, blocking, memory, self.hints, *options).emit()

        reads = _reads(c.nest, skip=right if packed else None)
        for side in (c.left.load.value, c.right.load.value):
            if side not in reads:
                reads.append(side)
        parts = (c, tile, packed, streamed, dots, blocking, list(memory.values()))
        steps.append(self._function(name, reads, written, places, [schedule], parts))
        return steps

    def _reads_in_place(self, c: contract.Contraction) -> bool:
        """Whether the right side needs no packing at run time."""
        place = self.storage.place(c.right.load.value)
        return place.root.kind is RootKind.CONSTANT or contract.is_contiguous(c)

    def _algorithm(
        self, name: str, c: contract.Contraction, place: Place, direct: float
    ) -> Step | None:
        """The step of a contraction by constants on tiles, or in fewer multiplications.

        direct: cycles of the register-blocked kernel; None where that is to be used.
        """

        def constant() -> Array:
            return self.data.array_of(place.root)[_int(place.offset) :]

        def tiled(plan: AnyTiles) -> Callable[[], AnyTiles]:
            return lambda: plan

        every: list[Candidate[Callable[[], object]]]
        every = [
            *fast.candidates(c, constant, self.target, self.hints, self.fast, direct, self.chooser)
        ]
        for plans in (tiles.plans, tiles_copied.plans):
            for x in plans(c, self.target, self.hints):
                every.append(Candidate(x.name, x.cycles, tiled(x.value)))
        if not every:
            return None
        every.append(Candidate("direct", direct, lambda: c))
        found = self.chooser.first("algorithm", best_first(every), lambda make: make())
        if isinstance(found, (tiles.TilePlan, tiles_copied.CopyPlan)):
            return self._tiled(name, c, found, constant())
        return self._fast(name, found) if isinstance(found, fast.Fast) else None

    def _tiled(self, name: str, c: contract.Contraction, plan: AnyTiles, constant: Array) -> Step:
        packed, packed_at = self._constant(plan.pack(c, constant), c.right.load.dtype)

        def emit(e: Emitter) -> None:
            if isinstance(plan, tiles_copied.CopyPlan):
                tiles_copied.CopySchedule(e, plan, packed, self.hints).emit()
            else:
                TileSchedule(e, plan, packed, self.hints).emit()

        reads = [*_reads(c.nest, skip=c.right.load.value), packed]
        reads += [c.left.load.value] * (c.left.load.value not in reads)
        written = [output.value for output in c.nest.outputs]
        return self._function(name, reads, written, {packed: packed_at}, [emit], (plan, packed))

    def _fast(self, name: str, found: fast.Fast) -> Step:
        c, plan = found.contraction, found.plan
        packed, packed_at = self._constant(found.weights, F32)
        scratch = {key: _scratch(key, size) for key, size in plan.scratch.items()}
        memory = Memory(packed, {key: value for key, (value, _) in scratch.items()})
        streamed = self._exceeds_cache(plan.weight_size, F32)

        def emit(e: Emitter) -> None:
            found.schedule(e, plan, memory, self.hints, streamed).emit()

        reads = [*_reads(c.nest, skip=c.right.load.value), packed]
        reads += [c.left.load.value] * (c.left.load.value not in reads)
        written = [*(output.value for output in c.nest.outputs), *memory.scratch.values()]
        places = {packed: packed_at} | dict(scratch.values())
        parts = (plan, packed, list(memory.scratch.values()), streamed)
        return self._function(name, reads, written, places, [emit], parts)

    def _dot_window(self, name: str, nest: Nest) -> Step | None:
        """The step that computes a window of bytes by constants in `dot`s."""
        plan = Planner(nest, self.target, self.hints, self._constants(nest)).plan()
        found = window_dots.find(nest, plan, self.target)
        if found is None or not self._is_constant(found.right.load.value):
            return None
        place = self.storage.place(found.right.load.value)
        flat = self.data.array_of(place.root)[_int(place.offset) :]
        weights, at = self._constant(window_dots.pack(found, flat), found.right.load.dtype)
        places = {weights: at}
        found = found.with_nest(self._relayout(found.window.nest, plan, places))

        def schedule(e: Emitter) -> None:
            DotWindowSchedule(e, found, weights, self.target, self.hints).emit()

        nest = found.window.nest
        written = [output.value for output in nest.outputs]
        reads = [*_reads(nest), weights]
        return self._function(name, reads, written, places, [schedule], found)

    def _is_large(self, c: contract.Contraction) -> bool:
        return self._exceeds_cache(contract.packed_size(c), c.right.load.dtype)

    def _exceeds_cache(self, size: DimLike, dtype: DType) -> bool:
        """Whether packed weights are streamed from beyond the second-level cache."""
        return estimate(size, self.hints) * dtype.bytes > self.target.l2 // 2

    def _packed_constant(
        self, c: contract.Contraction, tile: contract.Tile, place: Place
    ) -> tuple[contract.Contraction, Dots | None, Value, Place]:
        """The contraction of packed constants, in groups of steps where one `dot` takes them."""
        flat = self.data.array_of(place.root)[_int(place.offset) :]
        packed = contract.pack_constant(c, tile.block, flat)
        standing = Value(TensorType(c.right.load.dtype, (packed.size,)), Block(), 0, "packed")
        whole = contract.collapse_reduced(contract.with_packed_right(c, standing, tile.block))
        group = narrow.dot_group(whole, tile, self.target)
        dots: Dots | None = None
        if group:
            steps = _int(whole.reduced[-1].extent)
            dots = Dots(group, steps, self.target.has_masks)
            packed = narrow.group_constant(packed, dots.steps, group, tile.block)
            whole = narrow.grouped(whole, group, tile.block)
        value, at = self._constant(packed, c.right.load.dtype)
        load = replace(whole.right.load, value=value)
        return replace(whole, right=replace(whole.right, load=load)), dots, value, at

    def _constant(self, array: Array, dtype: DType) -> tuple[Value, Place]:
        value = Value(TensorType(dtype, (array.size,)), Block(), 0, "packed")
        return value, Place(self.data.add(array, dtype, value), 0, (1,))

    def _pack(
        self, c: contract.Contraction, tile: contract.Tile
    ) -> tuple[list[Step], Value, Place]:
        packing = contract.packing(c, tile.block)
        value = Value(TensorType(c.right.load.dtype, (packing.size,)), Block(), 0, "packed")
        place = Place(Root(RootKind.TEMP, value, packing.size), 0, (1,))
        nest = Nest(packing.iters, (Output(value, packing.address, packing.expr),))
        with self.chooser.part("pack"):
            steps = [self._emit("pack", [normalise(nest)], [value], {value: place})]
        return steps, value, place

    def _emit(
        self,
        name: str,
        nests: Sequence[Nest],
        written: list[Value],
        places: Mapping[Value, Place],
    ) -> Step:
        """Make a kernel of nests that run one after the other."""
        reads: list[Value] = []
        schedules: list[Callable[[Emitter], None]] = []
        parts: list[tuple[Nest, Plan]] = []
        known = dict(places)
        for nest in nests:
            nest = self._in_loop_order(nest, known)
            constants = self._constants(nest)
            plan = Planner(nest, self.target, self.hints, constants, self.chooser).plan()
            nest = self._relayout(nest, plan, known)
            for value in _reads(nest):
                if value not in reads and value not in written:
                    reads.append(value)
            schedules.append(lambda e, n=nest, p=plan: self._nest(e, n, p))  # type: ignore[misc]
            parts.append((nest, plan))
        return self._function(name, reads, written, known, schedules, parts)

    def _nest(self, e: Emitter, nest: Nest, plan: Plan) -> None:
        found = window.match(nest, plan, self.target, self.hints, self.chooser)
        turned = None if e.aliased else transposed.match(nest, self.target)
        if found is not None:
            window.WindowSchedule(e, found, self.target, self.hints).emit()
        elif turned is not None:
            transposed.TransposedSchedule(e, turned, self.hints).emit()
        else:
            NestSchedule(e, nest, plan, self.target, self.hints).emit()

    def _constants(self, nest: Nest) -> set[Value]:
        """The constants that a nest reads, and those laid out anew for it."""
        found = set()
        for value in _reads(nest):
            derived = value in self._derived
            if derived or (value.op is not None and self._is_constant(value)):
                found.add(value)
        return found

    def _is_constant(self, value: Value) -> bool:
        return self.storage.place(value).root.kind is RootKind.CONSTANT

    def _relayout(self, nest: Nest, plan: Plan, places: dict[Value, Place]) -> Nest:
        """Let constants be contiguous along the vectorised iterator; adds their places."""
        lane = plan.lane
        if lane is None:
            return nest
        inner = dict.fromkeys(it for r in reductions(nest) for it in r.iters)
        iters = [*nest.iters, *inner]
        return self._lay_out(
            nest, places, lambda load, size: plan_relayout(load, iters, lane, size)
        )

    def _in_loop_order(self, nest: Nest, places: dict[Value, Place]) -> Nest:
        """Let reductions follow the data's order in memory, and constants follow them."""
        if not reductions(nest):
            return nest
        nest = order_reductions(nest, self._constants(nest))
        whole = nest
        return normalise(
            self._lay_out(nest, places, lambda load, size: follow_reduction(load, whole))
        )

    def _lay_out(
        self,
        nest: Nest,
        places: dict[Value, Place],
        choose: Callable[[Load, DimLike], Relayout | None],
    ) -> Nest:
        """Replace the constants for which `choose` gives another layout; adds their places."""
        constants = self._constants(nest)
        made: dict[tuple[Value, DimLike], Load] = {}

        def change(node: Expr) -> Expr | None:
            if not isinstance(node, Load) or node.value not in constants:
                return None
            place = places.get(node.value) or self.storage.place(node.value)
            new = choose(node, place.root.size)
            if new is None:
                return None
            key = (node.value, new.source)
            if key not in made:
                flat = self.data.array_of(place.root)[_int(place.offset) :]
                value, at = self._constant(new.apply(flat), node.dtype)
                places[value] = at
                self._derived.add(value)
                made[key] = Load(value, (new.address,), node.dtype)
            return made[key]

        outputs = tuple(Output(o.value, o.address, rewrite(o.expr, change)) for o in nest.outputs)
        return Nest(nest.iters, outputs)

    def _function(
        self,
        name: str,
        reads: Sequence[Value],
        written: Sequence[Value],
        places: Mapping[Value, Place],
        schedules: Sequence[Callable[[Emitter], None]],
        parts: object = None,
    ) -> Step:
        """Make a kernel by its schedules, unless one was made of equal `parts`.

        parts: all that the schedules depend on, None where that is not known.
        """
        own = [places.get(value) or self.storage.place(value) for value in (*reads, *written)]
        types = [_view_type(v, p) for v, p in zip((*reads, *written), own, strict=True)]
        aliased = _overlap(own[: len(reads)], own[len(reads) :])
        what = (types, parts, aliased)
        key = fingerprint(what, (*reads, *written)) if parts is not None else None
        if key is not None and key in self._by_parts:
            return Step(self._by_parts[key], own, len(written))
        names = [f"x{i}" for i in range(len(reads))] + [f"y{i}" for i in range(len(written))]
        block = Block(types, names)
        builder = LoopBuilder(block)
        buffers = dict(zip((*reads, *written), block.args, strict=True))
        emitter = Emitter(builder, buffers, written, self.chooser, aliased)
        for schedule in schedules:
            schedule(emitter)
        builder.emit("return")
        function = Function(name, block, "kernel", attrs={ALIASED: True} if aliased else {})
        kernel = self._unique(self._with_symbols(function))
        if key is not None:
            self._by_parts[key] = kernel
        return Step(kernel, own, len(written))

    def _with_symbols(self, function: Function) -> Function:
        """Declare the symbols that a kernel uses."""
        main = self.storage.function.symbols
        used = _symbols(function) if main else set()
        function.symbols = {s: replace(main[s], source=None) for s in main if s in used}
        return function

    def _unique(self, function: Function) -> str:
        """Add the kernel to the program unless an equal one is there; return its name."""
        code = code_fingerprint(function)
        known = self._by_code.get(code)
        if known is None:
            known = self._by_code[code] = f"k{len(self._by_code)}_{function.name}"[:48]
            function.name = known
            self.program.add(function)
            if self.made is not None:
                self.made(self.program, function)
        return known


def _overlap(read: Sequence[Place], written: Sequence[Place]) -> bool:
    """Whether a kernel reads memory that it writes."""
    roots = [place.root for place in read]
    return any(place.root in roots for place in written)


def _wants_copy(value: Value, storage: Storage) -> bool:
    """Whether an op that writes its loops itself is given a dense copy of an operand.

    Its loops run along rows, and a copy of columns is cheaper than to look through them.
    """
    if value.op is not None and value.op.name == "dims":
        return True
    shape, strides = shape_of(value), storage.place(value).strides
    return bool(shape) and shape[-1] != 1 and strides[-1] != 1


def _padding(op: Op, composer: Composer) -> Expr:
    """The element that a pad op puts around its operand."""
    if len(op.operands) > 1:
        return composer.load(op.operands[1], ())
    assert isinstance(op.result.type, TensorType)
    return Number(0, op.result.type.dtype)


def _reads(nest: Nest, skip: Value | None = None) -> list[Value]:
    found: dict[Value, None] = {}
    for output in nest.outputs:
        for node in walk(output.expr):
            if isinstance(node, Load) and node.value is not skip:
                found[node.value] = None
    return list(found)


def _scratch(name: str, size: DimLike, dtype: DType = F32) -> tuple[Value, Place]:
    """Memory that lives during one call."""
    value = Value(TensorType(dtype, (size,)), Block(), 0, name)
    return value, Place(Root(RootKind.TEMP, value, size), 0, (1,))


def _view_type(value: Value, place: Place) -> BufferType:
    """The flat buffer that a kernel sees of a place: from its offset to the root's end.

    What moves with a loop's rounds is seen as far as it reaches, the same in each.
    """
    assert isinstance(value.type, TensorType)
    if place.moves:
        return BufferType(value.type.dtype, (_span(value.type.shape, place.strides),), (1,))
    return BufferType(value.type.dtype, (place.root.size - place.offset,), (1,))


def _span(shape: Sequence[DimLike], strides: Sequence[DimLike]) -> DimLike:
    """How many elements lie between the lowest and the highest of a tensor, both included."""
    if 0 in shape:
        return 0
    span: DimLike = 1
    for dim, stride in zip(shape, strides, strict=True):
        span = span + (dim - 1) * (abs(stride) if isinstance(stride, int) else stride)
    return span


def _size(value: Value) -> DimLike:
    assert isinstance(value.type, TensorType)
    return value.type.size


def _symbols(function: Function) -> set[str]:
    found: set[str] = set()
    for arg in function.args:
        assert isinstance(arg.type, BufferType)
        for dim in arg.type.shape:
            found |= symbols_of(dim)
    for op in function.block.walk():
        if op.name in ("dim", "view"):
            for dim in dims_in(op.attrs):
                found |= symbols_of(dim)
    return found


def _int(dim: DimLike) -> int:
    assert isinstance(dim, int), "constants have static places"
    return dim
