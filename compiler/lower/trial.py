"""Computes scalar ops on float32 arrays: what trials of accuracy run a kernel's transforms with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.ir.loop.numeric import compute
from tfc.ir.loop.scalar import ScalarBuilder
from tfc.ir.types import F32, DType

Array = npt.NDArray[Any]


class Arrays(ScalarBuilder[Array]):
    """Each op is computed at once, element by element, rounded to float32."""

    def scalar(self, name: str, args: tuple[Array, ...], dtype: DType) -> Array:
        return compute(name, args, dtype)

    def dtype_of(self, value: Array) -> DType:
        return F32

    def const(self, value: float | complex, like: Array | DType) -> Array:
        return np.asarray(value, np.float32)
