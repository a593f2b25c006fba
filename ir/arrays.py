"""Element types to numpy and back, and exact rounding for those that numpy lacks.

numpy has no bf16: such arrays are held as raw uint16 bits. `decode` widens raw arrays to what a
reference can compute with; `encode` rounds the result back, half to even. Storage types are raw
bytes everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfc.ir.attrs import ConstRef, Dense
from tfc.ir.types import (
    BF16,
    BOOL,
    DTYPES,
    F4E2M1,
    F6E2M3,
    F6E3M2,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F8E8M0,
    I2,
    I4,
    STORAGE,
    U2,
    U4,
    DType,
    TensorType,
)

if TYPE_CHECKING:
    from tfc.ir.constants import ConstantStore

Array = npt.NDArray[Any]

_NUMPY_NAMES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "uint16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8",
    "bool": "bool", "c64": "complex64", "c128": "complex128",
}  # fmt: skip
_FROM_NUMPY = {name: DTYPES[key] for key, name in _NUMPY_NAMES.items() if key != "bf16"}
_NUMPY_NAMES |= {dtype.name: "uint8" for dtype in STORAGE}
# What ml_dtypes calls the types that numpy lacks.
_FROM_ML_DTYPES = {
    "bfloat16": BF16, "float8_e4m3fn": F8E4M3FN, "float8_e4m3fnuz": F8E4M3FNUZ,
    "float8_e5m2": F8E5M2, "float8_e5m2fnuz": F8E5M2FNUZ, "float8_e8m0fnu": F8E8M0,
    "float6_e2m3fn": F6E2M3, "float6_e3m2fn": F6E3M2,
    "float4_e2m1fn": F4E2M1, "int4": I4, "uint4": U4, "int2": I2, "uint2": U2,
}  # fmt: skip
INLINE_ELEMENTS = 32


def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """Return the numpy dtype that holds `dtype` in memory (raw bits for bf16)."""
    return np.dtype(_NUMPY_NAMES[dtype.name])


def dtype_of(array: Array) -> DType:
    """Return the element type of an array; `ml_dtypes` arrays by their name.

    Raises TypeError for a dtype that tfc does not have.
    """
    name = array.dtype.name
    found = _FROM_NUMPY.get(name) or _FROM_ML_DTYPES.get(name)
    if found is None:
        raise TypeError(f"no element type for numpy dtype {name}")
    return found


def make(value: Any, dtype: DType) -> Array:
    """Return `value` as an array of `dtype`, rounding floats to bf16 where asked."""
    if dtype == BF16:
        return encode(np.asarray(value, np.float32), BF16)
    return np.asarray(value, numpy_dtype(dtype))


def decode(array: Array, dtype: DType) -> Array:
    """Return raw bf16 bits as float32; other arrays as they are."""
    if dtype != BF16 or array.dtype != np.uint16:
        return array
    return (array.astype(np.uint32) << 16).view(np.float32).reshape(array.shape)


def memory_form(array: Array, dtype: DType) -> Array | None:
    """Return an array of `dtype` as it lies in memory: `ml_dtypes` arrays as their bits.

    None where its elements are of another type.
    """
    if _FROM_ML_DTYPES.get(array.dtype.name) == dtype:
        return array.view(numpy_dtype(dtype))
    return array if array.dtype == numpy_dtype(dtype) else None


def encode(array: Array, dtype: DType) -> Array:
    """Return `array` in the memory form of `dtype`; floats round half to even to bf16.

    uint16 as bf16 is in memory form already.
    """
    found = memory_form(array, dtype)
    if found is not None:
        return found
    if dtype != BF16:
        return np.asarray(array, numpy_dtype(dtype))
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16).reshape(array.shape)


def constant_attrs(
    array: Array, store: ConstantStore, dtype: DType | None = None
) -> dict[str, Any]:
    """Return the attributes of a `constant` op: inline when small, by hash otherwise."""
    dtype = dtype or dtype_of(array)
    array = encode(array, dtype)
    value: ConstRef | Dense
    if array.size <= INLINE_ELEMENTS:
        flat = decode(array, dtype).reshape(-1)
        value = Dense(tuple(int(v) if dtype == BOOL else v for v in flat.tolist()))
    else:
        value = store.add(array, dtype)
    return {"value": value, "dtype": dtype, "shape": tuple(array.shape)}


def constant_array(attrs: Any, store: ConstantStore) -> Array:
    """Return the array of a `constant` op's attributes, read-only where it is stored data."""
    if isinstance(attrs.value, Dense):
        return make(list(attrs.value.values), attrs.dtype).reshape(attrs.shape)
    return store.get(attrs.value).reshape(attrs.shape)


def type_of(array: Array) -> TensorType:
    """Return the tensor type of an array."""
    return TensorType(dtype_of(array), tuple(int(n) for n in array.shape))
