"""Builds loop-level IR: what schedules and math expansions call.

A `LoopBuilder` appends at an insertion point; `with builder.for_(...)` moves it inward.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from tfc.ir.attrs import Dense
from tfc.ir.core import Block, Op, Value
from tfc.ir.dims import (
    Call,
    Dim,
    DimLike,
    Symbol,
    from_terms,
    symbols_of,
    symbols_of_atom,
    terms_of,
)
from tfc.ir.location import UNKNOWN, Location
from tfc.ir.loop import nodes
from tfc.ir.loop.nodes import LOOP_OPS
from tfc.ir.loop.scalar import ScalarBuilder
from tfc.ir.types import (
    BOOL,
    I64,
    INDEX,
    BufferType,
    DType,
    ScalarType,
    Type,
    VectorType,
    scalar_of,
)

IndexLike: TypeAlias = int | Dim | Value


class LoopBuilder(ScalarBuilder[Value]):
    """Appends loop ops to a block. Not thread safe; one per function."""

    def __init__(self, block: Block, loc: Location = UNKNOWN) -> None:
        self.block = block
        self.loc = loc

    # -- emitting -------------------------------------------------------------------------------

    def emit(
        self,
        name: str,
        operands: Sequence[Value] = (),
        attrs: Any = None,
        regions: Sequence[Block] = (),
        result_types: Sequence[Type] | None = None,
    ) -> Op:
        """Append op `name`; result types come from its rule unless given."""
        defn = LOOP_OPS[name]
        if attrs is None:
            attrs = nodes.NO_ATTRS if defn.attrs is nodes.NoAttrs else defn.attrs()
        if result_types is None:
            result_types = defn.infer(tuple([value.type for value in operands]), attrs)
        return self.block.append(Op(defn, operands, attrs, result_types, regions, self.loc))

    def scalar(self, name: str, args: tuple[Value, ...], dtype: DType) -> Value:
        attrs = nodes.ScalarAttrs(dtype) if name in ("cast", "bitcast") else nodes.PLAIN
        return self.emit(name, args, attrs).result

    def dtype_of(self, value: Value) -> DType:
        assert isinstance(value.type, (ScalarType, VectorType))
        return value.type.dtype

    def const(self, value: float | complex, like: Value | DType | Type) -> Value:
        """A constant of the type of `like`: a value, a register type or an element type."""
        if isinstance(like, DType):
            like = scalar_of(like)
        type = like.type if isinstance(like, Value) else like
        assert isinstance(type, (ScalarType, VectorType))
        lanes = type.lanes if isinstance(type, VectorType) else 0
        number = _as_element(value, type.dtype)
        return self.emit("const", (), nodes.ConstAttrs(number, type.dtype, lanes)).result

    def index(self, value: IndexLike, env: Mapping[str, Value] | None = None) -> Value:
        """Emit an i64: a Value as it is, or an int, or a Dim over symbols and `env`'s names."""
        if isinstance(value, Value):
            return value
        if isinstance(value, int):
            return self.const(value, I64)
        if env is None or not any(name in env for name in symbols_of(value)):
            return self.emit("dim", (), nodes.DimAttrs(value)).result
        return self._dim(value, env)

    def _dim(self, dim: DimLike, env: Mapping[str, Value]) -> Value:
        """Emit the arithmetic of a dim in which some symbols are loop values."""
        total: Value | None = None
        free: DimLike = 0
        for mono, coeff in terms_of(dim):
            part: Value | None = None
            rest: DimLike = coeff
            for atom in mono:
                if any(name in env for name in symbols_of_atom(atom)):
                    value = self._atom(atom, env)
                    part = value if part is None else self.mul(part, value)
                else:
                    rest = rest * _dim_of(atom)
            if part is None:
                free = free + rest
                continue
            if rest != 1:
                part = self.mul(part, self.index(rest))
            total = part if total is None else self.add(total, part)
        if total is None:
            return self.index(free)
        return total if free == 0 else self.add(total, self.index(free))

    def _atom(self, atom: Symbol | Call, env: Mapping[str, Value]) -> Value:
        if isinstance(atom, Symbol):
            return env[atom.name]
        return self.dim_call(atom.fn, [self.index(arg, env) for arg in atom.args])

    def dim_call(self, fn: str, args: Sequence[Value]) -> Value:
        """Emit a dim function on i64 values, scalars or vectors alike; divisors are positive."""
        if fn in ("min", "max"):
            result = args[0]
            for arg in args[1:]:
                result = self.min(result, arg) if fn == "min" else self.max(result, arg)
            return result
        a, b = args
        rem = self.rem(a, b)
        negative = self.lt(rem, self.const(0, rem))
        if fn == "mod":
            return self.select(negative, self.add(rem, b), rem)
        quotient = self.div(a, b)
        return self.select(negative, self.sub(quotient, self.const(1, quotient)), quotient)

    # -- vectors --------------------------------------------------------------------------------

    def splat(self, value: Value, lanes: int) -> Value:
        """Broadcast a scalar; lanes == 0 returns it as it is."""
        if not lanes or isinstance(value.type, VectorType):
            return value
        return self.emit("splat", (value,), nodes.LanesAttrs(lanes)).result

    def iota(self, lanes: int, dtype: DType = I64) -> Value:
        return self.emit("iota", (), nodes.LanesAttrs(lanes, dtype)).result

    def extract(self, vector: Value, lane: int) -> Value:
        return self.emit("extract", (vector,), nodes.LaneAttrs(lane)).result

    def insert(self, value: Value, vector: Value, lane: int) -> Value:
        return self.emit("insert", (value, vector), nodes.LaneAttrs(lane)).result

    def shuffle(self, x: Value, y: Value, mask: Sequence[int]) -> Value:
        return self.emit("shuffle", (x, y), nodes.ShuffleAttrs(tuple(mask))).result

    def reduce(self, kind: str, vector: Value) -> Value:
        """Reduce the lanes by add, mul, min, max, and, or; a balanced tree, so deterministic."""
        return self.emit("reduce", (vector,), nodes.ReduceAttrs(kind)).result

    def dot(self, x: Value, y: Value, total: Value) -> Value:
        """total + the products of neighbouring lanes of x and y; see `nodes.DOTS`."""
        return self.emit("dot", (x, y, total)).result

    def lookup(self, values: Dense, x: Value, dtype: DType) -> Value:
        """The elements of `values`, 256 numbers of `dtype`, that bytes count to."""
        return self.emit("lookup", (x,), nodes.TableAttrs(values, dtype)).result

    def tail_mask(self, start: Value, end: Value, lanes: int) -> Value:
        """The mask of lanes with start + lane < end."""
        left = self.splat(self.sub(end, start), lanes)
        return self.lt(self.iota(lanes), left)

    # -- memory ---------------------------------------------------------------------------------

    def load(self, buf: Value, *indices: IndexLike) -> Value:
        return self.emit("load", (buf, *map(self.index, indices))).result

    def store(self, value: Value, buf: Value, *indices: IndexLike) -> None:
        self.emit("store", (value, buf, *map(self.index, indices)))

    def vload(
        self,
        buf: Value,
        indices: Sequence[IndexLike],
        lanes: int,
        axis: int = -1,
        mask: Value | None = None,
    ) -> Value:
        """Read `lanes` elements along `axis` from `indices` on; masked lanes give 0."""
        operands = (buf, *map(self.index, indices), *((mask,) if mask is not None else ()))
        attrs = nodes.AccessAttrs(lanes, axis, mask is not None)
        return self.emit("vload", operands, attrs).result

    def vstore(
        self,
        value: Value,
        buf: Value,
        indices: Sequence[IndexLike],
        axis: int = -1,
        mask: Value | None = None,
    ) -> None:
        assert isinstance(value.type, VectorType)
        operands = (value, buf, *map(self.index, indices), *((mask,) if mask is not None else ()))
        self.emit("vstore", operands, nodes.AccessAttrs(value.type.lanes, axis, mask is not None))

    def gather(self, buf: Value, indices: Sequence[IndexLike], mask: Value | None = None) -> Value:
        operands = (buf, *map(self.index, indices), *((mask,) if mask is not None else ()))
        return self.emit("gather", operands, nodes.GatherAttrs(mask is not None)).result

    def scatter(
        self, value: Value, buf: Value, indices: Sequence[IndexLike], mask: Value | None = None
    ) -> None:
        operands = (value, buf, *map(self.index, indices), *((mask,) if mask is not None else ()))
        self.emit("scatter", operands, nodes.GatherAttrs(mask is not None))

    def prefetch(self, buf: Value, *indices: IndexLike) -> None:
        self.emit("prefetch", (buf, *map(self.index, indices)))

    def alloca(self, type: BufferType) -> Value:
        """A buffer of static shape on the stack, alive until the function returns."""
        return self.emit("alloca", (), nodes.BufferAttrs(type)).result

    def view(self, buf: Value, offset: IndexLike, type: BufferType) -> Value:
        """Reinterpret the memory of `buf` from element `offset` on."""
        return self.emit("view", (buf, self.index(offset)), nodes.BufferAttrs(type)).result

    def table(self, values: Sequence[float], dtype: DType) -> Value:
        """A small read-only table beside the code."""
        return self.emit("table", (), nodes.TableAttrs(Dense(tuple(values)), dtype)).result

    # -- control --------------------------------------------------------------------------------

    @contextmanager
    def at(self, block: Block) -> Iterator[None]:
        """Append to `block` inside the with statement."""
        outer, self.block = self.block, block
        try:
            yield
        finally:
            self.block = outer

    @contextmanager
    def for_(
        self,
        lo: IndexLike,
        hi: IndexLike,
        carried: Sequence[Value] = (),
        step: int = 1,
        name: str = "",
    ) -> Iterator[Loop]:
        """Open a loop. Inside: `loop.index`, `loop.carried`; set `loop.yields` for the next round.

        After the with statement `loop.results` are the last values carried.
        """
        body = Block([INDEX, *(value.type for value in carried)], [name])
        loop = Loop(tuple(body.args[1:]), body.args[0])
        outer = self.block
        with self.at(body):
            yield loop
            self.emit("yield", loop.yields)
        with self.at(outer):
            operands = (self.index(lo), self.index(hi), *carried)
            op = self.emit("for", operands, nodes.ForAttrs(step), (body,))
        loop.results = op.results

    @contextmanager
    def while_(self, condition: Value, carried: Sequence[Value]) -> Iterator[Loop]:
        """Open a loop that runs while its condition is true, at first `condition`.

        Inside: `loop.carried`; set `loop.again` and `loop.yields` for the next round.
        """
        body = Block([value.type for value in carried])
        loop = Loop(tuple(body.args))
        with self.at(body):
            yield loop
            assert loop.again is not None
            self.emit("yield", (loop.again, *loop.yields))
        op = self.emit("while", (condition, *carried), None, (body,))
        loop.results = op.results

    @contextmanager
    def parallel(
        self, count: IndexLike, when: Value | None = None, name: str = ""
    ) -> Iterator[tuple[Value, Value]]:
        """Open a parallel loop; gives (index, worker). `when` false keeps it on this thread."""
        body = Block([INDEX, INDEX], [name, "worker"])
        with self.at(body):
            yield body.args[0], body.args[1]
            self.emit("yield")
        operands = (self.index(count), *((when,) if when is not None else ()))
        self.emit("parallel", operands, None, (body,))

    @contextmanager
    def tiles(
        self, types: Sequence[BufferType], rows: Sequence[IndexLike]
    ) -> Iterator[tuple[Value, ...]]:
        """Open a region that has tile registers of these types, each with so many rows."""
        body = Block(types, [f"t{i}" for i in range(len(types))])
        with self.at(body):
            yield tuple(body.args)
            self.emit("yield")
        self.emit("tiles", tuple(map(self.index, rows)), None, (body,))

    def tile_zero(self, tile: Value) -> None:
        self.emit("tile_zero", (tile,))

    def tile_load(self, tile: Value, buf: Value, offset: IndexLike, step: IndexLike) -> None:
        """Read the rows of a tile from `offset` on, `step` elements apart."""
        self.emit("tile_load", (tile, buf, self.index(offset), self.index(step)))

    def tile_store(self, tile: Value, buf: Value, offset: IndexLike, step: IndexLike) -> None:
        """Write the rows of a tile from `offset` on, `step` elements apart."""
        self.emit("tile_store", (tile, buf, self.index(offset), self.index(step)))

    def tile_dot(self, x: Value, y: Value, total: Value) -> None:
        """Add a product of tiles to the tile `total`; see `nodes.TILE_DOTS`."""
        self.emit("tile_dot", (x, y, total))

    @contextmanager
    def if_(self, condition: Value) -> Iterator[None]:
        """Open an `if` without else and without results."""
        then, otherwise = Block(), Block()
        with self.at(then):
            yield
            self.emit("yield")
        with self.at(otherwise):
            self.emit("yield")
        self.emit("if", (condition,), None, (then, otherwise))

    def branch(self, condition: Value, then: Block, otherwise: Block) -> tuple[Value, ...]:
        """Emit an `if` of two finished blocks that yield the same types."""
        types = [value.type for value in then.terminator.operands]
        return self.emit("if", (condition,), None, (then, otherwise), types).results

    def either(
        self,
        condition: Value,
        then: Callable[[], Sequence[Value]],
        otherwise: Callable[[], Sequence[Value]],
    ) -> tuple[Value, ...]:
        """Emit an `if`: the functions emit its sides, and return its results."""
        sides = Block(), Block()
        for block, side in zip(sides, (then, otherwise), strict=True):
            with self.at(block):
                self.emit("yield", side())
        return self.branch(condition, *sides)

    def check(self, condition: Value, code: int, message: str) -> None:
        self.emit("check", (condition,), nodes.CheckAttrs(code, message))


class Loop:
    """An open `for` or `while`: the carried values, what the body yields, and a `for`'s index."""

    def __init__(self, carried: tuple[Value, ...], index: Value | None = None) -> None:
        self._index = index
        self.carried = carried
        self.yields: Sequence[Value] = ()
        self.again: Value | None = None
        self.results: tuple[Value, ...] = ()

    @property
    def index(self) -> Value:
        assert self._index is not None, "a `while` has no index"
        return self._index


def _as_element(value: float | complex, dtype: DType) -> float | int | bool:
    """The number as the loop level has it: a complex one as its bits."""
    if dtype.kind == "c":
        parts = struct.pack("<2f" if dtype.bits == 64 else "<2d", value.real, value.imag)
        return int.from_bytes(parts, "little")
    assert not isinstance(value, complex)
    if dtype == BOOL:
        return bool(value)
    return float(value) if dtype.is_float else int(value)


def _dim_of(atom: Symbol | Call) -> DimLike:
    return from_terms({(atom,): 1})
