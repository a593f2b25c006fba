"""Winograd's minimal filtering for 3x3 convolutions: where it fits, its transforms, its weights.

F(m x m) computes m x m outputs from (m + 2) x (m + 2) inputs with one product per input element
(Lavin and Gray, 2016). The kernel is in `winograd_kernel`, the reasons are in
docs/decisions/0007-winograd.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tfc.compiler.cost import contraction as cost
from tfc.compiler.cost.choice import Candidate
from tfc.compiler.cost.expression import estimate
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.lower.contract import Contraction, constant_view, stride_of
from tfc.compiler.lower.planes import TRIAL_LIMIT, PlanePlan
from tfc.compiler.lower.trial import Arrays
from tfc.compiler.target import Target
from tfc.ir.body import Iter, Load
from tfc.ir.dims import DimLike, ceildiv, product, substitute
from tfc.ir.loop.scalar import ScalarBuilder
from tfc.ir.types import BF16, F32

Array = npt.NDArray[Any]
T = TypeVar("T")

TAPS = 3
LEAST_CHANNELS = 32
# Channels that are added one to another; the sums of such chunks are added then. Errors grow with
# the root of the length of a sum.
CHUNK = 128
VECTORS = 2


# -- transforms ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Form:
    """F(m x m, 3 x 3). weights: the matrix G. inputs, outputs: B^T and A^T applied to a column."""

    m: int
    weights: Array
    inputs: Callable[[ScalarBuilder[Any], Sequence[Any]], list[Any]]
    outputs: Callable[[ScalarBuilder[Any], Sequence[Any]], list[Any]]

    @property
    def name(self) -> str:
        return f"winograd{self.m}"

    @property
    def side(self) -> int:
        return self.m + TAPS - 1

    @property
    def products(self) -> int:
        """Products of one tile, each a plane of its own."""
        return self.side * self.side


def _scaled(b: ScalarBuilder[T], factor: float, x: T, y: T) -> T:
    """factor * x + y."""
    return b.fma(b.const(factor, x), x, y)


def _inputs_2(b: ScalarBuilder[T], d: Sequence[T]) -> list[T]:
    return [b.sub(d[0], d[2]), b.add(d[1], d[2]), b.sub(d[2], d[1]), b.sub(d[1], d[3])]


def _outputs_2(b: ScalarBuilder[T], x: Sequence[T]) -> list[T]:
    return [b.add(b.add(x[0], x[1]), x[2]), b.sub(b.sub(x[1], x[2]), x[3])]


def _inputs_4(b: ScalarBuilder[T], d: Sequence[T]) -> list[T]:
    even, odd = _scaled(b, -4, d[2], d[4]), _scaled(b, -4, d[1], d[3])
    outer, inner = b.sub(d[4], d[2]), b.sub(d[3], d[1])
    return [
        _scaled(b, 4, d[0], _scaled(b, -5, d[2], d[4])),
        b.add(even, odd),
        b.sub(even, odd),
        _scaled(b, 2, inner, outer),
        _scaled(b, -2, inner, outer),
        _scaled(b, 4, d[1], _scaled(b, -5, d[3], d[5])),
    ]


def _outputs_4(b: ScalarBuilder[T], x: Sequence[T]) -> list[T]:
    even, odd = b.add(x[1], x[2]), b.sub(x[1], x[2])
    wide, narrow = b.add(x[3], x[4]), b.sub(x[3], x[4])
    return [
        b.add(b.add(x[0], even), wide),
        _scaled(b, 2, narrow, odd),
        _scaled(b, 4, wide, even),
        b.add(_scaled(b, 8, narrow, odd), x[5]),
    ]


# The interpolation points are 0, 1, -1 and infinity; F(4x4) adds 2 and -2.
F2 = Form(2, np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
          _inputs_2, _outputs_2)  # fmt: skip
F4 = Form(
    4,
    np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
    _inputs_4,
    _outputs_4,
)


def both_axes(b: ScalarBuilder[T], fn: Callable[..., list[T]], tile: Sequence[T]) -> list[T]:
    """Apply a transform to the columns of a square tile, row-major, and then to its rows."""
    side = round(len(tile) ** 0.5)
    columns = [fn(b, tile[j::side]) for j in range(side)]
    return [x for row in zip(*columns, strict=True) for x in fn(b, row)]


# -- where it fits ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Convolution:
    """A contraction that is a 3x3 convolution: output (y, x) reads input (y + ky, x + kx).

    images: the other row iterators. depth: the other reduced ones, as the third axis of a kernel
    has them, whose steps are as if there were more channels. pixel: position of input (y, x) in
    channel 0 at depth 0; each step of y or x, and of the tap along the same axis, moves it by the
    same stride.
    """

    contraction: Contraction
    images: tuple[Iter, ...]
    y: Iter
    x: Iter
    ky: Iter
    kx: Iter
    depth: tuple[Iter, ...]
    channels: Iter
    pixel: DimLike

    @property
    def inputs(self) -> int:
        """Numbers that are multiplied by each tap of ky and kx, and added."""
        return math.prod(_extent(it) for it in (*self.depth, self.channels))


def match(c: Contraction) -> Convolution | None:
    """Recognise a convolution with 3x3 taps, distance 1 and channels innermost.

    Of a kernel with more axes these are the two inner ones.
    """
    f32 = all(side.dtype == F32 and side.load.dtype in (F32, BF16) for side in (c.left, c.right))
    if not f32 or c.batch or c.reduce.dtype != F32:
        return None
    c = _split_taps(c)
    if len(c.reduced) < 3 or not all(isinstance(it.extent, int) for it in c.reduced):
        return None
    *depth, ky, kx, channels = c.reduced
    if not (_is_wide(channels) and _is_wide(c.n)) or stride_of(c.left.address, channels) != 1:
        return None
    y, x = (_moving_with(c, tap) for tap in (ky, kx))
    if y is None or x is None or y is x:
        return None
    images = tuple(it for it in c.rows if it not in (y, x))
    pixel = substitute(c.left.address, {it.name: 0 for it in c.reduced})
    return Convolution(c, images, y, x, ky, kx, tuple(depth), channels, pixel)


def _is_wide(channels: Iter) -> bool:
    return isinstance(channels.extent, int) and channels.extent >= LEAST_CHANNELS


def _moving_with(c: Contraction, tap: Iter) -> Iter | None:
    """The row iterator whose steps on the left are those of `tap`, an axis of the kernel."""
    if tap.extent != TAPS:
        return None
    step = stride_of(c.left.address, tap)
    return next((it for it in c.rows if stride_of(c.left.address, it) == step), None)


def _split_taps(c: Contraction) -> Contraction:
    """Take the taps of the inner axis out of the channels, where both sides ran through them."""
    *outer, merged = c.reduced
    if not outer:
        return c
    pixels = [stride_of(c.left.address, it) for it in c.rows]
    inner = [size for size in pixels if size * TAPS == merged.extent]
    if not inner or stride_of(c.left.address, merged) != 1:
        return c
    tap, channel = Iter(f"{merged.name}t", TAPS), Iter(f"{merged.name}c", inner[0])
    both = {merged.name: tap.dim * inner[0] + channel.dim}
    left, right = (
        replace(
            side,
            load=Load(side.load.value, (substitute(side.address, both),), side.load.dtype),
        )
        for side in (c.left, c.right)
    )
    return replace(c, left=left, right=right, reduced=(*outer, tap, channel))


# -- the plan -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan(PlanePlan):
    """How a convolution runs: its tiles are squares of outputs, its planes the products of one."""

    conv: Convolution
    form: Form


def _extent(it: Iter) -> int:
    assert isinstance(it.extent, int)
    return it.extent


def plans(conv: Convolution, target: Target, hints: Mapping[str, int]) -> list[list[Plan]]:
    """The plans by each form, in blocks of several sizes, those of the cost model first.

    F(2x2) saves less than a `dot` of narrow elements, where there is one.
    """
    dots = target.has_dot(conv.contraction.left.load.dtype, target.lanes(F32))
    return [_plans(conv, form, target, hints) for form in ((F4,) if dots else (F4, F2))]


def candidate(plan: Plan, target: Target, hints: Mapping[str, int]) -> Candidate[Plan]:
    """A plan with what the cost model thinks of it."""
    cycles = cost.winograd_cycles(machine_of(target), plan.sizes(hints), plan.lanes)
    return Candidate(f"{plan.block}", cycles, plan)


def is_exact_enough(plan: Plan, weights: Array) -> bool:
    """Whether a trial has errors below the limit; False where weights are not finite."""
    return error_of(plan.form, weights) <= TRIAL_LIMIT


def _tiles(conv: Convolution, form: Form) -> DimLike:
    across = [ceildiv(it.extent, form.m) for it in (conv.y, conv.x)]
    return product([*(it.extent for it in conv.images), *across])


def _plans(conv: Convolution, form: Form, target: Target, hints: Mapping[str, int]) -> list[Plan]:
    tiles = _tiles(conv, form)
    count = max(estimate(tiles, hints), 1)
    most = (target.vector_registers - VECTORS - 1) // VECTORS
    return [
        _plan(conv, form, tiles, -(-count // blocks), most, blocks, target)
        for blocks in cost.winograd_blocks(count, most)
    ]


def _plan(
    conv: Convolution,
    form: Form,
    tiles: DimLike,
    block: int,
    most: int,
    blocks: int,
    target: Target,
) -> Plan:
    return Plan(
        lanes=target.lanes(F32),
        vectors=VECTORS,
        planes=form.products,
        inputs=conv.inputs,
        outputs=_extent(conv.contraction.n),
        tiles=tiles,
        block=block,
        rows=-(-block // -(-block // most)),
        chunk=chunks_of(conv.inputs)[0],
        # Of unknown sizes no program holds all the transformed pixels.
        shared=isinstance(tiles, int) and blocks < cost.TASK_BLOCKS,
        conv=conv,
        form=form,
    )


# -- weights ------------------------------------------------------------------------------------


def weights_of(conv: Convolution, flat: Array) -> Array:
    """Return the constant right side as [output, input, ky, kx], given its elements `flat`."""
    iters = (conv.contraction.n, *conv.depth, conv.channels, conv.ky, conv.kx)
    view = constant_view(conv.contraction.right.address, iters, flat)
    return view.reshape(len(view), conv.inputs, TAPS, TAPS)


def pack_weights(plan: Plan, weights: Array) -> Array:
    """Return the transformed weights as [panel][product][input][column], rounded once.

    Many small products: for a large one BLAS wakes threads, which cost more than they gain.
    """
    matrix = np.kron(plan.form.weights, plan.form.weights)
    packed = np.empty((plan.panels, plan.planes, plan.inputs, plan.columns), np.float32)
    for panel in range(plan.panels):
        first = min(panel * plan.columns, plan.outputs - plan.columns)
        own = weights[first : first + plan.columns].transpose(1, 2, 3, 0)
        taps = own.reshape(plan.inputs, TAPS * TAPS, plan.columns).astype(np.float64)
        packed[panel] = np.matmul(matrix, taps).transpose(1, 0, 2)
    return packed.reshape(-1)


def chunks_of(channels: int) -> tuple[int, int]:
    """The channels of a chunk, and how many chunks there are."""
    count = -(-channels // CHUNK)
    return -(-channels // count), count


# -- accuracy -----------------------------------------------------------------------------------

_TRIAL_OUTPUTS = 8
_TRIAL_TILES = 4


def error_of(form: Form, weights: Array) -> float:
    """Return the largest error of a few tiles, of the largest value, as the kernel computes them.

    Half the pixels are positive, as behind a relu. NaN where the weights are not finite.
    """
    chosen = np.linspace(0, len(weights) - 1, min(len(weights), _TRIAL_OUTPUTS)).astype(int)
    kernels = weights[chosen].astype(np.float64)
    channels = kernels.shape[1]
    random = np.random.default_rng(0)
    shape = (_TRIAL_TILES, channels, form.side, form.side)
    pixels = random.standard_normal(shape, dtype=np.float32)
    pixels[::2] = np.abs(pixels[::2])
    with np.errstate(all="ignore"):
        wanted = _direct(form, pixels, kernels)
        found = _filtered(form, pixels, kernels)
        return float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))


def _direct(form: Form, pixels: Array, kernels: Array) -> Array:
    """Return the outputs of tiles in float64, as [y, x, tile, output]."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (TAPS, TAPS), axis=(2, 3))
    rows = windows.transpose(1, 2, 3, 0, 4, 5).reshape(pixels.shape[1], -1, TAPS * TAPS)
    taps = kernels.transpose(1, 2, 3, 0).reshape(pixels.shape[1], TAPS * TAPS, -1)
    outputs = np.matmul(rows.astype(np.float64), taps).sum(axis=0)
    return np.asarray(outputs).reshape(form.m, form.m, len(pixels), len(kernels))


def _filtered(form: Form, pixels: Array, kernels: Array) -> Array:
    """Return the same by the transforms, in float32."""
    b = Arrays()
    matrix = np.kron(form.weights, form.weights)
    transformed = (kernels.reshape(*kernels.shape[:2], -1) @ matrix.T).astype(np.float32)
    tile = list(pixels.transpose(2, 3, 1, 0).reshape(form.products, *pixels.shape[1::-1]))
    inputs = both_axes(b, form.inputs, tile)
    # As [product, chunk, channel, tile or output], with zeros behind the last channel.
    chunk, chunks = chunks_of(pixels.shape[1])
    short = ((0, 0), (0, chunk * chunks - pixels.shape[1]), (0, 0))
    left, right = (
        np.pad(side, short).reshape(form.products, chunks, chunk, -1)
        for side in (np.stack(inputs), transformed.transpose(2, 1, 0))
    )
    totals = np.zeros((form.products, chunks, len(pixels), len(kernels)), np.float32)
    for i in range(chunk):
        totals += left[:, :, i, :, None] * right[:, :, i, None, :]
    products = totals[:, 0]
    for i in range(1, chunks):
        products = products + totals[:, i]
    outputs = both_axes(b, form.outputs, list(products))
    return np.asarray(outputs, np.float64).reshape(form.m, form.m, len(pixels), len(kernels))
