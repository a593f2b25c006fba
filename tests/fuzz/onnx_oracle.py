"""How far compiled numbers may be from the interpreter's. Not test cases.

No bound is guessed: the interpreter runs again with every inexact op disturbed by as much as its
documentation allows, and what its results move by is what a compiled graph may differ by. So a sum
that cancels may differ by more, a comparison of rounded numbers may jump, and a graph of exact ops
has to be the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.core import Module, Op, Value
from tfc.ir.dims import evaluate
from tfc.ir.errors import CompileError, UsageError
from tfc.ir.interp import Interpreter, bind_inputs, check_inputs
from tfc.ir.opdef import Kind, OpDef
from tfc.ir.symbols import check_bounds
from tfc.ir.types import DType, TensorType
from tfc.runtime.signature import numpy_dtype

EPSILON = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}
NORMAL = {"f64": 2.0**-1022, "f32": 2.0**-126, "f16": 2.0**-14, "bf16": 2.0**-126}
UNSPECIFIED_ZERO = {
    "min", "max", "relu", "clamp", "reduce_max", "reduce_min", "max_pool", "argmax", "hard_sigmoid",
    "hard_swish", "thresholded_relu", "sort", "topk",
}  # fmt: skip
"""Which of 0 and -0 these give is not specified (docs/numerics.md)."""
REARRANGED = {"add", "sub", "mul", "div", "pow", "neg", "sigmoid"}
"""What reassociating rewrites match (docs/numerics.md)."""
ABSOLUTE = {"gelu", "mish", "softplus", "elu", "selu", "celu", "log_softmax", "softsign"}
"""Where results cancel: their error is relative to 1 where they are less."""
WEIGHTED = {"resize"}
"""Where weights cancel: their error is relative to the largest operand."""
ROOTED = {"reduce_l2"}
"""What sums floats though operands and results are integers."""
LOGARITHMIC = {"reduce_log_sum"}
"""What sums floats where operands are integers: sums that cancel may be 0 or negative."""
PERIODIC = {"sin": 1.0, "cos": 1.0, "tan": np.inf}
"""Beyond LARGEST these promise their range only."""
LARGEST = {"f64": 1e8, "f32": 1e5, "f16": 1e5, "bf16": 1e5}
EXPONENT = {"f64": 1023, "f32": 127, "f16": 127, "bf16": 127}
"""Of two: the largest number that sums of a type are held in."""
SUMS = (Kind.REDUCTION, Kind.CONTRACTION, Kind.WINDOW, Kind.COMPOSITE)
PRODUCTS = {"reduce_prod", "cumprod"}
SPREADING = {"conv", "conv_transpose", "batch_norm", "det"}
"""Where infinities and NaN may reach more results (docs/numerics.md)."""
ANYTHING = (np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0)
FEW, MANY = 6, 60
"""How many disturbed runs there are, and how many before a difference counts as a failure."""
ROOM = 3.0
"""How often the largest deviation seen in a few random runs the true one may be."""


@dataclass(frozen=True)
class Freedom:
    """What may differ. rearranged: rewrites may have reassociated.

    others: every op on floats is inexact, by this many units, as of another implementation.
    """

    rearranged: bool = False
    others: float = 0.0


class Disturbed(Interpreter):
    """Runs blocks with inexact ops disturbed at random."""

    def __init__(self, module: Module, symbols: dict[str, int], freedom: Freedom, seed: int):
        super().__init__(module.constants, symbols, lambda value, array: None)
        self.freedom = freedom
        self.freed = False
        self.dice = np.random.default_rng(seed)

    def op(self, op: Op, operands: list[Array], values: Mapping[Value, Array]) -> list[Array]:
        defn = op.defn
        assert isinstance(defn, OpDef)
        if op.name in WEIGHTED and not _is_float(op.results[0]):
            (whole,) = super().op(op, operands, values)
            return [whole + self.dice.integers(-1, 2, whole.shape).astype(whole.dtype)]
        if op.name in ROOTED and not _is_float(op.results[0]):
            (whole,) = super().op(op, operands, values)
            away = 4 * EPSILON["f64"] * self.dice.uniform(-1, 1, whole.shape)
            return [whole + np.rint(whole * away).astype(whole.dtype)]
        if op.name in LOGARITHMIC and not _is_float(op.results[0]):
            wide = operands[0].astype(np.float64)
            signs = bool((wide < 0).any() and (wide > 0).any())
            self.freed |= signs and float(np.abs(wide).sum()) > 1 / EPSILON["f64"]
        if op.regions or not any(_is_float(value) for value in (*op.operands, *op.results)):
            return super().op(op, operands, values)
        allowed = [self._allowed(op, defn, value) for value in op.results]
        sums = any(allowed) and (defn.kind in SUMS or op.name in SPREADING)
        exact = super().op(op, operands, values) if sums else []
        if any(allowed):
            operands = [
                self._moved(array, value, EPSILON[_name(value)]) if _is_float(value) else array
                for array, value in zip(operands, op.operands, strict=True)
            ]
        found = super().op(op, operands, values)
        if sums:
            found = [
                self._cancelled(value, *pair)
                for value, *pair in zip(op.results, exact, found, strict=True)
            ]
        moved = [
            self._disturb(op, operands, value, array, tolerance)
            for value, array, tolerance in zip(op.results, found, allowed, strict=True)
        ]
        if sums:
            return [
                self._overflown(op, operands, values, index, array)
                for index, array in enumerate(moved)
            ]
        return moved

    def _cancelled(self, value: Value, exact: Array, moved: Array) -> Array:
        """Let results that are less than what operands leave open be 0, whatever comes of that."""
        if not _is_float(value):
            return moved
        whole, wide = (arrays.decode(array, _dtype(value)) for array in (exact, moved))
        with np.errstate(all="ignore"):
            free = np.abs(wide - whole) >= np.abs(whole)
        free &= self.dice.random(wide.shape) < 0.5
        return arrays.encode(np.where(free, wide.dtype.type(0), wide), _dtype(value))

    def _overflown(
        self,
        op: Op,
        operands: Sequence[Array],
        values: Mapping[Value, Array],
        index: int,
        array: Array,
    ) -> Array:
        """Let results be anything where another order of sums or products may leave the range."""
        value = op.results[index]
        if not _is_float(value):
            return array
        free = self._may_overflow(op, operands, values, index)
        if not free.any():
            return array
        wide = np.array(arrays.decode(array, _dtype(value)))
        self.freed = True
        wide[free] = self.dice.choice(ANYTHING, wide.shape)[free].astype(wide.dtype)
        return arrays.encode(wide, _dtype(value))

    def _may_overflow(
        self, op: Op, operands: Sequence[Array], values: Mapping[Value, Array], index: int
    ) -> Array:
        value = op.results[index]
        wide = [
            np.abs(arrays.decode(array, _dtype(v)).astype(np.float64))
            for array, v in zip(operands, op.operands, strict=True)
            if _is_float(v)
        ]
        everything = np.ones(self.shape_of(value), bool)
        if op.name in SPREADING and not all(np.isfinite(x).all() for x in wide):
            return everything
        name = next((_name(v) for v in op.operands if _is_float(v)), _name(value))
        if op.name in PRODUCTS:
            (x,) = wide
            x = x[np.isfinite(x) & (x > 0)]
            return everything & bool(np.abs(np.log2(x)).sum() > EXPONENT[name])
        finite = [x[np.isfinite(x)].max(initial=0.0) for x in wide]
        if max(finite, default=0.0) < 2.0 ** (EXPONENT[name] / 4):
            return ~everything
        assert isinstance(op.defn, OpDef)
        if op.defn.kind is Kind.COMPOSITE:
            return everything
        absolute = [
            np.abs(arrays.decode(x, _dtype(v))) if _is_float(v) else x
            for x, v in zip(operands, op.operands, strict=True)
        ]
        encoded = [
            arrays.encode(x, _dtype(v)) if _is_float(v) else x
            for x, v in zip(absolute, op.operands, strict=True)
        ]
        with np.errstate(all="ignore"):
            most = super().op(op, encoded, values)[index]
        found: Array = ~np.isfinite(arrays.decode(most, _dtype(value)).astype(np.float64))
        return found

    def shape_of(self, value: Value) -> tuple[int, ...]:
        assert isinstance(value.type, TensorType)
        return tuple(evaluate(dim, self.symbols) for dim in value.type.shape)

    def _allowed(self, op: Op, defn: OpDef, value: Value) -> float:
        """The relative error that a result may have."""
        if not _is_float(value):
            return 0.0
        name = _name(value)
        found = defn.tol.get(name, 0.0)
        arithmetic = defn.kind not in (Kind.INJECTIVE, Kind.CONSTANT)
        if self.freedom.others and arithmetic:
            found = max(found, self.freedom.others * EPSILON[name])
        if self.freedom.rearranged and op.name in REARRANGED:
            found = max(found, EPSILON[name])
        return found

    def _disturb(
        self, op: Op, operands: Sequence[Array], value: Value, array: Array, allowed: float
    ) -> Array:
        if not _is_float(value):
            return array
        if op.name in PERIODIC:
            array = self._out_of_range(op, operands[0], value, array)
        if allowed:
            array = self._moved(array, value, allowed, digits=True)
            if op.name in ABSOLUTE or op.name in WEIGHTED:
                wide = arrays.decode(array, _dtype(value))
                most = self._largest(operands[0], op) if op.name in WEIGHTED else 1.0
                away = allowed * most * self.dice.uniform(-1, 1, wide.shape)
                array = arrays.encode(np.asarray((wide + away).astype(wide.dtype)), _dtype(value))
        if self._loses_zeros(op):
            wide = np.array(arrays.decode(array, _dtype(value)))
            zero = (wide == 0) & (self.dice.random(wide.shape) < 0.5)
            wide[zero] = -wide[zero]
            array = arrays.encode(wide, _dtype(value))
        return array

    @staticmethod
    def _largest(operand: Array, op: Op) -> float:
        wide = np.abs(arrays.decode(operand, _dtype(op.operands[0])).astype(np.float64))
        return float(wide[np.isfinite(wide)].max(initial=0.0))

    def _loses_zeros(self, op: Op) -> bool:
        rearranged = self.freedom.rearranged and op.name in REARRANGED
        assert isinstance(op.defn, OpDef)
        named = op.name in UNSPECIFIED_ZERO or op.defn.kind in SUMS
        return named or rearranged or self.freedom.others > 0

    def _out_of_range(self, op: Op, operand: Array, value: Value, array: Array) -> Array:
        wide = arrays.decode(operand, _dtype(op.operands[0])).astype(np.float64)
        far = (np.abs(wide) > LARGEST[_name(value)]) & np.isfinite(wide)
        end = min(PERIODIC[op.name], 1e6)
        found = np.array(arrays.decode(array, _dtype(value)))
        found[far] = self.dice.uniform(-end, end, int(far.sum()))
        return arrays.encode(found, _dtype(value))

    def _moved(self, array: Array, value: Value, relative: float, digits: bool = False) -> Array:
        wide = arrays.decode(array, _dtype(value))
        with np.errstate(all="ignore"):
            factor = 1 + relative * self.dice.uniform(-1, 1, wide.shape)
            moved = wide.astype(np.float64) * factor
            # Below the normal numbers all digits may be lost.
            few = np.abs(wide) < 2 * NORMAL[_name(value)]
            moved += np.where(few & digits, wide * self.dice.uniform(-1, 1, wide.shape), 0)
            # Zeros that may have lost digits may have lost their signs.
            flips = self.dice.choice((-1, 1), wide.shape) if digits else 1
            kept = np.where(wide == 0, wide * flips, moved).astype(wide.dtype)
            return np.asarray(arrays.encode(kept, _dtype(value)))


def _dtype(value: Value) -> Any:
    assert isinstance(value.type, TensorType)
    return value.type.dtype


def _name(value: Value) -> str:
    found: str = _dtype(value).name
    return found


def _is_float(value: Value) -> bool:
    return bool(_dtype(value).is_float)


def disturbed(
    module: Module, inputs: Mapping[str, Array], freedom: Freedom, seed: int
) -> list[Array] | None:
    """The outputs of one disturbed run.

    None where a size or a count of rounds changed that the data decides, or integers were made of
    what may be anything.
    """
    function = module.main
    types = {arg.name: arg.type for arg in function.args}
    arguments = check_inputs(types, inputs)
    symbols = bind_inputs(types, arguments, function.symbols)
    check_bounds(function.symbols, symbols)
    interpreter = Disturbed(module, symbols, freedom, seed)
    try:
        with np.errstate(all="ignore"):
            found = interpreter.block(function.block, list(arguments.values()), {})
    except (CompileError, UsageError):
        return None
    whole = any(not _is_float(value) for value in function.outputs)
    return None if whole and interpreter.freed else found


@dataclass
class Oracle:
    """The outputs of a module on some inputs, and by how much they may be missed."""

    module: Module
    inputs: Mapping[str, Array]
    wanted: list[Array]

    def difference(
        self, found: Sequence[Array], freedom: Freedom, floor: float = 0.0
    ) -> str | None:
        """Say where outputs differ by more than they may, None where they do not.

        floor: an absolute difference that is let pass.
        """
        dtypes = [_dtype(value) for value in self.module.main.outputs]
        pairs = [
            (_readable(got, dtype), _readable(want, dtype))
            for got, want, dtype in zip(found, self.wanted, dtypes, strict=True)
        ]
        problem: str | None = None
        for index, (got, want) in enumerate(pairs):
            if got.dtype != want.dtype or got.ndim != want.ndim:
                return f"output {index} is {got.dtype}{got.shape}, not {want.dtype}{want.shape}"
            if got.shape != want.shape:
                problem = f"output {index} has sizes {got.shape}, not {want.shape}"
        if problem is None and all(_same(got, want).all() for got, want in pairs):
            return None
        for runs in (FEW, MANY):
            others = [disturbed(self.module, self.inputs, freedom, seed) for seed in range(runs)]
            if any(run is None for run in others):
                return None
            moved = [
                [_readable(array, dtype) for array, dtype in zip(run, dtypes, strict=True)]
                for run in others
                if run is not None
            ]
            if any(
                x.shape != y.shape for run in moved for x, (_, y) in zip(run, pairs, strict=True)
            ):
                return None
            if any(got.shape != want.shape for got, want in pairs):
                continue
            problem = self._beyond(pairs, moved, floor)
            if problem is None:
                return None
        return problem

    def _beyond(
        self,
        pairs: Sequence[tuple[Array, Array]],
        moved: Sequence[Sequence[Array]],
        floor: float,
    ) -> str | None:
        for index, (got, want) in enumerate(pairs):
            bad = ~(_same(got, want) | _within(got, want, [run[index] for run in moved], floor))
            if bad.any():
                at = tuple(int(i) for i in np.argwhere(bad)[0])
                name = self.module.main.output_names[index]
                return (
                    f"{name}{list(at)}: {got[at]!r}, not {want[at]!r}; {int(bad.sum())} of "
                    f"{bad.size} elements differ; disturbed {[run[index][at] for run in moved[:4]]}"
                )
        return None


def _readable(array: Array, dtype: DType) -> Array:
    """The array as numbers that numpy computes with, of any element type; complex ones as pairs."""
    if dtype.kind == "c":
        return np.stack([array.real, array.imag], -1)
    if dtype.kind != "s":
        return arrays.decode(arrays.encode(array, dtype), dtype)
    return array.view(numpy_dtype(dtype.name)).astype(np.float32)


def _same(got: Array, want: Array) -> Array:
    """Where two arrays are the same, NaN as any NaN and zeros with their signs."""
    if want.dtype.kind != "f":
        return np.asarray(got == want)
    with np.errstate(all="ignore"):
        equal = (got == want) & (np.signbit(got) == np.signbit(want))
    return np.asarray(equal | (np.isnan(got) & np.isnan(want)))


def _within(got: Array, want: Array, moved: Sequence[Array], floor: float) -> Array:
    """Where the difference is one that disturbed runs have, too."""
    runs = np.stack([want, *moved])
    if want.dtype.kind != "f":
        return np.asarray((got >= runs.min(0)) & (got <= runs.max(0)))
    found = np.any(_same(got[None], runs), axis=0)
    wide, numbers = got.astype(np.float64), runs.astype(np.float64)
    with np.errstate(all="ignore"):
        low, high = np.fmin.reduce(numbers), np.fmax.reduce(numbers)
        # NaN where both are the same infinity: that was to be found.
        spread = high - low
        room = (ROOM - 1) * spread + floor
        mixed = np.isfinite(numbers).any(0) & ~np.isfinite(numbers).all(0)
        near = mixed | (room > 0) & (wide >= low - room) & (wide <= high + room)
    return np.asarray(found | near)
