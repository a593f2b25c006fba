"""From loop-level values to LLVM: numbers, sums of indices, and addresses.

An i64 sum stays a `Linear` until somebody needs it, so that an address can be put together from
the parts that stand still in a loop outwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfc.compiler.codegen.builder import THREADS, Builder
from tfc.compiler.codegen.llvm_types import literal, memory_element, register, splat, wrap
from tfc.compiler.codegen.scalar_llvm import Number
from tfc.compiler.target import Target
from tfc.ir.core import Op, Value
from tfc.ir.dims import DimLike, Monomial, from_terms, terms_of
from tfc.ir.errors import CompileError
from tfc.ir.types import INDEX, BufferType, ScalarType, VectorType

CTX_WORKSPACE, CTX_WORKSPACE_BYTES, CTX_THREADS = 0, 8, 16
CTX_PARALLEL_FOR, CTX_USER, CTX_ALLOC, CTX_CONSTANTS, CTX_BYTES = 24, 32, 40, 48, 56
"""Byte offsets in the context structure of the C interface (`header.py`)."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A sum: names of i64 values with coefficients, and an expression over symbols."""

    terms: tuple[tuple[str, DimLike], ...] = ()
    rest: DimLike = 0

    def plus(self, other: Linear, factor: DimLike = 1) -> Linear:
        """Return self + other * factor."""
        rest = self.rest
        if other.rest != 0:
            rest = rest + (other.rest if factor == 1 else other.rest * factor)
        if not other.terms:
            return Linear(self.terms, rest)
        terms: dict[str, DimLike] = dict(self.terms)
        for name, coeff in other.terms:
            product = factor if coeff == 1 else coeff * factor
            terms[name] = terms[name] + product if name in terms else product
        return Linear(tuple((name, coeff) for name, coeff in terms.items() if coeff != 0), rest)

    def times(self, factor: DimLike) -> Linear:
        return Linear().plus(self, factor)


class ValueBuilder(Builder):
    """Keeps what loop-level values have become."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.values: dict[Value, str] = {}
        self.sums: dict[Value, Linear] = {}
        self.views: dict[Value, tuple[Value, Linear]] = {}
        self.constant_arguments: set[Value] = set()
        self.tables: dict[str, str] = {}

    # -- values ---------------------------------------------------------------------------------

    def value(self, value: Value) -> str:
        """Return the text of a value, emitting the sum that it is where needed."""
        text = self.values.get(value)
        if text is not None:
            return text
        linear = self.sums.get(value)
        if linear is not None:
            return self.sum(linear)
        if value in self.views:
            return self.address(value, None)
        op = value.op
        raise CompileError(f"{op.name if op else 'an argument'} has no value yet")

    def values_of(self, values: Sequence[Value]) -> tuple[str, ...]:
        return tuple(self.value(value) for value in values)

    def number_of(self, value: Value) -> Number:
        """Return the number that a value is known to be in all lanes, or None."""
        linear = self.sums.get(value)
        if linear is not None:
            known = not linear.terms and isinstance(linear.rest, int)
            return wrap(linear.rest, 64) if known and isinstance(linear.rest, int) else None
        op = value.op
        while op is not None and op.name == "splat":
            op = op.operands[0].op
        return op.attrs.value if op is not None and op.name == "const" else None

    def set_constant(self, value: Value, number: float) -> None:
        assert isinstance(value.type, (ScalarType, VectorType))
        if value.type == INDEX:
            self.sums[value] = Linear((), int(number))
            return
        self.values[value] = splat(literal(number, value.type.dtype), register(value.type))

    def linear(self, value: Value) -> Linear:
        """Return an i64 scalar as a sum."""
        known = self.sums.get(value)
        return known if known is not None else Linear(((self.value(value), 1),))

    def set_sum(self, op: Op) -> bool:
        """Keep an i64 sum, difference or multiple as a `Linear`; False where `op` is none."""
        if op.result.type != INDEX or op.name not in ("add", "sub", "mul", "neg"):
            return False
        parts = [self.linear(value) for value in op.operands]
        x, y = parts[0], parts[-1]
        if op.name == "mul":
            if x.terms and y.terms:
                return False
            result = x.times(y.rest) if x.terms else y.times(x.rest)
        elif op.name == "neg":
            result = x.times(-1)
        else:
            result = x.plus(y, 1 if op.name == "add" else -1)
        self.sums[op.result] = result
        return True

    def sum(self, linear: Linear) -> str:
        """Emit a sum, the parts known furthest out first."""
        total = "0"
        constant, levels = self._by_level(linear)
        for level in sorted(levels):
            for part in levels[level]:
                total = self.add(total, part)
        return self.add(total, str(wrap(constant, 64))) if constant else total

    def _by_level(self, linear: Linear) -> tuple[int, dict[int, list[str]]]:
        """Return the constant of a sum, and its other addends by the scope that knows them."""
        constant = 0
        symbolic: dict[Monomial, int] = {}
        for mono, coeff in terms_of(linear.rest):
            if mono:
                symbolic[mono] = coeff
            else:
                constant = coeff
        levels: dict[int, list[str]] = {}
        if symbolic:
            levels[0] = [self.dim(from_terms(symbolic))]
        for name, factor in linear.terms:
            part = self.mul(name, self.dim(factor))
            levels.setdefault(self.levels.get(part, 0), []).append(part)
        return constant, levels

    def special_symbol(self, name: str) -> str:
        if name != THREADS:
            return super().special_symbol(name)
        wanted = self.context_field(CTX_THREADS, "i32")
        has_pool = self.compare(
            "icmp ne", "ptr", self.context_field(CTX_PARALLEL_FOR, "ptr"), "null"
        )
        several = self.compare("icmp sgt", "i32", wanted, "1")
        used = self.select(self.op("and", "i1", has_pool, several), "i32", wanted, "1")
        return self.convert("sext", "i32", used, "i64")

    def context_field(self, offset: int, type: str) -> str:
        """Load a field of the context, which does not change while a kernel runs."""
        at = self.let("ptr", f"getelementptr i8, ptr %ctx, i64 {offset}", "%ctx")
        return self.let(type, f"load {type}, ptr {at}", at)

    # -- addresses ------------------------------------------------------------------------------

    def add_view(self, view: Value, source: Value, offset: Linear) -> None:
        """Make `view` the memory of `source` from `offset` (elements of `source`) on."""
        root, before = self.views.get(source, (source, Linear()))
        assert isinstance(view.type, BufferType)
        assert isinstance(source.type, BufferType)
        size, new_size = source.type.dtype.bytes, view.type.dtype.bytes
        if size == new_size:
            self.views[view] = root, before.plus(offset)
        else:
            start = self.address(source, None)
            start = self.place(start, memory_element(source.type.dtype), offset)
            self.values[view] = start

    def address(self, buf: Value, indices: Sequence[Value] | None) -> str:
        """Return the address of an element, or of the first one."""
        assert isinstance(buf.type, BufferType)
        offset = Linear()
        if indices is not None:
            for index, stride in zip(indices, buf.type.strides, strict=True):
                offset = offset.plus(self.linear(index), stride)
        return self.element_address(buf, offset)

    def element_address(self, buf: Value, offset: Linear) -> str:
        """Return the address `offset` elements behind the start of a buffer."""
        assert isinstance(buf.type, BufferType)
        root, start = self.views.get(buf, (buf, Linear()))
        return self.place(self.values[root], memory_element(buf.type.dtype), start.plus(offset))

    def place(self, base: str, of: str, offset: Linear) -> str:
        """Step from `base` by a sum of elements: outermost parts first, the constant last."""
        constant, levels = self._by_level(offset)
        for level in sorted(levels):
            step = "0"
            for part in levels[level]:
                step = self.add(step, part)
            base = self.let("ptr", f"getelementptr {of}, ptr {base}, i64 {step}", base, step)
        if constant:
            # Beside the access it folds into the addressing mode; moved out it costs a register.
            base = self.here("ptr", f"getelementptr {of}, ptr {base}, i64 {constant}")
        return base

    def is_read_only(self, buf: Value) -> bool:
        """Whether nothing writes the memory of a buffer while the kernel runs."""
        root, _ = self.views.get(buf, (buf, Linear()))
        return root in self.constant_arguments
