"""LSTM, GRU and RNN: one loop for each direction; what the inputs add is one product before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tfc.compiler.frontends.onnx.context import Context, FoldingBuilder, Results, Rule
from tfc.ir.build import tensor_type
from tfc.ir.control import Next, Round, Scanned
from tfc.ir.control import loop as build_loop
from tfc.ir.core import Value
from tfc.ir.dims import DimLike
from tfc.ir.types import I64, DType

Function: TypeAlias = Callable[[Value], Value]

# -- activations --------------------------------------------------------------------------------

# By name: how many parameters it takes, with their defaults, and the function.
_ACTIVATIONS: dict[str, tuple[tuple[float | None, float | None], str]] = {
    "affine": ((1.0, 0.0), ""),
    "elu": ((1.0, None), "elu"),
    "hardsigmoid": ((0.2, 0.5), "hard_sigmoid"),
    "leakyrelu": ((0.01, None), "leaky_relu"),
    "relu": ((None, None), "relu"),
    "scaledtanh": ((1.0, 1.0), ""),
    "sigmoid": ((None, None), "sigmoid"),
    "softplus": ((None, None), "softplus"),
    "softsign": ((None, None), "softsign"),
    "tanh": ((None, None), "tanh"),
    "thresholdedrelu": ((1.0, None), "thresholded_relu"),
}


def _activations(ctx: Context, default: Sequence[str], directions: int) -> list[list[Function]]:
    """The activation functions of each direction; parameters are handed out in order."""
    raw = ctx.strings("activations") or tuple(default) * directions
    if len(raw) != len(default) * directions:
        raise ctx.malformed(f"{len(raw)} activations, not {len(default) * directions}")
    alphas, betas = (
        iter([float(str(np.float32(v))) for v in ctx.reals(f"activation_{n}") or ()])
        for n in ("alpha", "beta")
    )
    found = [_activation(ctx, name, alphas, betas) for name in raw]
    return [found[i * len(default) : (i + 1) * len(default)] for i in range(directions)]


def _activation(
    ctx: Context, name: str, alphas: Iterator[float], betas: Iterator[float]
) -> Function:
    known = _ACTIVATIONS.get(name.lower())
    if known is None:
        raise ctx.malformed(f"unknown activation {name!r}")
    (alpha, beta), op = known
    b = ctx.b
    a = None if alpha is None else next(alphas, alpha)
    c = None if beta is None else next(betas, beta)

    def apply(x: Value) -> Value:
        if op:
            attrs = {k: v for k, v in (("alpha", a), ("beta", c)) if v is not None}
            return b.op(op, x, **attrs).result
        scale, shift = ctx.scalar(a or 0.0, x), ctx.scalar(c or 0.0, x)
        if name.lower() == "affine":
            return b.op("add", b.mul(scale, x), shift).result
        return b.op("mul", scale, b.tanh(b.mul(shift, x))).result

    return apply


# -- one direction ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Direction:
    """What one direction is computed from. x: [steps, batch, size]; gates are rows of w and r."""

    b: FoldingBuilder
    x: Value
    w: Value
    r: Value
    bias: tuple[Value, Value] | None
    states: list[Value]
    mask: Value | None
    backward: bool
    functions: list[Function]
    clip: float

    @property
    def dtype(self) -> DType:
        return tensor_type(self.x).dtype

    @property
    def hidden(self) -> int:
        size = tensor_type(self.r).shape[-1]
        assert isinstance(size, int)
        return size

    def projected(self, *extra: Value) -> Value:
        """x @ w^T, with `extra` added, for all steps at once."""
        found: Value = self.b.matmul(self.x, self.b.transpose(self.w, perm=(1, 0)))
        for value in extra:
            found = self.b.add(found, value)
        return found

    def recurrent(self, h: Value, first: int, last: int) -> Value:
        """h times the recurrent weights of gates `first` to `last`."""
        rows = self.gates(self.r, first, last, 0)
        found: Value = self.b.matmul(h, self.b.transpose(rows, perm=(1, 0)))
        return found

    def gates(self, x: Value, first: int, last: int, axis: int = -1) -> Value:
        """The part of `x` that belongs to the gates from `first` up to `last`, left out."""
        shape = tensor_type(x).shape
        axis %= len(shape)
        count = (last - first) * self.hidden
        if shape[axis] == count:
            return x
        starts = tuple(first * self.hidden if i == axis else 0 for i in range(len(shape)))
        sizes = tuple(count if i == axis else n for i, n in enumerate(shape))
        found: Value = self.b.slice(x, starts=starts, sizes=sizes, steps=(1,) * len(shape))
        return found

    def clipped(self, x: Value) -> Value:
        if self.clip <= 0:
            return x
        found: Value = self.b.clamp(x, lo=-self.clip, hi=self.clip)
        return found

    def run(
        self, step: Callable[[Value, Sequence[Value]], list[Value]], projected: Value
    ) -> tuple[Value, list[Value]]:
        """Loop over the steps; step: (projected input, states) to the next states, h first.

        Returns all h, and the last states. Beyond a sequence's end states stay and h is 0.
        """
        b = self.b

        def body(r: Round) -> Next:
            after = step(r.slices[0], r.carried)
            if self.mask is None:
                return Next(after, [after[0]])
            inside = r.slices[1]
            kept = [b.select(inside, x, old) for x, old in zip(after, r.carried, strict=True)]
            none = b.constant(0, self.dtype)
            return Next(kept, [b.select(inside, after[0], none)])

        scanned = [Scanned(projected, self.backward)]
        if self.mask is not None:
            scanned.append(Scanned(self.mask, self.backward))
        trips = tensor_type(self.x).shape[0]
        found = build_loop(
            b, body, self.states, scanned, backward=[self.backward], trips=trips
        )  # fmt: skip
        return found.stacked[0], list(found.carried)


def _lstm_step(
    d: _Direction, peepholes: Value | None, coupled: bool
) -> Callable[[Value, Sequence[Value]], list[Value]]:
    """Gates i, o, f, c."""
    b = d.b
    f, g, h = d.functions

    def step(x: Value, states: Sequence[Value]) -> list[Value]:
        hidden, cell = states
        total = b.add(x, d.recurrent(hidden, 0, 4))
        i, o, forget, c = (d.gates(total, n, n + 1) for n in range(4))
        if peepholes is not None:
            i = b.add(i, b.mul(d.gates(peepholes, 0, 1), cell))
            forget = b.add(forget, b.mul(d.gates(peepholes, 2, 3), cell))
        entered = f(d.clipped(i))
        if coupled:
            left = b.sub(b.constant(1, d.dtype), entered)
        else:
            left = f(d.clipped(forget))
        new = b.add(b.mul(left, cell), b.mul(entered, g(d.clipped(c))))
        if peepholes is not None:
            o = b.add(o, b.mul(d.gates(peepholes, 1, 2), new))
        return [b.mul(f(d.clipped(o)), h(new)), new]

    return step


def _gru_step(
    d: _Direction, linear_before_reset: bool
) -> Callable[[Value, Sequence[Value]], list[Value]]:
    """Gates z, r, h."""
    b = d.b
    f, g = d.functions
    inner = None if d.bias is None else d.gates(d.bias[1], 2, 3)

    def step(x: Value, states: Sequence[Value]) -> list[Value]:
        (hidden,) = states
        if linear_before_reset:
            total = d.recurrent(hidden, 0, 3)
            gates, last = d.gates(total, 0, 2), d.gates(total, 2, 3)
        else:
            gates = d.recurrent(hidden, 0, 2)
        both = b.add(d.gates(x, 0, 2), gates)
        z = f(d.clipped(d.gates(both, 0, 1)))
        r = f(d.clipped(d.gates(both, 1, 2)))
        if linear_before_reset:
            last = b.mul(r, last if inner is None else b.add(last, inner))
        else:
            last = d.recurrent(b.mul(r, hidden), 2, 3)
        new = g(d.clipped(b.add(d.gates(x, 2, 3), last)))
        return [b.add(b.mul(b.sub(b.constant(1, d.dtype), z), new), b.mul(z, hidden))]

    return step


# -- the operators ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cell:
    """A family of recurrent operators: gates in its weights, states, default activations."""

    gates: int
    states: int
    functions: tuple[str, ...]
    run: Callable[[Context, _Direction, int], tuple[Value, list[Value]]]


def _run_lstm(ctx: Context, d: _Direction, at: int) -> tuple[Value, list[Value]]:
    peepholes = _of_direction(ctx, 7, at)
    projected = d.projected(*(d.bias or ()))
    return d.run(_lstm_step(d, peepholes, ctx.flag("input_forget")), projected)


def _run_gru(ctx: Context, d: _Direction, at: int) -> tuple[Value, list[Value]]:
    linear = ctx.flag("linear_before_reset")
    extra: list[Value] = []
    if d.bias is not None:
        inputs, recurrent = d.bias
        if linear:
            # The last gate's bias is scaled by the reset gate.
            parts = [d.gates(recurrent, 0, 2), d.b.full((d.hidden,), 0, d.dtype)]
            recurrent = d.b.concat(*parts, axis=0)
        extra = [inputs, recurrent]
    return d.run(_gru_step(d, linear), d.projected(*extra))


def _run_rnn(ctx: Context, d: _Direction, at: int) -> tuple[Value, list[Value]]:
    (f,) = d.functions

    def step(x: Value, states: Sequence[Value]) -> list[Value]:
        return [f(d.clipped(d.b.add(x, d.recurrent(states[0], 0, 1))))]

    return d.run(step, d.projected(*(d.bias or ())))


_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def _directions(ctx: Context) -> Sequence[bool]:
    """Whether each direction goes backward."""
    name = ctx.string("direction", "forward")
    if name not in _DIRECTIONS:
        raise ctx.malformed(f"direction {name!r}")
    return _DIRECTIONS[name]


def _recurrent(cell: _Cell) -> Callable[[Context], Results]:
    def build(ctx: Context) -> Results:
        directions = _directions(ctx)
        batch_first = ctx.flag("layout")
        functions = _activations(ctx, cell.functions, len(directions))
        x = _checked(ctx, cell, len(directions))
        if batch_first:
            x = ctx.b.transpose(x, perm=(1, 0, 2))
        clip = ctx.real("clip", 0.0)
        mask = _mask(ctx, x)
        outputs, last = [], []
        for at, (backward, own) in enumerate(zip(directions, functions, strict=True)):
            w, r = _of_direction(ctx, 1, at), _of_direction(ctx, 2, at)
            assert w is not None
            assert r is not None
            bias = _bias(ctx, cell, at)
            states = _states(ctx, cell, x, at, batch_first)
            d = _Direction(ctx.b, x, w, r, bias, states, mask, backward, own, clip)
            all_h, ends = cell.run(ctx, d, at)
            outputs.append(all_h)
            last.append(ends)
        return _results(ctx, outputs, last, batch_first)

    return build


def _checked(ctx: Context, cell: _Cell, directions: int) -> Value:
    """The input, once the weights fit it."""
    x, w, r = ctx.type(0), ctx.type(1), ctx.type(2)
    if (x.rank, w.rank, r.rank) != (3, 3, 3):
        raise ctx.malformed(f"ranks {x.rank}, {w.rank} and {r.rank} instead of 3")
    fitting = ctx.fit_axis(ctx.x(0), 2, w.shape[2])
    hidden, stated = r.shape[2], ctx.integer("hidden_size", 0)
    if stated:
        ctx.equate(hidden, stated)
    if stated not in (0, hidden) or not isinstance(hidden, int):
        raise ctx.malformed(f"the recurrent weights are for hidden size {hidden}")
    for type in (w, r):
        ctx.equate(type.shape[0], directions)
        ctx.equate(type.shape[1], cell.gates * hidden)
        if type.shape[:2] != (directions, cell.gates * hidden):
            raise ctx.malformed(f"weights {type} for {directions} directions of {cell.gates} gates")
    if tensor_type(fitting).shape[2] != w.shape[2]:
        raise ctx.malformed(f"the weights {w} do not fit the input {x}")
    return fitting


def _for_directions(ctx: Context, x: Value, axis: int) -> Value:
    """The operand, once it is known to have a part for each direction."""
    count = len(_directions(ctx))
    x = ctx.fit_axis(x, axis, count)
    if tensor_type(x).shape[axis] != count:
        raise ctx.malformed(f"an operand {tensor_type(x)} for {count} directions")
    return x


def _of_direction(ctx: Context, position: int, at: int) -> Value | None:
    """The part of a weight operand that belongs to direction `at`."""
    x = ctx.optional(position)
    if x is None:
        return None
    x = _for_directions(ctx, x, 0)
    shape = tensor_type(x).shape
    if shape[0] != 1:
        starts = (at, *(0 for _ in shape[1:]))
        x = ctx.b.slice(x, starts=starts, sizes=(1, *shape[1:]), steps=(1,) * len(shape))
    return ctx.reshape(x, shape[1:])


def _bias(ctx: Context, cell: _Cell, at: int) -> tuple[Value, Value] | None:
    """What is added to the input's part and to the recurrent part of all gates."""
    both = _of_direction(ctx, 3, at)
    if both is None:
        return None
    hidden = ctx.shape(2)[2]
    count = cell.gates * hidden
    for dim in tensor_type(both).shape:
        ctx.equate(dim, 2 * count)
    if tensor_type(both).shape != (2 * count,):
        raise ctx.malformed(f"a bias {tensor_type(both)} for {cell.gates} gates of {hidden}")
    one, other = (
        ctx.b.slice(both, starts=(start,), sizes=(count,), steps=(1,)) for start in (0, count)
    )
    return one, other


def _states(ctx: Context, cell: _Cell, x: Value, at: int, batch_first: bool) -> list[Value]:
    """The first states of a direction, [batch, hidden] each."""
    batch, hidden = tensor_type(x).shape[1], ctx.shape(2)[2]
    found = []
    for i in range(cell.states):
        given = ctx.optional(5 + i)
        if given is None:
            found.append(ctx.b.full((batch, hidden), 0, tensor_type(x).dtype))
            continue
        axis = 1 if batch_first else 0
        shape: list[DimLike] = list(tensor_type(given).shape)
        if len(shape) != 3:
            raise ctx.malformed(f"a first state of rank {len(shape)}")
        given = ctx.fit_axis(given, 1 - axis, batch)
        given = _for_directions(ctx, given, axis)
        shape = list(tensor_type(given).shape)
        starts = tuple(at if i == axis else 0 for i in range(3))
        sizes = tuple(1 if i == axis else n for i, n in enumerate(shape))
        if shape[axis] != 1:
            given = ctx.b.slice(given, starts=starts, sizes=sizes, steps=(1, 1, 1))
        found.append(ctx.reshape(given, (batch, hidden)))
    return found


def _mask(ctx: Context, x: Value) -> Value | None:
    """Which steps are inside of their sequences: [steps, batch, 1]."""
    lengths = ctx.optional(4)
    if lengths is None:
        return None
    steps, batch = tensor_type(x).shape[:2]
    lengths = ctx.fit(lengths, (batch,))
    ramp = ctx.b.iota(shape=(steps, 1, 1), axis=0, dtype=I64)
    ends = ctx.reshape(ctx.cast(lengths, I64), (1, batch, 1))
    found: Value = ctx.b.lt(ramp, ends)
    return found


def _results(
    ctx: Context, outputs: list[Value], last: list[list[Value]], batch_first: bool
) -> list[Value]:
    """All h as [steps, directions, batch, hidden], then the last states, or batch first."""
    b = ctx.b
    wide = []
    for h in outputs:
        steps, batch, hidden = tensor_type(h).shape
        wide.append(b.reshape(h, shape=(steps, 1, batch, hidden)))
    every = b.concat(*wide, axis=1) if len(wide) > 1 else wide[0]
    found = [b.transpose(every, perm=(2, 0, 1, 3)) if batch_first else every]
    for parts in zip(*last, strict=True):
        rows = [b.reshape(x, shape=(1, *tensor_type(x).shape)) for x in parts]
        state = b.concat(*rows, axis=0) if len(rows) > 1 else rows[0]
        found.append(b.transpose(state, perm=(1, 0, 2)) if batch_first else state)
    return found


_CELLS = {
    "GRU": _Cell(3, 1, ("Sigmoid", "Tanh"), _run_gru),
    "LSTM": _Cell(4, 2, ("Sigmoid", "Tanh", "Tanh"), _run_lstm),
    "RNN": _Cell(1, 1, ("Tanh",), _run_rnn),
}
RULES: dict[str, tuple[Rule, ...]] = {
    name: (Rule(_recurrent(cell), ignores=("output_sequence",)),) for name, cell in _CELLS.items()
}
