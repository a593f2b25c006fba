"""Corner cases that the documentation of an op promises, spelled out: reference and body alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.conformance.cases import Case, by_body, make_attrs, reference
from tfc.ir.arrays import dtype_of
from tfc.ir.opdef import OPS
from tfc.ir.types import BF16, BOOL, F16, F32, I8, I32, I64, U8, TensorType

INF, NAN = np.inf, np.nan
F, L, B = np.float32, np.int64, np.int8


def arrays(dtype: Any, *lists: Any) -> tuple[Any, ...]:
    return tuple(np.array(values, dtype) for values in lists)


FACTS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], Any]] = {
    "relu keeps NaN": ("relu", arrays(F, [NAN, -1, 2]), {}, [NAN, 0, 2]),
    "clamp keeps NaN": ("clamp", arrays(F, [NAN, -1, 2]), {"lo": 0.0, "hi": 1.0}, [NAN, 0, 1]),
    "min propagates NaN": ("min", arrays(F, [NAN, 1, 2], [1, NAN, 3]), {}, [NAN, NAN, 2]),
    "max propagates NaN": ("max", arrays(F, [NAN, 1, 2], [1, NAN, 3]), {}, [NAN, NAN, 3]),
    "sign keeps NaN": ("sign", arrays(F, [NAN, -3, 0, 4]), {}, [NAN, -1, 0, 1]),
    "round is half to even": ("round", arrays(F, [0.5, 1.5, -2.5]), {}, [0, 2, -2]),
    "integer div truncates": ("div", arrays(L, [7, -7, 7, -7], [2, 2, -2, -2]), {}, [3, -3, -3, 3]),
    "integer div by zero is 0": ("div", arrays(L, [7, -7, 0], [0, 0, 0]), {}, [0, 0, 0]),
    "the least integer over -1 wraps": ("div", arrays(B, [-128], [-1]), {}, [-128]),
    "rem has the sign of x": ("rem", arrays(L, [7, -7, 7, 5], [3, 3, -3, 0]), {}, [1, -1, 1, 5]),
    "mod has the sign of y": ("mod", arrays(L, [7, -7, 7, 5], [3, 3, -3, 0]), {}, [1, 2, -2, 0]),
    "float mod as well": ("mod", arrays(F, [7, -7, 7, 1], [3, 3, -3, 0]), {}, [1, 2, -2, NAN]),
    "shifts by the width give 0": ("shl", arrays(B, [1, 1, 1], [7, 8, -1]), {}, [-128, 0, 0]),
    "right shifts keep the sign": ("shr", arrays(B, [-128, -1, 64], [8, 99, 9]), {}, [-1, -1, 0]),
    "integer pow wraps": ("pow", arrays(B, [2, 3, -1], [8, 5, 3]), {}, [0, -13, -1]),
    "integer pow below 0 truncates": ("pow", arrays(L, [2, 1, -1, 0], [-1] * 4), {}, [0, 1, -1, 0]),
    "pow of 0 exponents is 1": ("pow", arrays(F, [NAN, INF, 0], [0, 0, 0]), {}, [1, 1, 1]),
    "casts to integers saturate": (
        "cast", arrays(F, [300.7, -1, NAN, 2.9]), {"dtype": U8}, [255, 0, 0, 2],
    ),
    "casts of integers wrap": ("cast", arrays(L, [257, -1, 128]), {"dtype": I8}, [1, -1, -128]),
    "saturating casts do not": (
        "cast", arrays(L, [257, -1, 128]), {"dtype": I8, "saturate": True}, [127, -1, 127],
    ),
    "a cast to bool is x != 0": ("cast", arrays(F, [2, -0.0, NAN]), {"dtype": BOOL}, [1, 0, 1]),
    "a cast to bf16 rounds to even": (
        "cast", arrays(F, [1.00390625, 1.01171875]), {"dtype": BF16}, [1.0, 1.015625],
    ),
    "a cast to f16 overflows": ("cast", arrays(F, [1e6, -1e6]), {"dtype": F16}, [INF, -INF]),
    "isinf may mean one sign": (
        "isinf", arrays(F, [INF, -INF, NAN]), {"negative": False}, [True, False, False],
    ),
    "eq of NaN is false": ("eq", arrays(F, [NAN, 1], [NAN, 1]), {}, [False, True]),
    "select does not look at the other side": (
        "select", (np.array([True, False]), *arrays(F, [1, NAN], [NAN, 2])), {}, [1, 2],
    ),
    "iota counts along its axis": (
        "iota", (), {"shape": (2, 3), "axis": 1, "dtype": I32}, [[0, 1, 2], [0, 1, 2]],
    ),
    "dims are numbers": ("dims", (), {"values": (4, 5)}, [4, 5]),
    "softplus does not overflow": ("softplus", arrays(F, [100, 1e30, -1e30]), {}, [100, 1e30, 0]),
    "mish ends at x and 0": ("mish", arrays(F, [100, 1e30, -1e30]), {}, [100, 1e30, 0]),
    "sigmoid ends at 0 and 1": ("sigmoid", arrays(F, [1e30, -1e30, 0]), {}, [1, 0, 0.5]),
}  # fmt: skip


def _case(fact: str) -> Case:
    name, operands, attrs, _ = FACTS[fact]
    types = tuple(TensorType(dtype_of(x), x.shape) for x in operands)
    return Case(OPS[name], fact, make_attrs(OPS[name], attrs), operands, types)


@pytest.mark.parametrize("fact", FACTS)
def test_reference(fact: str) -> None:
    (found,) = reference(_case(fact))
    np.testing.assert_array_equal(found, np.array(FACTS[fact][3], found.dtype))


@pytest.mark.parametrize("fact", FACTS)
def test_body(fact: str) -> None:
    (found,) = by_body(_case(fact))
    np.testing.assert_array_equal(found, np.array(FACTS[fact][3], found.dtype))


def test_infer_says_the_broadcast_type() -> None:
    (type,) = OPS["add"].check((TensorType(F32, (2, 1, 3)), TensorType(F32, (4, 1))), None)
    assert type == TensorType(F32, (2, 4, 3))
    (type,) = OPS["lt"].check((TensorType(I64, (2,)), TensorType(I64, ())), None)
    assert type == TensorType(BOOL, (2,))
