"""Fourier transforms as products with matrices of sines and cosines; mel filter banks."""

from __future__ import annotations

import numpy as np

from tfc.compiler.frontends.onnx.context import Array, Context, Results, Rule
from tfc.compiler.frontends.onnx.tensors import dtype_from
from tfc.ir import arrays
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import product

_AXIS_OPERAND = 20


def _dft(ctx: Context) -> Results:
    x, shape = ctx.x(0), ctx.shape(0)
    rank = len(shape)
    if ctx.opset < _AXIS_OPERAND:
        axis = ctx.integer("axis", 1)
    else:
        given = ctx.ints_of(2, "axis") if ctx.has(2) else (-2,)
        if len(given) != 1:
            raise ctx.malformed(f"axis holds {len(given)} numbers")
        (axis,) = given
    axis = ctx.axis(axis, rank)
    inverse, onesided = ctx.flag("inverse"), ctx.flag("onesided")
    size = shape[axis]
    if not isinstance(size, int) or shape[-1] not in (1, 2) or axis == rank - 1:
        raise ctx.unsupported(f"axis {axis} of {list(shape)}: a fixed number of elements is")
    length = 2 * (size - 1) if inverse and onesided else size
    if ctx.has(1):
        lengths = ctx.ints_of(1, "dft_length")
        if len(lengths) != 1 or lengths[0] < 1:
            raise ctx.malformed(f"dft_length is {list(lengths)}")
        (length,) = lengths
    return transformed(ctx, x, axis, length, inverse, onesided)


def transformed(
    ctx: Context, x: Value, axis: int, length: int, inverse: bool, onesided: bool
) -> Value:
    """The transform along an axis; the last one holds real and imaginary parts, or real ones."""
    shape = tensor_type(x).shape
    size, parts = shape[axis], shape[-1]
    assert isinstance(size, int)
    assert isinstance(parts, int)
    matrix = _matrix(min(size, length), parts, length, inverse, onesided)
    used, results = matrix.shape[1], matrix.shape[2]
    order = (*(i for i in range(len(shape) - 1) if i != axis), axis, len(shape) - 1)
    moved = ctx.b.transpose(x, perm=order) if order != tuple(range(len(shape))) else x
    rest = tuple(shape[i] for i in order[:-2])
    if used < size:
        sizes = (*rest, used, parts)
        zeros, ones = (0,) * len(shape), (1,) * len(shape)
        moved = ctx.b.slice(moved, starts=zeros, sizes=sizes, steps=ones)
    if matrix.shape[0] < parts:
        raise ctx.unsupported("a transform of these parts")
    rows = ctx.reshape(moved, (product(rest), used * parts))
    laid = matrix.transpose(1, 0, 2, 3).reshape(used * parts, -1)
    y = ctx.b.matmul(rows, ctx.b.constant(laid, tensor_type(x).dtype))
    y = ctx.reshape(y, (*rest, results, matrix.shape[3]))
    back = tuple(order.index(i) for i in range(len(shape)))
    found: Value = ctx.b.transpose(y, perm=back) if order != tuple(range(len(shape))) else y
    return found


def _matrix(used: int, parts: int, length: int, inverse: bool, onesided: bool) -> Array:
    """Weights [parts in, elements in, elements out, parts out]; what is missing behind is 0."""
    k, j = np.arange(length)[None, :], np.arange(used)[:, None]
    angle = 2 * np.pi * ((k * j) % length) / length * (1 if inverse else -1)
    cos, sin = np.cos(angle), np.sin(angle)
    if inverse and onesided:
        return _real_inverse(used, parts, length)
    # (a + bi)(cos + i sin): real and imaginary part
    weights = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)])[:parts]
    if inverse:
        return weights / length
    return weights[:, :, : length // 2 + 1] if onesided else weights


def _real_inverse(used: int, parts: int, length: int) -> Array:
    """The other half of the frequencies are the conjugates of those given."""
    used = min(used, length // 2 + 1)
    j, k = np.arange(used)[:, None], np.arange(length)[None, :]
    angle = 2 * np.pi * ((k * j) % length) / length
    twice = np.where((j == 0) | (2 * j == length), 1.0, 2.0) / length
    weights = np.stack([np.cos(angle) * twice, -np.sin(angle) * twice])[:parts]
    return np.asarray(weights[..., None])


def _stft(ctx: Context) -> Results:
    """Frames of the signal, each weighted by the window and transformed."""
    x, shape = ctx.x(0), ctx.shape(0)
    (step,) = ctx.ints_of(1, "frame_step")
    size = shape[1]
    if ctx.has(3):
        (length,) = ctx.ints_of(3, "frame_length")
    else:
        given = ctx.shape(2)[0] if ctx.has(2) else size
        length = given if isinstance(given, int) else 0
    parts = shape[2] if len(shape) > 2 else 1
    if not isinstance(size, int) or not 0 < length <= size or step < 1:
        raise ctx.unsupported(f"frames of {length} every {step} of {size} elements")
    count = 1 + (size - length) // step
    taken = np.arange(count)[:, None] * step + np.arange(length)[None, :]
    signal = ctx.reshape(x, (shape[0], size, parts))
    frames = ctx.b.gather(signal, ctx.b.constant(taken), axis=1)
    if ctx.has(2):
        frames = ctx.b.mul(frames, ctx.reshape(ctx.x(2), (1, 1, length, 1)))
    return transformed(ctx, frames, 2, length, False, ctx.flag("onesided", True))


def _mel_weights(ctx: Context) -> Results:
    """Triangles over the frequencies of a transform, equally wide on the mel scale."""
    given = [ctx.const(i) for i in range(5)]
    numbers = [v.reshape(()).item() for v in given if v is not None and v.size == 1]
    if len(numbers) < 5:
        raise ctx.unsupported("a filter bank whose measures are not constant scalars")
    bands, length, rate, low, high = numbers
    dtype = dtype_from(ctx.integer("output_datatype", 1))
    edges = [2595 * np.log10(1 + hertz / 700) for hertz in (low, high)]
    points = edges[0] + np.arange(bands + 2) * (edges[1] - edges[0]) / (bands + 2)
    hertz = 700 * (10 ** (points / 2595) - 1)
    bins = ((length + 1) * hertz // rate).astype(np.int64)
    weights = np.zeros((length // 2 + 1, bands))
    for band in range(bands):
        left, centre, right = bins[band : band + 3]
        for at in range(left, centre + 1):
            weights[at, band] = (at - left) / (centre - left) if centre > left else 1
        for at in range(centre, right):
            weights[at, band] = (right - at) / (right - centre)
    attrs = arrays.constant_attrs(arrays.make(weights, dtype), ctx.b.constants, dtype)
    found: Value = ctx.b.op("constant", **attrs).result
    return found


def _window(*terms: float) -> Rule:
    """A sum of cosines, the k-th with k periods, exact before it is rounded once."""

    def build(ctx: Context) -> Results:
        size = ctx.dims_or_none(0)
        span = None if size is None or len(size) != 1 else size[0]
        dtype = dtype_from(ctx.integer("output_datatype", 1))
        periods = span if ctx.flag("periodic", True) or span is None else span - 1
        if not isinstance(span, int) or not isinstance(periods, int) or periods < 1:
            return ctx.expand()
        angle = 2 * np.pi * np.arange(span) / periods
        values = np.sum([term * np.cos(k * angle) for k, term in enumerate(terms)], axis=0)
        if dtype.is_int:
            # Integers are what is left of the decimals: 1 must not be a bit less.
            values = np.round(values, 12)
        attrs = arrays.constant_attrs(arrays.make(values, dtype), ctx.b.constants, dtype)
        found: Value = ctx.b.op("constant", **attrs).result
        return found

    return Rule(build)


RULES: dict[str, tuple[Rule, ...]] = {
    "BlackmanWindow": (_window(0.42, -0.5, 0.08),),
    "DFT": (Rule(_dft),),
    "HammingWindow": (_window(25 / 46, -21 / 46),),
    "HannWindow": (_window(0.5, -0.5),),
    "MelWeightMatrix": (Rule(_mel_weights),),
    "STFT": (Rule(_stft),),
}
