"""Ops that write their own loops, where these take other ways, with many equal elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.conformance.cases import Case, by_loops
from tests.lower.native import Code, graph, lowered
from tests.ops.support import fix_attrs
from tfc.compiler.codegen.host import host_target
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import freeze
from tfc.ir.core import SymbolInfo
from tfc.ir.dims import DimLike, evaluate, symbol
from tfc.ir.loop.sorting import FEW
from tfc.ir.opdef import OPS
from tfc.ir.ops import order
from tfc.ir.ops.order import KEPT
from tfc.ir.ops.pick import BLOCK
from tfc.ir.types import BF16, BOOL, F16, F32, F64, I8, I64, U16, U64, DType, TensorType

N, K = symbol("N"), symbol("K")
DTYPES = (F32, F64, F16, BF16, I8, I64, U16, U64)


def _numbers(shape: Sequence[int], dtype: DType, seed: int, kinds: int) -> Array:
    """Elements of so many kinds; of floats some are NaN, infinite, or zeros of either sign."""
    generator = np.random.default_rng(seed)
    if dtype == BOOL:
        return generator.random(tuple(shape)) < 0.5
    if dtype.is_int:
        info = np.iinfo(arrays.numpy_dtype(dtype))
        pool = generator.integers(info.min, info.max, kinds, dtype=info.dtype, endpoint=True)
    else:
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, -np.nan], np.float32)
        pool = generator.standard_normal(kinds).astype(np.float32)
        pool[: min(6, kinds)] = special[: min(6, kinds)]
    return arrays.make(generator.choice(pool, tuple(shape)), dtype)


class Compiled:
    """One op for all sizes."""

    def __init__(
        self, name: str, types: Sequence[tuple[DType, tuple[DimLike, ...]]], attrs: dict[str, Any]
    ) -> None:
        self.op = OPS[name]
        self.attrs = self.op.attrs(**{key: freeze(value) for key, value in attrs.items()})
        self.types = [TensorType(dtype, shape) for dtype, shape in types]
        module = graph(
            self.types,
            lambda b, *args: b.emit(self.op, args, self.attrs).results,
            {"N": SymbolInfo(), "K": SymbolInfo()},
        )
        run(module, PassContext(target=host_target(), level=2))
        self.program = lowered(module, host_target())
        self.code = Code([self.program], host_target())

    def check(self, n: int, make: Callable[..., Array], *args: Any, count: int = 0) -> None:
        """Compare with the reference; make: an operand of its shape, its number and `args`."""
        symbols = {"N": n, "K": count}
        operands = [
            make([evaluate(dim, symbols) for dim in type.shape], i, *args)
            for i, type in enumerate(self.types)
        ]
        given = {f"x{i}": x for i, x in enumerate(operands)}
        found = self.code.run(self.program, given, symbols)
        decoded = [arrays.decode(x, t.dtype) for x, t in zip(operands, self.types, strict=True)]
        wanted = self.op.ref(fix_attrs(self.attrs, symbols), *decoded)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for i, want in enumerate(wanted):
            got = found[f"y{i}"]
            if got.dtype != want.dtype:
                got = arrays.decode(got, self.types[0].dtype)
            np.testing.assert_array_equal(got, want, f"{self.op.name} at {symbols}")


SIZES = (0, 1, 2, 16, 17, FEW, FEW + 1, 255, 700)


def _elements(shape: list[int], operand: int, dtype: DType, kinds: int) -> Array:
    return _numbers(shape, dtype, operand, kinds)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sort_is_stable_at_every_size(dtype: DType) -> None:
    for descending in (False, True):
        call = Compiled("sort", [(dtype, (2, N))], {"axis": 1, "descending": descending})
        for n in SIZES:
            call.check(n, _elements, dtype, 7)
            call.check(n, _elements, dtype, 400)
        call.check(FEW + 1, _elements, dtype, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_top_k_takes_the_first_of_equals_for_every_k(dtype: DType) -> None:
    for largest in (False, True):
        for k in (3, KEPT):
            call = Compiled("top_k", [(dtype, (2, N))], {"axis": 1, "k": k, "largest": largest})
            for n in SIZES:
                if n >= k:
                    call.check(n, _elements, dtype, 7)
                    call.check(n, _elements, dtype, 400)
        call = Compiled("top_k", [(dtype, (2, N))], {"axis": 1, "k": K, "largest": largest})
        for n in SIZES:
            for count in {0, 1, n // 3, n}:
                if count <= n:
                    call.check(n, _elements, dtype, 7, count=count)
                    call.check(n, _elements, dtype, 400, count=count)
        call.check(FEW + 1, _elements, dtype, 1, count=30)


@pytest.mark.parametrize("axis", [0, 1])
def test_top_k_looks_at_more_elements_than_it_has_room_for(
    axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "ROOM", 64)
    shape = (2, N) if axis else (N, 2)
    for largest in (False, True):
        attrs = {"axis": axis, "k": K, "largest": largest}
        call = Compiled("top_k", [(F32, shape)], attrs)
        for n in (63, 64, 65, 80, 700, 3000):
            for count in (0, 9, 16, 40, 63):
                for kinds in (1, 7, 400):
                    call.check(n, _elements, F32, kinds, count=count)
                call.check(n, _rising, axis, count=count)


def _rising(shape: list[int], operand: int, axis: int) -> Array:
    steps = np.arange(shape[axis], dtype=np.float32)
    return np.ascontiguousarray(np.stack([steps, -steps], axis=1 - axis))


def test_top_k_with_little_room_stays_inside_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "ROOM", 32)
    op = OPS["top_k"]
    for axis, shape in ((1, (2, 150)), (0, (150, 2))):
        for x in (_numbers(shape, F32, 1, 30), _rising(list(shape), 0, axis)):
            attrs = op.attrs(axis=axis, k=9)
            case = Case(op, "", attrs, (x,), (TensorType(F32, shape),))
            for got, want in zip(by_loops(case), op.ref(attrs, x), strict=True):
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unique_finds_all_kinds_at_every_size(dtype: DType) -> None:
    for ordered in (True, False):
        attrs = {"axis": 0, "ordered": ordered}
        call = Compiled("unique", [(dtype, (N,))], attrs)
        rows = Compiled("unique", [(dtype, (N, 3))], attrs)
        for n in SIZES:
            call.check(n, _elements, dtype, 7)
            call.check(n, _elements, dtype, 400)
            rows.check(n, _elements, dtype, 2)


def _mask(shape: list[int], operand: int, share: float) -> Array:
    return np.random.default_rng(4).random(tuple(shape)) < share


def test_positions_are_right_in_every_block() -> None:
    call = Compiled("positions", [(BOOL, (N,))], {"count": K})
    for n in (*SIZES, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7):
        for share in (0.5, 0.0, 1.0):
            total = int(_mask([n], 0, share).sum())
            for count in {0, total // 2, max(total - 1, 0), total, total + 3}:
                call.check(n, _mask, share, count=count)


def _places(shape: list[int], operand: int) -> Array:
    return np.random.default_rng(operand).integers(-30, 30, shape)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatters_apply_updates_in_order(reduction: str) -> None:
    whole = (I64, (30, 30))
    for axis, shape in enumerate(((N, 30), (30, N))):
        attrs = {"axis": axis, "reduction": reduction}
        call = Compiled("scatter_elements", [whole, (I64, shape), (I64, shape)], attrs)
        for n in (0, 1, 7, 30, 65):
            call.check(n, _places)
    operands = [whole, (I64, (N, 1)), (I64, (N, 30))]
    call = Compiled("scatter_nd", operands, {"reduction": reduction})
    for n in SIZES:
        call.check(n, _places)


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
def test_running_folds_of_integers_are_exact_at_every_size(name: str) -> None:
    def make(shape: list[int], operand: int) -> Array:
        return np.random.default_rng(5).integers(-9, 9, shape).astype(np.int8)

    for exclusive in (False, True):
        for reverse in (False, True):
            attrs = {"exclusive": exclusive, "reverse": reverse}
            rows = Compiled(name, [(I8, (3, N))], {"axis": 1, **attrs})
            columns = Compiled(name, [(I8, (3, N))], {"axis": 0, **attrs})
            for n in SIZES:
                rows.check(n, make)
                columns.check(n, make)


@pytest.mark.parametrize("center", [False, True])
def test_suppression_equals_the_reference_at_every_size(center: bool) -> None:
    attrs = {"max_out": K, "iou": 0.3, "score": 0.2, "center_point_box": center}
    call = Compiled("non_max_suppression", [(F32, (1, N, 4)), (F32, (1, 2, N))], attrs)

    def make(shape: list[int], operand: int) -> Array:
        found = np.random.default_rng(operand).random(shape, np.float32)
        return np.round(found * 20) / np.float32(20) if operand else found

    for n in (0, 1, 16, 17, 65, 200):
        for count in (0, 1, 17, n + 5):
            call.check(n, make, count=count)
