"""How far an array is from what was expected of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def largest_error(got: Array, wanted: Array) -> dict[str, float]:
    """Return the largest difference (`max`), the largest finite expected value (`scale`), and
    their quotient (`relative`).

    NaN against NaN and infinity against the same infinity are no difference; against anything
    else they are an infinite one.
    """
    kind = np.complex128 if "c" in (got.dtype.kind, wanted.dtype.kind) else np.float64
    x, y = got.astype(kind).reshape(-1), wanted.astype(kind).reshape(-1)
    if x.size == 0:
        return {"max": 0.0, "scale": 0.0, "relative": 0.0}
    with np.errstate(all="ignore"):
        difference = np.abs(x - y)
        difference[(x == y) | (np.isnan(x) & np.isnan(y))] = 0.0
        difference[np.isnan(difference)] = np.inf
        finite = np.abs(y[np.isfinite(y)])
    largest, scale = float(difference.max()), float(finite.max(initial=0.0))
    relative = 0.0 if largest == 0 else largest / scale if scale else float("inf")
    return {"max": largest, "scale": scale, "relative": relative}
