"""Keeps costly row values in memory between the stages of a row kernel.

In softmax, exp(x - max) is needed by the sum and again by the quotient. The first stage writes
it into the output's own row, the next reads it there instead of computing it again.
"""

from __future__ import annotations

from tfc.compiler.cost.expression import work
from tfc.compiler.cost.nest import KEPT_WORK
from tfc.compiler.lower.compose import Composer, Nest, Output
from tfc.compiler.lower.normal import reductions
from tfc.ir.body import Expr, Keep, Load, Number, Reduce, loads, rewrite
from tfc.ir.core import Value


def candidate(composer: Composer, result: Value) -> Value | None:
    """The inside value worth keeping in the memory of `result`, which has its type."""
    found: list[tuple[float, Value]] = []
    for value, exprs in composer.uses().items():
        if value.type != result.type or len(exprs) < 2 or value is result:
            continue
        cost = _own_work(exprs[0])
        if cost >= KEPT_WORK:
            found.append((cost, value))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _own_work(expr: Expr) -> float:
    """The work of an element beside its reductions, which are done once a row."""
    return work(rewrite(expr, lambda n: Number(0, n.dtype) if isinstance(n, Reduce) else None), {})


def keep_first(composer: Composer, nest: Nest, staged: Value) -> Nest | None:
    """Let the first reduction that reads `staged` compute and keep it.

    None where no reduction reads it, so that nothing would fill the memory.
    """
    first = next((r for r in reductions(nest) if _loads(r.body, staged)), None)
    if first is None:
        return None
    result = nest.outputs[0].value

    def keep(node: Expr) -> Expr | None:
        if not isinstance(node, Load) or node.value is not staged:
            return None
        element = composer.element(staged, composer.index_of(node))
        return Keep(element, result, node.index, node.dtype)

    def read(node: Expr) -> Expr | None:
        if isinstance(node, Load) and node.value is staged:
            return Load(result, node.index, node.dtype)
        return None

    filled = Reduce(first.kind, first.iters, rewrite(first.body, keep), first.dtype, first.last)
    outputs = tuple(
        Output(o.value, o.address, rewrite(o.expr, read, {id(first): filled})) for o in nest.outputs
    )
    return Nest(nest.iters, outputs)


def _loads(expr: Expr, value: Value) -> bool:
    return any(load.value is value for load in loads(expr))
