"""Einsum: every form of equation, as numpy has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.frontends.support import Array, floats, ints, make_model, run, value_info
from tfc.compiler.frontends.onnx import load
from tfc.ir.errors import ModelError, TfcError


def einsum(equation: str, *arrays: Array) -> Array:
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    node = helper.make_node("Einsum", list(feeds), ["y"], equation=equation, name="sums")
    inputs = [value_info(name, array) for name, array in feeds.items()]
    (found,) = run(make_model([node], inputs, ["y"]), feeds)
    return found


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ii->i", [(3, 3)]),
        ("ii", [(4, 4)]),
        ("iii->i", [(3, 3, 3)]),
        ("ijij->ji", [(2, 3, 2, 3)]),
        ("...ii->...i", [(2, 3, 3)]),
        ("i...i", [(3, 2, 3)]),
        ("ii,ij->j", [(3, 3), (3, 2)]),
        ("ij,jk", [(2, 1), (3, 4)]),
        ("...i,...i->...", [(2, 3), (3,)]),
        ("...ij,...jk", [(5, 1, 2, 3), (4, 3, 2)]),
        ("a...b,b...->...a", [(2, 5, 3), (3, 1)]),
        ("i,j,k->kji", [(2,), (3,), (4,)]),
        ("bn,anm,bm->ba", [(2, 3), (4, 3, 5), (2, 5)]),
        (" i j , j k -> i k ", [(2, 3), (3, 4)]),
        ("Ab,bA->A", [(2, 3), (3, 2)]),
        ("->", [()]),
        ("...,...", [(), (2, 3)]),
        ("i,i->", [(0,), (0,)]),
        ("ii,i->i", [(3, 3), (1,)]),
        ("ba", [(2, 3)]),
    ],
)
def test_equation_computes_what_numpy_does(equation: str, shapes: Any) -> None:
    arrays = [floats(*shape, seed=i) for i, shape in enumerate(shapes)]
    expected = np.einsum(equation, *arrays)
    found = einsum(equation, *arrays)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@st.composite
def equations(draw: Any) -> tuple[str, list[tuple[int, ...]]]:
    """An equation over up to three operands, and shapes that fit it."""
    letters = "abcd"
    sizes = {letter: draw(st.integers(1, 3)) for letter in letters}
    dots = draw(st.lists(st.integers(1, 3), max_size=2))
    terms, shapes = [], []
    for _ in range(draw(st.integers(1, 3))):
        term = draw(st.lists(st.sampled_from(letters), max_size=3))
        # Axes with one label in a term must have one size.
        ones = {c for c in term if draw(st.booleans()) and draw(st.booleans())}
        shape = [1 if c in ones else sizes[c] for c in term]
        text = "".join(term)
        if dots and draw(st.booleans()):
            at = draw(st.integers(0, len(term)))
            taken = draw(st.integers(0, len(dots)))
            own = [1 if draw(st.booleans()) else dim for dim in dots[len(dots) - taken :]]
            text = f"{text[:at]}...{text[at:]}"
            shape[at:at] = own
        terms.append(text)
        shapes.append(tuple(shape))
    equation = ",".join(terms)
    if draw(st.booleans()):
        used = sorted(set(equation) & set(letters))
        kept = (
            draw(st.permutations(draw(st.lists(st.sampled_from(used), unique=True))))
            if used
            else []
        )
        at = draw(st.integers(0, len(kept)))
        middle = "..." if "..." in equation else ""
        equation += f"->{''.join(kept[:at])}{middle}{''.join(kept[at:])}"
    return equation, shapes


@settings(max_examples=200, deadline=None)
@given(equations())
def test_random_equations_compute_what_numpy_does(drawn: Any) -> None:
    equation, shapes = drawn
    arrays = [np.rint(floats(*shape, seed=i) * 4).reshape(shape) for i, shape in enumerate(shapes)]
    expected = np.einsum(equation, *arrays)
    found = einsum(equation, *arrays)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_integers_are_summed_exactly() -> None:
    x = np.array([[2**40, 1], [3, 5]])
    np.testing.assert_array_equal(einsum("ij,jk", x, x), x @ x)


def test_symbolic_sizes_have_diagonals() -> None:
    node = helper.make_node("Einsum", ["x"], ["y"], equation="bii->bi")
    x = floats(2, 3, 3)
    model = make_model([node], [value_info("x", x, ["b", "n", "m"])], ["y"])
    (found,) = run(model, {"x": x})
    np.testing.assert_array_equal(found, np.einsum("bii->bi", x))
    assert set(load(model).main.symbols) in ({"b", "n"}, {"b", "m"})


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ii->i", [(1, 3)]),
        ("ij->i", [(3,)]),
        ("i,i", [(2,), (3,)]),
        ("i", [(2,), (2,)]),
        ("i->ii", [(2,)]),
        ("i->j", [(2,)]),
        ("...i->i", [(2, 3)]),
        ("i.->i", [(2,)]),
        ("1->1", [(2,)]),
    ],
)
def test_equations_that_numpy_refuses_are_malformed(equation: str, shapes: Any) -> None:
    arrays = [floats(*shape) for shape in shapes]
    with pytest.raises((ValueError, TypeError)):
        np.einsum(equation, *arrays)
    with pytest.raises(ModelError, match="node 'sums'"):
        einsum(equation, *arrays)


@settings(max_examples=100, deadline=None)
@given(st.text("ab.,-> 1", max_size=9))
def test_any_text_is_computed_or_refused(equation: str) -> None:
    arrays = [ints(1, 2)] * (equation.partition("->")[0].count(",") + 1)
    try:
        found = einsum(equation, *arrays)
    except TfcError:
        return
    np.testing.assert_array_equal(found, np.einsum(equation, *arrays))
