"""Which rule builds a node of an ONNX model, or why none does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfc.compiler.frontends.onnx.context import Rule
from tfc.compiler.frontends.onnx.custom import custom_rule
from tfc.compiler.frontends.onnx.functions import has_body
from tfc.compiler.frontends.onnx.reader import DOMAINS
from tfc.compiler.frontends.onnx.table import DOMAIN_RULES, UNSUPPORTED

_HOW_TO_ADD = "tfc.onnx_rule adds one (docs/recipes/import-your-operator.md)"


@dataclass(frozen=True)
class Versions:
    """The versions of each domain's operators that nodes are written for.

    opset: that of the standard domain; function bodies have their own.
    """

    opset: int
    others: Mapping[str, int]

    def of(self, domain: str) -> int:
        return self.opset if domain in DOMAINS else self.others.get(domain, 1)

    def rule(self, node: Any) -> Rule | None:
        """Return the newest rule for a node, a user's own first."""
        version = self.of(node.domain)
        own = custom_rule("" if node.domain in DOMAINS else node.domain, node.op_type, version)
        if own is not None:
            return own
        rules = DOMAIN_RULES.get(node.domain, {}).get(node.op_type, ())
        fitting = [rule for rule in rules if rule.since <= version]
        return max(fitting, key=lambda rule: rule.since, default=None)

    def why_unknown(self, node: Any) -> str | None:
        """Return why nothing builds a node, or None where a rule or a function body does."""
        if self.rule(node) is not None or has_body(node, self.opset):
            return None
        if node.domain not in DOMAINS:
            return f"no rule for operator {node.op_type} of domain {node.domain!r}; {_HOW_TO_ADD}"
        if node.op_type in UNSUPPORTED:
            return f"no rule for operator {node.op_type}: {UNSUPPORTED[node.op_type]}"
        return f"no rule for operator {node.op_type} of opset {self.opset}; {_HOW_TO_ADD}"
