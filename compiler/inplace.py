"""Takes a user's word for it that outputs may be made in the memory of inputs.

What is asked for is a mapping from inputs' names to outputs' names, or where the two differ along
one axis, to the name and how much the memory has room for along it. A name of an input may hold
one `*`, and stands for all inputs like it; the output's `*` is then what that stood for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from tfc.ir.core import Function, Module
from tfc.ir.dims import DimLike, substitute, symbol, symbols_of
from tfc.ir.errors import UsageError
from tfc.ir.inplace import Shared, mismatch, share
from tfc.ir.types import TensorType

Wanted: TypeAlias = "str | tuple[str, int]"
InPlace: TypeAlias = "Mapping[str, Wanted] | None"


def make_in_place(module: Module, wanted: Mapping[str, Wanted]) -> None:
    """Have outputs of a graph made in the memory of inputs. Raises UsageError."""
    if module.level != "graph":
        raise UsageError("in_place: the program is at the loop level, where memory is decided")
    main = module.main
    inputs = {arg.name: position for position, arg in enumerate(main.args)}
    outputs = {name: position for position, name in enumerate(main.output_names)}
    entries: list[Shared] = []
    for input, output, room in _pairs(wanted, list(inputs)):
        if output not in outputs:
            raise UsageError(f"in_place: no output {output!r} (outputs: {', '.join(outputs)})")
        for one in entries:
            if one.input == inputs[input] or one.output == outputs[output]:
                raise UsageError(f"in_place: {input!r} or {output!r} twice")
        entries.append(_shared(main, inputs[input], outputs[output], room))
    share(main, entries)


def _pairs(
    wanted: Mapping[str, Wanted], inputs: list[str]
) -> Iterator[tuple[str, str, int | None]]:
    """Give the names of input and output, and the room, of each pair."""
    for pattern, given in wanted.items():
        output, room = (given, None) if isinstance(given, str) else given
        if room is not None and (type(room) is not int or room < 1):
            raise UsageError(f"in_place: {pattern!r}: {room!r} is no size")
        if pattern.count("*") > 1 or output.count("*") != pattern.count("*"):
            raise UsageError(f"in_place: {pattern!r} and {output!r} need one * each, or none")
        head, _, tail = pattern.partition("*")
        like = re.compile(re.escape(head) + ("(.*)" + re.escape(tail)) * ("*" in pattern))
        found = [(name, match) for name in inputs if (match := like.fullmatch(name))]
        if not found:
            raise UsageError(f"in_place: no input {pattern!r} (inputs: {', '.join(inputs)})")
        for name, match in found:
            yield name, output.replace("*", match[1]) if "*" in pattern else output, room


def _shared(main: Function, input: int, output: int, room: int | None) -> Shared:
    kept, made = main.args[input], main.outputs[output]
    before, after = kept.type, made.type
    assert isinstance(before, TensorType)
    assert isinstance(after, TensorType)
    name = main.output_names[output]
    what = f"in_place: input {kept.name} ({before}) and output {name} ({after})"
    axes = [] if before.rank != after.rank else [
        axis for axis, (a, b) in enumerate(zip(before.shape, after.shape, strict=True)) if a != b
    ]  # fmt: skip
    if axes and room is None:
        raise UsageError(f"{what} differ along axis {axes[0]}: say how much there is room for")
    if not axes and room is not None:
        raise UsageError(f"{what} have the same dims: room is not needed")
    one = Shared(input, output, axes[0], room or 0) if axes else Shared(input, output)
    fault = mismatch(one, before, after)
    if fault:
        raise UsageError(f"{what}: {fault}")
    for type in (before, after) if axes else ():
        _bound(main, type.shape[one.axis], one.room, what)
    return one


def _bound(main: Function, dim: DimLike, room: int, what: str) -> None:
    """Have a dim be at most `room`, by the bound of the symbol in it."""
    names = symbols_of(dim)
    if not names:
        return
    name = next(iter(names))
    least = substitute(dim, {name: 0})
    if not isinstance(least, int) or dim != symbol(name) + least:
        raise UsageError(f"{what}: {dim} is no symbol plus a number, and cannot be bounded")
    info = main.symbols[name]
    most = min(room - least, room if info.hi is None else info.hi)
    if most < info.lo:
        raise UsageError(f"{what}: room for {room} is too little")
    hint = None if info.hint is None else min(info.hint, most)
    main.symbols[name] = replace(info, hi=most, hint=hint)
