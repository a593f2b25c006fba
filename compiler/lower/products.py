"""Kernels of sums of products: the algorithm, the tile, how constants are packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from tfc.compiler.cost.choice import Candidate, best_first
from tfc.compiler.cost.expression import estimate
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.lower import (
    contract,
    contract_blocked,
    contract_stream,
    fast,
    margins,
    narrow,
    tiles,
    tiles_copied,
    window_dots,
    words,
)
from tfc.compiler.lower.arguments import known, reads_of, scratch_buffer
from tfc.compiler.lower.compose import Nest, Output
from tfc.compiler.lower.contract_blocked import BlockedSchedule
from tfc.compiler.lower.contract_kernel import ContractionSchedule
from tfc.compiler.lower.contract_sides import Factor
from tfc.compiler.lower.contract_stream import StreamSchedule
from tfc.compiler.lower.data import Array
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.group import Band, Step
from tfc.compiler.lower.maker import KernelMaker
from tfc.compiler.lower.margins import Taps
from tfc.compiler.lower.nests import Nests
from tfc.compiler.lower.normal import normalise
from tfc.compiler.lower.plan import Planner
from tfc.compiler.lower.planes import Memory
from tfc.compiler.lower.storage import (
    Place,
    Root,
    RootKind,
)
from tfc.compiler.lower.tiles_kernel import TileSchedule
from tfc.compiler.lower.window_dots import DotWindowSchedule
from tfc.compiler.lower.words_kernel import WordSchedule
from tfc.ir import arrays
from tfc.ir.body import Load, walk
from tfc.ir.core import Block, Value
from tfc.ir.dims import DimLike, symbol
from tfc.ir.loop.verify import THREADS
from tfc.ir.types import F32, DType, TensorType

# Of the second-level cache, what a panel of floats made of words may take.
MOST_OF_CACHE = 2

AnyTiles: TypeAlias = "tiles.TilePlan | tiles_copied.CopyPlan"


class Products:
    """Makes kernels of sums of products.

    fast: the algorithms of `planes.FAST` that may be used; they round more.
    """

    def __init__(self, maker: KernelMaker, nests: Nests, fast: frozenset[str]) -> None:
        self.maker = maker
        self.nests = nests
        self.fast = fast
        self.storage = maker.storage
        self.target = maker.target
        self.hints = maker.hints
        self.chooser = maker.chooser

    def contraction(self, name: str, c: contract.Contraction) -> list[Step]:
        right = c.right.load.value
        place = self.storage.place(right)
        fixed = self._is_fixed(c)
        found = margins.margins(c.left.load.value, self.storage) if fixed else []
        candidates = contract.tiles(c, self.target, self.hints, margins.share(c, found))
        step = self._other(name, c, place, candidates[0].cycles)
        if step is not None:
            return [step]
        tile = self.chooser.choose("tile", candidates)
        places: dict[Value, Place] = {}
        steps: list[Step] = []
        packed = True
        dots: narrow.Dots | None = None
        if fixed:
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
        taps = self._taps(c, tile, place, dots) if fixed and blocking is None else []
        memory: dict[str, Value] = {}
        if blocking is not None:
            for key, size in blocking.scratch.items():
                memory[key], places[memory[key]] = scratch_buffer(key, size, c.reduce.dtype)
            written += memory.values()

        def schedule(e: Emitter) -> None:
            options = packed, streamed, self.target
            if blocking is None:
                ContractionSchedule(e, c, tile, self.hints, *options, dots, taps).emit()
            else:
                BlockedSchedule(e, c, blocking, memory, self.hints, *options).emit()

        reads = reads_of(c.nest, skip=right if packed else None)
        for side in (c.left.load.value, c.right.load.value):
            if side not in reads:
                reads.append(side)
        parts = (c, tile, packed, streamed, dots, blocking, list(memory.values()), taps)
        step = self.maker.function(name, reads, written, places, [schedule], parts)
        steps.append(replace(step, band=self._band(c, tile, taps)))
        return steps

    def _taps(
        self, c: contract.Contraction, tile: contract.Tile, weights: Place, dots: narrow.Dots | None
    ) -> list[Taps]:
        """Reduced iterators of which tiles may leave out steps, since they add products by zero.

        Of weights that are not finite these are no zeros. The innermost one is not cut into groups.
        """
        found = margins.taps(c, tile, margins.margins(c.left.load.value, self.storage))
        if dots is not None:
            found = [tap for tap in found if tap.it is not c.reduced[-1]]
        if not found:
            return []
        stored = arrays.decode(self.maker.array_at(weights), c.right.load.dtype)
        return found if np.all(np.isfinite(stored)) else []

    @staticmethod
    def _band(c: contract.Contraction, tile: contract.Tile, taps: list[Taps]) -> Band | None:
        """What the kernel reads of a padded left side, None where that may be all of it."""
        value = c.left.load.value
        loads = [x for output in c.nest.outputs for x in walk(output.expr) if isinstance(x, Load)]
        if not taps or len([x for x in loads if x.value is value]) > 1:
            return None
        return margins.band(c, tile, value, taps)

    def takes(self, c: contract.Contraction) -> bool:
        """Whether a contraction is worth a kernel of its own."""
        if self._is_fixed(c):
            return True
        in_place = contract.is_contiguous(c) or contract.repays(c, self.hints)
        return in_place and c.right.blocks is None

    def _other(
        self, name: str, c: contract.Contraction, place: Place, direct: float
    ) -> Step | None:
        """The step that computes a contraction otherwise than by register tiles, if there is one.

        direct: cycles of the register-blocked kernel.
        """
        if self._is_fixed(c):
            return self._by_words(name, c) or self._algorithm(name, c, place, direct)
        return self._stream(name, contract.collapse_reduced(c))

    def _stream(self, name: str, c: contract.Contraction) -> Step | None:
        """The step of one row times a matrix that streams through."""
        if not contract_stream.matches(c, self.target):
            return None
        size = contract_stream.chunk_of(c, self.target.lanes(F32)) * symbol(THREADS)
        sums, place = scratch_buffer("sums", size)

        def schedule(e: Emitter) -> None:
            StreamSchedule(e, c, sums, self.target, self.hints).emit()

        reads = reads_of(c.nest)
        written = [*(output.value for output in c.nest.outputs), sums]
        return self.maker.function(name, reads, written, {sums: place}, [schedule], (c, sums))

    def _is_fixed(self, c: contract.Contraction) -> bool:
        """Whether all of the right side is known now."""
        static = all(isinstance(it.extent, int) for it in (*c.batch, c.n, *c.reduced))
        return static and all(self.maker.is_constant(f.load.value) for f in c.right.parts)

    def _by_words(self, name: str, c: contract.Contraction) -> Step | None:
        """The step of a contraction by constants of few bits, None of others."""
        unpacked = words.choose(c, self.maker.array_at(self.storage.place(c.right.load.value)))
        if unpacked is None:
            return None
        candidates = contract.tiles(c, self.target, self.hints, unpacked=True)
        tile = self.chooser.choose("tile", candidates)
        places: dict[Value, Place] = {}

        def array_of(value: Value) -> Array:
            return self.maker.array_at(self.storage.place(value))

        def constant(array: Array, factor: Factor) -> Value:
            value, places[value] = self.maker.constant(array, factor.load.dtype)
            return value

        wide = contract.tiles(c, self.target, self.hints)
        of_floats = next(x.value for x in wide if x.value.block == tile.block)
        most = MOST_OF_CACHE * self.target.l2
        plan = words.make_plan(c, unpacked, tile, of_floats, most, array_of, constant)
        streamed = self._is_large(plan.c)
        written = [output.value for output in c.nest.outputs]
        if plan.panel is not None:
            panel, size = plan.panel.memory, plan.panel.size * symbol(THREADS)
            written.append(panel)
            places[panel] = Place(Root(RootKind.TEMP, panel, size), 0, (1,))

        def schedule(e: Emitter) -> None:
            WordSchedule(e, plan, self.hints, streamed, self.target).emit()

        reads = reads_of(c.nest, without=c.reduce)
        reads += [c.left.load.value] * (c.left.load.value not in reads)
        reads += [value for value in places if value not in written]
        return self.maker.function(name, reads, written, places, [schedule], (plan, streamed))

    def _algorithm(
        self, name: str, c: contract.Contraction, place: Place, direct: float
    ) -> Step | None:
        """The step of a contraction by constants on tiles, or in fewer multiplications.

        direct: cycles of the register-blocked kernel; None where that is to be used.
        """

        def constant() -> Array:
            return self.maker.array_at(place)

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
        packed, packed_at = self.maker.constant(plan.pack(c, constant), c.right.load.dtype)

        def emit(e: Emitter) -> None:
            if isinstance(plan, tiles_copied.CopyPlan):
                tiles_copied.CopySchedule(e, plan, packed, self.hints).emit()
            else:
                TileSchedule(e, plan, packed, self.hints).emit()

        reads = [*reads_of(c.nest, skip=c.right.load.value), packed]
        reads += [c.left.load.value] * (c.left.load.value not in reads)
        written = [output.value for output in c.nest.outputs]
        return self.maker.function(
            name, reads, written, {packed: packed_at}, [emit], (plan, packed)
        )

    def _fast(self, name: str, found: fast.Fast) -> Step:
        c, plan = found.contraction, found.plan
        packed, packed_at = self.maker.constant(found.weights, F32)
        scratch = {key: scratch_buffer(key, size) for key, size in plan.scratch.items()}
        memory = Memory(packed, {key: value for key, (value, _) in scratch.items()})
        streamed = self._exceeds_cache(plan.weight_size, F32)

        def emit(e: Emitter) -> None:
            found.schedule(e, plan, memory, self.hints, streamed).emit()

        reads = [*reads_of(c.nest, skip=c.right.load.value), packed]
        reads += [c.left.load.value] * (c.left.load.value not in reads)
        written = [*(output.value for output in c.nest.outputs), *memory.scratch.values()]
        places = {packed: packed_at} | dict(scratch.values())
        parts = (plan, packed, list(memory.scratch.values()), streamed)
        return self.maker.function(name, reads, written, places, [emit], parts)

    def window(self, name: str, nest: Nest) -> Step | None:
        """The step that computes a window of bytes by constants in `dot`s."""
        plan = Planner(nest, self.target, self.hints, self.nests.constants(nest)).plan()
        found = window_dots.find(nest, plan, self.target)
        if found is None or not self.maker.is_constant(found.right.load.value):
            return None
        place = self.storage.place(found.right.load.value)
        flat = self.maker.array_at(place)
        weights, at = self.maker.constant(window_dots.pack(found, flat), found.right.load.dtype)
        places = {weights: at}
        found = found.with_nest(self.nests.relayout(found.window.nest, plan, places))

        def schedule(e: Emitter) -> None:
            DotWindowSchedule(e, found, weights, self.target, self.hints).emit()

        nest = found.window.nest
        written = [output.value for output in nest.outputs]
        reads = [*reads_of(nest), weights]
        return self.maker.function(name, reads, written, places, [schedule], found)

    def _is_large(self, c: contract.Contraction) -> bool:
        return self._exceeds_cache(contract.packed_size(c), c.right.load.dtype)

    def _exceeds_cache(self, size: DimLike, dtype: DType) -> bool:
        """Whether packed weights are streamed from beyond the second-level cache."""
        return estimate(size, self.hints) * dtype.bytes > self.target.l2 // 2

    def _packed_constant(
        self, c: contract.Contraction, tile: contract.Tile, place: Place
    ) -> tuple[contract.Contraction, narrow.Dots | None, Value, Place]:
        """The contraction of packed constants, in groups of steps where one `dot` takes them."""
        flat = self.maker.array_at(place)
        packed = contract.pack_constant(c, tile.block, flat)
        standing = Value(TensorType(c.right.load.dtype, (packed.size,)), Block(), 0, "packed")
        whole = contract.collapse_reduced(contract.with_packed_right(c, standing, tile.block))
        group = narrow.dot_group(whole, tile, self.target)
        dots: narrow.Dots | None = None
        if group:
            steps = known(whole.reduced[-1].extent)
            spare = self.storage.place(c.left.load.value).root.spare >= group - 1
            dots = narrow.Dots(group, steps, self.target.has_masks, spare)
            packed = narrow.group_constant(packed, dots.steps, group, tile.block)
            whole = narrow.grouped(whole, group, tile.block, group)
        value, at = self.maker.constant(packed, c.right.load.dtype)
        load = replace(whole.right.load, value=value)
        return replace(whole, right=replace(whole.right, load=load)), dots, value, at

    def _pack(
        self, c: contract.Contraction, tile: contract.Tile
    ) -> tuple[list[Step], Value, Place]:
        packing = contract.packing(c, tile.block)
        value = Value(TensorType(c.right.load.dtype, (packing.size,)), Block(), 0, "packed")
        place = Place(Root(RootKind.TEMP, value, packing.size), 0, (1,))
        nest = Nest(packing.iters, (Output(value, packing.address, packing.expr),))
        with self.chooser.part("pack"):
            steps = [self.nests.emit("pack", [normalise(nest)], [value], {value: place})]
        return steps, value, place
