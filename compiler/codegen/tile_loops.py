"""Tile ops as loops over vectors, for machines without tile registers: tests run schedules so.

Bits are those of the instructions (`ir.loop.tiles`); speed is not the point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tfc.compiler.codegen.llvm_types import memory_element, splat, vector
from tfc.compiler.codegen.loops import LoopEmitter
from tfc.compiler.codegen.values import Linear
from tfc.ir.core import Block, Op, Value
from tfc.ir.types import BF16, BufferType, DType

_LEAST_NORMAL = "0x3810000000000000"


def allocate(e: LoopEmitter, op: Op) -> None:
    """Give each tile of a region memory on the stack."""
    for tile in op.regions[0].args:
        rows, columns, of = _form(tile)
        e.values[tile] = e.stack(f"[{rows * columns} x {of}]")


def _form(tile: Value) -> tuple[int, int, str]:
    """Rows at most, columns, and the type of an element in memory."""
    assert isinstance(tile.type, BufferType)
    rows, columns = tile.type.shape
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    return rows, columns, memory_element(tile.type.dtype)


def _dtype(tile: Value) -> DType:
    assert isinstance(tile.type, BufferType)
    return tile.type.dtype


def _rows(e: LoopEmitter, tile: Value) -> Linear:
    assert isinstance(tile.owner, Block)
    assert isinstance(tile.owner.parent, Op)
    return e.linear(tile.owner.parent.operands[tile.index])


def _each_row(e: LoopEmitter, tile: Value, body: Callable[[Linear], None]) -> None:
    def run(row: Linear, _: list[str]) -> Sequence[str]:
        body(row)
        return ()

    e.loop(Linear(), _rows(e, tile), 1, (), run)


def _place(e: LoopEmitter, tile: Value, row: Linear) -> str:
    """The address of a row of a tile."""
    _, columns, of = _form(tile)
    return e.place(e.value(tile), of, row.times(columns))


def _zero(e: LoopEmitter, op: Op) -> None:
    (tile,) = op.operands
    _, columns, of = _form(tile)
    type = vector(of, columns)
    _each_row(
        e, tile, lambda row: e.line(f"store {type} zeroinitializer, ptr {_place(e, tile, row)}")
    )


def _access(e: LoopEmitter, op: Op) -> None:
    tile, buf, offset, step = op.operands
    _, columns, of = _form(tile)
    type, align = vector(of, columns), _dtype(buf).bytes
    start, distance = e.linear(offset), e.value(step)

    def move(row: Linear) -> None:
        (name, _), *_ = row.terms or (("0", 1),)
        away = Linear(((e.op("mul", "i64", name, distance), 1),))
        outside = e.element_address(buf, start.plus(away))
        inside = _place(e, tile, row)
        source, to = (outside, inside) if op.name == "tile_load" else (inside, outside)
        value = e.effect(type, f"load {type}, ptr {source}, align {align}")
        e.line(f"store {type} {value}, ptr {to}, align {align}")

    _each_row(e, tile, move)


def _dot(e: LoopEmitter, op: Op) -> None:
    x, y, total = op.operands
    _, lanes, of = _form(total)
    type, words = vector(of, lanes), vector("i32", lanes)
    floats = _dtype(x) == BF16
    zero = splat("0.0" if floats else "0", type)

    def row(at: Linear) -> None:
        address = _place(e, total, at)
        before = e.effect(type, f"load {type}, ptr {address}, align 4")

        def step(k: Linear, sums: list[str]) -> Sequence[str]:
            word = e.effect("i32", f"load i32, ptr {e.place(_place(e, x, at), 'i32', k)}, align 4")
            column = e.effect(words, f"load {words}, ptr {_place(e, y, k)}, align 4")
            factors = e.splat(word, words), column
            if floats:
                return _add_pairs(e, factors, type, sums)
            signs = _dtype(x).kind == "i", _dtype(y).kind == "i"
            return _add_bytes(e, factors, signs, words, sums)

        inits = [(type, zero), (type, zero)] if floats else [(type, before)]
        sums = e.loop(Linear(), _rows(e, y), 1, inits, step)
        after = sums[0]
        if floats:
            products = _flushed(e, type, e.op("fadd", type, *sums))
            after = e.op("fadd", type, _flushed(e, type, before), products)
            after = _flushed(e, type, after)
        e.line(f"store {type} {after}, ptr {address}, align 4")

    _each_row(e, total, row)


def _add_pairs(e: LoopEmitter, factors: Sequence[str], type: str, sums: Sequence[str]) -> list[str]:
    """Add products of bf16 pairs to the sums of the even steps and of the odd ones."""
    words = type.replace("float", "i32")
    parts = []
    for low in (True, False):
        wide = [
            e.op("shl", words, x, splat("16", words))
            if low
            else e.op("and", words, x, splat("-65536", words))
            for x in factors
        ]
        parts.append([_flushed(e, type, e.convert("bitcast", words, x, type)) for x in wide])
    return [
        _flushed(e, type, e.intrinsic("fma", type, (type, x), (type, y), (type, total)))
        for (x, y), total in zip(parts, sums, strict=True)
    ]


def _flushed(e: LoopEmitter, type: str, value: str) -> str:
    """Zeros of their signs for denormals."""
    size = e.intrinsic("fabs", type, (type, value))
    small = e.compare("fcmp olt", type, size, splat(_LEAST_NORMAL, type))
    zero = e.intrinsic("copysign", type, (type, splat("0.0", type)), (type, value))
    return e.select(small, type, zero, value)


def _add_bytes(
    e: LoopEmitter,
    factors: Sequence[str],
    signs: tuple[bool, bool],
    words: str,
    sums: Sequence[str],
) -> list[str]:
    (total,) = sums
    top = splat("24", words)
    for byte in range(4):
        wide = []
        for x, signed in zip(factors, signs, strict=True):
            high = e.op("shl", words, x, splat(str(24 - 8 * byte), words))
            wide.append(e.op("ashr" if signed else "lshr", words, high, top))
        total = e.op("add", words, total, e.op("mul", words, *wide))
    return [total]


TILE_LOOPS: Mapping[str, Callable[[LoopEmitter, Op], None]] = {
    "tile_zero": _zero,
    "tile_load": _access,
    "tile_store": _access,
    "tile_dot": _dot,
}
