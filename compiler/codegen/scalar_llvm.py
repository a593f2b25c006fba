"""Every op of `ir.loop.scalar.CORE` in LLVM: one total table, for scalars and vectors alike.

Meanings are those written at `CORE`. No op becomes a library call. Casts are in `casts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tfc.compiler.codegen.builder import Builder
from tfc.compiler.codegen.casts import cast, from_bool, narrow, to_bool, widen
from tfc.compiler.codegen.fmod import fmod
from tfc.compiler.codegen.llvm_types import element, float_bits, lanes_of, literal, splat, vector
from tfc.ir.types import BF16, BOOL, F16, F32, F64, DType

Number = float | int | bool | None


@dataclass(frozen=True, slots=True)
class Call:
    """One application. dtype is the operands' element type, of the last one where they differ;
    result the result's. constants has the number that an operand is known to be, or None.
    """

    dtype: DType
    lanes: int
    args: tuple[str, ...]
    constants: tuple[Number, ...]
    result: DType

    @property
    def type(self) -> str:
        return vector(element(self.dtype), self.lanes)

    def number(self, value: float) -> str:
        """Return `value` as a constant of the operands' type."""
        return splat(literal(value, self.dtype), self.type)


Rule = Callable[[Builder, Call], str]


def emit_scalar(b: Builder, name: str, call: Call) -> str:
    """Return the value of scalar op `name`; 16-bit floats are computed in f32 and rounded."""
    if call.dtype not in (F16, BF16) or name in _ON_BITS:
        return CORE_LLVM[name](b, call)
    args = tuple(widen(b, arg, call.dtype, call.lanes) for arg in call.args)
    result = call.result if call.result == BOOL else F32
    wide = Call(F32, call.lanes, args, call.constants, result)
    value = CORE_LLVM[name](b, wide)
    return value if result == BOOL else narrow(b, value, call.dtype, call.lanes)


# Ops whose rules take 16-bit floats as they are.
_ON_BITS = frozenset(("select", "cast", "bitcast", "isnan", "neg", "abs"))


def _plain(integer: str, floating: str) -> Rule:
    def rule(b: Builder, call: Call) -> str:
        return b.op(floating if call.dtype.is_float else integer, call.type, *call.args)

    return rule


def _div(b: Builder, call: Call) -> str:
    if call.dtype.is_float:
        return b.op("fdiv", call.type, *call.args)
    return _divide(b, call, quotient=True)


def _rem(b: Builder, call: Call) -> str:
    if call.dtype.is_float:
        return fmod(b, call.dtype, call.lanes, *call.args)
    return _divide(b, call, quotient=False)


def _divide(b: Builder, call: Call, quotient: bool) -> str:
    """Integer division with the divisors on which the machine traps taken out."""
    x, y = call.args
    signed = call.dtype.kind == "i"
    opcode = ("s" if signed else "u") + ("div" if quotient else "rem")
    zero, one = call.number(0), call.number(1)
    known = call.constants[1]
    if known == 0:
        return zero if quotient else x
    if known is not None and not (signed and known == -1):
        return b.op(opcode, call.type, x, y)
    is_zero = b.compare("icmp eq", call.type, y, zero)
    unsafe = is_zero
    is_minus_one = ""
    if signed:
        is_minus_one = b.compare("icmp eq", call.type, y, call.number(-1))
        unsafe = b.op("or", vector("i1", call.lanes), is_zero, is_minus_one)
    safe = b.select(unsafe, call.type, one, y)
    result = b.op(opcode, call.type, x, safe)
    if quotient and signed:
        result = b.select(is_minus_one, call.type, b.op("sub", call.type, zero, x), result)
    return b.select(is_zero, call.type, zero if quotient else x, result)


def _extreme(largest: bool) -> Rule:
    """min or max. x86's instruction returns its second operand where either is NaN."""
    fn = "max" if largest else "min"

    def rule(b: Builder, call: Call) -> str:
        x, y = call.args
        if call.dtype == BOOL:
            return b.op("or" if largest else "and", call.type, x, y)
        if not call.dtype.is_float:
            sign = "s" if call.dtype.kind == "i" else "u"
            return b.intrinsic(sign + fn, call.type, (call.type, x), (call.type, y))
        if _is_number(call.constants[1]):
            x, y = y, x
        better = b.compare("fcmp ogt" if largest else "fcmp olt", call.type, x, y)
        result = b.select(better, call.type, x, y)
        if any(_is_number(constant) for constant in call.constants):
            return result
        is_nan = b.compare("fcmp uno", call.type, x, x)
        return b.select(is_nan, call.type, x, result)

    return rule


def _is_number(constant: Number) -> bool:
    return constant is not None and constant == constant


def _logic(opcode: str) -> Rule:
    return lambda b, call: b.op(opcode, call.type, *call.args)


def _shift(left: bool) -> Rule:
    """Shifts; LLVM's are undefined from the width on."""

    def rule(b: Builder, call: Call) -> str:
        x, y = call.args
        bits = call.dtype.bits
        arithmetic = not left and call.dtype.kind == "i"
        opcode = "shl" if left else "ashr" if arithmetic else "lshr"
        known = call.constants[1]
        if known is not None and 0 <= known < bits:
            return b.op(opcode, call.type, x, y)
        if arithmetic:
            last = call.number(bits - 1)
            amount = b.intrinsic("umin", call.type, (call.type, y), (call.type, last))
            return b.op(opcode, call.type, x, amount)
        inside = b.compare("icmp ult", call.type, y, call.number(bits))
        return b.select(inside, call.type, b.op(opcode, call.type, x, y), call.number(0))

    return rule


def _mulhi(b: Builder, call: Call) -> str:
    bits = call.dtype.bits
    wide = vector(f"i{2 * bits}", call.lanes)
    extend = "sext" if call.dtype.kind == "i" else "zext"
    x, y = (b.convert(extend, call.type, arg, wide) for arg in call.args)
    high = b.op("lshr", wide, b.op("mul", wide, x, y), splat(str(bits), wide))
    return b.convert("trunc", wide, high, call.type)


def _compare(floating: str, equality: str, order: str) -> Rule:
    def rule(b: Builder, call: Call) -> str:
        if call.dtype.is_float:
            predicate = f"fcmp {floating}"
        elif equality:
            predicate = f"icmp {equality}"
        else:
            predicate = f"icmp {'s' if call.dtype.kind == 'i' else 'u'}{order}"
        return b.compare(predicate, call.type, *call.args)

    return rule


def _neg(b: Builder, call: Call) -> str:
    if call.dtype in (F16, BF16):
        return b.op("xor", call.type, call.args[0], splat("-32768", call.type))
    if call.dtype.is_float:
        return b.op("fneg", call.type, call.args[0])
    return b.op("sub", call.type, call.number(0), call.args[0])


def _abs(b: Builder, call: Call) -> str:
    (x,) = call.args
    if call.dtype in (F16, BF16):
        return b.op("and", call.type, x, splat("32767", call.type))
    if call.dtype.is_float:
        return b.intrinsic("fabs", call.type, (call.type, x))
    if call.dtype.kind == "u":
        return x
    return b.intrinsic("abs", call.type, (call.type, x), ("i1", "false"))


def _not(b: Builder, call: Call) -> str:
    return b.op("xor", call.type, call.args[0], call.number(-1))


def _sqrt(b: Builder, call: Call) -> str:
    return b.intrinsic("sqrt", call.type, (call.type, call.args[0]))


def _rounding(name: str, intrinsic: str) -> Rule:
    def rule(b: Builder, call: Call) -> str:
        if b.target.has_rounding:
            return b.intrinsic(intrinsic, call.type, (call.type, call.args[0]))
        return _round_by_adding(b, call, name)

    return rule


def _round_by_adding(b: Builder, call: Call, name: str) -> str:
    """Round where no instruction does: adding 2^(fraction bits) drops the fraction, half to even.

    Numbers of that size or more, infinities and NaN are integers already or stay as they are.
    """
    (x,) = call.args
    type = call.type
    limit = call.number(2.0**52 if call.dtype == F64 else 2.0**23)
    one = call.number(1.0)
    size = b.intrinsic("fabs", type, (type, x))
    rounded = b.op("fsub", type, b.op("fadd", type, size, limit), limit)
    if name == "trunc":
        too_far = b.compare("fcmp ogt", type, rounded, size)
        rounded = b.select(too_far, type, b.op("fsub", type, rounded, one), rounded)
    signed = b.intrinsic("copysign", type, (type, rounded), (type, x))
    if name in ("floor", "ceil"):
        down = name == "floor"
        too_far = b.compare("fcmp ogt" if down else "fcmp olt", type, signed, x)
        moved = b.op("fsub" if down else "fadd", type, signed, one)
        # ceil(-0.5) is -0.0, which the addition lost.
        moved = b.intrinsic("copysign", type, (type, moved), (type, x))
        signed = b.select(too_far, type, moved, signed)
    small = b.compare("fcmp olt", type, size, limit)
    return b.select(small, type, signed, x)


def _isnan(b: Builder, call: Call) -> str:
    (x,) = call.args
    if call.dtype in (F16, BF16):
        size = b.op("and", call.type, x, splat("32767", call.type))
        infinity = splat(str(float_bits(float("inf"), call.dtype)), call.type)
        return b.compare("icmp ugt", call.type, size, infinity)
    return b.compare("fcmp uno", call.type, x, x)


def _fma(b: Builder, call: Call) -> str:
    x, y, z = call.args
    if not b.target.has_fma:
        return b.op("fadd", call.type, b.op("fmul", call.type, x, y), z)
    return b.intrinsic("fma", call.type, *((call.type, arg) for arg in call.args))


def _select(b: Builder, call: Call) -> str:
    condition, x, y = call.args
    is_scalar = lanes_of(b.types.get(condition, call.type)) == 0 or condition in ("true", "false")
    scalar = bool(call.lanes) and is_scalar
    return b.select(condition, call.type, x, y, scalar=scalar)


def _cast(b: Builder, call: Call) -> str:
    return cast(b, call.args[0], call.dtype, call.result, call.lanes)


def _bitcast(b: Builder, call: Call) -> str:
    (x,) = call.args
    if BOOL in (call.dtype, call.result):
        if call.dtype == call.result:
            return x
        byte = vector("i8", call.lanes)
        if call.dtype == BOOL:
            return from_bool(b, x, byte)
        return to_bool(b, x, byte)
    source, to = call.type, vector(element(call.result), call.lanes)
    return x if source == to else b.convert("bitcast", source, x, to)


CORE_LLVM: Mapping[str, Rule] = {
    "add": _plain("add", "fadd"),
    "sub": _plain("sub", "fsub"),
    "mul": _plain("mul", "fmul"),
    "div": _div,
    "rem": _rem,
    "min": _extreme(largest=False),
    "max": _extreme(largest=True),
    "and": _logic("and"),
    "or": _logic("or"),
    "xor": _logic("xor"),
    "shl": _shift(left=True),
    "shr": _shift(left=False),
    "mulhi": _mulhi,
    "eq": _compare("oeq", "eq", ""),
    "ne": _compare("une", "ne", ""),
    "lt": _compare("olt", "", "lt"),
    "le": _compare("ole", "", "le"),
    "gt": _compare("ogt", "", "gt"),
    "ge": _compare("oge", "", "ge"),
    "neg": _neg,
    "abs": _abs,
    "not": _not,
    "sqrt": _sqrt,
    "floor": _rounding("floor", "floor"),
    "ceil": _rounding("ceil", "ceil"),
    "trunc": _rounding("trunc", "trunc"),
    "round": _rounding("round", "roundeven"),
    "isnan": _isnan,
    "fma": _fma,
    "select": _select,
    "cast": _cast,
    "bitcast": _bitcast,
}
