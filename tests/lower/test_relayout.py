"""Constants laid out anew: what lies in the padding is not read from beside the array."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lower.native import Code, graph, lowered
from tfc.compiler.codegen.host import host_target
from tfc.compiler.lower.relayout import Relayout
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.ir.body import Iter
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Value
from tfc.ir.dims import symbol


@pytest.mark.parametrize(("origin", "wanted"), [(-2, [0, 0, 0, 1]), (1, [1, 2, 3, 3])])
def test_elements_outside_of_the_array_are_some_of_its_own(origin: int, wanted: list[int]) -> None:
    i, j = symbol("i"), symbol("j")
    layout = Relayout((Iter("i", 2), Iter("j", 2)), 2 * i + j + origin, 2 * i + j)
    assert layout.apply(np.arange(4)).tolist() == wanted


@pytest.mark.parametrize("level", [0, 2])
def test_padded_window_over_a_constant_is_as_over_an_input(level: int) -> None:
    x = np.random.default_rng(0).uniform(-3, -1, (2, 1, 4, 5)).astype(np.float32)

    def make(b: GraphBuilder) -> Value:
        found: Value = b.max_pool(
            b.constant(x), kernel=(2, 1), strides=(1, 1), pads=((1, 0), (0, 0)), dilations=(1, 1)
        )
        return found

    module = graph([], make)
    run(module, PassContext(target=host_target(), level=level))
    program = lowered(module, host_target())
    found = Code([program], host_target()).run(program, {})["y0"]
    np.testing.assert_array_equal(found[:, :, 0], x[:, :, 0])
    np.testing.assert_array_equal(found[:, :, 1:], np.maximum(x[:, :, 1:], x[:, :, :-1]))
