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
from functools import cache
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st

from tests.fuzz.onnx_check import Tally, check, text
from tests.fuzz.onnx_control import SEQUENCES
from tests.fuzz.onnx_graphs import LEARNING, Graph, Maker, Numbers, Picks, Unfit, build
from tests.fuzz.onnx_open import OPEN
from tests.fuzz.onnx_table import FAMILIES, MAKERS
from tfc.compiler.frontends.onnx.table import DOMAIN_RULES, RULES

GRAPHS = int(os.environ.get("TFC_FUZZ_GRAPHS", "300"))
SEED = os.environ.get("TFC_FUZZ_SEED")
DRAWS = 200

picks = st.integers(0, 999)
graphs: st.SearchStrategy[Numbers] = st.tuples(
    st.lists(picks, min_size=8, max_size=8),
    st.lists(
        st.tuples(st.integers(0, len(MAKERS) - 1), st.lists(picks, max_size=40)),
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


def _made(name: str, maker: Maker, whole: bool) -> set[str]:
    """The operators that a row has made: in the first draw that fits, or in all draws."""
    dice = random.Random(name)
    found: set[str] = set()
    for _ in range(DRAWS):
        graph = Graph(dice.choice((7, 9, 13, 18, 21, 24, 26, 28)), {"N": 3, "M": 4})
        graph.learning = dice.choice((1, 3, 4))
        try:
            maker(graph, Picks([dice.randrange(1000) for _ in range(40)]))
        except Unfit:
            continue
        found |= {f"{node.domain}.{node.op_type}".lstrip(".") for node in graph.nodes}
        if found and not whole:
            break
    return found


@cache
def _operators(family: int) -> dict[str, set[str]]:
    table, _ = FAMILIES[family]
    whole = table in (SEQUENCES, OPEN)
    return {name: _made(name, maker, whole) for name, maker in table.items()}


@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_every_row_of_the_tables_makes_a_node(family: int) -> None:
    assert [name for name, operators in _operators(family).items() if not operators] == []


LEFT_OUT = {f"{LEARNING}.TreeEnsemble": "as TreeEnsembleRegressor, by the same rule"}
"""Operators that no row makes, and why."""


def test_every_operator_that_can_be_imported_is_in_the_tables() -> None:
    known = {f"{LEARNING}.{name}" for name in DOMAIN_RULES[LEARNING]} | RULES.keys()
    for schema in onnx.defs.get_all_schemas():
        by_body = schema.has_function or schema.has_context_dependent_function
        if not schema.domain and by_body and not schema.deprecated:
            known.add(schema.name)
    made = {
        op for family in range(len(FAMILIES)) for ops in _operators(family).values() for op in ops
    }
    assert known - made == LEFT_OUT.keys()
