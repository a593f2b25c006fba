"""Collects what ops take for granted of symbolic dims, before rewrites can remove the ops.

The list goes into the function's attributes as (dim, message): lowering makes `main` check that
each dim is 0.
"""

from __future__ import annotations

from tfc.compiler.passman import PassContext
from tfc.ir.build import tensor_type
from tfc.ir.core import Module
from tfc.ir.dims import DimLike

ATTRIBUTE = "assumes"


def assume(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        found: dict[DimLike, str] = dict(function.attrs.get(ATTRIBUTE, ()))
        for op in function.block.walk():
            rule = op.defn.assumes  # type: ignore[attr-defined]
            if rule is None:
                continue
            for assumption in rule([tensor_type(v) for v in op.operands], op.attrs):
                place = f"{op.loc}: " if str(op.loc) else ""
                found.setdefault(assumption.zero, f"{place}{assumption.message}")
        if found:
            function.attrs[ATTRIBUTE] = tuple(found.items())
