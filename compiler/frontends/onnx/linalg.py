"""Operators of linear algebra that are no products."""

from __future__ import annotations

from tfc.compiler.frontends.onnx.context import Context, Results, Rule


def _det(ctx: Context) -> Results:
    x, shape = ctx.x(), ctx.shape()
    if len(shape) >= 2:
        ctx.equate(shape[-2], shape[-1])
    found: Results = ctx.b.det(x)
    return found


RULES: dict[str, tuple[Rule, ...]] = {"Det": (Rule(_det),)}
