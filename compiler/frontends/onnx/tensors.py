"""Tensors of an ONNX file as numpy arrays, without copying what the file holds in raw form."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.compiler.frontends.onnx.wire import OWN_FILE
from tfc.ir import arrays
from tfc.ir.errors import ModelError, UnsupportedError
from tfc.ir.types import (
    BF16,
    BOOL,
    C64,
    C128,
    F4E2M1,
    F6E2M3,
    F6E3M2,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F8E8M0,
    F16,
    F32,
    F64,
    I2,
    I4,
    I8,
    I16,
    I32,
    I64,
    U2,
    U4,
    U8,
    U16,
    U32,
    U64,
    DType,
)

Array = npt.NDArray[Any]

MAX_BYTES = 1 << 40

# TensorProto.DataType
DTYPES = {
    1: F32, 2: U8, 3: I8, 4: U16, 5: I16, 6: I32, 7: I64, 9: BOOL, 10: F16, 11: F64, 12: U32,
    13: U64, 14: C64, 15: C128, 16: BF16, 17: F8E4M3FN, 18: F8E4M3FNUZ, 19: F8E5M2,
    20: F8E5M2FNUZ, 21: U4, 22: I4, 23: F4E2M1, 24: F8E8M0, 25: U2, 26: I2,
    27: F6E2M3, 28: F6E3M2,
}  # fmt: skip
DTYPE_NAMES = {0: "undefined", 8: "string"}
# How many bits an element has in a file, where these are less than a byte.
_PACKED = {U4: 4, I4: 4, F4E2M1: 4, U2: 2, I2: 2, F6E2M3: 6, F6E3M2: 6}
# Which field of a TensorProto holds the elements where raw_data does not, and as which numbers.
_FIELDS = {
    F32: ("float_data", "<f4"), C64: ("float_data", "<f4"), F64: ("double_data", "<f8"),
    C128: ("double_data", "<f8"), I64: ("int64_data", "<i8"), U64: ("uint64_data", "<u8"),
    U32: ("uint64_data", "<u8"),
}  # fmt: skip
_EXTERNAL = 1


def dtype_from(code: int) -> DType:
    """Return the element type of a TensorProto.DataType. Raises for those that tfc lacks."""
    if code in DTYPES:
        return DTYPES[code]
    if code in DTYPE_NAMES:
        raise UnsupportedError(f"element type {DTYPE_NAMES[code]}")
    raise ModelError(f"unknown element type {code}")


def code_of(dtype: DType) -> int:
    """Return the TensorProto.DataType of an element type."""
    return next(code for code, known in DTYPES.items() if known == dtype)


def checked_shape(dims: Any, bits: int) -> tuple[int, ...]:
    """Return dims as a shape, refusing negative ones and sizes that no memory holds."""
    shape = tuple(int(dim) for dim in dims)
    size = 1
    for dim in shape:
        if dim < 0:
            raise ModelError(f"negative dim in shape {list(shape)}")
        size *= dim
    if size * bits > MAX_BYTES * 8:
        raise ModelError(f"shape {list(shape)} is larger than {MAX_BYTES >> 40} TiB")
    return shape


class TensorReader:
    """Makes arrays of the tensors of one model; `data` is the mapped file where there is one.

    mappings: the files in which arrays lie.
    """

    def __init__(self, data: mmap.mmap | None = None, folder: Path | None = None) -> None:
        self._data = data
        self._folder = folder
        self._external: dict[str, Array] = {}
        self.mappings = [data] if data is not None else []

    def array(self, tensor: Any) -> tuple[Array, DType]:
        """Return a read-only array (bf16 as raw bits) and its element type."""
        code = tensor.data_type
        dtype = dtype_from(code)
        bits = _PACKED.get(dtype, dtype.bits)
        shape = checked_shape(tensor.dims, bits)
        count = int(np.prod(shape, dtype=object)) if shape else 1
        size = (count * bits + 7) // 8
        if tensor.data_location == _EXTERNAL:
            raw = self._from_file(tensor, size)
        elif tensor.HasField("raw_data"):
            raw = np.frombuffer(tensor.raw_data, np.uint8)
        else:
            return _from_fields(tensor, dtype, shape), dtype
        if raw.size != size:
            raise ModelError(f"holds {raw.size} bytes of data where its shape needs {size}")
        if dtype in _PACKED:
            return _unpack(raw, count, bits).reshape(shape), dtype
        if dtype is BOOL:
            return (raw != 0).reshape(shape), dtype
        return raw.view(arrays.numpy_dtype(dtype)).reshape(shape), dtype

    @property
    def files(self) -> list[Path]:
        """The files beside the model that tensors were read from."""
        assert self._folder is not None or not self._external
        return [self._folder / name for name in self._external] if self._folder else []

    def _from_file(self, tensor: Any, size: int) -> Array:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if OWN_FILE in entries and self._data is not None:
            offset, length = _number(entries[OWN_FILE]), _number(entries.get("length", ""))
            if offset + length > len(self._data):
                raise ModelError("data lies behind the end of the file")
            return np.frombuffer(self._data, np.uint8, length, offset)
        name = entries.get("location", "")
        offset = _number(entries.get("offset", "0"))
        length = _number(entries.get("length", str(size)))
        if length != size:
            raise ModelError(f"external data has {length} bytes where its shape needs {size}")
        data = self._open(name) if size else np.empty(0, np.uint8)
        if size and offset + size > data.size:
            raise ModelError(f"external data file {name!r} ends before byte {offset + size}")
        return data[offset : offset + size] if size else data

    def _open(self, name: str) -> Array:
        """Map a file that must lie in the model's folder: a model names no other files."""
        if name in self._external:
            return self._external[name]
        if self._folder is None:
            raise ModelError("external data needs the model's path: load it from a file")
        folder = self._folder.resolve()
        path = (folder / name).resolve()
        if not name or not path.is_relative_to(folder):
            raise ModelError(f"external data file {name!r} is not in the model's folder")
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read external data file {name!r}: {error}") from error
        self.mappings.append(data)
        self._external[name] = np.frombuffer(data, np.uint8)
        return self._external[name]


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ModelError(f"external data has {text!r} where a number belongs")
    return int(text)


def _unpack(raw: Array, count: int, bits: int) -> Array:
    """Return what is packed in bytes, lowest bits first, as bytes."""
    if bits == 6:
        flat = np.unpackbits(raw, bitorder="little")[: count * bits].reshape(count, bits)
        return np.packbits(flat, axis=1, bitorder="little").reshape(count)
    parts = [(raw >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(-1)[:count]


def _from_fields(tensor: Any, dtype: DType, shape: tuple[int, ...]) -> Array:
    field, numbers = _FIELDS.get(dtype, ("int32_data", "<i4"))
    values = np.array(getattr(tensor, field), numbers)
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if _PACKED.get(dtype, 6) < 6:
        found = _unpack(values.astype(np.uint8), count, _PACKED[dtype])
    elif dtype in (C64, C128):
        found = values.view(arrays.numpy_dtype(dtype)) if values.size % 2 == 0 else values
    elif dtype in (F16, BF16):
        found = values.astype(np.uint16).view(arrays.numpy_dtype(dtype))
    else:
        found = values.astype(arrays.numpy_dtype(dtype), copy=False)
    if found.size != count:
        raise ModelError(f"holds {found.size} elements where its shape needs {count}")
    return found.reshape(shape)
