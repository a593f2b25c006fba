"""Short expansions of functions whose values are only rounded to bf16, where the user chose it.

Their error is a small part of that of the rounding: 2**-12 of the value, where bf16 has 2**-8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tfc.compiler.lower.compose import Nest, Output
from tfc.compiler.lower.math_base import LOG2_E, SINGLE
from tfc.ir.body import Apply, Expr, ExprBuilder
from tfc.ir.types import BF16, F32, I32

# erf(x) / x in x*x up to LARGEST_ERF, where their value is 1.
LARGEST_ERF = 2.75
ERF = (1.1281174, -0.37304145, 0.1063464, -0.021352086, 0.0027763338, -0.00020584885, 6.5238964e-06)
# e**r on |r| <= ln(2) / 2.
EXP = (0.99992793, 1.0001645, 0.50496824, 0.16566743)
LN_2 = 0.6931471805599453
# What e**x is computed for: it is infinite, or less than all normal numbers, beyond.
LEAST_EXP, LARGEST_EXP = -87.6, 88.8
# What neither takes a value apart nor makes its relative error much larger.
PASSED = frozenset({"add", "mul", "div", "neg"})


def round_early(nest: Nest) -> Nest:
    """Return the nest with short expansions in what it rounds to bf16."""
    outputs = tuple(_rounded(output) for output in nest.outputs)
    return nest if outputs == nest.outputs else replace(nest, outputs=outputs)


def _rounded(output: Output) -> Output:
    expr = output.expr
    if not isinstance(expr, Apply) or expr.name != "cast" or expr.dtype != BF16:
        return output
    (source,) = expr.args
    found = _shortened(source, {})
    if found is source:
        return output
    return replace(output, expr=Apply("cast", (found,), BF16))


def _shortened(expr: Expr, known: dict[int, Expr]) -> Expr:
    """The expression with short expansions where only products, quotients and sums follow."""
    if not isinstance(expr, Apply) or expr.dtype != F32:
        return expr
    if id(expr) not in known:
        known[id(expr)] = _replaced(expr, known)
    return known[id(expr)]


def _replaced(expr: Apply, known: dict[int, Expr]) -> Expr:
    expansion = _EXPANSIONS.get(expr.name)
    if expansion is not None:
        return expansion(ExprBuilder(), expr.args[0])
    if expr.name not in PASSED:
        return expr
    args = tuple(_shortened(arg, known) for arg in expr.args)
    same = all(new is old for new, old in zip(args, expr.args, strict=True))
    return expr if same else Apply(expr.name, args, expr.dtype)


def _horner(b: ExprBuilder, x: Expr, coefficients: tuple[float, ...]) -> Expr:
    *rest, last = coefficients
    total = b.const(last, F32)
    for coefficient in reversed(rest):
        total = b.fma(total, x, b.const(coefficient, F32))
    return total


def _within(b: ExprBuilder, x: Expr, low: float, high: float) -> Expr:
    """x within limits; NaN stays."""
    for name, number in (("gt", high), ("lt", low)):
        limit = b.const(number, F32)
        x = b.select(b.apply(name, x, limit), limit, x)
    return x


def _erf(b: ExprBuilder, x: Expr) -> Expr:
    x = _within(b, x, -LARGEST_ERF, LARGEST_ERF)
    return b.mul(x, _horner(b, b.mul(x, x), ERF))


def _exp(b: ExprBuilder, x: Expr) -> Expr:
    """Twice 2**(n - 1) * e**r with n = round(x / ln 2): so n = 128 fits, and the least is zero."""
    x = _within(b, x, LEAST_EXP, LARGEST_EXP)
    shifted = b.fma(x, b.const(LOG2_E, F32), b.const(SINGLE.round_bias, F32))
    n = b.sub(shifted, b.const(SINGLE.round_bias, F32))
    power = _horner(b, b.fma(n, b.const(-LN_2, F32), x), EXP)
    digits, half = b.const(SINGLE.digits, I32), b.const(SINGLE.one_scaled(-1), I32)
    exponent = b.add(b.shl(b.bitcast(shifted, I32), digits), half)
    product = b.mul(power, b.bitcast(exponent, F32))
    return b.add(product, product)


_EXPANSIONS: dict[str, Callable[[ExprBuilder, Expr], Expr]] = {"erf": _erf, "exp": _exp}
