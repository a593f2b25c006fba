"""Quantised models are computed in integers. What they answer is held to in `test_outputs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.catalogue import ENTRIES, marked
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.source import open_module
from tfc.compiler.target import parse_target
from tfc.ir.core import ops_of
from tfc.ir.types import I32

pytestmark = pytest.mark.models

QUANTISED = [name for name, entry in ENTRIES.items() if entry.quantised]


@pytest.mark.parametrize("name", marked(QUANTISED))
def test_products_are_in_integers(name: str, model_path: Callable[[str], Path]) -> None:
    module = open_module(model_path(name))
    run(module, PassContext(target=parse_target("avx512,+avx512vnni")))
    found = [op for op in ops_of(module.functions.values()) if op.name in ("conv", "matmul")]
    assert found
    assert {op.result.type.dtype for op in found} == {I32}  # type: ignore[union-attr]
