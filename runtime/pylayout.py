"""Where things lie for calls from Python: what the compiler emits and the runtime fills agree here.

Offsets in bytes of CPython's and numpy's objects (PyObject_HEAD, PyVarObject, PyArrayObject_fields:
parts of their ABIs on 64-bit machines), and the words of the state that calls of a model work on.
"""

from __future__ import annotations

PYCALL_VERSION = 2
"""Of the state's words: an artifact with another one does not provide the method."""

OBJECT_TYPE = 8
FIRST_SLOT = 16
TUPLE_SIZE = 16
ARRAY_DATA = 16
ARRAY_RANK = 24
ARRAY_DIMS = 32
ARRAY_STRIDES = 40
ARRAY_BASE = 48
ARRAY_DESCR = 56
ARRAY_FLAGS = 64
CONTIGUOUS = 0x001
DENSE = 0x101
"""NPY_ARRAY_C_CONTIGUOUS, and with it NPY_ARRAY_ALIGNED."""
CHANGEABLE = 0x500
"""NPY_ARRAY_WRITEABLE and NPY_ARRAY_ALIGNED."""

_WORDS = (
    # How many, how many threads, whether a run tells outputs' dims or writes to inputs.
    *("inputs", "outputs", "symbol_count", "threads", "tells", "writes"),
    # The context of one call, null while it runs and where there is none.
    "context",
    # Objects of Python.
    *("array_type", "dict_type", "slow_path", "fault"),
    # Functions of the model.
    *("shapes", "workspace_size", "run_model"),
    # Functions of Python.
    *("incref", "decref", "save_thread", "restore_thread", "call_object", "new_number"),
    *("new_tuple", "set_item", "new_dict", "dict_size", "dict_get", "dict_set", "forget_error"),
    # Functions of numpy.
    *("empty", "new_view", "set_base", "new_copy"),
)
STATE = {name: word for word, name in enumerate(_WORDS)}
"""Positions of 64-bit words. Behind them come inputs and outputs: `PORT` words for each."""

_PORT_WORDS = (
    # The numpy dtype object, the rank, the str of the name.
    *("descr", "rank", "name"),
    # Of an input whether a run writes to it; of an output 1 + the input that it lies in, or 0.
    "shared",
    # The axis along which there is room, or -1, the room, and the size of an element.
    *("axis", "room", "itemsize"),
    # Whether only a run tells some of the dims.
    "told",
)
PORT = {name: word for word, name in enumerate(_PORT_WORDS)}
