"""Operators that fold axes away, and running sums."""

from __future__ import annotations

from tfc.compiler.frontends.onnx.context import Context, Results, Rule
from tfc.ir.core import Value

# Since when the axes are an operand.
_AXES_OPERAND = 18
_SUM_AXES_OPERAND = 13


def _reduction(name: str, axes_operand: int = _AXES_OPERAND) -> tuple[Rule, ...]:
    def build(ctx: Context) -> Results:
        x, rank = ctx.x(), ctx.type().rank
        if ctx.opset < axes_operand:
            axes = ctx.integers("axes")
        else:
            axes = ctx.ints_of(1, "axes") if ctx.has(1) else None
        keepdims, keep = ctx.flag("keepdims", True), ctx.flag("noop_with_empty_axes")
        if not axes:
            axes = () if keep else tuple(range(rank))
        found: Value = getattr(ctx.b, name)(x, axes=ctx.axes(axes, rank), keepdims=keepdims)
        return found

    return (Rule(build),)


def _arg(name: str) -> tuple[Rule, ...]:
    def build(ctx: Context) -> Results:
        axis = ctx.axis(ctx.integer("axis", 0), ctx.type().rank)
        keepdims, last = ctx.flag("keepdims", True), ctx.flag("select_last_index")
        found: Value = getattr(ctx.b, name)(ctx.x(), axis=axis, keepdims=keepdims, last=last)
        return found

    return (Rule(build),)


def _scan(name: str) -> tuple[Rule, ...]:
    def build(ctx: Context) -> Results:
        given = ctx.ints_of(1, "axis")
        if len(given) != 1:
            raise ctx.malformed(f"axis holds {len(given)} numbers")
        found: Value = getattr(ctx.b, name)(
            ctx.x(),
            axis=ctx.axis(given[0], ctx.type().rank),
            exclusive=ctx.flag("exclusive"),
            reverse=ctx.flag("reverse"),
        )
        return found

    return (Rule(build),)


RULES: dict[str, tuple[Rule, ...]] = {
    "ArgMax": _arg("argmax"),
    "ArgMin": _arg("argmin"),
    "CumProd": _scan("cumprod"),
    "CumSum": _scan("cumsum"),
    "ReduceL1": _reduction("reduce_l1"),
    "ReduceL2": _reduction("reduce_l2"),
    "ReduceLogSum": _reduction("reduce_log_sum"),
    "ReduceLogSumExp": _reduction("reduce_log_sum_exp"),
    "ReduceMax": _reduction("reduce_max"),
    "ReduceMean": _reduction("reduce_mean"),
    "ReduceMin": _reduction("reduce_min"),
    "ReduceProd": _reduction("reduce_prod"),
    "ReduceSum": _reduction("reduce_sum", _SUM_AXES_OPERAND),
    "ReduceSumSquare": _reduction("reduce_sum_square"),
}
