"""Element types: equal ones are one object, however they came about."""

from __future__ import annotations

import copy
import pickle

import pytest

from tfc.ir.types import DTYPES, DType, ScalarType, VectorType, scalar_of, vector_of


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_an_element_type_is_one_object(dtype: DType) -> None:
    assert DType(dtype.name, dtype.kind, dtype.bits) is dtype
    assert copy.deepcopy(dtype) is dtype
    assert pickle.loads(pickle.dumps(dtype)) is dtype


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_register_types_are_made_once_and_equal_others(dtype: DType) -> None:
    assert scalar_of(dtype) is scalar_of(dtype)
    assert scalar_of(dtype) == ScalarType(dtype)
    assert vector_of(dtype, 4) is vector_of(dtype, 4)
    assert vector_of(dtype, 4) == VectorType(dtype, 4) != VectorType(dtype, 8)
