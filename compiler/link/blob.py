"""Constant data too big for memory: placed by size, streamed when the file is written.

Not tied to a file format; the writers decide where the blobs start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from tfc.compiler.link.elf import align_up
from tfc.ir.errors import CompileError


@dataclass(frozen=True)
class Blob:
    """`size` bytes at `symbol`; `chunks` starts a new pass over the bytes at each call."""

    symbol: str
    size: int
    align: int
    chunks: Callable[[], Iterator[bytes | memoryview]]


def place_blobs(blobs: Sequence[Blob]) -> tuple[list[int], int]:
    """Return the offset of each blob and the size of all; an empty blob gets an address too."""
    offsets = []
    end = 0
    for blob in blobs:
        if blob.size < 0 or blob.align < 1 or blob.align & (blob.align - 1):
            raise CompileError(
                f"blob {blob.symbol}: size {blob.size} or alignment {blob.align} is not valid"
            )
        start = align_up(end, blob.align)
        offsets.append(start)
        end = start + max(blob.size, 1)
    return offsets, end


def stream_blobs(out: BinaryIO, blobs: Sequence[Blob]) -> None:
    """Write all blobs with their padding, as `place_blobs` laid them out."""
    offsets, end = place_blobs(blobs)
    position = 0
    for blob, offset in zip(blobs, offsets, strict=True):
        out.write(bytes(offset - position))
        written = 0
        for chunk in blob.chunks():
            written += memoryview(chunk).nbytes
            if written > blob.size:
                break
            out.write(chunk)
        if written != blob.size:
            raise CompileError(
                f"blob {blob.symbol}: {blob.size} bytes were promised, "
                f"{'more' if written > blob.size else written} came"
            )
        position = offset + written
    out.write(bytes(end - position))
