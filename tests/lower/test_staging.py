"""Costly values of a row are computed once and kept in the output's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tfc
from tests.conformance.cases import assert_close
from tests.lower.native import graph
from tests.lower.nests import Composed, Make, fused, tensors
from tfc.compiler.lower import staging
from tfc.compiler.lower.compose import Nest
from tfc.compiler.lower.normal import reductions
from tfc.graph import Graph
from tfc.ir import arrays
from tfc.ir.body import Apply, Keep, Load, walk
from tfc.ir.interp import evaluate
from tfc.ir.opdef import OPS
from tfc.ir.types import BF16, F16, F32, F64, DType, TensorType


def _rows(make_element: Any) -> Make:
    """element / sum(element) over rows."""

    def make(b: Any, x: Any) -> Any:
        def inner(b: Any, x: Any) -> Any:
            e = make_element(b, x)
            return b.div(e, b.reduce_sum(e, axes=(1,), keepdims=True))

        return fused(b, inner, x)

    return make


def _softmax(b: Any, x: Any) -> Any:
    return b.exp(b.sub(x, b.reduce_max(x, axes=(1,), keepdims=True)))


def _staged(composed: Composed) -> Nest | None:
    inside, outside = composed.group.results[0]
    composer, _ = composed.compose()
    kept = staging.candidate(composer, inside)
    if kept is None:
        return None
    again, nest = composed.compose({kept: composed.access(outside)})
    return staging.keep_first(again, nest, kept)


def _count(nest: Nest, name: str) -> int:
    nodes = walk(nest.outputs[0].expr)
    return sum(isinstance(node, Apply) and node.name == name for node in nodes)


def test_softmax_computes_each_exponential_once_and_keeps_it() -> None:
    composed = Composed(graph(tensors((4, 9)), _rows(_softmax)))
    plain, staged = composed.nest, _staged(composed)
    assert staged is not None
    assert _count(plain, "exp") == 2
    assert _count(staged, "exp") == 1
    output = staged.outputs[0]
    kept = [node for node in walk(output.expr) if isinstance(node, Keep)]
    again = [
        node for node in walk(output.expr) if isinstance(node, Load) and node.value is output.value
    ]
    assert [keep.value for keep in kept] == [output.value]
    assert [load.index[0] for load in again] == [output.address]


def test_what_is_cheap_is_computed_again() -> None:
    composed = Composed(graph(tensors((4, 9)), _rows(lambda b, x: b.mul(x, x))))
    assert _staged(composed) is None


def test_values_of_another_type_than_the_result_are_computed_again() -> None:
    from tfc.ir.types import F64

    def make(b: Any, x: Any) -> Any:
        def inner(b: Any, x: Any) -> Any:
            e = b.exp(x)
            wide = b.cast(e, dtype=F64)
            return b.div(wide, b.reduce_sum(wide, axes=(1,), keepdims=True))

        return fused(b, inner, x)

    composer, _ = (composed := Composed(graph(tensors((4, 9)), make))).compose()
    kept = staging.candidate(composer, composed.group.results[0][0])
    assert kept is None or kept.type == composed.group.results[0][0].type


def _softmax_in_f64(b: Any, x: Any) -> Any:
    def inner(b: Any, x: Any) -> Any:
        wide = b.cast(b.tanh(x), dtype=F64)
        e = b.exp(b.sub(wide, b.reduce_max(wide, axes=(1,), keepdims=True)))
        return b.cast(b.div(e, b.reduce_sum(e, axes=(1,), keepdims=True)), dtype=F32)

    return fused(b, inner, x)


def test_what_is_kept_is_written_by_the_reduction_that_runs_first() -> None:
    composed = Composed(graph(tensors((4, 9)), _softmax_in_f64))
    plain = reductions(composed.nest)
    assert [reduce.kind for reduce in plain] == ["max", "sum"]
    staged = _staged(composed)
    assert staged is not None
    own = staged.outputs[0].value
    first, *later = reductions(staged)
    assert first.kind == "max"
    assert isinstance(next(n for n in walk(first.body) if isinstance(n, (Keep, Load))), Keep)
    assert len(later) == 1
    for reduce in later:
        inner = [node for node in walk(reduce.body) if isinstance(node, Load)]
        assert any(load.value is own for load in inner)
    assert sum(isinstance(node, Keep) for node in walk(staged.outputs[0].expr)) == 1


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "layer_norm"])
def test_rows_read_through_constant_indices_by_several_folds_are_right(
    name: str, dtype: DType
) -> None:
    """The folds share an iterator, in whose order the indices are laid out anew."""
    x = np.arange(5 * 33).reshape(5, 33) % 7 - 3

    def make(b: Any, x: Any) -> Any:
        return b.op(name, b.gather(x, b.constant(np.array([32, 0, -1, 5])), axis=1)).result

    module = graph([TensorType(dtype, (5, 33))], make)
    given = arrays.make(x, dtype)
    assert module.constants is not None
    wanted = evaluate(module, {"x0": given}, module.constants)  # type: ignore[arg-type]
    found = arrays.encode(tfc.compile(Graph(module), threads=1)(given), dtype)
    want = arrays.decode(wanted["y0"], dtype)
    assert_close(arrays.decode(found, dtype), want, OPS[name].tol[dtype.name], name)
