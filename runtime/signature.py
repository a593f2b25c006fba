"""What a model takes and gives: names, element types and shapes with symbols, from the manifest.

Also checks call arguments against it, to say in words what the native check says by a code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.runtime.errors import InputError
from tfc.runtime.library import MAX_RANK

Array = npt.NDArray[Any]
_NAME = re.compile(r"[A-Za-z_]\w*")

_NUMPY_NAMES = {
    "f64": "float64", "f32": "float32", "f16": "float16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8",
    "bool": "bool", "c64": "complex64", "c128": "complex128",
}  # fmt: skip
# Types that numpy lacks: what ml_dtypes calls them, and what holds their bits without it.
_ML_DTYPES = {
    "bf16": ("bfloat16", "uint16"),
    "f8e4m3fn": ("float8_e4m3fn", "uint8"), "f8e4m3fnuz": ("float8_e4m3fnuz", "uint8"),
    "f8e5m2": ("float8_e5m2", "uint8"), "f8e5m2fnuz": ("float8_e5m2fnuz", "uint8"),
    "f8e8m0": ("float8_e8m0fnu", "uint8"), "f6e2m3": ("float6_e2m3fn", "uint8"),
    "f6e3m2": ("float6_e3m2fn", "uint8"), "f4e2m1": ("float4_e2m1fn", "uint8"),
    "i4": ("int4", "uint8"), "u4": ("uint4", "uint8"),
    "i2": ("int2", "uint8"), "u2": ("uint2", "uint8"),
}  # fmt: skip


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype for an element type's name.

    What numpy lacks, such as bf16, is that of `ml_dtypes` where installed, else raw bits.
    """
    if name not in _ML_DTYPES:
        return np.dtype(_NUMPY_NAMES[name])
    known, bits = _ML_DTYPES[name]
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(bits)
    return np.dtype(getattr(ml_dtypes, known, bits))


@dataclass(frozen=True)
class Port:
    """An input or output. Dims are ints, or strings: a symbol or an expression over symbols."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    # Whether only a run tells some of the dims.
    told: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    @classmethod
    def of(cls, entry: Mapping[str, Any], run_time: Collection[str] = ()) -> Port:
        shape = tuple(entry["shape"])
        told = bool(run_time) and any(
            not set(_NAME.findall(dim)).isdisjoint(run_time) for dim in shape if type(dim) is str
        )
        return cls(entry["name"], entry["dtype"], shape, told)


@dataclass(frozen=True)
class Element:
    """A symbol whose value is what an input holds, or how far that is above or below 0."""

    symbol: str
    input: str
    index: int
    part: str


@dataclass(frozen=True)
class Signature:
    """All inputs and outputs, and the bounds (lowest, highest or None) of the symbols."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    symbols: dict[str, tuple[int, int | None]]
    # The symbols whose value an input holds.
    elements: tuple[Element, ...] = ()

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Signature:
        """Read a manifest. Raises ValueError, TypeError or KeyError where it is damaged."""
        run_time = {str(entry["name"]) for entry in manifest.get("run_time", ())}
        signature = cls(
            tuple(Port.of(entry) for entry in manifest["inputs"]),
            tuple(Port.of(entry, run_time) for entry in manifest["outputs"]),
            {s["name"]: (s.get("lo", 0), s.get("hi")) for s in manifest["symbols"]},
            tuple(
                Element(s["name"], s["input"], s["element"], s["part"])
                for s in manifest["symbols"]
                if "input" in s
            ),
        )
        for port in (*signature.inputs, *signature.outputs):
            numpy_dtype(port.dtype)
            if len(port.shape) > MAX_RANK:
                raise ValueError(f"{port.name} has more than {MAX_RANK} axes")
        return signature

    def ordered(self, named: Mapping[str, Any]) -> list[Any]:
        """Return the values of a dict of inputs in order. Raises InputError."""
        unknown = [str(name) for name in named if name not in {p.name for p in self.inputs}]
        missing = [port.name for port in self.inputs if port.name not in named]
        if unknown or missing:
            known = ", ".join(port.name for port in self.inputs) or "none"
            parts = [f"unknown input {', '.join(unknown)}"] if unknown else []
            parts += [f"missing input {', '.join(missing)}"] if missing else []
            raise InputError(f"{'; '.join(parts)}; the model's inputs: {known}")
        return [named[port.name] for port in self.inputs]

    def check_count(self, count: int) -> None:
        if count != len(self.inputs):
            listed = "; ".join(map(str, self.inputs)) or "none"
            raise InputError(f"{count} inputs given, the model takes {len(self.inputs)}: {listed}")

    def check_shapes(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        """Return the symbols' values. Raises InputError that names input, axis and reason."""
        bound: dict[str, int] = {}
        first: dict[str, str] = {}
        for port, shape in zip(self.inputs, shapes, strict=True):
            if len(shape) != len(port.shape):
                raise InputError(
                    f"input {port.name}: rank {len(shape)} {list(shape)}, "
                    f"the model takes rank {len(port.shape)} ({port})"
                )
            for axis, (size, dim) in enumerate(zip(shape, port.shape, strict=True)):
                where = f"input {port.name}, axis {axis}"
                if isinstance(dim, int):
                    if size != dim:
                        raise InputError(f"{where}: size {size}, the model takes {dim} ({port})")
                elif dim in self.symbols:
                    if bound.setdefault(dim, size) != size:
                        raise InputError(
                            f"{where}: size {size} for {dim}, which is {bound[dim]} by {first[dim]}"
                        )
                    first.setdefault(dim, where)
                    self._check_bounds(where, dim, size)
        return bound

    def check_elements(self, arrays: Sequence[Array]) -> None:
        """Refuse, with InputError, numbers in inputs that dims cannot be."""
        named = {port.name: x for port, x in zip(self.inputs, arrays, strict=True)}
        for element in self.elements:
            number = int(named[element.input].reshape(-1)[element.index])
            value = number
            if element.part != "element":
                value = max(number if element.part == "positive" else -number, 0)
            where = f"input {element.input}, element {element.index}"
            lo, hi = self.symbols[element.symbol]
            if value < lo or (hi is not None and value > hi):
                raise InputError(f"{where} is {number}, which the model does not take")

    def _check_bounds(self, where: str, symbol: str, size: int) -> None:
        lo, hi = self.symbols[symbol]
        if size < lo or (hi is not None and size > hi):
            wanted = f"at least {lo}" if hi is None else f"{lo} to {hi}"
            raise InputError(f"{where}: size {size}, but {symbol} must be {wanted}")


def as_input(value: Any, port: Port, dtype: np.dtype[Any]) -> Array:
    """Return `value` as a dense array in native byte order of exactly the input's element type.

    Lists and Python numbers take that type; an array of another type is an InputError.
    """
    if isinstance(value, (bool, int, float, complex, list, tuple)):
        try:
            return np.ascontiguousarray(np.array(value, dtype)).reshape(np.shape(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"input {port.name}: not an array of {port.dtype}: {error}") from error
    array = from_file(np.asarray(value), port)
    if array.dtype != dtype and not _is_same(array.dtype, port.dtype, dtype):
        raise InputError(
            f"input {port.name}: dtype {array.dtype}, the model takes {_spelled(port, dtype)}"
        )
    # ascontiguousarray makes a scalar one-dimensional.
    dense = np.require(array, dtype if array.dtype.byteorder == ">" else None, ["C", "A"])
    return dense.reshape(array.shape)


def from_file(array: Array, port: Port) -> Array:
    """Give an array its type back: numpy's files keep of types that it lacks the bytes alone."""
    dtype = numpy_dtype(port.dtype)
    is_raw = array.dtype.kind == "V" and array.dtype.names is None
    if port.dtype in _ML_DTYPES and is_raw and array.dtype.itemsize == dtype.itemsize:
        return array.view(dtype)
    return array


def _is_same(given: np.dtype[Any], name: str, wanted: np.dtype[Any]) -> bool:
    if name in _ML_DTYPES:
        return given.name in _ML_DTYPES[name]
    return given.newbyteorder("=") == wanted


def _spelled(port: Port, dtype: np.dtype[Any]) -> str:
    if port.dtype not in _ML_DTYPES:
        return dtype.name
    known, bits = _ML_DTYPES[port.dtype]
    return f"{known} (or its bits as {bits})"
