"""The call of a model as one native method, where an artifact brings it and this Python allows it.

The method, emitted by `compiler.codegen.pycall`, reads numpy's arrays and makes new ones by
itself, and calls back for all that is not the usual case. The first artifact provides it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.runtime import pylayout
from tfc.runtime.library import Library, address_of
from tfc.runtime.pylayout import ARRAY_DATA, DENSE, FIRST_SLOT, PORT, STATE

_METH_FASTCALL_KEYWORDS = 0x80 | 0x02
# Where functions are in numpy's table of C functions, which only grows: PyArray_Empty,
# PyArray_NewFromDescr, PyArray_SetBaseObject, PyArray_NewCopy.
_NUMPY_FUNCTIONS = {"empty": 184, "new_view": 94, "set_base": 282, "new_copy": 85}


@dataclass(frozen=True)
class PortState:
    """What the method knows of an input or output.

    shared: of an input, whether a run writes to it; of an output 1 + the input that it lies in.
    axis, room: what `runtime.inplace` says of such a one. told: only a run tells some of the dims.
    """

    name: str
    dtype: np.dtype[Any]
    rank: int
    shared: int = 0
    axis: int = -1
    room: int = 0
    told: bool = False

    def words(self) -> dict[str, int]:
        return {
            "descr": id(self.dtype),
            "rank": self.rank,
            "name": id(self.name),
            "shared": self.shared,
            "axis": self.axis,
            "room": self.room,
            "itemsize": self.dtype.itemsize,
            "told": self.told,
        }


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
        inputs: Sequence[PortState],
        outputs: Sequence[PortState],
        symbols: int,
        threads: int,
        slow_path: Callable[..., Any],
        fault: Callable[[Any, int], None],
    ) -> None:
        """slow_path, fault: functions, which are called with the object.

        slow_path: with the arguments of unusual calls. fault: raises what a run's code means.
        """
        ports = [*inputs, *outputs]
        values = _functions() | {
            "inputs": len(inputs),
            "outputs": len(outputs),
            "symbol_count": max(symbols, 1),
            "threads": threads,
            "tells": any(port.told for port in outputs),
            "writes": any(port.shared for port in inputs),
            "array_type": id(np.ndarray),
            "dict_type": id(dict),
            "slow_path": id(slow_path),
            "fault": id(fault),
            "shapes": library.address("shapes"),
            "workspace_size": library.address("workspace_size"),
            "run_model": library.address("run"),
        }
        self.array: npt.NDArray[np.int64] = np.zeros(len(STATE) + len(PORT) * len(ports), np.int64)
        for name, value in values.items():
            self.array[STATE[name]] = value
        for i, port in enumerate(ports):
            at = len(STATE) + len(PORT) * i
            for name, value in port.words().items():
                self.array[at + PORT[name]] = value
        self._referred = slow_path, fault, ports
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
        "new_number": api.PyLong_FromLongLong,
        "new_dict": api.PyDict_New,
        "dict_size": api.PyDict_Size,
        "dict_get": api.PyDict_GetItemWithError,
        "dict_set": api.PyDict_SetItem,
        "forget_error": api.PyErr_Clear,
    }
    table = {name: address_of(function) for name, function in functions.items()}
    return table | {name: _numpy_function(at) for name, at in _NUMPY_FUNCTIONS.items()}


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
    strides = word(pylayout.ARRAY_STRIDES)
    known = DENSE | pylayout.CHANGEABLE
    found = (
        word(pylayout.OBJECT_TYPE),
        word(ARRAY_DATA),
        word(pylayout.ARRAY_RANK, ctypes.c_int32),
        [ctypes.c_int64.from_address(dims + 8 * i).value for i in range(array.ndim)],
        [ctypes.c_int64.from_address(strides + 8 * i).value for i in range(array.ndim)],
        word(pylayout.ARRAY_BASE),
        word(pylayout.ARRAY_DESCR),
        word(pylayout.ARRAY_FLAGS, ctypes.c_int32) & known,
    )
    shape, data = list(array.shape), array.ctypes.data
    objects = id(array.base), id(array.dtype)
    return found == (
        id(np.ndarray), data, array.ndim, shape, list(array.strides), *objects, known
    )  # fmt: skip


def _is_tuple(items: tuple[int, ...]) -> bool:
    size = ctypes.c_int64.from_address(id(items) + pylayout.TUPLE_SIZE).value
    return size == len(items)
