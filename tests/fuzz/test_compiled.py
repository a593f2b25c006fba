"""Random graphs give the same compiled, at every level, as by the references of their ops."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.graph_ops import ALL
from tests.fuzz.graphs import DIMS, DTYPES, Step, build, inputs_of
from tests.lower.native import Code, lowered
from tfc.compiler.codegen.host import host_target
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import Target
from tfc.ir.arrays import Array
from tfc.ir.core import Module, Value
from tfc.ir.interp import evaluate_ops
from tfc.ir.types import BF16

EPSILON = {np.dtype(np.float16): 2e-2, np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-5}
OF_BF16 = 1e-2
"""Where operands of products are rounded to bf16; sums that differ in the last bit may round to
either side."""
LARGEST = 1e5
"""Beyond that, differences of large numbers mean nothing, and f16 overflows."""

SIZES = ((5, 3), (1, 1), (17, 0), (3, 33))

inputs_strategy = st.lists(
    st.tuples(
        st.integers(0, len(DTYPES) - 1),
        st.lists(st.integers(0, len(DIMS) - 1), min_size=0, max_size=4),
    ),
    min_size=1,
    max_size=3,
)
step_strategy = st.tuples(
    st.integers(0, len(ALL) - 1), st.integers(0, 11), st.integers(0, 999), st.just(0)
)
graphs = st.tuples(
    inputs_strategy,
    st.lists(step_strategy, min_size=1, max_size=14),
    st.lists(st.integers(0, 30), max_size=2),
    st.sampled_from(SIZES),
)
Numbers = tuple[list[tuple[int, list[int]]], list[Step], list[int], tuple[int, int]]


def wanted(module: Module, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
    """The outputs by reference, and the largest number on the way; infinite if one is not."""
    largest = 1.0

    def visit(value: Value, array: Array) -> None:
        nonlocal largest
        if array.dtype.kind == "f" and array.size:
            largest = max(largest, float(np.max(np.abs(array.astype(np.float64)))))
            if not np.isfinite(array).all():
                largest = np.inf

    found = evaluate_ops(module, inputs, module.constants, visit)
    return found, largest


def compiled(
    module: Module, target: Target, level: int, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    run(module, PassContext(target=target, level=level))
    program = lowered(module, target)
    return Code([program], target).run(program, inputs)


def check(
    found: Mapping[str, Array],
    want: Mapping[str, Array],
    scale: float,
    what: str,
    least: float = 0.0,
) -> None:
    for name, expected in want.items():
        got = found[name]
        assert got.shape == expected.shape, what
        if expected.dtype.kind != "f":
            np.testing.assert_array_equal(got, expected, f"{what}, {name}")
            continue
        error = np.abs(got.astype(np.float64) - expected.astype(np.float64))
        # Anything may have passed through a narrower type on its way.
        bad = ~(error <= max(EPSILON[expected.dtype], least) * scale)
        assert not bad.any(), f"{what}, {name}: {got[bad][:4]} for {expected[bad][:4]}"


def check_graph(numbers: Numbers, target: Target) -> None:
    inputs, steps, outputs, (n, m) = numbers
    module = build(inputs, steps, outputs, ALL)
    arrays_in = inputs_of(module, {"N": n, "M": m})
    want, scale = wanted(module, arrays_in)
    if not scale <= LARGEST:
        return
    if any(array.dtype == np.float16 for array in arrays_in.values()):
        scale *= 1e3
    for level in (0, 2):
        module = build(inputs, steps, outputs, ALL)
        check(compiled(module, target, level, arrays_in), want, scale, f"-O{level}")
    module = build(inputs, steps, outputs, ALL)
    check_bf16(module, target.for_precision(BF16), arrays_in)


def check_bf16(module: Module, target: Target, arrays_in: Mapping[str, Array]) -> None:
    """Compare with the optimised graph, in which operands are rounded."""
    run(module, PassContext(target=target, level=2, dtype=BF16))
    want, scale = wanted(module, arrays_in)
    if not scale <= LARGEST:
        return
    program = lowered(module, target)
    check(Code([program], target).run(program, arrays_in), want, scale, "bf16", OF_BF16)


@given(graphs)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_compiled_graphs_equal_interpreted_graphs(numbers: Numbers) -> None:
    check_graph(numbers, host_target())


def test_every_maker_makes_an_op() -> None:
    """Of the values of graphs that a first step has made."""
    dice = random.Random(0)
    left = set(range(len(ALL)))
    for _ in range(3000):
        kinds = [(kind, [dice.randrange(len(DIMS)) for _ in range(4)]) for kind in range(9)]
        shapes = [(kind, shape[: dice.randrange(5)]) for kind, shape in kinds]
        for kind in list(left):
            step = (kind, dice.randrange(12), dice.randrange(1000), 0)
            if len(build(shapes, [step], [], ALL).main.block) > 1:
                left.discard(kind)
        if not left:
            return
    raise AssertionError([ALL[kind] for kind in left])
