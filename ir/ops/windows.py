"""Window arithmetic that convolutions and pooling share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tfc.ir.body import Expr, ExprBuilder, Index, Iter, Range
from tfc.ir.build import tensor_type
from tfc.ir.core import Op
from tfc.ir.dims import DimLike, floordiv, maximum
from tfc.ir.opdef import Assumption, require
from tfc.ir.ops.common import Array
from tfc.ir.ops.movement import Shape, dims_of, refuted
from tfc.ir.ops.reduce import fold, iterate

Pads = tuple[tuple[int, int], ...]


class Windowed(Protocol):
    """The attributes of an op that moves a window over the spatial axes."""

    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def pads(self) -> Pads: ...
    @property
    def dilations(self) -> tuple[int, ...]: ...


def require_window(attrs: Windowed, rank: int) -> None:
    """Refuse window attributes that do not fit `rank` spatial axes."""
    require(rank > 0, "there is no spatial axis")
    for name in ("strides", "pads", "dilations"):
        count = len(getattr(attrs, name))
        require(count == rank, f"{count} {name} for {rank} spatial axes")
    require(all(len(pair) == 2 for pair in attrs.pads), "pads are not pairs")
    require(min(attrs.strides) > 0, "strides are not positive")
    require(min(attrs.dilations) > 0, "dilations are not positive")


def window_assumptions(
    attrs: Windowed, sizes: Sequence[DimLike], kernel: Sequence[DimLike]
) -> list[Assumption]:
    """At least one window fits on each spatial axis."""
    found: list[Assumption] = []
    for axis, (size, count) in enumerate(zip(sizes, kernel, strict=True)):
        padded = size + sum(attrs.pads[axis])
        reach = (count - 1) * attrs.dilations[axis] + 1
        missing = maximum(reach - padded, 0)
        if missing != 0:
            text = f"a kernel of {reach} fits on {padded} elements of spatial axis {axis}"
            found.append(Assumption(missing, text))
    return found


def window_sizes(attrs: Windowed, sizes: Sequence[DimLike], kernel: Sequence[DimLike]) -> Shape:
    """Return how many windows fit on each spatial axis. Refuses where none does."""
    found: list[DimLike] = []
    for axis, (size, count) in enumerate(zip(sizes, kernel, strict=True)):
        require(not refuted(1, count), f"the kernel is empty along spatial axis {axis}")
        lo, hi = attrs.pads[axis]
        padded = size + lo + hi
        reach = (count - 1) * attrs.dilations[axis] + 1
        require(
            not refuted(reach, padded),
            f"the kernel reaches over {reach} elements, spatial axis {axis} has {padded}",
        )
        found.append(floordiv(padded - reach, attrs.strides[axis]) + 1)
    return tuple(found)


def window_index(
    attrs: Windowed,
    sizes: Sequence[DimLike],
    kernel: Sequence[DimLike],
    at: Sequence[DimLike],
    tap: Sequence[DimLike],
) -> tuple[Shape, tuple[Range, ...]]:
    """Return what tap `tap` of window `at` reads, and the ranges it must be in to be no padding.

    Axes on which no window reaches the padding have no range.
    """
    index: list[DimLike] = []
    ranges: list[Range] = []
    for axis, (size, count) in enumerate(zip(sizes, kernel, strict=True)):
        stride, dilation = attrs.strides[axis], attrs.dilations[axis]
        lo, hi = attrs.pads[axis]
        i = at[axis] * stride + tap[axis] * dilation - lo
        index.append(i)
        slack = size + lo + hi - (count - 1) * dilation - 1
        unused = slack % stride if isinstance(slack, int) else 0
        if lo > 0 or hi > unused:
            ranges.append(Range(i, 0, size))
    return tuple(index), tuple(ranges)


def taps_of(b: ExprBuilder, kernel: Sequence[DimLike]) -> tuple[tuple[Iter, ...], Shape]:
    """Return the iterators over a kernel's axes, and where they stand."""
    pairs = [iterate(b, count, "k") for count in kernel]
    return tuple(it for own, _ in pairs for it in own), tuple(i for _, i in pairs)


def window_fold(
    b: ExprBuilder,
    op: Op,
    kernel: Sequence[DimLike],
    index: tuple[Index, ...],
    kind: str,
    padding: Expr,
) -> Expr:
    """Fold the windows of the first operand, channel by channel; padding counts as `padding`."""
    (x,) = op.operands
    iters, tap = taps_of(b, kernel)
    at = dims_of(index[2:])
    places, ranges = window_index(op.attrs, tensor_type(x).shape[2:], kernel, at, tap)
    element = b.cast(b.load(x, (*index[:2], *places)), padding.dtype)
    return fold(b, kind, iters, b.guard(ranges, element, padding), padding.dtype)


def padded(x: Array, pads: Pads, fill: float) -> Array:
    """Return x, its last axes padded with `fill`; negative pads take elements away."""
    pads = ((0, 0),) * (x.ndim - len(pads)) + pads
    out: Array = np.pad(x, [(max(lo, 0), max(hi, 0)) for lo, hi in pads], constant_values=fill)
    for axis, (lo, hi) in enumerate(pads):
        if min(lo, hi) < 0:
            out = np.take(out, range(max(-lo, 0), out.shape[axis] - max(-hi, 0)), axis)
    return out


def tap_slices(attrs: Windowed, tap: Sequence[int], counts: Sequence[int]) -> Any:
    """Return numpy's index of what one tap of all windows reads of the padded input."""
    steps = zip(tap, attrs.dilations, counts, attrs.strides, strict=True)
    return (..., *(slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, n, s in steps))


def unread(attrs: Windowed, sizes: Sequence[DimLike], kernel: Sequence[DimLike]) -> Shape:
    """Return how many elements at the end of each padded axis no window reaches."""
    counts = window_sizes(attrs, sizes, kernel)
    return tuple(
        size + lo + hi - ((count - 1) * d + 1) - (windows - 1) * s
        for size, (lo, hi), count, d, windows, s in zip(
            sizes, attrs.pads, kernel, attrs.dilations, counts, attrs.strides, strict=True
        )
    )
