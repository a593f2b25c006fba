"""Verifies modules of either level: `verify(module)` runs after every pass.

Here are the graph level's rules; those of the loop level are in `ir.loop.verify`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

from tfc.ir.core import Function, Module, Op, Value
from tfc.ir.inplace import IN_PLACE, faults
from tfc.ir.loop.verify import verify_loop
from tfc.ir.opdef import OPS, OpDef, TypeRefusal
from tfc.ir.structure import Checker
from tfc.ir.types import Encoding, TensorType, Type

# The symbol that the loop level has of its own: the number of workers.
RESERVED_SYMBOL = "threads"


class Seen(dict[Op, tuple[Sequence[Type], object, Sequence[Type]]]):
    """What was found right: by op its operands' types, its attributes, its results' types."""


def verify(module: Module, after: str = "", seen: Seen | None = None) -> None:
    """Check every invariant. Raises VerifyError; `after` names the pass that ran last.

    seen: of the same module before; ops that are as they were need no inference again.
    """
    if module.level == "loop":
        verify_loop(module, after)
        return
    checker = GraphChecker(module, after, Seen() if seen is None else seen)
    if module.level != "graph":
        checker.fail(f"unknown level {module.level!r}")
    if "main" not in module.functions:
        checker.fail("the module has no @main")
    for name, function in module.functions.items():
        if function.name != name:
            checker.fail(f"@{function.name} is listed as @{name}")
        checker.graph_function(function)


class GraphChecker(Checker):
    """The rules of the graph level."""

    def __init__(self, module: Module, after: str, seen: Seen) -> None:
        super().__init__(module, after)
        self._seen = seen

    def graph_function(self, function: Function) -> None:
        name = function.name
        if function.kind != "func":
            self.fail(f"@{name} is a {function.kind}, not a func")
        if RESERVED_SYMBOL in function.symbols:
            self.fail(f"@{name}: {RESERVED_SYMBOL!r} is not free to be a shape symbol")
        names = [arg.name for arg in function.args]
        if len(set(names)) != len(names) or "" in names:
            self.fail(f"@{name}: the inputs' names {names} are not distinct and non-empty")
        self.function(function)
        outputs = function.outputs
        if len(set(function.output_names)) != len(outputs) or "" in function.output_names:
            shown = list(function.output_names)
            self.fail(f"@{name}: {len(outputs)} outputs need distinct names, not {shown}")
        for value in function.args:
            encoding = value.encoding
            if encoding and not _in_order(encoding.perm):
                self.fail(f"{value!r} is an input, but not row-major")
        self._in_place(function)

    def _in_place(self, function: Function) -> None:
        types = [
            [value.type for value in values if isinstance(value.type, TensorType)]
            for values in (function.args, function.outputs)
        ]
        fault = faults(function.attrs.get(IN_PLACE, ()), *types)
        if fault:
            self.fail(f"@{function.name}: {fault}")

    def isolated(self, op: Op) -> bool:
        return op.defn is OPS.get("fused")

    def check_op(self, op: Op) -> None:
        for value in op.results:
            if value.encoding is not None:
                self._encoding(value, value.encoding, op)
        given = [value.type for value in op.operands]
        found = [value.type for value in op.results]
        if self._is_as_seen(op, given, found):
            return
        self._check(op, given, found)
        if not op.regions:
            self._seen[op] = given, op.attrs, found

    def _is_as_seen(self, op: Op, given: Sequence[Type], found: Sequence[Type]) -> bool:
        """Whether types and attributes are the very objects that were right before."""
        if op not in self._seen:
            return False
        operands, attrs, results = self._seen[op]
        return attrs is op.attrs and _same(operands, given) and _same(results, found)

    def _check(self, op: Op, given: Sequence[Type], found: Sequence[Type]) -> None:
        defn = op.defn
        if OPS.get(defn.name) is not defn or not isinstance(defn, OpDef):
            self.fail("is not an op of the graph level", op)
        types = [type for type in given if isinstance(type, TensorType)]
        if len(types) != len(given):
            self.fail("takes tensors only", op)
        if len(op.regions) != defn.regions:
            self.fail(f"has {len(op.regions)} regions, not {defn.regions}", op)
        if not isinstance(op.attrs, defn.attrs):
            self.fail(f"has attributes {op.attrs!r}", op)
        if self.isolated(op):
            self._fused(op)
            return
        wanted = self._inferred(op, defn, types)
        if tuple(found) != wanted:
            self.fail(f"has results {_list(found)}, inference says {_list(wanted)}", op)

    def _inferred(self, op: Op, defn: OpDef, types: list[TensorType]) -> tuple[TensorType, ...]:
        try:
            return defn.check(types, op.attrs, op.regions)
        except TypeRefusal as err:
            self.fail(str(err), op)
        except Exception as err:
            # Hand-written text reaches this: attributes that no builder would make.
            self.fail(f"inference failed: {type(err).__name__}: {err}", op)

    def _fused(self, op: Op) -> None:
        (region,) = op.regions
        given = [value.type for value in op.operands]
        taken = [arg.type for arg in region.args]
        if given != taken:
            self.fail(f"operands {_list(given)}, but arguments {_list(taken)}", op)
        handed = [value.type for value in region.terminator.operands]
        results = [value.type for value in op.results]
        if handed != results:
            self.fail(f"results {_list(results)}, but the region yields {_list(handed)}", op)

    def _encoding(self, value: Value, encoding: Encoding, op: Op) -> None:
        assert isinstance(value.type, TensorType)
        rank = value.type.rank
        if sorted(encoding.perm) != list(range(rank)):
            self.fail(f"perm {list(encoding.perm)} does not order {rank} axes", op)


def _same(before: Sequence[Type], now: Sequence[Type]) -> bool:
    return len(before) == len(now) and all(map(operator.is_, before, now))


def _in_order(perm: tuple[int, ...]) -> bool:
    return perm == tuple(range(len(perm)))


def _list(types: Sequence[Type]) -> str:
    return f"({', '.join(map(str, types))})"
