"""Products and convolutions by constants in fewer multiplications: which algorithm, if any.

It says what to emit and with which weights; the caller makes the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from tfc.compiler.lower import strassen, winograd
from tfc.compiler.lower.contract import Contraction
from tfc.compiler.lower.planes import PlanePlan, PlaneSchedule
from tfc.compiler.lower.strassen_kernel import StrassenSchedule
from tfc.compiler.lower.winograd_kernel import WinogradSchedule
from tfc.compiler.target import Target
from tfc.ir.arrays import decode

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fast:
    """An algorithm for a contraction: its plan, its packed weights, what emits it."""

    contraction: Contraction
    plan: PlanePlan
    weights: Array
    schedule: Callable[..., PlaneSchedule[Any]]


def choose(
    c: Contraction,
    constant: Callable[[], Array],
    target: Target,
    hints: Mapping[str, int],
    algorithms: frozenset[str],
) -> Fast | None:
    """Return how to compute `c` in fewer multiplications; None where that is no gain.

    constant: gives the elements that the right side reads. algorithms: of `planes.FAST`.
    """
    found = _winograd(c, constant, target, hints) if "winograd" in algorithms else None
    if found is None and "strassen" in algorithms:
        found = _strassen(c, constant, target)
    return found


def _winograd(
    c: Contraction, constant: Callable[[], Array], target: Target, hints: Mapping[str, int]
) -> Fast | None:
    conv = winograd.match(c)
    if conv is None:
        return None
    weights = winograd.weights_of(conv, decode(constant(), c.right.load.dtype))
    plan = winograd.make_plan(conv, weights, target, hints)
    if plan is None:
        return None
    return Fast(c, plan, winograd.pack_weights(plan, weights), WinogradSchedule)


def _strassen(c: Contraction, constant: Callable[[], Array], target: Target) -> Fast | None:
    product = strassen.match(c)
    plan = strassen.make_plan(product, target) if product is not None else None
    if plan is None:
        return None
    weights = strassen.weights_of(plan, constant())
    if not strassen.is_exact_enough(plan, weights):
        return None
    return Fast(plan.contraction, plan, strassen.pack_weights(plan, weights), StrassenSchedule)
