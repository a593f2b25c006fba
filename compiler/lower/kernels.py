"""Makes kernels: composes a group, normalises it, picks a schedule, and emits it once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from tfc.compiler.cost.choice import Chooser, Site
from tfc.compiler.lower import (
    attention,
    coarse,
    contract,
    staging,
)
from tfc.compiler.lower.arguments import overlap, reads_of, scratch_buffer, view_type
from tfc.compiler.lower.attention_dots import DotAttentionSchedule
from tfc.compiler.lower.attention_kernel import AttentionSchedule
from tfc.compiler.lower.attention_kernel import Memory as AttentionMemory
from tfc.compiler.lower.attention_plan import make_plan as plan_attention
from tfc.compiler.lower.bounds import without_nan_tests
from tfc.compiler.lower.compose import Access, Composer, Nest, Output
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.fingerprint import key_of
from tfc.compiler.lower.group import Group, Span, Step
from tfc.compiler.lower.maker import KernelMaker
from tfc.compiler.lower.nests import Nests
from tfc.compiler.lower.normal import normalise, reductions
from tfc.compiler.lower.pairs import with_fewer_steps
from tfc.compiler.lower.planes import FAST
from tfc.compiler.lower.products import Products
from tfc.compiler.lower.quotients import without_division
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
from tfc.compiler.target import Target
from tfc.ir.body import Expr, Number
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.dims import DimLike, symbol
from tfc.ir.loop.kernel import Memory as OwnMemory
from tfc.ir.loop.kernel import write_kernel
from tfc.ir.loop.nodes import ALIASED
from tfc.ir.loop.verify import THREADS
from tfc.ir.opdef import Trait
from tfc.ir.ops.const import DimsAttrs
from tfc.ir.types import BF16, TensorType, row_major


class KernelBuilder:
    """Makes the kernels of one program.

    fast: the algorithms of `planes.FAST` that may be used; they round more.
    chooser: decides among candidates.
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
        self.storage = storage
        self.target = target
        self.hints = hints
        self.chooser = chooser or Chooser()
        self.maker = KernelMaker(program, storage, target, hints, self.chooser)
        self.nests = Nests(self.maker)
        self.products = Products(self.maker, self.nests, fast)

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
            OwnMemory(view_type(value, place), place.strides, place.lead)
            for value, place in zip(values, places, strict=True)
        ]
        updated = Trait.UPDATES in op.defn.traits and places[0] == places[len(op.operands)]  # type: ignore[attr-defined]
        written = write_kernel(op, op.name, memories, updated)
        for type in written.scratch:
            (size,) = type.shape
            places.append(scratch_buffer("scratch", size, type.dtype)[1])
        if overlap(places[: len(op.operands)], places[len(op.operands) :]):
            written.function.attrs[ALIASED] = True
        writes = len(op.results) + len(written.scratch)
        steps.append(Step(self.maker.add(written.function), places, writes))
        return steps

    def _attention(self, group: Group) -> list[Step]:
        """The step of two products with rows of scores between them."""
        ((inside, outside),) = group.results
        composition = attention.Composition(group, self._access)
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
        plan = plan_attention(found, self.target, self.hints, self.chooser)
        if plan is None:
            return None
        workers = symbol(THREADS)
        dtype = BF16 if plan.dots else found.dtype
        keys, keys_at = scratch_buffer("keys", plan.key_size * workers, dtype)
        queries, queries_at = scratch_buffer("queries", plan.query_size * workers, dtype)
        weights, weights_at = scratch_buffer(
            "weights", plan.weight_pitch * plan.rows * workers, dtype
        )
        values, values_at = scratch_buffer("values", plan.value_size * workers, dtype)
        scores = Place(Root(RootKind.TEMP, found.scratch, plan.score_size * workers), 0, (1,))
        memory = AttentionMemory(
            keys if plan.packed else None,
            found.scratch,
            None if plan.direct else queries,
            weights if plan.dots else None,
            values if plan.dots else None,
        )
        kind = DotAttentionSchedule if plan.dots else AttentionSchedule

        def schedule(e: Emitter) -> None:
            kind(e, plan, memory, self.target, self.hints).emit()

        reads = [value for value in reads_of(found.nest) if value is not found.scratch]
        places = {
            keys: keys_at,
            queries: queries_at,
            found.scratch: scores,
            weights: weights_at,
            values: values_at,
        }
        own = memory.every
        writes = [outside, *own]
        # The plan and the kind of schedule follow from what was found.
        return [self.maker.function(group.name, reads, writes, places, [schedule], found)]

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

    def border(self, op: Op, parts: Sequence[Part], read: Sequence[Span]) -> Step | None:
        """The step that fills what no operand covers of a padded result.

        read: for each axis, from where to where anything is read of it.
        """
        (part,) = parts
        inner = shape_of(op.operands[part.operand])
        ends = [start + own for start, own in zip(part.starts, inner, strict=True)]
        fill = _padding(op, Composer(set(), {}, self._access, {}))
        nests = []
        sides = list(read)
        for axis, (start, end) in enumerate(zip(part.starts, ends, strict=True)):
            first, last = read[axis]
            for side in ((first, start), (end, last)):
                sides[axis] = side
                extents = [hi - lo for lo, hi in sides]
                if extents[axis] == 0:
                    continue
                composer = Composer(set(), {}, self._access, {})
                iters = index_iters(extents, composer)
                index = tuple(it.dim + lo for it, (lo, _) in zip(iters, sides, strict=True))
                output = Output(op.result, self._address(op.result, index), fill)
                nests.append(normalise(Nest(tuple(iters), (output,))))
            # Beside the margins of this axis those of the next ones are filled no more.
            sides[axis] = start, end
        return self.nests.emit("border", nests, [op.result], {}) if nests else None

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
            nest = without_division(with_fewer_steps(nest))
        nest = without_nan_tests(nest)
        if self.target.lowers:
            nest = coarse.round_early(nest)
        with self.chooser.kernel(lambda: self._key(name, nest)) as site:
            steps = self._scheduled(name, nest, places)
        self._keep(site, steps)
        return steps

    def _key(self, name: str, nest: Nest) -> str:
        """What a kernel is known by to tuning, by what it computes and on which constants."""
        constants = [value for value in reads_of(nest) if self.maker.is_constant(value)]
        return key_of(name, (nest, constants), self.hints)

    def _keep(self, site: Site | None, steps: Sequence[Step]) -> None:
        """Note what was decided for the kernels of a group."""
        if site is not None:
            for step in steps:
                self.chooser.sites.setdefault(step.kernel, site)

    def _scheduled(self, name: str, nest: Nest, places: Mapping[Value, Place] | None) -> list[Step]:
        written = [output.value for output in nest.outputs]
        rows = self.nests.rows(name, nest) if not places else None
        if rows is not None:
            return [rows]
        found = contract.match(nest, self.hints)
        if found is not None and self.products.takes(found):
            return self.products.contraction(name, found)
        dots = self.products.window(name, nest)
        if dots is not None:
            return [dots]
        return [self.nests.emit(name, [nest], written, places or {})]


def _wants_copy(value: Value, storage: Storage) -> bool:
    """Whether an op that writes its loops itself is given a dense copy of an operand.

    Its loops run along rows, and a copy of columns is cheaper than to look through them.
    """
    if value.op is not None and isinstance(value.op.attrs, DimsAttrs):
        return True
    shape, strides = shape_of(value), storage.place(value).strides
    return bool(shape) and shape[-1] != 1 and strides[-1] != 1


def _padding(op: Op, composer: Composer) -> Expr:
    """The element that a pad op puts around its operand."""
    if len(op.operands) > 1:
        return composer.load(op.operands[1], ())
    assert isinstance(op.result.type, TensorType)
    return Number(0, op.result.type.dtype)


def _size(value: Value) -> DimLike:
    assert isinstance(value.type, TensorType)
    return value.type.size
