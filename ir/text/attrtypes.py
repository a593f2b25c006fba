"""Builds attribute dataclasses from parsed values, checked against the fields' annotations."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tfc.ir.attrs import attr_text
from tfc.ir.dims import Dim

# Names that aliases (DimLike, AttrValue) mention before they are defined.
_FORWARD = {"Dim": Dim, "AttrValue": object}
Check = Callable[[Any], bool]


def make_attrs(cls: type, values: dict[str, Any]) -> Any:
    """Return `cls(**values)`. Raises ValueError where a field is unknown, missing or mistyped."""
    checks = _checks(cls)
    for name, value in values.items():
        if name not in checks:
            known = ", ".join(checks) or "none"
            raise ValueError(f"has no attribute {name!r} (attributes: {known})")
        check, wanted = checks[name]
        if not check(value):
            raise ValueError(f"attribute {name} is {attr_text(value)}, not {wanted}")
    try:
        return cls(**values)
    except TypeError:
        missing = ", ".join(name for name in _required(cls) if name not in values)
        raise ValueError(f"needs attribute {missing}") from None


@cache
def _required(cls: type) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in fields(cls)
        if field.default is MISSING and field.default_factory is MISSING
    )


@cache
def _checks(cls: type) -> dict[str, tuple[Check, str]]:
    hints = get_type_hints(cls, localns=_FORWARD)
    return {field.name: (_check_of(hints[field.name]), str(field.type)) for field in fields(cls)}


def _check_of(hint: Any) -> Check:
    """Return the test of one annotation. What it does not know, it lets pass."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        checks = [_check_of(arg) for arg in args]
        return lambda value: any(check(value) for check in checks)
    if origin is Literal:
        return lambda value: any(type(value) is type(arg) and value == arg for arg in args)
    if origin is tuple:
        return _check_of_tuple(args)
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if hint in (float, complex):
        kinds = (int, float) if hint is float else (int, float, complex)
        return lambda value: isinstance(value, kinds) and not isinstance(value, bool)
    if isinstance(hint, type):
        return lambda value: isinstance(value, hint)
    return lambda value: True


def _check_of_tuple(args: tuple[Any, ...]) -> Check:
    if len(args) == 2 and args[1] is Ellipsis:
        each = _check_of(args[0])
        return lambda value: isinstance(value, tuple) and all(each(item) for item in value)
    checks = [_check_of(arg) for arg in args]
    return lambda value: (
        isinstance(value, tuple)
        and len(value) == len(checks)
        and all(check(item) for check, item in zip(checks, value, strict=True))
    )
