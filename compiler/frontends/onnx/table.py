"""Every operator that the front end knows, by domain and name.

Families are listed here, not discovered.
"""

from __future__ import annotations

from tfc.compiler.frontends.onnx import (
    branches,
    create,
    einsum,
    elementwise,
    flow,
    forests,
    indexing,
    integer,
    learning,
    linalg,
    movement,
    ngrams,
    normalize,
    patches,
    randoms,
    recurrent,
    reduce,
    resize,
    sampling,
    sequences,
    signal,
    training,
    window,
)
from tfc.compiler.frontends.onnx.context import Rule

FAMILIES = (
    branches,
    elementwise,
    movement,
    reduce,
    window,
    normalize,
    resize,
    einsum,
    create,
    flow,
    recurrent,
    integer,
    indexing,
    patches,
    sampling,
    signal,
    sequences,
    randoms,
    linalg,
    ngrams,
)

RULES: dict[str, tuple[Rule, ...]] = {}
for family in FAMILIES:
    assert not RULES.keys() & family.RULES.keys(), "two families have a rule for one operator"
    RULES.update(family.RULES)

# Operators of the standard domain that have none, and why.
UNSUPPORTED = {
    "ImageDecoder": "image files are not decoded; give it pixels",
    **dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"),
        "strings are not supported, numbers are",
    ),
}

DOMAIN_RULES = {
    "": RULES,
    "ai.onnx": RULES,
    "ai.onnx.ml": {**learning.RULES, **forests.RULES},
    "ai.onnx.preview.training": training.RULES,
}
