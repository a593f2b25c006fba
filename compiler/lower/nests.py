"""Kernels of nests: constants are laid out as loops read them, then a schedule is picked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tfc.compiler.cost.choice import Candidate, best_first
from tfc.compiler.cost.expression import estimate, work
from tfc.compiler.lower import (
    transposed,
    window,
    window_rows,
)
from tfc.compiler.lower.arguments import known, reads_of, scratch_buffer
from tfc.compiler.lower.compose import Nest, Output
from tfc.compiler.lower.emitter import Emitter
from tfc.compiler.lower.group import Step
from tfc.compiler.lower.maker import KernelMaker
from tfc.compiler.lower.nest import NestSchedule
from tfc.compiler.lower.normal import normalise, reductions
from tfc.compiler.lower.plan import Plan, Planner
from tfc.compiler.lower.relayout import (
    Relayout,
    follow_reduction,
    order_reductions,
    plan_relayout,
)
from tfc.compiler.lower.storage import (
    Place,
)
from tfc.compiler.lower.window_rows_kernel import RowSchedule
from tfc.ir.body import Expr, Load, rewrite
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, product, symbol
from tfc.ir.loop.verify import THREADS


class Nests:
    """Makes kernels of nests by the schedules for all that is no product."""

    def __init__(self, maker: KernelMaker) -> None:
        self.maker = maker
        self.target = maker.target
        self.hints = maker.hints
        self.chooser = maker.chooser
        self._derived: set[Value] = set()

    def emit(
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
            constants = self.constants(nest)
            plan = Planner(nest, self.target, self.hints, constants, self.chooser).plan()
            nest = self.relayout(nest, plan, known)
            for value in reads_of(nest):
                if value not in reads and value not in written:
                    reads.append(value)
            schedules.append(lambda e, n=nest, p=plan: self._nest(e, n, p))  # type: ignore[misc]
            parts.append((nest, plan))
        return self.maker.function(name, reads, written, known, schedules, parts)

    def rows(self, name: str, nest: Nest) -> Step | None:
        """The step that folds windows along stored rows, where that is the faster way."""
        found = window_rows.match(nest, self.target)
        if found is None:
            return None
        plan = window_rows.make_plan(found, self.target, self.chooser)
        copies = estimate(product(it.extent for it in found.outer), self.hints)
        elements = estimate(product(it.extent for it in nest.iters), self.hints)
        plain = work(nest.outputs[0].expr, self.hints) * elements / plan.lanes
        candidates = [
            Candidate("rows", plan.cycles * known(plan.bands.extent) * copies, True),
            Candidate("nest", plain, False),
        ]
        if not self.chooser.choose("windows", best_first(candidates)):
            return None
        size = plan.size * symbol(THREADS)
        scratch, place = scratch_buffer("rows", size, found.load.dtype)
        written = [nest.outputs[0].value, scratch]

        def schedule(e: Emitter) -> None:
            RowSchedule(e, plan, scratch, self.hints).emit()

        reads = reads_of(nest)
        return self.maker.function(name, reads, written, {scratch: place}, [schedule], plan)

    def _nest(self, e: Emitter, nest: Nest, plan: Plan) -> None:
        found = window.match(nest, plan, self.target, self.hints, self.chooser)
        turned = None if e.aliased else transposed.match(nest, self.target)
        if found is not None:
            window.WindowSchedule(e, found, self.target, self.hints).emit()
        elif turned is not None:
            transposed.TransposedSchedule(e, turned, self.hints).emit()
        else:
            NestSchedule(e, nest, plan, self.target, self.hints).emit()

    def constants(self, nest: Nest) -> set[Value]:
        """The constants that a nest reads, and those laid out anew for it."""
        found = set()
        for value in reads_of(nest):
            derived = value in self._derived
            if derived or (value.op is not None and self.maker.is_constant(value)):
                found.add(value)
        return found

    def relayout(self, nest: Nest, plan: Plan, places: dict[Value, Place]) -> Nest:
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
        nest = order_reductions(nest, self.constants(nest))
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
        constants = self.constants(nest)
        made: dict[tuple[Value, DimLike], Load] = {}

        def change(node: Expr) -> Expr | None:
            if not isinstance(node, Load) or node.value not in constants:
                return None
            place = places.get(node.value) or self.maker.storage.place(node.value)
            new = choose(node, place.root.size)
            if new is None:
                return None
            key = (node.value, new.source)
            if key not in made:
                data = new.apply(self.maker.array_at(place))
                value, at = self.maker.constant(data, node.dtype)
                places[value] = at
                self._derived.add(value)
                made[key] = Load(value, (new.address,), node.dtype)
            return made[key]

        outputs = tuple(Output(o.value, o.address, rewrite(o.expr, change)) for o in nest.outputs)
        return Nest(nest.iters, outputs)
