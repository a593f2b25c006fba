"""Loads, stores, gathers, tables and stack buffers. Lanes that are masked off touch no memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfc.compiler.codegen.casts import from_bool, to_bool
from tfc.compiler.codegen.llvm_types import literal, memory_element, splat, suffix, vector
from tfc.compiler.codegen.values import Linear, ValueBuilder
from tfc.ir.core import Op, Value
from tfc.ir.errors import CompileError
from tfc.ir.types import BOOL, BufferType, DType, VectorType

_INVARIANT = ", !invariant.load !0"
_GATHER_LANES = 8
"""From how many lanes on a gather instruction is used where the target has one; below, and on
older x86, scalar loads are as fast or faster."""


def _buffer(value: Value) -> BufferType:
    assert isinstance(value.type, BufferType)
    return value.type


def _read(e: ValueBuilder, buf: Value, type: str, address: str) -> str:
    align = _buffer(buf).dtype.bytes
    note = _INVARIANT if e.is_read_only(buf) else ""
    return e.effect(type, f"load {type}, ptr {address}, align {align}{note}")


def _to_register(e: ValueBuilder, value: str, dtype: DType, lanes: int) -> str:
    return to_bool(e, value, vector("i8", lanes)) if dtype == BOOL else value


def _to_memory(e: ValueBuilder, value: str, dtype: DType, lanes: int) -> str:
    return from_bool(e, value, vector("i8", lanes)) if dtype == BOOL else value


def _load(e: ValueBuilder, op: Op) -> None:
    buf, *indices = op.operands
    dtype = _buffer(buf).dtype
    value = _read(e, buf, memory_element(dtype), e.address(buf, indices))
    e.values[op.result] = _to_register(e, value, dtype, 0)


def _store(e: ValueBuilder, op: Op) -> None:
    value, buf, *indices = op.operands
    dtype = _buffer(buf).dtype
    text = _to_memory(e, e.value(value), dtype, 0)
    address = e.address(buf, indices)
    e.line(f"store {memory_element(dtype)} {text}, ptr {address}, align {dtype.bytes}")


class _Access:
    """A vector access along one axis: `lanes` elements from `operands`' indices on."""

    def __init__(self, e: ValueBuilder, op: Op, operands: tuple[Value, ...], lanes: int) -> None:
        self.e = e
        self.buf = operands[0]
        type = _buffer(self.buf)
        self.dtype = type.dtype
        self.lanes = lanes
        self.of = memory_element(type.dtype)
        self.type = vector(self.of, lanes)
        self.mask_type = vector("i1", lanes)
        self.mask = e.value(operands[-1]) if op.attrs.masked else ""
        self.indices = operands[1:-1] if op.attrs.masked else operands[1:]
        self.all = splat("true", self.mask_type)

    def read(self, pointers: str) -> str:
        """Gather; lanes that are masked off give 0."""
        return self._call(
            "gather",
            self.type,
            f"{self._pointer_text(pointers)}, {self._mask_text()}, {self.type} zeroinitializer",
            [self._pointers, self.mask_type, self.type],
        )

    def write(self, value: str, pointers: str) -> None:
        name = f"@llvm.masked.scatter.{suffix(self.type)}.v{self.lanes}p0"
        self.e.declare("void", name, [self.type, self._pointers, self.mask_type])
        self.e.line(
            f"call void {name}({self.type} {value}, {self._pointer_text(pointers)}, "
            f"{self._mask_text()})"
        )

    def read_contiguous(self) -> str:
        address = self.e.address(self.buf, self.indices)
        if not self.mask:
            return _read(self.e, self.buf, self.type, address)
        return self._call(
            "load",
            self.type,
            f"ptr align {self.dtype.bytes} {address}, {self._mask_text()}, "
            f"{self.type} zeroinitializer",
            ["ptr", self.mask_type, self.type],
        )

    def write_contiguous(self, value: str) -> None:
        address = self.e.address(self.buf, self.indices)
        if not self.mask:
            self.e.line(f"store {self.type} {value}, ptr {address}, align {self.dtype.bytes}")
            return
        name = f"@llvm.masked.store.{suffix(self.type)}.p0"
        self.e.declare("void", name, [self.type, "ptr", self.mask_type])
        self.e.line(
            f"call void {name}({self.type} {value}, ptr align {self.dtype.bytes} {address}, "
            f"{self._mask_text()})"
        )

    def lane_address(self, axis: int, lane: int) -> str:
        """Return the address of one lane of an access along `axis`."""
        strides = _buffer(self.buf).strides
        offset = Linear((), strides[axis] * lane)
        for index, stride in zip(self.indices, strides, strict=True):
            offset = offset.plus(self.e.linear(index), stride)
        return self.e.element_address(self.buf, offset)

    def strided_pointers(self, axis: int) -> str:
        stride = _buffer(self.buf).strides[axis]
        base = self.e.address(self.buf, self.indices)
        if isinstance(stride, int):
            wide = "i32" if abs(stride) * self.lanes < 2**31 else "i64"
            numbers = ", ".join(f"{wide} {lane * stride}" for lane in range(self.lanes))
            return self.offset_pointers(base, f"<{self.lanes} x {wide}>", f"<{numbers}>")
        type = vector("i64", self.lanes)
        numbers = ", ".join(f"i64 {lane}" for lane in range(self.lanes))
        step = self.e.splat(self.e.dim(stride), type)
        return self.offset_pointers(base, type, self.e.op("mul", type, f"<{numbers}>", step))

    def gather_pointers(self) -> str:
        """Return the addresses that vector indices name; scalar ones go into the base."""
        strides = _buffer(self.buf).strides
        type = vector("i64", self.lanes)
        offset = Linear()
        total = ""
        for index, stride in zip(self.indices, strides, strict=True):
            if not isinstance(index.type, VectorType):
                offset = offset.plus(self.e.linear(index), stride)
                continue
            part = self.e.value(index)
            if stride != 1:
                part = self.e.op("mul", type, part, self.e.splat(self.e.dim(stride), type))
            total = self.e.op("add", type, total, part) if total else part
        return self.offset_pointers(self.e.element_address(self.buf, offset), type, total)

    def offset_pointers(self, base: str, type: str, offsets: str) -> str:
        return self.e.let(
            self._pointers,
            f"getelementptr {self.of}, ptr {base}, {type} {offsets}",
            base,
            offsets,
        )

    @property
    def _pointers(self) -> str:
        return vector("ptr", self.lanes)

    def _pointer_text(self, pointers: str) -> str:
        return f"{self._pointers} align {self.dtype.bytes} {pointers}"

    def _mask_text(self) -> str:
        return f"{self.mask_type} {self.mask or self.all}"

    def _call(self, what: str, type: str, args: str, kinds: list[str]) -> str:
        behind = "p0" if what == "load" else f"v{self.lanes}p0"
        name = f"@llvm.masked.{what}.{suffix(type)}.{behind}"
        self.e.declare(type, name, kinds)
        return self.e.effect(type, f"call {type} {name}({args})")


def _axis(op: Op, buf: Value) -> int:
    rank = len(_buffer(buf).shape)
    return op.attrs.axis % rank if rank else 0


def _vload(e: ValueBuilder, op: Op) -> None:
    access = _Access(e, op, op.operands, op.attrs.lanes)
    axis = _axis(op, access.buf)
    stride = _buffer(access.buf).strides[axis]
    if stride == 1:
        value = access.read_contiguous()
    elif access.mask:
        value = access.read(access.strided_pointers(axis))
    elif stride == 0:
        one = _read(e, access.buf, access.of, e.address(access.buf, access.indices))
        value = e.splat(one, access.type)
    elif e.target.has_masks and access.lanes >= _GATHER_LANES and access.dtype.bytes >= 4:
        value = access.read(access.strided_pointers(axis))
    else:
        value = "poison"
        for lane in range(access.lanes):
            one = _read(e, access.buf, access.of, access.lane_address(axis, lane))
            value = e.let(
                access.type,
                f"insertelement {access.type} {value}, {access.of} {one}, i64 {lane}",
                value,
                one,
            )
    e.values[op.result] = _to_register(e, value, access.dtype, access.lanes)


def _vstore(e: ValueBuilder, op: Op) -> None:
    value, *rest = op.operands
    access = _Access(e, op, tuple(rest), op.attrs.lanes)
    axis = _axis(op, access.buf)
    stride = _buffer(access.buf).strides[axis]
    text = _to_memory(e, e.value(value), access.dtype, access.lanes)
    if stride == 1:
        access.write_contiguous(text)
    elif access.mask:
        access.write(text, access.strided_pointers(axis))
    else:
        for lane in range(access.lanes):
            one = e.let(access.of, f"extractelement {access.type} {text}, i64 {lane}", text)
            address = access.lane_address(axis, lane)
            e.line(f"store {access.of} {one}, ptr {address}, align {access.dtype.bytes}")


def _gather(e: ValueBuilder, op: Op) -> None:
    assert isinstance(op.result.type, VectorType)
    access = _Access(e, op, op.operands, op.result.type.lanes)
    value = access.read(access.gather_pointers())
    e.values[op.result] = _to_register(e, value, access.dtype, access.lanes)


def _scatter(e: ValueBuilder, op: Op) -> None:
    value, *rest = op.operands
    assert isinstance(value.type, VectorType)
    access = _Access(e, op, tuple(rest), value.type.lanes)
    text = _to_memory(e, e.value(value), access.dtype, access.lanes)
    access.write(text, access.gather_pointers())


def _prefetch(e: ValueBuilder, op: Op) -> None:
    buf, *indices = op.operands
    e.declare("void", "@llvm.prefetch.p0", ["ptr", "i32", "i32", "i32"])
    address = e.address(buf, indices)
    e.line(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 3, i32 1)")


def _alloca(e: ValueBuilder, op: Op) -> None:
    type = op.attrs.type
    size = 1
    for extent, stride in zip(type.shape, type.strides, strict=True):
        if not isinstance(extent, int) or not isinstance(stride, int):
            raise CompileError(f"a stack buffer of symbolic shape: {type}", where=str(op.loc))
        size += (extent - 1) * stride if extent else 0
    e.values[op.result] = e.stack(f"[{size} x {memory_element(type.dtype)}]")


def _view(e: ValueBuilder, op: Op) -> None:
    source, offset = op.operands
    e.add_view(op.result, source, e.linear(offset))


def _table(e: ValueBuilder, op: Op) -> None:
    e.values[op.result] = table_of(e, op.attrs.values.values, op.attrs.dtype)
    e.constant_arguments.add(op.result)


def table_of(e: ValueBuilder, values: Sequence[Any], dtype: DType) -> str:
    """Return the name of a read-only table in the module."""
    of = memory_element(dtype)
    items = ", ".join(
        f"{of} {int(value) if dtype == BOOL else literal(value, dtype)}" for value in values
    )
    text = f"internal constant [{len(values)} x {of}] [{items}], align 64"
    name = e.tables.get(text)
    if name is None:
        name = e.tables[text] = f"@tfc_table{e.number()}"
        e.globals.append(f"{name} = {text}")
    return name


MEMORY: Mapping[str, Callable[[ValueBuilder, Op], None]] = {
    "load": _load,
    "store": _store,
    "vload": _vload,
    "vstore": _vstore,
    "gather": _gather,
    "scatter": _scatter,
    "prefetch": _prefetch,
    "alloca": _alloca,
    "view": _view,
    "table": _table,
}
