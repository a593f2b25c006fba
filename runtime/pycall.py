"""The call of a model as one native method, where an artifact brings it and this Python allows it.

The method, emitted by `compiler.codegen.pycall`, reads numpy's arrays and makes new ones by
itself, and calls back for all that is not the usual case. The first artifact provides it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.runtime import pylayout
from tfc.runtime.library import Library, address_of
from tfc.runtime.pylayout import ARRAY_DATA, DENSE, FIRST_SLOT, PORT_WORDS, STATE

Ports = Sequence[tuple[np.dtype[Any], int]]
"""Dtype and rank of each input or output."""

_METH_FASTCALL_KEYWORDS = 0x80 | 0x02
# Where PyArray_Empty is in numpy's table of C functions, which only grows.
_NUMPY_EMPTY = 184


class FastCall:
    """What has the native `__call__` once it is installed; the method finds the state here."""

    __slots__ = ("_state",)
    _state: npt.NDArray[np.int64]

    __call__: Callable[..., Any]


class State:
    """What the method knows of a model, and the context of one call, which it uses if it can."""

    def __init__(
        self,
        library: Library,
        inputs: Ports,
        outputs: Ports,
        symbols: int,
        threads: int,
        slow_path: Callable[..., Any],
    ) -> None:
        """slow_path: a function, called with the object and the arguments of unusual calls."""
        ports = [*inputs, *outputs]
        values = _functions() | {
            "inputs": len(inputs),
            "outputs": len(outputs),
            "symbol_count": max(symbols, 1),
            "threads": threads,
            "array_type": id(np.ndarray),
            "slow_path": id(slow_path),
            "shapes": library.address("shapes"),
            "workspace_size": library.address("workspace_size"),
            "run_model": library.address("run"),
        }
        self.array: npt.NDArray[np.int64] = np.zeros(len(STATE) + PORT_WORDS * len(ports), np.int64)
        for name, value in values.items():
            self.array[STATE[name]] = value
        for i, (dtype, rank) in enumerate(ports):
            at = len(STATE) + PORT_WORDS * i
            self.array[at : at + PORT_WORDS] = id(dtype), rank
        self._referred = [slow_path, *(dtype for dtype, _ in ports)]
        self._context_at = self.array.ctypes.data + 8 * STATE["context"]

    def take(self) -> int:
        """Return the address of the context, which is the caller's then; 0 if there is none."""
        return _installed[0].exchange(self._context_at, None) or 0 if _installed else 0

    def give(self, context: int) -> None:
        """Give back what `take` returned, or the first one, or 0 so that there is none."""
        if _installed:
            _installed[0].exchange(self._context_at, context)


class _MethodDef(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("method", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class _Method:
    """A class's native `__call__`; it lives as long as the process, and its library with it."""

    def __init__(self, owner: type[FastCall], library: Library) -> None:
        self.exchange: Callable[[int, int | None], int | None] = library.python_exchange
        self._library = library
        doc = (owner.__call__.__doc__ or "").encode()
        kind = _METH_FASTCALL_KEYWORDS
        self._definition = _MethodDef(b"__call__", library.address("call"), kind, doc)
        new = ctypes.pythonapi.PyDescr_NewMethod
        new.restype, new.argtypes = ctypes.py_object, (ctypes.py_object, ctypes.c_void_p)
        self.descriptor: Any = new(owner, ctypes.addressof(self._definition))


_installed: list[_Method] = []


def install(owner: type[FastCall], library: Library) -> None:
    """Give a class the native method, once, if the library brings one.

    All its objects need a `State` then, whose array is their `_state`.
    """
    if not _installed and library.python_exchange is not None and layout_is_known():
        method = _Method(owner, library)
        _installed.append(method)
        owner.__call__ = method.descriptor  # type: ignore[method-assign]


@cache
def _functions() -> dict[str, int]:
    api = ctypes.pythonapi
    functions = {
        "incref": api.Py_IncRef,
        "decref": api.Py_DecRef,
        "save_thread": api.PyEval_SaveThread,
        "restore_thread": api.PyEval_RestoreThread,
        "new_tuple": api.PyTuple_New,
        "set_item": api.PyTuple_SetItem,
        "call_object": api.PyObject_Vectorcall,
    }
    table = {name: address_of(function) for name, function in functions.items()}
    return table | {"empty": _numpy_function(_NUMPY_EMPTY)}


def _numpy_function(position: int) -> int:
    core: Any = getattr(np, "_core", None) or np.core
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = pointer(core._multiarray_umath._ARRAY_API, None)
    return int(ctypes.c_int64.from_address(table + 8 * position).value)


@cache
def layout_is_known() -> bool:
    """Whether Python and numpy keep their objects as `pylayout` says."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    if sys.implementation.name != "cpython" or object.__basicsize__ != FIRST_SLOT:
        return False
    owner = FastCall()
    owner._state = np.zeros((3, 5), np.int64)[:2]
    slot = ctypes.c_int64.from_address(id(owner) + FIRST_SLOT).value
    return slot == id(owner._state) and _is_array(owner._state) and _is_tuple((1, 2, 3))


def _is_array(array: npt.NDArray[Any]) -> bool:
    def word(offset: int, type: Any = ctypes.c_int64) -> int:
        return int(type.from_address(id(array) + offset).value)

    dims = word(pylayout.ARRAY_DIMS)
    found = (
        word(pylayout.OBJECT_TYPE),
        word(ARRAY_DATA),
        word(pylayout.ARRAY_RANK, ctypes.c_int32),
        [ctypes.c_int64.from_address(dims + 8 * i).value for i in range(array.ndim)],
        word(pylayout.ARRAY_DESCR),
        word(pylayout.ARRAY_FLAGS, ctypes.c_int32) & DENSE,
    )
    shape, data = list(array.shape), array.ctypes.data
    return found == (id(np.ndarray), data, array.ndim, shape, id(array.dtype), DENSE)


def _is_tuple(items: tuple[int, ...]) -> bool:
    size = ctypes.c_int64.from_address(id(items) + pylayout.TUPLE_SIZE).value
    return size == len(items)
