"""Normal form: fewer iterators, affine indices, the same elements."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lower.nests import Make, addresses, extents, fused, nest_of, run_nest, tensors
from tfc.compiler.lower.normal import normalise, reductions
from tfc.ir.dims import DimLike, coefficient, symbol
from tfc.ir.types import TensorType

N = symbol("N")


def _add(b, x, y):  # type: ignore[no-untyped-def]
    return b.add(x, y)


def _swap_and_flatten(b, x):  # type: ignore[no-untyped-def]
    return b.reshape(b.transpose(x, perm=(1, 0)), shape=(24,))


CASES: list[tuple[str, list[TensorType], Make, list[DimLike]]] = [
    ("equal shapes run as one", tensors((4, 5), (4, 5)), _add, [20]),
    ("a repeated row keeps two", tensors((4, 5), (5,)), _add, [4, 5]),
    ("a repeated column keeps two", tensors((4, 5), (4, 1)), _add, [4, 5]),
    ("one number repeats everywhere", tensors((4, 5), ()), _add, [20]),
    ("units vanish", tensors((1, 7, 1), (7, 1)), _add, [7]),
    ("a scalar has none", tensors((), ()), _add, []),
    ("symbols run as one too", tensors((N, 5), (N, 5)), _add, [5 * N]),
    ("a channel between two axes", tensors((2, 3, 4, 5), (3, 1, 1)), _add, [2, 3, 20]),
    ("a transposed operand keeps two", tensors((4, 6)),
     lambda b, x: b.relu(b.transpose(x, perm=(1, 0))), [6, 4]),
    ("flattened, a transposed operand is split", tensors((4, 6)), _swap_and_flatten, [6, 4]),
]  # fmt: skip


@pytest.mark.parametrize(("types", "make", "wanted"), [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
def test_iterators_of_the_normal_form(
    types: list[TensorType], make: Make, wanted: list[DimLike]
) -> None:
    nest = nest_of(types, make, symbolic=True)
    normal = normalise(nest)
    assert extents(normal.iters) == wanted
    for dim in (normal.outputs[0].address, *addresses(normal)):
        assert all(coefficient(dim, it.name) is not None for it in normal.iters), dim
    symbols = {"N": 3}
    for before, after in zip(
        run_nest(nest, symbols=symbols), run_nest(normal, symbols=symbols), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_axes_that_are_folded_together_run_as_one() -> None:
    nest = nest_of(tensors((4, 5, 6)), lambda b, x: b.reduce_sum(x, axes=(1, 2), keepdims=False))
    (before,) = reductions(nest)
    (after,) = reductions(normalise(nest))
    assert extents(before.iters) == [5, 6]
    assert extents(after.iters) == [30]


def test_folded_axes_with_one_between_them_stay_two() -> None:
    nest = nest_of(tensors((4, 5, 6)), lambda b, x: b.reduce_sum(x, axes=(0, 2), keepdims=False))
    (reduce,) = reductions(normalise(nest))
    assert sorted(map(str, extents(reduce.iters))) == ["4", "6"]


def test_rows_of_a_fold_run_as_one() -> None:
    nest = nest_of(tensors((4, 5, 6)), lambda b, x: b.reduce_max(x, axes=(2,), keepdims=True))
    assert extents(normalise(nest).iters) == [20]


def test_a_group_is_one_nest_over_its_inputs() -> None:
    def make(b, x, y):  # type: ignore[no-untyped-def]
        return fused(b, lambda b, x, y: b.relu(b.add(b.mul(x, y), x)), x, y)

    nest = normalise(nest_of(tensors((4, 5), (4, 5)), make))
    assert extents(nest.iters) == [20]
    # x is used twice and loaded once.
    assert len(addresses(nest)) == 2


def test_a_value_used_twice_is_one_expression() -> None:
    def make(b, x):  # type: ignore[no-untyped-def]
        def inner(b, x):  # type: ignore[no-untyped-def]
            y = b.exp(x)
            return b.mul(y, y)

        return fused(b, inner, x)

    expr = nest_of(tensors((4,)), make).outputs[0].expr
    assert expr.args[0] is expr.args[1]  # type: ignore[union-attr]
