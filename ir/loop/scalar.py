"""The closed scalar vocabulary, and the builder methods that spell it.

Bodies of graph ops, schedules and math expansions all speak this vocabulary; every target
implements `CORE` in full. `MATH` is expanded into `CORE` by `compiler.lower.math` first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from tfc.ir.types import BOOL, DType


@dataclass(frozen=True, slots=True)
class ScalarOp:
    """A scalar operation. result is `same` (the type of the last operand), `bool` or `attr`.

    kinds lists the element kinds that the last operand may have.
    """

    name: str
    arity: int
    result: str = "same"
    kinds: str = "fiub"


def _table(*ops: ScalarOp) -> dict[str, ScalarOp]:
    return {op.name: op for op in ops}


# div and rem of integers truncate towards zero; the remainder has the sign of the dividend, and
# division by zero gives 0 (rem: the dividend): never a trap. min and max give NaN if either side
# is NaN. round is half to even. shifts by the width or more give 0 (shr of a negative: -1).
# cast of a float to an integer saturates and takes NaN to 0; other narrowing wraps.
CORE = _table(
    *(ScalarOp(name, 2, kinds="fiu") for name in ("add", "sub", "mul", "div", "rem")),
    *(ScalarOp(name, 2) for name in ("min", "max")),
    *(ScalarOp(name, 2, kinds="iub") for name in ("and", "or", "xor")),
    *(ScalarOp(name, 2, kinds="iu") for name in ("shl", "shr", "mulhi")),
    *(ScalarOp(name, 2, "bool") for name in ("eq", "ne", "lt", "le", "gt", "ge")),
    *(ScalarOp(name, 1, kinds="fiu") for name in ("neg", "abs")),
    ScalarOp("not", 1, kinds="iub"),
    *(ScalarOp(name, 1, kinds="f") for name in ("sqrt", "floor", "ceil", "trunc", "round")),
    ScalarOp("isnan", 1, "bool", kinds="f"),
    ScalarOp("fma", 3, kinds="f"),
    ScalarOp("select", 3, kinds="fiubsc"),
    ScalarOp("cast", 1, "attr"),
    ScalarOp("bitcast", 1, "attr", kinds="fiubsc"),
)

MATH = _table(
    *(
        ScalarOp(name, 1, kinds="f")
        for name in (
            "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan",
            "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf",
        )
    ),
    ScalarOp("pow", 2, kinds="fiu"),
)  # fmt: skip

SCALARS = CORE | MATH

T = TypeVar("T")


class ScalarBuilder(ABC, Generic[T]):
    """Methods for every scalar op; a subclass decides what emitting one means."""

    @abstractmethod
    def scalar(self, name: str, args: tuple[T, ...], dtype: DType) -> T:
        """Emit scalar op `name`; `dtype` is the result's element type."""

    @abstractmethod
    def dtype_of(self, value: T) -> DType: ...

    @abstractmethod
    def const(self, value: float | complex, like: T | DType) -> T:
        """A constant of the type of `like` (splat where `like` is a vector)."""

    def apply(self, name: str, *args: T, dtype: DType | None = None) -> T:
        """Emit scalar op `name`, working out the result's element type from the table."""
        rule = SCALARS[name].result
        if rule == "bool":
            dtype = BOOL
        elif rule == "same":
            dtype = self.dtype_of(args[-1])
        assert dtype is not None, f"{name} needs a dtype"
        return self.scalar(name, args, dtype)

    def add(self, x: T, y: T) -> T:
        return self.apply("add", x, y)

    def sub(self, x: T, y: T) -> T:
        return self.apply("sub", x, y)

    def mul(self, x: T, y: T) -> T:
        return self.apply("mul", x, y)

    def div(self, x: T, y: T) -> T:
        return self.apply("div", x, y)

    def rem(self, x: T, y: T) -> T:
        return self.apply("rem", x, y)

    def min(self, x: T, y: T) -> T:
        return self.apply("min", x, y)

    def max(self, x: T, y: T) -> T:
        return self.apply("max", x, y)

    def and_(self, x: T, y: T) -> T:
        return self.apply("and", x, y)

    def or_(self, x: T, y: T) -> T:
        return self.apply("or", x, y)

    def xor(self, x: T, y: T) -> T:
        return self.apply("xor", x, y)

    def not_(self, x: T) -> T:
        return self.apply("not", x)

    def shl(self, x: T, y: T) -> T:
        return self.apply("shl", x, y)

    def shr(self, x: T, y: T) -> T:
        return self.apply("shr", x, y)

    def mulhi(self, x: T, y: T) -> T:
        return self.apply("mulhi", x, y)

    def eq(self, x: T, y: T) -> T:
        return self.apply("eq", x, y)

    def ne(self, x: T, y: T) -> T:
        return self.apply("ne", x, y)

    def lt(self, x: T, y: T) -> T:
        return self.apply("lt", x, y)

    def le(self, x: T, y: T) -> T:
        return self.apply("le", x, y)

    def gt(self, x: T, y: T) -> T:
        return self.apply("gt", x, y)

    def ge(self, x: T, y: T) -> T:
        return self.apply("ge", x, y)

    def neg(self, x: T) -> T:
        return self.apply("neg", x)

    def abs(self, x: T) -> T:
        return self.apply("abs", x)

    def sqrt(self, x: T) -> T:
        return self.apply("sqrt", x)

    def floor(self, x: T) -> T:
        return self.apply("floor", x)

    def ceil(self, x: T) -> T:
        return self.apply("ceil", x)

    def trunc(self, x: T) -> T:
        return self.apply("trunc", x)

    def round(self, x: T) -> T:
        return self.apply("round", x)

    def isnan(self, x: T) -> T:
        return self.apply("isnan", x)

    def fma(self, x: T, y: T, z: T) -> T:
        """x * y + z, rounded once."""
        return self.apply("fma", x, y, z)

    def select(self, condition: T, x: T, y: T) -> T:
        return self.apply("select", condition, x, y)

    def cast(self, x: T, dtype: DType) -> T:
        """Convert to `dtype`; no op is emitted where x has it already."""
        return x if self.dtype_of(x) == dtype else self.apply("cast", x, dtype=dtype)

    def bitcast(self, x: T, dtype: DType) -> T:
        return self.apply("bitcast", x, dtype=dtype)

    def exp(self, x: T) -> T:
        return self.apply("exp", x)

    def log(self, x: T) -> T:
        return self.apply("log", x)

    def tanh(self, x: T) -> T:
        return self.apply("tanh", x)

    def erf(self, x: T) -> T:
        return self.apply("erf", x)

    def sin(self, x: T) -> T:
        return self.apply("sin", x)

    def cos(self, x: T) -> T:
        return self.apply("cos", x)

    def pow(self, x: T, y: T) -> T:
        return self.apply("pow", x, y)
