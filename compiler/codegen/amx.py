"""Tile ops as Intel AMX instructions (SDM volume 1, chapter 18): one intrinsic each.

Tiles are numbered in the order of the region's arguments. `kernel` calls `configure` and
`release` around a region; `abi` asks the system for the registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tfc.compiler.codegen.values import ValueBuilder
from tfc.ir.core import Op, Value
from tfc.ir.errors import CompileError
from tfc.ir.types import BF16, BufferType, DType

CONFIG_BYTES = 64
_PALETTE, _COLUMN_BYTES, _ROWS = 0, 16, 48
"""Offsets in a configuration: the palette, and for each tile bytes a row (16 bits) and rows."""

REQUEST, TILE_DATA = 0x1023, 18
"""What arch_prctl is asked, ARCH_REQ_XCOMP_PERM, and for which part of the state."""
ARCH_PRCTL = 158


def has_tiles(text: str) -> bool:
    """Whether a module's text uses tile registers."""
    return "@llvm.x86.ldtilecfg" in text


def configure(e: ValueBuilder, op: Op) -> None:
    """Number the tiles of a region and load their configuration."""
    (region,) = op.regions
    data = bytearray(CONFIG_BYTES)
    data[_PALETTE] = 1
    counted = []
    for number, (tile, rows) in enumerate(zip(region.args, op.operands, strict=True)):
        e.values[tile] = str(number)
        size = _type(tile).shape[1] * _type(tile).dtype.bytes
        assert isinstance(size, int)
        data[_COLUMN_BYTES + 2 * number] = size
        known = e.number_of(rows)
        if isinstance(known, int):
            data[_ROWS + number] = known
        else:
            counted.append((number, e.value(rows)))
    text = ", ".join(f"i8 {byte}" for byte in data)
    name = f"@tfc_tiles{e.number()}"
    e.globals.append(
        f"{name} = internal constant [{CONFIG_BYTES} x i8] [{text}], align {CONFIG_BYTES}"
    )
    if counted:
        name = _with_rows(e, name, counted)
    e.declare("void", "@llvm.x86.ldtilecfg", ["ptr"])
    e.line(f"call void @llvm.x86.ldtilecfg(ptr {name})")


def _with_rows(e: ValueBuilder, constant: str, counted: list[tuple[int, str]]) -> str:
    """A copy of a configuration on the stack, with numbers of rows that are known only now."""
    whole = f"<{CONFIG_BYTES} x i8>"
    name = e.stack(f"[{CONFIG_BYTES} x i8]")
    value = e.effect(whole, f"load {whole}, ptr {constant}, align {CONFIG_BYTES}")
    e.line(f"store {whole} {value}, ptr {name}, align {CONFIG_BYTES}")
    for number, rows in counted:
        at = e.here("ptr", f"getelementptr i8, ptr {name}, i64 {_ROWS + number}")
        e.line(f"store i8 {e.convert('trunc', 'i64', rows, 'i8')}, ptr {at}, align 1")
    return name


def release(e: ValueBuilder) -> None:
    e.declare("void", "@llvm.x86.tilerelease", [])
    e.line("call void @llvm.x86.tilerelease()")


def _type(tile: Value) -> BufferType:
    assert isinstance(tile.type, BufferType)
    return tile.type


def _call(e: ValueBuilder, name: str, *args: tuple[str, str]) -> None:
    e.declare("void", f"@llvm.x86.{name}", [type for type, _ in args])
    # Which tile it is, is part of the instruction.
    text = ", ".join(f"{type} {value}" for type, value in args)
    e.line(f"call void @llvm.x86.{name}({text})")


def _zero(e: ValueBuilder, op: Op) -> None:
    _call(e, "tilezero", ("i8", e.value(op.operands[0])))


def _access(e: ValueBuilder, op: Op, name: str) -> None:
    tile, buf, offset, step = op.operands
    bytes = e.sum(e.linear(step).times(_type(buf).dtype.bytes))
    address = e.address(buf, [offset])
    _call(e, name, ("i8", e.value(tile)), ("ptr", address), ("i64", bytes))


def _load(e: ValueBuilder, op: Op) -> None:
    _access(e, op, "tileloadd64")


def _store(e: ValueBuilder, op: Op) -> None:
    _access(e, op, "tilestored64")


def _dot(e: ValueBuilder, op: Op) -> None:
    x, y, total = op.operands
    dtypes = _type(x).dtype, _type(y).dtype
    if not e.target.has_tiles(dtypes[0]):
        raise CompileError(f"the target has no tiles of {dtypes[0]}", where=str(op.loc) or None)
    name = "tdpbf16ps" if dtypes[0] == BF16 else f"tdpb{_sign(dtypes[0])}{_sign(dtypes[1])}d"
    _call(e, name, *(("i8", e.value(tile)) for tile in (total, x, y)))


def _sign(dtype: DType) -> str:
    return "s" if dtype.kind == "i" else "u"


AMX: Mapping[str, Callable[[ValueBuilder, Op], None]] = {
    "tile_zero": _zero,
    "tile_load": _load,
    "tile_store": _store,
    "tile_dot": _dot,
}
