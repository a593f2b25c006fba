"""`Executable`: a compiled model as a Python callable; start at `Executable.__call__`.

It imports nothing of the compiler. A call is one native call; the rest here is binding memory.
"""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from tfc.runtime.arrays import DATA_AT, address, pointer_at
from tfc.runtime.errors import InputError, RuntimeFault
from tfc.runtime.inplace import Shared, check_apart, port_states
from tfc.runtime.library import TENSOR_WORDS, Context, Library
from tfc.runtime.pool import shared_pool
from tfc.runtime.pycall import FastCall, State, install, layout_is_known
from tfc.runtime.pylayout import PYCALL_VERSION
from tfc.runtime.signature import Port, Signature, as_input, numpy_dtype

Array = npt.NDArray[Any]

_MAX_PLANS = 256
_ALIGNMENT = 64
_CHUNK = 1 << 20
_FAULTS = {
    1: "the dims of an input do not fit the model",
    2: "an output's buffer is too small",
    3: "the workspace is too small",
    4: "this CPU lacks a feature that the code was compiled for",
    5: "a check failed",
    6: "a symbol is out of its bounds",
}


def _words(count: int) -> Any:
    """Return `count` 64-bit words, all zero, that native code can read: at least one."""
    return (ctypes.c_int64 * max(count, 1))()


class Executable(FastCall):
    """A compiled model.

    Called with arrays it returns an array, or a tuple for several outputs; called with a dict of
    arrays by input name, a dict by output name. Calls may run in several threads at a time.
    """

    def __init__(self, library: Library, manifest: Mapping[str, Any], threads: int) -> None:
        self.name: str = manifest["name"]
        self.threads = threads
        self.manifest = dict(manifest)
        self.signature = Signature.of(manifest)
        self._library = library
        self._native_run = library.run
        self._input_names = tuple([port.name for port in self.inputs])
        self._output_names = tuple([port.name for port in self.outputs])
        self._dtypes = tuple(numpy_dtype(port.dtype) for port in self.inputs)
        entries = [Shared(self.signature, e, self._dtypes) for e in manifest.get("in_place", ())]
        self._shared = {one.input: one for one in entries}
        self._plans: dict[Any, _Plan] = {}
        # The inputs of which plans depend on what they hold, too.
        held = {element.input for element in self.signature.elements}
        self._read = [i for i, port in enumerate(self.inputs) if port.name in held]
        self._spaces: list[_Space] = []
        self._home: _Space | None = None
        self._fast = self._fast_state() if layout_is_known() else None
        self._stages: Callable[[str], str] | None = None
        _executables.add(self)

    def __repr__(self) -> str:
        inputs, outputs = ("; ".join(map(str, ports)) for ports in (self.inputs, self.outputs))
        return f"<Executable {self.name} ({inputs}) -> ({outputs})>"

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self.signature.outputs

    @property
    def memory(self) -> Memory:
        """How much memory the model needs."""
        return Memory(self)

    def __call__(self, *inputs: Any) -> Any:
        """Run the model on arrays in the order of `inputs`, or on one dict of arrays by name.

        Raises InputError where an argument does not fit, and RuntimeFault where the run fails.
        """
        if len(inputs) == 1 and (type(inputs[0]) is dict or isinstance(inputs[0], Mapping)):
            # By way of the native method, where there is one.
            results = self(*self._ordered(inputs[0]))
            names = self._output_names
            return (
                dict(zip(names, results, strict=True)) if len(names) != 1 else {names[0]: results}
            )
        results = self._run(inputs)
        return results[0] if len(results) == 1 else tuple(results)

    def with_room(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Return arrays by name as a call takes them, with copies of what it writes to.

        An output in an input's memory changes that input. Where it grows (`in_place` of
        `tfc.compile`) the input has to be a view of an array with room for the result, which is a
        view of the same array and the next call's input.
        """
        arrays = dict(zip(self._input_names, map(np.asarray, self._ordered(inputs)), strict=True))
        for one in self._shared.values():
            name = one.port.name
            arrays[name] = one.copied(as_input(arrays[name], one.port, one.dtype))
        return arrays

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact, which `tfc.load` reads, to `path`."""
        target = Path(path)
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with partial.open("xb") as out:
                descriptor = self._library.descriptor
                for start in range(0, os.fstat(descriptor).st_size, _CHUNK):
                    out.write(os.pread(descriptor, _CHUNK, start))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def ir(self, stage: str) -> str:
        """Return the program's text at a stage: graph, fused, loops, llvm or asm.

        Only an executable that `tfc.compile` made in this process has it.
        """
        if self._stages is None:
            raise RuntimeFault("a loaded artifact has no text: compile the model to see it")
        return self._stages(stage)

    def set_stages(self, stages: Callable[[str], str]) -> None:
        """Give what `ir` answers with."""
        self._stages = stages

    def profile_table(self, words: int) -> tuple[Callable[[], int], Any]:
        """Return the cycle counter and the words of the table; for `runtime.profile`."""
        return self._library.profile_table(self.manifest["prefix"], words)

    def touch_workspace(self) -> None:
        """Read the memory that calls have worked in, which brings it into the caches."""
        for space in (*self._spaces, *((self._home,) if self._home is not None else ())):
            if space.size > 0:
                space.memory.max()

    # -- one call -------------------------------------------------------------------------------

    def _run(self, inputs: Sequence[Any]) -> list[Array]:
        arrays = self._checked(inputs)
        key: Any = arrays[0].shape if len(arrays) == 1 else tuple([x.shape for x in arrays])
        if self._read:
            key = (key, *[arrays[i].tobytes() for i in self._read])
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(key, arrays)
        try:
            frame = plan.frames.pop()
        except IndexError:
            frame = _Frame(plan, len(arrays))
        words, at = frame.words, 0
        for x in arrays:
            words[at] = pointer_at(id(x) + DATA_AT).value
            at += TENSOR_WORDS
        results = []
        for shape, dtype, source in plan.outputs:
            if source is None:
                y = np.empty(shape, dtype)
            else:
                y = source.result(arrays[source.input], shape)
            words[at] = pointer_at(id(y) + DATA_AT).value
            at += TENSOR_WORDS
            results.append(y)
        space = self._taken_space()
        if space.size < plan.workspace:
            space.grow(plan.workspace)
        code = self._native_run(space.address, frame.inputs, frame.outputs)
        self._give_back(space)
        if plan.told and not code:
            results = [y if rank is None else _part(y, words, at - back, rank)
                       for y, (rank, back) in zip(results, plan.told, strict=True)]  # fmt: skip
        plan.frames.append(frame)
        if code:
            raise self._fault(code)
        return results

    def _ordered(self, named: Mapping[str, Any]) -> list[Any]:
        if len(named) == len(self._input_names):
            try:
                return [named[name] for name in self._input_names]
            except KeyError:
                pass
        return self.signature.ordered(named)

    def _checked(self, inputs: Sequence[Any]) -> Sequence[Array]:
        """Return the inputs as arrays that native code can read; they are copied only if needed."""
        dtypes = self._dtypes
        if len(inputs) != len(dtypes):
            self.signature.check_count(len(inputs))
        if self._shared:
            return self._checked_in_place(inputs)
        for x, dtype in zip(inputs, dtypes):  # noqa: B905 - lengths were compared
            if type(x) is not np.ndarray or x.dtype is not dtype:
                break
            flags = x.flags
            if not (flags.c_contiguous and flags.aligned):
                break
        else:
            return inputs
        entries = zip(inputs, self.inputs, dtypes, strict=True)
        return [as_input(x, port, dtype) for x, port, dtype in entries]

    def _checked_in_place(self, inputs: Sequence[Any]) -> Sequence[Array]:
        arrays = [
            self._shared[i].checked(x) if i in self._shared else as_input(x, port, dtype)
            for i, (x, port, dtype) in enumerate(
                zip(inputs, self.inputs, self._dtypes, strict=True)
            )
        ]
        check_apart(arrays, self._shared, self._input_names)
        return arrays

    def _plan(self, key: Any, arrays: Sequence[Array]) -> _Plan:
        self.signature.check_shapes([x.shape for x in arrays])
        self.signature.check_elements(arrays)
        plan = _Plan(self, arrays)
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        self._plans[key] = plan
        return plan

    def _fault(self, code: int) -> RuntimeFault:
        own: Mapping[str, str] = self.manifest.get("messages", {})
        reason = own.get(str(code)) or _FAULTS.get(code) or "unknown reason"
        kind = InputError if code in (1, 6) else RuntimeFault
        return kind(f"{self.name}: {reason} (code {code})")

    # -- contexts -------------------------------------------------------------------------------

    def _fast_state(self) -> State:
        """Have calls run natively where they can; this class is what they run slowly by."""
        if self.manifest.get("pycall_version") == PYCALL_VERSION:
            install(Executable, self._library)
        inputs, outputs = port_states(self.signature, self._shared)
        symbols = len(self.signature.symbols)
        state = State(self._library, inputs, outputs, symbols, self.threads, _call_slowly, _raise)
        self._state = state.array
        return state

    def _taken_space(self) -> _Space:
        """Return a space for one call: the native method's, `_home`, unless it is in use."""
        if self._fast is not None:
            if self._fast.take() and self._home is not None:
                return self._home
            if self._home is None:
                self._home = _Space(self)
                return self._home
        try:
            return self._spaces.pop()
        except IndexError:
            return _Space(self)

    def _give_back(self, space: _Space) -> None:
        if space is self._home and self._fast is not None:
            self._fast.give(space.address)
        else:
            self._spaces.append(space)

    def _forget_pool(self) -> None:
        self._spaces, self._home = [], None
        if self._fast is not None:
            self._fast.give(0)


# The class's own `__call__`, before the native one takes its place.
_call_slowly = Executable.__call__


def _raise(executable: Executable, code: int) -> NoReturn:
    raise executable._fault(code)


class Memory:
    """The bytes that a model needs: `constants`, `code`, and `workspace(...)` for one call."""

    def __init__(self, executable: Executable) -> None:
        self._executable = executable
        sizes: Mapping[str, int] = executable.manifest.get("memory", {})
        self.constants = sizes.get("constants", 0)
        self.code = sizes.get("code", 0)

    def __repr__(self) -> str:
        return f"<Memory constants={self.constants} code={self.code}>"

    def workspace(self, **symbols: int) -> int:
        """Return the workspace for the symbols' values, each of which must be given."""
        known = list(self._executable.signature.symbols)
        if set(symbols) != set(known):
            raise InputError(f"give a value for each symbol: {', '.join(known) or 'none'}")
        values = _words(len(known))
        values[: len(known)] = [symbols[name] for name in known]
        executable = self._executable
        return int(executable._library.workspace_size(values, executable.threads))


def _part(whole: Array, words: Any, at: int, rank: int) -> Array:
    """Return what a run has filled of an output; memory that is mostly unused is given back."""
    shape = tuple(words[at : at + rank])
    size = math.prod(shape)
    part = whole.reshape(-1)[:size].reshape(shape)
    return part if 2 * size >= whole.size else part.copy()


class _Plan:
    """What depends on the inputs' shapes, and on numbers that stand for dims.

    frames: free argument blocks.
    """

    def __init__(self, executable: Executable, arrays: Sequence[Array]) -> None:
        self.shapes = shapes = [x.shape for x in arrays]
        self.frames: list[_Frame] = []
        # Of each output the dims, the type, and the input in whose memory it is made.
        self.outputs: list[tuple[tuple[int, ...], np.dtype[Any], Shared | None]] = []
        self.workspace = 0
        ports = executable.outputs
        made_in = {one.output: one for one in executable._shared.values()}
        # The bytes that a run may write to of each input.
        self.room = [
            executable._shared[i].bytes(shape) if i in executable._shared else 0
            for i, shape in enumerate(shapes)
        ]
        # For each output its rank if the run tells its dims, and how far from the end of the frame
        # they stand; empty where a run tells none.
        self.told: list[tuple[int | None, int]] = []
        if any(port.told for port in ports):
            self.told = [
                (len(port.shape) if port.told else None, TENSOR_WORDS * (len(ports) - i) - 2)
                for i, port in enumerate(ports)
            ]
        inputs = _words(TENSOR_WORDS * len(shapes))
        for i, (shape, x) in enumerate(zip(shapes, arrays, strict=True)):
            start = TENSOR_WORDS * i + 2
            inputs[start - 2] = address(x)
            inputs[start : start + len(shape)] = list(shape)
        outputs = _words(TENSOR_WORDS * len(ports))
        symbols = _words(len(executable.signature.symbols))
        code = executable._library.shapes(inputs, outputs, symbols)
        if code:
            raise executable._fault(code)
        for i, port in enumerate(ports):
            start = TENSOR_WORDS * i + 2
            # A negative size makes the run fail, with the reason.
            shape = tuple(max(0, dim) for dim in outputs[start : start + len(port.shape)])
            self.outputs.append((shape, numpy_dtype(port.dtype), made_in.get(i)))
        self.workspace = executable._library.workspace_size(symbols, executable.threads)


class _Frame:
    """The tensors of one running call, as 64-bit words: inputs, then outputs."""

    def __init__(self, plan: _Plan, n_inputs: int) -> None:
        self.words = _words(TENSOR_WORDS * (n_inputs + len(plan.outputs)))
        self.inputs = ctypes.addressof(self.words)
        self.outputs = self.inputs + 8 * TENSOR_WORDS * n_inputs
        sizes = plan.room + [
            int(np.prod(shape, dtype=object)) * dtype.itemsize for shape, dtype, _ in plan.outputs
        ]
        shapes = [*plan.shapes, *(shape for shape, _, _ in plan.outputs)]
        for i, (shape, size) in enumerate(zip(shapes, sizes, strict=True)):
            at = TENSOR_WORDS * i
            self.words[at + 1] = size
            self.words[at + 2 : at + 2 + len(shape)] = list(shape)


class _Space:
    """The context of one running call, with a workspace that grows to the greatest one needed."""

    def __init__(self, executable: Executable) -> None:
        self.size = -1
        self.context = Context(threads=executable.threads)
        if executable.threads > 1:
            pool = shared_pool(executable.threads, executable._library)
            self.context.user, self.context.parallel_for = pool.handle, pool.parallel_for
        self.address = ctypes.addressof(self.context)

    def grow(self, size: int) -> None:
        self.memory = np.empty(size + _ALIGNMENT, np.uint8)
        start = address(self.memory)
        self.context.workspace = start + -start % _ALIGNMENT
        self.context.workspace_bytes = self.size = size


_executables: weakref.WeakSet[Executable] = weakref.WeakSet()


def _forget_pools() -> None:
    for executable in list(_executables):
        executable._forget_pool()


os.register_at_fork(after_in_child=_forget_pools)
