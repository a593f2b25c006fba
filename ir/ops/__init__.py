"""The graph ops: one module per family, listed here by name. Importing this registers them all."""

from __future__ import annotations

from tfc.ir.ops import const, control

FAMILIES = (const, control)
