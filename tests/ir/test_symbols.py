"""Symbols are found and replaced wherever they stand, and shapes settle their values."""

from __future__ import annotations

import pytest

import tfc.ir.ops  # noqa: F401
from tfc.ir.core import SymbolInfo
from tfc.ir.dims import DimLike, floordiv, from_terms, substitute, symbol, symbols_of, terms_of
from tfc.ir.errors import UsageError
from tfc.ir.opdef import OPS
from tfc.ir.symbols import bind_shapes, check_bounds, dims_in, type_symbols, with_symbols
from tfc.ir.types import F32, I64, BufferType, ScalarType, TensorType, buffer

N, S = symbol("N"), symbol("S")


def bind(*dims: tuple[DimLike, int]) -> dict[str, int]:
    declared = tuple(dim for dim, _ in dims)
    return bind_shapes([("x", declared, tuple(size for _, size in dims))])


def test_shapes_settle_symbols_in_any_order() -> None:
    assert bind((N, 3), (S, 5), (N, 3)) == {"N": 3, "S": 5}
    assert bind((2 * N + S, 11), (S, 5)) == {"N": 3, "S": 5}
    assert bind((N * S, 15), (N, 3)) == {"N": 3, "S": 5}
    assert bind((N - 1, 0)) == {"N": 1}
    assert bind((4, 4)) == {}


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([(N, 3), (N, 4)], r"x: dim 1 is 4, not 3 \(N\)"),
        ([(4, 5)], "x: dim 0 is 5, not 4$"),
        ([(N, 3), (2 * N + 1, 8)], r"x: dim 1 is 8, not 7 \(2\*N \+ 1\)"),
        ([(2 * N, 7)], r"x: dim 0 is 7, which 2\*N is for no integer N"),
        ([(N * S, 6)], r"x: dim 0 is 6, which does not settle N\*S"),
        ([(floordiv(N, 2), 6)], "which does not settle floordiv"),
        ([(N * N, 9)], "which does not settle"),
    ],
)
def test_contradiction_names_tensor_axis_and_sizes(
    dims: list[tuple[DimLike, int]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        bind(*dims)


def test_bounds_are_inclusive() -> None:
    symbols = {"N": SymbolInfo(1, 4), "S": SymbolInfo(2)}
    check_bounds(symbols, {"N": 4, "S": 2})
    check_bounds(symbols, {})
    with pytest.raises(UsageError, match=r"N is 5, outside 1\.\.4"):
        check_bounds(symbols, {"N": 5})
    with pytest.raises(UsageError, match=r"S is 1, outside 2\.\."):
        check_bounds(symbols, {"S": 1})


def test_symbols_are_found_in_types_and_attributes() -> None:
    assert type_symbols(TensorType(F32, (N, 2 * S))) == {"N", "S"}
    assert type_symbols(BufferType(F32, (2,), (N,))) == {"N"}
    assert type_symbols(ScalarType(F32)) == set()
    attrs = OPS["pad"].attrs(lo=(N, 0), hi=(0, S + 1), mode="constant")
    assert list(dims_in(attrs)) == [N, S + 1]


def test_replacing_reaches_nested_values_and_keeps_what_has_no_symbol() -> None:
    attrs = OPS["slice"].attrs(starts=(0, N), sizes=(N - 1, 2), steps=(1, 1))
    changed = with_symbols(attrs, {"N": 4})
    assert changed == OPS["slice"].attrs(starts=(0, 4), sizes=(3, 2), steps=(1, 1))
    assert with_symbols(changed, {"N": 4}) is changed
    assert with_symbols(buffer(F32, N, 2), {"N": 3}) == buffer(F32, 3, 2)
    assert with_symbols(TensorType(I64, (N,)), {"N": S}) == TensorType(I64, (S,))


def test_long_sums_are_substituted_in_time_linear_in_their_length() -> None:
    """A model that joins what it finds has dims of as many symbols as it joins parts."""
    names = [f"n{i}" for i in range(20_000)]
    total = from_terms({mono: 1 for name in names for mono, _ in terms_of(symbol(name))})
    for name in names[:5]:
        total = substitute(total, {name: S})
    assert len(terms_of(total)) == len(names) - 4
    assert symbols_of(total) == {"S", *names[5:]}
    assert substitute(total, {"N": S}) is total
