"""Movement, reductions, contractions, windows and lookups on shapes with symbols."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.support import check_symbolic, fix
from tfc.ir.dims import DimLike, floordiv, symbol
from tfc.ir.ops.common import floats, integers
from tfc.ir.ops.resize import ROUNDINGS

N, M, H, W = (symbol(name) for name in "NMHW")
WINDOW = {"strides": (2, 1), "pads": ((1, 2), (0, 1)), "dilations": (1, 2)}

Case = tuple[str, tuple[tuple[DimLike, ...], ...], dict[str, Any]]

CASES: list[Case] = [
    ("reshape", ((N, 6, M),), {"shape": (N * 2, 3, M)}),
    ("reshape", ((4, N),), {"shape": (N, 4)}),
    ("reshape", ((N, M, 1),), {"shape": (N * M,)}),
    ("reshape", ((N * M,),), {"shape": (N, M)}),
    ("reshape", ((N + 1, 6),), {"shape": (2, 3 * N + 3)}),
    ("transpose", ((N, 3, M),), {"perm": (2, 0, 1)}),
    ("broadcast", ((N, 1),), {"shape": (2, N, M)}),
    ("slice", ((N + 3, 4),), {"starts": (N + 2, 1), "sizes": (N + 1, 3), "steps": (-1, 1)}),
    ("slice", ((2 * N,),), {"starts": (1,), "sizes": (N,), "steps": (2,)}),
    ("concat", ((N, 2), (3, 2), (M, 2)), {"axis": 0}),
    ("pad", ((N, 3),), {"lo": (2, 0), "hi": (M, 1), "mode": "constant"}),
    ("pad", ((N, 3),), {"lo": (2, 0), "hi": (4, 1), "mode": "edge"}),
    ("pad", ((N, 3),), {"lo": (2, 0), "hi": (M, 1), "mode": "reflect"}),
    ("pad", ((N, 3),), {"lo": (2, 0), "hi": (4, 1), "mode": "wrap"}),
    ("tile", ((N, 3),), {"repeats": (2, M)}),
    ("reduce_sum", ((N, M, 2),), {"axes": (0, 2), "keepdims": False}),
    ("reduce_mean", ((N, M),), {"axes": (1,), "keepdims": True}),
    ("reduce_max", ((N, M),), {"axes": (0,), "keepdims": True}),
    ("reduce_log_sum_exp", ((N, M),), {"axes": (1,), "keepdims": False}),
    ("argmax", ((N, M),), {"axis": 1, "keepdims": False, "last": False}),
    ("cumsum", ((N, M),), {"axis": 1, "exclusive": True, "reverse": True}),
    ("matmul", ((2, N, M), (M, 3)), {}),
    ("matmul", ((N, 1, 3, M), (4, M, 2)), {}),
    ("conv", ((N, 2, H, W), (3, 2, 3, 2)), {**WINDOW, "groups": 1}),
    ("conv", ((N, 4, H, W), (4, 1, 3, 2)), {**WINDOW, "groups": 4}),
    ("conv", ((N, 3 * M, H), (2, 3 * M, 3)), {
        "strides": (1,), "pads": ((1, 1),), "dilations": (1,), "groups": 1,
    }),
    ("conv_transpose", ((N, 2, H, W), (2, 3, 3, 2)), {
        **WINDOW, "groups": 1, "output_padding": (H % 2, 0),
    }),
    ("max_pool", ((N, 2, H, W),), {"kernel": (3, 2), **WINDOW}),
    ("avg_pool", ((N, 2, H, W),), {"kernel": (3, 2), **WINDOW, "count_include_pad": False}),
    ("avg_pool", ((N, 2, H, W),), {"kernel": (3, 2), **WINDOW, "count_include_pad": True}),
    ("trilu", ((N, M),), {"upper": False, "k": 1}),
]  # fmt: skip

SYMBOLS = [{"N": 3, "M": 5, "H": 6, "W": 7}, {"N": 1, "M": 1, "H": 4, "W": 3}]


@pytest.mark.parametrize("symbols", SYMBOLS, ids=["odd", "ones"])
@pytest.mark.parametrize(("name", "shapes", "attrs"), CASES)
def test_symbols_give_what_numbers_give(
    name: str,
    shapes: tuple[tuple[DimLike, ...], ...],
    attrs: dict[str, Any],
    symbols: dict[str, int],
) -> None:
    operands = [floats(fix(tuple(shape), symbols), seed=i) for i, shape in enumerate(shapes)]
    check_symbolic(name, shapes, attrs, symbols, operands)


@pytest.mark.parametrize(
    ("name", "shapes", "attrs"),
    [
        ("gather", ((N, M), (H,)), {"axis": 0}),
        ("gather", ((M, N), (H, 2)), {"axis": 1}),
        ("gather_elements", ((N, M), (H, M)), {"axis": 0}),
        ("gather_nd", ((N, M), (H, 2)), {"batch_dims": 0}),
        ("gather_nd", ((H, N, M), (H, 1)), {"batch_dims": 1}),
    ],
)
def test_lookups_on_symbols_give_what_numbers_give(
    name: str, shapes: tuple[tuple[DimLike, ...], ...], attrs: dict[str, Any]
) -> None:
    symbols = {"N": 5, "M": 3, "H": 4}
    x, indices = (fix(tuple(shape), symbols) for shape in shapes)
    operands = [floats(x), integers(indices, -9, 9)]
    check_symbolic(name, shapes, attrs, symbols, operands)


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatters_on_symbols_give_what_numbers_give(reduction: str) -> None:
    symbols = {"N": 5, "M": 3, "H": 4}
    attrs = {"reduction": reduction}
    order = np.array([2, 0, 4, 1])
    operands = [floats((5, 3)), order[:, None], floats((4, 3), seed=1)]
    check_symbolic("scatter_nd", ((N, M), (H, 1), (H, M)), attrs, symbols, operands)
    operands = [floats((5, 3)), np.stack([order] * 3, 1), floats((4, 3), seed=1)]
    shapes = ((N, M), (H, M), (H, M))
    check_symbolic("scatter_elements", shapes, {**attrs, "axis": 0}, symbols, operands)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(
    "coordinate", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
)
@pytest.mark.parametrize(
    ("size", "scale"), [(2 * N, 2.0), (2 * N, 0.0), (M, 0.0), (floordiv(3 * N, 2), 1.5)]
)
def test_resize_of_symbolic_dims(mode: str, coordinate: str, size: DimLike, scale: float) -> None:
    roundings = ROUNDINGS if mode == "nearest" else ROUNDINGS[:1]
    for n, m in ((3, 5), (1, 1), (4, 3), (6, 2)):
        for rounding in roundings:
            attrs = {
                "sizes": (2, size),
                "scales": (1.0, scale),
                "mode": mode,
                "coordinate": coordinate,
                "nearest": rounding,
            }
            operands = [floats((2, n))]
            check_symbolic("resize", ((2, N),), attrs, {"N": n, "M": m}, operands, grad=False)
