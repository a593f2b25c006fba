"""Every pair of element types, against exact arithmetic with fractions; and the narrow formats."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.numerics.probes import FLOAT_TYPES, INF, LIMITS, NAN, Probe, check, probe
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Value
from tfc.ir.ops.formats import FORMATS
from tfc.ir.types import (
    BF16,
    BOOL,
    F4E2M1,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F16,
    F32,
    F64,
    INTS,
    U8,
    DType,
)

TYPES = (*FLOAT_TYPES, *INTS, BOOL)
EDGES = (7, 8, 11, 15, 16, 24, 25, 31, 32, 53, 54, 63, 64)
FRACTIONS = (0.5, 1.5, 2.5, 0.9, 127.5, 255.5, 65519.99, 65520.0, 1e-8, 2.0**-25, 3 * 2.0**-26,
             1 + 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-9, 1 + 2.0**-11 + 2.0**-40, 1e39, 3.4e38,
             3.3962e38, 1e-45, 7e-46, 6e-39)  # fmt: skip


def numbers(dtype: DType) -> list[Any]:
    """Numbers at which a conversion from `dtype` may go wrong, all exact in it."""
    if dtype == BOOL:
        return [False, True]
    powers = [(1 << k) + d for k in EDGES for d in (-3, -2, -1, 0, 1, 2, 3)]
    powers += [-n for n in powers] + [0, 1, -1]
    if dtype.is_int:
        info = np.iinfo(arrays.numpy_dtype(dtype))
        return [n for n in (*powers, info.min, info.max) if info.min <= n <= info.max]
    t = LIMITS[dtype]
    reals = [float(n) for n in powers] + [s * x for x in FRACTIONS for s in (1, -1)]
    reals += [NAN, INF, -INF, 0.0, -0.0, t.max, -t.max, t.tiny, -t.tiny, t.normal, 3 * t.tiny]
    with np.errstate(over="ignore"):
        return arrays.decode(arrays.make(reals, dtype), dtype).tolist()  # type: ignore[no-any-return]


def rounded(x: float | Fraction, dtype: DType) -> float:
    """x to the nearest number of a float type, half to even."""
    if x == 0 or (isinstance(x, float) and not math.isfinite(x)):
        return float(x)
    t = LIMITS[dtype]
    size = abs(Fraction(x))
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    least = round(math.log2(t.normal))
    step = Fraction(2) ** max(exponent, least) * Fraction(t.eps)
    whole, rest = divmod(size, step)
    whole += rest * 2 > step or (rest * 2 == step and whole % 2 == 1)
    found = whole * step
    return math.copysign(INF if found > Fraction(t.max) else float(found), x)


def converted(x: Any, source: DType, to: DType, saturate: bool) -> Any:
    """What the documentation says a cast gives."""
    if to == BOOL:
        return x != 0
    if to.is_float:
        number = x if source.is_float else Fraction(int(x))
        # 16-bit floats are made of f32.
        return rounded(rounded(number, F32) if to in (F16, BF16) else number, to)
    low, high = (
        (0, 2**to.bits - 1) if to.kind == "u" else (-(2 ** (to.bits - 1)), 2 ** (to.bits - 1) - 1)
    )
    if source.is_float:
        if math.isnan(x):
            return 0
        return high if x >= high else low if x <= low else int(x)
    whole = int(x)
    if saturate:
        return min(max(whole, low), high)
    return (whole - low) % 2**to.bits + low


def _cast(to: DType, saturate: bool) -> Any:
    return lambda b, x: b.cast(x, dtype=to, saturate=saturate)


@pytest.mark.parametrize("source", TYPES, ids=str)
def test_casts_are_what_exact_arithmetic_says(source: DType) -> None:
    probes = []
    given = numbers(source)
    for to in TYPES:
        for saturate in (False, True) if source.is_int and to.is_int else (False,):
            want = [converted(x, source, to, saturate) for x in given]
            exact: Any = np.array(want, np.float64 if to.is_float else arrays.numpy_dtype(to))
            for part in (slice(None), slice(5, 6), slice(3, 10)):
                label = f"{source} to {to}, saturate {saturate}"
                probes.append(
                    probe(label, _cast(to, saturate), [given[part]], exact[part], dtype=source)
                )
    check(probes)


def _through(*types: DType) -> Any:
    def make(b: GraphBuilder, x: Value) -> Value:
        for type in types:
            x = b.cast(x, dtype=type)
        return x

    return make


def test_chains_of_casts_round_at_every_step() -> None:
    """No rewrite may take out a narrow type in between."""
    x = [1 + 2.0**-11 + 2.0**-20, 1e5, -1e-9, 2049.0, 70000.0, NAN, -0.0]
    chains: tuple[tuple[DType, ...], ...] = (
        (F16, F32), (BF16, F32), (F64, F32), (F16, BF16, F32), (INTS[3], F32), (U8, F32),
    )  # fmt: skip
    probes = []
    for chain in chains:
        want: list[Any] = [float(np.float32(v)) for v in x]
        for before, after in zip((F32, *chain), chain, strict=False):
            want = [converted(v, before, after, False) for v in want]
        probes.append(probe(f"{chain}", _through(*chain), [x], np.array(want, np.float64)))
    check(probes)


# -- eight- and four-bit floats -----------------------------------------------------------------

ML_DTYPES: dict[DType, Any] = {
    F8E4M3FN: ml_dtypes.float8_e4m3fn,
    F8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    F8E5M2: ml_dtypes.float8_e5m2,
    F8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
    F4E2M1: ml_dtypes.float4_e2m1fn,
}


def _narrow_inputs(format: DType) -> Array:
    """Every number of the format, the middles between neighbours, and what is next to those."""
    codes = np.arange(2 * FORMATS[format].sign).astype(np.uint8)
    own = codes.view(ML_DTYPES[format]).astype(np.float32)
    finite = np.unique(own[np.isfinite(own)])
    middles = (finite[1:] + finite[:-1]) / np.float32(2)
    near = [np.nextafter(middles, np.float32(s)) for s in (np.inf, -np.inf)]
    edges = np.float32([0.0, -0.0, 1e-45, -1e-45])
    return np.concatenate([finite, middles, *near, edges])


@pytest.mark.parametrize("format", ML_DTYPES, ids=str)
def test_narrow_floats_round_half_to_even(format: DType) -> None:
    x = _narrow_inputs(format)
    want = x.astype(ML_DTYPES[format]).view(np.uint8)
    bits = want & np.uint8(2 * FORMATS[format].sign - 1)
    saturate = format == F4E2M1
    pack = lambda b, x: b.pack(x, format=format, saturate=saturate)  # noqa: E731
    probes = [probe(f"pack {format}", pack, [x], bits)]
    probes.append(probe("one", pack, [x[:1]], bits[:1]))
    check(probes)


def test_numbers_beyond_narrow_floats_saturate_or_not() -> None:
    """The table of ONNX's Cast, as codes: of inf, -inf, 1e9, -1e9, NaN."""
    x = [INF, -INF, 1e9, -1e9, NAN]
    table: dict[DType, tuple[list[int], list[int]]] = {
        F8E4M3FN: ([0x7E, 0xFE, 0x7E, 0xFE, 0x7F], [0x7F, 0xFF, 0x7F, 0xFF, 0x7F]),
        F8E4M3FNUZ: ([0x7F, 0xFF, 0x7F, 0xFF, 0x80], [0x80] * 5),
        F8E5M2: ([0x7B, 0xFB, 0x7B, 0xFB, 0x7E], [0x7C, 0xFC, 0x7C, 0xFC, 0x7E]),
        F8E5M2FNUZ: ([0x7F, 0xFF, 0x7F, 0xFF, 0x80], [0x80] * 5),
    }
    probes: list[Probe] = []
    for format, both in table.items():
        for saturate, want in zip((True, False), both, strict=True):
            probes.append(
                probe(f"{format}, saturate {saturate}", _pack(format, saturate), [x], want)
            )
    check(probes)


def _pack(format: DType, saturate: bool) -> Any:
    return lambda b, x: b.pack(x, format=format, saturate=saturate)


def test_packing_what_was_unpacked_gives_the_bits_again() -> None:
    probes = []
    for format in ML_DTYPES:
        f = FORMATS[format]
        codes = np.arange(2 * f.sign)
        nans = np.isnan(codes.astype(np.uint8).view(ML_DTYPES[format]).astype(np.float32))
        kept = codes[~nans]
        make = lambda b, x, format=format: b.pack(  # noqa: E731
            b.unpack(x, format=format), format=format, saturate=False
        )
        probes.append(probe(f"{format}", make, [kept], kept, dtype=U8))
    check(probes)


def test_f64_is_rounded_to_f16_through_f32() -> None:
    x = 1 + 2.0**-11 + 2.0**-30
    assert converted(x, F64, F16, False) == 1.0
    check([probe("twice", _cast(F16, False), [[x]], [1.0], dtype=F64)])
