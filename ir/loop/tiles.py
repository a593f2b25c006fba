"""What `tile_dot` computes, in numpy: Intel's TDPBF16PS and TDPB[SU][SU]D (SDM volume 2).

Start at `dot`. Factors of bf16 are held as float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_LEAST_NORMAL = np.finfo(np.float32).tiny


def dot(x: Array, y: Array, total: Array) -> Array:
    """Return total + x y, where a row of y holds groups of steps: [k, (n, i)].

    Integers wrap. Floats are rounded half to even and denormals count as zeros, those that come
    in as well as those that come out. The even and the odd steps of all of `x` are each summed
    from zero on, step by step and fused; the two sums are added up, and then to `total`.
    """
    columns = total.shape[1]
    group = y.shape[1] // columns
    steps = y.reshape(-1, columns, group).transpose(0, 2, 1).reshape(-1, columns)
    if total.dtype.kind != "f":
        products = x.astype(np.int64) @ steps.astype(np.int64)
        wrapped: Array = (total + products).astype(total.dtype)
        return wrapped
    left, right = flushed(x), flushed(steps)
    with np.errstate(all="ignore"):
        sums = [np.zeros_like(total) for _ in range(group)]
        for k in range(left.shape[1]):
            sums[k % group] = fused(left[:, k, None], right[k], sums[k % group])
        products = flushed(sums[0] + sums[1])
        return flushed(flushed(total) + products)


def flushed(x: Array) -> Array:
    """Return float32 numbers with zeros of their signs for denormals."""
    return np.where(np.abs(x) < _LEAST_NORMAL, np.copysign(np.float32(0), x), x)


def fused(x: Array, y: Array, z: Array) -> Array:
    """Return x * y + z, rounded once; x and y have no more than half the bits of a float64.

    The sum in float64 is rounded to odd, so that rounding it again to float32 is right.
    """
    product = x.astype(np.float64) * y.astype(np.float64)
    wide = z.astype(np.float64)
    total = product + wide
    back = total - product
    error = (product - (total - back)) + (wide - back)
    inexact = np.isfinite(total) & (error != 0) & (total.view(np.int64) & 1 == 0)
    toward = np.where(error > 0, np.inf, -np.inf)
    odd = np.where(inexact, np.nextafter(total, toward), total)
    return flushed(odd.astype(np.float32))
