"""Numbers for random ONNX graphs: plain ones, and special ones in a controlled share. No tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(bfloat16)": BFLOAT16,
}
"""The element types by what ONNX calls them in schemas, the usual ones first."""
MOVED: dict[str, np.dtype[Any]] = {
    "tensor(complex64)": np.dtype(np.complex64),
    "tensor(complex128)": np.dtype(np.complex128),
    "tensor(float8e4m3fn)": np.dtype(ml_dtypes.float8_e4m3fn),
    "tensor(float8e4m3fnuz)": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "tensor(float8e5m2)": np.dtype(ml_dtypes.float8_e5m2),
    "tensor(float8e5m2fnuz)": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "tensor(float8e8m0)": np.dtype(ml_dtypes.float8_e8m0fnu),
    "tensor(float4e2m1)": np.dtype(ml_dtypes.float4_e2m1fn),
    "tensor(int4)": np.dtype(ml_dtypes.int4),
    "tensor(uint4)": np.dtype(ml_dtypes.uint4),
    "tensor(int2)": np.dtype(ml_dtypes.int2),
    "tensor(uint2)": np.dtype(ml_dtypes.uint2),
}
"""Those that are stored, moved and cast, but not computed with."""
DTYPES |= MOVED
TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
OFTEN = {
    "tensor(float)": 24, "tensor(int64)": 9, "tensor(int32)": 9, "tensor(bool)": 6,
    "tensor(double)": 6, "tensor(float16)": 6, **dict.fromkeys(MOVED, 1),
}  # fmt: skip
"""How often a type is picked; those left out thrice as often as one that is moved only."""
SELDOM = 3
FOREIGN = {BFLOAT16, *(dtype for dtype in MOVED.values() if dtype.kind != "c")}
"""What numpy alone lacks."""
NARROW_INTEGERS = {DTYPES[f"tensor({name})"] for name in ("int4", "uint4", "int2", "uint2")}

FLAVOURS = (
    "quarters", "quarters", "uniform", "uniform", "uniform", "uniform",
    "wide", "special", "special", "extreme", "zero",
)  # fmt: skip
"""What the numbers of an input are like; three of eleven have NaN, infinities or extremes."""

SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -1.0)


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype == BFLOAT16 or (dtype.kind == "f" and dtype not in FOREIGN)


def is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" or dtype in NARROW_INTEGERS


def numbers(shape: Sequence[int], dtype: np.dtype[Any], flavour: str, seed: int) -> Array:
    """An array that the arguments say; `flavour` is one of FLAVOURS."""
    dice = np.random.default_rng([seed, len(shape)])
    if dtype == np.bool_:
        return dice.integers(0, 2, tuple(shape)).astype(bool)
    if dtype.kind == "c":
        parts = dice.integers(-12, 13, (2, *shape)) / 4
        return np.asarray(parts[0] + 1j * parts[1]).astype(dtype)
    if dtype in NARROW_INTEGERS:
        info = ml_dtypes.iinfo(dtype)
        return dice.integers(int(info.min), int(info.max) + 1, tuple(shape)).astype(dtype)
    if dtype.name == "float8_e8m0fnu":
        return (2.0 ** dice.integers(-9, 10, tuple(shape))).astype(np.float32).astype(dtype)
    if is_float(dtype) or dtype in FOREIGN:
        return _floats(dice, tuple(shape), dtype, flavour)
    return _integers(dice, tuple(shape), dtype, flavour)


def _floats(
    dice: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], flavour: str
) -> Array:
    plain = dice.uniform(-2, 2, shape)
    info = ml_dtypes.finfo(dtype)
    match flavour:
        case "quarters":
            found = dice.integers(-12, 13, shape) / 4
        case "wide":
            found = plain * 10.0 ** dice.integers(-4, 5, shape)
        case "special":
            found = np.where(dice.random(shape) < 0.15, dice.choice(SPECIAL, shape), plain)
        case "extreme":
            ends = [float(x) for x in (info.max, info.min, info.tiny, info.smallest_subnormal)]
            found = np.where(dice.random(shape) < 0.3, dice.choice(ends, shape), plain)
        case "zero":
            found = np.where(dice.random(shape) < 0.5, 0.0, -0.0)
        case _:
            found = plain
    with np.errstate(all="ignore"):
        return np.asarray(found).astype(dtype)


def _integers(
    dice: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], flavour: str
) -> Array:
    info = np.iinfo(dtype)
    match flavour:
        case "wide":
            return dice.integers(info.min, info.max, shape, dtype, endpoint=True)
        case "extreme" | "special":
            ends = np.array([info.min, info.max, info.max - 1, 0, 1], dtype)
            small = _small(dice, shape, info)
            at_end = dice.random(shape) < 0.2
            return np.where(at_end, dice.choice(ends, shape), small.astype(dtype))
        case "zero":
            return np.zeros(shape, dtype)
        case _:
            return _small(dice, shape, info).astype(dtype)


def _small(dice: np.random.Generator, shape: tuple[int, ...], info: Any) -> Array:
    return dice.integers(max(-9, int(info.min)), 10, shape)
