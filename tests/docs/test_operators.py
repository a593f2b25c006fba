"""Every definition of every standard operator is computed, or it is said why not."""

from __future__ import annotations

import onnx

from tests.docs.operators import (
    MARK,
    NOTES,
    OLDEST,
    STANDARD,
    definitions,
    known_operators,
    newest,
    tables,
    way,
)
from tests.support import ROOT
from tfc.compiler.frontends.onnx.table import DOMAIN_RULES, RULES, UNSUPPORTED

PAGE = ROOT / "docs" / "operators.md"


def test_every_definition_of_the_standard_has_a_way_or_a_reason() -> None:
    missing = [
        (name, version)
        for name, versions in definitions(STANDARD).items()
        for version in versions
        if way(name, version) is None
    ]
    assert not missing


def test_every_operator_of_every_opset_has_a_way_or_a_reason() -> None:
    """What was defined in an opset of its own, and is taken back since, is computed there too."""
    names = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == STANDARD}
    assert len(names) > 190
    for name in sorted(names):
        for opset in range(OLDEST, newest() + 1):
            try:
                schema = onnx.defs.get_schema(name, opset)
            except onnx.defs.SchemaError:
                continue
            assert schema.deprecated or way(name, opset) is not None, (name, opset)


def test_reasons_and_notes_are_of_operators_that_exist() -> None:
    standard = definitions(STANDARD)
    assert UNSUPPORTED.keys() <= standard.keys()
    assert not UNSUPPORTED.keys() & RULES.keys()
    assert NOTES.keys() <= known_operators() | standard.keys()


def test_rules_are_of_operators_that_exist() -> None:
    for domain, rules in DOMAIN_RULES.items():
        named = "" if domain == "ai.onnx" else domain
        every = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == named}
        assert rules.keys() <= every, domain


def test_page_says_what_the_table_does(bless: bool) -> None:
    head, mark, rest = PAGE.read_text().partition(MARK)
    assert mark
    if bless:
        PAGE.write_text(head + mark + tables())
    else:
        assert rest == tables(), "run pytest tests/docs --bless and read what changed"
