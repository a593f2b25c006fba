"""The two kinds of rewrites, rules (data) and functions, and the greedy driver that applies them.

A rule is `Rule("mul-one", x * 1, x)` over pattern variables; a function is
`@rewrite("conv") def name(op, rw) -> bool`. The tables of both are in `compiler.rules`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias, Union

from tfc.compiler.evaluate import constant_array, evaluate, is_constant
from tfc.compiler.passman import PassContext
from tfc.ir import arrays
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.errors import CompileError
from tfc.ir.location import Location
from tfc.ir.opdef import OPS, OpDef, Trait
from tfc.ir.types import TensorType


class Fp(Enum):
    """What a rewrite may do to floats."""

    EXACT = "exact"  # the same bits, whatever the operands; NaN payloads aside
    REASSOCIATING = "reassociating"  # rounds or overflows elsewhere, or gives a zero the other sign
    FAST = "fast"  # changes NaN, infinities or the domain: only when asked for


# -- patterns -----------------------------------------------------------------------------------


class _Operators:
    """Arithmetic on patterns makes patterns."""

    def __add__(self, other: Operand) -> Apply:
        return apply("add", self, other)

    def __sub__(self, other: Operand) -> Apply:
        return apply("sub", self, other)

    def __mul__(self, other: Operand) -> Apply:
        return apply("mul", self, other)

    def __truediv__(self, other: Operand) -> Apply:
        return apply("div", self, other)

    def __pow__(self, other: Operand) -> Apply:
        return apply("pow", self, other)

    def __neg__(self) -> Apply:
        return apply("neg", self)


@dataclass(frozen=True)
class Var(_Operators):
    """Any value; the same one wherever the name stands."""

    name: str


@dataclass(frozen=True)
class Const(Var):
    """Any value that a `constant` op defines."""


@dataclass(frozen=True)
class Literal(_Operators):
    """A constant each element of which is this number; 0.0 is not -0.0."""

    value: float


@dataclass(frozen=True)
class Apply(_Operators):
    """An op without attributes on patterns."""

    name: str
    args: tuple[Pattern, ...]


Pattern: TypeAlias = Var | Literal | Apply
Operand: TypeAlias = Union[Var, Literal, Apply, int, float, "_Operators"]
Match: TypeAlias = dict[str, Value]


def apply(name: str, *args: Operand) -> Apply:
    """The pattern of op `name` on `args`; numbers become literals."""
    return Apply(name, tuple(_pattern(arg) for arg in args))


def _pattern(arg: Operand) -> Pattern:
    if isinstance(arg, (Var, Literal, Apply)):
        return arg
    if isinstance(arg, (int, float)):
        return Literal(float(arg))
    raise TypeError(f"no pattern: {arg!r}")


@dataclass(frozen=True)
class Rule:
    """`pattern` becomes `replacement`, which is never worse, where the guard holds.

    fp is the class for floats; on integers and bools every rule is exact. kinds: the kinds of
    element type (of the root's first operand) that the rule is for.
    """

    name: str
    pattern: Apply
    replacement: Pattern
    fp: Fp = Fp.EXACT
    guard: Callable[[Match], bool] | None = None
    kinds: str = "fiub"


def variables(pattern: Pattern) -> list[Var]:
    """The variables of a pattern, in order of their first use."""
    found: dict[Var, None] = {}
    for node in nodes(pattern):
        if isinstance(node, Var):
            found[node] = None
    return list(found)


def nodes(pattern: Pattern) -> Iterator[Pattern]:
    """Yield a pattern and what is in it, from the root."""
    yield pattern
    if isinstance(pattern, Apply):
        for arg in pattern.args:
            yield from nodes(arg)


def uniform_value(value: Value) -> float | complex | None:
    """The number that every element of the value is known to be, or None.

    Looks at constants of few elements only: those whose elements stand in the text.
    """
    if not is_constant(value):
        return None
    assert value.op is not None
    elements = getattr(value.op.attrs.value, "values", ())
    if not elements or any(repr(e) != repr(elements[0]) for e in elements[1:]):
        return None
    return elements[0]  # type: ignore[no-any-return]


def match(pattern: Pattern, value: Value, found: Match) -> bool:
    """Match `value`, adding to `found` what the variables stand for."""
    if isinstance(pattern, Literal):
        number = uniform_value(value)
        return isinstance(number, (int, float)) and _same_number(number, pattern.value)
    if isinstance(pattern, Apply):
        op = value.op
        if op is None or op.name != pattern.name or len(op.operands) != len(pattern.args):
            return False
        return all(match(p, v, found) for p, v in zip(pattern.args, op.operands, strict=True))
    if isinstance(pattern, Const) and not is_constant(value):
        return False
    return found.setdefault(pattern.name, value) is value


def _same_number(number: float, wanted: float) -> bool:
    """Equal, zeros only with the same sign."""
    return number == wanted and math.copysign(1, number) == math.copysign(1, wanted)


def matched_ops(pattern: Pattern, value: Value) -> Iterator[Op]:
    """The ops that a pattern names where it has matched `value`, constants aside."""
    if isinstance(pattern, Apply):
        assert value.op is not None
        yield value.op
        for arg, operand in zip(pattern.args, value.op.operands, strict=True):
            yield from matched_ops(arg, operand)


def pattern_type(pattern: Pattern, found: Match, like: TensorType) -> TensorType:
    """The type of what `build` would make. Raises TypeRefusal."""
    if isinstance(pattern, Var):
        return tensor_type(found[pattern.name])
    if isinstance(pattern, Literal):
        return TensorType(like.dtype, ())
    defn = OPS[pattern.name]
    (type,) = defn.check([pattern_type(arg, found, like) for arg in pattern.args], defn.attrs())
    return type


def build(pattern: Pattern, found: Match, b: GraphBuilder, like: TensorType) -> Value:
    """Build what a pattern says; literals get the element type of `like`.

    What depends on constants alone becomes a constant.
    """
    if isinstance(pattern, Var):
        return found[pattern.name]
    if isinstance(pattern, Literal):
        return b.constant(pattern.value, like.dtype)
    args = [build(arg, found, b, like) for arg in pattern.args]
    if not all(is_constant(arg) for arg in args):
        return b.op(pattern.name, *args).result
    defn = OPS[pattern.name]
    types = defn.check([tensor_type(arg) for arg in args], defn.attrs())
    operands = [constant_array(arg, b.constants) for arg in args]
    (array,) = evaluate(defn, defn.attrs(), types, operands)
    result: Value = b.op(
        "constant", **arrays.constant_attrs(array, b.constants, types[0].dtype)
    ).result
    return result


# -- functions ----------------------------------------------------------------------------------


RewriteFunction: TypeAlias = Callable[[Op, "Rewriter"], bool]


@dataclass(frozen=True)
class Rewrite:
    """A rewrite function and the ops that it looks at."""

    name: str
    ops: tuple[str, ...]
    fn: RewriteFunction
    fp: Fp = Fp.EXACT


def rewrite(
    *ops: str, fp: Fp = Fp.EXACT, trait: Trait | None = None
) -> Callable[[RewriteFunction], Rewrite]:
    """Make a rewrite of a function; its name is the function's, in kebab case.

    ops: names of the ops that it is called with; trait: all ops that have it.
    """

    def wrap(fn: RewriteFunction) -> Rewrite:
        names = ops
        if trait is not None:
            names += tuple(name for name, defn in OPS.items() if trait in defn.traits)
        return Rewrite(fn.__name__.strip("_").replace("_", "-"), names, fn, fp)

    return wrap


class _Recorder(GraphBuilder):
    """A builder that tells the rewriter of every op."""

    def __init__(self, rewriter: Rewriter, before: Op, loc: Location) -> None:
        assert before.block is not None
        super().__init__(before.block, rewriter.constants, before, loc)
        self._rewriter = rewriter

    def emit(
        self, defn: OpDef, operands: Sequence[Value], attrs: Any, regions: Sequence[Block] = ()
    ) -> Op:
        op = super().emit(defn, operands, attrs, regions)
        self._rewriter.added(op)
        return op


DEPTH = 3
"""How many ops deep rewrites look: the root, what defines its operands, what defines theirs."""


class Rewriter:
    """The only way for rewrites to change the IR; keeps the driver's worklist true."""

    def __init__(self, constants: ConstantStore) -> None:
        self.constants = constants
        self.changes = 0
        self._queue: deque[Op] = deque()
        self._queued: set[Op] = set()

    def builder(self, op: Op, *merged: Op) -> GraphBuilder:
        """A builder in front of `op`; what it makes also comes from where `merged` came from."""
        loc = op.loc
        for other in merged:
            loc = loc.merge(other.loc)
        return _Recorder(self, op, loc)

    def replace(self, op: Op, *values: Value) -> None:
        """Give the uses of the op's results to `values`, and erase the op."""
        for result in op.results:
            self._push_users(result)
        for value in values:
            if value.op is not None:
                self.push(value.op)
        sources = op.operands
        op.replace_with(values)
        self._forget(op)
        self._drop_unused(sources)

    def set_operands(self, op: Op, values: Sequence[Value]) -> None:
        old = op.operands
        op.set_operands(values)
        self._touch(op)
        self._drop_unused(old)

    def set_attrs(self, op: Op, attrs: Any) -> None:
        op.set_attrs(attrs)
        self._touch(op)

    def added(self, op: Op) -> None:
        self.changes += 1
        self.push(op)

    def push(self, op: Op) -> None:
        """Look at `op` (again)."""
        if op not in self._queued:
            self._queued.add(op)
            self._queue.append(op)

    def pop(self) -> Op | None:
        """The next op to look at that is still in a block, or None."""
        while self._queue:
            op = self._queue.popleft()
            if op in self._queued:
                self._queued.discard(op)
                return op
        return None

    def drop_if_unused(self, op: Op) -> bool:
        """Erase `op` and what only it used, if nobody needs it."""
        if op.block is None or not is_dead(op):
            return False
        sources = op.operands
        op.erase()
        self._forget(op)
        self._drop_unused(sources)
        return True

    def _forget(self, op: Op) -> None:
        self.changes += 1
        self._queued.discard(op)

    def _touch(self, op: Op) -> None:
        self.changes += 1
        self.push(op)
        for result in op.results:
            self._push_users(result)

    def _push_users(self, value: Value, levels: int = DEPTH - 1) -> None:
        """Look again at the ops whose patterns may reach down to `value`."""
        for user in value.users:
            self.push(user)
            if levels > 1:
                for result in user.results:
                    self._push_users(result, levels - 1)

    def _drop_unused(self, values: Iterable[Value]) -> None:
        for value in values:
            if value.op is None or value.op.block is None:
                continue
            if not self.drop_if_unused(value.op):
                self.push(value.op)
                if len(value.uses) == 1:
                    # Rewrites that ask for a single user may match now.
                    self._push_users(value)


def is_dead(op: Op) -> bool:
    """Whether an op has no effect and none of its results is used."""
    defn = op.defn
    assert isinstance(defn, OpDef)
    return Trait.PURE in defn.traits and not any(result.uses for result in op.results)


# -- the driver ---------------------------------------------------------------------------------


@dataclass
class RewriteSet:
    """Rules and functions, indexed by the op at their root."""

    rules: Sequence[Rule] = ()
    functions: Sequence[Rewrite] = ()
    _by_op: dict[str, list[Rule | Rewrite]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) < len(names):
            raise ValueError("two rewrites have one name")
        for rule in self.rules:
            self._by_op.setdefault(rule.pattern.name, []).append(rule)
        for function in self.functions:
            for name in dict.fromkeys(function.ops):
                self._by_op.setdefault(name, []).append(function)

    @property
    def names(self) -> tuple[str, ...]:
        return (*(r.name for r in self.rules), *(f.name for f in self.functions))

    def at(self, name: str) -> Sequence[Rule | Rewrite]:
        return self._by_op.get(name, ())


def apply_greedily(
    module: Module, rewrites: RewriteSet, context: PassContext, required: bool = False
) -> None:
    """Apply rewrites to every block until none matches. Dead ops are erased on the way.

    Where they are required, `context` neither holds them back nor counts them.

    Raises CompileError where that takes suspiciously long, with the last rewrites made.
    """
    for function in module.functions.values():
        for block in blocks_of(function.block):
            _drive(block, Rewriter(module.constants), rewrites, None if required else context)


def blocks_of(block: Block) -> Iterator[Block]:
    """Yield the blocks of regions in `block`, innermost first, then `block` itself."""
    for op in block:
        for region in op.regions:
            yield from blocks_of(region)
    yield block


def _drive(block: Block, rw: Rewriter, rewrites: RewriteSet, context: PassContext | None) -> None:
    for first in block:
        rw.push(first)
    left = 1000 + 64 * len(block)
    recent: deque[str] = deque(maxlen=10)
    while (op := rw.pop()) is not None:
        if rw.drop_if_unused(op):
            continue
        for item in rewrites.at(op.name):
            if not _may(item, context):
                continue
            fired = _apply_rule(item, op, rw) if isinstance(item, Rule) else _call(item, op, rw)
            if fired:
                if context is not None:
                    context.count(item.name)
                recent.append(item.name)
                left -= 1
                if op.block is not None:
                    rw.push(op)
                break
        if left < 0:
            raise CompileError(f"rewriting does not end; the last ten: {', '.join(recent)}")


def _may(item: Rule | Rewrite, context: PassContext | None) -> bool:
    if context is None:
        return True
    return context.allows(item.name) and (item.fp is not Fp.FAST or context.fast_math)


def _apply_rule(rule: Rule, op: Op, rw: Rewriter) -> bool:
    type = tensor_type(op.operands[0])
    if type.dtype.kind not in rule.kinds:
        return False
    found: Match = {}
    if not match(rule.pattern, op.result, found):
        return False
    if rule.guard is not None and not rule.guard(found):
        return False
    # A constant that broadcasts the variables may give the root a shape that they have not.
    if pattern_type(rule.replacement, found, type) != op.result.type:
        return False
    b = rw.builder(op, *matched_ops(rule.pattern, op.result))
    value = build(rule.replacement, found, b, type)
    rw.replace(op, value)
    return True


def _call(item: Rewrite, op: Op, rw: Rewriter) -> bool:
    before = rw.changes
    fired = item.fn(op, rw)
    if fired != (rw.changes != before):
        did = "changed something" if not fired else "changed nothing"
        raise CompileError(f"rewrite {item.name} returned {fired} but {did}", where=str(op.loc))
    return fired
