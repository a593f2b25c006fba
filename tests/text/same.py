"""Structural equality of modules: what a round trip through text must keep. Not test cases."""

from __future__ import annotations

from tfc.ir.core import Block, Function, Module, Value


def assert_same(a: Module, b: Module) -> None:
    """Fail where two modules differ in anything but the names of intermediate values."""
    assert (a.level, list(a.functions), a.data) == (b.level, list(b.functions), b.data)
    for one, other in zip(a.functions.values(), b.functions.values(), strict=True):
        _same_function(one, other)


def _same_function(a: Function, b: Function) -> None:
    assert (a.name, a.kind, a.symbols, a.output_names) == (
        b.name,
        b.kind,
        b.symbols,
        b.output_names,
    )
    assert list(a.symbols) == list(b.symbols)
    assert a.attrs == b.attrs
    assert [arg.name for arg in a.args] == [arg.name for arg in b.args]
    _same_block(a.block, b.block, {})


def _same_block(a: Block, b: Block, seen: dict[Value, Value]) -> None:
    _same_values(a.args, b.args, seen)
    for x, y in zip(a, b, strict=True):
        assert x.defn is y.defn
        assert [seen[value] for value in x.operands] == list(y.operands)
        # By repr, which tells 1 from 1.0 and -0.0 from 0.0, and for which NaN equals itself.
        assert repr(x.attrs) == repr(y.attrs)
        for one, other in zip(x.regions, y.regions, strict=True):
            _same_block(one, other, seen)
        _same_values(x.results, y.results, seen)


def _same_values(a: object, b: object, seen: dict[Value, Value]) -> None:
    assert isinstance(a, (list, tuple))
    assert isinstance(b, (list, tuple))
    for x, y in zip(a, b, strict=True):
        assert (x.type, x.encoding) == (y.type, y.encoding)
        seen[x] = y
