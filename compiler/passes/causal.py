"""Finds the diagonal of a causal mask: behind it no key has any weight, whatever the scores are.

No pattern of ops is looked for: what a softmax is taken of is evaluated in intervals, for all
places behind a diagonal at once (`triangle`). Start at `diagonal`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tfc.compiler.passes.triangle import KEY, ROW, Constants, Interval, Region, Triangle
from tfc.ir.attrs import Dense
from tfc.ir.body import Apply, Expr, ExprBuilder, Index, Load, Number, Reduce
from tfc.ir.build import tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import Dim, DimLike, bounds
from tfc.ir.opdef import Kind, OpDef
from tfc.ir.ops.const import constant
from tfc.ir.ops.control import MODERATE

# The exponential of anything below this is 0, in f64 too.
VANISHES = -1000.0
# Elements that are looked through on the way to where a mask comes from.
MOST_ELEMENTS = 200
SOLID = (Kind.ELEMENTWISE, Kind.INJECTIVE, Kind.CONSTANT)


def diagonal(
    scores: Value, weights: Value, reduces: Sequence[Op], constants: Constants
) -> DimLike | None:
    """The k for which no key behind query + k has a weight, None where none is known.

    It holds for scores that are moderate numbers, and then the keys before it, of which there is
    always the first, also decide whether the row is one of NaN. reduces: the row reductions on the
    way from scores to weights.
    """
    for top, total in (reduces, reduces[::-1]) if len(reduces) == 2 else ():
        softmax = _Softmax(top.operands[0], top.result, total.operands[0], total.result)
        if softmax.fits():
            return _Finder(scores, weights, softmax, constants).find()
    return None


@dataclass(frozen=True)
class _Softmax:
    """power = exp(x - greatest), and its sum, `total`; greatest is that of a row of x."""

    x: Value
    greatest: Value
    power: Value
    total: Value

    def fits(self) -> bool:
        """Whether the values are what they are called."""
        match _element(self.power, {self.x, self.greatest}):
            case Apply("exp", (Apply("sub", (Load() as x, Load() as top)),)):
                fits = x.value is self.x and top.value is self.greatest
                return fits and _folds(self.greatest, "max") and _folds(self.total, "sum")
        return False


def _folds(result: Value, kind: str) -> bool:
    """Whether `result` is a reduction of this kind of its operand as it is."""
    assert result.op is not None
    element = _element(result, set(result.op.operands))
    return isinstance(element, Reduce) and element.kind == kind and isinstance(element.body, Load)


class _Finder:
    """Tries diagonals for a softmax between `scores` and `weights`."""

    def __init__(
        self, scores: Value, weights: Value, softmax: _Softmax, constants: Constants
    ) -> None:
        rows, self.keys = tensor_type(scores).shape[-2:]
        self.triangle = Triangle(rows, self.keys, constants)
        self.x = _element(softmax.x, {scores})
        self.weights = _element(weights, {softmax.power, softmax.total})
        self.of_scores: dict[Value, Interval] = {scores: (-MODERATE, MODERATE)}
        self.of_weights = {softmax.power: (0.0, 0.0), softmax.total: (1.0, math.inf)}

    def find(self) -> DimLike | None:
        for k in self.triangle.diagonals(self.x):
            _, behind = bounds(self.keys - 1 - k, {})
            if (behind is None or behind > 0) and self._holds(k):
                return k
        return None

    def _holds(self, k: DimLike) -> bool:
        behind = Region(k + 1, self.keys - 1)
        x = self.triangle.evaluate(self.x, behind, self.of_scores)
        if x is None or not (x[1] == -math.inf or x[1] - self._least(k) < VANISHES):
            return False
        return self.triangle.evaluate(self.weights, behind, self.of_weights) == (0.0, 0.0)

    def _least(self, k: DimLike) -> float:
        """What the greatest x of a row is at least: its x on the diagonal, if each row has one."""
        first, _ = bounds(k, {})
        if first is None or first < 0:
            return -math.inf
        x = self.triangle.evaluate(self.x, Region(k, k), self.of_scores)
        return -math.inf if x is None else x[0]


class _Through(ExprBuilder):
    """Inlines what values are computed by, up to the values in `stops`."""

    def __init__(self, stops: set[Value]) -> None:
        self.stops = stops
        self._made: dict[tuple[Value, tuple[Index, ...]], Expr] = {}

    def load(self, value: Value, index: tuple[Index, ...]) -> Expr:
        key = (value, index)
        if key not in self._made:
            stop = value in self.stops or len(self._made) > MOST_ELEMENTS
            self._made[key] = super().load(value, index) if stop else self.element(value, index)
        return self._made[key]

    def element(self, value: Value, index: tuple[Index, ...]) -> Expr:
        op = value.op
        if op is None:
            return super().load(value, index)
        defn = op.defn
        assert isinstance(defn, OpDef)
        if (
            defn is constant
            and isinstance(op.attrs.value, Dense)
            and len(op.attrs.value.values) == 1
        ):
            return Number(op.attrs.value.values[0], op.attrs.dtype)
        known = all(isinstance(i, (int, Dim)) for i in index)
        if defn is constant or defn.kind not in SOLID or defn.body is None or not known:
            return super().load(value, index)
        return defn.body(self, op, value.index, index)


def _element(value: Value, stops: set[Value]) -> Expr:
    """An element of `value`, in its last two axes at ROW and KEY, as far as `stops`."""
    builder = _Through(stops)
    axes = tensor_type(value).rank
    index = (*(builder.iter(1, "batch").dim for _ in range(axes - 2)), ROW, KEY)[-axes:]
    if value in stops:
        return builder.load(value, index)
    if value.op is not None and value.op.defn.kind is Kind.REDUCTION:  # type: ignore[attr-defined]
        return value.op.defn.body(builder, value.op, value.index, index)  # type: ignore[attr-defined, no-any-return]
    return builder.element(value, index)
