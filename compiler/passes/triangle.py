"""Intervals of expressions over the part of a matrix between two of its diagonals.

Comparisons of positions are decided by how far a place is from the main diagonal, constants by
their elements in that part. Nothing is known of other memory, which may be NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tfc.compiler.evaluate import constant_array
from tfc.ir.arrays import Array
from tfc.ir.body import Apply, Expr, Guard, Load, Number, Position, walk
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Value
from tfc.ir.dims import Dim, DimLike, bounds, coefficient, symbol, symbol_name, symbols_of
from tfc.ir.dims import Interval as Bounds
from tfc.ir.ops.const import constant
from tfc.ir.types import F32, F64, I32, I64, DType

Interval = tuple[float, float]
Known = Mapping[Value, Interval]
T = TypeVar("T")

# The place in the last two axes.
ROW, KEY = symbol("row.t"), symbol("key.t")
# Numbers that added to positions leave them within 32 bits.
MOST_SHIFT = 1 << 30
NO, YES, MAYBE = (0.0, 0.0), (1.0, 1.0), (0.0, 1.0)


@dataclass(frozen=True)
class Region:
    """The places with first <= key - row <= last."""

    first: DimLike
    last: DimLike


class Constants:
    """The constants of a program, and what was found out about parts of them."""

    def __init__(self, store: ConstantStore) -> None:
        self.store = store
        self._known: dict[Hashable, Any] = {}

    def array(self, value: Value) -> Array:
        return constant_array(value, self.store)

    def remembered(self, key: Hashable, find: Callable[[], T]) -> T:
        """What `find` returned when it was first called for this key."""
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]  # type: ignore[no-any-return]


class Triangle:
    """A matrix of `rows` and `keys`, which has at least one element."""

    def __init__(self, rows: DimLike, keys: DimLike, constants: Constants) -> None:
        self.constants = constants
        self.env: dict[str, Bounds] = {}
        for extent, at in ((rows, ROW), (keys, KEY)):
            name = symbol_name(extent)
            if name is not None:
                self.env[name] = (1, None)
            self.env[str(at)] = (0, extent - 1 if isinstance(extent, int) else None)

    # -- where something changes ----------------------------------------------------------------

    def diagonals(self, expr: Expr) -> Iterator[DimLike]:
        """The last diagonals before which something in `expr` may change."""
        found: dict[DimLike, None] = {}
        for node in walk(expr):
            match node:
                case Apply(name, (x, y)) if name in _COMPARE:
                    ends = integer(x), integer(y)
                    if ends[0] is not None and ends[1] is not None:
                        found.update(dict.fromkeys(_zeros(ends[0] - ends[1])))
                case Guard():
                    for r in node.ranges:
                        found.update(dict.fromkeys((*_zeros(r.dim - r.lo), *_zeros(r.dim - r.hi))))
                case Load(value) if _is_constant(value):
                    found.update(dict.fromkeys(self._steps(node)))
        return iter(found)

    def _steps(self, load: Load) -> Iterator[DimLike]:
        """The diagonal behind which all elements are the last one of the first row."""
        step = self.constants.remembered(("step", _place(load)), lambda: self._step(load))
        if step is not None:
            yield step

    def _step(self, load: Load) -> DimLike | None:
        matrix = self._matrix(load)
        if matrix is None or not matrix.low.size:
            return None
        corner = matrix.low[0, -1]
        rows, keys = np.nonzero((matrix.low != corner) | (matrix.high != corner))
        return int((keys - rows).max()) - matrix.shift if rows.size else None

    # -- values ---------------------------------------------------------------------------------

    def evaluate(self, expr: Expr, region: Region, known: Known) -> Interval | None:
        """The interval of an expression's values in the region, none of which is NaN; or None.

        known: that of elements of values.
        """
        return _Evaluation(self, region, known).of(expr)

    def _matrix(self, load: Load) -> _Matrix | None:
        """The elements of a constant that a load reads somewhere."""
        array = self.constants.array(load.value)
        if not array.size or np.isnan(array).any():
            return None
        axes: list[int] = []
        offsets: list[DimLike] = []
        for at in (ROW, KEY):
            own = [i for i, entry in enumerate(load.index) if _moves(entry, at)]
            if len(own) != 1:
                return None
            offset = load.index[own[0]] - at  # type: ignore[operator]
            if not _is_fixed(offset):
                return None
            axes += own
            offsets.append(offset)
        for axis, entry in enumerate(load.index):
            if isinstance(entry, int) and axis not in axes:
                array = array.take([entry], axis)
        others = tuple(axis for axis in range(array.ndim) if axis not in axes)
        low, high = array.min(others), array.max(others)
        if axes[0] > axes[1]:
            low, high = low.T, high.T
        return _Matrix(low, high, offsets[1] - offsets[0])

    def elements(self, load: Load, region: Region) -> Interval | None:
        """The interval of what a load reads of a constant in the region."""
        key = (_place(load), region, tuple(sorted(self.env.items())))
        return self.constants.remembered(key, lambda: self._elements(load, region))

    def _elements(self, load: Load, region: Region) -> Interval | None:
        matrix = self._matrix(load)
        if matrix is None:
            array = self.constants.array(load.value)
            known = array.size and not np.isnan(array).any()
            return (float(array.min()), float(array.max())) if known else None
        first, _ = bounds(region.first + matrix.shift, self.env)
        _, last = bounds(region.last + matrix.shift, self.env)
        rows, keys = matrix.low.shape
        distance = np.arange(keys) - np.arange(rows)[:, None]
        inside = np.ones(matrix.low.shape, bool)
        if first is not None:
            inside &= distance >= first
        if last is not None:
            inside &= distance <= last
        if not inside.any():
            return None
        return float(matrix.low[inside].min()), float(matrix.high[inside].max())


@dataclass(frozen=True)
class _Matrix:
    """Bounds of a constant's elements. shift: how much further right of its diagonal they are."""

    low: Array
    high: Array
    shift: DimLike


def _place(load: Load) -> Hashable:
    """The element of a constant that a load reads, whatever the names of other iterators are."""
    known = {str(ROW), str(KEY)}
    return load.value, tuple(
        entry if isinstance(entry, int) or (isinstance(entry, Dim) and symbols_of(entry) & known)
        else None
        for entry in load.index
    )  # fmt: skip


def _is_constant(value: Value) -> bool:
    return value.op is not None and value.op.defn is constant


def _is_fixed(dim: DimLike) -> bool:
    """Whether a dim is the same at all places."""
    return not symbols_of(dim) & {str(ROW), str(KEY)}


def _moves(entry: object, at: Dim) -> bool:
    return isinstance(entry, Dim) and coefficient(entry, str(at)) == 1


def _zeros(difference: DimLike) -> Iterator[DimLike]:
    """The diagonals around the one on which the difference is zero."""
    step = coefficient(difference, str(KEY))
    if step in (1, -1):
        rest = difference - step * (KEY - ROW)
        if _is_fixed(rest):
            zero = -step * rest
            yield from (zero - 1, zero)


def integer(expr: Expr) -> DimLike | None:
    """The dim that an expression of integers is, None where it is none or might wrap."""
    if expr.dtype not in (I32, I64):
        return None
    match expr:
        case Position():
            return expr.dim
        case Number(value) if not isinstance(value, complex) and abs(value) <= MOST_SHIFT:
            return int(value)
        case Apply("cast", (x,)):
            return integer(x)
        case Apply("neg", (x,)):
            own = integer(x)
            return None if own is None else -own
        case Apply("add" | "sub" as name, (x, y)):
            a, b = integer(x), integer(y)
            if a is not None and b is not None:
                return a + b if name == "add" else a - b
    return None


# By the signs of x - y for which a comparison is true.
_COMPARE = {"eq": (0,), "ne": (-1, 1), "lt": (-1,), "le": (-1, 0), "gt": (1,), "ge": (0, 1)}


class _Evaluation:
    """Evaluates expressions in one region."""

    def __init__(self, triangle: Triangle, region: Region, known: Known) -> None:
        self.triangle = triangle
        self.region = region
        self.known = known
        self._done: dict[int, Interval | None] = {}

    def of(self, expr: Expr) -> Interval | None:
        if id(expr) not in self._done:
            found = self._of(expr)
            self._done[id(expr)] = found and _rounded(found, expr.dtype)
        return self._done[id(expr)]

    def _of(self, expr: Expr) -> Interval | None:
        match expr:
            case Number(value) if not isinstance(value, complex) and not math.isnan(value):
                return float(value), float(value)
            case Load(value) if value in self.known:
                return self.known[value]
            case Load(value) if _is_constant(value):
                return self.triangle.elements(expr, self.region)
            case Guard():
                inside = [self._between(r.dim - r.lo, r.hi - 1 - r.dim) for r in expr.ranges]
                return self._chosen(_all(inside), expr.inside, expr.outside)
            case Apply("select", (condition, x, y)):
                return self._chosen(self.of(condition), x, y)
            case Apply(name, (x, y)) if name in _COMPARE:
                return self._compared(_COMPARE[name], x, y)
            case Apply("cast", (x,)):
                return self._cast(self.of(x), x.dtype, expr.dtype)
            case Apply(name, args) if name in _LOGIC and expr.dtype.kind == "b":
                return _LOGIC[name]([self.of(arg) or MAYBE for arg in args])
            case Apply("isnan", (x,)):
                return NO if self.of(x) else MAYBE
            case Apply(name, args) if name in _ARITHMETIC and expr.dtype in (F32, F64):
                return self._computed(name, args)
        return None

    def _computed(self, name: str, args: tuple[Expr, ...]) -> Interval | None:
        sides = [side for arg in args if (side := self.of(arg)) is not None]
        safe = len(sides) == len(args) and not _breaks(name, sides)
        return _corners(_ARITHMETIC[name], sides) if safe else None

    def _chosen(self, condition: Interval | None, x: Expr, y: Expr) -> Interval | None:
        if condition in (NO, YES):
            return self.of(x if condition == YES else y)
        sides = self.of(x), self.of(y)
        if sides[0] is None or sides[1] is None:
            return None
        return min(sides[0][0], sides[1][0]), max(sides[0][1], sides[1][1])

    def _between(self, *differences: DimLike) -> Interval:
        """Whether none of the differences is negative."""
        return _all([self._sign((0, 1), self._distance(d)) for d in differences])

    def _compared(self, signs: tuple[int, ...], x: Expr, y: Expr) -> Interval:
        a, b = integer(x), integer(y)
        if a is not None and b is not None:
            return self._sign(signs, self._distance(a - b))
        p, q = self.of(x), self.of(y)
        if p is None or q is None:
            return MAYBE
        low, high = p[0] - q[1], p[1] - q[0]
        return MAYBE if math.isnan(low) or math.isnan(high) else self._sign(signs, (low, high))

    def _sign(self, signs: tuple[int, ...], interval: Interval) -> Interval:
        """Whether the sign of a number in the interval is one of these."""
        low, high = interval
        possible = {-1} if low < 0 else set()
        possible |= {0} if low <= 0 <= high else set()
        possible |= {1} if high > 0 else set()
        return float(possible <= set(signs)), float(bool(possible & set(signs)))

    def _distance(self, difference: DimLike) -> Interval:
        """The interval of a difference of positions."""
        env = self.triangle.env
        step = coefficient(difference, str(KEY))
        low, high = bounds(difference, env)
        if isinstance(step, int) and _is_fixed(rest := difference - step * (KEY - ROW)):
            ends = [rest + step * self.region.first, rest + step * self.region.last]
            first, last = ends if step >= 0 else ends[::-1]
            low = _tighter(max, low, bounds(first, env)[0])
            high = _tighter(min, high, bounds(last, env)[1])
        return -math.inf if low is None else low, math.inf if high is None else high

    @staticmethod
    def _cast(x: Interval | None, source: DType, target: DType) -> Interval | None:
        if x is None:
            return None
        if target.kind == "b":
            return YES if x[0] > 0 or x[1] < 0 else NO if x == NO else MAYBE
        whole = source.kind in "biu" and max(map(abs, x)) < 128
        return x if whole or (source in (F32, F64) and target in (F32, F64)) else None


def _tighter(pick: Callable[..., int], x: int | None, y: int | None) -> int | None:
    return y if x is None else x if y is None else pick(x, y)


def _all(sides: list[Interval]) -> Interval:
    return min(side[0] for side in sides), min(side[1] for side in sides)


def _any(sides: list[Interval]) -> Interval:
    return max(side[0] for side in sides), max(side[1] for side in sides)


def _none(sides: list[Interval]) -> Interval:
    low, high = _any(sides)
    return 1 - high, 1 - low


_LOGIC = {"and": _all, "or": _any, "not": _none}
_ARITHMETIC: dict[str, Callable[..., float]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "neg": lambda x: -x,
    "min": min,
    "max": max,
}


def _breaks(name: str, sides: list[Interval]) -> bool:
    """Whether a function has a pole in between, or NaN."""
    zero = [low <= 0 <= high for low, high in sides]
    endless = [math.inf in map(abs, side) for side in sides]
    if name == "mul":
        return (zero[0] and endless[1]) or (zero[1] and endless[0])
    return name == "div" and (zero[1] or all(endless))


def _corners(compute: Callable[..., float], sides: list[Interval]) -> Interval | None:
    """The interval of a function that is greatest and least at corners; None with a NaN."""
    found = [compute(*corner) for corner in itertools.product(*sides)]
    return None if any(map(math.isnan, found)) else (min(found), max(found))


def _rounded(interval: Interval, dtype: DType) -> Interval:
    if dtype != F32:
        return interval
    with np.errstate(over="ignore"):
        return float(np.float32(interval[0])), float(np.float32(interval[1]))
