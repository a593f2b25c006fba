"""Types of both levels: element types, tensors, vectors, buffers, and the layout encoding.

All are frozen and compared by value. Nothing here knows numpy; `ir.arrays` maps between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from tfc.ir.dims import DimLike, product

_known_dtypes: dict[tuple[str, str, int], DType] = {}


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """An element type. Equal ones are one object, which is compared and hashed as such.

    `kind` is f (float), i (signed), u (unsigned), b (bool), c (complex) or s (storage: nothing is
    computed with it, and its numbers are bits to all but the ops that pack and unpack them).
    """

    name: str
    kind: str
    bits: int

    def __str__(self) -> str:
        return self.name

    def __new__(cls, name: str, kind: str, bits: int) -> DType:
        return _known_dtypes.setdefault((name, kind, bits), object.__new__(cls))

    def __reduce__(self) -> tuple[Any, ...]:
        return DType, (self.name, self.kind, self.bits)

    @property
    def bytes(self) -> int:
        return max(self.bits // 8, 1)

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_int(self) -> bool:
        return self.kind in "iu"


F64 = DType("f64", "f", 64)
F32 = DType("f32", "f", 32)
F16 = DType("f16", "f", 16)
BF16 = DType("bf16", "f", 16)
I64 = DType("i64", "i", 64)
I32 = DType("i32", "i", 32)
I16 = DType("i16", "i", 16)
I8 = DType("i8", "i", 8)
U64 = DType("u64", "u", 64)
U32 = DType("u32", "u", 32)
U16 = DType("u16", "u", 16)
U8 = DType("u8", "u", 8)
BOOL = DType("bool", "b", 8)
C64 = DType("c64", "c", 64)
C128 = DType("c128", "c", 128)
# One element a byte; of the narrow ones the low bits count, and the others are 0.
F8E4M3FN = DType("f8e4m3fn", "s", 8)
F8E4M3FNUZ = DType("f8e4m3fnuz", "s", 8)
F8E5M2 = DType("f8e5m2", "s", 8)
F8E5M2FNUZ = DType("f8e5m2fnuz", "s", 8)
F8E8M0 = DType("f8e8m0", "s", 8)
F6E2M3 = DType("f6e2m3", "s", 8)
F6E3M2 = DType("f6e3m2", "s", 8)
F4E2M1 = DType("f4e2m1", "s", 8)
I4 = DType("i4", "s", 8)
U4 = DType("u4", "s", 8)
I2 = DType("i2", "s", 8)
U2 = DType("u2", "s", 8)

STORAGE = (
    F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0, F6E2M3, F6E3M2, F4E2M1, I4, U4, I2, U2,
)  # fmt: skip
DTYPES = {
    dtype.name: dtype
    for dtype in (
        F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL, C64, C128, *STORAGE,
    )
}  # fmt: skip
FLOATS = (F64, F32, F16, BF16)
INTS = (I64, I32, I16, I8, U64, U32, U16, U8)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a tensor lies in memory: its logical axes in storage order, outermost first."""

    perm: tuple[int, ...]

    def __str__(self) -> str:
        return f"perm=[{', '.join(map(str, self.perm))}]"


@dataclass(frozen=True, slots=True)
class TensorType:
    """A graph-level value: element type and logical shape (ints or symbolic dims)."""

    dtype: DType
    shape: tuple[DimLike, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{shape_text(self.shape)}"

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> DimLike:
        return product(self.shape)

    @property
    def is_static(self) -> bool:
        return all(isinstance(dim, int) for dim in self.shape)


@dataclass(frozen=True, slots=True)
class ScalarType:
    """A loop-level scalar; indices are i64."""

    dtype: DType

    def __str__(self) -> str:
        return str(self.dtype)


@dataclass(frozen=True, slots=True)
class VectorType:
    """A loop-level vector of `lanes` elements, held in registers."""

    dtype: DType
    lanes: int

    def __str__(self) -> str:
        return f"vec<{self.lanes}x{self.dtype}>"


@dataclass(frozen=True, slots=True)
class BufferType:
    """A loop-level memory region: extents and element strides per axis, and a memory space."""

    dtype: DType
    shape: tuple[DimLike, ...]
    strides: tuple[DimLike, ...]
    space: str = "global"

    def __str__(self) -> str:
        text = f"buf<{self.dtype}{shape_text(self.shape)}"
        if self.strides != row_major(self.shape):
            text += f", strides=[{', '.join(map(str, self.strides))}]"
        if self.space != "global":
            text += f", {self.space}"
        return text + ">"


Type: TypeAlias = TensorType | ScalarType | VectorType | BufferType


@cache
def scalar_of(dtype: DType) -> ScalarType:
    """Return the scalar of an element type, always the same object."""
    return ScalarType(dtype)


@cache
def vector_of(dtype: DType, lanes: int) -> VectorType:
    """Return the vector of so many elements of a type, always the same object."""
    return VectorType(dtype, lanes)


INDEX = scalar_of(I64)
PREDICATE = scalar_of(BOOL)


def shape_text(shape: tuple[DimLike, ...]) -> str:
    """Return `[2, N + 1]`: how a shape stands behind its element type in text."""
    return f"[{', '.join(map(str, shape))}]"


def row_major(shape: tuple[DimLike, ...]) -> tuple[DimLike, ...]:
    """Return the element strides of a dense row-major array of `shape`."""
    strides: list[DimLike] = []
    step: DimLike = 1
    for dim in reversed(shape):
        strides.append(step)
        step = step * dim
    return tuple(reversed(strides))


def buffer(dtype: DType, *shape: DimLike, space: str = "global") -> BufferType:
    """Return a dense row-major buffer type."""
    return BufferType(dtype, shape, row_major(shape), space)
