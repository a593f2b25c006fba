"""Exponentials of numbers that are never positive, as a softmax takes them: no less exact, shorter.

e**x of the general expansion (`math_exp`) takes care of numbers up to 2**128. Here none is above 1,
so one factor of 2**64 spans all that is not zero, denormals included.
"""

from __future__ import annotations

from tfc.compiler.lower.math_base import LOG2_E, SINGLE
from tfc.compiler.lower.math_exp import EXP_SINGLE
from tfc.ir.body import Apply, Expr, ExprBuilder, Keep, Load, Reduce, rewrite
from tfc.ir.core import Value
from tfc.ir.dims import symbol_name
from tfc.ir.types import F32, I32

# Below, e**x is zero; the factor by which results are computed too large.
LEAST, LIFT = -104.0, 64
# Added to n, it makes the last bits of the sum those of the exponent of 2**(n + LIFT).
ROUNDING = SINGLE.round_bias + SINGLE.bias + LIFT


def with_decays(expr: Expr, row: Value) -> Expr:
    """The expression with short expansions of e**(x - greatest x), x being the row in memory."""

    def change(node: Expr) -> Expr | None:
        match node:
            case Apply("exp", (Apply("sub", (Load() as x, Reduce() as top)) as less,)):
                if node.dtype == F32 and _is_greatest(top, x, row):
                    return decay(ExprBuilder(), less)
        return None

    return rewrite(expr, change)


def _is_greatest(top: Reduce, x: Load, row: Value) -> bool:
    """Whether `top` is the greatest of the numbers in memory of which x is one."""
    body = top.body
    if top.kind != "max" or len(top.iters) != 1 or not isinstance(body, (Load, Keep)):
        return False
    if x.value is not row or body.value is not row:
        return False
    start = body.index[0] - top.iters[0].dim  # type: ignore[operator]
    return symbol_name(x.index[0] - start) is not None  # type: ignore[operator]


def decay(b: ExprBuilder, x: Expr) -> Expr:
    """e**x for x <= 0 of f32: 2**-64 * (2**(n + 64) * e**r) with n = round(x / ln 2).

    Where that rounds to zero it is not left to the last product, which takes Zen 5 forty cycles
    more.
    """

    def number(value: float) -> Expr:
        return b.const(value, F32)

    gone = b.apply("lt", x, number(LEAST))
    x = b.select(gone, number(LEAST), x)
    shifted = b.fma(x, number(LOG2_E), number(ROUNDING))
    n = b.sub(shifted, number(ROUNDING))
    r = b.fma(n, number(-SINGLE.ln2[0]), x)
    r = b.fma(n, number(-SINGLE.ln2[1]), r)
    total = number(EXP_SINGLE[-1])
    for coefficient in (*EXP_SINGLE[-2::-1], 1.0, 1.0):
        total = b.fma(total, r, number(coefficient))
    scale = b.bitcast(b.shl(b.bitcast(shifted, I32), b.const(SINGLE.digits, I32)), F32)
    return b.mul(b.mul(total, scale), b.select(gone, number(0.0), number(2.0**-LIFT)))
