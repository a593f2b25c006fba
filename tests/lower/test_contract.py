"""Contractions: iterators by role, register tiles, packed right sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.lower.native import graph
from tests.lower.nests import Composed, Make, extents, fused, nest_of, tensors
from tfc.compiler.lower import contract
from tfc.compiler.lower.contract import Contraction
from tfc.compiler.lower.normal import normalise
from tfc.compiler.target import parse_target
from tfc.ir.dims import DimLike, symbol
from tfc.ir.evalexpr import evaluate
from tfc.ir.types import I8, I32, U8, Encoding, TensorType

N = symbol("N")
TARGETS = ("x86-64", "avx2", "avx512", "aarch64")


def _matched(types: Sequence[TensorType], make: Make) -> Contraction | None:
    return contract.match(normalise(nest_of(types, make, symbolic=True)), {"N": 64})


def _found(types: Sequence[TensorType], make: Make) -> Contraction:
    found = _matched(types, make)
    assert found is not None
    return found


def _conv(b: Any, x: Any, w: Any, groups: int = 1) -> Any:
    return b.conv(x, w, strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=groups)


def _channels_last(groups: int = 1) -> Make:
    """A convolution whose operand and result lie as the layout pass puts them."""

    def make(b: Any, x: Any, w: Any) -> Any:
        y = _conv(b, b.transpose(x, perm=(0, 3, 1, 2)), w, groups)
        y.encoding = Encoding((0, 2, 3, 1))
        return b.relu(y)

    return make


def _roles(c: Contraction) -> tuple[list[DimLike], list[DimLike], DimLike, list[DimLike]]:
    return extents(c.batch), extents(c.rows), c.n.extent, extents(c.reduced)


def test_matmul_has_rows_columns_and_a_sum() -> None:
    c = _found(tensors((32, 48), (48, 40)), lambda b, x, w: b.matmul(x, w))
    assert _roles(c) == ([], [32], 40, [48])
    assert contract.is_contiguous(c)


def test_batches_are_in_both_sides() -> None:
    c = _found(tensors((3, 32, 48), (3, 48, 40)), lambda b, x, w: b.matmul(x, w))
    assert _roles(c) == ([3], [32], 40, [48])


def test_repeated_weights_make_batches_rows() -> None:
    c = _found(tensors((3, 32, 48), (48, 40)), lambda b, x, w: b.matmul(x, w))
    assert _roles(c) == ([], [96], 40, [48])


def test_symbolic_rows_match() -> None:
    c = _found(tensors((N, 48), (48, 40)), lambda b, x, w: b.matmul(x, w))
    assert _roles(c) == ([], [N], 40, [48])


def test_a_transposed_right_side_is_not_contiguous() -> None:
    c = _found(
        tensors((32, 48), (40, 48)), lambda b, x, w: b.matmul(x, b.transpose(w, perm=(1, 0)))
    )
    assert _roles(c) == ([], [32], 40, [48])
    assert not contract.is_contiguous(c)


def test_a_transposed_left_side_changes_no_role() -> None:
    c = _found(
        tensors((48, 32), (48, 40)), lambda b, x, w: b.matmul(b.transpose(x, perm=(1, 0)), w)
    )
    assert _roles(c) == ([], [32], 40, [48])


def test_an_epilogue_is_part_of_the_contraction() -> None:
    def make(b: Any, x: Any, w: Any, c: Any) -> Any:
        return fused(b, lambda b, x, w, c: b.relu(b.add(b.matmul(x, w), c)), x, w, c)

    c = _found(tensors((32, 48), (48, 40), (40,)), make)
    assert _roles(c) == ([], [32], 40, [48])


def test_a_row_major_convolution_has_pixels_as_columns() -> None:
    """The sides change places: weights are on the left, and the image is read in vectors."""
    c = _found(tensors((1, 8, 20, 22), (16, 8, 3, 3)), _conv)
    assert c.n.extent == 20
    assert extents(c.rows) == [16]
    assert sorted(extents(c.reduced)) == [3, 3, 8]  # type: ignore[type-var]


def _matched_convolution(types: list[TensorType], groups: int) -> Contraction | None:
    """The contraction of the convolution in front of the last op."""
    composed = Composed(graph(types, _channels_last(groups)))
    (y,) = composed.op.operands
    assert y.op is not None
    return contract.match(normalise(composed.of(y.op).nest), {})


def test_a_convolution_with_channels_last_has_channels_as_columns() -> None:
    c = _matched_convolution(tensors((1, 20, 22, 8), (16, 8, 3, 3)), 1)
    assert c is not None
    assert (c.n.extent, extents(c.rows)) == (16, [18, 20])
    assert extents(contract.collapse_reduced(c).reduced) == [3, 3, 8]


def test_groups_are_batches() -> None:
    c = _matched_convolution(tensors((1, 20, 22, 8), (32, 4, 3, 3)), 2)
    assert c is not None
    assert (extents(c.batch), c.n.extent) == ([2], 16)


def test_a_depthwise_convolution_is_no_contraction() -> None:
    assert _matched_convolution(tensors((1, 20, 22, 32), (32, 1, 3, 3)), 32) is None


@pytest.mark.parametrize(
    ("types", "make"),
    [
        (tensors((32, 48), (32, 48)), lambda b, x, y: b.mul(x, y)),
        (tensors((32, 48)), lambda b, x: b.reduce_sum(x, axes=(1,), keepdims=False)),
        (tensors((3, 4), (4, 2)), lambda b, x, w: b.matmul(x, w)),
        (tensors((640,), (640,)), lambda b, x, y: b.matmul(x, y)),
    ],
    ids=["no sum", "no product", "little work", "no columns"],
)
def test_other_nests_do_not_match(types: list[TensorType], make: Make) -> None:
    assert _matched(types, make) is None


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [
    (1, 64, 1000), (2, 512, 3), (3, 64, 64), (17, 33, 5), (49, 2048, 512), (196, 256, 100),
    (1000, 64, 17), (5, 700, 2), (64, 64, 8),
])  # fmt: skip
def test_a_tile_fits_the_registers(target: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    c = _found(tensors((m, k), (k, n)), lambda b, x, w: b.matmul(x, w))
    machine = parse_target(target)
    tile = contract.tiles(c, machine, {})[0].value
    used = tile.th * tile.tw * tile.vectors + tile.vectors + 1
    assert used <= machine.vector_registers
    assert tile.lanes * 32 <= machine.vector_bits
    assert tile.th * tile.tw <= m
    assert (tile.vectors - 1) * tile.lanes < n


def _packed(w: Any, block: int) -> Any:
    """[panel][k][block], zero behind the last column."""
    k, n = w.shape
    panels = -(-n // block)
    padded = np.zeros((k, panels * block), w.dtype)
    padded[:, :n] = w
    return padded.reshape(k, panels, block).swapaxes(0, 1)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("n", "block"), [(40, 16), (32, 16), (5, 8), (64, 64), (33, 32)])
def test_packed_constants_are_panels_of_columns(n: int, block: int, transposed: bool) -> None:
    w = np.arange(48 * n, dtype=np.float32).reshape(48, n)
    stored = w.T if transposed else w

    def make(b: Any, x: Any, w: Any) -> Any:
        return b.matmul(x, b.transpose(w, perm=(1, 0)) if transposed else w)

    c = _found(tensors((64, 48), stored.shape), make)
    flat = np.ascontiguousarray(stored).reshape(-1)
    want = _packed(w, block)
    np.testing.assert_array_equal(contract.pack_constant(c, block, flat), want.reshape(-1))
    packing = contract.packing(c, block)
    assert packing.size == want.size
    sizes = {it.name: int(it.extent) for it in packing.iters}  # type: ignore[arg-type]
    found = evaluate(packing.expr, sizes, {c.right.load.value: flat})
    np.testing.assert_array_equal(np.broadcast_to(found, tuple(sizes.values())), want)


def test_a_batch_of_right_sides_is_packed_one_by_one() -> None:
    w = np.arange(3 * 48 * 20, dtype=np.float32).reshape(3, 48, 20)
    c = _found(tensors((3, 32, 48), (3, 48, 20)), lambda b, x, w: b.matmul(x, w))
    want = np.stack([_packed(one, 16) for one in w])
    np.testing.assert_array_equal(contract.pack_constant(c, 16, w.reshape(-1)), want.reshape(-1))


def test_reduced_iterators_that_both_sides_run_through_become_one() -> None:
    c = _found(tensors((32, 48), (48, 40)), lambda b, x, w: b.matmul(x, w))
    assert extents(contract.collapse_reduced(c).reduced) == [48]


@pytest.mark.parametrize(("columns", "vectors"), [(64, 4), (65, 5), (72, 5), (100, 7), (128, 2)])
def test_many_vectors_where_they_pad_less(columns: int, vectors: int) -> None:
    c = _found(tensors((400, 48), (48, columns)), lambda b, x, w: b.matmul(x, w))
    tile = contract.tiles(c, parse_target("avx512"), {})[0].value
    padded = -(-columns // tile.block) * tile.block
    assert padded == -(-columns // 16) * 16
    assert tile.vectors in (vectors, 2, 4)
    assert tile.vectors == vectors or vectors <= 4
    assert tile.th * tile.tw * tile.vectors + tile.vectors + 1 <= 32


@pytest.mark.parametrize("size", [(64, 9, 16), (196, 144, 96), (49, 320, 1280), (12544, 27, 32)])
def test_tiles_of_bytes_have_few_sums_and_lose_little_by_it(size: tuple[int, int, int]) -> None:
    m, k, n = size

    def product(b: Any, x: Any, w: Any) -> Any:
        return b.matmul(b.cast(x, dtype=I32), b.cast(w, dtype=I32))

    def make(b: Any, x: Any, w: Any) -> Any:
        return fused(b, product, x, w)

    c = _found([TensorType(U8, (m, k)), TensorType(I8, (k, n))], make)
    found = contract.tiles(c, parse_target("avx512,+avx512vnni"), {})
    assert contract.LEAST_SUMS <= found[0].value.sums <= contract.MOST_SUMS
    few = [x.cycles for x in found if contract.LEAST_SUMS <= x.value.sums <= contract.MOST_SUMS]
    assert found[0].cycles <= contract.ABOUT * min(few)
    assert len({x.name for x in found}) == len(found)
    half = contract.tiles(
        c, parse_target("avx512,+avx512vnni"), {}, lambda tile: 0.5 if tile.sums == 8 else 1.0
    )
    assert half[0].value.sums == 8
