"""Products and convolutions by constants in fewer multiplications: what can be used.

It says what to emit and with which weights; the caller chooses and makes the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.typing as npt

from tfc.compiler.cost import contraction as cost
from tfc.compiler.cost.choice import Candidate, Chooser
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.lower import strassen, winograd
from tfc.compiler.lower.contract import Contraction, product_of
from tfc.compiler.lower.planes import PlanePlan, PlaneSchedule
from tfc.compiler.lower.strassen_kernel import StrassenSchedule
from tfc.compiler.lower.winograd_kernel import WinogradSchedule
from tfc.compiler.target import Target
from tfc.ir.arrays import decode
from tfc.ir.types import F32

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fast:
    """An algorithm for a contraction: its plan, its packed weights, what emits it."""

    contraction: Contraction
    plan: PlanePlan
    weights: Array
    schedule: Callable[..., PlaneSchedule[Any]]


Make = Callable[[], "Fast | None"]


def candidates(
    c: Contraction,
    constant: Callable[[], Array],
    target: Target,
    hints: Mapping[str, int],
    algorithms: frozenset[str],
    direct: float,
    chooser: Chooser,
) -> list[Candidate[Make]]:
    """What can compute `c` in fewer multiplications; each gives None where it is not exact enough.

    constant: gives the elements that the right side reads. algorithms: of `planes.FAST`.
    direct: cycles of the register-blocked kernel. chooser: decides what is left to decide.
    """
    found: list[Candidate[Make]] = []
    if "winograd" in algorithms:
        found += _winograd(c, constant, target, hints, chooser)
    if "strassen" in algorithms:
        found += _strassen(c, constant, target, direct)
    return [x for x in found if x.cycles < math.inf]


def _winograd(
    c: Contraction,
    constant: Callable[[], Array],
    target: Target,
    hints: Mapping[str, int],
    chooser: Chooser,
) -> list[Candidate[Make]]:
    conv = winograd.match(c)
    if conv is None:
        return []

    def make(blocks: list[Candidate[winograd.Plan]]) -> Fast | None:
        weights = winograd.weights_of(conv, decode(constant(), c.right.load.dtype))
        if not winograd.is_exact_enough(blocks[0].value, weights):
            return None
        plan = chooser.choose("block", blocks)
        return Fast(c, plan, winograd.pack_weights(plan, weights), WinogradSchedule)

    found: list[Candidate[Make]] = []
    for plans in winograd.plans(conv, target, hints):
        blocks = [winograd.candidate(plan, target, hints) for plan in plans]
        name, cycles = plans[0].form.name, blocks[0].cycles
        found.append(Candidate(name, cycles, partial(make, blocks)))
    return found


def _strassen(
    c: Contraction, constant: Callable[[], Array], target: Target, direct: float
) -> list[Candidate[Make]]:
    product = strassen.match(c)
    plan = strassen.make_plan(product, target) if product is not None else None
    if plan is None:
        return []

    def make() -> Fast | None:
        weights = strassen.weights_of(plan, constant())
        if not strassen.is_exact_enough(plan, weights):
            return None
        return Fast(plan.contraction, plan, strassen.pack_weights(plan, weights), StrassenSchedule)

    machine, size = machine_of(target), product_of(c, target, target.lanes(F32), {})
    return [Candidate("strassen", cost.strassen_cycles(machine, size, direct), make)]
