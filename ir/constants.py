"""The constant store: data of large constants by content hash, in memory or mapped from files."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.ir.arrays import dtype_of
from tfc.ir.attrs import ConstRef
from tfc.ir.errors import ModelError
from tfc.ir.types import BF16, DType

Array = npt.NDArray[Any]
_CHUNK = 1 << 24
# Bytes of mapped arrays that may stay in memory after they were read.
_MOST_READ = 1 << 23


def content_hash(array: Array, dtype: DType) -> str:
    """Return the hash of dtype, shape and bytes: 32 hex digits of blake2b."""
    digest = hashlib.blake2b(f"{dtype}{list(array.shape)}".encode(), digest_size=16)
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _CHUNK):
        digest.update(flat[start : start + _CHUNK].data)
    return digest.hexdigest()


class ConstantStore:
    """Maps hashes to arrays. Shared by all modules of one compilation; entries never change.

    mapped: files in whose mapped pages arrays lie. Pages that were read do not stay with the
    process, only with the system.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.mapped: Sequence[mmap.mmap] = ()
        self._arrays: dict[str, Array] = {}
        self._directory = directory
        self._read = 0

    def __contains__(self, ref: ConstRef) -> bool:
        return ref.hash in self._arrays

    def add(self, array: Array, dtype: DType) -> ConstRef:
        """Store an array, which must not change afterwards, and return its reference."""
        ref = ConstRef(content_hash(array, dtype))
        if ref.hash not in self._arrays:
            self._arrays[ref.hash] = array
        self._note_read(array)
        return ref

    def get(self, ref: ConstRef) -> Array:
        """Return the data. Raises ModelError where neither store nor directory has it."""
        if ref.hash in self._arrays:
            self._note_read(self._arrays[ref.hash])
            return self._arrays[ref.hash]
        if self._directory is not None:
            path = self._directory / f"{ref.hash}.npy"
            if path.exists():
                self._arrays[ref.hash] = array = _mapped(path, ref.hash)
                return array
        raise ModelError(f"constant @{ref.hash} is not in the constant store")

    def _note_read(self, array: Array) -> None:
        """Give pages back when many bytes have been read."""
        self._read += array.nbytes
        if self._read >= _MOST_READ:
            self._read = 0
            for data in self.mapped:
                data.madvise(mmap.MADV_DONTNEED)

    def write(self, refs: Iterable[ConstRef], directory: Path) -> None:
        """Write `directory/HASH.npy` for each reference that is not there yet."""
        directory.mkdir(parents=True, exist_ok=True)
        for ref in refs:
            path = directory / f"{ref.hash}.npy"
            if not path.exists():
                np.save(path, self.get(ref), allow_pickle=False)


def _mapped(path: Path, wanted: str) -> Array:
    """Map a file that `write` made. Raises ModelError where it holds anything else."""
    try:
        array: Array = np.lib.format.open_memmap(path, mode="r")
        # A file does not say whether 16-bit words are bf16.
        dtypes = [dtype_of(array), BF16] if array.dtype == np.uint16 else [dtype_of(array)]
    except (ValueError, TypeError, EOFError) as error:
        raise ModelError(f"not the data of a constant: {error}", where=str(path)) from error
    if wanted not in (content_hash(array, dtype) for dtype in dtypes):
        raise ModelError("its contents are not those that its name says", where=str(path))
    return array
