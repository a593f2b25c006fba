"""Thread pools shared by all executables of the process, one for each number of threads.

The pool itself is native code in the artifacts; the first one that has it provides it.
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from tfc.runtime.errors import RuntimeFault
from tfc.runtime.library import Library


class Pool(NamedTuple):
    """What a call context needs of a pool: addresses of the pool and of its `parallel_for`.

    `library` holds the code that the workers run, so it stays loaded with the pool.
    """

    handle: int
    parallel_for: int
    library: Library


_pools: dict[int, Pool] = {}
_lock = threading.Lock()


def shared_pool(threads: int, library: Library) -> Pool:
    """Return the process's pool of `threads`, making it with the code of `library`."""
    pool = _pools.get(threads)
    if pool is None:
        with _lock:
            pool = _pools.get(threads)
            if pool is None:
                pool = _pools[threads] = _create(threads, library)
    return pool


def _create(threads: int, library: Library) -> Pool:
    handle = library.pool_create(threads)
    if not handle:
        raise RuntimeFault(f"a pool of {threads} threads could not be started")
    return Pool(handle, library.parallel_for_address, library)


def _forget() -> None:
    """Start anew in a forked child: the parent's threads are not in it."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_forget)
