"""Causal masks are found by what they say of each place, in whatever way they are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.lower.native import graph
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import Dim, DimLike, symbol
from tfc.ir.text.parser import parse_module
from tfc.ir.text.printer import print_module
from tfc.ir.types import BOOL, F32, I8, I32, I64, U32, DType, TensorType

INF = float("inf")
LOWEST = float(np.finfo(np.float32).min)
M, N, PAST = symbol("m"), symbol("n"), symbol("past")

# Of a builder and a number, what a mask is made of: scores, rows and keys of them.
Mask = Callable[[Any, Value, DimLike, DimLike], Value]


def module_of(mask: Mask, m: DimLike, n: DimLike, more: list[TensorType] | None = None) -> Module:
    names = sorted({name for dim in (m, n) if isinstance(dim, Dim) for name in _names(dim)})
    given = [TensorType(F32, (2, m, 8)), TensorType(F32, (2, 8, n)), TensorType(F32, (2, n, 8))]

    def make(b: Any, q: Any, k: Any, v: Any, *rest: Any) -> Any:
        scores = b.mul(b.matmul(q, k), b.constant(0.25, F32))
        return b.matmul(b.softmax(mask(b, scores, m, n, *rest), axis=-1), v)

    return graph([*given, *(more or [])], make, {name: SymbolInfo(1) for name in names})


def _names(dim: Dim) -> set[str]:
    return {s.name for mono, _ in dim.terms for s in mono if hasattr(s, "name")}


def diagonal_of(module: Module) -> DimLike | None:
    run(module, PassContext())
    groups = [op for op in module.main.block if op.name == "fused"]
    (found,) = (
        group.attrs.diagonal
        for group in groups
        if sum(op.name == "matmul" for op in group.regions[0]) == 2
    )
    return found  # type: ignore[no-any-return]


def positions(b: Any, m: DimLike, n: DimLike, dtype: Any = I64) -> tuple[Any, Any]:
    return b.iota(shape=(m, 1), axis=0, dtype=dtype), b.iota(shape=(1, n), axis=1, dtype=dtype)


def both(b: Any, x: Any, y: Any) -> Any:
    return getattr(b, "and")(x, y)


def inverse(b: Any, x: Any) -> Any:
    return getattr(b, "not")(x)


def seen(b: Any, m: DimLike, n: DimLike, k: DimLike = 0) -> Any:
    """Whether a key is at most as late as the query and k more."""
    row, key = positions(b, m, n)
    shift = b.constant(k, I64) if isinstance(k, int) else b.dims(values=(k,), rank=0)
    return b.le(key, b.add(row, shift))


def added(b: Any, s: Any, keep: Any, hidden: float = -INF) -> Any:
    zero, low = b.constant(0.0, F32), b.constant(hidden, F32)
    return b.add(s, b.select(keep, zero, low))


def _of_products(b: Any, s: Any, m: DimLike, n: DimLike) -> Any:
    """(1 - mask) * lowest, as of tensors of ones and zeros."""
    ones = b.trilu(b.full((m, n), 1.0, F32), upper=False, k=0)
    away = b.mul(b.sub(b.constant(1.0, F32), ones), b.constant(LOWEST, F32))
    return b.add(s, away)


def _of_a_larger_constant(b: Any, s: Any, m: DimLike, n: DimLike) -> Any:
    whole = b.constant(np.tril(np.ones((64, 64), bool)), BOOL)
    part = b.slice(whole, starts=(9, 2), sizes=(m, n), steps=(1, 1))
    return b.select(part, s, b.constant(-INF, F32))


MASKS: dict[str, tuple[Mask, int]] = {
    "added, -inf": (lambda b, s, m, n: added(b, s, seen(b, m, n)), 0),
    "added, lowest": (lambda b, s, m, n: added(b, s, seen(b, m, n), LOWEST), 0),
    "added, shifted": (lambda b, s, m, n: added(b, s, seen(b, m, n, 3), LOWEST), 3),
    "added, shifted back, -inf": (lambda b, s, m, n: added(b, s, seen(b, m, n, -3)), -3),
    "chosen": (lambda b, s, m, n: b.select(seen(b, m, n), s, b.constant(LOWEST, F32)), 0),
    "chosen, less": (
        lambda b, s, m, n: b.select(
            b.lt(*positions(b, m, n, I32)[::-1]), s, b.constant(-INF, F32)
        ),
        -1,
    ),
    "chosen, greater": (
        lambda b, s, m, n: b.select(b.gt(*positions(b, m, n)[::-1]), b.constant(-INF, F32), s),
        0,
    ),
    "upper triangle": (
        lambda b, s, m, n: b.add(s, b.trilu(b.full((m, n), -INF, F32), upper=True, k=1)),
        0,
    ),
    "lower triangle of ones": (_of_products, 0),
    "constant": (
        lambda b, s, m, n: b.add(s, b.constant(np.triu(np.full((m, n), -np.inf), 3), F32)),
        2,
    ),
    "constant, lowest": (
        lambda b, s, m, n: b.add(s, b.constant(np.triu(np.full((m, n), LOWEST), 1), F32)),
        0,
    ),
    "a part of a constant": (_of_a_larger_constant, 7),
    "with bounded biases": (
        lambda b, s, m, n: added(b, b.add(s, b.constant(np.cos(np.arange(n)), F32)),
                                 seen(b, m, n), LOWEST),
        0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_known_however_it_is_made(name: str) -> None:
    mask, k = MASKS[name]
    assert diagonal_of(module_of(mask, 20, 24)) == k


def _band(b: Any, s: Any, m: DimLike, n: DimLike) -> Any:
    return added(b, s, both(b, seen(b, m, n), inverse(b, seen(b, m, n, -4))))


def _hole(b: Any, s: Any, m: DimLike, n: DimLike) -> Any:
    mask = np.triu(np.full((m, n), -np.inf), 1)
    mask[0, -1] = 0
    return b.add(s, b.constant(mask, F32))


NONE: dict[str, Mask] = {
    "no mask": lambda b, s, m, n: s,
    "all keys are seen": lambda b, s, m, n: added(b, s, seen(b, m, n, 23)),
    "not low enough": lambda b, s, m, n: added(b, s, seen(b, m, n), -1e4),
    "rows without a key share out their weights": (
        lambda b, s, m, n: added(b, s, seen(b, m, n, -1), LOWEST)
    ),
    "the other triangle": lambda b, s, m, n: added(b, s, inverse(b, seen(b, m, n))),
    "one key is seen from the first row": _hole,
    "queries are compared": lambda b, s, m, n: added(
        b, s, b.le(b.iota(shape=(1, n), axis=1, dtype=I64), b.constant(5, I64))
    ),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_not_causal_is_not_taken_for_it(name: str) -> None:
    assert diagonal_of(module_of(NONE[name], 20, 24)) is None


def test_keys_behind_a_band_are_left_out() -> None:
    assert diagonal_of(module_of(_band, 20, 24)) == 0


def test_other_masks_of_infinity_may_be_added_but_no_unknown_numbers() -> None:
    def padded(hidden: float) -> Mask:
        return lambda b, s, m, n, pad: added(b, s, both(b, seen(b, m, n), pad), hidden)  # type: ignore[call-arg, misc]

    pad = [TensorType(BOOL, (1, 24))]
    assert diagonal_of(module_of(padded(-INF), 20, 24, pad)) == 0
    assert diagonal_of(module_of(padded(LOWEST), 20, 24, pad)) is None, "rows may lack any key"

    def biased(b: Any, s: Any, m: DimLike, n: DimLike, bias: Any) -> Any:
        return added(b, b.add(s, bias), seen(b, m, n))

    assert diagonal_of(module_of(biased, 20, 24, [TensorType(F32, (1, 24))])) is None, "NaN"  # type: ignore[arg-type]


@pytest.mark.parametrize("hidden", [-INF, LOWEST])
def test_sizes_may_be_unknown(hidden: float) -> None:
    mask: Mask = lambda b, s, m, n: added(b, s, seen(b, m, n), hidden)  # noqa: E731
    assert diagonal_of(module_of(mask, M, N)) == 0

    def behind(b: Any, s: Any, m: DimLike, n: DimLike) -> Any:
        return added(b, s, seen(b, m, n, PAST), hidden)

    assert diagonal_of(module_of(behind, M, M + PAST)) == PAST
    lower: Mask = lambda b, s, m, n: b.add(  # noqa: E731
        s, b.trilu(b.full((m, n), -INF, F32), upper=True, k=1)
    )
    assert diagonal_of(module_of(lower, M, N)) == 0


@pytest.mark.parametrize("dtype", [I8, U32])
def test_positions_that_may_wrap_prove_nothing(dtype: DType) -> None:
    """Where sizes are known the comparison is a constant, which is known, too."""

    def compared(b: Any, s: Any, m: DimLike, n: DimLike) -> Any:
        row, key = positions(b, m, n, dtype)
        return added(b, s, b.le(key, row))

    assert diagonal_of(module_of(compared, M, N)) is None
    assert diagonal_of(module_of(compared, 20, 24)) == 0


def test_the_weights_must_be_those_of_a_softmax() -> None:
    def make(b: Any, q: Any, k: Any, v: Any) -> Any:
        x = added(b, b.matmul(q, k), seen(b, 20, 24))
        least = b.reduce_min(x, axes=(2,), keepdims=True)
        power = b.exp(b.sub(x, least))
        total = b.reduce_sum(power, axes=(2,), keepdims=True)
        return b.matmul(b.div(power, total), v)

    types = [TensorType(F32, shape) for shape in ((2, 20, 8), (2, 8, 24), (2, 24, 8))]
    assert diagonal_of(graph(types, make)) is None


def test_weights_may_be_cleared_of_nan_but_not_made_anew() -> None:
    def attended(finish: Callable[[Any, Any], Any]) -> Module:
        def make(b: Any, q: Any, k: Any, v: Any) -> Any:
            p = b.softmax(added(b, b.matmul(q, k), seen(b, 20, 24)), axis=-1)
            return b.matmul(finish(b, p), v)

        types = [TensorType(F32, shape) for shape in ((2, 20, 8), (2, 8, 24), (2, 24, 8))]
        return graph(types, make)

    cleared = attended(lambda b, p: b.select(b.isnan(p), b.constant(0.0, F32), p))
    assert diagonal_of(cleared) == 0
    assert diagonal_of(attended(lambda b, p: b.add(p, b.constant(0.5, F32)))) is None


def test_the_diagonal_is_part_of_the_text() -> None:
    mask, k = MASKS["added, shifted"]
    module = module_of(mask, 20, 24)
    assert diagonal_of(module) == k
    text = print_module(module)
    assert "diagonal = 3" in text
    assert print_module(parse_module(text, module.constants)) == text
