"""The constant table of a program: where each entry lies in memory, and its bytes as a blob."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from tfc.compiler.link.blob import Blob
from tfc.ir.attrs import ConstRef
from tfc.ir.constants import ConstantStore
from tfc.ir.core import DataEntry, Module, ops_of
from tfc.ir.dims import product
from tfc.ir.errors import CompileError

ALIGNMENT = 64
_CHUNK = 1 << 20


class Table(NamedTuple):
    """Byte offset of each entry by name, and the bytes of all."""

    offsets: dict[str, int]
    size: int


def table_of(program: Module) -> Table:
    """Lay out the program's data: entries in order, each aligned."""
    offsets: dict[str, int] = {}
    end = 0
    for name, entry in program.data.items():
        offsets[name] = start = end + -end % ALIGNMENT
        end = start + _bytes_of(name, entry)
    return Table(offsets, end)


def _bytes_of(name: str, entry: DataEntry) -> int:
    size = product(entry.type.shape)
    if not isinstance(size, int):
        raise CompileError(f"constant {name} has no fixed size: {entry.type}")
    return size * entry.type.dtype.bytes


def table_blob(program: Module, symbol: str) -> Blob:
    """Return the whole table as one blob; its bytes are read when the file is written."""
    return Blob(symbol, table_of(program).size, ALIGNMENT, partial(_chunks, program))


def _chunks(program: Module) -> Iterator[bytes | memoryview]:
    store = program.constants
    assert isinstance(store, ConstantStore)
    offsets, position = table_of(program).offsets, 0
    for name, entry in program.data.items():
        yield bytes(offsets[name] - position)
        data = np.ascontiguousarray(store.get(entry.ref)).reshape(-1).view(np.uint8)
        if data.size != _bytes_of(name, entry):
            raise CompileError(f"constant {name} has {data.size} bytes, but is {entry.type}")
        for start in range(0, data.size, _CHUNK):
            yield data[start : start + _CHUNK].data
        position = offsets[name] + data.size


def stored_refs(module: Module) -> list[ConstRef]:
    """Return what of the constant store a module of either level refers to."""
    found = {entry.ref: None for entry in module.data.values()}
    for op in ops_of(module.functions.values()):
        value = getattr(op.attrs, "value", None)
        if isinstance(value, ConstRef):
            found[value] = None
    return list(found)
