"""Sliding windows along stored rows: depthwise convolution and pooling with channels first.

Lanes are neighbouring columns. A band of the rows that are read is copied to scratch memory with
its padding; there every tap of every output is a vector at some distance, and what a column of
taps reads is loaded once for all outputs of a tile. Here a nest is recognised and its bands and
tiles are chosen; the kernel is `window_rows_kernel`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tfc.compiler.cost.choice import Candidate, Chooser, best_first
from tfc.compiler.cost.machine import machine_of
from tfc.compiler.cost.nest import CHAINS, LEAST_COLUMNS, MOST_STEP, RowTile, row_window_cycles
from tfc.compiler.lower.compose import Nest
from tfc.compiler.lower.dependence import POSITIONS
from tfc.compiler.lower.normal import reductions
from tfc.compiler.lower.plan import power_above
from tfc.compiler.target import Target
from tfc.ir.body import Expr, Guard, Iter, Load, Number, Position, Range, Reduce, rewrite, walk
from tfc.ir.dims import Dim, DimLike, coefficient, product, substitute, symbol, symbols_of

# Stand for the element that a tap reads in a window's body, and for the finished fold.
CELL, TOTAL = "cell", "total"
# So many steps of a tile and columns of taps are unrolled; of more the columns are a loop.
MOST_STEPS, MOST_COLUMNS = 768, 32
MOST_OUTPUTS = 16
# Rows of outputs that a band has at least, since bands share the rows that both read.
LEAST_BAND = 8
PAGE = 4096


@dataclass(frozen=True)
class Axis:
    """An axis of what is read, padding included: output `it` is at `stride * it`, its taps at
    `dilation * tap` behind.

    `size` positions from `start` on are in memory, `step` elements apart; the others are padding.
    """

    it: Iter | None
    tap: Iter | None
    stride: int
    dilation: int
    step: int
    start: int = 0
    size: int = 0

    @property
    def outputs(self) -> int:
        return _static(self.it)

    @property
    def taps(self) -> int:
        return _static(self.tap)

    def positions(self, outputs: int) -> int:
        """How many positions the windows of so many neighbours cover."""
        return (outputs - 1) * self.stride + (self.taps - 1) * self.dilation + 1

    @property
    def is_padded(self) -> bool:
        return self.start > 0 or self.start + self.size < self.positions(self.outputs)


def _static(it: Iter | None) -> int:
    if it is None:
        return 1
    assert isinstance(it.extent, int)
    return it.extent


@dataclass(frozen=True)
class RowWindow:
    """A nest that folds windows of rows.

    load: what is read, of which `origin` is the first position's address; `padding` stands for
    what lies outside. body: of the fold, and epilogue: of an output, with the holes `cell` and
    `total`. outer: iterators that move what is read; shared: those that do not.
    """

    nest: Nest
    reduce: Reduce
    load: Load
    padding: float
    origin: DimLike
    rows: Axis
    columns: Axis
    cell: Expr
    body: Expr
    total: Expr
    epilogue: Expr
    outer: tuple[Iter, ...]
    shared: tuple[Iter, ...]


@dataclass(frozen=True)
class RowPlan:
    """How a window of rows runs: bands of `band` rows of outputs, whose tiles are `high` rows of
    `vectors` vectors of `width` columns. Of short rows a vector holds as many as it can, `high`
    apart. What a band reads is copied in vectors of `lanes`.
    """

    window: RowWindow
    band: int
    high: int
    vectors: int
    width: int
    lanes: int
    cycles: float

    @property
    def parts(self) -> int:
        """Rows in a vector."""
        return min(self.lanes // self.width, power_above(self.band))

    @property
    def phase(self) -> int:
        """Elements between columns that belong to different outputs: those at each distance from
        a multiple of the stride lie together."""
        columns = self.window.columns
        count = math.ceil(columns.positions(columns.outputs) / columns.stride)
        return math.ceil(count / self.lanes) * self.lanes

    @property
    def pitch(self) -> int:
        """Elements between rows of the copy."""
        pitch = self.phase * self.window.columns.stride
        page = PAGE // self.window.load.dtype.bytes
        return pitch + self.lanes if pitch % page == 0 else pitch

    @property
    def copied(self) -> int:
        """Rows of the copy."""
        return self.window.rows.positions(self.band)

    @property
    def size(self) -> int:
        """Elements of the copy, and of what a vector may read behind it."""
        return self.copied * self.pitch + self.lanes

    @property
    def turns(self) -> int:
        """In how many sets of totals columns of taps are added in turn, since few totals would
        wait for their last addition. Columns that are a loop are added in their order.
        """
        columns, outputs = self.window.columns.taps, self.high * self.vectors
        return 1 if self.is_loop else min(math.ceil(CHAINS / outputs), columns)

    @property
    def is_loop(self) -> bool:
        """Whether columns of taps are a loop."""
        rows, columns = self.window.rows.taps, self.window.columns.taps
        steps = rows * columns * self.high * self.vectors
        return columns > MOST_COLUMNS or steps > MOST_STEPS

    @property
    def bands(self) -> Iter:
        return Iter("band", math.ceil(self.window.rows.outputs / self.band))


# -- recognising ------------------------------------------------------------------------------


def match(nest: Nest, target: Target) -> RowWindow | None:
    """Recognise a fold of windows whose lanes may be neighbouring columns."""
    found = reductions(nest)
    if len(found) != 1 or len(nest.outputs) != 1 or not target.has_masks:
        return None
    (reduce,), (output,) = found, nest.outputs
    if reduce.kind in POSITIONS or any(not isinstance(it.extent, int) for it in reduce.iters):
        return None
    if any(it.extent == 0 for it in (*nest.iters, *reduce.iters)):
        return None
    x = next((it for it in nest.iters if coefficient(output.address, it.name) == 1), None)
    if x is None or not isinstance(x.extent, int) or x.extent < LEAST_COLUMNS:
        return None
    node = _cell(reduce.body, x)
    if node is None:
        return None
    load = node.inside if isinstance(node, Guard) else node
    assert isinstance(load, Load)
    if load.dtype != reduce.dtype or not load.dtype.is_float or load.dtype.bits < 32:
        return None
    address = load.index[0]
    assert isinstance(address, Dim)
    axes = _axes(nest, reduce, address, node.ranges if isinstance(node, Guard) else (), x)
    if axes is None:
        return None
    rows, columns = axes
    cell = Position(symbol(CELL) + x.dim, load.dtype)
    total = Position(symbol(TOTAL) + x.dim, reduce.dtype)
    body = rewrite(reduce.body, lambda _: None, {id(node): cell})
    epilogue = rewrite(output.expr, lambda _: None, {id(reduce): total})
    placed = {it.name for it in (rows.it, columns.it) if it is not None}
    if any(isinstance(part, Guard) for part in walk(epilogue)) or _depends(body, cell, placed):
        return None
    tiled = {it.name: 0 for axis in axes for it in (axis.it, axis.tap) if it is not None}
    others = [it for it in nest.iters if it.name not in placed]
    padding = 0.0
    if isinstance(node, Guard):
        assert isinstance(node.outside, Number)
        padding = float(node.outside.value.real)
    return RowWindow(
        nest, reduce, load, padding, substitute(address, tiled), rows, columns,
        cell, body, total, epilogue,
        tuple(it for it in others if it.name in symbols_of(address)),
        tuple(it for it in others if it.name not in symbols_of(address)),
    )  # fmt: skip


def _cell(body: Expr, x: Iter) -> Load | Guard | None:
    """The only load that moves with x, with the guard around it that gives padding."""
    found = [
        node
        for node in walk(body)
        if isinstance(node, Load) and any(x.name in symbols_of(dim) for dim in _positions(node))
    ]
    guards = [node for node in walk(body) if isinstance(node, Guard)]
    if len(found) != 1 or len(found[0].index) != 1 or len(guards) > 1:
        return None
    address = found[0].index[0]
    assert isinstance(address, Dim)
    if any(coefficient(address, name) is None for name in symbols_of(address)):
        return None
    for guard in guards:
        if guard.inside is not found[0] or not isinstance(guard.outside, Number):
            return None
        return guard
    return found[0]


def _depends(body: Expr, cell: Expr, names: set[str]) -> bool:
    """Whether anything beside the cell depends on which output is computed."""
    return any(
        symbols_of(dim) & names
        for node in walk(body)
        if node is not cell
        for dim in _positions(node)
    )


def _axes(
    nest: Nest, reduce: Reduce, address: Dim, ranges: Sequence[Range], x: Iter
) -> tuple[Axis, Axis] | None:
    """The axes of rows and of columns; None where there are others, or padding of others."""
    across = [each for each in ranges if x.name in symbols_of(each.dim)]
    down = [each for each in ranges if x.name not in symbols_of(each.dim)]
    steps: dict[Iter, int] = {}
    for it in (*nest.iters, *reduce.iters):
        moved = coefficient(address, it.name)
        if isinstance(moved, int) and moved > 0:
            steps[it] = moved
    if len(across) > 1 or len(down) > 1 or len(reduce.iters) > 2:
        return None
    if steps.get(x, 0) not in range(1, MOST_STEP + 1) or not steps.keys() >= {*reduce.iters}:
        return None
    reach = steps[x] * (_static(x) - 1)
    column_tap, row_tap = _sorted_taps(reduce.iters, steps, across, down, reach)
    y = _row_iterator(nest, reduce, steps, down, x)
    if row_tap is not None and y is None and not down:
        return None
    if column_tap is None and (row_tap is None or not _slides(y, row_tap, steps, down)):
        # What is summed over otherwise, such as channels, is a matter of products.
        return None
    step = math.gcd(*(steps[it] for it in (y, row_tap) if it is not None))
    if down:
        moving = y or row_tap
        ratio = coefficient(down[0].dim, moving.name) if moving is not None else None
        if moving is None or not isinstance(ratio, int) or ratio < 1:
            return None
        step = steps[moving] // ratio
    rows, columns = _axis(y, row_tap, steps, down, step), _axis(x, column_tap, steps, across, 1)
    return None if rows is None or columns is None else (rows, columns)


def _slides(y: Iter | None, tap: Iter, steps: Mapping[Iter, int], down: Sequence[Range]) -> bool:
    """Whether windows lie along the rows, rather than each in a row of its own of a matrix.

    There a tap steps past all outputs.
    """
    return y is not None and (bool(down) or steps[tap] <= steps[y] * (_static(y) - 1))


def _sorted_taps(
    taps: Sequence[Iter],
    steps: Mapping[Iter, int],
    across: Sequence[Range],
    down: Sequence[Range],
    reach: int,
) -> tuple[Iter | None, Iter | None]:
    """Which tap moves along columns and which along rows. reach: how far a row's outputs lie."""
    order = sorted(taps, key=lambda tap: steps[tap])
    if len(order) == 2:
        return order[0], order[1]
    if not order:
        return None, None
    (tap,) = order
    in_row = steps[tap] <= reach
    if any(tap.name in symbols_of(each.dim) for each in across):
        in_row = True
    elif any(tap.name in symbols_of(each.dim) for each in down):
        in_row = False
    return (tap, None) if in_row else (None, tap)


def _row_iterator(
    nest: Nest, reduce: Reduce, steps: Mapping[Iter, int], down: Sequence[Range], x: Iter
) -> Iter | None:
    """The iterator over rows: the one that padding depends on, else the innermost possible."""
    found: list[tuple[int, Iter]] = []
    for it in nest.iters:
        stored = coefficient(nest.outputs[0].address, it.name)
        possible = it is not x and it in steps and isinstance(it.extent, int)
        if not possible or not isinstance(stored, int) or _weighs(reduce.body, it, x):
            continue
        if not down or it.name in symbols_of(down[0].dim):
            found.append((stored, it))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _weighs(body: Expr, it: Iter, x: Iter) -> bool:
    """Whether anything but the load that moves with x depends on the iterator."""
    for node in walk(body):
        dims = _positions(node)
        own = not any(x.name in symbols_of(dim) for dim in dims)
        if own and any(it.name in symbols_of(dim) for dim in dims):
            return True
    return False


def _positions(node: Expr) -> list[Dim]:
    """The dims that a load or a position speaks of."""
    entries = node.index if isinstance(node, Load) else ()
    if isinstance(node, Position):
        entries = (node.dim,)
    return [entry for entry in entries if isinstance(entry, Dim)]


def _axis(
    it: Iter | None,
    tap: Iter | None,
    steps: Mapping[Iter, int],
    ranges: Sequence[Range],
    step: int,
) -> Axis | None:
    """An axis, with its padding where there is a range; None where that is another's."""
    moves = [steps[each] if each is not None else step for each in (it, tap)]
    if step and any(move % step for move in moves):
        return None
    stride, dilation = (move // step if step else 1 for move in moves)
    axis = Axis(it, tap, stride, dilation, step)
    if not ranges:
        return replace(axis, size=axis.positions(axis.outputs))
    (inside,) = ranges
    own = {each.name: rate for each, rate in ((it, stride), (tap, dilation)) if each is not None}
    if symbols_of(inside.dim) != own.keys():
        return None
    if any(coefficient(inside.dim, name) != rate for name, rate in own.items()):
        return None
    first = substitute(inside.dim, dict.fromkeys(own, 0))
    start, count = inside.lo - first, inside.hi - inside.lo
    if not isinstance(start, int) or not isinstance(count, int) or start < 0 or count < 1:
        return None
    return replace(axis, start=start, size=count)


# -- choosing ---------------------------------------------------------------------------------


def make_plan(window: RowWindow, target: Target, chooser: Chooser) -> RowPlan:
    """Choose bands that the first-level cache holds, and a tile of the registers."""
    rows, columns = window.rows, window.columns
    lanes = target.vector_bits // window.load.dtype.bits
    width = min(lanes, power_above(columns.outputs))
    band = _band(RowPlan(window, 1, 1, 1, width, lanes, 0.0), target)
    spare = max(target.vector_registers - rows.taps - 3, target.vector_registers // 2)
    limit = min(MOST_OUTPUTS, spare)
    vectors = math.ceil(columns.outputs / width)
    machine = machine_of(target)
    found: dict[str, Candidate[RowPlan]] = {}
    for wide in range(1, min(vectors, limit) + 1):
        wide = math.ceil(vectors / math.ceil(vectors / wide))
        # Rows of a vector are powers of two.
        parts = min(lanes // width, power_above(band))
        high = math.ceil(band / parts / math.ceil(band / parts / (limit // wide)))
        plan = RowPlan(window, band, high, wide, width, lanes, 0.0)
        reads = rows.positions(high) * parts
        tile = RowTile(high, wide, rows.taps, columns.taps, reads, plan.turns)
        tiles = math.ceil(band / (high * parts)) * math.ceil(vectors / wide)
        again = product(it.extent for it in window.shared if isinstance(it.extent, int))
        assert isinstance(again, int)
        copies = plan.copied * plan.pitch / lanes
        plan = replace(plan, cycles=row_window_cycles(machine, tile, tiles * again, copies))
        found.setdefault(f"{high}x{wide}", Candidate(f"{high}x{wide}", plan.cycles, plan))
    return chooser.choose("tile", best_first([*found.values()]))


def _band(plan: RowPlan, target: Target) -> int:
    """How many rows of outputs are computed from one copy."""
    rows = plan.window.rows
    most = target.l1 // 2 // (plan.pitch * plan.window.load.dtype.bytes)
    for parts in range(1, rows.outputs + 1):
        band = math.ceil(rows.outputs / parts)
        if rows.positions(band) <= most or band <= LEAST_BAND:
            return band
    return rows.outputs
