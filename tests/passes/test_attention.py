"""Which products are grouped into an attention, with what, and which are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.lower.native import graph
from tests.passes.graphs import apply_passes, assert_close, random_inputs, run_graph
from tfc.compiler.passes.fuse import MAX_OPERANDS
from tfc.compiler.passman import PassContext, run_passes
from tfc.compiler.pipeline import PASSES
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.dims import DimLike, symbol
from tfc.ir.types import F16, F32, DType, TensorType

N = symbol("N")
Make = Callable[..., Any]


def module_of(make: Make, dtype: DType = F32, n: DimLike = 6) -> Module:
    """A graph of queries [2, 3, 5, 4], keys and values [2, 3, n, 4] and a mask [2, 3, 5, n]."""
    shapes: list[tuple[DimLike, ...]] = [(2, 3, 5, 4), (2, 3, n, 4), (2, 3, n, 4), (2, 3, 5, n)]
    symbols = {} if isinstance(n, int) else {"N": SymbolInfo()}
    return graph([TensorType(dtype, shape) for shape in shapes], make, symbols)


def grouped(make: Make, dtype: DType = F32, n: DimLike = 6) -> list[str] | None:
    """The ops of the group that the pass makes, None where it makes none."""
    module = module_of(make, dtype, n)
    apply_passes(module, "decompose")
    given = random_inputs(module.main, 1, {"N": 7})
    before = run_graph(module, given)
    context = apply_passes(module, "attention")
    assert_close(run_graph(module, given), before, dtype, 64)
    found = [op for op in module.main.block if op.name == "fused"]
    assert len(found) == context.hits["attention"] <= 1
    return [op.name for op in found[0].regions[0]] if found else None


def group_of(make: Make) -> list[str]:
    found = grouped(make)
    assert found is not None
    return found


def swapped(b: Any, k: Any) -> Any:
    return b.transpose(k, perm=(0, 1, 3, 2))


def plain(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    return b.matmul(b.softmax(b.matmul(q, swapped(b, k)), axis=-1), v)


SOFTMAX = ["reduce_max", "sub", "exp", "reduce_sum", "div"]


def test_products_with_a_softmax_between_are_one_group() -> None:
    assert grouped(plain) == ["matmul", *SOFTMAX, "matmul", "yield"]


def test_lengths_may_be_symbols() -> None:
    assert grouped(plain, n=N) == ["matmul", *SOFTMAX, "matmul", "yield"]


def test_masks_scales_and_guards_join() -> None:
    def make(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        s = b.add(b.mul(b.matmul(q, swapped(b, k)), b.constant(0.5, F32)), mask)
        p = b.softmax(s, axis=-1)
        return b.matmul(b.select(b.isnan(p), b.constant(0.0, F32), p), v)

    chain = ["mul", "add", *SOFTMAX, "isnan", "select", "matmul", "yield"]
    assert grouped(make) == ["constant", "constant", "matmul", *chain]


def test_what_only_the_chain_reads_joins_where_it_is_as_large_as_the_scores() -> None:
    def make(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        small = b.neg(b.slice(mask, starts=(0, 0, 0, 0), sizes=(1, 1, 1, 6), steps=(1,) * 4))
        s = b.add(b.matmul(q, swapped(b, k)), b.exp(mask))
        return b.matmul(b.softmax(b.add(s, small), axis=-1), v)

    found = group_of(make)
    assert found.count("exp") == 2
    assert "neg" not in found


def test_sides_are_scaled_in_the_group_where_they_come_from_memory() -> None:
    def make(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        half = b.constant(0.5, F32)
        s = b.matmul(b.mul(q, half), b.mul(swapped(b, k), half))
        return b.matmul(b.softmax(s, axis=-1), v)

    assert group_of(make).count("mul") == 2


def test_sides_are_scaled_by_the_product_that_makes_them() -> None:
    def make(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        weights = b.constant(np.cos(np.arange(16.0)).reshape(4, 4), F32)
        half = b.constant(0.5, F32)
        queries = b.mul(b.matmul(q, weights), half)
        keys = b.mul(swapped(b, b.matmul(k, weights)), half)
        return b.matmul(b.softmax(b.matmul(queries, keys), axis=-1), v)

    assert group_of(make) == ["matmul", *SOFTMAX, "matmul", "yield"]


def test_costly_ops_on_the_sides_stay_outside() -> None:
    def make(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        return b.matmul(b.softmax(b.matmul(b.tanh(q), swapped(b, b.exp(k))), axis=-1), v)

    assert grouped(make) == ["matmul", *SOFTMAX, "matmul", "yield"]


def test_elements_of_the_result_are_finished_in_the_group() -> None:
    def make(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        return b.transpose(b.relu(b.add(plain(b, q, k, v, mask), q)), perm=(0, 2, 1, 3))

    assert grouped(make) == ["matmul", *SOFTMAX, "matmul", "add", "relu", "yield"]


def test_shared_heads_and_reshapes_that_undo_each_other_join() -> None:
    def shared(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        wide = b.broadcast(b.reshape(k, shape=(2, 3, 1, 6, 4)), shape=(2, 3, 2, 6, 4))
        keys = swapped(b, b.reshape(wide, shape=(2, 6, 6, 4)))
        queries, values = (b.concat(x, x, axis=1) for x in (q, v))
        return b.matmul(b.softmax(b.matmul(queries, keys), axis=-1), values)

    def merged(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        flat = b.transpose(b.reshape(k, shape=(6, 6, 4)), perm=(0, 2, 1))
        keys = b.reshape(flat, shape=(2, 3, 4, 6))
        return b.matmul(b.softmax(b.matmul(q, keys), axis=-1), v)

    for make in (shared, merged):
        assert "reshape" in group_of(make)


def _scores_are_returned(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    s = b.matmul(q, swapped(b, k))
    return b.matmul(b.softmax(s, axis=-1), v), s


def _weights_are_returned(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    p = b.softmax(b.matmul(q, swapped(b, k)), axis=-1)
    return b.matmul(p, v), p


def _along_queries(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    return b.matmul(b.softmax(b.matmul(q, swapped(b, k)), axis=-2), v)


def _without_reduction(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    return b.matmul(b.relu(b.matmul(q, swapped(b, k))), v)


def _weights_on_the_right(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    return b.matmul(swapped(b, v), swapped(b, b.softmax(b.matmul(q, swapped(b, k)), axis=-1)))


def _transposed_weights(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    return b.matmul(swapped(b, b.softmax(b.matmul(q, swapped(b, k)), axis=-1)), q)


def _layers(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    first, second = (np.cos(np.arange(24.0)).reshape(4, 6) for _ in range(2))
    p = b.softmax(b.matmul(q, b.constant(first, F32)), axis=-1)
    return b.matmul(p, b.transpose(b.constant(second, F32), perm=(1, 0)))


def _widened(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    s = b.matmul(
        b.slice(q, starts=(0,) * 4, sizes=(1, 1, 5, 4), steps=(1,) * 4),
        swapped(b, b.slice(k, starts=(0,) * 4, sizes=(1, 1, 6, 4), steps=(1,) * 4)),
    )
    return b.matmul(b.softmax(b.add(s, mask), axis=-1), v)


def _heads_of_values_only(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    s = b.matmul(
        b.slice(q, starts=(0,) * 4, sizes=(1, 1, 5, 4), steps=(1,) * 4),
        swapped(b, b.slice(k, starts=(0,) * 4, sizes=(1, 1, 6, 4), steps=(1,) * 4)),
    )
    return b.matmul(b.softmax(s, axis=-1), v)


@pytest.mark.parametrize(
    "make",
    [
        _scores_are_returned,
        _weights_are_returned,
        _along_queries,
        _without_reduction,
        _weights_on_the_right,
        _transposed_weights,
        _layers,
        _widened,
        _heads_of_values_only,
    ],
)
def test_what_does_not_fit_is_left_alone(make: Make) -> None:
    assert grouped(make) is None


def test_half_precision_is_left_alone() -> None:
    assert grouped(plain, F16) is None


def test_a_group_has_no_more_operands_than_others() -> None:
    def make(b: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        s = b.matmul(q, swapped(b, k))
        for i in range(MAX_OPERANDS):
            s = b.add(s, b.constant(np.full((5, 6), i / 8), F32))
        return b.matmul(b.softmax(s, axis=-1), v)

    assert grouped(make) is None


def test_the_pass_can_be_disabled_and_bisected() -> None:
    for context in (PassContext(disabled={"attention"}), PassContext(bisect=0)):
        module = module_of(plain)
        run_passes(PASSES, module, context)
        assert context.hits["attention"] == 0
        assert not any(op.name == "fused" and _products(op) == 2 for op in module.main.block)


def _products(op: Any) -> int:
    return sum(inner.name == "matmul" for inner in op.regions[0])
