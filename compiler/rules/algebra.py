"""Rules of arithmetic and logic, as data. Constants stand at the right of commutative ops.

What needs attributes, counts of uses or loops is a function, in `movement` and `scale`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from tfc.compiler.rewrite import Const, Fp, Literal, Match, Rule, Var, apply
from tfc.ir.build import tensor_type
from tfc.ir.types import F16

x, y, z = Var("x"), Var("y"), Var("z")
c, d = Const("c"), Const("d")
TRUE, FALSE = 1, 0


def _no_growth(found: Match) -> bool:
    """Whether combining c and d needs no more elements than the larger of them."""
    left, right = tensor_type(found["c"]).shape, tensor_type(found["d"]).shape
    rank = max(len(left), len(right))
    left, right = ((1,) * (rank - len(shape)) + shape for shape in (left, right))
    grown = [a != b and a == 1 for a, b in zip(left, right, strict=True)]
    grown_too = [a != b and b == 1 for a, b in zip(left, right, strict=True)]
    return not (any(grown) and any(grown_too))


def _moderate(found: Match) -> bool:
    """Whether c and d, and their product and quotient, are far from the limits; no growth."""
    far = 16 if tensor_type(found["c"]).dtype == F16 else 1000
    return _no_growth(found) and all(
        1 / far <= abs(v) <= far for name in "cd" for v in _elements(found, name)
    )


def _adds_up(sign: int) -> Callable[[Match], bool]:
    """A guard: c + sign * d neither overflows nor cancels; no growth. Integers may do both.

    Where they cancel the rounding may be meant: (x + 3 * 2**22) - 3 * 2**22 is a round of f32.
    """

    def guard(found: Match) -> bool:
        if not _no_growth(found):
            return False
        dtype = tensor_type(found["c"]).dtype
        if not dtype.is_float:
            return True
        c, d = _elements(found, "c"), _elements(found, "d")
        pairs = zip(c, d, strict=True) if len(c) == len(d) else itertools.product(c, d)
        return all(_is_plain_sum(p, sign * q, _LARGEST[dtype.name]) for p, q in pairs)

    return guard


_SUM, _DIFFERENCE = _adds_up(1), _adds_up(-1)
_LARGEST = {"f16": 65504.0, "bf16": 3.38e38, "f32": 3.4e38, "f64": 1.79e308}


def _is_plain_sum(p: float, q: float, largest: float) -> bool:
    if not (math.isfinite(p) and math.isfinite(q)):
        return True
    return max(abs(p), abs(q)) / 2 <= abs(p + q) <= largest


def _elements(found: Match, name: str) -> tuple[float, ...]:
    """The elements of a constant; one NaN, which is in no range, where they are not at hand."""
    op = found[name].op
    assert op is not None
    return getattr(op.attrs.value, "values", (math.nan,))


def _power_of_two(found: Match) -> bool:
    """Whether every element of c is a power of two with a normal reciprocal in all float types."""
    return all(
        math.isfinite(v) and abs(math.frexp(v)[0]) == 0.5 and 2.0**-14 <= abs(v) <= 2.0**14
        for v in _elements(found, "c")
    )


RULES = (
    # -- neutral elements
    Rule("add-negative-zero", x + Literal(-0.0), x, kinds="f"),
    Rule("add-zero", x + 0, x, fp=Fp.REASSOCIATING),
    Rule("sub-zero", x - 0, x),
    Rule("mul-one", x * 1, x),
    Rule("div-one", x / 1, x),
    Rule("pow-one", x**1, x),
    Rule("and-true", apply("and", x, TRUE), x, kinds="b"),
    Rule("or-false", apply("or", x, FALSE), x, kinds="b"),
    Rule("xor-false", apply("xor", x, FALSE), x, kinds="b"),
    # -- signs
    Rule("neg-of-neg", apply("neg", -x), x),
    Rule("mul-minus-one", x * -1, -x, kinds="fi"),
    Rule("div-minus-one", x / -1, -x, kinds="f"),
    Rule("add-of-neg", x + (-y), x - y),
    Rule("add-to-neg", (-x) + y, y - x),
    Rule("sub-of-neg", x - (-y), x + y),
    Rule("mul-of-negs", (-x) * (-y), x * y),
    Rule("mul-neg-by-constant", (-x) * c, x * (-c)),
    Rule("neg-of-sub", -(x - y), y - x, fp=Fp.REASSOCIATING),
    Rule("abs-of-neg", apply("abs", -x), apply("abs", x), kinds="fi"),
    # -- the same twice
    Rule("min-of-same", apply("min", x, x), x),
    Rule("max-of-same", apply("max", x, x), x),
    Rule("and-of-same", apply("and", x, x), x),
    Rule("or-of-same", apply("or", x, x), x),
    Rule("not-of-not", apply("not", apply("not", x)), x),
    Rule("bitwise-not-of-same", apply("bitwise_not", apply("bitwise_not", x)), x),
    Rule("not-of-eq", apply("not", apply("eq", x, y)), apply("ne", x, y)),
    Rule("not-of-ne", apply("not", apply("ne", x, y)), apply("eq", x, y)),
    # -- choices
    Rule("select-true", apply("select", TRUE, x, y), x),
    Rule("select-false", apply("select", FALSE, x, y), y),
    Rule("select-of-same", apply("select", z, x, x), x),
    Rule("select-not", apply("select", apply("not", z), x, y), apply("select", z, y, x)),
    # -- cheaper ops
    Rule("pow-two", x**2, x * x),
    Rule("pow-three", x**3, (x * x) * x, fp=Fp.REASSOCIATING),
    Rule("pow-minus-one", x**-1, Literal(1) / x, fp=Fp.REASSOCIATING, kinds="f"),
    # pow(-inf, 0.5) is inf and pow(-0.0, 0.5) is 0.0; square roots are NaN and -0.0.
    Rule(
        "pow-half",
        x**0.5,
        apply(
            "select",
            apply("eq", x, Literal(-math.inf)),
            Literal(math.inf),
            apply("abs", apply("sqrt", x)),
        ),
        fp=Fp.REASSOCIATING,
        kinds="f",
    ),
    Rule("div-by-power-of-two", x / c, x * (Literal(1) / c), guard=_power_of_two, kinds="f"),
    Rule("mul-by-own-sigmoid", x * apply("sigmoid", x), apply("silu", x), fp=Fp.REASSOCIATING),
    Rule("mul-of-own-sigmoid", apply("sigmoid", x) * x, apply("silu", x), fp=Fp.REASSOCIATING),
    # -- inverses, where nothing overflows and no operand is out of the domain
    Rule("exp-of-log", apply("exp", apply("log", x)), x, fp=Fp.FAST),
    Rule("log-of-exp", apply("log", apply("exp", x)), x, fp=Fp.FAST),
    Rule("sqrt-of-square", apply("sqrt", x * x), apply("abs", x), fp=Fp.FAST),
    # -- constants next to each other
    Rule("add-add", (x + c) + d, x + (c + d), fp=Fp.REASSOCIATING, guard=_SUM),
    Rule("sub-add", (x - c) + d, x + (d - c), fp=Fp.REASSOCIATING, guard=_DIFFERENCE),
    Rule("add-sub", (x + c) - d, x + (c - d), fp=Fp.REASSOCIATING, guard=_DIFFERENCE),
    Rule("sub-sub", (x - c) - d, x - (c + d), fp=Fp.REASSOCIATING, guard=_SUM),
    Rule("mul-mul", (x * c) * d, x * (c * d), fp=Fp.REASSOCIATING, guard=_moderate, kinds="f"),
    Rule("mul-mul-int", (x * c) * d, x * (c * d), guard=_no_growth, kinds="iu"),
    Rule("div-mul", (x / c) * d, x * (d / c), fp=Fp.REASSOCIATING, guard=_moderate, kinds="f"),
    Rule("mul-div", (x * c) / d, x * (c / d), fp=Fp.REASSOCIATING, guard=_moderate, kinds="f"),
    Rule("div-div", (x / c) / d, x / (c * d), fp=Fp.REASSOCIATING, guard=_moderate, kinds="f"),
)
