"""Emits many modules at a time, with processes beside this one: LLVM's bindings have one lock.

A worker is a fresh interpreter that reads LLVM text and writes objects. Nothing is forked, so
threads that the caller has started do no harm.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from tfc.compiler.codegen.emit import emit_object
from tfc.compiler.target import Target
from tfc.ir.errors import TfcError

WORTHWHILE = 1_500_000
"""Characters of LLVM text from which a worker repays its start."""

_HEAD = struct.Struct("<Q")
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from tfc.compiler.codegen.workers import serve; serve()"
)


def emit_objects(
    texts: Sequence[str], target: Target, opt: int, jobs: int, done: Callable[[int], None]
) -> list[bytes]:
    """Return the object of each text, `jobs` processes working on them, this one among them.

    done: called with the position of each finished text, from any thread.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    results: dict[int, bytes] = {}
    errors: list[TfcError] = []
    lock = threading.Lock()

    def work(emit: Callable[[str], bytes | None]) -> None:
        while True:
            with lock:
                if not order or errors:
                    return
                position = order.pop()
            try:
                data = emit(texts[position])
            except TfcError as error:
                errors.append(error)
                return
            if data is None:
                with lock:
                    order.append(position)
                return
            results[position] = data
            done(position)

    wanted = _worker_count(texts, jobs)
    workers = [_Worker(target, opt) for _ in range(wanted)]
    threads = [threading.Thread(target=work, args=(worker.emit,)) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        work(lambda text: emit_object(text, target, opt))
    except BaseException:
        order.clear()
        raise
    finally:
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()
    # What a worker that died has given back.
    work(lambda text: emit_object(text, target, opt))
    if errors:
        raise errors[0]
    return [results[i] for i in range(len(texts))]


def _worker_count(texts: Sequence[str], jobs: int) -> int:
    if not sys.executable or getattr(sys, "frozen", False):
        return 0
    worth = sum(map(len, texts)) // WORTHWHILE
    return max(0, min(jobs - 1, len(texts) - 1, worth))


def _package_root() -> str:
    """The folder that `tfc` is in: an editable install may find it by an import hook alone."""
    import tfc

    return str(Path(tfc.__path__[0]).parent)


class _Worker:
    """A process that emits; `emit` gives None when it is gone."""

    def __init__(self, target: Target, opt: int) -> None:
        command = [sys.executable, "-S", "-c", _START, json.dumps([_package_root(), *sys.path])]
        # In a session of its own, so that an interrupt from the keyboard stays with the caller.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._settings: bytes | None = pickle.dumps((target, opt))

    def emit(self, text: str) -> bytes | None:
        """Return the object, or None where the worker has died. Raises what LLVM refused."""
        try:
            if self._settings is not None:
                _send(self._input, self._settings)
                self._settings = None
            _send(self._input, text.encode())
            reply = _receive(self._output)
        except OSError:
            return None
        if reply is None:
            return None
        answer = pickle.loads(reply)
        if isinstance(answer, TfcError):
            raise answer
        assert isinstance(answer, bytes)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._input, self._output):
            # What was not yet written has no reader any more.
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def serve() -> None:
    """Answer on standard output what comes on standard input, until it ends."""
    settings = _receive(sys.stdin.buffer)
    if settings is None:
        return
    target, opt = pickle.loads(settings)
    while (text := _receive(sys.stdin.buffer)) is not None:
        answer: bytes | TfcError
        try:
            answer = emit_object(text.decode(), target, opt)
        except TfcError as error:
            answer = error
        _send(sys.stdout.buffer, pickle.dumps(answer))


def _send(out: IO[bytes], data: bytes) -> None:
    out.write(_HEAD.pack(len(data)))
    out.write(data)
    out.flush()


def _receive(source: IO[bytes]) -> bytes | None:
    head = source.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    (size,) = _HEAD.unpack(head)
    data = source.read(size)
    return data if len(data) == size else None
