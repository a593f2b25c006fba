"""`tfc.onnx_rule`: how a user's own ONNX operators become graph ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tfc.compiler.frontends.onnx.context import Context as OnnxContext

__all__ = ["OnnxContext", "any_rules", "onnx_rule"]

Build = TypeVar("Build", bound="Callable[[OnnxContext], Any]")

_registered: set[tuple[str, str, int]] = set()


def onnx_rule(
    domain: str, op: str, *, since: int = 1, ignores: Sequence[str] = ()
) -> Callable[[Build], Build]:
    """Return a decorator that makes a function the rule for an ONNX operator in this process.

    The function gets an `OnnxContext`, which has the node's operands and attributes and a builder
    of graph ops as `ctx.b`, and returns the node's result, or a list of its results in order, None
    for one that is not used. It is called while a model is imported, once for each node, and not
    when the model runs.
    domain, op: what nodes name; the standard domain is "". A rule of the user's comes before the
    one that tfc has, but a function in the model itself is taken first. since: the first version
    of the domain's operators that the rule is for. ignores: attributes that change no result; any
    other that the function does not read makes a node refused.
    While there are such rules, `tfc.compile` keeps no models on disk: what a rule depends on
    cannot be seen.
    """
    if not isinstance(domain, str) or not isinstance(op, str) or not op or since < 1:
        from tfc.ir.errors import UsageError

        raise UsageError(f"no operator: domain {domain!r}, op {op!r}, since {since!r}")
    domain = "" if domain == "ai.onnx" else domain

    def register(build: Build) -> Build:
        from tfc.compiler.frontends.onnx.custom import add_rule

        add_rule(domain, op, build, since, tuple(ignores))
        _registered.add((domain, op, since))
        return build

    return register


def any_rules() -> bool:
    """Whether this process has rules of the user's."""
    return bool(_registered)


def __getattr__(name: str) -> Any:
    """Import what a rule is given when it is asked for: an annotation alone needs no compiler."""
    if name == "OnnxContext":
        from tfc.compiler.frontends.onnx.context import Context

        return Context
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
