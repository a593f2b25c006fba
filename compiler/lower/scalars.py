"""Scalar ops as schedules emit them: math expanded, narrow floats computed in f32."""

from __future__ import annotations

from collections.abc import Sequence

from tfc.compiler.lower import math
from tfc.ir.core import Value
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.scalar import MATH
from tfc.ir.types import BOOL, F32, DType

NARROW_FLOATS = ("f16", "bf16")


def scalar_op(b: LoopBuilder, name: str, args: Sequence[Value], dtype: DType) -> Value:
    """Emit a scalar op; math functions are expanded, narrow floats computed in f32."""
    if dtype.name in NARROW_FLOATS and name not in ("cast", "bitcast", "select"):
        wide = [b.cast(a, F32) if b.dtype_of(a).name in NARROW_FLOATS else a for a in args]
        return b.cast(scalar_op(b, name, wide, F32), dtype)
    if name in MATH:
        return math.expand(b, name, args)
    if dtype == BOOL and any(b.dtype_of(a).name in NARROW_FLOATS for a in args):
        args = [b.cast(a, F32) for a in args]
    return b.scalar(name, tuple(args), dtype)


def identity(kind: str, dtype: DType) -> float:
    """The start value of a reduction."""
    if kind in ("sum", "any"):
        return 0
    if kind in ("prod", "all"):
        return 1
    lowest = kind in ("max", "argmax")
    if dtype.is_float:
        return float("-inf") if lowest else float("inf")
    if dtype.kind == "u" or dtype == BOOL:
        return 0 if lowest else (1 if dtype == BOOL else (1 << dtype.bits) - 1)
    half = 1 << (dtype.bits - 1)
    return -half if lowest else half - 1
