"""Groups ops into `fused` ops, each of which becomes one kernel with one output.

Ops are visited last to first; one that is in no group starts a group as its root, which then
takes in producers whose users are all in it. What may join is in `_Group`; no kernel is made here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfc.compiler.cost.expression import repeats_free
from tfc.compiler.passes.quantised import widens
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import blocks_of, is_dead
from tfc.ir.body import Apply, ExprBuilder, walk
from tfc.ir.build import tensor_type
from tfc.ir.core import Block, Module, Op, Value
from tfc.ir.dims import DimLike, symbol
from tfc.ir.location import UNKNOWN
from tfc.ir.opdef import OPS, Kind, NoAttrs, OpDef, Trait
from tfc.ir.ops.const import constant, dims
from tfc.ir.ops.control import FusedAttrs
from tfc.ir.types import I8, U8

MAX_OPS = 48
MAX_OPERANDS = 20
# Lowering builds the results of these in place: their operands' kernels write the parts.
IN_PLACE = frozenset({"concat", "pad"})
BYTES = (U8, I8)
HEAVY = (Kind.CONTRACTION, Kind.WINDOW)
# What to take in first: an op that others of the group rule out when they come before it.
PRIORITY = {
    Kind.CONTRACTION: 0,
    Kind.WINDOW: 0,
    Kind.REDUCTION: 1,
    Kind.ELEMENTWISE: 2,
    Kind.CONSTANT: 2,
    Kind.INJECTIVE: 3,
}

Shape = tuple[DimLike, ...]


def fuse(module: Module, context: PassContext) -> None:
    for function in module.functions.values():
        for block in blocks_of(function.block):
            if not (isinstance(block.parent, Op) and block.parent.defn is OPS["fused"]):
                _fuse_block(block, context)


def _fuse_block(block: Block, context: PassContext) -> None:
    order = {op: position for position, op in enumerate(block)}
    for op in sorted(order, key=order.__getitem__, reverse=True):
        if op.block is not block:
            continue
        if is_dead(op):
            op.erase()
        elif _may_seed(op) and context.allows("fuse"):
            group = _Group(op)
            group.grow()
            wrap(sorted(group.members, key=order.__getitem__), op)
            context.count("fuse")


def _defn(op: Op) -> OpDef:
    assert isinstance(op.defn, OpDef)
    return op.defn


def _shape(value: Value) -> Shape:
    return tensor_type(value).shape


def _is_ramp(op: Op) -> bool:
    """Whether the op makes its elements of their indices."""
    defn = _defn(op)
    return defn.kind is Kind.CONSTANT and Trait.STORED not in defn.traits


def _may_seed(op: Op) -> bool:
    defn = _defn(op)
    if defn.kind is Kind.INJECTIVE:
        return Trait.VIEW not in defn.traits and op.name not in IN_PLACE
    computes = defn.kind in (Kind.ELEMENTWISE, Kind.REDUCTION, *HEAVY)
    return computes or _is_ramp(op)


def reduced_axes(op: Op) -> tuple[int, ...] | None:
    """The axes that a reduction folds away, counted from the front; None for a running one."""
    if _defn(op).kind is not Kind.REDUCTION or not hasattr(op.attrs, "keepdims"):
        return None
    rank = tensor_type(op.operands[0]).rank
    axes = op.attrs.axes if hasattr(op.attrs, "axes") else (op.attrs.axis,)
    return tuple(sorted(axis % rank for axis in axes)) or None


def trailing_ones(shape: Shape, wanted: Shape) -> int | None:
    """Return how many last axes of `wanted` contain all those along which `shape` is repeated.

    None where that is not all there is to it: `shape` is also repeated along axes before others.
    """
    if len(shape) > len(wanted):
        return None
    padded = (1,) * (len(wanted) - len(shape)) + shape
    for count in range(len(wanted) + 1):
        kept = len(wanted) - count
        if padded[:kept] == wanted[:kept] and all(dim == 1 for dim in padded[kept:]):
            return count
    return None


def is_cheap(op: Op) -> bool:
    """Whether computing the op again for each element of a larger shape is no loss."""
    defn = _defn(op)
    if defn.body is None:
        return False
    index = tuple(symbol(f"i{axis}") for axis in range(tensor_type(op.result).rank))
    body = walk(defn.body(ExprBuilder(), op, 0, index))
    return all(repeats_free(node.name) for node in body if isinstance(node, Apply))


@dataclass(frozen=True)
class _Space:
    """Which elements of the group's domain share one element of a member's result.

    lacking: all those that differ in the last `lacking` axes of the domain only. dropped: of
    these axes, how many the result does not have even with extent 1.
    """

    lacking: int = 0
    dropped: int = 0


class _Group:
    """A root and the ops that are computed for it.

    The domain is the shape that loops run over: the operand's of reductions over its last axes
    (`axes` many), else the result's. A reduction over other axes is `apart`: it joins two
    elementwise parts that have no row in common.
    """

    def __init__(self, root: Op) -> None:
        self.root = root
        self.members: dict[Op, _Space] = {root: _Space()}
        self.domain = _shape(root.results[0])
        self.axes = 0
        self.heavy: Op | None = root if _defn(root).kind in HEAVY else None
        self.apart: Op | None = None
        # What will be `heavy`: bytes that the group computes are made of it.
        self.product: Op | None = None
        if reduced_axes(root) is not None:
            self._reduce(root)

    def grow(self) -> None:
        while len(self.members) < MAX_OPS:
            found = self._candidates()
            joined = next((op for op in found if self._join(op)), None)
            if joined is None and not self._join_through_views():
                break
        if self.heavy is not None:
            self._take_casts(self.heavy)

    def _take_casts(self, heavy: Op) -> None:
        """Take in what widens the operands of a contraction: its loop reads narrow elements.

        Nothing may join after that: an operand of these has another shape than the domain.
        """
        for value in heavy.operands:
            op = value.op
            if op is None or op.block is not self.root.block or not widens(op):
                continue
            if all(user is heavy for user in value.users):
                self.members[op] = _Space()

    def _candidates(self) -> list[Op]:
        found: dict[Op, None] = {}
        for member in self.members:
            if not self._feeds(member):
                continue
            for value in member.operands:
                op = value.op
                if op is None or op in self.members or op.block is not self.root.block:
                    continue
                single = len(op.results) == 1 and _defn(op).kind in PRIORITY
                if single and all(user in self.members for user in value.users):
                    found[op] = None
        return sorted(found, key=lambda op: PRIORITY[_defn(op).kind])

    @staticmethod
    def _feeds(member: Op) -> bool:
        """Whether producers of the member's operands may be computed in its place."""
        return _defn(member).kind is Kind.ELEMENTWISE or reduced_axes(member) is not None

    def _join(self, op: Op) -> bool:
        if not _may_seed(op) or self._operand_count(op) > MAX_OPERANDS:
            return False
        kind = _defn(op).kind
        if kind in HEAVY:
            return self._join_heavy(op)
        if kind is Kind.REDUCTION:
            return self._join_reduction(op)
        if kind is Kind.INJECTIVE:
            return self._join_lookup(op)
        return self._join_elementwise(op)

    def _operand_count(self, op: Op) -> int:
        inside = {*self.members, op}
        outer = {value for member in inside for value in member.operands if value.op not in inside}
        return sum(not is_immediate(value) for value in outer)

    def _join_heavy(self, op: Op) -> bool:
        alone = self.heavy is None and self.axes == 0 and self.apart is None
        if not alone or any(
            _defn(member).kind is not Kind.ELEMENTWISE or _shape(member.result) != _shape(op.result)
            for member in self.members
        ):
            return False
        self.heavy = op
        self.members[op] = _Space()
        return True

    def _join_through_views(self) -> bool:
        """Take in a contraction or window whose elements arrive in another order of axes.

        Its result passes through reshapes and transposes, and what else is done to each element,
        before the group uses it; then the group's elements are stored straight from there.
        """
        alone = self.heavy is None and self.axes == 0 and self.apart is None
        elementwise = all(_defn(m).kind is Kind.ELEMENTWISE for m in self.members)
        if not alone or not elementwise:
            return False
        for member in list(self.members):
            for value in member.operands:
                inside = all(user in self.members for user in value.users)
                if inside and _shape(value) == self.domain and value.op not in self.members:
                    chain = self._chain(value)
                    if chain and len(self.members) + len(chain) <= MAX_OPS:
                        self.members.update((op, _Space()) for op in chain)
                        self.heavy = chain[-1]
                        return True
        return False

    def _chain(self, value: Value, most: int = MAX_OPS) -> list[Op]:
        """The ops from `value` to a contraction or window, each used once but it; or none.

        most: how many they may be.
        """
        op = value.op
        if most == 0 or op is None or op.block is not self.root.block or len(op.results) != 1:
            return []
        if self._operand_count(op) > MAX_OPERANDS:
            return []
        if _defn(op).kind in HEAVY:
            return [op]
        size = tensor_type(value).size
        view = Trait.VIEW in _defn(op).traits
        if not view and _defn(op).kind is not Kind.ELEMENTWISE:
            return []
        for operand in op.operands:
            same = tensor_type(operand).size == size if view else _shape(operand) == _shape(value)
            rest = self._chain(operand, most - 1) if same and len(operand.uses) == 1 else []
            if rest:
                return [op, *rest]
        return []

    def _join_lookup(self, op: Op) -> bool:
        users = op.result.users
        if len(op.result.uses) > 1 or _defn(users[0]).kind is not Kind.ELEMENTWISE:
            return False
        placed = _shape(op.result) == self.domain and self._space(op) == _Space()
        if not placed or self.heavy is not None:
            return False
        self.members[op] = _Space()
        return True

    def _is_of_another_product(self, op: Op) -> bool:
        """Whether the op makes bytes of a product that the group cannot take in as well.

        With its product it is stored as bytes; here the sums would be, which are larger.
        """
        if tensor_type(op.result).dtype not in BYTES:
            return False
        chains = (self._chain(v) for v in op.operands if _shape(v) == _shape(op.result))
        product = next((chain[-1] for chain in chains if chain), None)
        if product is None:
            return False
        if self.axes > 0 or self.apart is not None or _shape(op.result) != self.domain:
            return True
        if self.heavy is None and self.product is None:
            self.product = product
        return product is not (self.heavy or self.product)

    def _join_elementwise(self, op: Op) -> bool:
        if self._is_of_another_product(op):
            return False
        space = self._space(op)
        if space is None:
            return False
        exact = _shape(op.result) == self.domain
        if self.heavy is not None and not (exact and _defn(op).kind is Kind.ELEMENTWISE):
            return False
        tiny = tensor_type(op.result).size == 1
        if self._repeats(op, space) and not (tiny and is_cheap(op)):
            return False
        self.members[op] = space
        return True

    def _repeats(self, op: Op, space: _Space) -> bool:
        """Whether elements of the op would be computed more often than once in a row."""
        if self.apart is not None:
            return space.lacking > 0
        if self.axes > 0:
            return space.lacking > self.axes
        row = self.domain[len(self.domain) - space.lacking :]
        axes = sum(dim != 1 for dim in row)
        if tensor_type(op.result).size == 1 and axes > 1:
            return True
        if axes == 0 or len(self.domain) < 3 or is_cheap(op):
            return False
        # Of more than two axes the last ones need not lie innermost.
        return not self._is_of_rows(op, space.lacking)

    def _is_of_rows(self, op: Op, lacking: int) -> bool:
        """Whether the op computes on what the last axes of the domain are folded to."""
        waiting, seen = [op], {op}
        while waiting:
            op = waiting.pop()
            axes = reduced_axes(op)
            if axes is not None and _shape(op.operands[0]) == self.domain:
                rank = len(self.domain)
                if axes == tuple(range(rank - lacking, rank)):
                    return True
            for value in op.operands if _defn(op).kind is Kind.ELEMENTWISE else ():
                if value.op is not None and value.op not in seen and len(seen) < MAX_OPS:
                    seen.add(value.op)
                    waiting.append(value.op)
        return False

    def _space(self, op: Op) -> _Space | None:
        """The space of a producer from those of its users, or None where it has none."""
        spaces: set[_Space] = set()
        for user in op.result.users:
            known = self.members[user]
            if _defn(user).kind is not Kind.ELEMENTWISE:
                # A reduction's operand.
                spaces.add(_Space())
                continue
            lacking = trailing_ones(_shape(op.result), _shape(user.result))
            if lacking is None:
                return None
            if lacking:
                lacking += known.dropped
            spaces.add(_Space(max(lacking, known.lacking), known.dropped))
        return spaces.pop() if len(spaces) == 1 else None

    # -- reductions -----------------------------------------------------------------------------

    def _join_reduction(self, op: Op) -> bool:
        axes = reduced_axes(op)
        if axes is None or self.heavy is not None or self.apart is not None:
            return False
        operand = _shape(op.operands[0])
        trailing = axes == tuple(range(len(operand) - len(axes), len(operand)))
        if not trailing:
            return self._join_apart(op)
        if self.axes == 0 and self._is_row_result(op):
            return self._widen(op, len(axes))
        space = self._space(op)
        known = self.axes in (0, len(axes)) and operand == self.domain
        if not known or space is None:
            return False
        if not self._keeps_axes(op, space, len(axes)) and space != self._unkept(op, len(axes)):
            return False
        if self.axes == 0 and not self._rows_stay(len(axes)):
            return False
        self.axes = len(axes)
        self.members[op] = space
        return True

    def _keeps_axes(self, op: Op, space: _Space, axes: int) -> bool:
        """Whether users see the reduction's result with the axes that it folds, of extent 1."""
        rank = len(self.domain)
        shape = (1,) * (rank - tensor_type(op.result).rank) + _shape(op.result)
        return space.dropped == 0 and shape == self.domain[: rank - axes] + (1,) * axes

    @staticmethod
    def _unkept(op: Op, axes: int) -> _Space:
        return _Space(axes, 0 if op.attrs.keepdims else axes)

    def _is_row_result(self, op: Op) -> bool:
        """Whether the group so far computes elements for each of the reduction's results."""
        return self.domain == _shape(op.result) and self._space(op) == _Space()

    def _widen(self, op: Op, axes: int) -> bool:
        """Take in a reduction whose result has the shape of the domain so far."""
        dropped = 0 if op.attrs.keepdims else axes
        moved = {}
        for member, space in self.members.items():
            lacking = max(space.lacking, axes) if not dropped else space.lacking + axes
            if lacking > axes and not is_cheap(member):
                return False
            if _defn(member).kind is not Kind.ELEMENTWISE:
                return False
            moved[member] = _Space(lacking, dropped)
        self.members = moved
        self._reduce(op)
        return True

    def _reduce(self, op: Op) -> None:
        """Make the operand of a reduction the domain."""
        axes = reduced_axes(op)
        assert axes is not None
        operand = _shape(op.operands[0])
        self.domain = operand
        if axes == tuple(range(len(operand) - len(axes), len(operand))):
            self.axes = len(axes)
            self.members[op] = self._unkept(op, self.axes)
        else:
            self.apart = op
            self.members[op] = _Space()

    def _join_apart(self, op: Op) -> bool:
        """Take in a reduction over other than the last axes: of everything but its operand."""
        for member, space in self.members.items():
            if _defn(member).kind is not Kind.ELEMENTWISE or space != _Space():
                return False
            if _shape(member.result) != _shape(op.result):
                return False
        if self.axes:
            return False
        self._reduce(op)
        return True

    def _rows_stay(self, axes: int) -> bool:
        """Whether what was once per row is so still when rows are the last `axes` axes."""
        return all(
            space.lacking <= axes or is_cheap(member) for member, space in self.members.items()
        )


# -- making the fused op ------------------------------------------------------------------------


def is_immediate(value: Value) -> bool:
    """Whether the value is one number that a kernel computes of nothing but symbols."""
    op = value.op
    if op is None or tensor_type(value).size != 1:
        return False
    if op.defn is constant:
        return hasattr(op.attrs.value, "values")
    if op.defn is dims:
        return True
    if _defn(op).kind is not Kind.ELEMENTWISE or not all(map(is_immediate, op.operands)):
        return False
    return is_cheap(op)


def wrap(members: list[Op], root: Op, diagonal: DimLike | None = None) -> None:
    """Move the members, given in their order, into the region of a new `fused` op."""
    block = root.block
    assert block is not None
    region = Block()
    inside = {result for op in members for result in op.results}
    found: dict[Value, Value] = {}
    loc = UNKNOWN
    outer: list[Value] = []
    for op in members:
        loc = loc.merge(op.loc)
        for value in op.operands:
            if value not in inside and value not in found:
                found[value] = _bring_in(value, region, outer)
    types = [result.type for result in root.results]
    fused = Op(OPS["fused"], outer, FusedAttrs(diagonal), types, [region], loc)
    block.insert(fused, root)
    for new, old in zip(fused.results, root.results, strict=True):
        new.name, old.name, new.encoding = old.name, "", old.encoding
        old.replace_all_uses(new)
    for op in members:
        for position, value in enumerate(op.operands):
            if value in found:
                op.set_operand(position, found[value])
        region.move(op, None)
    region.append(Op(OPS["yield"], root.results, NoAttrs(), ()))


def _bring_in(value: Value, region: Block, outer: list[Value]) -> Value:
    """What stands for an outer value inside: a copy of the number it is, or an argument."""
    if is_immediate(value):
        return _copy_in(value, region)
    outer.append(value)
    arg = region.add_arg(value.type)
    arg.encoding = value.encoding
    return arg


def _copy_in(value: Value, region: Block) -> Value:
    op = value.op
    assert op is not None
    operands = [_copy_in(operand, region) for operand in op.operands]
    types = [result.type for result in op.results]
    copy = region.append(Op(op.defn, operands, op.attrs, types, (), op.loc))
    return copy.results[value.index]
