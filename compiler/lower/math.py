"""Expands the elementary functions (`ir.loop.scalar.MATH`) into core scalar ops.

One branchless sequence each, for scalars and vectors of f32 and f64 (pow: of integers too), shared
by all targets. No table, no library call. Start at `expand`; the functions are in `math_exp`,
`math_log` and `math_trig`, their error bounds in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfc.compiler.lower import math_exp, math_log, math_trig
from tfc.ir.core import Value
from tfc.ir.loop.build import LoopBuilder

EXPANSIONS: dict[str, Callable[..., Value]] = {
    "exp": math_exp.exp,
    "expm1": math_exp.expm1,
    "sinh": math_exp.sinh,
    "cosh": math_exp.cosh,
    "tanh": math_exp.tanh,
    "erf": math_exp.erf,
    "log": math_log.log,
    "log1p": math_log.log1p,
    "asinh": math_log.asinh,
    "acosh": math_log.acosh,
    "atanh": math_log.atanh,
    "pow": math_log.pow,
    "sin": math_trig.sin,
    "cos": math_trig.cos,
    "tan": math_trig.tan,
    "asin": math_trig.asin,
    "acos": math_trig.acos,
    "atan": math_trig.atan,
}


def expand(builder: LoopBuilder, name: str, args: Sequence[Value]) -> Value:
    """Emit function `name` of f32 or f64 values as core ops; 16-bit floats are cast before."""
    return EXPANSIONS[name](builder, *args)
