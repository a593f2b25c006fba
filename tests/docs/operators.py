"""The tables of ONNX operators, from the front end's and from onnx's schemas. Not test cases."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from tests.frontends.test_onnx_dtypes import GAPS
from tfc.compiler.frontends.onnx.functions import schema_has_body
from tfc.compiler.frontends.onnx.table import DOMAIN_RULES, RULES, UNSUPPORTED

STANDARD = ""
OLDEST = 7
DOMAINS = ("ai.onnx.ml", "ai.onnx.preview.training")

NOTES = {
    "Attention": "values of the element type of queries and keys",
    "BatchNormalization": "training mode from opset 14 on",
    "Bernoulli": "see [numerics](numerics.md#random-numbers)",
    "Constant": "of numbers",
    "Dropout": "before opset 12 as in inference",
    "GridSample": "padding_mode border moves places to the border, not their neighbours, as does "
    "onnx's reference",
    "If": "a condition that is known selects its branch; else both give the same element types "
    "and ranks",
    "LabelEncoder": "of numbers",
    "Loop": "values that change their shapes, or sequences that grow, need a known number of "
    "rounds, up to 256; stacks need a limit that is a number, a dim or an input",
    "Multinomial": "see [numerics](numerics.md#random-numbers)",
    "NonMaxSuppression": "thresholds are constants",
    "OneHotEncoder": "of integers, unknown ones as zeros",
    "LinearRegressor": "without post_transform",
    "Range": "floats between constants",
    "RandomNormal": "see [numerics](numerics.md#random-numbers)",
    "RandomNormalLike": "see [numerics](numerics.md#random-numbers)",
    "RandomUniform": "see [numerics](numerics.md#random-numbers)",
    "RandomUniformLike": "see [numerics](numerics.md#random-numbers)",
    "RoiAlign": "sampling_ratio of 1 or more",
    "SequenceAt": "a position that the data decides picks from tensors of one shape",
    "TfIdfVectorizer": "of integers",
    "TreeEnsemble": "MIN and MAX of one target; post_transform NONE, SOFTMAX or LOGISTIC",
    "TreeEnsembleRegressor": "MIN and MAX of one target; post_transform NONE, SOFTMAX or LOGISTIC",
    "Gradient": "at the graph's own values, by inputs and values in between",
}

MARK = "<!-- From here on made by `pytest tests/docs --bless`, from the front end's table. -->\n"


def newest() -> int:
    return int(onnx.defs.onnx_opset_version())


def definitions(domain: str) -> dict[str, list[int]]:
    """The versions at which operators of a domain changed, without those that were taken back."""
    found: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == domain and not schema.deprecated:
            found.setdefault(schema.name, []).append(schema.since_version)
    return {name: sorted(versions) for name, versions in sorted(found.items())}


def way(name: str, version: int, domain: str = STANDARD) -> str | None:
    """How a definition is computed; None where neither that nor a reason is known."""
    rules = DOMAIN_RULES[domain].get(name, ())
    if any(rule.since <= version for rule in rules):
        return "rule"
    if domain == STANDARD and schema_has_body(name, version):
        return "by definition"
    return f"no: {UNSUPPORTED[name]}" if domain == STANDARD and name in UNSUPPORTED else None


def tables() -> str:
    """What docs/operators.md says behind `MARK`."""
    text = f"\nOpsets {OLDEST} to {newest()}.\n"
    rows = []
    for name, versions in definitions(STANDARD).items():
        ways = list(dict.fromkeys(way(name, version) or "no" for version in versions))
        rows.append((name, _list(versions), ", ".join(ways), _note(name)))
    text += _table("Standard domain", ("operator", "definitions", "computed", "notes"), rows)
    for domain in DOMAINS:
        known = definitions(domain)
        rows = [
            (name, _list(versions), NOTES.get(name, ""))
            for name, versions in known.items()
            if way(name, versions[-1], domain)
        ]
        text += _table(f"Domain {domain}", ("operator", "definitions", "notes"), rows)
        missing = [name for name, versions in known.items() if not way(name, versions[-1], domain)]
        if missing:
            text += f"\nNot supported: {', '.join(missing)}.\n"
    return text


def _note(name: str) -> str:
    """The limits of an operator: those of element types are in the list that their tests go by."""
    if name in NOTES:
        return NOTES[name]
    gaps = [f"not of {types}: {why}" for (op, _), (types, why) in GAPS.items() if op == name]
    return "; ".join(gaps)


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cells)} |".replace("  ", " ") for cells in (head, *rows)]
    lines.insert(1, f"|{'---|' * len(head)}")
    return f"\n## {title}\n\n" + "\n".join(lines) + "\n"


def known_operators() -> set[str]:
    """Every operator that has a rule, in any domain."""
    return set(RULES).union(*(DOMAIN_RULES[domain] for domain in DOMAINS))
