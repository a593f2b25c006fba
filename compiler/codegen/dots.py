"""The loop op `dot` as LLVM text: one instruction where there is one, else widened products."""

from __future__ import annotations

from collections.abc import Sequence

from tfc.compiler.codegen.llvm_types import register, splat, vector
from tfc.compiler.codegen.values import ValueBuilder
from tfc.ir.core import Op
from tfc.ir.errors import CompileError
from tfc.ir.types import BF16, VectorType

# Multiplies i16 and adds up neighbouring products, by the lanes of the result.
_PAIRS = {4: "x86.sse2.pmadd.wd", 8: "x86.avx2.pmadd.wd", 16: "x86.avx512.pmaddw.d.512"}


def dot(e: ValueBuilder, op: Op) -> None:
    x, _, total = op.operands
    assert isinstance(x.type, VectorType)
    assert isinstance(total.type, VectorType)
    lanes = total.type.lanes
    if not e.target.has_dot(x.type.dtype, lanes):
        raise CompileError(f"the target has no dot of {x.type}", where=str(op.loc) or None)
    texts = e.values_of(op.operands)
    if x.type.dtype == BF16:
        name, type = "x86.avx512bf16.dpbf16ps.512", vector("bfloat", 2 * lanes)
        e.values[op.result] = _called(e, name, register(total.type), type, texts, x.type)
    elif e.target.multiplies_bytes:
        name, type = f"x86.avx512.vpdpbusd.{32 * lanes}", register(x.type)
        e.values[op.result] = _called(e, name, register(total.type), type, texts, x.type)
    else:
        e.values[op.result] = _bytes(e, lanes, *texts)


def _called(
    e: ValueBuilder, name: str, sums: str, type: str, texts: Sequence[str], own: VectorType
) -> str:
    """Call an intrinsic that takes the sums first, and factors of LLVM type `type`."""
    x, y, total = texts
    held = register(own)
    x, y = (text if held == type else e.convert("bitcast", held, text, type) for text in (x, y))
    return _intrinsic(e, name, sums, (sums, total), (type, x), (type, y))


def _intrinsic(e: ValueBuilder, name: str, result: str, *args: tuple[str, str]) -> str:
    e.declare(result, f"@llvm.{name}", [type for type, _ in args])
    text = ", ".join(" ".join(arg) for arg in args)
    return e.let(result, f"call {result} @llvm.{name}({text})", *(value for _, value in args))


def _bytes(e: ValueBuilder, lanes: int, x: str, y: str, total: str) -> str:
    """u8 by i8 in fours: the even and the odd bytes widened to i16, whose products are exact."""
    pairs, sums, held = vector("i16", 2 * lanes), vector("i32", lanes), vector("i8", 4 * lanes)
    eight = splat("8", pairs)
    x, y = (e.convert("bitcast", held, text, pairs) for text in (x, y))
    even = e.op("and", pairs, x, splat("255", pairs)), e.op("shl", pairs, y, eight)
    odd = e.op("lshr", pairs, x, eight), y
    for left, high in (even, odd):
        right = e.op("ashr", pairs, high, eight)
        if e.target.arch == "x86_64":
            part = _intrinsic(e, _PAIRS[lanes], sums, (pairs, left), (pairs, right))
            total = e.op("add", sums, total, part)
        else:
            total = _add_pairs(e, lanes, e.op("mul", pairs, left, right), total)
    return total


def _add_pairs(e: ValueBuilder, lanes: int, products: str, total: str) -> str:
    """Add neighbouring i16 products, none of which overflows."""
    pairs, sums = vector("i16", 2 * lanes), vector("i32", lanes)
    wide = e.convert("bitcast", pairs, products, sums)
    half = splat("16", sums)
    low = e.op("ashr", sums, e.op("shl", sums, wide, half), half)
    return e.op("add", sums, e.op("add", sums, total, low), e.op("ashr", sums, wide, half))
