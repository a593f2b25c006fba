"""Gradients through branches, checks and loops: the slopes, compiled too, and of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.control.support import Array, agree, graph, inputs
from tfc.ir import control
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.control import Next, Round, Scanned
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import symbol
from tfc.ir.errors import UnsupportedError
from tfc.ir.interp import evaluate
from tfc.ir.reverse import gradients, zeros
from tfc.ir.types import F64, I64, TensorType
from tfc.ir.verify import verify

N = symbol("N")
Make = Callable[..., "Value | Sequence[Value]"]


def of(*shape: Any) -> TensorType:
    return TensorType(F64, shape)


def _with_gradients(make: Make) -> Make:
    """What `make` gives, then the gradients of the sum of its floats by each float input."""

    def build(b: GraphBuilder, *args: Value) -> list[Value]:
        made = make(b, *args)
        outputs = [made] if isinstance(made, Value) else list(made)
        smooth = [y for y in outputs if tensor_type(y).dtype == F64]
        ones = [b.full(tensor_type(y).shape, 1, F64) for y in smooth]
        floats = [x for x in args if tensor_type(x).dtype == F64]
        found = gradients(b, smooth, ones, floats)
        slopes = [zeros(b, x) if g is None else g for g, x in zip(found, floats, strict=True)]
        return [*outputs, *slopes]

    return build


def _floats(results: dict[str, Array], count: int) -> float:
    return sum(float(a.sum()) for a in list(results.values())[:count] if a.dtype == np.float64)


def _check(
    types: Sequence[TensorType], make: Make, arrays: Sequence[Any], outputs: int = 1
) -> None:
    """Gradients are slopes, and compiled code gives the same."""
    named = {"N": SymbolInfo()} if "N" in str(types) else {}
    module = graph(types, _with_gradients(make), named)
    verify(module)
    given = inputs(*arrays)
    (results,) = agree(module, [given], rtol=1e-12)
    slopes = list(results.values())[outputs:]
    names = [f"x{i}" for i, type in enumerate(types) if type.dtype == F64]
    assert len(slopes) == len(names)
    assert any(np.any(s) for s in slopes)
    for name, slope in zip(names, slopes, strict=True):
        _compare(module, given, name, slope, outputs)


def _compare(
    module: Module, given: dict[str, Array], name: str, slope: Array, outputs: int
) -> None:
    x = given[name]
    for at in np.ndindex(*x.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = x.copy()
            moved[at] += step
            assert module.constants is not None
            found = evaluate(module, {**given, name: moved}, module.constants)  # type: ignore[arg-type]
            ends.append(_floats(found, outputs))
        difference = (ends[0] - ends[1]) / 2e-6
        assert abs(difference - slope[at]) <= 1e-6 * (1 + abs(difference)), (name, at)


def _branches(b: GraphBuilder, x: Value, w: Value) -> Sequence[Value]:
    total = b.reduce_sum(x, axes=(0,), keepdims=False)
    positive = b.gt(total, b.constant(0.0, F64))
    return control.branch(b, positive, lambda: [b.mul(x, w)], lambda: [b.sin(x)])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_branch_taken_alone_gives_gradients(sign: float) -> None:
    _check(
        [of(3), of(3)], _branches, [sign * np.array([1.0, 2.0, 0.5]), np.array([0.3, 2.0, -1.0])]
    )


def test_a_check_lets_gradients_through() -> None:
    def make(b: GraphBuilder, x: Value) -> Value:
        positive = b.reduce_all(b.gt(x, b.constant(0.0, F64)), axes=(0,), keepdims=False)
        return b.mul(b.check(positive, x, message="not positive"), x)  # type: ignore[no-any-return]

    _check([of(3)], make, [np.array([1.0, 2.0, 3.0])])


def _recurrence(trips: Any, *, backward: bool) -> Make:
    """A state that every round mixes with an input, weights from outside, and what it stacks."""

    def make(b: GraphBuilder, h: Value, xs: Value, w: Value) -> Sequence[Value]:
        def body(r: Round) -> Next:
            (state,), (x,) = r.carried, r.slices
            turn = b.cast(r.number, dtype=F64)
            new = b.tanh(b.add(b.matmul(state, w), b.mul(x, b.cos(turn))))
            return Next([new], [b.mul(new, x), r.number])

        found = control.loop(
            b, body, [h], [Scanned(xs, backward)], backward=[not backward, False], trips=trips
        )
        return [*found.carried, *found.stacked]

    return make


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("trips", [1, 5, N])
def test_recurrences_pass_gradients_back_through_all_rounds(trips: Any, backward: bool) -> None:
    rounds = 4 if trips is N else trips
    generator = np.random.default_rng(3)
    arrays = [generator.uniform(-1, 1, s) for s in ((2,), (rounds, 2), (2, 2))]
    _check([of(2), of(trips, 2), of(2, 2)], _recurrence(trips, backward=backward), arrays, 3)


def test_a_loop_of_no_rounds_hands_gradients_on() -> None:
    arrays = [np.ones(2), np.zeros((0, 2)), np.ones((2, 2))]
    _check([of(2), of(N, 2), of(2, 2)], _recurrence(N, backward=False), arrays, 3)


def _until(b: GraphBuilder, x: Value, w: Value, limit: Value) -> Sequence[Value]:
    """Rounds until a sum is large; the count of them is carried as an integer."""

    def body(r: Round) -> Next:
        state, count = r.carried
        new = b.add(state, b.mul(b.sin(state), w))
        more = b.lt(b.reduce_sum(new, axes=(0,), keepdims=False), b.constant(4.0, F64))
        return Next([new, b.add(count, b.constant(1, I64))], (), more)

    begin = [x, b.constant(0, I64)]
    return control.loop(b, body, begin, limit=limit, start=b.constant(np.array(True))).carried


@pytest.mark.parametrize(("limit", "rounds"), [(100, 4), (2, 2), (0, 0)])
def test_loops_whose_rounds_a_run_decides_have_gradients(limit: int, rounds: int) -> None:
    types = [of(2), of(2), TensorType(I64, ())]
    arrays = [np.array([0.5, 0.6]), np.array([0.7, 0.4]), np.array(limit)]
    module = graph(types, _until)
    assert module.constants is not None
    found = evaluate(module, inputs(*arrays), module.constants)  # type: ignore[arg-type]
    assert found["y1"] == rounds
    _check(types, _until, arrays, 2)


def test_loops_in_branches_in_loops_have_gradients() -> None:
    def make(b: GraphBuilder, x: Value, w: Value) -> Sequence[Value]:
        def inner(r: Round) -> Next:
            return Next([b.mul(b.sin(r.carried[0]), w)])

        def outer(r: Round) -> Next:
            even = b.eq(b.mod(r.number, b.constant(2, I64)), b.constant(0, I64))
            state = r.carried[0]
            return Next(control.branch(
                b, even, lambda: control.loop(b, inner, [state], trips=2).carried,
                lambda: [b.add(state, w)],
            ))  # fmt: skip

        return control.loop(b, outer, [x], trips=3).carried

    _check([of(2), of(2)], make, [np.array([0.4, -0.7]), np.array([1.3, 0.8])])


@pytest.mark.parametrize("kind", ["stacked", "repeated"])
def test_gradients_of_loops_have_gradients(kind: str) -> None:
    def make(b: GraphBuilder, x: Value, w: Value) -> Sequence[Value]:
        def body(r: Round) -> Next:
            return Next([b.mul(b.sin(r.carried[0]), w)])

        trips = 3 if kind == "stacked" else None
        limit = None if kind == "stacked" else b.constant(3, I64)
        y = control.loop(b, body, [x], trips=trips, limit=limit).carried[0]
        ones = b.full(tensor_type(y).shape, 1, F64)
        return [g for g in gradients(b, [y], [ones], [x, w]) if g is not None]

    _check([of(2), of(2)], make, [np.array([0.4, -0.7]), np.array([1.3, 0.8])], 2)


def test_a_value_used_in_and_outside_a_loop_sums_its_gradients() -> None:
    def make(b: GraphBuilder, x: Value) -> Value:
        def body(r: Round) -> Next:
            return Next([b.mul(r.carried[0], x)])

        return b.add(control.loop(b, body, [x], trips=2).carried[0], b.exp(x))  # type: ignore[no-any-return]

    module = graph([of(2)], _with_gradients(make))
    assert module.constants is not None
    x = np.array([2.0, 3.0])
    found = evaluate(module, inputs(x), module.constants)  # type: ignore[arg-type]
    np.testing.assert_allclose(found["y1"], 3 * x**2 + np.exp(x), rtol=1e-12)


def test_a_region_that_binds_a_symbol_has_no_gradient_and_says_so() -> None:
    def make(b: GraphBuilder, x: Value) -> Sequence[Value]:
        some = b.reduce_any(b.gt(x, b.constant(0.0, F64)), axes=(0,), keepdims=False)

        def then() -> Sequence[Value]:
            b.bind(b.constant(2, I64), symbol="K", hi=3)
            return [b.mul(x, x)]

        return control.branch(b, some, then, lambda: [x])

    with pytest.raises(UnsupportedError, match="binds the symbol K"):
        graph([of(3)], _with_gradients(make), {"K": SymbolInfo()})
