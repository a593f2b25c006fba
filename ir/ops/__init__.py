"""The graph ops: one module per family, listed here by name. Importing this registers them all."""

from __future__ import annotations

from tfc.ir.ops import (
    activation,
    const,
    contract,
    control,
    conv,
    convert,
    elementwise,
    flow,
    formats,
    index,
    logic,
    movement,
    norm,
    parts,
    pool,
    quant,
    reduce,
    resize,
    scan,
    scatter,
)

FAMILIES = (
    const,
    control,
    flow,
    elementwise,
    convert,
    formats,
    logic,
    activation,
    movement,
    parts,
    reduce,
    contract,
    conv,
    pool,
    norm,
    quant,
    index,
    resize,
    scan,
    scatter,
)
