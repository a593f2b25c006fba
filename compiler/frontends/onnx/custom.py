"""Rules that users add for operators: `tfc.onnx_rule`. They come before the front end's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfc.compiler.frontends.onnx.context import Context, Equated, Missing, Results, Rule
from tfc.compiler.frontends.onnx.nested import OptionalItem, TensorSequence
from tfc.ir.core import Value
from tfc.ir.dims import UndecidableError
from tfc.ir.errors import TfcError, UsageError
from tfc.ir.opdef import TypeRefusal

# By domain and operator; the standard domain is "".
CUSTOM: dict[tuple[str, str], dict[int, Rule]] = {}

_OURS = (TfcError, TypeRefusal, UndecidableError, Missing, Equated)


def add_rule(
    domain: str, op: str, build: Callable[[Context], Any], since: int, ignores: tuple[str, ...]
) -> None:
    """Add a rule; it replaces one of the same operator and version."""

    def checked(ctx: Context) -> Results:
        name = f"{domain}.{op}" if domain else op
        try:
            found = build(ctx)
        except _OURS:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"the rule for {name} failed: {reason}") from error
        results = found if isinstance(found, (list, tuple)) else [found]
        kinds = (Value, TensorSequence, OptionalItem)
        if len(results) > len(ctx.node.output) or not all(
            isinstance(x, kinds) or (x is None and results is found) for x in results
        ):
            raise UsageError(
                f"the rule for {name} returned {found!r}; wanted are values of the graph, one for "
                f"each of {len(ctx.node.output)} results"
            )
        return results

    CUSTOM.setdefault((domain, op), {})[since] = Rule(checked, since, ignores)


def custom_rule(domain: str, op: str, version: int) -> Rule | None:
    """Return the newest rule for a version of a domain's operators."""
    rules = CUSTOM.get((domain, op), {})
    since = max((n for n in rules if n <= version), default=None)
    return None if since is None else rules[since]
