"""Random small graphs compute the same before and after each pass, and whatever is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.passes.graphs import (
    apply_passes,
    assert_close,
    assert_same_bits,
    random_inputs,
    run_graph,
)
from tfc.compiler.passes.fuse import IN_PLACE, MAX_OPERANDS, MAX_OPS, is_immediate
from tfc.compiler.passman import PassContext, run_passes
from tfc.compiler.pipeline import PASSES
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function, Module, SymbolInfo, Value
from tfc.ir.dims import symbol
from tfc.ir.errors import UsageError
from tfc.ir.opdef import Kind, Trait, TypeRefusal
from tfc.ir.text import print_module
from tfc.ir.types import F32, F64, TensorType

N = symbol("N")
SIZES = {"N": 2}
EXACT = ("explicit-padding", "fold-dims", "fold", "cse", "dce", "fuse")
OPTIONAL = tuple(row.name for row in PASSES if not row.required)
UNITS = 4096.0
"""Units in the last place of the largest output: chains of up to 12 ops, cancellation included."""

Step = tuple[int, int, int]
Maker = Callable[[GraphBuilder, Value, Value, int], Value]


def _number(b: GraphBuilder, x: Value, pick: int) -> Value:
    """A constant that broadcasts to x: one number, or one along an axis."""
    type = tensor_type(x)
    axis = pick % (type.rank + 1)
    if axis == type.rank or not isinstance(type.shape[axis], int):
        return b.constant((-1.0, 0.5, 2.0, 0.0, 1.0)[pick % 5], type.dtype)
    shape = [1] * type.rank
    shape[axis] = type.shape[axis]
    return b.constant(np.linspace(-1.0, 2.0, shape[axis]).reshape(shape), type.dtype)


def _matmul(b: GraphBuilder, x: Value, y: Value, pick: int) -> Value:
    type = tensor_type(x)
    inner = type.shape[-1] if type.rank else 1
    assert isinstance(inner, int)
    weights = np.cos(np.arange(inner * 4)).reshape(inner, 4)
    return b.matmul(x, b.constant(weights, type.dtype))


def _conv(b: GraphBuilder, x: Value, y: Value, pick: int) -> Value:
    type = tensor_type(x)
    channels = type.shape[1] if type.rank == 3 else 0
    assert isinstance(channels, int)
    weights = b.constant(np.cos(np.arange(2 * channels * 3)).reshape(2, channels, 3), type.dtype)
    pads = ((pick % 2, pick % 3),)
    return b.conv(x, weights, strides=(1,), pads=pads, dilations=(1,), groups=1)


def _batch_norm(b: GraphBuilder, x: Value, y: Value, pick: int) -> Value:
    type = tensor_type(x)
    channels = type.shape[1] if type.rank >= 2 else 0
    assert isinstance(channels, int)
    statistics = [b.constant(np.linspace(lo, 2.0, channels), type.dtype) for lo in (1, -1, 0, 0.5)]
    return b.batch_norm(x, *statistics, eps=0.01)


def _slice(b: GraphBuilder, x: Value, y: Value, pick: int) -> Value:
    shape = list(tensor_type(x).shape)
    starts = [0] * len(shape)
    axis = pick % max(len(shape), 1)
    if isinstance(shape[axis], int) and shape[axis] > 1:
        starts[axis], shape[axis] = 1, shape[axis] - 1
    return b.slice(x, starts=starts, sizes=shape, steps=(1,) * len(shape))


def _transpose(b: GraphBuilder, x: Value, y: Value, pick: int) -> Value:
    rank = tensor_type(x).rank
    return b.transpose(x, perm=np.roll(range(rank), pick).tolist())


def _reshape(b: GraphBuilder, x: Value, y: Value, pick: int) -> Value:
    shape = tensor_type(x).shape
    return b.reshape(x, shape=(*shape[:1], 1, *shape[1:]) if pick % 2 else (tensor_type(x).size,))


def _reduce(name: str, keepdims: bool) -> Maker:
    def make(b: GraphBuilder, x: Value, y: Value, pick: int) -> Value:
        axis = pick % max(tensor_type(x).rank, 1)
        return b.op(name, x, axes=(axis,), keepdims=keepdims).result

    return make


def _unary(name: str) -> Maker:
    return lambda b, x, y, pick: b.op(name, x).result


def _binary(name: str) -> Maker:
    return lambda b, x, y, pick: b.op(name, x, y).result


def _with_number(name: str, left: bool = False) -> Maker:
    def make(b: GraphBuilder, x: Value, y: Value, pick: int) -> Value:
        c = _number(b, x, pick)
        return b.op(name, *((c, x) if left else (x, c))).result

    return make


MAKERS: tuple[Maker, ...] = (
    *map(_unary, ("neg", "abs", "relu", "tanh", "sigmoid", "neg")),
    *map(_binary, ("add", "mul", "max", "sub")),
    *(_with_number(name) for name in ("add", "mul", "sub", "add", "mul")),
    _with_number("mul", left=True),
    _with_number("sub", left=True),
    lambda b, x, y, pick: b.div(x, b.constant((2.0, -1.0, 3.0)[pick % 3], tensor_type(x).dtype)),
    lambda b, x, y, pick: b.softmax(x, axis=pick % 2 - 1),
    lambda b, x, y, pick: b.layer_norm(x, axis=-1, eps=0.5),
    lambda b, x, y, pick: b.clamp(x, lo=-1.0, hi=float(pick % 3)),
    lambda b, x, y, pick: b.cast(b.cast(x, dtype=F64), dtype=F32),
    lambda b, x, y, pick: b.concat(x, y, axis=pick % 2 - 1),
    lambda b, x, y, pick: b.broadcast(x, shape=tensor_type(y).shape),
    lambda b, x, y, pick: b.select(b.gt(x, _number(b, x, pick)), x, y),
    lambda b, x, y, pick: b.gather(x, b.constant([0, 1][: 1 + pick % 2]), axis=-1),
    lambda b, x, y, pick: b.pad(
        x, lo=(0,) * (tensor_type(x).rank - 1) + (1,), hi=(0,) * tensor_type(x).rank,
        mode="constant",
    ),
    lambda b, x, y, pick: b.pow(b.abs(x), b.constant((0.5, 2.0, 1.0)[pick % 3], F32)),
    lambda b, x, y, pick: b.mul(
        x, b.cast(b.dims(values=(tensor_type(x).shape[0],), rank=0), dtype=F32)
    ),
    _reduce("reduce_mean", True),
    _reduce("reduce_mean", False),
    _reduce("reduce_max", True),
    _reduce("reduce_sum", True),
    _matmul,
    _conv,
    _batch_norm,
    _slice,
    _transpose,
    _transpose,
    _reshape,
    _reshape,
)  # fmt: skip


def build(steps: Sequence[Step]) -> Module:
    """The graph that the steps say; those that do not fit the types are left out."""
    shapes = ((N, 4), (2, 3, 4), (1, 4), (N, 2, 4))
    block = Block([TensorType(F32, shape) for shape in shapes], ["p", "q", "r", "s"])
    store = ConstantStore()
    b = GraphBuilder(block, store)
    values = list(block.args)
    for kind, first, second in steps:
        x, y = values[first % len(values)], values[second % len(values)]
        last = block.last
        try:
            made = MAKERS[kind % len(MAKERS)](b, x, y, first + second)
        except (TypeRefusal, AssertionError, IndexError):
            while block.last is not last and block.last is not None:
                block.last.erase()
            continue
        values.append(made)
    outputs = values[-3:] if len(values) > 6 else values[-1:]
    b.op("return", *outputs)
    module = Module("graph", constants=store)
    names = tuple(f"y{i}" for i in range(len(outputs)))
    module.add(Function("main", block, symbols={"N": SymbolInfo(1)}, output_names=names))
    return module


def outputs_of(module: Module, inputs: dict[str, Array]) -> list[Array] | None:
    """What the graph gives, or None where it broadcasts dims that differ when N is known."""
    try:
        return run_graph(module, inputs)
    except (UsageError, ValueError):
        return None


programs = st.lists(st.tuples(*[st.integers(0, 40)] * 3), min_size=1, max_size=12)
quick = settings(max_examples=60, deadline=None, derandomize=True)


@given(programs)
@quick
def test_each_pass_keeps_what_the_graph_computes(steps: list[Step]) -> None:
    module = build(steps)
    inputs = random_inputs(module.main, 1, SIZES)
    wanted = outputs_of(module, inputs)
    assume(wanted is not None)
    assert wanted is not None
    for row in PASSES:
        before = run_graph(module, inputs)
        apply_passes(module, row.name)
        found = run_graph(module, inputs)
        if row.name.removesuffix("-again") in EXACT:
            assert_same_bits(found, before, note=row.name)
        else:
            assert_close(found, before, F32, UNITS, row.name)
    assert_close(found, wanted, F32, UNITS)


@pytest.mark.parametrize("off", [("all", OPTIONAL), *((name, (name,)) for name in OPTIONAL)],
                         ids=lambda case: case[0])  # fmt: skip
def test_optional_passes_may_be_left_out(off: tuple[str, tuple[str, ...]]) -> None:
    generator = np.random.default_rng(5)
    tried = 0
    while tried < 12:
        steps = [tuple(step) for step in generator.integers(0, 41, (10, 3)).tolist()]
        module = build(steps)
        inputs = random_inputs(module.main, 2, SIZES)
        wanted = outputs_of(module, inputs)
        if wanted is None:
            continue
        tried += 1
        run_passes(PASSES, module, PassContext(disabled=set(off[1])))
        assert_close(run_graph(module, inputs), wanted, F32, UNITS, f"{off[0]}: {steps}")


@given(programs)
@quick
def test_simplifying_again_changes_nothing(steps: list[Step]) -> None:
    module = build(steps)
    apply_passes(module, "decompose", "simplify")
    once = print_module(module)
    context = apply_passes(module, "simplify")
    assert print_module(module) == once
    assert not context.hits


@given(programs)
@quick
def test_the_passes_are_deterministic_and_end(steps: list[Step]) -> None:
    first, second = build(steps), build(steps)
    run_passes(PASSES, first, PassContext())
    run_passes(PASSES, second, PassContext())
    assert print_module(first) == print_module(second)


@given(programs)
@quick
def test_everything_that_computes_ends_in_a_group_within_limits(steps: list[Step]) -> None:
    module = build(steps)
    run_passes(PASSES, module, PassContext())
    for op in module.main.block:
        kind, traits = op.defn.kind, op.defn.traits  # type: ignore[attr-defined]
        bare = kind is Kind.CONSTANT or op.defn.terminator  # type: ignore[attr-defined]
        bare = bare or Trait.VIEW in traits or op.name in IN_PLACE
        assert bare != (op.name == "fused")
        if op.name == "fused":
            (region,) = op.regions
            inner = [o for o in region if o.defn.kind is not Kind.CONSTANT]  # type: ignore[attr-defined]
            assert len(inner) <= MAX_OPS + 1
            assert len(op.operands) <= MAX_OPERANDS
            assert len(region.terminator.operands) == 1
            heavy = [o for o in inner if o.defn.kind in (Kind.CONTRACTION, Kind.WINDOW)]  # type: ignore[attr-defined]
            assert len(heavy) <= 1
            assert not any(is_immediate(value) for value in op.operands)
