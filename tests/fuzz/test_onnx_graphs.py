"""Random ONNX graphs compute the same compiled, interpreted and by ONNX Runtime, if it is there.

TFC_FUZZ_GRAPHS is how many graphs, TFC_FUZZ_SEED makes them others. `python -m tests.fuzz.onnx_run`
checks many more, and goes on after a failure.
"""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st

from tests.fuzz.onnx_check import Tally, check, text
from tests.fuzz.onnx_graphs import Graph, Maker, Numbers, Picks, Unfit, build
from tests.fuzz.onnx_table import FAMILIES, MAKERS

GRAPHS = int(os.environ.get("TFC_FUZZ_GRAPHS", "300"))
SEED = os.environ.get("TFC_FUZZ_SEED")
DRAWS = 200

picks = st.integers(0, 999)
graphs: st.SearchStrategy[Numbers] = st.tuples(
    st.lists(picks, min_size=8, max_size=8),
    st.lists(
        st.tuples(st.integers(0, len(MAKERS) - 1), st.lists(picks, max_size=30)),
        min_size=1,
        max_size=9,
    ),
)


def seeded(test: Callable[..., Any]) -> Callable[..., Any]:
    return test if SEED is None else seed(int(SEED))(test)


@seeded
@settings(
    max_examples=GRAPHS,
    deadline=None,
    derandomize=SEED is None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(graphs)
def test_random_graphs_agree_in_every_way_of_running_them(numbers: Numbers) -> None:
    sample = build(numbers, MAKERS)
    if sample is None:
        return
    note(text(sample))
    note(f"python -m tests.fuzz.onnx_run --numbers '{json.dumps(numbers)}'")
    with warnings.catch_warnings():
        # Numpy's, of overflow and the like in references.
        warnings.simplefilter("ignore", RuntimeWarning)
        check(sample, Tally())


def _fits(name: str, maker: Maker) -> bool:
    """Whether the row makes a node for some draw, in some opset that has the operator."""
    dice = random.Random(name)
    for _ in range(DRAWS):
        graph = Graph(dice.choice((7, 9, 13, 18, 21, 24, 26)), {"N": 3, "M": 4})
        try:
            maker(graph, Picks([dice.randrange(1000) for _ in range(40)]))
        except Unfit:
            continue
        return bool(graph.nodes)
    return False


@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_every_row_of_the_tables_makes_a_node(family: int) -> None:
    table, _ = FAMILIES[family]
    assert [name for name, maker in table.items() if not _fits(name, maker)] == []
