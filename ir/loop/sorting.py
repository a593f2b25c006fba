"""Sorts pairs of a key and a place: what ops that put elements in order write their loops with.

Keys are unsigned integers whose order is that of the elements (`order_key`). Few pairs are sorted
by insertion, many by counting their bytes, lowest first; both keep equal keys in their order.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfc.ir.core import Value
from tfc.ir.dims import DimLike
from tfc.ir.loop.build import IndexLike, LoopBuilder
from tfc.ir.loop.kernel import KernelWriter
from tfc.ir.types import BOOL, I64, U8, U16, U32, U64, DType, buffer

# Up to how many pairs insertion is faster than clearing and adding up the counters.
FEW = 64
DIGITS = 256
_UNSIGNED = {8: U8, 16: U16, 32: U32, 64: U64}


def key_type(dtype: DType) -> DType:
    return _UNSIGNED[dtype.bits]


def order_key(b: LoopBuilder, x: Value, descending: bool = False) -> Value:
    """The key of an element. NaNs are equal and the greatest, zeros of either sign are equal."""
    dtype = b.dtype_of(x)
    unsigned = key_type(dtype)
    top = 1 << (dtype.bits - 1)
    if dtype == BOOL:
        key = b.cast(x, unsigned)
    elif dtype.kind == "u":
        key = x
    elif dtype.kind == "i":
        raw = b.bitcast(x, unsigned)
        key = b.xor(raw, b.const(top, raw))
    else:
        raw = b.bitcast(x, unsigned)
        sign = b.const(top, raw)
        key = b.select(b.ge(raw, sign), b.not_(raw), b.xor(raw, sign))
        key = b.select(b.eq(x, b.const(0, x)), sign, key)
        key = b.select(b.isnan(x), b.const(2 * top - 1, raw), key)
    return b.not_(key) if descending else key


class Sorter:
    """Pairs of each worker, in two areas of `room` pairs; they are put into the first.

    In front of either is the least key, which stops an insertion. rows: as of `k.rows`.
    """

    def __init__(
        self, k: KernelWriter, dtype: DType, room: DimLike, rows: Sequence[DimLike]
    ) -> None:
        self.b = k.b
        self.dtype = dtype
        self.room = room
        self.keys = k.own(dtype, rows, 2 * room + 2)
        self.places = k.own(I64, rows, 2 * room + 2)

    def put(self, worker: Value, at: IndexLike, key: Value, place: Value) -> None:
        """Store pair `at` of the first area."""
        self._store(worker, self.b.add(self.b.index(at), self.b.index(1)), key, place)

    def key(self, worker: Value, at: Value) -> Value:
        """The key at `at`, counted from the start of the memory, as `sort` does."""
        return self.b.load(self.keys, worker, at)

    def place(self, worker: Value, at: Value) -> Value:
        return self.b.load(self.places, worker, at)

    def sort(self, worker: Value, count: IndexLike) -> Value:
        """Sort the first `count` pairs of the first area; return where the sorted ones begin."""
        b = self.b
        size = b.index(count)
        if isinstance(count, int):
            return self._insert_all(worker, size) if count <= FEW else self._count(worker, size)
        (start,) = b.either(
            b.le(size, b.index(FEW)),
            lambda: [self._insert_all(worker, size)],
            lambda: [self._count(worker, size)],
        )
        return start

    def back(self, worker: Value, start: Value, count: IndexLike) -> None:
        """Copy pairs from `start` on to the first area."""
        b = self.b
        with b.for_(0, count) as loop:
            at = b.add(start, loop.index)
            self.put(worker, loop.index, self.key(worker, at), self.place(worker, at))

    # -- by insertion ---------------------------------------------------------------------------

    def insert(self, worker: Value, at: Value, key: Value, place: Value) -> None:
        """Insert a pair into the first `at` pairs, which are sorted, behind those of equal key.

        There must be room for it behind them, or the last of them is one too many.
        """
        b = self.b
        one = b.index(1)
        start = b.add(at, one)
        with b.while_(b.gt(self.key(worker, at), key), (start,)) as loop:
            (here,) = loop.carried
            before = b.sub(here, one)
            self._store(worker, here, self.key(worker, before), self.place(worker, before))
            loop.yields = (before,)
            loop.again = b.gt(self.key(worker, b.sub(before, one)), key)
        self._store(worker, loop.results[0], key, place)

    def guard(self, worker: Value) -> None:
        """Store the key that stops insertions."""
        self.b.store(self.b.const(0, self.dtype), self.keys, worker, 0)

    def _insert_all(self, worker: Value, count: Value) -> Value:
        b = self.b
        self.guard(worker)
        with b.for_(1, count) as loop:
            at = b.add(loop.index, b.index(1))
            self.insert(worker, loop.index, self.key(worker, at), self.place(worker, at))
        return b.index(1)

    def _store(self, worker: Value, at: Value, key: Value, place: Value) -> None:
        self.b.store(key, self.keys, worker, at)
        self.b.store(place, self.places, worker, at)

    # -- by counting ----------------------------------------------------------------------------

    def _count(self, worker: Value, size: Value) -> Value:
        b = self.b
        passes = self.dtype.bytes
        counts = b.alloca(buffer(I64, passes * DIGITS))
        lanes = 8
        with b.for_(0, passes * DIGITS, step=lanes) as loop:
            b.vstore(b.splat(b.index(0), lanes), counts, (loop.index,))
        start = b.index(1)
        with b.for_(0, size) as loop:
            key = self.key(worker, b.add(loop.index, start))
            for number in range(passes):
                slot = self._slot(key, number)
                b.store(b.add(b.load(counts, slot), b.index(1)), counts, slot)
        for number in range(passes):
            slot = self._slot(self.key(worker, start), number)
            same = b.eq(b.load(counts, slot), size)
            (start,) = b.either(
                same,
                lambda here=start: [here],  # type: ignore[misc]
                lambda here=start, n=number: [  # type: ignore[misc]
                    self._pass(worker, size, counts, here, n)
                ],
            )
        return start

    def _slot(self, key: Value, number: int) -> Value:
        """The counter of a key's byte `number`."""
        b = self.b
        if number:
            key = b.shr(key, b.const(8 * number, key))
        if self.dtype != U8:
            key = b.and_(key, b.const(DIGITS - 1, key))
        return b.add(b.cast(key, I64), b.index(number * DIGITS))

    def _pass(self, worker: Value, size: Value, counts: Value, start: Value, number: int) -> Value:
        """Move all pairs to the other area, in the order of one byte; return where they begin."""
        b = self.b
        other = b.sub(b.index(self.room + 3), start)
        with b.for_(number * DIGITS, (number + 1) * DIGITS, (other,)) as loop:
            (total,) = loop.carried
            own = b.load(counts, loop.index)
            b.store(total, counts, loop.index)
            loop.yields = (b.add(total, own),)
        with b.for_(0, size) as loop:
            at = b.add(start, loop.index)
            key = self.key(worker, at)
            slot = self._slot(key, number)
            to = b.load(counts, slot)
            b.store(b.add(to, b.index(1)), counts, slot)
            self._store(worker, to, key, self.place(worker, at))
        return other
