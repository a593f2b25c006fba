"""Evaluates body expressions into loop IR: the part that all schedules share.

Loads are linear by now: the sum of a load's index entries is the element's position in its
buffer. An `Emitter` keeps the open loops as scopes and puts every node into the outermost scope
that knows its iterators, so loop invariants are hoisted by construction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tfc.compiler.cost.choice import Chooser
from tfc.compiler.cost.nest import MOST_STEP
from tfc.compiler.lower.dependence import POSITIONS, Names
from tfc.compiler.lower.scalars import NARROW_FLOATS, identity, scalar_op
from tfc.compiler.lower.scopes import At, Opened, Scope
from tfc.ir.body import (
    COMBINE,
    Apply,
    Expr,
    Guard,
    Index,
    Iter,
    Keep,
    Load,
    Lookup,
    Number,
    Position,
    Range,
    Reduce,
)
from tfc.ir.core import Block, Value
from tfc.ir.dims import (
    Call,
    Dim,
    DimLike,
    Symbol,
    coefficient,
    from_terms,
    symbols_of,
    symbols_of_atom,
    terms_of,
)
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.types import I64, ScalarType, VectorType


@dataclass(frozen=True)
class Lane:
    """The vectorised iterator: lane l stands for iteration `name` + l; mask hides a tail."""

    name: str
    width: int
    mask: Value | None = None


class Emitter:
    """Emits expressions through a LoopBuilder.

    buffers maps graph values to buffer values; written are the values that the kernel stores to.
    chooser: decides for the schedules. aliased: memory is read that is written.
    """

    def __init__(
        self,
        builder: LoopBuilder,
        buffers: Mapping[Value, Value],
        written: Sequence[Value] = (),
        chooser: Chooser | None = None,
        aliased: bool = False,
    ) -> None:
        self.b = builder
        self.aliased = aliased
        self.chooser = chooser or Chooser()
        self.buffers = buffers
        self.written = frozenset(written)
        self.scopes = [Scope(builder.block, {})]
        self.lane: Lane | None = None
        names = Names()
        self.free = names.free
        self.reads = names.reads
        self._alive: list[Expr] = []

    # -- scopes ---------------------------------------------------------------------------------

    def scope(self, iters: Mapping[str, Value], conditional: bool = False) -> Opened:
        """Open a scope for the builder's current block."""
        return Opened(self.scopes, Scope(self.b.block, dict(iters), conditional))

    @contextmanager
    def loop(
        self,
        it: Iter,
        lo: DimLike = 0,
        hi: DimLike | None = None,
        step: int = 1,
        carried: Sequence[Value] = (),
    ) -> Iterator[tuple[list[Value], list[Value]]]:
        """Open `for it in lo..hi`; gives (carried values, list to fill with the next ones).

        After the with statement the first list holds the results.
        """
        stop = it.extent if hi is None else hi
        start, end = self.index(lo), self.index(stop)
        values: list[Value] = []
        following: list[Value] = []
        with self.b.for_(start, end, carried, step, _short(it.name)) as loop:
            values[:] = loop.carried
            with self.scope({it.name: loop.index}, conditional=not _runs(lo, stop)):
                yield values, following
            loop.yields = following
        values[:] = loop.results

    @contextmanager
    def vectorised(self, lane: Lane | None) -> Iterator[None]:
        """Evaluate with another vectorised iterator."""
        outer, self.lane = self.lane, lane
        try:
            yield
        finally:
            self.lane = outer

    def _level(self, names: frozenset[str] | set[str], reads: bool = False) -> int:
        """The outermost scope where `names` are known and, if `reads`, memory may be read."""
        for level in range(len(self.scopes) - 1, 0, -1):
            scope = self.scopes[level]
            if (reads and scope.conditional) or not names.isdisjoint(scope.iters):
                return level
        return 0

    def _at(self, level: int) -> At:
        """Emit into the scope at `level`, with the scopes inside it out of sight."""
        return At(self.scopes, self.b, level)

    # -- properties of expressions --------------------------------------------------------------

    def in_lane(self, names: frozenset[str] | set[str]) -> bool:
        return self.lane is not None and self.lane.name in names

    # -- indices --------------------------------------------------------------------------------

    def index(self, dim: DimLike) -> Value:
        """Emit an integer expression as a scalar i64; the vectorised iterator is its first lane.

        Terms are summed from the outermost scope inward, the constant last.
        """
        if isinstance(dim, int):
            return self._cached(0, ("int", dim), lambda: self.b.const(dim, I64))
        by_level: dict[int, dict[tuple[Symbol | Call, ...], int]] = {}
        constant = 0
        for mono, coeff in terms_of(dim):
            if not mono:
                constant = coeff
                continue
            names = {name for atom in mono for name in symbols_of_atom(atom)}
            by_level.setdefault(self._level(names), {})[mono] = coeff
        total: Value | None = None
        prefix: DimLike = 0
        level = 0
        for level in sorted(by_level):
            part = from_terms(by_level[level])
            prefix = prefix + part
            total = self._index_at(level, prefix, part, total)
        assert total is not None
        if constant:
            base = total
            total = self._cached(
                level, ("dim", dim), lambda: self.b.add(base, self.index(constant))
            )
        return total

    def _index_at(self, level: int, whole: DimLike, part: DimLike, before: Value | None) -> Value:
        def make() -> Value:
            env = {name: value for scope in self.scopes for name, value in scope.iters.items()}
            own = self.b.index(part, env)
            return own if before is None else self.b.add(before, own)

        return self._cached(level, ("dim", whole), make)

    def _cached(self, level: int, key: object, make: object) -> Value:
        value = self.scopes[level].cache.get(key)
        if value is None:
            with self._at(level) as scope:
                value = scope.cache[key] = make()  # type: ignore[operator]
        return value

    def cached_mask(self, at: DimLike, start: Value, end: Value, width: int) -> Value:
        """The mask of lanes with start + lane < end, made once for a given position `at`."""
        level = self._level(symbols_of(at))
        return self._cached(level, ("mask", at, width), lambda: self.b.tail_mask(start, end, width))

    def lanes_of(self, dim: DimLike) -> Value:
        """Emit an integer expression as a vector over the lanes."""
        assert self.lane is not None
        step = coefficient(dim, self.lane.name)
        width = self.lane.width
        level = self._level(symbols_of(dim))

        def affine() -> Value:
            base = self.b.splat(self.index(dim), width)
            assert step is not None
            offsets = self.b.iota(width)
            if step != 1:
                offsets = self.b.mul(offsets, self.b.splat(self.index(step), width))
            return self.b.add(base, offsets)

        make = affine if step is not None else (lambda: self._lanes_of_terms(dim))
        return self._cached(level, ("lanes", dim, self.lane.name, width), make)

    def _lanes_of_terms(self, dim: DimLike) -> Value:
        assert self.lane is not None
        width = self.lane.width
        total: Value | None = None
        for mono, coeff in terms_of(dim):
            part = self.b.splat(self.index(coeff), width)
            for atom in mono:
                part = self.b.mul(part, self._lanes_of_atom(atom))
            total = part if total is None else self.b.add(total, part)
        assert total is not None
        return total

    def _lanes_of_atom(self, atom: Symbol | Call) -> Value:
        assert self.lane is not None
        whole = from_terms({(atom,): 1})
        if self.lane.name not in symbols_of(whole):
            return self.b.splat(self.index(whole), self.lane.width)
        if isinstance(atom, Symbol):
            return self.lanes_of(whole)
        return self.b.dim_call(atom.fn, [self._wide(arg) for arg in atom.args])

    def _wide(self, dim: DimLike) -> Value:
        """Emit an integer expression as a vector, the same number in all lanes if it is one."""
        assert self.lane is not None
        if self.in_lane(symbols_of(dim)):
            return self.lanes_of(dim)
        return self.b.splat(self.index(dim), self.lane.width)

    # -- expressions ----------------------------------------------------------------------------

    def eval(self, expr: Expr) -> Value:
        """Emit `expr`: a vector where it depends on the vectorised iterator, else a scalar."""
        names = self.free(expr)
        reads = self.reads(expr)
        level = self._level(names, reads)
        lane = self.lane if self.in_lane(names) else None
        key = (id(expr), lane.name if lane else None)
        for scope in self.scopes[self._level(names) : level + 1]:
            if key in scope.cache:
                return scope.cache[key]
        with self._at(level) as scope:
            value = scope.cache[key] = self._emit(expr)
            self._alive.append(expr)
        return value

    @contextmanager
    def hoisted(self, expr: Expr) -> Iterator[None]:
        """Emit into the outermost scope where `expr` can be computed."""
        with self._at(self._level(self.free(expr), self.reads(expr))):
            yield

    def remember(self, expr: Expr, value: Value) -> None:
        """Let `value`, just computed in the current scope, stand for `expr` from here on."""
        level = self._level(self.free(expr), self.reads(expr))
        lane = self.lane.name if self.lane and self.in_lane(self.free(expr)) else None
        self.scopes[level].cache[id(expr), lane] = value
        self._alive.append(expr)

    def eval_wide(self, expr: Expr) -> Value:
        """Like `eval`, but always a vector while an iterator is vectorised."""
        value = self.eval(expr)
        return self.b.splat(value, self.lane.width) if self.lane else value

    def _emit(self, expr: Expr) -> Value:
        match expr:
            case Number():
                return self.b.const(expr.value, expr.dtype)
            case Position():
                in_lane = self.in_lane(symbols_of(expr.dim))
                value = self.lanes_of(expr.dim) if in_lane else self.index(expr.dim)
                return self.b.cast(value, expr.dtype)
            case Load():
                return self._load(expr)
            case Apply():
                return self._apply(expr)
            case Lookup():
                return self.b.lookup(expr.values, self.eval(expr.arg), expr.dtype)
            case Guard():
                return self._guard(expr)
            case Reduce():
                return self.reduce(expr)[0]
            case Keep():
                value = self.eval(expr.inside)
                self.store(expr.value, expr.index, value)
                return value

    def _apply(self, expr: Apply) -> Value:
        args = [self.eval(arg) for arg in expr.args]
        width = max((a.type.lanes for a in args if isinstance(a.type, VectorType)), default=0)
        if width:
            args = [self.b.splat(arg, width) for arg in args]
        return scalar_op(self.b, expr.name, args, expr.dtype)

    def _address(self, index: tuple[Index, ...]) -> tuple[DimLike, list[Expr]]:
        fixed: DimLike = 0
        dynamic: list[Expr] = []
        for entry in index:
            if isinstance(entry, (int, Dim)):
                fixed = fixed + entry
            else:
                dynamic.append(entry)
        return fixed, dynamic

    def _lane_address(self, fixed: DimLike, dynamic: list[Expr]) -> Value:
        """The vector of element positions of an access that is not contiguous."""
        assert self.lane is not None
        width = self.lane.width
        total = self.lanes_of(fixed) if self.in_lane(symbols_of(fixed)) else None
        if total is None:
            total = self.b.splat(self.index(fixed), width)
        for expr in dynamic:
            total = self.b.add(total, self.b.splat(self.eval(expr), width))
        return total

    def _scalar_address(self, fixed: DimLike, dynamic: list[Expr]) -> Value:
        total = self.index(fixed)
        for expr in dynamic:
            total = self.b.add(total, self.eval(expr))
        return total

    def _contiguous(self, fixed: DimLike, dynamic: list[Expr]) -> bool:
        assert self.lane is not None
        if any(self.in_lane(self.free(expr)) for expr in dynamic):
            return False
        return coefficient(fixed, self.lane.name) == 1

    def _load(self, expr: Load) -> Value:
        buf = self.buffers[expr.value]
        fixed, dynamic = self._address(expr.index)
        if not self.in_lane(self.free(expr)):
            return self.b.load(buf, self._scalar_address(fixed, dynamic))
        assert self.lane is not None
        if self._contiguous(fixed, dynamic):
            address = self._scalar_address(fixed, dynamic)
            if expr.value in self.written:
                return self.b.vload(buf, [address], self.lane.width, mask=self.lane.mask)
            return self._shared_load(buf, address)
        step = self._lane_step(fixed, dynamic)
        if step is not None and self.lane.mask is None:
            return self._strided_load(buf, self._scalar_address(fixed, dynamic), step)
        return self.b.gather(buf, [self._lane_address(fixed, dynamic)], self.lane.mask)

    def _lane_step(self, fixed: DimLike, dynamic: list[Expr]) -> int | None:
        """The distance of neighbouring lanes where a few whole vectors hold them all."""
        assert self.lane is not None
        if any(self.in_lane(self.free(expr)) for expr in dynamic):
            return None
        step = coefficient(fixed, self.lane.name)
        # With fewer lanes than steps more than the last vector would reach outside.
        most = min(MOST_STEP, self.lane.width)
        return step if isinstance(step, int) and 1 < step <= most else None

    def _strided_load(self, buf: Value, address: Value, step: int) -> Value:
        """Load every `step`-th element: whole vectors, then shuffles that keep what is wanted.

        What lies behind the last wanted element may be outside of the buffer, and is not read.
        """
        assert self.lane is not None
        width = self.lane.width
        parts = []
        for i in range(step):
            at = self.b.add(address, self.index(i * width)) if i else address
            mask = None
            if i == step - 1:
                kept = self.b.const(width - step + 1, VectorType(I64, width))
                mask = self.b.lt(self.b.iota(width), kept)
            parts.append(self.b.vload(buf, [at], width, mask=mask))
        found = parts[0]
        for i, part in enumerate(parts[1:], 1):
            lanes = [lane * step for lane in range(width)]
            before = range(width) if i > 1 else lanes
            picks = [
                old if at < i * width else min(at - i * width, width - 1) + width
                for old, at in zip(before, lanes, strict=True)
            ]
            found = self.b.shuffle(found, part, picks)
        return found

    def _shared_load(self, buf: Value, address: Value) -> Value:
        """A contiguous load of memory that the kernel does not write, made once a scope."""
        assert self.lane is not None
        lane = self.lane
        cache = self.scopes[-1].cache
        key = ("load", buf, address, lane.width, lane.mask)
        if key not in cache:
            cache[key] = self.b.vload(buf, [address], lane.width, mask=lane.mask)
        return cache[key]

    def store(self, value: Value, index: tuple[Index, ...], element: Value) -> None:
        """Write an element, or a vector of them, to the buffer of graph value `value`."""
        buf = self.buffers[value]
        fixed, dynamic = self._address(index)
        if self.lane is None or not (
            isinstance(element.type, VectorType) or self.in_lane(symbols_of(fixed))
        ):
            self.b.store(element, buf, self._scalar_address(fixed, dynamic))
            return
        element = self.b.splat(element, self.lane.width)
        if self._contiguous(fixed, dynamic):
            address = self._scalar_address(fixed, dynamic)
            self.b.vstore(element, buf, [address], mask=self.lane.mask)
        else:
            address = self._lane_address(fixed, dynamic)
            self.b.scatter(element, buf, [address], self.lane.mask)

    # -- guards ---------------------------------------------------------------------------------

    def _range(self, r: Range) -> Value:
        """Whether the range holds: a mask where it depends on the vectorised iterator."""
        if self.in_lane(symbols_of(r.dim) | symbols_of(r.lo) | symbols_of(r.hi)):
            assert self.lane is not None
            at = [self._wide(d) for d in (r.dim, r.lo, r.hi)]
        else:
            at = [self.index(d) for d in (r.dim, r.lo, r.hi)]
        return self.b.and_(self.b.ge(at[0], at[1]), self.b.lt(at[0], at[2]))

    def _guard(self, expr: Guard) -> Value:
        by_lane: list[Range] = []
        scalar: list[Range] = []
        for r in expr.ranges:
            names = symbols_of(r.dim) | symbols_of(r.lo) | symbols_of(r.hi)
            (by_lane if self.in_lane(names) else scalar).append(r)
        if not scalar:
            return self._masked(expr, by_lane)
        condition = self._range(scalar[0])
        for r in scalar[1:]:
            condition = self.b.and_(condition, self._range(r))
        lane = self.lane if self.in_lane(self.free(expr)) else None
        blocks = []
        for inside in (True, False):
            block = Block()
            with self.b.at(block), self.scope({}, conditional=True):
                if inside:
                    value = self._masked(expr, by_lane) if by_lane else self.eval(expr.inside)
                else:
                    value = self.eval(expr.outside)
                self.b.emit("yield", (self.b.splat(value, lane.width if lane else 0),))
            blocks.append(block)
        return self.b.branch(condition, blocks[0], blocks[1])[0]

    def _masked(self, expr: Guard, ranges: list[Range]) -> Value:
        """Evaluate both sides with lanes masked, and select."""
        assert self.lane is not None
        mask = self._range(ranges[0])
        for r in ranges[1:]:
            mask = self.b.and_(mask, self._range(r))
        outer = self.lane.mask
        inner = mask if outer is None else self.b.and_(outer, mask)
        lane = Lane(self.lane.name, self.lane.width, inner)
        with self.vectorised(lane), self.scope({}, conditional=True):
            inside = self.eval_wide(expr.inside)
        outside = self.eval_wide(expr.outside)
        return self.b.select(mask, inside, outside)

    # -- reductions -----------------------------------------------------------------------------

    def reduce(self, expr: Reduce, copies: Sequence[Mapping[str, Value]] = ({},)) -> list[Value]:
        """Emit one loop nest that computes `expr` for each of `copies`, and return the results.

        A copy gives iterators other values, so that the copies share what does not depend on
        them.
        """
        start = [value for _ in copies for value in self.initial(expr)]
        results = self._reduce_loops(list(expr.iters), expr, copies, start)
        width = len(start) // len(copies)
        return results[width - 1 :: width]

    def initial(self, expr: Reduce) -> list[Value]:
        inside = self.free(expr) | {it.name for it in expr.iters}
        lanes = self.lane.width if self.lane and self.in_lane(inside) else 0
        dtype = expr.body.dtype if expr.kind in POSITIONS else expr.dtype
        like = VectorType(dtype, lanes) if lanes else ScalarType(dtype)
        start = [self.b.const(identity(expr.kind, dtype), like)]
        if expr.kind in POSITIONS:
            start.append(self.b.const(-1, VectorType(I64, lanes) if lanes else ScalarType(I64)))
        return start

    def _reduce_loops(
        self,
        iters: list[Iter],
        expr: Reduce,
        copies: Sequence[Mapping[str, Value]],
        carried: list[Value],
    ) -> list[Value]:
        if not iters:
            return self.combine_copies(expr, copies, carried)
        with self.loop(iters[0], carried=carried) as (values, following):
            following.extend(self._reduce_loops(iters[1:], expr, copies, list(values)))
        return values

    def combine_copies(
        self, expr: Reduce, copies: Sequence[Mapping[str, Value]], carried: Sequence[Value]
    ) -> list[Value]:
        """Fold the body of `expr`, at the current iterators, into the accumulators."""
        following: list[Value] = []
        width = len(carried) // len(copies)
        for position, copy in enumerate(copies):
            with self.scope(copy):
                own = list(carried[position * width : (position + 1) * width])
                following.extend(self._combine(expr, own))
        return following

    def _combine(self, expr: Reduce, carried: list[Value]) -> list[Value]:
        if expr.kind in POSITIONS:
            return self._combine_position(expr, carried)
        like = carried[0]
        lanes = like.type.lanes if isinstance(like.type, VectorType) else 0
        if expr.kind == "sum" and _is_product(expr.body):
            assert isinstance(expr.body, Apply)
            x, y = (self.b.splat(self.eval(arg), lanes) for arg in expr.body.args)
            return [self.b.fma(x, y, like)]
        value = self.b.splat(self.eval(expr.body), lanes)
        return [self.b.apply(COMBINE[expr.kind], like, value)]

    def _combine_position(self, expr: Reduce, carried: list[Value]) -> list[Value]:
        best, where = carried[:2]
        lanes = best.type.lanes if isinstance(best.type, VectorType) else 0
        value = self.b.splat(self.eval(expr.body), lanes)
        linear: DimLike = 0
        for it in expr.iters:
            linear = linear * it.extent + it.dim
        position = self.b.splat(self.index(linear), lanes)
        name = {"argmax": "gt", "argmin": "lt"}[expr.kind]
        better = self.b.apply(("ge" if name == "gt" else "le") if expr.last else name, value, best)
        if expr.dtype.is_float or expr.body.dtype.is_float:
            fresh = self.b.not_(self.b.isnan(best)) if not expr.last else None
            nan = self.b.isnan(value)
            better = self.b.or_(better, self.b.and_(nan, fresh) if fresh is not None else nan)
        first = self.b.lt(where, self.b.const(0, where))
        better = self.b.or_(better, first)
        return [self.b.select(better, value, best), self.b.select(better, position, where)]


def _runs(lo: DimLike, hi: DimLike) -> bool:
    """Whether a loop from lo to hi is known to run; if not, no load may be hoisted out of it."""
    return isinstance(lo, int) and isinstance(hi, int) and lo < hi


def _is_product(expr: Expr) -> bool:
    return (
        isinstance(expr, Apply)
        and expr.name == "mul"
        and expr.dtype.is_float
        and expr.dtype.name not in NARROW_FLOATS
    )


def _short(name: str) -> str:
    return name.split(".")[0]
