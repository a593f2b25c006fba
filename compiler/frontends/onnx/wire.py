"""Takes large tensors out of an ONNX file before the onnx package parses it.

Parsing copies what it parses, and weights are nearly all of a file. They are left where they are:
the package is given the model as if it had them in another file (`TensorProto.external_data`).
What is no well-formed message is not looked into, for the package to judge.
"""

from __future__ import annotations

import mmap

OWN_FILE = "tfc:own-file"
"""The key of external data that lies in the model's file itself; its value is the offset."""

LARGE = 1 << 16
"""Bytes from which on a tensor's data stays in the file."""

_MODEL, _GRAPH, _FUNCTION, _NODE, _ATTRIBUTE, _TENSOR = range(6)
# By kind of message the fields that hold messages, and of which kind.
_INSIDE = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR},
    _FUNCTION: {7: _NODE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH},
    _TENSOR: {},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_VARINT = 10  # bytes
_MOST_NESTED = 64


class _Damaged(Exception):
    pass


def without_weights(data: mmap.mmap) -> bytes | None:
    """Return the model of a file without its large tensors; None where it has none."""
    try:
        found = _Writer(data).message(0, len(data), _MODEL, 0)
    except _Damaged:
        return None
    return found if len(found) < len(data) else None


class _Writer:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data

    def message(self, at: int, end: int, kind: int, depth: int) -> bytes:
        """Return the message at `at` to `end` with its large tensors replaced."""
        if depth > _MOST_NESTED:
            raise _Damaged
        parts, copied = [], at
        while at < end:
            start = at
            number, wire, begin, at = self._field(at, end)
            inner = _INSIDE[kind].get(number)
            if wire != _BYTES or inner is None or at - begin < LARGE:
                continue
            made = (
                self._tensor(begin, at)
                if inner == _TENSOR
                else self.message(begin, at, inner, depth + 1)
            )
            parts += [self._data[copied:start], _bytes_field(number, made)]
            copied = at
        parts.append(self._data[copied:end])
        return b"".join(parts)

    def _tensor(self, at: int, end: int) -> bytes:
        """Return a tensor that refers to its raw data, if that is where its data is."""
        first, found = at, []
        while at < end:
            start = at
            number, _, begin, at = self._field(at, end)
            if number in (_EXTERNAL_DATA, _DATA_LOCATION):
                return self._data[first:end]
            if number == _RAW_DATA:
                found.append((start, begin, at))
        if len(found) != 1 or found[0][2] - found[0][1] < LARGE:
            return self._data[first:end]
        start, begin, stop = found[0]
        entries = {OWN_FILE: begin, "length": stop - begin}
        external = [
            _bytes_field(
                _EXTERNAL_DATA,
                _bytes_field(1, key.encode()) + _bytes_field(2, str(value).encode()),
            )
            for key, value in entries.items()
        ]
        location = bytes([_DATA_LOCATION << 3 | _VARINT, 1])
        return b"".join([self._data[first:start], self._data[stop:end], *external, location])

    def _field(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Return the number and wire type of a field, and where its contents begin and end."""
        tag, at = self._varint(at, end)
        wire = tag & 7
        stop = at
        if wire == _BYTES:
            size, at = self._varint(at, end)
            stop = at + size
        elif wire == _VARINT:
            _, stop = self._varint(at, end)
        elif wire in (_FIXED32, _FIXED64):
            stop = at + (4 if wire == _FIXED32 else 8)
        else:
            raise _Damaged
        if stop > end:
            raise _Damaged
        return tag >> 3, wire, at, stop

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 7 * _MOST_VARINT, 7):
            if at >= end:
                raise _Damaged
            byte = self._data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
        raise _Damaged


def _bytes_field(number: int, contents: bytes) -> bytes:
    return _encoded(number << 3 | _BYTES) + _encoded(len(contents)) + contents


def _encoded(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
