"""Operators of the domain ai.onnx.preview.training: optimisers, and derivatives of the graph."""

from __future__ import annotations

from collections.abc import Callable

from tfc.compiler.frontends.onnx.context import Context, Results, Rule
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.reverse import gradients, zeros
from tfc.ir.types import DType


class _Step:
    """One step of an optimiser: arithmetic on values of one element type and numbers."""

    def __init__(self, ctx: Context, dtype: DType) -> None:
        if not dtype.is_float:
            raise ctx.malformed(f"moves a tensor of {dtype}")
        self.ctx = ctx
        self.b = ctx.b
        self.dtype = dtype
        self.rate = self.scalar(ctx.x(0))
        self.count = self.scalar(ctx.x(1))

    def scalar(self, x: Value) -> Value:
        return self.ctx.cast(self.ctx.as_scalar(x), self.dtype)

    def number(self, value: float) -> Value:
        found: Value = self.b.constant(value, self.dtype)
        return found

    def mixed(self, a: float, x: Value, b: float, y: Value) -> Value:
        """a x + b y"""
        left, right = self.b.mul(self.number(a), x), self.b.mul(self.number(b), y)
        found: Value = self.b.add(left, right)
        return found

    def at_first(self, first: Value, later: Value) -> Value:
        """`first` where no step was taken before, else `later`."""
        found: Value = self.b.select(self.b.gt(self.count, self.number(0)), later, first)
        return found

    def regularised(self, x: Value, g: Value) -> Value:
        return self.mixed(self.ctx.real("norm_coefficient", 0.0), x, 1.0, g)


_One = Callable[..., tuple[Value, ...]]


def _optimiser(states: int, one: _One) -> Rule:
    """For any number of tensors: all x, all gradients, all first states and so on."""

    def build(ctx: Context) -> Results:
        rest = [ctx.x(i) for i in range(2, ctx.count)]
        count, left = divmod(len(rest), 2 + states)
        if left or not count:
            raise ctx.malformed(f"{len(rest)} operands for tensors, gradients and {states} states")
        groups = [rest[i * count : (i + 1) * count] for i in range(2 + states)]
        columns = []
        for operands in zip(*groups, strict=True):
            step = _Step(ctx, tensor_type(operands[0]).dtype)
            columns.append(one(step, *operands))
        return [x for row in zip(*columns, strict=True) for x in row]

    return Rule(build)


def _adagrad(step: _Step, x: Value, g: Value, h: Value) -> tuple[Value, ...]:
    b, decay = step.b, step.number(step.ctx.real("decay_factor", 0.0))
    rate = b.div(step.rate, b.add(step.number(1), b.mul(step.count, decay)))
    g = step.regularised(x, g)
    h = b.add(h, b.mul(g, g))
    adaptive = b.add(b.sqrt(h), step.number(step.ctx.real("epsilon", 1e-6)))
    return b.sub(x, b.div(b.mul(rate, g), adaptive)), h


def _adam(step: _Step, x: Value, g: Value, v: Value, h: Value) -> tuple[Value, ...]:
    b, ctx = step.b, step.ctx
    alpha, beta = ctx.real("alpha", 0.9), ctx.real("beta", 0.999)
    g = step.regularised(x, g)
    v = step.mixed(alpha, v, 1 - alpha, g)
    h = step.mixed(beta, h, 1 - beta, b.mul(g, g))
    root = b.add(b.sqrt(h), step.number(ctx.real("epsilon", 1e-6)))

    def left(decay: float) -> Value:
        found: Value = b.sub(step.number(1), b.pow(step.number(decay), step.count))
        return found

    corrected = b.div(b.mul(step.rate, b.sqrt(left(beta))), left(alpha))
    rate = step.at_first(step.rate, corrected)
    moved = b.sub(x, b.div(b.mul(rate, v), root))
    post = ctx.real("norm_coefficient_post", 0.0)
    return b.mul(step.number(1 - post), moved), v, h


def _momentum(step: _Step, x: Value, g: Value, v: Value) -> tuple[Value, ...]:
    b, ctx = step.b, step.ctx
    mode = ctx.string("mode")
    if mode not in ("standard", "nesterov"):
        raise ctx.malformed(f"mode {mode!r} is neither standard nor nesterov")
    alpha = step.number(ctx.real("alpha"))
    beta = step.at_first(step.number(1), step.number(ctx.real("beta")))
    g = step.regularised(x, g)
    v = b.add(b.mul(alpha, v), b.mul(beta, g))
    direction = v if mode == "standard" else b.add(g, b.mul(alpha, v))
    return b.sub(x, b.mul(step.rate, direction)), v


# -- derivatives ----------------------------------------------------------------------------------


def _gradient(ctx: Context) -> Results:
    """The derivatives of the sum of the tensor called `y`."""
    xs, zs = ctx.strings("xs") or (), ctx.strings("zs") or ()
    if list(ctx.node.input) != [*xs, *zs]:
        raise ctx.unsupported("a gradient at other values than those of the graph")
    y = ctx.importer.value(ctx.string("y"))
    type = tensor_type(y)
    if not type.dtype.is_float:
        raise ctx.malformed(f"a gradient of {type}")
    variables = [_variable(ctx, name) for name in xs]
    found = gradients(ctx.b, [y], [ctx.b.full(type.shape, 1, type.dtype)], variables)
    return [zeros(ctx.b, x) if g is None else g for x, g in zip(variables, found, strict=True)]


def _variable(ctx: Context, name: str) -> Value:
    """What a gradient is taken by: a value of its own, for others may depend on it by another name.

    What depends on constants alone was computed while importing, so they are no variables.
    """
    x = ctx.importer.value(name)
    if x.op is not None and x.op.name == "constant":
        raise ctx.unsupported(f"a gradient by the constant {name!r}; inputs are supported")
    if x.name != name:
        raise ctx.unsupported(f"a gradient by {name!r}, another name of {x.name!r}")
    return x


RULES: dict[str, tuple[Rule, ...]] = {
    "Adagrad": (_optimiser(1, _adagrad),),
    "Adam": (_optimiser(2, _adam),),
    "Gradient": (Rule(_gradient),),
    "Momentum": (_optimiser(1, _momentum),),
}
