"""Where things lie for calls from Python: what the compiler emits and the runtime fills agree here.

Offsets in bytes of CPython's and numpy's objects (PyObject_HEAD, PyVarObject, PyArrayObject_fields:
parts of their ABIs on 64-bit machines), and the words of the state that calls of a model work on.
"""

from __future__ import annotations

PYCALL_VERSION = 1
"""Of the state's words: an artifact with another one does not provide the method."""

OBJECT_TYPE = 8
FIRST_SLOT = 16
TUPLE_SIZE = 16
ARRAY_DATA = 16
ARRAY_RANK = 24
ARRAY_DIMS = 32
ARRAY_DESCR = 56
ARRAY_FLAGS = 64
DENSE = 0x101
"""NPY_ARRAY_C_CONTIGUOUS and NPY_ARRAY_ALIGNED."""

_WORDS = (
    # How many, and how many threads.
    *("inputs", "outputs", "symbol_count", "threads"),
    # The context of one call, null while it runs and where there is none.
    "context",
    # Objects of Python.
    *("array_type", "slow_path"),
    # Functions of the model.
    *("shapes", "workspace_size", "run_model"),
    # Functions of Python and numpy.
    *("incref", "decref", "empty", "save_thread", "restore_thread"),
    *("new_tuple", "set_item", "call_object"),
)
STATE = {name: word for word, name in enumerate(_WORDS)}
"""Positions of 64-bit words. Behind them come inputs and outputs: `PORT_WORDS` words for each."""

PORT_WORDS = 2
"""The address of the numpy dtype object, and the rank."""
