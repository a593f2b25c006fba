"""Branches and loops compute the same interpreted, with checked accesses, and as machine code."""

from __future__ import annotations

import numpy as np
import pytest

from tests.control.support import LEVELS, agree, artifact, graph, inputs
from tfc.ir.build import GraphBuilder
from tfc.ir.control import Next, Round, Scanned, branch, loop
from tfc.ir.core import SymbolInfo, Value
from tfc.ir.dims import symbol
from tfc.ir.errors import UsageError
from tfc.ir.interp import evaluate
from tfc.ir.types import BF16, BOOL, F32, I64, TensorType

ROW, TABLE = TensorType(F32, (3,)), TensorType(F32, (4, 3))
FLAG, COUNT = TensorType(BOOL, ()), TensorType(I64, ())
X = np.array([1.0, -2.0, 3.0], np.float32)
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def small(b: GraphBuilder, x: Value, bound: float) -> Value:
    """Whether the sum of `x` is below `bound`."""
    total = b.reduce_sum(x, axes=(0,), keepdims=False)
    found: Value = b.lt(total, b.constant(bound, F32))
    return found


def test_either_branch_is_taken_and_sees_what_is_outside() -> None:
    def make(b: GraphBuilder, c: Value, x: Value) -> list[Value]:
        y = b.add(x, x)
        return list(branch(b, c, lambda: [b.mul(y, x), y], lambda: [x, b.neg(y)]))

    found = agree(graph([FLAG, ROW], make), [inputs(True, X), inputs(False, X)])
    np.testing.assert_array_equal(found[0]["y0"], 2 * X * X)
    np.testing.assert_array_equal(found[1]["y1"], -2 * X)


def test_branches_nest_and_may_hand_out_one_value_twice() -> None:
    def make(b: GraphBuilder, c: Value, d: Value, x: Value) -> list[Value]:
        def inner() -> list[Value]:
            y = b.exp(x)
            return [*branch(b, d, lambda: [y], lambda: [b.neg(y)]), y]

        one, other = branch(b, c, inner, lambda: [x, x])
        return [one, other, b.add(one, other)]

    module = graph([FLAG, FLAG, ROW], make)
    agree(module, [inputs(c, d, X) for c in (True, False) for d in (True, False)], 1e-6)


def test_a_branch_may_hand_out_constants_and_views() -> None:
    def make(b: GraphBuilder, c: Value, x: Value) -> list[Value]:
        return list(
            branch(
                b,
                c,
                lambda: [b.constant(ROWS.T), b.constant(7, I64)],
                lambda: [b.transpose(x, perm=(1, 0)), b.constant(8, I64)],
            )
        )

    agree(graph([FLAG, TABLE], make), [inputs(True, -ROWS), inputs(False, -ROWS)])


def accumulate(b: GraphBuilder, x: Value, rows: Value, backward: tuple[bool, bool]) -> list[Value]:
    def body(r: Round) -> Next:
        y = b.add(r.carried[0], r.slices[0])
        return Next([y], [b.mul(y, y)])

    found = loop(
        b, body, [x], [Scanned(rows, backward[0])], backward=backward[1:], trips=4
    )  # fmt: skip
    return [*found.carried, *found.stacked]


@pytest.mark.parametrize("backward", [(False, False), (True, False), (False, True), (True, True)])
def test_rows_are_taken_and_stacked_from_either_end(backward: tuple[bool, bool]) -> None:
    module = graph([ROW, TABLE], lambda b, x, rows: accumulate(b, x, rows, backward))
    (found,) = agree(module, [inputs(X, ROWS)])
    taken = ROWS[::-1] if backward[0] else ROWS
    sums = X + np.cumsum(taken, axis=0)
    stack = sums * sums
    np.testing.assert_array_equal(found["y1"], stack[::-1] if backward[1] else stack)
    np.testing.assert_array_equal(found["y0"], X + ROWS.sum(0))


def test_strided_and_reversed_operands_are_taken_apart_in_place() -> None:
    def make(b: GraphBuilder, x: Value, rows: Value) -> list[Value]:
        turned = b.slice(
            b.transpose(rows, perm=(1, 0)), starts=(2, 3), sizes=(3, 4), steps=(-1, -1)
        )
        turned = b.transpose(turned, perm=(1, 0))
        return accumulate(b, x, turned, (False, False))

    agree(graph([ROW, TABLE], make), [inputs(X, ROWS)])


def test_carried_values_change_places() -> None:
    def make(b: GraphBuilder, x: Value, y: Value) -> list[Value]:
        found = loop(
            b,
            lambda r: Next([r.carried[1], r.carried[0], b.add(r.carried[0], r.carried[2])]),
            [x, y, x],
            trips=3,
        )
        return list(found.carried)

    (found,) = agree(graph([ROW, ROW], make), [inputs(X, 10 * X)])
    np.testing.assert_array_equal(found["y0"], 10 * X)
    np.testing.assert_array_equal(found["y2"], X + X + 10 * X + X)


def test_a_value_that_is_carried_and_stacked_needs_no_other_memory() -> None:
    def make(b: GraphBuilder, x: Value) -> list[Value]:
        def body(r: Round) -> Next:
            y = b.add(r.carried[0], b.constant(1.0, F32))
            return Next([y], [y, r.carried[0]])

        found = loop(b, body, [x], backward=(True, False), trips=3)
        return [*found.carried, *found.stacked]

    (found,) = agree(graph([ROW], make), [inputs(X)])
    np.testing.assert_array_equal(found["y1"], [X + 3, X + 2, X + 1])
    np.testing.assert_array_equal(found["y2"], [X, X + 1, X + 2])


def counted(b: GraphBuilder, limit: Value, start: Value, x: Value) -> list[Value]:
    def body(r: Round) -> Next:
        y = b.add(r.carried[0], b.cast(r.number, dtype=F32))
        return Next([y], again=small(b, y, 40.0))

    return list(loop(b, body, [x], limit=limit, start=start).carried)


def test_limit_and_condition_end_a_loop_whichever_comes_first() -> None:
    module = graph([COUNT, FLAG, ROW], counted)
    cases = [inputs(n, go, X) for n in (-1, 0, 1, 3, 100) for go in (True, False)]
    found = agree(module, cases)
    np.testing.assert_array_equal(found[1]["y0"], X)
    np.testing.assert_array_equal(found[6]["y0"], X + 0 + 1 + 2)
    np.testing.assert_array_equal(found[8]["y0"], X + 15)


@pytest.mark.parametrize("trips", [0, 1, 2])
def test_a_loop_of_no_or_few_rounds(trips: int) -> None:
    def make(b: GraphBuilder, x: Value, rows: Value) -> list[Value]:
        def body(r: Round) -> Next:
            y = b.add(r.carried[0], r.slices[0])
            return Next([y, r.carried[0]], [y])

        found = loop(b, body, [x, x], [Scanned(rows)], backward=(False,), trips=trips)
        return [*found.carried, *found.stacked]

    rows = TensorType(F32, (trips, 3))
    (found,) = agree(graph([ROW, rows], make), [inputs(X, ROWS[:trips])])
    assert found["y2"].shape == (trips, 3)


def test_loops_nest_and_inner_ones_see_both_rounds() -> None:
    def make(b: GraphBuilder, rows: Value, x: Value) -> list[Value]:
        def outer(r: Round) -> Next:
            row = r.slices[0]

            def inner(s: Round) -> Next:
                number = b.cast(b.add(r.number, b.mul(s.number, s.number)), dtype=F32)
                y = b.add(b.mul(s.carried[0], x), b.add(row, number))
                return Next([y], [b.sub(y, r.carried[0])])

            found = loop(b, inner, [r.carried[0]], backward=(False,), trips=2)
            return Next(found.carried, [*found.stacked, row])

        found = loop(b, outer, [x], [Scanned(rows)], backward=(False, True), trips=4)
        return [*found.carried, *found.stacked]

    agree(graph([TABLE, ROW], make), [inputs(ROWS, X / 4)], 1e-5)


def test_branches_in_loops_and_loops_in_branches() -> None:
    def make(b: GraphBuilder, c: Value, x: Value, rows: Value) -> list[Value]:
        def body(r: Round) -> Next:
            y = b.add(r.carried[0], r.slices[0])
            (z,) = branch(b, small(b, y, 20.0), lambda: [b.mul(y, x)], lambda: [b.neg(y)])
            return Next([z], [z])

        def many() -> list[Value]:
            found = loop(b, body, [x], [Scanned(rows)], backward=(False,), trips=4)
            return [*found.carried, *found.stacked]

        return list(branch(b, c, many, lambda: [x, rows]))

    agree(graph([FLAG, ROW, TABLE], make), [inputs(True, X, ROWS), inputs(False, X, ROWS)])


def test_what_no_round_changes_leaves_the_loop_and_may_be_constant() -> None:
    weights = np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3)

    def make(b: GraphBuilder, x: Value) -> list[Value]:
        outside = b.constant(weights)

        def body(r: Round) -> Next:
            w = b.transpose(b.mul(outside, b.constant(0.5, F32)), perm=(1, 0))
            row = b.reshape(b.matmul(b.reshape(r.carried[0], shape=(1, 3)), w), shape=(3,))
            return Next([row, r.carried[1]])

        return list(loop(b, body, [x, x], trips=5).carried)

    (found,) = agree(graph([ROW], make), [inputs(X)], 1e-6)
    np.testing.assert_array_equal(found["y1"], X)


def test_extents_and_rounds_may_be_symbols() -> None:
    many, wide = symbol("n"), symbol("m")

    def make(b: GraphBuilder, x: Value, rows: Value) -> list[Value]:
        def body(r: Round) -> Next:
            y = b.add(r.carried[0], r.slices[0])
            (z,) = branch(b, small(b, y, 3.0), lambda: [y], lambda: [b.neg(y)])
            return Next([z], [b.mul(z, z)])

        found = loop(b, body, [x], [Scanned(rows, True)], backward=(True,), trips=many)
        return [*found.carried, *found.stacked]

    types = [TensorType(F32, (wide,)), TensorType(F32, (many, wide))]
    module = graph(types, make, {"n": SymbolInfo(), "m": SymbolInfo()})
    random = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return random.integers(-4, 4, shape).astype(np.float32)

    sizes = ((0, 3), (1, 1), (4, 0), (5, 33))
    cases = [inputs(numbers(m), numbers(n, m)) for n, m in sizes]
    agree(module, cases)


def test_bf16_and_bool_values_are_carried() -> None:
    def make(b: GraphBuilder, x: Value, c: Value) -> list[Value]:
        def body(r: Round) -> Next:
            return Next([b.add(r.carried[0], r.carried[0]), b.op("not", r.carried[1]).result])

        return list(loop(b, body, [x, c], trips=3).carried)

    (found,) = agree(
        graph([TensorType(BF16, (2,)), FLAG], make), [inputs(np.array([16256, 0], np.uint16), True)]
    )
    np.testing.assert_array_equal(found["y0"], [16256 + 3 * 128, 0])
    assert not found["y1"]


def announced(b: GraphBuilder, limit: Value, x: Value) -> list[Value]:
    """Four rounds by its results' shapes; as many as the data want."""

    def body(r: Round) -> Next:
        y = b.add(r.carried[0], b.constant(1.0, F32))
        return Next([y], [y], again=small(b, y, 100.0))

    start = b.constant(True, BOOL)
    found = loop(b, body, [x], backward=(False,), trips=4, limit=limit, start=start)
    return [*found.carried, *found.stacked]


@pytest.mark.parametrize(("limit", "first"), [(3, 0.0), (5, 0.0), (0, 0.0), (4, 98.0)])
def test_a_loop_that_does_not_run_as_often_as_its_shapes_say_fails(
    limit: int, first: float
) -> None:
    module = graph([COUNT, ROW], announced)
    case = inputs(np.int64(limit), np.full(3, first, np.float32))
    with pytest.raises(UsageError, match="rounds, not 4"):
        evaluate(module, case, module.constants)
    for opt in LEVELS:
        with pytest.raises(Exception, match="does not run 4 rounds"):
            artifact(module, opt)(case)


def test_a_loop_that_runs_as_often_as_its_shapes_say_passes() -> None:
    agree(graph([COUNT, ROW], announced), [inputs(np.int64(4), X)])


def test_a_check_ends_the_run_with_its_message() -> None:
    def make(b: GraphBuilder, c: Value, x: Value) -> Value:
        found: Value = b.check(c, b.add(x, x), message="not today")
        return found

    module = graph([FLAG, ROW], make)
    agree(module, [inputs(True, X)])
    with pytest.raises(UsageError, match="not today"):
        evaluate(module, inputs(False, X), module.constants)
    with pytest.raises(Exception, match="not today"):
        artifact(module, 2)(inputs(False, X))


@pytest.mark.parametrize("threads", [1, 2])
def test_large_bodies_are_the_same_on_several_threads(threads: int) -> None:
    def make(b: GraphBuilder, x: Value, w: Value) -> list[Value]:
        def body(r: Round) -> Next:
            y = b.tanh(b.matmul(r.carried[0], w))
            return Next([y], [y])

        found = loop(b, body, [x], backward=(False,), trips=3)
        return [*found.carried, *found.stacked]

    module = graph([TensorType(F32, (64, 96)), TensorType(F32, (96, 96))], make)
    random = np.random.default_rng(1)
    case = inputs(*(random.standard_normal(s).astype(np.float32) for s in ((64, 96), (96, 96))))
    want = evaluate(module, case, module.constants)
    found = artifact(module, 2, threads)(case)
    for name in want:
        np.testing.assert_allclose(found[name], want[name], atol=1e-4)
