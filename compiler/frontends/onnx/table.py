"""Every operator that the front end knows, by name. Families are listed here, not discovered."""

from __future__ import annotations

from tfc.compiler.frontends.onnx import (
    branches,
    create,
    einsum,
    elementwise,
    flow,
    indexing,
    integer,
    linalg,
    movement,
    normalize,
    patches,
    randoms,
    recurrent,
    reduce,
    resize,
    sampling,
    sequences,
    signal,
    window,
)
from tfc.compiler.frontends.onnx.context import Rule

FAMILIES = (
    branches,
    elementwise,
    movement,
    reduce,
    window,
    normalize,
    resize,
    einsum,
    create,
    flow,
    recurrent,
    integer,
    indexing,
    patches,
    sampling,
    signal,
    sequences,
    randoms,
    linalg,
)

RULES: dict[str, tuple[Rule, ...]] = {}
for family in FAMILIES:
    assert not RULES.keys() & family.RULES.keys(), "two families have a rule for one operator"
    RULES.update(family.RULES)
