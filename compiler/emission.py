"""The machine code of a program's LLVM texts, made on a thread while the caller writes the next.

LLVM works outside of Python's lock, but has one of its own: a second thread is of use, a third is
not. What is left when all texts are there goes to processes if it is much, see `codegen.workers`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from tfc.compiler.cache import Cache
from tfc.compiler.codegen.emit import emit_object, text_key
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.codegen.workers import WORTHWHILE, emit_objects
from tfc.compiler.target import Target
from tfc.ir.core import Function

# The thread needs Python for a moment between its calls of LLVM; by default it waits 5 ms for it.
_SWITCH_SECONDS = 1e-4


class Emission:
    """Objects by key, from the cache or emitted; a context manager, which stops what runs."""

    def __init__(self, target: Target, opt: int, jobs: int, cache: Cache) -> None:
        self._target = target
        self._opt = opt
        self._jobs = jobs
        self._cache = cache
        self._thread = ThreadPoolExecutor(1, "tfc-emit")
        self._kernels: dict[str, str] = {}
        self._quick: set[str] = set()
        self._found: dict[str, bytes] = {}
        self._waiting: dict[str, tuple[str, Future[bytes]]] = {}

    def __enter__(self) -> Emission:
        _switching.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        _switching.end()

    def kernel(self, function: Function) -> str:
        """Return the text of a kernel, whose object is on its way then."""
        text = self._kernels.get(function.name)
        if text is None:
            text = self._kernels[function.name] = kernel_text(function, self._target)
            self.add(text)
        return text

    def add_quick(self, text: str) -> str:
        """Have the object made of a text in which no time is spent: LLVM takes the least."""
        self._quick.add(text)
        return self.add(text)

    def add(self, text: str) -> str:
        """Have a text's object made unless it is there; returns its key."""
        opt = 0 if text in self._quick else self._opt
        key = text_key(text, self._target, opt)
        if key not in self._found and key not in self._waiting:
            known = self._cache.get(key)
            if known is not None:
                self._found[key] = known
            else:
                self._waiting[key] = text, self._thread.submit(self._emit, key, text, opt)
        return key

    def _emit(self, key: str, text: str, opt: int) -> bytes:
        data = emit_object(text, self._target, opt)
        self._cache.put(key, data)
        return data

    def objects(self, texts: Iterable[str], progress: Callable[[int, int], None]) -> list[bytes]:
        """Return the texts' objects. progress: told how many of those that had to be made are.

        Raises CompileError for a text that LLVM refuses.
        """
        keys = [self.add(text) for text in texts]
        count = len(self._waiting)
        self._share()
        while self._waiting:
            key, (_, future) = next(iter(self._waiting.items()))
            self._found[key] = future.result()
            del self._waiting[key]
            progress(count - len(self._waiting), count)
        return [self._found[key] for key in keys]

    def _share(self) -> None:
        """Let processes take part where they repay their start."""
        left = {
            key: text
            for key, (text, future) in self._waiting.items()
            if not future.done() and text not in self._quick
        }
        if self._jobs < 2 or sum(map(len, left.values())) < 2 * WORTHWHILE:
            return
        taken = [key for key in left if self._waiting[key][1].cancel()]
        texts = [left[key] for key in taken]
        made = emit_objects(texts, self._target, self._opt, self._jobs, lambda position: None)
        for key, data in zip(taken, made, strict=True):
            self._found[key] = data
            self._cache.put(key, data)
            del self._waiting[key]


class _Switching:
    """Python's switch interval, short as long as any emission is under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0.0

    def begin(self) -> None:
        with self._lock:
            if not self._users:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, _SWITCH_SECONDS))
            self._users += 1

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                sys.setswitchinterval(self._before)


_switching = _Switching()
